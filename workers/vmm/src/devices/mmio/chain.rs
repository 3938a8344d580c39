use std::ops::Deref;

use smallvec::SmallVec;
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Broken, Vectors};
use crate::memory::Memory;

/// The most buffers of one chain. A driver that keeps to what the devices say (`seg_max`) needs two more than those.
pub const MOST_SEGMENTS: usize = 128;

/// A buffer in guest memory; its range was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    at: GuestAddress,
    bytes: u32,
}

/// One side of a chain, read or written from its start on.
#[derive(Debug, Default)]
pub struct ChainBytes {
    segments: SmallVec<[Segment; 4]>,
    /// The segment that is next, and how much of it is done.
    next: usize,
    done: u32,
    left: u64,
}

impl ChainBytes {
    fn push(&mut self, segment: Segment) {
        self.left += u64::from(segment.bytes);
        self.segments.push(segment);
    }

    /// Bytes not read or written yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece that lies together, of at most `most` bytes; taken.
    fn take(&mut self, most: usize) -> Option<(GuestAddress, usize)> {
        while let Some(segment) = self.segments.get(self.next) {
            let left = segment.bytes - self.done;
            if left == 0 {
                (self.next, self.done) = (self.next + 1, 0);
                continue;
            }
            let bytes = left.min(u32::try_from(most).unwrap_or(u32::MAX));
            let at = GuestAddress(segment.at.0 + u64::from(self.done));
            self.done += bytes;
            self.left -= u64::from(bytes);
            return Some((at, bytes as usize));
        }
        None
    }

    /// Copies from the guest; the number of bytes is short at the chain's end.
    ///
    /// # Errors
    /// [`Broken`] never happens for memory that was checked; it is passed on all the same.
    pub fn read(&mut self, memory: &Memory, into: &mut [u8]) -> Result<usize, Broken> {
        let mut got = 0;
        while got < into.len() {
            let Some((at, bytes)) = self.take(into.len() - got) else { break };
            memory.read_slice(&mut into[got..got + bytes], at).map_err(|_| Broken::OutOfMemory)?;
            got += bytes;
        }
        Ok(got)
    }

    /// Copies to the guest; short at the chain's end.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&mut self, memory: &Memory, from: &[u8]) -> Result<usize, Broken> {
        let mut put = 0;
        while put < from.len() {
            let Some((at, bytes)) = self.take(from.len() - put) else { break };
            memory.write_slice(&from[put..put + bytes], at).map_err(|_| Broken::OutOfMemory)?;
            put += bytes;
        }
        Ok(put)
    }

    /// Splits off everything behind the next `bytes`; they stay here.
    pub fn split_off(&mut self, bytes: u64) -> ChainBytes {
        let mut front = ChainBytes::default();
        let mut wanted = bytes.min(self.left);
        while wanted > 0 {
            let Some((at, taken)) = self.take(usize::try_from(wanted).unwrap_or(usize::MAX)) else { break };
            wanted -= taken as u64;
            front.push(Segment { at, bytes: taken as u32 });
        }
        std::mem::replace(self, front)
    }

    /// The next `most` bytes for a system call that reads or writes guest memory itself; taken.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn take_vectors<'m>(&mut self, memory: &'m Memory, most: usize) -> Result<Vectors<'m>, Broken> {
        let mut vectors = Vectors::default();
        while vectors.left() < most {
            let Some((at, bytes)) = self.take(most - vectors.left()) else { break };
            let slice = memory.get_slice(at, bytes).map_err(|_| Broken::OutOfMemory)?;
            // SAFETY: 1. `get_slice` checked that the bytes are mapped, and `memory` keeps them so for 'm; 2. they are mapped
            // for reading and writing; 3. nobody makes a reference into guest memory.
            unsafe { vectors.push(slice.ptr_guard_mut().as_ptr(), bytes) };
        }
        Ok(vectors)
    }
}

/// A chain of buffers that the guest has made available: copied out of the ring once, checked once.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// What the device may read.
    pub readable: ChainBytes,
    /// What the device may write.
    pub writable: ChainBytes,
}

impl Chain {
    /// Which chain it is, for the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Walks the descriptors. A chain that loops is one that ends with a "next" flag when as many descriptors were seen as
    /// the queue has.
    pub(super) fn collect<M>(memory: &Memory, chain: DescriptorChain<M>) -> Result<Self, Broken>
    where
        M: Deref<Target = Memory>,
    {
        let mut collected = Self {
            head: chain.head_index(),
            readable: ChainBytes::default(),
            writable: ChainBytes::default(),
        };
        let mut ended = false;
        for descriptor in chain {
            if ended {
                return Err(Broken::Chain);
            }
            let segment = Segment { at: descriptor.addr(), bytes: descriptor.len() };
            let count = collected.readable.segments.len() + collected.writable.segments.len();
            if count == MOST_SEGMENTS {
                return Err(Broken::Chain);
            }
            if segment.bytes != 0 && !memory.check_range(segment.at, segment.bytes as usize) {
                return Err(Broken::OutOfMemory);
            }
            if descriptor.is_write_only() {
                collected.writable.push(segment);
            } else if collected.writable.segments.is_empty() {
                collected.readable.push(segment);
            } else {
                // The device's part comes last (2.7.4.2).
                return Err(Broken::Chain);
            }
            ended = !descriptor.has_next();
        }
        if ended { Ok(collected) } else { Err(Broken::Chain) }
    }
}
