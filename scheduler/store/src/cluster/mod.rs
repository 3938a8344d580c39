//! The private PostgreSQL of a single machine: made, started, adopted and stopped here.
//!
//! ```text
//! DATA_DIR/postgres/data      the cluster, owned by the unprivileged user (initdb and postgres refuse root)
//! DATA_DIR/postgres/initdb    a cluster that is being made: thrown away if that is interrupted
//! DATA_DIR/postgres/run       the socket (elsewhere if this path is too long for one)
//! DATA_DIR/postgres/log       what PostgreSQL said
//! ```
//! The directories are closed to all but that user and root; inside, every role logs in without a password, and
//! nothing listens on the network. A cluster outlives a killed parent on purpose: the next start adopts it.

mod error;
mod files;
mod postmaster;
mod programs;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;

use crate::DatabaseUrls;
use crate::sql::cluster as sql;
use files::Files;
use postmaster::Postmaster;
use programs::{Identity, Programs};

pub use error::ClusterError;

/// The "port", which only names the socket's file.
pub(crate) const PORT: u16 = 5432;
/// Owns the service's database.
const OWNER_ROLE: &str = "bulkhead_owner";
/// The service's database.
const DATABASE: &str = "bulkhead";
/// Crash recovery replays at most `max_wal_size`; a disk that needs longer than this is broken.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// A fast shutdown writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Processes of a dead postmaster notice its death by themselves, mostly at once.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks at something that takes milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Settings for a small private cluster, as `name=value`; the rest is PostgreSQL's default.
const SETTINGS: [&str; 20] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=80",
    "superuser_reserved_connections=5",
    "shared_buffers=64MB",
    "work_mem=4MB",
    "maintenance_work_mem=32MB",
    // Durable: a result that was acknowledged survives a power cut.
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    // No replicas: less to write.
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=256MB",
    "checkpoint_timeout=15min",
    // Shared memory in the data directory and not in /dev/shm, where a kill would leave it.
    "dynamic_shared_memory_type=mmap",
    "max_parallel_workers_per_gather=0",
    // Statements here take less than a compilation.
    "jit=off",
    // The queue's tables change all the time.
    "autovacuum_naptime=15s",
    "logging_collector=off",
    "log_line_prefix=%m [%p] ",
];

/// A PostgreSQL cluster that belongs to one data directory. Dropping it leaves the cluster running: see
/// [`PrivateCluster::stop`].
#[derive(Debug)]
pub struct PrivateCluster {
    files: Files,
    pidfd: Arc<rustix::fd::OwnedFd>,
    /// Closed when the main process has ended.
    alive: watch::Receiver<()>,
    pid: Pid,
    child: Option<std::process::Child>,
}

impl PrivateCluster {
    /// Starts the cluster of `data_dir`, making it if there is none, or adopts the one that runs there. Returns when
    /// it answers, crash recovery included, with its roles and database in place. Run as root, it works as the user
    /// `postgres`, or as the owner of `data_dir` if that is not root; otherwise as the current user.
    ///
    /// # Errors
    /// [`ClusterError`], each saying what to do: PostgreSQL is not installed, the cluster is of another version, the
    /// directory can't be reached by the unprivileged user, or PostgreSQL does not start (with the end of its log).
    #[tracing::instrument(skip_all, fields(data_dir = %data_dir.display()))]
    pub async fn start(data_dir: &Path) -> Result<Self, ClusterError> {
        let identity = Identity::for_directory(data_dir)?;
        let files = Files::prepare(data_dir, &identity)?;
        let programs = Programs::find(files.version()?)?;
        let running = match Postmaster::find(&files)? {
            Some(running) => Some(running),
            None => {
                remove_orphans(&files).await?;
                None
            }
        };
        let mut cluster = match running {
            Some(running) => {
                tracing::info!(
                    pid = running.pid.as_raw_nonzero().get(),
                    "adopting the cluster that runs here"
                );
                Self::watch(files, running.pid, None)?
            }
            None => {
                if !files.has_cluster() {
                    make_cluster(&files, &programs, &identity).await?;
                }
                let child = spawn(&files, &programs, &identity)?;
                let pid = Pid::from_child(&child);
                Self::watch(files, pid, Some(child))?
            }
        };
        cluster.wait_until_ready().await?;
        cluster.bootstrap().await?;
        Ok(cluster)
    }

    fn watch(files: Files, pid: Pid, child: Option<std::process::Child>) -> Result<Self, ClusterError> {
        let fd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| ClusterError::Died { log: format!("process {pid:?}: {e}") })?;
        let pidfd = Arc::new(fd);
        let alive = wait_in_thread(pidfd.clone())?;
        Ok(Self { files, pidfd, alive, pid, child })
    }

    /// How to reach the service's database.
    pub fn urls(&self) -> DatabaseUrls {
        DatabaseUrls::from_socket(self.files.socket_dir(), OWNER_ROLE, DATABASE)
    }

    /// Connects as the superuser to `database`: for tests and repairs.
    pub fn superuser(&self, database: &str) -> PgConnectOptions {
        superuser(self.files.socket_dir(), database)
    }

    /// The main process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether the cluster was running before this process started it.
    pub fn adopted(&self) -> bool {
        self.child.is_none()
    }

    /// The directory that the socket is in.
    pub fn socket_dir(&self) -> &Path {
        self.files.socket_dir()
    }

    /// Returns when the main process has ended: call [`PrivateCluster::start`] again. Cancel-safe.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: it ends with the sender.
        while self.alive.changed().await.is_ok() {}
        self.reap();
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            // It has ended, so this does not block; what it returned is in the log.
            let _ = child.wait();
        }
    }

    /// Stops the cluster: open transactions are rolled back, a checkpoint is written.
    ///
    /// # Errors
    /// [`ClusterError::StopTimeout`].
    #[tracing::instrument(skip_all, fields(pid = self.pid()))]
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        // Fails only if it has ended already.
        let _ = pidfd_send_signal(&*self.pidfd, Signal::INT);
        match tokio::time::timeout(STOP_TIMEOUT, self.ended()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(ClusterError::StopTimeout { pid: self.pid(), waited: STOP_TIMEOUT }),
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), ClusterError> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let options = self.superuser("postgres");
            match options.connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                Err(error) if Instant::now() > end => {
                    return Err(ClusterError::StartTimeout {
                        waited: START_TIMEOUT,
                        log: self.files.log_tail(),
                        source: error,
                    });
                }
                // Not listening yet, or "the database system is starting up".
                Err(_) => {}
            }
            if tokio::time::timeout(LOOK_AGAIN, self.ended()).await.is_ok() {
                return Err(ClusterError::Died { log: self.files.log_tail() });
            }
        }
    }

    /// Roles and the database, if they are not there: an earlier start may have been killed at any point.
    async fn bootstrap(&self) -> Result<(), ClusterError> {
        let mut connection = self.superuser("postgres").connect().await?;
        let exists: bool = sqlx::query_scalar(sql::DATABASE_EXISTS).fetch_one(&mut connection).await?;
        if !exists {
            sqlx::raw_sql(sql::CREATE_ROLES).execute(&mut connection).await?;
            sqlx::query(sql::CREATE_DATABASE).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    }
}

/// A pidfd becomes readable when its process ends, and only then. One thread that sleeps in the kernel: also for a
/// cluster that is not this process's child.
fn wait_in_thread(pidfd: Arc<rustix::fd::OwnedFd>) -> Result<watch::Receiver<()>, ClusterError> {
    let (sender, receiver) = watch::channel(());
    let wait = move || {
        let mut fds = [PollFd::new(&*pidfd, PollFlags::IN)];
        while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        drop(sender);
    };
    std::thread::Builder::new()
        .name("postgres-wait".into())
        .spawn(wait)
        .map_err(|e| ClusterError::io("starting a thread for", "PostgreSQL", e))?;
    Ok(receiver)
}

fn superuser(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username("postgres")
        .database(database)
        .application_name("bulkhead cluster")
}

/// Processes of a postmaster that was killed: they would keep the new one from starting, and must not write beside
/// it. Only when they are gone is the stale pid file removed, which PostgreSQL might take for a stranger's.
async fn remove_orphans(files: &Files) -> Result<(), ClusterError> {
    let end = Instant::now() + ORPHANS_TIMEOUT;
    loop {
        let orphans = postmaster::processes_in(files.data());
        if orphans.is_empty() {
            return files.remove_pid_file();
        }
        if Instant::now() > end {
            let pids = orphans.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            return Err(ClusterError::Orphans { pids });
        }
        for pid in orphans {
            // PostgreSQL's own order to end at once, without writing: what a dying postmaster sends.
            let _ = rustix::process::kill_process(pid, Signal::QUIT);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn make_cluster(files: &Files, programs: &Programs, identity: &Identity) -> Result<(), ClusterError> {
    let target = files.prepare_initdb(identity)?;
    let mut command = Command::new(programs.initdb());
    command
        .args(["--username=postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"])
        .args(["--locale=C", "--no-instructions", "--pgdata"])
        .arg(&target)
        .stdin(Stdio::null());
    identity.apply(&mut command);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .map_err(|e| {
            ClusterError::io("running initdb", &target_name(programs.initdb()), std::io::Error::other(e))
        })?
        .map_err(|e| ClusterError::io("running", &target_name(programs.initdb()), e))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(ClusterError::Initdb { said: String::from_utf8_lossy(&said).into_owned() });
    }
    files.finish_initdb(&target)
}

fn target_name(path: PathBuf) -> String {
    path.display().to_string()
}

fn spawn(
    files: &Files,
    programs: &Programs,
    identity: &Identity,
) -> Result<std::process::Child, ClusterError> {
    let log = files.open_log(identity)?;
    let log_too = log.try_clone().map_err(|e| ClusterError::io("opening", "log", e))?;
    let mut command = Command::new(programs.postgres());
    command.arg("-D").arg(files.data()).arg("-k").arg(files.socket_dir());
    for setting in SETTINGS {
        command.arg("-c").arg(setting);
    }
    command
        .current_dir(files.data())
        .stdin(Stdio::null())
        .stdout(Stdio::from(log_too))
        .stderr(Stdio::from(log))
        // A Ctrl-C of the terminal is for the service, which stops PostgreSQL last.
        .process_group(0)
        .env("LC_ALL", "C");
    identity.apply(&mut command);
    command.spawn().map_err(|e| ClusterError::io("running", &target_name(programs.postgres()), e))
}
