//! Warm stubs, made ahead by a thread of their own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::host;
use crate::listener::{self, Listener};
use crate::platform::{Error, Shared};
use crate::stop::Plan;
use crate::stub::Stub;
use crate::thread::{Bell, Phase};
use crate::zygote::{SOCKET_FD, Zygote};
use crate::{GuestThread, HostCall, Registers, WarmStub, filter, layout, wire};

/// Where a stub's listener appears: its lowest free descriptor.
const LISTENER_FD: i32 = 0;

/// How long to wait between looks for a stub's listener, and how often to look: a new process needs some 100 us
/// to install its filter, and seconds on a machine in trouble.
const LOOK_EVERY: Duration = Duration::from_micros(50);
const LOOKS: u32 = 200_000;

pub(crate) struct Pool {
    zygote: Mutex<Zygote>,
    target: usize,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<WarmStub>,
    waiting: usize,
    failed: Option<Error>,
}

impl Pool {
    pub(crate) fn new(zygote: Zygote, target: usize, shared: Arc<Shared>) -> Self {
        Self { zygote: Mutex::new(zygote), target, shared, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn spawn(self: &Arc<Self>) -> Result<(), Error> {
        let pool = self.clone();
        let builder = std::thread::Builder::new().name("warm stubs".to_owned());
        let thread = builder.spawn(move || {
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
        let satisfied = |state: &mut State| {
            let full = state.ready.len() >= self.target.max(state.waiting);
            full || (state.failed.is_some() && state.waiting == 0)
        };
        let _woken = self.changed.wait_while(self.lock(), satisfied).unwrap_or_else(PoisonError::into_inner);
    }

    pub(crate) fn take(&self) -> Result<WarmStub, Error> {
        let mut state = self.lock();
        state.failed = None;
        state.waiting += 1;
        self.changed.notify_all();
        loop {
            if let Some(stub) = state.ready.pop_front() {
                state.waiting -= 1;
                self.changed.notify_all();
                return Ok(stub);
            }
            if let Some(error) = state.failed.take() {
                state.waiting -= 1;
                return Err(error);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes a stub: 300 us.
    fn make(&self) -> Result<WarmStub, Error> {
        let pid = self.zygote.lock().unwrap_or_else(PoisonError::into_inner).clone_stub()?;
        self.shared.warming.store(pid, Ordering::Release);
        let made = self.adopt(pid);
        if made.is_err() {
            host::kill(pid, libc::SIGKILL);
        }
        made
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
        let stub = Arc::new(Stub::new(pid, listener.clone(), self.shared.clone(), 0));
        let bell = Bell {
            id: first.id,
            uc: layout::SLOTS + layout::SLOT_START_UC,
            frame: Registers { fs_base: first.args[3], gs_base: first.args[4], ..Registers::default() },
            fresh: true,
            fpstate: 0,
        };
        let thread = Arc::new(GuestThread::new(pid, layout::SLOTS, stub.clone(), Phase::Bell(bell)));
        self.clean(&listener, &thread, bell).ok_or(odd)?;
        self.shared.add_stub(&stub);
        self.shared.add_thread(&thread);
        listener::spawn(listener, self.shared.clone())?;
        Ok(WarmStub::new(stub, thread))
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
