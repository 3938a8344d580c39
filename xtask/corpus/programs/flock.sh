#!/bin/bash
# what: flock(1): exclusion between processes, shared locks, timeouts, inheritance through fork and exec
# image: toolchain
# weight: light
# files: counter
echo 0 > counter
for _ in 1 2 3 4; do (for _ in $(seq 1 25); do flock lock sh -c 'n=$(cat counter); echo $((n + 1)) > counter'; done) & done; wait; cat counter
exec 8> held; flock 8; flock -n held true; echo "busy $?"; flock -w 0.2 held true; echo "timeout $?"; flock -u 8; flock -n held echo free
exec 7> shared; flock -s 7; flock -s -n shared echo both; flock -x -n shared true; echo "exclusive $?"; exec 7>&-; flock -x -n shared echo now
(flock 9; sleep 0.5; echo holder) 9> queue & sleep 0.2; flock queue echo waiter; wait
flock -E 44 -n held sh -c 'flock -E 44 -n held true; echo inner $?'; (exec 6> gone; flock 6; sleep 100 6>&6 & echo $! > pid); flock -n gone true; echo "kept by child $?"; kill "$(cat pid)"; sleep 0.2; flock -w 2 gone echo released; rm pid
