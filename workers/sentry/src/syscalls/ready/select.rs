//! select and pselect6.

use std::sync::Arc;
use std::time::Duration;

use super::timeout::{apply_mask, limit_after_signals, read_duration, write_left};
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::fs::epoll::expand;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::{MAX_DESCRIPTORS, OpenFile};
use crate::wait::{Events, Wake};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(23, "select", select).by(&["events:selecting"]),
    Entry::full(270, "pselect6", pselect6).by(&["events:selecting"]),
];

/// Nanoseconds of a microsecond.
const MICRO: u32 = 1000;

/// What makes a file ready in each of the three sets.
const MEANINGS: [Events; 3] = [
    Events(Events::IN.0 | Events::HUP.0 | Events::ERR.0),
    Events(Events::OUT.0 | Events::ERR.0),
    Events::PRI,
];

fn select(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = match args.u64(4) {
        0 => None,
        address => {
            // select takes more microseconds than a second has.
            let [seconds, micros]: [i64; 2] = cx.memory.read_value(address)?;
            if seconds < 0 || micros < 0 {
                return Err(Errno::EINVAL.into());
            }
            let extra = Duration::from_micros(micros as u64);
            Some(Duration::from_secs(seconds as u64).saturating_add(extra))
        }
    };
    let result = select_files(cx, args, timeout);
    if result.is_ok() {
        write_left(cx, args.u64(4), MICRO);
    }
    result
}

fn pselect6(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = match args.u64(4) {
        0 => None,
        address => Some(read_duration(cx, address, 1)?),
    };
    if args.u64(5) != 0 {
        let [mask, size]: [u64; 2] = cx.memory.read_value(args.u64(5))?;
        apply_mask(cx, mask, size)?;
    }
    let result = select_files(cx, args, timeout);
    if result.is_ok() {
        write_left(cx, args.u64(4), 1);
    }
    result
}

struct Asked {
    fd: usize,
    file: Arc<OpenFile>,
    /// In which of the three sets.
    sets: [bool; 3],
}

fn has(set: &[u8], fd: usize) -> bool {
    set.get(fd / 8).is_some_and(|byte| byte & 1 << (fd % 8) != 0)
}

fn select_files(cx: &mut Ctx<'_>, args: &Args, timeout: Option<Duration>) -> SysResult {
    let count = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?.min(MAX_DESCRIPTORS);
    // Sets are arrays of 64-bit words.
    let bytes = count.div_ceil(64) * 8;
    let mut sets: [Vec<u8>; 3] = Default::default();
    for (n, set) in sets.iter_mut().enumerate() {
        if args.u64(n + 1) != 0 {
            *set = vec![0; bytes];
            cx.memory.read(args.u64(n + 1), set)?;
        }
    }
    super::asked_by(cx.task);
    let files = cx.files();
    let mut asked = Vec::new();
    for fd in 0..count {
        let wanted = [has(&sets[0], fd), has(&sets[1], fd), has(&sets[2], fd)];
        if wanted.contains(&true) {
            asked.push(Asked { fd, file: files.get_io(fd as i32)?, sets: wanted });
        }
    }
    let mut found = look(&asked, None, bytes);
    if found.0 == 0 && limit_after_signals(cx, timeout) {
        let waiter = cx.waiter();
        found = look(&asked, Some(&waiter), bytes);
        if found.0 == 0 {
            return Err(cx.park(Restart::NoHandler));
        }
    }
    for (n, set) in found.1.iter().enumerate() {
        if args.u64(n + 1) != 0 {
            cx.memory.write(args.u64(n + 1), set)?;
        }
    }
    Ok(found.0)
}

fn look(asked: &[Asked], waiter: Option<&Arc<dyn Wake>>, bytes: usize) -> (u64, [Vec<u8>; 3]) {
    let mut out = [vec![0; bytes], vec![0; bytes], vec![0; bytes]];
    let mut ready = 0;
    let many = asked.len() > super::MANY;
    for ask in asked {
        let mut mask = Events::default();
        for (wanted, meaning) in ask.sets.iter().zip(MEANINGS) {
            if *wanted {
                mask = mask | meaning;
            }
        }
        let (key, mask) = if many { (0, Events::ALL) } else { (ask.fd as u64, mask) };
        let events = expand(ask.file.poll(waiter.map(|waiter| (waiter, key, mask))));
        for ((wanted, meaning), set) in ask.sets.iter().zip(MEANINGS).zip(&mut out) {
            if *wanted && events.intersects(meaning) {
                set[ask.fd / 8] |= 1 << (ask.fd % 8);
                ready += 1;
            }
        }
    }
    (ready, out)
}
