statements! { Owner:
    /// One at a time over the whole cluster; the key is arbitrary, but the same for all.
    LOCK_ROLES = "SELECT pg_advisory_xact_lock(7306081421)";
    CREATE_SERVICE = "CREATE ROLE bulkhead_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS";
    CREATE_SCHEDULER = "CREATE ROLE bulkhead_scheduler LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS";
    GRANT_SERVICE = "GRANT bulkhead_service TO CURRENT_USER";
    GRANT_SCHEDULER = "GRANT bulkhead_scheduler TO CURRENT_USER";
    /// No row if the role doesn't exist.
    SERVICE_IS_MEMBER = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'bulkhead_service'";
    SCHEDULER_IS_MEMBER = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'bulkhead_scheduler'";
}
