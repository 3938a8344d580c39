use std::path::PathBuf;
use std::time::Duration;

/// Why the private cluster can't be had, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server programs.
    #[error("PostgreSQL's server is not installed (looked for {looked}); run: apt-get install postgresql-15")]
    NotInstalled {
        /// Where.
        looked: String,
    },
    /// The cluster was made by a version that is not installed.
    #[error(
        "the data in {} was made by PostgreSQL {found}, but installed is {installed}; install postgresql-{found} or move the data with pg_dump", data.display()
    )]
    Version {
        /// The cluster's directory.
        data: PathBuf,
        /// Its version.
        found: String,
        /// What is installed, comma-separated.
        installed: String,
    },
    /// Root needs an unprivileged user.
    #[error(
        "PostgreSQL refuses to run as root, and the user postgres does not exist; run: apt-get install postgresql-15"
    )]
    NoUser,
    /// The unprivileged user can't reach the directory.
    #[error(
        "{} can't be entered by uid {uid}, which PostgreSQL runs as; choose another data directory or run: chmod o+x {}", directory.display(), directory.display()
    )]
    Unreachable {
        /// The parent that is closed.
        directory: PathBuf,
        /// Whom to.
        uid: u32,
    },
    /// A system call failed.
    #[error("{doing} {what} failed")]
    Io {
        /// For example "creating".
        doing: &'static str,
        /// A path, mostly.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed; it said:\n{said}")]
    Initdb {
        /// Its output.
        said: String,
    },
    /// PostgreSQL ended while it was started.
    #[error("PostgreSQL ended instead of starting; the end of its log:\n{log}")]
    Died {
        /// The last lines.
        log: String,
    },
    /// PostgreSQL does not answer.
    #[error("PostgreSQL did not answer within {} s; the end of its log:\n{log}", waited.as_secs())]
    StartTimeout {
        /// How long.
        waited: Duration,
        /// The last lines.
        log: String,
        /// Its last answer.
        #[source]
        source: sqlx::Error,
    },
    /// PostgreSQL does not stop.
    #[error("PostgreSQL (process {pid}) did not stop within {} s", waited.as_secs())]
    StopTimeout {
        /// The main process.
        pid: u32,
        /// How long.
        waited: Duration,
    },
    /// Processes of a killed PostgreSQL stay.
    #[error("processes {pids:?} of an earlier PostgreSQL don't end; end them with: kill -9")]
    Orphans {
        /// Which.
        pids: Vec<i32>,
    },
    /// The roles or the database can't be made.
    #[error("the private database can't be prepared")]
    Bootstrap(#[from] sqlx::Error),
}

impl ClusterError {
    pub(super) fn io(doing: &'static str, what: &str, source: std::io::Error) -> Self {
        Self::Io { doing, what: what.to_owned(), source }
    }
}
