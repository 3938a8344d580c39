//! read, write and their relatives.

use std::sync::Arc;

use super::buffers::{CHUNK, GuestBuffers, with_buffer};
use super::until_ready;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Resource, Signal};
use crate::syscalls::Entry;
use crate::vfs::{Kind, OpenFile};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(0, "read", read).by(&[
        "io:pipes",
        "io:read_and_write",
        "open:fifos",
        "signals:restarts",
        "sockets:streams",
    ]),
    Entry::full(1, "write", write).by(&["io:pipes", "io:read_and_write", "open:fifos", "sockets:streams"]),
    Entry::full(17, "pread64", pread64).by(&["io:at_offsets"]),
    Entry::full(18, "pwrite64", pwrite64).by(&["io:at_offsets"]),
    Entry::full(19, "readv", readv).by(&["io:vectors"]),
    Entry::full(20, "writev", writev).by(&["io:vectors"]),
    Entry::full(295, "preadv", preadv).by(&["io:vectors"]),
    Entry::full(296, "pwritev", pwritev).by(&["io:vectors"]),
    Entry::partial(327, "preadv2", preadv2, "RWF_HIPRI and RWF_DSYNC are hints; RWF_ATOMIC: EOPNOTSUPP")
        .by(&["io:vectors_with_flags"]),
    Entry::partial(328, "pwritev2", pwritev2, "RWF_HIPRI and RWF_DSYNC are hints; RWF_ATOMIC: EOPNOTSUPP")
        .by(&["io:vectors_with_flags"]),
];

const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 16;

/// Where a transfer happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the file's position, which moves.
    Position,
    /// At this offset.
    At(u64),
    /// At the end.
    End,
}

fn read(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    transfer_in(cx, &file, &GuestBuffers::one(args.u64(1), args.u64(2))?, Place::Position, false)
}

fn write(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    transfer_out(cx, &file, &GuestBuffers::one(args.u64(1), args.u64(2))?, Place::Position, false)
}

/// A place for `length` bytes: none that ends beyond what an offset can be.
fn offset(value: i64, length: u64) -> Result<Place, Errno> {
    let fits = i64::try_from(length).is_ok_and(|length| value.checked_add(length).is_some());
    if value < 0 || !fits { Err(Errno::EINVAL) } else { Ok(Place::At(value as u64)) }
}

fn pread64(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let place = offset(args.long(3), if file.ops().seekable() { args.u64(2) } else { 0 })?;
    transfer_in(cx, &file, &GuestBuffers::one(args.u64(1), args.u64(2))?, place, false)
}

fn pwrite64(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let place = offset(args.long(3), if file.ops().seekable() { args.u64(2) } else { 0 })?;
    transfer_out(cx, &file, &GuestBuffers::one(args.u64(1), args.u64(2))?, place, false)
}

fn readv(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_in(cx, &file, &buffers, Place::Position, false)
}

fn writev(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_out(cx, &file, &buffers, Place::Position, false)
}

fn preadv(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let place = offset(args.long(3), 0)?;
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_in(cx, &file, &buffers, place, false)
}

fn pwritev(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let place = offset(args.long(3), 0)?;
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_out(cx, &file, &buffers, place, false)
}

fn preadv2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(5);
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let place = if args.long(3) == -1 { Place::Position } else { offset(args.long(3), 0)? };
    let file = cx.files().get_io(args.int(0))?;
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_in(cx, &file, &buffers, place, flags & RWF_NOWAIT != 0)
}

fn pwritev2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(5);
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut place = if args.long(3) == -1 { Place::Position } else { offset(args.long(3), 0)? };
    let file = cx.files().get_io(args.int(0))?;
    if flags & RWF_APPEND != 0 && file.ops().seekable() {
        place = Place::End;
    }
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    transfer_out(cx, &file, &buffers, place, flags & RWF_NOWAIT != 0)
}

/// Reads a stream into guest buffers, for other families.
pub(in crate::syscalls) fn read_stream(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    nowait: bool,
) -> SysResult {
    transfer_in(cx, file, buffers, Place::Position, nowait)
}

/// Writes guest buffers to a stream, for other families.
pub(in crate::syscalls) fn write_stream(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    nowait: bool,
) -> SysResult {
    transfer_out(cx, file, buffers, Place::Position, nowait)
}

/// Reads into guest buffers.
fn transfer_in(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    place: Place,
    nowait: bool,
) -> SysResult {
    if !file.may_read() {
        return Err(Errno::EBADF.into());
    }
    if place != Place::Position && !file.ops().seekable() {
        return Err(Errno::ESPIPE.into());
    }
    if file.inode().kind == Kind::Anonymous {
        crate::syscalls::ready::asked_by(cx.task);
    }
    let nonblocking = nowait || file.is_nonblocking();
    let count =
        until_ready(cx, file, Events::IN, nonblocking, |cx| read_available(cx, file, buffers, place))?;
    cx.count_read(count as u64);
    Ok(count as u64)
}

/// Reads what is there, up to the buffers' end.
fn read_available(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    place: Place,
) -> Result<usize, Fail> {
    let mut done = 0;
    loop {
        let want = (buffers.len() - done).min(CHUNK);
        let step = with_buffer(want, |bytes| -> Result<(usize, usize), Errno> {
            let got = match place {
                Place::At(offset) => {
                    file.pread(offset.checked_add(done as u64).ok_or(Errno::EINVAL)?, bytes)?
                }
                _ => file.read(bytes)?,
            };
            Ok((got, buffers.put(&cx.memory, done, &bytes[..got])))
        });
        match step {
            Ok((got, put)) => {
                done += put;
                if put < got {
                    if place == Place::Position && file.ops().seekable() {
                        file.with_position(|position| *position -= (got - put) as u64);
                    }
                    return if done > 0 { Ok(done) } else { Err(Errno::EFAULT.into()) };
                }
                if got < want || done == buffers.len() {
                    return Ok(done);
                }
            }
            Err(_) if done > 0 => return Ok(done),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Writes from guest buffers.
fn transfer_out(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    place: Place,
    nowait: bool,
) -> SysResult {
    if !file.may_write() {
        return Err(Errno::EBADF.into());
    }
    if place != Place::Position && !file.ops().seekable() {
        return Err(Errno::ESPIPE.into());
    }
    let nonblocking = nowait || file.is_nonblocking();
    let result = until_ready(cx, file, Events::OUT, nonblocking, |cx| {
        write_all(cx, file, buffers, place, nonblocking)
    });
    match result {
        Ok(count) => {
            cx.count_written(count as u64);
            Ok(count as u64)
        }
        Err(Fail::Errno(Errno::EPIPE)) => {
            cx.send_signal(Signal::PIPE);
            let progress = cx.call.progress;
            if progress > 0 { Ok(progress) } else { Err(Errno::EPIPE.into()) }
        }
        Err(fail) => Err(fail),
    }
}

/// Writes all that is left of the buffers; what has been written is the call's progress. EAGAIN means that the
/// rest must wait.
fn write_all(
    cx: &mut Ctx<'_>,
    file: &Arc<OpenFile>,
    buffers: &GuestBuffers,
    place: Place,
    nonblocking: bool,
) -> Result<usize, Fail> {
    let total = buffers.len();
    loop {
        let done = cx.call.progress as usize;
        let allowed = match room_below_limit(cx, file, place, done, total - done) {
            Ok(allowed) => allowed,
            Err(fail) => return if done > 0 { Ok(done) } else { Err(fail) },
        };
        let step = with_buffer(allowed.min(CHUNK), |bytes| -> Result<(usize, usize), Errno> {
            let got = buffers.get(&cx.memory, done, bytes);
            if got == 0 && !bytes.is_empty() {
                return Err(Errno::EFAULT);
            }
            let wrote = match place {
                Place::At(offset) => {
                    file.pwrite(offset.checked_add(done as u64).ok_or(Errno::EFBIG)?, &bytes[..got])?
                }
                Place::Position => file.write(&bytes[..got])?,
                Place::End => file.ops().append(file, &bytes[..got])?.0,
            };
            Ok((wrote, bytes.len()))
        });
        match step {
            Ok((wrote, wanted)) => {
                cx.call.progress += wrote as u64;
                let limited = allowed < total - done && wrote >= allowed;
                let done = done + wrote;
                if done >= total || limited {
                    return Ok(done);
                }
                if wrote < wanted && file.ops().seekable() {
                    // The disk is full, or the rest of the buffer is not there: the next call says so.
                    return Ok(done);
                }
            }
            Err(Errno::EAGAIN) if done > 0 && nonblocking => return Ok(done),
            Err(errno @ (Errno::EAGAIN | Errno::EPIPE)) => return Err(errno.into()),
            Err(_) if done > 0 => return Ok(done),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How many of `wanted` bytes RLIMIT_FSIZE allows.
fn room_below_limit(
    cx: &Ctx<'_>,
    file: &Arc<OpenFile>,
    place: Place,
    done: usize,
    wanted: usize,
) -> Result<usize, Fail> {
    let limit = cx.limit(Resource::FileSize);
    if limit == u64::MAX || file.inode().kind != Kind::Regular {
        return Ok(wanted);
    }
    let size = || file.inode().content().map_or(0, crate::fs::content::Content::size);
    let start = match place {
        Place::At(offset) => offset.saturating_add(done as u64),
        Place::Position if file.flags() & crate::vfs::flags::O_APPEND == 0 => file.position(),
        _ => size(),
    };
    let room = limit.saturating_sub(start);
    if room == 0 && wanted > 0 {
        cx.send_signal(Signal::XFSZ);
        return Err(Errno::EFBIG.into());
    }
    Ok(wanted.min(usize::try_from(room).unwrap_or(usize::MAX)))
}
