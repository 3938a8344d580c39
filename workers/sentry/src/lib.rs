//! The user-space kernel that serves the system calls of a job.
//!
//! Lock order, outermost first: process tree, process, task, file system tree, inode, open file, wait queue,
//! run list. Nothing that can wait (an answer to a guest, guest memory, a host call that may block) happens
//! under a lock of the first three. Wakers only push on the [`wait`] module's run list; the run loop serves it
//! when the call that woke has been answered and holds no lock.

pub mod call;
pub mod control;
pub mod errno;
pub mod fs;
pub mod kernel;
pub mod loader;
pub mod memory;
pub mod net;
pub mod sync;
pub mod syscalls;
pub mod vfs;
pub mod wait;
