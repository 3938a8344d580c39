//! A directory of this machine as an archive, so that it becomes an image in the same way as everything else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Bytes of a header, and the unit of everything in an archive.
const BLOCK: usize = 512;
/// Longest list of attribute names, and longest attribute, in bytes, as Linux has them.
const MAX_XATTR: usize = 65_536;

/// Writes the tree below `directory` as a tar archive with PAX headers, in the order of names.
///
/// Of other file systems mounted below it only the empty directory is kept. Sockets are left out: an archive can't hold
/// them. Links are kept, not followed.
///
/// # Errors
/// What the host says, or that a file became shorter while it was read.
pub fn pack(directory: &Path, out: &mut impl Write) -> io::Result<()> {
    let root = fs::metadata(directory)?;
    if !root.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mut links = HashMap::new();
    // Paths on this machine and in the archive; popped in the order of names.
    let mut pending = vec![(directory.to_path_buf(), PathBuf::from("."))];
    while let Some((path, name)) = pending.pop() {
        let meta = if name == Path::new(".") { root.clone() } else { fs::symlink_metadata(&path)? };
        let elsewhere = meta.dev() != root.dev();
        if meta.file_type().is_socket() || elsewhere && !meta.is_dir() {
            continue;
        }
        let first =
            (meta.nlink() > 1 && !meta.is_dir()).then(|| links.insert(meta.ino(), name.clone())).flatten();
        if let Some(first) = first {
            // The inode's first name stays the one that others link to.
            Entry { kind: b'1', name: &name, link: Some(&first), meta: &meta, size: 0 }.write(&[], out)?;
            links.insert(meta.ino(), first);
            continue;
        }
        write_one(&path, &name, &meta, out)?;
        if meta.is_dir() && !elsewhere {
            let mut children = fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
            children.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            pending.extend(children.iter().map(|child| (child.path(), name.join(child.file_name()))));
        }
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

fn write_one(path: &Path, name: &Path, meta: &Metadata, out: &mut impl Write) -> io::Result<()> {
    let kind = meta.file_type();
    let target = if kind.is_symlink() { Some(fs::read_link(path)?) } else { None };
    let flag = match () {
        () if kind.is_symlink() => b'2',
        () if kind.is_char_device() => b'3',
        () if kind.is_block_device() => b'4',
        () if kind.is_dir() => b'5',
        () if kind.is_fifo() => b'6',
        () => b'0',
    };
    let size = if kind.is_file() { meta.len() } else { 0 };
    let entry = Entry { kind: flag, name, link: target.as_deref(), meta, size };
    entry.write(&xattrs(path)?, out)?;
    if kind.is_file() {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(no_follow).open(path)?;
        if io::copy(&mut file.take(size), out)? < size {
            return Err(io::Error::other(format!("{} became shorter while it was read", path.display())));
        }
        pad(size, out)?;
    }
    Ok(())
}

fn pad(size: u64, out: &mut impl Write) -> io::Result<()> {
    let rest = (size.next_multiple_of(BLOCK as u64) - size) as usize;
    out.write_all(&[0; BLOCK][..rest])
}

/// Attributes that can be read; none where the file system has none.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; MAX_XATTR];
    let count = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(count) => count,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX_XATTR];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            Ok(count) => value.truncate(count),
            // Removed meanwhile, or a kind that only its own programs can read.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(error.into()),
        }
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// The header of one member.
struct Entry<'a> {
    kind: u8,
    name: &'a Path,
    link: Option<&'a Path>,
    meta: &'a Metadata,
    size: u64,
}

impl Entry<'_> {
    fn write(&self, xattrs: &[(Vec<u8>, Vec<u8>)], out: &mut impl Write) -> io::Result<()> {
        let mut records = Vec::new();
        // What is always in a record need not fit into a field.
        record(&mut records, b"path", self.name.as_os_str().as_bytes());
        if let Some(link) = self.link {
            record(&mut records, b"linkpath", link.as_os_str().as_bytes());
        }
        record(&mut records, b"uid", self.meta.uid().to_string().as_bytes());
        record(&mut records, b"gid", self.meta.gid().to_string().as_bytes());
        record(&mut records, b"size", self.size.to_string().as_bytes());
        record(&mut records, b"mtime", self.time().as_bytes());
        for (name, value) in xattrs {
            record(&mut records, &[&b"SCHILY.xattr."[..], name].concat(), value);
        }
        out.write_all(&header(b'x', 0, records.len() as u64, 0))?;
        out.write_all(&records)?;
        pad(records.len() as u64, out)?;
        // Readers take the size from the record; where it fits, the field says the same.
        let field = if self.size < 1 << 33 { self.size } else { 0 };
        out.write_all(&header(self.kind, self.meta.mode(), field, self.meta.rdev()))
    }

    /// Seconds with nine digits behind the point.
    fn time(&self) -> String {
        let (seconds, nanoseconds) = (self.meta.mtime(), self.meta.mtime_nsec());
        if seconds < 0 && nanoseconds > 0 {
            return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
        }
        format!("{seconds}.{nanoseconds:09}")
    }
}

fn header(kind: u8, mode: u32, size: u64, device: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000\x000000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", rustix::fs::major(device) & 0o7_777_777).as_bytes());
    put(337, format!("{:07o}", rustix::fs::minor(device) & 0o7_777_777).as_bytes());
    let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.extend([b" ", key, b"=", value, b"\n"].concat());
}
