//! Processors: one thread each, which runs the guest until an exit, serves the exit, and goes on.

mod kick;
mod run;

pub use kick::{KickError, Kicker, install as install_kick_handler};
pub use run::{ExitContext, Samples, Vcpu};
