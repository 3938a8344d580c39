//! The states of a job, and the one function that changes them.
//!
//! ```text
//!            reject                                      (no attempt is made)
//! QUEUED ─────────────► REJECTED
//!   │ ▲ └─── cancel ──► CANCELLED
//!   │ │
//!   │ └──────────────────────────────────────┐ retry: the policy allows another attempt
//!   ▼ lease                                  │
//! LEASED ── start ──► RUNNING ── finish ─────┴──► SUCCEEDED FAILED SIGNALED OUT_OF_MEMORY TIMED_OUT
//!   │  ▲                │                          OUTPUT_LIMIT DISK_LIMIT UNSUPPORTED
//!   │  └ (a lease that ends before the start goes the same ways as a running one)
//!   ├── cancel ─────────┴──────────────────────► CANCELLED
//!   └── node gone ──────┴── retry or ──────────► LOST
//! ```
//! A terminal state never changes. Every change of a job's state in the service is one call of [`next`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in the order of the API.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the API, the database and messages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;
            fn from_str(text: &str) -> Result<Self, UnknownState> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text)
                    .ok_or_else(|| UnknownState(text.to_owned()))
            }
        }
    };
}

/// A state's name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown state {0:?}")]
pub struct UnknownState(pub String);

text_enum!(
    /// The state of a job.
    JobState {
        /// Waits for a node.
        Queued = "QUEUED",
        /// Promised to a node, not started yet.
        Leased = "LEASED",
        /// Runs in a sandbox.
        Running = "RUNNING",
        /// Ended with exit code 0.
        Succeeded = "SUCCEEDED",
        /// Ended with another exit code, or could not be started.
        Failed = "FAILED",
        /// Ended by a signal.
        Signaled = "SIGNALED",
        /// Hit its memory limit and did not exit 0.
        OutOfMemory = "OUT_OF_MEMORY",
        /// Hit its wall time or CPU time limit; the reason says which.
        TimedOut = "TIMED_OUT",
        /// Wrote more output than allowed.
        OutputLimit = "OUTPUT_LIMIT",
        /// Hit its disk limit and did not exit 0.
        DiskLimit = "DISK_LIMIT",
        /// Failed, and hit a system call that the sentry lacks.
        Unsupported = "UNSUPPORTED",
        /// Cancelled by its owner.
        Cancelled = "CANCELLED",
        /// No node could ever hold it.
        Rejected = "REJECTED",
        /// Its node was lost, and the policy allowed no other attempt.
        Lost = "LOST",
    }
);

text_enum!(
    /// The terminal state of one attempt.
    AttemptState {
        /// Ended with exit code 0.
        Succeeded = "SUCCEEDED",
        /// Ended with another exit code, or could not be started.
        Failed = "FAILED",
        /// Ended by a signal.
        Signaled = "SIGNALED",
        /// Hit its memory limit and did not exit 0.
        OutOfMemory = "OUT_OF_MEMORY",
        /// Hit its wall time or CPU time limit.
        TimedOut = "TIMED_OUT",
        /// Wrote more output than allowed.
        OutputLimit = "OUTPUT_LIMIT",
        /// Hit its disk limit and did not exit 0.
        DiskLimit = "DISK_LIMIT",
        /// Failed, and hit a system call that the sentry lacks.
        Unsupported = "UNSUPPORTED",
        /// Cancelled by its owner.
        Cancelled = "CANCELLED",
        /// Its node was lost.
        Lost = "LOST",
    }
);

impl JobState {
    /// Whether the job has ended.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Leased | Self::Running)
    }
}

impl AttemptState {
    /// The state that a job takes when this attempt was its last.
    pub const fn job_state(self) -> JobState {
        match self {
            Self::Succeeded => JobState::Succeeded,
            Self::Failed => JobState::Failed,
            Self::Signaled => JobState::Signaled,
            Self::OutOfMemory => JobState::OutOfMemory,
            Self::TimedOut => JobState::TimedOut,
            Self::OutputLimit => JobState::OutputLimit,
            Self::DiskLimit => JobState::DiskLimit,
            Self::Unsupported => JobState::Unsupported,
            Self::Cancelled => JobState::Cancelled,
            Self::Lost => JobState::Lost,
        }
    }
}

/// Something that happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// A node is promised.
    Lease,
    /// The sandbox runs the job's first instruction.
    Start,
    /// The attempt ended; `retry` says that the policy allows another one.
    Finish {
        /// How the attempt ended.
        outcome: AttemptState,
        /// Whether another attempt is to be made.
        retry: bool,
    },
    /// Its owner cancels a job that waits.
    Cancel,
    /// No node could ever hold the job.
    Reject,
}

/// A change that the state machine does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job in state {from} can't take {transition:?}")]
pub struct TransitionError {
    /// The state that the job is in.
    pub from: JobState,
    /// What was to happen.
    pub transition: Transition,
}

/// The state after `transition`: the only place that knows the machine (drawn in the module's head).
///
/// # Errors
/// [`TransitionError`] if the machine has no such edge; the state is then unchanged.
pub fn next(from: JobState, transition: Transition) -> Result<JobState, TransitionError> {
    use JobState::{Cancelled, Leased, Queued, Rejected, Running};
    match (from, transition) {
        (Queued, Transition::Lease) => Ok(Leased),
        (Leased, Transition::Start) => Ok(Running),
        (Leased | Running, Transition::Finish { outcome, retry }) => {
            // A cancelled attempt is never tried again: its owner has said so.
            if retry && outcome != AttemptState::Cancelled { Ok(Queued) } else { Ok(outcome.job_state()) }
        }
        (Queued, Transition::Cancel) => Ok(Cancelled),
        (Queued, Transition::Reject) => Ok(Rejected),
        _ => Err(TransitionError { from, transition }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_state_never_changes() {
        let transitions = [Transition::Lease, Transition::Start, Transition::Cancel, Transition::Reject]
            .into_iter()
            .chain(AttemptState::ALL.iter().flat_map(|outcome| {
                [true, false].map(|retry| Transition::Finish { outcome: *outcome, retry })
            }))
            .collect::<Vec<_>>();
        for state in JobState::ALL.iter().filter(|state| state.is_terminal()) {
            for transition in &transitions {
                assert!(next(*state, *transition).is_err(), "{state} {transition:?}");
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        for state in AttemptState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(state.job_state().as_str(), state.as_str());
            assert!(state.job_state().is_terminal());
        }
        assert!("RUNNING ".parse::<JobState>().is_err());
    }

    #[test]
    fn a_cancelled_attempt_is_not_retried() {
        let finish = Transition::Finish { outcome: AttemptState::Cancelled, retry: true };
        assert_eq!(next(JobState::Running, finish), Ok(JobState::Cancelled));
        let lost = Transition::Finish { outcome: AttemptState::Lost, retry: true };
        assert_eq!(next(JobState::Leased, lost), Ok(JobState::Queued));
    }
}
