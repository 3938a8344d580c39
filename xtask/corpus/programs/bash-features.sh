#!/bin/bash
# what: bash's own test-like scripts: expansions, traps, arrays, job control, here-documents, process substitution
# image: demo
# weight: light
# files: out
set -u
mkdir out
declare -A count=()
for word in the quick brown the lazy the quick; do count[$word]=$((${count[$word]:-0} + 1)); done
for word in $(printf '%s\n' "${!count[@]}" | sort); do echo "$word ${count[$word]}"; done
echo "${BASH_VERSINFO[0]} ${#count[@]} ${word^^} ${word//a/X} ${word: -2}"
(trap 'echo "term in subshell"; exit 7' TERM; kill -TERM "$BASHPID"; sleep 5); echo "status $?"
trap 'echo usr1' USR1; kill -USR1 $$; trap - USR1
set -m
sleep 100 & kill -STOP %1; sleep 0.1; jobs %1; kill -CONT %1; kill -KILL %1; wait %1 2>/dev/null; echo "status $?"
set +m
diff <(seq 1 5) <(seq 1 2 9) > out/diff; echo "diff $?"
while read -r a b; do echo "$b-$a"; done <<< $'1 2\n3 4'
coproc CAT { tr a-z A-Z; }
echo coprocess >&"${CAT[1]}"; exec {CAT[1]}>&-; cat <&"${CAT[0]}"; wait
f() { local n=$1; ((n < 2)) && { echo "$n"; return; }; echo $(($(f $((n - 1))) + $(f $((n - 2))))); }
echo "fibonacci $(f 12)"
mapfile -t lines < <(seq 1 1000); echo "${#lines[@]} ${lines[999]}"
printf '%05d %x %q\n' 42 255 'a b' > out/printf; cat out/printf
exec 9> out/nine; echo nine >&9; exec 9>&-; ls out
(ulimit -n 20; ulimit -n); ( (exit 3) | (exit 4) | true; echo "${PIPESTATUS[@]}")
[[ foobar =~ ^(fo+)(b.r)$ ]] && echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
timeout 1 sleep 10; echo "timeout $?"
kill -l 11; { (kill -SEGV $BASHPID); } 2>/dev/null; echo "segv $?"
shopt -s nullglob extglob; touch out/{a,b,c}.{x,y}; echo out/!(a).x; echo "$(ls out | sha256sum)"
