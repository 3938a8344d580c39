//! The program in the initramfs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    bulkhead_guest::serve(&arguments)
}
