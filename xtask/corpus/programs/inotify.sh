#!/bin/bash
# what: inotifywait: the events of creation, writing, renaming and deletion, watched recursively
# image: toolchain
# weight: light
mkdir -p d/sub
inotifywait -q -m -r --format '%w %e %f' d > events 2>&1 & w=$!
for _ in $(seq 1 100); do grep -q inotify "/proc/$w/fdinfo/"* 2>/dev/null && break; sleep 0.05; done; sleep 0.3
echo one > d/a; cat d/a > /dev/null; mv d/a d/b; ln d/b d/c; chmod 600 d/b; rm d/b d/c; touch d/sub/x; mkdir d/new; rmdir d/new; echo two >> d/sub/x; truncate -s 0 d/sub/x; mv d/sub d/sub2
sleep 0.5; kill $w; wait $w 2>/dev/null; cat events; sha256sum < events
(sleep 0.3; touch d/late) & inotifywait -q -e create --format '%f %e' d; inotifywait -q -t 1 d; echo "timeout $?"; inotifywait none 2>&1 | tail -n 1; wait
