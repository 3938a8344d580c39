use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_wire::{Failed, FailureStage, Frame, Launcher, Start, chain};

use super::agent::{Agent, AgentError};
use super::order::{Phase, is_for_agent};
use super::parts::Agents;
use crate::machine::{End, Machine};

/// The vsock ports that the agent connects to.
pub(super) mod ports {
    /// Frames.
    pub(crate) const CONTROL: u32 = 1024;
    /// The job's standard input.
    pub(crate) const STDIN: u32 = 1025;
    /// Its standard output.
    pub(crate) const STDOUT: u32 = 1026;
    /// Its standard error.
    pub(crate) const STDERR: u32 = 1027;
}

/// How long a guest may take from power-on to ready, not counting the time that its processors wait for one of the host's:
/// some ten times what it takes where KVM runs on hardware, three times where KVM emulates the guest's kernel.
const READY_HARDWARE: Duration = Duration::from_secs(10);
const READY_SOFTWARE: Duration = Duration::from_secs(60);
/// As many times as long it may take in all, on a host that has no processor for it.
const OVERLOADED: u32 = 10;
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a machine whose agent has gone may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines of the console in a failure's message.
const CONSOLE_LINES: usize = 12;
const RELAY_STACK_BYTES: usize = 256 << 10;

/// Relays between launcher and agent until the launcher closes the connection.
pub(super) fn run(
    launcher: &Arc<Launcher>,
    machine: Arc<Machine>,
    agents: Agents,
    start: Start,
) -> Result<(), Failed> {
    let Agents { mut agent, statistics, software_kvm } = agents;
    let sender = agent
        .sender()
        .map_err(|error| Failed::new(FailureStage::Internal, "the agent's control connection", &error))?;
    let phase = match wait_ready(launcher, &machine, &mut agent, software_kvm)? {
        Some(phase) => phase,
        None => return Ok(()),
    };
    match sender.send(&Frame::Start(Box::new(start)), launcher.as_fd()) {
        Ok(()) => {}
        Err(AgentError::LauncherGone) => return Ok(()),
        Err(error) => return Err(lost(&machine, &error)),
    }
    let relay = Relay { launcher: launcher.clone(), machine: machine.clone(), agent, phase, statistics };
    thread::Builder::new()
        .name("relay".into())
        .stack_size(RELAY_STACK_BYTES)
        .spawn(move || relay.run())
        .map_err(|error| Failed::new(FailureStage::Internal, "a thread", &error))?;
    to_agent(launcher, &machine, &sender)
}

/// Waits for the agent's first word; nothing when the launcher has gone meanwhile.
fn wait_ready(
    launcher: &Launcher,
    machine: &Machine,
    agent: &mut Agent,
    software_kvm: bool,
) -> Result<Option<Phase>, Failed> {
    let most = if software_kvm { READY_SOFTWARE } else { READY_HARDWARE };
    let power_on = Instant::now();
    let frame = loop {
        match agent.receive(Some(Instant::now() + LOOK), Some(launcher.as_fd())) {
            Ok(frame) => break frame,
            Err(AgentError::LauncherGone) => return Ok(None),
            Err(AgentError::Silent) => {
                let (all, waited) = (power_on.elapsed(), machine.waited_for_host());
                if all.saturating_sub(waited) >= most || all >= most * OVERLOADED {
                    let message = not_ready(all, waited);
                    return Err(Failed::of(FailureStage::Machine, with_console(machine, &message)));
                }
            }
            Err(error) => return Err(lost(machine, &error)),
        }
    };
    let phase = Phase::Booting.after(&frame);
    let phase = phase.map_err(|error| Failed::new(FailureStage::Machine, "the guest", &error))?;
    if let Frame::Failed(failed) = frame {
        return Err(Failed::of(failed.stage, failed.message));
    }
    machine.mark_ready();
    Ok(Some(phase))
}

fn not_ready(all: Duration, waited: Duration) -> String {
    let (all, waited) = (all.as_secs(), waited.as_secs());
    let shared = match waited {
        0 => String::new(),
        waited => format!(" ({waited} s of them without a processor of the host's)"),
    };
    format!("the guest was not ready within {all} s{shared}")
}

/// Passes the launcher's frames on; returns when it closes the connection.
fn to_agent(launcher: &Launcher, machine: &Machine, agent: &Agent) -> Result<(), Failed> {
    while let Ok(received) = launcher.receive() {
        if !is_for_agent(&received.frame) {
            return Err(Failed::unexpected());
        }
        match agent.send(&received.frame, launcher.as_fd()) {
            Ok(()) => {}
            Err(AgentError::LauncherGone) => return Ok(()),
            // The other thread says why, with the machine's own reason.
            Err(AgentError::Closed) => {}
            Err(error) => return Err(lost(machine, &error)),
        }
    }
    Ok(())
}

/// The agent's frames on their way to the launcher, on a thread of their own.
struct Relay {
    launcher: Arc<Launcher>,
    machine: Arc<Machine>,
    agent: Agent,
    phase: Phase,
    statistics: bool,
}

impl Relay {
    fn run(mut self) {
        let failure = loop {
            match self.step() {
                Ok(Phase::Failed) => break None,
                Ok(_) => {}
                Err(failure) => break Some(failure),
            }
        };
        if let Some(failure) = failure {
            self.launcher.fail(failure);
        }
        // A last word was said: nothing of the guest's is to be waited for.
        std::process::exit(1);
    }

    fn step(&mut self) -> Result<Phase, Failed> {
        let frame = self.agent.receive(None, None).map_err(|error| lost(&self.machine, &error))?;
        self.phase = self
            .phase
            .after(&frame)
            .map_err(|error| Failed::new(FailureStage::Machine, "the guest", &error))?;
        if matches!(frame, Frame::Exited(_)) {
            // All of the job's output has to be with the launcher before it hears of the end.
            self.machine.outputs().wait_closed(&[ports::STDOUT, ports::STDERR]);
            if self.statistics {
                let counted = self.machine.report().to_wire();
                self.launcher.send(&Frame::Statistics(Box::new(counted)))?;
            }
        }
        self.launcher.send(&frame)?;
        Ok(self.phase)
    }
}

/// The agent can't be heard any more: because its machine has ended, or by its own fault.
fn lost(machine: &Machine, error: &AgentError) -> Failed {
    let message = match machine.ended().wait(LAST_WORDS) {
        Some(End::Reset) if machine.console().contains("Kernel panic") => {
            "the guest's kernel panicked".to_owned()
        }
        Some(end) => end.to_string(),
        None => format!("the guest's agent: {}", chain(error)),
    };
    Failed::of(FailureStage::Machine, with_console(machine, &message))
}

fn with_console(machine: &Machine, message: &str) -> String {
    let broken: Vec<String> =
        machine.broken_devices().iter().map(|(number, why)| format!("; device {number}: {why}")).collect();
    let broken = broken.concat();
    match machine.console().last_lines(CONSOLE_LINES) {
        lines if lines.is_empty() => format!("{message}{broken}; its console is empty"),
        lines => format!("{message}{broken}; the last lines of its console:\n{lines}"),
    }
}
