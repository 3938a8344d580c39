//! What /proc and /sys ask the rest of the kernel. Nothing of the file system is locked when they do.

use std::sync::Arc;
use std::time::Duration;

use crate::vfs::{Credentials, Dentry, FdTable, FsContext};

/// The kernel, as /proc and /sys see it.
pub trait Source: Send + Sync + 'static {
    /// Ids of all processes (thread groups), ascending.
    fn pids(&self) -> Vec<i32>;

    /// The process that has a thread with this id; `None` if there is none, or it has been reaped.
    fn process(&self, tid: i32) -> Option<Arc<dyn ProcessInfo>>;

    /// Numbers of the whole sandbox.
    fn system(&self) -> SystemInfo;

    /// Sets the name that uname(2) and /proc/sys/kernel/hostname show; `false` if that isn't allowed.
    fn set_hostname(&self, _name: &[u8]) -> bool {
        false
    }
}

/// One process.
pub trait ProcessInfo: Send + Sync {
    /// Its id (thread group id).
    fn pid(&self) -> i32;

    /// Ids of its threads, ascending.
    fn threads(&self) -> Vec<i32>;

    /// Numbers of one of its threads (with the process's sums if `tid` is the process's id).
    fn status(&self, tid: i32) -> Option<TaskStatus>;

    /// The arguments as they are in guest memory now, each with its NUL. At most a page or what it has.
    fn command_line(&self) -> Vec<u8>;

    /// The environment as it is in guest memory now.
    fn environment(&self) -> Vec<u8>;

    /// The auxiliary vector's bytes.
    fn auxiliary_vector(&self) -> Vec<u8>;

    /// Its mappings, ascending, without those that are the platform's.
    fn maps(&self) -> Vec<MapLine>;

    /// The program that it runs.
    fn executable(&self) -> Option<Arc<Dentry>>;

    /// Its descriptors; `None` for a zombie.
    fn files(&self) -> Option<Arc<FdTable>>;

    /// Its directories; `None` for a zombie.
    fn fs(&self) -> Option<Arc<FsContext>>;

    /// Who it is.
    fn credentials(&self) -> Arc<Credentials>;

    /// Soft and hard resource limits by RLIMIT_* number; `u64::MAX` is unlimited.
    fn limits(&self) -> [(u64, u64); 16];

    /// oom_score_adj as the guest set it.
    fn oom_score_adjustment(&self) -> i32 {
        0
    }

    /// Sets oom_score_adj, -1000 to 1000: kept and shown, without effect on the host's.
    fn set_oom_score_adjustment(&self, _value: i32) {}

    /// Sets a thread's name, at most 15 bytes.
    fn set_name(&self, _tid: i32, _name: &[u8]) {}

    /// Bytes that it has read and written, and how many calls that took: (rchar, wchar, syscr, syscw).
    fn input_output(&self) -> (u64, u64, u64, u64) {
        (0, 0, 0, 0)
    }
}

/// Numbers of a thread.
#[derive(Debug, Clone, Default)]
pub struct TaskStatus {
    /// Name, at most 15 bytes.
    pub name: Vec<u8>,
    /// One of `RSDTtZX`.
    pub state: u8,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Threads of the process.
    pub threads: u32,
    /// CPU time in user mode.
    pub user_time: Duration,
    /// CPU time in system mode.
    pub system_time: Duration,
    /// The same of reaped children.
    pub children_user_time: Duration,
    /// The same of reaped children.
    pub children_system_time: Duration,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// When it started, since the sandbox's boot.
    pub started: Duration,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Most bytes that were in memory.
    pub peak_resident_bytes: u64,
    /// Signals pending for the thread; bit n-1 is signal n.
    pub pending: u64,
    /// Signals pending for the process.
    pub shared_pending: u64,
    /// Blocked signals.
    pub blocked: u64,
    /// Ignored signals.
    pub ignored: u64,
    /// Signals with a handler.
    pub caught: u64,
    /// Signal that the parent gets.
    pub exit_signal: i32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// Seccomp mode (0, 1 or 2).
    pub seccomp: u32,
    /// Minor faults.
    pub minor_faults: u64,
    /// Major faults.
    pub major_faults: u64,
    /// Voluntary context switches.
    pub voluntary_switches: u64,
    /// Other context switches.
    pub involuntary_switches: u64,
    /// Last system call, if it waits in one.
    pub waits_in: Option<u64>,
}

/// A line of /proc/PID/maps.
#[derive(Debug, Clone)]
pub struct MapLine {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
    /// PROT_* bits.
    pub protection: u32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// The file, if there is one.
    pub file: Option<Arc<Dentry>>,
    /// `[stack]`, `[heap]`, `[vdso]`; empty for anonymous memory.
    pub name: &'static str,
    /// Bytes in memory, if known.
    pub resident_bytes: u64,
}

/// Numbers of the sandbox.
#[derive(Debug, Clone, Default)]
pub struct SystemInfo {
    /// CPUs that the job may use: its limit rounded up, at least 1.
    pub cpus: u32,
    /// The CPU limit in thousandths of a CPU.
    pub cpu_millis: u64,
    /// The memory limit in bytes.
    pub memory_limit: u64,
    /// Memory in use in bytes.
    pub memory_used: u64,
    /// Most processes and threads.
    pub process_limit: u64,
    /// Since the sandbox's boot.
    pub uptime: Duration,
    /// CPU time in user mode of all that ran.
    pub user_time: Duration,
    /// CPU time in system mode of all that ran.
    pub system_time: Duration,
    /// Processes and threads ever made.
    pub forks: u64,
    /// Threads that run.
    pub running: u32,
    /// Threads that exist.
    pub threads: u32,
    /// Newest id.
    pub last_pid: i32,
    /// Node name.
    pub hostname: Vec<u8>,
}
