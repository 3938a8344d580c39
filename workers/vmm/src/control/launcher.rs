use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use bulkhead_wire::{Connection, Failed, FailureStage, Frame, Received, WireError};

/// The descriptor that the launcher leaves open.
const CONTROL_FD: i32 = 3;

/// The other side of the control socket.
#[derive(Debug)]
pub(super) struct Launcher {
    receiving: Connection,
    sending: Mutex<Connection>,
}

/// The launcher has closed the connection, or can't be trusted to speak the protocol: the machine ends.
#[derive(Debug)]
pub(super) struct Gone;

impl From<WireError> for Gone {
    fn from(_: WireError) -> Self {
        Self
    }
}

impl Launcher {
    /// Takes the control socket over.
    pub(super) fn inherited() -> io::Result<Self> {
        let fd: OwnedFd = bulkhead_jail::spawn::inherited(CONTROL_FD)?;
        Self::new(UnixStream::from(fd))
    }

    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let receiving = Connection::new(stream);
        let sending = Mutex::new(receiving.try_clone()?);
        Ok(Self { receiving, sending })
    }

    /// The next frame. Only one thread receives.
    pub(super) fn receive(&self) -> Result<Received, Gone> {
        Ok(self.receiving.receive()?)
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &Frame) -> Result<(), Gone> {
        Ok(self.sending.lock().unwrap_or_else(PoisonError::into_inner).send(frame, &[])?)
    }

    /// Says the last word.
    pub(super) fn fail(&self, stage: FailureStage, message: &str) {
        let failed = Failed { stage, message: message.to_owned() };
        let _gone = self.send(&Frame::Failed(failed));
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.stream().as_fd()
    }
}
