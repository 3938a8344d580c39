#!/bin/bash
# what: rsync of a tree with links, modes, owners and sparse files: first copy, changes, deletion, checksums, dry run
# image: toolchain
# weight: light
# files: to
mkdir -p from/{a,b/c}; for i in $(seq 1 200); do seq "$i" $((i * 20)) > "from/a/f$i"; done; ln from/a/f1 from/b/hard; ln -s ../a/f2 from/b/soft; truncate -s 2M from/b/c/sparse; chmod 640 from/a/f3; chown 11:12 from/a/f4; mkfifo from/b/pipe; touch -d 2001-01-01 from/a/*
rsync -aHS --numeric-ids from/ to/; echo "rsync $?"; diff -r --no-dereference from to 2>&1 | grep -v fifo; echo more >> from/a/f7; rm from/a/f8; mv from/a/f9 from/b/f9; touch -d 2001-03-03 from/a from/b from; rsync -aHin --delete from/ to/ | sort; rsync -aH --delete --no-whole-file --stats from/ to/ | grep -E 'Number of (created|deleted|regular)'; rsync -aHc --delete -v from/ to/ | head -n 1; find to -links 2 -type f | sort; stat -c '%a %u:%g %Y' to/a/f3 to/a/f4; touch -d 2001-01-01 from/a/f7; find to -exec touch -h -d @1 {} +
