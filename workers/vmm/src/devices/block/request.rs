use rustix::fs::{FallocateFlags, fallocate};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::{Block, DiskKind};
use crate::devices::mmio::{Broken, Chain, ChainBytes, MOST_SEGMENTS};
use crate::memory::Memory;

/// The unit of a disk's size and of requests, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Buffers of data in one request: the header and the status byte are the two others.
pub(super) const MOST_DATA_SEGMENTS: usize = MOST_SEGMENTS - 2;
/// The most data of one request, in bytes, so that one can't hold the devices' thread for long. Linux stays at a
/// megabyte or so by itself.
const MOST_DATA_BYTES: u64 = 16 << 20;
/// The most sectors that one discard frees: 1 GiB.
pub(super) const MOST_DISCARD_SECTORS: u32 = 2 << 20;
const HEADER_BYTES: usize = 16;
/// struct virtio_blk_discard_write_zeroes: sector, count, flags.
const RANGE_BYTES: usize = 16;
const ID_BYTES: usize = 20;

/// How a request ended: its status byte.
struct Failed(u32);

const IO_ERROR: Failed = Failed(VIRTIO_BLK_S_IOERR);
const UNSUPPORTED: Failed = Failed(VIRTIO_BLK_S_UNSUPP);

impl From<Broken> for Failed {
    fn from(_: Broken) -> Self {
        IO_ERROR
    }
}

/// Does a request; returns how many bytes of the chain were written, status included.
pub(super) fn serve(disk: &Block, memory: &Memory, chain: &mut Chain) -> Result<u64, Broken> {
    let mut header = [0; HEADER_BYTES];
    let data_bytes = chain.writable.left().checked_sub(1).ok_or(Broken::Request)?;
    if chain.readable.read(memory, &mut header)? != HEADER_BYTES {
        return Err(Broken::Request);
    }
    let mut status = chain.writable.split_off(data_bytes);
    let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let done = match kind {
        VIRTIO_BLK_T_IN => read(disk, memory, sector, &mut chain.writable),
        VIRTIO_BLK_T_OUT => write(disk, memory, sector, &mut chain.readable).map(|()| 0),
        VIRTIO_BLK_T_FLUSH => Ok(0),
        VIRTIO_BLK_T_GET_ID => id(disk, memory, &mut chain.writable),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => discard(disk, memory, kind, chain).map(|()| 0),
        _ => Err(UNSUPPORTED),
    };
    let (code, written) = match done {
        Ok(written) => (VIRTIO_BLK_S_OK, written),
        Err(Failed(code)) => (code, 0),
    };
    status.write(memory, &[code as u8])?;
    // The status lies behind all data, so the guest has to look beyond what was written before it.
    Ok(if written == data_bytes { data_bytes + 1 } else { written.max(1) })
}

/// Where a request begins in the file, if it is within the disk and of whole sectors.
fn place(disk: &Block, sector: u64, bytes: u64) -> Result<u64, Failed> {
    let sectors = bytes / SECTOR_BYTES;
    let within = sector.checked_add(sectors).is_some_and(|end| end <= disk.sectors);
    if within && bytes.is_multiple_of(SECTOR_BYTES) && bytes <= MOST_DATA_BYTES {
        Ok(sector * SECTOR_BYTES)
    } else {
        Err(IO_ERROR)
    }
}

fn read(disk: &Block, memory: &Memory, sector: u64, data: &mut ChainBytes) -> Result<u64, Failed> {
    let bytes = data.left();
    let mut at = place(disk, sector, bytes)?;
    let mut vectors = data.take_vectors(memory, bytes as usize)?;
    while vectors.left() > 0 {
        match vectors.read_at(&disk.file, at).map_err(|_| IO_ERROR)? {
            // An image may end within its last sector; the guest's memory must not show through.
            0 => vectors.fill_with_zeroes(),
            got => at += got as u64,
        }
    }
    Ok(bytes)
}

fn write(disk: &Block, memory: &Memory, sector: u64, data: &mut ChainBytes) -> Result<(), Failed> {
    let bytes = data.left();
    let mut at = place(disk, sector, bytes)?;
    if disk.kind == DiskKind::Image {
        return Err(IO_ERROR);
    }
    let mut vectors = data.take_vectors(memory, bytes as usize)?;
    while vectors.left() > 0 {
        match vectors.write_at(&disk.file, at).map_err(|_| IO_ERROR)? {
            0 => return Err(IO_ERROR),
            put => at += put as u64,
        }
    }
    Ok(())
}

fn id(disk: &Block, memory: &Memory, data: &mut ChainBytes) -> Result<u64, Failed> {
    let name: &[u8] = match disk.kind {
        DiskKind::Image => b"image",
        DiskKind::Scratch => b"scratch",
    };
    let mut id = [0; ID_BYTES];
    id[..name.len()].copy_from_slice(name);
    Ok(data.write(memory, &id)? as u64)
}

/// Both free the range: reading it gives zeroes then, which a discard doesn't promise and a write of zeroes does.
fn discard(disk: &Block, memory: &Memory, kind: u32, chain: &mut Chain) -> Result<(), Failed> {
    if disk.kind == DiskKind::Image {
        return Err(UNSUPPORTED);
    }
    let mut range = [0; RANGE_BYTES];
    if chain.readable.left() != RANGE_BYTES as u64 || chain.readable.read(memory, &mut range)? != RANGE_BYTES
    {
        return Err(IO_ERROR);
    }
    let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
    let [count, flags] =
        [8, 12].map(|at| u32::from_le_bytes(range[at..at + 4].try_into().expect("four bytes")));
    let may_unmap = kind == VIRTIO_BLK_T_WRITE_ZEROES;
    if flags & !u32::from(may_unmap) != 0 {
        return Err(UNSUPPORTED);
    }
    let within = sector.checked_add(u64::from(count)).is_some_and(|end| end <= disk.sectors);
    if !within || count > MOST_DISCARD_SECTORS {
        return Err(IO_ERROR);
    }
    if count == 0 {
        return Ok(());
    }
    let (at, bytes) = (sector * SECTOR_BYTES, u64::from(count) * SECTOR_BYTES);
    fallocate(&disk.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, bytes)
        .map_err(|_| IO_ERROR)
}
