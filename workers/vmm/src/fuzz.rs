//! What a hostile guest can reach, as bounded functions of bytes: the fuzz targets in `fuzz/` call them by hand, and tests
//! run them with random bytes. None may panic, hang, or grow beyond its buffers.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::block::{Block, DiskKind};
use crate::devices::mmio::{Interrupt, MmioDevice, VirtioDevice};
use crate::devices::rng::Rng;
use crate::devices::vsock::{Port, Vsock};
use crate::memory::Memory;

/// Guest memory of a run, in bytes.
const MEMORY_BYTES: usize = 1 << 20;
/// Sectors of the disk.
const DISK_BYTES: usize = 64 << 10;
/// Where the rings of a started device lie: three queues, 256 bytes each for descriptors, available and used.
const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x300;
const QUEUE_SIZE: u16 = 16;
/// Register accesses or turns of one run.
const MOST_STEPS: usize = 512;

/// The devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The entropy device.
    Rng,
    /// A writable disk.
    Block,
    /// Streams; the host's side of the one port answers nothing.
    Vsock,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rng, Self::Block, Self::Vsock];
}

/// A device on plain memory.
#[derive(Debug)]
struct Rig {
    memory: Memory,
    device: MmioDevice,
    /// The other side of the port.
    _host: Option<UnixStream>,
}

impl Rig {
    /// Nothing when the host has no descriptors left: no defect of the device.
    fn new(kind: Kind) -> Option<Self> {
        let mut host = None;
        let device: Box<dyn VirtioDevice> = match kind {
            Kind::Rng => Box::new(Rng),
            Kind::Block => Box::new(Block::new(disk()?, DiskKind::Scratch).ok()?),
            Kind::Vsock => {
                let (device, ours) = UnixStream::pair().ok()?;
                device.set_nonblocking(true).ok()?;
                let writer = OwnedFd::from(device.try_clone().ok()?);
                host = Some(ours);
                let port = Port { number: 1024, from_host: Some(device.into()), to_host: Some(writer) };
                Box::new(Vsock::new(vec![port]))
            }
        };
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).ok()?;
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).ok()?);
        let device = MmioDevice::new(device, memory.clone(), interrupt, EventFd::new(EFD_NONBLOCK).ok()?);
        Some(Self { memory, device, _host: host })
    }

    fn write(&self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    /// As a driver starts it, with all queues in use.
    fn start(&self) {
        for status in [0, 1, 3] {
            self.write(0x70, status);
        }
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 11);
        for queue in 0..3u32 {
            let ring = (RINGS + RING_BYTES * u64::from(queue)) as u32;
            self.write(0x30, queue);
            self.write(0x38, QUEUE_SIZE.into());
            for (offset, at) in [(0x80, ring), (0x90, ring + 0x100), (0xa0, ring + 0x200)] {
                self.write(offset, at);
            }
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }
}

fn disk() -> Option<File> {
    let fd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    rustix::fs::ftruncate(&fd, DISK_BYTES as u64).ok()?;
    Some(fd.into())
}

/// Register accesses by a script: 8 bytes each (offset, width and direction, value), and a turn of the device after each.
pub fn registers(kind: Kind, script: &[u8]) {
    let Some(rig) = Rig::new(kind) else { return };
    if script.first().is_some_and(|byte| byte & 1 != 0) {
        rig.start();
    }
    for step in script.as_chunks::<8>().0.iter().take(MOST_STEPS) {
        let offset = u64::from(u16::from_le_bytes([step[0], step[1]]) & 0xfff);
        let (width, write) = (usize::from(step[2] & 0xf).min(8), step[2] & 0x10 != 0);
        let mut data = [0; 8];
        data[..5].copy_from_slice(&step[3..]);
        if write {
            rig.device.write(offset, &data[..width]);
        } else {
            rig.device.read(offset, &mut data[..width]);
        }
        rig.device.serve();
    }
}

/// Rings and buffers out of these bytes, in a device that was started as it should be; turn after turn the available rings
/// are moved on.
pub fn queues(kind: Kind, bytes: &[u8]) {
    let Some(rig) = Rig::new(kind) else { return };
    rig.start();
    let room = MEMORY_BYTES - RINGS as usize;
    let bytes = &bytes[..bytes.len().min(room)];
    if rig.memory.write_slice(bytes, GuestAddress(RINGS)).is_err() {
        return;
    }
    for turn in 1..=4u16 {
        for queue in 0..3u64 {
            let available = GuestAddress(RINGS + RING_BYTES * queue + 0x102);
            // A few at a time: what the guest's bytes say is more than the ring has most of the time.
            let _written = rig.memory.write_obj(turn * 4, available);
        }
        rig.device.serve();
    }
}

/// Bytes at RIP, to the decoder of instructions that an emulating KVM lacks.
pub fn instruction(bytes: &[u8]) {
    crate::software_kvm::decode_any(bytes);
}

/// A kernel image of these bytes, loaded into memory of 16 MiB.
pub fn kernel(bytes: &[u8]) {
    let Some(mut file) =
        rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).ok().map(File::from)
    else {
        return;
    };
    let written = std::io::Write::write_all(&mut file, &bytes[..bytes.len().min(MEMORY_BYTES)]);
    if let (Ok(()), Ok(ram)) = (written, crate::memory::GuestRam::new(crate::memory::LEAST_BYTES)) {
        let _refused = crate::boot::Kernel::load(&ram, &mut file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn nothing_reaches_further(
            script in proptest::collection::vec(any::<u8>(), 0..2000),
            small in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..16, any::<u8>()], 0..0x2000),
        ) {
            for kind in Kind::ALL {
                registers(kind, &script);
                queues(kind, &script);
                queues(kind, &small);
            }
            instruction(&script);
            kernel(&script);
            kernel(&[b"\x7fELF".as_slice(), &small].concat());
        }
    }
}
