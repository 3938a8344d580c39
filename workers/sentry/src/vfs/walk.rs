//! Path walks.
//!
//! A walk takes no lock over several names: each step is atomic in itself. Whoever then changes the tree takes
//! the tree's lock and looks at the last name again.

use std::sync::Arc;

use smallvec::SmallVec;

use super::dentry::Child;
use super::flags::{
    NAME_MAX, PATH_MAX, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
};
use super::permission::{MAY_EXEC, check};
use super::{Body, Caller, Dentry, Kind};
use crate::errno::Errno;

/// Most symbolic links in one walk.
const MAX_LINKS: u32 = 40;

/// How a walk treats links and borders.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalkFlags {
    /// Whether a link as the last name is followed.
    pub follow: bool,
    /// RESOLVE_* of openat2.
    pub resolve: u32,
    /// Whether an empty path means the base itself (AT_EMPTY_PATH).
    pub empty: bool,
}

impl WalkFlags {
    /// Follows a link at the end.
    pub const FOLLOW: Self = Self { follow: true, resolve: 0, empty: false };
    /// Does not.
    pub const NO_FOLLOW: Self = Self { follow: false, resolve: 0, empty: false };
}

/// Where a walk to a last name has come.
pub(super) struct Last {
    /// The directory that has the name, or would have.
    pub(super) directory: Arc<Dentry>,
    /// The last name; empty, `.` or `..` if the path ends in none, and then `directory` is what it names.
    pub(super) name: Vec<u8>,
    /// The path ended in a slash: only a directory will do.
    pub(super) slash: bool,
}

impl Last {
    /// Whether the path ended in a proper name.
    pub(super) fn is_name(&self) -> bool {
        !matches!(&self.name[..], b"" | b"." | b"..")
    }
}

struct Walk<'a> {
    caller: &'a Caller,
    flags: WalkFlags,
    root: Arc<Dentry>,
    at: Arc<Dentry>,
    /// Device of the file system where it began (RESOLVE_NO_XDEV).
    device: u32,
    links: u32,
    /// What is still to go of the path and of the links in it, the next part last. Each part begins with a name.
    todo: SmallVec<[Part<'a>; 2]>,
    slash: bool,
}

/// The rest of a path.
struct Part<'a> {
    bytes: Bytes<'a>,
    /// Where its next name begins.
    at: usize,
}

enum Bytes<'a> {
    Given(&'a [u8]),
    Link(Box<[u8]>),
}

impl Part<'_> {
    fn rest(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Given(bytes) => bytes,
            Bytes::Link(bytes) => &**bytes,
        };
        &bytes[self.at..]
    }

    /// The next name.
    fn name(&self) -> &[u8] {
        let rest = self.rest();
        &rest[..rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())]
    }

    /// Goes to the next name, `length` bytes on or later; false if there is none.
    fn skip(&mut self, length: usize) -> bool {
        let slashes = self.rest()[length..].iter().position(|byte| *byte != b'/');
        self.at += length + slashes.unwrap_or(0);
        slashes.is_some()
    }

    /// Whether no name follows the next one.
    fn is_last(&self) -> bool {
        self.rest()[self.name().len()..].iter().all(|byte| *byte == b'/')
    }
}

/// Walks to what a path names. `base` is where a relative path starts.
///
/// # Errors
/// ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EXDEV, EIO.
pub fn walk(
    caller: &Caller,
    base: &Arc<Dentry>,
    path: &[u8],
    flags: WalkFlags,
) -> Result<Arc<Dentry>, Errno> {
    if path.is_empty() {
        return if flags.empty { Ok(base.clone()) } else { Err(Errno::ENOENT) };
    }
    let mut walk = Walk::begin(caller, base, path, flags)?;
    while let Some((name, last)) = walk.next() {
        let next = walk.step(name)?.ok_or(Errno::ENOENT)?;
        walk.advance();
        let follow = !last || flags.follow || walk.slash;
        walk.enter(next, follow)?;
    }
    if walk.slash && !walk.at.inode().is_directory() {
        return Err(Errno::ENOTDIR);
    }
    Ok(walk.at)
}

/// Walks to the directory of a path's last name. A link as the last name is not followed.
///
/// # Errors
/// As [`walk`], but the last name need not exist.
pub(super) fn walk_to_last(
    caller: &Caller,
    base: &Arc<Dentry>,
    path: &[u8],
    resolve: u32,
) -> Result<Last, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let flags = WalkFlags { follow: true, resolve, empty: false };
    let mut walk = Walk::begin(caller, base, path, flags)?;
    walk.reach_last()
}

/// Walks to the last name, following links as the last name too: for O_CREAT. Answers the dentry if it exists.
///
/// # Errors
/// As [`walk`].
pub(super) fn walk_to_create(
    caller: &Caller,
    base: &Arc<Dentry>,
    path: &[u8],
    flags: WalkFlags,
) -> Result<(Last, Option<Arc<Dentry>>), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut walk = Walk::begin(caller, base, path, flags)?;
    loop {
        let last = walk.reach_last()?;
        if last.slash && last.is_name() {
            // Whatever is there: a file can't be made under such a name.
            return Err(Errno::EISDIR);
        }
        if !last.is_name() {
            let here = walk.step(&last.name)?;
            return Ok((last, here));
        }
        let found = walk.step(&last.name)?;
        let Some(found) = found else { return Ok((last, None)) };
        if found.inode().kind != Kind::Symlink || !flags.follow {
            return Ok((last, Some(found)));
        }
        walk.enter(found, true)?;
        if walk.todo.is_empty() {
            // The link led to something without a further name: a magic link, or a directory.
            let here = walk.at.clone();
            let last = Last { directory: here.clone(), name: Vec::new(), slash: walk.slash };
            return Ok((last, Some(here)));
        }
    }
}

/// The entry of a directory, if there is one. No permission is checked.
///
/// # Errors
/// ENOTDIR, EIO.
pub fn child(directory: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
    let inode = directory.inode();
    let lower = match &inode.body {
        Body::VirtualDirectory(entries) => {
            if let Some(mounted) = known(directory, name) {
                return Ok(Some(mounted));
            }
            let found = entries.lookup(name)?;
            return Ok(found.map(|inode| Dentry::new(Some(directory.clone()), name, inode)));
        }
        Body::Directory { lower } => lower,
        _ => return Err(Errno::ENOTDIR),
    };
    let children = directory.children().ok_or(Errno::ENOTDIR)?;
    if let Some(known) = children.lock().names.get(name) {
        return Ok(match known {
            Child::Lower(dentry) | Child::Upper(dentry, _) => Some(dentry.clone()),
            Child::Absent | Child::Gone => None,
        });
    }
    let (Some(lower), Some(image)) = (lower, &inode.fs.image) else { return Ok(None) };
    let found = match image.lookup(lower, name)? {
        Some(nid) => {
            let inode = image.inode(&inode.fs, nid)?;
            Child::Lower(Dentry::new(Some(directory.clone()), name, inode))
        }
        None => Child::Absent,
    };
    match children.lock().remember(name, found) {
        Child::Lower(dentry) | Child::Upper(dentry, _) => Ok(Some(dentry)),
        Child::Absent | Child::Gone => Ok(None),
    }
}

/// Something mounted in a virtual directory.
fn known(directory: &Dentry, name: &[u8]) -> Option<Arc<Dentry>> {
    match directory.children()?.lock().names.get(name) {
        Some(Child::Upper(dentry, _)) => Some(dentry.clone()),
        _ => None,
    }
}

impl<'a> Walk<'a> {
    fn begin(
        caller: &'a Caller,
        base: &Arc<Dentry>,
        path: &'a [u8],
        flags: WalkFlags,
    ) -> Result<Self, Errno> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let bounded = flags.resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT) != 0;
        let root = if bounded { base.clone() } else { caller.root.clone() };
        let mut walk = Self {
            caller,
            flags,
            at: base.clone(),
            device: base.inode().fs.device,
            root,
            links: 0,
            todo: SmallVec::new(),
            slash: false,
        };
        walk.prepend(Bytes::Given(path))?;
        Ok(walk)
    }

    /// The next name, and whether it is the last one.
    fn next(&self) -> Option<(&[u8], bool)> {
        let part = self.todo.last()?;
        Some((part.name(), self.todo.len() == 1 && part.is_last()))
    }

    /// Leaves the next name behind.
    fn advance(&mut self) {
        if let Some(part) = self.todo.last_mut() {
            let length = part.name().len();
            if !part.skip(length) {
                self.todo.pop();
            }
        }
    }

    /// Puts a path in front of what is still to go.
    fn prepend(&mut self, bytes: Bytes<'a>) -> Result<(), Errno> {
        let mut part = Part { bytes, at: 0 };
        let path = part.rest();
        let (absolute, slash) = (path.first() == Some(&b'/'), path.last() == Some(&b'/'));
        if absolute {
            if self.flags.resolve & RESOLVE_BENEATH != 0 {
                return Err(Errno::EXDEV);
            }
            self.at = self.root.clone();
            self.check_device()?;
        }
        let was_last = self.todo.is_empty();
        if part.skip(0) {
            self.todo.push(part);
        }
        if was_last && slash {
            self.slash = true;
        }
        Ok(())
    }

    fn check_device(&self) -> Result<(), Errno> {
        let crossed = self.at.inode().fs.device != self.device;
        if crossed && self.flags.resolve & RESOLVE_NO_XDEV != 0 { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// Walks up to the last name.
    fn reach_last(&mut self) -> Result<Last, Errno> {
        loop {
            let Some((name, last)) = self.next() else {
                return Ok(Last { directory: self.at.clone(), name: Vec::new(), slash: self.slash });
            };
            if last {
                self.check_directory()?;
                let name = name.to_vec();
                self.advance();
                return Ok(Last { directory: self.at.clone(), name, slash: self.slash });
            }
            let next = self.step(name)?.ok_or(Errno::ENOENT)?;
            self.advance();
            self.enter(next, true)?;
        }
    }

    fn check_directory(&self) -> Result<(), Errno> {
        if !self.at.inode().is_directory() {
            return Err(Errno::ENOTDIR);
        }
        check(self.at.inode(), &self.caller.credentials, MAY_EXEC)
    }

    /// Looks up one name where the walk is.
    fn step(&self, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
        self.check_directory()?;
        match name {
            b"" | b"." => Ok(Some(self.at.clone())),
            b".." => {
                if Arc::ptr_eq(&self.at, &self.root) {
                    let beneath = self.flags.resolve & RESOLVE_BENEATH != 0;
                    return if beneath { Err(Errno::EXDEV) } else { Ok(Some(self.at.clone())) };
                }
                Ok(Some(self.at.parent().unwrap_or_else(|| self.at.clone())))
            }
            _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
            _ => child(&self.at, name),
        }
    }

    /// Goes to what a name stands for, through a link if asked to.
    fn enter(&mut self, next: Arc<Dentry>, follow: bool) -> Result<(), Errno> {
        if next.inode().kind != Kind::Symlink || !follow {
            self.at = next;
            return self.check_device();
        }
        if self.flags.resolve & RESOLVE_NO_SYMLINKS != 0 {
            return Err(Errno::ELOOP);
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        match &next.inode().body {
            Body::Symlink(target) => self.prepend(Bytes::Link(target.clone())),
            Body::VirtualLink(link) => match link.jump(self.caller) {
                Some(place) => {
                    if self.flags.resolve & RESOLVE_NO_MAGICLINKS != 0 {
                        return Err(Errno::ELOOP);
                    }
                    if self.flags.resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT) != 0 {
                        return Err(Errno::EXDEV);
                    }
                    self.at = place?;
                    self.check_device()
                }
                None => self.prepend(Bytes::Link(link.target(self.caller)?.into())),
            },
            _ => Err(Errno::EIO),
        }
    }
}
