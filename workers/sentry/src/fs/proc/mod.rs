//! /proc and /sys: what the kernel shows of itself and of processes. Numbers show the job's limits, not the
//! host's.

mod descriptors;
mod memory;
mod node;
mod process;
mod source;
mod status;
mod sysctl;
mod sysfs;
mod system;

use std::sync::{Arc, Weak};

pub use sysctl::{RELEASE, VERSION};

pub use source::{MapLine, ProcessInfo, Source, SystemInfo, TaskStatus};

use crate::errno::Errno;
use crate::vfs::{Caller, FileSystem, Inode, Kind, Vfs, VirtualDirectory, VirtualEntry, VirtualLink};

/// What all nodes share.
pub(super) struct Shared {
    source: Arc<dyn Source>,
    vfs: Weak<Vfs>,
    fs: Arc<FileSystem>,
    host: system::Host,
}

impl Shared {
    fn vfs(&self) -> Result<Arc<Vfs>, Errno> {
        self.vfs.upgrade().ok_or(Errno::EIO)
    }
}

/// Mounts /proc and /sys. `source` may hold the kernel weakly: the file systems live as long as the kernel.
///
/// # Errors
/// EBUSY if they are mounted already.
pub fn mount(vfs: &Arc<Vfs>, source: Arc<dyn Source>) -> Result<(), Errno> {
    let host = system::Host::read();
    let shared = |fs: Arc<FileSystem>| {
        Arc::new(Shared { source: source.clone(), vfs: Arc::downgrade(vfs), fs, host: host.clone() })
    };
    let proc = shared(Vfs::new_proc_fs());
    let root = node::directory(&proc, 1, 0o555, (0, 0), Arc::new(Root(proc.clone())));
    vfs.mount_proc(root)?;
    let sys = shared(Vfs::new_sys_fs());
    vfs.mount_sys(sysfs::root(&sys))
}

/// /proc itself.
struct Root(Arc<Shared>);

/// /proc/self and /proc/thread-self.
struct SelfLink {
    thread: bool,
}

impl VirtualLink for SelfLink {
    fn target(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        let (pid, tid) = (caller.pid, caller.tid);
        Ok(if self.thread { format!("{pid}/task/{tid}") } else { pid.to_string() }.into_bytes())
    }
}

impl VirtualDirectory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        let shared = &self.0;
        if let Some(pid) = node::number_of(name) {
            let process = shared.source.process(pid);
            return Ok(process.map(|process| process::directory(shared, process, pid)));
        }
        Ok(match name {
            b"self" => Some(node::link(shared, 2, (0, 0), Arc::new(SelfLink { thread: false }))),
            b"thread-self" => Some(node::link(shared, 3, (0, 0), Arc::new(SelfLink { thread: true }))),
            _ => node::lookup(shared, system::ENTRIES, name, "proc"),
        })
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        let mut entries = node::list(system::ENTRIES, "proc");
        for (name, number) in [("self", 2), ("thread-self", 3)] {
            entries.push(VirtualEntry { name: name.into(), kind: Kind::Symlink, number });
        }
        entries.extend(self.0.source.pids().into_iter().map(|pid| VirtualEntry {
            name: pid.to_string().into_bytes(),
            kind: Kind::Directory,
            number: process::number(pid),
        }));
        Ok(entries)
    }
}
