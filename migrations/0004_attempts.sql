CREATE TABLE nodes (
    id                 text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 63),
    memory_bytes       bigint NOT NULL,
    cpu_milli          bigint NOT NULL,
    disk_bytes         bigint NOT NULL,
    sandboxes          bigint NOT NULL,
    -- What each sandbox costs beyond its job's limit.
    overhead_bytes     bigint NOT NULL,
    backends           text[] NOT NULL,
    labels             jsonb NOT NULL,
    version            text NOT NULL,
    draining           boolean NOT NULL DEFAULT false,
    created_us         bigint NOT NULL DEFAULT now_us(),
    last_heartbeat_us  bigint NOT NULL DEFAULT now_us()
) WITH (fillfactor = 70);
ALTER TABLE nodes ENABLE ROW LEVEL SECURITY;
ALTER TABLE nodes FORCE ROW LEVEL SECURITY;
CREATE POLICY nodes_all ON nodes TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON nodes TO bulkhead_scheduler;

CREATE TABLE attempts (
    job          uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt      integer NOT NULL,
    tenant       text NOT NULL,
    node         text NOT NULL,
    token        bigint NOT NULL,
    -- Null until the attempt has ended.
    state        text,
    outcome      jsonb,
    leased_us    bigint NOT NULL,
    started_us   bigint,
    finished_us  bigint,
    PRIMARY KEY (job, attempt),
    CONSTRAINT attempts_end_agrees CHECK ((state IS NULL) = (finished_us IS NULL))
) WITH (fillfactor = 70);
ALTER TABLE attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY attempts_own ON attempts FOR SELECT TO bulkhead_service USING (tenant = current_tenant());
-- Deleting a job deletes its attempts; PostgreSQL does so as the table's owner.
CREATE POLICY attempts_all ON attempts TO bulkhead_scheduler USING (true);
GRANT SELECT ON attempts TO bulkhead_service;
GRANT SELECT, INSERT, UPDATE ON attempts TO bulkhead_scheduler;

-- One row per attempt that is under way: what it reserves on its node, and until when the node has it. Apart
-- from jobs so that renewing every few seconds rewrites a narrow row.
CREATE TABLE leases (
    job           uuid PRIMARY KEY CONSTRAINT leases_job_exists REFERENCES jobs (id),
    tenant        text NOT NULL,
    attempt       integer NOT NULL,
    token         bigint NOT NULL,
    node          text NOT NULL,
    -- Reserved on the node: limits, and for memory also the sandbox's overhead.
    memory_bytes  bigint NOT NULL,
    cpu_milli     bigint NOT NULL,
    disk_bytes    bigint NOT NULL,
    expires_us    bigint NOT NULL,
    -- The attempt is given up at this time even if its node is well: not started, or long over its wall time.
    deadline_us   bigint NOT NULL,
    -- Progress as last reported by the node, and when it last changed.
    cpu_us        bigint NOT NULL DEFAULT 0,
    used_bytes    bigint NOT NULL DEFAULT 0,
    output_bytes  bigint NOT NULL DEFAULT 0,
    progress_us   bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX leases_node ON leases (node);
CREATE INDEX leases_expires ON leases (expires_us);
CREATE INDEX leases_deadline ON leases (deadline_us);
ALTER TABLE leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE leases FORCE ROW LEVEL SECURITY;
CREATE POLICY leases_all ON leases TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON leases TO bulkhead_scheduler;

-- What is durable of each output stream. stream: 1 standard output, 2 standard error.
CREATE TABLE output_streams (
    job           uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt       integer NOT NULL,
    stream        smallint NOT NULL CHECK (stream IN (1, 2)),
    tenant        text NOT NULL,
    stored_bytes  bigint NOT NULL,
    -- The whole stream, once the attempt has ended and the blob is there.
    digest        bytea CHECK (length(digest) = 32),
    PRIMARY KEY (job, attempt, stream)
) WITH (fillfactor = 70);
ALTER TABLE output_streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE output_streams FORCE ROW LEVEL SECURITY;
CREATE POLICY output_streams_own ON output_streams FOR SELECT TO bulkhead_service
    USING (tenant = current_tenant());
CREATE POLICY output_streams_all ON output_streams TO bulkhead_scheduler USING (true);
GRANT SELECT ON output_streams TO bulkhead_service;
GRANT SELECT, INSERT, UPDATE ON output_streams TO bulkhead_scheduler;

-- The first 64 KiB of each stream.
CREATE TABLE output_chunks (
    job           uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt       integer NOT NULL,
    stream        smallint NOT NULL CHECK (stream IN (1, 2)),
    offset_bytes  bigint NOT NULL CHECK (offset_bytes >= 0 AND offset_bytes < 65536),
    tenant        text NOT NULL,
    bytes         bytea NOT NULL,
    PRIMARY KEY (job, attempt, stream, offset_bytes)
);
ALTER TABLE output_chunks ENABLE ROW LEVEL SECURITY;
ALTER TABLE output_chunks FORCE ROW LEVEL SECURITY;
CREATE POLICY output_chunks_own ON output_chunks FOR SELECT TO bulkhead_service
    USING (tenant = current_tenant());
CREATE POLICY output_chunks_all ON output_chunks TO bulkhead_scheduler USING (true);
GRANT SELECT ON output_chunks TO bulkhead_service;
GRANT SELECT, INSERT ON output_chunks TO bulkhead_scheduler;
