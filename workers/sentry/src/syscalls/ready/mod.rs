//! Waiting for several files: poll, select, epoll; and files that only wait: eventfd, timerfd, signalfd, inotify.

mod epoll;
mod poll;
mod select;
mod signalfd;
mod special;
mod timeout;
mod watch;

use super::Entry;

/// Files that one call may wait for before it no longer says of each what it waits for, but of all the same: so that
/// a file that is named again and again costs one registration.
const MANY: usize = 64;

pub(super) use signalfd::asked_by;

/// The lists of this folder's families.
pub(super) const FAMILIES: &[&[Entry]] =
    &[epoll::TABLE, poll::TABLE, select::TABLE, signalfd::TABLE, special::TABLE, watch::TABLE];
