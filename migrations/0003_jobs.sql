CREATE TABLE jobs (
    id                   uuid PRIMARY KEY,
    tenant               text NOT NULL CONSTRAINT jobs_tenant_exists REFERENCES tenants (id),
    state                text NOT NULL CONSTRAINT jobs_state_known CHECK (state IN (
                             'QUEUED', 'LEASED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'SIGNALED', 'OUT_OF_MEMORY',
                             'TIMED_OUT', 'OUTPUT_LIMIT', 'DISK_LIMIT', 'UNSUPPORTED', 'CANCELLED', 'REJECTED',
                             'LOST')),
    -- The description, without secret values and inline bytes.
    spec                 jsonb NOT NULL,
    -- Inline bytes in the order of the description: standard input, then files.
    inline_bytes         bytea[] NOT NULL,
    -- Secret values, sealed with the service's key; gone when the job has ended.
    secrets              bytea,
    image_digest         bytea NOT NULL CHECK (length(image_digest) = 32),
    labels               jsonb NOT NULL,
    -- What the scheduler needs, so that it never has to read descriptions.
    priority             smallint NOT NULL,
    memory_bytes         bigint NOT NULL,
    cpu_milli            bigint NOT NULL,
    disk_bytes           bigint NOT NULL,
    run_limit_ms         bigint NOT NULL,
    max_attempts         integer NOT NULL,
    retry_on_lost        boolean NOT NULL,
    retry_on_failure     boolean NOT NULL,
    -- Nodes on which an attempt failed: others are preferred.
    avoid_nodes          text[] NOT NULL DEFAULT '{}',
    attempt_count        integer NOT NULL DEFAULT 0,
    -- Attempts that never reached their node: they don't count against max_attempts.
    undelivered_count    integer NOT NULL DEFAULT 0,
    -- The fencing token: grows with each lease; a result is accepted only with the current one.
    token                bigint NOT NULL DEFAULT 0,
    -- Number of the newest event.
    event_seq            bigint NOT NULL DEFAULT 1,
    reason               text NOT NULL DEFAULT '',
    cancel_requested_us  bigint,
    created_us           bigint NOT NULL DEFAULT now_us(),
    updated_us           bigint NOT NULL DEFAULT now_us(),
    ended_us             bigint,
    CONSTRAINT jobs_end_agrees CHECK ((state IN ('QUEUED', 'LEASED', 'RUNNING')) = (ended_us IS NULL)),
    CONSTRAINT jobs_secrets_end CHECK (ended_us IS NULL OR secrets IS NULL)
);
-- The heads of each tenant's queue; ids are made in the order of time.
CREATE INDEX jobs_queue ON jobs (tenant, priority DESC, id) WHERE state = 'QUEUED';
-- Lists, newest first, with and without a state.
CREATE UNIQUE INDEX jobs_list ON jobs (tenant, id DESC);
CREATE INDEX jobs_list_state ON jobs (tenant, state, id DESC);
CREATE INDEX jobs_labels ON jobs USING gin (labels jsonb_path_ops);

-- Second wall behind types::next: whatever a statement says, an ended job stays as it ended.
CREATE FUNCTION jobs_refuse_resurrection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job % has ended as % and cannot become %', OLD.id, OLD.state, NEW.state
        USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_terminal_state';
END $$;
CREATE TRIGGER jobs_terminal_state BEFORE UPDATE OF state ON jobs FOR EACH ROW
    WHEN (OLD.ended_us IS NOT NULL AND NEW.state IS DISTINCT FROM OLD.state)
    EXECUTE FUNCTION jobs_refuse_resurrection();

ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY jobs_own ON jobs TO bulkhead_service USING (tenant = current_tenant());
CREATE POLICY jobs_all ON jobs TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT, DELETE ON jobs TO bulkhead_service;
GRANT UPDATE (state, secrets, reason, cancel_requested_us, event_seq, updated_us, ended_us) ON jobs
    TO bulkhead_service;
GRANT SELECT, UPDATE ON jobs TO bulkhead_scheduler;

-- Changes of state, numbered per job from 1 without gaps, for watchers that resume.
CREATE TABLE job_events (
    job      uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq      bigint NOT NULL,
    tenant   text NOT NULL,
    state    text NOT NULL,
    attempt  integer NOT NULL,
    reason   text NOT NULL,
    at_us    bigint NOT NULL DEFAULT now_us(),
    PRIMARY KEY (job, seq)
);
ALTER TABLE job_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_events FORCE ROW LEVEL SECURITY;
CREATE POLICY job_events_own ON job_events TO bulkhead_service USING (tenant = current_tenant());
CREATE POLICY job_events_all ON job_events TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT ON job_events TO bulkhead_service;
GRANT SELECT, INSERT ON job_events TO bulkhead_scheduler;

-- Blobs that a job's description or results name: they are kept as long as the job.
CREATE TABLE job_blobs (
    job     uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tenant  text NOT NULL,
    digest  bytea NOT NULL,
    PRIMARY KEY (job, digest),
    CONSTRAINT job_blobs_blob_exists FOREIGN KEY (tenant, digest) REFERENCES blobs (tenant, digest)
);
CREATE INDEX job_blobs_digest ON job_blobs (tenant, digest);
ALTER TABLE job_blobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE job_blobs FORCE ROW LEVEL SECURITY;
CREATE POLICY job_blobs_own ON job_blobs TO bulkhead_service USING (tenant = current_tenant());
CREATE POLICY job_blobs_all ON job_blobs TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT ON job_blobs TO bulkhead_service;
GRANT SELECT, INSERT ON job_blobs TO bulkhead_scheduler;
