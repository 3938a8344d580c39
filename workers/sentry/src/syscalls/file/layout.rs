//! Structures of x86-64 Linux that these calls write.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct stat`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Stat {
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub pad: u32,
    pub special_device: u64,
    pub size: i64,
    pub block_size: i64,
    pub blocks: i64,
    pub atime: [i64; 2],
    pub mtime: [i64; 2],
    pub ctime: [i64; 2],
    pub unused: [i64; 3],
}

/// `struct statx_timestamp`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct StatxTime {
    pub seconds: i64,
    pub nanoseconds: u32,
    pub pad: i32,
}

/// `struct statx`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Statx {
    pub mask: u32,
    pub block_size: u32,
    pub attributes: u64,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub pad: u16,
    pub inode: u64,
    pub size: u64,
    pub blocks: u64,
    pub attributes_mask: u64,
    pub atime: StatxTime,
    pub btime: StatxTime,
    pub ctime: StatxTime,
    pub mtime: StatxTime,
    pub special_major: u32,
    pub special_minor: u32,
    pub device_major: u32,
    pub device_minor: u32,
    pub mount: u64,
    pub direct_memory_align: u32,
    pub direct_offset_align: u32,
    pub spare: [u64; 12],
}

/// `struct statfs`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Statfs {
    pub magic: i64,
    pub block_size: i64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
    pub id: [i32; 2],
    pub name_length: i64,
    pub fragment_size: i64,
    pub flags: i64,
    pub spare: [i64; 4],
}

/// `struct flock`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Flock {
    pub kind: i16,
    pub whence: i16,
    pub pad: u32,
    pub start: i64,
    pub length: i64,
    pub pid: i32,
    pub pad_end: u32,
}

/// `struct timespec` and, with microseconds, `struct timeval`.
#[derive(Debug, Default, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Timespec {
    pub seconds: i64,
    pub fraction: i64,
}

const _: () = assert!(size_of::<Stat>() == 144 && size_of::<Statx>() == 256 && size_of::<Statfs>() == 120);
const _: () = assert!(size_of::<Flock>() == 32);
