use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::{Broken, Rings};
use crate::devices::block::BlockState;
use crate::devices::rng::RngState;
use crate::devices::vsock::VsockState;
use crate::statistics::ExitKind;

/// Whether a queue has been emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Every available chain was taken: the guest is to notify of more.
    All,
    /// The rest waits for something on the host; no notification is needed.
    Waiting,
    /// There is more, but others are to get their turn.
    Later,
}

/// A descriptor of the host and what is to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The descriptor; stays open until [`VirtioDevice::interests`] leaves it out and [`VirtioDevice::reap`] was called.
    pub fd: RawFd,
    /// Readiness.
    pub events: EventSet,
}

/// What a snapshot keeps of a device, beside its transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceState {
    /// A disk.
    Block(BlockState),
    /// Streams.
    Vsock(VsockState),
    /// Entropy.
    Rng(RngState),
}

/// What a virtio device does behind the transport. All calls come under the device's lock.
pub trait VirtioDevice: Send + std::fmt::Debug {
    /// The device's type (virtio 1.2, section 5).
    fn id(&self) -> u32;

    /// Its own feature bits; the transport adds its own.
    fn features(&self) -> u64;

    /// The greatest size of each queue, powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Its register accesses in the statistics.
    fn exit_kind(&self) -> ExitKind;

    /// The guest reads the configuration; what is beyond it reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The guest's driver has started, with these features.
    fn activate(&mut self, features: u64);

    /// The guest has reset the device; whatever was under way is forgotten.
    fn reset(&mut self);

    /// The guest has notified of a queue; on the devices' thread.
    ///
    /// # Errors
    /// [`Broken`]: the device stops until it is reset.
    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<Served, Broken>;

    /// A descriptor of [`Self::interests`] is ready; on the devices' thread.
    ///
    /// # Errors
    /// As [`Self::serve`].
    fn host_ready(&mut self, _fd: RawFd, _rings: &mut Rings<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// What to wait for on the host; asked on the devices' thread after every other call.
    fn interests(&self) -> Vec<Interest> {
        Vec::new()
    }

    /// This descriptor can't be waited for (a plain file): it is always ready.
    fn always_ready(&mut self, _fd: RawFd) {}

    /// Closes descriptors that are needed no more, but for those that are still waited for.
    fn reap(&mut self, _watched: &dyn Fn(RawFd) -> bool) {}

    /// What a snapshot keeps.
    fn save(&self) -> DeviceState;

    /// The machine has ended: whoever is on the other side is to notice.
    fn shut_down(&mut self) {}
}
