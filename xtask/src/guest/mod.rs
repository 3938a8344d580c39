//! What a microVM's guest consists of.

mod kernel;

pub(crate) use kernel::{Arguments, run};
