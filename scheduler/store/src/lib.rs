//! The only crate with SQL: jobs, leases, tenants, nodes, images in PostgreSQL.
