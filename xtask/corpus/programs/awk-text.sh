#!/bin/bash
# what: text processing: gawk, sed, grep, bc, jq, sort and comm over 200,000 lines, in long pipelines
# image: toolchain
# weight: light
# files: top.txt
gawk 'BEGIN { x = 42; for (i = 0; i < 200000; i++) { x = (x * 1103515245 + 12345) % 2147483648; printf "%d %s %d\n", i, sprintf("%c%c", 97 + x % 26, 97 + int(x / 26) % 26), x % 1000 } }' > data; sha256sum data
gawk '{ n[$2]++; s[$2] += $3 } END { PROCINFO["sorted_in"] = "@ind_str_asc"; for (k in n) print k, n[k], s[k] / n[k] }' data | sort -k2nr -k1 | head -n 20 | tee top.txt
sed -E 's/^([0-9]+) (.)(.) /\3\2:\1 /; /7$/d' data | grep -c '^a'; grep -E -o '[aeiou]{2} 9[0-9]+$' data | sort | uniq -c | sort -rn | head -n 3; cut -d' ' -f2 data | tr a-z A-Z | sort -u | wc -l; grep -P '(?<=z)q (\d)\1' data | wc -l
echo 'scale=60; 4*a(1); 2^200' | bc -l; gawk '{ print "{\"i\":" $1 ",\"w\":\"" $2 "\"}" }' data | head -n 20000 | jq -s 'group_by(.w) | map({w: .[0].w, n: length}) | sort_by(-.n, .w) | .[:3]' -c; cat data | tee >(md5sum > m1) | sort -k3n -S 2M | md5sum; cat m1 2>/dev/null; rev data | tac | head -n 1 | xxd 2>/dev/null | wc -l; comm -12 <(cut -d' ' -f3 data | sort -u) <(seq 0 3 1000 | sort) | wc -l; split -n l/4 data part; wc -l part* | tail -n 1; patch --version | head -n 1 | wc -l; diff -u part?a part?b | tail -n +3 | sha256sum
gawk 'BEGIN { cmd = "sort -n"; for (i = 5; i > 0; i--) print i |& cmd; close(cmd, "to"); while ((cmd |& getline l) > 0) printf "%s ", l; close(cmd); "echo sub" | getline y; print y; system("exit 3"); print system("exit 4") }'
