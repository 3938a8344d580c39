//! A directory as a tar archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::collect::{MAX_DEPTH, MAX_VISITED, below, is_virtual, names, open};
use super::{FileError, child_directory};

/// A directory whose entries are being written.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    fn new(directory: OwnedFd, path: Vec<u8>) -> Result<Self, FileError> {
        let inside = if is_virtual(&directory) { Ok(Vec::new()) } else { names(&directory) };
        let names = inside.map_err(|errno| FileError::file(&path, errno))?.into_iter();
        Ok(Self { directory, path, names })
    }
}

/// Writes a directory as a tar archive: directories, regular files and links, with modes and times; names are relative to
/// it.
///
/// # Errors
/// [`FileError::Stream`]; [`FileError::File`]; [`FileError::Archive`] when there is too much of it.
pub(super) fn write(root: OwnedFd, out: impl Write) -> Result<(), FileError> {
    let mut builder = tar::Builder::new(out);
    let mut count = 0;
    let mut levels = vec![Level::new(root, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        count += 1;
        if count > MAX_VISITED {
            return Err(FileError::Archive(format!("more than {MAX_VISITED} entries")));
        }
        let path = below(&level.path, &name);
        let Ok(stat) = statat(&level.directory, &name[..], AtFlags::SYMLINK_NOFOLLOW) else { continue };
        append(&mut builder, level, &name, &path, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let inside =
                child_directory(&level.directory, &name).map_err(|errno| FileError::file(&path, errno))?;
            if levels.len() > MAX_DEPTH {
                return Err(FileError::Archive(format!(
                    "directories in directories, more than {MAX_DEPTH} deep"
                )));
            }
            levels.push(Level::new(inside, path)?);
        }
    }
    builder.finish().map_err(FileError::Stream)
}

fn append(
    builder: &mut tar::Builder<impl Write>,
    level: &Level,
    name: &[u8],
    path: &[u8],
    stat: &Stat,
) -> Result<(), FileError> {
    let failed = |errno: Errno| FileError::file(path, errno);
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    let shown = Path::new(OsStr::from_bytes(path));
    let done = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, shown, std::io::empty())
        }
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            let file = open(&level.directory, name).map_err(failed)?;
            builder.append_data(&mut header, shown, File::from(file).take(size))
        }
        FileType::Symlink => {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = readlinkat(&level.directory, name, Vec::new()).map_err(failed)?;
            builder.append_link(&mut header, shown, Path::new(OsStr::from_bytes(target.as_bytes())))
        }
        _ => Ok(()),
    };
    done.map_err(FileError::Stream)
}
