//! The Rust client of the service; the command line is built on it.
