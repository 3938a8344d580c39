use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Broken, DeviceState, Interest, Interrupt, MmioState, QueueRegisters, Rings, Served, VirtioDevice,
};
use crate::memory::Memory;
use crate::statistics::ExitKind;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BHVM": any number will do.
const VENDOR: u32 = 0x4d56_4842;
const CONFIG: u64 = 0x100;
/// Where the guest notifies of a queue: the ioeventfd's offset.
pub const NOTIFY_OFFSET: u64 = 0x50;
/// A shared-memory region that does not exist has this length, in both halves.
const NO_REGION: u32 = u32::MAX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// How often a queue is looked at again in one turn, before other devices get theirs.
const ROUNDS: usize = 16;

/// A virtio device with its registers.
#[derive(Debug)]
pub struct MmioDevice {
    core: Mutex<Core>,
    interrupt: Arc<Interrupt>,
    kick: EventFd,
    kind: ExitKind,
}

/// Everything that register accesses and the service of queues share.
#[derive(Debug)]
struct Core {
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    interrupt: Arc<Interrupt>,
    state: MmioState,
    queues: Vec<Queue>,
    /// Configured addresses and sizes, before they are made valid by "ready".
    configured: Vec<QueueRegisters>,
    broken: Option<Broken>,
}

impl MmioDevice {
    /// A device after reset. `kick` is to be wired to [`NOTIFY_OFFSET`], the interrupt to the device's line.
    pub fn new(device: Box<dyn VirtioDevice>, memory: Memory, interrupt: Interrupt, kick: EventFd) -> Self {
        let interrupt = Arc::new(interrupt);
        let kind = device.exit_kind();
        let queues = fresh_queues(device.as_ref());
        let configured = vec![QueueRegisters::default(); queues.len()];
        let state = MmioState::default();
        let core =
            Core { device, memory, interrupt: interrupt.clone(), state, queues, configured, broken: None };
        Self { core: Mutex::new(core), interrupt, kick, kind }
    }

    /// A device as it was saved; `device` is the restored one behind it. Nothing when the state is not of such a device, or
    /// its queues don't lie in this memory.
    pub fn restore(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        interrupt: Interrupt,
        kick: EventFd,
        state: MmioState,
    ) -> Option<Self> {
        let restored = Self::new(device, memory, interrupt, kick);
        let mut core = restored.lock();
        if state.queues.len() != core.queues.len() || state.driver_features & !core.offered() != 0 {
            return None;
        }
        for (index, registers) in state.queues.iter().enumerate() {
            core.configured[index] = *registers;
            if registers.ready {
                core.queues[index] = make_queue(&core.memory, core.queues[index].max_size(), registers)?;
            }
        }
        if state.status & DRIVER_OK != 0 {
            core.device.activate(state.driver_features);
        }
        core.interrupt.set_status(state.interrupt_status);
        core.state = state;
        drop(core);
        // What came between the last turn and the snapshot.
        restored.wake();
        Some(restored)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its accesses in the statistics.
    pub fn exit_kind(&self) -> ExitKind {
        self.kind
    }

    /// What wakes the devices' thread for it.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The guest reads.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            self.lock().device.read_config(offset - CONFIG, data);
        } else if let (Ok(word), true) = (<&mut [u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            let value = if offset == 0x60 { self.interrupt.status() } else { self.lock().read(offset) };
            *word = value.to_le_bytes();
        }
    }

    /// The guest writes. Registers are 32 bits wide; anything else does nothing (4.2.2.2), and the configuration of our
    /// devices can't be written.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let (Ok(word), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) else { return };
        let value = u32::from_le_bytes(word);
        match offset {
            0x64 => self.interrupt.acknowledge(value),
            // Here only without KVM's ioeventfd.
            NOTIFY_OFFSET => self.wake(),
            0x70 => {
                if self.lock().set_status(value) {
                    // Rings that were filled before "driver ok", or descriptors of a device that was reset.
                    self.wake();
                }
            }
            _ => self.lock().write(offset, value),
        }
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is about to wake.
        let _pending = self.kick.write(1);
    }

    /// Serves all queues; on the devices' thread. Returns what to wait for on the host.
    pub fn serve(&self) -> Vec<Interest> {
        let mut core = self.lock();
        if core.serve() {
            self.wake();
        }
        core.device.interests()
    }

    /// A descriptor of the host is ready; on the devices' thread. Returns what to wait for from now on.
    pub fn host_ready(&self, fd: RawFd) -> Vec<Interest> {
        let mut core = self.lock();
        if core.host_ready(fd) {
            self.wake();
        }
        core.device.interests()
    }

    /// This descriptor can't be waited for.
    pub fn always_ready(&self, fd: RawFd) {
        self.lock().device.always_ready(fd);
    }

    /// Only the `watched` descriptors are still waited for; others that the device needs no more may be closed.
    pub fn reap(&self, watched: &dyn Fn(RawFd) -> bool) {
        self.lock().device.reap(watched);
    }

    /// The machine has ended.
    pub fn shut_down(&self) {
        self.lock().device.shut_down();
    }

    /// Why the device asks for a reset, if it does.
    pub fn broken(&self) -> Option<Broken> {
        self.lock().broken
    }

    /// What a snapshot keeps: the transport's state and the device's own. Exact when no turn is under way.
    pub fn state(&self) -> (MmioState, DeviceState) {
        let core = self.lock();
        (core.save(), core.device.save())
    }
}

fn fresh_queues(device: &dyn VirtioDevice) -> Vec<Queue> {
    let queue = |size: &u16| Queue::new(*size).expect("a device's queue sizes are powers of two");
    device.queue_sizes().iter().map(queue).collect()
}

impl Core {
    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1 | EVENT_IDX
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.state.queue_select).ok().filter(|index| *index < self.queues.len())
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.id(),
            0x0c => VENDOR,
            0x10 => half(self.offered(), self.state.device_features_select),
            0x34 => self.selected().map_or(0, |index| u32::from(self.queues[index].max_size())),
            0x44 => self.selected().map_or(0, |index| u32::from(self.queues[index].ready())),
            0x70 => self.state.status,
            0xb0 | 0xb4 | 0xb8 | 0xbc => NO_REGION,
            // 0xfc, the configuration's generation: it never changes. Others can't be read.
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.state.device_features_select = value,
            0x24 => self.state.driver_features_select = value,
            0x20 if self.is_negotiating() => {
                let features = &mut self.state.driver_features;
                match self.state.driver_features_select {
                    0 => *features = *features & !0xffff_ffff | u64::from(value),
                    1 => *features = *features & 0xffff_ffff | u64::from(value) << 32,
                    _ => {}
                }
            }
            0x30 => self.state.queue_select = value,
            0x38 | 0x44 | 0x80 | 0x84 | 0x90 | 0x94 | 0xa0 | 0xa4 => {
                if let Some(index) = self.selected().filter(|_| self.may_configure()) {
                    self.write_queue(index, offset, value);
                }
            }
            _ => {}
        }
    }

    fn is_negotiating(&self) -> bool {
        self.state.status & (DRIVER | FEATURES_OK | NEEDS_RESET) == DRIVER
    }

    fn may_configure(&self) -> bool {
        self.state.status & (FEATURES_OK | NEEDS_RESET | FAILED) == FEATURES_OK
    }

    fn write_queue(&mut self, index: usize, offset: u64, value: u32) {
        if offset == 0x44 {
            return self.set_ready(index, value == 1);
        }
        // A queue in use keeps its place; so does one after "driver ok" (a stopped one can't come back without a reset).
        if self.queues[index].ready() || self.state.status & DRIVER_OK != 0 {
            return;
        }
        let queue = &mut self.configured[index];
        let set = |address: &mut u64, high: bool| {
            *address = if high {
                *address & 0xffff_ffff | u64::from(value) << 32
            } else {
                *address & !0xffff_ffff | u64::from(value)
            };
        };
        match offset {
            0x38 => queue.size = u16::try_from(value).unwrap_or(0),
            0x80 | 0x84 => set(&mut queue.descriptors, offset == 0x84),
            0x90 | 0x94 => set(&mut queue.available, offset == 0x94),
            _ => set(&mut queue.used, offset == 0xa4),
        }
    }

    /// A queue gets ready only when size and addresses are valid: the driver reads that back.
    fn set_ready(&mut self, index: usize, ready: bool) {
        if !ready {
            self.queues[index].set_ready(false);
        } else if !self.queues[index].ready() && self.state.status & DRIVER_OK == 0 {
            let event_index = self.state.driver_features & EVENT_IDX != 0;
            let registers = QueueRegisters { ready: true, event_index, ..self.configured[index] };
            if let Some(queue) = make_queue(&self.memory, self.queues[index].max_size(), &registers) {
                self.queues[index] = queue;
            }
        }
    }

    /// Returns whether the devices' thread has to look.
    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let added = value & !self.state.status;
        // Bits are only ever added (2.1.1): a write that takes one away is ignored. NEEDS_RESET is the device's own.
        if self.state.status & !NEEDS_RESET & !value != 0 {
            return false;
        }
        let order =
            [(ACKNOWLEDGE, 0), (DRIVER, ACKNOWLEDGE), (FEATURES_OK, DRIVER), (DRIVER_OK, FEATURES_OK)];
        let mut started = false;
        for (bit, before) in order {
            if added & bit == 0 || self.state.status & before != before {
                continue;
            }
            if bit == FEATURES_OK && !self.accepts_features() {
                continue;
            }
            self.state.status |= bit;
            if bit == DRIVER_OK {
                self.device.activate(self.state.driver_features);
                started = true;
            }
        }
        self.state.status |= added & FAILED;
        started
    }

    fn accepts_features(&self) -> bool {
        self.state.driver_features & !self.offered() == 0 && self.state.driver_features & VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.device.reset();
        self.state = MmioState::default();
        self.queues = fresh_queues(self.device.as_ref());
        self.configured.fill(QueueRegisters::default());
        self.interrupt.set_status(0);
        self.broken = None;
    }

    fn is_running(&self) -> bool {
        self.state.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }

    /// Returns whether to come back soon.
    fn serve(&mut self) -> bool {
        self.guarded(Self::serve_queues)
    }

    /// From the last to the first: what the vsock device's second queue brings is answered by its first.
    fn serve_queues(&mut self) -> Result<bool, Broken> {
        let mut later = false;
        for index in (0..self.queues.len()).rev() {
            later |= self.serve_queue(index)?;
        }
        Ok(later)
    }

    fn host_ready(&mut self, fd: RawFd) -> bool {
        self.guarded(|core| {
            core.device.host_ready(fd, &mut Rings::new(&core.memory, &mut core.queues))?;
            core.serve_queues()
        })
    }

    /// Does something with the queues if the driver runs, tells the guest of what was used, and asks for a reset if they
    /// turn out broken.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<bool, Broken>) -> bool {
        if !self.is_running() {
            return false;
        }
        let before: Vec<u16> = self.queues.iter().map(Queue::next_used).collect();
        let done = work(self);
        let told = self.tell_used(&before);
        match done.and_then(|later| told.map(|()| later)) {
            Ok(later) => later,
            Err(broken) => {
                self.broken = Some(broken);
                self.state.status |= NEEDS_RESET;
                self.interrupt.configuration();
                false
            }
        }
    }

    fn serve_queue(&mut self, index: usize) -> Result<bool, Broken> {
        for _ in 0..ROUNDS {
            if !self.queues[index].ready() {
                return Ok(false);
            }
            self.queues[index].disable_notification(&self.memory).map_err(|_| Broken::OutOfMemory)?;
            let mut rings = Rings::new(&self.memory, &mut self.queues);
            match self.device.serve(index, &mut rings)? {
                Served::Waiting => return Ok(false),
                Served::Later => return Ok(true),
                Served::All => {
                    let queue = &mut self.queues[index];
                    if !queue.enable_notification(&self.memory).map_err(|_| Broken::OutOfMemory)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn tell_used(&mut self, before: &[u16]) -> Result<(), Broken> {
        let mut tell = false;
        for (queue, before) in self.queues.iter_mut().zip(before) {
            if queue.ready() && queue.next_used() != *before {
                tell |= queue.needs_notification(&self.memory).map_err(|_| Broken::OutOfMemory)?;
            }
        }
        if tell {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    fn save(&self) -> MmioState {
        let queues = self.queues.iter().zip(&self.configured).map(|(queue, configured)| QueueRegisters {
            ready: queue.ready(),
            next_available: queue.next_avail(),
            next_used: queue.next_used(),
            event_index: queue.event_idx_enabled(),
            ..*configured
        });
        MmioState {
            interrupt_status: self.interrupt.status(),
            queues: queues.collect(),
            ..self.state.clone()
        }
    }
}

fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

/// A queue in use, or nothing when size or addresses are not valid.
fn make_queue(memory: &Memory, max_size: u16, registers: &QueueRegisters) -> Option<Queue> {
    let mut queue = Queue::new(max_size).ok()?;
    queue.try_set_size(registers.size).ok()?;
    queue.try_set_desc_table_address(GuestAddress(registers.descriptors)).ok()?;
    queue.try_set_avail_ring_address(GuestAddress(registers.available)).ok()?;
    queue.try_set_used_ring_address(GuestAddress(registers.used)).ok()?;
    queue.set_event_idx(registers.event_index);
    queue.set_next_avail(registers.next_available);
    queue.set_next_used(registers.next_used);
    queue.set_ready(true);
    queue.is_valid(memory).then_some(queue)
}
