-- Most jobs of a tenant that wait or run at once.
ALTER TABLE tenants ADD COLUMN max_active_jobs bigint NOT NULL DEFAULT 10000
    CONSTRAINT tenants_max_active_jobs_range CHECK (max_active_jobs BETWEEN 1 AND 1000000);
