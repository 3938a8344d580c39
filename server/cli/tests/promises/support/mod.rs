//! A service for a test, its tenants, and what there is of it on the host.

mod host;
mod images;
mod service;
mod tenant;

pub(crate) use host::{alive, children, command_of, descriptors, kill};
pub(crate) use images::{debian, elf, tiny};
pub(crate) use service::Service;
pub(crate) use tenant::{Tenant, last, milliseconds, seconds, shell};

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Longest that anything may take here that is not itself measured: far beyond what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until something is so; panics with `what` if it never is.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK);
    }
}

/// Tests that count what is on the host run alone; the others side by side.
static HOST: RwLock<()> = RwLock::new(());

/// Shares the host with other tests.
pub(crate) fn beside_others() -> RwLockReadGuard<'static, ()> {
    // A test that failed has nothing behind the lock to damage.
    HOST.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Has the host for itself.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    HOST.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the test can't run here; says so.
pub(crate) fn skipped(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {test}: starting the service needs root");
    }
    !root
}
