//! The sentry process: one for each sandbox, PID 1 of its own namespace.

fn main() {}
