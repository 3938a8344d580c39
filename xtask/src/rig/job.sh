#!/bin/bash
# What needs a real kernel, in one job of a microVM. Each line that it prints is one thing that works.
set -u
# Before anything is written.
free=$(($(stat -f -c '%a * %S' /)))
say() { echo "real kernel: $1: $2"; }
try() { name=$1; shift; if "$@" > /tmp/said 2>&1; then say "$name" ok; else say "$name" FAILED; sed 's/^/  /' /tmp/said; fi; }

tmpfs_and_overlay() {
    mkdir -p /t && mount -t tmpfs -o size=8M tmpfs /t && mkdir -p /t/lower /t/upper /t/work /merged &&
        echo below > /t/lower/file && mount -t overlay -o lowerdir=/t/lower,upperdir=/t/upper,workdir=/t/work o /merged &&
        grep -q below /merged/file && echo above > /merged/file && grep -q below /t/lower/file && grep -q above /t/upper/file
}
namespaces() {
    unshare --user --map-root-user --mount --uts --ipc --net --pid --fork --cgroup --time --mount-proc \
        sh -c 'hostname inside 2>/dev/null || echo inside > /proc/sys/kernel/hostname; [ "$(cat /proc/sys/kernel/hostname)" = inside ] && [ $$ -le 2 ] && [ "$(ls /sys/class/net 2>/dev/null | wc -l)" -ge 1 ]'
}
bpf() {
    # A socket filter of two instructions (r0 = 0; exit), and a map that keeps what is written to it.
    python3 - <<'P'
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b'\0'))
    result = libc.syscall(321, command, buffer, 128)
    assert result >= 0, (command, ctypes.get_errno())
    return result
table = bpf(0, struct.pack('IIII', 1, 4, 8, 16))
key, value, out = (ctypes.create_string_buffer(8) for _ in range(3))
value.raw = b'bulkhead'
where = lambda data: struct.pack('IIQQQ', table, 0, ctypes.addressof(key), ctypes.addressof(data), 0)
bpf(2, where(value)); bpf(1, where(out))
assert out.raw == b'bulkhead', out.raw
code = ctypes.create_string_buffer(struct.pack('BBhi', 0xb7, 0, 0, 0) + struct.pack('BBhi', 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b'GPL')
bpf(5, struct.pack('IIQQ', 1, 2, ctypes.addressof(code), ctypes.addressof(licence)))
P
}
container() {
    mkdir -p /c/rootfs/bin /c/rootfs/proc && cp /bin/busybox /c/rootfs/bin/ && cd /c && rm -f config.json && crun spec &&
        sed -i 's|"sh"|"/bin/busybox", "echo", "from a container"|; s|"terminal": true|"terminal": false|' config.json &&
        crun run one | grep -q 'from a container'
}
system() {
    mkdir -p /sys/fs/cgroup/rest /run/systemd/system && echo $$ > /sys/fs/cgroup/rest/cgroup.procs
    printf '[Unit]\nDescription=shown\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "systemctl is-system-running > /reached; echo reached >> /reached; systemctl --no-block exit"\n[Install]\n' \
        > /etc/systemd/system/shown.service
    printf '[Unit]\nDescription=shown\nDefaultDependencies=no\nRequires=shown.service\nAfter=shown.service\n' > /etc/systemd/system/shown.target
    timeout 60 unshare --pid --fork --mount --mount-proc env container=bulkhead SYSTEMD_LOG_TARGET=console \
        /lib/systemd/systemd --system --unit=shown.target
    cat /reached; grep -q reached /reached
}
limits() { [ "$(cat /sys/fs/cgroup/pids.max)" = 256 ] && [ "$(cat /sys/fs/cgroup/memory.max)" = 268435456 ]; }
disk=67108864
disk_free() { echo "$free free"; [ $((free + $(stat -c '%b * %B' /job.sh))) = "$disk" ]; }
disk_full() {
    ! head -c 100M /dev/zero > /fill; size=$(($(stat -c '%b * %B' /fill))); echo "$size written"
    rm /fill; [ "$size" -le "$disk" ] && [ "$size" -gt $((disk * 9 / 10)) ]
}

try "the job's limits are in its control group" limits
try "the disk has what its limit says" disk_free
try "a tmpfs and an overlay" tmpfs_and_overlay
try "every namespace" namespaces
try "a BPF program and a map" bpf
try "systemd to a target" system
try "the disk limit is exact" disk_full
# Last: crun makes the group that it is in a threaded one.
try "a container with crun" container
