//! Unpacking a tar archive.

use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_types::glob::components;
use rustix::fs::{
    AtFlags, FileType, Mode, Timespec, Timestamps, chownat, fchmod, linkat, mknodat, symlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, EntryType, PaxExtensions};

use super::input::{CHUNK, clear, reach, write_file};
use super::{FileError, Owner, child_directory, make_directories};

/// Longest path of an entry in bytes.
const MAX_PATH: u64 = 4096;
/// Longest extended header in bytes: longer ones hold nothing that is used here.
const MAX_HEADER: u64 = 1 << 20;
/// Read-only directories whose modes are set at the end: more than this many keep the mode that they were made with.
const MAX_MODES: usize = 100_000;

/// What extended headers said about the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Unpacker {
    root: OwnedFd,
    owner: Owner,
    /// Modes of directories, set at the end so that a read-only one can be filled; by their names from the root.
    modes: Vec<(Vec<u8>, u32)>,
}

/// Unpacks a tar archive, plain or gzipped, into a directory, which is made if it is missing. Everything belongs to
/// `owner` afterwards. Nothing leaves the directory: names with `..` are an error, links on the way of a name are not
/// followed. Device nodes are left out.
///
/// # Errors
/// [`FileError::File`] with ENOSPC at the disk limit; [`FileError::Archive`].
pub(super) fn unpack(directory: &[u8], owner: Owner, reader: impl Read) -> Result<(), FileError> {
    let failed = |errno| FileError::file(directory, errno);
    let names = components(directory).ok_or_else(|| failed(Errno::INVAL))?;
    let root = reach(&names, owner).map_err(failed)?;
    unpack_into(root, owner, reader)
}

/// The same into an open directory.
pub(super) fn unpack_into(root: OwnedFd, owner: Owner, reader: impl Read) -> Result<(), FileError> {
    let mut unpacker = Unpacker { root, owner, modes: Vec::new() };
    let mut reader = BufReader::with_capacity(CHUNK, reader);
    match magic(&mut reader).map_err(FileError::Stream)? {
        Magic::Gzip => unpacker.run(flate2::read::MultiGzDecoder::new(reader))?,
        Magic::Other => unpacker.run(reader)?,
        Magic::Unsupported(name) => {
            return Err(FileError::Archive(format!("{name} is not unpacked here: send tar or tar.gz")));
        }
    }
    unpacker.set_modes()
}

enum Magic {
    Gzip,
    Unsupported(&'static str),
    Other,
}

fn magic(reader: &mut BufReader<impl Read>) -> io::Result<Magic> {
    let head = io::BufRead::fill_buf(reader)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Magic::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Magic::Unsupported("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Magic::Unsupported("xz"),
        [b'B', b'Z', b'h', ..] => Magic::Unsupported("bzip2"),
        [b'P', b'K', 3, 4, ..] => Magic::Unsupported("zip"),
        _ => Magic::Other,
    })
}

impl Unpacker {
    fn run(&mut self, reader: impl Read) -> Result<(), FileError> {
        let mut archive = Archive::new(reader);
        let bad = |error: io::Error| FileError::Archive(error.to_string());
        let mut extended = Extended::default();
        // Raw: the library would read names of any length into memory.
        for entry in archive.entries().map_err(bad)?.raw(true) {
            let mut entry = entry.map_err(bad)?;
            match entry.header().entry_type() {
                EntryType::XGlobalHeader => {}
                EntryType::GNULongName => extended.path = Some(text(&mut entry, MAX_PATH)?),
                EntryType::GNULongLink => extended.link = Some(text(&mut entry, MAX_PATH)?),
                EntryType::XHeader => read_extended(&text_raw(&mut entry, MAX_HEADER)?, &mut extended)?,
                _ => self.entry(&mut entry, std::mem::take(&mut extended))?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, extended: Extended) -> Result<(), FileError> {
        let path = extended.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        let failed = |errno| FileError::File { path: shown.clone(), errno };
        let names = components(&path)
            .ok_or_else(|| FileError::Archive(format!("{shown:?} leads out of the directory")))?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        let parent = self.parent(parents).map_err(failed)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                make_directories(parent, &[name], self.owner).map_err(failed)?;
                if self.modes.len() < MAX_MODES {
                    self.modes.push((names.join(&b'/'), mode));
                }
            }
            EntryType::Symlink => {
                let target = link_target(entry, extended.link);
                clear(&parent, name).map_err(failed)?;
                symlinkat(&target[..], &parent, *name).map_err(failed)?;
                self.own(&parent, name).map_err(failed)?;
            }
            EntryType::Link => {
                let target = link_target(entry, extended.link);
                self.hard_link(&target, &parent, name).map_err(failed)?;
            }
            EntryType::Fifo => {
                clear(&parent, name).map_err(failed)?;
                mknodat(&parent, *name, FileType::Fifo, Mode::from_raw_mode(mode), 0).map_err(failed)?;
                self.own(&parent, name).map_err(failed)?;
            }
            EntryType::Char | EntryType::Block => {}
            EntryType::Regular | EntryType::Continuous => {
                let modified = entry.header().mtime().ok();
                write_file(&parent, name, mode, self.owner, entry, &path)?;
                set_time(&parent, name, modified);
            }
            other => {
                return Err(FileError::Archive(format!("{shown:?} is of an unknown type ({other:?})")));
            }
        }
        Ok(())
    }

    fn parent(&self, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
        make_directories(self.root.try_clone().map_err(|_| Errno::MFILE)?, names, self.owner)
    }

    fn own(&self, at: impl AsFd, name: &[u8]) -> Result<(), Errno> {
        chownat(at, name, self.owner.user(), self.owner.group(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A hard link to what the archive, or whoever was here before, put into the directory.
    fn hard_link(&self, target: &[u8], parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
        let names = components(target).ok_or(Errno::XDEV)?;
        let (last, parents) = names.split_last().ok_or(Errno::PERM)?;
        let mut from = self.root.try_clone().map_err(|_| Errno::MFILE)?;
        for name in parents {
            from = child_directory(&from, name)?;
        }
        // Before what it replaces is gone: it may be itself.
        rustix::fs::statat(&from, *last, AtFlags::SYMLINK_NOFOLLOW)?;
        clear(&parent, name)?;
        linkat(&from, *last, parent, name, AtFlags::empty())
    }

    fn set_modes(&self) -> Result<(), FileError> {
        for (path, mode) in self.modes.iter().rev() {
            let failed = |errno| FileError::file(path, errno);
            let mut at = self.root.try_clone().map_err(|_| failed(Errno::MFILE))?;
            let mut gone = false;
            for name in path.split(|byte| *byte == b'/') {
                match child_directory(&at, name) {
                    Ok(child) => at = child,
                    // A later entry of the archive took its place.
                    Err(_) => {
                        gone = true;
                        break;
                    }
                }
            }
            if !gone {
                fchmod(&at, Mode::from_raw_mode(*mode)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Makers look at times: a file is as old as the archive says.
fn set_time(at: impl AsFd, name: &[u8], modified: Option<u64>) {
    if let Some(seconds) = modified.and_then(|time| i64::try_from(time).ok()) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        // A time that the file system can't keep is no reason to refuse the file.
        let _kept_or_not = utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

fn link_target(entry: &tar::Entry<'_, impl Read>, extended: Option<Vec<u8>>) -> Vec<u8> {
    extended.unwrap_or_else(|| entry.header().link_name_bytes().unwrap_or_default().into_owned())
}

fn text_raw(entry: &mut tar::Entry<'_, impl Read>, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(FileError::Stream)?;
    if bytes.len() as u64 > most {
        return Err(FileError::Archive("a name or header is too long".into()));
    }
    Ok(bytes)
}

fn text(entry: &mut tar::Entry<'_, impl Read>, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = text_raw(entry, most)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn read_extended(bytes: &[u8], extended: &mut Extended) -> Result<(), FileError> {
    for extension in PaxExtensions::new(bytes) {
        let extension = extension.map_err(|error| FileError::Archive(error.to_string()))?;
        let value = extension.value_bytes().to_vec();
        match extension.key_bytes() {
            b"path" => extended.path = Some(value),
            b"linkpath" => extended.link = Some(value),
            // The header's own size would be wrong, and with it where the next entry starts.
            b"size" => {
                return Err(FileError::Archive("files of 8 GiB and more are not unpacked".into()));
            }
            _ => {}
        }
    }
    Ok(())
}
