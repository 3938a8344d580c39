//! Limits on what a job may store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;

/// A limit in bytes, what is used of it, and how often it was hit.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    hits: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0), hits: AtomicU64::new(0) })
    }

    /// Takes bytes, to be given back by [`Budget::give_back`].
    ///
    /// # Errors
    /// ENOSPC, which is counted.
    pub fn take(&self, bytes: u64) -> Result<(), Errno> {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Err(Errno::ENOSPC)
            }
        }
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes bytes until the answer is dropped.
    ///
    /// # Errors
    /// ENOSPC, which is counted.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Errno> {
        self.take(bytes)?;
        Ok(Charge { budget: self.clone(), bytes })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Most bytes that were in use at a time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How often something was refused.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

/// Bytes taken from a budget until it is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
