//! The file systems of a job, put together.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use super::{Body, Dentry, FileSystem, Inode, Kind, Meta, Storage, Vfs};
use crate::errno::Errno;
use crate::fs::budget::Budget;
use crate::fs::content::Content;
use crate::fs::device;
use crate::fs::image::Image;
use crate::fs::scratch::Scratch;
use crate::sync::Mutex;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const PROC_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;
const ANON_MAGIC: u64 = 0x0904_1934;

/// Minor numbers of the file systems' devices (major 0).
const ROOT_DEVICE: u32 = 0x20;
const DEV_DEVICE: u32 = 0x21;
const SHM_DEVICE: u32 = 0x22;
const PROC_DEVICE: u32 = 0x23;
const SYS_DEVICE: u32 = 0x24;
const ANON_DEVICE: u32 = 0x0e;
const MEMFD_DEVICE: u32 = 0x01;

/// What a job's file systems are made from.
pub struct Setup {
    /// The image of the root, if there is one.
    pub image: Option<Arc<Image>>,
    /// The host's directory for files.
    pub scratch: OwnedFd,
    /// Limit of files on disk, in bytes.
    pub disk_limit: u64,
    /// Limit of files in memory (/dev/shm, memfds) together, in bytes.
    pub memory_limit: u64,
}

/// A line of /proc/mounts.
#[derive(Debug, Clone)]
pub struct MountLine {
    /// Source.
    pub source: &'static str,
    /// Where.
    pub target: &'static str,
    /// Type.
    pub kind: &'static str,
    /// Options.
    pub options: &'static str,
    /// Minor number of the device.
    pub device: u32,
}

impl Vfs {
    /// Makes the file systems: the root over the image, /dev, /dev/shm, and the usual directories. /proc and
    /// /sys come later, when the kernel that they show exists ([`Vfs::mount_proc`]).
    ///
    /// # Errors
    /// EIO for a damaged image, ENOSPC if the disk limit is too small for the directories.
    pub fn new(setup: Setup) -> Result<Arc<Self>, Errno> {
        let disk = Budget::new(setup.disk_limit);
        let memory = Budget::new(setup.memory_limit);
        let scratch = Scratch::new(setup.scratch, disk.clone());
        let in_memory = Storage::Memory(memory.clone());
        let image = setup.image;
        let root_fs = FileSystem::new(
            "overlay",
            ROOT_DEVICE,
            OVERLAYFS_MAGIC,
            Storage::Scratch(scratch),
            image.clone(),
        );
        let root = match &image {
            Some(image) => Dentry::new(None, b"", image.inode(&root_fs, image.root())?),
            None => new_root(&root_fs, 0o755),
        };
        let vfs = Self {
            root,
            tree: Mutex::new(()),
            mounts: mount_lines(),
            disk,
            memory,
            anonymous: FileSystem::new("anon_inodefs", ANON_DEVICE, ANON_MAGIC, Storage::None, None),
            shared_memory: FileSystem::new("tmpfs", MEMFD_DEVICE, TMPFS_MAGIC, in_memory.clone(), None),
            proc_root: OnceLock::new(),
            socket_names: crate::net::unix::Names::default(),
        };
        for (name, mode) in [("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("tmp", 0o1777), ("etc", 0o755)]
        {
            vfs.ensure_directory(&vfs.root, name.as_bytes(), mode)?;
        }
        let dev_fs = FileSystem::new("tmpfs", DEV_DEVICE, TMPFS_MAGIC, in_memory.clone(), None);
        let dev = vfs.mount(&vfs.root, b"dev", new_root(&dev_fs, 0o755).inode().clone())?;
        device::populate(&vfs, &dev)?;
        let shm_fs = FileSystem::new("tmpfs", SHM_DEVICE, TMPFS_MAGIC, in_memory, None);
        vfs.mount(&dev, b"shm", new_root(&shm_fs, 0o1777).inode().clone())?;
        Ok(Arc::new(vfs))
    }

    /// The file system that /proc's inodes are of.
    pub fn new_proc_fs() -> Arc<FileSystem> {
        FileSystem::new("proc", PROC_DEVICE, PROC_MAGIC, Storage::None, None)
    }

    /// The file system that /sys' inodes are of.
    pub fn new_sys_fs() -> Arc<FileSystem> {
        FileSystem::new("sysfs", SYS_DEVICE, SYSFS_MAGIC, Storage::None, None)
    }

    /// Mounts /proc.
    ///
    /// # Errors
    /// EBUSY if it was mounted before.
    pub fn mount_proc(&self, root: Arc<Inode>) -> Result<(), Errno> {
        let dentry = self.mount(&self.root, b"proc", root)?;
        self.proc_root.set(dentry).map_err(|_| Errno::EBUSY)
    }

    /// Mounts /sys.
    ///
    /// # Errors
    /// None but ENOTDIR for a wrong root.
    pub fn mount_sys(&self, root: Arc<Inode>) -> Result<(), Errno> {
        self.mount(&self.root, b"sys", root).map(|_| ())
    }

    fn mount(&self, directory: &Arc<Dentry>, name: &[u8], root: Arc<Inode>) -> Result<Arc<Dentry>, Errno> {
        let _tree = self.tree.lock();
        let dentry = Dentry::new(Some(directory.clone()), name, root);
        let mut children = directory.children().ok_or(Errno::ENOTDIR)?.lock();
        children.remove(name, false);
        children.add(name, dentry.clone());
        Ok(dentry)
    }

    /// Makes a directory if there is nothing of that name.
    pub(crate) fn ensure_directory(
        &self,
        parent: &Arc<Dentry>,
        name: &[u8],
        mode: u32,
    ) -> Result<Arc<Dentry>, Errno> {
        if let Some(found) = super::child(parent, name)? {
            return Ok(found);
        }
        let mut meta = Meta::new(mode, 0, 0);
        meta.nlink = 2;
        self.ensure(parent, name, Kind::Directory, meta, Body::Directory { lower: None })
    }

    /// Makes an entry whose name is known to be free, as part of setting up.
    pub(crate) fn ensure(
        &self,
        parent: &Arc<Dentry>,
        name: &[u8],
        kind: Kind,
        meta: Meta,
        body: Body,
    ) -> Result<Arc<Dentry>, Errno> {
        let fs = &parent.inode().fs;
        // A job can't remove these, and they are few: not charged.
        let inode = Inode::new(fs, fs.next_number(), kind, meta, body);
        let dentry = Dentry::new(Some(parent.clone()), name, inode);
        parent.children().ok_or(Errno::ENOTDIR)?.lock().add(name, dentry.clone());
        if kind == Kind::Directory {
            parent.inode().change(|meta| meta.nlink += 1);
        }
        Ok(dentry)
    }

    /// Makes a regular file with this content, replacing what is there: for /etc/hosts and the like.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn put_file(&self, parent: &Arc<Dentry>, name: &[u8], mode: u32, bytes: &[u8]) -> Result<(), Errno> {
        let content = Content::empty(&parent.inode().fs.storage);
        if content.write_at(0, bytes)? < bytes.len() {
            return Err(Errno::ENOSPC);
        }
        if super::child(parent, name)?.is_some() {
            self.remove_name(parent, name)?;
        }
        self.ensure(parent, name, Kind::Regular, Meta::new(mode, 0, 0), Body::Regular(content))?;
        Ok(())
    }
}

fn new_root(fs: &Arc<FileSystem>, mode: u32) -> Arc<Dentry> {
    let mut meta = Meta::new(mode, 0, 0);
    meta.nlink = 2;
    let body = Body::Directory { lower: None };
    let inode = Inode::new(fs, fs.next_number(), Kind::Directory, meta, body);
    Dentry::new(None, b"", inode)
}

fn mount_lines() -> Vec<MountLine> {
    let line = |source, target, kind, options, device| MountLine { source, target, kind, options, device };
    vec![
        line("overlay", "/", "overlay", "rw,relatime", ROOT_DEVICE),
        line("proc", "/proc", "proc", "rw,nosuid,nodev,noexec,relatime", PROC_DEVICE),
        line("sysfs", "/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime", SYS_DEVICE),
        line("tmpfs", "/dev", "tmpfs", "rw,nosuid,mode=755", DEV_DEVICE),
        line("tmpfs", "/dev/shm", "tmpfs", "rw,nosuid,nodev", SHM_DEVICE),
    ]
}
