//! One job: its files, its first process, its signals, its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bulkhead_types::{Termination, Usage};
use bulkhead_wire::{
    ExitReport, Failed, FailureStage, Frame, InputStart, Launcher, Received, SignalTarget, Start,
};

use super::outputs;
use super::setup::Sandbox;
use crate::fs::image::Image;
use crate::fs::transfer::{unpack_archive, write_input_file};
use crate::kernel::signal::{Info, Signal, code, post_process};
use crate::kernel::{Ending, FIRST_PID, Kernel, Observer, ProcSource, SandboxLimits};
use crate::vfs::{OpenFile, Setup, Vfs};
use crate::wait::run_woken;

/// The writable directory that the jail left.
const SCRATCH: &str = "/scratch";

/// Runs the job that the launcher sends, to the launcher's end of the connection.
pub(super) fn run(launcher: &Arc<Launcher>, sandbox: Sandbox) -> Result<(), Failed> {
    // A warm sandbox may wait here for long; nobody has to come.
    let Ok(received) = launcher.receive() else { return Ok(()) };
    let Received { frame: Frame::Start(start), descriptors } = received else {
        return Err(Failed::of(FailureStage::Internal, "a job must come first"));
    };
    let job = Job::prepare(launcher, &sandbox, *start, descriptors)?;
    job.take_inputs(launcher)?;
    job.begin(launcher)?;
    job.serve(launcher)
}

/// A job in its sandbox.
struct Job {
    kernel: Arc<Kernel>,
    vfs: Arc<Vfs>,
    start: Start,
    streams: [Arc<OpenFile>; 3],
}

impl Job {
    fn prepare(
        launcher: &Arc<Launcher>,
        sandbox: &Sandbox,
        start: Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, Failed> {
        let mut descriptors = descriptors.into_iter();
        let missing = || Failed::of(FailureStage::Internal, "a descriptor of the job is missing");
        let public = descriptors.next().ok_or_else(missing)?;
        let private = if start.image.private { Some(descriptors.next().ok_or_else(missing)?) } else { None };
        let mut stream = || descriptors.next().ok_or_else(missing);
        let streams = [stream()?, stream()?, stream()?];
        let image = Image::open(public, private)
            .map_err(|error| Failed::new(FailureStage::Image, "the image", &error))?;
        let vfs = file_systems(&start, image.clone())?;
        let limits = SandboxLimits {
            memory_bytes: start.memory_bytes,
            cpu_milli: start.cpu_milli,
            processes: start.processes,
            disk_bytes: start.disk_bytes,
        };
        let kernel = Kernel::new(limits);
        kernel.set_platform(sandbox.platform.clone());
        kernel.set_vfs(vfs.clone());
        kernel.set_public_image(image.public_file().clone());
        *kernel.hostname.lock() = start.hostname.clone().into_bytes();
        crate::fs::proc::mount(&vfs, ProcSource::shared(&kernel))
            .map_err(|error| Failed::new(FailureStage::Internal, "mounting /proc", &error))?;
        sandbox.server.set_kernel(kernel.clone());
        kernel.set_observer(Arc::new(Report { launcher: launcher.clone(), kernel: Arc::downgrade(&kernel) }));
        spawn_timers(&kernel)?;
        let streams = open_streams(&vfs, streams)?;
        Ok(Self { kernel, vfs, start, streams })
    }

    fn take_inputs(&self, launcher: &Launcher) -> Result<(), Failed> {
        loop {
            match launcher.receive()?.frame {
                Frame::Go => return Ok(()),
                Frame::Input(input) => self.take_input(launcher, input)?,
                _ => return Err(Failed::unexpected()),
            }
        }
    }

    fn take_input(&self, launcher: &Launcher, input: InputStart) -> Result<(), Failed> {
        let mut data = outputs::Incoming::new(launcher);
        // What is put in belongs to the job's user; a user that does not exist fails the start, not the inputs.
        let owner = super::first::user(&self.vfs, &self.start).map_or((0, 0), |user| (user.uid, user.gid));
        let (what, result) = match &input {
            InputStart::Archive { directory } => {
                let unpacked = unpack_archive(&self.vfs, directory.as_bytes(), owner, &mut data);
                (directory, unpacked.map(|_| ()))
            }
            InputStart::File { path, mode } => {
                let written = write_input_file(&self.vfs, path.as_bytes(), *mode, owner, &mut data);
                (path, written.map(|_| ()))
            }
        };
        data.finish()?;
        result.map_err(|error| Failed::new(FailureStage::Input, &format!("input {what}"), &error))
    }

    fn begin(&self, launcher: &Launcher) -> Result<(), Failed> {
        launcher.send(&Frame::Started)?;
        let started = super::first::start(&self.kernel, &self.vfs, &self.start, &self.streams);
        run_woken();
        if let Err(problem) = started {
            let report = report(&self.kernel, Termination::Exited(problem.code), Some(problem.message));
            launcher.send(&Frame::Exited(Box::new(report)))?;
        }
        Ok(())
    }

    /// Serves the launcher's frames until it closes the connection.
    fn serve(&self, launcher: &Launcher) -> Result<(), Failed> {
        while let Ok(received) = launcher.receive() {
            match received.frame {
                Frame::Signal { signal, target } => self.signal(signal, target),
                Frame::Collect(collect) => outputs::send(launcher, &self.vfs, &collect)?,
                _ => return Err(Failed::unexpected()),
            }
        }
        Ok(())
    }

    fn signal(&self, number: u8, target: SignalTarget) {
        let Ok(signal) = Signal::new(number.into()) else { return };
        let first = self.kernel.tree.lock().process(FIRST_PID);
        match (target, first) {
            (SignalTarget::All, _) if signal == Signal::KILL => self.kernel.kill_everything(),
            (SignalTarget::All, _) => {
                let all: Vec<_> = self.kernel.tree.lock().nodes().map(|node| node.process.clone()).collect();
                for process in all {
                    post_process(&process, Info::sent(signal, code::SI_USER, 0, 0));
                }
            }
            (SignalTarget::First, Some(process)) => {
                post_process(&process, Info::sent(signal, code::SI_USER, 0, 0));
            }
            (SignalTarget::First, None) => {}
        }
        run_woken();
    }
}

fn file_systems(start: &Start, image: Arc<Image>) -> Result<Arc<Vfs>, Failed> {
    use rustix::fs::{Mode, OFlags, open};
    let scratch = open(SCRATCH, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failed::new(FailureStage::Jail, "the scratch directory", &error))?;
    let setup = Setup {
        image: Some(image),
        scratch,
        disk_limit: start.disk_bytes,
        // Files in memory are the job's memory; the cgroup has the last word.
        memory_limit: start.memory_bytes,
    };
    Vfs::new(setup).map_err(|error| Failed::new(FailureStage::Image, "the file systems", &error))
}

fn open_streams(vfs: &Vfs, streams: [OwnedFd; 3]) -> Result<[Arc<OpenFile>; 3], Failed> {
    let failed = |error| Failed::new(FailureStage::Internal, "the job's streams", &error);
    let [stdin, stdout, stderr] = streams;
    Ok([
        vfs.host_stream(stdin, true, false).map_err(failed)?,
        vfs.host_stream(stdout, false, true).map_err(failed)?,
        vfs.host_stream(stderr, false, true).map_err(failed)?,
    ])
}

fn spawn_timers(kernel: &Arc<Kernel>) -> Result<(), Failed> {
    /// Handlers of woken calls run on this thread.
    const STACK: usize = 512 << 10;
    let kernel = kernel.clone();
    let spawned = std::thread::Builder::new()
        .name("timers".into())
        .stack_size(STACK)
        .spawn(move || kernel.timers.serve());
    spawned.map(|_| ()).map_err(|error| Failed::new(FailureStage::Internal, "the timer thread", &error))
}

/// Tells the launcher about the end.
struct Report {
    launcher: Arc<Launcher>,
    kernel: std::sync::Weak<Kernel>,
}

impl Observer for Report {
    fn all_gone(&self, ending: Ending) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        let termination = match ending {
            Ending::Exited(code) => Termination::Exited(code),
            Ending::Killed(signal, _) => Termination::Signaled(signal.number() as u8),
        };
        let _gone = self.launcher.send(&Frame::Exited(Box::new(report(&kernel, termination, None))));
    }

    fn failed(&self, message: &str) {
        self.launcher.fail(Failed::of(FailureStage::Internal, message));
    }
}

fn report(kernel: &Kernel, termination: Termination, start_problem: Option<String>) -> ExitReport {
    let time = kernel.cpu_time();
    let usage = Usage {
        cpu_user_us: time.user_us,
        cpu_system_us: time.system_us,
        wall_us: Instant::now().duration_since(kernel.booted).as_micros() as u64,
        read_bytes: kernel.usage.read_bytes.load(Ordering::Relaxed),
        written_bytes: kernel.usage.written_bytes.load(Ordering::Relaxed),
        peak_disk_bytes: kernel.vfs().disk().peak(),
        disk_limit_hits: kernel.vfs().disk().hits(),
        ..Usage::default()
    };
    ExitReport {
        termination,
        start_problem,
        usage,
        top_syscalls: kernel.counts.top(),
        unsupported_syscalls: kernel.counts.unsupported(),
    }
}
