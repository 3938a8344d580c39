#!/bin/bash
# what: dash: build-script idioms: here-documents, traps, subshells, command substitution, getopts, ulimits, fifos
# image: demo
# weight: light
# files: t
mkdir t; cat > s.sh <<'S'
set -eu; while getopts ab:c o; do case $o in a) echo a;; b) echo "b=$OPTARG";; c) echo c;; esac; done; shift $((OPTIND - 1)); echo "$# $*"
trap 'echo exit $?' EXIT; trap 'echo int' INT; kill -INT $$; f() { local x=$1; echo "f $x"; return 3; }; f 1 || echo "returned $?"
cat > t/here <<X
$(seq 1 3 | while read -r n; do echo "line $n $((n * n))"; done)
X
mkfifo t/fifo; (for i in 1 2 3 4 5; do echo "msg $i"; done > t/fifo) & while read -r l; do echo "got $l"; done < t/fifo; wait; rm t/fifo
for d in a b c; do mkdir -p "t/$d/x"; ( cd "t/$d/x" && pwd | sed 's,.*/t/,,' && echo "$d" > f ); done; find t -name f | sort | xargs cat | tr '\n' ' '; echo; case "$(ls t)" in *here*) echo yes;; esac
i=0; until [ $i -ge 300 ]; do i=$((i + 1)); : $(echo $i); done; echo $i; (set +e; false; echo "kept $?"; exit 4) || echo "sub $?"; eval "v$i=eval"; eval "echo \$v$i"; IFS=:; set -- $PATH; echo $#; unset IFS; echo "${HOME%/*}|${PATH##*:}|${none:-default}|${#HOME}"; exec 5> t/five; echo five >&5; exec 5>&-; cat t/five; command -v sed; type cd; umask 027; touch t/masked; ls -l t/masked | cut -c 1-10; ulimit -n 64; ulimit -n; (ulimit -f 1; dd if=/dev/zero of=t/big bs=1k count=100 2>/dev/null || echo "file limit $?"); ls -l t/big | awk '{print $5}'; test -t 0 || echo no tty; printf '%s\n' "a b" 'c\td' | cat -A; nohup sh -c 'echo nohup' 2>/dev/null; sh -c 'kill -TERM $$' || echo "signal $?"; false
S
sh s.sh -a -b value -c one two; echo "status $?"
