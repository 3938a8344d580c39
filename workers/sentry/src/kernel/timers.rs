//! Deadlines and timers: one thread that sleeps until the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::process::Process;
use super::signal::{Info, Signal, code, post_process, post_task, try_post_process};
use super::{INFINITY, Pid, Resource};
use crate::wait::{Events, Wake, run_woken};

struct Entry {
    at: Instant,
    sequence: u64,
    waiter: Weak<dyn Wake>,
    key: u64,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[derive(Default)]
struct Inner {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

/// Wakes waiters at points in time. A waiter that is gone by then is skipped; one that is woken for another
/// reason before is woken again in vain.
#[derive(Default)]
pub struct Timers {
    inner: Mutex<Inner>,
    changed: Condvar,
    ended: AtomicBool,
}

impl Timers {
    /// Wakes `waiter` at `at`, with `key` and no events.
    pub fn add(&self, at: Instant, waiter: &Arc<dyn Wake>, key: u64) {
        /// Entries whose waiter is gone are swept when the heap has grown beyond this many.
        const SWEEP_FROM: usize = 1024;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.heap.len() >= SWEEP_FROM && inner.heap.len().is_power_of_two() {
            inner.heap.retain(|Reverse(entry)| entry.waiter.strong_count() > 0);
        }
        let first = inner.heap.peek().map(|Reverse(entry)| entry.at);
        inner.sequence += 1;
        let entry = Entry { at, sequence: inner.sequence, waiter: Arc::downgrade(waiter), key };
        inner.heap.push(Reverse(entry));
        if first.is_none_or(|first| at < first) {
            self.changed.notify_one();
        }
    }

    /// Serves the timers until [`end`](Self::end): the body of the timer thread.
    pub fn serve(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.ended.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = match inner.heap.peek() {
                Some(Reverse(entry)) if entry.at <= now => inner.heap.pop(),
                Some(Reverse(entry)) => {
                    let wait = entry.at - now;
                    inner = self.changed.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                None => {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            if let Some(waiter) = due.and_then(|Reverse(entry)| Some((entry.waiter.upgrade()?, entry.key))) {
                drop(inner);
                waiter.0.wake(waiter.1, Events::default());
                run_woken();
                drop(waiter);
                inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Ends the timer thread.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// Most POSIX timers of a process. Linux counts them in RLIMIT_SIGPENDING.
pub const TIMERS_MAX: usize = 4096;

/// What a timer does when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// Nothing.
    Nothing,
    /// A signal to the process, with this value.
    Process(Signal, u64),
    /// A signal to one thread, with this value.
    Thread(Signal, u64, Pid),
}

/// What a timer measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meter {
    /// Real time.
    Real,
    /// The process's time in user mode.
    User,
    /// The process's processor time.
    Process,
    /// The processor time of one of its threads.
    Thread(Pid),
}

impl Meter {
    /// What has been used so far, in nanoseconds; none for real time and for a thread that is gone.
    fn used_ns(self, process: &Process) -> Option<u64> {
        match self {
            Self::Real => None,
            Self::User => Some(process.cpu_time().user_us * 1000),
            Self::Process => Some(process.cpu_ns()),
            Self::Thread(tid) => {
                let task = process.tasks().into_iter().find(|task| task.tid() == tid)?;
                Some(task.cpu_ns())
            }
        }
    }
}

/// How long a timer of processor time waits at least until it looks again, and how long it does while its process
/// uses nothing: the latter is how late it may be.
const LOOKS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(16);

/// A POSIX timer or an interval timer.
pub struct Timer {
    /// What it does.
    pub notify: Notify,
    /// What it measures.
    pub meter: Meter,
    /// When it expires next, for timers of processor time: nanoseconds of the meter.
    due_ns: u64,
    /// What the meter showed when it was last looked at, and how long it was waited until then.
    looked: (u64, Duration),
    /// The clock of timer_create, for timer_gettime's sake.
    pub clock: i32,
    /// When it expires next.
    pub next: Option<Instant>,
    /// Its period; zero is once.
    pub interval: Duration,
    /// Expiries that were not delivered because the last one still waits.
    pub overrun: i32,
    /// Told by timer_getoverrun for the last delivered signal.
    pub last_overrun: i32,
    /// Ends the waits of earlier settings.
    generation: u64,
    alarm: Option<Arc<dyn Wake>>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new(notify: Notify, clock: i32) -> Self {
        Self {
            notify,
            meter: Meter::Real,
            due_ns: 0,
            looked: (0, *LOOKS.start()),
            clock,
            next: None,
            interval: Duration::ZERO,
            overrun: 0,
            last_overrun: 0,
            generation: 0,
            alarm: None,
        }
    }

    /// The same timer, measuring something else than real time.
    #[must_use]
    pub fn measuring(self, meter: Meter) -> Self {
        Self { meter, ..self }
    }

    /// Time to the next expiry and the period; zero and zero if it is not set.
    pub fn remaining(&self, process: &Process) -> (Duration, Duration) {
        /// A set timer never shows zero: that means "not set".
        const LEAST: Duration = Duration::from_nanos(1);
        if self.meter != Meter::Real {
            let used = self.meter.used_ns(process).unwrap_or_default();
            let left = self.next.map(|_| Duration::from_nanos(self.due_ns.saturating_sub(used)).max(LEAST));
            return (left.unwrap_or_default(), self.interval);
        }
        let left = self.next.map(|next| next.saturating_duration_since(Instant::now()).max(LEAST));
        (left.unwrap_or_default(), self.interval)
    }
}

/// The timers of a process.
#[derive(Default)]
pub struct ProcessTimers {
    /// POSIX timers by id.
    pub posix: BTreeMap<i32, Timer>,
    /// The next id.
    pub next_id: i32,
    /// ITIMER_REAL (and alarm), ITIMER_VIRTUAL, ITIMER_PROF.
    pub interval: [Option<Timer>; 3],
}

/// The id under which ITIMER_REAL is known, ITIMER_VIRTUAL and ITIMER_PROF below it; POSIX timers have ids from 0.
pub const REAL: i32 = -1;

impl ProcessTimers {
    /// The timer with this id.
    pub fn get_mut(&mut self, id: i32) -> Option<&mut Timer> {
        if let Some(which) = usize::try_from(REAL - id).ok().filter(|which| *which < 3) {
            let signal = [Signal::ALRM, Signal::VTALRM, Signal::PROF][which];
            let meter = [Meter::Real, Meter::User, Meter::Process][which];
            let timer = || Timer::new(Notify::Process(signal, 0), 0).measuring(meter);
            return Some(self.interval[which].get_or_insert_with(timer));
        }
        self.posix.get_mut(&id)
    }

    /// exit: all timers go.
    pub fn clear(&mut self) {
        self.posix.clear();
        self.interval = Default::default();
    }
}

struct Alarm {
    process: Weak<Process>,
    id: i32,
    generation: u64,
}

impl Wake for Alarm {
    fn wake(&self, _key: u64, _events: Events) {
        if let Some(process) = self.process.upgrade() {
            expire(&process, self.id, self.generation);
        }
    }
}

/// When a timer is to expire first.
#[derive(Debug, Clone, Copy)]
pub enum First {
    /// It is switched off.
    Never,
    /// At this time, for timers of real time.
    At(Instant),
    /// When its meter shows this many nanoseconds.
    Used(u64),
    /// When its meter shows this many nanoseconds more than now.
    After(u64),
}

/// Sets a timer: first expiry and period. Returns what it was set to, or none if there is no such timer.
pub fn set(
    process: &Arc<Process>,
    id: i32,
    first: First,
    interval: Duration,
) -> Option<(Duration, Duration)> {
    let meter = process.timers.lock().get_mut(id)?.meter;
    let used = meter.used_ns(process).unwrap_or_default();
    let (next, due_ns) = match first {
        First::Never => (None, 0),
        First::At(at) => (Some(at), 0),
        First::Used(due) => (Some(Instant::now()), due),
        First::After(more) => (Some(Instant::now()), used.saturating_add(more)),
    };
    let (old, alarm) = {
        let mut timers = process.timers.lock();
        let timer = timers.get_mut(id)?;
        let old = timer.remaining(process);
        timer.generation += 1;
        (timer.next, timer.interval, timer.overrun) = (next, interval, 0);
        (timer.due_ns, timer.looked) = (due_ns, (used, *LOOKS.start()));
        timer.alarm = next.map(|_| -> Arc<dyn Wake> {
            Arc::new(Alarm { process: Arc::downgrade(process), id, generation: timer.generation })
        });
        (old, timer.alarm.clone())
    };
    // A signal of the last setting that is on its way comes before this returns.
    drop(process.timer_posts.lock());
    if let (Some(at), Some(alarm)) = (next, alarm) {
        process.kernel().timers.add(at, &alarm, 0);
    }
    Some(old)
}

/// When a timer of processor time is to be looked at again: before that its process can't have used what is left.
fn next_look(timer: &mut Timer, used: u64, cpus: usize) -> Instant {
    let (before, waited) = timer.looked;
    // A process that uses nothing is looked at less and less often.
    let least = if used > before { *LOOKS.start() } else { (waited * 2).min(*LOOKS.end()) };
    timer.looked = (used, least);
    let left = Duration::from_nanos(timer.due_ns.saturating_sub(used) / cpus.max(1) as u64);
    Instant::now() + left.max(least)
}

fn expire(process: &Arc<Process>, id: i32, generation: u64) {
    let meter = process.timers.lock().get_mut(id).map(|timer| timer.meter);
    let used = meter.and_then(|meter| meter.used_ns(process));
    let kernel = process.kernel();
    let _posting = process.timer_posts.lock();
    let (notify, again) = {
        let mut timers = process.timers.lock();
        let Some(timer) = timers.get_mut(id).filter(|timer| timer.generation == generation) else { return };
        let Some(due) = timer.next else { return };
        if let Some(used) = used
            && used < timer.due_ns
        {
            let look = next_look(timer, used, kernel.limits.cpus());
            let alarm = timer.alarm.clone();
            drop(timers);
            if let Some(alarm) = alarm {
                kernel.timers.add(look, &alarm, 0);
            }
            return;
        }
        let again = if timer.meter != Meter::Real && used.is_none() {
            // Its thread is gone.
            return;
        } else if let (Some(used), false) = (used, timer.interval.is_zero()) {
            let interval = u64::try_from(timer.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
            let missed = used.saturating_sub(timer.due_ns) / interval;
            timer.due_ns = timer.due_ns.saturating_add(interval.saturating_mul(missed.saturating_add(1)));
            timer.overrun = timer.overrun.saturating_add(missed.min(i32::MAX as u64) as i32);
            let look = next_look(timer, used, kernel.limits.cpus());
            timer.alarm.clone().map(|alarm| (look, alarm))
        } else if timer.interval.is_zero() {
            timer.next = None;
            None
        } else {
            let (next, missed) = after(due, timer.interval, Instant::now());
            timer.next = next;
            timer.overrun = timer.overrun.saturating_add(missed);
            next.zip(timer.alarm.clone())
        };
        ((timer.notify, std::mem::take(&mut timer.overrun)), again)
    };
    if let Some((next, alarm)) = again {
        kernel.timers.add(next, &alarm, 0);
    }
    let (notify, overrun) = notify;
    if id >= 0 && add_overrun(process, notify, id, overrun) {
        return;
    }
    let info = |signal, value| {
        if id < 0 { Info::new(signal, code::SI_KERNEL) } else { Info::timer(signal, id, overrun, value) }
    };
    match notify {
        Notify::Nothing => {}
        Notify::Process(signal, value) => {
            if try_post_process(process, info(signal, value)).is_err() {
                post_process(process, Info::new(Signal::ALRM, code::SI_TIMER));
            }
        }
        Notify::Thread(signal, value, tid) => {
            let task = process.tasks().into_iter().find(|task| task.tid() == tid);
            if let Some(task) = task {
                post_task(&task, info(signal, value));
            }
        }
    }
}

/// If the timer's last signal still waits, this expiry is an overrun of it; whether it does.
fn add_overrun(process: &Arc<Process>, notify: Notify, id: i32, missed: i32) -> bool {
    let more = missed.saturating_add(1);
    match notify {
        Notify::Nothing => false,
        Notify::Process(signal, _) => {
            process.with_pending(|signals| signals.pending.overrun(signal, id, more))
        }
        Notify::Thread(signal, _, tid) => {
            let task = process.tasks().into_iter().find(|task| task.tid() == tid);
            task.is_some_and(|task| task.signals.lock().pending.overrun(signal, id, more))
        }
    }
}

/// Enforces RLIMIT_CPU.
struct CpuWatch(Weak<Process>);

impl Wake for CpuWatch {
    fn wake(&self, _key: u64, _events: Events) {
        if let Some(process) = self.0.upgrade() {
            look_at_cpu_limit(&process);
        }
    }
}

/// Starts to enforce RLIMIT_CPU, if the process has such a limit: after a change of it, and for a new process.
pub fn watch_cpu_limit(process: &Arc<Process>) {
    let limited = process.limits.get(Resource::Cpu) != (INFINITY, INFINITY);
    let watch = limited.then(|| -> Arc<dyn Wake> { Arc::new(CpuWatch(Arc::downgrade(process))) });
    // The last watch goes with its Arc.
    let _last = std::mem::replace(&mut *process.cpu_watch.lock(), watch);
    look_at_cpu_limit(process);
}

fn look_at_cpu_limit(process: &Arc<Process>) {
    const SECOND_NS: u64 = 1_000_000_000;
    /// How late the signal may be.
    const LEAST: Duration = Duration::from_millis(10);
    let (soft, hard) = process.limits.get(Resource::Cpu);
    // None at all would be less than it takes to say so.
    let hard = hard.max(1);
    let Some(watch) = process.cpu_watch.lock().clone().filter(|_| !process.ends()) else { return };
    let used = process.cpu_ns();
    if used >= hard.saturating_mul(SECOND_NS) {
        post_process(process, Info::new(Signal::KILL, code::SI_KERNEL));
        return;
    }
    let mut due = soft.saturating_mul(SECOND_NS);
    if used >= due {
        // Again each second, as on Linux.
        let next = soft.saturating_add(1);
        process.limits.set(Resource::Cpu, next, hard);
        due = next.saturating_mul(SECOND_NS);
        post_process(process, Info::new(Signal::XCPU, code::SI_KERNEL));
    }
    let kernel = process.kernel();
    // A limit that was set late is behind what has been used by more than the second it has just got.
    let left = due.min(hard.saturating_mul(SECOND_NS)).saturating_sub(used);
    let left = Duration::from_nanos(left / kernel.limits.cpus().max(1) as u64);
    if let Some(look) = Instant::now().checked_add(left.max(LEAST)) {
        kernel.timers.add(look, &watch, 0);
    }
}

/// The first expiry after `now`, if the clock reaches as far, and how many were missed before it.
fn after(due: Instant, interval: Duration, now: Instant) -> (Option<Instant>, i32) {
    let late = now.saturating_duration_since(due);
    let missed = (late.as_nanos() / interval.as_nanos().max(1)).min(i32::MAX as u128 - 1) as u32;
    let steps = interval.checked_mul(missed + 1).unwrap_or(late.saturating_add(interval));
    (due.checked_add(steps), missed as i32)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(&self, key: u64, _events: Events) {
            self.0.fetch_add(key as u32, Ordering::SeqCst);
        }
    }

    #[test]
    fn timers_fire_in_order_and_dropped_waiters_do_not() {
        let timers = Arc::new(Timers::default());
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waiter: Arc<dyn Wake> = count.clone();
        let gone: Arc<dyn Wake> = Arc::new(Count(AtomicU32::new(0)));
        let now = Instant::now();
        timers.add(now + Duration::from_millis(20), &waiter, 10);
        timers.add(now, &waiter, 1);
        timers.add(now, &gone, 1000);
        drop(gone);
        let server = timers.clone();
        let thread = std::thread::spawn(move || server.serve());
        while count.0.load(Ordering::SeqCst) != 11 {
            std::thread::yield_now();
        }
        assert!(Instant::now() >= now + Duration::from_millis(20));
        timers.end();
        thread.join().expect("ends");
    }

    #[test]
    fn a_late_period_counts_what_it_missed() {
        let due = Instant::now();
        let (next, missed) = after(due, Duration::from_millis(10), due + Duration::from_millis(35));
        assert_eq!((next, missed), (Some(due + Duration::from_millis(40)), 3));
        let (next, missed) = after(due, Duration::from_millis(10), due);
        assert_eq!((next, missed), (Some(due + Duration::from_millis(10)), 0));
        let never = after(due, Duration::from_secs(i64::MAX as u64), due + Duration::from_millis(1));
        assert_eq!(never, (None, 0));
    }
}
