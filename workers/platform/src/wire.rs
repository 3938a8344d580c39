//! The words between sentry and stub code. The same numbers are in stub.S.

/// The call number of the bell: no system call of the host.
pub(crate) const BELL: i32 = 0x2001;

/// What the bell's first argument says, besides signal numbers (1 to 64).
pub(crate) const PARK: u64 = 0x100;
/// A clone has arrived.
pub(crate) const BORN: u64 = 0x101;
/// A command list has ended.
pub(crate) const DONE: u64 = 0x102;

/// The signal that brings a thread in. A standard one: a real-time signal can fail at RLIMIT_SIGPENDING.
pub(crate) const KICK: i32 = libc::SIGUSR1;

/// An answer with these upper 48 bits is an order; every other answer is the guest's rax.
pub(crate) const ORDER: u64 = 0xb01d_ab1e_5700;
/// Resume from the frame as it is.
pub(crate) const RESUME: u64 = 1;
/// Load fs and gs base from the slot before resuming.
pub(crate) const BASES: u64 = 2;
/// Carry out the slot's commands; then ring DONE.
pub(crate) const RUN: u64 = 4;
/// With RUN: put the last result into the frame's rax and resume instead of ringing.
pub(crate) const VALUE: u64 = 8;
/// With RUN: resume instead of ringing if all commands succeeded.
pub(crate) const THEN_RESUME: u64 = 16;
/// With RUN: a failing command does not end the list.
pub(crate) const KEEP_GOING: u64 = 32;

/// Room above a new thread's stack pointer.
pub(crate) const STACK_MARGIN: u64 = 64;

/// The answer that orders `op`.
pub(crate) const fn order(op: u64) -> i64 {
    (ORDER << 16 | op) as i64
}

/// Whether rax may be answered as a plain value: it is no order, and nothing that the host's kernel takes for
/// a call to be restarted.
pub(crate) fn is_plain(rax: u64) -> bool {
    const RESTARTS: std::ops::RangeInclusive<i64> = -530..=-512;
    rax >> 16 != ORDER && !RESTARTS.contains(&(rax as i64))
}
