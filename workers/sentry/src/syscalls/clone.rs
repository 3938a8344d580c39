//! clone, clone3, fork, vfork, exit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_platform::{HostCall, Registers};

use super::Entry;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{
    Ctx, Ending, FIRST_PID, NewProcess, NewThread, Resource, Task, end_process, end_process_by, exit_thread,
};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::partial(
        56,
        "clone",
        sys_clone,
        "no namespaces (EPERM); CLONE_VM only for threads and vfork (ENOSYS); no threads in a vfork child (EAGAIN)",
    ).by(&["noted:processes", "processes:cloning", "processes:threads"]),
    Entry::full(57, "fork", sys_fork).by(&["processes:forking"]),
    Entry::full(58, "vfork", sys_vfork).by(&["processes:forking"]),
    Entry::full(60, "exit", sys_exit).by(&["processes:forking", "processes:threads"]),
    Entry::full(231, "exit_group", sys_exit_group).by(&["processes:forking", "processes:threads"]),
    Entry::partial(435, "clone3", sys_clone3, "as clone; no set_tid, no cgroup (EPERM)").by(&["noted:processes", "processes:cloning_anew"]),
];

const CSIGNAL: u64 = 0xff;
const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME.
const NAMESPACES: u64 =
    0x2_0000 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

struct Request {
    flags: u64,
    exit_signal: i32,
    /// The child's stack pointer; 0 keeps the parent's.
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    /// Where the child's pidfd is to be written (CLONE_PIDFD).
    pidfd: u64,
}

fn sys_clone(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.u64(0) & 0xffff_ffff;
    let request = Request {
        flags: flags & !CSIGNAL,
        exit_signal: (flags & CSIGNAL) as i32,
        stack: args.u64(1),
        parent_tid: args.u64(2),
        child_tid: args.u64(3),
        tls: args.u64(4),
        pidfd: args.u64(2),
    };
    if flags & CLONE_PIDFD != 0 && flags & (CLONE_PARENT_SETTID | CLONE_DETACHED) != 0 {
        return Err(Errno::EINVAL.into());
    }
    clone(cx, &request)
}

fn sys_fork(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    clone(cx, &Request { flags: 0, exit_signal: 17, stack: 0, parent_tid: 0, child_tid: 0, tls: 0, pidfd: 0 })
}

fn sys_vfork(cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    let flags = CLONE_VFORK | CLONE_VM;
    clone(cx, &Request { flags, exit_signal: 17, stack: 0, parent_tid: 0, child_tid: 0, tls: 0, pidfd: 0 })
}

fn sys_clone3(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// The first published size of struct clone_args, and the largest that is read.
    const SIZES: std::ops::RangeInclusive<usize> = 64..=4096;
    const KNOWN: usize = 88;
    let size = args.usize(1);
    if !SIZES.contains(&size) {
        return Err(if size > *SIZES.end() { Errno::E2BIG } else { Errno::EINVAL }.into());
    }
    let mut bytes = vec![0; size.max(KNOWN)];
    cx.memory.read(args.u64(0), &mut bytes[..size])?;
    if bytes[KNOWN..].iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let mut fields = [0u64; KNOWN / 8];
    for (field, chunk) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
    }
    let [
        flags,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        _set_tid,
        set_tid_size,
        _cgroup,
    ] = fields;
    if set_tid_size != 0 || flags & CLONE_INTO_CGROUP != 0 {
        return Err(Errno::EPERM.into());
    }
    // Who takes the caller's parent as its own takes its signal, too.
    let bad_signal = flags & (CLONE_THREAD | CLONE_PARENT) != 0 && exit_signal != 0;
    let bad_stack = (stack == 0) != (stack_size == 0);
    if flags & CSIGNAL != 0 || exit_signal > CSIGNAL || bad_stack || bad_signal {
        return Err(Errno::EINVAL.into());
    }
    let request = Request {
        flags,
        exit_signal: exit_signal as i32,
        stack: stack.wrapping_add(stack_size),
        parent_tid,
        child_tid,
        tls,
        pidfd,
    };
    clone(cx, &request)
}

fn clone(cx: &mut Ctx<'_>, request: &Request) -> SysResult {
    let flags = request.flags;
    let of_first = flags & CLONE_PARENT != 0 && cx.pid() == FIRST_PID;
    if request.exit_signal > 64 || of_first {
        return Err(Errno::EINVAL.into());
    }
    let missing = |wants: u64, needs: u64| flags & wants != 0 && flags & needs == 0;
    if missing(CLONE_THREAD, CLONE_SIGHAND)
        || missing(CLONE_SIGHAND, CLONE_VM)
        || (flags & CLONE_CLEAR_SIGHAND != 0 && flags & CLONE_SIGHAND != 0)
        || (flags & CLONE_FS != 0 && flags & (CLONE_NEWNS | CLONE_NEWUSER) != 0)
        || (flags & CLONE_THREAD != 0 && flags & (CLONE_NEWPID | CLONE_NEWUSER | CLONE_PIDFD) != 0)
    {
        return Err(Errno::EINVAL.into());
    }
    if flags & NAMESPACES != 0 {
        return Err(Errno::EPERM.into());
    }
    let parent = **cx.registers.as_ref().ok_or(Errno::ENOSYS)?;
    let mut child = Registers { rax: 0, ..parent };
    if request.stack != 0 {
        child.rsp = request.stack;
    }
    if flags & CLONE_SETTLS != 0 {
        child.fs_base = request.tls;
    }
    if flags & CLONE_THREAD != 0 {
        if cx.task.borrowed.lock().is_some() {
            // The thread would be one of the parent's host process, and the loan's end would not end it.
            return Err(Errno::EAGAIN.into());
        }
        return thread(cx, request, parent, child);
    }
    match (flags & CLONE_VM != 0, flags & CLONE_VFORK != 0) {
        (true, false) => Err(Errno::ENOSYS.into()),
        (true, true) => process(cx, request, parent, child, true),
        (false, _) => process(cx, request, parent, child, false),
    }
}

fn write_tid(cx: &Ctx<'_>, request: &Request, flag: u64, address: u64, tid: i32) {
    if request.flags & flag != 0 {
        // Linux ignores EFAULT here too.
        let _unwritable = cx.memory.write(address, &tid.to_ne_bytes());
    }
}

fn thread(cx: &mut Ctx<'_>, request: &Request, parent: Registers, child: Registers) -> SysResult {
    let how =
        NewThread { share_files: request.flags & CLONE_FILES != 0, share_fs: request.flags & CLONE_FS != 0 };
    let task = cx.kernel.new_thread(cx.task, &how)?;
    let tid = task.tid();
    write_tid(cx, request, CLONE_PARENT_SETTID, request.parent_tid, tid);
    write_tid(cx, request, CLONE_CHILD_SETTID, request.child_tid, tid);
    if request.flags & CLONE_CHILD_CLEARTID != 0 {
        task.clear_tid.store(request.child_tid, Ordering::Relaxed);
    }
    let parent = Registers { rax: tid as u64, ..parent };
    match cx.kernel.send_birth(cx.task, &task, parent, child, None) {
        Ok(()) => Err(Fail::Done),
        Err(errno) => {
            cx.kernel.unmake(&task);
            Err(errno.into())
        }
    }
}

fn process(
    cx: &mut Ctx<'_>,
    request: &Request,
    parent: Registers,
    child: Registers,
    borrows: bool,
) -> SysResult {
    let how = NewProcess {
        share_files: request.flags & CLONE_FILES != 0,
        share_fs: request.flags & CLONE_FS != 0,
        sibling: request.flags & CLONE_PARENT != 0,
        exit_signal: if request.flags & CLONE_PARENT != 0 {
            cx.task.process.exit_signal.load(Ordering::Relaxed)
        } else {
            request.exit_signal
        },
        clear_handlers: request.flags & CLONE_CLEAR_SIGHAND != 0,
    };
    // A thread whose host thread is borrowed already can't lend it again: its child gets a copy.
    let borrows = borrows && cx.task.borrowed.lock().is_none();
    let task = cx.kernel.new_process(cx.task, &how)?;
    let pid = task.tid();
    if request.flags & CLONE_PIDFD != 0
        && let Err(errno) = give_pidfd(cx, &task, request.pidfd)
    {
        cx.kernel.unmake(&task);
        return Err(errno.into());
    }
    write_tid(cx, request, CLONE_PARENT_SETTID, request.parent_tid, pid);
    if request.flags & CLONE_CHILD_CLEARTID != 0 {
        task.clear_tid.store(request.child_tid, Ordering::Relaxed);
    }
    let sets_tid = request.flags & CLONE_CHILD_SETTID != 0;
    if borrows {
        write_tid(cx, request, CLONE_CHILD_SETTID, request.child_tid, pid);
        if request.stack != 0 {
            task.signals.lock().stack_size = 0;
        }
        cx.kernel.lend(cx.task, &task, parent, child);
        return Err(Fail::Done);
    }
    let parent = Registers { rax: pid as u64, ..parent };
    let set_tid = sets_tid.then_some(request.child_tid);
    match cx.kernel.send_birth(cx.task, &task, parent, child, set_tid) {
        Ok(()) => Err(Fail::Done),
        Err(errno) => {
            cx.kernel.unmake(&task);
            Err(errno.into())
        }
    }
}

/// Installs a descriptor of the child in the parent. If the child does not come to be, it stays: the descriptor of
/// a process that is over.
fn give_pidfd(cx: &Ctx<'_>, child: &Arc<Task>, address: u64) -> Result<(), Errno> {
    let file = super::pidfd::open(cx, child.process.clone(), 0);
    let fd = cx.files().install(file, true, cx.limit(Resource::OpenFiles))?;
    if let Err(errno) = cx.memory.write(address, &fd.to_ne_bytes()) {
        drop(cx.files().close(fd));
        return Err(errno);
    }
    Ok(())
}

fn sys_exit(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// futex(2) and its FUTEX_WAKE.
    const FUTEX: i64 = 202;
    const WAKE: u64 = 1;
    let code = args.int(0) as u8;
    let mut waited_for = crate::kernel::robust::walk(cx.task);
    waited_for.truncate(bulkhead_platform::layout::MAX_COMMANDS);
    if waited_for.is_empty() || cx.registers.is_none() {
        return leave(cx.task, code);
    }
    let wakes: Vec<HostCall> =
        waited_for.iter().map(|futex| HostCall::new(FUTEX, [*futex, WAKE, 1, 0, 0, 0])).collect();
    cx.run_then(&wakes, Box::new(move |task, _| leave(task, code)))
}

/// The end of one thread, or of the process if it is the last.
fn leave(task: &Arc<Task>, code: u8) -> SysResult {
    if !exit_thread(task, code) {
        let code = task.process.leader_code.lock().unwrap_or(code);
        return end(task, code);
    }
    if let Some(host) = task.host() {
        let clear_tid = task.clear_tid.load(Ordering::Relaxed);
        let rseq = *task.rseq.lock();
        host.exit_thread((clear_tid != 0).then_some(clear_tid), rseq);
        task.set_host(None);
    }
    Err(Fail::Done)
}

fn sys_exit_group(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let ending = Ending::Exited(args.int(0) as u8);
    let host = cx.task.host().filter(|_| cx.registers.is_none());
    // Its own call ends it where it runs: cheaper than a signal.
    end_process_by(&cx.task.process, ending, |stub| {
        let exits =
            host.is_some_and(|host| std::ptr::eq(&raw const **host.stub(), stub) && host.exit_process());
        if !exits {
            stub.kill();
        }
    });
    Ok(0)
}

/// The process ends. If its thread was borrowed, the run loop finds it dead and gives the thread back.
fn end(task: &Task, code: u8) -> SysResult {
    end_process(&task.process, Ending::Exited(code));
    Ok(0)
}
