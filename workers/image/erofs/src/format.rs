//! On-disk structures and constants. All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Number of an inode: its place in units of 32 bytes from the start of the metadata area.
pub type Nid = u64;

/// Bytes of a block, the only size that is read or written: a page, so that data can be mapped.
pub const BLOCK_SIZE: u64 = 4096;

/// Longest name of a directory entry in bytes, as Linux has it.
pub const MAX_NAME: usize = 255;

pub(crate) const BLOCK_BITS: u8 = 12;
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// Byte offset of the superblock.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Bytes that the superblock's checksum covers: the rest of its block.
pub(crate) const SUPERBLOCK_CHECKED: usize = (BLOCK_SIZE - SUPERBLOCK_OFFSET) as usize;
/// Bytes of the unit in which inodes are numbered.
pub(crate) const NID_UNIT: u64 = 32;

pub(crate) const COMPAT_CHECKSUM: u32 = 1;

/// Volume names that mark the two images of a pair. They end with a zero: Linux 6.1 mounts no other.
pub(crate) const VOLUME_PUBLIC: &[u8; 16] = b"bulkhead.public\0";
pub(crate) const VOLUME_PRIVATE: &[u8; 16] = b"bulkhead.secret\0";

pub(crate) const LAYOUT_PLAIN: u16 = 0;
pub(crate) const LAYOUT_INLINE: u16 = 2;

pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    Regular,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Symlink,
}

impl FileKind {
    /// The kind that a `st_mode` says, if it is one.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            S_IFREG => Self::Regular,
            S_IFDIR => Self::Directory,
            S_IFCHR => Self::CharDevice,
            S_IFBLK => Self::BlockDevice,
            S_IFIFO => Self::Fifo,
            S_IFSOCK => Self::Socket,
            S_IFLNK => Self::Symlink,
            _ => return None,
        })
    }

    /// The type bits of `st_mode`.
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => S_IFREG,
            Self::Directory => S_IFDIR,
            Self::CharDevice => S_IFCHR,
            Self::BlockDevice => S_IFBLK,
            Self::Fifo => S_IFIFO,
            Self::Socket => S_IFSOCK,
            Self::Symlink => S_IFLNK,
        }
    }

    /// The kind that a directory entry's type byte says, if it says one.
    pub(crate) fn from_dirent(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(crate) struct Superblock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) block_bits: u8,
    pub(crate) extension_slots: u8,
    pub(crate) root_nid: U16,
    pub(crate) inodes: U64,
    pub(crate) build_time: U64,
    pub(crate) build_time_nsec: U32,
    pub(crate) blocks: U32,
    pub(crate) meta_block: U32,
    pub(crate) xattr_block: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) compression: U16,
    pub(crate) extra_devices: U16,
    pub(crate) device_slot: U16,
    pub(crate) directory_block_bits: u8,
    pub(crate) xattr_prefixes: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) xattr_filter: u8,
    pub(crate) reserved: [u8; 23],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct CompactInode {
    pub(crate) format: U16,
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) nlink: U16,
    pub(crate) size: U32,
    pub(crate) reserved: U32,
    pub(crate) address: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U16,
    pub(crate) gid: U16,
    pub(crate) reserved2: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedInode {
    pub(crate) format: U16,
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    /// Block of the data, device number of a device node, or nid in the private image.
    pub(crate) address: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) mtime: U64,
    pub(crate) mtime_nsec: U32,
    pub(crate) nlink: U32,
    pub(crate) reserved2: [u8; 16],
}

/// Head of an inode's attributes, followed by ids of shared ones and then by the inode's own.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) filter: U32,
    pub(crate) shared: u8,
    pub(crate) reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_length: u8,
    pub(crate) prefix: u8,
    pub(crate) value_size: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) name_offset: U16,
    pub(crate) kind: u8,
    pub(crate) reserved: u8,
}

pub(crate) const XATTR_HEADER_SIZE: usize = size_of::<XattrHeader>();
pub(crate) const DIRENT_SIZE: usize = size_of::<Dirent>();
pub(crate) const EXTENDED_INODE_SIZE: usize = size_of::<ExtendedInode>();

/// Prefixes of attribute names by their number on disk. Longer ones come first where one begins
/// with another; an empty rest of the name is legal only for the two that are whole names.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 6] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (5, b"lustre."),
    (6, b"security."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_format() {
        assert_eq!(size_of::<Superblock>(), 128);
        assert_eq!(size_of::<CompactInode>(), 32);
        assert_eq!(EXTENDED_INODE_SIZE, 64);
        assert_eq!(XATTR_HEADER_SIZE, 12);
        assert_eq!(size_of::<XattrEntry>(), 4);
        assert_eq!(DIRENT_SIZE, 12);
    }

    #[test]
    fn kinds_survive_mode_bits() {
        for byte in 1..=7 {
            let kind = FileKind::from_dirent(byte).expect("1 to 7 are kinds");
            assert_eq!(FileKind::from_mode(kind.mode_bits() | 0o7777), Some(kind));
        }
        assert_eq!(FileKind::from_mode(0o7777), None);
    }
}
