//! The launcher as the process that it jailed sees it: one socket, frames both ways, and a last word.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Connection, Failed, FailureStage, Frame, Received, WireError};

/// The other side of the control socket.
#[derive(Debug)]
pub struct Launcher {
    receiving: Connection,
    sending: Mutex<Connection>,
}

/// The launcher has closed the connection, or can't be trusted to speak the protocol: the sandbox ends.
#[derive(Debug)]
pub struct Gone;

impl From<WireError> for Gone {
    fn from(_: WireError) -> Self {
        Self
    }
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        // Never sent: nobody is there to hear it.
        Self::of(FailureStage::Internal, "the launcher is gone")
    }
}

impl Launcher {
    /// Speaks over this socket.
    ///
    /// # Errors
    /// If there is no descriptor left for a second handle.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let receiving = Connection::new(stream);
        let sending = Mutex::new(receiving.try_clone()?);
        Ok(Self { receiving, sending })
    }

    /// The next frame. Only one thread receives.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn receive(&self) -> Result<Received, Gone> {
        Ok(self.receiving.receive()?)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn send(&self, frame: &Frame) -> Result<(), Gone> {
        // A connection that a panic left behind has no state of ours.
        Ok(self.sending.lock().unwrap_or_else(PoisonError::into_inner).send(frame, &[])?)
    }

    /// Says the last word.
    pub fn fail(&self, failed: Failed) {
        let _gone = self.send(&Frame::Failed(failed));
    }

    /// Runs a process of the launcher's to its end and returns its exit status; what goes wrong is its last word. A panic of
    /// any thread is a defect and ends it at once, since the job must not hang on it. `program` is its executable's name,
    /// `who` what it is called in messages.
    pub fn serve(
        control: io::Result<OwnedFd>,
        program: &str,
        who: &'static str,
        run: impl FnOnce(&Arc<Self>) -> Result<(), Failed>,
    ) -> i32 {
        let launcher = match control.and_then(|fd| Self::new(UnixStream::from(fd))) {
            Ok(launcher) => Arc::new(launcher),
            Err(error) => {
                eprintln!("{program} is started by `bulkhead sandbox` or the worker: {error}");
                return 2;
            }
        };
        launcher.report_panics(who);
        match run(&launcher) {
            Ok(()) => 0,
            Err(failed) => {
                launcher.fail(failed);
                1
            }
        }
    }

    fn report_panics(self: &Arc<Self>, who: &'static str) {
        let launcher = Arc::clone(self);
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
            let what = info.payload_as_str().unwrap_or("unknown panic");
            let message = format!("defect of {who}{}: {what}", place.unwrap_or_default());
            eprintln!("{message}");
            launcher.fail(Failed::of(FailureStage::Internal, message));
            std::process::exit(1);
        }));
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.stream().as_fd()
    }
}
