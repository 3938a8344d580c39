//! What the sentry knows of an address space; its mappings are the host's own.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use bulkhead_platform::{Mapping, Stub};

use super::{Kernel, Process, Task};
use crate::errno::Errno;
use crate::sync::Mutex;

/// Files that are known of one address space, at most: each is the sentry's memory, and maybe a host descriptor.
const MAX_MAPPED: usize = 16_384;
/// The list is looked through after it has grown by this many files...
const SWEEP_FILES: usize = 64;
/// ... or this many bytes of files that have a host file of their own: what nobody maps any more would otherwise
/// count as disk or memory in use.
const SWEEP_BYTES: u64 = 16 << 20;

/// Facts that exec leaves behind, for /proc and prctl. Shared with a vfork child.
#[derive(Debug, Default)]
pub struct Space {
    /// The executable's path, resolved.
    pub executable: Vec<u8>,
    /// Where argv lies on the stack.
    pub arguments: (u64, u64),
    /// Where the environment lies.
    pub environment: (u64, u64),
    /// The auxiliary vector as the program got it.
    pub auxv: Vec<u8>,
    /// Start of the heap.
    pub brk_start: u64,
    /// Lowest address of code, and behind the highest.
    pub code: (u64, u64),
    /// Of data.
    pub data: (u64, u64),
    /// The stack pointer that the program started with.
    pub stack_start: u64,
    /// The stack's mapping.
    pub stack: (u64, u64),
    /// The executable's open file, for /proc/PID/exe.
    pub file: Option<Arc<crate::vfs::OpenFile>>,
    /// Files that are mapped, as the guest named them.
    pub mapped: Mutex<Mapped>,
}

/// The files of an address space. The sentry does not see when a mapping ends: so it looks from time to time.
#[derive(Debug, Default)]
pub struct Mapped {
    files: Vec<MappedFile>,
    /// Counts what happens to the list.
    clock: u64,
    /// Files and bytes that the last look left.
    left: (usize, u64),
}

/// A file that was mapped: maps and smaps name it by where the host says it lies. It keeps the file, and with it
/// what the file costs, for as long as the host has it mapped.
pub struct MappedFile {
    /// Host device and inode of what was injected.
    pub host: (u64, u64),
    /// Offset of the file in the host file, in bytes (files of an image share one host file).
    pub host_offset: u64,
    /// Length in the host file, in bytes.
    pub length: u64,
    /// The file's name.
    pub dentry: Arc<crate::vfs::Dentry>,
    /// It has a host file of its own.
    own: bool,
    /// Threads whose host call that maps it may not be over yet.
    users: Vec<Weak<Task>>,
    /// When something happened to it last.
    stamp: u64,
}

impl MappedFile {
    /// A file of which `mapping` is mapped.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(mapping: &crate::vfs::Mapping, dentry: &Arc<crate::vfs::Dentry>) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&mapping.host_file)?;
        Ok(Self {
            host: (stat.st_dev, stat.st_ino),
            host_offset: if mapping.own_file { 0 } else { mapping.host_offset },
            length: mapping.length_available,
            dentry: dentry.clone(),
            own: mapping.own_file,
            users: Vec::new(),
            stamp: 0,
        })
    }
}

impl From<Vec<MappedFile>> for Mapped {
    fn from(files: Vec<MappedFile>) -> Self {
        Self { files, ..Self::default() }
    }
}

/// What host processes have mapped or open: inode, and the range in it of a mapping; none for a descriptor.
#[derive(Default)]
struct Held {
    mapped: Vec<(u64, u64, u64)>,
    inodes: HashSet<u64>,
}

impl Held {
    fn add(&mut self, mappings: &[Mapping]) {
        for mapping in mappings.iter().filter(|mapping| mapping.inode != 0) {
            let end = mapping.offset.saturating_add(mapping.end - mapping.start);
            self.mapped.push((mapping.inode, mapping.offset, end));
            self.inodes.insert(mapping.inode);
        }
    }

    /// A descriptor that was injected stays in the stub until the next one takes its number; it keeps a host file
    /// as a mapping does.
    fn add_descriptors(&mut self, stub: &Stub) -> Result<(), Errno> {
        let path = format!("/proc/{}/fd", stub.pid());
        for entry in std::fs::read_dir(&path).map_err(|_| Errno::ESRCH)? {
            let entry = entry.map_err(|_| Errno::ESRCH)?;
            match rustix::fs::stat(entry.path()) {
                Ok(stat) => {
                    self.inodes.insert(stat.st_ino);
                }
                // Replaced or closed since.
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Only the inode counts: device numbers in maps differ from those of stat on some file systems.
    fn has(&self, file: &MappedFile) -> bool {
        if file.own {
            return self.inodes.contains(&file.host.1);
        }
        let end = file.host_offset.saturating_add(file.length.max(1));
        let overlaps = |(inode, from, to): &(u64, u64, u64)| {
            *inode == file.host.1 && *from < end && file.host_offset < *to
        };
        self.mapped.iter().any(overlaps)
    }
}

impl Mapped {
    /// The file that lies at an offset of a host file (device, inode).
    pub fn find(&self, host: (u64, u64), offset: u64) -> Option<&MappedFile> {
        self.files.iter().find(|file| {
            let end = file.host_offset.saturating_add(file.length.max(1));
            file.host == host && (file.host_offset..end).contains(&offset)
        })
    }

    /// A thread calls again: what it has mapped before is mapped. Threads that are over map nothing more.
    fn settle(&mut self, task: &Arc<Task>) {
        self.clock += 1;
        for file in &mut self.files {
            let before = file.users.len();
            let busy = |user: &Weak<Task>| {
                user.strong_count() > 0 && !std::ptr::eq(user.as_ptr(), Arc::as_ptr(task))
            };
            file.users.retain(busy);
            if file.users.len() != before {
                file.stamp = self.clock;
            }
        }
    }

    fn own_bytes(&self) -> u64 {
        self.files.iter().filter(|file| file.own).fold(0, |sum, file| sum.saturating_add(file.length))
    }

    fn is_due(&self) -> bool {
        let (files, bytes) = self.left;
        let most = (files + SWEEP_FILES.max(files / 2)).min(MAX_MAPPED);
        self.files.len() >= most || self.own_bytes() >= bytes.saturating_add(SWEEP_BYTES)
    }

    /// Takes out what is not held, except for what happened to after `clock`.
    fn take_unheld(&mut self, clock: u64, held: &Held) -> Vec<MappedFile> {
        let unheld = |file: &mut MappedFile| file.users.is_empty() && file.stamp <= clock && !held.has(file);
        let gone = self.files.extract_if(.., unheld).collect();
        self.left = (self.files.len(), self.own_bytes());
        gone
    }

    fn note(&mut self, task: &Arc<Task>, mut file: MappedFile) -> Result<(), Errno> {
        self.clock += 1;
        let same = |known: &&mut MappedFile| known.host == file.host && known.host_offset == file.host_offset;
        if let Some(known) = self.files.iter_mut().find(same) {
            known.length = known.length.max(file.length);
            known.stamp = self.clock;
            known.users.push(Arc::downgrade(task));
        } else if self.files.len() < MAX_MAPPED {
            file.stamp = self.clock;
            file.users.push(Arc::downgrade(task));
            self.files.push(file);
        } else if file.own {
            // Nothing would keep it, and its blocks would count as free.
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }
}

impl Space {
    /// Before `task` maps a file: keeps the file while it is mapped.
    ///
    /// # Errors
    /// ENOMEM when too many files are mapped.
    pub(crate) fn keep(
        self: &Arc<Self>,
        kernel: &Kernel,
        task: &Arc<Task>,
        file: MappedFile,
    ) -> Result<(), Errno> {
        let due = {
            let mut mapped = self.mapped.lock();
            mapped.settle(task);
            mapped.is_due().then_some(mapped.clock)
        };
        if let Some(clock) = due {
            self.sweep(kernel, clock);
        }
        self.mapped.lock().note(task, file)
    }

    /// The host files, by inode number, through which a file of the guest's may be mapped here.
    pub(crate) fn host_inodes(&self, inode: &Arc<crate::vfs::Inode>) -> Vec<u64> {
        let mapped = self.mapped.lock();
        let same = mapped.files.iter().filter(|file| file.own && Arc::ptr_eq(file.dentry.inode(), inode));
        same.map(|file| file.host.1).collect()
    }

    /// Forgets the files that no host process with this space holds any more; none, if that can't be told now.
    fn sweep(self: &Arc<Self>, kernel: &Kernel, clock: u64) {
        let Some(stubs) = self.stubs(kernel) else { return };
        let mut held = Held::default();
        for stub in &stubs {
            let Ok(mappings) = stub.maps() else { return };
            held.add(&mappings);
            if held.add_descriptors(stub).is_err() {
                return;
            }
        }
        // A child that was made meanwhile may have copied what its parent had then.
        let now = self.stubs(kernel);
        let same = |now: &Vec<Arc<Stub>>| {
            now.len() == stubs.len() && now.iter().zip(&stubs).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if !now.as_ref().is_some_and(same) {
            return;
        }
        let gone = self.mapped.lock().take_unheld(clock, &held);
        // Files end here, where nothing is locked.
        drop(gone);
    }

    /// The host processes that have this space, or a copy of it since a fork. None while one is being made.
    fn stubs(self: &Arc<Self>, kernel: &Kernel) -> Option<Vec<Arc<Stub>>> {
        let all: Vec<Arc<Process>> = kernel.tree.lock().nodes().map(|node| node.process.clone()).collect();
        let mut stubs = Vec::new();
        for process in all.iter().filter(|process| Arc::ptr_eq(&process.space(), self)) {
            match process.stub() {
                Some(stub) => stubs.push(stub),
                None if process.ends() => {}
                None => return None,
            }
        }
        Some(stubs)
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host file {:?} at {:#x}", self.host, self.host_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::TestVfs;
    use crate::kernel::{Rlimits, TaskParts};
    use crate::vfs::{Credentials, FdTable, FsContext};

    struct Nothing;

    impl crate::memory::Memory for Nothing {
        fn read_some(&self, _address: u64, _into: &mut [u8]) -> usize {
            0
        }

        fn write_some(&self, _address: u64, _from: &[u8]) -> usize {
            0
        }
    }

    fn task(kernel: &Arc<Kernel>, test: &TestVfs, tid: i32) -> Arc<Task> {
        let process = Process::new(kernel, tid, Rlimits::initial(&kernel.limits), Arc::default());
        let root = test.root().clone();
        let parts = TaskParts {
            memory: Arc::new(Nothing),
            files: Arc::new(FdTable::new()),
            fs: Arc::new(FsContext::new(root.clone(), root)),
            credentials: Arc::new(Credentials::new(0, 0, &[])),
            name: [0; Task::NAME_LENGTH],
        };
        Task::new(tid, process, parts)
    }

    #[test]
    fn a_file_is_kept_while_it_is_held_or_about_to_be_mapped() {
        let (kernel, test) = (Kernel::for_tests(), TestVfs::new(1 << 20));
        let (one, other) = (task(&kernel, &test, 1), task(&kernel, &test, 2));
        let file = |inode| MappedFile {
            host: (1, inode),
            host_offset: 0,
            length: 4096,
            dentry: test.root().clone(),
            own: true,
            users: Vec::new(),
            stamp: 0,
        };
        let inodes = |mapped: &Mapped| mapped.files.iter().map(|file| file.host.1).collect::<Vec<_>>();
        let mut mapped = Mapped::default();
        mapped.note(&one, file(10)).unwrap();
        mapped.note(&other, file(11)).unwrap();
        let held = Held { inodes: HashSet::from([12]), ..Held::default() };
        // Neither call is over.
        assert!(mapped.take_unheld(mapped.clock, &held).is_empty());
        // The first thread is back, but after the look at what is held: it may have mapped in between.
        let looked = mapped.clock;
        mapped.settle(&one);
        assert!(mapped.take_unheld(looked, &held).is_empty());
        mapped.note(&one, file(12)).unwrap();
        mapped.settle(&one);
        assert_eq!(mapped.take_unheld(mapped.clock, &held).len(), 1);
        assert_eq!(inodes(&mapped), [11, 12]);
        drop(other);
        mapped.settle(&one);
        assert_eq!(mapped.take_unheld(mapped.clock, &held).len(), 1);
        assert_eq!(inodes(&mapped), [12]);
    }

    #[test]
    fn a_full_list_refuses_what_it_would_have_to_pay_for() {
        let (kernel, test) = (Kernel::for_tests(), TestVfs::new(1 << 20));
        let task = task(&kernel, &test, 1);
        let file = |inode, own| MappedFile {
            host: (1, inode),
            host_offset: 0,
            length: 4096,
            dentry: test.root().clone(),
            own,
            users: Vec::new(),
            stamp: 0,
        };
        let mut mapped = Mapped::from((0..MAX_MAPPED as u64).map(|n| file(n, true)).collect::<Vec<_>>());
        assert!(mapped.is_due());
        assert_eq!(mapped.note(&task, file(1 << 40, true)), Err(Errno::ENOMEM));
        assert_eq!(mapped.note(&task, file(1 << 40, false)), Ok(()));
        assert_eq!(mapped.note(&task, file(5, true)), Ok(()));
        assert_eq!(mapped.files.len(), MAX_MAPPED);
    }
}
