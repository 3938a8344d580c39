//! The virtual machine monitor's process: one for each microVM, PID 1 of its own namespace.

use bulkhead_vmm::control;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A launcher gives the sandbox's id, for `ps` and for doctor; options are a person's.
    let status = if arguments.iter().any(|argument| argument.starts_with("--")) {
        control::by_hand::run(&arguments).unwrap_or_else(|error| {
            eprintln!("bulkhead-vmm: {error}");
            2
        })
    } else {
        control::serve()
    };
    // At once, not by returning: threads of the machine may still be there, and everything of it dies with them.
    std::process::exit(status);
}
