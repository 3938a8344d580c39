use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::JobId;

/// One attempt of a job, with the fencing token of its lease: what a node must present with every report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The job.
    pub job: JobId,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Grows with each lease of the job; only the newest is accepted.
    pub token: u64,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of job {} (token {})", self.attempt, self.job, self.token)
    }
}

/// An output stream of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A point in time: microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Wraps microseconds since 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }

    /// This time and `duration`; the end of time if that is later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_micros(time.0.unsigned_abs());
        // Microseconds of an i64 are within what SystemTime holds on Linux.
        if time.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_saturate_and_convert() {
        let time = Timestamp::from_micros(1_500_000);
        assert_eq!(time.since(Timestamp::from_micros(500_000)), Duration::from_secs(1));
        assert_eq!(Timestamp::from_micros(0).since(time), Duration::ZERO);
        assert_eq!(time.after(Duration::MAX).as_micros(), i64::MAX);
        assert_eq!(SystemTime::from(time), UNIX_EPOCH + Duration::from_millis(1500));
        for extreme in [i64::MIN, i64::MAX] {
            let _ = SystemTime::from(Timestamp::from_micros(extreme));
        }
    }
}
