//! Files of /proc that are about the whole sandbox.

use std::fmt::Write;
use std::sync::Arc;

use super::node::{self, Entry, Node, entry};
use super::{Shared, sysctl};
use crate::errno::Errno;
use crate::vfs::{Inode, VirtualDirectory, VirtualEntry};

/// What is in /proc besides processes.
pub(super) const ENTRIES: &[Entry] = &[
    entry("cgroups", Node::File(|_| b"#subsys_name\thierarchy\tnum_cgroups\tenabled\n".to_vec())),
    entry("cmdline", Node::File(|_| b"\n".to_vec())),
    entry("cpuinfo", Node::File(cpuinfo)),
    entry(
        "devices",
        Node::File(|_| b"Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:\n".to_vec()),
    ),
    entry("diskstats", Node::File(|_| Vec::new())),
    entry("filesystems", Node::File(filesystems)),
    entry("interrupts", Node::File(|_| b"           CPU0       \n".to_vec())),
    entry("loadavg", Node::File(loadavg)),
    entry("meminfo", Node::File(meminfo)),
    entry("modules", Node::File(|_| Vec::new())),
    entry("mounts", Node::Link("self/mounts")),
    entry("net", Node::Link("self/net")),
    entry("partitions", Node::File(|_| b"major minor  #blocks  name\n\n".to_vec())),
    entry("stat", Node::File(stat)),
    entry("swaps", Node::File(|_| b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())),
    entry("sys", Node::Directory(sysctl::ENTRIES)),
    entry("uptime", Node::File(uptime)),
    entry("version", Node::File(version)),
    entry("vmstat", Node::File(vmstat)),
];

/// /proc/net: there are no interfaces but the loopback, and no connections of the internet's kind.
pub(super) const NET: &[Entry] = &[
    entry(
        "arp",
        Node::File(|_| {
            b"IP address       HW type     Flags       HW address            Mask     Device\n".to_vec()
        }),
    ),
    entry("dev", Node::File(net_dev)),
    entry("if_inet6", Node::File(|_| b"00000000000000000000000000000001 01 80 10 80       lo\n".to_vec())),
    entry(
        "route",
        Node::File(|_| {
            b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_vec()
        }),
    ),
    entry("tcp", Node::File(net_sockets)),
    entry("tcp6", Node::File(net_sockets)),
    entry("udp", Node::File(net_sockets)),
    entry("udp6", Node::File(net_sockets)),
    entry("unix", Node::File(|_| b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec())),
];

/// /proc/PID/net.
pub(super) struct NetDirectory {
    pub shared: Arc<Shared>,
    pub entries: &'static [Entry],
}

impl VirtualDirectory for NetDirectory {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        Ok(node::lookup(&self.shared, self.entries, name, "proc/net"))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        Ok(node::list(self.entries, "proc/net"))
    }
}

fn net_dev(_shared: &Shared) -> Vec<u8> {
    b"Inter-|   Receive                                                |  Transmit\n \
      face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls \
      carrier compressed\n    lo:       0       0    0    0    0     0          0         0        0       0    \
      0    0    0     0       0          0\n"
        .to_vec()
}

fn net_sockets(_shared: &Shared) -> Vec<u8> {
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        .to_vec()
}

/// What is shown of the host, read once: the processor's model and flags, and how many there are.
#[derive(Clone)]
pub(super) struct Host {
    /// The first processor's lines of /proc/cpuinfo.
    processor: Arc<str>,
    /// Processors of the host: what a CPU number may be below.
    pub possible: u32,
}

impl Host {
    /// Reads what is shown; without a host's /proc something neutral.
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let count = text.lines().filter(|line| line.starts_with("processor")).count().max(1);
        let first = text.split("\n\n").next().unwrap_or_default();
        let kept = first.lines().filter(|line| {
            // Which processor it is, is written anew for each.
            !["processor", "physical id", "siblings", "core id", "cpu cores", "apicid", "initial apicid"]
                .iter()
                .any(|name| line.split(':').next().is_some_and(|key| key.trim() == *name))
        });
        Self { processor: kept.collect::<Vec<_>>().join("\n").into(), possible: count as u32 }
    }
}

/// A list of the first CPUs, as in cpusets.
pub(super) fn cpu_list(cpus: u32) -> String {
    if cpus <= 1 { "0".into() } else { format!("0-{}", cpus - 1) }
}

fn cpuinfo(shared: &Shared) -> Vec<u8> {
    let cpus = shared.source.system().cpus.max(1);
    let mut out = String::new();
    for cpu in 0..cpus {
        let _infallible = write!(
            out,
            "processor\t: {cpu}\n{}\nphysical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}\ncpu cores\t: {cpus}\n\
             apicid\t\t: {cpu}\ninitial apicid\t: {cpu}\n\n",
            shared.host.processor
        );
    }
    out.into_bytes()
}

fn filesystems(_shared: &Shared) -> Vec<u8> {
    b"nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tpipefs\nnodev\tsockfs\nnodev\toverlay\n".to_vec()
}

fn loadavg(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    format!("0.00 0.00 0.00 {}/{} {}\n", system.running.max(1), system.threads.max(1), system.last_pid)
        .into_bytes()
}

fn meminfo(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let total = system.memory_limit;
    let free = total.saturating_sub(system.memory_used);
    let shared_memory = shared.vfs().map_or(0, |vfs| vfs.memory().used());
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", shared_memory),
        ("SwapCached", 0),
        ("Active", system.memory_used),
        ("Inactive", 0),
        ("Active(anon)", system.memory_used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", system.memory_used),
        ("Mapped", 0),
        ("Shmem", shared_memory),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("CommitLimit", total),
        ("Committed_AS", system.memory_used),
        ("VmallocTotal", 34_359_738_367 << 10),
        ("VmallocUsed", 0),
    ];
    let mut out = String::new();
    for (name, bytes) in rows {
        let _infallible = writeln!(out, "{:<16}{:8} kB", format!("{name}:"), bytes / 1024);
    }
    out.push_str("HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n");
    out.into_bytes()
}

fn stat(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let cpus = system.cpus.max(1);
    let ticks = |time: std::time::Duration| time.as_millis() as u64 / 10;
    let (user, kernel) = (ticks(system.user_time), ticks(system.system_time));
    let wall = ticks(system.uptime);
    let idle = (wall * u64::from(cpus)).saturating_sub(user + kernel);
    let mut out = format!("cpu  {user} 0 {kernel} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let share = |value: u64| value / u64::from(cpus);
        let _infallible =
            writeln!(out, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", share(user), share(kernel), share(idle));
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let boot = now - system.uptime.as_secs() as i64;
    let _infallible = write!(
        out,
        "intr 0\nctxt 0\nbtime {boot}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n\
         softirq 0 0 0 0 0 0 0 0 0 0 0\n",
        system.forks,
        system.running.max(1)
    );
    out.into_bytes()
}

fn uptime(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let busy = system.user_time + system.system_time;
    let idle = (system.uptime * system.cpus.max(1)).saturating_sub(busy);
    format!("{:.2} {:.2}\n", system.uptime.as_secs_f64(), idle.as_secs_f64()).into_bytes()
}

fn version(_shared: &Shared) -> Vec<u8> {
    format!("Linux version {} (bulkhead) {}\n", sysctl::RELEASE, sysctl::VERSION).into_bytes()
}

fn vmstat(shared: &Shared) -> Vec<u8> {
    let system = shared.source.system();
    let free = system.memory_limit.saturating_sub(system.memory_used) / 4096;
    format!(
        "nr_free_pages {free}\nnr_anon_pages {}\npgfault 0\npgmajfault 0\noom_kill 0\n",
        system.memory_used / 4096
    )
    .into_bytes()
}
