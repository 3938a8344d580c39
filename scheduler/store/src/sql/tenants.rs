macro_rules! tenant_columns {
    () => {
        "id, display_name, weight, max_active_jobs, max_stored_bytes, stored_bytes, created_us"
    };
}

statements! { Scheduler:
    TENANT_INSERT = concat!("INSERT INTO tenants (id, display_name, weight, max_active_jobs, max_stored_bytes)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING ", tenant_columns!());
    TENANT_GET = concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE id = $1");
    TENANT_LIST = concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE id > $1 ORDER BY id LIMIT $2");
    /// Operators' requests have the empty tenant.
    REQUEST_CLAIM = "INSERT INTO request_ids (tenant, method, request_id, body_sha256, resource)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING request_id";
    REQUEST_GET = "SELECT body_sha256, resource FROM request_ids
        WHERE tenant = $1 AND method = $2 AND request_id = $3";
    REQUESTS_PRUNE = "DELETE FROM request_ids WHERE created_us < now_us() - $1";
}

/// As a tenant's requests run them.
pub(crate) mod service {
    /// Of the statements above, those that a tenant's requests run too.
    #[cfg(test)]
    pub(crate) const SHARED: &[(crate::sql::Role, &str, &str)] = &[
        (crate::sql::Role::Service, "REQUEST_CLAIM", super::REQUEST_CLAIM),
        (crate::sql::Role::Service, "REQUEST_GET", super::REQUEST_GET),
    ];

    statements! { Service:
        TENANT_EXISTS = "SELECT true FROM tenants WHERE id = $1";
        /// The quota of jobs that have not ended, and how many there are; that of stored bytes, and how many there are.
        JOB_QUOTA = "SELECT max_active_jobs, (SELECT count(*) FROM jobs
                WHERE tenant = $1 AND state IN ('QUEUED', 'LEASED', 'RUNNING')), max_stored_bytes, stored_bytes
            FROM tenants WHERE id = $1";
        STORAGE = "SELECT max_stored_bytes, stored_bytes FROM tenants WHERE id = $1";
    }
}
