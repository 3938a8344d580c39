//! What must hold of every plan.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_placement::{
    CPU_OVERCOMMIT, Ledger, MIN_CHARGE, Need, Node, Plan, RESERVE_AFTER, Snapshot, WaitingJob, keeps_a_node,
    plan,
};
use bulkhead_types::{Backend, JobId, NodeCapacity, NodeId, Priority, SandboxOverhead, TenantId, Timestamp};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a valid tenant id")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn node(name: &str, memory_bytes: u64, sandboxes: u64) -> Node {
    Node {
        node: NodeId::new(name).expect("a valid node id"),
        capacity: NodeCapacity { memory_bytes, cpu_milli: 4000, disk_bytes: 100 * GIB, sandboxes },
        overhead: SandboxOverhead::fixed(10 * MIB),
        microvm: None,
        used_memory_bytes: 0,
        used_cpu_milli: 0,
        used_disk_bytes: 0,
        used_sandboxes: 0,
        available: true,
    }
}

fn job(owner: &str, memory_bytes: u64) -> WaitingJob {
    WaitingJob {
        job: JobId::generate(),
        tenant: tenant(owner),
        weight: 1.0,
        priority: Priority::Normal,
        need: Need { memory_bytes, cpu_milli: 100, disk_bytes: MIB },
        backend: Backend::Auto,
        avoid: Vec::new(),
        created: at(0),
    }
}

fn snapshot(queue: Vec<WaitingJob>, nodes: Vec<Node>) -> Snapshot {
    Snapshot { queue, nodes, ledger: Ledger::default() }
}

fn offered(node: &Node, backend: Backend) -> Option<SandboxOverhead> {
    if backend == Backend::Microvm { node.microvm } else { Some(node.overhead) }
}

/// Adds up a plan on top of what was promised before and holds it against each node.
fn check_capacity(snapshot: &Snapshot, plan: &Plan) -> Result<(), TestCaseError> {
    let needs: BTreeMap<JobId, Need> = snapshot.queue.iter().map(|job| (job.job, job.need)).collect();
    for node in &snapshot.nodes {
        let mine: Vec<_> = plan.assign.iter().filter(|assign| assign.node == node.node).collect();
        if mine.is_empty() {
            continue;
        }
        prop_assert!(node.available);
        let sum = |pick: fn(&Need) -> u64| mine.iter().map(|assign| pick(&needs[&assign.job])).sum::<u64>();
        let backends: BTreeMap<JobId, Backend> =
            snapshot.queue.iter().map(|job| (job.job, job.backend)).collect();
        let overhead = mine.iter().map(|assign| {
            let offered = offered(node, backends[&assign.job]).expect("only where it is offered");
            offered.beside(needs[&assign.job].memory_bytes)
        });
        let overhead: u64 = overhead.sum();
        let memory = node.used_memory_bytes + sum(|need| need.memory_bytes) + overhead;
        prop_assert!(memory <= node.capacity.memory_bytes, "{memory} on {node:?}");
        prop_assert_eq!(memory, node.used_memory_bytes + mine.iter().map(|a| a.memory_bytes).sum::<u64>());
        prop_assert!(
            node.used_cpu_milli + sum(|need| need.cpu_milli) <= node.capacity.cpu_milli * CPU_OVERCOMMIT
        );
        prop_assert!(node.used_disk_bytes + sum(|need| need.disk_bytes) <= node.capacity.disk_bytes);
        prop_assert!(node.used_sandboxes + mine.len() as u64 <= node.capacity.sandboxes);
    }
    Ok(())
}

fn any_node() -> impl Strategy<Value = Node> {
    let sizes = (0..64 * GIB, 0..16_000u64, 0..GIB, 0..32u64);
    (0..100u32, sizes, 0..4u64, any::<[bool; 2]>(), 0..200 * MIB).prop_map(
        |(name, size, used, [available, has_microvms], overhead)| {
            let (memory_bytes, cpu_milli, disk_bytes, sandboxes) = size;
            Node {
                node: NodeId::new(format!("n{name}")).expect("valid"),
                capacity: NodeCapacity { memory_bytes, cpu_milli, disk_bytes, sandboxes },
                overhead: SandboxOverhead::fixed(overhead),
                microvm: has_microvms
                    .then_some(SandboxOverhead { memory_bytes: 2 * overhead, memory_per_mib: 4096 }),
                used_memory_bytes: memory_bytes / 4 * used,
                used_cpu_milli: cpu_milli * used,
                used_disk_bytes: disk_bytes / 4 * used,
                used_sandboxes: sandboxes / 4 * used,
                available,
            }
        },
    )
}

fn any_job() -> impl Strategy<Value = WaitingJob> {
    let priorities = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    let needs = (0..80 * GIB, 0..20_000u64, 0..2 * GIB, any::<[bool; 2]>());
    (0..5u32, 0.01..100.0f64, priorities, needs, proptest::collection::vec(0..100u32, 0..3), 0..100i64)
        .prop_map(|(owner, weight, priority, need, avoid, created)| WaitingJob {
            job: JobId::generate(),
            tenant: tenant(&format!("t{owner}")),
            weight,
            priority,
            need: Need {
                memory_bytes: if need.3[0] { need.0 } else { need.0 / 100 },
                cpu_milli: need.1,
                disk_bytes: need.2,
            },
            backend: if need.3[1] { Backend::Microvm } else { Backend::Sentry },
            avoid: avoid.iter().map(|n| NodeId::new(format!("n{n}")).expect("valid")).collect(),
            created: at(created),
        })
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let nodes = proptest::collection::vec(any_node(), 0..8);
    (proptest::collection::vec(any_job(), 0..120), nodes).prop_map(|(queue, mut nodes)| {
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes.dedup_by(|a, b| a.node == b.node);
        snapshot(queue, nodes)
    })
}

proptest! {
    #[test]
    fn a_plan_never_promises_more_than_a_node_holds(snapshot in any_snapshot(), now in 0..200i64) {
        let plan = plan(&snapshot, at(now));
        check_capacity(&snapshot, &plan)?;
        // Each job at most once, assigned or rejected.
        let mut jobs: Vec<JobId> = plan.assign.iter().map(|assign| assign.job).collect();
        jobs.extend(plan.reject.iter().map(|reject| reject.job));
        let count = jobs.len();
        jobs.sort_unstable();
        jobs.dedup();
        prop_assert_eq!(jobs.len(), count);
        prop_assert!(!snapshot.nodes.is_empty() || count == 0, "with no node known, jobs wait");
    }

    #[test]
    fn the_same_snapshot_gives_the_same_plan(snapshot in any_snapshot(), now in 0..200i64) {
        prop_assert_eq!(plan(&snapshot, at(now)), plan(&snapshot.clone(), at(now)));
    }

    #[test]
    fn rejected_means_that_no_known_node_could_ever_hold_it(snapshot in any_snapshot(), now in 0..200i64) {
        let plan = plan(&snapshot, at(now));
        for waiting in &snapshot.queue {
            let need = waiting.need;
            let ever = snapshot.nodes.iter().any(|node| {
                offered(node, waiting.backend).is_some_and(|overhead| {
                    need.memory_bytes + overhead.beside(need.memory_bytes) <= node.capacity.memory_bytes
                })
                    && need.cpu_milli <= node.capacity.cpu_milli
                    && need.disk_bytes <= node.capacity.disk_bytes
                    && node.capacity.sandboxes > 0
            });
            let rejected = plan.reject.iter().any(|reject| reject.job == waiting.job);
            prop_assert_eq!(rejected, !ever && !snapshot.nodes.is_empty());
        }
    }

    #[test]
    fn inside_a_tenant_and_priority_equal_jobs_keep_their_order(snapshot in any_snapshot(), now in 0..200i64) {
        // All of one size and kind: then nothing may overtake.
        let mut snapshot = snapshot;
        for waiting in &mut snapshot.queue {
            waiting.need = Need { memory_bytes: GIB, cpu_milli: 100, disk_bytes: MIB };
            waiting.avoid.clear();
            waiting.backend = Backend::Sentry;
        }
        let plan = plan(&snapshot, at(now));
        let position: BTreeMap<JobId, usize> = plan.assign.iter().enumerate().map(|(at, a)| (a.job, at)).collect();
        for (index, first) in snapshot.queue.iter().enumerate() {
            for second in &snapshot.queue[index + 1..] {
                if first.tenant == second.tenant && first.priority == second.priority {
                    let places = (position.get(&first.job), position.get(&second.job));
                    prop_assert!(!matches!(places, (None, Some(_))));
                    if let (Some(a), Some(b)) = places {
                        prop_assert!(a < b);
                    }
                }
            }
        }
    }
}

proptest! {
    /// Whatever a tenant says of its jobs, the others get the same.
    #[test]
    fn priorities_take_nothing_from_other_tenants(
        snapshot in any_snapshot(),
        priorities in proptest::collection::vec(0..3usize, 120),
        now in 0..200i64,
    ) {
        let mut plain = snapshot;
        for waiting in &mut plain.queue {
            waiting.need = Need { memory_bytes: GIB, cpu_milli: 100, disk_bytes: MIB };
            waiting.avoid.clear();
            waiting.backend = Backend::Sentry;
            waiting.priority = Priority::Normal;
            waiting.created = at(0);
            waiting.weight = 1.0;
        }
        let mut pushed = plain.clone();
        for (waiting, priority) in pushed.queue.iter_mut().zip(priorities) {
            if waiting.tenant == tenant("t0") {
                waiting.priority = [Priority::Low, Priority::Normal, Priority::High][priority];
            }
        }
        let (before, after) = (plan(&plain, at(now)), plan(&pushed, at(now)));
        let owners = |plan: &Plan| plan.assign.iter().map(|a| (a.tenant.clone(), a.node.clone())).collect::<Vec<_>>();
        prop_assert_eq!(owners(&before), owners(&after));
        let others = |plan: &Plan| {
            plan.assign.iter().filter(|a| a.tenant != tenant("t0")).map(|a| a.job).collect::<Vec<_>>()
        };
        prop_assert_eq!(others(&before), others(&after));
    }

    /// However long a job waits, it has held a node for at most two thirds of the time.
    #[test]
    fn a_job_holds_a_node_for_at_most_two_thirds_of_its_wait(waited in 1..1_000_000u64) {
        let held = (0..20u32)
            .map(|turn| {
                let begin = RESERVE_AFTER.as_secs() << (2 * turn);
                waited.saturating_sub(begin).min(begin)
            })
            .sum::<u64>();
        prop_assert!(held * 3 <= waited * 2, "{held} of {waited} s");
        // The sum above is what the planner does.
        let turn = (0..20u32).any(|turn| {
            let begin = RESERVE_AFTER.as_secs() << (2 * turn);
            (begin..2 * begin).contains(&waited)
        });
        prop_assert_eq!(keeps_a_node(Duration::from_secs(waited)), turn);
    }
}

/// A node full of one tenant's short jobs, which always wait, and one job that needs the whole node. Answers with when
/// the big one ran, and the longest time in which nothing of the others began.
fn wait_for_the_whole_node(big: &WaitingJob, small_runs_for: i64) -> (i64, i64) {
    let mut ledger = Ledger::default();
    let mut running: Vec<i64> = Vec::new();
    let (mut last_small, mut longest_pause) = (0, 0);
    for second in 0..100_000 {
        running.retain(|end| *end > second);
        let mut n1 = node("n1", 8 * (GIB + 10 * MIB), 100);
        n1.used_memory_bytes = running.len() as u64 * (GIB + 10 * MIB);
        let mut queue: Vec<WaitingJob> =
            (0..8).map(|_| WaitingJob { created: at(second), ..job("small", GIB) }).collect();
        queue.push(big.clone());
        ledger.fade(at(second));
        let plan = plan(&Snapshot { queue, nodes: vec![n1], ledger: ledger.clone() }, at(second));
        if let Some(kept) = &plan.kept {
            assert_eq!((&kept.job, &kept.tenant), (&big.job, &big.tenant));
            ledger.charge(&kept.tenant, kept.share, Duration::from_secs(1));
        }
        for assign in &plan.assign {
            if assign.job == big.job {
                return (second, longest_pause);
            }
            longest_pause = longest_pause.max(second - last_small);
            last_small = second;
            // Not all at once: the node never empties by itself.
            running.push(second + small_runs_for + running.len() as i64 * small_runs_for / 8);
            ledger.charge(&assign.tenant, assign.share, Duration::from_secs(small_runs_for as u64));
        }
    }
    panic!("never ran");
}

#[test]
fn a_big_job_gets_its_node_and_starves_nobody_meanwhile() {
    let big = WaitingJob { priority: Priority::High, ..job("big", 8 * GIB) };
    for small_runs_for in [5, 60, 600] {
        let (ran, pause) = wait_for_the_whole_node(&big, small_runs_for);
        let bound = RESERVE_AFTER.as_secs() as i64 * 4 + small_runs_for * 16;
        assert!(ran <= bound, "ran after {ran} s among jobs of {small_runs_for} s");
        assert!(
            3 * pause <= 2 * ran.max(30) + 3 * 2 * small_runs_for,
            "nothing of others began for {pause} s of {ran}"
        );
    }
}

#[test]
fn what_lies_idle_for_a_big_job_is_charged_to_its_owner() {
    let mut busy = node("n1", 8 * GIB, 100);
    busy.used_memory_bytes = 2 * GIB;
    let queue = vec![job("big", 7 * GIB), job("small", GIB)];
    let kept = plan(&snapshot(queue.clone(), vec![busy.clone()]), at(10)).kept.expect("kept");
    assert_eq!((kept.job, kept.node.as_str(), kept.share), (queue[0].job, "n1", 0.75));
    let paused = plan(&snapshot(queue.clone(), vec![busy]), at(20));
    assert_eq!(paused.kept, None);
    assert_eq!(paused.assign.iter().map(|assign| assign.job).collect::<Vec<_>>(), [queue[1].job]);
}

/// Runs plans one after the other on one node, each job ending before the next plan, until `wanted` was assigned.
fn dispatches_until(wanted: JobId, queue: &mut Vec<WaitingJob>, ledger: &mut Ledger, room: usize) -> usize {
    let mut dispatched = 0;
    for round in 0..10_000 {
        let nodes = vec![node("n1", room as u64 * (GIB + 10 * MIB), 1000)];
        let snapshot = Snapshot { queue: queue.clone(), nodes, ledger: ledger.clone() };
        let plan = plan(&snapshot, at(round));
        ledger.fade(at(round));
        for assign in &plan.assign {
            dispatched += 1;
            if assign.job == wanted {
                return dispatched;
            }
            ledger.charge(&assign.tenant, assign.share, Duration::from_secs(1).max(MIN_CHARGE));
            queue.retain(|job| job.job != assign.job);
        }
    }
    panic!("never dispatched");
}

#[test]
fn a_flood_of_one_tenant_does_not_starve_another() {
    for room in [1, 4] {
        let mut queue: Vec<WaitingJob> = (0..1000).map(|_| job("flood", GIB)).collect();
        let mut ledger = Ledger::default();
        let last = queue[200].job;
        dispatches_until(last, &mut queue, &mut ledger, room);
        let one = job("quiet", GIB);
        let id = one.job;
        queue.push(one);
        let dispatched = dispatches_until(id, &mut queue, &mut ledger, room);
        assert!(dispatched <= 2, "{dispatched} dispatches with room for {room}");
    }
}

#[test]
fn shares_follow_weights_not_job_counts() {
    let mut queue: Vec<WaitingJob> = (0..400).map(|_| job("light", GIB)).collect();
    queue.extend((0..400).map(|_| WaitingJob { weight: 3.0, ..job("heavy", GIB) }));
    let mut ledger = Ledger::default();
    let mut counts: BTreeMap<TenantId, u32> = BTreeMap::new();
    for round in 0..200 {
        let nodes = vec![node("n1", GIB + 10 * MIB, 10)];
        let plan = plan(&Snapshot { queue: queue.clone(), nodes, ledger: ledger.clone() }, at(0));
        assert_eq!(plan.assign.len(), 1, "round {round}");
        let assign = &plan.assign[0];
        *counts.entry(assign.tenant.clone()).or_default() += 1;
        ledger.charge(&assign.tenant, assign.share, Duration::from_secs(1));
        queue.retain(|job| job.job != assign.job);
    }
    let (heavy, light) = (counts[&tenant("heavy")], counts[&tenant("light")]);
    assert!((148..=152).contains(&heavy), "{heavy} of weight 3 and {light} of weight 1");
}

#[test]
fn a_tenant_of_big_jobs_gets_fewer_of_them() {
    let mut queue: Vec<WaitingJob> = (0..200).map(|_| job("small", GIB)).collect();
    queue.extend((0..200).map(|_| job("big", 4 * GIB)));
    let plan = plan(&snapshot(queue, vec![node("n1", 41 * GIB, 1000)]), at(0));
    let count = |name: &str| plan.assign.iter().filter(|assign| assign.tenant == tenant(name)).count();
    let (small, big) = (count("small"), count("big"));
    assert!(small >= 4 * big - 4 && big >= 4, "{small} small, {big} big");
}

#[test]
fn higher_priorities_go_first_among_a_tenants_own_jobs() {
    let of = |owner, priority| WaitingJob { priority, ..job(owner, GIB) };
    let low = of("a", Priority::Low);
    let (normal, high) = (of("b", Priority::Normal), of("b", Priority::High));
    let assigned = |queue: Vec<WaitingJob>, used: &str, places: u64| {
        let mut ledger = Ledger::default();
        ledger.charge(&tenant(used), 1.0, Duration::from_secs(1000));
        let nodes = vec![node("n1", places * (GIB + 10 * MIB), 10)];
        let plan = plan(&Snapshot { queue, nodes, ledger }, at(0));
        plan.assign.iter().map(|assign| assign.job).collect::<Vec<_>>()
    };
    let queue = vec![low.clone(), normal.clone(), high.clone()];
    assert_eq!(assigned(queue.clone(), "a", 2), [high.job, normal.job]);
    // A tenant that has used much waits, whatever it says of its jobs.
    assert_eq!(assigned(queue, "b", 2), [low.job, high.job]);
}

#[test]
fn a_rejection_names_the_largest_node() {
    let nodes = vec![node("small", GIB, 1), node("large", 8 * GIB, 1), node("middle", 2 * GIB, 1)];
    let huge = job("a", 100 * GIB);
    let result = plan(&snapshot(vec![huge.clone()], nodes), at(0));
    assert_eq!(result.reject.len(), 1);
    let reason = &result.reject[0].reason;
    assert!(
        reason.contains("(large) offers 8182 MiB")
            && reason.contains("collected")
            && reason.contains("102400 MiB"),
        "{reason}"
    );
    assert_eq!(plan(&snapshot(vec![huge], vec![]), at(0)), Plan::default(), "with no node known, it waits");
}

#[test]
fn a_draining_node_gets_nothing_but_its_size_still_counts() {
    let mut draining = node("n1", 8 * GIB, 10);
    draining.available = false;
    let result = plan(&snapshot(vec![job("a", 4 * GIB)], vec![draining, node("n2", GIB, 10)]), at(0));
    assert_eq!(result, Plan::default());
}

#[test]
fn a_node_that_failed_a_job_is_avoided_while_another_exists() {
    let mut retried = job("a", GIB);
    retried.avoid = vec![NodeId::new("n1").expect("valid")];
    let both = vec![node("n1", 2 * GIB, 10), node("n2", 8 * GIB, 10)];
    let result = plan(&snapshot(vec![retried.clone()], both.clone()), at(0));
    assert_eq!(result.assign[0].node.as_str(), "n2");
    // Full now: it waits for the other one.
    let mut full = both;
    full[1].used_sandboxes = 10;
    assert!(plan(&snapshot(vec![retried.clone()], full), at(0)).assign.is_empty());
    let result = plan(&snapshot(vec![retried], vec![node("n1", 2 * GIB, 10)]), at(0));
    assert_eq!(result.assign[0].node.as_str(), "n1", "the only one");
}

#[test]
fn a_big_job_is_not_starved_by_small_ones() {
    // The node always has room for a small job, never for the big one, unless it is kept free.
    let mut busy = node("n1", 8 * GIB, 100);
    busy.used_memory_bytes = 4 * GIB;
    let big = job("big", 7 * GIB);
    let queue = vec![big.clone(), job("small", GIB), job("small", GIB)];
    let early = plan(&snapshot(queue.clone(), vec![busy.clone()]), at(1));
    assert_eq!(early.assign.len(), 2, "small ones run while it has not waited long");
    let late = at(0).after(RESERVE_AFTER);
    let kept = plan(&snapshot(queue.clone(), vec![busy.clone()]), late);
    assert!(kept.assign.is_empty() && kept.kept.is_some(), "the node is kept free");
    let mut other = node("n2", 2 * GIB, 100);
    other.used_memory_bytes = 0;
    let beside = plan(&snapshot(queue.clone(), vec![busy.clone(), other]), late);
    assert!(beside.assign.iter().all(|assign| assign.node.as_str() == "n2") && !beside.assign.is_empty());
    busy.used_memory_bytes = 0;
    assert_eq!(plan(&snapshot(queue, vec![busy]), late).assign[0].job, big.job);
}
