#!/bin/bash
# what: coreutils and findutils at work on a tree of files, links, modes and times
# image: demo
# weight: light
# files: tree sorted split
mkdir -p tree/{a,b,c}/{1,2,3}
i=0; for d in tree/*/*; do for n in 1 2 3 4 5; do i=$((i + 1)); seq 1 $((i * 37)) > "$d/f$n"; done; done
ln -s ../a tree/b/link; ln tree/a/1/f1 tree/c/hard; chmod 4711 tree/a/1/f2; chmod 1777 tree/b; mkfifo tree/fifo
cp -a tree copy; diff -r --no-dereference copy tree | sort; mv copy/a copy/z; rm -r copy/b; ls -R copy | sha256sum
find tree -type f -size +1k -printf '%p %s\n' | sort -k2n | tail -n 5
find tree -type f -name 'f[135]' -exec sha1sum {} + | sort | md5sum
find tree -type f -print0 | sort -z | xargs -0 -P 2 -n 5 wc -l | grep -v total | sort -k 2 | sha256sum
find tree -perm -4000; find tree -links 2 -type f | sort; find tree -type l -lname '*a'
touch -d '2001-02-03 04:05:06' tree/c/hard; stat -c '%y %s %h %a' tree/a/1/f1; date -r tree/c/hard +%s
mkdir sorted; for o in -n -r -u -R; do seq 1 2000 | sort $o --random-source=/bin/bash > "sorted/x$o"; done
seq 1 100000 | sort -S 1M -T . --parallel 2 -r | head -n 3; seq 1 1000 | shuf --random-source=/bin/bash | sha256sum
mkdir split; seq 1 5000 | split -l 700 - split/p; ls split | tr '\n' ' '; cat split/* | cksum
join <(seq 1 10 | sed 's/$/ a/') <(seq 5 15 | sed 's/$/ b/') | paste -s -d, ; seq 1 9 | tac | paste - - - | cut -f 2
dd if=/dev/zero of=sparse bs=1 count=1 seek=10M 2>/dev/null; stat -c '%s' sparse; du -k sparse | awk '{print ($1 < 100)}'
truncate -s 5000 sparse; cp --sparse=always sparse sparse2; cmp sparse sparse2 && od -An -c sparse | head -n 2
install -D -m 600 tree/a/1/f3 deep/er/file; stat -c %a deep/er/file; realpath deep/../tree/b/link; readlink -f tree/b/link; rmdir deep/er 2>&1
seq 1 100 | tee one two > three; cmp one three; comm -12 one two | wc -l; expr 7 \* 6; factor 1234567890; numfmt --to=iec 123456789; basename /a/b.c .c
base64 /bin/true | sha256sum; seq 1 3 | b2sum; printf 'a\tb\n' | expand | od -c; nl tree/a/1/f1 | tail -n 1; tail -c 5 one | od -An -x; fold -w 7 one | head -n 2
env -i A=1 B=2 env; nice -n 3 nice; id; umask; pwd -P; uname -s; test -p tree/fifo && echo fifo; { timeout -s KILL 0.2 tail -f one > /dev/null; } 2>/dev/null; echo $?
chown 12:34 two; chgrp 56 three; stat -c '%u:%g' two three; chmod -R u+rwX,go-w tree; mktemp -d XXXX | wc -c; sync; nohup true 2>/dev/null; yes | head -n 100000 | wc -c
