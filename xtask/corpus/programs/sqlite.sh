#!/bin/bash
# what: sqlite3 with 100,000 rows: transactions, an index, write-ahead log, two writers at once, vacuum, integrity; the order of the two writers is free, so only what they wrote is compared
# image: toolchain
# weight: light
# files: dump.sql
sqlite3 t.db 'create table t(a integer primary key, b text, c real); with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) insert into t select i, printf("%08x", i * 2654435761 % 4294967296), i / 7.0 from n; create index b on t(b);'
sqlite3 t.db 'select count(*), sum(a), round(sum(c), 3), max(b) from t; select b from t order by b limit 3; explain query plan select * from t where b = "00"; pragma journal_mode=wal; update t set c = c * 2 where a % 3 = 0; delete from t where a % 5 = 0; pragma wal_checkpoint(truncate); pragma integrity_check;'
sqlite3 t.db 'create table w(i integer, who text);'
for who in x y; do (for i in $(seq 1 25); do echo "begin immediate; insert into w values($i, '$who'); commit;"; done | sqlite3 -cmd '.timeout 20000' t.db) & done; wait
sqlite3 t.db 'select who, count(*), sum(i) from w group by who order by who; pragma journal_mode=delete; vacuum; pragma page_count;'; sqlite3 t.db '.dump t' > dump.sql; sha256sum < dump.sql; sqlite3 n.db < dump.sql; sqlite3 n.db 'select count(*) from t'; sqlite3 t.db 'select * from nothing' 2>&1; echo $?; sqlite3 -csv t.db 'select a % 10 as k, count(*), avg(c) from t group by k' | sha256sum
