//! Every statement of the service, in one place: a test prepares them all as the role that runs them.

/// The role that runs a statement.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Owns the schema.
    Owner,
    /// Serves tenants.
    Service,
    /// Sees all tenants.
    Scheduler,
}

macro_rules! statements {
    ($role:ident: $($(#[$doc:meta])* $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* pub(crate) const $name: &str = $sql;)+
        /// All of this file.
        #[cfg(test)]
        pub(crate) const ALL: &[(crate::sql::Role, &str, &str)] =
            &[$((crate::sql::Role::$role, stringify!($name), $name)),+];
    };
}

pub(crate) mod cluster;
pub(crate) mod content;
pub(crate) mod jobs;
pub(crate) mod leases;
pub(crate) mod nodes;
pub(crate) mod notify;
#[cfg(test)]
mod plans;
pub(crate) mod queue;
pub(crate) mod results;
pub(crate) mod roles;
pub(crate) mod tenants;

/// Every statement with its role and name.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (Role, &'static str, &'static str)> {
    [
        content::ALL,
        content::fleet::ALL,
        content::fleet::SHARED,
        jobs::ALL,
        leases::ALL,
        nodes::ALL,
        notify::ALL,
        queue::ALL,
        results::ALL,
        roles::ALL,
        tenants::ALL,
        tenants::service::ALL,
        tenants::service::SHARED,
    ]
    .into_iter()
    .flatten()
    .copied()
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Executor, SqlSafeStr};

    use super::*;

    #[tokio::test]
    async fn every_statement_prepares_as_the_role_that_runs_it() {
        let urls = crate::testing::test_database().await;
        let mut owner = urls.owner().connect().await.expect("owner");
        let mut service = urls.service().connect().await.expect("service");
        let mut scheduler = urls.scheduler().connect().await.expect("scheduler");
        let mut count = 0;
        for (role, name, statement) in all() {
            let connection = match role {
                Role::Owner => &mut owner,
                Role::Service => &mut service,
                Role::Scheduler => &mut scheduler,
            };
            if let Err(error) = connection.prepare(statement.into_sql_str()).await {
                panic!("{role:?} {name}: {error}");
            }
            count += 1;
        }
        assert!(count > 50, "only {count} statements were found");
    }

    /// Statements outside of this folder would escape the test above.
    #[test]
    fn no_statement_is_elsewhere() {
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("folder").map(|entry| entry.expect("entry").path())
            {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = std::fs::read_to_string(&entry).expect("source");
                if entry.parent().is_some_and(|folder| folder.ends_with("sql")) {
                    continue;
                }
                for start in ["query(\"", "query_as(\"", "query_scalar(\"", "raw_sql(\""] {
                    assert!(!text.contains(start), "{} holds a statement", entry.display());
                }
            }
        }
    }
}
