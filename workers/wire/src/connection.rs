use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{Frame, Kind, SignalTarget, bounds};

const VERSION: u8 = 1;
const HEADER: usize = 8;

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

fn parse_header(header: [u8; HEADER]) -> Result<(Kind, usize), WireError> {
    let [version, kind, _, _, length @ ..] = header;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = Kind::from_number(kind).ok_or(WireError::UnknownKind(kind))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > kind.max_payload() {
        return Err(WireError::TooLong { kind, length, max: kind.max_payload() });
    }
    Ok((kind, length))
}

/// The whole frame as bytes, header first.
pub(crate) fn encode(frame: &Frame) -> Result<Vec<u8>, WireError> {
    let kind = frame.kind();
    let json = |value: &dyn erased::Json| value.to_json().map_err(|_| WireError::Malformed(kind));
    let payload = match frame {
        Frame::Ready | Frame::End | Frame::Go | Frame::Started | Frame::Collected => Vec::new(),
        Frame::Data(bytes) => bytes.clone(),
        Frame::Config(value) => json(value)?,
        Frame::Start(value) => json(value)?,
        Frame::Input(value) => json(value)?,
        Frame::Signal { signal, target } => json(&(*signal, *target))?,
        Frame::Exited(value) => json(value)?,
        Frame::Collect(value) => json(value)?,
        Frame::Output(value) => json(value)?,
        Frame::OutputProblem(value) => json(value)?,
        Frame::Failed(value) => json(value)?,
    };
    if payload.len() > kind.max_payload() {
        return Err(WireError::TooLong { kind, length: payload.len(), max: kind.max_payload() });
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend([VERSION, kind as u8, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

mod erased {
    /// Lets one closure encode frames of different types.
    pub(super) trait Json {
        fn to_json(&self) -> serde_json::Result<Vec<u8>>;
    }

    impl<T: super::Serialize> Json for T {
        fn to_json(&self) -> serde_json::Result<Vec<u8>> {
            serde_json::to_vec(self)
        }
    }
}

/// Decodes a payload that the header's checks let through. An ordinary function, so that a fuzzer can call it.
pub(crate) fn decode(kind: Kind, payload: Vec<u8>) -> Result<Frame, WireError> {
    fn json<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, WireError> {
        serde_json::from_slice(payload).map_err(|_| WireError::Malformed(kind))
    }
    Ok(match kind {
        Kind::Config => Frame::Config(json(kind, &payload)?),
        Kind::Ready => Frame::Ready,
        Kind::Start => Frame::Start(json(kind, &payload)?),
        Kind::Input => Frame::Input(json(kind, &payload)?),
        Kind::Data => Frame::Data(payload),
        Kind::End => Frame::End,
        Kind::Go => Frame::Go,
        Kind::Started => Frame::Started,
        Kind::Signal => {
            let (signal, target): (u8, SignalTarget) = json(kind, &payload)?;
            if !(1..=64).contains(&signal) {
                return Err(WireError::Malformed(kind));
            }
            Frame::Signal { signal, target }
        }
        Kind::Exited => Frame::Exited(json(kind, &payload)?),
        Kind::Collect => Frame::Collect(json(kind, &payload)?),
        Kind::Output => Frame::Output(json(kind, &payload)?),
        Kind::OutputProblem => Frame::OutputProblem(json(kind, &payload)?),
        Kind::Collected => Frame::Collected,
        Kind::Failed => Frame::Failed(json(kind, &payload)?),
    })
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
