//! The job's control group (v2): its limits, and what it used.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bulkhead_wire::{Failed, FailureStage, Start};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::machine::mount_at;

/// Without these a job does not start.
const NEEDED: [&str; 2] = ["memory", "pids"];
/// For what runs inside: container engines and systemd set them for their own groups.
const USEFUL: [&str; 3] = ["cpu", "cpuset", "io"];

/// The agent's group is the root; the job has one of its own, and sees it as the root (a control group namespace).
pub(crate) struct Groups {
    /// The job's `cgroup.procs`; open, so that the child needs no name.
    join: File,
    memory_limit: File,
    processes_limit: File,
    processor: File,
    memory_peak: File,
    memory_events: File,
}

/// What the job's group counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) oom_kills: u64,
}

impl Groups {
    /// Makes the job's group, and mounts it at /sys/fs/cgroup.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn make(base: &Path) -> Result<Self, Failed> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Failed::new(FailureStage::Jail, &format!("control groups: {what}"), error)
        };
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let root = base.join("control-groups");
        // Delegated: what is inside of the job's namespace can't change the namespace's own limits.
        mount_at("cgroup2", &root, "cgroup2", flags, "nsdelegate")?;
        for name in NEEDED {
            enable(&root, name).map_err(|error| failed(name, &error))?;
        }
        for name in USEFUL {
            // One that this kernel was built without is nothing that the job's limits need.
            let _absent = enable(&root, name);
        }
        let job = root.join("job");
        fs::create_dir(&job).map_err(|error| failed("the job's group", &error))?;
        let open = |name: &str, write: bool| {
            let file = File::options().read(!write).write(write).open(job.join(name));
            file.map_err(|error| failed(name, &error))
        };
        let groups = Self {
            join: open("cgroup.procs", true)?,
            memory_limit: open("memory.max", true)?,
            processes_limit: open("pids.max", true)?,
            processor: open("cpu.stat", false)?,
            memory_peak: open("memory.peak", false)?,
            memory_events: open("memory.events", false)?,
        };
        // Opened now: from within the namespace the root is out of sight.
        let own = File::options().write(true).open(root.join("cgroup.procs"));
        let own = own.map_err(|error| failed("the agent's own group", &error))?;
        groups.namespace().map_err(|error| failed("the job's namespace", &error))?;
        mount_at("cgroup2", &base.join("sys/fs/cgroup"), "cgroup2", flags, "")?;
        (&own).write_all(b"0").map_err(|error| failed("leaving the job's group", &error))?;
        unmount(&root, UnmountFlags::DETACH).map_err(|error| failed("the agent's mount", &error))?;
        Ok(groups)
    }

    /// A namespace's root is the group that its maker is in.
    fn namespace(&self) -> io::Result<()> {
        (&self.join).write_all(b"0")?;
        crate::system::own_control_group_view()
    }

    /// Where a child writes `0` to be in the job's group.
    pub(crate) fn join(&self) -> io::Result<File> {
        self.join.try_clone()
    }

    /// Puts the job's limits in force.
    ///
    /// # Errors
    /// When the kernel does not take one.
    pub(crate) fn limit(&self, job: &Start) -> Result<(), Failed> {
        let set = |mut file: &File, value: u64, what: &str| {
            file.write_all(value.to_string().as_bytes())
                .map_err(|error| Failed::new(FailureStage::Jail, &format!("the {what} limit"), &error))
        };
        set(&self.memory_limit, job.memory_bytes, "memory")?;
        set(&self.processes_limit, job.processes, "process")
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let processor = read(&self.processor);
        Counted {
            user_us: field(&processor, "user_usec"),
            system_us: field(&processor, "system_usec"),
            peak_memory_bytes: read(&self.memory_peak).trim().parse().unwrap_or(0),
            oom_kills: field(&read(&self.memory_events), "oom_kill"),
        }
    }
}

fn enable(root: &Path, name: &str) -> io::Result<()> {
    fs::write(root.join("cgroup.subtree_control"), format!("+{name}"))
}

fn read(mut file: &File) -> String {
    let mut text = String::new();
    // The kernel's own short files: an error or an odd byte means "nothing counted".
    let _unread = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
    text
}

/// The number behind a name, in lines of `name number`.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!((field(events, "oom_kill"), field(events, "oom"), field(events, "max")), (2, 3, 0));
    }
}
