//! The launcher against a sentry (and a VMM) that is real in everything but its kernel: it jails itself, joins its groups, and runs its
//! "job" as a process of the job's groups, which is this binary again.

#[path = "lifecycle/cases.rs"]
mod cases;
#[path = "lifecycle/fake.rs"]
mod fake;
#[path = "lifecycle/host.rs"]
mod host;
#[path = "lifecycle/machines.rs"]
mod machines;
#[path = "lifecycle/vmm.rs"]
mod vmm;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.first().map(String::as_str) {
        Some(bulkhead_sandbox::PROGRAM_NAME) => fake::sentry(),
        Some(bulkhead_sandbox::microvm::PROGRAM_NAME) => vmm::main(),
        Some("job") => fake::job(),
        _ => match args.get(1).map(String::as_str) {
            Some("launcher") => cases::launcher(&args[2]),
            filter => run(filter.filter(|f| !f.starts_with('-')).unwrap_or("")),
        },
    }
}

fn run(filter: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: lifecycle: needs root");
        return;
    }
    let host = host::TestHost::new();
    let mut failed = 0;
    let machines = match machines::skipped() {
        None => machines::ALL,
        Some(why) => {
            println!("skipped: machines: {why}");
            &[]
        }
    };
    for (name, case) in cases::ALL.iter().chain(machines).filter(|(name, _)| name.contains(filter)) {
        let before = host.count();
        let outcome = std::panic::catch_unwind(|| case(&host)).is_ok();
        let after = host.settled(&before);
        let clean = before == after;
        println!("test {name} ... {}", if outcome && clean { "ok" } else { "FAILED" });
        if !clean {
            println!("    before: {before:?}\n    after:  {after:?}");
        }
        failed += usize::from(!(outcome && clean));
    }
    host.finish();
    assert_eq!(failed, 0, "{failed} failed");
}
