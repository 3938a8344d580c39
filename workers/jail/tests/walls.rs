//! The walls, tried on real processes: this binary starts itself again as the process behind them.
//!
//! Runs without the usual harness, because a process that enters the jail must have one thread.

#[path = "walls/behind.rs"]
mod behind;
#[path = "walls/cases.rs"]
mod cases;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("behind") => behind::main(&args.collect::<Vec<_>>()),
        filter => run(filter.filter(|f| !f.starts_with('-')).unwrap_or("")),
    }
}

fn run(filter: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: walls: needs root");
        return;
    }
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(filter)) {
        match std::panic::catch_unwind(case) {
            Ok(()) => println!("test {name} ... ok"),
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    cases::clean_up();
    assert_eq!(failed, 0, "{failed} failed");
}
