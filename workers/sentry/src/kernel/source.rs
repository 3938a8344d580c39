//! What /proc and /sys ask.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bulkhead_platform::{Mapping, layout};

use super::process::{CpuTime, Process};
use super::task::{Run, Task};
use super::tree::State;
use super::{Kernel, Resource};
use crate::fs::proc::{MapLine, ProcessInfo, Source, SystemInfo, TaskStatus};
use crate::vfs::{Credentials, Dentry, FdTable, FsContext};

/// The kernel as /proc sees it. Held weakly: the kernel holds the file systems.
pub struct ProcSource(Weak<Kernel>);

impl ProcSource {
    /// For this kernel.
    pub fn shared(kernel: &Arc<Kernel>) -> Arc<dyn Source> {
        Arc::new(Self(Arc::downgrade(kernel)))
    }
}

impl Source for ProcSource {
    fn pids(&self) -> Vec<i32> {
        let Some(kernel) = self.0.upgrade() else { return Vec::new() };
        let tree = kernel.tree.lock();
        tree.nodes().map(|node| node.process.pid).collect()
    }

    fn process(&self, tid: i32) -> Option<Arc<dyn ProcessInfo>> {
        let kernel = self.0.upgrade()?;
        let process = {
            let tree = kernel.tree.lock();
            tree.process(tid).or_else(|| tree.task(tid).map(|task| task.process.clone()))?
        };
        Some(Arc::new(Seen { kernel, process }))
    }

    fn system(&self) -> SystemInfo {
        let Some(kernel) = self.0.upgrade() else { return SystemInfo::default() };
        let time = kernel.cpu_time();
        let (threads, last_pid, forks) = {
            let tree = kernel.tree.lock();
            (tree.threads, tree.last_pid(), tree.made())
        };
        let hostname = kernel.hostname.lock().clone();
        SystemInfo {
            cpus: kernel.limits.cpus() as u32,
            cpu_millis: kernel.limits.cpu_milli,
            memory_limit: kernel.limits.memory_bytes,
            memory_used: kernel.resident_bytes(),
            process_limit: kernel.limits.processes,
            uptime: kernel.booted.elapsed(),
            user_time: Duration::from_micros(time.user_us),
            system_time: Duration::from_micros(time.system_us),
            forks,
            running: 1,
            threads: threads as u32,
            last_pid,
            hostname,
        }
    }

    fn set_hostname(&self, name: &[u8]) -> bool {
        let Some(kernel) = self.0.upgrade() else { return false };
        *kernel.hostname.lock() = name.to_vec();
        true
    }
}

struct Seen {
    kernel: Arc<Kernel>,
    process: Arc<Process>,
}

/// Whether a thread waits, here or in a call that the host serves.
fn waits(task: &Task) -> bool {
    let running = match *task.run.lock() {
        Run::Parked(_) | Run::Lent => return true,
        Run::Running => task.host(),
        _ => None,
    };
    running.is_some_and(|host| host.sleeps())
}

impl Seen {
    fn task(&self, tid: i32) -> Option<Arc<Task>> {
        let tasks = self.process.tasks();
        tasks.into_iter().find(|task| task.tid() == tid)
    }

    fn state(&self, task: Option<&Task>) -> u8 {
        let (node_state, stopped) = {
            let tree = self.kernel.tree.lock();
            let node = tree.node(self.process.pid);
            node.map_or((State::Ending, false), |node| (node.state, node.stopped.is_some()))
        };
        match (node_state, stopped) {
            (State::Zombie(..), _) => b'Z',
            (_, true) => b'T',
            _ if task.is_some_and(waits) => b'S',
            _ => b'R',
        }
    }

    fn memory(&self, range: (u64, u64)) -> Vec<u8> {
        /// Most of a command line or environment that is shown.
        const MOST: u64 = 128 << 10;
        let length = range.1.saturating_sub(range.0).min(MOST) as usize;
        let Some(task) = self.process.leader().filter(|_| !self.process.ends()) else { return Vec::new() };
        let mut bytes = vec![0; length];
        let got = task.memory().read_some(range.0, &mut bytes);
        bytes.truncate(got);
        bytes
    }
}

fn duration(us: u64) -> Duration {
    Duration::from_micros(us)
}

impl ProcessInfo for Seen {
    fn pid(&self) -> i32 {
        self.process.pid
    }

    fn threads(&self) -> Vec<i32> {
        let mut tids: Vec<i32> = self.process.tasks().iter().map(|task| task.tid()).collect();
        tids.sort_unstable();
        tids
    }

    fn status(&self, tid: i32) -> Option<TaskStatus> {
        let task = self.task(tid)?;
        let (parent, group, session) = {
            let tree = self.kernel.tree.lock();
            let node = tree.node(self.process.pid)?;
            (node.parent, node.group, node.session)
        };
        let time: CpuTime = self.process.cpu_time();
        let used = *self.process.used.lock();
        let usage = self.process.stub().and_then(|stub| stub.usage().ok()).unwrap_or_default();
        let (ignored, caught) = self.process.signals.lock().actions.ignored_and_caught();
        let (pending, blocked) = {
            let signals = task.signals.lock();
            (signals.pending.set().0, signals.mask.0)
        };
        let name = task.name();
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let call = task.current_call.load(Ordering::Relaxed);
        Some(TaskStatus {
            name: name[..length].to_vec(),
            state: self.state(Some(&task)),
            parent,
            group,
            session,
            threads: self.process.tasks().len() as u32,
            user_time: duration(time.user_us),
            system_time: duration(time.system_us),
            children_user_time: duration(used.children.user_us),
            children_system_time: duration(used.children.system_us),
            nice: self.process.nice.load(Ordering::Relaxed),
            started: self.process.started.duration_since(self.kernel.booted),
            virtual_bytes: self.maps().iter().map(|line| line.end - line.start).sum(),
            resident_bytes: usage.resident,
            peak_resident_bytes: usage.peak_resident.max(used.peak_kib * 1024),
            pending,
            shared_pending: self.process.shared_pending().0,
            blocked,
            ignored: ignored.0,
            caught: caught.0,
            exit_signal: self.process.exit_signal.load(Ordering::Relaxed),
            no_new_privileges: self.process.no_new_privs.load(Ordering::Relaxed),
            seccomp: 0,
            minor_faults: usage.minor_faults,
            major_faults: usage.major_faults,
            voluntary_switches: 0,
            involuntary_switches: 0,
            waits_in: u64::try_from(call).ok(),
        })
    }

    fn command_line(&self) -> Vec<u8> {
        self.memory(self.process.space().arguments)
    }

    fn environment(&self) -> Vec<u8> {
        self.memory(self.process.space().environment)
    }

    fn auxiliary_vector(&self) -> Vec<u8> {
        self.process.space().auxv.clone()
    }

    fn maps(&self) -> Vec<MapLine> {
        let Some(stub) = self.process.stub() else { return Vec::new() };
        let space = self.process.space();
        let maps = stub.maps().unwrap_or_default();
        let mut lines: Vec<MapLine> = Vec::with_capacity(maps.len());
        for line in maps.iter().filter(|line| !layout::is_hidden(line.start)) {
            let line = map_line(&space, line);
            // The host has the stack's first contents as a mapping of their own; programs look for one stack.
            match lines.last_mut() {
                Some(last)
                    if (last.name, line.name) == ("[stack]", "[stack]")
                        && (last.end, last.protection) == (line.start, line.protection) =>
                {
                    last.end = line.end;
                }
                _ => lines.push(line),
            }
        }
        lines
    }

    fn executable(&self) -> Option<Arc<Dentry>> {
        self.process.space().file.as_ref().map(|file| file.dentry().clone())
    }

    fn files(&self) -> Option<Arc<FdTable>> {
        self.process.leader().filter(|_| !self.process.ends()).map(|task| task.files())
    }

    fn fs(&self) -> Option<Arc<FsContext>> {
        self.process.leader().filter(|_| !self.process.ends()).map(|task| task.fs())
    }

    fn credentials(&self) -> Arc<Credentials> {
        let leader = self.process.leader();
        leader.map_or_else(|| Arc::new(Credentials::new(0, 0, &[])), |task| task.credentials())
    }

    fn limits(&self) -> [(u64, u64); 16] {
        Resource::ALL.map(|resource| self.process.limits.get(resource))
    }

    fn set_name(&self, tid: i32, name: &[u8]) {
        if let Some(task) = self.task(tid) {
            task.set_name(name);
        }
    }
}

/// A line of the host's maps as the guest is to see it: with the sandbox's names.
fn map_line(space: &super::Space, line: &Mapping) -> MapLine {
    let bit = |at: usize, letter: u8, bit: u32| if line.permissions[at] == letter { bit } else { 0 };
    let mut shown = MapLine {
        start: line.start,
        end: line.end,
        protection: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4),
        shared: line.permissions[3] == b's',
        offset: 0,
        file: None,
        name: "",
        resident_bytes: 0,
    };
    if line.inode != 0 {
        let mapped = space.mapped.lock();
        let device = rustix::fs::makedev(line.device.0, line.device.1);
        if let Some(file) = mapped.find((device, line.inode), line.offset) {
            shown.offset = line.offset - file.host_offset;
            shown.file = Some(file.dentry.clone());
        } else if shown.shared {
            // Shared anonymous memory is called so on Linux.
            shown.name = "/dev/zero (deleted)";
        }
    } else {
        let within = |(start, end): (u64, u64)| line.start < end && line.end > start;
        shown.name = match line.name.as_str() {
            "[heap]" => "[heap]",
            "[vdso]" => "[vdso]",
            "[vvar]" => "[vvar]",
            "[vsyscall]" => "[vsyscall]",
            _ if within(space.stack) => "[stack]",
            _ => "",
        };
    }
    shown
}
