//! The commands about jobs.

mod follow;
mod outputs;
mod run;
mod show;
mod spec;

pub(crate) use follow::{LogsArgs, logs};
pub(crate) use outputs::download;
pub(crate) use run::{RunArgs, SubmitArgs, run, submit};
pub(crate) use show::{CancelArgs, DeleteArgs, GetArgs, ListArgs, cancel, delete, get, list};
