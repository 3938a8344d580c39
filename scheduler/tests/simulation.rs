//! A seeded simulation: nodes that crash, are cut off, lose commands, report twice, late or slowly, under a control
//! process that is killed again and again, with owners who cancel. Whatever happens, each job reaches exactly one
//! terminal state, no node is promised more than it holds, and what counts is what the current attempt's node said.
//!
//! The seed chooses who does what; the interleaving is the machine's. `SIMULATION_SEED=n` runs one seed.

#[expect(dead_code, reason = "the other tests use the rest")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_scheduler::{Ended, Heartbeat, Intake, LeaseProgress, NodeCommand};
use bulkhead_store::Store;
use bulkhead_store::testing::{example_spec, new_job, test_store, test_tenant};
use bulkhead_types::{AttemptKey, AttemptState, JobId, JobState, TenantId};
use harness::{Control, FakeNode, PATIENCE, hasty, outcome};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

const NODES: usize = 4;
const JOBS: usize = 80;
const NODE_MEMORY: u64 = 2 << 30;
/// How long faults happen; then everything heals.
const TROUBLE: Duration = Duration::from_secs(5);

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).expect("short") + 1))
    }
}

/// Prints the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed; again with SIMULATION_SEED={}", self.0);
        }
    }
}

/// What nodes were told to have counted, and what they said.
#[derive(Default)]
struct Ledger {
    said: BTreeSet<(AttemptKey, AttemptState)>,
    accepted: BTreeMap<JobId, Vec<(AttemptKey, Ended)>>,
}

/// An attempt on a node.
#[derive(Clone, Copy)]
struct Running {
    key: AttemptKey,
    starts: Instant,
    ends: Instant,
    started: bool,
    state: AttemptState,
}

struct SimulatedNode {
    name: String,
    random: Random,
    control: watch::Receiver<Option<Intake>>,
    ledger: Arc<Mutex<Ledger>>,
    calm: Instant,
    attempts: Vec<Running>,
}

/// Why a connection ended.
enum Parted {
    Crashed,
    CutOff,
    Refused,
}

impl SimulatedNode {
    async fn live(mut self) {
        loop {
            let Some(intake) = self.control.borrow_and_update().clone() else {
                let _ = tokio::time::timeout(Duration::from_millis(100), self.control.changed()).await;
                continue;
            };
            let keys = self.attempts.iter().map(|attempt| attempt.key).collect();
            let parted = match FakeNode::connect(&intake, &self.name, NODE_MEMORY, keys).await {
                Ok(connection) => {
                    let stale = connection.registered.stale.clone();
                    self.attempts.retain(|attempt| !stale.contains(&attempt.key));
                    self.serve(connection).await
                }
                Err(_) => Parted::Refused,
            };
            match parted {
                Parted::Crashed => {
                    self.attempts.clear();
                    let pause = self.random.up_to(Duration::from_millis(600));
                    sleep(pause).await;
                }
                Parted::CutOff => {
                    // Attempts go on meanwhile; some of these silences outlast the leases.
                    let pause = self.random.up_to(Duration::from_millis(1200));
                    sleep(pause).await;
                }
                Parted::Refused => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn serve(&mut self, mut connection: FakeNode) -> Parted {
        let heartbeat = hasty().heartbeat;
        let mut next_heartbeat = Instant::now();
        loop {
            // The control process was killed, and the connection with it.
            if self.control.has_changed().unwrap_or(false) {
                return Parted::Refused;
            }
            let trouble = Instant::now() < self.calm;
            if trouble && self.random.chance(1) {
                return Parted::Crashed;
            }
            if trouble && self.random.chance(1) {
                connection.intake.disconnect(&connection.session);
                return Parted::CutOff;
            }
            tokio::select! {
                command = connection.commands.recv() => match command {
                    Some(command) => self.obey(command, trouble),
                    None => return Parted::Refused,
                },
                () = sleep_until(next_heartbeat) => {
                    next_heartbeat = Instant::now() + heartbeat;
                    if !self.beat(&connection).await {
                        return Parted::Refused;
                    }
                }
                () = sleep(Duration::from_millis(10)) => {}
            }
            if !self.report(&connection, trouble).await {
                return Parted::Refused;
            }
        }
    }

    fn obey(&mut self, command: NodeCommand, trouble: bool) {
        match command {
            // Lost in the node: it never lists it, so its lease expires.
            NodeCommand::Start(_) if trouble && self.random.chance(3) => {}
            NodeCommand::Start(assignment) => {
                let slow = if trouble && self.random.chance(5) { 4000 } else { 30 };
                let starts = Instant::now() + self.random.up_to(Duration::from_millis(slow));
                let ends = starts + self.random.up_to(Duration::from_millis(250));
                let states = [AttemptState::Succeeded, AttemptState::Failed, AttemptState::OutOfMemory];
                let state = states[usize::try_from(self.random.below(3)).expect("small")];
                self.attempts.push(Running { key: assignment.key, starts, ends, started: false, state });
            }
            NodeCommand::Cancel(key) => {
                for attempt in self.attempts.iter_mut().filter(|attempt| attempt.key == key) {
                    attempt.ends = Instant::now();
                    attempt.state = AttemptState::Cancelled;
                }
            }
            NodeCommand::Stop(key) => self.attempts.retain(|attempt| attempt.key != key),
            NodeCommand::Drain(_) => {}
        }
    }

    async fn beat(&mut self, connection: &FakeNode) -> bool {
        let progress = |attempt: &Running| LeaseProgress {
            key: attempt.key,
            cpu_us: 1,
            memory_bytes: 1,
            output_bytes: 1,
        };
        let heartbeat = Heartbeat { attempts: self.attempts.iter().map(progress).collect() };
        match connection.intake.heartbeat(&connection.session, heartbeat).await {
            Ok(reply) => {
                for key in reply.cancelled {
                    self.obey(NodeCommand::Cancel(key), false);
                }
                self.attempts.retain(|attempt| !reply.stale.contains(&attempt.key));
                true
            }
            Err(_) => false,
        }
    }

    /// Reports what has started and ended. False if the connection is over.
    async fn report(&mut self, connection: &FakeNode, trouble: bool) -> bool {
        let now = Instant::now();
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.started && attempt.starts <= now) {
            attempt.started = true;
            // Some starts are never told.
            if trouble && self.random.chance(10) {
                continue;
            }
            let told =
                connection.intake.attempt_started(&connection.session, attempt.key, Duration::ZERO).await;
            if told.is_err() {
                return false;
            }
        }
        let over: Vec<Running> =
            self.attempts.iter().filter(|attempt| attempt.ends <= now).copied().collect();
        for attempt in over {
            self.ledger.lock().expect("ledger").said.insert((attempt.key, attempt.state));
            let times = if trouble && self.random.chance(10) { 2 } else { 1 };
            for _ in 0..times {
                let outcome = outcome(attempt.state);
                let told =
                    connection.intake.attempt_finished(&connection.session, attempt.key, outcome).await;
                let Ok(ended) = told else { return false };
                if ended != Ended::Stale {
                    let mut ledger = self.ledger.lock().expect("ledger");
                    ledger.accepted.entry(attempt.key.job).or_default().push((attempt.key, ended));
                }
            }
            // A confirmation that is lost: it is told again with the next report.
            if !(trouble && self.random.chance(10)) {
                self.attempts.retain(|other| other.key != attempt.key);
            }
        }
        true
    }
}

/// Owners: submit and cancel.
async fn submit(store: &Store, tenants: &[TenantId], mut random: Random) -> Vec<(TenantId, JobId)> {
    let mut jobs: Vec<(TenantId, JobId)> = Vec::new();
    for _ in 0..JOBS {
        let tenant = &tenants[usize::try_from(random.below(tenants.len() as u64)).expect("small")];
        let mut spec = example_spec();
        spec.limits.memory_bytes = (1 + random.below(20)) * (100 << 20);
        spec.retry.max_attempts = 1 + u32::try_from(random.below(4)).expect("small");
        spec.retry.on_failure = random.chance(50);
        spec.retry.on_lost = random.chance(80);
        let job = store.job_create(tenant, new_job(spec), None).await.expect("creates").id;
        jobs.push((tenant.clone(), job));
        if random.chance(15) {
            let (tenant, job) = &jobs[usize::try_from(random.below(jobs.len() as u64)).expect("small")];
            store.job_cancel(tenant, *job, None).await.expect("cancels");
        }
        sleep(random.up_to(Duration::from_millis(80))).await;
    }
    jobs
}

/// The control process is killed and started again.
async fn rule(
    store: Store,
    sender: watch::Sender<Option<Intake>>,
    mut random: Random,
    calm: Instant,
) -> Control {
    loop {
        let control = Control::start(&store, hasty()).await;
        sender.send_replace(Some(control.intake.clone()));
        if Instant::now() >= calm {
            return control;
        }
        sleep(random.up_to(Duration::from_millis(2500))).await;
        if Instant::now() >= calm {
            return control;
        }
        sender.send_replace(None);
        control.kill().await;
        sleep(random.up_to(Duration::from_millis(300))).await;
    }
}

/// Samples that no node is ever promised more than it holds.
async fn watch_capacity(store: Store) {
    loop {
        for usage in store.fleet().node_usage(Duration::from_secs(600)).await.expect("usage") {
            assert!(usage.memory_bytes <= usage.node.capacity.memory_bytes, "{usage:?}");
            assert!(usage.sandboxes <= usage.node.capacity.sandboxes, "{usage:?}");
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn check(store: &Store, jobs: &[(TenantId, JobId)], ledger: &Ledger) -> BTreeMap<JobState, usize> {
    let mut states = BTreeMap::new();
    for (tenant, id) in jobs {
        let job = store.job_get(tenant, *id).await.expect("gets");
        let events = store.job_progress(tenant, *id, 0).await.expect("progress").events;
        let terminal: Vec<JobState> =
            events.iter().map(|event| event.state).filter(|state| state.is_terminal()).collect();
        assert_eq!(terminal, [job.state], "one terminal state, and it is the job's: {events:?}");
        assert_eq!(events.last().map(|event| event.state), Some(job.state));
        let tokens: Vec<u64> = job.attempts.iter().map(|attempt| attempt.token).collect();
        assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");
        for attempt in &job.attempts {
            let outcome = attempt.outcome.as_ref().expect("every attempt of an ended job has ended");
            let key = AttemptKey { job: *id, attempt: attempt.attempt, token: attempt.token };
            // What counts was said by a node of this attempt, or is the scheduler's own finding.
            let scheduler = outcome.termination.is_none();
            assert!(scheduler || ledger.said.contains(&(key, outcome.state)), "{key}: {outcome:?}");
        }
        let accepted = ledger.accepted.get(id).map_or(0, Vec::len);
        assert!(accepted <= job.attempts.len(), "an attempt counted twice: {:?}", ledger.accepted.get(id));
        *states.entry(job.state).or_default() += 1;
    }
    states
}

/// Waits until every job has ended; names those that don't.
async fn all_end(store: &Store, jobs: &[(TenantId, JobId)]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut open = Vec::new();
        for (tenant, id) in jobs {
            let job = store.job_get(tenant, *id).await.expect("gets");
            if !job.state.is_terminal() {
                open.push((id, job.state, job.spec.limits.memory_bytes, job.attempts));
            }
        }
        if open.is_empty() {
            return;
        }
        let usage = store.fleet().node_usage(Duration::from_secs(600)).await.expect("usage");
        assert!(Instant::now() < end, "don't end: {open:#?}\nnodes: {usage:#?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn simulate(seed: u64) {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let store = test_store().await;
    let tenants = [test_tenant(&store, "acme").await, test_tenant(&store, "other").await];
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let calm = Instant::now() + TROUBLE;
    let (sender, control) = watch::channel(None);
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let node = SimulatedNode {
                name: format!("n{number}"),
                random: Random(random.next()),
                control: control.clone(),
                ledger: ledger.clone(),
                calm,
                attempts: Vec::new(),
            };
            tokio::spawn(node.live())
        })
        .collect();
    let capacity = tokio::spawn(watch_capacity(store.clone()));
    let ruler = tokio::spawn(rule(store.clone(), sender, Random(random.next()), calm));
    let jobs = submit(&store, &tenants, Random(random.next())).await;
    let control = ruler.await.expect("the control processes");
    all_end(&store, &jobs).await;
    assert!(!capacity.is_finished(), "a node was promised more than it holds");
    capacity.abort();
    for node in nodes {
        assert!(!node.is_finished(), "a node's task has failed");
        node.abort();
    }
    control.stop().await;
    let usage = store.fleet().node_usage(Duration::from_secs(600)).await.expect("usage");
    assert!(usage.iter().all(|node| node.sandboxes == 0), "a lease stays: {usage:?}");
    let ledger = std::mem::take(&mut *ledger.lock().expect("ledger"));
    let states = check(&store, &jobs, &ledger).await;
    println!("seed {seed}: {states:?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_reaches_exactly_one_terminal_state() {
    let seeds = match std::env::var("SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIMULATION_SEED is a number")],
        Err(_) => vec![1, 2, 3],
    };
    for seed in seeds {
        simulate(seed).await;
    }
}
