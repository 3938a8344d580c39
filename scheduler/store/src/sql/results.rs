// Order of locks, everywhere: jobs by id, then leases by job. `locked` takes the second kind before any row changes.

statements! { Scheduler:
    /// Attempts that began: job, attempt, token, from, to, age in microseconds.
    START = "WITH wanted AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
                AS w (job, token, old, new, age)
        ), locked AS MATERIALIZED (
            SELECT job FROM leases WHERE job = ANY ($1) ORDER BY job FOR UPDATE
        ), started AS (
            UPDATE jobs j SET state = w.new, event_seq = event_seq + 1, updated_us = now_us()
            FROM wanted w WHERE j.id = w.job AND j.token = w.token AND j.state = w.old AND (SELECT count(*) FROM locked) > 0
            RETURNING j.id, j.tenant, j.state, j.event_seq, j.attempt_count, j.run_limit_ms, w.age
        ), attempt AS (
            UPDATE attempts a SET started_us = greatest(now_us() - s.age, a.leased_us)
            FROM started s WHERE a.job = s.id AND a.attempt = s.attempt_count
        ), lease AS (
            UPDATE leases l SET deadline_us = now_us() + s.run_limit_ms * 1000 + $6, progress_us = now_us()
            FROM started s WHERE l.job = s.id
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason, at_us)
            SELECT id, event_seq, tenant, state, attempt_count, '', now_us() - age FROM started
        )
        SELECT id FROM started";
    /// Attempts that ended: the job's row is guarded by its state and token, and changes together with the
    /// attempt's, the lease's and the event.
    FINISH = "WITH wanted AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
                $7::text[], $8::bigint[], $9::boolean[], $10::boolean[], $11::boolean[])
                AS w (job, token, old, new, result, outcome, reason, wall, ended, avoid, undelivered)
        ), locked AS MATERIALIZED (
            SELECT job FROM leases WHERE job = ANY ($1) ORDER BY job FOR UPDATE
        ), finished AS (
            UPDATE jobs j SET state = w.new, reason = w.reason, event_seq = event_seq + 1, updated_us = now_us(),
                secrets = CASE WHEN w.ended THEN NULL ELSE j.secrets END,
                ended_us = CASE WHEN w.ended THEN now_us() END,
                undelivered_count = j.undelivered_count + w.undelivered::integer,
                avoid_nodes = CASE WHEN w.avoid THEN array_append(j.avoid_nodes, l.node) ELSE j.avoid_nodes END
            FROM wanted w, leases l
            WHERE j.id = w.job AND j.token = w.token AND j.state = w.old AND l.job = w.job AND l.token = w.token
                AND (SELECT count(*) FROM locked) > 0
            RETURNING j.id, j.tenant, j.state, j.event_seq, j.attempt_count, j.reason, w.result, w.outcome, w.wall,
                w.ended
        ), attempt AS (
            UPDATE attempts a SET state = f.result, outcome = f.outcome, finished_us = now_us(),
                started_us = coalesce(a.started_us,
                    CASE WHEN f.wall > 0 THEN greatest(now_us() - f.wall, a.leased_us) END)
            FROM finished f WHERE a.job = f.id AND a.attempt = f.attempt_count
        ), lease AS (
            DELETE FROM leases l USING finished f WHERE l.job = f.id
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            SELECT id, event_seq, tenant, state, attempt_count, reason FROM finished
        )
        SELECT id FROM finished";
    /// Outputs that a result names are kept as long as the job.
    RESULT_BLOBS = "INSERT INTO job_blobs (job, tenant, digest)
        SELECT j.id, j.tenant, w.digest FROM unnest($1::uuid[], $2::bytea[]) AS w (job, digest)
            JOIN jobs j ON j.id = w.job JOIN blobs b ON b.tenant = j.tenant AND b.digest = w.digest
        ON CONFLICT DO NOTHING";
    OUTPUT_STORED = "SELECT l.tenant, coalesce(s.stored_bytes, 0) AS stored_bytes
        FROM leases l LEFT JOIN output_streams s ON s.job = l.job AND s.attempt = l.attempt AND s.stream = $4
        WHERE l.job = $1 AND l.attempt = $2 AND l.token = $3 AND l.node = $5 FOR UPDATE OF l";
    OUTPUT_PUT = "WITH chunk AS (
            INSERT INTO output_chunks (job, attempt, stream, offset_bytes, tenant, bytes)
            SELECT $1, $2, $3, $4, $5, $6::bytea WHERE length($6::bytea) > 0
        ), advanced AS (
            INSERT INTO output_streams (job, attempt, stream, tenant, stored_bytes)
            VALUES ($1, $2, $3, $5, $7)
            ON CONFLICT (job, attempt, stream) DO UPDATE SET stored_bytes = $7
        )
        SELECT 1";
    OUTPUT_SEAL = "UPDATE output_streams s SET digest = $5 FROM leases l
        WHERE l.job = $1 AND l.attempt = $2 AND l.token = $3 AND l.node = $6
            AND s.job = l.job AND s.attempt = l.attempt AND s.stream = $4 RETURNING s.stored_bytes";
}
