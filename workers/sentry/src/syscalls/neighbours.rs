//! Looking into other processes: their memory, and what they share; and sharing less.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Entry;
use super::file::{GuestBuffers, with_buffer};
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Pid, Run, Task};
use crate::memory::MemoryRef;
use crate::vfs::Capability;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::partial(272, "unshare", sys_unshare, "no namespaces inside a sandbox (EPERM)")
        .by(&["noted:processes", "system:other_namespaces"]),
    Entry::full(310, "process_vm_readv", |cx, args| transfer(cx, args, false))
        .by(&["processes:memory_of_others"]),
    Entry::full(311, "process_vm_writev", |cx, args| transfer(cx, args, true))
        .by(&["processes:memory_of_others"]),
    Entry::full(312, "kcmp", sys_kcmp).by(&["processes:comparing"]),
];

/// How long a call waits before it looks again whether a forked process is there.
const BIRTH: Duration = Duration::from_millis(1);

/// Linux's check for whoever wants to look into a process: the same user and group in all ids, no capabilities
/// that the caller lacks, and no secrets; or CAP_SYS_PTRACE.
///
/// # Errors
/// EPERM.
pub(super) fn may_look_into(cx: &Ctx<'_>, task: &Arc<Task>) -> Result<(), Errno> {
    if Arc::ptr_eq(&task.process, &cx.task.process) {
        return Ok(());
    }
    let (own, other) = (cx.credentials(), task.credentials());
    if own.can(Capability::SysPtrace) {
        return Ok(());
    }
    let same = [other.uid, other.euid, other.suid].iter().all(|uid| *uid == own.uid)
        && [other.gid, other.egid, other.sgid].iter().all(|gid| *gid == own.gid);
    let dumpable = task.process.dumpable.load(std::sync::atomic::Ordering::Relaxed) == 1;
    if same && dumpable && other.permitted & !own.permitted == 0 { Ok(()) } else { Err(Errno::EPERM) }
}

fn task_of(cx: &Ctx<'_>, pid: Pid) -> Result<Arc<Task>, Errno> {
    cx.kernel.tree.lock().task(pid).ok_or(Errno::ESRCH)
}

fn transfer(cx: &mut Ctx<'_>, args: &Args, write: bool) -> SysResult {
    if args.u64(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let local = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    let remote = GuestBuffers::vector(cx, args.u64(3), args.u64(4))?;
    let total = local.len().min(remote.len());
    if total == 0 {
        return Ok(0);
    }
    let task = task_of(cx, args.int(0))?;
    may_look_into(cx, &task)?;
    if matches!(*task.run.lock(), Run::Born) {
        // Until it has a host process of its own, it has no memory of its own: soon.
        cx.call.wait_until(Instant::now() + BIRTH);
        return Err(cx.park(Restart::Sys));
    }
    let theirs = task.memory();
    let (from, to): ((&GuestBuffers, &MemoryRef), _) = if write {
        ((&local, &cx.memory), (&remote, &theirs))
    } else {
        ((&remote, &theirs), (&local, &cx.memory))
    };
    let mut done = 0;
    while done < total {
        let step = with_buffer(total - done, |bytes| {
            let got = from.0.get(from.1, done, bytes);
            (bytes.len(), to.0.put(to.1, done, &bytes[..got]))
        });
        done += step.1;
        if step.1 < step.0 {
            break;
        }
    }
    if done == 0 { Err(Errno::EFAULT.into()) } else { Ok(done as u64) }
}

/// Compares what two processes share by where it lies: an order that stays the same as long as they live.
fn sys_kcmp(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    const FS: i32 = 3;
    const SIGHAND: i32 = 4;
    const IO: i32 = 5;
    const SYSVSEM: i32 = 6;
    let (one, two) = (task_of(cx, args.int(0))?, task_of(cx, args.int(1))?);
    may_look_into(cx, &one)?;
    may_look_into(cx, &two)?;
    fn place<T: ?Sized>(shared: &Arc<T>) -> usize {
        Arc::as_ptr(shared).cast::<()>() as usize
    }
    let file = |task: &Arc<Task>, fd: u64| task.files().get(fd as i32).map(|file| place(&file));
    let (a, b) = match args.int(2) {
        FILE => (file(&one, args.u64(3))?, file(&two, args.u64(4))?),
        FILES => (place(&one.files()), place(&two.files())),
        FS => (place(&one.fs()), place(&two.fs())),
        VM | SIGHAND | SYSVSEM => (place(&one.process), place(&two.process)),
        IO => (place(&one), place(&two)),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(match a.cmp(&b) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Greater => 2,
    })
}

fn sys_unshare(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const VM: u64 = 0x100;
    const FS: u64 = 0x200;
    const FILES: u64 = 0x400;
    const SIGHAND: u64 = 0x800;
    const THREAD: u64 = 0x1_0000;
    const NEWNS: u64 = 0x2_0000;
    const SYSVSEM: u64 = 0x4_0000;
    /// NEWTIME, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and NEWNS.
    const NAMESPACES: u64 =
        0x80 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000 | NEWNS;
    let flags = args.u64(0);
    if flags & !(VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | NAMESPACES) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & (VM | SIGHAND | THREAD) != 0 && cx.task.process.tasks().len() > 1 {
        return Err(Errno::EINVAL.into());
    }
    if flags & NAMESPACES != 0 {
        return Err(Errno::EPERM.into());
    }
    if flags & FS != 0 {
        cx.task.set_fs(Arc::new(cx.fs().fork()));
    }
    if flags & FILES != 0 {
        let own = Arc::new(cx.files().fork());
        drop(cx.task.set_files(own));
    }
    Ok(0)
}
