use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bulkhead_wire::{Decoder, Frame, WireError, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes that are read at a time.
const CHUNK: usize = 16 << 10;

/// Why there is no frame of the agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// Its connection has ended.
    #[error("its connection has ended")]
    Closed,
    /// What it sends is no frame.
    #[error("it doesn't speak the protocol")]
    Wire(#[source] WireError),
    /// It said nothing whole within the time.
    #[error("it said nothing")]
    Silent,
    /// The launcher is gone.
    #[error("the launcher is gone")]
    LauncherGone,
}

/// The agent's control connection: our end of a socket pair, whose other end the vsock device has. Never blocks on the
/// agent alone: a launcher that goes is noticed.
#[derive(Debug)]
pub(super) struct Agent {
    stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    /// Ours and the device's end, neither of them blocking.
    pub(super) fn pair() -> io::Result<(Self, UnixStream)> {
        let (stream, device) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        device.set_nonblocking(true)?;
        Ok((Self { stream, decoder: Decoder::default() }, device))
    }

    /// A second handle, to send by.
    pub(super) fn sender(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, decoder: Decoder::default() })
    }

    /// The next frame. With a deadline, silence until then is an error; with a launcher, its end is.
    pub(super) fn receive(
        &mut self,
        deadline: Option<Instant>,
        launcher: Option<BorrowedFd<'_>>,
    ) -> Result<Frame, AgentError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(AgentError::Wire)? {
                return Ok(frame);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(AgentError::Silent);
            }
            wait(self.stream.as_fd(), PollFlags::IN, launcher, left)?;
            let mut bytes = [0; CHUNK];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(AgentError::Closed),
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(error) if is_passing(&error) => {}
                Err(_) => return Err(AgentError::Closed),
            }
        }
    }

    /// Sends a frame, however long the agent takes.
    pub(super) fn send(&self, frame: &Frame, launcher: BorrowedFd<'_>) -> Result<(), AgentError> {
        let bytes = encode(frame).map_err(AgentError::Wire)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.stream.as_fd(), PollFlags::OUT, Some(launcher), None)?;
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => return Err(AgentError::Closed),
            }
        }
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits until the stream is ready, the time is over, or the launcher is gone.
fn wait(
    stream: BorrowedFd<'_>,
    events: PollFlags,
    launcher: Option<BorrowedFd<'_>>,
    most: Option<Duration>,
) -> Result<(), AgentError> {
    let stream = PollFd::from_borrowed_fd(stream, events);
    let mut fds = [stream.clone(), stream];
    let mut count = 1;
    if let Some(launcher) = launcher {
        fds[1] = PollFd::from_borrowed_fd(launcher, PollFlags::RDHUP);
        count = 2;
    }
    let most = most.and_then(|most| Timespec::try_from(most).ok());
    // An interrupted wait is a short one.
    let _ready = poll(&mut fds[..count], most.as_ref());
    if count == 2 && !fds[1].revents().is_empty() {
        return Err(AgentError::LauncherGone);
    }
    Ok(())
}
