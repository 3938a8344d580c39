use rustix::rand::GetRandomFlags;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::RngState;
use crate::devices::mmio::{Broken, DeviceState, Rings, Served, VirtioDevice};
use crate::statistics::ExitKind;

/// The most bytes for one request: Linux asks for a cache line; a guest that wants more asks again.
pub const MOST_BYTES: usize = 4096;
const QUEUES: [u16; 1] = [16];

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

impl Rng {
    /// As it was saved.
    pub fn restore(RngState {}: RngState) -> Self {
        Self
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> RngState {
        RngState {}
    }
}

impl VirtioDevice for Rng {
    fn save(&self) -> DeviceState {
        DeviceState::Rng(self.state())
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUES
    }

    fn exit_kind(&self) -> ExitKind {
        ExitKind::Rng
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<Served, Broken> {
        for _ in 0..QUEUES[0] {
            let Some(mut chain) = rings.next(queue)? else { return Ok(Served::All) };
            let mut random = [0; MOST_BYTES];
            let wanted = MOST_BYTES.min(usize::try_from(chain.writable.left()).unwrap_or(MOST_BYTES));
            // Up to 256 bytes are never short; more may be, and the guest asks again.
            let got = rustix::rand::getrandom(&mut random[..wanted], GetRandomFlags::empty()).unwrap_or(0);
            let written = chain.writable.write(rings.memory(), &random[..got])?;
            rings.complete(queue, &chain, written as u64)?;
        }
        Ok(Served::Later)
    }
}
