use std::collections::{BTreeMap, VecDeque};

use bulkhead_types::{Backend, NodeCapacity, SandboxOverhead, TenantId, Timestamp};

use crate::{
    Assign, CPU_OVERCOMMIT, Kept, Ledger, MIN_CHARGE, Need, Node, Plan, Reject, Snapshot, WaitingJob,
    keeps_a_node,
};

/// Decides about every job of the snapshot's queue: assign it, reject it, or (not in the plan) let it wait.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut planner = Planner {
        nodes: snapshot.nodes.clone(),
        kept: None,
        ledger: snapshot.ledger.clone(),
        plan: Plan::default(),
        now,
    };
    planner.ledger.fade(now);
    planner.place(by_tenant(&snapshot.queue));
    planner.plan
}

/// The queues of the tenants, each with its higher priorities first.
fn by_tenant(queue: &[WaitingJob]) -> BTreeMap<TenantId, VecDeque<&WaitingJob>> {
    let mut tenants: BTreeMap<TenantId, VecDeque<&WaitingJob>> = BTreeMap::new();
    for job in queue {
        tenants.entry(job.tenant.clone()).or_default().push_back(job);
    }
    for jobs in tenants.values_mut() {
        // Stable: equals stay as they came.
        jobs.make_contiguous().sort_by_key(|job| std::cmp::Reverse(job.priority));
    }
    tenants
}

struct Planner {
    nodes: Vec<Node>,
    /// The node that is kept free for a job that has waited long.
    kept: Option<usize>,
    ledger: Ledger,
    plan: Plan,
    now: Timestamp,
}

impl Planner {
    fn place(&mut self, mut tenants: BTreeMap<TenantId, VecDeque<&WaitingJob>>) {
        while let Some(tenant) = self.next_tenant(&tenants) {
            let Some(queue) = tenants.get_mut(&tenant) else { return };
            let Some(job) = queue.pop_front() else { return };
            if queue.is_empty() {
                tenants.remove(&tenant);
            }
            self.place_one(job);
        }
    }

    /// The one with the least use for its weight; the first by name among equals.
    fn next_tenant(&self, tenants: &BTreeMap<TenantId, VecDeque<&WaitingJob>>) -> Option<TenantId> {
        let use_of = |tenant: &TenantId, queue: &VecDeque<&WaitingJob>| {
            let weight = queue.front().map_or(1.0, |job| job.weight);
            self.ledger.used(tenant) / if weight > 0.0 { weight } else { f64::MIN_POSITIVE }
        };
        let least = tenants.iter().min_by(|a, b| use_of(a.0, a.1).total_cmp(&use_of(b.0, b.1)));
        least.map(|(tenant, _)| tenant.clone())
    }

    fn place_one(&mut self, job: &WaitingJob) {
        // With no node known, jobs wait: one will come.
        if self.nodes.is_empty() {
            return;
        }
        if !self.nodes.iter().any(|node| node.could_hold(job)) {
            self.plan.reject.push(Reject { job: job.job, reason: too_large(job, &self.nodes) });
            return;
        }
        let share = job.need.dominant_share(&self.nodes);
        match self.choose(job) {
            Some(index) => {
                let node = &mut self.nodes[index];
                node.promise(job);
                self.plan.assign.push(Assign {
                    job: job.job,
                    tenant: job.tenant.clone(),
                    node: node.node.clone(),
                    memory_bytes: node.memory_for(job),
                    share,
                });
                self.ledger.charge(&job.tenant, share, MIN_CHARGE);
            }
            None => self.keep_a_node(job),
        }
    }

    /// The available nodes that could hold a job if they were empty, without those that failed it, unless there are no
    /// others.
    fn candidates(&self, job: &WaitingJob) -> impl Iterator<Item = (usize, &Node)> {
        let holds = |node: &Node| node.available && node.could_hold(job);
        let avoids = |node: &Node| job.avoid.contains(&node.node);
        let others_exist = self.nodes.iter().any(|node| holds(node) && !avoids(node));
        self.nodes.iter().enumerate().filter(move |(_, node)| holds(node) && !(others_exist && avoids(node)))
    }

    /// The candidate with room that has the least memory left over.
    fn choose(&self, job: &WaitingJob) -> Option<usize> {
        self.candidates(job)
            .filter(|(index, node)| Some(*index) != self.kept && node.has_room(job))
            .min_by_key(|(_, node)| (node.free_memory(), &node.node))
            .map(|(index, _)| index)
    }

    /// For the first job of the plan that has waited too long: the node that lacks least.
    fn keep_a_node(&mut self, job: &WaitingJob) {
        if self.kept.is_some() || !keeps_a_node(self.now.since(job.created)) {
            return;
        }
        let free = |node: &Node| (node.free_memory(), std::cmp::Reverse(node.node.clone()));
        let best = self.candidates(job).max_by_key(|(_, node)| free(node));
        self.kept = best.map(|(index, _)| index);
        let Some(node) = self.kept.map(|index| &self.nodes[index]) else { return };
        let idle = Need { memory_bytes: node.free_memory(), cpu_milli: 0, disk_bytes: 0 };
        self.plan.kept = Some(Kept {
            job: job.job,
            tenant: job.tenant.clone(),
            node: node.node.clone(),
            share: idle.dominant_share(&self.nodes),
        });
    }
}

impl Node {
    /// What a sandbox that a job asks for adds; none if there is none here.
    fn overhead_for(&self, job: &WaitingJob) -> Option<SandboxOverhead> {
        match job.backend {
            Backend::Auto | Backend::Sentry => Some(self.overhead),
            Backend::Microvm => self.microvm,
        }
    }

    /// What a job's memory costs here, in bytes.
    fn memory_for(&self, job: &WaitingJob) -> u64 {
        let limit = job.need.memory_bytes;
        let overhead = self.overhead_for(job).map_or(0, |overhead| overhead.beside(limit));
        limit.saturating_add(overhead)
    }

    fn free_memory(&self) -> u64 {
        self.capacity.memory_bytes.saturating_sub(self.used_memory_bytes)
    }

    /// Whether it could, if nothing else ran here.
    fn could_hold(&self, job: &WaitingJob) -> bool {
        let NodeCapacity { memory_bytes, cpu_milli, disk_bytes, sandboxes } = self.capacity;
        let need = &job.need;
        self.overhead_for(job).is_some()
            && self.memory_for(job) <= memory_bytes
            && need.cpu_milli <= cpu_milli
            && need.disk_bytes <= disk_bytes
            && sandboxes > 0
    }

    fn has_room(&self, job: &WaitingJob) -> bool {
        let need = &job.need;
        let fits =
            |used: u64, more: u64, capacity: u64| used.checked_add(more).is_some_and(|sum| sum <= capacity);
        self.could_hold(job)
            && fits(self.used_memory_bytes, self.memory_for(job), self.capacity.memory_bytes)
            && fits(
                self.used_cpu_milli,
                need.cpu_milli,
                self.capacity.cpu_milli.saturating_mul(CPU_OVERCOMMIT),
            )
            && fits(self.used_disk_bytes, need.disk_bytes, self.capacity.disk_bytes)
            && fits(self.used_sandboxes, 1, self.capacity.sandboxes)
    }

    fn promise(&mut self, job: &WaitingJob) {
        let need = &job.need;
        self.used_memory_bytes += self.memory_for(job);
        self.used_cpu_milli += need.cpu_milli;
        self.used_disk_bytes += need.disk_bytes;
        self.used_sandboxes += 1;
    }
}

fn too_large(job: &WaitingJob, nodes: &[Node]) -> String {
    let need = &job.need;
    let offering =
        nodes.iter().filter_map(|node| Some((node, node.overhead_for(job)?.beside(need.memory_bytes))));
    let Some((largest, overhead)) = offering.max_by_key(|(node, overhead)| {
        let NodeCapacity { memory_bytes, cpu_milli, disk_bytes, sandboxes } = node.capacity;
        (sandboxes > 0, memory_bytes.saturating_sub(*overhead), cpu_milli, disk_bytes)
    }) else {
        return format!("no node offers the backend {}", job.backend.runs_on());
    };
    format!(
        "no node could ever hold this job: it needs {} MiB of memory, {} m of CPU and {} MiB of disk (for its files, \
         the copies that are collected and what it prints); the largest node ({}) offers {} MiB, {} m and {} MiB",
        need.memory_bytes.div_ceil(1 << 20),
        need.cpu_milli,
        need.disk_bytes.div_ceil(1 << 20),
        largest.node,
        largest.capacity.memory_bytes.saturating_sub(overhead) >> 20,
        largest.capacity.cpu_milli,
        largest.capacity.disk_bytes >> 20,
    )
}
