//! Calls that wait for a file.

use std::sync::Arc;

use crate::call::{Fail, Restart};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::vfs::OpenFile;
use crate::wait::{Events, WaitQueue};

/// Does `attempt` until it is no longer EAGAIN, waiting for `events` of the file in between, unless the file is
/// non-blocking (or `nonblocking` says so for this call).
///
/// # Errors
/// What `attempt` says; parks.
pub(in crate::syscalls) fn until_ready<T>(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    events: Events,
    nonblocking: bool,
    mut attempt: impl FnMut(&mut Ctx<'_>) -> Result<T, Fail>,
) -> Result<T, Fail> {
    match attempt(cx) {
        Err(Fail::Errno(Errno::EAGAIN)) if !nonblocking => {}
        result => return result,
    }
    let waiter = cx.waiter();
    file.poll(Some((&waiter, 0, events)));
    match attempt(cx) {
        Err(Fail::Errno(Errno::EAGAIN)) => Err(cx.park(Restart::Sys)),
        result => result,
    }
}

/// As [`until_ready`], for something that is waited for on a queue.
///
/// # Errors
/// What `attempt` says; parks.
pub(in crate::syscalls) fn wait_for<T>(
    cx: &mut Ctx<'_>,
    queue: &WaitQueue,
    restart: Restart,
    mut attempt: impl FnMut(&mut Ctx<'_>) -> Result<T, Errno>,
) -> Result<T, Fail> {
    match attempt(cx) {
        Err(Errno::EAGAIN) => {}
        result => return Ok(result?),
    }
    let waiter = cx.waiter();
    queue.register(&waiter, 0, Events::ALL);
    match attempt(cx) {
        Err(Errno::EAGAIN) => Err(cx.park(restart)),
        result => Ok(result?),
    }
}
