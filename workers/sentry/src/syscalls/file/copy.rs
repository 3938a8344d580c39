//! Calls that copy from file to file: sendfile, copy_file_range, splice, tee.

use std::sync::Arc;

use super::buffers::{CHUNK, GuestBuffers, with_buffer};
use super::until_ready;
use crate::call::{Args, Fail, SysResult};
use crate::errno::Errno;
use crate::fs::pipe::PipeEnd;
use crate::kernel::{Ctx, Signal};
use crate::syscalls::Entry;
use crate::vfs::flags::O_APPEND;
use crate::vfs::{Kind, OpenFile};
use crate::wait::Events;

pub(super) const TABLE: &[Entry] = &[
    Entry::full(40, "sendfile", sendfile).by(&["io:sending_files"]),
    Entry::full(275, "splice", splice).by(&["io:splicing"]),
    Entry::full(276, "tee", tee).by(&["io:splicing"]),
    Entry::partial(278, "vmsplice", vmsplice, "copies; SPLICE_F_GIFT is a hint").by(&["io:splicing"]),
    Entry::full(326, "copy_file_range", copy_file_range).by(&["io:copying_ranges"]),
];

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_FLAGS: u32 = 15;

/// One side of a copy: a file at its position or at an offset that the guest keeps.
struct Side {
    file: Arc<OpenFile>,
    offset: Option<u64>,
    /// Where the guest keeps the offset.
    address: u64,
}

impl Side {
    /// `bad` is what a negative offset is told.
    fn new(cx: &Ctx<'_>, fd: i32, address: u64, bad: Errno) -> Result<Self, Errno> {
        let file = cx.files().get_io(fd)?;
        let offset = if address == 0 {
            None
        } else {
            let offset: i64 = cx.memory.read_value(address)?;
            Some(u64::try_from(offset).map_err(|_| bad)?)
        };
        if offset.is_some() && !file.ops().seekable() {
            return Err(Errno::ESPIPE);
        }
        Ok(Self { file, offset, address })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.offset {
            None => self.file.read(bytes),
            Some(offset) => {
                let count = self.file.pread(*offset, bytes)?;
                *offset += count as u64;
                Ok(count)
            }
        }
    }

    /// Puts bytes that were read and could not be written back, as far as there is a position.
    fn unread(&mut self, count: usize) {
        match &mut self.offset {
            Some(offset) => *offset -= count as u64,
            None if self.file.ops().seekable() => self.file.with_position(|at| *at -= count as u64),
            None => {}
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match &mut self.offset {
            None => self.file.write(bytes),
            Some(offset) => {
                let count = self.file.pwrite(*offset, bytes)?;
                *offset += count as u64;
                Ok(count)
            }
        }
    }

    fn finish(&self, cx: &Ctx<'_>) -> Result<(), Errno> {
        match self.offset {
            Some(offset) => cx.memory.write_value(self.address, &(offset as i64)),
            None => Ok(()),
        }
    }
}

/// How many bytes a pipe takes at once, so that nothing that was read is lost.
fn room(file: &OpenFile, want: usize) -> Result<usize, Errno> {
    match file.object::<PipeEnd>() {
        Some(end) => match end.room()? {
            0 => Err(Errno::EAGAIN),
            room => Ok(room.min(want)),
        },
        None => Ok(want),
    }
}

/// Moves up to `length` bytes; stops at the end of the source and when either side would wait.
fn pump(from: &mut Side, to: &mut Side, length: usize) -> Result<usize, Errno> {
    let mut done = 0;
    while done < length {
        let step = with_buffer((length - done).min(CHUNK), |bytes| {
            let want = room(&to.file, bytes.len())?;
            let got = from.read(&mut bytes[..want])?;
            let mut wrote = 0;
            while wrote < got {
                match to.write(&bytes[wrote..got]) {
                    Ok(count) if count > 0 => wrote += count,
                    other => {
                        from.unread(got - wrote);
                        return match other {
                            Err(errno) if wrote == 0 => Err(errno),
                            _ => Ok((wrote, true)),
                        };
                    }
                }
            }
            Ok((wrote, got < want || got == 0))
        });
        match step {
            Ok((count, end)) => {
                done += count;
                if end {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Pumps, waiting for whichever side is not ready.
fn copy(cx: &mut Ctx<'_>, from: &mut Side, to: &mut Side, length: usize, nonblocking: bool) -> SysResult {
    let wait_for_source = from.file.is_nonblocking() || nonblocking;
    let wait_for_target = to.file.is_nonblocking() || nonblocking;
    let (source, target) = (from.file.clone(), to.file.clone());
    let result = until_ready(cx, &source, Events::IN, wait_for_source && wait_for_target, |cx| {
        match pump(from, to, length) {
            Err(Errno::EAGAIN) if !wait_for_target => {
                let waiter = cx.waiter();
                target.poll(Some((&waiter, 1, Events::OUT)));
                pump(from, to, length).map_err(Fail::from)
            }
            result => result.map_err(Fail::from),
        }
    });
    if let Err(Fail::Errno(Errno::EPIPE)) = result {
        cx.send_signal(Signal::PIPE);
    }
    let count = result?;
    from.finish(cx)?;
    to.finish(cx)?;
    cx.count_read(count as u64);
    cx.count_written(count as u64);
    Ok(count as u64)
}

fn sendfile(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let mut to = Side::new(cx, args.int(0), 0, Errno::EINVAL)?;
    let mut from = Side::new(cx, args.int(1), args.u64(2), Errno::EINVAL)?;
    if !from.file.may_read() || !to.file.may_write() {
        return Err(Errno::EBADF.into());
    }
    let from_pipe = from.file.object::<PipeEnd>().is_some();
    let appends = to.file.flags() & O_APPEND != 0 && to.file.ops().seekable();
    if from.file.inode().is_directory() || from_pipe || appends {
        return Err(Errno::EINVAL.into());
    }
    let length = args.usize(3).min(super::buffers::MAX_TRANSFER);
    copy(cx, &mut from, &mut to, length, false)
}

fn copy_file_range(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    if args.uint(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut from = Side::new(cx, args.int(0), args.u64(1), Errno::EOVERFLOW)?;
    let mut to = Side::new(cx, args.int(2), args.u64(3), Errno::EOVERFLOW)?;
    if !from.file.may_read() || !to.file.may_write() || to.file.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF.into());
    }
    for side in [&from, &to] {
        match side.file.inode().kind {
            Kind::Regular => {}
            Kind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    let length = args.usize(4).min(super::buffers::MAX_TRANSFER);
    if Arc::ptr_eq(from.file.inode(), to.file.inode()) {
        let start = |side: &Side| side.offset.unwrap_or_else(|| side.file.position());
        let (a, b) = (start(&from), start(&to));
        if a < b.saturating_add(length as u64) && b < a.saturating_add(length as u64) {
            return Err(Errno::EINVAL.into());
        }
    }
    copy(cx, &mut from, &mut to, length, false)
}

fn splice(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(5);
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut from = Side::new(cx, args.int(0), args.u64(1), Errno::EINVAL)?;
    let mut to = Side::new(cx, args.int(2), args.u64(3), Errno::EINVAL)?;
    if !from.file.may_read() || !to.file.may_write() {
        return Err(Errno::EBADF.into());
    }
    let (source, target) = (from.file.object::<PipeEnd>(), to.file.object::<PipeEnd>());
    let same = match (source, target) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a.pipe(), b.pipe()),
        _ => false,
    };
    let appends = to.file.flags() & O_APPEND != 0 && to.file.ops().seekable();
    if same || appends || from.file.inode().is_directory() {
        return Err(Errno::EINVAL.into());
    }
    let length = args.usize(4).min(super::buffers::MAX_TRANSFER);
    if length == 0 {
        return Ok(0);
    }
    copy(cx, &mut from, &mut to, length, flags & SPLICE_F_NONBLOCK != 0)
}

fn tee(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let from = cx.files().get_io(args.int(0))?;
    let to = cx.files().get_io(args.int(1))?;
    let source = from.object::<PipeEnd>().ok_or(Errno::EINVAL)?;
    let target = to.object::<PipeEnd>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(source.pipe(), target.pipe()) {
        return Err(Errno::EINVAL.into());
    }
    if !from.may_read() || !to.may_write() {
        return Err(Errno::EBADF.into());
    }
    let length = args.usize(2).min(CHUNK);
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0;
    let attempt = |cx: &mut Ctx<'_>| -> Result<usize, Fail> {
        with_buffer(length, |bytes| {
            let got = source.pipe().peek(bytes);
            if got == 0 {
                return if source.pipe().has_writers() { Err(Errno::EAGAIN) } else { Ok(0) };
            }
            let want = room(&to, got)?;
            to.write(&bytes[..want])
        })
        .map_err(|errno| {
            if errno == Errno::EPIPE {
                cx.send_signal(Signal::PIPE);
            }
            errno.into()
        })
    };
    let count = until_ready(cx, &from, Events::IN, nonblocking, |cx| {
        if !nonblocking {
            let waiter = cx.waiter();
            to.poll(Some((&waiter, 1, Events::OUT)));
        }
        attempt(cx)
    })?;
    Ok(count as u64)
}

fn vmsplice(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files().get_io(args.int(0))?;
    if file.object::<PipeEnd>().is_none() {
        return Err(Errno::EBADF.into());
    }
    let buffers = GuestBuffers::vector(cx, args.u64(1), args.u64(2))?;
    let nowait = flags & SPLICE_F_NONBLOCK != 0;
    if file.may_write() {
        super::input_output::write_stream(cx, &file, &buffers, nowait)
    } else {
        super::input_output::read_stream(cx, &file, &buffers, nowait)
    }
}
