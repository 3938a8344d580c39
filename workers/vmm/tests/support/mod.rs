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
/// A directory with the guests of `guests/`, built: for places without a compiler. What is missing in it is built into it.
const GUESTS: &str = "BULKHEAD_TEST_VMM_GUESTS";
const INIT: (&str, &str) = ("init", include_str!("../../guests/init.c"));
const BARE: (&str, &str) = ("bare", include_str!("../../guests/bare.c"));
const INIT_FLAGS: &[&str] = &["-O2", "-static", "-s"];
const BARE_FLAGS: &[&str] = &[
    "-O2",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
    "-fno-stack-protector",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fcf-protection=none",
    "-Wl,-Ttext=0x100000,--build-id=none",
];
/// Far more than any of the guests needs on the slowest KVM of a busy host.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// Nothing, or the reason why no machine can be tested here.
pub(crate) fn kvm() -> Result<(), String> {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| format!("/dev/kvm can't be opened: {error}"))
}

/// The kernel, or the reason why no guest of it can be tested here.
pub(crate) fn kernel() -> Result<PathBuf, String> {
    kvm()?;
    let path = std::env::var_os(KERNEL).ok_or(format!("{KERNEL} names no guest kernel"))?;
    Ok(path.into())
}

/// A guest's program.
fn guest((name, source): (&str, &str), flags: &[&str]) -> Vec<u8> {
    let kept = std::env::var_os(GUESTS).map(PathBuf::from);
    if let Some(program) = kept.as_ref().and_then(|directory| fs::read(directory.join(name)).ok()) {
        return program;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (input, program) = (directory.path().join("guest.c"), directory.path().join(name));
    fs::write(&input, source).expect("the source");
    let status = Command::new("cc").args(flags).arg("-o").args([&program, &input]).status();
    assert!(status.expect("a C compiler for the guests' programs").success());
    let program = fs::read(program).expect("the program");
    if let Some(directory) = kept {
        fs::write(directory.join(name), &program).expect("a directory for the guests' programs");
    }
    program
}

/// The page of a kernel in `guests/bare.c`.
pub(crate) fn bare() -> File {
    static KERNEL: OnceLock<Vec<u8>> = OnceLock::new();
    file_with(KERNEL.get_or_init(|| guest(BARE, BARE_FLAGS)))
}

/// The initial file system with the tests' first program in it.
pub(crate) fn initramfs() -> File {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    let archive = ARCHIVE.get_or_init(|| {
        let mut archive = Vec::new();
        entry(&mut archive, "dev", 0o040_755, &[]);
        entry(&mut archive, "proc", 0o040_755, &[]);
        entry(&mut archive, "init", 0o100_755, &guest(INIT, INIT_FLAGS));
        entry(&mut archive, "TRAILER!!!", 0, &[]);
        archive
    });
    file_with(archive)
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
}

impl Wanted {
    pub(crate) fn new(test: &'static str) -> Self {
        Self { test, vcpus: 1, disks: Vec::new(), ports: Vec::new() }
    }
}

/// A machine of Linux with the tests' first program.
pub(crate) fn linux(kernel: &Path, wanted: Wanted) -> Machine {
    start(File::open(kernel).expect("the kernel"), Some(initramfs()), 96 << 20, wanted)
}

/// A machine of the bare guest.
pub(crate) fn start_bare(wanted: Wanted) -> Machine {
    start(bare(), None, 16 << 20, wanted)
}

fn start(kernel: File, initramfs: Option<File>, memory_bytes: u64, wanted: Wanted) -> Machine {
    let device = File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm");
    let config = ShellConfig { vcpus: wanted.vcpus, memory_bytes, software_kvm: software_kvm::detected() };
    let shell = Shell::new(device.into(), config).expect("a shell");
    let parts = Parts {
        kernel,
        initramfs,
        disks: wanted.disks,
        ports: wanted.ports,
        command_line: format!("test={}", wanted.test),
        echo_console: std::env::var_os("BULKHEAD_TEST_CONSOLE").is_some(),
        on_thread: None,
        samples: None,
    };
    Machine::start(shell, parts).expect("a machine")
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
