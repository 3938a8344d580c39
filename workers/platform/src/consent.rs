//! Which host calls a stub may make next.
//!
//! The filter notifies the handler's own host calls like any other. One is let through only while its thread has
//! exactly that command outstanding, with exactly those register arguments, in order, once. So a guest that
//! jumps into the handler, or rewrites the list in its slot, gets nothing.

use std::collections::VecDeque;

use crate::HostCall;
use crate::host::Notification;

/// The notified calls of a command list that are still to come.
#[derive(Default)]
pub(crate) struct Consent {
    pending: VecDeque<HostCall>,
}

impl Consent {
    /// `native` says which commands the filter lets through without asking.
    pub(crate) fn new(commands: &[HostCall], native: impl Fn(&HostCall) -> bool) -> Self {
        let notified = |c: &&HostCall| c.nr != HostCall::ZERO && !native(c);
        Self { pending: commands.iter().filter(notified).copied().collect() }
    }

    /// Whether this call is the next one; then it is used up. `exact` is false only in tests.
    pub(crate) fn take(&mut self, notification: &Notification, exact: bool) -> bool {
        let matches = self.pending.front().is_some_and(|next| {
            next.nr == notification.nr as u64 && (!exact || next.args == notification.args)
        });
        if matches {
            self.pending.pop_front();
        }
        matches
    }
}
