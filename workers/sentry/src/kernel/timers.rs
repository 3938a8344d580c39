//! Deadlines and timers: one thread that sleeps until the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Pid;
use super::process::Process;
use super::signal::{Info, Signal, code, post_process, post_task, try_post_process};
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

/// A POSIX timer or ITIMER_REAL.
pub struct Timer {
    /// What it does.
    pub notify: Notify,
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
            clock,
            next: None,
            interval: Duration::ZERO,
            overrun: 0,
            last_overrun: 0,
            generation: 0,
            alarm: None,
        }
    }

    /// Time to the next expiry and the period; zero and zero if it is not set.
    pub fn remaining(&self) -> (Duration, Duration) {
        /// A set timer never shows zero: that means "not set".
        const LEAST: Duration = Duration::from_nanos(1);
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
            return Some(
                self.interval[which].get_or_insert_with(|| Timer::new(Notify::Process(signal, 0), 0)),
            );
        }
        self.posix.get_mut(&id)
    }

    /// exit and exec: POSIX timers go.
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

/// Sets a timer: first expiry and period. Returns what it was set to, or none if there is no such timer.
pub fn set(
    process: &Arc<Process>,
    id: i32,
    next: Option<Instant>,
    interval: Duration,
) -> Option<(Duration, Duration)> {
    let (old, alarm) = {
        let mut timers = process.timers.lock();
        let timer = timers.get_mut(id)?;
        let old = timer.remaining();
        timer.generation += 1;
        (timer.next, timer.interval, timer.overrun) = (next, interval, 0);
        timer.alarm = next.map(|_| -> Arc<dyn Wake> {
            Arc::new(Alarm { process: Arc::downgrade(process), id, generation: timer.generation })
        });
        (old, timer.alarm.clone())
    };
    if let (Some(at), Some(alarm)) = (next, alarm) {
        process.kernel().timers.add(at, &alarm, 0);
    }
    Some(old)
}

fn expire(process: &Arc<Process>, id: i32, generation: u64) {
    let (notify, again) = {
        let mut timers = process.timers.lock();
        let Some(timer) = timers.get_mut(id).filter(|timer| timer.generation == generation) else { return };
        let Some(due) = timer.next else { return };
        let again = if timer.interval.is_zero() {
            timer.next = None;
            None
        } else {
            let (next, missed) = after(due, timer.interval, Instant::now());
            timer.next = Some(next);
            timer.overrun = timer.overrun.saturating_add(missed);
            timer.alarm.clone().map(|alarm| (next, alarm))
        };
        timer.last_overrun = std::mem::take(&mut timer.overrun);
        ((timer.notify, timer.last_overrun), again)
    };
    if let Some((next, alarm)) = again {
        process.kernel().timers.add(next, &alarm, 0);
    }
    let (notify, overrun) = notify;
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

/// The first expiry after `now`, and how many were missed before it.
fn after(due: Instant, interval: Duration, now: Instant) -> (Instant, i32) {
    let late = now.saturating_duration_since(due);
    let missed = (late.as_nanos() / interval.as_nanos().max(1)).min(i32::MAX as u128 - 1) as u32;
    let steps = interval.checked_mul(missed + 1).unwrap_or(late + interval);
    (due + steps, missed as i32)
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
        assert_eq!((next, missed), (due + Duration::from_millis(40), 3));
        let (next, missed) = after(due, Duration::from_millis(10), due);
        assert_eq!((next, missed), (due + Duration::from_millis(10), 0));
    }
}
