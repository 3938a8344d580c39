//! /proc: what the kernel shows of itself and of processes.

mod source;

pub use source::{MapLine, ProcessInfo, Source, SystemInfo, TaskStatus};
