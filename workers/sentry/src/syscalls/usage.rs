//! getrusage, times, sysinfo, rlimits.

use std::sync::Arc;

use super::Entry;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{CpuTime, Ctx, Process, Resource};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(97, "getrlimit", sys_getrlimit).by(&["identity:limits"]),
    Entry::partial(
        98,
        "getrusage",
        sys_getrusage,
        "times, peak memory and faults; the rest is 0, as on Linux",
    )
    .by(&["clocks:processor_time"]),
    Entry::full(99, "sysinfo", sys_sysinfo).by(&["clocks:the_system"]),
    Entry::full(100, "times", sys_times).by(&["clocks:processor_time"]),
    Entry::full(160, "setrlimit", sys_setrlimit).by(&[
        "clocks:limit_of_processor_time",
        "identity:limits",
        "memory:limits",
    ]),
    Entry::full(302, "prlimit64", sys_prlimit64).by(&["identity:limits"]),
];

/// `struct rusage`.
pub(super) fn rusage(time: CpuTime, peak_kib: u64, minor_faults: u64, major_faults: u64) -> [u8; 144] {
    const SECOND_US: u64 = 1_000_000;
    let mut words = [0u64; 18];
    (words[0], words[1]) = (time.user_us / SECOND_US, time.user_us % SECOND_US);
    (words[2], words[3]) = (time.system_us / SECOND_US, time.system_us % SECOND_US);
    (words[4], words[8], words[9]) = (peak_kib, minor_faults, major_faults);
    bytes_of(&words)
}

/// Words in the guest's byte order.
pub(super) fn bytes_of<const WORDS: usize, const BYTES: usize>(words: &[u64; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn sys_getrusage(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_CHILDREN: i32 = -1;
    const RUSAGE_THREAD: i32 = 1;
    let process = &cx.task.process;
    let bytes = match args.int(0) {
        RUSAGE_THREAD => {
            let (own, all) = (cx.task.cpu_ns() / 1000, process.cpu_time());
            // The host tells a thread's time as a whole: it is split as the process's is.
            let user_us =
                (u128::from(own) * u128::from(all.user_us) / u128::from(all.total_us().max(1))) as u64;
            let time = CpuTime { user_us: user_us.min(own), system_us: own - user_us.min(own) };
            let usage = process.stub().and_then(|stub| stub.usage().ok()).unwrap_or_default();
            let peak = process.used.lock().peak_kib.max(usage.peak_resident / 1024);
            rusage(time, peak, usage.minor_faults, usage.major_faults)
        }
        RUSAGE_SELF => {
            let usage = process.stub().and_then(|stub| stub.usage().ok()).unwrap_or_default();
            let peak = process.used.lock().peak_kib.max(usage.peak_resident / 1024);
            rusage(process.cpu_time(), peak, usage.minor_faults, usage.major_faults)
        }
        RUSAGE_CHILDREN => {
            let used = *process.used.lock();
            rusage(used.children, used.children_peak_kib, 0, 0)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    cx.memory.write(args.u64(1), &bytes)?;
    Ok(0)
}

fn sys_times(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    /// Microseconds in a clock tick (USER_HZ is 100).
    const TICK_US: u64 = 10_000;
    let process = &cx.task.process;
    let (own, children) = (process.cpu_time(), process.used.lock().children);
    if args.u64(0) != 0 {
        let words = [own.user_us, own.system_us, children.user_us, children.system_us].map(|us| us / TICK_US);
        cx.memory.write(args.u64(0), &bytes_of::<4, 32>(&words))?;
    }
    Ok(cx.kernel.booted.elapsed().as_micros() as u64 / TICK_US)
}

fn sys_sysinfo(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let total = cx.kernel.limits.memory_bytes;
    let used = cx.kernel.resident_bytes();
    let processes = cx.kernel.tree.lock().len() as u64;
    let mut words = [0u64; 14];
    words[0] = cx.kernel.booted.elapsed().as_secs();
    words[4] = total;
    words[5] = total.saturating_sub(used);
    // procs is a 16-bit number at byte 80; mem_unit a 32-bit one at byte 104.
    words[10] = processes.min(u16::MAX.into());
    words[13] = 1;
    cx.memory.write(args.u64(0), &bytes_of::<14, 112>(&words))?;
    Ok(0)
}

fn sys_getrlimit(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let resource = Resource::from_number(args.uint(0)).ok_or(Errno::EINVAL)?;
    let (soft, hard) = cx.task.process.limits.get(resource);
    cx.memory.write(args.u64(1), &bytes_of::<2, 16>(&[soft, hard]))?;
    Ok(0)
}

fn sys_setrlimit(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let process = cx.task.process.clone();
    set_limit(cx, &process, args.uint(0), args.u64(1))?;
    Ok(0)
}

fn sys_prlimit64(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let process = match args.int(0) {
        0 => cx.task.process.clone(),
        pid => {
            let tree = cx.kernel.tree.lock();
            tree.task(pid).map(|task| task.process.clone()).ok_or(Errno::ESRCH)?
        }
    };
    if process.pid != cx.pid() && !super::identity::may_change(cx, &process) {
        return Err(Errno::EPERM.into());
    }
    let resource = Resource::from_number(args.uint(1)).ok_or(Errno::EINVAL)?;
    let (soft, hard) = process.limits.get(resource);
    if args.u64(2) != 0 {
        set_limit(cx, &process, args.uint(1), args.u64(2))?;
    }
    if args.u64(3) != 0 {
        cx.memory.write(args.u64(3), &bytes_of::<2, 16>(&[soft, hard]))?;
    }
    Ok(0)
}

fn set_limit(cx: &Ctx<'_>, process: &Arc<Process>, number: u32, address: u64) -> Result<(), Errno> {
    let resource = Resource::from_number(number).ok_or(Errno::EINVAL)?;
    let [soft, hard]: [u64; 2] = cx.memory.read_value(address)?;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    let (_, old_hard) = process.limits.get(resource);
    let privileged = cx.credentials().can(crate::vfs::Capability::SysResource);
    if hard > old_hard && !privileged {
        return Err(Errno::EPERM);
    }
    if resource == Resource::OpenFiles && hard > super::MAX_OPEN_FILES {
        return Err(Errno::EPERM);
    }
    process.limits.set(resource, soft, hard);
    super::mm::limit_changed(process, resource, soft);
    if resource == Resource::Cpu {
        crate::kernel::timers::watch_cpu_limit(process);
    }
    Ok(())
}
