//! Hundreds of jobs, with sandboxes and the worker killed in between: nothing of it accumulates.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_client::v1;

use super::support::{
    PATIENCE, Service, Tenant, alone, children, command_of, descriptors, eventually, kill, milliseconds,
    shell, skipped,
};

/// Jobs of the round that everything is compared with.
const FEW: usize = 20;
/// Jobs of the round that must leave no more than the first.
const MANY: usize = 300;
/// A job that a kill takes down is tried again this often, so that most succeed.
const ATTEMPTS: u32 = 10;
/// Longest pause between two kills, in milliseconds.
const PAUSE: u64 = 150;
/// The same, in milliseconds, when fewer than [`JOBS_FOR_A_KILL`] jobs are left for each kill.
const PAUSE_WHEN_LATE: u64 = 40;
/// A kill finds a running job among so many.
const JOBS_FOR_A_KILL: usize = 4;
/// How long what ends by itself may take before it counts as left.
const SETTLE: Duration = Duration::from_secs(30);
/// Warm sandboxes of a service without jobs.
const AT_REST: usize = 2;
/// Connections to the database that the service may have at once.
const CONNECTIONS: usize = 40;

/// Tables that hold no job's own history once the jobs are deleted. `request_ids` is kept for a day on purpose.
const TABLES: [&str; 11] = [
    "tenants",
    "blobs",
    "images",
    "jobs",
    "job_events",
    "job_blobs",
    "nodes",
    "attempts",
    "leases",
    "output_streams",
    "output_chunks",
];

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// How many there are of each thing, by name.
type Counts = BTreeMap<String, usize>;

fn count_files(folder: &Path, counts: &mut Counts, data: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(data).unwrap_or(&path).display().to_string();
        // PostgreSQL's own files are its own; what they hold is counted as rows.
        if name == "postgres" {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count_files(&path, counts, data);
        }
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        *counts.entry(format!("files in {folder}/")).or_insert(0) += 1;
    }
}

/// Notes of sandboxes of other services, whose groups are not ours to count.
fn foreign_sandboxes(data: &Path) -> Vec<String> {
    let data = data.display().to_string();
    let notes = fs::read_dir("/run/bulkhead/sandboxes").into_iter().flatten().flatten();
    let foreign = notes.filter(|note| !fs::read_to_string(note.path()).unwrap_or_default().contains(&data));
    foreign.map(|note| note.file_name().to_string_lossy().into_owned()).collect()
}

fn count_groups(data: &Path) -> usize {
    let foreign = foreign_sandboxes(data);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let points =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let groups =
        points.flat_map(|point| fs::read_dir(Path::new(point).join("bulkhead")).into_iter().flatten());
    let folders = groups.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter(|entry| !foreign.contains(&entry.file_name().to_string_lossy().into_owned())).count()
}

fn count_processes(pid: i32, except: i32) -> usize {
    children(pid)
        .into_iter()
        .filter(|child| *child != except)
        .map(|child| 1 + count_processes(child, except))
        .sum()
}

fn count(service: &Service) -> Counts {
    let mut counts = Counts::new();
    count_files(service.data(), &mut counts, service.data());
    let notes = fs::read_dir("/run/bulkhead/sandboxes").into_iter().flatten().flatten().count();
    counts.insert("notes".into(), notes - foreign_sandboxes(service.data()).len().min(notes));
    counts.insert("control groups".into(), count_groups(service.data()));
    counts.insert("processes".into(), count_processes(service.serve_pid(), service.postgres_pid()));
    for (name, pid) in [("control", service.control_pid()), ("worker", service.worker_pid())] {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        counts.insert(format!("mounts of {name}"), mounts.lines().count());
        for (kind, number) in descriptors(pid) {
            counts.insert(format!("{kind} of {name}"), number);
        }
    }
    // The service opens and closes connections to its database as it needs them, up to a bound of its own.
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bulkhead%'";
    let connections: usize = service.sql(connections)[0].parse().expect("a number");
    assert!(connections <= CONNECTIONS, "{connections} connections to the database");
    if let Some(sockets) = counts.get_mut("socket of control") {
        *sockets = sockets.saturating_sub(connections);
    }
    for table in TABLES {
        let rows = service.sql(&format!("SELECT count(*) FROM {table}"));
        counts.insert(format!("rows of {table}"), rows[0].parse().expect("a number"));
    }
    counts
}

fn job() -> v1::JobSpec {
    let limits = v1::Limits {
        memory_bytes: 64 << 20,
        // Eight at once on two cores: the jobs must last longer than the kills.
        cpu_milli: 1000,
        wall_time: milliseconds(60_000),
        ..Default::default()
    };
    let retry_policy = Some(v1::RetryPolicy { max_attempts: ATTEMPTS, ..Default::default() });
    v1::JobSpec {
        limits: Some(limits),
        retry_policy,
        ..shell("echo begin > /tmp/file; sleep 0.3; cat /tmp/file; echo end")
    }
}

/// Runs so many jobs with kills in between, checks every one, and deletes them.
fn round(service: &Service, tenant: &Tenant<'_>, random: &mut Random, jobs: usize, kills: [usize; 2]) {
    let names: Vec<String> = (0..jobs).map(|_| tenant.submit(job())).collect();
    let [mut of_sentries, mut of_worker] = kills;
    let deadline = Instant::now() + PATIENCE * 2;
    let waiting = "SELECT count(*) FROM jobs WHERE ended_us IS NULL";
    loop {
        let left: usize = service.sql(waiting)[0].parse().expect("a number");
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the jobs do not end");
        // On a fast machine the kills would come too late: they hurry when few jobs are left for them.
        let late = left < jobs.min(JOBS_FOR_A_KILL * (of_sentries + of_worker));
        std::thread::sleep(Duration::from_millis(random.below(if late { PAUSE_WHEN_LATE } else { PAUSE })));
        let sentries = service.sentries();
        if sentries.is_empty() {
            continue;
        }
        if of_worker > 0 && (of_sentries == 0 || random.below(3) == 0) {
            of_worker -= 1;
            kill(service.worker_pid());
        } else if of_sentries > 0 {
            of_sentries -= 1;
            let index = random.below(sentries.len() as u64) as usize;
            kill(sentries[index]);
        }
    }
    assert!(
        of_sentries * 2 <= kills[0] && of_worker * 2 <= kills[1],
        "the jobs ended before most kills came"
    );
    // One that collects a file: the worker opens the connection that it does this with at its first use.
    let mut collecting = shell("echo out > /tmp/out");
    let glob = Some(v1::output_spec::Kind::Glob("/tmp/out".to_owned()));
    collecting.outputs = vec![v1::OutputSpec { kind: glob }];
    let collecting = tenant.submit(collecting);
    assert_eq!(tenant.wait(&collecting).state(), v1::State::Succeeded);
    tenant.delete(&collecting);
    service.assert_each_job_ended_once();
    let mut lost = 0;
    for name in &names {
        let job = tenant.get(name);
        match job.state() {
            v1::State::Succeeded => assert_eq!(tenant.output(name)[0], b"begin\nend\n", "{job:?}"),
            v1::State::Lost => lost += 1,
            other => panic!("{name} ended {}: {}", other.as_str_name(), job.reason),
        }
        tenant.delete(name);
    }
    assert!(lost * 10 <= jobs, "{lost} of {jobs} jobs were lost");
}

#[test]
fn three_hundred_jobs_and_random_kills_leave_what_twenty_leave() {
    if skipped("three_hundred_jobs_and_random_kills_leave_what_twenty_leave") {
        return;
    }
    let _host = alone();
    let seed =
        std::env::var("BULKHEAD_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            now.as_nanos() as u64 | 1
        });
    println!("seed: BULKHEAD_TEST_SEED={seed}");
    let mut random = Random(seed);
    let service = Service::start();
    let tenant = service.tenant("acme");
    round(&service, &tenant, &mut random, FEW, [2, 1]);
    let after_few = settled(&service, None);
    let begin = Instant::now();
    round(&service, &tenant, &mut random, MANY, [60, 6]);
    println!("{MANY} jobs in {:.1} s", begin.elapsed().as_secs_f64());
    let after_many = settled(&service, Some(&after_few));
    let differ: Vec<String> = after_few
        .keys()
        .chain(after_many.keys())
        .filter(|key| after_few.get(*key) != after_many.get(*key))
        .map(|key| {
            format!("{key}: {:?} after {FEW}, {:?} after {MANY}", after_few.get(key), after_many.get(key))
        })
        .collect();
    let processes: Vec<String> = children(service.worker_pid()).into_iter().map(command_of).collect();
    assert!(differ.is_empty(), "{}\nprocesses of the worker: {processes:?}", differ.join("\n"));
    drop(tenant);
    service.stop();
}

/// The counts once they stay the same, or once they are as expected.
fn settled(service: &Service, expected: Option<&Counts>) -> Counts {
    // What was held ready for the jobs that were wanted at once is given up some seconds after them.
    eventually("the pool rests", || service.sentries().len() == AT_REST);
    let deadline = Instant::now() + SETTLE;
    let mut last = Counts::new();
    let mut same = 0;
    loop {
        let counts = count(service);
        same = if counts == last { same + 1 } else { 0 };
        let good = expected.map_or(same >= 5, |expected| *expected == counts);
        if good || Instant::now() > deadline {
            return counts;
        }
        last = counts;
        std::thread::sleep(Duration::from_millis(500));
    }
}
