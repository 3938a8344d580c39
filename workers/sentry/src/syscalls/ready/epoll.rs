//! The epoll calls.

use std::time::Duration;

use super::timeout::{apply_mask, limit, read_duration};
use crate::call::{Args, Restart, SysResult};
use crate::errno::Errno;
use crate::fs::epoll::{EPOLLET, EPOLLEXCLUSIVE, EPOLLWAKEUP, Epoll};
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::flags::{O_CLOEXEC, O_RDWR};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(213, "epoll_create", epoll_create).by(&["events:epoll"]),
    Entry::full(232, "epoll_wait", epoll_wait).by(&["events:epoll"]),
    Entry::full(233, "epoll_ctl", epoll_ctl).by(&["events:epoll"]),
    Entry::full(281, "epoll_pwait", epoll_pwait).by(&["events:epoll_with_masks"]),
    Entry::full(291, "epoll_create1", epoll_create1).by(&["events:epoll"]),
    Entry::full(441, "epoll_pwait2", epoll_pwait2).by(&["events:epoll_with_masks"]),
];

/// Bytes of a `struct epoll_event`, which is packed.
const SIZE: usize = 12;
/// Events that one call reports at most: what is ready beyond is reported by the next.
const MAX_REPORTED: usize = 4096;

fn create(cx: &Ctx<'_>, close_on_exec: bool) -> SysResult {
    let file = cx.kernel.vfs().anonymous_file("[eventpoll]", O_RDWR, Box::new(Epoll::new()));
    Ok(cx.files().install(file, close_on_exec, cx.limit(Resource::OpenFiles))? as u64)
}

fn epoll_create(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    create(cx, false)
}

fn epoll_create1(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.uint(0) & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    create(cx, args.uint(0) & O_CLOEXEC != 0)
}

fn epoll_ctl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const ADD: i32 = 1;
    const DEL: i32 = 2;
    const MOD: i32 = 3;
    let (operation, fd) = (args.int(1), args.int(2));
    let (mut events, mut data) = (0, 0);
    if operation != DEL {
        let mut raw = [0u8; SIZE];
        cx.memory.read(args.u64(3), &mut raw)?;
        let (head, tail) = raw.split_at(4);
        events = u32::from_le_bytes(head.try_into().map_err(|_| Errno::EINVAL)?) & !EPOLLWAKEUP;
        data = u64::from_le_bytes(tail.try_into().map_err(|_| Errno::EINVAL)?);
    }
    let epoll_file = cx.files().get_io(args.int(0))?;
    let file = cx.files().get_io(fd)?;
    if !file.ops().pollable() {
        return Err(Errno::EPERM.into());
    }
    let epoll = epoll_file.object::<Epoll>().ok_or(Errno::EINVAL)?;
    if std::sync::Arc::ptr_eq(&epoll_file, &file) {
        return Err(Errno::EINVAL.into());
    }
    if events & EPOLLEXCLUSIVE != 0 {
        let allowed = EPOLLEXCLUSIVE | EPOLLET | (Events::IN | Events::OUT | Events::ERR | Events::HUP).0;
        if operation != ADD || events & !allowed != 0 || file.object::<Epoll>().is_some() {
            return Err(Errno::EINVAL.into());
        }
    }
    super::asked_by(cx.task);
    match operation {
        ADD => epoll.add(fd, &file, events, data)?,
        MOD => epoll.modify(fd, &file, events, data)?,
        DEL => epoll.remove(fd, &file)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn epoll_wait(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = u64::try_from(args.int(3)).ok().map(Duration::from_millis);
    wait(cx, args, timeout)
}

fn epoll_pwait(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = u64::try_from(args.int(3)).ok().map(Duration::from_millis);
    apply_mask(cx, args.u64(4), args.u64(5))?;
    wait(cx, args, timeout)
}

fn epoll_pwait2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let timeout = match args.u64(3) {
        0 => None,
        address => Some(read_duration(cx, address, 1)?),
    };
    apply_mask(cx, args.u64(4), args.u64(5))?;
    wait(cx, args, timeout)
}

fn wait(cx: &mut Ctx<'_>, args: &Args, timeout: Option<Duration>) -> SysResult {
    let most = usize::try_from(args.int(2)).ok().filter(|most| *most > 0).ok_or(Errno::EINVAL)?;
    let file = cx.files().get_io(args.int(0))?;
    let epoll = file.object::<Epoll>().ok_or(Errno::EINVAL)?;
    let most = most.min(MAX_REPORTED);
    super::asked_by(cx.task);
    let mut found = epoll.harvest(most);
    if found.is_empty() && limit(cx, timeout) {
        let waiter = cx.waiter();
        epoll.queue().register(&waiter, 0, Events::IN);
        found = epoll.harvest(most);
        if found.is_empty() {
            return Err(cx.park(Restart::NoHandler));
        }
        epoll.queue().remove(&waiter, 0);
    }
    let mut raw = Vec::with_capacity(found.len() * SIZE);
    for event in &found {
        raw.extend_from_slice(&event.events.to_le_bytes());
        raw.extend_from_slice(&event.data.to_le_bytes());
    }
    cx.memory.write(args.u64(1), &raw)?;
    Ok(found.len() as u64)
}
