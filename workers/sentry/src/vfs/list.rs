//! Listing directories.
//!
//! A position is 0 before `.`, 1 before `..`; from 2 on it is a place in the image's directory, from
//! [`UPPER_COOKIES`] on one among the entries that are not the image's. So positions stay good while entries
//! come and go, and each entry that is there all the time is listed exactly once.

use std::sync::Arc;

use super::dentry::{Child, UPPER_COOKIES};
use super::{Body, Dentry, Kind};
use crate::errno::Errno;

/// An entry of a listing.
#[derive(Debug)]
pub struct Listed {
    /// Name.
    pub name: Vec<u8>,
    /// Inode number.
    pub number: u64,
    /// Type.
    pub kind: Kind,
    /// The position behind it.
    pub next: u64,
}

/// Entries of an image's directory that are read at a time.
const BATCH: usize = 256;

/// Lists a directory from a position: at most `most` entries, none at the end.
///
/// # Errors
/// ENOTDIR, ENOENT for a removed directory, EIO.
pub fn list(directory: &Arc<Dentry>, position: u64, most: usize) -> Result<Vec<Listed>, Errno> {
    let inode = directory.inode();
    if !inode.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    if directory.children().is_some_and(|children| children.lock().dead) {
        return Err(Errno::ENOENT);
    }
    let mut out = Vec::new();
    if position == 0 {
        out.push(Listed { name: b".".to_vec(), number: inode.number, kind: Kind::Directory, next: 1 });
    }
    if position <= 1 {
        let parent = directory.parent().map_or(inode.number, |parent| parent.inode().number);
        out.push(Listed { name: b"..".to_vec(), number: parent, kind: Kind::Directory, next: 2 });
    }
    let mut at = position.max(2);
    if let Body::VirtualDirectory(entries) = &inode.body {
        let all = entries.list()?;
        let skipped = all.into_iter().enumerate().skip((at - 2) as usize);
        let left = most.saturating_sub(out.len());
        out.extend(skipped.take(left).map(|(index, entry)| Listed {
            name: entry.name,
            number: entry.number,
            kind: entry.kind,
            next: index as u64 + 3,
        }));
        return Ok(out);
    }
    while at < UPPER_COOKIES && out.len() < most {
        at = list_lower(directory, at, most, &mut out)?;
    }
    if at >= UPPER_COOKIES {
        list_upper(directory, at, most, &mut out);
    }
    Ok(out)
}

/// Adds entries of the image's directory; answers where to go on.
fn list_lower(directory: &Dentry, at: u64, most: usize, out: &mut Vec<Listed>) -> Result<u64, Errno> {
    let inode = directory.inode();
    let Body::Directory { lower: Some(lower) } = &inode.body else { return Ok(UPPER_COOKIES) };
    let Some(image) = &inode.fs.image else { return Ok(UPPER_COOKIES) };
    let batch = image.list(lower, at - 2, BATCH.min(most))?;
    let Some(last) = batch.last() else { return Ok(UPPER_COOKIES) };
    let mut next = last.next + 2;
    let children = directory.children().ok_or(Errno::ENOTDIR)?.lock();
    for entry in batch {
        if out.len() >= most {
            break;
        }
        next = entry.next + 2;
        if matches!(children.names.get(&entry.name[..]), None | Some(Child::Lower(_))) {
            let kind = Kind::from_mode(u32::from(entry.kind.mode_bits())).unwrap_or(Kind::Regular);
            out.push(Listed { name: entry.name, number: entry.nid, kind, next });
        }
    }
    Ok(next)
}

fn list_upper(directory: &Dentry, at: u64, most: usize, out: &mut Vec<Listed>) {
    let Some(children) = directory.children() else { return };
    let left = most.saturating_sub(out.len());
    let entries: Vec<(u64, Arc<Dentry>)> = {
        let children = children.lock();
        children.created.range(at..).take(left).map(|(cookie, dentry)| (*cookie, dentry.clone())).collect()
    };
    out.extend(entries.into_iter().map(|(cookie, dentry)| Listed {
        name: dentry.name().into_vec(),
        number: dentry.inode().number,
        kind: dentry.inode().kind,
        next: cookie + 1,
    }));
}

/// Whether a directory has no entries.
pub(super) fn is_empty(directory: &Arc<Dentry>) -> Result<bool, Errno> {
    if matches!(directory.inode().body, Body::VirtualDirectory(_)) {
        return Ok(false);
    }
    Ok(list(directory, 2, 1)?.is_empty())
}
