//! Writes what was planned, front to back.

use std::io::{self, Write};

use zerocopy::IntoBytes;

use super::WriteError;
use super::plan::{META_BLOCK, Placed, Plan, split, xattr_prefix, xattr_size};
use crate::checksum::crc32c;
use crate::format::{
    BLOCK_BITS, BLOCK_SIZE, COMPAT_CHECKSUM, DIRENT_SIZE, Dirent, ExtendedInode, FileKind, LAYOUT_INLINE,
    LAYOUT_PLAIN, MAGIC, SUPERBLOCK_CHECKED, SUPERBLOCK_OFFSET, Superblock, XATTR_HEADER_SIZE, XattrEntry,
    XattrHeader,
};
use crate::source::ReadAt;
use crate::tree::{Content, Meta, NodeId};

/// Bytes of file data that are held in memory at once.
const COPY_BUFFER: usize = 256 * 1024;

/// Counts what went out, so that gaps can be filled.
struct Out<'w, W> {
    writer: &'w mut W,
    position: u64,
}

impl<W: Write> Out<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.position += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(WriteError::Write)
    }

    /// Zeros up to byte `position` of the image, which is less than a few blocks away.
    fn fill_to(&mut self, position: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
        while self.position < position {
            let count = (position - self.position).min(BLOCK_SIZE);
            self.put(&ZEROS[..count as usize])?;
        }
        Ok(())
    }

    fn fill_block(&mut self) -> Result<(), WriteError> {
        self.fill_to(self.position.next_multiple_of(BLOCK_SIZE))
    }
}

/// Writes one image.
pub(super) fn write(
    plan: &Plan<'_>,
    volume: &[u8; 16],
    data: &impl ReadAt,
    writer: &mut impl Write,
) -> Result<(), WriteError> {
    let mut out = Out { writer, position: 0 };
    out.fill_to(SUPERBLOCK_OFFSET)?;
    out.put(&superblock(plan, volume))?;
    write_inodes(plan, &mut out)?;
    for placed in plan.inodes.iter().filter(|placed| placed.blocks > 0) {
        match &plan.tree.node(placed.node).content {
            Content::Directory(_) => {
                let bytes = directory(plan, placed);
                out.put(&bytes[..bytes.len().min((placed.blocks * BLOCK_SIZE) as usize)])?;
            }
            Content::Symlink(target) => out.put(target)?,
            _ => continue,
        }
        out.fill_block()?;
    }
    let mut buffer = vec![0; COPY_BUFFER];
    for placed in plan.inodes.iter().filter(|placed| placed.blocks > 0) {
        if let Content::Regular { offset, size } = plan.tree.node(placed.node).content {
            copy(data, offset, size, &mut buffer, &mut out)?;
            out.fill_block()?;
        }
    }
    out.writer.flush().map_err(WriteError::Write)
}

fn superblock(plan: &Plan<'_>, volume: &[u8; 16]) -> [u8; SUPERBLOCK_CHECKED] {
    let root = plan.inodes.first().map_or(0, Placed::nid);
    let mut superblock = Superblock {
        magic: MAGIC.into(),
        checksum: 0.into(),
        feature_compat: COMPAT_CHECKSUM.into(),
        block_bits: BLOCK_BITS,
        extension_slots: 0,
        // The root is the first inode.
        root_nid: (root as u16).into(),
        inodes: (plan.inodes.len() as u64).into(),
        build_time: 0.into(),
        build_time_nsec: 0.into(),
        blocks: plan.blocks.into(),
        meta_block: META_BLOCK.into(),
        xattr_block: 0.into(),
        uuid: [0; 16],
        volume_name: *volume,
        feature_incompat: 0.into(),
        compression: 0.into(),
        extra_devices: 0.into(),
        device_slot: 0.into(),
        directory_block_bits: 0,
        xattr_prefixes: 0,
        xattr_prefix_start: 0.into(),
        packed_nid: 0.into(),
        xattr_filter: 0,
        reserved: [0; 23],
    };
    let mut block = [0; SUPERBLOCK_CHECKED];
    for _ in 0..2 {
        block[..size_of::<Superblock>()].copy_from_slice(superblock.as_bytes());
        superblock.checksum = crc32c(&block).into();
    }
    block
}

fn write_inodes(plan: &Plan<'_>, out: &mut Out<'_, impl Write>) -> Result<(), WriteError> {
    let base = u64::from(META_BLOCK) * BLOCK_SIZE;
    for (number, placed) in plan.inodes.iter().enumerate() {
        out.fill_to(base + placed.offset)?;
        let node = plan.tree.node(placed.node);
        out.put(inode(&node.meta, &node.content, placed, number as u32)?.as_bytes())?;
        if !node.meta.xattrs.is_empty() {
            out.put(&xattrs(&node.meta)?)?;
        }
        if placed.inline {
            let whole = (placed.blocks * BLOCK_SIZE) as usize;
            match &node.content {
                Content::Directory(_) => out.put(&directory(plan, placed)[whole..])?,
                Content::Symlink(target) => out.put(&target[whole..])?,
                _ => {}
            }
        }
    }
    out.fill_to(base + plan.meta_blocks * BLOCK_SIZE)
}

fn inode(meta: &Meta, content: &Content, placed: &Placed, number: u32) -> Result<ExtendedInode, WriteError> {
    let layout = if placed.inline { LAYOUT_INLINE } else { LAYOUT_PLAIN };
    let xattr_count = match xattr_size(meta)? {
        0 => 0,
        size => (size - XATTR_HEADER_SIZE) / 4 + 1,
    };
    let address = match content {
        Content::CharDevice(major, minor) | Content::BlockDevice(major, minor) => {
            encode_device(*major, *minor)
        }
        _ => placed.address,
    };
    Ok(ExtendedInode {
        format: (1 | layout << 1).into(),
        // `xattr_size` keeps the count within 16 bits.
        xattr_count: (xattr_count as u16).into(),
        mode: (content.kind().mode_bits() | meta.mode & 0o7777).into(),
        reserved: 0.into(),
        size: placed.size.into(),
        address: address.into(),
        ino: number.wrapping_add(1).into(),
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        mtime: meta.mtime.cast_unsigned().into(),
        mtime_nsec: meta.mtime_nsec.min(999_999_999).into(),
        nlink: placed.nlink.into(),
        reserved2: [0; 16],
    })
}

fn xattrs(meta: &Meta) -> Result<Vec<u8>, WriteError> {
    let mut bytes = Vec::with_capacity(xattr_size(meta)?);
    bytes.extend(XattrHeader { filter: 0.into(), shared: 0, reserved: [0; 7] }.as_bytes());
    for xattr in &meta.xattrs {
        let Some((prefix, rest)) = xattr_prefix(&xattr.name) else { continue };
        // `xattr_size` refuses longer names and values.
        let value_size = (xattr.value.len() as u16).into();
        bytes.extend(XattrEntry { name_length: rest.len() as u8, prefix, value_size }.as_bytes());
        bytes.extend(rest);
        bytes.extend(&xattr.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Ok(bytes)
}

/// The blocks of a directory, the last one without its padding.
fn directory(plan: &Plan<'_>, placed: &Placed) -> Vec<u8> {
    let entries = plan.dirents(placed);
    let mut bytes = Vec::with_capacity(placed.size as usize);
    for range in split(&entries) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE as usize), 0);
        directory_block(plan, &entries[range], &mut bytes);
    }
    bytes
}

fn directory_block(plan: &Plan<'_>, entries: &[(&[u8], NodeId)], bytes: &mut Vec<u8>) {
    let mut name_offset = entries.len() * DIRENT_SIZE;
    for (name, node) in entries {
        let nid = plan.place(*node).map_or(0, Placed::nid);
        let kind = dirent_kind(plan.tree.node(*node).content.kind());
        // A block has 4096 bytes.
        let offset = (name_offset as u16).into();
        bytes.extend(Dirent { nid: nid.into(), name_offset: offset, kind, reserved: 0 }.as_bytes());
        name_offset += name.len();
    }
    for (name, _) in entries {
        bytes.extend(*name);
    }
}

fn dirent_kind(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
        FileKind::Symlink => 7,
    }
}

/// Linux's 32-bit encoding: 12 bits of major and 20 bits of minor number.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

fn copy(
    data: &impl ReadAt,
    mut offset: u64,
    size: u64,
    buffer: &mut [u8],
    out: &mut Out<'_, impl Write>,
) -> Result<(), WriteError> {
    let end = offset.checked_add(size).ok_or_else(|| WriteError::Read(io::ErrorKind::InvalidInput.into()))?;
    while offset < end {
        let count = (end - offset).min(buffer.len() as u64) as usize;
        data.read_exact_at(&mut buffer[..count], offset).map_err(WriteError::Read)?;
        out.put(&buffer[..count])?;
        offset += count as u64;
    }
    Ok(())
}
