//! Bytes between the host's streams and the job's pipes.
//!
//! The job gets pipes, not the connections themselves: programs open `/dev/stdout` again, which no socket allows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, read, write};

/// Bytes that are on their way: as much as a pipe holds.
const BUFFER: usize = 64 << 10;

/// One direction. Neither end ever blocks.
pub(crate) struct Pump {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    rest: std::ops::Range<usize>,
    /// `to` is a connection, whose reader must be told of the end.
    is_connection: bool,
    moved: u64,
}

impl Pump {
    /// From the host's connection into a pipe.
    pub(crate) fn into_pipe(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        Self::new(from, to, false)
    }

    /// From a pipe to the host's connection.
    pub(crate) fn to_host(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        Self::new(from, to, true)
    }

    fn new(from: OwnedFd, to: OwnedFd, is_connection: bool) -> io::Result<Self> {
        for end in [&from, &to] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Self { from: Some(from), to: Some(to), buffer: Vec::new(), rest: 0..0, is_connection, moved: 0 })
    }

    /// What has to be waited for; none when it is done.
    pub(crate) fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.from, &self.to) {
            (_, Some(to)) if !self.rest.is_empty() => Some((to.as_fd(), PollFlags::OUT)),
            (Some(from), _) => Some((from.as_fd(), PollFlags::IN)),
            _ => None,
        }
    }

    /// Whether everything has arrived.
    pub(crate) fn is_done(&self) -> bool {
        self.from.is_none() && self.rest.is_empty()
    }

    /// Bytes that were read and written by it.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved now.
    pub(crate) fn run(&mut self) {
        loop {
            let went = if self.rest.is_empty() { self.fill() } else { self.drain() };
            if !went {
                return;
            }
        }
    }

    fn fill(&mut self) -> bool {
        let Some(from) = &self.from else { return false };
        self.buffer.resize(BUFFER, 0);
        match read(from, &mut self.buffer[..]) {
            Ok(0) => {
                self.end();
                false
            }
            Ok(count) => {
                self.rest = 0..count;
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // The host has broken the connection: nothing more comes.
            Err(_) => {
                self.end();
                false
            }
        }
    }

    fn drain(&mut self) -> bool {
        let Some(to) = &self.to else {
            self.rest = 0..0;
            return true;
        };
        match write(to, &self.buffer[self.rest.clone()]) {
            Ok(count) => {
                self.rest.start += count;
                self.moved += count as u64;
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // Nobody reads any more: whoever writes into the other end gets EPIPE, as natively.
            Err(_) => {
                self.rest = 0..0;
                self.end();
                false
            }
        }
    }

    fn end(&mut self) {
        self.from = None;
        if let Some(to) = self.to.take()
            && self.is_connection
        {
            // The connection stays open in the other direction until everything is closed.
            let _gone = rustix::net::shutdown(&to, rustix::net::Shutdown::Write);
        }
        self.buffer = Vec::new();
    }
}
