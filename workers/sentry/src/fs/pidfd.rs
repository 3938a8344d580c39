//! A process as a file.

use std::any::Any;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::kernel::Process;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::Events;

/// A process, whose end makes the file readable. It is not kept from being reaped.
pub struct PidFd(pub Arc<Process>);

impl PidFd {
    /// Whether the process has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }
}

impl File for PidFd {
    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.over.register(waiter, key, mask);
        }
        if self.is_over() { Events::IN } else { Events::default() }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn describe(&self, out: &mut String) {
        let pid = if self.is_over() { -1 } else { self.0.pid };
        let _infallible = writeln!(out, "Pid:\t{pid}\nNSpid:\t{pid}");
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
