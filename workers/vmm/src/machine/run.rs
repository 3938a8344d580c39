use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::events::EventLoop;
use super::shell::kvm;
use super::{End, Ended, Role, Shell, ShellError};
use crate::arch::registers;
use crate::boot::{self, BOOT_PARAMETERS, BootError, CommandLine};
use crate::devices::block::{Block, BlockError, DiskKind};
use crate::devices::mmio::{Interrupt, MmioDevice, NOTIFY_OFFSET, VirtioDevice};
use crate::devices::rng::Rng;
use crate::devices::serial::{Console, SERIAL_LINE, SerialPort};
use crate::devices::vsock::{Outputs, Port, Vsock};
use crate::devices::{Bus, MOST_DEVICES, MmioPlace};
use crate::memory::GuestRam;
use crate::statistics::{KvmStatistics, Report, Statistics};
use crate::vcpu::{self, ExitContext, KickError, Kicker, Samples, Vcpu};

/// KVM's counter of instructions that it emulated.
const EMULATED: &str = "insn_emulation";
/// Only touched pages count; the deepest path holds two XSAVE areas.
const STACK_BYTES: usize = 256 << 10;
/// How often a processor that has not come back is kicked again, and how often at most (5 s): one kick is enough unless the
/// host is broken.
const KICK_INTERVAL: Duration = Duration::from_millis(10);
const MOST_KICKS: u32 = 500;

/// Called first thing on each thread, to lock it in.
pub type OnThread = Arc<dyn Fn(Role) + Send + Sync>;

/// What makes a shell a machine.
pub struct Parts {
    /// vmlinux or bzImage.
    pub kernel: File,
    /// The initial file system, with the agent.
    pub initramfs: Option<File>,
    /// Disks, in the order in which the guest names them.
    pub disks: Vec<(File, DiskKind)>,
    /// Ports that the guest may connect to.
    pub ports: Vec<Port>,
    /// More words for the kernel's command line.
    pub command_line: String,
    /// Every byte of the console also goes to standard error.
    pub echo_console: bool,
    /// Called on each new thread.
    pub on_thread: Option<OnThread>,
    /// Where to note the guest's addresses when [`Machine::kick`] is called.
    pub samples: Option<Samples>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("disks", &self.disks)
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// A machine that can't be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Kernel, initial file system or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] ShellError),
    /// Too many.
    #[error("{0} devices are over the {MOST_DEVICES} that a machine has interrupts for")]
    Devices(usize),
    /// The host's descriptors or threads are used up.
    #[error("can't make {0}")]
    Host(&'static str, #[source] std::io::Error),
    /// The handler.
    #[error(transparent)]
    Kick(#[from] KickError),
}

/// A processor did not come out of the guest.
#[derive(Debug, thiserror::Error)]
#[error("a processor does not come out of the guest: this KVM ignores signals")]
pub struct MachineError;

/// A machine that runs, or has ended.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<JoinHandle<()>>,
    /// The processors' threads, for /proc.
    vcpu_ids: Arc<Mutex<Vec<i32>>>,
    devices_thread: Option<JoinHandle<()>>,
    stop_devices: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    ended: Ended,
    console: Console,
    outputs: Outputs,
    devices: Vec<Arc<MmioDevice>>,
    statistics: Arc<Statistics>,
    kvm_statistics: Vec<KvmStatistics>,
    emulated_to_ready: std::sync::OnceLock<u64>,
    software_kvm: bool,
    /// Last: the threads' processors use both until they have ended.
    _vm: VmFd,
    _ram: GuestRam,
}

impl Machine {
    /// Completes the shell and powers it on.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(shell: Shell, parts: Parts) -> Result<Self, StartError> {
        vcpu::install_kick_handler()?;
        let Shell { vcpus, vm, software_kvm, ram, tsc_khz } = shell;
        let console = Console::new(parts.echo_console);
        let statistics = Arc::new(Statistics::new());
        let mut command_line = CommandLine::new(tsc_khz);
        if software_kvm.is_some() {
            command_line.add(crate::software_kvm::COMMAND_LINE);
        }
        command_line.add(&parts.command_line);

        let vsock = Vsock::new(parts.ports);
        let outputs = vsock.outputs();
        let devices = make_devices(&vm, &ram, parts.disks, vsock, &mut command_line)?;
        let line = event_fd()?;
        vm.register_irqfd(&line, SERIAL_LINE).map_err(kvm("wire an interrupt"))?;
        let bus =
            Arc::new(Bus::new(SerialPort::new(line, console.clone()), devices.clone(), statistics.clone()));

        let (mut kernel, mut initramfs) = (parts.kernel, parts.initramfs);
        let entry = boot::load(&ram, &mut kernel, initramfs.as_mut(), &command_line, vcpus.len() as u8)?;
        registers::set_boot_state(&vcpus[0], entry, BOOT_PARAMETERS)
            .map_err(kvm("set the boot processor's registers"))?;

        let kvm_statistics =
            vcpus.iter().filter_map(|vcpu| KvmStatistics::open(vcpu, EMULATED).ok()).collect();
        let mut machine = Self {
            vcpus: Vec::new(),
            vcpu_ids: Arc::default(),
            devices_thread: None,
            stop_devices: Arc::new(event_fd()?),
            stop: Arc::new(AtomicBool::new(false)),
            ended: Ended::default(),
            console,
            outputs,
            devices,
            statistics: statistics.clone(),
            kvm_statistics,
            emulated_to_ready: std::sync::OnceLock::new(),
            software_kvm: software_kvm.is_some(),
            _vm: vm,
            _ram: ram.clone(),
        };
        machine.start_devices(parts.on_thread.clone())?;
        let context = ExitContext {
            bus,
            memory: ram.memory().clone(),
            statistics,
            software_kvm: software_kvm.map(Arc::new),
            stop: machine.stop.clone(),
            samples: parts.samples,
        };
        // The boot processor last: the others wait for it anyway.
        for (id, fd) in vcpus.into_iter().enumerate().rev() {
            machine.start_vcpu(Vcpu::new(id as u8, fd), id, context.clone(), parts.on_thread.clone())?;
        }
        Ok(machine)
    }

    fn start_devices(&mut self, on_thread: Option<OnThread>) -> Result<(), StartError> {
        let events = EventLoop::new(&self.devices, self.stop_devices.clone())
            .map_err(|error| StartError::Host("the devices' event loop", std::io::Error::other(error)))?;
        let finish = self.finisher();
        self.devices_thread = Some(spawn(Role::Devices, None, on_thread, move || {
            let finish = finish;
            let end = match events.serve() {
                Ok(()) => End::Stopped,
                Err(error) => End::Kvm(format!("the host can't wait for events: {error}")),
            };
            finish.with(end);
        })?);
        Ok(())
    }

    fn start_vcpu(
        &mut self,
        vcpu: Vcpu,
        id: usize,
        context: ExitContext,
        on_thread: Option<OnThread>,
    ) -> Result<(), StartError> {
        let finish = self.finisher();
        let ids = self.vcpu_ids.clone();
        self.vcpus.push(spawn(Role::Vcpu, Some(id), on_thread, move || {
            let finish = finish;
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            ids.lock().unwrap_or_else(PoisonError::into_inner).push(own);
            let end = vcpu.run(&context);
            finish.with(end);
        })?);
        Ok(())
    }

    fn finisher(&self) -> Finisher {
        Finisher {
            ended: self.ended.clone(),
            stop: self.stop.clone(),
            stop_devices: self.stop_devices.clone(),
            done: false,
        }
    }

    /// Why it ended, once it has.
    pub fn ended(&self) -> &Ended {
        &self.ended
    }

    /// What the guest's kernel said.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Which streams are still open.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Devices that found their rings broken, by number, and why.
    pub fn broken_devices(&self) -> Vec<(usize, String)> {
        let broken = self.devices.iter().enumerate();
        broken.filter_map(|(number, device)| Some((number, device.broken()?.to_string()))).collect()
    }

    /// The agent is ready: the boot ends here.
    pub fn mark_ready(&self) {
        self.statistics.mark_ready();
        if let Some(emulated) = self.emulated() {
            let _again = self.emulated_to_ready.set(emulated);
        }
    }

    /// What it has cost so far.
    pub fn report(&self) -> Report {
        let exits = self.statistics.exits();
        Report {
            exits_total: exits.iter().map(|exit| exit.total).sum(),
            exits,
            emulated_instructions: self.emulated(),
            emulated_instructions_to_ready: self.emulated_to_ready.get().copied(),
            own_memory_bytes: crate::statistics::own_memory_bytes(),
            seconds_to_ready: self.statistics.seconds_to_ready(),
            software_kvm: self.software_kvm,
        }
    }

    fn emulated(&self) -> Option<u64> {
        if self.kvm_statistics.is_empty() {
            return None;
        }
        self.kvm_statistics.iter().map(|one| one.read().ok()).sum()
    }

    /// How long its processors could have run but had to wait for one of the host's: the longest of them. Zero where the
    /// host's kernel doesn't say.
    pub fn waited_for_host(&self) -> Duration {
        let ids = self.vcpu_ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ids.iter().filter_map(|id| crate::statistics::run_delay(*id)).max().unwrap_or_default()
    }

    /// Brings all processors out of the guest for a moment: a sample of where it is.
    pub fn kick(&self) {
        for thread in &self.vcpus {
            // It may have ended just now.
            let _gone = Kicker::kick(thread);
        }
    }

    /// Ends the machine, whatever its guest does, and waits for its threads.
    ///
    /// # Errors
    /// [`MachineError`] when a processor stays in the guest for 5 s; the process should exit then.
    pub fn stop(&mut self) -> Result<(), MachineError> {
        self.ended.set(End::Stopped);
        self.stop.store(true, Ordering::SeqCst);
        for _ in 0..MOST_KICKS {
            self.kick();
            if self.vcpus.iter().all(JoinHandle::is_finished) {
                break;
            }
            thread::sleep(KICK_INTERVAL);
        }
        if !self.vcpus.iter().all(JoinHandle::is_finished) {
            return Err(MachineError);
        }
        // Full only when it was written already.
        let _pending = self.stop_devices.write(1);
        for thread in self.vcpus.drain(..).chain(self.devices_thread.take()) {
            // A panic was reported as the machine's end.
            let _panicked = thread.join();
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // The guest's memory is still in use; it must not be unmapped.
            std::process::abort();
        }
    }
}

/// Reports a thread's end, also when it panics.
struct Finisher {
    ended: Ended,
    stop: Arc<AtomicBool>,
    stop_devices: Arc<EventFd>,
    done: bool,
}

impl Finisher {
    fn with(mut self, end: End) {
        self.finish(end);
    }

    fn finish(&mut self, end: End) {
        self.done = true;
        self.ended.set(end);
        self.stop.store(true, Ordering::SeqCst);
        let _pending = self.stop_devices.write(1);
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        if !self.done {
            let name = thread::current().name().unwrap_or("?").to_owned();
            self.finish(End::Kvm(format!("defect of the VMM: thread {name} has panicked")));
        }
    }
}

fn spawn(
    role: Role,
    number: Option<usize>,
    on_thread: Option<OnThread>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let name = number.map_or_else(|| role.to_string(), |number| format!("{role}{number}"));
    let locked_in = move || {
        if let Some(on_thread) = on_thread {
            on_thread(role);
        }
        work();
    };
    let spawned = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(locked_in);
    spawned.map_err(|error| StartError::Host("a thread", error))
}

fn event_fd() -> Result<EventFd, StartError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|error| StartError::Host("an eventfd", error))
}

/// Disks, streams and entropy, in their places, which the kernel is told of.
fn make_devices(
    vm: &VmFd,
    ram: &GuestRam,
    disks: Vec<(File, DiskKind)>,
    vsock: Vsock,
    command_line: &mut CommandLine,
) -> Result<Vec<Arc<MmioDevice>>, StartError> {
    let mut all: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (file, kind) in disks {
        all.push(Box::new(Block::new(file, kind)?));
    }
    all.push(Box::new(vsock));
    all.push(Box::new(Rng));
    let count = all.len();
    let mut devices = Vec::new();
    for (number, device) in all.into_iter().enumerate() {
        let place = MmioPlace::of(number).ok_or(StartError::Devices(count))?;
        command_line.add_device(&place);
        devices.push(Arc::new(wire(vm, ram, device, place)?));
    }
    Ok(devices)
}

/// Connects a device's interrupt and notification to the machine.
fn wire(
    vm: &VmFd,
    ram: &GuestRam,
    device: Box<dyn VirtioDevice>,
    place: MmioPlace,
) -> Result<MmioDevice, StartError> {
    let (line, kick) = (event_fd()?, event_fd()?);
    vm.register_irqfd(&line, place.interrupt).map_err(kvm("wire an interrupt"))?;
    let address = IoEventAddress::Mmio(place.address + NOTIFY_OFFSET);
    vm.register_ioevent(&kick, &address, NoDatamatch).map_err(kvm("wire a notification"))?;
    Ok(MmioDevice::new(device, ram.memory().clone(), Interrupt::new(line), kick))
}
