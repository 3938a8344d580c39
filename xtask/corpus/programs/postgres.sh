#!/bin/bash
# what: PostgreSQL: initdb, single-user queries, then a server over a Unix socket with pgbench and four clients
# image: data
# weight: heavy
# memory: 1G
# timeout: 240
export PATH=$PATH:/usr/lib/postgresql/15/bin; mkdir -p db && chown postgres db && cd db || exit 1
as() { runuser -u postgres -- env HOME=/work/db LC_ALL=C.UTF-8 "$@"; }
as initdb -D data --no-locale -E UTF8 -A trust > init.log 2>&1; echo "initdb $?"; grep -E 'shared memory|max_connections|shared_buffers' init.log
as postgres --single -D data postgres 2>/dev/null <<'SQL' | grep -v -E '^PostgreSQL|^$'
create table t as select i, md5(i::text) m from generate_series(1, 20000) i
create index on t(m)
select count(*), sum(i), min(m), max(m) from t where m > '8'
update t set i = i * 2 where i % 3 = 0
select sum(i) from t
SQL
as pg_ctl -D data -w -l log -o "-k /work/db -c listen_addresses='' -c max_connections=20" start > /dev/null; echo "start $?"
q() { as psql -h /work/db -At -d postgres -c "$1" 2>&1; }
q 'select count(*), sum(i) from t'; q 'create table j as select a.i, b.m from t a join t b on a.i = b.i; select count(*) from j'; q "select md5(string_agg(m, ',' order by m)) from t"; q 'select 1/0'; q 'begin; insert into t values (1); rollback; select count(*) from t'; q 'select nothing'
as pgbench -h /work/db -i -s 2 -q postgres > /dev/null 2>&1; echo "init $?"; as pgbench -h /work/db -c 4 -j 2 -t 100 postgres 2>/dev/null | grep -E 'processed|failed|clients'; as pgbench -h /work/db -S -c 4 -t 200 postgres 2>/dev/null | grep processed; q 'select count(*), sum(abalance) - (select sum(bbalance) from pgbench_branches) from pgbench_accounts'
for i in 1 2 3 4; do q "insert into t select $i from generate_series(1, 500); select pg_sleep(0.05)" & done; wait; q 'select count(*) from t'; q 'set max_parallel_workers_per_gather=2; set parallel_setup_cost=0; set parallel_tuple_cost=0; set min_parallel_table_scan_size=0; select sum(length(m)) from t'; q 'vacuum analyze'; q checkpoint; as pg_dump -h /work/db postgres -t t | grep -v -E '^--' | sha256sum
as pg_ctl -D data -m immediate stop > /dev/null; echo "stop $?"; as pg_ctl -D data -w -l log -o "-k /work/db -c listen_addresses=''" start > /dev/null; q 'select count(*) from t'; as pg_ctl -D data -m fast stop > /dev/null; echo "stop $?"; grep -c -E 'redo done|database system was not properly' log; ls data | wc -l
