"""The client."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, BinaryIO

import grpc

from ._errors import BulkheadError
from ._messages import Method, enum_name, enum_number, message
from ._models import (
    Archive,
    Collect,
    Env,
    File,
    Image,
    Job,
    Limits,
    Node,
    Output,
    OutputChunk,
    StateChange,
    Stdin,
)

# Bytes in one message of an upload; the service takes at most 1 MiB.
_CHUNK = 256 * 1024
# One WaitJob call, in seconds; wait() repeats it.
_WAIT_CALL = 30.0
# Seconds for a call that only looks something up.
_CALL = 30.0


class Client:
    """Speaks to one service as one tenant (or operator).

    Args:
        target: ``host:port``.
        tenant: whose resources this client works on.
        token: a JWT; ``bulkhead token`` issues them on the embedded default.
        root_certificate: PEM of the certificate authority; none means no TLS, for a service on loopback.

    Every method raises BulkheadError.
    """

    def __init__(self, target: str, tenant: str, token: str, root_certificate: bytes | None = None) -> None:
        self.tenant = tenant
        self._parent = f"tenants/{tenant}"
        self._metadata = (("authorization", f"Bearer {token}"),)
        # Jobs' outputs come in chunks; only lists of jobs can be large.
        options = [("grpc.max_receive_message_length", 64 << 20)]
        if root_certificate is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificate)
            self._channel = grpc.secure_channel(target, credentials, options)
        self._methods: dict[str, Any] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    # Jobs

    def submit(
        self,
        image: str,
        argv: Sequence[str] = (),
        *,
        env: Mapping[str, str] | Iterable[Env] = (),
        working_directory: str = "",
        user: str = "",
        stdin: bytes | Stdin | None = None,
        files: Iterable[File] = (),
        archives: Iterable[Archive] = (),
        outputs: Iterable[Collect] = (),
        backend: str = "AUTO",
        priority: str = "NORMAL",
        labels: Mapping[str, str] | None = None,
        max_attempts: int = 0,
        retry_on_failure: bool = False,
        grace_period: float | None = None,
        limits: Limits = Limits(),
        request_id: str | None = None,
    ) -> Job:
        """Creates a job; `image` is a name or a digest (sha256:...)."""
        variables = [Env(k, v) for k, v in env.items()] if isinstance(env, Mapping) else env
        spec = message("JobSpec")(
            argv=argv,
            env=[message("EnvVar")(name=v.name, value=v.value, secret=v.secret) for v in variables],
            working_directory=working_directory,
            user=user,
            input_files=[
                message("InputFile")(path=f.path, mode=f.mode, content=_content(f.data, f.digest)) for f in files
            ],
            input_archives=[
                message("InputArchive")(directory=a.directory, blob_digest=a.digest) for a in archives
            ],
            outputs=[_output(o) for o in outputs],
            backend=enum_number("Backend", backend),
            priority=enum_number("Priority", priority),
            labels=labels or {},
            retry_policy=message("RetryPolicy")(max_attempts=max_attempts, retry_on_failure=retry_on_failure),
            limits=limits.to_message(),
        )
        if image.startswith("sha256:"):
            spec.image_digest = image
        else:
            spec.image_name = image
        if isinstance(stdin, bytes):
            spec.stdin.inline = stdin
        elif stdin is not None:
            spec.stdin.CopyFrom(_content(stdin.data, stdin.digest))
        if grace_period is not None:
            spec.grace_period.FromTimedelta(timedelta(seconds=grace_period))
        request = message("CreateJobRequest")(
            parent=self._parent, spec=spec, request_id=request_id or str(uuid.uuid4())
        )
        return Job.of(self._call("JobService", "CreateJob", request))

    def get(self, name: str) -> Job:
        """A job by its resource name."""
        return Job.of(self._call("JobService", "GetJob", message("GetJobRequest")(name=name)))

    def jobs(self, *, states: Iterable[str] = (), labels: Mapping[str, str] | None = None) -> Iterator[Job]:
        """The tenant's jobs, newest first; pages are fetched as they are needed."""
        token = ""
        while True:
            request = message("ListJobsRequest")(
                parent=self._parent,
                page_token=token,
                states=[enum_number("State", state) for state in states],
                labels=labels or {},
            )
            page = self._call("JobService", "ListJobs", request)
            yield from (Job.of(job) for job in page.jobs)
            token = page.next_page_token
            if not token:
                return

    def wait(self, name: str, timeout: float | None = None) -> Job:
        """Returns the job when it has ended, or as it is after `timeout` seconds."""
        remaining = timeout
        while True:
            step = _WAIT_CALL if remaining is None else min(_WAIT_CALL, remaining)
            request = message("WaitJobRequest")(name=name)
            job = Job.of(self._call("JobService", "WaitJob", request, timeout=step + 1))
            if job.ended:
                return job
            if remaining is not None:
                remaining -= step
                if remaining <= 0:
                    return job

    def watch(self, name: str, *, states_only: bool = False) -> Iterator[StateChange | OutputChunk]:
        """State changes and output as they come; ends after the terminal state."""
        request = message("WatchJobRequest")(name=name, states_only=states_only)
        for event in self._stream("JobService", "WatchJob", request):
            if event.HasField("state_change"):
                change = event.state_change
                state = enum_name("State", change.state)
                yield StateChange(change.sequence, state, change.attempt, change.reason)
            elif event.HasField("output_chunk"):
                chunk = event.output_chunk
                stream = enum_name("Stream", chunk.stream)
                yield OutputChunk(chunk.attempt, stream, chunk.offset, chunk.data)

    def output(self, name: str) -> Output:
        """Waits for the job's end; what its last attempt wrote and the service kept."""
        last = 0
        parts: dict[tuple[int, str], bytearray] = {}
        for event in self.watch(name):
            last = max(last, event.attempt)
            if isinstance(event, OutputChunk):
                parts.setdefault((event.attempt, event.stream), bytearray()).extend(event.data)
        return Output(
            stdout=bytes(parts.get((last, "STDOUT"), b"")),
            stderr=bytes(parts.get((last, "STDERR"), b"")),
        )

    def cancel(self, name: str) -> Job:
        """Cancels a job; one that has ended stays as it is."""
        request = message("CancelJobRequest")(name=name, request_id=str(uuid.uuid4()))
        return Job.of(self._call("JobService", "CancelJob", request))

    def delete(self, name: str) -> None:
        """Deletes a job that has ended."""
        request = message("DeleteJobRequest")(name=name, request_id=str(uuid.uuid4()))
        self._call("JobService", "DeleteJob", request)

    # Blobs

    def upload(self, data: bytes | BinaryIO) -> str:
        """Uploads a blob and returns its digest. Bytes are checked end to end by their SHA-256."""
        expected = f"sha256:{hashlib.sha256(data).hexdigest()}" if isinstance(data, bytes) else ""
        header = message("UploadBlobRequest").Header(parent=self._parent, expected_digest=expected)
        blob = self._upload("BlobService", "UploadBlob", "UploadBlobRequest", header, data)
        return str(blob.digest)

    def download(self, digest: str) -> bytes:
        """The bytes of a blob; raises ValueError if they are not what the digest says."""
        name = f"{self._parent}/blobs/{digest.removeprefix('sha256:')}"
        request = message("DownloadBlobRequest")(name=name)
        data = b"".join(part.data for part in self._stream("BlobService", "DownloadBlob", request))
        if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
            raise ValueError(f"the service sent other bytes than {digest}")
        return data

    # Images

    def import_image(self, image_id: str, archive: BinaryIO) -> Image:
        """Imports an OCI layout, a docker save tar or a root file system tar."""
        header = message("ImportImageRequest").Header(
            parent=self._parent, image_id=image_id, request_id=str(uuid.uuid4())
        )
        return Image.of(self._upload("ImageService", "ImportImage", "ImportImageRequest", header, archive))

    def images(self) -> list[Image]:
        """The tenant's images and those that the operator shares."""
        found: list[Image] = []
        token = ""
        while True:
            request = message("ListImagesRequest")(parent=self._parent, page_token=token)
            page = self._call("ImageService", "ListImages", request)
            found.extend(Image.of(image) for image in page.images)
            token = page.next_page_token
            if not token:
                return found

    # Operators

    def create_tenant(
        self, tenant_id: str, *, weight: int = 0, max_active_jobs: int = 0, max_stored_bytes: int = 0
    ) -> None:
        """Creates a tenant; needs the scope `operator`."""
        tenant = message("Tenant")(
            weight=weight, max_active_jobs=max_active_jobs, max_stored_bytes=max_stored_bytes
        )
        request = message("CreateTenantRequest")(
            tenant_id=tenant_id, tenant=tenant, request_id=str(uuid.uuid4())
        )
        self._call("TenantService", "CreateTenant", request)

    def nodes(self) -> list[Node]:
        """Every known node; needs the scope `operator`."""
        page = self._call("NodeService", "ListNodes", message("ListNodesRequest")(page_size=1000))
        return [Node.of(node) for node in page.nodes]

    def drain(self, node: str) -> Node:
        """No new jobs are placed on a node (`nodes/{node}`); needs the scope `operator`."""
        request = message("DrainNodeRequest")(name=node, request_id=str(uuid.uuid4()))
        return Node.of(self._call("NodeService", "DrainNode", request))

    def undrain(self, node: str) -> Node:
        """Jobs are placed on the node again; needs the scope `operator`."""
        request = message("UndrainNodeRequest")(name=node, request_id=str(uuid.uuid4()))
        return Node.of(self._call("NodeService", "UndrainNode", request))

    def version(self) -> str:
        """The service's version; needs no token."""
        return str(self._call("VersionService", "Get", message("GetVersionRequest")()).version)

    # Plumbing

    def _bind(self, service: str, name: str) -> Any:
        key = f"{service}/{name}"
        if key not in self._methods:
            self._methods[key] = Method(service, name).bind(self._channel)
        return self._methods[key]

    def _call(self, service: str, name: str, request: Any, timeout: float = _CALL) -> Any:
        try:
            return self._bind(service, name)(request, metadata=self._metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise BulkheadError.of(error) from error

    def _stream(self, service: str, name: str, request: Any) -> Iterator[Any]:
        call = self._bind(service, name)(request, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise BulkheadError.of(error) from error
        finally:
            call.cancel()

    def _upload(self, service: str, name: str, kind: str, header: Any, data: bytes | BinaryIO) -> Any:
        def parts() -> Iterator[Any]:
            yield message(kind)(header=header)
            if isinstance(data, bytes):
                for start in range(0, len(data), _CHUNK):
                    yield message(kind)(data=data[start : start + _CHUNK])
            else:
                while chunk := data.read(_CHUNK):
                    yield message(kind)(data=chunk)

        try:
            return self._bind(service, name)(parts(), metadata=self._metadata)
        except grpc.RpcError as error:
            raise BulkheadError.of(error) from error


def _content(data: bytes, digest: str) -> Any:
    return message("Content")(blob_digest=digest) if digest else message("Content")(inline=data)


def _output(output: Collect) -> Any:
    if output.directory:
        return message("OutputSpec")(directory=output.directory)
    return message("OutputSpec")(glob=output.glob)
