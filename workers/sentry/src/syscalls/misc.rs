//! Small calls of no family: names, random numbers, prctl, per-thread registrations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Entry;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Signal, Task};
use crate::loader;
use crate::vfs::{Capability, Credentials};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(59, "execve", loader::sys_execve),
    Entry::full(63, "uname", sys_uname),
    Entry::refused(101, "ptrace", Errno::EPERM, "not yet"),
    Entry::refused(103, "syslog", Errno::EPERM, "the log is the host's"),
    Entry::full(135, "personality", sys_personality),
    Entry::refused(153, "vhangup", Errno::EPERM, "no terminal"),
    Entry::partial(157, "prctl", sys_prctl, "what real programs use; the rest EINVAL"),
    Entry::partial(
        158,
        "arch_prctl",
        sys_arch_prctl,
        "bases are native; CPUID faulting and shadow stacks: EINVAL",
    ),
    Entry::full(170, "sethostname", sys_sethostname),
    Entry::refused(171, "setdomainname", Errno::EPERM, "no domain"),
    Entry::partial(202, "futex", sys_futex, "priority inheritance forms: ENOSYS"),
    Entry::full(218, "set_tid_address", sys_set_tid_address),
    Entry::full(219, "restart_syscall", |_, _| Err(Errno::EINTR.into())),
    Entry::full(273, "set_robust_list", sys_set_robust_list),
    Entry::full(274, "get_robust_list", sys_get_robust_list),
    Entry::partial(317, "seccomp", sys_seccomp, "no filters inside a sandbox yet: EINVAL"),
    Entry::full(318, "getrandom", sys_getrandom),
    Entry::full(322, "execveat", loader::sys_execveat),
    Entry::partial(
        324,
        "membarrier",
        sys_membarrier,
        "private forms are native; global ones are no operation",
    ),
    Entry::full(334, "rseq", sys_rseq),
    Entry::refused(272, "unshare", Errno::EPERM, "no namespaces inside a sandbox"),
    Entry::refused(308, "setns", Errno::EPERM, "no namespaces inside a sandbox"),
    Entry::refused(321, "bpf", Errno::EPERM, "no programs in the kernel"),
    Entry::refused(298, "perf_event_open", Errno::EACCES, "no counters"),
    Entry::refused(248, "add_key", Errno::ENOSYS, "no key rings"),
    Entry::refused(249, "request_key", Errno::ENOSYS, "no key rings"),
    Entry::refused(250, "keyctl", Errno::ENOSYS, "no key rings"),
    Entry::refused(310, "process_vm_readv", Errno::EPERM, "as under Yama"),
    Entry::refused(311, "process_vm_writev", Errno::EPERM, "as under Yama"),
    Entry::refused(312, "kcmp", Errno::EPERM, "as under Yama"),
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

/// Operations of prctl(2).
mod pr {
    pub(super) const SET_PDEATHSIG: i32 = 1;
    pub(super) const GET_PDEATHSIG: i32 = 2;
    pub(super) const GET_DUMPABLE: i32 = 3;
    pub(super) const SET_DUMPABLE: i32 = 4;
    pub(super) const GET_KEEPCAPS: i32 = 7;
    pub(super) const SET_KEEPCAPS: i32 = 8;
    pub(super) const SET_TIMING: i32 = 14;
    pub(super) const SET_NAME: i32 = 15;
    pub(super) const GET_NAME: i32 = 16;
    pub(super) const GET_SECCOMP: i32 = 21;
    pub(super) const CAPBSET_READ: i32 = 23;
    pub(super) const CAPBSET_DROP: i32 = 24;
    pub(super) const GET_SECUREBITS: i32 = 27;
    pub(super) const SET_TIMERSLACK: i32 = 29;
    pub(super) const GET_TIMERSLACK: i32 = 30;
    pub(super) const SET_MM: i32 = 35;
    pub(super) const SET_CHILD_SUBREAPER: i32 = 36;
    pub(super) const GET_CHILD_SUBREAPER: i32 = 37;
    pub(super) const SET_NO_NEW_PRIVS: i32 = 38;
    pub(super) const GET_NO_NEW_PRIVS: i32 = 39;
    pub(super) const GET_TID_ADDRESS: i32 = 40;
    pub(super) const SET_THP_DISABLE: i32 = 41;
    pub(super) const GET_THP_DISABLE: i32 = 42;
    pub(super) const CAP_AMBIENT: i32 = 47;
    pub(super) const SET_VMA: i32 = 0x5356_4d41;
    pub(super) const SET_PTRACER: i32 = 0x5961_6d61;
}

/// The timer slack that Linux gives everyone, in nanoseconds.
const TIMER_SLACK: u64 = 50_000;

fn sys_prctl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let process = cx.task.process.clone();
    let value = args.u64(1);
    match args.int(0) {
        pr::SET_PDEATHSIG => {
            if value != 0 {
                Signal::new(value as i32)?;
            }
            process.parent_death_signal.store(value as i32, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_PDEATHSIG => put(cx, value, process.parent_death_signal.load(Ordering::Relaxed)),
        pr::GET_DUMPABLE => Ok(process.dumpable.load(Ordering::Relaxed) as u64),
        pr::SET_DUMPABLE if value <= 1 => {
            process.dumpable.store(value as i32, Ordering::Relaxed);
            Ok(0)
        }
        pr::SET_NAME => {
            let name = cx.memory.read_string(value, Task::NAME_LENGTH - 1, Errno::ENAMETOOLONG);
            let mut cut = [0; Task::NAME_LENGTH - 1];
            match name {
                Ok(name) => cx.task.set_name(&name),
                Err(Errno::ENAMETOOLONG) => {
                    cx.memory.read(value, &mut cut)?;
                    cx.task.set_name(&cut);
                }
                Err(errno) => return Err(errno.into()),
            }
            Ok(0)
        }
        pr::GET_NAME => {
            cx.memory.write(value, &cx.task.name())?;
            Ok(0)
        }
        pr::SET_CHILD_SUBREAPER => {
            process.is_subreaper.store(value != 0, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_CHILD_SUBREAPER => put(cx, value, i32::from(process.is_subreaper.load(Ordering::Relaxed))),
        pr::SET_NO_NEW_PRIVS if value == 1 => {
            process.no_new_privs.store(true, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_NO_NEW_PRIVS => Ok(process.no_new_privs.load(Ordering::Relaxed).into()),
        pr::GET_TIMERSLACK => Ok(TIMER_SLACK),
        pr::GET_TID_ADDRESS => {
            cx.memory.write_value(value, &cx.task.clear_tid.load(Ordering::Relaxed))?;
            Ok(0)
        }
        pr::CAPBSET_READ | pr::CAPBSET_DROP | pr::CAP_AMBIENT => capabilities(cx, args),
        pr::GET_KEEPCAPS | pr::GET_SECCOMP | pr::GET_SECUREBITS | pr::GET_THP_DISABLE => Ok(0),
        // Hints without an effect here.
        pr::SET_KEEPCAPS | pr::SET_TIMERSLACK | pr::SET_THP_DISABLE | pr::SET_VMA | pr::SET_PTRACER => Ok(0),
        pr::SET_TIMING if value == 0 => Ok(0),
        pr::SET_MM => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn put(cx: &Ctx<'_>, address: u64, value: i32) -> SysResult {
    cx.memory.write_value(address, &value)?;
    Ok(0)
}

fn capabilities(cx: &Ctx<'_>, args: &Args) -> SysResult {
    const LAST: u64 = 40;
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR: u64 = 4;
    let own = cx.credentials();
    let change = |new: Credentials| {
        cx.task.set_credentials(Arc::new(new));
        Ok(0)
    };
    let bit = |capability: u64| if capability > LAST { Err(Errno::EINVAL) } else { Ok(1 << capability) };
    match args.int(0) {
        pr::CAPBSET_READ => Ok(u64::from(own.bounding & bit(args.u64(1))? != 0)),
        pr::CAPBSET_DROP => {
            if !own.can(Capability::Setpcap) {
                return Err(Errno::EPERM.into());
            }
            let bit = bit(args.u64(1))?;
            change(Credentials { bounding: own.bounding & !bit, ..(*own).clone() })
        }
        _ => match args.u64(1) {
            CLEAR => change(Credentials { ambient: 0, ..(*own).clone() }),
            IS_SET => Ok(u64::from(own.ambient & bit(args.u64(2))? != 0)),
            LOWER => change(Credentials { ambient: own.ambient & !bit(args.u64(2))?, ..(*own).clone() }),
            RAISE => {
                let bit = bit(args.u64(2))?;
                if own.permitted & own.inheritable & bit == 0 {
                    return Err(Errno::EPERM.into());
                }
                change(Credentials { ambient: own.ambient | bit, ..(*own).clone() })
            }
            _ => Err(Errno::EINVAL.into()),
        },
    }
}
