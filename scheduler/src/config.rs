use std::time::Duration;

/// The scheduler's times.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerConfig {
    /// How long a node has an attempt without a word from it. Must outlast a restart of the control process.
    pub lease: Duration,
    /// How often nodes renew; several renewals may be lost.
    pub heartbeat: Duration,
    /// How long an attempt may take to start: its node fetches image and inputs meanwhile.
    pub start_within: Duration,
    /// Between two looks for overdue leases.
    pub reconcile: Duration,
    /// Between two tries to become the leader, or to reach the database.
    pub retry: Duration,
    /// How long `request_id`s are kept.
    pub keep_requests: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            start_within: Duration::from_secs(900),
            reconcile: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            keep_requests: Duration::from_secs(25 * 3600),
        }
    }
}
