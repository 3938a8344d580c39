use std::fs::File;
use std::io::{Seek, SeekFrom};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::BlockState;
use super::request::{self, MOST_DATA_SEGMENTS, MOST_DISCARD_SECTORS, SECTOR_BYTES};
use crate::devices::mmio::{Broken, DeviceState, Rings, Served, VirtioDevice};
use crate::statistics::ExitKind;

const QUEUES: [u16; 1] = [128];

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// Read-only: an image.
    Image,
    /// Read and written: the job's scratch disk.
    Scratch,
}

/// A file that is no disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Its size can't be found out.
    #[error("can't find out the size of a disk's file")]
    Size(#[source] std::io::Error),
    /// A scratch disk that isn't of whole sectors would lose its end.
    #[error("a scratch disk of {0} bytes isn't of whole sectors of {SECTOR_BYTES} bytes")]
    Unaligned(u64),
    /// The state is of another disk.
    #[error("the saved disk has {saved} sectors, this one {found}, or one of them is read-only")]
    Foreign {
        /// In the snapshot.
        saved: u64,
        /// Of the file.
        found: u64,
    },
}

/// A disk.
#[derive(Debug)]
pub struct Block {
    pub(super) file: File,
    pub(super) sectors: u64,
    pub(super) kind: DiskKind,
}

impl Block {
    /// A disk of this file's size. An image whose last sector isn't whole reads as zeroes there.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn new(mut file: File, kind: DiskKind) -> Result<Self, BlockError> {
        // By seeking: it may be a block device.
        let bytes = file.seek(SeekFrom::End(0)).map_err(BlockError::Size)?;
        if kind == DiskKind::Scratch && !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(BlockError::Unaligned(bytes));
        }
        Ok(Self { file, sectors: bytes.div_ceil(SECTOR_BYTES), kind })
    }

    /// The same disk again, for a machine that was saved with it.
    ///
    /// # Errors
    /// [`BlockError::Foreign`] when it is another.
    pub fn restore(state: BlockState, file: File, kind: DiskKind) -> Result<Self, BlockError> {
        let disk = Self::new(file, kind)?;
        if disk.state() != state {
            return Err(BlockError::Foreign { saved: state.sectors, found: disk.sectors });
        }
        Ok(disk)
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> BlockState {
        BlockState { sectors: self.sectors, writable: self.kind == DiskKind::Scratch }
    }

    /// struct virtio_blk_config, as far as our features reach.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        config[..8].copy_from_slice(&self.sectors.to_le_bytes());
        config[12..16].copy_from_slice(&(MOST_DATA_SEGMENTS as u32).to_le_bytes());
        if self.kind == DiskKind::Scratch {
            for at in [36, 48] {
                config[at..at + 4].copy_from_slice(&MOST_DISCARD_SECTORS.to_le_bytes());
                config[at + 4..at + 8].copy_from_slice(&1u32.to_le_bytes());
            }
            // Discards in pages of the host's file; zeroes may free.
            config[44..48].copy_from_slice(&8u32.to_le_bytes());
            config[56] = 1;
        }
        config
    }
}

impl VirtioDevice for Block {
    fn save(&self) -> DeviceState {
        DeviceState::Block(self.state())
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let own = match self.kind {
            DiskKind::Image => 1 << VIRTIO_BLK_F_RO,
            DiskKind::Scratch => {
                1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
        };
        own | 1 << VIRTIO_BLK_F_SEG_MAX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUES
    }

    fn exit_kind(&self) -> ExitKind {
        ExitKind::Block
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<Served, Broken> {
        for _ in 0..QUEUES[0] {
            let Some(mut chain) = rings.next(queue)? else { return Ok(Served::All) };
            let written = request::serve(self, rings.memory(), &mut chain)?;
            rings.complete(queue, &chain, written)?;
        }
        Ok(Served::Later)
    }
}
