//! Waiting for several files: poll, select, epoll; and files that only wait: eventfd, timerfd.

mod epoll;
mod poll;
mod select;
mod special;
mod timeout;

use super::Entry;

/// The lists of this folder's families.
pub(super) const FAMILIES: &[&[Entry]] = &[epoll::TABLE, poll::TABLE, select::TABLE, special::TABLE];
