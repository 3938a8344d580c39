//! Output of attempts: the first 64 KiB of a stream are in the database; what follows lies in a file here while the
//! attempt runs, and the whole becomes a blob at its end.

mod read;
mod spool;

pub(crate) use read::OutputReader;
pub(crate) use spool::{OutputSpool, SpooledStream};

/// How much of each stream the database keeps, in bytes: the store's own number.
pub(crate) const IN_DATABASE: u64 = 64 << 10;
