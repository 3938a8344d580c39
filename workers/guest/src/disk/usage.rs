//! How much of the scratch disk is used, and whether it was ever full.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::fstatfs;

/// Files can't grow any more when less than this is free: one write of a few pages, with what indexes them, fails.
const FULL: u64 = 16 << 10;
/// Faster than a program fills a file system through the page cache, in bytes a second.
const FASTEST: u64 = 1 << 30;
/// A full disk stays full until the program that met it has said so: a look each 10 ms finds it.
const SOONEST: Duration = Duration::from_millis(10);
/// An idle machine must stay idle.
const LATEST: Duration = Duration::from_secs(5);

/// Linux does not count failed writes, so the file system is looked at: rarely while much is free, often when little is.
pub(crate) struct Usage {
    directory: OwnedFd,
    /// Used before the job, in bytes.
    base: u64,
    peak: u64,
    /// Times that the disk became full.
    hits: u64,
    full: bool,
    next: Instant,
}

impl Usage {
    /// Begins with what is used now on the file system of this directory.
    pub(crate) fn begin(directory: OwnedFd) -> Self {
        let base = fstatfs(&directory).map_or(0, |state| used(&state));
        Self { directory, base, peak: 0, hits: 0, full: false, next: Instant::now() }
    }

    /// When it must be looked at next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time.
    pub(crate) fn look_if_due(&mut self) {
        if Instant::now() >= self.next {
            self.look();
        }
    }

    /// Looks.
    pub(crate) fn look(&mut self) {
        let Ok(state) = fstatfs(&self.directory) else { return };
        let free = state.f_bavail * state.f_bsize as u64;
        self.peak = self.peak.max(used(&state).saturating_sub(self.base));
        let full = free < FULL || state.f_ffree == 0;
        self.hits += u64::from(full && !self.full);
        self.full = full;
        let wait = Duration::from_millis(free * 1000 / FASTEST);
        self.next = Instant::now() + wait.clamp(SOONEST, LATEST);
    }

    /// Most bytes that were seen, and how often the disk was seen to become full.
    pub(crate) fn result(&self) -> (u64, u64) {
        (self.peak, self.hits)
    }
}

fn used(state: &rustix::fs::StatFs) -> u64 {
    state.f_blocks.saturating_sub(state.f_bfree) * state.f_bsize as u64
}
