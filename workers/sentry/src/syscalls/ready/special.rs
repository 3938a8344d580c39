//! eventfd and timerfd.

use std::time::{Duration, Instant};

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::fs::eventfd::EventFd;
use crate::fs::timerfd::TimerFd;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::syscalls::time::LONGEST;
use crate::vfs::flags::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::vfs::{File, OpenFile};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(283, "timerfd_create", timerfd_create).by(&["events:timerfds"]),
    Entry::full(284, "eventfd", eventfd).by(&["events:eventfds"]),
    Entry::partial(
        286,
        "timerfd_settime",
        timerfd_settime,
        "TFD_TIMER_CANCEL_ON_SET: the clock is never set",
    )
    .by(&["events:timerfds"]),
    Entry::full(287, "timerfd_gettime", timerfd_gettime).by(&["events:timerfds"]),
    Entry::full(290, "eventfd2", eventfd2).by(&["events:eventfds"]),
];

fn install(cx: &Ctx<'_>, name: &str, flags: u32, object: Box<dyn File>) -> SysResult {
    let file = cx.kernel.vfs().anonymous_file(name, O_RDWR | flags & O_NONBLOCK, object);
    Ok(cx.files().install(file, flags & O_CLOEXEC != 0, cx.limit(Resource::OpenFiles))? as u64)
}

fn eventfd(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    install(cx, "[eventfd]", 0, Box::new(EventFd::new(args.uint(0), false)))
}

fn eventfd2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const EFD_SEMAPHORE: u32 = 1;
    let flags = args.uint(1);
    if flags & !(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    install(cx, "[eventfd]", flags, Box::new(EventFd::new(args.uint(0), flags & EFD_SEMAPHORE != 0)))
}

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_BOOTTIME: i32 = 7;

/// A timer with the clock it was made for.
struct Clocked {
    timer: TimerFd,
    realtime: bool,
}

impl File for Clocked {
    fn read(&self, file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        self.timer.read(file, into)
    }

    fn poll(&self, file: &OpenFile, waiter: crate::vfs::Waiter<'_>) -> crate::wait::Events {
        self.timer.poll(file, waiter)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn timerfd_create(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (clock, flags) = (args.int(0), args.uint(1));
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME) {
        // The alarm clocks wake a machine from sleep: not a job's to do.
        return Err(if matches!(clock, 8 | 9) { Errno::EPERM } else { Errno::EINVAL }.into());
    }
    let timer = TimerFd::new(cx.kernel);
    install(cx, "[timerfd]", flags, Box::new(Clocked { timer, realtime: clock == CLOCK_REALTIME }))
}

fn duration(seconds: i64, nanoseconds: i64) -> Result<Duration, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    if !(0..1_000_000_000).contains(&nanoseconds) {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds, nanoseconds as u32).min(LONGEST))
}

/// The instant that a clock's absolute time is.
fn instant(realtime: bool, at: Duration) -> Instant {
    use rustix::time::{ClockId, clock_gettime};
    let clock = if realtime { ClockId::Realtime } else { ClockId::Monotonic };
    let now = clock_gettime(clock);
    let now = Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec as u32);
    let instant = Instant::now();
    // Beyond what an instant can be is never; what has passed expires at once.
    instant.checked_add(at.saturating_sub(now)).unwrap_or_else(|| instant + Duration::from_secs(1 << 32))
}

fn write_setting(cx: &Ctx<'_>, address: u64, setting: (Duration, Duration)) -> Result<(), Errno> {
    let (left, interval) = setting;
    let value = [
        interval.as_secs() as i64,
        i64::from(interval.subsec_nanos()),
        left.as_secs() as i64,
        i64::from(left.subsec_nanos()),
    ];
    cx.memory.write_value(address, &value)
}

fn timerfd_settime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const TFD_TIMER_ABSTIME: u32 = 1;
    const TFD_TIMER_CANCEL_ON_SET: u32 = 2;
    let flags = args.uint(1);
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let value: [i64; 4] = cx.memory.read_value(args.u64(2))?;
    let interval = duration(value[0], value[1])?;
    let first = duration(value[2], value[3])?;
    let file = cx.files().get_io(args.int(0))?;
    let clocked = file.object::<Clocked>().ok_or(Errno::EINVAL)?;
    let next = if first.is_zero() {
        None
    } else if flags & TFD_TIMER_ABSTIME != 0 {
        Some(instant(clocked.realtime, first))
    } else {
        let now = Instant::now();
        Some(now.checked_add(first).unwrap_or_else(|| now + Duration::from_secs(1 << 32)))
    };
    let old = clocked.timer.set(next, interval);
    if args.u64(3) != 0 {
        write_setting(cx, args.u64(3), old)?;
    }
    Ok(0)
}

fn timerfd_gettime(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let clocked = file.object::<Clocked>().ok_or(Errno::EINVAL)?;
    write_setting(cx, args.u64(1), clocked.timer.get())?;
    Ok(0)
}
