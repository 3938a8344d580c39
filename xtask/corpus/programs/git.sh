#!/bin/bash
# what: git on a repository of 5,000 files: commit, clone, branch, rebase, merge conflict, gc, fsck, worktree, bisect
# image: toolchain
# weight: light
# files: dump
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_PAGER=cat
git config --global user.name Somebody; git config --global user.email some@body; git config --global init.defaultBranch main
git config --global advice.detachedHead false
git init -q repo && cd repo || exit 1
for d in $(seq 1 50); do mkdir "d$d"; for i in $(seq 1 100); do echo "$d $i" > "d$d/f$i"; done; done
git add . && git commit -q -m first && git rev-parse HEAD; git status --short | wc -l
echo change >> d1/f1; rm d2/f2; mv d3/f3 d3/g3; git status --short; git diff --stat; git add -A; git commit -q -m second; git show --stat -M | cat
git checkout -q -b side HEAD~1; for i in 1 2 3; do echo "side $i" > "side$i"; git add .; git commit -q -m "side $i"; done
git rebase -q main; git log --oneline --graph; git checkout -q main; echo other > d1/f1; git commit -q -am clash; git checkout -q side; echo mine > d1/f1; git commit -q -am mine
git merge main 2>&1 | tail -n 2; git diff --name-only --diff-filter=U; git checkout --ours d1/f1; git add d1/f1; git commit -q -m merged; git log --oneline | cat
git tag -a v1 -m one; git describe; git stash list; echo wip >> d5/f5; git stash -q; git stash pop -q; git diff | sha256sum; git checkout -q d5/f5
cd ..; git clone -q repo copy; git clone -q --bare "file://$PWD/repo" bare.git; (cd copy && git pull -q && git log -1 --format=%H && git fsck --full 2>&1 && ls | wc -l)
cd repo; git gc -q --aggressive --prune=now; git fsck --strict 2>&1; git count-objects -v | grep -E 'count|in-pack|packs|garbage'; git worktree add -q ../tree HEAD~2; ls ../tree | sha256sum; git blame -s d1/f1; git grep -c '^7 7$'
git bisect start -q HEAD HEAD~4 > /dev/null; git bisect run sh -c 'test ! -e side2' 2>&1 | grep -E 'is the first|side'; git bisect reset -q 2>&1; git archive HEAD | sha256sum; git format-patch -q -o ../dump HEAD~2..HEAD; git ls-tree -r HEAD | sha256sum; git rev-list --objects --all | wc -l
