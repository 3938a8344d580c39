/// The columns of `jobs` in the order that `JobRow` reads.
macro_rules! job_columns {
    () => {
        "id, tenant, state, spec, image_digest, attempt_count, event_seq, reason, cancel_requested_us,
         created_us, updated_us, ended_us"
    };
}

statements! { Service:
    /// The job, its first event and the blobs that it names, in one round trip.
    JOB_INSERT = concat!("WITH job AS (
            INSERT INTO jobs (id, tenant, state, spec, inline_bytes, secrets, image_digest, labels, priority,
                memory_bytes, cpu_milli, disk_bytes, run_limit_ms, max_attempts, retry_on_lost, retry_on_failure)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
            RETURNING ", job_columns!(), "
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            VALUES ($1, 1, $2, $3, 0, '')
        ), named AS (
            INSERT INTO job_blobs (job, tenant, digest) SELECT $1, $2, unnest($17::bytea[])
        )
        SELECT * FROM job");
    /// A job that was just inserted in this transaction, and that no node could ever hold: `$2` to `$3`, with the reason.
    JOB_REFUSE = concat!("WITH job AS (
            UPDATE jobs SET state = $3, reason = $4, secrets = NULL, event_seq = event_seq + 1,
                updated_us = now_us(), ended_us = now_us()
            WHERE id = $1 AND state = $2
            RETURNING ", job_columns!(), "
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            SELECT id, event_seq, tenant, $3, attempt_count, $4 FROM job
        )
        SELECT * FROM job");
    JOB_GET = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1");
    JOB_INLINE_GET = "SELECT inline_bytes FROM jobs WHERE id = $1";
    JOB_LOCK = "SELECT state, attempt_count, cancel_requested_us FROM jobs WHERE id = $1 FOR NO KEY UPDATE";
    /// Newest first; `$1` is the id before which to start, `$2` the states, `$3` the labels that must be there.
    JOB_LIST = concat!("SELECT ", job_columns!(), " FROM jobs
        WHERE tenant = $5 AND ($1::uuid IS NULL OR id < $1) AND ($2::text[] IS NULL OR state = ANY ($2))
            AND ($3::jsonb IS NULL OR labels @> $3)
        ORDER BY id DESC LIMIT $4");
    ATTEMPTS_OF_JOBS = "SELECT job, attempt, node, token, state, outcome, leased_us, started_us, finished_us
        FROM attempts WHERE job = ANY ($1) ORDER BY job, attempt";
    /// A job that waits: it ends at once. `$2` is the state that it must be in, `$3` the one that it takes.
    JOB_CANCEL_WAITING = "WITH job AS (
            UPDATE jobs SET state = $3, reason = $4, secrets = NULL, event_seq = event_seq + 1,
                cancel_requested_us = coalesce(cancel_requested_us, now_us()),
                updated_us = now_us(), ended_us = now_us()
            WHERE id = $1 AND state = $2 RETURNING id, tenant, event_seq, attempt_count
        ), event AS (
            INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            SELECT id, event_seq, tenant, $3, attempt_count, $4 FROM job
        )
        SELECT id FROM job";
    /// A job that is under way: its node is told, and the attempt's end ends the job.
    JOB_CANCEL_REQUEST = "UPDATE jobs SET cancel_requested_us = now_us(), updated_us = now_us()
        WHERE id = $1 AND cancel_requested_us IS NULL";
    JOB_DELETE = "DELETE FROM jobs WHERE id = $1 AND ended_us IS NOT NULL";
    JOB_PROGRESS = "SELECT state, event_seq, attempt_count FROM jobs WHERE id = $1";
    EVENTS_AFTER = "SELECT seq, state, attempt, reason, at_us FROM job_events
        WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    STREAMS = "SELECT attempt, stream, stored_bytes, digest FROM output_streams
        WHERE job = $1 ORDER BY attempt, stream";
    STREAM = "SELECT attempt, stream, stored_bytes, digest FROM output_streams
        WHERE job = $1 AND attempt = $2 AND stream = $3";
    CHUNKS_FROM = "SELECT offset_bytes, bytes FROM output_chunks
        WHERE job = $1 AND attempt = $2 AND stream = $3 AND offset_bytes + length(bytes) > $4
        ORDER BY offset_bytes LIMIT $5";
}
