//! What the launcher does for a sandbox of any kind: it is made, run, watched, judged and taken down here.
//!
//! A sandbox is one jailed process of ours (a sentry, or a VMM) that speaks the protocol of `bulkhead-wire`. Each has a keeper
//! thread, to which the process belongs and which enforces the deadline of whatever the talking thread is doing; so no answer
//! of a sandbox, or lack of one, can hold the launcher.

mod collecting;
mod control;
mod keeper;
mod parts;
mod running;
mod verdict;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_jail::cgroup::Hierarchy;
use bulkhead_jail::spawn::Program;
use bulkhead_jail::uid::UidRange;
use bulkhead_types::{Limits, SandboxId, SandboxOverhead};
use bulkhead_wire::{Connection, Frame, WireError};

use crate::{
    Controller, CreateRequest, Events, Finished, Job, Milestone, Sandbox, SandboxError, monotonic_ns,
};

use control::Shared;
use keeper::{Keeper, Starting};
pub(crate) use parts::{Parts, limit_error, step};

/// How long a sandbox may take until it is jailed and waits for its job.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// The sandbox's control socket.
const CONTROL_FD: i32 = 3;

/// What is different between the kinds of sandboxes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// What its process is, for messages.
    pub(crate) name: &'static str,
    /// What its process is called.
    pub(crate) program: &'static str,
    /// What it may hold beyond the job's limit. The sum of both is the hard limit of the whole sandbox.
    pub(crate) overhead: SandboxOverhead,
    /// Host threads of its own process, beyond one for each of the job's where the host's kernel has those.
    pub(crate) own_tasks: u64,
    /// How long each step may take until the job runs.
    pub(crate) start_timeout: Duration,
    /// The job has a kernel of its own inside of the process, which counts the job's memory and kills for it.
    pub(crate) own_kernel: bool,
}

/// Where a launcher keeps what its sandboxes need.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) run: PathBuf,
    pub(crate) scratch_root: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) uids: UidRange,
}

/// Starts sandboxes of one kind.
#[derive(Debug)]
pub(crate) struct Launcher {
    kind: Kind,
    program: CString,
    /// Its standard error is the launcher's; otherwise it is kept for its last words.
    talks: bool,
    places: Places,
    hierarchy: Hierarchy,
}

impl Launcher {
    /// Checks that this host can enforce every limit.
    ///
    /// # Errors
    /// [`SandboxError::Host`] or [`SandboxError::Limit`] say what is missing and the fix.
    pub(crate) fn new(
        kind: Kind,
        program: &std::path::Path,
        talks: bool,
        places: Places,
    ) -> Result<Self, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            let fix = "sandboxes need root (namespaces, control groups, a host uid each): run as root; see bulkhead doctor";
            return Err(SandboxError::Host(fix.to_owned()));
        }
        if !program.is_file() {
            let (name, path) = (kind.name, program.display());
            return Err(SandboxError::Host(format!(
                "the {name}'s executable {path} is missing: build or install it"
            )));
        }
        let hierarchy = Hierarchy::detect_named(&places.cgroup).map_err(limit_error)?;
        let program = CString::new(program.as_os_str().as_bytes())
            .map_err(|_| SandboxError::Host(format!("the {}'s path holds a NUL", kind.name)))?;
        Ok(Launcher { kind, program, talks, places, hierarchy })
    }

    /// The control groups' place on this host.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// What this kind of sandbox is.
    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Makes a warm sandbox. `first` is the first frame to it, with its descriptors; it answers that it is ready.
    ///
    /// # Errors
    /// See [`SandboxError`]; nothing is left behind.
    pub(crate) fn start(
        &self,
        request: &CreateRequest,
        first: impl FnOnce(&Parts) -> Result<(Frame, Vec<OwnedFd>), SandboxError>,
    ) -> Result<Box<dyn Sandbox>, SandboxError> {
        let asked = (Milestone::Asked, monotonic_ns());
        let id = request.id.to_string();
        let mut parts = Parts::note(self, &id)?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| step("making the control socket")(e.into()))?;
        // The process loads while everything that it is given is made; it waits for that before it does anything.
        let starting = self.spawn(&id, &parts, theirs).map_err(|e| step("starting the sandbox")(e.into()))?;
        let furnished = parts.furnish(self, &request.limits);
        let furnished_at = (Milestone::Furnished, monotonic_ns());
        let keeper = starting.finish().map_err(|e| step("starting the sandbox")(e.into()))?;
        parts.keeper = Some(Arc::clone(&keeper));
        furnished?;
        keeper.deadline(Some(Instant::now() + READY_TIMEOUT));
        let connection = Connection::new(ours);
        configure(&connection, &parts, first).map_err(|e| explain(e, &parts, &keeper))?;
        keeper.deadline(None);
        let reached = [asked, furnished_at, (Milestone::Ready, monotonic_ns())];
        let shared = Shared::new(Arc::clone(&keeper), parts.meter(self.kind)?)
            .map_err(|e| step("making the controller")(e.into()))?;
        let kind = self.kind;
        Ok(Box::new(Launched {
            id: request.id,
            limits: request.limits,
            kind,
            connection,
            shared,
            keeper,
            parts,
            reached,
        }))
    }

    fn spawn(&self, id: &str, parts: &Parts, control: UnixStream) -> io::Result<Starting> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let own_stderr = io::stderr();
        let stderr: BorrowedFd<'_> =
            if self.talks { own_stderr.as_fd() } else { parts.last_words_file().as_fd() };
        let name = CString::new(self.kind.program).map_err(io::Error::other)?;
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
}

fn configure(
    connection: &Connection,
    parts: &Parts,
    first: impl FnOnce(&Parts) -> Result<(Frame, Vec<OwnedFd>), SandboxError>,
) -> Result<(), Trouble> {
    let (frame, descriptors) = first(parts)?;
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    connection.send(&frame, &descriptors)?;
    match connection.receive()?.frame {
        Frame::Ready => Ok(()),
        Frame::Failed(failure) => Err(running::failure(failure).into()),
        other => Err(running::unexpected(&other).into()),
    }
}

/// What ends a conversation with a sandbox.
enum Trouble {
    /// It is gone, or speaks nonsense.
    Wire(WireError),
    /// It, or the host, said what is wrong.
    Told(SandboxError),
    /// The running job has broken the machine that it was in, as it says: its own doing, like a crash.
    Broke(String),
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

/// Finds out why a conversation broke off while it was to become ready.
fn explain(trouble: Trouble, parts: &Parts, keeper: &Keeper) -> SandboxError {
    match trouble {
        Trouble::Told(error) => error,
        Trouble::Broke(message) => SandboxError::Died(message),
        Trouble::Wire(error) => {
            let ended = keeper.wait(Duration::from_secs(1));
            if keeper.overdue() {
                return SandboxError::TimedOut { what: "become ready", seconds: READY_TIMEOUT.as_secs() };
            }
            SandboxError::Died(format!("{} before it was ready ({error})", parts.how_it_died(ended)))
        }
    }
}

/// A warm sandbox.
struct Launched {
    id: SandboxId,
    limits: Limits,
    kind: Kind,
    connection: Connection,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    parts: Parts,
    reached: [(Milestone, u64); 3],
}

impl Sandbox for Launched {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn limit(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        self.parts.limit(&self.kind, limits)?;
        self.limits = *limits;
        Ok(())
    }

    fn is_alive(&self) -> bool {
        !self.keeper.ended()
    }

    fn controller(&self) -> Arc<dyn Controller> {
        Arc::clone(&self.shared) as Arc<dyn Controller>
    }

    fn run(mut self: Box<Self>, job: Job, events: &mut dyn Events) -> Result<Finished, SandboxError> {
        for (what, at_ns) in self.reached {
            events.milestone(what, at_ns);
        }
        let result = self.drive(job, events);
        if let Err(error) = self.parts.take_down() {
            // The job's result stands; what stays is noted, and found by the next start or by doctor.
            tracing::error!(sandbox = %self.id, error = %crate::chain(&error), "something of a sandbox stays");
        } else {
            events.milestone(Milestone::Ended, self.parts.ended_ns.unwrap_or_default());
            events.milestone(Milestone::Removed, monotonic_ns());
        }
        result
    }
}
