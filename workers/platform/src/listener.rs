//! A listener and the thread that serves it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::host::{self, Notification};
use crate::platform::Shared;
use crate::stub::Stub;
use crate::thread::{Bell, Phase};
use crate::{GuestThread, Registers, filter, layout, wire};

/// Receives the notifications of one warm stub, of the threads it makes and of the stubs it forks.
pub(crate) struct Listener {
    pub(crate) fd: OwnedFd,
}

/// A clone on its way.
pub(crate) struct Birth {
    /// The kernel's word for it.
    pub(crate) token: u64,
    pub(crate) kind: BirthKind,
    pub(crate) parent: Arc<Stub>,
    /// The clone was consented to: from now on there may be a child.
    pub(crate) consented: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BirthKind {
    /// The child finds itself at its parent's slot, in its own copy of memory.
    Fork { slot: u64 },
    /// With a slot of its own.
    Thread { slot: u64 },
}

impl BirthKind {
    fn fork_slot(self) -> Option<u64> {
        match self {
            Self::Fork { slot } => Some(slot),
            Self::Thread { .. } => None,
        }
    }
}

impl Birth {
    fn is_orphan(&self) -> bool {
        self.consented && self.kind.fork_slot().is_some() && self.parent.hold().is_none()
    }
}

/// The clones of a sandbox that have not arrived, by the random word that the child has to say. Only the parent's
/// own memory holds that word, so that of several stubs on a listener none can claim another's child.
#[derive(Default)]
pub(crate) struct Births {
    expected: Mutex<HashMap<u64, Birth>>,
}

impl Births {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Birth>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a clone; its word.
    pub(crate) fn expect(&self, birth: Birth) -> u64 {
        let mut expected = self.lock();
        loop {
            let word = random();
            if word != 0 && !expected.contains_key(&word) {
                expected.insert(word, birth);
                return word;
            }
        }
    }

    pub(crate) fn consented(&self, word: u64) {
        if let Some(birth) = self.lock().get_mut(&word) {
            birth.consented = true;
        }
    }

    pub(crate) fn take(&self, word: u64) -> Option<Birth> {
        self.lock().remove(&word)
    }

    /// Takes the child of this listener that says the word.
    fn claim(&self, word: u64, listener: &Arc<Listener>) -> Option<Birth> {
        let mut expected = self.lock();
        let ours = |birth: &Birth| birth.consented && Arc::ptr_eq(&birth.parent.listener, listener);
        expected.get(&word).is_some_and(ours).then(|| expected.remove(&word)).flatten()
    }

    /// A child that had not arrived has died. Its fork is the one whose parent was told this number by the host. (The
    /// number lies in the parent's memory: a guest that changes it loses track of its own child.)
    pub(crate) fn lose(&self, pid: i32) -> Option<u64> {
        let candidates: Vec<(u64, Arc<Stub>, u64)> = {
            let expected = self.lock();
            let forks = expected.iter().filter(|(_, birth)| birth.consented);
            forks
                .filter_map(|(word, birth)| Some((*word, birth.parent.clone(), birth.kind.fork_slot()?)))
                .collect()
        };
        let lost = candidates.iter().find(|(_, parent, slot)| {
            let mut told = [0; 4];
            let read = parent.memory().read(slot + layout::SLOT_CHILD, &mut told);
            read.is_ok() && i32::from_le_bytes(told) == pid
        });
        self.take(lost?.0).map(|birth| birth.token)
    }

    /// Whether a fork is expected whose parent is dead: it may have died before the clone.
    pub(crate) fn orphans(&self) -> bool {
        self.lock().values().any(Birth::is_orphan)
    }

    /// Forgets the forks of dead parents. To be called when no child is left that could be one of theirs.
    pub(crate) fn lose_orphans(&self) -> Vec<u64> {
        self.forget(Birth::is_orphan)
    }

    /// Forgets what a dead stub can't do any more. A fork that was consented to may have a child all the same.
    pub(crate) fn lose_parent(&self, parent: &Arc<Stub>) -> Vec<u64> {
        let made = |birth: &Birth| birth.consented && birth.kind.fork_slot().is_some();
        self.forget(|birth| Arc::ptr_eq(&birth.parent, parent) && !made(birth))
    }

    fn forget(&self, which: impl Fn(&Birth) -> bool) -> Vec<u64> {
        let mut expected = self.lock();
        expected.extract_if(|_, birth| which(birth)).map(|(_, birth)| birth.token).collect()
    }
}

fn random() -> u64 {
    let mut word = [0; 8];
    // The pool is initialised long before a sandbox starts, so this neither blocks nor fails; were it to, zero
    // is refused by the caller.
    let _filled = rustix::rand::getrandom(&mut word, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(word)
}

/// Serves a listener until its last process has died.
pub(crate) fn serve(listener: &Arc<Listener>, shared: &Arc<Shared>) {
    while let Some(notification) = next(listener) {
        dispatch(listener, shared, &notification);
    }
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
        // A stub on another stub's listener.
        Some(thread) => thread.stub().condemn("it called through a foreign listener"),
        None => newcomer(listener, shared, notification),
    }
}

/// A thread that is not known: accepted only as a clone that is expected, and only if the host's kernel says that
/// it is an unclaimed child of ours or an unclaimed thread of the parent's own process.
fn newcomer(listener: &Arc<Listener>, shared: &Arc<Shared>, n: &Notification) {
    let [kind, claimed, .., word] = n.args;
    // Only a test turns the rule off, to see a guest lie about who it is; stub code claims nothing (0).
    let tid = if shared.rules.kernel_identity || claimed == 0 { n.pid } else { claimed as i32 };
    let rings = n.nr == wire::BELL && n.arch == filter::X86_64 && kind == wire::BORN;
    let birth = rings.then(|| shared.births.claim(word, listener)).flatten();
    let Some(birth) = birth else { return shared.processes.kill_stranger(n.pid) };
    let arrived = match birth.kind {
        BirthKind::Thread { slot } => join(shared, &birth, tid, slot, n),
        BirthKind::Fork { slot } => fork(listener, shared, &birth, tid, slot, n),
    };
    if arrived.is_none() {
        shared.kernel().stillborn(birth.token);
        shared.processes.kill_stranger(n.pid);
    }
}

/// A new thread of a known stub.
fn join(shared: &Arc<Shared>, birth: &Birth, tid: i32, slot: u64, n: &Notification) -> Option<()> {
    let own = host::tgkill(birth.parent.pid(), tid, 0).is_ok();
    if !own && shared.rules.kernel_identity {
        return None;
    }
    let bell = Bell {
        id: n.id,
        uc: slot + layout::SLOT_START_UC,
        frame: Registers { fs_base: n.args[3], gs_base: n.args[4], ..Registers::default() },
        fresh: true,
        fpstate: 0,
    };
    let thread = Arc::new(GuestThread::new(tid, slot, birth.parent.clone(), Phase::Bell(bell)));
    if !shared.add_thread(&thread) {
        return None;
    }
    shared.kernel().born(&thread, birth.token);
    Some(())
}

/// A forked child.
fn fork(
    listener: &Arc<Listener>,
    shared: &Arc<Shared>,
    birth: &Birth,
    tid: i32,
    slot: u64,
    n: &Notification,
) -> Option<()> {
    let number = (slot - layout::SLOTS) / layout::SLOT_SIZE;
    let stub =
        Arc::new(Stub::new(tid, listener.clone(), shared.clone(), number, birth.parent.injected.copy()));
    // Held until the kernel knows of the child, so that it can't hear of its end before.
    let mut announced = stub.announced();
    let thread = Arc::new(GuestThread::new(tid, slot, stub.clone(), Phase::Running));
    if !shared.processes.claim(&stub, shared.rules.kernel_identity) {
        return None;
    }
    let (bell, _) = thread.read_frame(n.id, n.args[2], n.args[3], n.args[4])?;
    *thread.lock() = Phase::Bell(bell);
    if !shared.add_thread(&thread) {
        return None;
    }
    *announced = true;
    shared.kernel().born(&thread, birth.token);
    Some(())
}
