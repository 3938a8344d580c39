//! The real service, from outside: `bulkhead serve` with a data directory of its own, driven through its API.
//!
//! Needs root, PostgreSQL's programs, and the workspace's other programs beside `bulkhead`: `cargo xtask test` builds
//! them first. `BULKHEAD_TEST_IMAGE` names the Debian image's tar for the tests that need one.

mod churn;
mod faults;
mod limits;
mod machines;
mod readme;
#[path = "../ready/mod.rs"]
mod ready;
mod support;
