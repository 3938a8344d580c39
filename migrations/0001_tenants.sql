-- Times are microseconds since 1970 (bigint, names end in _us), all by the database's clock: leases and queue
-- order must not depend on the clocks of several control processes.

CREATE FUNCTION now_us() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint $$;

-- The tenant that this transaction acts for; null outside of a tenant's transaction (a reset setting is '').
CREATE FUNCTION current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT nullif(current_setting('bulkhead.tenant', true), '') $$;

-- Two roles log in, and neither owns anything:
--   bulkhead_service    serves tenants' requests; sees the rows of the transaction's tenant only.
--   bulkhead_scheduler  the queue and operators' requests; sees all tenants' rows.
-- Every table has row-level security, forced on its owner too.

CREATE TABLE tenants (
    id            text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 63),
    display_name  text NOT NULL,
    -- Share of the fleet relative to the other tenants.
    weight        double precision NOT NULL DEFAULT 1 CHECK (weight > 0 AND weight <= 1000),
    created_us    bigint NOT NULL DEFAULT now_us()
);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenants_own ON tenants TO bulkhead_service USING (id = current_tenant());
CREATE POLICY tenants_all ON tenants TO bulkhead_scheduler USING (true);
GRANT SELECT ON tenants TO bulkhead_service;
GRANT SELECT, INSERT, UPDATE ON tenants TO bulkhead_scheduler;

-- What each mutation answered, for at least 24 hours. Operators' requests have the empty tenant.
CREATE TABLE request_ids (
    tenant       text NOT NULL,
    method       text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 128),
    body_sha256  bytea NOT NULL CHECK (length(body_sha256) = 32),
    resource     text NOT NULL,
    created_us   bigint NOT NULL DEFAULT now_us(),
    PRIMARY KEY (tenant, method, request_id)
);
CREATE INDEX request_ids_created ON request_ids (created_us);
ALTER TABLE request_ids ENABLE ROW LEVEL SECURITY;
ALTER TABLE request_ids FORCE ROW LEVEL SECURITY;
CREATE POLICY request_ids_own ON request_ids TO bulkhead_service USING (tenant = current_tenant());
CREATE POLICY request_ids_all ON request_ids TO bulkhead_scheduler USING (true);
GRANT SELECT, INSERT ON request_ids TO bulkhead_service;
GRANT SELECT, INSERT, DELETE ON request_ids TO bulkhead_scheduler;
