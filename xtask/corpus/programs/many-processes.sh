#!/bin/bash
# what: 3,000 short processes, deep pipelines, 200 children at once, process groups, orphans, exec chains, wait -n
# image: demo
# weight: light
i=0; while [ $i -lt 1500 ]; do (exit $((i % 7))) || :; i=$((i + 1)); done; echo "$i forks"; for i in $(seq 1 500); do /bin/true; done; echo execs
seq 1 1000 | cat | cat | cat | cat | cat | cat | cat | cat | sort -n | tail -n 1; for i in $(seq 1 200); do sleep 0.5 & done; wait; echo "200 waited"
bash -c 'for i in 3 1 2; do (sleep 0.$((i * 3)); exit $i) & done; wait -n; echo "first $?"; wait -n; echo "second $?"; wait'; (setsid sh -c 'echo $(( $(cut -d" " -f 6 /proc/self/stat) == $$ ))'); (sleep 0.3; echo orphan) & disown; sh -c 'exec sh -c "exec sh -c \"exec echo chain\""'; sleep 0.6
r() { [ "$1" -gt 0 ] && bash -c "$(declare -f r); r $(($1 - 1))" || echo bottom; }; r 25; set -m; (sleep 100; :) & g=$!; sleep 0.1; kill -TERM -- -$g; wait $g 2>/dev/null; echo "group $?"; set +m; (ulimit -u 1 2>/dev/null; echo limit); x=$(for i in $(seq 1 100); do echo "$(echo "$(echo $i)")"; done | sha256sum); echo "$x"; trap 'echo chld' CHLD; (exit 2); trap - CHLD; echo "$(ls -d /proc/[0-9]* | wc -l)" | awk '{print ($1 < 15)}'; yes 2>/dev/null | head -n 1; (trap '' PIPE; yes 2>&1 | head -c 0); echo "${PIPESTATUS[*]}"
