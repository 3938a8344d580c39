//! The image under a job's root: EROFS, read through a bounded cache of its metadata.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bulkhead_erofs::{FileKind, ReadAt, Reader};

use super::content::Content;
use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{Body, FileSystem, Inode, Kind, Meta, Timestamp};

/// An inode as the image has it.
pub type ImageInode = bulkhead_erofs::Inode;

/// Bytes that one host read of metadata brings in.
const GRANULE: u64 = 16 << 10;
/// Granules kept: 4 MiB, so that an idle sandbox stays small while a build's directories fit.
const GRANULES: usize = 256;

/// A host file read through a cache.
pub struct CachedSource {
    file: Arc<OwnedFd>,
    length: u64,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    granules: HashMap<u64, Arc<[u8]>>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl CachedSource {
    fn granule(&self, number: u64) -> std::io::Result<Arc<[u8]>> {
        if let Some(granule) = self.cache.lock().granules.get(&number) {
            return Ok(granule.clone());
        }
        let start = number * GRANULE;
        let mut bytes = vec![0; GRANULE.min(self.length.saturating_sub(start)) as usize];
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(&self.file, &mut bytes[done..], start + done as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        let granule: Arc<[u8]> = bytes.into();
        let mut cache = self.cache.lock();
        if cache.granules.insert(number, granule.clone()).is_none() {
            cache.order.push_back(number);
        }
        while cache.order.len() > GRANULES {
            if let Some(oldest) = cache.order.pop_front() {
                cache.granules.remove(&oldest);
            }
        }
        Ok(granule)
    }
}

impl ReadAt for CachedSource {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if offset >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        let granule = self.granule(offset / GRANULE)?;
        let within = (offset % GRANULE) as usize;
        let count = buffer.len().min(granule.len().saturating_sub(within));
        buffer[..count].copy_from_slice(&granule[within..within + count]);
        Ok(count)
    }

    fn length(&self) -> std::io::Result<u64> {
        Ok(self.length)
    }
}

/// One file of an image.
struct Part {
    reader: Reader<CachedSource>,
    file: Arc<OwnedFd>,
}

impl Part {
    fn open(file: OwnedFd) -> Result<Self, bulkhead_erofs::Error> {
        let file = Arc::new(file);
        let length = rustix::fs::fstat(&file).map_err(|e| bulkhead_erofs::Error::Read(e.into()))?.st_size;
        let source =
            CachedSource { file: file.clone(), length: length.max(0) as u64, cache: Mutex::default() };
        Ok(Self { reader: Reader::open(source)?, file })
    }
}

/// An image: the public file and, where some files are not world-readable, the private one.
pub struct Image {
    public: Part,
    private: Option<Part>,
    /// Inodes with several names, so that all names meet in one inode.
    linked: Mutex<HashMap<u64, Arc<Inode>>>,
}

/// Where the bytes of a regular file of an image are.
pub struct ImageFile {
    image: Arc<Image>,
    inode: ImageInode,
    private: bool,
}

impl Image {
    /// Opens an image's host files.
    ///
    /// # Errors
    /// What the reader finds wrong.
    pub fn open(public: OwnedFd, private: Option<OwnedFd>) -> Result<Arc<Self>, bulkhead_erofs::Error> {
        let private = private.map(Part::open).transpose()?;
        Ok(Arc::new(Self { public: Part::open(public)?, private, linked: Mutex::default() }))
    }

    /// The host file that stubs may map.
    pub fn public_file(&self) -> &Arc<OwnedFd> {
        &self.public.file
    }

    /// No inode number of the image is as large as this.
    pub fn end_of_numbers(&self) -> u64 {
        self.public.reader.length() / 32 + 2
    }

    /// Length of the image in bytes, for statfs.
    pub fn length(&self) -> u64 {
        self.public.reader.length()
    }

    /// Inodes of the image, for statfs.
    pub fn inode_count(&self) -> u64 {
        self.public.reader.inode_count()
    }

    /// The root directory's inode number.
    pub fn root(&self) -> u64 {
        self.public.reader.root()
    }

    /// Finds a name in a directory of the image.
    ///
    /// # Errors
    /// EIO for a damaged image.
    pub fn lookup(&self, directory: &ImageInode, name: &[u8]) -> Result<Option<u64>, Errno> {
        Ok(self.public.reader.lookup(directory, name).map_err(damaged)?.map(|(nid, _)| nid))
    }

    /// Lists a directory of the image from a position, at most `most` entries.
    ///
    /// # Errors
    /// EIO for a damaged image.
    pub fn list(
        &self,
        directory: &ImageInode,
        from: u64,
        most: usize,
    ) -> Result<Vec<bulkhead_erofs::DirEntry>, Errno> {
        let entries = self.public.reader.entries(directory, from).map_err(damaged)?;
        entries.take(most).collect::<Result<_, _>>().map_err(damaged)
    }

    /// Extended attributes of an inode of the image.
    ///
    /// # Errors
    /// EIO for a damaged image.
    pub fn xattrs(&self, nid: u64) -> Result<Vec<bulkhead_erofs::Xattr>, Errno> {
        let inode = self.public.reader.inode(nid).map_err(damaged)?;
        self.public.reader.xattrs(&inode).map_err(damaged)
    }

    /// The inode with number `nid`; the same one for every name of a file with several.
    ///
    /// # Errors
    /// EIO for a damaged image.
    pub fn inode(self: &Arc<Self>, fs: &Arc<FileSystem>, nid: u64) -> Result<Arc<Inode>, Errno> {
        if let Some(inode) = self.linked.lock().get(&nid) {
            return Ok(inode.clone());
        }
        let raw = self.public.reader.inode(nid).map_err(damaged)?;
        let shared = raw.nlink > 1 && raw.kind != FileKind::Directory;
        let inode = self.load(fs, raw)?;
        if !shared {
            return Ok(inode);
        }
        Ok(self.linked.lock().entry(nid).or_insert(inode).clone())
    }

    fn load(self: &Arc<Self>, fs: &Arc<FileSystem>, raw: ImageInode) -> Result<Arc<Inode>, Errno> {
        let time = Timestamp { seconds: raw.mtime, nanoseconds: raw.mtime_nsec };
        let meta = Meta {
            mode: u32::from(raw.mode) & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            nlink: raw.nlink,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            xattrs: None,
        };
        let nid = raw.nid;
        let (kind, body) = match raw.kind {
            FileKind::Regular => (Kind::Regular, Body::Regular(Content::image(self.file(raw)?, &fs.storage))),
            FileKind::Directory => (Kind::Directory, Body::Directory { lower: Some(Box::new(raw)) }),
            FileKind::Symlink => {
                let target = self.public.reader.symlink_target(&raw).map_err(damaged)?;
                (Kind::Symlink, Body::Symlink(target.into()))
            }
            FileKind::CharDevice => (Kind::CharDevice, Body::Device(raw.rdev.0, raw.rdev.1)),
            FileKind::BlockDevice => (Kind::BlockDevice, Body::Device(raw.rdev.0, raw.rdev.1)),
            FileKind::Fifo => (Kind::Fifo, Body::Fifo(std::sync::OnceLock::new())),
            FileKind::Socket => (Kind::Socket, Body::Socket(Mutex::new(None))),
        };
        Ok(Inode::from_image(fs, nid, kind, meta, body))
    }

    fn file(self: &Arc<Self>, raw: ImageInode) -> Result<ImageFile, Errno> {
        match (raw.private_nid(), &self.private) {
            (Some(nid), Some(part)) => {
                let inode = part.reader.inode(nid).map_err(damaged)?;
                Ok(ImageFile { image: self.clone(), inode, private: true })
            }
            _ => Ok(ImageFile { image: self.clone(), inode: raw, private: false }),
        }
    }

    /// Forgets files with several names that nobody uses and that are as in the image.
    pub fn forget_unused(&self) {
        self.linked.lock().retain(|_, inode| inode.is_changed() || Arc::strong_count(inode) > 1);
    }
}

impl ImageFile {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.inode.size
    }

    /// Reads at a position; less than asked only at the end.
    ///
    /// # Errors
    /// EIO and what else the host says.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let part = self.part()?;
        let mut done = 0;
        while done < into.len() {
            let Some(extent) = self.inode.extent(offset + done as u64) else { break };
            let want = (into.len() - done).min(usize::try_from(extent.length).unwrap_or(usize::MAX));
            match rustix::io::pread(&part.file, &mut into[done..done + want], extent.image_offset)? {
                0 => return Err(Errno::EIO),
                count => done += count,
            }
        }
        Ok(done)
    }

    /// The public image's host file and the file's place in it, if stubs may map it from there.
    pub fn mappable(&self) -> Option<(&Arc<OwnedFd>, u64)> {
        let place = self.inode.mappable().filter(|start| start % 4096 == 0)?;
        (!self.private).then_some((&self.image.public.file, place))
    }

    fn part(&self) -> Result<&Part, Errno> {
        if self.private { self.image.private.as_ref().ok_or(Errno::EIO) } else { Ok(&self.image.public) }
    }
}

fn damaged(_error: bulkhead_erofs::Error) -> Errno {
    Errno::EIO
}
