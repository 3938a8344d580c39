//! The private cluster's bootstrap, as its superuser. Not prepared by the test: roles exist once per cluster.

/// The database is made last: when it is there, so is the rest.
pub(crate) const DATABASE_EXISTS: &str =
    "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = 'bulkhead')";

/// An earlier start may have been killed between the roles and the database.
pub(crate) const CREATE_ROLES: &str = "
    BEGIN;
    DO $$ BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'bulkhead_owner') THEN
            CREATE ROLE bulkhead_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
            CREATE ROLE bulkhead_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
            CREATE ROLE bulkhead_scheduler LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
            GRANT bulkhead_service, bulkhead_scheduler TO bulkhead_owner;
        END IF;
    END $$;
    COMMIT";

pub(crate) const CREATE_DATABASE: &str = "CREATE DATABASE bulkhead OWNER bulkhead_owner";
