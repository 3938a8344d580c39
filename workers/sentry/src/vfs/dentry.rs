//! Dentries: names in the tree, and the cache of what the image says about names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Inode;
use crate::fs::budget::Charge;
use crate::sync::Mutex;

/// A name in the tree with its inode. A directory has exactly one, and its entries are in it.
pub struct Dentry {
    inode: Arc<Inode>,
    place: Mutex<Place>,
    children: Option<Box<Mutex<Children>>>,
    _charge: Option<Charge>,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    unlinked: bool,
}

/// What is known of one name in a directory.
#[derive(Clone)]
pub(crate) enum Child {
    /// As in the image; can be forgotten.
    Lower(Arc<Dentry>),
    /// Not as in the image, at this place of the listing.
    Upper(Arc<Dentry>, u64),
    /// Not in the image; can be forgotten.
    Absent,
    /// In the image, but deleted.
    Gone,
}

/// Listing positions of entries that are not the image's start here.
pub(crate) const UPPER_COOKIES: u64 = 1 << 48;

#[derive(Default)]
pub(crate) struct Children {
    pub(crate) names: HashMap<Box<[u8]>, Child>,
    /// Entries that are not the image's in the order in which they were made.
    pub(crate) created: BTreeMap<u64, Arc<Dentry>>,
    next_cookie: u64,
    /// The directory has been removed: nothing can be made in it.
    pub(crate) dead: bool,
}

/// Names that came from the image and could be forgotten (names of all directories together).
static CACHED: AtomicUsize = AtomicUsize::new(0);

/// How many cacheable names are in memory.
pub(crate) fn cached_names() -> usize {
    CACHED.load(Ordering::Relaxed)
}

impl Children {
    /// Remembers what the image says about a name, unless something is known already.
    pub(crate) fn remember(&mut self, name: &[u8], child: Child) -> Child {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        CACHED.fetch_add(1, Ordering::Relaxed);
        self.names.insert(name.into(), child.clone());
        child
    }

    /// Adds a name that is not as in the image.
    pub(crate) fn add(&mut self, name: &[u8], dentry: Arc<Dentry>) {
        let cookie = UPPER_COOKIES + self.next_cookie;
        self.next_cookie += 1;
        self.created.insert(cookie, dentry.clone());
        let old = self.names.insert(name.into(), Child::Upper(dentry, cookie));
        self.uncount(old.as_ref());
    }

    /// Removes a name; `in_image` says that the image has it, so that it must be remembered as gone.
    pub(crate) fn remove(&mut self, name: &[u8], in_image: bool) {
        let old =
            if in_image { self.names.insert(name.into(), Child::Gone) } else { self.names.remove(name) };
        if let Some(Child::Upper(_, cookie)) = &old {
            self.created.remove(cookie);
        }
        self.uncount(old.as_ref());
    }

    fn uncount(&self, old: Option<&Child>) {
        if matches!(old, Some(Child::Lower(_) | Child::Absent)) {
            CACHED.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets everything: the directory has been removed.
    pub(crate) fn clear(&mut self) {
        for child in std::mem::take(&mut self.names).values() {
            self.uncount(Some(child));
        }
        self.created.clear();
    }

    /// Forgets a name that can be forgotten.
    pub(crate) fn forget(&mut self, name: &[u8]) {
        let old = self.names.remove(name);
        self.uncount(old.as_ref());
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let cached = self.names.values().filter(|child| matches!(child, Child::Lower(_) | Child::Absent));
        CACHED.fetch_sub(cached.count(), Ordering::Relaxed);
    }
}

impl Drop for Dentry {
    /// A directory that was removed lives on by what was in it; the last name may end a chain as long as a guest
    /// likes.
    fn drop(&mut self) {
        let mut next = self.place.lock().parent.take();
        while let Some(last) = next.and_then(Arc::into_inner) {
            next = last.place.lock().parent.take();
        }
    }
}

impl std::fmt::Debug for Dentry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dentry({:?})", String::from_utf8_lossy(&self.name()))
    }
}

impl Dentry {
    /// A name `name` in `parent` for `inode`; not yet in the parent's list.
    pub fn new(parent: Option<Arc<Self>>, name: &[u8], inode: Arc<Inode>) -> Arc<Self> {
        Self::charged(parent, name, inode, None)
    }

    /// As [`Dentry::new`], with what the name costs.
    pub fn charged(
        parent: Option<Arc<Self>>,
        name: &[u8],
        inode: Arc<Inode>,
        charge: Option<Charge>,
    ) -> Arc<Self> {
        let children = inode.is_directory().then(Box::default);
        let place = Mutex::new(Place { parent, name: name.into(), unlinked: false });
        Arc::new(Self { inode, place, children, _charge: charge })
    }

    /// A dentry of something that has no place in the tree, named as /proc/PID/fd shows it.
    pub fn anonymous(name: &str, inode: Arc<Inode>) -> Arc<Self> {
        Self::new(None, name.as_bytes(), inode)
    }

    /// What the name stands for.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// The directory that it is in; none for a root and for things without a place.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// The name, without directories.
    pub fn name(&self) -> Box<[u8]> {
        self.place.lock().name.clone()
    }

    /// Whether the name has been removed.
    pub fn is_unlinked(&self) -> bool {
        self.place.lock().unlinked
    }

    pub(crate) fn mark_unlinked(&self) {
        self.place.lock().unlinked = true;
    }

    pub(crate) fn move_to(&self, parent: &Arc<Self>, name: &[u8]) {
        let mut place = self.place.lock();
        // The old parent may be dropped here: never under the lock.
        let old = place.parent.replace(parent.clone());
        place.name = name.into();
        drop(place);
        drop(old);
    }

    pub(crate) fn children(&self) -> Option<&Mutex<Children>> {
        self.children.as_deref()
    }

    /// Whether it is the root of a file system that is mounted in another.
    pub fn is_mount_point(&self) -> bool {
        match self.parent() {
            Some(parent) => parent.inode.fs.device != self.inode.fs.device,
            None => self.inode.is_directory(),
        }
    }

    /// Whether `self` is `other` or below it.
    pub fn is_within(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at, other) {
                return true;
            }
            let Some(parent) = at.parent() else { return false };
            at = parent;
        }
    }

    /// The path from `root`, for getcwd and /proc. Removed names end in " (deleted)"; what is not below `root`
    /// starts with "(unreachable)".
    pub fn path(self: &Arc<Self>, root: &Arc<Self>) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.clone();
        let mut unlinked = false;
        let reached = loop {
            if Arc::ptr_eq(&at, root) {
                break true;
            }
            let (parent, name) = {
                let place = at.place.lock();
                unlinked |= place.unlinked;
                (place.parent.clone(), place.name.clone())
            };
            let Some(parent) = parent else {
                if !at.inode.is_directory() {
                    // It has no place: its name is all.
                    return name.into_vec();
                }
                break false;
            };
            names.push(name);
            at = parent;
        };
        let mut path = if reached { Vec::new() } else { b"(unreachable)".to_vec() };
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if names.is_empty() {
            path.push(b'/');
        }
        if unlinked {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }
}

/// Most names of images in memory (of all sandboxes in this process: there is one). A name with its inode takes
/// about 500 bytes: 32 MiB.
pub(crate) const MAX_CACHED_NAMES: usize = 65_536;

/// Forgets every name of the image that nobody uses and that is as in the image. Called under the tree's lock.
/// Guests decide how deep directories are: nothing here recurses.
pub(crate) fn sweep(root: &Arc<Dentry>) {
    let mut directories = vec![root.clone()];
    let mut next = 0;
    while let Some(directory) = directories.get(next) {
        let below = directories_in(directory);
        directories.extend(below);
        next += 1;
    }
    // What is below comes later: when it is a directory's turn, only the tree holds what is in it.
    while let Some(directory) = directories.pop() {
        forget_unused(&directory);
    }
}

fn directories_in(directory: &Dentry) -> Vec<Arc<Dentry>> {
    let Some(children) = directory.children() else { return Vec::new() };
    let children = children.lock();
    let dentries = children.names.values().filter_map(|child| match child {
        Child::Lower(dentry) | Child::Upper(dentry, _) => Some(dentry),
        _ => None,
    });
    dentries.filter(|dentry| dentry.children().is_some()).cloned().collect()
}

fn forget_unused(directory: &Dentry) {
    let Some(children) = directory.children() else { return };
    let mut children = children.lock();
    let unused: Vec<Box<[u8]>> = children
        .names
        .iter()
        .filter(|(_, child)| match child {
            Child::Absent => true,
            Child::Lower(dentry) => {
                let empty = dentry.children().is_none_or(|below| below.lock().names.is_empty());
                Arc::strong_count(dentry) == 1 && empty && !dentry.inode.is_changed()
            }
            _ => false,
        })
        .map(|(name, _)| name.clone())
        .collect();
    unused.iter().for_each(|name| children.forget(name));
}
