//! Processes as descriptors.

use std::sync::Arc;

use super::Entry;
use super::neighbours::may_look_into;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::pidfd::PidFd;
use crate::kernel::{Ctx, Process, Resource};
use crate::vfs::OpenFile;
use crate::vfs::flags::{O_NONBLOCK, O_RDWR};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(424, "pidfd_send_signal", super::signal::sys_pidfd_send_signal)
        .by(&["processes:process_descriptors"]),
    Entry::full(434, "pidfd_open", sys_pidfd_open)
        .by(&["processes:process_descriptors", "processes:waiting_by_id"]),
    Entry::full(438, "pidfd_getfd", sys_pidfd_getfd).by(&["processes:process_descriptors"]),
    Entry::full(448, "process_mrelease", sys_process_mrelease).by(&["processes:process_descriptors"]),
];

/// A new open file of a process.
pub(super) fn open(cx: &Ctx<'_>, process: Arc<Process>, flags: u32) -> Arc<OpenFile> {
    cx.kernel.vfs().anonymous_file("[pidfd]", O_RDWR | flags & O_NONBLOCK, Box::new(PidFd(process)))
}

/// The process that a descriptor is, and whether the descriptor is non-blocking.
///
/// # Errors
/// EBADF if it is none.
pub(super) fn process_of(cx: &Ctx<'_>, fd: i32) -> Result<(Arc<Process>, bool), Errno> {
    let file = cx.files().get_io(fd)?;
    let pidfd = file.object::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.0.clone(), file.is_nonblocking()))
}

fn sys_pidfd_open(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (pid, flags) = (args.int(0), args.uint(1));
    if flags & !O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = {
        let tree = cx.kernel.tree.lock();
        // The number of a thread that leads no process is not one of a process.
        let missing = if tree.task(pid).is_some() { Errno::EINVAL } else { Errno::ESRCH };
        tree.process(pid).ok_or(missing)?
    };
    let file = open(cx, process, flags);
    Ok(cx.files().install(file, true, cx.limit(Resource::OpenFiles))? as u64)
}

fn sys_pidfd_getfd(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (process, _) = process_of(cx, args.int(0))?;
    let task = process.leader().filter(|_| !process.ends()).ok_or(Errno::ESRCH)?;
    may_look_into(cx, &task)?;
    let file = task.files().get(args.int(1))?;
    Ok(cx.files().install(file, true, cx.limit(Resource::OpenFiles))? as u64)
}

/// A process that dies gives its memory back at once here: what is left to say is whether it dies.
fn sys_process_mrelease(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.uint(1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (process, _) = process_of(cx, args.int(0))?;
    if process.is_over.load(std::sync::atomic::Ordering::Acquire) {
        return Err(Errno::ESRCH.into());
    }
    if process.ends() { Ok(0) } else { Err(Errno::EINVAL.into()) }
}
