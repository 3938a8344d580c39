statements! { Scheduler:
    /// A node's heartbeat: its leases among `$2` (with their tokens `$3`) are renewed, with their progress.
    LEASES_RENEW = "WITH locked AS MATERIALIZED (
            SELECT job FROM leases WHERE job = ANY ($2) AND node = $1 ORDER BY job FOR UPDATE
        ), seen AS (
            UPDATE nodes SET last_heartbeat_us = now_us() WHERE id = $1
        )
        UPDATE leases l SET expires_us = now_us() + $4, cpu_us = p.cpu, used_bytes = p.used,
            output_bytes = p.output,
            progress_us = CASE WHEN (l.cpu_us, l.used_bytes, l.output_bytes) IS DISTINCT FROM
                (p.cpu, p.used, p.output) THEN now_us() ELSE l.progress_us END
        FROM unnest($2::uuid[], $3::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
            AS p (job, token, cpu, used, output), jobs j
        WHERE l.job = p.job AND l.token = p.token AND l.node = $1 AND j.id = l.job
            AND (SELECT count(*) FROM locked) > 0
        RETURNING l.job, l.token, j.cancel_requested_us IS NOT NULL AS cancelled, j.state";
    /// At the start of a leader: nothing expires within one lease period, since nobody could renew meanwhile.
    LEASES_EXTEND_ALL = "UPDATE leases SET expires_us = greatest(expires_us, now_us() + $1)";
    /// What has to be given up: its node is silent, or it is long over its time.
    LEASES_OVERDUE = "(SELECT job, attempt, token, node, false AS stuck, expires_us AS since
            FROM leases WHERE expires_us < now_us() ORDER BY expires_us LIMIT $1)
        UNION ALL
        (SELECT job, attempt, token, node, true AS stuck, deadline_us AS since
            FROM leases WHERE deadline_us < now_us() AND expires_us >= now_us() ORDER BY deadline_us LIMIT $1)";
    LEASES_OF_NODE = "SELECT l.job, l.attempt, l.token, j.cancel_requested_us IS NOT NULL AS cancelled, j.state
        FROM leases l JOIN jobs j ON j.id = l.job WHERE l.node = $1 ORDER BY l.job";
    LEASE_GET = "SELECT job, attempt, token, tenant, node FROM leases
        WHERE job = $1 AND attempt = $2 AND token = $3";
    CANCELS_PENDING = "SELECT l.job, l.attempt, l.token, l.node FROM leases l JOIN jobs j ON j.id = l.job
        WHERE j.cancel_requested_us IS NOT NULL";
    /// Locks in the order of ids, so that two batches never wait for each other. Not as an update of the key: rows
    /// that refer to the job (output) may be written meanwhile.
    JOBS_LOCK = "SELECT j.id, j.state, j.token, j.attempt_count, j.undelivered_count, j.max_attempts,
            j.retry_on_lost, j.retry_on_failure, j.cancel_requested_us IS NOT NULL AS cancelled, l.node
        FROM jobs j LEFT JOIN leases l ON l.job = j.id AND l.token = j.token
        WHERE j.id = ANY ($1) ORDER BY j.id FOR NO KEY UPDATE OF j";
}
