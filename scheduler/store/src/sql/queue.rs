statements! { Scheduler:
    /// The first `$1` waiting jobs of each tenant, in the tenant's order.
    QUEUE_HEADS = "SELECT t.id AS tenant, t.weight, j.id, j.priority, j.memory_bytes, j.cpu_milli, j.disk_bytes,
            j.avoid_nodes, j.created_us, j.backend
        FROM tenants t CROSS JOIN LATERAL (
            SELECT * FROM jobs WHERE tenant = t.id AND state = 'QUEUED' ORDER BY priority DESC, id LIMIT $1
        ) j";
    /// What is under way, per tenant: its share of the fleet.
    TENANT_USAGE = "SELECT tenant, sum(memory_bytes)::bigint AS memory, sum(cpu_milli)::bigint AS cpu,
            sum(disk_bytes)::bigint AS disk, count(*) AS count FROM leases GROUP BY tenant";
    /// Leases the jobs that still wait (`$6`), each to its node, with the next attempt number and token. A row
    /// that someone else holds (a cancel) is skipped: it comes again with the next plan, or not at all.
    CLAIM = "WITH wanted AS (
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS w (job, node, memory)
        ), picked AS (
            SELECT j.id, w.node, w.memory FROM jobs j JOIN wanted w ON w.job = j.id
            WHERE j.state = $6 ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED
        ), claimed AS (
            UPDATE jobs j SET state = $7, attempt_count = attempt_count + 1, token = token + 1,
                event_seq = event_seq + 1, updated_us = now_us()
            FROM picked p WHERE j.id = p.id
            RETURNING j.id, j.tenant, j.attempt_count, j.token, j.event_seq, j.spec, j.inline_bytes, j.secrets,
                j.image_digest, j.cpu_milli, j.disk_bytes, p.node, p.memory
        ), attempt AS (
            INSERT INTO attempts (job, attempt, tenant, node, token, leased_us)
            SELECT id, attempt_count, tenant, node, token, now_us() FROM claimed
        ), lease AS (
            INSERT INTO leases (job, tenant, attempt, token, node, memory_bytes, cpu_milli, disk_bytes,
                expires_us, deadline_us, progress_us)
            SELECT id, tenant, attempt_count, token, node, memory, cpu_milli, disk_bytes,
                now_us() + $4, now_us() + $5, now_us() FROM claimed
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            SELECT id, event_seq, tenant, $7, attempt_count, node FROM claimed
        )
        SELECT c.id, c.tenant, c.attempt_count, c.token, c.spec, c.inline_bytes, c.secrets, c.image_digest, c.node
        FROM claimed c";
    /// Ends jobs that wait (`$3`) as `$4`, each with its reason.
    REJECT = "WITH wanted AS (
            SELECT * FROM unnest($1::uuid[], $2::text[]) AS w (job, reason)
        ), picked AS (
            SELECT j.id, w.reason FROM jobs j JOIN wanted w ON w.job = j.id
            WHERE j.state = $3 ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED
        ), ended AS (
            UPDATE jobs j SET state = $4, reason = p.reason, secrets = NULL, event_seq = event_seq + 1,
                updated_us = now_us(), ended_us = now_us()
            FROM picked p WHERE j.id = p.id
            RETURNING j.id, j.tenant, j.event_seq, j.attempt_count, j.reason
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            SELECT id, event_seq, tenant, $4, attempt_count, reason FROM ended
        )
        SELECT id FROM ended";
    LEADER_LOCK = "SELECT pg_try_advisory_lock($1)";
    /// Leaders are told apart from whoever else waits for the key.
    LEADER_STILL = "SELECT 1";
}
