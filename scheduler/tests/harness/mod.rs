//! A service without a server: a store, a scheduler, and nodes that tests play.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_scheduler::{
    Ended, Heartbeat, Intake, IntakeError, LeaseProgress, NewNode, NodeCommand, NodeLink, Registered,
    Registration, Scheduler, SchedulerConfig, Session,
};
use bulkhead_store::{JobRecord, Store};
use bulkhead_types::{
    AttemptKey, AttemptOutcome, AttemptState, JobId, JobState, NodeCapacity, NodeId, SandboxOverhead,
    StreamTotals, TenantId, Termination, Usage,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest that a test waits for something that must happen; nothing is asserted about how soon it does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Leases too long to expire in a test.
pub(crate) fn patient() -> SchedulerConfig {
    SchedulerConfig {
        reconcile: Duration::from_millis(50),
        retry: Duration::from_millis(20),
        ..Default::default()
    }
}

/// Leases that expire while a test waits.
pub(crate) fn hasty() -> SchedulerConfig {
    SchedulerConfig {
        lease: Duration::from_millis(500),
        heartbeat: Duration::from_millis(80),
        start_within: Duration::from_secs(3),
        ..patient()
    }
}

/// A scheduler that runs.
pub(crate) struct Control {
    pub(crate) intake: Intake,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Control {
    /// Starts, and waits until it leads.
    pub(crate) async fn start(store: &Store, config: SchedulerConfig) -> Self {
        let scheduler = Scheduler::new(store.fleet().clone(), config);
        let intake = scheduler.intake();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(scheduler.run(shutdown.clone()));
        let end = tokio::time::Instant::now() + PATIENCE;
        while !intake.is_leading() {
            assert!(tokio::time::Instant::now() < end, "the scheduler does not lead");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { intake, shutdown, task }
    }

    /// As a kill does: nothing is said to anybody.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the scheduler stops");
    }
}

/// Waits for something that must happen.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a job has ended.
pub(crate) async fn ended(store: &Store, tenant: &TenantId, job: JobId) -> JobRecord {
    reached(store, tenant, job, JobState::is_terminal).await
}

/// Waits until a job is in such a state.
pub(crate) async fn reached(
    store: &Store,
    tenant: &TenantId,
    job: JobId,
    wanted: fn(JobState) -> bool,
) -> JobRecord {
    let mut watch = store.fleet().notifier().watch_job(job);
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let record = store.job_get(tenant, job).await.expect("gets");
        if wanted(record.state) {
            return record;
        }
        assert!(tokio::time::Instant::now() < end, "stays: {record:?}");
        watch.changed().await;
    }
}

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node id")
}

pub(crate) fn new_node(name: &str, memory_bytes: u64) -> NewNode {
    NewNode {
        id: node_id(name),
        capacity: NodeCapacity { memory_bytes, cpu_milli: 64_000, disk_bytes: 1 << 40, sandboxes: 16 },
        overhead: SandboxOverhead::fixed(1 << 20),
        backends: vec!["SENTRY".into()],
        offers: Vec::new(),
        labels: BTreeMap::new(),
        version: "test".into(),
    }
}

pub(crate) fn outcome(state: AttemptState) -> AttemptOutcome {
    AttemptOutcome {
        state,
        termination: Some(Termination::Exited(u8::from(state != AttemptState::Succeeded))),
        reason: format!("{state}, says the test"),
        usage: Usage { wall_us: 1000, ..Usage::default() },
        stdout: StreamTotals::default(),
        stderr: StreamTotals::default(),
        outputs: Vec::new(),
        output_problems: Vec::new(),
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    }
}

/// One connection of a node.
pub(crate) struct FakeNode {
    pub(crate) intake: Intake,
    pub(crate) session: Session,
    pub(crate) registered: Registered,
    pub(crate) commands: mpsc::Receiver<NodeCommand>,
}

impl FakeNode {
    pub(crate) async fn connect(
        control: &Intake,
        name: &str,
        memory_bytes: u64,
        attempts: Vec<AttemptKey>,
    ) -> Result<Self, IntakeError> {
        let (commands, receiver) = mpsc::channel(64);
        let registration = Registration { node: new_node(name, memory_bytes), attempts };
        let registered = control.register(registration, NodeLink { commands }).await?;
        let session = registered.session.clone();
        Ok(Self { intake: control.clone(), session, registered, commands: receiver })
    }

    /// The next attempt that it is to run; other commands are dropped.
    pub(crate) async fn next_start(&mut self) -> bulkhead_scheduler::Assignment {
        loop {
            if let NodeCommand::Start(assignment) = self.next_command().await {
                return *assignment;
            }
        }
    }

    pub(crate) async fn next_command(&mut self) -> NodeCommand {
        let next = tokio::time::timeout(PATIENCE, self.commands.recv());
        next.await.expect("a command comes").expect("the connection is open")
    }

    pub(crate) async fn heartbeat(&self, keys: &[AttemptKey]) -> bulkhead_scheduler::HeartbeatReply {
        let progress =
            |key: &AttemptKey| LeaseProgress { key: *key, cpu_us: 1, memory_bytes: 1, output_bytes: 0 };
        let heartbeat = Heartbeat { attempts: keys.iter().map(progress).collect() };
        self.intake.heartbeat(&self.session, heartbeat).await.expect("the heartbeat is taken")
    }

    pub(crate) async fn started(&self, key: AttemptKey) {
        self.intake.attempt_started(&self.session, key, Duration::ZERO).await.expect("the start is taken");
    }

    pub(crate) async fn finished(&self, key: AttemptKey, state: AttemptState) -> Ended {
        let finished = self.intake.attempt_finished(&self.session, key, outcome(state));
        finished.await.expect("the end is taken")
    }
}
