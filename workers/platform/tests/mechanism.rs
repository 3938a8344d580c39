//! Each mechanism of the platform, with real guest programs.

mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_platform::Config;
use support::guest;
use support::kernel::{End, Ordinary, run};

fn main() -> ExitCode {
    support::main(&[("starts_a_static_program", starts_a_static_program)])
}

fn bare(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let program = guest::bare(directory.path(), name);
    (directory, program)
}

fn starts_a_static_program() {
    let (_directory, program) = bare("hello");
    let (end, printed) = run(Config::default(), Ordinary, &program, &["world"]);
    assert_eq!((end, printed.as_str()), (End::Exited(3), "hello world\n"));
}
