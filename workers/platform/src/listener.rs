//! A listener and the thread that serves it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::host::{self, Notification};
use crate::platform::{Error, Shared};
use crate::stub::Stub;
use crate::thread::{Bell, Phase};
use crate::{GuestThread, Registers, filter, layout, wire};

/// Stack of a server thread, in bytes: the kernel's calls are served on it. Only touched pages cost memory.
const SERVER_STACK: usize = 1 << 20;

/// Receives the notifications of one warm stub, of the threads it makes and of the stubs it forks.
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
    /// Clones that were consented to and have not arrived.
    births: Mutex<HashMap<u64, Birth>>,
}

/// A clone on its way.
pub(crate) struct Birth {
    /// The kernel's word for it.
    pub(crate) token: u64,
    pub(crate) kind: BirthKind,
    pub(crate) parent: Arc<Stub>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BirthKind {
    /// The child finds itself at its parent's slot, in its own copy of memory.
    Fork { slot: u64 },
    /// With a slot of its own.
    Thread { slot: u64 },
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, births: Mutex::default() }
    }

    /// Notes a clone; the random word that its child has to say. Only the parent's own memory holds it, so that
    /// of several stubs on a listener none can claim another's child.
    pub(crate) fn expect(&self, birth: Birth) -> u64 {
        let mut births = self.births.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let word = random();
            if word != 0 && !births.contains_key(&word) {
                births.insert(word, birth);
                return word;
            }
        }
    }

    pub(crate) fn forget(&self, word: u64) -> Option<Birth> {
        self.births.lock().unwrap_or_else(PoisonError::into_inner).remove(&word)
    }

    /// Forgets what a dead stub had on its way.
    pub(crate) fn forget_parent(&self, parent: &Arc<Stub>) {
        let mut births = self.births.lock().unwrap_or_else(PoisonError::into_inner);
        births.retain(|_, birth| !Arc::ptr_eq(&birth.parent, parent));
    }
}

fn random() -> u64 {
    let mut word = [0; 8];
    // The pool is initialised long before a sandbox starts, so this neither blocks nor fails; were it to, zero
    // is refused by the caller.
    let _filled = rustix::rand::getrandom(&mut word, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(word)
}

/// Serves a listener on a thread of its own until its last process has died.
pub(crate) fn spawn(listener: Arc<Listener>, shared: Arc<Shared>) -> Result<(), Error> {
    let builder = std::thread::Builder::new().name("listener".to_owned()).stack_size(SERVER_STACK);
    let thread = builder.spawn(move || {
        while let Some(notification) = next(&listener) {
            dispatch(&listener, &shared, &notification);
        }
    });
    thread.map(drop).map_err(|error| Error::Host {
        action: "make a server thread",
        source: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
    })
}

/// The next notification; None when there will be no more.
pub(crate) fn next(listener: &Listener) -> Option<Notification> {
    loop {
        match host::receive(listener.fd.as_fd()) {
            Ok(notification) => return Some(notification),
            Err(Errno::INTR) => {}
            // A call was withdrawn, or the last process has died.
            Err(Errno::NOENT) if !hung_up(listener) => {}
            Err(_) => return None,
        }
    }
}

fn hung_up(listener: &Listener) -> bool {
    let mut polled = [PollFd::new(&listener.fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_err() || polled[0].revents().contains(PollFlags::HUP)
}

fn dispatch(listener: &Arc<Listener>, shared: &Arc<Shared>, notification: &Notification) {
    match shared.thread(notification.pid) {
        Some(thread) if Arc::ptr_eq(&thread.stub().listener, listener) => thread.notified(notification),
        Some(_) => host::kill(notification.pid, libc::SIGKILL),
        None => newcomer(listener, shared, notification),
    }
}

/// A thread that is not known: accepted only as a clone that is expected, and only if the host's kernel says that
/// it is an unclaimed child of ours or an unclaimed thread of the parent's own process.
fn newcomer(listener: &Arc<Listener>, shared: &Arc<Shared>, n: &Notification) {
    let [kind, claimed, uc, fs_base, gs_base, word] = n.args;
    // Only a test turns the rule off, to see a guest lie about who it is.
    let tid = if shared.rules.kernel_identity { n.pid } else { claimed as i32 };
    let rings = n.nr == wire::BELL && n.arch == filter::X86_64 && kind == wire::BORN;
    let Some(birth) = rings.then(|| listener.forget(word)).flatten() else {
        return host::kill(n.pid, libc::SIGKILL);
    };
    let Some(thread) = claim(listener, shared, &birth, tid) else {
        return host::kill(n.pid, libc::SIGKILL);
    };
    let bell = match birth.kind {
        BirthKind::Thread { slot } => Bell {
            id: n.id,
            uc: slot + layout::SLOT_START_UC,
            frame: Registers { fs_base, gs_base, ..Registers::default() },
            fresh: true,
            fpstate: 0,
        },
        BirthKind::Fork { .. } => match thread.read_frame(n.id, uc, fs_base, gs_base) {
            Some((bell, _)) => bell,
            None => return host::kill(n.pid, libc::SIGKILL),
        },
    };
    *thread.lock() = Phase::Bell(bell);
    shared.kernel().born(&thread, birth.token);
}

fn claim(
    listener: &Arc<Listener>,
    shared: &Arc<Shared>,
    birth: &Birth,
    tid: i32,
) -> Option<Arc<GuestThread>> {
    let rule = shared.rules.kernel_identity;
    let (stub, slot) = match birth.kind {
        BirthKind::Thread { slot } => {
            let own = host::tgkill(birth.parent.pid(), tid, 0).is_ok();
            (own || !rule).then(|| (birth.parent.clone(), slot))?
        }
        BirthKind::Fork { slot } => {
            let own = host::is_child(tid) && !shared.is_stub(tid);
            if !own && rule {
                return None;
            }
            let number = (slot - layout::SLOTS) / layout::SLOT_SIZE;
            let stub = Arc::new(Stub::new(tid, listener.clone(), shared.clone(), number));
            stub.announce();
            shared.add_stub(&stub);
            (stub, slot)
        }
    };
    let thread = Arc::new(GuestThread::new(tid, slot, stub, Phase::Running));
    shared.add_thread(&thread);
    Some(thread)
}
