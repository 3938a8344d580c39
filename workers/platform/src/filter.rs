//! The seccomp filter of every stub, as data: what is native, what is trapped; everything else is notified.

use crate::bpf::{self, Assembler, Instruction, Label};
use crate::layout;

mod rules;
#[cfg(test)]
mod tests;

pub use rules::Rules;

/// How the arguments of a native call are checked. An argument that fails is not refused here: the call is
/// notified, and the kernel decides.
#[derive(Debug, Clone, Copy)]
pub enum Arguments {
    /// Whatever they are.
    Any,
    /// The C int `arg` (its low half), without the bits of `ignore`, is one of `values`.
    OneOf {
        /// Which argument.
        arg: u32,
        /// Bits that don't matter.
        ignore: u32,
        /// What it may be.
        values: &'static [u32],
    },
    /// The long `arg` has no bit outside of `bits` in either half.
    Within {
        /// Which argument.
        arg: u32,
        /// Bits that may be set.
        bits: u32,
    },
    /// mmap: new private anonymous memory.
    AnonymousMmap,
    /// mremap that does not grow.
    ShrinkingMremap,
    /// rt_sigreturn from the stub page. Semantics, not security: a guest that gets there restores a host frame
    /// of its own making, which can only change its own registers and signal mask.
    InStub,
}

/// A native call: number, whether it is one of the memory and futex calls that `mediated_mm` notifies, checks.
pub type Native = (i64, bool, Arguments);

const PROT_BITS: u32 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u32;

/// Flags of a native anonymous mmap besides MAP_PRIVATE and MAP_ANONYMOUS, which must be there.
const MMAP_FLAGS: u32 =
    (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE | libc::MAP_STACK | libc::MAP_32BIT)
        as u32;
const MMAP_ANONYMOUS: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

const MREMAP_BITS: u32 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) as u32;

/// Advice that stays inside the address space. Not: MERGEABLE (side channel between tenants), HWPOISON and
/// SOFT_OFFLINE (host memory), REMOVE (writes to files), COLLAPSE and PAGEOUT (work for the host at will).
const ADVICE: &[u32] = &[
    libc::MADV_NORMAL as u32,
    libc::MADV_RANDOM as u32,
    libc::MADV_SEQUENTIAL as u32,
    libc::MADV_WILLNEED as u32,
    libc::MADV_DONTNEED as u32,
    libc::MADV_FREE as u32,
    libc::MADV_DONTFORK as u32,
    libc::MADV_DOFORK as u32,
    libc::MADV_HUGEPAGE as u32,
    libc::MADV_NOHUGEPAGE as u32,
    libc::MADV_DONTDUMP as u32,
    libc::MADV_DODUMP as u32,
    libc::MADV_WIPEONFORK as u32,
    libc::MADV_KEEPONFORK as u32,
    libc::MADV_COLD as u32,
    libc::MADV_POPULATE_READ as u32,
    libc::MADV_POPULATE_WRITE as u32,
];

/// Futex operations that name no task: guest tids are not host tids, so no PI forms.
const FUTEX_OPS: &[u32] = &[
    libc::FUTEX_WAIT as u32,
    libc::FUTEX_WAKE as u32,
    libc::FUTEX_REQUEUE as u32,
    libc::FUTEX_CMP_REQUEUE as u32,
    libc::FUTEX_WAKE_OP as u32,
    libc::FUTEX_WAIT_BITSET as u32,
    libc::FUTEX_WAKE_BITSET as u32,
];

/// Clocks that are the same for everyone: REALTIME, MONOTONIC, MONOTONIC_RAW, REALTIME_COARSE,
/// MONOTONIC_COARSE, BOOTTIME, TAI.
const CLOCKS: &[u32] = &[0, 1, 4, 5, 6, 7, 11];

/// Clocks that one can sleep by and that are the same for everyone: REALTIME, MONOTONIC, BOOTTIME.
const SLEEP_CLOCKS: &[u32] = &[0, 1, 7];

/// membarrier: PRIVATE_EXPEDITED, its SYNC_CORE and RSEQ forms, and their registrations.
const BARRIERS: &[u32] = &[8, 16, 32, 64, 128, 256];

/// arch_prctl: SET_GS, SET_FS, GET_FS, GET_GS.
const BASES: &[u32] = &[0x1001, 0x1002, 0x1003, 0x1004];

/// The calls that the host's kernel serves. The order is the order of the comparisons: frequent ones first.
pub const NATIVE: &[Native] = &[
    (
        libc::SYS_futex,
        true,
        Arguments::OneOf {
            arg: 1,
            ignore: (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32,
            values: FUTEX_OPS,
        },
    ),
    (libc::SYS_mmap, true, Arguments::AnonymousMmap),
    (libc::SYS_munmap, true, Arguments::Any),
    (libc::SYS_mprotect, true, Arguments::Within { arg: 2, bits: PROT_BITS }),
    (libc::SYS_brk, true, Arguments::Any),
    (libc::SYS_rt_sigreturn, false, Arguments::InStub),
    (libc::SYS_madvise, true, Arguments::OneOf { arg: 2, ignore: 0, values: ADVICE }),
    (libc::SYS_mremap, true, Arguments::ShrinkingMremap),
    // They wait, as a futex does; what they read and write is the guest's own.
    (libc::SYS_nanosleep, false, Arguments::Any),
    (libc::SYS_clock_nanosleep, false, Arguments::OneOf { arg: 0, ignore: 0, values: SLEEP_CLOCKS }),
    (libc::SYS_sched_yield, false, Arguments::Any),
    (libc::SYS_clock_gettime, false, Arguments::OneOf { arg: 0, ignore: 0, values: CLOCKS }),
    (libc::SYS_clock_getres, false, Arguments::OneOf { arg: 0, ignore: 0, values: CLOCKS }),
    (libc::SYS_gettimeofday, false, Arguments::Any),
    (libc::SYS_time, false, Arguments::Any),
    (libc::SYS_getcpu, false, Arguments::Any),
    (libc::SYS_membarrier, false, Arguments::OneOf { arg: 0, ignore: 0, values: BARRIERS }),
    (libc::SYS_arch_prctl, false, Arguments::OneOf { arg: 0, ignore: 0, values: BASES }),
    // Without it a stopped and continued timed futex wait returns ENOSYS.
    (libc::SYS_restart_syscall, false, Arguments::Any),
];

/// The calls that enter the stub's handler, because they change more than the return register or because a
/// signal commonly ends them. A private mmap of a descriptor is trapped, too.
pub const TRAPPED: &[i64] = &[
    libc::SYS_rt_sigreturn,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigsuspend,
    libc::SYS_pause,
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// AUDIT_ARCH_X86_64.
pub(crate) const X86_64: u32 = 0xc000_003e;
/// __X32_SYSCALL_BIT.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

struct Ends {
    allow: Label,
    notify: Label,
    trap: Label,
    /// Allowed at the stub page only.
    in_stub: Label,
    /// Notified at the stub page, else trapped.
    trap_outside: Label,
}

/// The program, for the host's kernel and for [`native`].
pub(crate) fn program(mediated_mm: bool, rules: &Rules) -> Vec<Instruction> {
    let mut a = Assembler::default();
    let ends = Ends {
        allow: a.label(),
        notify: a.label(),
        trap: a.label(),
        in_stub: a.label(),
        trap_outside: a.label(),
    };
    if rules.architecture_first {
        a.load_arch();
        a.jump_unless_equal(X86_64, ends.notify);
    }
    a.load_nr();
    if rules.architecture_first {
        a.jump_if_any_bit(X32_BIT, ends.notify);
    }
    a.jump_if_equal(crate::wire::BELL as u32, ends.notify);
    // Even where memory is mediated, mmap is looked at: private mappings of files are trapped.
    let kept = |(nr, memory, _): &&Native| !(mediated_mm && *memory) || *nr == libc::SYS_mmap;
    let native: Vec<_> = NATIVE.iter().filter(kept).collect();
    let mut checks = Vec::new();
    for (nr, _, arguments) in native {
        match arguments {
            Arguments::Any => a.jump_if_equal(*nr as u32, ends.allow),
            Arguments::InStub => a.jump_if_equal(*nr as u32, ends.in_stub),
            checked => {
                let block = a.label();
                a.jump_if_equal(*nr as u32, block);
                checks.push((block, *checked));
            }
        }
    }
    for nr in TRAPPED {
        a.jump_if_equal(*nr as u32, ends.trap_outside);
    }
    a.ret(if rules.notify_the_rest { NOTIFY } else { ALLOW });
    for (block, arguments) in checks {
        a.here(block);
        check(&mut a, arguments, &ends, mediated_mm, rules);
    }
    finish(&mut a, &ends, rules);
    a.finish()
}

fn check(a: &mut Assembler, arguments: Arguments, ends: &Ends, mediated_mm: bool, rules: &Rules) {
    if !rules.native_arguments {
        a.ret(ALLOW);
        return;
    }
    match arguments {
        Arguments::Any | Arguments::InStub => {}
        Arguments::OneOf { arg, ignore, values } => {
            a.load_arg_low(arg);
            if ignore != 0 {
                a.and(!ignore);
            }
            for value in values {
                a.jump_if_equal(*value, ends.allow);
            }
            a.ret(NOTIFY);
            return;
        }
        Arguments::Within { arg, bits } => within(a, arg, bits, ends.notify),
        Arguments::AnonymousMmap => {
            anonymous_mmap(a, ends);
            if mediated_mm {
                a.ret(NOTIFY);
                return;
            }
        }
        Arguments::ShrinkingMremap => {
            within(a, 3, MREMAP_BITS, ends.notify);
            if rules.growing_mremap_notified {
                let shrinks = a.label();
                a.load_arg_high(1);
                a.tax();
                a.load_arg_high(2);
                a.jump_if_greater_than_x(ends.notify);
                a.jump_unless_equal_to_x(shrinks);
                a.load_arg_low(1);
                a.tax();
                a.load_arg_low(2);
                a.jump_if_greater_than_x(ends.notify);
                a.here(shrinks);
            }
        }
    }
    a.ret(ALLOW);
}

fn within(a: &mut Assembler, arg: u32, bits: u32, otherwise: Label) {
    a.load_arg_high(arg);
    a.jump_unless_equal(0, otherwise);
    a.load_arg_low(arg);
    a.jump_if_any_bit(!bits, otherwise);
}

fn anonymous_mmap(a: &mut Assembler, ends: &Ends) {
    let file = a.label();
    let private = a.label();
    let allowed = a.label();
    within(a, 2, PROT_BITS, ends.notify);
    a.load_arg_high(3);
    a.jump_unless_equal(0, ends.notify);
    a.load_arg_low(3);
    a.jump_unless_any_bit(libc::MAP_ANONYMOUS as u32, file);
    a.and(!MMAP_FLAGS);
    a.jump_if_equal(MMAP_ANONYMOUS, allowed);
    a.ret(NOTIFY);
    // A descriptor: shared mappings are plain calls, private ones are trapped. Stub code may map the public
    // image privately.
    a.here(file);
    a.and(libc::MAP_TYPE as u32);
    a.jump_if_equal(libc::MAP_PRIVATE as u32, private);
    a.ret(NOTIFY);
    a.here(private);
    a.load_ip_high();
    a.jump_unless_equal((layout::STUB_TEXT >> 32) as u32, ends.trap);
    a.load_ip_low();
    a.and(!(layout::STUB_TEXT_SIZE as u32 - 1));
    a.jump_unless_equal(layout::STUB_TEXT as u32, ends.trap);
    a.load_arg_low(3);
    a.jump_if_any_bit(!((libc::MAP_PRIVATE | libc::MAP_FIXED) as u32), ends.notify);
    a.load_arg_high(4);
    a.jump_unless_equal(0, ends.notify);
    a.load_arg_low(4);
    a.jump_unless_equal(layout::IMAGE_FD as u32, ends.notify);
    a.here(allowed);
}

fn finish(a: &mut Assembler, ends: &Ends, rules: &Rules) {
    for (label, inside, outside) in [(ends.in_stub, ALLOW, ends.trap), (ends.trap_outside, NOTIFY, ends.trap)]
    {
        a.here(label);
        a.load_ip_high();
        a.jump_unless_equal((layout::STUB_TEXT >> 32) as u32, outside);
        a.load_ip_low();
        a.and(!(layout::STUB_TEXT_SIZE as u32 - 1));
        a.jump_unless_equal(layout::STUB_TEXT as u32, outside);
        a.ret(inside);
    }
    a.here(ends.allow);
    a.ret(ALLOW);
    a.here(ends.notify);
    a.ret(NOTIFY);
    a.here(ends.trap);
    a.ret(if rules.trap { TRAP } else { ALLOW });
}

/// Whether `program` lets this call of the native table run without asking, made at `ip`.
pub(crate) fn native(program: &[Instruction], nr: u64, args: [u64; 6], ip: u64) -> bool {
    let Ok(nr) = u32::try_from(nr) else { return false };
    bpf::run(program, &bpf::Data { nr, arch: X86_64, ip, args }) == Some(ALLOW)
}
