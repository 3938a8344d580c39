//! Reads images. See the crate's documentation for what it promises about hostile ones.

mod attribute;
mod directory;
mod inode;

pub use attribute::Xattr;
pub use directory::{DirEntry, Entries};
pub use inode::{Extent, Inode};

use std::io;

use zerocopy::FromBytes;

use crate::checksum::crc32c;
use crate::format::{
    BLOCK_BITS, BLOCK_SIZE, COMPAT_CHECKSUM, FileKind, MAGIC, NID_UNIT, Nid, SUPERBLOCK_CHECKED,
    SUPERBLOCK_OFFSET, Superblock, VOLUME_PUBLIC,
};
use crate::source::ReadAt;

/// Longest target of a symbolic link in bytes, as Linux has it (PATH_MAX without its NUL).
const MAX_SYMLINK: u64 = 4095;

/// Why an image or a part of it can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host could not read the image.
    #[error("could not read the image")]
    Read(#[source] io::Error),
    /// There is no EROFS superblock.
    #[error("not an EROFS image")]
    NotErofs,
    /// The superblock does not match its checksum.
    #[error("the superblock's checksum is wrong: the image is damaged")]
    Checksum,
    /// A legal image with something that this reader does not have.
    #[error("the image uses {what}, which is not supported")]
    Unsupported { what: &'static str },
    /// The image contradicts itself.
    #[error("inode {nid} is damaged: {what}")]
    Corrupt { nid: Nid, what: &'static str },
    /// A directory's operation on something else.
    #[error("inode {nid} is not a directory")]
    NotDirectory { nid: Nid },
    /// A link's operation on something else.
    #[error("inode {nid} is not a symbolic link")]
    NotSymlink { nid: Nid },
}

/// An open image.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    /// Bytes of the image when it was opened.
    length: u64,
    /// Byte offset of the metadata area.
    meta: u64,
    /// Byte offset of the area of shared attributes.
    shared_xattrs: u64,
    root: Nid,
    inodes: u64,
    /// The image is the public one of a pair (or of a pair without a private one).
    public: bool,
}

impl<S: ReadAt> Reader<S> {
    /// Checks the superblock of `source` and opens it.
    ///
    /// # Errors
    /// [`Error::NotErofs`], [`Error::Checksum`], [`Error::Unsupported`], [`Error::Read`], and
    /// [`Error::Corrupt`] if the root is not a directory.
    pub fn open(source: S) -> Result<Self, Error> {
        let length = source.length().map_err(Error::Read)?;
        if length < BLOCK_SIZE {
            return Err(Error::NotErofs);
        }
        let mut bytes = [0u8; SUPERBLOCK_CHECKED];
        source.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET).map_err(Error::Read)?;
        let (superblock, _) = Superblock::read_from_prefix(&bytes).map_err(|_| Error::NotErofs)?;
        check(&superblock, &mut bytes)?;
        let reader = Self {
            source,
            length,
            meta: u64::from(superblock.meta_block.get()) * BLOCK_SIZE,
            shared_xattrs: u64::from(superblock.xattr_block.get()) * BLOCK_SIZE,
            root: Nid::from(superblock.root_nid.get()),
            inodes: superblock.inodes.get(),
            public: superblock.volume_name == *VOLUME_PUBLIC,
        };
        if reader.inode(reader.root)?.kind != FileKind::Directory {
            return Err(Error::Corrupt { nid: reader.root, what: "the root is not a directory" });
        }
        Ok(reader)
    }

    /// What the image is read from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Length of the image in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The root directory's inode.
    pub fn root(&self) -> Nid {
        self.root
    }

    /// How many inodes the image says it has (not checked: for statfs only).
    pub fn inode_count(&self) -> u64 {
        self.inodes
    }

    /// Bytes `offset..offset + buffer.len()` of the image, which must lie within it.
    fn fetch(&self, buffer: &mut [u8], offset: u64, nid: Nid) -> Result<(), Error> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(Error::Corrupt { nid, what: "it points beyond the image" });
        }
        self.source.read_exact_at(buffer, offset).map_err(Error::Read)
    }

    /// Byte offset of inode `nid`.
    fn inode_offset(&self, nid: Nid) -> Result<u64, Error> {
        nid.checked_mul(NID_UNIT)
            .and_then(|offset| offset.checked_add(self.meta))
            .ok_or(Error::Corrupt { nid, what: "its number is out of range" })
    }

    /// Reads up to `buffer.len()` bytes of a file or link at byte `offset`; 0 at or beyond the end.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn read(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            let Some(extent) = inode.extent(offset.saturating_add(done as u64)) else { break };
            let want = buffer.len() - done;
            let count = usize::try_from(extent.length).map_or(want, |length| length.min(want));
            self.fetch(&mut buffer[done..done + count], extent.image_offset, inode.nid)?;
            done += count;
        }
        Ok(done)
    }

    /// The target of a symbolic link: 1 to 4095 bytes without a NUL.
    ///
    /// # Errors
    /// [`Error::NotSymlink`], [`Error::Corrupt`], [`Error::Read`].
    pub fn symlink_target(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        let nid = inode.nid;
        if inode.kind != FileKind::Symlink {
            return Err(Error::NotSymlink { nid });
        }
        if inode.size == 0 || inode.size > MAX_SYMLINK {
            return Err(Error::Corrupt { nid, what: "the link's target has an illegal length" });
        }
        let mut target = vec![0; inode.size as usize];
        self.read(inode, 0, &mut target)?;
        if target.contains(&0) {
            return Err(Error::Corrupt { nid, what: "the link's target has a NUL" });
        }
        Ok(target)
    }
}

/// Refuses what is not an intact EROFS superblock, or asks for features that are not here.
fn check(superblock: &Superblock, bytes: &mut [u8; SUPERBLOCK_CHECKED]) -> Result<(), Error> {
    if superblock.magic.get() != MAGIC {
        return Err(Error::NotErofs);
    }
    if superblock.block_bits != BLOCK_BITS || superblock.directory_block_bits != 0 {
        return Err(Error::Unsupported { what: "blocks of another size than 4096 bytes" });
    }
    if superblock.feature_compat.get() & COMPAT_CHECKSUM != 0 {
        // The checksum was made with its own field zero.
        bytes[4..8].fill(0);
        if crc32c(bytes) != superblock.checksum.get() {
            return Err(Error::Checksum);
        }
    }
    if superblock.feature_incompat.get() != 0 {
        return Err(Error::Unsupported { what: "compression, chunks or other newer features" });
    }
    Ok(())
}
