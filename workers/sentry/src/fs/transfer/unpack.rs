//! Unpacking a tar archive.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use tar::{Archive, EntryType, PaxExtensions};

use super::{TransferError, components, make_directories, operator, own, write_file};
use crate::errno::Errno;
use crate::vfs::{Caller, Dentry, Vfs, child};

/// Longest path of an entry in bytes.
const MAX_PATH: u64 = 4096;
/// Longest extended header in bytes: longer ones hold nothing that is used here.
const MAX_HEADER: u64 = 1 << 20;

/// What was unpacked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries.
    pub entries: u64,
    /// Bytes of regular files.
    pub bytes: u64,
}

/// What extended headers said about the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Unpacker<'a> {
    vfs: &'a Vfs,
    caller: Caller,
    root: Arc<Dentry>,
    owner: (u32, u32),
    done: Unpacked,
    /// Modes of directories, set at the end so that a read-only one can be filled.
    modes: Vec<(Arc<Dentry>, u32)>,
}

/// Unpacks a tar archive, plain or gzipped, into a directory of the sandbox, which is made if it is missing.
/// Everything belongs to `owner` afterwards. Nothing leaves the directory: names with `..` are an error, links
/// on the way of a name are not followed. Device nodes are left out.
///
/// # Errors
/// [`TransferError::File`] with ENOSPC at the disk limit; [`TransferError::Archive`].
pub fn unpack_archive(
    vfs: &Vfs,
    directory: &[u8],
    owner: (u32, u32),
    reader: impl Read,
) -> Result<Unpacked, TransferError> {
    let caller = operator(vfs);
    let failed = |errno| TransferError::file(directory, errno);
    let names = components(directory).ok_or_else(|| failed(Errno::EINVAL))?;
    let found = vfs.lookup(&caller, vfs.root(), &super::join(&names), crate::vfs::WalkFlags::FOLLOW);
    let root = match found {
        Ok(found) if found.inode().is_directory() => found,
        Ok(_) => return Err(failed(Errno::ENOTDIR)),
        Err(_) => make_directories(vfs, &caller, vfs.root(), &names, owner).map_err(failed)?,
    };
    let mut unpacker = Unpacker { vfs, caller, root, owner, done: Unpacked::default(), modes: Vec::new() };
    let mut reader = BufReader::with_capacity(super::CHUNK, reader);
    match magic(&mut reader).map_err(TransferError::Stream)? {
        Magic::Gzip => unpacker.run(flate2::read::MultiGzDecoder::new(reader))?,
        Magic::Other => unpacker.run(reader)?,
        Magic::Unsupported(name) => {
            return Err(TransferError::Archive(format!("{name} is not unpacked here: send tar or tar.gz")));
        }
    }
    for (dentry, mode) in unpacker.modes {
        dentry.inode().change(|meta| meta.mode = mode);
    }
    Ok(unpacker.done)
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

impl Unpacker<'_> {
    fn run(&mut self, reader: impl Read) -> Result<(), TransferError> {
        let mut archive = Archive::new(reader);
        let bad = |error: io::Error| TransferError::Archive(error.to_string());
        let mut extended = Extended::default();
        // Raw: the library would read names of any length into memory.
        for entry in archive.entries().map_err(bad)?.raw(true) {
            let mut entry = entry.map_err(bad)?;
            match entry.header().entry_type() {
                EntryType::XGlobalHeader => {}
                EntryType::GNULongName => extended.path = Some(text(&mut entry, MAX_PATH)?),
                EntryType::GNULongLink => extended.link = Some(text(&mut entry, MAX_PATH)?),
                EntryType::XHeader => read_extended(&text_raw(&mut entry, MAX_HEADER)?, &mut extended)?,
                _ => self.unpack(&mut entry, std::mem::take(&mut extended))?,
            }
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        extended: Extended,
    ) -> Result<(), TransferError> {
        let path = extended.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        let failed = |errno| TransferError::File { path: shown.clone(), errno };
        let names = components(&path)
            .ok_or_else(|| TransferError::Archive(format!("{shown:?} leads out of the directory")))?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let kind = entry.header().entry_type();
        self.done.entries += 1;
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        let parent =
            make_directories(self.vfs, &self.caller, &self.root, parents, self.owner).map_err(failed)?;
        match kind {
            EntryType::Directory => {
                let dentry =
                    make_directories(self.vfs, &self.caller, &parent, &[name], self.owner).map_err(failed)?;
                self.modes.push((dentry, mode));
            }
            EntryType::Symlink => {
                let target = link_target(entry, extended.link);
                self.clear(&parent, name).map_err(failed)?;
                self.vfs.symlink(&self.caller, &target, &parent, name).map_err(failed)?;
                if let Some(link) = child(&parent, name).map_err(failed)? {
                    own(link.inode(), self.owner);
                }
            }
            EntryType::Link => {
                let target = link_target(entry, extended.link);
                let source = self.find(&target).map_err(failed)?;
                self.clear(&parent, name).map_err(failed)?;
                self.vfs.link(&self.caller, &source, &parent, name).map_err(failed)?;
            }
            EntryType::Fifo => {
                const S_IFIFO: u32 = 0o010_000;
                self.clear(&parent, name).map_err(failed)?;
                let made = self.vfs.mknod(&self.caller, &parent, name, S_IFIFO | mode).map_err(failed)?;
                own(made.inode(), self.owner);
            }
            EntryType::Char | EntryType::Block => {}
            EntryType::Regular | EntryType::Continuous => {
                let modified = entry.header().mtime().ok();
                let bytes =
                    write_file(self.vfs, &self.caller, &parent, name, mode, self.owner, entry, &path)?;
                self.done.bytes += bytes;
                self.set_time(&parent, name, modified);
            }
            other => {
                return Err(TransferError::Archive(format!("{shown:?} is of an unknown type ({other:?})")));
            }
        }
        Ok(())
    }

    /// Makers look at times: a file is as old as the archive says.
    fn set_time(&self, parent: &Arc<Dentry>, name: &[u8], modified: Option<u64>) {
        let found = child(parent, name).ok().flatten();
        if let (Some(dentry), Some(seconds)) = (found, modified.and_then(|time| i64::try_from(time).ok())) {
            let time = crate::vfs::Timestamp { seconds, nanoseconds: 0 };
            dentry.inode().change(|meta| (meta.atime, meta.mtime) = (time, time));
        }
    }

    /// Removes what a new entry takes the place of.
    fn clear(&self, parent: &Arc<Dentry>, name: &[u8]) -> Result<(), Errno> {
        match child(parent, name)? {
            Some(_) => self.vfs.unlink(&self.caller, parent, name),
            None => Ok(()),
        }
    }

    /// What a hard link refers to, within the directory.
    fn find(&self, target: &[u8]) -> Result<Arc<Dentry>, Errno> {
        let mut at = self.root.clone();
        for name in components(target).ok_or(Errno::EXDEV)? {
            at = child(&at, name)?.ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    }
}

fn link_target(entry: &tar::Entry<'_, impl Read>, extended: Option<Vec<u8>>) -> Vec<u8> {
    extended.unwrap_or_else(|| entry.header().link_name_bytes().unwrap_or_default().into_owned())
}

fn text_raw(entry: &mut tar::Entry<'_, impl Read>, most: u64) -> Result<Vec<u8>, TransferError> {
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(TransferError::Stream)?;
    if bytes.len() as u64 > most {
        return Err(TransferError::Archive("a name or header is too long".into()));
    }
    Ok(bytes)
}

fn text(entry: &mut tar::Entry<'_, impl Read>, most: u64) -> Result<Vec<u8>, TransferError> {
    let mut bytes = text_raw(entry, most)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn read_extended(bytes: &[u8], extended: &mut Extended) -> Result<(), TransferError> {
    for extension in PaxExtensions::new(bytes) {
        let extension = extension.map_err(|error| TransferError::Archive(error.to_string()))?;
        let value = extension.value_bytes().to_vec();
        match extension.key_bytes() {
            b"path" => extended.path = Some(value),
            b"linkpath" => extended.link = Some(value),
            // The header's own size would be wrong, and with it where the next entry starts.
            b"size" => {
                return Err(TransferError::Archive("files of 8 GiB and more are not unpacked".into()));
            }
            _ => {}
        }
    }
    Ok(())
}
