#!/bin/bash
# what: a unittest run of 500 tests, some of which start processes and threads
# image: demo
# weight: light
mkdir suite
for m in $(seq 1 10); do
    { echo "import unittest, os, threading, subprocess, tempfile, hashlib"; echo "class T$m(unittest.TestCase):"
    for i in $(seq 1 50); do case $((i % 5)) in
        0) echo "    def test_$i(self): self.assertEqual(subprocess.run(['sh', '-c', 'exit $i']).returncode, $i)";;
        1) echo "    def test_$i(self): self.assertEqual(hashlib.md5(b'$i').hexdigest()[:4], '$(echo -n "$i" | md5sum | cut -c 1-4)')";;
        2) echo "    def test_$i(self):
        r = []; t = threading.Thread(target=r.append, args=($i,)); t.start(); t.join(); self.assertEqual(r, [$i])";;
        3) echo "    def test_$i(self):
        with tempfile.NamedTemporaryFile() as f: f.write(b'x' * $i); f.flush(); self.assertEqual(os.stat(f.name).st_size, $i)";;
        4) echo "    def test_$i(self): self.assertRaises(FileNotFoundError, open, '/none/$i')";; esac; done; } > "suite/test_m$m.py"
done
python3 -m unittest discover -v -s suite 2>&1 | sed 's/ in [0-9.]*s$//' | tee all | sha256sum; tail -n 3 all; grep -c ' ok$' all
