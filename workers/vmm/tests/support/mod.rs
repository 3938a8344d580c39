//! What the tests of real machines share: kernel, first program, a machine with a time limit.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use bulkhead_vmm::devices::block::DiskKind;
use bulkhead_vmm::devices::vsock::Port;
use bulkhead_vmm::machine::{End, Machine, Parts, Shell, ShellConfig};
use bulkhead_vmm::software_kvm;

/// A vmlinux; `cargo xtask test` builds it and says where.
const KERNEL: &str = "BULKHEAD_TEST_GUEST_KERNEL";
/// The static program of `guests/init.c`, where there is no compiler.
const PROGRAM: &str = "BULKHEAD_TEST_VMM_GUEST";
const SOURCE: &str = include_str!("../../guests/init.c");
/// Far more than any of the guests needs on the slowest KVM.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The kernel, or the reason why no machine can be tested here.
pub(crate) fn kernel() -> Result<PathBuf, String> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Err("/dev/kvm can't be opened".into());
    }
    let path = std::env::var_os(KERNEL).ok_or(format!("{KERNEL} names no guest kernel"))?;
    Ok(path.into())
}

/// The initial file system with the tests' first program in it.
pub(crate) fn initramfs() -> File {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    let archive = ARCHIVE.get_or_init(|| {
        let program = match std::env::var_os(PROGRAM) {
            Some(path) => fs::read(path).expect("the guest's program"),
            None => compile(),
        };
        let mut archive = Vec::new();
        entry(&mut archive, "dev", 0o040_755, &[]);
        entry(&mut archive, "proc", 0o040_755, &[]);
        entry(&mut archive, "init", 0o100_755, &program);
        entry(&mut archive, "TRAILER!!!", 0, &[]);
        archive
    });
    file_with(archive)
}

fn compile() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, program) = (directory.path().join("init.c"), directory.path().join("init"));
    fs::write(&source, SOURCE).expect("the source");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-s", "-o"])
        .args([&program, &source])
        .status()
        .expect("a C compiler for the guest's program");
    assert!(status.success());
    fs::read(program).expect("the program")
}

/// An entry of a cpio archive, "newc".
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    let inode = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let fields = [inode, mode as usize, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0]
        .map(|field| format!("{field:08x}"));
    archive.extend(b"070701");
    archive.extend(fields.concat().as_bytes());
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A file without a name, holding these bytes.
pub(crate) fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("its bytes");
    file
}

/// A sparse file of this size.
pub(crate) fn sparse(bytes: u64) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(bytes).expect("its size");
    file
}

/// What a test wants.
pub(crate) struct Wanted {
    pub(crate) test: &'static str,
    pub(crate) vcpus: u8,
    pub(crate) disks: Vec<(File, DiskKind)>,
    pub(crate) ports: Vec<Port>,
    pub(crate) words: &'static str,
}

impl Wanted {
    pub(crate) fn new(test: &'static str) -> Self {
        Self { test, vcpus: 1, disks: Vec::new(), ports: Vec::new(), words: "" }
    }
}

pub(crate) fn start(kernel: &Path, wanted: Wanted) -> Machine {
    let device = File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm");
    let config =
        ShellConfig { vcpus: wanted.vcpus, memory_bytes: 96 << 20, software_kvm: software_kvm::detected() };
    let shell = Shell::new(device.into(), config).expect("a shell");
    let parts = Parts {
        kernel: File::open(kernel).expect("the kernel"),
        initramfs: Some(initramfs()),
        disks: wanted.disks,
        ports: wanted.ports,
        command_line: format!("test={} {}", wanted.test, wanted.words),
        echo_console: std::env::var_os("BULKHEAD_TEST_CONSOLE").is_some(),
        on_thread: None,
    };
    Machine::start(shell, parts).expect("a machine")
}

/// Runs a guest to its end; returns what it said.
pub(crate) fn run(kernel: &Path, wanted: Wanted) -> (End, String) {
    let mut machine = start(kernel, wanted);
    finish(&mut machine)
}

/// Waits for the end.
pub(crate) fn finish(machine: &mut Machine) -> (End, String) {
    let end = machine.ended().wait(LIMIT);
    let console = machine.console().last_lines(200);
    machine.stop().expect("it stops");
    (end.unwrap_or_else(|| panic!("no end within {LIMIT:?}:\n{console}")), console)
}

/// Everything was fine, and all of it was done.
pub(crate) fn assert_good(console: &str, results: &[&str]) {
    for wanted in results {
        let line = format!("{wanted} ok");
        assert!(console.lines().any(|found| found == line), "{line} is missing:\n{console}");
    }
    assert!(!console.contains("BAD"), "{console}");
    assert!(console.contains("guest done"), "{console}");
}

/// A port both ways, and the test's end of it.
pub(crate) fn duplex(number: u32) -> (Port, UnixStream) {
    let (device, ours) = UnixStream::pair().expect("a pair");
    device.set_nonblocking(true).expect("non-blocking");
    let writer = OwnedFd::from(device.try_clone().expect("a second descriptor"));
    (Port { number, from_host: Some(device.into()), to_host: Some(writer) }, ours)
}

pub(crate) fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the guest's bytes");
    all
}
