//! The auxiliary vector.

use super::image::Loaded;
use crate::vfs::Credentials;

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
const AT_MINSIGSTKSZ: u64 = 51;

/// What the host's kernel says to every program of this machine, and a guest's programs are told, too.
#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    hwcap: u64,
    hwcap2: u64,
    least_signal_stack: u64,
    rseq_feature_size: u64,
    rseq_align: u64,
}

fn machine() -> Machine {
    let mut machine = Machine { least_signal_stack: 2048, ..Machine::default() };
    let bytes = std::fs::read("/proc/self/auxv").unwrap_or_default();
    for pair in bytes.chunks_exact(16) {
        let word = |at: usize| u64::from_ne_bytes(pair[at..at + 8].try_into().unwrap_or_default());
        match word(0) {
            AT_HWCAP => machine.hwcap = word(8),
            AT_HWCAP2 => machine.hwcap2 = word(8),
            AT_MINSIGSTKSZ => machine.least_signal_stack = word(8),
            AT_RSEQ_FEATURE_SIZE => machine.rseq_feature_size = word(8),
            AT_RSEQ_ALIGN => machine.rseq_align = word(8),
            _ => {}
        }
    }
    machine
}

/// Addresses that the vector points to.
pub(super) struct Pointers {
    pub(super) random: u64,
    pub(super) platform: u64,
    pub(super) file_name: u64,
    pub(super) vdso: u64,
}

/// The vector of a program.
pub(super) fn vector(
    program: &Loaded,
    interpreter_base: u64,
    credentials: &Credentials,
    secure: bool,
    at: &Pointers,
) -> Vec<(u64, u64)> {
    static MACHINE: std::sync::OnceLock<Machine> = std::sync::OnceLock::new();
    let machine = MACHINE.get_or_init(machine);
    const PAGE: u64 = 4096;
    /// USER_HZ.
    const TICKS: u64 = 100;
    const HEADER: u64 = 56;
    let mut vector = vec![
        (AT_SYSINFO_EHDR, at.vdso),
        (AT_MINSIGSTKSZ, machine.least_signal_stack),
        (AT_HWCAP, machine.hwcap),
        (AT_PAGESZ, PAGE),
        (AT_CLKTCK, TICKS),
        (AT_PHDR, program.headers),
        (AT_PHENT, HEADER),
        (AT_PHNUM, program.header_count),
        (AT_BASE, interpreter_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, program.entry),
        (AT_UID, credentials.uid.into()),
        (AT_EUID, credentials.euid.into()),
        (AT_GID, credentials.gid.into()),
        (AT_EGID, credentials.egid.into()),
        (AT_SECURE, secure.into()),
        (AT_RANDOM, at.random),
        (AT_HWCAP2, machine.hwcap2),
        (AT_EXECFN, at.file_name),
        (AT_PLATFORM, at.platform),
    ];
    if machine.rseq_align != 0 {
        vector.push((AT_RSEQ_FEATURE_SIZE, machine.rseq_feature_size));
        vector.push((AT_RSEQ_ALIGN, machine.rseq_align));
    }
    vector.push((AT_NULL, 0));
    vector
}
