//! poll and ppoll.

use std::sync::Arc;
use std::time::Duration;

use super::timeout::{apply_mask, limit_after_signals, read_duration, write_left};
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::fs::epoll::{expand, interest};
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::OpenFile;
use crate::wait::{Events, Wake};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(7, "poll", poll).by(&["events:polling", "sockets:packets"]),
    Entry::full(271, "ppoll", ppoll).by(&["events:polling"]),
];

const POLLNVAL: u16 = 0x20;
/// Bytes of a `struct pollfd`: descriptor, events, revents.
const SIZE: usize = 8;

fn poll(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = u64::try_from(args.int(2)).ok().map(Duration::from_millis);
    poll_files(cx, args.u64(0), args.uint(1), timeout)
}

fn ppoll(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = match args.u64(2) {
        0 => None,
        address => Some(read_duration(cx, address, 1)?),
    };
    apply_mask(cx, args.u64(3), args.u64(4))?;
    let result = poll_files(cx, args.u64(0), args.uint(1), timeout);
    if result.is_ok() {
        write_left(cx, args.u64(2), 1);
    }
    result
}

struct Asked {
    file: Option<Arc<OpenFile>>,
    events: u16,
    negative: bool,
}

fn poll_files(cx: &mut Ctx<'_>, address: u64, count: u32, timeout: Option<Duration>) -> SysResult {
    if u64::from(count) > cx.limit(Resource::OpenFiles) {
        return Err(Errno::EINVAL.into());
    }
    let mut raw = vec![0; count as usize * SIZE];
    cx.memory.read(address, &mut raw)?;
    super::asked_by(cx.task);
    let files = cx.files();
    let asked: Vec<Asked> = raw
        .chunks_exact(SIZE)
        .map(|entry| {
            let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            Asked {
                file: files.get_io(fd).ok(),
                events: u16::from_le_bytes([entry[4], entry[5]]),
                negative: fd < 0,
            }
        })
        .collect();
    let mut ready = look(&asked, None, &mut raw);
    if ready == 0 && limit_after_signals(cx, timeout) {
        let waiter = cx.waiter();
        ready = look(&asked, Some(&waiter), &mut raw);
        if ready == 0 {
            return Err(cx.park(Restart::NoHandler));
        }
    }
    cx.memory.write(address, &raw)?;
    Ok(ready)
}

/// Fills in what is ready; answers of how many.
fn look(asked: &[Asked], waiter: Option<&Arc<dyn Wake>>, raw: &mut [u8]) -> u64 {
    let mut ready = 0;
    let all = (asked.len() > super::MANY)
        .then(|| interest(asked.iter().fold(0, |all, ask| all | u32::from(ask.events))));
    for (key, (ask, entry)) in asked.iter().zip(raw.chunks_exact_mut(SIZE)).enumerate() {
        let found = match &ask.file {
            _ if ask.negative => 0,
            None => POLLNVAL,
            Some(file) => {
                let wanted = u32::from(ask.events);
                let (key, mask) = all.map_or((key as u64, interest(wanted)), |all| (0, all));
                let waiter = waiter.map(|waiter| (waiter, key, mask));
                let events = expand(file.poll(waiter));
                (events.0 & (wanted | Events::ERR.0 | Events::HUP.0)) as u16
            }
        };
        entry[6..].copy_from_slice(&found.to_le_bytes());
        ready += u64::from(found != 0);
    }
    ready
}
