//! Clocks, sleeping, interval timers and POSIX timers.

use std::time::{Duration, Instant};

use super::Entry;
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::kernel::timers::{self, First, Meter, Notify, REAL, TIMERS_MAX, Timer};
use crate::kernel::{Ctx, Signal};

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    Entry::full(35, "nanosleep", sys_nanosleep).by(&["clocks:sleeping", "signals:restarts"]),
    Entry::partial(36, "getitimer", sys_getitimer, "ITIMER_REAL; the others are never set")
        .by(&["clocks:interval_timers"]),
    Entry::full(37, "alarm", sys_alarm).by(&["clocks:interval_timers"]),
    Entry::partial(
        38,
        "setitimer",
        sys_setitimer,
        "ITIMER_REAL; ITIMER_VIRTUAL and ITIMER_PROF count real time",
    )
    .by(&["clocks:interval_timers"]),
    Entry::full(96, "gettimeofday", sys_gettimeofday).by(&["clocks:reading"]),
    Entry::refused(159, "adjtimex", Errno::EPERM, "the clock is the host's"),
    Entry::refused(164, "settimeofday", Errno::EPERM, "the clock is the host's"),
    Entry::full(201, "time", sys_time).by(&["clocks:reading"]),
    Entry::partial(222, "timer_create", sys_timer_create, "processor time clocks count real time")
        .by(&["clocks:posix_timers"]),
    Entry::full(223, "timer_settime", sys_timer_settime).by(&["clocks:posix_timers"]),
    Entry::full(224, "timer_gettime", sys_timer_gettime).by(&["clocks:posix_timers"]),
    Entry::full(225, "timer_getoverrun", sys_timer_getoverrun).by(&["clocks:posix_timers"]),
    Entry::full(226, "timer_delete", sys_timer_delete).by(&["clocks:posix_timers"]),
    Entry::refused(227, "clock_settime", Errno::EPERM, "the clock is the host's"),
    Entry::full(228, "clock_gettime", sys_clock_gettime).by(&["clocks:processor_time", "clocks:reading"]),
    Entry::full(229, "clock_getres", sys_clock_getres).by(&["clocks:reading"]),
    Entry::partial(230, "clock_nanosleep", sys_clock_nanosleep, "a jump of CLOCK_REALTIME is not noticed")
        .by(&["clocks:sleeping"]),
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

/// The longest time that timers know, about 292 years: KTIME_MAX. Linux cuts what is longer.
pub(super) const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// Reads a `struct timespec` that is a duration, of at most [`LONGEST`].
///
/// # Errors
/// EFAULT, EINVAL.
pub(super) fn read_duration(cx: &Ctx<'_>, address: u64) -> Result<Duration, Errno> {
    let [seconds, nanos]: [i64; 2] = cx.memory.read_value(address)?;
    if seconds < 0 || !(0..NANOS).contains(&nanos) {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds as u64, nanos as u32).min(LONGEST))
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
        check_clock(args.int(0))?;
        let time = read_duration(cx, args.u64(2))?;
        if absolute {
            let now = now(cx, args.int(0))?;
            cx.call.wait_at_most(time.saturating_sub(now));
        } else {
            cx.call.wait_at_most(time);
        }
    }
    sleep(cx, if absolute { 0 } else { args.u64(3) })
}

/// Whether a clock can be slept by.
fn check_clock(clock: i32) -> Result<(), Errno> {
    match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_PROCESS_CPUTIME | CLOCK_BOOTTIME | CLOCK_TAI => Ok(()),
        CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM => Err(Errno::EPERM),
        CLOCK_THREAD_CPUTIME | 4..=6 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
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
        CLOCK_PROCESS_CPUTIME => return Ok(Duration::from_nanos(cx.task.process.cpu_ns())),
        CLOCK_THREAD_CPUTIME => return Ok(Duration::from_nanos(cx.task.cpu_ns())),
        negative if negative < 0 => return cpu_clock_of(cx, negative),
        _ => return Err(Errno::EINVAL),
    };
    let time = clock_gettime(id);
    Ok(Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32))
}

/// The clocks of clock_getcpuclockid and pthread_getcpuclockid: the number holds the inverted pid and a kind.
fn cpu_clock_of(cx: &Ctx<'_>, clock: i32) -> Result<Duration, Errno> {
    const OF_THREAD: i32 = 4;
    if clock & 3 == 3 {
        return Err(Errno::EINVAL);
    }
    let task = match !(clock >> 3) {
        0 => cx.task.clone(),
        pid => cx.kernel.tree.lock().task(pid).ok_or(Errno::EINVAL)?,
    };
    let used = if clock & OF_THREAD != 0 { task.cpu_ns() } else { task.process.cpu_ns() };
    Ok(Duration::from_nanos(used))
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
fn expiry(cx: &Ctx<'_>, clock: i32, value: Duration, absolute: bool) -> Result<First, Errno> {
    if value.is_zero() {
        return Ok(First::Never);
    }
    let delay = if absolute { value.saturating_sub(now(cx, clock)?) } else { value };
    // A time beyond the clock's range never comes.
    Ok(Instant::now().checked_add(delay).map_or(First::Never, First::At))
}

fn sys_alarm(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let seconds = Duration::from_secs(args.uint(0).into());
    let first = expiry(cx, CLOCK_MONOTONIC, seconds, false)?;
    let old = timers::set(&cx.task.process, REAL, first, Duration::ZERO).unwrap_or_default().0;
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
    Ok(Duration::new(seconds as u64, micros as u32 * 1000).min(LONGEST))
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
    let process = &cx.task.process;
    let remaining =
        process.timers.lock().get_mut(id).map(|timer| timer.remaining(process)).unwrap_or_default();
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
    let first = match args.int(0) {
        ITIMER_REAL => expiry(cx, CLOCK_MONOTONIC, value, false)?,
        _ if value.is_zero() => First::Never,
        _ => First::After(value.as_nanos().try_into().unwrap_or(u64::MAX)),
    };
    let old = timers::set(&cx.task.process, id, first, interval).unwrap_or_default();
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
    let meter = meter_of(cx, clock)?;
    let event: Option<[u64; 3]> = match args.u64(1) {
        0 => None,
        address => Some(cx.memory.read_value(address)?),
    };
    let threads = cx.task.process.tasks();
    let own_thread = |tid: i32| threads.iter().any(|thread| thread.tid() == tid);
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
                SIGEV_THREAD_ID if own_thread(tid as i32) => Notify::Thread(signal()?, value, tid as i32),
                _ => return Err(Errno::EINVAL.into()),
            }
        }
    };
    timers.next_id = timers.next_id.wrapping_add(1).max(0);
    timers.posix.insert(id, Timer::new(notify, clock).measuring(meter));
    drop(timers);
    cx.memory.write_value(args.u64(2), &id)?;
    Ok(0)
}

/// What a timer of a clock measures.
fn meter_of(cx: &Ctx<'_>, clock: i32) -> Result<Meter, Errno> {
    const OF_THREAD: i32 = 4;
    now(cx, clock)?;
    match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_TAI => Ok(Meter::Real),
        CLOCK_PROCESS_CPUTIME => Ok(Meter::Process),
        CLOCK_THREAD_CPUTIME => Ok(Meter::Thread(cx.tid())),
        CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM => Err(Errno::EPERM),
        negative if negative < 0 => {
            let pid = !(negative >> 3);
            let own = pid == 0 || cx.task.process.tasks().iter().any(|thread| thread.tid() == pid);
            match (own, negative & OF_THREAD != 0) {
                (false, _) => Err(Errno::EINVAL),
                (true, true) => Ok(Meter::Thread(if pid == 0 { cx.tid() } else { pid })),
                (true, false) => Ok(Meter::Process),
            }
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
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
    let (clock, meter) = {
        let mut timers = cx.task.process.timers.lock();
        timers.get_mut(id).map(|timer| (timer.clock, timer.meter)).ok_or(Errno::EINVAL)?
    };
    let absolute = args.uint(1) & TIMER_ABSTIME != 0;
    let first = match meter {
        Meter::Real => expiry(cx, clock, value, absolute)?,
        _ if value.is_zero() => First::Never,
        _ => {
            let nanos = value.as_nanos().try_into().unwrap_or(u64::MAX);
            if absolute { First::Used(nanos) } else { First::After(nanos) }
        }
    };
    let old = timers::set(&cx.task.process, id, first, interval).ok_or(Errno::EINVAL)?;
    if args.u64(3) != 0 {
        cx.memory.write_value(args.u64(3), &timer_words(old))?;
    }
    Ok(0)
}

fn sys_timer_gettime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let id = timer_id(args)?;
    let remaining = {
        let mut timers = cx.task.process.timers.lock();
        timers.get_mut(id).map(|timer| timer.remaining(&cx.task.process)).ok_or(Errno::EINVAL)?
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
    drop(cx.task.process.timer_posts.lock());
    removed.map(|_| 0).ok_or_else(|| Errno::EINVAL.into())
}
