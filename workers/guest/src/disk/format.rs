//! Makes an ext4 file system on a disk of zeroes.
//!
//! Only what the kernel can't do without is written: the superblock, the group descriptors, and group 0 with the root
//! directory. No journal (nothing of the disk outlives the job), no backups, and no bitmaps and inode tables of the other
//! groups: their descriptors say "not initialised", and the zeroes that are there are right. So making the file system
//! costs two dozen blocks, whatever its size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Block size in bytes: the page size, since smaller ones cost more for every file.
const BLOCK: u64 = 4096;
/// Blocks that one bitmap block covers.
const BLOCKS_PER_GROUP: u64 = BLOCK * 8;
/// Room for extended attributes of the overlay, and for nanoseconds.
const INODE_SIZE: u64 = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE_SIZE;
/// One inode for so many bytes of disk, as mke2fs has it: 1.6 % of the disk.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Least inodes of a group: small disks hold small files.
const LEAST_INODES: u64 = 128;
/// The numbers below are the format's own (1 to 10), 11 is `lost+found` of mke2fs; free ones start here.
const FIRST_INODE: u64 = 11;
const ROOT_INODE: u64 = 2;
const DESCRIPTOR_SIZE: u64 = 32;
const SUPERBLOCK_OFFSET: u64 = 1024;
/// With 32-bit block numbers.
const MOST_BLOCKS: u64 = 1 << 32;
/// Superblock, descriptors, two bitmaps, inodes, root directory, and something to write to.
const LEAST_BLOCKS: u64 = 64;

/// Why no file system could be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The disk's size is out of range.
    #[error("a scratch disk of {0} bytes: it must have 256 KiB to 16 TiB")]
    Size(u64),
    /// The disk failed.
    #[error("the scratch disk can't be written")]
    Write(#[source] io::Error),
}

/// How the disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    blocks: u64,
    groups: u64,
    descriptor_blocks: u64,
    inodes_per_group: u64,
}

impl Layout {
    fn new(bytes: u64) -> Result<Self, FormatError> {
        let mut blocks = bytes / BLOCK;
        if !(LEAST_BLOCKS..MOST_BLOCKS).contains(&blocks) {
            return Err(FormatError::Size(bytes));
        }
        loop {
            let layout = Self::of(blocks);
            let last = blocks - (layout.groups - 1) * BLOCKS_PER_GROUP;
            // A last group that its own tables would fill is left out.
            if layout.groups == 1 || last > layout.overhead(layout.groups - 1) + INODES_PER_BLOCK {
                return Ok(layout);
            }
            blocks -= last;
        }
    }

    fn of(blocks: u64) -> Self {
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let covered = if groups == 1 { blocks } else { BLOCKS_PER_GROUP };
        let inodes = (covered * BLOCK / BYTES_PER_INODE).max(LEAST_INODES);
        Self {
            blocks,
            groups,
            descriptor_blocks: (groups * DESCRIPTOR_SIZE).div_ceil(BLOCK),
            inodes_per_group: inodes.next_multiple_of(INODES_PER_BLOCK),
        }
    }

    fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// The first of a group's own blocks: behind superblock and descriptors in group 0.
    fn block_bitmap(&self, group: u64) -> u64 {
        group * BLOCKS_PER_GROUP + if group == 0 { 1 + self.descriptor_blocks } else { 0 }
    }

    fn inode_bitmap(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 1
    }

    fn table(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// The root directory's only block.
    fn root_directory(&self) -> u64 {
        self.table(0) + self.table_blocks()
    }

    /// Blocks of a group that are not for files.
    fn overhead(&self, group: u64) -> u64 {
        let tables = 2 + self.table_blocks();
        if group == 0 { 1 + self.descriptor_blocks + tables } else { tables }
    }

    fn blocks_of(&self, group: u64) -> u64 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    fn free_blocks_of(&self, group: u64) -> u64 {
        // The root directory has one.
        self.blocks_of(group) - self.overhead(group) - u64::from(group == 0)
    }

    fn free_inodes_of(&self, group: u64) -> u64 {
        self.inodes_per_group - if group == 0 { FIRST_INODE - 1 } else { 0 }
    }

    fn free_blocks(&self) -> u64 {
        (0..self.groups).map(|group| self.free_blocks_of(group)).sum()
    }
}

/// How large a disk must be so that files may use `limit` bytes of it: the format's own blocks come on top (1.6 % and at
/// most 1 MiB).
pub fn device_bytes(limit: u64) -> u64 {
    // The job's first directory (the overlay's upper one and its work directory) are not the job's.
    const AGENT: u64 = 4 * BLOCK;
    let wanted = (limit + AGENT).div_ceil(BLOCK).max(LEAST_BLOCKS);
    let mut blocks = wanted;
    for _ in 0..MOST_ROUNDS {
        match Layout::new(blocks * BLOCK) {
            Ok(layout) if layout.free_blocks() < wanted => blocks += wanted - layout.free_blocks(),
            _ => break,
        }
    }
    blocks * BLOCK
}

/// Each round adds what was missing, and what is added costs less than a fiftieth of itself.
const MOST_ROUNDS: usize = 16;

/// Makes the file system on a disk of `bytes` zeroes. `seed` becomes its identity and its directories' hash seed.
///
/// # Errors
/// [`FormatError`].
pub fn format(disk: &File, bytes: u64, seed: [u8; 16]) -> Result<(), FormatError> {
    let layout = Layout::new(bytes)?;
    let write =
        |bytes: &[u8], block: u64| disk.write_all_at(bytes, block * BLOCK).map_err(FormatError::Write);
    let mut head = vec![0; ((1 + layout.descriptor_blocks) * BLOCK) as usize];
    superblock(&layout, seed).put(&mut head[SUPERBLOCK_OFFSET as usize..]);
    for group in 0..layout.groups {
        let at = (BLOCK + group * DESCRIPTOR_SIZE) as usize;
        descriptor(&layout, group, &seed, &mut head[at..at + DESCRIPTOR_SIZE as usize]);
    }
    write(&head, 0)?;
    write(&bitmap(layout.overhead(0) + 1, layout.blocks_of(0)), layout.block_bitmap(0))?;
    let last = layout.groups - 1;
    if last > 0 {
        // It ends before its bitmap does, which only a bitmap can say.
        write(&bitmap(layout.overhead(last), layout.blocks_of(last)), layout.block_bitmap(last))?;
    }
    write(&bitmap(FIRST_INODE - 1, layout.inodes_per_group), layout.inode_bitmap(0))?;
    let mut inodes = vec![0; BLOCK as usize];
    root_inode(&layout, &mut inodes[((ROOT_INODE - 1) * INODE_SIZE) as usize..]);
    write(&inodes, layout.table(0))?;
    write(&root_directory(), layout.root_directory())
}

/// A bitmap with its first `used` bits set, and everything from `size` on, which does not exist.
fn bitmap(used: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; BLOCK as usize];
    for bit in (0..used).chain(size..BLOCK * 8) {
        bytes[(bit / 8) as usize] |= 1 << (bit % 8);
    }
    bytes
}

/// Fields of a structure on disk: offset and little-endian bytes.
#[derive(Default)]
struct Fields(Vec<(usize, Vec<u8>)>);

impl Fields {
    fn u16(mut self, offset: usize, value: u64) -> Self {
        self.0.push((offset, (value as u16).to_le_bytes().to_vec()));
        self
    }

    fn u32(mut self, offset: usize, value: u64) -> Self {
        self.0.push((offset, (value as u32).to_le_bytes().to_vec()));
        self
    }

    fn bytes(mut self, offset: usize, value: &[u8]) -> Self {
        self.0.push((offset, value.to_vec()));
        self
    }

    fn put(&self, into: &mut [u8]) {
        for (offset, bytes) in &self.0 {
            into[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
    }
}

mod feature {
    /// Extended attributes; hashed directories; backups only where the superblock says, that is, nowhere.
    pub(super) const COMPATIBLE: u64 = 0x8 | 0x20 | 0x200;
    /// Types in directory entries; extents.
    pub(super) const INCOMPATIBLE: u64 = 0x2 | 0x40;
    /// Files over 2 GiB and over 2 TiB; checksums of descriptors, which allow "not initialised"; many subdirectories; large
    /// inodes.
    pub(super) const READ_ONLY: u64 = 0x2 | 0x8 | 0x10 | 0x20 | 0x40;
}

fn superblock(layout: &Layout, seed: [u8; 16]) -> Fields {
    const MAGIC: u64 = 0xef53;
    const LOG_BLOCK: u64 = 2;
    const CLEAN: u64 = 1;
    const CONTINUE_ON_ERRORS: u64 = 1;
    const DYNAMIC_REVISION: u64 = 1;
    const EXTRA_INODE: u64 = 32;
    /// Half of MD4, of unsigned bytes.
    const HASH: u8 = 1;
    const UNSIGNED_HASH: u64 = 2;
    /// User extended attributes and access lists without a mount option.
    const MOUNT_OPTIONS: u64 = 0x4 | 0x8;
    let inodes = layout.groups * layout.inodes_per_group;
    Fields::default()
        .u32(0x00, inodes)
        .u32(0x04, layout.blocks)
        .u32(0x0c, layout.free_blocks())
        .u32(0x10, inodes - (FIRST_INODE - 1))
        .u32(0x18, LOG_BLOCK)
        .u32(0x1c, LOG_BLOCK)
        .u32(0x20, BLOCKS_PER_GROUP)
        .u32(0x24, BLOCKS_PER_GROUP)
        .u32(0x28, layout.inodes_per_group)
        .u16(0x36, 0xffff)
        .u16(0x38, MAGIC)
        .u16(0x3a, CLEAN)
        .u16(0x3c, CONTINUE_ON_ERRORS)
        .u32(0x4c, DYNAMIC_REVISION)
        .u32(0x54, FIRST_INODE)
        .u16(0x58, INODE_SIZE)
        .u32(0x5c, feature::COMPATIBLE)
        .u32(0x60, feature::INCOMPATIBLE)
        .u32(0x64, feature::READ_ONLY)
        .bytes(0x68, &seed)
        .bytes(0x78, b"scratch")
        .bytes(0xec, &seed)
        .bytes(0xfc, &[HASH])
        .u32(0x100, MOUNT_OPTIONS)
        .u16(0x15c, EXTRA_INODE)
        .u16(0x15e, EXTRA_INODE)
        .u32(0x160, UNSIGNED_HASH)
}

/// The descriptor of a group; the free counts are right even where bitmaps are not initialised.
fn descriptor(layout: &Layout, group: u64, seed: &[u8; 16], into: &mut [u8]) {
    const INODES_NOT_INITIALISED: u64 = 1;
    const BLOCKS_NOT_INITIALISED: u64 = 2;
    /// The inode table holds zeroes already: no kernel thread has to write them.
    const TABLE_ZEROED: u64 = 4;
    let lazy = match group {
        0 => 0,
        last if last == layout.groups - 1 => INODES_NOT_INITIALISED,
        _ => INODES_NOT_INITIALISED | BLOCKS_NOT_INITIALISED,
    };
    // Inodes at the table's end that were never used.
    let unused = layout.free_inodes_of(group);
    Fields::default()
        .u32(0x00, layout.block_bitmap(group))
        .u32(0x04, layout.inode_bitmap(group))
        .u32(0x08, layout.table(group))
        .u16(0x0c, layout.free_blocks_of(group))
        .u16(0x0e, layout.free_inodes_of(group))
        .u16(0x10, u64::from(group == 0))
        .u16(0x12, lazy | TABLE_ZEROED)
        .u16(0x1c, unused)
        .put(into);
    /// Where the checksum is, which it does not cover.
    const CHECKSUM: usize = 0x1e;
    let mut sum = crc16(0xffff, seed);
    sum = crc16(sum, &(group as u32).to_le_bytes());
    sum = crc16(sum, &into[..CHECKSUM]);
    into[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-16 with the polynomial 0x8005, reflected, as Linux's crc16().
fn crc16(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xa001 } else { sum >> 1 })
    })
}

fn root_inode(layout: &Layout, into: &mut [u8]) {
    const DIRECTORY_0755: u64 = 0o040_755;
    const USES_EXTENTS: u64 = 0x80000;
    const EXTENT_MAGIC: u64 = 0xf30a;
    const SECTORS_PER_BLOCK: u64 = BLOCK / 512;
    const EXTRA_INODE: u64 = 32;
    Fields::default()
        .u16(0x00, DIRECTORY_0755)
        .u32(0x04, BLOCK)
        // Itself and its own "." entry; there are no subdirectories.
        .u16(0x1a, 2)
        .u32(0x1c, SECTORS_PER_BLOCK)
        .u32(0x20, USES_EXTENTS)
        // An extent tree in the inode: one entry of at most four, depth 0; from file block 0, one block long.
        .u16(0x28, EXTENT_MAGIC)
        .u16(0x2a, 1)
        .u16(0x2c, 4)
        .u16(0x38, 1)
        .u32(0x3c, layout.root_directory())
        .u16(0x80, EXTRA_INODE)
        .put(into);
}

/// A block with the entries `.` and `..`.
fn root_directory() -> Vec<u8> {
    const DIRECTORY: u8 = 2;
    const DOT_LENGTH: u64 = 12;
    let mut block = vec![0; BLOCK as usize];
    Fields::default()
        .u32(0, ROOT_INODE)
        .u16(4, DOT_LENGTH)
        .bytes(6, &[1, DIRECTORY, b'.'])
        .u32(12, ROOT_INODE)
        .u16(16, BLOCK - DOT_LENGTH)
        .bytes(18, &[2, DIRECTORY, b'.', b'.'])
        .put(&mut block);
    block
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn disk(bytes: u64) -> tempfile::NamedTempFile {
        let disk = tempfile::NamedTempFile::new().expect("a temporary file");
        disk.as_file().set_len(bytes).expect("it may be sparse");
        disk
    }

    /// Small, odd, one group, a last group that is too small, many groups, several blocks of descriptors.
    const SIZES: [u64; 9] = [
        256 << 10,
        1 << 20,
        (5 << 20) + 4095,
        128 << 20,
        (128 << 20) + 4096,
        (128 << 20) + (3 << 20),
        1 << 30,
        (20 << 30) + (77 << 12),
        256 << 30,
    ];

    #[test]
    fn the_checker_of_another_implementation_finds_nothing() {
        for size in SIZES {
            let disk = disk(size);
            format(disk.as_file(), size, [7; 16]).expect("it is made");
            let output = Command::new("e2fsck").arg("-fn").arg(disk.path()).output().expect("e2fsck runs");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{size}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn little_is_written() {
        use std::os::unix::fs::MetadataExt;
        let disk = disk(64 << 30);
        format(disk.as_file(), 64 << 30, [1; 16]).expect("it is made");
        let written = disk.as_file().metadata().expect("it is there").blocks() * 512;
        assert!(written <= 128 << 10, "{written} bytes for 64 GiB");
    }

    #[test]
    fn files_get_what_the_limit_says() {
        for limit in [1 << 20, 64 << 20, 1 << 30, (10 << 30) + 5, 256 << 30] {
            let size = device_bytes(limit);
            let layout = Layout::new(size).expect("a size in range");
            assert!(layout.free_blocks() * BLOCK >= limit, "{limit}");
            assert!(size <= limit + limit / 50 + (1 << 20), "{limit} needs {size}");
        }
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        let disk = disk(0);
        for size in [0, 255 << 10, 16 << 40] {
            assert!(matches!(format(disk.as_file(), size, [0; 16]), Err(FormatError::Size(_))));
        }
    }
}
