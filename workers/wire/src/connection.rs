use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::codec::{HEADER, decode, encode, parse_header};
use crate::frame::{Frame, Kind, bounds};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The protocol's version, in each header.
pub(crate) const VERSION: u8 = 1;

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the control socket failed")]
    Io(#[source] io::Error),
    /// The other side speaks another version.
    #[error("protocol version {0} is not {VERSION}")]
    Version(u8),
    /// The frame's kind is unknown.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The payload is longer than its kind may be.
    #[error("a {kind:?} frame of {length} bytes is over its maximum of {max}")]
    TooLong {
        /// The kind.
        kind: Kind,
        /// What the header says.
        length: usize,
        /// What is accepted.
        max: usize,
    },
    /// The payload can't be decoded.
    #[error("a {0:?} frame can't be decoded")]
    Malformed(Kind),
    /// More descriptors than a frame may carry.
    #[error("more than {} descriptors in one frame", bounds::DESCRIPTORS)]
    TooManyDescriptors,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

impl From<rustix::io::Errno> for WireError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// A frame and the descriptors that came with it.
#[derive(Debug)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// Its descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of the control socket. Sending and receiving block; a clone of the stream may do the one while the
/// other does the other.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Takes over a connected stream socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// A second handle of the same connection.
    ///
    /// # Errors
    /// When the descriptor can't be duplicated.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// The socket, for time-outs and polling.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a frame, with descriptors.
    ///
    /// # Errors
    /// See [`WireError`]; after an error the connection is of no more use.
    pub fn send(&self, frame: &Frame, descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        if descriptors.len() > bounds::DESCRIPTORS {
            return Err(WireError::TooManyDescriptors);
        }
        let bytes = encode(frame)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(bounds::DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(WireError::TooManyDescriptors);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let part = [IoSlice::new(&bytes[sent..])];
            match sendmsg(&self.stream, &part, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    sent += count;
                    control.clear();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives the next frame.
    ///
    /// # Errors
    /// [`WireError::Closed`] when the other side is gone; any other error means that it can't be trusted to
    /// speak the protocol, and the connection is of no more use.
    pub fn receive(&self) -> Result<Received, WireError> {
        let mut header = [0; HEADER];
        let descriptors = self.receive_header(&mut header)?;
        let (kind, length) = parse_header(header)?;
        let mut payload = vec![0; length];
        (&self.stream).read_exact(&mut payload)?;
        Ok(Received { frame: decode(kind, payload)?, descriptors })
    }

    /// Descriptors come with the first byte of a frame, hence with its header.
    fn receive_header(&self, header: &mut [u8; HEADER]) -> Result<Vec<OwnedFd>, WireError> {
        let mut descriptors = Vec::new();
        let mut got = 0;
        while got < HEADER {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(bounds::DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut part = [IoSliceMut::new(&mut header[got..])];
            let message = match recvmsg(&self.stream, &mut part, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if message.bytes == 0 {
                return Err(WireError::Closed);
            }
            if descriptors.len() > bounds::DESCRIPTORS {
                return Err(WireError::TooManyDescriptors);
            }
            got += message.bytes;
        }
        Ok(descriptors)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().expect("socket pair");
        (Connection::new(a), Connection::new(b))
    }

    #[test]
    fn a_frame_and_its_descriptors_arrive() {
        let (a, b) = pair();
        let file = tempfile();
        a.send(&Frame::Go, &[file.as_fd(), file.as_fd()]).expect("send");
        a.send(&Frame::Data(vec![7; bounds::DATA_BYTES / 4]), &[]).expect("send");
        let first = b.receive().expect("receive");
        assert_eq!((first.frame, first.descriptors.len()), (Frame::Go, 2));
        assert_eq!(b.receive().expect("receive").frame, Frame::Data(vec![7; bounds::DATA_BYTES / 4]));
        drop(a);
        assert!(matches!(b.receive(), Err(WireError::Closed)));
    }

    fn tempfile() -> std::fs::File {
        std::fs::File::open("/dev/null").expect("/dev/null")
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_it_is_believed() {
        let (a, b) = pair();
        let mut header = vec![VERSION, Kind::Data as u8, 0, 0];
        header.extend(u32::MAX.to_le_bytes());
        (&a.stream).write_all(&header).expect("write");
        assert!(matches!(b.receive(), Err(WireError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..20) {
            if let Some(kind) = Kind::from_number(kind) {
                let _ = decode(kind, bytes.clone());
            }
            if let Some(header) = bytes.first_chunk::<HEADER>() {
                let _ = parse_header(*header);
            }
        }
    }
}
