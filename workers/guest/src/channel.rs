//! The control connection: the frames of `bulkhead-wire` over a stream, without descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_wire::{Decoder, Failed, Frame, WireError, encode};

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// The other side of the control connection: the VMM, which relays for the launcher. Trusted, but not to be there.
pub(crate) struct Channel {
    stream: File,
    decoder: Decoder,
    buffer: Box<[u8]>,
}

impl Channel {
    /// Takes over a connected stream.
    pub(crate) fn new(stream: OwnedFd) -> Self {
        Self { stream: stream.into(), decoder: Decoder::default(), buffer: vec![0; CHUNK].into() }
    }

    /// A second handle, for the last word of a panic.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(self.stream.try_clone()?.into()))
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<(), WireError> {
        let bytes = encode(frame)?;
        self.stream.write_all(&bytes).map_err(WireError::from)
    }

    /// The next frame; waits for it.
    pub(crate) fn receive(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.received()? {
                return Ok(frame);
            }
            self.read()?;
        }
    }

    /// A frame that is here already.
    pub(crate) fn received(&mut self) -> Result<Option<Frame>, WireError> {
        self.decoder.next_frame()
    }

    /// Reads what has come; waits if nothing has.
    pub(crate) fn read(&mut self) -> Result<(), WireError> {
        let count = loop {
            match self.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Err(WireError::Closed);
        }
        self.decoder.push(&self.buffer[..count]);
        Ok(())
    }

    /// Says the last word.
    pub(crate) fn fail(&mut self, failure: &Failed) {
        let _nobody_is_there = self.send(&Frame::Failed(failure.clone()));
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The data frames of one input, as a stream. The launcher ends it; all of it must be taken.
pub(crate) struct Incoming<'a> {
    channel: &'a mut Channel,
    part: Vec<u8>,
    at: usize,
    ended: bool,
    broken: Option<WireError>,
}

impl<'a> Incoming<'a> {
    /// A stream that begins with the next frame.
    pub(crate) fn new(channel: &'a mut Channel) -> Self {
        Self { channel, part: Vec::new(), at: 0, ended: false, broken: None }
    }

    /// Takes what is left of the stream.
    pub(crate) fn finish(mut self) -> Result<(), WireError> {
        while !self.ended && self.broken.is_none() {
            self.next_part();
        }
        self.broken.map_or(Ok(()), Err)
    }

    fn next_part(&mut self) {
        self.at = 0;
        self.part.clear();
        match self.channel.receive() {
            Ok(Frame::Data(bytes)) => self.part = bytes,
            Ok(Frame::End) => self.ended = true,
            Ok(other) => self.broken = Some(WireError::Malformed(other.kind())),
            Err(error) => self.broken = Some(error),
        }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() {
            if self.ended {
                return Ok(0);
            }
            if self.broken.is_some() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.next_part();
        }
        let count = into.len().min(self.part.len() - self.at);
        into[..count].copy_from_slice(&self.part[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Data frames of one output, as a writer.
pub(crate) struct Outgoing<'a> {
    channel: &'a mut Channel,
}

impl<'a> Outgoing<'a> {
    /// A writer of frames.
    pub(crate) fn new(channel: &'a mut Channel) -> Self {
        Self { channel }
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(bulkhead_wire::bounds::DATA_BYTES)];
        let sent = self.channel.send(&Frame::Data(part.to_vec()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
