macro_rules! node_columns {
    () => {
        "id, memory_bytes, cpu_milli, disk_bytes, sandboxes, overhead_bytes, backends, offers, labels, version, draining,
         created_us, last_heartbeat_us"
    };
}

statements! { Scheduler:
    NODE_PUT = concat!("INSERT INTO nodes (id, memory_bytes, cpu_milli, disk_bytes, sandboxes, overhead_bytes,
            backends, labels, version, offers)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (id) DO UPDATE SET memory_bytes = $2, cpu_milli = $3, disk_bytes = $4, sandboxes = $5,
            overhead_bytes = $6, backends = $7, labels = $8, version = $9, offers = $10, last_heartbeat_us = now_us()
        RETURNING ", node_columns!());
    NODE_GET = concat!("SELECT ", node_columns!(), " FROM nodes WHERE id = $1");
    NODE_LIST = concat!("SELECT ", node_columns!(), " FROM nodes WHERE id > $1 ORDER BY id LIMIT $2");
    NODE_DRAIN = concat!("UPDATE nodes SET draining = $2 WHERE id = $1 RETURNING ", node_columns!());
    /// Every node heard of within `$1` microseconds, with what is reserved on it.
    NODE_USAGE = concat!("SELECT ", node_columns!(), ",
            coalesce(used.memory, 0)::bigint AS used_memory, coalesce(used.cpu, 0)::bigint AS used_cpu,
            coalesce(used.disk, 0)::bigint AS used_disk, coalesce(used.count, 0) AS used_count, now_us() AS now
        FROM nodes LEFT JOIN (
            SELECT node, sum(memory_bytes) AS memory, sum(cpu_milli) AS cpu, sum(disk_bytes) AS disk, count(*)
            FROM leases GROUP BY node
        ) used ON used.node = nodes.id
        WHERE last_heartbeat_us > now_us() - $1 ORDER BY id");
    NODES_PRUNE = "DELETE FROM nodes n WHERE last_heartbeat_us < now_us() - $1
        AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.node = n.id)";
}
