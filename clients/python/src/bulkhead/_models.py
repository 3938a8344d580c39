"""What goes to the service and what comes back, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ._messages import enum_name, message

_LIVE = {"QUEUED", "LEASED", "RUNNING"}


@dataclass(frozen=True)
class Limits:
    """Limits of a job; 0 means the service's default. Sizes in bytes, times in seconds."""

    memory_bytes: int = 0
    memory_request_bytes: int = 0
    cpu_milli: int = 0
    processes: int = 0
    wall_time: float = 0
    cpu_time: float = 0
    disk_bytes: int = 0
    output_bytes: int = 0

    def to_message(self) -> Any:
        limits = message("Limits")(
            memory_bytes=self.memory_bytes,
            memory_request_bytes=self.memory_request_bytes,
            cpu_milli=self.cpu_milli,
            processes=self.processes,
            disk_bytes=self.disk_bytes,
            output_bytes=self.output_bytes,
        )
        if self.wall_time:
            limits.wall_time.FromTimedelta(timedelta(seconds=self.wall_time))
        if self.cpu_time:
            limits.cpu_time.FromTimedelta(timedelta(seconds=self.cpu_time))
        return limits


@dataclass(frozen=True)
class Env:
    """A variable; the value of a secret one is never returned, logged or stored in clear."""

    name: str
    value: str = field(repr=False)
    secret: bool = False


@dataclass(frozen=True)
class Stdin:
    """Standard input: bytes, or the digest of a blob."""

    data: bytes = b""
    digest: str = ""


@dataclass(frozen=True)
class File:
    """A file placed before the start: bytes, or the digest of a blob."""

    path: str
    data: bytes = b""
    digest: str = ""
    mode: int = 0o644


@dataclass(frozen=True)
class Archive:
    """A tar archive, uploaded before, unpacked into a directory before the start."""

    directory: str
    digest: str


@dataclass(frozen=True)
class Collect:
    """What to collect: a glob (each file a blob) or a directory (one tar blob)."""

    glob: str = ""
    directory: str = ""


@dataclass(frozen=True)
class StreamTotals:
    total_bytes: int
    kept_bytes: int
    truncated: bool


@dataclass(frozen=True)
class OutputFile:
    path: str
    mode: int
    size_bytes: int
    digest: str
    is_directory: bool


@dataclass(frozen=True)
class Usage:
    """Times in seconds."""

    cpu_user: float
    cpu_system: float
    wall: float
    peak_memory_bytes: int
    read_bytes: int
    written_bytes: int
    oom_kills: int


@dataclass(frozen=True)
class Attempt:
    number: int
    state: str
    exit_code: int | None
    signal: int | None
    reason: str
    usage: Usage
    node: str
    lease_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    stdout: StreamTotals
    stderr: StreamTotals
    output_files: tuple[OutputFile, ...]
    output_problems: tuple[str, ...]
    top_syscalls: Mapping[str, int]
    unsupported_syscalls: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    name: str
    state: str
    reason: str
    attempts: tuple[Attempt, ...]
    create_time: datetime | None
    end_time: datetime | None
    labels: Mapping[str, str]
    # The specification as the service keeps it: a bulkhead.v1.JobSpec message.
    spec: Any = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether the state is terminal."""
        return self.state not in _LIVE

    @classmethod
    def of(cls, job: Any) -> Job:
        return cls(
            name=job.name,
            state=enum_name("State", job.state),
            reason=job.reason,
            attempts=tuple(_attempt(attempt) for attempt in job.attempts),
            create_time=_time(job, "create_time"),
            end_time=_time(job, "end_time"),
            labels=dict(job.spec.labels),
            spec=job.spec,
        )


@dataclass(frozen=True)
class StateChange:
    sequence: int
    state: str
    attempt: int
    reason: str


@dataclass(frozen=True)
class OutputChunk:
    attempt: int
    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Output:
    """What the last attempt wrote and the service kept."""

    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Image:
    name: str
    digest: str
    size_bytes: int

    @classmethod
    def of(cls, image: Any) -> Image:
        return cls(image.name, image.digest, image.size_bytes)


@dataclass(frozen=True)
class Node:
    name: str
    condition: str
    memory_bytes: int
    promised_memory_bytes: int
    running_attempts: int
    backends: tuple[str, ...]

    @classmethod
    def of(cls, node: Any) -> Node:
        return cls(
            name=node.name,
            condition=enum_name("Node.Condition", node.condition),
            memory_bytes=node.memory_bytes,
            promised_memory_bytes=node.promised_memory_bytes,
            running_attempts=node.running_attempts,
            backends=tuple(node.backends),
        )


def _time(owner: Any, name: str) -> datetime | None:
    return getattr(owner, name).ToDatetime(timezone.utc) if owner.HasField(name) else None


def _seconds(duration: Any) -> float:
    return duration.ToTimedelta().total_seconds()


def _totals(totals: Any) -> StreamTotals:
    return StreamTotals(totals.total_bytes, totals.kept_bytes, totals.truncated)


def _attempt(attempt: Any) -> Attempt:
    usage = attempt.usage
    return Attempt(
        number=attempt.number,
        state=enum_name("State", attempt.state),
        exit_code=attempt.exit_code if attempt.HasField("exit_code") else None,
        signal=attempt.signal if attempt.HasField("signal") else None,
        reason=attempt.reason,
        usage=Usage(
            cpu_user=_seconds(usage.cpu_user),
            cpu_system=_seconds(usage.cpu_system),
            wall=_seconds(usage.wall),
            peak_memory_bytes=usage.peak_memory_bytes,
            read_bytes=usage.read_bytes,
            written_bytes=usage.written_bytes,
            oom_kills=usage.oom_kills,
        ),
        node=attempt.node,
        lease_time=_time(attempt, "lease_time"),
        start_time=_time(attempt, "start_time"),
        end_time=_time(attempt, "end_time"),
        stdout=_totals(attempt.stdout),
        stderr=_totals(attempt.stderr),
        output_files=tuple(
            OutputFile(
                path=file.path.decode("utf-8", "surrogateescape"),
                mode=file.mode,
                size_bytes=file.size_bytes,
                digest=file.blob_digest,
                is_directory=file.is_directory,
            )
            for file in attempt.output_files
        ),
        output_problems=tuple(attempt.output_problems),
        top_syscalls={entry.name: entry.count for entry in attempt.top_syscalls},
        unsupported_syscalls={entry.name: entry.count for entry in attempt.unsupported_syscalls},
    )
