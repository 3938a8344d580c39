//! The sentry as a process: its life between the launcher's first frame and its last.
//!
//! ```text
//! Config -> jail -> zygote -> system-call list -> threads -> Ready -> Start, inputs, Go -> Started
//!        -> (Signal ...) -> Exited -> Collect -> outputs -> Collected -> the launcher closes -> exit
//! ```

mod first;
mod job;
mod launcher;
mod outputs;
mod setup;

use std::sync::Arc;

use bulkhead_wire::{FailureStage, Frame};

use launcher::{Gone, Launcher};

pub use crate::kernel::count_every_call;

/// Why a sentry can't go on; told to the launcher as its last word.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    stage: FailureStage,
    message: String,
}

impl Failure {
    fn new(stage: FailureStage, what: &str, error: &dyn std::error::Error) -> Self {
        let mut message = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self { stage, message }
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

/// Runs one sandbox. Returns when the launcher has closed the connection, with the process's exit status.
pub fn serve() -> i32 {
    let launcher = match Launcher::inherited() {
        Ok(launcher) => Arc::new(launcher),
        Err(error) => {
            eprintln!("bulkhead-sentry is started by `bulkhead sandbox` or the worker: {error}");
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
    let sandbox = setup::enter(launcher)?;
    launcher.send(&Frame::Ready)?;
    job::run(launcher, sandbox)
}

/// A panic of any thread is a defect of the sentry; the job must not hang on it.
fn report_panics(launcher: &Arc<Launcher>) {
    let launcher = launcher.clone();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let what = info.payload_as_str().unwrap_or("unknown panic");
        let message = format!("defect of the sentry{}: {what}", place.unwrap_or_default());
        eprintln!("{message}");
        launcher.fail(FailureStage::Internal, &message);
        std::process::exit(1);
    }));
}
