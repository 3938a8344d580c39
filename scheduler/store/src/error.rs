use bulkhead_types::{AttemptKey, Digest, JobId, JobState, TransitionError};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row, or it belongs to another tenant: the two look the same on purpose.
    #[error("{what} {name:?} was not found")]
    NotFound {
        /// The kind of thing, for example "job".
        what: &'static str,
        /// Its id or name.
        name: String,
    },
    /// A thing of that name exists already.
    #[error("{what} {name:?} already exists")]
    AlreadyExists {
        /// The kind of thing.
        what: &'static str,
        /// Its id or name.
        name: String,
    },
    /// The same `request_id` came with another body.
    #[error("request_id {request_id:?} was used before with a different request; use a new one")]
    RequestIdReused {
        /// The id that came twice.
        request_id: String,
    },
    /// The `request_id` is empty or too long.
    #[error("request_id must have 1 to 128 bytes, without NUL")]
    RequestIdInvalid,
    /// The page token was not made by the same list call of the same tenant.
    #[error("page_token does not belong to this list call; start again without one")]
    PageTokenInvalid,
    /// A report about an attempt that is no longer under way.
    #[error("{key} is not the current one any more")]
    StaleAttempt {
        /// What was presented.
        key: AttemptKey,
    },
    /// The state machine has no such edge.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Only a job that has ended can be deleted.
    #[error("job {job} is {state}; cancel it, and delete it when it has ended")]
    NotEnded {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// The tenant has as many jobs that wait or run as it may.
    #[error(
        "tenant {tenant} has {limit} jobs that wait or run, which is its quota; try again when some have ended"
    )]
    JobQuota {
        /// The tenant.
        tenant: bulkhead_types::TenantId,
        /// Its quota.
        limit: u64,
    },
    /// The tenant's blobs and images would be larger than its quota.
    #[error("tenant {tenant} may store {limit} bytes")]
    StorageQuota {
        /// The tenant.
        tenant: bulkhead_types::TenantId,
        /// Its quota, in bytes.
        limit: u64,
    },
    /// The job names a blob that the tenant doesn't have.
    #[error("blob {digest} was not found; upload it first")]
    BlobNotFound {
        /// The blob.
        digest: Digest,
    },
    /// A chunk of output begins behind the end of what is stored.
    #[error("a chunk at offset {offset} leaves a gap: the stream is stored up to {stored_bytes}")]
    OutputGap {
        /// Where the chunk begins, in bytes.
        offset: u64,
        /// What is stored, in bytes: send from there.
        stored_bytes: u64,
    },
    /// The sealed secrets of a job can't be opened: another key, or damaged.
    #[error("the secrets of job {job} can't be opened: the service's key has changed, or they are damaged")]
    Secrets {
        /// The job.
        job: JobId,
    },
    /// A row that this version can't read.
    #[error("a stored {what} can't be read")]
    Corrupt {
        /// What is wrong with which thing.
        what: &'static str,
        /// Why, if another error says so.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The database can't be reached or is starting; the same call may succeed later.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The database role `{role}` is missing or can't be assumed.
    #[error(
        "the database role {role} can't be used; run as the owner: CREATE ROLE {role} LOGIN; GRANT {role} TO CURRENT_USER"
    )]
    Role {
        /// The role.
        role: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The migrations could not be applied.
    #[error("the database schema can't be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Anything else that the database said: a defect.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    pub(crate) fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    pub(crate) fn corrupt(what: &'static str) -> Self {
        Self::Corrupt { what, source: None }
    }

    pub(crate) fn corrupt_by(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { what, source: Some(source.into()) }
    }
}

/// SQLSTATE classes that pass: connection failure, shutdown and start-up, too many connections, serialization.
const TRANSIENT: [&str; 8] = ["08", "57P01", "57P02", "57P03", "53300", "40001", "40P01", "55P03"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let transient = match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::BeginFailed | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(inner) => {
                let code = inner.code().unwrap_or_default();
                TRANSIENT.iter().any(|prefix| code.starts_with(prefix))
            }
            _ => false,
        };
        if transient { Self::Unavailable(error) } else { Self::Database(error) }
    }
}

/// The constraint that a statement broke, if that is what failed.
pub(crate) fn broken_constraint(error: &sqlx::Error) -> Option<&str> {
    match error {
        sqlx::Error::Database(inner) => inner.constraint(),
        _ => None,
    }
}
