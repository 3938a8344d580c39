//! /sys: the processors and the control group, as far as programs look there for their limits.

use std::sync::Arc;

use super::Shared;
use super::node::{self, Entry, Node, entry};
use super::system::cpu_list;
use crate::errno::Errno;
use crate::vfs::{Inode, VirtualDirectory, VirtualEntry};

const ENTRIES: &[Entry] = &[
    entry("block", Node::Directory(&[])),
    entry("bus", Node::Directory(&[])),
    entry("class", Node::Directory(CLASS)),
    entry("devices", Node::Directory(DEVICES)),
    entry("fs", Node::Directory(FS)),
    entry("kernel", Node::Directory(KERNEL)),
    entry("module", Node::Directory(&[])),
];

const CLASS: &[Entry] = &[entry("net", Node::Directory(&[]))];
const DEVICES: &[Entry] = &[entry("system", Node::Directory(SYSTEM))];
const SYSTEM: &[Entry] = &[entry("cpu", Node::Directory(CPU)), entry("node", Node::Directory(NODES))];

const NODES: &[Entry] = &[
    entry("online", Node::File(|_| b"0\n".to_vec())),
    entry("possible", Node::File(|_| b"0\n".to_vec())),
    entry("node0", Node::Directory(NODE0)),
];

const NODE0: &[Entry] = &[entry("cpulist", Node::File(online))];

/// CPU numbers that programs may see are the host's, so what is sized by "possible" must be the host's too.
const CPU: &[Entry] = &[
    entry("kernel_max", Node::File(|_| b"8191\n".to_vec())),
    entry("offline", Node::File(|_| b"\n".to_vec())),
    entry("online", Node::File(online)),
    entry("possible", Node::File(possible)),
    entry("present", Node::File(possible)),
];

const KERNEL: &[Entry] = &[entry("mm", Node::Directory(MM))];
const MM: &[Entry] =
    &[entry("transparent_hugepage", Node::Directory(THP)), entry("hugepages", Node::Directory(&[]))];
const THP: &[Entry] = &[
    entry("enabled", Node::File(|_| b"always [madvise] never\n".to_vec())),
    entry("hpage_pmd_size", Node::File(|_| b"2097152\n".to_vec())),
    entry("shmem_enabled", Node::File(|_| b"always within_size advise [never] deny force\n".to_vec())),
];

const FS: &[Entry] = &[entry("cgroup", Node::Directory(CGROUP))];

/// As the second version's root of a container looks.
const CGROUP: &[Entry] = &[
    entry("cgroup.controllers", Node::File(|_| b"cpu memory pids\n".to_vec())),
    entry("cgroup.procs", Node::File(cgroup_procs)),
    entry("cpu.max", Node::File(cpu_max)),
    entry("cpu.stat", Node::File(cpu_stat)),
    entry("cpu.weight", Node::File(|_| b"100\n".to_vec())),
    entry("cpuset.cpus.effective", Node::File(online)),
    entry("memory.current", Node::File(memory_current)),
    entry("memory.events", Node::File(|_| b"low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n".to_vec())),
    entry("memory.high", Node::File(|_| b"max\n".to_vec())),
    entry("memory.max", Node::File(memory_max)),
    entry("memory.stat", Node::File(memory_stat)),
    entry("memory.swap.max", Node::File(|_| b"0\n".to_vec())),
    entry("pids.current", Node::File(pids_current)),
    entry("pids.max", Node::File(pids_max)),
];

fn online(shared: &Shared) -> Vec<u8> {
    format!("{}\n", cpu_list(shared.source.system().cpus)).into_bytes()
}

fn possible(shared: &Shared) -> Vec<u8> {
    format!("{}\n", cpu_list(shared.host.possible)).into_bytes()
}

fn cgroup_procs(shared: &Shared) -> Vec<u8> {
    shared.source.pids().iter().map(|pid| format!("{pid}\n")).collect::<String>().into_bytes()
}

/// Microseconds of a period of CPU bandwidth, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

fn cpu_max(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let quota = match system.cpu_millis {
        0 => u64::from(system.cpus) * CPU_PERIOD,
        millis => millis * CPU_PERIOD / 1000,
    };
    format!("{quota} {CPU_PERIOD}\n").into_bytes()
}

fn cpu_stat(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let (user, kernel) = (system.user_time.as_micros(), system.system_time.as_micros());
    format!("usage_usec {}\nuser_usec {user}\nsystem_usec {kernel}\n", user + kernel).into_bytes()
}

fn memory_current(shared: &Shared) -> Vec<u8> {
    format!("{}\n", shared.source.system().memory_used).into_bytes()
}

fn memory_max(shared: &Shared) -> Vec<u8> {
    format!("{}\n", shared.source.system().memory_limit).into_bytes()
}

fn memory_stat(shared: &Shared) -> Vec<u8> {
    let used = shared.source.system().memory_used;
    format!("anon {used}\nfile 0\nkernel 0\ninactive_file 0\nactive_file 0\n").into_bytes()
}

fn pids_current(shared: &Shared) -> Vec<u8> {
    format!("{}\n", shared.source.system().threads).into_bytes()
}

fn pids_max(shared: &Shared) -> Vec<u8> {
    format!("{}\n", shared.source.system().process_limit).into_bytes()
}

struct Root(Arc<Shared>);

impl VirtualDirectory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        Ok(node::lookup(&self.0, ENTRIES, name, "sys"))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        Ok(node::list(ENTRIES, "sys"))
    }
}

/// The root of /sys.
pub(super) fn root(shared: &Arc<Shared>) -> Arc<Inode> {
    node::directory(shared, 1, 0o555, (0, 0), Arc::new(Root(shared.clone())))
}
