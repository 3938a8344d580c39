//! Guest programs, compiled by the machine's C compiler before the tests run: in a test the platform reaps every
//! child.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory of the compiled programs to the children.
const DIRECTORY: &str = "BULKHEAD_PLATFORM_GUESTS";

/// Programs without libc, around `tests/guests/guest.h`.
const BARE: &[&str] = &["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-builtin"];

/// The path of a compiled program.
pub fn program(name: &str) -> PathBuf {
    Path::new(&std::env::var_os(DIRECTORY).expect("a compiled guest")).join(name)
}

/// Compiles every guest program, for the children that are started afterwards.
pub fn compile_all() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    for entry in std::fs::read_dir(sources).expect("the guests").flatten() {
        let source = entry.path();
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let name = source.file_stem().expect("a name").to_string_lossy().into_owned();
        if name == "libc" {
            compile(&source, &directory.path().join("libc-static"), &["-static", "-pthread"]);
            compile(&source, &directory.path().join("libc-dynamic"), &["-pthread"]);
        } else {
            compile(&source, &directory.path().join(name), BARE);
        }
    }
    // SAFETY: this process has a single thread.
    unsafe { std::env::set_var(DIRECTORY, directory.path()) };
    directory
}

fn compile(source: &Path, program: &Path, flags: &[&str]) {
    let output = Command::new("gcc")
        .args(["-O1", "-g0", "-Wall"])
        .args(flags)
        .arg("-o")
        .args([program, source])
        .output();
    let output = output.expect("gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
