//! The process's life between the launcher's first frame and its last.
//!
//! ```text
//! Machine ─► jail ─► shell ─► system-call list ─► Ready ─► (waits in the pool) ─► Start
//!   ─► machine: disks, kernel, threads ─► the agent connects and says Ready ─► Start to the agent
//!   ─► relay both ways ─► (Statistics) Exited ─► Collect, outputs ─► the launcher closes ─► exit
//! ```
//! The agent is as hostile as its guest: its frames are decoded, bounded, and let through only in the order in which a
//! sentry would send them ([`order`]). The end of the launcher's connection ends the process at once, whatever else goes on.

mod agent;
pub mod by_hand;
pub mod order;
mod parts;
mod relay;
mod setup;

use std::sync::Arc;

use bulkhead_wire::{Failed, FailureStage, Frame, Launcher};

/// The descriptor that the launcher leaves open.
const CONTROL_FD: i32 = 3;

/// Runs one machine for the launcher at descriptor 3. Returns the process's exit status; the process is then to exit at
/// once, since threads of the machine may still be there.
pub fn serve() -> i32 {
    Launcher::serve(bulkhead_jail::spawn::inherited(CONTROL_FD), "bulkhead-vmm", "the VMM", run)
}

fn run(launcher: &Arc<Launcher>) -> Result<(), Failed> {
    let prepared = setup::enter(launcher)?;
    launcher.send(&Frame::Ready)?;
    // A warm machine may wait here for long; nobody has to come.
    let Ok(received) = launcher.receive() else { return Ok(()) };
    let Frame::Start(start) = received.frame else {
        return Err(Failed::of(FailureStage::Internal, "a job must come first"));
    };
    let (machine, agent) = parts::complete(prepared, &start, received.descriptors)?;
    relay::run(launcher, Arc::new(machine), agent, *start)
}
