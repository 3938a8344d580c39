//! Inodes: what a name stands for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::lock::Locks;
use super::virtual_nodes::{VirtualDirectory, VirtualFile, VirtualLink};
use crate::errno::Errno;
use crate::fs::budget::{Budget, Charge};
use crate::fs::content::Content;
use crate::fs::hostfd::HostFile;
use crate::fs::image::{Image, ImageInode};
use crate::fs::inotify::Watches;
use crate::fs::pipe::Pipe;
use crate::fs::regular::wants_access_time;
use crate::fs::scratch::Scratch;
use crate::sync::Mutex;

/// Type of an inode: the `S_IFMT` bits of its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// S_IFREG.
    Regular = 0o100_000,
    /// S_IFDIR.
    Directory = 0o040_000,
    /// S_IFLNK.
    Symlink = 0o120_000,
    /// S_IFCHR.
    CharDevice = 0o020_000,
    /// S_IFBLK.
    BlockDevice = 0o060_000,
    /// S_IFIFO.
    Fifo = 0o010_000,
    /// S_IFSOCK.
    Socket = 0o140_000,
    /// No type: eventfd, epoll, ...
    Anonymous = 0,
}

impl Kind {
    /// The kind that the type bits of a mode say; a regular file for no type, as mknod(2) has it.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0 | 0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// `d_type` of a directory entry.
    pub const fn dirent_type(self) -> u8 {
        (self as u32 >> 12) as u8
    }
}

/// A point in time as file systems have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Now, as precise as the kernel's tick.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 }
    }
}

/// Extended attributes by full name.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// What changes about an inode, but for its content.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names.
    pub nlink: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Extended attributes, once they were changed (before that: the image's).
    pub xattrs: Option<Box<Xattrs>>,
}

impl Meta {
    /// Of something made now.
    pub fn new(mode: u32, uid: u32, gid: u32) -> Self {
        let now = Timestamp::now();
        Self {
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: 1,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: None,
        }
    }
}

/// What an inode consists of.
pub enum Body {
    /// A regular file with bytes of its own.
    Regular(Content),
    /// A directory whose entries are in its dentry; `lower` is the image's directory under it.
    Directory {
        /// Entries that are not in memory are looked for there.
        lower: Option<Box<ImageInode>>,
    },
    /// A symbolic link.
    Symlink(Box<[u8]>),
    /// A device node; `(major, minor)`.
    Device(u32, u32),
    /// A FIFO or pipe; a FIFO's pipe is made at its first open.
    Fifo(OnceLock<Arc<Pipe>>),
    /// A bound AF_UNIX socket's name.
    Socket(Mutex<Option<std::sync::Weak<crate::net::unix::Endpoint>>>),
    /// One of the job's own standard streams.
    Host(Arc<HostFile>),
    /// A file whose content is made when it is opened.
    Virtual(Arc<dyn VirtualFile>),
    /// A directory whose entries are made when they are asked for.
    VirtualDirectory(Arc<dyn VirtualDirectory>),
    /// A link whose target is made when it is asked for.
    VirtualLink(Arc<dyn VirtualLink>),
    /// Something without a place in the tree: the open file has all.
    Anonymous,
}

/// Where a file system keeps the bytes of regular files.
#[derive(Clone)]
pub enum Storage {
    /// On the host's disk, charged to the job's disk limit.
    Scratch(Arc<Scratch>),
    /// In memory, bounded by this budget.
    Memory(Arc<Budget>),
    /// Nothing can be created.
    None,
}

/// A file system: what the inodes with one device number have in common.
pub struct FileSystem {
    /// Type as in /proc/mounts.
    pub name: &'static str,
    /// `st_dev`: minor number of major 0.
    pub device: u32,
    /// `f_type` of statfs.
    pub magic: u64,
    /// Where new files live.
    pub storage: Storage,
    /// The image under it.
    pub image: Option<Arc<Image>>,
    next_number: AtomicU64,
}

impl FileSystem {
    /// A file system; inode numbers of new inodes start behind the image's.
    pub fn new(
        name: &'static str,
        device: u32,
        magic: u64,
        storage: Storage,
        image: Option<Arc<Image>>,
    ) -> Arc<Self> {
        let first = image.as_ref().map_or(2, |image| image.end_of_numbers());
        Arc::new(Self { name, device, magic, storage, image, next_number: AtomicU64::new(first) })
    }

    /// A number for a new inode.
    pub fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// The budget that metadata are charged to, if any.
    pub fn budget(&self) -> Option<&Arc<Budget>> {
        match &self.storage {
            Storage::Scratch(scratch) => Some(scratch.budget()),
            Storage::Memory(budget) => Some(budget),
            Storage::None => None,
        }
    }

    /// Charges bytes of metadata.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn charge(&self, bytes: u64) -> Result<Option<Charge>, Errno> {
        self.budget().map(|budget| budget.charge(bytes)).transpose()
    }
}

/// Bytes charged for an inode and for a name: about twice what they take in the sentry's memory, so that the
/// disk limit bounds that too.
pub const METADATA_CHARGE: u64 = 1024;

/// What few inodes have.
#[derive(Default)]
pub struct Extra {
    /// Record locks and flocks.
    pub locks: Locks,
    /// inotify watches.
    pub watches: Watches,
}

/// An inode.
pub struct Inode {
    /// `st_ino`.
    pub number: u64,
    /// Its file system.
    pub fs: Arc<FileSystem>,
    /// Type.
    pub kind: Kind,
    /// Content.
    pub body: Body,
    /// Its inode in the image, if it came from there.
    pub origin: Option<u64>,
    meta: Mutex<Meta>,
    /// Differs from the image: may not be forgotten.
    changed: AtomicBool,
    /// Can't be linked back into the tree.
    unlinkable: AtomicBool,
    /// Open files that write (positive), or programs that run from it (negative).
    writers: AtomicI32,
    extra: OnceLock<Box<Extra>>,
    /// What its metadata cost; given back when it goes.
    charges: Mutex<Vec<Charge>>,
}

impl Inode {
    /// A new inode of `fs`, not charged.
    pub fn new(fs: &Arc<FileSystem>, number: u64, kind: Kind, meta: Meta, body: Body) -> Arc<Self> {
        Arc::new(Self::assemble(fs, number, kind, meta, body, None))
    }

    /// A new inode of `fs`, charged to its budget.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn create(fs: &Arc<FileSystem>, kind: Kind, meta: Meta, body: Body) -> Result<Arc<Self>, Errno> {
        let target = if let Body::Symlink(target) = &body { target.len() as u64 } else { 0 };
        let charge = fs.charge(METADATA_CHARGE + target)?;
        let inode = Self::assemble(fs, fs.next_number(), kind, meta, body, None);
        inode.charges.lock().extend(charge);
        inode.changed.store(true, Ordering::Relaxed);
        Ok(Arc::new(inode))
    }

    /// The inode of an image's inode.
    pub fn from_image(fs: &Arc<FileSystem>, nid: u64, kind: Kind, meta: Meta, body: Body) -> Arc<Self> {
        Arc::new(Self::assemble(fs, nid, kind, meta, body, Some(nid)))
    }

    fn assemble(
        fs: &Arc<FileSystem>,
        number: u64,
        kind: Kind,
        meta: Meta,
        body: Body,
        origin: Option<u64>,
    ) -> Self {
        Self {
            number,
            fs: fs.clone(),
            kind,
            body,
            origin,
            meta: Mutex::new(meta),
            changed: AtomicBool::new(origin.is_none()),
            unlinkable: AtomicBool::new(false),
            writers: AtomicI32::new(0),
            extra: OnceLock::new(),
            charges: Mutex::default(),
        }
    }

    /// A copy of the metadata.
    pub fn meta(&self) -> Meta {
        let meta = self.meta.lock();
        Meta { xattrs: None, ..*meta }
    }

    /// Looks at the metadata.
    pub fn with_meta<T>(&self, look: impl FnOnce(&Meta) -> T) -> T {
        look(&self.meta.lock())
    }

    /// Changes the metadata; the inode differs from the image from now on.
    pub fn change<T>(&self, change: impl FnOnce(&mut Meta) -> T) -> T {
        self.changed.store(true, Ordering::Relaxed);
        change(&mut self.meta.lock())
    }

    /// Sets mtime and ctime to now.
    pub fn touch(&self) {
        let now = Timestamp::now();
        self.change(|meta| {
            meta.mtime = now;
            meta.ctime = now;
        });
    }

    /// Notes that the content was read, as a file system mounted `relatime` does. An image's files stay as they
    /// are: reading must not make them the sentry's to remember.
    pub fn note_access(&self) {
        if self.is_changed() && self.fs.budget().is_some() {
            let mut meta = self.meta.lock();
            let now = Timestamp::now();
            if wants_access_time(meta.atime, meta.mtime, meta.ctime, now) {
                meta.atime = now;
            }
        }
    }

    /// Takes away set-user and set-group, since the content has changed.
    pub fn lose_set_id(&self) {
        let mut meta = self.meta.lock();
        if meta.mode & 0o6000 != 0 {
            meta.mode = super::permission::without_set_id(meta.mode);
        }
    }

    /// Keeps a file without a name from getting one (O_TMPFILE with O_EXCL).
    pub fn forbid_linking(&self) {
        self.unlinkable.store(true, Ordering::Relaxed);
    }

    /// Whether a file without a name may get one.
    pub fn may_be_linked(&self) -> bool {
        !self.unlinkable.load(Ordering::Relaxed)
    }

    /// Whether it differs from the image.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Whether it is a directory of any sort.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The content of a regular file.
    pub fn content(&self) -> Option<&Content> {
        if let Body::Regular(content) = &self.body { Some(content) } else { None }
    }

    /// Locks and watches, made if there are none.
    pub fn extra(&self) -> &Extra {
        self.extra.get_or_init(Box::default)
    }

    /// Locks and watches, if there are any.
    pub fn extra_if_any(&self) -> Option<&Extra> {
        self.extra.get().map(|extra| &**extra)
    }

    /// Keeps a charge for as long as the inode lives.
    pub fn keep_charge(&self, charge: Option<Charge>) {
        self.charges.lock().extend(charge);
    }

    /// Counts an open file that may write.
    ///
    /// # Errors
    /// ETXTBSY while a program runs from it.
    pub fn begin_write(&self) -> Result<(), Errno> {
        let more = |count: i32| if count < 0 { None } else { count.checked_add(1) };
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Ends what [`Inode::begin_write`] began.
    pub fn end_write(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps everyone from opening it for writing while the answer lives: a program runs from it.
    ///
    /// # Errors
    /// ETXTBSY while it is open for writing.
    pub fn deny_write(self: &Arc<Self>) -> Result<DenyWrite, Errno> {
        let more = |count: i32| if count > 0 { None } else { count.checked_sub(1) };
        match self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(DenyWrite(self.clone())),
            Err(_) => Err(Errno::ETXTBSY),
        }
    }
}

/// While it lives nobody can open the inode for writing.
pub struct DenyWrite(Arc<Inode>);

impl Drop for DenyWrite {
    fn drop(&mut self) {
        self.0.writers.fetch_add(1, Ordering::AcqRel);
    }
}
