//! open(2) and its relatives.

use std::sync::{Arc, OnceLock};

use super::flags::{
    __O_TMPFILE, KEPT_FLAGS, O_ACCMODE, O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOATIME, O_NOFOLLOW,
    O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
};
use super::permission::{MAY_EXEC, MAY_READ, MAY_WRITE, check, check_creation, is_owner, new_meta};
use super::walk::{Last, child, walk_to_create};
use super::{Body, Caller, Capability, Dentry, Inode, Kind, OpenFile, Vfs, WalkFlags, walk};
use crate::errno::Errno;
use crate::fs::content::Content;
use crate::fs::inotify;
use crate::fs::pipe::Pipe;
use crate::fs::regular::{DirectoryFile, PathFile, RegularFile, VirtualOpenFile};
use crate::fs::{device, hostfd};

/// How to open.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenHow {
    /// O_*.
    pub flags: u32,
    /// Permission bits of a new file, before the umask.
    pub mode: u32,
    /// RESOLVE_*.
    pub resolve: u32,
}

impl OpenHow {
    /// Reading only.
    pub const READ: Self = Self { flags: O_RDONLY, mode: 0, resolve: 0 };

    /// With these flags.
    pub const fn flags(flags: u32, mode: u32) -> Self {
        Self { flags, mode, resolve: 0 }
    }
}

impl Vfs {
    /// Opens a path. `base` is where a relative path starts.
    ///
    /// # Errors
    /// As open(2). EAGAIN stands for "wait": a FIFO that has no other end yet ([`Vfs::open_dentry`]).
    pub fn open(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        how: OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let flags = how.flags;
        if flags & O_PATH != 0 {
            let follow = flags & O_NOFOLLOW == 0;
            let dentry =
                self.lookup(caller, base, path, WalkFlags { follow, resolve: how.resolve, empty: false })?;
            if flags & O_DIRECTORY != 0 && !dentry.inode().is_directory() {
                return Err(Errno::ENOTDIR);
            }
            let kept = flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
            return Ok(OpenFile::new(dentry, kept, Box::new(PathFile)));
        }
        if flags & O_TMPFILE == O_TMPFILE {
            return self.open_temporary(caller, base, path, how);
        }
        if flags & __O_TMPFILE != 0 || flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & O_CREAT != 0 {
            return self.open_or_create(caller, base, path, how);
        }
        let follow = flags & O_NOFOLLOW == 0;
        let walk = WalkFlags { follow, resolve: how.resolve, empty: false };
        let dentry = self.lookup(caller, base, path, walk)?;
        self.open_dentry(caller, &dentry, flags)
    }

    fn open_or_create(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        how: OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let exclusive = how.flags & O_EXCL != 0;
        let follow = how.flags & O_NOFOLLOW == 0 && !exclusive;
        let walk = WalkFlags { follow, resolve: how.resolve, empty: false };
        let (last, found) = walk_to_create(caller, base, path, walk)?;
        let dentry = match found {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(dentry) => dentry,
            None => {
                let (dentry, created) = self.create_regular(caller, &last, how.mode)?;
                if created {
                    // Its creator may open it however it likes, whatever the mode.
                    return Self::open_as(caller, &dentry, how.flags);
                }
                if exclusive {
                    return Err(Errno::EEXIST);
                }
                dentry
            }
        };
        if dentry.inode().is_directory() {
            return Err(Errno::EISDIR);
        }
        protect_sticky(caller, &last.directory, dentry.inode())?;
        self.open_dentry(caller, &dentry, how.flags)
    }

    /// Makes an empty regular file, unless somebody was faster: then the answer says so.
    fn create_regular(&self, caller: &Caller, last: &Last, mode: u32) -> Result<(Arc<Dentry>, bool), Errno> {
        let tree = self.tree.lock();
        if let Some(found) = child(&last.directory, &last.name)? {
            return Ok((found, false));
        }
        check_creation(&last.directory, &caller.credentials)?;
        let directory = last.directory.inode();
        let meta = new_meta(directory, &caller.credentials, Kind::Regular, mode & 0o7777, caller.umask);
        let body = Body::Regular(Content::empty(&directory.fs.storage));
        let inode = Inode::create(&directory.fs, Kind::Regular, meta, body)?;
        let dentry = self.add_name(&last.directory, &last.name, inode)?;
        drop(tree);
        inotify::notify_entry(&last.directory, inotify::IN_CREATE, &last.name, 0);
        Ok((dentry, true))
    }

    fn open_temporary(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        how: OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        if !matches!(how.flags & O_ACCMODE, O_WRONLY | O_RDWR) {
            return Err(Errno::EINVAL);
        }
        let walk = WalkFlags { follow: how.flags & O_NOFOLLOW == 0, resolve: how.resolve, empty: false };
        let directory = self.lookup(caller, base, path, walk)?;
        if !directory.inode().is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if directory.inode().fs.budget().is_none() {
            return Err(Errno::EOPNOTSUPP);
        }
        check_creation(&directory, &caller.credentials)?;
        let parent = directory.inode();
        let mut meta = new_meta(parent, &caller.credentials, Kind::Regular, how.mode, caller.umask);
        meta.nlink = 0;
        let body = Body::Regular(Content::empty(&parent.fs.storage));
        let inode = Inode::create(&parent.fs, Kind::Regular, meta, body)?;
        if how.flags & O_EXCL != 0 {
            inode.forbid_linking();
        }
        let name = format!("#{}", inode.number);
        let dentry = Dentry::new(Some(directory), name.as_bytes(), inode);
        dentry.mark_unlinked();
        Self::open_as(caller, &dentry, how.flags & !O_TMPFILE)
    }

    /// Opens what a walk has found, with permission checks.
    ///
    /// # Errors
    /// As open(2) without O_CREAT.
    pub fn open_dentry(
        &self,
        caller: &Caller,
        dentry: &Arc<Dentry>,
        flags: u32,
    ) -> Result<Arc<OpenFile>, Errno> {
        let inode = dentry.inode();
        if flags & O_DIRECTORY != 0 && !inode.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let writes = flags & O_ACCMODE != O_RDONLY;
        match inode.kind {
            Kind::Symlink => return Err(Errno::ELOOP),
            Kind::Directory if writes || flags & O_TRUNC != 0 => return Err(Errno::EISDIR),
            Kind::Socket => return Err(Errno::ENXIO),
            _ => {}
        }
        let mut wanted = match flags & O_ACCMODE {
            O_RDONLY => MAY_READ,
            O_WRONLY => MAY_WRITE,
            _ => MAY_READ | MAY_WRITE,
        };
        if flags & O_TRUNC != 0 {
            wanted |= MAY_WRITE;
        }
        check(inode, &caller.credentials, wanted)?;
        if flags & O_NOATIME != 0 && !inode.with_meta(|meta| is_owner(meta, &caller.credentials)) {
            return Err(Errno::EPERM);
        }
        Self::open_as(caller, dentry, flags)
    }

    /// Opens without permission checks, for somebody.
    fn open_as(caller: &Caller, dentry: &Arc<Dentry>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
        let mode = dentry.inode().with_meta(|meta| meta.mode);
        let file = Self::open_unchecked(dentry, flags)?;
        if caller.credentials.can(Capability::Fsetid) {
            file.keep_set_id();
            if mode & 0o6000 != 0 && flags & O_TRUNC != 0 {
                dentry.inode().change(|meta| meta.mode = mode);
            }
        }
        Ok(file)
    }

    /// Opens without permission checks.
    ///
    /// # Errors
    /// ENXIO, EACCES for device nodes of an image, ETXTBSY, EAGAIN for FIFOs.
    pub fn open_unchecked(dentry: &Arc<Dentry>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
        let kept = flags & KEPT_FLAGS;
        let inode = dentry.inode();
        let writes = flags & O_ACCMODE != O_RDONLY;
        let file = match &inode.body {
            Body::Regular(content) => {
                let file = if writes {
                    OpenFile::new_writer(dentry.clone(), kept, Box::new(RegularFile))?
                } else {
                    OpenFile::new(dentry.clone(), kept, Box::new(RegularFile))
                };
                if flags & O_TRUNC != 0 {
                    if !writes {
                        inode.begin_write()?;
                        inode.end_write();
                    }
                    let had_bytes = content.size() > 0;
                    content.truncate(0)?;
                    inode.lose_set_id();
                    inode.touch();
                    if had_bytes {
                        inotify::notify(dentry, inotify::IN_MODIFY);
                    }
                }
                file
            }
            Body::Directory { .. } | Body::VirtualDirectory(_) => {
                OpenFile::new(dentry.clone(), kept, Box::new(DirectoryFile))
            }
            Body::Virtual(source) => {
                let append = kept & !O_APPEND;
                OpenFile::new(dentry.clone(), append, Box::new(VirtualOpenFile::new(source.clone())))
            }
            Body::Fifo(pipe) => {
                let pipe = pipe.get_or_init(Pipe::named);
                pipe.open(dentry.clone(), kept)?
            }
            Body::Device(major, minor) => device::open(dentry.clone(), kept, *major, *minor)?,
            Body::Host(host) => hostfd::open(dentry.clone(), kept, host)?,
            Body::Socket(_) | Body::Anonymous => return Err(Errno::ENXIO),
            Body::Symlink(_) | Body::VirtualLink(_) => return Err(Errno::ELOOP),
        };
        inotify::notify(dentry, inotify::IN_OPEN);
        Ok(file)
    }

    /// Opens a program: a regular file that may be executed. Nobody can write to it while the answer's inode is
    /// kept from being written ([`Inode::deny_write`]), which is the caller's choice.
    ///
    /// # Errors
    /// EACCES, ELOOP with `follow` off, and those of path resolution.
    pub fn open_executable(
        &self,
        caller: &Caller,
        base: &Arc<Dentry>,
        path: &[u8],
        flags: WalkFlags,
    ) -> Result<Arc<OpenFile>, Errno> {
        let dentry = walk(caller, base, path, flags)?;
        match dentry.inode().kind {
            Kind::Regular => {}
            Kind::Symlink => return Err(Errno::ELOOP),
            _ => return Err(Errno::EACCES),
        }
        check(dentry.inode(), &caller.credentials, MAY_EXEC)?;
        if !matches!(dentry.inode().body, Body::Regular(_)) {
            return Err(Errno::EACCES);
        }
        Self::open_unchecked(&dentry, O_RDONLY)
    }

    /// An anonymous memory file (memfd_create, shared anonymous memory).
    ///
    /// # Errors
    /// ENOSPC.
    pub fn memory_file(&self, caller: &Caller, name: &[u8]) -> Result<Arc<OpenFile>, Errno> {
        self.unnamed_memory(caller, &[b"/memfd:", name, b" (deleted)"].concat(), 0o777)
    }

    /// A file in memory that is in no directory, and how it is shown; its mode is that of a segment of System V
    /// shared memory, or a memfd's.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn unnamed_memory(&self, caller: &Caller, shown: &[u8], mode: u32) -> Result<Arc<OpenFile>, Errno> {
        let mut meta = super::Meta::new(mode, caller.credentials.fsuid, caller.credentials.fsgid);
        meta.nlink = 0;
        let body = Body::Regular(Content::empty(&self.shared_memory.storage));
        let inode = Inode::create(&self.shared_memory, Kind::Regular, meta, body)?;
        let dentry = Dentry::new(None, shown, inode);
        OpenFile::new_writer(dentry, O_RDWR, Box::new(RegularFile))
    }

    /// An open file that has no place in the tree and no content: eventfd, epoll and the like. `name` is shown
    /// behind `anon_inode:`.
    pub fn anonymous_file(&self, name: &str, flags: u32, object: Box<dyn super::File>) -> Arc<OpenFile> {
        let number = self.anonymous.next_number();
        let inode = Inode::new(
            &self.anonymous,
            number,
            Kind::Anonymous,
            super::Meta::new(0o600, 0, 0),
            Body::Anonymous,
        );
        OpenFile::new(Dentry::anonymous(&format!("anon_inode:{name}"), inode), flags & KEPT_FLAGS, object)
    }

    /// A new pipe: its reading and its writing end.
    pub fn pipe(&self, caller: &Caller, flags: u32) -> (Arc<OpenFile>, Arc<OpenFile>) {
        let number = self.anonymous.next_number();
        let meta = super::Meta::new(0o600, caller.credentials.fsuid, caller.credentials.fsgid);
        let pipe = Pipe::anonymous();
        let body = Body::Fifo(OnceLock::from(pipe.clone()));
        let inode = Inode::new(&self.anonymous, number, Kind::Fifo, meta, body);
        let dentry = Dentry::anonymous(&format!("pipe:[{number}]"), inode);
        pipe.ends(dentry, flags & KEPT_FLAGS)
    }
}

/// fs.protected_regular and protected_fifos: nobody opens another's file with O_CREAT in a sticky directory that
/// everybody can write to.
fn protect_sticky(caller: &Caller, directory: &Dentry, inode: &Inode) -> Result<(), Errno> {
    if !matches!(inode.kind, Kind::Regular | Kind::Fifo) {
        return Ok(());
    }
    let (mode, directory_owner) = directory.inode().with_meta(|meta| (meta.mode, meta.uid));
    let owner = inode.with_meta(|meta| meta.uid);
    let shared = mode & 0o1002 == 0o1002;
    if shared && owner != caller.credentials.fsuid && owner != directory_owner {
        return Err(Errno::EACCES);
    }
    Ok(())
}
