//! Guest programs, compiled by the machine's C compiler when a test needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program without libc, around `tests/guests/guest.h`.
pub fn bare(directory: &Path, name: &str) -> PathBuf {
    compile(
        directory,
        name,
        &["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-builtin"],
    )
}

/// A statically linked glibc program.
pub fn with_static_libc(directory: &Path, name: &str) -> PathBuf {
    compile(directory, name, &["-static", "-pthread"])
}

/// An ordinary program.
pub fn dynamic(directory: &Path, name: &str) -> PathBuf {
    compile(directory, name, &["-pthread"])
}

fn compile(directory: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name).with_extension("c");
    let program = directory.join(name);
    let output = Command::new("gcc")
        .args(["-O1", "-g0", "-Wall"])
        .args(flags)
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
