//! The virtual machine monitor's process: one for each microVM, PID 1 of its own namespace.

use bulkhead_vmm::control;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let status = if arguments.is_empty() {
        control::serve()
    } else {
        control::by_hand::run(&arguments).unwrap_or_else(|error| {
            eprintln!("bulkhead-vmm: {error}");
            2
        })
    };
    // At once, not by returning: threads of the machine may still be there, and everything of it dies with them.
    std::process::exit(status);
}
