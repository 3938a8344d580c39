//! `bulkhead serve` as users run it: real jobs, over gRPC, in real sandboxes, with results from PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod ready;
#[path = "service/world.rs"]
mod world;

use std::process::Stdio;

use world::{World, have, text};

#[test]
fn jobs_run_from_submission_to_result() {
    if !have("jobs_run_from_submission_to_result") {
        return;
    }
    let world = World::start();
    world.in_tenant("acme", |acme| {
        says_hello_and_passes_the_exit_status(acme);
        takes_inputs_and_gives_outputs(acme);
        cancels(acme);
        keeps_secrets(acme);
    });
    other_tenants_see_nothing(&world);
    goes_on_when_control_is_killed(&world);
    world.stop();
}

fn says_hello_and_passes_the_exit_status(acme: &world::Tenant<'_>) {
    let ran = acme.bulkhead(&["run", "tiny", "echo", "hello"]);
    assert_eq!((text(&ran.stdout), ran.status.code()), ("hello\n", Some(0)), "{}", text(&ran.stderr));
    let ran = acme.bulkhead(&["run", "tiny", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((text(&ran.stdout), text(&ran.stderr), ran.status.code()), ("out\n", "err\n", Some(3)));
    let ran = acme.bulkhead(&["run", "tiny", "sh", "-c", "kill -SEGV $$"]);
    assert_eq!(ran.status.code(), Some(128 + 11), "{}", text(&ran.stderr));
    let ran = acme.bulkhead(&["run", "tiny", "no-such-program"]);
    assert_eq!(ran.status.code(), Some(127), "{}", text(&ran.stderr));
    let ran = acme.bulkhead(&["run", "no-such-image", "true"]);
    assert_eq!(ran.status.code(), Some(125));
    assert!(text(&ran.stderr).contains("no-such-image"), "{}", text(&ran.stderr));
    let ran = acme.bulkhead(&["run", "--wall", "1s", "tiny", "sleep", "100"]);
    assert_eq!(ran.status.code(), Some(124), "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).contains("TIMED_OUT"), "{}", text(&ran.stderr));
    let ran = acme.bulkhead(&["run", "--output-limit", "10K", "tiny", "yes"]);
    assert!(text(&ran.stderr).contains("OUTPUT_LIMIT"), "{}", text(&ran.stderr));
    assert_eq!(ran.stdout.len(), 10 << 10);
}

fn takes_inputs_and_gives_outputs(acme: &world::Tenant<'_>) {
    let dir = tempfile::tempdir().unwrap();
    let (input, saved) = (dir.path().join("input"), dir.path().join("saved"));
    std::fs::write(&input, "from outside").unwrap();
    let placed = format!("{}:/in/file", input.display());
    let script = "mkdir -p /out && tr a-z A-Z < /in/file > /out/upper && cat";
    let ran = acme.with_stdin(
        &[
            "run",
            "-i",
            "--input",
            &placed,
            "--output",
            "/out/*",
            "--save-to",
            saved.to_str().unwrap(),
            "tiny",
            "sh",
            "-c",
            script,
        ],
        b"through the pipe",
    );
    assert_eq!(
        (text(&ran.stdout), ran.status.code()),
        ("through the pipe", Some(0)),
        "{}",
        text(&ran.stderr)
    );
    assert_eq!(std::fs::read_to_string(saved.join("out/upper")).unwrap(), "FROM OUTSIDE");
    let uploaded = acme.json(&["blob", "upload", "--json", input.to_str().unwrap()]);
    let there = acme.bulkhead(&["blob", "download", uploaded["digest"].as_str().unwrap(), "-"]);
    assert_eq!(text(&there.stdout), "from outside");
}

fn cancels(acme: &world::Tenant<'_>) {
    let script = "echo out; echo err >&2; sleep 1000";
    let name = acme.submit(&["submit", "--label", "test=cancel", "tiny", "sh", "-c", script]);
    acme.until(&name, "RUNNING");
    // What is there, and no waiting for more: nothing, a part or all of it; then all of it.
    let mut logs = acme.bulkhead(&["logs", &name]);
    while (text(&logs.stdout), text(&logs.stderr)) != ("out\n", "err\n") {
        assert!(logs.status.success() && "out\n".starts_with(text(&logs.stdout)), "{}", text(&logs.stderr));
        logs = acme.bulkhead(&["logs", &name]);
    }
    assert!(acme.bulkhead(&["cancel", &name]).status.success());
    let job = acme.json(&["get", "--wait", "--json", &name]);
    assert_eq!(job["state"], "CANCELLED", "{job}");
    let listed = acme.json(&["list", "--json", "--state", "cancelled", "--label", "test=cancel"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    // Ctrl-C does the same.
    let mut running = acme.command(&["run", "tiny", "sh", "-c", "echo started; sleep 1000"]);
    let mut child = running.stdout(Stdio::piped()).spawn().unwrap();
    let mut started = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut started).unwrap();
    world::signal(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn job_name(acme: &world::Tenant<'_>, job: &str) -> String {
    acme.json(&["get", "--json", job])["name"].as_str().unwrap().to_owned()
}

fn keeps_secrets(acme: &world::Tenant<'_>) {
    let name = acme.submit(&["submit", "--secret", "KEY=hunter2", "tiny", "sh", "-c", "echo ${#KEY}"]);
    let job = acme.bulkhead(&["get", "--wait", "--json", &name]);
    assert!(!text(&job.stdout).contains("hunter2"));
    assert_eq!(text(&acme.bulkhead(&["logs", &name]).stdout), "7\n");
    let full = job_name(acme, &name);
    assert_eq!(acme.json(&["delete", "--json", &name]), serde_json::json!([full]));
    let gone = acme.bulkhead(&["get", &name]);
    assert_eq!(gone.status.code(), Some(1));
}

fn other_tenants_see_nothing(world: &World) {
    let name = world.in_tenant("acme", |acme| acme.submit(&["submit", "tiny", "true"]));
    world.in_tenant("rival", |rival| {
        for command in ["get", "logs", "cancel", "delete"] {
            let refused = rival.bulkhead(&[command, &name]);
            assert_eq!(refused.status.code(), Some(1), "{command}");
            assert!(refused.stdout.is_empty(), "{command}");
        }
        assert_eq!(rival.json(&["list", "--json"]), serde_json::json!([]));
    });
    let nobody = world.bulkhead(&["get", &name], None);
    assert!(text(&nobody.stderr).contains("token"), "{}", text(&nobody.stderr));
}

fn goes_on_when_control_is_killed(world: &World) {
    world.in_tenant("acme", |acme| {
        let name = acme.submit(&["submit", "tiny", "sh", "-c", "echo before; sleep 4; echo after"]);
        acme.until(&name, "RUNNING");
        world::signal(world.pid("control_pid"), rustix::process::Signal::KILL);
        let job = acme.json(&["get", "--wait", "--json", &name]);
        assert_eq!(job["state"], "SUCCEEDED", "{job}");
        assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "the running attempt went on: {job}");
        assert_eq!(text(&acme.bulkhead(&["logs", &name]).stdout), "before\nafter\n");
    });
}

#[test]
fn a_killed_service_leaves_nothing_running_and_starts_again() {
    if !have("a_killed_service_leaves_nothing_running_and_starts_again") {
        return;
    }
    let mut world = World::start();
    let name = world.in_tenant("acme", |acme| {
        let name = acme.submit(&["submit", "--max-attempts", "1", "tiny", "sleep", "1000"]);
        acme.until(&name, "RUNNING");
        name
    });
    let children = ["control_pid", "worker_pid"].map(|which| world.pid(which));
    world.kill();
    for pid in children {
        world::gone(pid);
    }
    world.start_again();
    world.in_tenant("acme", |acme| {
        let job = acme.json(&["get", "--wait", "--json", &name]);
        assert_eq!(job["state"], "LOST", "{job}");
        let ran = acme.bulkhead(&["run", "tiny", "echo", "again"]);
        assert_eq!(text(&ran.stdout), "again\n", "{}", text(&ran.stderr));
    });
    world.stop();
}

#[test]
fn wrong_uses_are_told_in_one_line_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["run", "--data-dir", data, "--token", "x", "--tenant", "a", "tiny", "true"]);
    assert_eq!(code, Some(125));
    assert!(said.contains("no service is known") && said.contains("hint: start one"), "{said}");
    let (code, said) = run(&["token", "--data-dir", data]);
    assert_eq!(code, Some(1));
    assert!(said.contains("--tenant TENANT"), "{said}");
    let (code, said) = run(&["token", "--data-dir", data, "--tenant", "Not A Tenant"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("tenant id"), "{said}");
}
