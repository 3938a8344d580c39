//! The cases. Each runs on a host whose counts must be the same before and after.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use bulkhead_sandbox::{
    Backend, CollectedOutput, Controller, CreateRequest, Events, Finished, ImageFiles, Input, Job,
    MachineStatistics, Sandbox, SandboxError, SandboxRecord, SentryBackend,
};
use bulkhead_types::{AttemptState, Limits, OutputSpec, SandboxId, Termination};

use crate::host::TestHost;

pub(crate) type Case = (&'static str, fn(&TestHost));

pub(crate) const ALL: &[Case] = &[
    ("a_job_runs_and_leaves_nothing", a_job_runs_and_leaves_nothing),
    ("a_warm_sandbox_that_is_dropped_leaves_nothing", a_warm_sandbox_that_is_dropped_leaves_nothing),
    ("out_of_memory", out_of_memory),
    ("wall_time_ends_a_job_that_waits", wall_time_ends_a_job_that_waits),
    ("cpu_time_ends_a_job_that_spins", cpu_time_ends_a_job_that_spins),
    ("cancel_while_running", cancel_while_running),
    ("cancel_before_running", cancel_before_running),
    ("output_limit_kills_at_once", output_limit_kills_at_once),
    ("a_signal_reaches_the_job", a_signal_reaches_the_job),
    ("a_sentry_that_does_not_obey_is_killed", a_sentry_that_does_not_obey_is_killed),
    ("a_sentry_that_dies_is_told_with_its_last_words", a_sentry_that_dies_is_told_with_its_last_words),
    ("a_sentry_killed_from_outside_is_told", a_sentry_killed_from_outside_is_told),
    ("a_sentry_that_can_not_jail_itself_starts_nothing", a_sentry_that_can_not_jail_itself_starts_nothing),
    (
        "a_refused_image_and_a_refused_input_are_told_apart",
        a_refused_image_and_a_refused_input_are_told_apart,
    ),
    ("a_limit_that_can_not_be_set_is_named", a_limit_that_can_not_be_set_is_named),
    ("inputs_and_outputs_pass", inputs_and_outputs_pass),
    ("unsupported_calls_decide", unsupported_calls_decide),
    ("a_killed_launcher_takes_its_sandboxes_along", a_killed_launcher_takes_its_sandboxes_along),
    ("sixty_sandboxes_one_after_the_other_leave_nothing", sixty_sandboxes_leave_nothing),
];

/// Collects what a sandbox tells.
#[derive(Default)]
pub(crate) struct Listener {
    started: Option<Sender<Arc<dyn Controller>>>,
    controller: Option<Arc<dyn Controller>>,
    outputs: BTreeMap<Vec<u8>, (u32, bool, Vec<u8>)>,
    refuse: bool,
    pub(crate) machine: Option<MachineStatistics>,
}

impl Events for Listener {
    fn started(&mut self) {
        if let (Some(started), Some(controller)) = (self.started.take(), self.controller.take()) {
            started.send(controller).expect("somebody waits");
        }
    }

    fn output(&mut self, output: CollectedOutput) -> io::Result<Box<dyn Write + '_>> {
        if self.refuse && output.is_directory {
            return Err(io::Error::other("no room"));
        }
        let entry = self.outputs.entry(output.path).or_default();
        (entry.0, entry.1) = (output.mode, output.is_directory);
        Ok(Box::new(&mut entry.2))
    }

    fn machine_statistics(&mut self, statistics: MachineStatistics) {
        self.machine = Some(statistics);
    }
}

pub(crate) fn limits() -> Limits {
    Limits { memory_bytes: 64 << 20, wall_time_ms: 60_000, cpu_time_ms: 60_000, ..Limits::default() }
}

pub(crate) struct Streams {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

pub(crate) fn job(argv: &[&str]) -> (Job, Streams) {
    let (stdout, out) = io::pipe().expect("pipe");
    let (stderr, err) = io::pipe().expect("pipe");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let job = Job {
        image: ImageFiles { public: PathBuf::from("/dev/null"), private: None },
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: Vec::new(),
        working_directory: "/".into(),
        user: String::new(),
        hostname: "test".into(),
        stdin: null.into(),
        stdout: out.into(),
        stderr: err.into(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        grace_period_ms: 100,
    };
    (job, Streams { stdout: stdout.into(), stderr: stderr.into() })
}

pub(crate) fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).expect("reads");
    bytes
}

fn create(backend: &SentryBackend, limits: Limits) -> Box<dyn Sandbox> {
    backend.create(&CreateRequest { id: SandboxId::generate(), limits }).expect("creates")
}

fn run(host: &TestHost, limits: Limits, argv: &[&str]) -> Result<Finished, SandboxError> {
    let (job, _streams) = job(argv);
    create(&host.backend(), limits).run(job, &mut Listener::default())
}

/// Runs a job and lets `act` use its controller once it has started.
fn run_and(host: &TestHost, argv: &[&str], act: fn(&dyn Controller)) -> Result<Finished, SandboxError> {
    let sandbox = create(&host.backend(), limits());
    let (send, receive) = channel();
    let mut listener =
        Listener { started: Some(send), controller: Some(sandbox.controller()), ..Listener::default() };
    let actor = std::thread::spawn(move || act(receive.recv().expect("starts").as_ref()));
    let (job, _streams) = job(argv);
    let finished = sandbox.run(job, &mut listener);
    actor.join().expect("acts");
    finished
}

fn a_job_runs_and_leaves_nothing(host: &TestHost) {
    let (job, streams) = job(&["exit", "3"]);
    let sandbox = create(&host.backend(), limits());
    assert_eq!(SandboxRecord::all(&host.run_directory()).len(), 1);
    let finished = sandbox.run(job, &mut Listener::default()).expect("runs");
    assert_eq!(finished.state, AttemptState::Failed);
    assert_eq!(finished.termination, Some(Termination::Exited(3)));
    assert_eq!(finished.reason, "exited with status 3");
    assert!(finished.usage.wall_us > 0 && finished.usage.peak_memory_bytes > 0, "{:?}", finished.usage);
    assert!(finished.usage.cpu_user_us + finished.usage.cpu_system_us > 0, "{:?}", finished.usage);
    assert_eq!(finished.top_syscalls[0].name, "read");
    // Nothing holds the streams open any more, and nothing was added to them.
    assert_eq!((read_all(streams.stdout), read_all(streams.stderr)), (b"out".to_vec(), b"err".to_vec()));
    assert_eq!(run(host, limits(), &["exit", "0"]).expect("runs").state, AttemptState::Succeeded);
}

fn a_warm_sandbox_that_is_dropped_leaves_nothing(host: &TestHost) {
    let backend = host.backend();
    let warm: Vec<_> = (0..5).map(|_| create(&backend, limits())).collect();
    assert_eq!(backend.hierarchy().sandboxes().len(), 5);
    drop(warm);
}

fn out_of_memory(host: &TestHost) {
    let finished = run(host, limits(), &["hog"]).expect("runs");
    assert_eq!(finished.state, AttemptState::OutOfMemory, "{finished:?}");
    assert_eq!(finished.usage.oom_kills, 1);
    assert!(
        finished.reason.starts_with("hit its memory limit of 64 MiB: 1 process killed, peak "),
        "{}",
        finished.reason
    );
    assert!(finished.usage.peak_memory_bytes > 32 << 20, "{finished:?}");
}

fn wall_time_ends_a_job_that_waits(host: &TestHost) {
    let finished = run(host, Limits { wall_time_ms: 200, ..limits() }, &["sleep"]).expect("runs");
    assert_eq!(finished.state, AttemptState::TimedOut, "{finished:?}");
    assert_eq!(finished.termination, Some(Termination::Signaled(15)));
    assert!(finished.reason.contains("wall time limit of 0.2 s"), "{}", finished.reason);
}

fn cpu_time_ends_a_job_that_spins(host: &TestHost) {
    let finished = run(host, Limits { cpu_time_ms: 200, ..limits() }, &["spin"]).expect("runs");
    assert_eq!(finished.state, AttemptState::TimedOut, "{finished:?}");
    assert!(finished.reason.contains("cpu time limit is 0.2 s"), "{}", finished.reason);
    assert!(finished.usage.cpu_user_us >= 150_000, "{finished:?}");
}

fn cancel_while_running(host: &TestHost) {
    let finished = run_and(host, &["sleep"], |c| {
        c.cancel();
        c.cancel();
    })
    .expect("runs");
    assert_eq!(finished.state, AttemptState::Cancelled, "{finished:?}");
    assert_eq!(finished.termination, Some(Termination::Signaled(15)));
}

fn cancel_before_running(host: &TestHost) {
    let sandbox = create(&host.backend(), limits());
    sandbox.controller().cancel();
    let (job, _streams) = job(&["sleep"]);
    let finished = sandbox.run(job, &mut Listener::default()).expect("has an outcome");
    assert_eq!((finished.state, finished.termination), (AttemptState::Cancelled, None));
}

fn output_limit_kills_at_once(host: &TestHost) {
    let finished = run_and(host, &["sleep"], |c| c.output_limit_reached()).expect("runs");
    assert_eq!(finished.state, AttemptState::OutputLimit, "{finished:?}");
    assert_eq!(finished.termination, Some(Termination::Signaled(9)));
}

fn a_signal_reaches_the_job(host: &TestHost) {
    let finished = run_and(host, &["sleep"], |c| {
        c.signal(0);
        c.signal(65);
        c.signal(10);
    })
    .expect("runs");
    assert_eq!(finished.state, AttemptState::Signaled);
    assert_eq!(finished.reason, "ended by signal 10 (SIGUSR1)");
}

fn a_sentry_that_does_not_obey_is_killed(host: &TestHost) {
    let started = Instant::now();
    let finished = run_and(host, &["deaf"], |c| c.cancel()).expect("has an outcome");
    assert_eq!((finished.state, finished.termination), (AttemptState::Cancelled, None));
    assert!(started.elapsed() < Duration::from_secs(60), "only the job's own end ended it");
}

pub(crate) fn died(result: Result<Finished, SandboxError>) -> String {
    match result {
        Err(SandboxError::Died(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn a_sentry_that_dies_is_told_with_its_last_words(host: &TestHost) {
    let text = died(run(host, limits(), &["die-before-start"]));
    assert!(text.contains("exited with status 7") && text.contains("about to fall over"), "{text}");
}

fn a_sentry_killed_from_outside_is_told(host: &TestHost) {
    let backend = host.backend();
    let sandbox = create(&backend, limits());
    let id = sandbox.id().to_string();
    let (send, receive) = channel();
    let mut listener =
        Listener { started: Some(send), controller: Some(sandbox.controller()), ..Listener::default() };
    let hierarchy = backend.hierarchy().clone();
    let killer = std::thread::spawn(move || {
        receive.recv().expect("starts");
        let groups = bulkhead_jail::cgroup::SandboxGroups::adopt(&hierarchy, &id).expect("a name");
        groups.kill(Duration::from_secs(10)).expect("kills");
        groups.leave();
    });
    let (job, _streams) = job(&["sleep"]);
    let text = died(sandbox.run(job, &mut listener));
    killer.join().expect("kills");
    assert!(text.contains("killed by signal 9"), "{text}");
}

fn a_sentry_that_can_not_jail_itself_starts_nothing(host: &TestHost) {
    let mut options = host.options();
    options.mediated_memory = true;
    let backend = SentryBackend::new(options).expect("root");
    match backend.create(&CreateRequest { id: SandboxId::generate(), limits: limits() }).err() {
        Some(SandboxError::Host(text)) => assert_eq!(text, "no namespaces here"),
        other => panic!("{other:?}"),
    }
    let mut options = host.options();
    options.program = "/bin/false".into();
    let backend = SentryBackend::new(options).expect("root");
    match backend.create(&CreateRequest { id: SandboxId::generate(), limits: limits() }).err() {
        Some(SandboxError::Died(text)) => assert!(text.contains("exited with status 1"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut options = host.options();
    options.program = "/nowhere".into();
    assert!(matches!(SentryBackend::new(options).err(), Some(SandboxError::Host(_))));
}

fn a_refused_image_and_a_refused_input_are_told_apart(host: &TestHost) {
    match run(host, limits(), &["refuse-start"]) {
        Err(SandboxError::Step { step: "reading the image", source }) => {
            assert_eq!(source.to_string(), "the image is torn");
        }
        other => panic!("{other:?}"),
    }
    let (mut job, _streams) = job(&["exit", "0"]);
    job.inputs.push(Input::Archive { directory: "/in".into(), source: Box::new(io::repeat(7)) });
    match create(&host.backend(), limits()).run(job, &mut Listener::default()) {
        Err(SandboxError::Input(text)) => assert_eq!(text, "archive too large"),
        other => panic!("{other:?}"),
    }
}

fn a_limit_that_can_not_be_set_is_named(host: &TestHost) {
    let mut options = host.options();
    options.cgroup_name += "-gone";
    let backend = SentryBackend::new(options).expect("root");
    // As if somebody had taken the controllers away.
    backend.hierarchy().remove_if_empty();
    match backend.create(&CreateRequest { id: SandboxId::generate(), limits: limits() }).err() {
        // Version 2 has one group for all controllers.
        Some(SandboxError::Limit { limit: "memory" | "control group", problem }) => {
            assert!(problem.contains("can't create"), "{problem}")
        }
        other => panic!("{other:?}"),
    }
}

fn inputs_and_outputs_pass(host: &TestHost) {
    let (mut job, _streams) = job(&["exit", "1"]);
    job.inputs.push(Input::File { path: "/in/a".into(), mode: 0o600, source: Box::new(&[1u8; 700_000][..]) });
    job.inputs.push(Input::Archive { directory: "/in".into(), source: Box::new(io::empty()) });
    job.outputs = vec![OutputSpec::Glob("/out/0".into()), OutputSpec::Directory("/out/1".into())];
    let mut listener = Listener { refuse: true, ..Listener::default() };
    let finished = create(&host.backend(), limits()).run(job, &mut listener).expect("runs");
    assert_eq!(finished.usage.read_bytes, 700_000);
    assert_eq!(listener.outputs, BTreeMap::from([(b"/out/0".to_vec(), (0o640, false, vec![b'a'; 1000]))]));
    assert_eq!(finished.output_problems, ["/out/1: no room", "/gone: no such file"]);
}

fn unsupported_calls_decide(host: &TestHost) {
    let finished = run(host, limits(), &["unsupported"]).expect("runs");
    assert_eq!(finished.state, AttemptState::Unsupported);
    assert!(finished.reason.contains("frobnicate"), "{}", finished.reason);
}

/// The process that is going to be killed: runs three jobs at `place` and says when they have started.
pub(crate) fn launcher(place: &str) {
    let (directory, name) = place.split_once(':').expect("a place");
    let backend = Arc::new(SentryBackend::new(TestHost::options_at(directory.into(), name)).expect("root"));
    let (send, receive) = channel();
    for _ in 0..3 {
        let (backend, send) = (Arc::clone(&backend), send.clone());
        std::thread::spawn(move || {
            let sandbox = create(&backend, limits());
            let mut listener = Listener {
                started: Some(send),
                controller: Some(sandbox.controller()),
                ..Listener::default()
            };
            let (job, _streams) = job(&["spin"]);
            let _ = sandbox.run(job, &mut listener);
        });
    }
    for _ in 0..3 {
        receive.recv().expect("starts");
    }
    println!("running");
    std::thread::sleep(Duration::from_secs(600));
}

fn a_killed_launcher_takes_its_sandboxes_along(host: &TestHost) {
    let mut launcher = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args(["launcher", &host.place()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let mut out = io::BufReader::new(launcher.stdout.take().expect("piped"));
    io::BufRead::read_line(&mut out, &mut line).expect("reads");
    assert_eq!(line.trim(), "running");
    launcher.kill().expect("kills");
    launcher.wait().expect("waits");
    let hierarchy = host.backend().hierarchy().clone();
    let left = hierarchy.sandboxes();
    assert_eq!(left.len(), 3);
    for id in left {
        let groups = bulkhead_jail::cgroup::SandboxGroups::adopt(&hierarchy, &id).expect("a name");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !groups.processes().is_empty() {
            assert!(Instant::now() < deadline, "a job lives on after its launcher: {:?}", groups.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
        groups.remove(Duration::from_secs(5)).expect("removes");
    }
    // What remains is what the next start, or doctor, finds by the notes.
    for record in SandboxRecord::all(&host.run_directory()) {
        let record = record.expect("whole");
        assert!(!record.owner.lives());
        std::fs::remove_dir_all(&record.scratch).expect("removes");
        SandboxRecord::remove(&host.run_directory(), &record.id).expect("removes");
    }
}

fn sixty_sandboxes_leave_nothing(host: &TestHost) {
    let backend = host.backend();
    let mut before = None;
    for round in 0..60 {
        let sandbox = create(&backend, limits());
        if round % 3 == 0 {
            drop(sandbox);
        } else {
            let (job, _streams) = job(&["exit", "0"]);
            sandbox.run(job, &mut Listener::default()).expect("runs");
        }
        if round == 20 {
            before = Some(host.count());
        }
    }
    let before = before.expect("counted");
    assert_eq!(host.settled(&before), before);
}
