//! Tests of the tree: against the host's file system, and of what only a sandbox has.

mod differential;
mod limits;
mod paths;
