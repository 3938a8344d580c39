//! Bytes that go in before the job starts, and out after it has ended.

use std::io::{self, Read, Write};

use bulkhead_types::OutputSpec;
use bulkhead_wire::{Collect, Frame, Gone, Launcher, OutputStart, bounds};

use crate::fs::transfer::{Collected, Pattern, TransferError, collect, write_tar};
use crate::vfs::Vfs;

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

/// Sends everything that was asked for; what can't be had is told in a line for a person.
pub(super) fn send(launcher: &Launcher, vfs: &Vfs, wanted: &Collect) -> Result<(), Gone> {
    for output in &wanted.outputs {
        let (what, sent) = match output {
            OutputSpec::Glob(pattern) => (pattern, send_matches(launcher, vfs, pattern)),
            OutputSpec::Directory(directory) => (directory, send_directory(launcher, vfs, directory)),
        };
        match sent {
            Ok(()) => {}
            Err(Trouble::Gone) => return Err(Gone),
            Err(Trouble::Told(problem)) => {
                launcher.send(&Frame::OutputProblem(format!("{what}: {problem}")))?
            }
        }
    }
    launcher.send(&Frame::Collected)
}

enum Trouble {
    Gone,
    Told(String),
}

impl From<Gone> for Trouble {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        Self::Told(error.to_string())
    }
}

fn send_matches(launcher: &Launcher, vfs: &Vfs, pattern: &str) -> Result<(), Trouble> {
    let parsed = Pattern::new(pattern.as_bytes())
        .ok_or_else(|| Trouble::Told("a pattern needs a name and must not hold '..'".into()))?;
    let found = collect(vfs, b"/", &[parsed])?;
    if found.is_empty() {
        return Err(Trouble::Told("no file matches".into()));
    }
    for file in found {
        send_file(launcher, &file)?;
    }
    Ok(())
}

fn send_file(launcher: &Launcher, file: &Collected) -> Result<(), Trouble> {
    let path = [b"/", &file.path[..]].concat();
    let start = OutputStart { path, mode: file.mode, is_directory: false };
    launcher.send(&Frame::Output(start))?;
    let mut out = Outgoing { launcher };
    let copied = io::copy(&mut file.reader(), &mut out);
    launcher.send(&Frame::End)?;
    copied.map(|_| ()).map_err(|error| Trouble::Told(error.to_string()))
}

fn send_directory(launcher: &Launcher, vfs: &Vfs, directory: &str) -> Result<(), Trouble> {
    /// Mode of the tar.
    const MODE: u32 = 0o644;
    // Whether it is there at all, before an output is begun.
    check_directory(vfs, directory)?;
    let start = OutputStart { path: directory.as_bytes().to_vec(), mode: MODE, is_directory: true };
    launcher.send(&Frame::Output(start))?;
    let out = io::BufWriter::with_capacity(bounds::DATA_BYTES / 4, Outgoing { launcher });
    let written = write_tar(vfs, directory.as_bytes(), out);
    launcher.send(&Frame::End)?;
    written.map(|_| ()).map_err(Trouble::from)
}

fn check_directory(vfs: &Vfs, directory: &str) -> Result<(), Trouble> {
    let credentials = crate::vfs::Credentials::new(0, 0, &[]);
    let fs = crate::vfs::FsContext::new(vfs.root().clone(), vfs.root().clone());
    let caller = fs.caller(std::sync::Arc::new(credentials), 0, 0);
    let walk = crate::vfs::WalkFlags::FOLLOW;
    match vfs.lookup(&caller, vfs.root(), directory.as_bytes(), walk) {
        Ok(found) if found.inode().is_directory() => Ok(()),
        Ok(_) => Err(Trouble::Told("not a directory".into())),
        Err(errno) => Err(Trouble::Told(errno.to_string())),
    }
}

/// Data frames as a writer.
struct Outgoing<'a> {
    launcher: &'a Launcher,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(bounds::DATA_BYTES)];
        let sent = self.launcher.send(&Frame::Data(part.to_vec()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
