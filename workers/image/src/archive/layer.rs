//! Applies the entries of archives, one layer above the other, to a tree in memory.
//!
//! The rules, for what archives may do that file systems can't, or that is meant to break out:
//!
//! * Leading slashes and `.` are dropped. A component `..` is an error.
//! * A symbolic link's target is kept as it is. Where an entry's path leads through a link, it is
//!   followed within the image, where `..` stops at the root.
//! * A hard link's target is a path in the image; it must be there already, and no directory.
//! * The last entry of a name wins: a directory stays and gets the new attributes; anything else
//!   takes the place of what was there, whatever it was, directories with all that is in them.
//! * A missing parent is made: root's, mode 0755, time 0. A parent that is no directory is an error.
//! * In a layer, `.wh.NAME` removes NAME, and `.wh..wh..opq` all that is beside it, of *lower*
//!   layers only, in whichever order the layer has them. Other names that begin with `.wh..wh.`, and
//!   what is below them, are the notes of a file system of old, and are left out. In a plain archive
//!   all these are just names.
//! * Device nodes, fifos and set-id bits are kept. What they do is up to the sandbox: nothing.
//! * Attributes are kept that mean something without their host: see `is_kept`.

use std::collections::HashSet;
use std::io::Read;

use bulkhead_erofs::{Content, Meta, Node, NodeId, Tree};

use super::bounds;
use super::error::{ArchiveError, show};
use super::path::{Missing, components, directory};
use super::spool::Spool;
use super::tar::{Entry, EntryKind, TarReader};

/// Prefix of names that remove something.
const WHITEOUT: &[u8] = b".wh.";
/// The name that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Longest target of a symbolic link in bytes, as Linux has it.
const MAX_SYMLINK: usize = 4095;
/// Bytes of memory that a node takes besides its names and attributes, about.
const NODE_COST: u64 = 64;

/// A tree that archives are applied to.
pub(crate) struct Builder {
    pub(crate) tree: Tree,
    /// Number of the layer that made or changed each node, or something below it.
    touched: Vec<u32>,
    /// Number of the layer that is being applied.
    layer: u32,
    /// Directories in which nothing of lower layers is left, for this layer.
    purged: HashSet<NodeId>,
    entries: u64,
    metadata: u64,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::new(Meta { mode: 0o755, ..Meta::default() }),
            touched: Vec::new(),
            layer: 0,
            purged: HashSet::new(),
            entries: 0,
            metadata: 0,
        }
    }

    /// Counts what an earlier builder held against the same bounds.
    pub(crate) fn after(earlier: &Self) -> Self {
        Self { entries: earlier.entries, metadata: earlier.metadata, ..Self::new() }
    }

    /// How many entries were applied.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Applies one archive: a layer, or a plain one, in which no name has a meaning.
    pub(crate) fn apply(
        &mut self,
        archive: &mut TarReader<impl Read>,
        is_layer: bool,
        spool: &mut Spool,
    ) -> Result<(), ArchiveError> {
        self.layer += 1;
        self.purged.clear();
        while let Some(entry) = archive.next_entry()? {
            self.count(&entry)?;
            let parts = components(&entry.path)?;
            let Some((name, parents)) = parts.split_last() else {
                self.root(entry)?;
                continue;
            };
            if is_layer && parts.iter().any(|part| is_note(part)) {
                continue;
            }
            match name.strip_prefix(WHITEOUT) {
                Some(removed) if is_layer => self.whiteout(&entry, parents, name, removed)?,
                _ => {
                    let parent = self.parent(parents)?;
                    self.place(parent, name, &entry, archive, spool)?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > bounds::MAX_ENTRIES {
            return Err(ArchiveError::too_much(bounds::MAX_ENTRIES, "entries"));
        }
        let xattrs = entry.meta.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
        let bytes = entry.path.len() + entry.link.len() + xattrs.sum::<usize>();
        self.metadata += bytes as u64 + NODE_COST;
        if self.metadata > bounds::MAX_METADATA {
            return Err(ArchiveError::too_much(bounds::MAX_METADATA, "bytes of names and attributes"));
        }
        Ok(())
    }

    fn root(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        if entry.kind != EntryKind::Directory {
            let why = "the root of an image is a directory".into();
            return Err(ArchiveError::Placement { path: show(&entry.path), why });
        }
        let root = self.tree.root();
        self.tree.node_mut(root).meta = kept(entry.meta);
        Ok(())
    }

    /// The directory for an entry, made where it is missing.
    fn parent(&mut self, parents: &[&[u8]]) -> Result<NodeId, ArchiveError> {
        let (touched, layer) = (&mut self.touched, self.layer);
        let found = directory(&mut self.tree, parents, Missing::Make, |id| touch(touched, id, layer))?;
        Ok(found.unwrap_or(self.tree.root()))
    }

    fn place(
        &mut self,
        parent: NodeId,
        name: &[u8],
        entry: &Entry,
        archive: &mut TarReader<impl Read>,
        spool: &mut Spool,
    ) -> Result<(), ArchiveError> {
        let existing = self.tree.children(parent).and_then(|children| children.get(name)).copied();
        let content = match entry.kind {
            EntryKind::Directory => match existing.filter(|id| self.tree.children(*id).is_some()) {
                Some(id) => {
                    self.tree.node_mut(id).meta = kept(entry.meta.clone());
                    touch(&mut self.touched, id, self.layer);
                    return Ok(());
                }
                None => Content::empty_directory(),
            },
            EntryKind::Regular => {
                let run = archive.copy_data(entry, spool)?;
                Content::Regular { offset: run.offset, size: run.size }
            }
            EntryKind::Symlink => Content::Symlink(link_target(entry)?),
            EntryKind::CharDevice(major, minor) => device(entry, major, minor, Content::CharDevice)?,
            EntryKind::BlockDevice(major, minor) => device(entry, major, minor, Content::BlockDevice)?,
            EntryKind::Fifo => Content::Fifo,
            EntryKind::HardLink => {
                let target = self.link_target_node(entry)?;
                self.put(parent, name, target);
                return Ok(());
            }
        };
        let node = Node { meta: kept(entry.meta.clone()), content };
        let too_many = || ArchiveError::too_much(bounds::MAX_ENTRIES, "entries");
        let id = self.tree.add(node).ok_or_else(too_many)?;
        self.put(parent, name, id);
        Ok(())
    }

    fn put(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        touch(&mut self.touched, id, self.layer);
        if let Some(children) = self.tree.children_mut(parent) {
            children.insert(name.into(), id);
        }
    }

    fn link_target_node(&mut self, entry: &Entry) -> Result<NodeId, ArchiveError> {
        let place = |why: String| ArchiveError::Placement { path: show(&entry.path), why };
        let parts = components(&entry.link)?;
        let absent = || place(format!("the target of the hard link, {}, is not there", show(&entry.link)));
        let (name, parents) = parts.split_last().ok_or_else(absent)?;
        let parent = directory(&mut self.tree, parents, Missing::Stop, |_| {})?.ok_or_else(absent)?;
        let target = self.tree.children(parent).and_then(|children| children.get(*name)).copied();
        let target = target.ok_or_else(absent)?;
        if self.tree.children(target).is_some() {
            return Err(place("a hard link to a directory is not possible".into()));
        }
        Ok(target)
    }

    fn whiteout(
        &mut self,
        entry: &Entry,
        parents: &[&[u8]],
        name: &[u8],
        removed: &[u8],
    ) -> Result<(), ArchiveError> {
        if matches!(removed, b"" | b"." | b"..") {
            let why = "a whiteout must name something to remove".into();
            return Err(ArchiveError::Path { path: show(&entry.path), why });
        }
        // A whiteout makes nothing: where there is no directory there is nothing to remove.
        let Some(parent) = directory(&mut self.tree, parents, Missing::Stop, |_| {})? else {
            return Ok(());
        };
        if name == OPAQUE {
            self.purge(parent);
            return Ok(());
        }
        let Some(children) = self.tree.children_mut(parent) else { return Ok(()) };
        let Some(id) = children.get(removed).copied() else { return Ok(()) };
        if self.touched.get(id.index()).is_none_or(|layer| *layer != self.layer) {
            children.remove(removed);
        } else {
            self.purge(id);
        }
        Ok(())
    }

    /// Removes from directory `id` what no entry of this layer has touched, at any depth.
    fn purge(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            // Nothing of a lower layer can come back into it while this layer is applied.
            if !self.purged.insert(id) {
                continue;
            }
            let (touched, layer) = (&self.touched, self.layer);
            let Some(children) = self.tree.children_mut(id) else { continue };
            children.retain(|_, child| touched.get(child.index()) == Some(&layer));
            pending.extend(children.values().copied());
        }
    }
}

/// Whether a name is one that the union file system of old kept its notes in.
fn is_note(name: &[u8]) -> bool {
    name != OPAQUE && name.strip_prefix(WHITEOUT).is_some_and(|rest| rest.starts_with(WHITEOUT))
}

fn touch(touched: &mut Vec<u32>, id: NodeId, layer: u32) {
    if touched.len() <= id.index() {
        touched.resize(id.index() + 1, 0);
    }
    touched[id.index()] = layer;
}

fn link_target(entry: &Entry) -> Result<Box<[u8]>, ArchiveError> {
    if entry.link.is_empty() || entry.link.len() > MAX_SYMLINK || entry.link.contains(&0) {
        let why = "the target of a symbolic link has 1 to 4095 bytes and no NUL".into();
        return Err(ArchiveError::Path { path: show(&entry.path), why });
    }
    Ok(entry.link.as_slice().into())
}

fn device(
    entry: &Entry,
    major: u32,
    minor: u32,
    make: impl Fn(u32, u32) -> Content,
) -> Result<Content, ArchiveError> {
    // As many bits as Linux has.
    if major > 0xfff || minor > 0xf_ffff {
        return Err(ArchiveError::damaged(&entry.path, "its device number is out of range"));
    }
    Ok(make(major, minor))
}

/// `meta` with the attributes that an image keeps.
fn kept(mut meta: Meta) -> Meta {
    meta.xattrs.retain(|xattr| is_kept(&xattr.name));
    meta
}

/// Whether an image keeps an attribute: users' own, capabilities, access lists, and trusted ones,
/// but not the notes of the overlay that an image was made on (`trusted.overlay.`,
/// `user.overlay.`), which another overlay would obey, nor labels of a host's security modules.
fn is_kept(name: &[u8]) -> bool {
    let rest = |prefix: &[u8]| {
        let rest = name.strip_prefix(prefix)?;
        (1..=255).contains(&rest.len()).then_some(rest)
    };
    let notes = |rest: &[u8]| rest.starts_with(b"overlay.");
    let exact: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
    !name.contains(&0)
        && (exact.contains(&name)
            || rest(b"user.").is_some_and(|rest| !notes(rest))
            || rest(b"trusted.").is_some_and(|rest| !notes(rest)))
}
