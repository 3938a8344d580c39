//! How many warm sandboxes are worth holding: as many as were lately wanted at once.

use std::time::{Duration, Instant};

/// Jobs within such a time count as wanted at once: making a sandbox for each of them takes as long.
const SLOT: Duration = Duration::from_secs(1);
/// What was wanted before so many slots is forgotten.
const SLOTS: usize = 10;

/// Counts what is wanted.
#[derive(Debug)]
pub(crate) struct Demand {
    began: Instant,
    /// The slot that is counted in now, since `began`.
    slot: u64,
    wanted: [usize; SLOTS],
}

impl Demand {
    pub(crate) fn new(now: Instant) -> Self {
        Demand { began: now, slot: 0, wanted: [0; SLOTS] }
    }

    /// One sandbox is wanted.
    pub(crate) fn count(&mut self, now: Instant) {
        self.advance(now);
        self.wanted[(self.slot % SLOTS as u64) as usize] += 1;
    }

    /// The most that was wanted in one slot of the last ones.
    pub(crate) fn recent(&mut self, now: Instant) -> usize {
        self.advance(now);
        self.wanted.iter().copied().max().unwrap_or(0)
    }

    fn advance(&mut self, now: Instant) {
        let slot = now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs();
        // After a long rest all slots are passed once, not each of the many.
        for passed in self.slot + 1..=slot.min(self.slot + SLOTS as u64) {
            self.wanted[(passed % SLOTS as u64) as usize] = 0;
        }
        self.slot = self.slot.max(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_counts_for_ten_seconds() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut demand = Demand::new(start);
        assert_eq!(demand.recent(at(0)), 0);
        for _ in 0..5 {
            demand.count(at(2_100));
        }
        demand.count(at(3_100));
        assert_eq!(demand.recent(at(4_000)), 5);
        assert_eq!(demand.recent(at(11_900)), 5);
        assert_eq!(demand.recent(at(12_100)), 1, "the burst is forgotten, what came after it is not");
        assert_eq!(demand.recent(at(13_100)), 0);
        demand.count(at(3_600_000));
        assert_eq!(demand.recent(at(3_600_500)), 1, "after a long rest");
        assert_eq!(demand.recent(at(1)), 1, "a clock that stands still counts no slot");
    }
}
