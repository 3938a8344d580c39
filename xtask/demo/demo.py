"""Runs the demo's jobs for two tenants and compares what happened with what must happen.

Needs a running service; `cargo xtask demo` starts one and says where it is:

    demo.py --server HOST:PORT --serve-pid PID --tenant NAME=TOKENFILE --tenant NAME=TOKENFILE --operator TOKENFILE
"""

from __future__ import annotations

import argparse
import io
import os
import secrets
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bulkhead import Archive, BulkheadError, Client, Collect, Env, Job, Limits, OutputChunk

MIB = 1 << 20
# Longest that one job of the demo may take, in seconds, before the demo gives up on it.
PATIENCE = 60.0
# The same in a virtual machine: on a software KVM each one boots for seconds of one processor, and they share.
MACHINE_PATIENCE = 400.0
# Virtual machines at once, so that each boots in its time.
MACHINES = 2
# Their memory where a case says nothing: a kernel looks at each page of it while it boots.
MACHINE_MEMORY = 64 * MIB

SCRIPT = """\
import os, subprocess, sys
nonce = open('/job/in/nonce.txt').read()
os.makedirs('/job/out', exist_ok=True)
for name in ('a.txt', 'b.txt'):
    with open('/job/out/' + name, 'w') as file:
        file.write(name + ' ' + nonce)
print(subprocess.run(['cat', '/job/out/a.txt'], capture_output=True, text=True, check=True).stdout)
"""

HOG = "data = []\nwhile True: data.append(bytearray(8 << 20))"


@dataclass
class Row:
    """One line of the table."""

    tenant: str
    what: str
    expected: str
    seen: str = ""
    detail: str = ""
    job: Job | None = None
    good: bool = False


@dataclass
class Case:
    """One job: how it is submitted, what it must come to, and what else must be true."""

    what: str
    expected: str
    argv: list[str]
    check: Callable[[Client, Job], str] = lambda _client, _job: ""
    options: dict[str, object] = field(default_factory=dict)


def must(condition: bool, otherwise: str) -> str:
    return "" if condition else otherwise


def has_nonce(nonce: str) -> Callable[[Client, Job], str]:
    def check(client: Client, job: Job) -> str:
        stdout = client.output(job.name).stdout
        return must(nonce.encode() in stdout, f"the nonce is not in the output: {stdout[:80]!r}")

    return check


def archive_of(nonce: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("nonce.txt")
        info.size = len(nonce)
        tar.addfile(info, io.BytesIO(nonce.encode()))
    return buffer.getvalue()


def outputs_came_back(nonce: str) -> Callable[[Client, Job], str]:
    def check(client: Client, job: Job) -> str:
        files = {file.path: client.download(file.digest) for file in job.attempts[-1].output_files}
        want = {f"/job/out/{name}": f"{name} {nonce}".encode() for name in ("a.txt", "b.txt")}
        return must(files == want, f"other outputs: {sorted(files)}") or has_nonce(nonce)(client, job)

    return check


def reason_says(*words: str) -> Callable[[Client, Job], str]:
    def check(_client: Client, job: Job) -> str:
        missing = [word for word in words if word.lower() not in job.reason.lower()]
        return must(not missing, f"the reason {job.reason!r} does not say {missing}")

    return check


def secret_is_hidden(secret: str) -> Callable[[Client, Job], str]:
    def check(client: Client, job: Job) -> str:
        shown = str(client.get(job.name).spec) + job.reason
        if secret in shown:
            return "the service returned the secret"
        length = client.output(job.name).stdout.strip().decode()
        return must(length == str(len(secret)), f"the job saw another secret: length {length}")

    return check


def cases(client: Client, nonce: str) -> list[Case]:
    python = ["python3", "-c"]
    secret = secrets.token_hex(16)
    archive = client.upload(archive_of(nonce))
    small = Limits(memory_bytes=64 * MIB, wall_time=30)
    return [
        Case("hello from python3", "SUCCEEDED", [*python, f"print('hello', '{nonce}')"], has_nonce(nonce)),
        Case(
            "shell pipeline",
            "SUCCEEDED",
            ["sh", "-c", f"echo {nonce.upper()} | tr A-F a-f | cat | sort"],
            has_nonce(nonce),
        ),
        Case(
            "archive in, files out",
            "SUCCEEDED",
            [*python, SCRIPT],
            outputs_came_back(nonce),
            {"archives": [Archive("/job/in", archive)], "outputs": [Collect(glob="/job/out/*.txt")]},
        ),
        Case(
            "exit code 3",
            "FAILED",
            ["sh", "-c", f"echo {nonce}; exit 3"],
            lambda c, j: must(j.attempts[-1].exit_code == 3, "another exit code") or has_nonce(nonce)(c, j),
        ),
        Case(
            "segmentation fault",
            "SIGNALED",
            [*python, "import ctypes; ctypes.string_at(0)"],
            lambda _c, j: must(j.attempts[-1].signal == signal.SIGSEGV, "another signal"),
        ),
        Case("memory hog", "OUT_OF_MEMORY", [*python, HOG], reason_says("memory"), {"limits": small}),
        Case(
            "endless loop",
            "TIMED_OUT",
            ["sh", "-c", f"echo {nonce}; while :; do :; done"],
            lambda c, j: reason_says("wall")(c, j) or has_nonce(nonce)(c, j),
            {"limits": Limits(wall_time=2)},
        ),
        Case("yes", "OUTPUT_LIMIT", ["yes", nonce], has_nonce(nonce), {"limits": Limits(output_bytes=MIB)}),
        Case(
            "a secret",
            "SUCCEEDED",
            ["sh", "-c", "echo ${#TOKEN}"],
            secret_is_hidden(secret),
            {"env": [Env("TOKEN", secret, secret=True)]},
        ),
    ]


def finish(
    client: Client, row: Row, name: str, check: Callable[[Client, Job], str], patience: float = PATIENCE
) -> None:
    try:
        job = client.wait(name, patience)
        row.job, row.seen, row.detail = job, job.state, job.reason
        problem = must(job.state == row.expected, f"ended {job.state}") or check(client, job)
        row.good = not problem
        row.detail = problem or row.detail
    except BulkheadError as error:
        row.seen, row.detail = error.code, str(error)


def run_cases(client: Client, rows: list[Row]) -> None:
    nonce = secrets.token_hex(8)
    waiting = []
    for case in cases(client, nonce):
        row = Row(client.tenant, case.what, case.expected)
        rows.append(row)
        job = client.submit("demo", case.argv, **case.options)  # type: ignore[arg-type]
        waiting.append((row, job.name, case.check))
    rows.append(cancel_one(client, nonce))
    for row, name, check in waiting:
        finish(client, row, name, check)


def cancel_one(client: Client, nonce: str, backend: str = "AUTO") -> Row:
    """Cancels a job once it has said something; what it said must be kept."""
    row = Row(client.tenant, "cancelled while it runs", "CANCELLED")
    argv = ["sh", "-c", f"echo {nonce}; sleep 1000"]
    job = client.submit("demo", argv, grace_period=0.5, backend=backend)
    for event in client.watch(job.name):
        if isinstance(event, OutputChunk):
            client.cancel(job.name)
            break
    finish(client, row, job.name, has_nonce(nonce), MACHINE_PATIENCE)
    return row


def own_kernel(client: Client, job: Job) -> str:
    """The kernel that a job in a virtual machine sees is not the host's."""
    kernel = client.output(job.name).stdout.decode().strip()
    return must(kernel.startswith("Linux ") and os.uname().release not in kernel, f"it saw {kernel!r}")


def machine_cases(client: Client, nonce: str) -> list[Case]:
    """Every outcome of the sentry's cases, and what only a kernel of its own can do."""
    mount = "mount -t tmpfs none /mnt && mkdir /mnt/a && unshare --mount --net true && echo " + nonce
    disk = "dd if=/dev/zero of=/var/tmp/fill bs=65536"
    own = [
        Case("its own kernel", "SUCCEEDED", ["uname", "-sr"], own_kernel),
        Case("mount and unshare", "SUCCEEDED", ["sh", "-c", mount], has_nonce(nonce)),
        Case(
            "disk filler",
            "DISK_LIMIT",
            ["sh", "-c", disk],
            reason_says("disk", "4 mib"),
            {"limits": Limits(disk_bytes=4 * MIB)},
        ),
    ]
    # The script with an archive is a python3 with subprocesses already, and each boot is 20 s of a processor on a software KVM.
    shared = [case for case in cases(client, nonce) if case.what not in ("hello from python3", "shell pipeline")]
    for case in shared:
        if case.what == "memory hog":
            # Each page that a guest touches first is a page fault of its kernel: milliseconds where that is emulated.
            case.options["limits"] = Limits(memory_bytes=32 * MIB, wall_time=350)
        if case.what == "endless loop":
            # The shell has to come to its first word.
            case.options["limits"] = Limits(wall_time=12)
    return own + shared


def run_machines(client: Client, rows: list[Row], offered: set[str]) -> None:
    """The same promises in virtual machines; or the refusal, where the node has none."""
    kind = "microVM: "
    if "microvm" not in offered:
        row = Row(client.tenant, kind + "refused with the reason", "FAILED_PRECONDITION")
        begin = time.monotonic()
        try:
            client.submit("demo", ["true"], backend="MICROVM")
        except BulkheadError as error:
            row.seen, row.detail = error.code, str(error)
        quick = time.monotonic() - begin < 1
        row.good = row.seen == row.expected and quick
        rows.append(row)
        return
    nonce = secrets.token_hex(8)
    waiting: list[tuple[Row, str, Callable[[Client, Job], str]]] = []
    for case in machine_cases(client, nonce):
        if len(waiting) == MACHINES:
            finish(client, *waiting.pop(0), MACHINE_PATIENCE)
        limits: Limits = case.options.get("limits", Limits())  # type: ignore[assignment]
        if not limits.memory_bytes:
            case.options["limits"] = replace(limits, memory_bytes=MACHINE_MEMORY)
        row = Row(client.tenant, kind + case.what, case.expected)
        rows.append(row)
        job = client.submit("demo", case.argv, backend="MICROVM", **case.options)  # type: ignore[arg-type]
        waiting.append((row, job.name, case.check))
    for entry in waiting:
        finish(client, *entry, MACHINE_PATIENCE)
    cancelled = cancel_one(client, nonce, "MICROVM")
    cancelled.what = kind + cancelled.what
    rows.append(cancelled)


def refuse_stranger(stranger: Client, owner_row: Row) -> Row:
    """Another tenant's job does not exist."""
    row = Row(stranger.tenant, f"reads a job of {owner_row.tenant}", "NOT_FOUND")
    if owner_row.job is None:
        row.detail = "no job to read"
        return row
    try:
        row.seen = stranger.get(owner_row.job.name).state
    except BulkheadError as error:
        row.seen, row.detail = error.code, error.reason
    row.good = row.seen == row.expected
    return row


def control_pid(serve: int) -> int:
    """The control process among the children of `bulkhead serve`."""
    for task in Path(f"/proc/{serve}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"control" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return int(child)
    raise RuntimeError("bulkhead serve has no control process")


def survive_kill(client: Client, serve: int) -> Row:
    """A job that runs when the control process is killed goes on, and its result is accepted."""
    nonce = secrets.token_hex(8)
    row = Row(client.tenant, "kill -9 of the control process", "SUCCEEDED")
    job = client.submit("demo", ["sh", "-c", f"echo begin; sleep 4; echo {nonce}"])
    for event in client.watch(job.name):
        if isinstance(event, OutputChunk):
            break
    os.kill(control_pid(serve), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if client.get(job.name).ended:
                break
        except BulkheadError as error:
            if error.code != "UNAVAILABLE":
                raise
        time.sleep(0.2)
    finish(client, row, job.name, has_nonce(nonce))
    if row.good and row.job is not None and len(row.job.attempts) != 1:
        row.good, row.detail = False, f"{len(row.job.attempts)} attempts instead of one"
    return row


def milliseconds(start: object, end: object) -> str:
    return f"{(end - start).total_seconds() * 1000:.0f}" if start and end else "-"  # type: ignore[operator]


def show(rows: list[Row]) -> None:
    head = ("tenant", "job", "expected", "seen", "queue ms", "start ms", "run ms", "", "")
    lines = [head]
    for row in rows:
        times = ("-", "-", "-")
        if row.job is not None and row.job.attempts:
            last = row.job.attempts[-1]
            times = (
                milliseconds(row.job.create_time, row.job.attempts[0].lease_time),
                milliseconds(last.lease_time, last.start_time),
                milliseconds(last.start_time, last.end_time),
            )
        mark = "ok" if row.good else "WRONG"
        lines.append((row.tenant, row.what, row.expected, row.seen, *times, mark, row.detail[:100]))
    widths = [max(len(line[column]) for line in lines) for column in range(8)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)) + "  " + line[8])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--serve-pid", type=int, required=True)
    parser.add_argument("--operator", required=True, help="file with an operator's token")
    parser.add_argument("--tenant", action="append", required=True, metavar="NAME=TOKENFILE")
    options = parser.parse_args()
    names = [entry.split("=", 1) for entry in options.tenant]
    with Client(options.server, "operator", Path(options.operator).read_text().strip()) as operator:
        print(f"service {operator.version()}, nodes: {', '.join(n.name for n in operator.nodes())}")
        offered = {backend for node in operator.nodes() for backend in node.backends}
        for name, _ in names:
            operator.create_tenant(name)
    clients = [Client(options.server, name, Path(file).read_text().strip()) for name, file in names]
    results: list[list[Row]] = [[] for _ in clients]
    threads = [threading.Thread(target=run_cases, args=pair) for pair in zip(clients, results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [row for result in results for row in result]
    rows.append(refuse_stranger(clients[1], results[0][0]))
    rows.append(refuse_stranger(clients[0], results[1][0]))
    rows.append(survive_kill(clients[0], options.serve_pid))
    run_machines(clients[0], rows, offered)
    show(rows)
    wrong = [row for row in rows if not row.good]
    # A tenant whose thread died would otherwise just have fewer lines.
    complete = len({len(result) for result in results}) == 1 and all(results)
    print(f"{len(rows) - len(wrong)} of {len(rows)} as expected")
    return 0 if complete and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
