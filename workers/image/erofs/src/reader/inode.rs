//! Inodes and where their data lie.

use zerocopy::FromBytes;

use super::{Error, Reader};
use crate::format::{
    BLOCK_SIZE, CompactInode, EXTENDED_INODE_SIZE, ExtendedInode, FileKind, LAYOUT_INLINE, LAYOUT_PLAIN, Nid,
    XATTR_HEADER_SIZE,
};
use crate::source::ReadAt;

/// Nanoseconds of a second.
const NANOSECONDS: u32 = 1_000_000_000;
/// Bit of an inode's format that says that it is of the extended form.
const EXTENDED: u16 = 1;
/// "No block" where a block's address is expected.
const NO_ADDRESS: u32 = u32::MAX;

/// An inode, checked: its data lie within the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub nid: Nid,
    pub kind: FileKind,
    /// `st_mode`, type bits included.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Bytes. For a file of the private image see [`Inode::private_nid`].
    pub size: u64,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds, below 10^9.
    pub mtime_nsec: u32,
    pub nlink: u32,
    /// Device number of a device node, else 0.
    pub rdev: (u32, u32),
    private_nid: Option<Nid>,
    data: Data,
    /// Where the attributes begin, and their size in bytes.
    pub(super) xattrs: (u64, usize),
}

/// Image offsets of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Data {
    start: u64,
    /// Bytes at `start`; the rest of the file is at `tail`.
    length: u64,
    tail: u64,
}

/// A run of a file's bytes that is contiguous in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset in the image.
    pub image_offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
}

impl Inode {
    /// Number of this file's inode in the private image, which has its size and data. `None` for
    /// everything whose data are in the image that this inode was read from.
    pub fn private_nid(&self) -> Option<Nid> {
        self.private_nid
    }

    /// Where byte `offset` of the file lies in the image, and how many bytes follow it there.
    /// `None` at or beyond the end.
    pub fn extent(&self, offset: u64) -> Option<Extent> {
        if offset >= self.size {
            return None;
        }
        if offset < self.data.length {
            let length = self.data.length - offset;
            return Some(Extent { image_offset: self.data.start + offset, length });
        }
        let within = offset - self.data.length;
        Some(Extent { image_offset: self.data.tail + within, length: self.size - offset })
    }

    /// Image offset of the first byte of a regular file whose pages can be mapped from the image:
    /// page `n` of the file is at this offset plus `n * 4096`, and the bytes behind the file's end
    /// are zero up to the page's. `None` if it is empty, or not laid out so (images of others).
    pub fn mappable(&self) -> Option<u64> {
        let whole = self.kind == FileKind::Regular && self.size > 0 && self.data.length == self.size;
        whole.then_some(self.data.start)
    }
}

/// Fields that the two forms of an inode share.
struct Raw {
    format: u16,
    xattr_count: u16,
    mode: u16,
    size: u64,
    address: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    mtime_nsec: u32,
    nlink: u32,
    bytes: u64,
}

impl<S: ReadAt> Reader<S> {
    /// Reads inode `nid`.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], [`Error::Read`].
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error> {
        let offset = self.inode_offset(nid)?;
        let raw = self.raw_inode(nid, offset)?;
        let corrupt = |what| Error::Corrupt { nid, what };
        let kind = FileKind::from_mode(raw.mode).ok_or(corrupt("its type is unknown"))?;
        if raw.mtime_nsec >= NANOSECONDS {
            return Err(corrupt("its time has more than 10^9 nanoseconds"));
        }
        let xattr_size = match raw.xattr_count {
            0 => 0,
            count => XATTR_HEADER_SIZE + 4 * (usize::from(count) - 1),
        };
        let xattr_start = offset + raw.bytes;
        let has_data = matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        let size = if has_data { raw.size } else { 0 };
        let data = self.locate(nid, &raw, size, xattr_start + xattr_size as u64)?;
        let is_private = self.public
            && kind == FileKind::Regular
            && size == 0
            && raw.mode & 0o004 == 0
            && raw.address != 0
            && raw.address != NO_ADDRESS;
        Ok(Inode {
            nid,
            kind,
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            size,
            mtime: raw.mtime,
            mtime_nsec: raw.mtime_nsec,
            nlink: raw.nlink,
            rdev: match kind {
                FileKind::CharDevice | FileKind::BlockDevice => decode_device(raw.address),
                _ => (0, 0),
            },
            private_nid: is_private.then_some(Nid::from(raw.address)),
            data,
            xattrs: (xattr_start, xattr_size),
        })
    }

    fn raw_inode(&self, nid: Nid, offset: u64) -> Result<Raw, Error> {
        let corrupt = |_| Error::Corrupt { nid, what: "it is cut off" };
        let mut bytes = [0u8; EXTENDED_INODE_SIZE];
        let compact_size = size_of::<CompactInode>();
        self.fetch(&mut bytes[..compact_size], offset, nid)?;
        let (compact, _) = CompactInode::read_from_prefix(&bytes).map_err(|_| corrupt(()))?;
        if compact.format.get() & EXTENDED == 0 {
            return Ok(Raw {
                format: compact.format.get(),
                xattr_count: compact.xattr_count.get(),
                mode: compact.mode.get(),
                size: compact.size.get().into(),
                address: compact.address.get(),
                uid: compact.uid.get().into(),
                gid: compact.gid.get().into(),
                mtime: 0,
                mtime_nsec: 0,
                nlink: compact.nlink.get().into(),
                bytes: compact_size as u64,
            });
        }
        self.fetch(&mut bytes[compact_size..], offset + compact_size as u64, nid)?;
        let (extended, _) = ExtendedInode::read_from_prefix(&bytes).map_err(|_| corrupt(()))?;
        Ok(Raw {
            format: extended.format.get(),
            xattr_count: extended.xattr_count.get(),
            mode: extended.mode.get(),
            size: extended.size.get(),
            address: extended.address.get(),
            uid: extended.uid.get(),
            gid: extended.gid.get(),
            mtime: extended.mtime.get().cast_signed(),
            mtime_nsec: extended.mtime_nsec.get(),
            nlink: extended.nlink.get(),
            bytes: EXTENDED_INODE_SIZE as u64,
        })
    }

    /// Places `size` bytes of data, whose tail is perhaps at `inline`, and checks that they are
    /// within the image.
    fn locate(&self, nid: Nid, raw: &Raw, size: u64, inline: u64) -> Result<Data, Error> {
        let start = u64::from(raw.address) * BLOCK_SIZE;
        let data = match raw.format >> 1 {
            _ if size == 0 => return Ok(Data { start: 0, length: 0, tail: 0 }),
            LAYOUT_PLAIN => Data { start, length: size, tail: 0 },
            LAYOUT_INLINE => {
                let length = (size - 1) / BLOCK_SIZE * BLOCK_SIZE;
                Data { start, length, tail: inline }
            }
            _ => return Err(Error::Unsupported { what: "a compressed or chunked file" }),
        };
        let within = |start: u64, length: u64| {
            length == 0 || start.checked_add(length).is_some_and(|end| end <= self.length)
        };
        if !within(data.start, data.length) || !within(data.tail, size - data.length) {
            return Err(Error::Corrupt { nid, what: "its data are beyond the image" });
        }
        Ok(data)
    }
}

/// (major, minor) of Linux's 32-bit encoding.
fn decode_device(encoded: u32) -> (u32, u32) {
    ((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00))
}
