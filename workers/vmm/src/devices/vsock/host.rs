use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::Shutdown;

/// What a pipe that is ready for writing takes without blocking, in bytes.
const PIPE_ROOM: usize = 4096;
/// How much is moved at once otherwise.
const LARGE: usize = 64 << 10;

/// A descriptor of the host's. It may be shared with others, so that it can't be made non-blocking: it is asked before each
/// transfer, and a pipe gets no more than it must have room for.
#[derive(Debug)]
pub(super) struct HostFd {
    fd: OwnedFd,
    most: usize,
    /// Can't be waited for: a plain file, which is always ready.
    always_ready: bool,
}

impl HostFd {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let nonblocking = fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        Self { fd, most: if nonblocking { LARGE } else { PIPE_ROOM }, always_ready: false }
    }

    pub(super) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn is_always_ready(&self) -> bool {
        self.always_ready
    }

    pub(super) fn set_always_ready(&mut self) {
        self.always_ready = true;
    }

    pub(super) fn fd(&self) -> impl AsFd + '_ {
        self.fd.as_fd()
    }

    /// Whether a read would not block: there is data, an end or an error.
    pub(super) fn is_readable(&self) -> bool {
        self.is_ready(PollFlags::IN)
    }

    fn is_ready(&self, events: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.fd, events)];
        // EINTR is as good as "not yet": the event loop will say.
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Writes as much as goes without blocking.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_ready(PollFlags::OUT) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(rustix::io::write(&self.fd, &bytes[..bytes.len().min(self.most)])?)
    }

    /// Says the end of a port that is still read from. Such a port is one socket with two descriptors: closing that for
    /// writing says nothing while the other is open. (A job's own streams have a port for each direction and may be shared
    /// with others; they are closed, never shut down.)
    pub(super) fn end_writing(&self) {
        // Not a socket, or gone already: then there is nobody to tell.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}
