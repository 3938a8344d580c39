//! What goes out when the job has ended.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use bulkhead_types::OutputSpec;
use bulkhead_types::glob::Pattern;
use bulkhead_wire::{Collect, Frame, OutputStart, WireError, bounds};
use rustix::fs::fstat;
use rustix::io::Errno;

use super::{FileError, archive, collect, directory};
use crate::channel::{Channel, Outgoing};

/// Sends everything that was asked for; what can't be had is told in a line for a person.
///
/// # Errors
/// When the launcher is gone.
pub(crate) fn send(channel: &mut Channel, wanted: &Collect) -> Result<(), WireError> {
    for output in &wanted.outputs {
        let (what, sent) = match output {
            OutputSpec::Glob(pattern) => (pattern, send_matches(channel, pattern)),
            OutputSpec::Directory(directory) => (directory, send_directory(channel, directory)),
        };
        match sent {
            Ok(()) => {}
            Err(Trouble::Gone(error)) => return Err(error),
            Err(Trouble::Told(problem)) => {
                channel.send(&Frame::OutputProblem(format!("{what}: {problem}")))?
            }
        }
    }
    channel.send(&Frame::Collected)
}

enum Trouble {
    Gone(WireError),
    Told(String),
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Gone(error)
    }
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Self {
        Self::Told(error.to_string())
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Told(errno.to_string())
    }
}

fn send_matches(channel: &mut Channel, pattern: &str) -> Result<(), Trouble> {
    let parsed = Pattern::new(pattern.as_bytes())
        .ok_or_else(|| Trouble::Told("a pattern needs a name and must not hold '..'".into()))?;
    let root = directory(b"/")?;
    let found = collect::search(&root, &parsed)?;
    if found.is_empty() {
        return Err(Trouble::Told("no file matches".into()));
    }
    for path in found {
        let file = collect::open(&root, &path)?;
        let mode = fstat(&file)?.st_mode & 0o777;
        let path = [b"/", &path[..]].concat();
        send_file(channel, OutputStart { path, mode, is_directory: false }, File::from(file))?;
    }
    Ok(())
}

fn send_file(channel: &mut Channel, start: OutputStart, mut file: File) -> Result<(), Trouble> {
    channel.send(&Frame::Output(start))?;
    let mut out = BufWriter::with_capacity(bounds::DATA_BYTES / 4, Outgoing::new(channel));
    let copied = io::copy(&mut file, &mut out).and_then(|_| out.flush());
    drop(out);
    channel.send(&Frame::End)?;
    copied.map_err(|error| Trouble::Told(error.to_string()))
}

fn send_directory(channel: &mut Channel, path: &str) -> Result<(), Trouble> {
    /// Mode of the tar.
    const MODE: u32 = 0o644;
    // Whether it is there at all, before an output is begun.
    let root = directory(path.as_bytes())?;
    let start = OutputStart { path: path.as_bytes().to_vec(), mode: MODE, is_directory: true };
    channel.send(&Frame::Output(start))?;
    let mut out = BufWriter::with_capacity(bounds::DATA_BYTES / 4, Outgoing::new(channel));
    let written = archive::write(root, &mut out);
    let flushed = out.flush();
    drop(out);
    channel.send(&Frame::End)?;
    written?;
    flushed.map_err(|error| Trouble::Told(error.to_string()))
}
