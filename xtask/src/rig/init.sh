#!/bin/busybox sh
# First program of the machine that has a hardware KVM: modules, this machine's files read-only under a layer in memory,
# then the work as PID 1 of a usual root.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module.ko" || echo "rig: no module $module"
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
$b mount -t tmpfs -o size=80% upper /upper
$b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work root /new
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t devtmpfs dev /new/dev
$b mount -t cgroup2 groups /new/sys/fs/cgroup
for name in tmp run dev/shm; do $b mkdir -p "/new/$name"; $b mount -t tmpfs memory "/new/$name"; done
# What jobs may write is promised, and hardly used.
$b mount -t tmpfs -o size=16g memory /new/var/tmp
$b mkdir -p /new/dev/pts
$b mount -t devpts pts /new/dev/pts
$b cp /work.sh /new/run/work.sh
exec $b switch_root /new /bin/bash /run/work.sh
