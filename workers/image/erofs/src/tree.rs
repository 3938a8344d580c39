//! A file tree in memory: names and metadata, with the data of files elsewhere.

use std::collections::BTreeMap;

use crate::format::FileKind;
use crate::reader::Xattr;

/// A node of one [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The number of the node, counted from 0 in the order in which nodes were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What `stat` and `listxattr` say of a file, besides its kind, size and links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, at most `0o7777`.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds, below 10^9.
    pub mtime_nsec: u32,
    pub xattrs: Vec<Xattr>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// `size` bytes at byte `offset` of the file that holds the tree's data.
    Regular {
        offset: u64,
        size: u64,
    },
    Symlink(Box<[u8]>),
    /// Major and minor number.
    CharDevice(u32, u32),
    /// Major and minor number.
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

impl Content {
    /// The kind of the node.
    pub fn kind(&self) -> FileKind {
        match self {
            Self::Directory(_) => FileKind::Directory,
            Self::Regular { .. } => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
            Self::CharDevice(..) => FileKind::CharDevice,
            Self::BlockDevice(..) => FileKind::BlockDevice,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
        }
    }

    /// An empty directory.
    pub fn empty_directory() -> Self {
        Self::Directory(BTreeMap::new())
    }
}

/// A file, directory or other thing, which may have several names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub meta: Meta,
    pub content: Content,
}

impl Node {
    /// A regular file with data that processes other than its owner's may not see.
    pub(crate) fn is_private(&self) -> bool {
        matches!(self.content, Content::Regular { size, .. } if size > 0) && self.meta.mode & 0o004 == 0
    }
}

/// A tree with a root directory. What is removed from it stays allocated until the tree goes.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// An empty tree whose root directory has `meta`.
    pub fn new(meta: Meta) -> Self {
        Self { nodes: vec![Node { meta, content: Content::empty_directory() }] }
    }

    /// The root directory.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// How many nodes were ever added, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a tree has its root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node `id`, to change. Its content must not become a directory that another one holds.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// Adds a node without a name; `None` when there are 2^32 - 1 already.
    pub fn add(&mut self, node: Node) -> Option<NodeId> {
        let id = u32::try_from(self.nodes.len()).ok().filter(|id| *id != u32::MAX)?;
        self.nodes.push(node);
        Some(NodeId(id))
    }

    /// The names in directory `id`; `None` if it is no directory.
    pub fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// The names in directory `id`, to change; `None` if it is no directory. A directory may have
    /// one name only, and no directory may lie within itself.
    pub fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, NodeId>> {
        match &mut self.node_mut(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }
}
