//! Decides where everything of an image lies, before a byte is written.

use std::collections::VecDeque;

use super::WriteError;
use crate::format::{
    BLOCK_SIZE, DIRENT_SIZE, EXTENDED_INODE_SIZE, MAX_NAME, NID_UNIT, Nid, XATTR_HEADER_SIZE, XATTR_PREFIXES,
};
use crate::reader::Xattr;
use crate::tree::{Content, Meta, NodeId, Tree};

/// The block where the inodes begin; the superblock is in the one before.
pub(super) const META_BLOCK: u32 = 1;
/// The root's inode is not number 0, which user space takes for "no file".
const FIRST_INODE: u64 = 2 * NID_UNIT;
/// Longest tail of a link or directory in bytes that is stored behind its inode: longer ones would
/// leave more of the inode's block unused than a block of their own.
const MAX_INLINE: u64 = 2048;

/// An inode's place.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) node: NodeId,
    /// Byte offset in the metadata area.
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) nlink: u32,
    /// Number of the directory's parent; its own for the root.
    pub(super) parent: NodeId,
    /// The last, incomplete block is stored behind the inode.
    pub(super) inline: bool,
    /// Address of the data, or nid in the private image.
    pub(super) address: u32,
    /// Blocks at the address.
    pub(super) blocks: u64,
}

/// One image of a tree.
#[derive(Debug)]
pub(super) struct Plan<'t> {
    pub(super) tree: &'t Tree,
    /// In the order of their offsets.
    pub(super) inodes: Vec<Placed>,
    /// Index in `inodes` of each node, or `ABSENT`.
    places: Vec<u32>,
    pub(super) meta_blocks: u64,
    pub(super) blocks: u32,
}

const ABSENT: u32 = u32::MAX;

impl<'t> Plan<'t> {
    /// The image of the whole tree, with the data of private files left to `private`.
    pub(super) fn public(tree: &'t Tree, private: Option<&Self>) -> Result<Self, WriteError> {
        let mut plan = Self::collect(tree, |_| true)?;
        for placed in &mut plan.inodes {
            if let Some(place) = private.and_then(|plan| plan.place(placed.node))
                && tree.node(placed.node).is_private()
            {
                placed.size = 0;
                placed.address = u32::try_from(place.nid()).map_err(|_| WriteError::TooLarge)?;
            }
        }
        plan.lay_out()?;
        Ok(plan)
    }

    /// The image of the private files; `None` if there are none.
    pub(super) fn private(tree: &'t Tree) -> Result<Option<Self>, WriteError> {
        let wanted = private_paths(tree);
        if !wanted[tree.root().index()] {
            return Ok(None);
        }
        let mut plan = Self::collect(tree, |id| wanted[id.index()])?;
        plan.lay_out()?;
        Ok(Some(plan))
    }

    /// Bytes of the image.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_SIZE
    }

    /// Where `node` is, if it is in this image.
    pub(super) fn place(&self, node: NodeId) -> Option<&Placed> {
        self.inodes.get(self.places[node.index()] as usize)
    }

    /// The nodes that are wanted, breadth first, so that what lies in one directory lies together.
    fn collect(tree: &'t Tree, wanted: impl Fn(NodeId) -> bool) -> Result<Self, WriteError> {
        let mut plan =
            Self { tree, inodes: Vec::new(), places: vec![ABSENT; tree.len()], meta_blocks: 0, blocks: 0 };
        plan.admit(tree.root(), tree.root())?;
        let mut pending = VecDeque::from([tree.root()]);
        while let Some(directory) = pending.pop_front() {
            let mut subdirectories = 0;
            for id in tree.children(directory).into_iter().flatten().map(|(_, id)| id) {
                if !wanted(*id) {
                    continue;
                }
                if matches!(tree.node(*id).content, Content::Directory(_)) {
                    subdirectories += 1;
                    pending.push_back(*id);
                }
                match plan.places[id.index()] {
                    ABSENT => plan.admit(*id, directory)?,
                    place => plan.inodes[place as usize].nlink += 1,
                }
            }
            let place = plan.places[directory.index()] as usize;
            plan.inodes[place].nlink = 2 + subdirectories;
        }
        plan.measure_directories()?;
        Ok(plan)
    }

    fn admit(&mut self, node: NodeId, parent: NodeId) -> Result<(), WriteError> {
        let place = u32::try_from(self.inodes.len()).map_err(|_| WriteError::TooLarge)?;
        let size = match &self.tree.node(node).content {
            Content::Regular { size, .. } => *size,
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        self.places[node.index()] = place;
        let inline = false;
        self.inodes.push(Placed { node, offset: 0, size, nlink: 1, parent, inline, address: 0, blocks: 0 });
        Ok(())
    }

    fn measure_directories(&mut self) -> Result<(), WriteError> {
        for index in 0..self.inodes.len() {
            let node = self.inodes[index].node;
            if let Some(children) = self.tree.children(node) {
                let legal = |name: &[u8]| {
                    let illegal = name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
                    !illegal && (1..=MAX_NAME).contains(&name.len())
                };
                if !children.keys().all(|name| legal(name)) {
                    return Err(WriteError::Name);
                }
                let entries = self.dirents(&self.inodes[index]);
                let blocks = split(&entries);
                let last = blocks.last().map_or(0, |range| used(&entries[range.clone()]));
                self.inodes[index].size = (blocks.len() as u64 - 1) * BLOCK_SIZE + last as u64;
            }
        }
        Ok(())
    }

    /// The entries of a directory, sorted: those of the tree that are in this image, `.` and `..`.
    pub(super) fn dirents(&self, directory: &Placed) -> Vec<(&'t [u8], NodeId)> {
        let children = self.tree.children(directory.node).into_iter().flatten();
        let present = children.filter(|(_, id)| self.places[id.index()] != ABSENT);
        let mut entries = present.map(|(name, id)| (&**name, *id)).collect::<Vec<_>>();
        for (name, id) in [(&b"."[..], directory.node), (b"..", directory.parent)] {
            let at = entries.partition_point(|(other, _)| *other < name);
            entries.insert(at, (name, id));
        }
        entries
    }

    /// Gives inodes their offsets, and data their blocks.
    fn lay_out(&mut self) -> Result<(), WriteError> {
        let mut cursor = FIRST_INODE;
        for placed in &mut self.inodes {
            let node = self.tree.node(placed.node);
            let head = EXTENDED_INODE_SIZE as u64 + xattr_size(&node.meta)? as u64;
            let tail = placed.size % BLOCK_SIZE;
            placed.inline = !matches!(node.content, Content::Regular { .. })
                && (1..=MAX_INLINE).contains(&tail)
                && head % BLOCK_SIZE + tail <= BLOCK_SIZE;
            let stored = if placed.inline { tail } else { 0 };
            // Neither the inode itself nor its tail may lie across two blocks.
            let crosses = |start: u64, length: u64| {
                length > 0 && start / BLOCK_SIZE != (start + length - 1) / BLOCK_SIZE
            };
            if crosses(cursor, EXTENDED_INODE_SIZE as u64) || crosses(cursor + head, stored) {
                cursor = cursor.next_multiple_of(BLOCK_SIZE);
            }
            placed.offset = cursor;
            cursor = (cursor + head + stored).next_multiple_of(NID_UNIT);
            placed.blocks =
                if placed.inline { placed.size / BLOCK_SIZE } else { placed.size.div_ceil(BLOCK_SIZE) };
        }
        self.meta_blocks = cursor.div_ceil(BLOCK_SIZE);
        let mut next = u64::from(META_BLOCK) + self.meta_blocks;
        for directories in [true, false] {
            for placed in &mut self.inodes {
                let regular = matches!(self.tree.node(placed.node).content, Content::Regular { .. });
                if placed.blocks > 0 && regular != directories {
                    placed.address = u32::try_from(next).map_err(|_| WriteError::TooLarge)?;
                    next = next.checked_add(placed.blocks).ok_or(WriteError::TooLarge)?;
                }
            }
        }
        self.blocks = u32::try_from(next).map_err(|_| WriteError::TooLarge)?;
        Ok(())
    }
}

impl Placed {
    pub(super) fn nid(&self) -> Nid {
        self.offset / NID_UNIT
    }
}

/// For each node: it is a private file, or a directory on the way to one.
fn private_paths(tree: &Tree) -> Vec<bool> {
    let mut wanted = vec![false; tree.len()];
    // Parents come before their children in `order`, so backwards every child is decided first.
    let mut order = vec![tree.root()];
    let mut next = 0;
    while next < order.len() {
        for id in tree.children(order[next]).into_iter().flatten().map(|(_, id)| *id) {
            if matches!(tree.node(id).content, Content::Directory(_)) {
                order.push(id);
            } else {
                wanted[id.index()] = tree.node(id).is_private();
            }
        }
        next += 1;
    }
    for id in order.into_iter().rev() {
        wanted[id.index()] = tree.children(id).into_iter().flatten().any(|(_, child)| wanted[child.index()]);
    }
    wanted
}

/// Ranges of entries that fill a block each.
pub(super) fn split(entries: &[(&[u8], NodeId)]) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, (name, _)) in entries.iter().enumerate() {
        let more = DIRENT_SIZE + name.len();
        if bytes + more > BLOCK_SIZE as usize {
            blocks.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += more;
    }
    blocks.push(start..entries.len());
    blocks
}

/// Bytes that entries take in their block.
fn used(entries: &[(&[u8], NodeId)]) -> usize {
    entries.iter().map(|(name, _)| DIRENT_SIZE + name.len()).sum()
}

/// Number of an attribute's prefix on disk, and the rest of its name.
pub(super) fn xattr_prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    let (number, prefix) = XATTR_PREFIXES.iter().find(|(_, prefix)| name.starts_with(prefix))?;
    let rest = &name[prefix.len()..];
    let whole = prefix.starts_with(b"system.");
    (rest.is_empty() == whole && rest.len() <= usize::from(u8::MAX)).then_some((*number, rest))
}

/// Bytes of an inode's attributes, head included; 0 if it has none.
pub(super) fn xattr_size(meta: &Meta) -> Result<usize, WriteError> {
    if meta.xattrs.is_empty() {
        return Ok(0);
    }
    let mut size = XATTR_HEADER_SIZE;
    for xattr in &meta.xattrs {
        let (_, rest) = xattr_prefix(&xattr.name).ok_or_else(|| refuse(xattr))?;
        if xattr.value.len() > usize::from(u16::MAX) {
            return Err(refuse(xattr));
        }
        size += (4 + rest.len() + xattr.value.len()).next_multiple_of(4);
        // The inode counts them in units of 4 bytes, in 16 bits, the head being the first unit.
        if (size - XATTR_HEADER_SIZE) / 4 + 1 > usize::from(u16::MAX) {
            return Err(refuse(xattr));
        }
    }
    Ok(size)
}

fn refuse(xattr: &Xattr) -> WriteError {
    WriteError::Xattr { name: String::from_utf8_lossy(&xattr.name).into_owned() }
}
