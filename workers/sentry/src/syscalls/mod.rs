//! The system calls: one list of entries for each family, gathered in [`table`].
//!
//! A family's file exports `TABLE`; the list is the coverage document (`bulkhead-sentry --list-syscalls`).

mod clone;
mod file;
mod identity;
mod list;
mod misc;
mod mm;
mod names;
mod neighbours;
mod pidfd;
mod prctl;
mod ready;
mod refused;
mod sched;
mod shm;
mod signal;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod usage;
mod wait;

use bulkhead_platform::{Abi, Call};

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;

pub use list::list;
pub(crate) use mm::limit_changed;
pub use table::{all, entry};

/// fs.nr_open, where tables of descriptors end: RLIMIT_NOFILE can't be raised above it.
const MAX_OPEN_FILES: u64 = crate::vfs::MAX_DESCRIPTORS as u64;

/// The test that makes every refused call.
const REFUSALS: &str = "refusals";

/// Serves one execution of a call.
pub type Handler = fn(&mut Ctx<'_>, &Args) -> SysResult;

/// How much of a call is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every flag of Linux's manual page works or stands in the note.
    Full,
    /// What real programs use works; the rest stands in the note.
    Partial,
    /// Answered with this error on purpose, in the way that programs fall back from.
    Refused(Errno),
    /// Missing: ENOSYS, and named in the job's result.
    Unsupported,
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Number on x86-64.
    pub number: u64,
    /// Name.
    pub name: &'static str,
    /// How much of it is there.
    pub status: Status,
    /// Serves it.
    pub handler: Handler,
    /// What differs from Linux; empty if nothing.
    pub note: &'static str,
    /// The cases of `guests/table` that prove the status, as `family:case`.
    pub tests: &'static [&'static str],
}

impl Entry {
    /// A call that works in full.
    pub const fn full(number: u64, name: &'static str, handler: Handler) -> Self {
        Self { number, name, status: Status::Full, handler, note: "", tests: &[] }
    }

    /// A call that works in part.
    pub const fn partial(number: u64, name: &'static str, handler: Handler, note: &'static str) -> Self {
        Self { number, name, status: Status::Partial, handler, note, tests: &[] }
    }

    /// A call that is refused on purpose.
    pub const fn refused(number: u64, name: &'static str, errno: Errno, note: &'static str) -> Self {
        Self { number, name, status: Status::Refused(errno), handler: refuse, note, tests: &[REFUSALS] }
    }

    /// A call that is missing.
    pub const fn unsupported(number: u64, name: &'static str, note: &'static str) -> Self {
        Self { number, name, status: Status::Unsupported, handler: missing, note, tests: &[] }
    }

    /// With a note on what differs from Linux.
    #[must_use]
    pub const fn but(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    /// With the cases that prove it.
    #[must_use]
    pub const fn by(self, tests: &'static [&'static str]) -> Self {
        Self { tests, ..self }
    }

    /// Whether the sentry does something for it.
    pub fn is_served(&self) -> bool {
        matches!(self.status, Status::Full | Status::Partial)
    }

    /// Whether it is missing.
    pub fn is_unsupported(&self) -> bool {
        self.status == Status::Unsupported
    }
}

/// The handler of a call.
pub fn handler(call: &Call) -> Handler {
    if call.abi != Abi::X86_64 {
        return missing;
    }
    entry(call.nr).map_or(missing as Handler, |entry| entry.handler)
}

/// The name of a call, or its number if Linux has none either.
pub fn name(number: u64) -> String {
    match usize::try_from(number).ok().and_then(|at| names::NAMES.get(at)) {
        Some(name) if !name.is_empty() => (*name).into(),
        _ => format!("call {number}"),
    }
}

fn missing(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Err(Errno::ENOSYS.into())
}

fn refuse(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    match entry(cx.raw.nr).map(|entry| entry.status) {
        Some(Status::Refused(errno)) => Err(errno.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}
