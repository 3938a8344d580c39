//! Jobs in virtual machines: the same promises as in sentries, and what a kernel of their own adds.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_client::v1;

use super::limits::{bomb, check, resources, starts};
use super::support::{Service, Tenant, alive, alone, eventually, kill, last, milliseconds, shell, skipped};

/// Machines at once: on a software KVM each boots for seconds of one processor.
const AT_ONCE: usize = 3;

/// In a virtual machine, a small one. Where KVM emulates its kernel each page that a job touches first takes milliseconds: a job
/// that is to run out of memory gets the time for that.
fn machine(mut spec: v1::JobSpec) -> v1::JobSpec {
    spec.set_backend(v1::Backend::Microvm);
    let limits = spec.limits.get_or_insert_default();
    if limits.memory_bytes == 0 {
        limits.memory_bytes = 64 << 20;
    } else {
        limits.wall_time = milliseconds(500_000);
    }
    spec
}

/// Whether there is no KVM, or no guest beside the programs; says so.
fn without_machines(test: &str) -> bool {
    if skipped(test) {
        return true;
    }
    let guest = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("guest");
    let why = match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Err(error) => format!("/dev/kvm: {error}"),
        Ok(_) if !guest.join("vmlinux").is_file() => {
            format!("{} has no vmlinux: run cargo xtask guest-kernel", guest.display())
        }
        Ok(_) => return false,
    };
    println!("skipped: {test}: {why}");
    true
}

/// Whether the processor lacks what a KVM in hardware needs, so that guests' kernels are emulated and many boots take too
/// long; says so.
fn emulated(test: &str) -> bool {
    let processors = std::fs::read_to_string("/proc/cpuinfo").expect("readable");
    let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let hardware = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    if !hardware {
        println!(
            "skipped: {test}: a KVM in software is too slow for it; cargo xtask test --hardware runs it"
        );
    }
    !hardware
}

#[test]
fn each_limit_holds_in_a_machine() {
    if without_machines("each_limit_holds_in_a_machine") || emulated("each_limit_holds_in_a_machine") {
        return;
    }
    // Boots take all processors there are; others would not get their time.
    let _host = alone();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let mut wrong = Vec::new();
    let cases: Vec<_> = resources().into_iter().chain(starts()).collect();
    let bomb = [bomb()];
    // The bomb by itself: it wants all processors that there are.
    for some in cases.chunks(AT_ONCE).chain([&bomb[..]]) {
        let names: Vec<String> = some.iter().map(|case| tenant.submit(machine(case.spec.clone()))).collect();
        for (case, name) in some.iter().zip(&names) {
            match check(&tenant, case, name) {
                Ok(()) => println!("{}: {}", case.what, tenant.get(name).reason),
                Err(why) => wrong.push(format!("{}: {why}", case.what)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn a_machine_has_its_own_kernel_and_gives_outputs_back() {
    if without_machines("a_machine_has_its_own_kernel_and_gives_outputs_back") {
        return;
    }
    let _host = alone();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let script = "uname -r; mkdir /out /m && mount -t tmpfs none /m && cat /in/word > /m/x && cp /m/x /out/x; \
                  echo ${#TOKEN}; hostname >&2";
    let content = v1::Content { kind: Some(v1::content::Kind::Inline(b"one word".to_vec())) };
    let secret = v1::EnvVar { name: "TOKEN".into(), value: "seventeen letters".into(), secret: true };
    let output = v1::OutputSpec { kind: Some(v1::output_spec::Kind::Glob("/out/*".into())) };
    let spec = v1::JobSpec {
        input_files: vec![v1::InputFile { path: "/in/word".into(), mode: 0o600, content: Some(content) }],
        env: vec![secret],
        outputs: vec![output],
        ..shell(script)
    };
    let name = tenant.submit(machine(spec));
    let job = tenant.wait(&name);
    assert_eq!(job.state(), v1::State::Succeeded, "{}", job.reason);
    let attempt = last(&job);
    assert_eq!((attempt.backend(), attempt.output_files.len()), (v1::Backend::Microvm, 1), "{attempt:?}");
    assert_eq!((&*attempt.output_files[0].path, attempt.output_files[0].size_bytes), (&b"/out/x"[..], 8));
    let [stdout, stderr] = tenant.output(&name).map(|bytes| String::from_utf8(bytes).expect("text"));
    let host = rustix::system::uname().release().to_string_lossy().into_owned();
    let (kernel, rest) = stdout.split_once('\n').expect("two lines");
    assert!(kernel.starts_with(|c: char| c.is_ascii_digit()) && kernel != host, "{kernel}");
    assert_eq!(rest, "17\n");
    assert!(stderr.starts_with("job-"), "{stderr}");
    service.stop();
}

/// A job in a machine that says `begin` and goes on for so long; it runs when this returns.
fn running(tenant: &Tenant<'_>, seconds: u32, retry: bool) -> String {
    let mut spec = machine(shell(&format!("echo begin; sleep {seconds}; echo end")));
    spec.retry_policy = Some(v1::RetryPolicy { no_retry_on_lost: !retry, ..Default::default() });
    let name = tenant.submit(spec);
    tenant.wait_for_output(&name);
    name
}

#[test]
fn killed_machines_and_workers_leave_nothing() {
    let name = "killed_machines_and_workers_leave_nothing";
    if without_machines(name) || emulated(name) {
        return;
    }
    let _host = alone();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let again = running(&tenant, 3, true);
    let machines = service.machines();
    assert_eq!(machines.len(), 1, "one VMM for the job");
    kill(machines[0]);
    let job = tenant.wait(&again);
    assert_eq!((job.state(), job.attempts.len()), (v1::State::Succeeded, 2), "{}", job.reason);
    assert_eq!(job.attempts[0].state(), v1::State::Lost);

    let lost = running(&tenant, 600, false);
    let machines = service.machines();
    kill(service.worker_pid());
    eventually("machines die with the worker", || !machines.iter().any(|pid| alive(*pid)));
    let job = tenant.wait(&lost);
    assert_eq!((job.state(), job.attempts.len()), (v1::State::Lost, 1), "{}", job.reason);

    service.assert_each_job_ended_once();
    assert_eq!(service.machines(), [0; 0]);
    service.stop();
}

/// Overwrites the agent, the guest's first process, as root of the machine may: the kernel can't go on without it.
const BREAK: &str = "a=$(grep -m 1 r-xp /proc/1/maps); a=${a%%-*}; \
    dd if=/dev/zero of=/proc/1/mem bs=4096 count=64 conv=notrunc seek=$((0x$a / 4096)); sleep 600";

#[test]
fn a_job_that_is_cancelled_or_breaks_its_kernel_ends_once() {
    let name = "a_job_that_is_cancelled_or_breaks_its_kernel_ends_once";
    if without_machines(name) || emulated(name) {
        return;
    }
    let _host = alone();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let mut polite = machine(shell("trap 'echo bye; exit 3' TERM; echo begin; while :; do sleep 0.1; done"));
    polite.grace_period = milliseconds(60_000);
    let deaf = machine(shell("trap '' TERM; echo begin; while :; do sleep 0.1; done"));
    let [polite, deaf, broken] = [polite, deaf, machine(shell(BREAK))].map(|spec| tenant.submit(spec));
    for (name, said) in [(&polite, "begin\nbye\n"), (&deaf, "begin\n")] {
        tenant.wait_for_output(name);
        service.runtime().block_on(tenant.client.cancel_job(name)).expect("cancels");
        let job = tenant.wait(name);
        assert_eq!((job.state(), job.attempts.len()), (v1::State::Cancelled, 1), "{}", job.reason);
        assert_eq!(String::from_utf8_lossy(&tenant.output(name)[0]), said);
    }
    let job = tenant.wait(&broken);
    // The job's own doing: nothing that is tried again.
    assert_eq!((job.state(), job.attempts.len()), (v1::State::Failed, 1), "{}", job.reason);
    assert!(job.reason.contains("panicked"), "{}", job.reason);
    assert_eq!(service.machines(), [0; 0]);
    service.assert_each_job_ended_once();
    service.stop();
}

/// A guest whose first program does nothing, with the real kernel.
fn idle_guest(directory: &Path) {
    let script = "cp -L \"$1\" vmlinux && mkdir -p root/bin && cp /bin/busybox root/bin && \
                  printf '#!/bin/busybox sh\nwhile :; do /bin/busybox sleep 9; done\n' > root/init && \
                  chmod 755 root/init && cd root && find . | /bin/busybox cpio -o -H newc > ../initramfs";
    let kernel = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("guest/vmlinux");
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(kernel).current_dir(directory).output();
    let made = made.expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_guest_that_never_gets_ready_is_the_hosts_failure() {
    let name = "a_guest_that_never_gets_ready_is_the_hosts_failure";
    if without_machines(name) || emulated(name) {
        return;
    }
    let _host = alone();
    let guest = tempfile::tempdir().expect("a folder");
    idle_guest(guest.path());
    let service = Service::start_with_guest(Some(guest.path()));
    let tenant = service.tenant("acme");
    let mut spec = machine(shell("true"));
    spec.retry_policy = Some(v1::RetryPolicy { no_retry_on_lost: true, ..Default::default() });
    let job = tenant.wait(&tenant.submit(spec));
    assert_eq!((job.state(), job.attempts.len()), (v1::State::Lost, 1), "{}", job.reason);
    assert!(job.reason.contains("not ready"), "{}", job.reason);
    assert_eq!(service.machines(), [0; 0]);
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn a_job_for_a_machine_is_refused_where_there_is_none() {
    if skipped("a_job_for_a_machine_is_refused_where_there_is_none") {
        return;
    }
    let _host = super::support::beside_others();
    let service = Service::start_with_guest(Some(Path::new("/nowhere")));
    let tenant = service.tenant("acme");
    // The first answer looks the nodes up.
    eventually("the node is known", || {
        let begin = Instant::now();
        let (reason, text) = tenant.refused(machine(shell("true")));
        assert_eq!(reason, "BACKEND_UNAVAILABLE", "{text}");
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        // As doctor says it, whatever this host lacks first.
        text.contains("/nowhere/vmlinux") || text.contains("/dev/kvm")
    });
    assert_eq!(tenant.wait(&tenant.submit(shell("true"))).state(), v1::State::Succeeded);
    service.stop();
}
