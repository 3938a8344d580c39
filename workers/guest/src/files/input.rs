//! What the launcher puts in before the job starts.

use std::io::{self, Read};
use std::os::fd::AsFd;

use bulkhead_types::glob::components;
use bulkhead_wire::{Failed, FailureStage, InputStart};
use rustix::fs::{AtFlags, Mode, OFlags, fchown, openat, statat, unlinkat};
use rustix::io::Errno;

use super::unpack::unpack;
use super::{FileError, Owner, directory, make_directories};
use crate::channel::{Channel, Incoming};

/// Bytes that are moved at a time.
pub(super) const CHUNK: usize = 128 << 10;

/// Takes one input, to its end.
///
/// # Errors
/// An input that is refused, with what is wrong with it.
pub(crate) fn take(channel: &mut Channel, input: &InputStart, owner: Owner) -> Result<(), Failed> {
    let mut data = Incoming::new(channel);
    let (what, result) = match input {
        InputStart::Archive { directory } => (directory, unpack(directory.as_bytes(), owner, &mut data)),
        InputStart::File { path, mode } => (path, write_input(path.as_bytes(), *mode, owner, &mut data)),
    };
    data.finish()?;
    result.map_err(|error| Failed::new(FailureStage::Input, &format!("input {what}"), &error))
}

/// Writes a file: `path` is absolute, missing directories are made, what was there is replaced.
fn write_input(path: &[u8], mode: u32, owner: Owner, reader: &mut dyn Read) -> Result<(), FileError> {
    let failed = |errno| FileError::file(path, errno);
    let names = components(path).ok_or_else(|| failed(Errno::INVAL))?;
    let (name, directories) = names.split_last().ok_or_else(|| failed(Errno::ISDIR))?;
    // Inputs may go through the image's links (/bin to /usr/bin): such paths are the submitter's own choice.
    let parent = reach(directories, owner).map_err(failed)?;
    write_file(&parent, name, mode, owner, reader, path)
}

/// A directory by its names from the root, through links where it is there, made where it is not.
pub(super) fn reach(names: &[&[u8]], owner: Owner) -> Result<std::os::fd::OwnedFd, Errno> {
    let mut path = vec![b'/'];
    path.extend_from_slice(&names.join(&b'/'));
    match directory(&path) {
        Ok(found) => Ok(found),
        Err(Errno::NOTDIR) if names.iter().all(|name| !name.is_empty()) && is_there(&path) => {
            Err(Errno::NOTDIR)
        }
        Err(_) => make_directories(directory(b"/")?, names, owner),
    }
}

fn is_there(path: &[u8]) -> bool {
    rustix::fs::stat(path).is_ok()
}

/// Removes what a new entry takes the place of.
pub(super) fn clear(at: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => unlinkat(&at, name, AtFlags::empty()),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Writes a file into a directory, in place of what was there.
pub(super) fn write_file(
    at: impl AsFd,
    name: &[u8],
    mode: u32,
    owner: Owner,
    reader: &mut dyn Read,
    shown: &[u8],
) -> Result<(), FileError> {
    let failed = |errno| FileError::file(shown, errno);
    clear(&at, name).map_err(failed)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&at, name, flags, Mode::from_raw_mode(mode & 0o777)).map_err(failed)?;
    fchown(&file, owner.user(), owner.group()).map_err(failed)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FileError::Stream(error)),
        };
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let wrote = rustix::io::write(&file, rest).map_err(failed)?;
            rest = &rest[wrote..];
        }
    }
}
