-- Content is addressed by SHA-256; knowing a digest grants nothing, the row does.

CREATE TABLE blobs (
    tenant        text NOT NULL CONSTRAINT blobs_tenant_exists REFERENCES tenants (id),
    digest        bytea NOT NULL CHECK (length(digest) = 32),
    size_bytes    bigint NOT NULL CHECK (size_bytes >= 0),
    created_us    bigint NOT NULL DEFAULT now_us(),
    last_used_us  bigint NOT NULL DEFAULT now_us(),
    PRIMARY KEY (tenant, digest)
);
CREATE INDEX blobs_digest ON blobs (digest);
CREATE INDEX blobs_last_used ON blobs (last_used_us);
ALTER TABLE blobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE blobs FORCE ROW LEVEL SECURITY;
CREATE POLICY blobs_own ON blobs TO bulkhead_service USING (tenant = current_tenant());
CREATE POLICY blobs_all ON blobs TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT, UPDATE (last_used_us) ON blobs TO bulkhead_service;
GRANT SELECT, INSERT, UPDATE (last_used_us), DELETE ON blobs TO bulkhead_scheduler;

-- An image belongs to a tenant, or (empty owner) is shared by the operator with all.
CREATE TABLE images (
    owner       text NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
    digest      bytea NOT NULL CHECK (length(digest) = 32),
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    config      jsonb NOT NULL,
    created_us  bigint NOT NULL DEFAULT now_us(),
    PRIMARY KEY (owner, name)
);
CREATE INDEX images_digest ON images (digest, owner);
ALTER TABLE images ENABLE ROW LEVEL SECURITY;
ALTER TABLE images FORCE ROW LEVEL SECURITY;
CREATE POLICY images_read ON images FOR SELECT TO bulkhead_service
    USING (owner = '' OR owner = current_tenant());
CREATE POLICY images_insert ON images FOR INSERT TO bulkhead_service WITH CHECK (owner = current_tenant());
CREATE POLICY images_update ON images FOR UPDATE TO bulkhead_service USING (owner = current_tenant());
CREATE POLICY images_delete ON images FOR DELETE TO bulkhead_service USING (owner = current_tenant());
CREATE POLICY images_all ON images TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON images TO bulkhead_service, bulkhead_scheduler;
