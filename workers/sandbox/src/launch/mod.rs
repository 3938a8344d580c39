//! Sandboxes whose kernel is the sentry: made, run, watched, judged and taken down here, by the launcher.
//!
//! Each sandbox has a keeper thread, to which the sentry belongs and which enforces the deadline of whatever the talking
//! thread is doing; so no answer of a sentry, or lack of one, can hold the launcher.

mod control;
mod keeper;
mod parts;
mod running;
mod verdict;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_jail::cgroup::{self, Hierarchy};
use bulkhead_jail::spawn::Program;
use bulkhead_jail::uid::UidRange;
use bulkhead_types::{Limits, SandboxId, SandboxOverhead};
use bulkhead_wire::{Config, Connection, Frame, WireError};

use crate::record::RUN_DIRECTORY;
use crate::{Backend, Controller, CreateRequest, Events, Finished, Job, Sandbox, SandboxError};

use control::Shared;
use keeper::Keeper;
use parts::{Parts, Places, RESERVE_BYTES, limit_error, step};

/// How long a sentry may take until it is jailed and waits for its job.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// The sentry's control socket.
const CONTROL_FD: i32 = 3;
/// The name of the sentry's executable.
pub const PROGRAM_NAME: &str = "bulkhead-sentry";

/// What the backend needs to know about its host.
#[derive(Debug)]
pub struct SentryOptions {
    /// The sentry's executable.
    pub program: PathBuf,
    /// Where scratch directories are made: on a disk with room for what jobs write.
    pub scratch_root: PathBuf,
    /// Where live sandboxes are noted.
    pub run_directory: PathBuf,
    /// Name of the top control group.
    pub cgroup_name: String,
    /// Host uids that sandboxes get.
    pub uids: UidRange,
    /// Send even argument-checked memory calls to the sentry first.
    pub mediated_memory: bool,
    /// Let the sentry log every call to the launcher's standard error (for debugging; slow).
    pub log_calls: bool,
}

impl SentryOptions {
    /// The sentry beside the running executable, scratch files below `data_directory`, everything else as all launchers of
    /// this host share it.
    ///
    /// # Errors
    /// If the running executable's path can't be read.
    pub fn beside_current_executable(data_directory: &Path) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        Ok(SentryOptions {
            program: own.with_file_name(PROGRAM_NAME),
            scratch_root: data_directory.join("scratch"),
            run_directory: PathBuf::from(RUN_DIRECTORY),
            cgroup_name: cgroup::DEFAULT_NAME.to_owned(),
            uids: UidRange::system(),
            mediated_memory: false,
            log_calls: false,
        })
    }
}

/// Makes sentries.
#[derive(Debug)]
pub struct SentryBackend {
    program: CString,
    mediated_memory: bool,
    log_calls: bool,
    places: Places,
}

impl SentryBackend {
    /// Checks that this host can enforce every limit.
    ///
    /// # Errors
    /// [`SandboxError::Host`] or [`SandboxError::Limit`] say what is missing and the fix.
    pub fn new(options: SentryOptions) -> Result<Self, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            let fix = "sandboxes need root (namespaces, control groups, a host uid each): run as root; see bulkhead doctor";
            return Err(SandboxError::Host(fix.to_owned()));
        }
        if !options.program.is_file() {
            let path = options.program.display();
            return Err(SandboxError::Host(format!(
                "the sentry's executable {path} is missing: build or install it"
            )));
        }
        let hierarchy = Hierarchy::detect_named(&options.cgroup_name).map_err(limit_error)?;
        let program = CString::new(options.program.as_os_str().as_bytes())
            .map_err(|_| SandboxError::Host("the sentry's path holds a NUL".to_owned()))?;
        Ok(SentryBackend {
            program,
            mediated_memory: options.mediated_memory,
            log_calls: options.log_calls,
            places: Places {
                run: options.run_directory,
                scratch_root: options.scratch_root,
                cgroup: options.cgroup_name,
                hierarchy,
                uids: options.uids,
            },
        })
    }

    /// The control groups' place on this host.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.places.hierarchy
    }

    fn start(&self, request: &CreateRequest) -> Result<SentrySandbox, SandboxError> {
        let id = request.id.to_string();
        let mut parts = Parts::make(&self.places, &id, &request.limits)?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| step("making the control socket")(e.into()))?;
        let keeper = self.spawn(&id, &parts, theirs).map_err(|e| step("starting the sentry")(e.into()))?;
        parts.keeper = Some(Arc::clone(&keeper));
        keeper.deadline(Some(Instant::now() + READY_TIMEOUT));
        let connection = Connection::new(ours);
        self.configure(&connection, &parts).map_err(|e| explain(e, &parts, &keeper))?;
        keeper.deadline(None);
        let shared = Shared::new(Arc::clone(&keeper), parts.meter()?)
            .map_err(|e| step("making the controller")(e.into()))?;
        Ok(SentrySandbox { id: request.id, limits: request.limits, connection, shared, keeper, parts })
    }

    fn spawn(&self, id: &str, parts: &Parts, control: UnixStream) -> io::Result<Arc<Keeper>> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let own_stderr = io::stderr();
        let stderr: BorrowedFd<'_> =
            if self.log_calls { own_stderr.as_fd() } else { parts.last_words_file().as_fd() };
        let name = CString::new(PROGRAM_NAME).map_err(io::Error::other)?;
        Keeper::start(Program {
            path: self.program.clone(),
            // The id is for `ps` and for doctor.
            argv: vec![name, CString::new(id).map_err(io::Error::other)?],
            env: Vec::new(),
            descriptors: vec![
                (null.as_fd(), 0),
                (null.as_fd(), 1),
                (stderr, 2),
                (control.as_fd(), CONTROL_FD),
            ],
            pid_namespace: true,
        })
    }

    fn configure(&self, connection: &Connection, parts: &Parts) -> Result<(), Trouble> {
        let groups = parts.groups()?;
        let sentry = groups.sentry_join().map_err(limit_error)?;
        let job = groups.job_join().map_err(limit_error)?;
        let scratch = parts.scratch.to_str().ok_or_else(|| {
            SandboxError::Host(format!("the scratch directory {} is not UTF-8", parts.scratch.display()))
        })?;
        let config = Config {
            sentry_cgroups: sentry.len(),
            job_cgroups: job.len(),
            host_uid: parts.uid.as_ref().map_or(0, |u| u.get()),
            scratch_directory: scratch.to_owned(),
            mediated_memory: self.mediated_memory,
            log_calls: self.log_calls,
        };
        let descriptors: Vec<_> = sentry.iter().chain(&job).map(AsFd::as_fd).collect();
        connection.send(&Frame::Config(config), &descriptors)?;
        match connection.receive()?.frame {
            Frame::Ready => Ok(()),
            Frame::Failed(failure) => Err(running::failure(failure).into()),
            other => Err(running::unexpected(&other).into()),
        }
    }
}

impl Backend for SentryBackend {
    fn name(&self) -> &'static str {
        "sentry"
    }

    fn overhead(&self) -> SandboxOverhead {
        // The hard limit of what a sentry may hold beyond its job, so that promises hold whatever a job makes it do.
        SandboxOverhead { memory_bytes: RESERVE_BYTES }
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        Ok(Box::new(self.start(request)?))
    }
}

/// What ends a conversation with a sentry.
enum Trouble {
    /// The sentry is gone, or speaks nonsense.
    Wire(WireError),
    /// It, or the host, said what is wrong.
    Told(SandboxError),
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Trouble::Wire(error)
    }
}

impl From<SandboxError> for Trouble {
    fn from(error: SandboxError) -> Self {
        Trouble::Told(error)
    }
}

/// Finds out why a conversation broke off while the sentry was to become ready.
fn explain(trouble: Trouble, parts: &Parts, keeper: &Keeper) -> SandboxError {
    match trouble {
        Trouble::Told(error) => error,
        Trouble::Wire(error) => {
            let ended = keeper.wait(Duration::from_secs(1));
            if keeper.overdue() {
                return SandboxError::TimedOut { what: "become ready", seconds: READY_TIMEOUT.as_secs() };
            }
            SandboxError::Died(format!("{} before it was ready ({error})", parts.how_it_died(ended)))
        }
    }
}

/// A warm sentry.
struct SentrySandbox {
    id: SandboxId,
    limits: Limits,
    connection: Connection,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    parts: Parts,
}

impl Sandbox for SentrySandbox {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn controller(&self) -> Arc<dyn Controller> {
        Arc::clone(&self.shared) as Arc<dyn Controller>
    }

    fn run(mut self: Box<Self>, job: Job, events: &mut dyn Events) -> Result<Finished, SandboxError> {
        let result = self.drive(job, events);
        if let Err(error) = self.parts.take_down() {
            // The job's result stands; what stays is noted, and found by the next start or by doctor.
            tracing::error!(sandbox = %self.id, error = %crate::chain(&error), "something of a sandbox stays");
        }
        result
    }
}
