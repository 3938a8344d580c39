//! The shell and the job's descriptors made into a running machine.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bulkhead_jail::seccomp;
use bulkhead_wire::{Failed, FailureStage, Start};

use super::agent::Agent;
use super::relay::ports;
use super::setup::Prepared;
use crate::devices::block::DiskKind;
use crate::devices::vsock::Port;
use crate::machine::{Machine, OnThread, Parts, Role};

pub(super) struct Agents {
    pub(super) agent: Agent,
    pub(super) statistics: bool,
    pub(super) software_kvm: bool,
}

/// Powers the machine on.
pub(super) fn complete(
    prepared: Prepared,
    start: &Start,
    descriptors: Vec<OwnedFd>,
) -> Result<(Machine, Agents), Failed> {
    let mut descriptors = descriptors.into_iter();
    let missing = || Failed::of(FailureStage::Internal, "a descriptor of the job is missing");
    let mut next = || descriptors.next().ok_or_else(missing);
    let mut disks = vec![(File::from(next()?), DiskKind::Image)];
    if start.image.private {
        disks.push((File::from(next()?), DiskKind::Image));
    }
    let [stdin, stdout, stderr] = [next()?, next()?, next()?];
    disks.push((prepared.scratch, DiskKind::Scratch));
    let to_device = prepared.agent_end.try_clone();
    let to_device = to_device
        .map_err(|error| Failed::new(FailureStage::Internal, "the agent's control connection", &error))?;
    let output = |number, fd| Port { number, from_host: None, to_host: Some(fd) };
    let parts = Parts {
        kernel: prepared.kernel,
        initramfs: Some(prepared.initramfs),
        disks,
        ports: vec![
            Port {
                number: ports::CONTROL,
                from_host: Some(prepared.agent_end.into()),
                to_host: Some(to_device.into()),
            },
            Port { number: ports::STDIN, from_host: Some(stdin), to_host: None },
            output(ports::STDOUT, stdout),
            output(ports::STDERR, stderr),
        ],
        command_line: disk_names(start.image.private).into(),
        echo_console: prepared.config.console,
        on_thread: Some(lock_in()),
        samples: None,
    };
    let software_kvm = prepared.shell.is_software_kvm();
    let machine = Machine::start(prepared.shell, parts)
        .map_err(|error| Failed::new(FailureStage::Machine, "starting the virtual machine", &error))?;
    let agents = Agents { agent: prepared.agent, statistics: prepared.config.statistics, software_kvm };
    Ok((machine, agents))
}

/// Tells the agent which disk is what.
fn disk_names(private: bool) -> &'static str {
    if private {
        "bulkhead.public=vda bulkhead.private=vdb bulkhead.scratch=vdc"
    } else {
        "bulkhead.public=vda bulkhead.scratch=vdb"
    }
}

/// Each thread takes its own list of system calls; one that can't must not meet the guest.
fn lock_in() -> OnThread {
    Arc::new(|role| {
        let role = match role {
            Role::Devices => seccomp::Role::VmmDevices,
            Role::Vcpu => seccomp::Role::VmmVcpu,
        };
        seccomp::narrow(role).expect("the process's list lets a thread narrow it");
    })
}
