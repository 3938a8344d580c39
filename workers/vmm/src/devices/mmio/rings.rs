use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::Chain;
use crate::memory::Memory;

/// The guest's rings can't be used; the device waits for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The ring's indices make no sense.
    #[error("the ring's indices make no sense")]
    Ring,
    /// A chain loops, is too long, or mixes what may be read and what may be written.
    #[error("a descriptor chain loops, is too long, or is out of order")]
    Chain,
    /// A buffer or a ring is outside of memory.
    #[error("a buffer lies outside of memory")]
    OutOfMemory,
    /// A request that no driver makes.
    #[error("a request is not of the device's format")]
    Request,
}

/// A device's queues while they are served.
#[derive(Debug)]
pub struct Rings<'a> {
    memory: &'a Memory,
    queues: &'a mut [Queue],
}

impl<'a> Rings<'a> {
    pub(super) fn new(memory: &'a Memory, queues: &'a mut [Queue]) -> Self {
        Self { memory, queues }
    }

    /// Guest memory.
    pub fn memory(&self) -> &'a Memory {
        self.memory
    }

    /// The next chain that the guest has made available, if the queue is ready and has one.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn next(&mut self, queue: usize) -> Result<Option<Chain>, Broken> {
        let Some(queue) = self.queues.get_mut(queue).filter(|queue| queue.ready()) else { return Ok(None) };
        let mut chains = queue.iter(self.memory).map_err(|_| Broken::Ring)?;
        let Some(chain) = chains.next() else { return Ok(None) };
        Chain::collect(self.memory, chain).map(Some)
    }

    /// Whether the guest has made chains available.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn has_next(&self, queue: usize) -> Result<bool, Broken> {
        let Some(queue) = self.queues.get(queue).filter(|queue| queue.ready()) else { return Ok(false) };
        let available = queue.avail_idx(self.memory, Ordering::Acquire).map_err(|_| Broken::OutOfMemory)?;
        Ok(available.0 != queue.next_avail())
    }

    /// Undoes the last [`Self::next`]: nothing was written, the chain will come again.
    pub fn give_back(&mut self, queue: usize) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.go_to_previous_position();
        }
    }

    /// Gives a chain back, of which this many bytes were written.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn complete(&mut self, queue: usize, chain: &Chain, written: u64) -> Result<(), Broken> {
        let Some(queue) = self.queues.get_mut(queue) else { return Err(Broken::Ring) };
        // A chain is at most 4 GiB by the ring's own type.
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        queue.add_used(self.memory, chain.head(), written).map_err(|_| Broken::Ring)
    }
}
