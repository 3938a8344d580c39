//! Small calls of no family: names, random numbers, prctl, per-thread registrations.

use std::sync::atomic::Ordering;

use super::Entry;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::loader;
use crate::vfs::Capability;

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(59, "execve", loader::sys_execve).by(&["processes:executing"]),
    Entry::full(63, "uname", sys_uname).by(&["system:names"]),
    Entry::refused(101, "ptrace", Errno::EPERM, "not yet"),
    Entry::refused(103, "syslog", Errno::EPERM, "the log is the host's"),
    Entry::full(135, "personality", sys_personality).by(&["system:personality_of"]),
    Entry::refused(153, "vhangup", Errno::EPERM, "no terminal"),
    Entry::partial(157, "prctl", super::prctl::sys_prctl, "what real programs use; the rest EINVAL").by(&[
        "identity:capabilities",
        "identity:kept_capabilities",
        "noted:processes",
        "processes:orphans_and_reapers",
        "system:process_options",
    ]),
    Entry::partial(
        158,
        "arch_prctl",
        sys_arch_prctl,
        "bases are native; CPUID faulting and shadow stacks: EINVAL",
    )
    .by(&["noted:memory", "system:thread_bases"]),
    Entry::full(170, "sethostname", sys_sethostname).by(&["system:names"]),
    Entry::refused(171, "setdomainname", Errno::EPERM, "no domain"),
    Entry::partial(202, "futex", sys_futex, "priority inheritance forms: ENOSYS").by(&[
        "memory:futexes",
        "noted:memory",
        "signals:restarts",
    ]),
    Entry::full(218, "set_tid_address", sys_set_tid_address).by(&["processes:threads"]),
    Entry::full(219, "restart_syscall", |_, _| Err(Errno::EINTR.into())).by(&["system:restarting"]),
    Entry::full(273, "set_robust_list", sys_set_robust_list).by(&["processes:threads"]),
    Entry::full(274, "get_robust_list", sys_get_robust_list).by(&["processes:threads"]),
    Entry::partial(317, "seccomp", sys_seccomp, "no filters inside a sandbox yet: EINVAL")
        .by(&["noted:processes", "system:filters"]),
    Entry::full(318, "getrandom", sys_getrandom).by(&["system:random_bytes"]),
    Entry::full(322, "execveat", loader::sys_execveat).by(&["processes:executing"]),
    Entry::partial(
        324,
        "membarrier",
        sys_membarrier,
        "private forms are native; the global ones are not told by QUERY: EINVAL",
    )
    .by(&["memory:barriers", "noted:memory"]),
    Entry::full(334, "rseq", sys_rseq).by(&["system:restartable_sequences"]),
    Entry::refused(308, "setns", Errno::EPERM, "no namespaces inside a sandbox"),
    Entry::refused(321, "bpf", Errno::EPERM, "no programs in the kernel"),
    Entry::refused(298, "perf_event_open", Errno::EACCES, "no counters"),
    Entry::refused(248, "add_key", Errno::ENOSYS, "no key rings"),
    Entry::refused(249, "request_key", Errno::ENOSYS, "no key rings"),
    Entry::refused(250, "keyctl", Errno::ENOSYS, "no key rings"),
    Entry::refused(425, "io_uring_setup", Errno::ENOSYS, "programs fall back to epoll"),
    Entry::refused(426, "io_uring_enter", Errno::ENOSYS, "programs fall back to epoll"),
    Entry::refused(427, "io_uring_register", Errno::ENOSYS, "programs fall back to epoll"),
    Entry::refused(444, "landlock_create_ruleset", Errno::EOPNOTSUPP, "as when it is switched off"),
    Entry::refused(445, "landlock_add_rule", Errno::EOPNOTSUPP, "as when it is switched off"),
    Entry::refused(446, "landlock_restrict_self", Errno::EOPNOTSUPP, "as when it is switched off"),
    Entry::refused(169, "reboot", Errno::EPERM, "the machine is the host's"),
    Entry::refused(172, "iopl", Errno::EPERM, "no ports"),
    Entry::refused(173, "ioperm", Errno::EPERM, "no ports"),
    Entry::refused(175, "init_module", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(176, "delete_module", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(313, "finit_module", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(246, "kexec_load", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(320, "kexec_file_load", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(167, "swapon", Errno::EPERM, "memory is the host's"),
    Entry::refused(168, "swapoff", Errno::EPERM, "memory is the host's"),
    Entry::refused(163, "acct", Errno::EPERM, "the kernel is the host's"),
    Entry::refused(154, "modify_ldt", Errno::ENOSYS, "64-bit programs only"),
    Entry::refused(205, "set_thread_area", Errno::ENOSYS, "64-bit programs only"),
    Entry::refused(211, "get_thread_area", Errno::ENOSYS, "64-bit programs only"),
    Entry::refused(156, "_sysctl", Errno::ENOSYS, "as on Linux since 5.5"),
    Entry::refused(279, "move_pages", Errno::ENOSYS, "one memory node"),
    Entry::refused(256, "migrate_pages", Errno::ENOSYS, "one memory node"),
];

fn sys_uname(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const FIELD: usize = 65;
    let host = cx.kernel.hostname.lock().clone();
    let fields: [&[u8]; 6] = [
        b"Linux",
        &host,
        crate::fs::proc::RELEASE.as_bytes(),
        crate::fs::proc::VERSION.as_bytes(),
        b"x86_64",
        b"(none)",
    ];
    let mut bytes = [0; 6 * FIELD];
    for (to, text) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        let length = text.len().min(FIELD - 1);
        to[..length].copy_from_slice(&text[..length]);
    }
    cx.memory.write(args.u64(0), &bytes)?;
    Ok(0)
}

fn sys_sethostname(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MAX: usize = 64;
    if !cx.credentials().can(Capability::SysAdmin) {
        return Err(Errno::EPERM.into());
    }
    if args.int(1) < 0 || args.usize(1) > MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut name = vec![0; args.usize(1)];
    cx.memory.read(args.u64(0), &mut name)?;
    *cx.kernel.hostname.lock() = name;
    Ok(0)
}

fn sys_getrandom(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const FLAGS: u32 = 7;
    /// Bytes made at once.
    const PART: usize = 4096;
    /// Linux's own bound.
    const MOST: usize = 33_554_431;
    if args.uint(2) & !FLAGS != 0 || args.uint(2) & 6 == 6 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = args.usize(1).min(MOST);
    let mut buffer = [0; PART];
    let mut done = 0;
    while done < wanted {
        let part = (wanted - done).min(PART);
        rustix::rand::getrandom(&mut buffer[..part], rustix::rand::GetRandomFlags::empty())?;
        cx.memory.write(args.u64(0).wrapping_add(done as u64), &buffer[..part])?;
        done += part;
    }
    Ok(done as u64)
}

fn sys_personality(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const QUERY: u32 = u32::MAX;
    let personality = &cx.task.process.personality;
    let old = match args.uint(0) {
        QUERY => personality.load(Ordering::Relaxed),
        new => personality.swap(new, Ordering::Relaxed),
    };
    Ok(old.into())
}

fn sys_arch_prctl(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Err(Errno::EINVAL.into())
}

fn sys_futex(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// FUTEX_LOCK_PI, UNLOCK_PI, TRYLOCK_PI, WAIT_REQUEUE_PI, CMP_REQUEUE_PI, LOCK_PI2.
    const PRIORITY: [u32; 6] = [6, 7, 8, 11, 12, 13];
    const FLAGS: u32 = 128 | 256;
    let operation = args.uint(1) & !FLAGS;
    if PRIORITY.contains(&operation) || operation > 13 {
        return Err(Errno::ENOSYS.into());
    }
    // It is here because memory calls are mediated: the host serves it.
    let _ = cx;
    Err(Fail::Native)
}

fn sys_set_tid_address(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    cx.task.clear_tid.store(args.u64(0), Ordering::Relaxed);
    Ok(cx.tid() as u64)
}

/// sizeof(struct robust_list_head).
const ROBUST_HEAD: u64 = 24;

fn sys_set_robust_list(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.u64(1) != ROBUST_HEAD {
        return Err(Errno::EINVAL.into());
    }
    cx.task.robust_list.store(args.u64(0), Ordering::Relaxed);
    Ok(0)
}

fn sys_get_robust_list(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let task = match args.int(0) {
        0 => cx.task.clone(),
        tid => cx.kernel.tree.lock().task(tid).ok_or(Errno::ESRCH)?,
    };
    cx.memory.write_value(args.u64(1), &task.robust_list.load(Ordering::Relaxed))?;
    cx.memory.write_value(args.u64(2), &ROBUST_HEAD)?;
    Ok(0)
}

fn sys_membarrier(_cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const QUERY: i32 = 0;
    /// PRIVATE_EXPEDITED and its registration, and their SYNC_CORE and RSEQ forms.
    const PRIVATE: u64 = 8 | 16 | 32 | 64 | 128 | 256;
    if args.uint(1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    match args.int(0) {
        QUERY => Ok(PRIVATE),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The host's kernel serves it; the address is kept, so that a thread's end can unregister it.
fn sys_rseq(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const UNREGISTER: u32 = 1;
    let registered = (args.u64(0), args.uint(1), args.uint(3));
    *cx.task.rseq.lock() = if args.uint(2) & UNREGISTER != 0 { None } else { Some(registered) };
    Err(Fail::Native)
}

fn sys_seccomp(_cx: &mut Ctx<'_>, _args: &Args) -> SysResult {
    Err(Errno::EINVAL.into())
}
