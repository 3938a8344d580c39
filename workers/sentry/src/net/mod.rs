//! Sockets: AF_UNIX in full; those of the internet exist, but nothing can be reached.

pub mod inet;
pub mod unix;
