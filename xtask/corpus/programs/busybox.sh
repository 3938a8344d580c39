#!/bin/bash
# what: busybox's applets and its ash
# image: toolchain
# weight: light
# files: b
mkdir b; cd b || exit 1
busybox --install -s bin 2>/dev/null || { mkdir bin; busybox --install -s bin; }; ls bin | wc -l; rm -r bin
busybox ash -c 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; done | busybox sort -rn | busybox head -n 2; set -- a b c; echo $#; trap "echo bye" EXIT; (exit 4); echo $?; kill -l 9'
busybox seq 1 3000 > n; busybox gzip -k n; busybox zcat n.gz | busybox md5sum; busybox tar -cf n.tar n; busybox tar -tf n.tar; busybox awk '{s+=$1} END {print s}' n; busybox sed -n '5,7s/^/x/p' n; busybox grep -c 7 n
busybox find . -name 'n*' | busybox sort; busybox cpio -o < /dev/null 2>&1 | busybox wc -c; echo n | busybox cpio -o -H newc 2>/dev/null | busybox cpio -t 2>/dev/null; busybox diff n n && busybox cmp n n && busybox sha1sum n; busybox dd if=n bs=100 count=3 2>/dev/null | busybox hexdump -C | busybox tail -n 2
busybox sh -c 'busybox sleep 30 & p=$!; busybox kill $p; wait $p; echo $?' 2>/dev/null; busybox timeout 1 busybox sleep 5; echo $?; busybox expr 6 '*' 7; busybox nproc; busybox id -u; busybox stat -c %s n; busybox xargs -n 500 busybox echo < n | busybox wc -l; busybox bc <<< '2^64'; busybox dc -e '3 4 + p'; busybox vi -h 2>&1 | busybox wc -l; rm n.gz n.tar
