"""The service as a Python program sees it. Needs a running one, with the image `demo`; `cargo xtask test` starts it.

Environment: BULKHEAD_SERVER, and files with tokens: BULKHEAD_TOKEN_A and BULKHEAD_TOKEN_B of the tenants py-a and
py-b, BULKHEAD_TOKEN_OPERATOR of an operator.
"""

import hashlib
import io
import os
import tarfile
import time
import unittest
import uuid
from pathlib import Path

from bulkhead import Archive, BulkheadError, Client, Collect, Env, File, Limits, OutputChunk, StateChange


def client(tenant: str, variable: str) -> Client:
    token = Path(os.environ[variable]).read_text().strip()
    return Client(os.environ["BULKHEAD_SERVER"], tenant, token)


class ServiceTest(unittest.TestCase):
    """Each test has a client of each of two tenants."""

    @classmethod
    def setUpClass(cls) -> None:
        with client("operator", "BULKHEAD_TOKEN_OPERATOR") as operator:
            for tenant in ("py-a", "py-b"):
                try:
                    operator.create_tenant(tenant)
                except BulkheadError as error:
                    if error.code != "ALREADY_EXISTS":
                        raise

    def setUp(self) -> None:
        self.a = client("py-a", "BULKHEAD_TOKEN_A")
        self.b = client("py-b", "BULKHEAD_TOKEN_B")
        self.addCleanup(self.a.close)
        self.addCleanup(self.b.close)

    def refused(self, code: str, reason: str, call, *args, **kwargs) -> BulkheadError:
        with self.assertRaises(BulkheadError) as caught:
            call(*args, **kwargs)
        self.assertEqual((caught.exception.code, caught.exception.reason), (code, reason), caught.exception)
        return caught.exception


class Running(ServiceTest):
    def test_output_is_bytes_and_streams_are_apart(self) -> None:
        script = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.write('to stderr')"
        job = self.a.submit("demo", ["python3", "-c", script])
        output = self.a.output(job.name)
        self.assertEqual(output.stdout, bytes(range(256)))
        self.assertEqual(output.stderr, b"to stderr")
        done = self.a.get(job.name)
        self.assertEqual(done.state, "SUCCEEDED")
        self.assertEqual(done.attempts[0].stdout.total_bytes, 256)
        self.assertFalse(done.attempts[0].stdout.truncated)
        self.assertGreater(done.attempts[0].usage.wall, 0)
        self.assertTrue(done.attempts[0].top_syscalls)

    def test_inputs_and_outputs_travel(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("deep/er/data.bin")
            info.size = 100_000
            tar.addfile(info, io.BytesIO(b"x" * 100_000))
        digest = self.a.upload(buffer.getvalue())
        self.assertEqual(digest, f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}")
        self.assertEqual(self.a.download(digest), buffer.getvalue())
        job = self.a.submit(
            "demo",
            ["sh", "-c", "mkdir /out; cat /in/deep/er/data.bin /extra > /out/all; ls -l /extra; cat; exit 7"],
            stdin=b"from stdin",
            files=[File("/extra", b"more", mode=0o640)],
            archives=[Archive("/in", digest)],
            outputs=[Collect(glob="/out/*"), Collect(directory="/out")],
        )
        output = self.a.output(job.name)
        self.assertIn(b"-rw-r-----", output.stdout)
        self.assertIn(b"from stdin", output.stdout)
        last = self.a.get(job.name).attempts[-1]
        self.assertEqual(last.exit_code, 7, "outputs are collected also when the job failed")
        files = {file.is_directory: file for file in last.output_files}
        self.assertEqual(self.a.download(files[False].digest), b"x" * 100_000 + b"more")
        with tarfile.open(fileobj=io.BytesIO(self.a.download(files[True].digest))) as tar:
            names = [member.name for member in tar if member.isfile()]
        self.assertEqual([name.rsplit("/", 1)[-1] for name in names], ["all"])

    def test_watch_tells_states_in_order_and_each_time_the_same(self) -> None:
        job = self.a.submit("demo", ["sh", "-c", "for i in 1 2 3; do echo line $i; done"])
        for _ in range(2):
            events = list(self.a.watch(job.name))
            states = [event.state for event in events if isinstance(event, StateChange)]
            self.assertEqual(states, ["QUEUED", "LEASED", "RUNNING", "SUCCEEDED"])
            sequences = [event.sequence for event in events if isinstance(event, StateChange)]
            self.assertEqual(sequences, sorted(set(sequences)))
            chunks = [event for event in events if isinstance(event, OutputChunk)]
            data = b"".join(chunk.data for chunk in chunks if chunk.stream == "STDOUT")
            self.assertEqual(data, b"line 1\nline 2\nline 3\n")

    def test_what_can_not_be_started_says_why(self) -> None:
        for argv, code in ((["/no/such/program"], 127), (["/etc/passwd"], 126)):
            done = self.a.wait(self.a.submit("demo", argv).name)
            self.assertEqual((done.state, done.attempts[-1].exit_code), ("FAILED", code))
            self.assertIn(argv[0], done.reason)

    def test_a_job_sees_its_own_limits(self) -> None:
        script = "nproc; grep MemTotal /proc/meminfo"
        limits = Limits(memory_bytes=100 << 20, cpu_milli=1000)
        output = self.a.output(self.a.submit("demo", ["sh", "-c", script], limits=limits).name)
        cpus, _, total, _ = output.stdout.split()
        self.assertEqual(int(cpus), 1)
        self.assertEqual(int(total), 100 << 10)

    def test_there_is_no_network(self) -> None:
        script = (
            "import socket, errno\n"
            "s = socket.socket()\n"
            "print(s.connect_ex(('10.0.0.1', 80)) == errno.ENETUNREACH)"
        )
        output = self.a.output(self.a.submit("demo", ["python3", "-c", script]).name)
        self.assertEqual(output.stdout, b"True\n")

    def test_a_cancelled_job_ends_once_and_stays(self) -> None:
        job = self.a.submit("demo", ["sleep", "1000"], grace_period=0.2)
        self.a.cancel(job.name)
        done = self.a.wait(job.name, 30)
        self.assertEqual(done.state, "CANCELLED")
        self.assertEqual(self.a.cancel(job.name).state, "CANCELLED")
        self.a.delete(job.name)
        self.refused("NOT_FOUND", "RESOURCE_NOT_FOUND", self.a.get, job.name)


class Refusing(ServiceTest):
    def test_wrong_input_names_the_field(self) -> None:
        cases = {
            "spec.limits.memory_bytes": {"limits": Limits(memory_bytes=-1)},
            "spec.limits.processes": {"limits": Limits(processes=10**9)},
            "spec.labels": {"labels": {str(i): "" for i in range(1000)}},
            "spec.input_files[0].path": {"files": [File("relative", b"")]},
            "spec.env[0]": {"env": [Env("A=B", "")]},
        }
        for field, options in cases.items():
            with self.subTest(field):
                with self.assertRaises(BulkheadError) as caught:
                    self.a.submit("demo", ["true"], **options)
                self.assertEqual(caught.exception.code, "INVALID_ARGUMENT")
                self.assertIn(field, caught.exception.fields)

    def test_unknown_image(self) -> None:
        with self.assertRaises(BulkheadError) as caught:
            self.a.submit("no-such-image", ["true"])
        self.assertEqual(caught.exception.code, "INVALID_ARGUMENT")
        self.assertIn("spec.image_name", caught.exception.fields)

    def test_a_backend_that_no_node_has(self) -> None:
        self.refused(
            "FAILED_PRECONDITION", "BACKEND_UNAVAILABLE", self.a.submit, "demo", ["true"], backend="MICROVM"
        )

    def test_a_job_that_no_node_can_hold_is_rejected(self) -> None:
        job = self.a.submit("demo", ["true"], limits=Limits(memory_bytes=200 << 30))
        self.assertEqual(job.state, "REJECTED")
        self.assertIn("largest", job.reason)

    def test_another_tenants_things_do_not_exist(self) -> None:
        job = self.a.submit("demo", ["true"])
        digest = self.a.upload(b"private of a")
        self.refused("NOT_FOUND", "RESOURCE_NOT_FOUND", self.b.get, job.name)
        self.refused("NOT_FOUND", "RESOURCE_NOT_FOUND", self.b.cancel, job.name)
        with self.assertRaises(BulkheadError) as caught:
            self.b.download(digest)
        self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertNotIn(job.name, [other.name for other in self.b.jobs()])

    def test_tokens(self) -> None:
        good = Path(os.environ["BULKHEAD_TOKEN_A"]).read_text().strip()
        head, body, signature = good.split(".")
        forged = f"{head}.{body}.{signature[:-4]}AAAA"
        unsigned = f"eyJhbGciOiJub25lIn0.{body}."
        for token in ("", "nonsense", forged, unsigned):
            with Client(os.environ["BULKHEAD_SERVER"], "py-a", token) as stranger:
                with self.assertRaises(BulkheadError) as caught:
                    stranger.submit("demo", ["true"])
                self.assertEqual(caught.exception.code, "UNAUTHENTICATED")
        with self.assertRaises(BulkheadError) as caught:
            self.a.create_tenant("py-c")
        self.assertEqual(caught.exception.code, "PERMISSION_DENIED")


class Keeping(ServiceTest):
    def test_the_same_request_is_one_job(self) -> None:
        request = str(uuid.uuid4())
        first = self.a.submit("demo", ["true"], request_id=request)
        again = self.a.submit("demo", ["true"], request_id=request)
        self.assertEqual(first.name, again.name)
        with self.assertRaises(BulkheadError) as caught:
            self.a.submit("demo", ["false"], request_id=request)
        self.assertEqual(caught.exception.code, "INVALID_ARGUMENT")

    def test_lists_are_filtered_and_paged(self) -> None:
        mark = uuid.uuid4().hex[:12]
        names = {self.a.submit("demo", ["true"], labels={"mark": mark}).name for _ in range(5)}
        self.assertEqual({job.name for job in self.a.jobs(labels={"mark": mark})}, names)
        for name in names:
            self.a.wait(name)
        found = {job.name for job in self.a.jobs(states=["SUCCEEDED"], labels={"mark": mark})}
        self.assertEqual(found, names)
        self.assertEqual(list(self.a.jobs(states=["FAILED"], labels={"mark": mark})), [])

    def test_waiting_ends_without_the_job(self) -> None:
        job = self.a.submit("demo", ["sleep", "1000"], grace_period=0.1)
        begin = time.monotonic()
        still = self.a.wait(job.name, 1)
        self.assertFalse(still.ended)
        self.assertLess(time.monotonic() - begin, 20)
        self.a.cancel(job.name)

    def test_a_secret_does_not_come_back(self) -> None:
        job = self.a.submit("demo", ["sh", "-c", "echo ${#S}"], env=[Env("S", "hunter2-hunter2", secret=True)])
        self.assertEqual(self.a.output(job.name).stdout, b"15\n")
        self.assertNotIn("hunter2", str(self.a.get(job.name)))


if __name__ == "__main__":
    unittest.main()
