#!/bin/bash
# Runs one program of the corpus, the same way on the host's kernel and in a sandbox: in /work, which is empty, with
# this environment; then lists the files that it made. Arguments: the files and folders to list; none if there are
# none.
mkdir -p /work && cd /work || exit 125
umask 022
# What the one who started us left open is not the program's.
for path in /proc/self/fd/*; do
    number=${path##*/}
    if ((number > 2 && number != 255)); then eval "exec $number>&-"; fi
done
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TZ=UTC \
    bash /corpus/program </dev/null
status=$?
cd /work || exit 125
if [ $# -gt 0 ]; then
    # Folders have neither size nor links of note: those are the file system's own.
    find "$@" -type d -printf '%p %y %M %U:%G\n' -o -type l -printf '%p %y %M %U:%G %l\n' \
        -o -printf '%p %y %M %U:%G %n %s\n' | LC_ALL=C sort
    find "$@" -type f -exec sha256sum -- {} + | LC_ALL=C sort -k 2
fi
exit "$status"
