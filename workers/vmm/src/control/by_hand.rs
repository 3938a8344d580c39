//! A machine from the command line, without launcher and jail: for developers of kernel, agent and VMM.
//!
//! ```text
//! bulkhead-vmm --kernel VMLINUX [--initramfs CPIO] [--disk IMAGE]... [--scratch FILE]... [--vcpus N] [--memory MIB]
//!              [--append WORDS] [--input PORT] [--output PORT] [--seconds N] [--profile FILE]
//! ```
//! The console goes to standard error; `--input` lets the guest read standard input from that vsock port of context 2,
//! `--output` lets it write standard output; both may name the same one. Ends with the guest, or after the given seconds (60), and prints statistics
//! as JSON to standard error. `--profile` notes the guest's address each millisecond, one a line, and behind it
//! what on the stack may be addresses of callers: resolved with the kernel's System.map it shows where a boot's
//! instructions go.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_wire::chain;

use crate::devices::block::DiskKind;
use crate::devices::vsock::Port;
use crate::machine::{End, Machine, Parts, Shell, ShellConfig};
use crate::software_kvm;
use crate::vcpu::Samples;

const USAGE: &str = "usage: bulkhead-vmm --kernel VMLINUX [--initramfs CPIO] [--disk IMAGE]... [--scratch FILE]... \
    [--vcpus N] [--memory MIB] [--append WORDS] [--input PORT] [--output PORT] [--seconds N] [--profile FILE]";

/// A machine that could not be run by hand.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ByHandError(String);

fn failed(what: &str) -> impl Fn(&dyn std::error::Error) -> ByHandError + '_ {
    move |error| ByHandError(format!("{what}: {}", chain(error)))
}

struct Options {
    parts: Parts,
    config: ShellConfig,
    limit: Duration,
    profile: Option<PathBuf>,
}

/// Runs a machine as the arguments say; the exit status is 0 when the guest rebooted, 124 when its time was over, 1
/// otherwise.
///
/// # Errors
/// [`ByHandError`], for a person.
pub fn run(arguments: &[String]) -> Result<i32, ByHandError> {
    let Options { parts, config, limit, profile } = parse(arguments)?;
    let samples = parts.samples.clone();
    let device = File::options().read(true).write(true).open("/dev/kvm");
    let device = device.map_err(|error| failed("/dev/kvm")(&error))?;
    let shell = Shell::new(device.into(), config).map_err(|error| failed("shell")(&error))?;
    let mut machine = Machine::start(shell, parts).map_err(|error| failed("machine")(&error))?;
    let end = wait(&machine, limit, samples.is_some());
    let report = serde_json::to_string(&machine.report()).map_err(|error| failed("statistics")(&error))?;
    machine.stop().map_err(|error| failed("machine")(&error))?;
    eprintln!("\n{}\n{report}", end.as_ref().map_or("its time is over".to_owned(), End::to_string));
    if let (Some(samples), Some(path)) = (samples, profile) {
        let hexadecimal = |address: &u64| format!("{address:x}");
        let line = |sample: &Vec<u64>| sample.iter().map(hexadecimal).collect::<Vec<_>>().join(" ") + "\n";
        let lines: String = samples.take().iter().map(line).collect();
        std::fs::write(&path, lines).map_err(|error| failed("profile")(&error))?;
    }
    for (number, why) in machine.broken_devices() {
        eprintln!("device {number}: {why}");
    }
    Ok(match end {
        Some(End::Reset) => 0,
        Some(_) => 1,
        None => 124,
    })
}

/// Waits for the end; with a profile, the guest is interrupted each millisecond.
fn wait(machine: &Machine, limit: Duration, profile: bool) -> Option<End> {
    if !profile {
        return machine.ended().wait(limit);
    }
    let deadline = Instant::now() + limit;
    loop {
        let end = machine.ended().wait(Duration::from_millis(1));
        if end.is_some() || Instant::now() >= deadline {
            return end;
        }
        machine.kick();
    }
}

fn parse(arguments: &[String]) -> Result<Options, ByHandError> {
    let usage = || ByHandError(USAGE.into());
    let mut kernel = None;
    let mut parts = Parts {
        kernel: open(Path::new("/dev/null"), false)?,
        initramfs: None,
        disks: Vec::new(),
        ports: Vec::new(),
        command_line: String::new(),
        echo_console: true,
        on_thread: None,
        samples: None,
    };
    let mut profile = None;
    let (mut vcpus, mut mebibytes, mut seconds) = (1, 128, 60);
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(usage)?;
        let path = Path::new(value);
        let number = || value.parse::<u64>().map_err(|_| usage());
        match option.as_str() {
            "--kernel" => kernel = Some(open(path, false)?),
            "--initramfs" => parts.initramfs = Some(open(path, false)?),
            "--disk" => parts.disks.push((open(path, false)?, DiskKind::Image)),
            "--scratch" => parts.disks.push((open(path, true)?, DiskKind::Scratch)),
            "--append" => parts.command_line.clone_from(value),
            "--vcpus" => vcpus = u8::try_from(number()?).map_err(|_| usage())?,
            "--memory" => mebibytes = number()?,
            "--seconds" => seconds = number()?,
            "--profile" => {
                profile = Some(path.to_owned());
                parts.samples = Some(Samples::default());
            }
            "--input" => {
                let number = u32::try_from(number()?).map_err(|_| usage())?;
                port(&mut parts.ports, number).from_host = Some(duplicate(std::io::stdin())?);
            }
            "--output" => {
                let number = u32::try_from(number()?).map_err(|_| usage())?;
                port(&mut parts.ports, number).to_host = Some(duplicate(std::io::stdout())?);
            }
            _ => return Err(usage()),
        }
    }
    parts.kernel = kernel.ok_or_else(usage)?;
    let memory_bytes = mebibytes.saturating_mul(1 << 20);
    let config = ShellConfig { vcpus, memory_bytes, software_kvm: software_kvm::detected() };
    Ok(Options { parts, config, limit: Duration::from_secs(seconds), profile })
}

/// The port of this number; one that is named twice goes both ways.
fn port(ports: &mut Vec<Port>, number: u32) -> &mut Port {
    let at = ports.iter().position(|port| port.number == number).unwrap_or_else(|| {
        ports.push(Port { number, from_host: None, to_host: None });
        ports.len() - 1
    });
    &mut ports[at]
}

fn open(path: &Path, write: bool) -> Result<File, ByHandError> {
    let file = OpenOptions::new().read(true).write(write).open(path);
    file.map_err(|error| failed(&path.display().to_string())(&error))
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd, ByHandError> {
    stream.as_fd().try_clone_to_owned().map_err(|error| failed("standard streams")(&error))
}
