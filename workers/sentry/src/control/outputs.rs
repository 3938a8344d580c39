//! Bytes that go in before the job starts, and out after it has ended.

use std::io::{self, Read};

use bulkhead_wire::Frame;

use super::launcher::{Gone, Launcher};

/// The data frames of one input, as a stream. The launcher ends the stream; the sentry must take all of it.
pub(super) struct Incoming<'a> {
    launcher: &'a Launcher,
    part: Vec<u8>,
    at: usize,
    ended: bool,
    gone: bool,
}

impl<'a> Incoming<'a> {
    /// A stream that begins with the next frame.
    pub(super) fn new(launcher: &'a Launcher) -> Self {
        Self { launcher, part: Vec::new(), at: 0, ended: false, gone: false }
    }

    /// Takes what is left of the stream.
    pub(super) fn finish(mut self) -> Result<(), Gone> {
        while !self.ended && !self.gone {
            self.next_part();
        }
        if self.gone { Err(Gone) } else { Ok(()) }
    }

    fn next_part(&mut self) {
        self.at = 0;
        self.part.clear();
        match self.launcher.receive().map(|received| received.frame) {
            Ok(Frame::Data(bytes)) => self.part = bytes,
            Ok(Frame::End) => self.ended = true,
            _ => self.gone = true,
        }
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() {
            if self.ended {
                return Ok(0);
            }
            if self.gone {
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
