//! One of each kind of thing that can be left is planted; each is found by name, and removed; what lives is left alone.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use bulkhead_jail::cgroup::{GroupLimits, Hierarchy, SandboxGroups};
use bulkhead_sandbox::leftovers::{Kind, Search, reap};
use bulkhead_sandbox::{ProcessIdentity, SandboxRecord};

struct Place {
    directory: tempfile::TempDir,
    search: Search,
}

fn place(name: &str) -> Place {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().canonicalize().expect("is there").join(name);
    for name in ["run", "data/scratch", "data/spool", "data/postgres/data"] {
        fs::create_dir_all(path(name)).expect("directory");
    }
    let search = Search {
        run_directory: path("run"),
        cgroup_name: format!("bulkhead-test-{name}-{}", std::process::id()),
        data_directories: vec![path("data")],
        // Short enough for the name of a network device, which has 15 characters.
        prefix: format!("bh{}{}", &name[..2], std::process::id()),
    };
    Place { directory, search }
}

fn limits() -> GroupLimits {
    GroupLimits { memory_bytes: 64 << 20, reserve_bytes: 0, cpu_milli: 1000, job_tasks: 16, sentry_tasks: 16 }
}

fn groups(search: &Search, id: &str) -> SandboxGroups {
    let hierarchy = Hierarchy::detect_named(&search.cgroup_name).expect("controllers");
    SandboxGroups::create(&hierarchy, id, &limits()).expect("creates")
}

fn dead_owner() -> ProcessIdentity {
    ProcessIdentity { pid: 1, started_ticks: u64::MAX }
}

fn note(search: &Search, id: &str, owner: ProcessIdentity) -> PathBuf {
    let scratch = search.data_directories[0].join("scratch").join(id);
    fs::create_dir(&scratch).expect("scratch directory");
    let record =
        SandboxRecord { id: id.into(), owner, scratch: scratch.clone(), cgroup: search.cgroup_name.clone() };
    record.write(&search.run_directory).expect("writes");
    scratch
}

fn sleeper_in(groups: &SandboxGroups) -> Child {
    let child = Command::new("sleep").arg("600").spawn().expect("starts");
    for fd in groups.job_join().expect("opens") {
        fs::File::from(fd).write_all(child.id().to_string().as_bytes()).expect("moves");
    }
    child
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().expect("starts").success(), "{program} {args:?}");
}

fn plant_mounts(search: &Search) {
    let at = search.run_directory.join("mount");
    fs::create_dir(&at).expect("directory");
    rustix::mount::mount("none", &at, "tmpfs", rustix::mount::MountFlags::empty(), None).expect("mounts");
    let at = search.run_directory.join("namespace");
    fs::write(&at, "").expect("file");
    rustix::mount::mount_bind("/proc/self/ns/uts", &at).expect("binds");
}

fn has(search: &Search, kind: Kind, word: &str) -> bool {
    search.find().iter().any(|l| l.kind == kind && l.what.contains(word))
}

#[test]
fn each_kind_is_found_named_and_removed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: each_kind_is_found_named_and_removed: needs root");
        return;
    }
    let Place { directory, search } = place("each");
    assert_eq!(search.find(), []);

    let dead = groups(&search, "dead");
    let mut process = sleeper_in(&dead);
    dead.leave();
    note(&search, "dead", dead_owner());
    plant_mounts(&search);
    drop(UnixListener::bind(search.run_directory.join("socket")).expect("binds"));
    let live_socket = UnixListener::bind(search.run_directory.join("live-socket")).expect("binds");
    let shm = Path::new("/dev/shm").join(format!("{}-object", search.prefix));
    fs::write(&shm, "x").expect("shared memory");
    run("ip", &["link", "add", &search.prefix, "type", "bridge"]);
    fs::create_dir(search.data_directories[0].join("spool/attempt")).expect("spool");
    let mut cluster = Command::new("perl")
        .arg0("postgres")
        .args(["-e", "sleep 600", "--", "-D"])
        .arg(search.data_directories[0].join("postgres/data"))
        .spawn()
        .expect("starts");

    // What lives beside it.
    let live = groups(&search, "live");
    let mut live_process = sleeper_in(&live);
    let live_scratch = note(&search, "live", ProcessIdentity::current().expect("proc"));

    let pid = process.id().to_string();
    let cluster_pid = cluster.id().to_string();
    // The interpreter takes a moment to become what its command line says.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !has(&search, Kind::Postgres, &cluster_pid) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for (kind, word) in [
        (Kind::Process, pid.as_str()),
        (Kind::Cgroup, "/dead"),
        (Kind::Mount, "run/mount"),
        (Kind::Namespace, "run/namespace"),
        (Kind::Socket, "run/socket"),
        (Kind::File, "scratch/dead"),
        (Kind::File, "sandboxes/dead"),
        (Kind::File, "spool/attempt"),
        (Kind::SharedMemory, search.prefix.as_str()),
        (Kind::NetworkDevice, search.prefix.as_str()),
        (Kind::Postgres, cluster_pid.as_str()),
    ] {
        assert!(has(&search, kind, word), "{kind:?} {word}: {:#?}", search.find());
    }
    let found = search.find();
    assert_eq!(found.len(), 11, "{found:#?}");
    assert!(found.iter().all(|l| !l.what.contains("live")), "{found:#?}");

    for leftover in found {
        // Those that others of them took along are gone already, which is fine.
        leftover.clean().unwrap_or_else(|why| panic!("{leftover:?}: {why}"));
    }
    assert_eq!(search.find(), []);
    process.wait().expect("was killed");
    cluster.wait().expect("was stopped");
    assert!(live_process.try_wait().expect("asks").is_none(), "a live sandbox's process was killed");
    assert!(live_scratch.is_dir() && live.exists());
    drop(live_socket);
    live_process.kill().expect("kills");
    live_process.wait().expect("waits");
    live.remove(std::time::Duration::from_secs(5)).expect("removes");
    Hierarchy::detect_named(&search.cgroup_name).expect("controllers").remove_if_empty();
    drop(directory);
}

#[test]
fn a_worker_reaps_dead_sandboxes_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a_worker_reaps_dead_sandboxes_and_nothing_else: needs root");
        return;
    }
    let Place { directory, search } = place("reap");
    let dead = groups(&search, "dead");
    let mut process = sleeper_in(&dead);
    dead.leave();
    let scratch = note(&search, "dead", dead_owner());
    let spool = search.data_directories[0].join("spool/attempt");
    fs::create_dir(&spool).expect("spool");
    let (removed, stays) = reap(&search);
    assert_eq!(stays, Vec::<String>::new());
    let kinds: Vec<Kind> = removed.iter().map(|l| l.kind).collect();
    assert_eq!(kinds, [Kind::Process, Kind::Cgroup, Kind::File, Kind::File]);
    process.wait().expect("was killed");
    assert!(!scratch.exists() && spool.exists());
    Hierarchy::detect_named(&search.cgroup_name).expect("controllers").remove_if_empty();
    drop(directory);
}
