//! What the platform asks of the user-space kernel.

use std::sync::Arc;

use crate::{Call, Fault, GuestThread, Ran, Registers, Stub};

/// How a stub's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It left by itself, with this status. Guests can't do that natively; a stub that failed to start can.
    Exited(i32),
    /// A host signal killed it: SIGKILL by [`Stub::kill`] or the host's OOM killer, others after a crash that no
    /// handler could take (an unmapped handler, a corrupted stack in it).
    Killed(i32),
}

/// The user-space kernel. See the crate's head for who may answer what, from where.
pub trait Kernel: Send + Sync + 'static {
    /// A plain call: only its return value can be set.
    fn call(&self, thread: &Arc<GuestThread>, call: Call);

    /// A call whose answer may change every register. `registers` is the state after the `syscall` instruction:
    /// rip behind it, rax still the call's number. To restart the call later, subtract 2 from rip.
    fn trapped(&self, thread: &Arc<GuestThread>, call: Call, registers: Registers);

    /// The guest's own instruction raised a synchronous signal.
    fn fault(&self, thread: &Arc<GuestThread>, fault: Fault, registers: Registers);

    /// A kicked or redirected thread has come in. `redirected` is the plain call that `redirect` ended; then
    /// rip is behind its `syscall` instruction and rax is its number, from the platform's own copy.
    fn interrupted(&self, thread: &Arc<GuestThread>, registers: Registers, redirected: Option<Call>);

    /// A forked child (in a stub of its own: `child.stub()`) or a new thread has arrived and is stopped. A forked
    /// child has its parent's registers and extended state; a new thread starts with a clear extended state.
    fn born(&self, child: &Arc<GuestThread>, token: u64);

    /// The commands of `run` are done or one of them failed; or the host refused the clone of `fork` or
    /// `spawn_thread` (then `ran.token` says which, and `born` will not come).
    fn ran(&self, thread: &Arc<GuestThread>, ran: Ran);

    /// A child that `fork` was told to make, or a thread of `spawn_thread`, will never come: the host killed it before
    /// it could say so (out of memory), or its parent died before the clone. May be called inside a stop of another
    /// thread. A kernel with processes must override this, or a parent waits for such a child for ever.
    fn stillborn(&self, _token: u64) {}

    /// The stub's process has died; nothing of its memory or threads is left. Called once for each stub that
    /// was started or born, on a thread of the platform's own.
    fn gone(&self, stub: &Arc<Stub>, status: ExitStatus);
}
