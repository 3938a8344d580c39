//! Requests from other threads to the one that runs the job.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_jail::cgroup::Meter;

use crate::{Controller, Progress};

use super::keeper::{Keeper, Wake};

/// Signals that wait for a job that does not take them; more are dropped.
const SIGNALS_MAX: usize = 64;

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) cancelled: bool,
    pub(super) output_limit: bool,
    pub(super) signals: VecDeque<u8>,
    /// The job's first instruction may have run: from here on a cancel is a signal, before it a kill.
    pub(super) started: bool,
}

/// Shared by the thread that runs the job and all that may stop it.
#[derive(Debug)]
pub(super) struct Shared {
    requests: Mutex<Requests>,
    pub(super) wake: Wake,
    keeper: Arc<Keeper>,
    /// Read by position, so that a look from another thread disturbs nothing.
    pub(super) meter: Meter,
}

impl Shared {
    pub(super) fn new(keeper: Arc<Keeper>, meter: Meter) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Shared { requests: Mutex::default(), wake: Wake::new()?, keeper, meter }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller for Shared {
    fn cancel(&self) {
        let mut requests = self.lock();
        requests.cancelled = true;
        if !requests.started {
            // Nothing of the tenant's runs that could end in good order.
            self.keeper.kill();
        }
        drop(requests);
        self.wake.ring();
    }

    fn output_limit_reached(&self) {
        self.lock().output_limit = true;
        self.wake.ring();
    }

    fn signal(&self, signal: u8) {
        let mut requests = self.lock();
        if requests.started && (1..=64).contains(&signal) && requests.signals.len() < SIGNALS_MAX {
            requests.signals.push_back(signal);
            drop(requests);
            self.wake.ring();
        }
    }

    fn kill(&self) {
        self.keeper.kill();
    }

    fn progress(&self) -> Option<Progress> {
        // After the end the groups are gone, and with them what they counted.
        let usage = self.meter.read().ok()?;
        let cpu_us = u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX);
        Some(Progress { cpu_us, memory_bytes: usage.memory_bytes })
    }
}
