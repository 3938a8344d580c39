#!/bin/bash
# what: tar with gzip, xz, zstd and bzip2 on 400 files; unpacked, compared, streamed through pipes
# image: toolchain
# weight: light
# files: src back-gz back-xz back-zst
mkdir -p src/d{1..20}
for d in src/*; do for i in $(seq 1 20); do seq "$i" $((i * 40)) > "$d/file$i"; done; done
ln -s d1/file1 src/link; ln src/d1/file2 src/hard; chmod 750 src/d3; truncate -s 1M src/sparse; chown 7:8 src/d4/file1
for kind in gz xz zst bz2; do
    tar --sort=name --mtime=@1 -caf "$kind.tar.$kind" src && mkdir "back-$kind" && tar -xf "$kind.tar.$kind" -C "back-$kind" && diff -r src "back-$kind/src" && echo "$kind equal"
    tar -tvf "$kind.tar.$kind" | sha256sum
done
sha256sum gz.tar.gz xz.tar.xz zst.tar.zst bz2.tar.bz2
tar -cf - -S src | gzip -9 | zcat | tar -tf - | wc -l; xz -T2 -k -c src/d1/file20 | xz -dc | md5sum; zstd -q -19 -T2 -c src/d2/file20 | zstd -dc | md5sum; zstd -q -t zst.tar.zst; gzip -l < gz.tar.gz | wc -l
xz -l xz.tar.xz | tail -n 1 | awk '{print $1}'; bzip2 -tv bz2.tar.bz2 2>&1; tar --compare -f gz.tar.gz src | head; tar -C src -cf x.tar --exclude 'd1*' . ; tar -tf x.tar | wc -l
