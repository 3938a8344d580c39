//! Each limit, hit: the exact outcome with its reason, soon after, and nobody else is harmed.

use bulkhead_client::v1;

use super::support::{Service, Tenant, beside_others, elf, last, milliseconds, seconds, shell, skipped};

const MIB: i64 = 1 << 20;
/// How long after its limit an attempt may end, in seconds. The promise is one second; a busy machine gets more.
const LATE: f64 = 4.0;

/// One job and what it must come to.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) spec: v1::JobSpec,
    state: v1::State,
    /// The reason holds each of these, whatever their case.
    says: &'static [&'static str],
    /// Seconds after which it must have ended, before [`LATE`]; 0 where no time is limited.
    limit: f64,
    also: fn(&Tenant<'_>, &v1::Job) -> Result<(), String>,
}

fn nothing(_: &Tenant<'_>, _: &v1::Job) -> Result<(), String> {
    Ok(())
}

fn must(so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(otherwise()) }
}

fn limited(script: &str, limits: v1::Limits) -> v1::JobSpec {
    v1::JobSpec { limits: Some(limits), ..shell(script) }
}

/// A job of one program that travels with it.
fn program(bytes: Vec<u8>, mode: u32) -> v1::JobSpec {
    let content = v1::Content { kind: Some(v1::content::Kind::Inline(bytes)) };
    v1::JobSpec {
        argv: vec!["/program".to_owned()],
        input_files: vec![v1::InputFile { path: "/program".to_owned(), mode, content: Some(content) }],
        ..shell("")
    }
}

pub(super) fn resources() -> Vec<Case> {
    let wall = |value| v1::Limits { wall_time: milliseconds(value), ..Default::default() };
    let memory = v1::Limits { memory_bytes: 64 * MIB, ..wall(30_000) };
    let kept = 64 << 10;
    vec![
        Case {
            what: "memory hog",
            spec: limited("x=aaaaaaaa; while :; do x=$x$x; done", memory),
            state: v1::State::OutOfMemory,
            says: &["memory", "64 mib", "peak"],
            limit: 0.0,
            also: |_, job| {
                let usage = last(job).usage.as_ref().ok_or("no usage")?;
                must(usage.oom_kills > 0 && usage.peak_memory_bytes > 32 * MIB, || format!("{usage:?}"))
            },
        },
        Case {
            what: "busy loop, wall time",
            spec: limited("echo here; while :; do :; done", wall(1000)),
            state: v1::State::TimedOut,
            says: &["wall", "1 s"],
            limit: 1.0,
            also: |tenant, job| {
                let stdout = &tenant.output(&job.name)[0];
                must(stdout == b"here\n", || format!("its output was lost: {stdout:?}"))
            },
        },
        Case {
            what: "busy loop, cpu time",
            spec: limited("while :; do :; done", v1::Limits { cpu_time: milliseconds(500), ..wall(60_000) }),
            state: v1::State::TimedOut,
            says: &["cpu"],
            limit: 0.0,
            also: |_, job| {
                let took = seconds(last(job));
                must(took < 30.0, || format!("half a second of cpu took {took} s"))
            },
        },
        Case {
            what: "yes",
            spec: v1::JobSpec {
                argv: vec!["yes".to_owned()],
                ..limited("", v1::Limits { output_bytes: kept, ..wall(30_000) })
            },
            state: v1::State::OutputLimit,
            says: &["output", "64 kib"],
            limit: 0.0,
            also: |tenant, job| {
                let stdout = &tenant.output(&job.name)[0];
                let even = stdout.chunks(2).all(|line| line == b"y\n");
                must(stdout.len() == 64 << 10 && even, || format!("{} bytes were kept", stdout.len()))?;
                let totals = last(job).stdout.as_ref().ok_or("no totals")?;
                must(totals.truncated && totals.kept_bytes == 64 << 10, || format!("{totals:?}"))
            },
        },
        Case {
            what: "disk filler",
            spec: limited(
                "dd if=/dev/zero of=/tmp/fill bs=65536",
                v1::Limits { disk_bytes: 8 * MIB, ..wall(60_000) },
            ),
            state: v1::State::DiskLimit,
            says: &["disk", "8 mib", "peak"],
            limit: 0.0,
            also: |tenant, job| {
                let stderr = String::from_utf8_lossy(&tenant.output(&job.name)[1]).into_owned();
                must(stderr.contains("No space left on device"), || stderr)
            },
        },
        Case {
            what: "too many processes",
            spec: limited(
                "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 20 & done",
                v1::Limits { processes: 6, ..wall(60_000) },
            ),
            state: v1::State::Failed,
            says: &[],
            limit: 0.0,
            also: |tenant, job| {
                let stderr = String::from_utf8_lossy(&tenant.output(&job.name)[1]).into_owned();
                must(stderr.contains("Resource temporarily unavailable"), || stderr)
            },
        },
    ]
}

/// By itself: the processor is shared, and it wants all of it.
pub(super) fn bomb() -> Case {
    let limits =
        v1::Limits { processes: 64, output_bytes: MIB, wall_time: milliseconds(3000), ..Default::default() };
    Case {
        what: "fork bomb",
        spec: limited("b() { b | b & }; b; while :; do :; done", limits),
        state: v1::State::TimedOut,
        says: &["wall"],
        limit: 3.0,
        also: nothing,
    }
}

fn code(want: i32, job: &v1::Job) -> Result<(), String> {
    let found = last(job).exit_code;
    must(found == Some(want), || format!("exit code {found:?}"))
}

pub(super) fn starts() -> Vec<Case> {
    let argv = |path: &str| v1::JobSpec { argv: vec![path.to_owned()], ..shell("") };
    let foreign = elf::program(elf::AARCH64, &[0; 16]);
    // xor eax, eax; mov [rax], eax
    let crashing = elf::program(elf::X86_64, &[0x31, 0xc0, 0x89, 0x00]);
    // mov eax, 60; mov edi, 7; syscall
    let exiting = elf::program(elf::X86_64, &[0xb8, 60, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05]);
    fn case(
        what: &'static str,
        spec: v1::JobSpec,
        state: v1::State,
        says: &'static [&'static str],
        also: fn(&Tenant<'_>, &v1::Job) -> Result<(), String>,
    ) -> Case {
        Case { what, spec, state, says, limit: 0.0, also }
    }
    vec![
        case("not found", argv("/no/such"), v1::State::Failed, &["/no/such"], |_, job| code(127, job)),
        case("not found in PATH", argv("nosuch"), v1::State::Failed, &["nosuch"], |_, job| code(127, job)),
        case("not executable", argv("/etc/motd"), v1::State::Failed, &["/etc/motd"], |_, job| code(126, job)),
        case("a directory", argv("/etc"), v1::State::Failed, &["/etc"], |_, job| code(126, job)),
        case("another machine's", program(foreign, 0o755), v1::State::Failed, &["/program"], |_, job| {
            let found = last(job).exit_code;
            must(matches!(found, Some(126 | 127)), || format!("exit code {found:?}"))
        }),
        case("one that crashes", program(crashing, 0o755), v1::State::Signaled, &["sigsegv"], |_, job| {
            let found = last(job).signal;
            must(found == Some(11), || format!("signal {found:?}"))
        }),
        case("one that exits 7", program(exiting, 0o755), v1::State::Failed, &["7"], |_, job| code(7, job)),
    ]
}

pub(super) fn check(tenant: &Tenant<'_>, case: &Case, name: &str) -> Result<(), String> {
    let job = tenant.wait(name);
    must(job.state() == case.state, || format!("ended {}: {}", job.state().as_str_name(), job.reason))?;
    must(job.attempts.len() == 1, || format!("{} attempts", job.attempts.len()))?;
    must(!job.reason.is_empty(), || "no reason".to_owned())?;
    let reason = job.reason.to_lowercase();
    let silent: Vec<_> = case.says.iter().filter(|word| !reason.contains(**word)).collect();
    must(silent.is_empty(), || format!("the reason {:?} does not say {silent:?}", job.reason))?;
    if case.limit > 0.0 {
        let took = seconds(last(&job));
        must(took >= case.limit - 0.05, || format!("ended after {took} s, before its limit"))?;
        must(took <= case.limit + LATE, || format!("ended after {took} s"))?;
    }
    (case.also)(tenant, &job)
}

#[test]
fn each_limit_ends_the_job_that_hits_it_and_no_other() {
    if skipped("each_limit_ends_the_job_that_hits_it_and_no_other") {
        return;
    }
    let _host = beside_others();
    let service = Service::start();
    let (attacker, victim) = (service.tenant("attacker"), service.tenant("victim"));
    let neighbour = victim.submit(shell("i=0; while [ $i -lt 60 ]; do echo $i; sleep 0.1; i=$((i+1)); done"));
    victim.wait_for_output(&neighbour);
    let mut wrong = Vec::new();
    let mut run = |cases: Vec<Case>| {
        let names: Vec<String> = cases.iter().map(|case| attacker.submit(case.spec.clone())).collect();
        for (case, name) in cases.iter().zip(&names) {
            match check(&attacker, case, name) {
                Ok(()) => println!("{}: {}", case.what, attacker.get(name).reason),
                Err(why) => wrong.push(format!("{}: {why}", case.what)),
            }
        }
    };
    run(resources().into_iter().chain(starts()).collect());
    run(vec![bomb()]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let job = victim.wait(&neighbour);
    assert_eq!((job.state(), job.attempts.len()), (v1::State::Succeeded, 1), "{}", job.reason);
    assert_eq!(victim.output(&neighbour)[0].iter().filter(|byte| **byte == b'\n').count(), 60);
    service.assert_each_job_ended_once();
    service.stop();
}
