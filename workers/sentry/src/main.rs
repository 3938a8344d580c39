//! The sentry process: one for each sandbox, PID 1 of its own namespace.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list-syscalls") {
        let json = arguments.iter().any(|argument| argument == "--json");
        print!("{}", bulkhead_sentry::syscalls::list(json));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--count-every-call") {
        bulkhead_sentry::control::count_every_call();
    }
    // At once, not by returning: server threads are still there, and everything of the sandbox dies with them.
    std::process::exit(bulkhead_sentry::control::serve())
}
