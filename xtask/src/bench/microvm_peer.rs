//! QEMU's microvm machine with the same kernel and agent: how long from its exec until the kernel starts the agent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::row::Row;

/// What the kernel says when it is done.
const MARK: &str = "Run /init as init process";
/// Longest boot that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the guest, in MiB: a usual job's.
const MEMORY: &str = "576";

/// How QEMU runs the guest.
struct Way {
    accelerator: &'static str,
    /// Devices that its guest can do without.
    without: &'static str,
    processor: &'static str,
    name: &'static str,
}

/// As our VMM does, and the one that is left where that does not work.
const KVM: Way =
    Way { accelerator: "kvm", without: ",pit=off,pic=off", processor: "host", name: "QEMU microvm" };
/// Without KVM's clock the guest measures its clocks against the PIT.
const TRANSLATED: Way = Way { accelerator: "tcg", without: "", processor: "max", name: "QEMU microvm, TCG" };

/// The peer's time beside ours; where it can't use this KVM, why, and its time without.
pub(super) fn rows(guest: &Path, ours: f64) -> Vec<Row> {
    let by_kvm = boot(guest, &KVM);
    let without = by_kvm.is_err().then(|| row(&TRANSLATED, ours, boot(guest, &TRANSLATED)));
    [row(&KVM, ours, by_kvm)].into_iter().chain(without).collect()
}

fn row(way: &Way, ours: f64, peer: Result<f64>) -> Row {
    let (peer, note) = match peer {
        Ok(time) => (
            Some(time),
            "QEMU: exec to the kernel's start of the same agent; ours: first instruction to agent ready"
                .to_owned(),
        ),
        Err(error) => {
            let what = way.accelerator;
            (None, format!("missing: qemu-system-x86_64 -M microvm,accel={what}: {error:#}"))
        }
    };
    Row {
        peer,
        peer_name: Some(way.name.to_owned()),
        ratio: peer.map(|peer| peer / ours),
        ..Row::new("boot of the same kernel", "s", Some(ours), &note)
    }
}

fn boot(guest: &Path, way: &Way) -> Result<f64> {
    let machine = format!("microvm,accel={},x-option-roms=off,rtc=on{}", way.accelerator, way.without);
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", &machine, "-cpu", way.processor, "-m", MEMORY]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(guest.join("vmlinux")).arg("-initrd").arg(guest.join("initramfs"));
    qemu.args(["-append", "console=ttyS0 panic=-1 noxsaves noxsaveopt clearcpuid=xsavec"]);
    let begin = Instant::now();
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("it could not be started")?;
    let stdout = child.stdout.take().context("its standard output is a pipe")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(std::io::Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut last = String::new();
    let outcome = loop {
        match receive.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) {
            Ok(line) if line.contains(MARK) => break Ok(begin.elapsed().as_secs_f64()),
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => last = line,
            Err(RecvTimeoutError::Timeout) => break Err("it did not boot in 60 s"),
            Err(RecvTimeoutError::Disconnected) => break Err("it ended"),
        }
    };
    // It has ended, or has nothing more to say.
    let _ = child.kill();
    let output = child.wait_with_output().context("it can't be waited for")?;
    match outcome {
        Ok(time) => Ok(time),
        Err(why) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let said = stderr.lines().last().unwrap_or(&last);
            bail!("{why}; its last words: {}", said.trim())
        }
    }
}
