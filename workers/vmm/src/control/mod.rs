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
mod launcher;
pub mod order;
mod parts;
mod relay;
mod setup;

use std::sync::Arc;

use bulkhead_wire::{FailureStage, Frame};

use launcher::{Gone, Launcher};

/// Why a VMM can't go on; told to the launcher as its last word.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    stage: FailureStage,
    message: String,
}

impl Failure {
    fn new(stage: FailureStage, what: &str, error: &dyn std::error::Error) -> Self {
        Self { stage, message: format!("{what}: {}", by_hand::chain(error)) }
    }

    fn of(stage: FailureStage, message: impl Into<String>) -> Self {
        Self { stage, message: message.into() }
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        // Never sent: nobody is there to hear it.
        Self::of(FailureStage::Internal, "the launcher is gone")
    }
}

/// Runs one machine for the launcher at descriptor 3. Returns the process's exit status; the process is then to exit at
/// once, since threads of the machine may still be there.
pub fn serve() -> i32 {
    let launcher = match Launcher::inherited() {
        Ok(launcher) => Arc::new(launcher),
        Err(error) => {
            eprintln!("bulkhead-vmm is started by `bulkhead sandbox` or the worker: {error}");
            return 2;
        }
    };
    report_panics(&launcher);
    match run(&launcher) {
        Ok(()) => 0,
        Err(failure) => {
            launcher.fail(failure.stage, &failure.message);
            1
        }
    }
}

fn run(launcher: &Arc<Launcher>) -> Result<(), Failure> {
    let prepared = setup::enter(launcher)?;
    launcher.send(&Frame::Ready)?;
    // A warm machine may wait here for long; nobody has to come.
    let Ok(received) = launcher.receive() else { return Ok(()) };
    let Frame::Start(start) = received.frame else {
        return Err(Failure::of(FailureStage::Internal, "a job must come first"));
    };
    let (machine, agent) = parts::complete(prepared, &start, received.descriptors)?;
    relay::run(launcher, Arc::new(machine), agent, *start)
}

/// A panic of any thread is a defect of the VMM; the job must not hang on it.
fn report_panics(launcher: &Arc<Launcher>) {
    let launcher = launcher.clone();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let what = info.payload_as_str().unwrap_or("unknown panic");
        let message = format!("defect of the VMM{}: {what}", place.unwrap_or_default());
        eprintln!("{message}");
        launcher.fail(FailureStage::Internal, &message);
        std::process::exit(1);
    }));
}
