-- What a tenant has stored, in bytes: its blobs, and its images by name. Counted by triggers in the transaction that
-- changes them: the tenant's row is locked until that has committed, so that many uploads at once keep the quota too.
ALTER TABLE tenants
    ADD COLUMN max_stored_bytes bigint NOT NULL DEFAULT 17179869184
        CONSTRAINT tenants_max_stored_bytes_range CHECK (max_stored_bytes BETWEEN 1 AND 17592186044416),
    ADD COLUMN stored_bytes bigint NOT NULL DEFAULT 0
        CONSTRAINT tenants_stored_bytes_counted CHECK (stored_bytes >= 0);
GRANT UPDATE (stored_bytes) ON tenants TO bulkhead_service;

-- The owner, who migrates, sees no row of a table whose policies are forced on it.
ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY;
ALTER TABLE blobs NO FORCE ROW LEVEL SECURITY;
ALTER TABLE images NO FORCE ROW LEVEL SECURITY;
UPDATE tenants t SET stored_bytes =
    (SELECT coalesce(sum(size_bytes), 0) FROM blobs b WHERE b.tenant = t.id)
    + (SELECT coalesce(sum(size_bytes), 0) FROM images i WHERE i.owner = t.id);
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
ALTER TABLE blobs FORCE ROW LEVEL SECURITY;
ALTER TABLE images FORCE ROW LEVEL SECURITY;

-- The argument names the column of the owner. With the setting bulkhead.over_quota (of a transaction that keeps what a
-- job has printed, which is never lost) the quota does not refuse.
CREATE FUNCTION charge_stored_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payer text;
    delta bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        payer := to_jsonb(OLD) ->> TG_ARGV[0];
        delta := -OLD.size_bytes;
    ELSIF TG_OP = 'UPDATE' THEN
        payer := to_jsonb(NEW) ->> TG_ARGV[0];
        delta := NEW.size_bytes - OLD.size_bytes;
    ELSE
        payer := to_jsonb(NEW) ->> TG_ARGV[0];
        delta := NEW.size_bytes;
    END IF;
    -- The operator's images are nobody's.
    IF payer = '' OR delta = 0 THEN
        RETURN NULL;
    END IF;
    IF delta < 0 OR current_setting('bulkhead.over_quota', true) = 'on' THEN
        UPDATE tenants SET stored_bytes = stored_bytes + delta WHERE id = payer;
        RETURN NULL;
    END IF;
    UPDATE tenants SET stored_bytes = stored_bytes + delta
        WHERE id = payer AND stored_bytes + delta <= max_stored_bytes;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % may not store % bytes more', payer, delta
            USING ERRCODE = 'check_violation', CONSTRAINT = 'tenants_stored_bytes_quota';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER blobs_charged AFTER INSERT OR DELETE OR UPDATE OF size_bytes ON blobs
    FOR EACH ROW EXECUTE FUNCTION charge_stored_bytes('tenant');
CREATE TRIGGER images_charged AFTER INSERT OR DELETE OR UPDATE OF size_bytes ON images
    FOR EACH ROW EXECUTE FUNCTION charge_stored_bytes('owner');
