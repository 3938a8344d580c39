//! Finding output files by patterns.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_types::glob::{Pattern, is_plain, matches};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, fstatfs, openat, statat};
use rustix::io::Errno;

use super::{FileError, child_directory};

/// Most output files that patterns may match: each becomes a blob of its own.
const MAX_MATCHES: usize = 10_000;
/// Most entries that are looked at for patterns, or put into one archive: a bound on time.
pub(super) const MAX_VISITED: usize = 1_000_000;
/// Deepest directory that is gone into; each has a descriptor open.
pub(super) const MAX_DEPTH: usize = 256;

/// File systems whose files are no files: what they hold is made up when it is read.
const VIRTUAL: [u64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x27_e0eb,   // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x6265_6570, // configfs
];

/// Whether a directory holds files of the job at all.
pub(super) fn is_virtual(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|state| VIRTUAL.contains(&(state.f_type as u64)))
}

/// The names in a directory, sorted.
pub(super) fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
        if names.len() > MAX_VISITED {
            break;
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What is behind a name, if it is there; links are not followed.
pub(super) fn kind(at: impl AsFd, name: &[u8]) -> Option<FileType> {
    statat(at, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// An output file, open, by its path from the directory of the search.
pub(super) fn open(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let last = names.pop().ok_or(Errno::NOENT)?;
    let mut at = openat(root, ".", super::DIRECTORY, rustix::fs::Mode::empty())?;
    for name in names {
        at = child_directory(&at, name)?;
    }
    // A device or a pipe that took its place must not keep us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(&at, last, flags, rustix::fs::Mode::empty())
}

/// Finds the regular files below `root` that match the pattern. Links are not followed, virtual files are left out. The
/// answer is sorted and has paths without a leading slash.
///
/// # Errors
/// [`FileError::TooMany`]; [`FileError::File`] for a damaged image.
pub(super) fn search(root: &OwnedFd, pattern: &Pattern) -> Result<Vec<Vec<u8>>, FileError> {
    let mut search = Search { found: BTreeSet::new(), visited: 0 };
    search.go(root, b"", pattern.parts(), 0)?;
    Ok(search.found.into_iter().collect())
}

struct Search {
    found: BTreeSet<Vec<u8>>,
    visited: usize,
}

pub(super) fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

impl Search {
    fn go(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        parts: &[Vec<u8>],
        depth: usize,
    ) -> Result<(), FileError> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        if depth > MAX_DEPTH || self.visited > MAX_VISITED || is_virtual(directory) {
            return Ok(());
        }
        if is_plain(part) {
            self.visited += 1;
            return self.take(directory, part, &below(path, part), rest, depth);
        }
        let any_depth = part == b"**";
        if any_depth {
            self.go(directory, path, rest, depth + 1)?;
        }
        for name in names(directory).map_err(|errno| FileError::file(path, errno))? {
            self.visited += 1;
            let hidden = name.first() == Some(&b'.');
            if if any_depth { hidden } else { !matches(part, &name) } {
                continue;
            }
            let path = below(path, &name);
            if !any_depth || rest.is_empty() {
                self.take(directory, &name, &path, rest, depth)?;
            }
            if any_depth && kind(directory, &name) == Some(FileType::Directory) {
                let inside =
                    child_directory(directory, &name).map_err(|errno| FileError::file(&path, errno))?;
                self.go(&inside, &path, parts, depth + 1)?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        rest: &[Vec<u8>],
        depth: usize,
    ) -> Result<(), FileError> {
        match kind(directory, name) {
            Some(FileType::Directory) if !rest.is_empty() => {
                let inside =
                    child_directory(directory, name).map_err(|errno| FileError::file(path, errno))?;
                self.go(&inside, path, rest, depth + 1)
            }
            Some(FileType::RegularFile) if rest.is_empty() => {
                self.found.insert(path.to_vec());
                if self.found.len() > MAX_MATCHES {
                    return Err(FileError::TooMany(MAX_MATCHES));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
