//! /proc/sys.

use super::Shared;
use super::node::{Entry, Node, entry};
use crate::fs::pipe;
use crate::kernel::segments::SEGMENTS_MAX;
use crate::vfs::MAX_DESCRIPTORS;

/// The kernel release that programs see, as uname(2) says it.
pub const RELEASE: &str = "6.1.0-bulkhead";
/// The kernel version that programs see.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Bulkhead";

macro_rules! fixed {
    ($name:literal, $value:expr) => {
        entry($name, Node::File(|_| format!("{}\n", $value).into_bytes()))
    };
}

/// What is in /proc/sys.
pub(super) const ENTRIES: &[Entry] = &[
    entry("fs", Node::Directory(FS)),
    entry("kernel", Node::Directory(KERNEL)),
    entry("net", Node::Directory(NET)),
    entry("vm", Node::Directory(VM)),
];

const FS: &[Entry] = &[
    fixed!("aio-max-nr", 65_536),
    fixed!("aio-nr", 0),
    fixed!("file-max", 1_048_576),
    fixed!("file-nr", "64\t0\t1048576"),
    entry("inotify", Node::Directory(INOTIFY)),
    fixed!("nr_open", MAX_DESCRIPTORS),
    fixed!("pipe-max-size", pipe::MAX_CAPACITY),
    fixed!("protected_hardlinks", 1),
    fixed!("protected_symlinks", 0),
];

const INOTIFY: &[Entry] = &[
    fixed!("max_queued_events", 16_384),
    fixed!("max_user_instances", 128),
    fixed!("max_user_watches", 65_536),
];

const KERNEL: &[Entry] = &[
    fixed!("cap_last_cap", 40),
    fixed!("core_pattern", "core"),
    fixed!("core_uses_pid", 0),
    entry("domainname", Node::File(|_| b"(none)\n".to_vec())),
    entry("hostname", Node::Writable(hostname, set_hostname)),
    fixed!("msgmax", 8192),
    fixed!("msgmnb", 16_384),
    fixed!("msgmni", 32_000),
    fixed!("ngroups_max", 65_536),
    fixed!("osrelease", RELEASE),
    fixed!("ostype", "Linux"),
    fixed!("overflowgid", 65_534),
    fixed!("overflowuid", 65_534),
    entry("pid_max", Node::File(|_| b"4194304\n".to_vec())),
    entry("random", Node::Directory(RANDOM)),
    fixed!("randomize_va_space", 2),
    fixed!("sched_rt_period_us", 1_000_000),
    fixed!("sched_rt_runtime_us", 950_000),
    fixed!("sem", "32000\t1024000000\t500\t32000"),
    fixed!("shmall", "18446744073692774399"),
    fixed!("shmmax", "18446744073692774399"),
    fixed!("shmmni", SEGMENTS_MAX),
    entry("threads-max", Node::File(threads_max)),
    fixed!("unprivileged_userns_clone", 0),
    fixed!("version", VERSION),
    entry("yama", Node::Directory(YAMA)),
];

const YAMA: &[Entry] = &[fixed!("ptrace_scope", 0)];

const RANDOM: &[Entry] = &[
    entry("boot_id", Node::File(|_| boot_id().into_bytes())),
    fixed!("entropy_avail", 256),
    fixed!("poolsize", 256),
    entry("uuid", Node::File(|_| random_uuid().into_bytes())),
];

const VM: &[Entry] = &[
    fixed!("max_map_count", 65_530),
    fixed!("min_free_kbytes", 0),
    fixed!("mmap_min_addr", 65_536),
    fixed!("nr_hugepages", 0),
    fixed!("overcommit_memory", 1),
    fixed!("overcommit_ratio", 50),
    fixed!("swappiness", 0),
];

const NET: &[Entry] = &[entry("core", Node::Directory(NET_CORE)), entry("ipv4", Node::Directory(NET_IPV4))];

const NET_CORE: &[Entry] = &[
    fixed!("rmem_default", 212_992),
    fixed!("rmem_max", 212_992),
    fixed!("somaxconn", 4096),
    fixed!("wmem_default", 212_992),
    fixed!("wmem_max", 212_992),
];

const NET_IPV4: &[Entry] = &[
    fixed!("ip_local_port_range", "32768\t60999"),
    fixed!("ip_unprivileged_port_start", 1024),
    fixed!("tcp_rmem", "4096\t131072\t6291456"),
    fixed!("tcp_wmem", "4096\t16384\t4194304"),
];

fn boot_id() -> String {
    static ONCE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ONCE.get_or_init(random_uuid).clone()
}

fn random_uuid() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the id is all zeros but well-formed; the host's getrandom does not fail once it is up.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}\n", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn hostname(shared: &Shared) -> Vec<u8> {
    let mut name = shared.source.system().hostname;
    name.push(b'\n');
    name
}

fn set_hostname(shared: &Shared, data: &[u8]) -> bool {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    end <= 64 && shared.source.set_hostname(&data[..end])
}

fn threads_max(shared: &Shared) -> Vec<u8> {
    format!("{}\n", shared.source.system().process_limit).into_bytes()
}
