//! Taking outputs out of a sandbox.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bulkhead_types::glob::{Pattern, is_plain, matches};

use super::{FileReader, TransferError, operator};
use crate::errno::Errno;
use crate::vfs::{Body, Dentry, Kind, Listed, OpenFile, Vfs, WalkFlags, child, list};

/// Most output files that patterns may match: each becomes a blob of its own.
const MAX_MATCHES: usize = 10_000;
/// Most entries that are looked at for patterns, or put into one archive: a bound on time.
const MAX_VISITED: usize = 1_000_000;
/// Deepest directory that is gone into.
const MAX_DEPTH: usize = 256;

/// An output file.
pub struct Collected {
    /// Its path from the root of the sandbox, without a leading slash.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Bytes now.
    pub size: u64,
    file: Arc<OpenFile>,
}

impl Collected {
    /// Its bytes.
    pub fn reader(&self) -> FileReader {
        FileReader::new(self.file.clone())
    }
}

fn entries(directory: &Arc<Dentry>) -> Result<Vec<Listed>, Errno> {
    let mut all = Vec::new();
    let mut position = 2;
    loop {
        let some = list(directory, position, 1024)?;
        let Some(last) = some.last() else { return Ok(all) };
        position = last.next;
        all.extend(some);
        if all.len() > MAX_VISITED {
            return Ok(all);
        }
    }
}

/// Finds the regular files that match any of the patterns, which start at the directory `base` (absolute path).
/// Links are not followed, virtual files (/proc) are left out. The answer is sorted by path and has each once.
///
/// # Errors
/// [`TransferError::TooMany`]; [`TransferError::File`] for a damaged image.
pub fn collect(vfs: &Vfs, base: &[u8], patterns: &[Pattern]) -> Result<Vec<Collected>, TransferError> {
    let caller = operator(vfs);
    let Ok(root) = vfs.lookup(&caller, vfs.root(), base, WalkFlags::FOLLOW) else { return Ok(Vec::new()) };
    let mut search = Search { found: BTreeMap::new(), visited: 0 };
    for pattern in patterns {
        let mut path = root.path(vfs.root());
        path.retain({
            let mut first = true;
            move |byte| !std::mem::take(&mut first) || *byte != b'/'
        });
        search.go(&root, &path, pattern.parts(), 0)?;
    }
    let mut collected = Vec::new();
    for (path, dentry) in search.found {
        let Some(content) = dentry.inode().content() else { continue };
        let (mode, size) = (dentry.inode().with_meta(|meta| meta.mode & 0o777), content.size());
        let file = Vfs::open_unchecked(&dentry, crate::vfs::flags::O_RDONLY)
            .map_err(|errno| TransferError::file(&path, errno))?;
        collected.push(Collected { path, mode, size, file });
    }
    Ok(collected)
}

struct Search {
    found: BTreeMap<Vec<u8>, Arc<Dentry>>,
    visited: usize,
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

impl Search {
    fn go(
        &mut self,
        directory: &Arc<Dentry>,
        path: &[u8],
        parts: &[Vec<u8>],
        depth: usize,
    ) -> Result<(), TransferError> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        if depth > MAX_DEPTH || self.visited > MAX_VISITED {
            return Ok(());
        }
        let failed = |errno| TransferError::file(path, errno);
        if is_plain(part) {
            self.visited += 1;
            if let Some(found) = child(directory, part).map_err(failed)? {
                self.take(&found, &below(path, part), rest, depth)?;
            }
            return Ok(());
        }
        let any_depth = part == b"**";
        if any_depth {
            self.go(directory, path, rest, depth + 1)?;
        }
        for entry in entries(directory).map_err(failed)? {
            self.visited += 1;
            let hidden = entry.name.first() == Some(&b'.');
            if if any_depth { hidden } else { !matches(part, &entry.name) } {
                continue;
            }
            let Some(found) = child(directory, &entry.name).map_err(failed)? else { continue };
            let path = below(path, &entry.name);
            if any_depth {
                if rest.is_empty() {
                    self.take(&found, &path, rest, depth)?;
                }
                if is_real_directory(&found) {
                    self.go(&found, &path, parts, depth + 1)?;
                }
            } else {
                self.take(&found, &path, rest, depth)?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        found: &Arc<Dentry>,
        path: &[u8],
        rest: &[Vec<u8>],
        depth: usize,
    ) -> Result<(), TransferError> {
        if !rest.is_empty() {
            return if is_real_directory(found) { self.go(found, path, rest, depth + 1) } else { Ok(()) };
        }
        if matches!(found.inode().body, Body::Regular(_)) {
            self.found.insert(path.to_vec(), found.clone());
            if self.found.len() > MAX_MATCHES {
                return Err(TransferError::TooMany(MAX_MATCHES));
            }
        }
        Ok(())
    }
}

fn is_real_directory(dentry: &Dentry) -> bool {
    matches!(dentry.inode().body, Body::Directory { .. })
}

/// Writes a directory of the sandbox as a tar archive: directories, regular files and links, with modes and
/// times; names are relative to the directory. Answers how many entries it has.
///
/// # Errors
/// [`TransferError::Stream`], [`TransferError::File`] (ENOENT if there is no such directory).
pub fn write_tar(vfs: &Vfs, directory: &[u8], out: impl Write) -> Result<u64, TransferError> {
    let caller = operator(vfs);
    let failed = |errno| TransferError::file(directory, errno);
    let root = vfs.lookup(&caller, vfs.root(), directory, WalkFlags::FOLLOW).map_err(failed)?;
    if !is_real_directory(&root) {
        return Err(failed(Errno::ENOTDIR));
    }
    let mut builder = tar::Builder::new(out);
    let mut count = 0;
    // Depth first with a list of our own: a deep tree must not exhaust the stack.
    let mut todo = vec![(root, Vec::new())];
    while let Some((directory, path)) = todo.pop() {
        let mut below_here = Vec::new();
        for entry in entries(&directory).map_err(failed)? {
            if count as usize >= MAX_VISITED {
                return Err(TransferError::Archive(format!("more than {MAX_VISITED} entries")));
            }
            let Some(dentry) = child(&directory, &entry.name).map_err(failed)? else { continue };
            let path = below(&path, &entry.name);
            if append(&mut builder, &dentry, &path)? {
                count += 1;
            }
            if is_real_directory(&dentry) && path.len() < 16 * 4096 {
                below_here.push((dentry, path));
            }
        }
        todo.extend(below_here.into_iter().rev());
    }
    builder.finish().map_err(TransferError::Stream)?;
    Ok(count)
}

fn append(
    builder: &mut tar::Builder<impl Write>,
    dentry: &Arc<Dentry>,
    path: &[u8],
) -> Result<bool, TransferError> {
    let inode = dentry.inode();
    let meta = inode.meta();
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode & 0o777);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(meta.mtime.seconds.max(0) as u64);
    header.set_size(0);
    let name = Path::new(OsStr::from_bytes(path));
    match (&inode.body, inode.kind) {
        (Body::Directory { .. }, _) => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, name, std::io::empty()).map_err(TransferError::Stream)?;
        }
        (Body::Regular(content), Kind::Regular) => {
            let size = content.size();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            let file = Vfs::open_unchecked(dentry, crate::vfs::flags::O_RDONLY)
                .map_err(|errno| TransferError::file(path, errno))?;
            let reader = std::io::Read::take(FileReader::new(file), size);
            builder.append_data(&mut header, name, reader).map_err(TransferError::Stream)?;
        }
        (Body::Symlink(target), _) => {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = Path::new(OsStr::from_bytes(target));
            builder.append_link(&mut header, name, target).map_err(TransferError::Stream)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
