#!/bin/sh
# Runs the corpus's driver on the host's kernel: in namespaces of its own (made by the caller), in a root that is an
# image's unpacked one below and a scratch folder above. Arguments: root, scratch folder, the driver's arguments.
set -eu
root=$1 scratch=$2
shift 2
top=$scratch/root
mkdir -p "$scratch/upper/corpus" "$scratch/work" "$top"
cp "$scratch/driver" "$scratch/program" "$scratch/upper/corpus"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" "$top"
mkdir -p "$top/proc" "$top/sys" "$top/dev"
mount -t proc proc "$top/proc"
mount -t sysfs -o ro sysfs "$top/sys"
mount -t tmpfs -o mode=755 tmpfs "$top/dev"
for device in null zero full random urandom tty; do
    touch "$top/dev/$device"
    mount --bind "/dev/$device" "$top/dev/$device"
done
ln -s /proc/self/fd "$top/dev/fd"
ln -s /proc/self/fd/0 "$top/dev/stdin"
ln -s /proc/self/fd/1 "$top/dev/stdout"
ln -s /proc/self/fd/2 "$top/dev/stderr"
mkdir -m 1777 "$top/dev/shm"
hostname sandbox
# As a sandbox is: what the caller is set to is not the program's.
renice -n 0 -p $$ > /dev/null
exec env --default-signal chroot "$top" /bin/bash /corpus/driver "$@"
