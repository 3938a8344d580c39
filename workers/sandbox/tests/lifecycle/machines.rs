//! The cases of virtual machines: where they differ from sentries.

use std::time::Duration;

use bulkhead_sandbox::{Backend, CreateRequest, MicrovmBackend, MicrovmOptions, Sandbox, SandboxError};
use bulkhead_types::{AttemptState, Limits, SandboxId, Termination};

use crate::cases::{Case, Listener, died, job, limits, read_all};
use crate::host::TestHost;
use crate::vmm;

pub(crate) const ALL: &[Case] = &[
    ("a_machine_runs_a_job_and_leaves_nothing", a_machine_runs_a_job_and_leaves_nothing),
    ("a_boot_is_not_the_jobs_time", a_boot_is_not_the_jobs_time),
    ("a_guest_tells_of_its_memory_and_nothing_else", a_guest_tells_of_its_memory_and_nothing_else),
    ("a_machine_that_never_boots_is_the_hosts", a_machine_that_never_boots_is_the_hosts),
    ("a_machine_that_a_job_breaks_is_the_jobs", a_machine_that_a_job_breaks_is_the_jobs),
    ("a_machine_can_be_cancelled_at_any_time", a_machine_can_be_cancelled_at_any_time),
    ("a_machine_killed_from_outside_is_told", a_machine_killed_from_outside_is_told),
    ("statistics_come_when_they_are_asked_for", statistics_come_when_they_are_asked_for),
    ("a_guest_that_is_not_there_is_named", a_guest_that_is_not_there_is_named),
];

/// Why this host can't run them.
pub(crate) fn skipped() -> Option<String> {
    bulkhead_sandbox::microvm::Survey::read().problem().map(|problem| problem.to_string())
}

fn options(host: &TestHost) -> MicrovmOptions {
    let sentry = host.options();
    let guest_directory = sentry.run_directory.with_file_name("guest");
    std::fs::create_dir_all(&guest_directory).expect("makes");
    std::fs::write(guest_directory.join("vmlinux"), vmm::KERNEL).expect("writes");
    std::fs::write(guest_directory.join("initramfs"), vmm::INITRAMFS).expect("writes");
    MicrovmOptions {
        program: sentry.program,
        guest_directory,
        scratch_root: sentry.scratch_root,
        run_directory: sentry.run_directory,
        cgroup_name: sentry.cgroup_name,
        uids: sentry.uids,
        console: false,
        statistics: false,
    }
}

fn create(backend: &MicrovmBackend, limits: Limits) -> Box<dyn Sandbox> {
    backend.create(&CreateRequest { id: SandboxId::generate(), limits }).expect("creates")
}

fn backend(host: &TestHost) -> MicrovmBackend {
    MicrovmBackend::new(options(host)).expect("a host with KVM")
}

fn run(host: &TestHost, limits: Limits, what: &str) -> Result<bulkhead_sandbox::Finished, SandboxError> {
    let (job, _streams) = job(&[what]);
    create(&backend(host), limits).run(job, &mut Listener::default())
}

fn a_machine_runs_a_job_and_leaves_nothing(host: &TestHost) {
    let (job, streams) = job(&["exit"]);
    let finished = create(&backend(host), limits()).run(job, &mut Listener::default()).expect("runs");
    assert_eq!(finished.state, AttemptState::Failed);
    assert_eq!(finished.termination, Some(Termination::Exited(3)));
    assert_eq!(read_all(streams.stdout), b"out");
    drop(create(&backend(host), limits()));
}

fn a_boot_is_not_the_jobs_time(host: &TestHost) {
    let boot_ms = u64::try_from(vmm::SLOW_BOOT.as_millis()).expect("fits");
    // Less than the boot takes, of both.
    let limits = Limits { wall_time_ms: boot_ms / 2, cpu_time_ms: boot_ms / 2, ..limits() };
    let finished = run(host, limits, "slow-boot").expect("runs");
    assert_eq!(finished.reason, "exited with status 3");
    let usage = finished.usage;
    let most = boot_ms * 1000 / 2;
    assert!(usage.wall_us < most && usage.cpu_user_us + usage.cpu_system_us < most, "{usage:?}");
}

fn a_guest_tells_of_its_memory_and_nothing_else(host: &TestHost) {
    let finished = run(host, limits(), "oom").expect("runs");
    assert_eq!(finished.state, AttemptState::OutOfMemory);
    assert!(
        finished.reason.starts_with("hit its memory limit of 64 MiB: 1 process killed, peak 60 MiB"),
        "{}",
        finished.reason
    );
    let lied = run(host, limits(), "lie").expect("runs");
    // It can't make itself be run again elsewhere, nor claim what is not possible.
    assert_eq!(lied.state, AttemptState::Failed);
    assert_eq!(lied.usage.peak_memory_bytes, limits().memory_bytes);
    assert!(lied.usage.cpu_user_us < 60_000_000 && lied.top_syscalls.is_empty(), "{lied:?}");
}

fn a_machine_that_never_boots_is_the_hosts(host: &TestHost) {
    match run(host, limits(), "never-ready") {
        Err(SandboxError::Host(text)) => assert!(text.contains("not ready after 60 s"), "{text}"),
        other => panic!("{other:?}"),
    }
}

fn a_machine_that_a_job_breaks_is_the_jobs(host: &TestHost) {
    let finished = run(host, limits(), "panic").expect("has an outcome");
    assert_eq!((finished.state, finished.termination), (AttemptState::Failed, None));
    assert_eq!(finished.reason, "the guest's kernel panicked: sysrq triggered crash");
}

fn a_machine_can_be_cancelled_at_any_time(host: &TestHost) {
    for (what, termination) in [("slow-boot", None), ("sleep", Some(Termination::Signaled(15)))] {
        let sandbox = create(&backend(host), limits());
        let controller = sandbox.controller();
        let canceller = std::thread::spawn(move || {
            // In the midst of the boot, or of the job.
            std::thread::sleep(vmm::SLOW_BOOT / 3);
            controller.cancel();
        });
        let (job, _streams) = job(&[what]);
        let finished = sandbox.run(job, &mut Listener::default()).expect("has an outcome");
        canceller.join().expect("cancels");
        assert_eq!((finished.state, finished.termination), (AttemptState::Cancelled, termination), "{what}");
    }
}

fn a_machine_killed_from_outside_is_told(host: &TestHost) {
    let backend = backend(host);
    let sandbox = create(&backend, limits());
    let groups = bulkhead_jail::cgroup::SandboxGroups::adopt(backend.hierarchy(), &sandbox.id().to_string());
    let groups = groups.expect("a name");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(groups.processes().len(), 1, "a VMM is one process");
        groups.kill(Duration::from_secs(10)).expect("kills");
        groups.leave();
    });
    let (job, _streams) = job(&["sleep"]);
    let text = died(sandbox.run(job, &mut Listener::default()));
    killer.join().expect("kills");
    assert!(text.contains("killed by signal 9"), "{text}");
}

fn statistics_come_when_they_are_asked_for(host: &TestHost) {
    let backend = MicrovmBackend::new(MicrovmOptions { statistics: true, ..options(host) }).expect("KVM");
    let mut listener = Listener::default();
    let (first, _streams) = job(&["exit"]);
    create(&backend, limits()).run(first, &mut listener).expect("runs");
    let counted = listener.machine.expect("told");
    assert_eq!((counted.power_on_to_ready_us, counted.exits.len()), (5, 1));
    // More of them than there can be.
    let (second, _streams) = job(&["lie"]);
    let text = died(create(&backend, limits()).run(second, &mut Listener::default()));
    assert!(text.contains("Statistics out of turn"), "{text}");
}

fn a_guest_that_is_not_there_is_named(host: &TestHost) {
    let options = MicrovmOptions { guest_directory: "/nowhere".into(), ..options(host) };
    let error = MicrovmBackend::new(options).expect_err("no guest").to_string();
    assert!(error.contains("/nowhere/vmlinux") && error.contains("--guest-dir"), "{error}");
}
