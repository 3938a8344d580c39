//! Building virtual nodes from tables.

use std::sync::Arc;

use super::Shared;
use crate::errno::Errno;
use crate::vfs::{Body, Inode, Kind, Meta, VirtualDirectory, VirtualEntry, VirtualFile, VirtualLink};

/// What an entry of a static directory is.
#[derive(Clone, Copy)]
pub(super) enum Node {
    /// A file; the function makes its content.
    File(fn(&Shared) -> Vec<u8>),
    /// A file that can also be written.
    Writable(fn(&Shared) -> Vec<u8>, fn(&Shared, &[u8]) -> bool),
    /// A directory.
    Directory(&'static [Entry]),
    /// A link to a fixed target.
    Link(&'static str),
}

/// An entry of a static directory.
pub(super) struct Entry {
    pub name: &'static str,
    pub node: Node,
}

/// A short way to write an [`Entry`].
pub(super) const fn entry(name: &'static str, node: Node) -> Entry {
    Entry { name, node }
}

/// An inode number from a path: FNV-1a, so that it is the same at every look.
pub(super) fn hash(path: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    path.bytes().fold(0xcbf2_9ce4_8422_2325, step) >> 16
}

/// The number that a name is, if it is one as Linux writes it.
pub(super) fn number_of(name: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(name).ok()?;
    let number: i32 = text.parse().ok()?;
    (number.to_string() == text && number >= 0).then_some(number)
}

impl Node {
    fn kind(&self) -> Kind {
        match self {
            Self::File(_) | Self::Writable(..) => Kind::Regular,
            Self::Directory(_) => Kind::Directory,
            Self::Link(_) => Kind::Symlink,
        }
    }
}

/// Finds a name in a static directory whose path is `at`.
pub(super) fn lookup(
    shared: &Arc<Shared>,
    entries: &'static [Entry],
    name: &[u8],
    at: &str,
) -> Option<Arc<Inode>> {
    let found = entries.iter().find(|entry| entry.name.as_bytes() == name)?;
    let path = format!("{at}/{}", found.name);
    let number = hash(&path);
    Some(match found.node {
        Node::File(content) => file(
            shared,
            number,
            0o444,
            (0, 0),
            Arc::new(Static { shared: shared.clone(), content, write: None }),
        ),
        Node::Writable(content, write) => {
            let source = Static { shared: shared.clone(), content, write: Some(write) };
            file(shared, number, 0o644, (0, 0), Arc::new(source))
        }
        Node::Directory(entries) => {
            let directory = StaticDirectory { shared: shared.clone(), entries, path };
            self::directory(shared, number, 0o555, (0, 0), Arc::new(directory))
        }
        Node::Link(target) => {
            let meta = Meta::new(0o777, 0, 0);
            Inode::new(&shared.fs, number, Kind::Symlink, meta, Body::Symlink(target.as_bytes().into()))
        }
    })
}

/// Lists a static directory whose path is `at`.
pub(super) fn list(entries: &'static [Entry], at: &str) -> Vec<VirtualEntry> {
    let entry = |entry: &Entry| VirtualEntry {
        name: entry.name.into(),
        kind: entry.node.kind(),
        number: hash(&format!("{at}/{}", entry.name)),
    };
    entries.iter().map(entry).collect()
}

struct Static {
    shared: Arc<Shared>,
    content: fn(&Shared) -> Vec<u8>,
    write: Option<fn(&Shared, &[u8]) -> bool>,
}

impl VirtualFile for Static {
    fn content(&self) -> Result<Vec<u8>, Errno> {
        Ok((self.content)(&self.shared))
    }

    fn write(&self, data: &[u8]) -> Result<(), Errno> {
        match self.write {
            Some(write) if write(&self.shared, data) => Ok(()),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EPERM),
        }
    }
}

struct StaticDirectory {
    shared: Arc<Shared>,
    entries: &'static [Entry],
    path: String,
}

impl VirtualDirectory for StaticDirectory {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        Ok(lookup(&self.shared, self.entries, name, &self.path))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        Ok(list(self.entries, &self.path))
    }
}

/// An inode of a virtual file.
pub(super) fn file(
    shared: &Shared,
    number: u64,
    mode: u32,
    owner: (u32, u32),
    file: Arc<dyn VirtualFile>,
) -> Arc<Inode> {
    let meta = Meta::new(mode, owner.0, owner.1);
    Inode::new(&shared.fs, number, Kind::Regular, meta, Body::Virtual(file))
}

/// An inode of a virtual directory.
pub(super) fn directory(
    shared: &Shared,
    number: u64,
    mode: u32,
    owner: (u32, u32),
    directory: Arc<dyn VirtualDirectory>,
) -> Arc<Inode> {
    let mut meta = Meta::new(mode, owner.0, owner.1);
    meta.nlink = 2;
    Inode::new(&shared.fs, number, Kind::Directory, meta, Body::VirtualDirectory(directory))
}

/// An inode of a virtual link.
pub(super) fn link(
    shared: &Shared,
    number: u64,
    owner: (u32, u32),
    link: Arc<dyn VirtualLink>,
) -> Arc<Inode> {
    let meta = Meta::new(0o777, owner.0, owner.1);
    Inode::new(&shared.fs, number, Kind::Symlink, meta, Body::VirtualLink(link))
}
