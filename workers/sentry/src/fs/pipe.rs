//! Pipes and FIFOs.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::flags::{O_ACCMODE, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use crate::vfs::{Dentry, File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue};

/// Writes of at most this many bytes are atomic.
pub const PIPE_BUF: usize = 4096;
/// Bytes of a new pipe.
pub const DEFAULT_CAPACITY: usize = 65_536;
/// fs.pipe-max-size: what F_SETPIPE_SZ allows without privilege, in bytes.
pub const MAX_CAPACITY: usize = 1 << 20;

/// A pipe.
pub struct Pipe {
    /// A FIFO: whoever opens it waits for the other end. A pipe that is opened once more (through /dev/fd) does
    /// not wait: its other end may be gone, and what it has written is still there.
    named: bool,
    state: Mutex<State>,
    queue: WaitQueue,
}

/// Bytes of a buffer of a pipe: a page.
const BUFFER: usize = 4096;

/// One buffer of a pipe. Linux counts buffers, not bytes, so that a pipe with a few bytes can be full.
struct Buffer {
    /// Bytes in it.
    length: usize,
    /// Bytes that can still be added: what has been read from it leaves no room.
    room: usize,
    /// A packet (O_DIRECT): read as a whole, and what the reader has no room for is lost.
    packet: bool,
}

struct State {
    bytes: VecDeque<u8>,
    buffers: VecDeque<Buffer>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often a reader (writer) has opened it: whoever waits in open(2) for the other end may also find that
    /// it has come and gone.
    readers_ever: u64,
    writers_ever: u64,
}

/// One end (or both) of a pipe, open.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// How many writers had come and gone when this reader opened it (readers for a writer).
    others_before: u64,
}

impl Pipe {
    /// The pipe of a FIFO.
    pub fn named() -> Arc<Self> {
        Self::new(true)
    }

    /// The pipe of pipe(2).
    pub fn anonymous() -> Arc<Self> {
        Self::new(false)
    }

    fn new(named: bool) -> Arc<Self> {
        Arc::new(Self {
            named,
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                buffers: VecDeque::new(),
                capacity: DEFAULT_CAPACITY,
                readers: 0,
                writers: 0,
                readers_ever: 0,
                writers_ever: 0,
            }),
            queue: WaitQueue::new(),
        })
    }

    fn end(self: &Arc<Self>, reads: bool, writes: bool) -> PipeEnd {
        let others_before = {
            let mut state = self.state.lock();
            let (others, ever) =
                if reads { (state.writers, state.writers_ever) } else { (state.readers, state.readers_ever) };
            let before = if self.named && others == 0 { ever } else { 0 };
            if reads {
                state.readers += 1;
                state.readers_ever += 1;
            }
            if writes {
                state.writers += 1;
                state.writers_ever += 1;
            }
            before
        };
        self.queue.wake(Events::IN | Events::OUT);
        PipeEnd { pipe: self.clone(), reads, writes, others_before }
    }

    /// Both ends of a new pipe.
    pub fn ends(self: &Arc<Self>, dentry: Arc<Dentry>, flags: u32) -> (Arc<OpenFile>, Arc<OpenFile>) {
        let flags = flags & !O_ACCMODE;
        let reader = OpenFile::new(dentry.clone(), flags | O_RDONLY, Box::new(self.end(true, false)));
        let writer = OpenFile::new(dentry, flags | O_WRONLY, Box::new(self.end(false, true)));
        (reader, writer)
    }

    /// Opens a FIFO, or a pipe once more. The caller then waits until [`PipeEnd::is_connected`].
    ///
    /// # Errors
    /// ENXIO for a writer that would not wait, without a reader.
    pub fn open(self: &Arc<Self>, dentry: Arc<Dentry>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
        let (reads, writes) = match flags & O_ACCMODE {
            O_RDONLY => (true, false),
            O_WRONLY => (false, true),
            O_RDWR => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        if self.named && writes && !reads && flags & O_NONBLOCK != 0 && self.state.lock().readers == 0 {
            return Err(Errno::ENXIO);
        }
        Ok(OpenFile::new(dentry, flags, Box::new(self.end(reads, writes))))
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.state.lock().bytes.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// F_GETPIPE_SZ.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// F_SETPIPE_SZ: answers the new capacity.
    ///
    /// # Errors
    /// EPERM beyond [`MAX_CAPACITY`], EBUSY if more is in it, EINVAL for 0.
    pub fn set_capacity(&self, wanted: usize) -> Result<usize, Errno> {
        if wanted > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let capacity = wanted.max(PIPE_BUF).next_power_of_two();
        if capacity > MAX_CAPACITY {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if capacity / BUFFER < state.buffers.len() {
            return Err(Errno::EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.queue.wake(Events::OUT);
        Ok(capacity)
    }

    /// Whether somebody can still write to it.
    pub fn has_writers(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// Copies what is in it without taking it out (tee).
    pub fn peek(&self, into: &mut [u8]) -> usize {
        let state = self.state.lock();
        let count = into.len().min(state.bytes.len());
        copy_front(&state.bytes, &mut into[..count]);
        count
    }
}

fn copy_front(bytes: &VecDeque<u8>, into: &mut [u8]) {
    let (front, back) = bytes.as_slices();
    let first = front.len().min(into.len());
    into[..first].copy_from_slice(&front[..first]);
    let rest = into.len() - first;
    into[first..].copy_from_slice(&back[..rest]);
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Bytes that a write can add now.
    ///
    /// # Errors
    /// EPIPE if nobody reads.
    pub fn room(&self) -> Result<usize, Errno> {
        let state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        Ok(state.free() * BUFFER)
    }

    /// Whether open(2) need wait no longer: the other end is or was there.
    pub fn is_connected(&self) -> bool {
        if !self.pipe.named {
            return true;
        }
        let state = self.pipe.state.lock();
        match (self.reads, self.writes) {
            (true, true) => true,
            (true, _) => state.writers > 0 || state.writers_ever > self.others_before,
            (_, _) => state.readers > 0 || state.readers_ever > self.others_before,
        }
    }
}

impl State {
    /// Buffers that are not in use.
    fn free(&self) -> usize {
        (self.capacity / BUFFER).saturating_sub(self.buffers.len())
    }

    /// Takes bytes out: of one packet, or of as many other buffers as it takes.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(front) = self.buffers.front_mut() else { break };
            if front.packet && done > 0 {
                break;
            }
            let count = front.length.min(into.len() - done);
            copy_front(&self.bytes, &mut into[done..done + count]);
            done += count;
            let (packet, lost) = (front.packet, if front.packet { front.length - count } else { 0 });
            front.length -= count + lost;
            let empty = front.length == 0;
            self.bytes.drain(..count + lost);
            if empty {
                self.buffers.pop_front();
            }
            if packet {
                break;
            }
        }
        if self.bytes.is_empty() && self.bytes.capacity() > DEFAULT_CAPACITY {
            self.bytes.shrink_to(0);
        }
        done
    }

    /// Puts bytes in, as far as there are buffers. As on Linux only what does not fill a page is added to the last
    /// buffer, and a write of at most a page goes in as a whole or not at all.
    fn put(&mut self, from: &[u8], packets: bool) -> usize {
        let mut done = 0;
        let part = from.len() % BUFFER;
        if let Some(last) =
            self.buffers.back_mut().filter(|last| part != 0 && !last.packet && last.room >= part)
        {
            last.length += part;
            last.room -= part;
            done = part;
        }
        while done < from.len() && self.free() > 0 {
            let length = (from.len() - done).min(BUFFER);
            self.buffers.push_back(Buffer { length, room: BUFFER - length, packet: packets });
            done += length;
        }
        self.bytes.extend(&from[..done]);
        done
    }
}

impl File for PipeEnd {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.free() == 0;
        let count = state.take(into);
        let has_room = state.free() > 0;
        drop(state);
        if was_full && has_room {
            self.pipe.queue.wake(Events::OUT);
        }
        Ok(count)
    }

    fn write(&self, file: &OpenFile, from: &[u8]) -> Result<usize, Errno> {
        if from.is_empty() {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let count = state.put(from, file.flags() & O_DIRECT != 0);
        drop(state);
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        self.pipe.queue.wake(Events::IN);
        Ok(count)
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.pipe.queue.register(waiter, key, mask);
        }
        let state = self.pipe.state.lock();
        let mut events = Events::default();
        if self.reads {
            if !state.bytes.is_empty() {
                events = events | Events::IN;
            }
            // A reader that was there first has not lost anyone yet.
            if state.writers == 0 && state.writers_ever > self.others_before {
                events = events | Events::HUP;
            }
        }
        if self.writes {
            if state.free() > 0 {
                events = events | Events::OUT;
            }
            if state.readers == 0 {
                events = events | Events::ERR;
            }
        }
        events
    }

    fn pollable(&self) -> bool {
        true
    }

    fn readable_bytes(&self, _file: &OpenFile) -> Result<usize, Errno> {
        Ok(self.pipe.len())
    }

    fn release(&self, _file: &OpenFile) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        if state.readers == 0 && state.writers == 0 {
            state.bytes = VecDeque::new();
            state.buffers = VecDeque::new();
        }
        drop(state);
        self.pipe.queue.wake(Events::IN | Events::OUT | Events::HUP | Events::ERR);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
