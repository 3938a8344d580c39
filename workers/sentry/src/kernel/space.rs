//! What the sentry knows of an address space; its mappings are the host's own.

use std::sync::Arc;

use crate::sync::Mutex;

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
    pub mapped: Mutex<Vec<MappedFile>>,
}

/// A file that was mapped: maps and smaps name it by where the host says it lies.
#[derive(Clone)]
pub struct MappedFile {
    /// Host device and inode of what was injected.
    pub host: (u64, u64),
    /// Offset of the file in the host file, in bytes (files of an image share one host file).
    pub host_offset: u64,
    /// Length in the host file, in bytes.
    pub length: u64,
    /// The file's name.
    pub dentry: Arc<crate::vfs::Dentry>,
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host file {:?} at {:#x}", self.host, self.host_offset)
    }
}
