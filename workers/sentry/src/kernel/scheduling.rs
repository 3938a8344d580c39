//! What a thread asked the scheduler for. The host's scheduler decides, within the job's control group; what was
//! asked for is kept and shown.

/// The timer slack that Linux gives everyone, in nanoseconds.
const TIMER_SLACK_NS: u64 = 50_000;

/// One thread's scheduling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduling {
    /// SCHED_OTHER, SCHED_BATCH or SCHED_IDLE.
    pub policy: i32,
    /// SCHED_RESET_ON_FORK: kept and shown. It changes nothing, since there are no real-time policies.
    pub resets_on_fork: bool,
    /// The CPUs that it may use, a bit each; none is all of the sandbox's.
    pub affinity: Option<Vec<u64>>,
    /// ioprio_set's value; 0 is none.
    pub io_priority: u16,
    /// PR_SET_TIMERSLACK, in nanoseconds.
    pub timer_slack_ns: u64,
    /// What PR_SET_TIMERSLACK with 0 goes back to, in nanoseconds.
    pub default_slack_ns: u64,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            policy: 0,
            resets_on_fork: false,
            affinity: None,
            io_priority: 0,
            timer_slack_ns: TIMER_SLACK_NS,
            default_slack_ns: TIMER_SLACK_NS,
        }
    }
}

impl Scheduling {
    /// What a child or a new thread starts with.
    #[must_use]
    pub fn inherited(&self) -> Self {
        let mut child = self.clone();
        child.resets_on_fork = false;
        child.default_slack_ns = self.timer_slack_ns;
        child
    }
}
