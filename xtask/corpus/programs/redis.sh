#!/bin/bash
# what: redis over a Unix socket: a benchmark's load, pipelines, Lua, a background save, append-only file, restart
# image: data
# weight: heavy
redis-server --port 0 --unixsocket /tmp/r.sock --daemonize no --save '' --dir /work --appendonly no > log 2>&1 & p=$!
for _ in $(seq 1 100); do [ -S /tmp/r.sock ] && break; sleep 0.05; done; r() { redis-cli -s /tmp/r.sock "$@"; }
r ping; r set a 1; r incrby a 41; for i in $(seq 1 2000); do echo "SET k$i $((i * i))"; done | r --pipe 2>&1 | tail -n 1; r dbsize; r eval 'local t = 0; for i = 1, 2000 do t = t + redis.call("get", "k" .. i) end; return t' 0; r zadd z 1 a 3 c 2 b; r zrange z 0 -1 withscores; r lpush l 1 2 3; r hset h f v; r object encoding h
redis-benchmark -s /tmp/r.sock -q -n 5000 -c 20 -t get,set,lpush 2>&1 | tr '\r' '\n' | grep -c 'requests per second'; r bgsave; for _ in $(seq 1 100); do [ -s dump.rdb ] && [ "$(r lastsave)" -gt 0 ] && r info persistence | grep -q rdb_bgsave_in_progress:0 && break; sleep 0.05; done; r info persistence | grep -E 'rdb_last_bgsave_status|rdb_bgsave_in_progress' | tr -d '\r'; r config set appendonly yes; sleep 0.3; r set after aof; (r subscribe ch & s=$!; sleep 0.5; kill $s) 2>/dev/null | head -n 3 & sleep 0.2; r publish ch hello > /dev/null; wait %2 2>/dev/null; r shutdown save; wait $p; echo "status $?"; redis-check-rdb dump.rdb | grep -c 'RDB looks OK'
redis-server --port 0 --unixsocket /tmp/r.sock --dir /work > log2 2>&1 & p=$!; for _ in $(seq 1 100); do r ping 2>/dev/null | grep -q PONG && break; sleep 0.05; done; r dbsize; r get k77; kill -TERM $p; wait $p; echo "status $?"
