//! Guest memory: one memfd, mapped once, never locked.
//!
//! ```text
//! 0            LOW_END (3 GiB)   MMIO_START      4 GiB (HIGH_START)
//! ├── RAM, file offset 0 ──┤  (hole: devices)   ├── RAM beyond 3 GiB, file offset LOW_END ──►
//! ```
//! A cold boot maps the file shared, so that a page is held once, by the file. A clone of a snapshot will map the
//! snapshot's file privately over the same addresses ([`Backing`]).

use std::fs::File;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// The guest's physical memory.
pub type Memory = GuestMemoryMmap<()>;

/// Where memory below the hole ends at the latest, in bytes.
pub const LOW_END: u64 = 3 << 30;
/// Where memory goes on above the hole.
pub const HIGH_START: u64 = 4 << 30;
/// The least memory that a kernel can be loaded into, in bytes.
pub const LEAST_BYTES: u64 = 16 << 20;
/// The most memory of one guest, in bytes: the file's offsets and KVM's slots bear more, but no node promises it.
pub const MOST_BYTES: u64 = 1 << 40;
const PAGE: u64 = 4096;

/// Memory could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The size is out of range.
    #[error("{0} bytes of guest memory are not between {LEAST_BYTES} and {MOST_BYTES}, in pages of {PAGE}")]
    Size(u64),
    /// The file could not be made or sized.
    #[error("can't make a memory file of {bytes} bytes")]
    File {
        /// Its size.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: rustix::io::Errno,
    },
    /// It could not be mapped.
    #[error("can't map guest memory")]
    Map(#[source] MmapRegionError),
    /// The regions overlap: a defect of the layout.
    #[error("guest memory regions don't fit together")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
}

/// How the file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Writes go to the file: a machine that boots.
    Shared,
    /// Writes stay with this process: a clone, whose file is a snapshot that others map too.
    Private,
}

/// Guest memory with its file.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: Memory,
    bytes: u64,
}

impl GuestRam {
    /// Makes an empty memory file of this many bytes and maps it.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)
            .and_then(|fd| rustix::fs::ftruncate(&fd, bytes).map(|()| fd))
            .map_err(|source| MemoryError::File { bytes, source })?;
        Self::map(File::from(file), bytes, Backing::Shared)
    }

    /// Maps a file that holds (or will hold) the guest's memory.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map(file: File, bytes: u64, backing: Backing) -> Result<Self, MemoryError> {
        if !(LEAST_BYTES..=MOST_BYTES).contains(&bytes) || !bytes.is_multiple_of(PAGE) {
            return Err(MemoryError::Size(bytes));
        }
        let file = Arc::new(file);
        let low = bytes.min(LOW_END);
        let mut regions = vec![region(&file, 0, low, 0, backing)?];
        if bytes > low {
            regions.push(region(&file, low, bytes - low, HIGH_START, backing)?);
        }
        let memory = Memory::from_regions(regions).map_err(MemoryError::Regions)?;
        Ok(Self { memory, bytes })
    }

    /// The memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Each region as KVM wants it: guest address, host address, bytes.
    pub fn slots(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.memory.iter().map(|region| {
            let mapping = region.get_mmap();
            (region.start_addr().0, mapping.as_ptr() as u64, region.len())
        })
    }
}

fn region(
    file: &Arc<File>,
    offset: u64,
    bytes: u64,
    at: u64,
    backing: Backing,
) -> Result<GuestRegionMmap<()>, MemoryError> {
    let sharing = match backing {
        Backing::Shared => libc::MAP_SHARED,
        Backing::Private => libc::MAP_PRIVATE,
    };
    let mapping = MmapRegionBuilder::new(bytes as usize)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(sharing | libc::MAP_NORESERVE)
        .with_file_offset(FileOffset::from_arc(file.clone(), offset))
        .build()
        .map_err(MemoryError::Map)?;
    GuestRegionMmap::new(mapping, GuestAddress(at)).ok_or(MemoryError::Size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_beyond_the_hole_lies_above_four_gibibytes() {
        let ram = GuestRam::new(LOW_END + (1 << 20)).expect("memory");
        let slots: Vec<_> = ram.slots().map(|(at, _, bytes)| (at, bytes)).collect();
        assert_eq!(slots, [(0, LOW_END), (HIGH_START, 1 << 20)]);
        ram.memory().write_obj(7u32, GuestAddress(HIGH_START + 4)).expect("writable");
        assert!(ram.memory().write_obj(7u32, GuestAddress(LOW_END)).is_err());
    }

    #[test]
    fn a_size_that_is_no_memory_is_refused() {
        for bytes in [0, LEAST_BYTES - 4096, LEAST_BYTES + 1, MOST_BYTES + 4096] {
            assert!(GuestRam::new(bytes).is_err(), "{bytes}");
        }
    }
}
