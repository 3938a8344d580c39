//! Path walks.
//!
//! A walk takes no lock over several names: each step is atomic in itself. Whoever then changes the tree takes
//! the tree's lock and looks at the last name again.

use std::collections::VecDeque;
use std::sync::Arc;

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
    /// Names still to go, the next one first.
    todo: VecDeque<Vec<u8>>,
    slash: bool,
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
    while let Some(name) = walk.todo.pop_front() {
        let last = walk.todo.is_empty();
        let next = walk.step(&name)?.ok_or(Errno::ENOENT)?;
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
    fn begin(caller: &'a Caller, base: &Arc<Dentry>, path: &[u8], flags: WalkFlags) -> Result<Self, Errno> {
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
            todo: VecDeque::new(),
            slash: false,
        };
        walk.prepend(path)?;
        Ok(walk)
    }

    /// Puts a path in front of what is still to go.
    fn prepend(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.first() == Some(&b'/') {
            if self.flags.resolve & RESOLVE_BENEATH != 0 {
                return Err(Errno::EXDEV);
            }
            self.at = self.root.clone();
            self.check_device()?;
        }
        let was_last = self.todo.is_empty();
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        for name in names.iter().rev() {
            self.todo.push_front(name.to_vec());
        }
        if was_last && path.last() == Some(&b'/') {
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
            let Some(name) = self.todo.pop_front() else {
                return Ok(Last { directory: self.at.clone(), name: Vec::new(), slash: self.slash });
            };
            if self.todo.is_empty() {
                self.check_directory()?;
                return Ok(Last { directory: self.at.clone(), name, slash: self.slash });
            }
            let next = self.step(&name)?.ok_or(Errno::ENOENT)?;
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
    fn step(&mut self, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
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
            Body::Symlink(target) => self.prepend(target),
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
                None => self.prepend(&link.target(self.caller)?),
            },
            _ => Err(Errno::EIO),
        }
    }
}
