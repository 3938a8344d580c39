#!/bin/bash
# what: php: generators, arrays, hashing, proc_open, sockets, files, regular expressions, a built-in unit of work
# image: toolchain
# weight: light
# files: out.json
cat > p.php <<'PHP'
<?php
function gen($n) { for ($i = 0; $i < $n; $i++) yield $i => $i * $i; }
$sum = 0; foreach (gen(100000) as $k => $v) $sum += $v % 97; echo $sum, "\n";
$a = []; for ($i = 0; $i < 50000; $i++) $a[md5($i)] = $i; ksort($a); echo hash('sha256', implode(',', array_keys($a))), "\n";
$p = proc_open(['sort', '-n'], [['pipe', 'r'], ['pipe', 'w'], ['pipe', 'w']], $pipes); fwrite($pipes[0], "10\n9\n100\n"); fclose($pipes[0]); echo stream_get_contents($pipes[1]); foreach ([1, 2] as $i) fclose($pipes[$i]); echo proc_close($p), "\n";
[$x, $y] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0); fwrite($x, str_repeat('z', 3000)); echo strlen(fread($y, 8192)), "\n"; $r = [$x]; $w = $e = null; var_dump(stream_select($r, $w, $e, 0, 100000));
file_put_contents('out.json', json_encode(array_slice($a, 0, 1000), JSON_PRETTY_PRINT)); echo count(json_decode(file_get_contents('out.json'), true)), "\n"; exec('exit 6', $o, $rc); echo $rc, "\n";
echo preg_match_all('/(\d)(\d)\2\1/', implode('', range(1, 20000))), "\n"; $pid = pcntl_fork(); if (!$pid) { usleep(1000); exit(7); } pcntl_waitpid($pid, $st); echo pcntl_wexitstatus($st), "\n";
pcntl_async_signals(true); pcntl_signal(SIGUSR1, function () { echo "usr1\n"; }); posix_kill(posix_getpid(), SIGUSR1); usleep(1000); flock($f = fopen('/tmp/l', 'c'), LOCK_EX); echo memory_get_usage() > 0 ? "mem\n" : ""; try { intdiv(1, 0); } catch (DivisionByZeroError $e) { echo $e->getMessage(), "\n"; } exit(3);
PHP
php p.php
