//! signalfd.

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Info, Process, Resource, SigSet, Task};
use crate::sync::Mutex;
use crate::syscalls::Entry;
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(282, "signalfd", signalfd).by(&["events:signalfds"]),
    Entry::full(289, "signalfd4", signalfd4).by(&["events:signalfds"]),
];

/// Bytes of a `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// Pending signals of a process as a file.
struct SignalFd {
    process: Weak<Process>,
    mask: Mutex<SigSet>,
}

thread_local! {
    /// Whose call this thread of the sentry serves, as far as it may be about such a file.
    static ASKS: RefCell<Weak<Task>> = const { RefCell::new(Weak::new()) };
}

/// Says who reads or waits: such a file shows the signals of whoever looks at it.
pub(in crate::syscalls) fn asked_by(task: &Arc<Task>) {
    ASKS.replace(Arc::downgrade(task));
}

/// Who looks: the last one that this thread served, or else (a wake-up's look) a thread of the maker's.
fn asker(maker: &Weak<Process>) -> Option<Arc<Task>> {
    let asks = ASKS.with_borrow(Weak::upgrade).filter(|task| !task.process.ends());
    asks.or_else(|| maker.upgrade()?.leader())
}

impl SignalFd {
    fn take(&self, task: &Task) -> Option<Info> {
        let mask = *self.mask.lock();
        task.take_signal(mask)
    }

    fn is_pending(&self, task: &Task) -> bool {
        let mask = self.mask.lock().0;
        (task.process.shared_pending().0 | task.signals.lock().pending.set().0) & mask != 0
    }
}

fn encode(info: &Info) -> [u8; SIZE] {
    let mut out = [0; SIZE];
    let raw = info.bytes();
    let mut copy = |to: usize, from: usize, length: usize| {
        out[to..to + length].copy_from_slice(&raw[from..from + length]);
    };
    // signo, errno, code
    copy(0, 0, 12);
    // The union: sender or timer, then value or status, by where si_code puts them.
    const SI_TIMER: i32 = -2;
    if info.code() == SI_TIMER {
        copy(24, 16, 4);
        copy(32, 20, 4);
        copy(44, 24, 4);
        copy(48, 24, 8);
    } else {
        copy(12, 16, 4);
        copy(16, 20, 4);
        copy(40, 24, 4);
        copy(44, 24, 4);
        copy(48, 24, 8);
        copy(56, 32, 8);
        copy(64, 40, 8);
    }
    out
}

impl File for SignalFd {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        if into.len() < SIZE {
            return Err(Errno::EINVAL);
        }
        let task = asker(&self.process).ok_or(Errno::EAGAIN)?;
        let mut count = 0;
        for target in into.chunks_exact_mut(SIZE) {
            let Some(info) = self.take(&task) else { break };
            target.copy_from_slice(&encode(&info));
            count += SIZE;
        }
        if count == 0 { Err(Errno::EAGAIN) } else { Ok(count) }
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        let Some(task) = asker(&self.process) else { return Events::default() };
        if let Some((waiter, key, mask)) = waiter {
            task.process.signal_watchers.register(waiter, key, mask);
        }
        if self.is_pending(&task) { Events::IN } else { Events::default() }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn signalfd(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    make(cx, args, 0)
}

fn signalfd4(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    make(cx, args, args.uint(3))
}

fn make(cx: &Ctx<'_>, args: &Args, flags: u32) -> SysResult {
    if args.usize(2) != 8 || flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mask = SigSet(cx.memory.read_value(args.u64(1))?).blockable();
    if args.int(0) != -1 {
        let file = cx.files().get_io(args.int(0))?;
        *file.object::<SignalFd>().ok_or(Errno::EINVAL)?.mask.lock() = mask;
        return Ok(args.int(0) as u64);
    }
    let process = Arc::downgrade(&cx.task.process);
    let object = Box::new(SignalFd { process, mask: Mutex::new(mask) });
    let file = cx.kernel.vfs().anonymous_file("[signalfd]", O_RDWR | flags & O_NONBLOCK, object);
    Ok(cx.files().install(file, flags & O_CLOEXEC != 0, cx.limit(Resource::OpenFiles))? as u64)
}
