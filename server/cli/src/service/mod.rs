//! The long-running commands: `serve` and the two processes that it supervises.

mod cluster;
mod control;
mod life;
mod serve;
mod supervise;
mod worker;

pub(crate) use control::{ControlArgs, control};
pub(crate) use serve::{ServeArgs, serve};
pub(crate) use worker::{WorkerArgs, worker};
