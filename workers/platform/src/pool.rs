//! Warm stubs, made ahead by a thread of their own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::host;
use crate::leftovers::Injected;
use crate::listener::{self, Listener};
use crate::platform::{Error, Shared};
use crate::stop::Plan;
use crate::stub::Stub;
use crate::thread::{Bell, Phase};
use crate::zygote::SOCKET_FD;
use crate::{GuestThread, HostCall, Registers, WarmStub, filter, layout, servers, wire};

/// Where a stub's listener appears: its lowest free descriptor.
const LISTENER_FD: i32 = 0;

/// How long to wait between looks for a stub's listener, and how often to look: a new process needs some 100 us
/// to install its filter, and seconds on a machine in trouble.
const LOOK_EVERY: Duration = Duration::from_micros(30);
const LOOKS: u32 = 300_000;
/// How exactly the pool's thread sleeps, in nanoseconds: the usual 50,000 would double its looks' distance.
const SLACK_NS: u64 = 1_000;
/// How often one stub is tried for that the host kills (out of memory) before it is warm.
const TRIES: u32 = 16;
/// How long the pool stays as it is after its first stub was taken, unless somebody wants more: most programs start no
/// others, and many end sooner. The stubs would be made while the program needs the processor most.
const REST: Duration = Duration::from_millis(8);

/// Stack of the pool's thread, in bytes.
const STACK: usize = 256 << 10;

pub(crate) struct Pool {
    target: usize,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ready: VecDeque<WarmStub>,
    waiting: usize,
    failed: Option<Error>,
    /// The zygote was asked for the next stub already.
    asked_ahead: bool,
    stage: Stage,
}

/// How many stubs are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// One, for the first program.
    First,
    /// What there is, until then.
    Rest { until: Instant },
    /// As many as was asked for.
    Full,
}

impl Pool {
    pub(crate) fn new(target: usize, shared: Arc<Shared>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: 0,
            failed: None,
            asked_ahead: false,
            stage: Stage::First,
        };
        Self { target, shared, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Has the zygote make the first stub; the pool's thread warms it later.
    pub(crate) fn ask_ahead(&self) -> Result<(), Error> {
        if self.target == 0 {
            return Ok(());
        }
        self.shared.processes.asking();
        self.shared.zygote.ask()?;
        self.lock().asked_ahead = true;
        Ok(())
    }

    pub(crate) fn spawn(self: &Arc<Self>) -> Result<(), Error> {
        let pool = self.clone();
        let builder = std::thread::Builder::new().name("warm stubs".to_owned()).stack_size(STACK);
        let thread = builder.spawn(move || {
            host::set_timer_slack(SLACK_NS);
            loop {
                pool.wait_for_want();
                let made = pool.make();
                let mut state = pool.lock();
                match made {
                    Ok(stub) => state.ready.push_back(stub),
                    // With nobody waiting the next one who asks tries again.
                    Err(error) => state.failed = Some(error),
                }
                pool.changed.notify_all();
            }
        });
        thread.map(drop).map_err(|error| Error::Host {
            action: "make the pool's thread",
            source: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_want(&self) {
        let mut state = self.lock();
        loop {
            let target = match state.stage {
                Stage::First => self.target.min(1),
                Stage::Rest { until } if Instant::now() < until => 0,
                Stage::Rest { .. } | Stage::Full => self.target,
            };
            let full = state.ready.len() >= target.max(state.waiting);
            let hopeless = state.failed.is_some() && state.waiting == 0;
            if !full && !hopeless {
                return;
            }
            state = match state.stage {
                Stage::Rest { until } if Instant::now() < until => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                _ => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A program is about to be started: no more rest.
    pub(crate) fn want(&self) {
        let mut state = self.lock();
        if state.stage != Stage::Full {
            state.stage = Stage::Full;
            self.changed.notify_all();
        }
    }

    pub(crate) fn take(&self) -> Result<WarmStub, Error> {
        let mut state = self.lock();
        state.failed = None;
        state.waiting += 1;
        state.stage = match state.stage {
            Stage::First => Stage::Rest { until: Instant::now() + REST },
            _ => Stage::Full,
        };
        self.changed.notify_all();
        loop {
            while let Some(stub) = state.ready.pop_front() {
                // The host may have killed it while it waited.
                if stub.stub().lives() {
                    state.waiting -= 1;
                    self.changed.notify_all();
                    return Ok(stub);
                }
            }
            if let Some(error) = state.failed.take() {
                state.waiting -= 1;
                return Err(error);
            }
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn waiting(&self) -> Vec<i32> {
        let warming = self.shared.processes.warming();
        self.lock().ready.iter().map(|warm| warm.stub().pid()).chain(warming).collect()
    }

    pub(crate) fn kill_waiting(&self) -> bool {
        // Under the lock that it is taken under: what is taken afterwards is seen to be dead.
        let state = self.lock();
        let warm = state.ready.iter().find(|warm| warm.stub().lives());
        let pid = match warm {
            Some(warm) => {
                warm.stub().kill();
                Some(warm.stub().pid())
            }
            None => self.shared.processes.kill_warming(),
        };
        while pid.is_some_and(host::is_child) {
            std::thread::sleep(LOOK_EVERY);
        }
        pid.is_some()
    }

    /// Makes a stub: 300 us.
    fn make(&self) -> Result<WarmStub, Error> {
        let mut tries = 0;
        loop {
            let pid = self.clone_stub()?;
            let made = self.adopt(pid);
            tries += 1;
            match made {
                // A stub that was killed says nothing of the next one.
                Err(Error::Zygote { .. } | Error::Host { .. }) if tries < TRIES => {
                    self.shared.processes.kill_if_warming(pid);
                }
                Err(error) => {
                    self.shared.processes.kill_if_warming(pid);
                    return Err(error);
                }
                Ok(warm) => return Ok(warm),
            }
        }
    }

    fn clone_stub(&self) -> Result<i32, Error> {
        if !std::mem::take(&mut self.lock().asked_ahead) {
            self.shared.processes.asking();
            if let Err(error) = self.shared.zygote.ask() {
                self.shared.processes.told(None);
                return Err(error);
            }
        }
        let answer = self.shared.zygote.answer();
        self.shared.processes.told(answer.as_ref().ok().copied());
        answer
    }

    fn adopt(&self, pid: i32) -> Result<WarmStub, Error> {
        let fd = take_listener(pid)?;
        host::set_sync_wake_up(fd.as_fd()).map_err(|_| Error::Missing {
            what: "seccomp notifications that wake on the same core (Linux 6.6)",
        })?;
        let listener = Arc::new(Listener { fd });
        let odd = Error::Zygote { action: "park a stub" };
        let Some(first) = listener::next(&listener) else { return Err(odd) };
        if (first.pid, first.nr, first.args[0]) != (pid, wire::BELL, wire::PARK) {
            return Err(odd);
        }
        let stub = Arc::new(Stub::new(pid, listener.clone(), self.shared.clone(), 0, Injected::default()));
        let bell = Bell {
            id: first.id,
            uc: layout::SLOTS + layout::SLOT_START_UC,
            frame: Registers { fs_base: first.args[3], gs_base: first.args[4], ..Registers::default() },
            fresh: true,
            fpstate: 0,
        };
        let thread = Arc::new(GuestThread::new(pid, layout::SLOTS, stub.clone(), Phase::Bell(bell)));
        self.clean(&listener, &thread, bell).ok_or(odd)?;
        if !self.shared.processes.add_warm(&stub) || !self.shared.add_thread(&thread) {
            return Err(Error::Zygote { action: "stay alive" });
        }
        // Dropped, it kills the stub.
        let warm = WarmStub::new(stub, thread);
        servers::serve(listener, self.shared.clone())?;
        Ok(warm)
    }

    /// Has the stub close what it needs no more and give up its host stack.
    fn clean(&self, listener: &Listener, thread: &GuestThread, bell: Bell) -> Option<()> {
        let layout = self.shared.layout;
        let commands = [
            HostCall::close(LISTENER_FD),
            HostCall::close(SOCKET_FD),
            HostCall::munmap(layout.stack_bottom, layout.stack_top - layout.stack_bottom),
        ];
        thread.command(&commands, Plan::new(wire::RUN)).ok()?;
        loop {
            let n = listener::next(listener)?;
            let rings = n.nr == wire::BELL && n.arch == filter::X86_64;
            if rings && n.args[0] == wire::DONE && n.args[1] == 0 {
                *thread.lock() = Phase::Bell(Bell { id: n.id, ..bell });
                return Some(());
            }
            if rings || !thread.consented(&n) {
                return None;
            }
        }
    }
}

/// Copies the listener out of a stub that is about to install its filter. No guest code has run in it; the
/// descriptor's type is checked all the same.
fn take_listener(pid: i32) -> Result<OwnedFd, Error> {
    let gone = Error::Zygote { action: "open a stub" };
    let Some(pid) = Pid::from_raw(pid) else { return Err(gone) };
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Error::host("open a stub"))?;
    for _ in 0..LOOKS {
        match host::steal_fd(pidfd.as_fd(), LISTENER_FD) {
            Ok(fd) => return check_type(fd),
            Err(Errno::BADF) => std::thread::sleep(LOOK_EVERY),
            Err(source) => return Err(Error::Host { action: "take a stub's listener", source }),
        }
    }
    Err(gone)
}

fn check_type(fd: OwnedFd) -> Result<OwnedFd, Error> {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match link {
        Ok(name) if name.as_os_str() == "anon_inode:seccomp notify" => Ok(fd),
        _ => Err(Error::Zygote { action: "find a stub's listener" }),
    }
}
