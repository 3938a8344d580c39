//! The sentry as a process: its life between the launcher's first frame and its last.
//!
//! ```text
//! Config -> jail -> zygote -> system-call list -> threads -> Ready -> Start, inputs, Go -> Started
//!        -> (Signal ...) -> Exited -> Collect -> outputs -> Collected -> the launcher closes -> exit
//! ```

mod first;
mod job;
mod outputs;
mod setup;

use std::sync::Arc;

use bulkhead_wire::{Failed, Frame, Launcher};

pub use crate::kernel::count_every_call;

/// The descriptor that the launcher leaves open.
const CONTROL_FD: i32 = 3;

/// Runs one sandbox. Returns when the launcher has closed the connection, with the process's exit status.
pub fn serve() -> i32 {
    Launcher::serve(bulkhead_jail::spawn::inherited(CONTROL_FD), "bulkhead-sentry", "the sentry", run)
}

fn run(launcher: &Arc<Launcher>) -> Result<(), Failed> {
    let sandbox = setup::enter(launcher)?;
    launcher.send(&Frame::Ready)?;
    job::run(launcher, sandbox)
}
