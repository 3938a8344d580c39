//! Clocks, sleeping, interval timers and POSIX timers.

use std::time::{Duration, Instant};

use super::Entry;
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::timers::{self, Notify, REAL, TIMERS_MAX, Timer};
use crate::kernel::{CpuTime, Ctx, Signal};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(35, "nanosleep", sys_nanosleep),
    Entry::partial(36, "getitimer", sys_getitimer, "ITIMER_REAL; the others are never set"),
    Entry::full(37, "alarm", sys_alarm),
    Entry::partial(
        38,
        "setitimer",
        sys_setitimer,
        "ITIMER_REAL; ITIMER_VIRTUAL and ITIMER_PROF count real time",
    ),
    Entry::full(96, "gettimeofday", sys_gettimeofday),
    Entry::refused(159, "adjtimex", Errno::EPERM, "the clock is the host's"),
    Entry::refused(164, "settimeofday", Errno::EPERM, "the clock is the host's"),
    Entry::full(201, "time", sys_time),
    Entry::partial(222, "timer_create", sys_timer_create, "processor time clocks count real time"),
    Entry::full(223, "timer_settime", sys_timer_settime),
    Entry::full(224, "timer_gettime", sys_timer_gettime),
    Entry::full(225, "timer_getoverrun", sys_timer_getoverrun),
    Entry::full(226, "timer_delete", sys_timer_delete),
    Entry::refused(227, "clock_settime", Errno::EPERM, "the clock is the host's"),
    Entry::full(228, "clock_gettime", sys_clock_gettime),
    Entry::full(229, "clock_getres", sys_clock_getres),
    Entry::partial(230, "clock_nanosleep", sys_clock_nanosleep, "a jump of CLOCK_REALTIME is not noticed"),
    Entry::refused(305, "clock_adjtime", Errno::EPERM, "the clock is the host's"),
];

const NANOS: i64 = 1_000_000_000;
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_PROCESS_CPUTIME: i32 = 2;
const CLOCK_THREAD_CPUTIME: i32 = 3;
const CLOCK_BOOTTIME: i32 = 7;
const CLOCK_REALTIME_ALARM: i32 = 8;
const CLOCK_BOOTTIME_ALARM: i32 = 9;
const CLOCK_TAI: i32 = 11;

/// Reads a `struct timespec` that is a duration.
///
/// # Errors
/// EFAULT, EINVAL.
pub(super) fn read_duration(cx: &Ctx<'_>, address: u64) -> Result<Duration, Errno> {
    let [seconds, nanos]: [i64; 2] = cx.memory.read_value(address)?;
    if seconds < 0 || !(0..NANOS).contains(&nanos) {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds as u64, nanos as u32))
}

fn words(duration: Duration) -> [u64; 2] {
    [duration.as_secs(), duration.subsec_nanos().into()]
}

fn sys_nanosleep(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if cx.call.executions == 1 {
        let duration = read_duration(cx, args.u64(0))?;
        cx.call.wait_at_most(duration);
        if duration.is_zero() {
            return Ok(0);
        }
    }
    sleep(cx, args.u64(1))
}

/// Sleeps until the deadline. A signal wakes the call before it ends it: so what remains is written each time.
fn sleep(cx: &mut Ctx<'_>, remaining: u64) -> SysResult {
    if cx.call.timed_out() {
        return Ok(0);
    }
    if cx.call.executions > 1
        && remaining != 0
        && let Some(deadline) = cx.call.deadline()
    {
        let left = deadline.saturating_duration_since(Instant::now());
        cx.memory.write_value(remaining, &words(left))?;
    }
    Err(cx.park(Restart::NoHandler))
}

fn sys_clock_nanosleep(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const TIMER_ABSTIME: u32 = 1;
    let absolute = args.uint(1) & TIMER_ABSTIME != 0;
    if cx.call.executions == 1 {
        if args.int(0) == CLOCK_THREAD_CPUTIME {
            return Err(Errno::EINVAL.into());
        }
        let time = read_duration(cx, args.u64(2))?;
        if absolute {
            let now = now(cx, args.int(0))?;
            cx.call.wait_at_most(time.saturating_sub(now));
        } else {
            check_clock(args.int(0))?;
            cx.call.wait_at_most(time);
        }
    }
    sleep(cx, if absolute { 0 } else { args.u64(3) })
}

fn check_clock(clock: i32) -> Result<(), Errno> {
    if (0..=CLOCK_TAI).contains(&clock) && clock != 10 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The time of a clock.
pub(super) fn now(cx: &Ctx<'_>, clock: i32) -> Result<Duration, Errno> {
    use rustix::time::{ClockId, clock_gettime};
    let id = match clock {
        // TAI is native; here it only serves to check and to sleep.
        CLOCK_REALTIME | CLOCK_REALTIME_ALARM | CLOCK_TAI => ClockId::Realtime,
        CLOCK_MONOTONIC => ClockId::Monotonic,
        4 => ClockId::MonotonicRaw,
        5 => ClockId::RealtimeCoarse,
        6 => ClockId::MonotonicCoarse,
        CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => ClockId::Boottime,
        CLOCK_PROCESS_CPUTIME | CLOCK_THREAD_CPUTIME => return Ok(cpu(cx.task.process.cpu_time())),
        negative if negative < 0 => return cpu_clock_of(cx, negative),
        _ => return Err(Errno::EINVAL),
    };
    let time = clock_gettime(id);
    Ok(Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32))
}

fn cpu(time: CpuTime) -> Duration {
    Duration::from_micros(time.total_us())
}

/// The clocks of clock_getcpuclockid and pthread_getcpuclockid: the number holds the inverted pid and a kind.
fn cpu_clock_of(cx: &Ctx<'_>, clock: i32) -> Result<Duration, Errno> {
    const KIND: i32 = 7;
    if clock & KIND > 6 || clock & 3 == 3 {
        return Err(Errno::EINVAL);
    }
    let pid = !(clock >> 3);
    if pid == 0 {
        return Ok(cpu(cx.task.process.cpu_time()));
    }
    let task = cx.kernel.tree.lock().task(pid).ok_or(Errno::EINVAL)?;
    Ok(cpu(task.process.cpu_time()))
}

fn sys_clock_gettime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let time = now(cx, args.int(0))?;
    cx.memory.write_value(args.u64(1), &words(time))?;
    Ok(0)
}

fn sys_clock_getres(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    now(cx, args.int(0))?;
    if args.u64(1) != 0 {
        cx.memory.write_value(args.u64(1), &[0u64, 1])?;
    }
    Ok(0)
}

fn sys_gettimeofday(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.u64(0) != 0 {
        let time = now(cx, CLOCK_REALTIME)?;
        cx.memory.write_value(args.u64(0), &[time.as_secs(), time.subsec_micros().into()])?;
    }
    if args.u64(1) != 0 {
        cx.memory.write_value(args.u64(1), &0u64)?;
    }
    Ok(0)
}

fn sys_time(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let seconds = now(cx, CLOCK_REALTIME)?.as_secs();
    if args.u64(0) != 0 {
        cx.memory.write_value(args.u64(0), &seconds)?;
    }
    Ok(seconds)
}

/// When a timer that is set to `value` (a duration, or a time of `clock`) expires first.
fn expiry(cx: &Ctx<'_>, clock: i32, value: Duration, absolute: bool) -> Result<Option<Instant>, Errno> {
    if value.is_zero() {
        return Ok(None);
    }
    let delay = if absolute { value.saturating_sub(now(cx, clock)?) } else { value };
    // A time beyond the clock's range never comes.
    Ok(Instant::now().checked_add(delay))
}

fn sys_alarm(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let seconds = Duration::from_secs(args.uint(0).into());
    let next = expiry(cx, CLOCK_MONOTONIC, seconds, false)?;
    let old = timers::set(&cx.task.process, REAL, next, Duration::ZERO).unwrap_or_default().0;
    // Rounded up, and never 0 for a set timer.
    Ok(if old.is_zero() {
        0
    } else {
        old.as_secs() + u64::from(old.subsec_nanos() >= 500_000_000 || old.as_secs() == 0)
    })
}

const ITIMER_REAL: i32 = 0;
const ITIMER_PROF: i32 = 2;

/// Timer ids of ITIMER_VIRTUAL and ITIMER_PROF: guests' own ids are not negative.
fn itimer(which: i32) -> Result<i32, Errno> {
    match which {
        ITIMER_REAL..=ITIMER_PROF => Ok(REAL - which),
        _ => Err(Errno::EINVAL),
    }
}

fn microseconds([seconds, micros]: [i64; 2]) -> Result<Duration, Errno> {
    if seconds < 0 || !(0..1_000_000).contains(&micros) {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds as u64, micros as u32 * 1000))
}

fn itimer_words((value, interval): (Duration, Duration)) -> [u64; 4] {
    let pair = |duration: Duration| {
        let micros = duration.as_nanos().div_ceil(1000) as u64;
        [micros / 1_000_000, micros % 1_000_000]
    };
    let ([a, b], [c, d]) = (pair(interval), pair(value));
    [a, b, c, d]
}

fn sys_getitimer(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = itimer(args.int(0))?;
    let remaining =
        cx.task.process.timers.lock().get_mut(id).map(|timer| timer.remaining()).unwrap_or_default();
    cx.memory.write_value(args.u64(1), &itimer_words(remaining))?;
    Ok(0)
}

fn sys_setitimer(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = itimer(args.int(0))?;
    let (value, interval) = match args.u64(1) {
        0 => (Duration::ZERO, Duration::ZERO),
        address => {
            let [a, b, c, d]: [i64; 4] = cx.memory.read_value(address)?;
            (microseconds([c, d])?, microseconds([a, b])?)
        }
    };
    let next = expiry(cx, CLOCK_MONOTONIC, value, false)?;
    let old = timers::set(&cx.task.process, id, next, interval).unwrap_or_default();
    if args.u64(2) != 0 {
        cx.memory.write_value(args.u64(2), &itimer_words(old))?;
    }
    Ok(0)
}

fn sys_timer_create(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const SIGEV_SIGNAL: u32 = 0;
    const SIGEV_NONE: u32 = 1;
    const SIGEV_THREAD: u32 = 2;
    const SIGEV_THREAD_ID: u32 = 4;
    let clock = args.int(0);
    now(cx, clock)?;
    let event: Option<[u64; 3]> = match args.u64(1) {
        0 => None,
        address => Some(cx.memory.read_value(address)?),
    };
    let mut timers = cx.task.process.timers.lock();
    if timers.posix.len() >= TIMERS_MAX {
        return Err(Errno::EAGAIN.into());
    }
    let id = timers.next_id;
    let notify = match event {
        None => Notify::Process(Signal::ALRM, id as u64),
        Some([value, signal_and_kind, tid]) => {
            let signal = || Signal::new(signal_and_kind as i32);
            match (signal_and_kind >> 32) as u32 {
                SIGEV_NONE => Notify::Nothing,
                SIGEV_SIGNAL | SIGEV_THREAD => Notify::Process(signal()?, value),
                SIGEV_THREAD_ID => Notify::Thread(signal()?, value, tid as i32),
                _ => return Err(Errno::EINVAL.into()),
            }
        }
    };
    timers.next_id = timers.next_id.wrapping_add(1).max(0);
    timers.posix.insert(id, Timer::new(notify, clock));
    drop(timers);
    cx.memory.write_value(args.u64(2), &id)?;
    Ok(0)
}

fn timer_words((value, interval): (Duration, Duration)) -> [u64; 4] {
    let ([a, b], [c, d]) = (words(interval), words(value));
    [a, b, c, d]
}

fn timer_id(args: &Args) -> Result<i32, Errno> {
    if args.int(0) < 0 { Err(Errno::EINVAL) } else { Ok(args.int(0)) }
}

fn sys_timer_settime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const TIMER_ABSTIME: u32 = 1;
    let id = timer_id(args)?;
    let interval = read_duration(cx, args.u64(2))?;
    let value = read_duration(cx, args.u64(2).wrapping_add(16))?;
    let clock = {
        let mut timers = cx.task.process.timers.lock();
        timers.get_mut(id).map(|timer| timer.clock).ok_or(Errno::EINVAL)?
    };
    let next = expiry(cx, clock, value, args.uint(1) & TIMER_ABSTIME != 0)?;
    let old = timers::set(&cx.task.process, id, next, interval).ok_or(Errno::EINVAL)?;
    if args.u64(3) != 0 {
        cx.memory.write_value(args.u64(3), &timer_words(old))?;
    }
    Ok(0)
}

fn sys_timer_gettime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = timer_id(args)?;
    let remaining = {
        let mut timers = cx.task.process.timers.lock();
        timers.get_mut(id).map(|timer| timer.remaining()).ok_or(Errno::EINVAL)?
    };
    cx.memory.write_value(args.u64(1), &timer_words(remaining))?;
    Ok(0)
}

fn sys_timer_getoverrun(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = timer_id(args)?;
    let mut timers = cx.task.process.timers.lock();
    Ok(timers.get_mut(id).map(|timer| timer.last_overrun as u64).ok_or(Errno::EINVAL)?)
}

fn sys_timer_delete(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = timer_id(args)?;
    let removed = cx.task.process.timers.lock().posix.remove(&id);
    removed.map(|_| 0).ok_or_else(|| Errno::EINVAL.into())
}
