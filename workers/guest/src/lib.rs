//! The agent: the first process of a microVM.
//!
//! It is the only file of the machine's initramfs, static and small, and has one thread. It trusts the VMM and nothing that
//! comes from the job or its image.
//!
//! ```text
//! mounts, loopback, control groups -> connects -> Ready -> Start: scratch disk, image, overlay, root
//!   -> inputs, Go -> Started -> (Signal ...) -> Exited -> Collect -> outputs -> Collected -> the launcher closes -> off
//! ```
//!
//! Control frames (`bulkhead-wire`, without descriptors) travel over the vsock port [`port::CONTROL`] of the host, the
//! job's streams as plain bytes over three more. `/dev/vda` is the image's public file, `/dev/vdb` its private one where
//! there is one, the last disk the scratch disk: at least as large as [`device_bytes`] of the job's limit, and full of zeroes.
//!
//! The job is root of its own kernel (or the user that it asked for): it may mount, unshare, load BPF. It has a control
//! group with its limits and sees it as the root of all groups. When its first process ends, everything else is killed.

mod cgroup;
mod channel;
mod disk;
mod files;
mod job;
mod machine;
mod options;
mod root;
mod system;

use std::process::ExitCode;

use bulkhead_wire::{Failed, FailureStage, Frame, Start, WireError};
use rustix::system::{RebootCommand, reboot};

use channel::Channel;
pub use disk::{FormatError, device_bytes, format};
use files::Owner;
use job::Streams;
use options::Options;

/// Ports of the host.
pub mod port {
    /// Frames.
    pub const CONTROL: u32 = 1024;
    /// The job's standard input, from the host.
    pub const STDIN: u32 = 1025;
    /// Its standard output.
    pub const STDOUT: u32 = 1026;
    /// Its standard error.
    pub const STDERR: u32 = 1027;
}

/// Runs one job, as PID 1 of a machine (`arguments` are then the kernel's and mean nothing) or as a test starts it.
pub fn serve(arguments: &[String]) -> ExitCode {
    let in_machine = std::fs::metadata("/proc/self").is_err();
    let result = if in_machine { Ok(Options::of_machine()) } else { Options::of_arguments(arguments) };
    let result = result.and_then(|options| run(&options));
    if let Err(failure) = &result {
        eprintln!("bulkhead-guest: {failure}");
    }
    if in_machine {
        // At once: nothing on the disks is worth a sync.
        let _off = reboot(RebootCommand::Restart);
    }
    ExitCode::from(u8::from(result.is_err()))
}

fn run(options: &Options) -> Result<(), Failed> {
    // Before anything else: whatever fails from here on can be told.
    let (mut channel, streams) = connect(options)?;
    report_panics(&channel);
    let result = work(options, &mut channel, streams);
    if let Err(failure) = &result {
        channel.fail(failure);
    }
    result
}

fn connect(options: &Options) -> Result<(Channel, Streams), Failed> {
    /// The first of the descriptors that a test leaves open.
    const INHERITED: i32 = 3;
    let connection = |index: i32, port: u32| {
        let made =
            if options.inherited { system::inherited(INHERITED + index) } else { system::connect_host(port) };
        made.map_err(|error| Failed::internal(&format!("connecting to the host's port {port}"), &error))
    };
    let channel = Channel::new(connection(0, port::CONTROL)?);
    let streams = [connection(1, port::STDIN)?, connection(2, port::STDOUT)?, connection(3, port::STDERR)?];
    Ok((channel, streams))
}

fn work(options: &Options, channel: &mut Channel, streams: Streams) -> Result<(), Failed> {
    let machine = machine::prepare(options)?;
    channel.send(&Frame::Ready)?;
    let start = match channel.receive() {
        Ok(Frame::Start(start)) => start,
        Ok(_) => return Err(Failed::unexpected()),
        // A machine may wait long for a job, and none has to come.
        Err(WireError::Closed) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    machine.reseed()?;
    let disk = root::enter(&machine, &options.disks(start.image.private)?, &start)?;
    take_inputs(channel, &start)?;
    job::run(channel, &start, streams, disk, machine.groups.as_ref())?;
    collect(channel)
}

fn take_inputs(channel: &mut Channel, start: &Start) -> Result<(), Failed> {
    loop {
        match channel.receive()? {
            Frame::Go => return Ok(()),
            Frame::Input(input) => {
                // What is put in belongs to the job's user; a user that does not exist fails the start, not the inputs.
                let owner = job::user(start).map_or(Owner(0, 0), |user| Owner(user.uid, user.gid));
                files::take(channel, &input, owner)?;
            }
            _ => return Err(Failed::unexpected()),
        }
    }
}

fn collect(channel: &mut Channel) -> Result<(), Failed> {
    loop {
        match channel.receive() {
            Ok(Frame::Collect(wanted)) => files::send(channel, &wanted)?,
            // It came too late.
            Ok(Frame::Signal { .. }) => {}
            Ok(_) => return Err(Failed::unexpected()),
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A panic is a defect of the agent, and the machine's end; the launcher shall not have to guess.
fn report_panics(channel: &Channel) {
    let Ok(channel) = channel.try_clone() else { return };
    let channel = std::sync::Mutex::new(channel);
    std::panic::set_hook(Box::new(move |info| {
        let message = format!("defect of the guest's agent: {info}");
        eprintln!("{message}");
        if let Ok(mut channel) = channel.try_lock() {
            channel.fail(&Failed { stage: FailureStage::Internal, message });
        }
    }));
}
