//! One job in a warm sandbox: inputs in, the watch over its limits, outputs out.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_jail::cgroup::{Meter, Usage as GroupUsage};
use bulkhead_types::{AttemptState, Limits, SandboxId, Usage};
use bulkhead_wire::{
    Collect, Connection, EnvEntry, ExitReport, Failed, FailureStage, Frame, ImageFds, InputStart, JobUser,
    MachineStatistics, SignalTarget, Start, bounds,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{Events, Finished, Input, Job, Milestone, SandboxError, monotonic_ns};

use super::collecting::lost_outputs;
use super::keeper::{Keeper, until};
use super::parts::step;
use super::verdict::{self, Stop};
use super::{Kind, Launched, Trouble};

/// How long a sandbox may take for one step: to take a part of an input, to give a part of an output.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to report after SIGKILL of everything; then it is killed itself.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// CPU time is looked at when it can first have been used up, but not more often than this.
const CPU_CHECK_LEAST: Duration = Duration::from_millis(10);
/// Of a job's kernel's word on why it could not be started, in characters: a path and an error.
const START_PROBLEM_CHARS: usize = 8 << 10;
const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

/// A sandbox's last word as an error.
pub(super) fn failure(failed: Failed) -> SandboxError {
    match failed.stage {
        FailureStage::Jail | FailureStage::Platform | FailureStage::Machine => {
            SandboxError::Host(failed.message)
        }
        FailureStage::Image => {
            SandboxError::Step { step: "reading the image", source: failed.message.into() }
        }
        FailureStage::Input => SandboxError::Input(failed.message),
        FailureStage::Internal => SandboxError::Died(failed.message),
    }
}

pub(super) fn unexpected(frame: &Frame) -> SandboxError {
    SandboxError::Died(format!("it sent {:?} out of turn", frame.kind()))
}

impl Launched {
    /// From the job's start to its outputs; the sandbox is still there afterwards.
    pub(super) fn drive(&mut self, job: Job, events: &mut dyn Events) -> Result<Finished, SandboxError> {
        let meter = &self.shared.meter;
        let before = meter.read().map_err(super::limit_error)?;
        let mut run = Run {
            id: self.id,
            limits: self.limits,
            kind: self.kind,
            connection: &self.connection,
            keeper: &self.keeper,
            shared: &self.shared,
            meter,
            before,
            stop: None,
            started: None,
            statistics: None,
        };
        match run.conduct(job, events) {
            Ok(finished) => Ok(finished),
            Err(trouble) => run.explain(trouble, &self.parts),
        }
    }
}

pub(super) struct Run<'a> {
    id: SandboxId,
    pub(super) limits: Limits,
    kind: Kind,
    pub(super) connection: &'a Connection,
    pub(super) keeper: &'a Arc<Keeper>,
    shared: &'a super::control::Shared,
    meter: &'a Meter,
    /// What the sandbox had used when its job came: not the job's.
    before: GroupUsage,
    stop: Option<Stop>,
    started: Option<Instant>,
    statistics: Option<Box<MachineStatistics>>,
}

impl Run<'_> {
    fn conduct(&mut self, job: Job, events: &mut dyn Events) -> Result<Finished, Trouble> {
        let (outputs, grace) = (job.outputs.clone(), Duration::from_millis(job.grace_period_ms));
        self.start_deadline();
        let inputs = self.send_start(job)?;
        for input in inputs {
            self.send_input(input)?;
        }
        self.start_deadline();
        self.connection.send(&Frame::Go, &[])?;
        match self.connection.receive()?.frame {
            Frame::Started => {}
            Frame::Failed(failed) => return Err(failure(failed).into()),
            other => return Err(unexpected(&other).into()),
        }
        let started = Instant::now();
        self.started = Some(started);
        if self.kind.own_kernel {
            // A boot is not the job's doing.
            self.before = self.meter.read().map_err(super::limit_error)?;
        }
        self.shared.lock().started = true;
        events.milestone(Milestone::Started, monotonic_ns());
        events.started();
        let mut report = self.watch(started, grace)?;
        events.milestone(Milestone::Exited, monotonic_ns());
        if let Some(statistics) = self.statistics.take() {
            events.machine_statistics(*statistics);
        }
        if self.kind.own_kernel {
            distrust(&mut report, &self.limits);
        }
        let usage = self.usage(&report.usage, started.elapsed());
        let (state, reason) = verdict::judge(&report, &usage, &self.limits, self.stop);
        let output_problems = if outputs.is_empty() {
            Vec::new()
        } else {
            // The job has ended and has its outcome, whatever becomes of its outputs.
            self.collect(Collect { outputs }, events).unwrap_or_else(|trouble| vec![lost_outputs(&trouble)])
        };
        Ok(Finished {
            state,
            termination: Some(report.termination),
            reason,
            usage,
            output_problems,
            top_syscalls: report.top_syscalls,
            unsupported_syscalls: report.unsupported_syscalls,
        })
    }

    fn start_deadline(&self) {
        self.keeper.deadline(Some(Instant::now() + self.kind.start_timeout));
    }

    pub(super) fn step_deadline(&self) {
        self.keeper.deadline(Some(Instant::now() + STEP_TIMEOUT));
    }

    /// Sends the job and its descriptors, of which none stays open here: the streams end when the job closes them.
    fn send_start(&self, job: Job) -> Result<Vec<Input>, Trouble> {
        let open = |path: &std::path::Path| -> Result<OwnedFd, SandboxError> {
            File::open(path).map(OwnedFd::from).map_err(|e| step("opening the image")(e.into()))
        };
        let public = open(&job.image.public)?;
        let private = job.image.private.as_deref().map(open).transpose()?;
        let env = job.env.into_iter().map(|v| EnvEntry { name: v.name, value: v.value, secret: v.secret });
        let start = Start {
            image: ImageFds { private: private.is_some() },
            argv: job.argv,
            env: env.collect(),
            working_directory: job.working_directory,
            user: JobUser { spec: job.user },
            hostname: job.hostname,
            memory_bytes: self.limits.memory_bytes,
            cpu_milli: self.limits.cpu_milli,
            processes: self.limits.processes,
            disk_bytes: self.limits.disk_bytes,
        };
        let mut descriptors = vec![public.as_fd()];
        descriptors.extend(private.iter().map(AsFd::as_fd));
        descriptors.extend([job.stdin.as_fd(), job.stdout.as_fd(), job.stderr.as_fd()]);
        self.connection.send(&Frame::Start(Box::new(start)), &descriptors)?;
        Ok(job.inputs)
    }

    fn send_input(&self, input: Input) -> Result<(), Trouble> {
        let (start, mut source) = match input {
            Input::Archive { directory, source } => (InputStart::Archive { directory }, source),
            Input::File { path, mode, source } => (InputStart::File { path, mode }, source),
        };
        self.send_part(&Frame::Input(start))?;
        let mut buffer = vec![0; bounds::DATA_BYTES];
        loop {
            // However long the source takes is not the sandbox's fault.
            self.keeper.deadline(None);
            let n =
                source.read(&mut buffer).map_err(|e| Trouble::from(step("reading an input")(e.into())))?;
            if n == 0 {
                return self.send_part(&Frame::End);
            }
            self.send_part(&Frame::Data(buffer[..n].to_vec()))?;
        }
    }

    fn send_part(&self, frame: &Frame) -> Result<(), Trouble> {
        self.start_deadline();
        match self.connection.send(frame, &[]) {
            Ok(()) => Ok(()),
            // A sandbox that refuses an input says so and is gone: its word is still in the socket.
            Err(sending) => match self.connection.receive() {
                Ok(received) => match received.frame {
                    Frame::Failed(failed) => Err(failure(failed).into()),
                    other => Err(unexpected(&other).into()),
                },
                Err(_) => Err(sending.into()),
            },
        }
    }

    /// Waits for the job's end, and enforces wall and cpu time, cancellation and the output limit.
    fn watch(&mut self, started: Instant, grace: Duration) -> Result<ExitReport, Trouble> {
        let wall_end = started + self.limits.wall_time();
        let mut cpu_next = started + CPU_CHECK_LEAST;
        let mut kill_at: Option<Instant> = None;
        // Whatever it says or does not say, here it ends.
        self.keeper.deadline(Some(wall_end + grace + 2 * KILL_TIMEOUT));
        loop {
            self.forward_signals();
            if self.stop.is_none() {
                self.stop = self.reason_to_stop(wall_end, &mut cpu_next);
                if let Some(stop) = self.stop {
                    // A job that writes too much is not asked: all that it wrote in its grace period would be lost anyway.
                    let gently = stop != Stop::Output;
                    if gently {
                        self.signal(SIGTERM, SignalTarget::First);
                    }
                    kill_at = Some(Instant::now() + if gently { grace } else { Duration::ZERO });
                }
            } else if self.stop_now() {
                kill_at = kill_at.map(|_| Instant::now());
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                kill_at = None;
                self.signal(SIGKILL, SignalTarget::All);
                self.keeper.deadline(Some(Instant::now() + KILL_TIMEOUT));
            }
            let next = match (self.stop, kill_at) {
                (None, _) => Some(wall_end.min(cpu_next)),
                (Some(_), at) => at,
            };
            if let Some(frame) = self.next_frame(next)? {
                match frame {
                    Frame::Exited(report) => return Ok(*report),
                    Frame::Statistics(counted)
                        if self.kind.own_kernel && counted.exits.len() <= bounds::EXIT_COUNTS =>
                    {
                        self.statistics = Some(counted);
                    }
                    Frame::Failed(failed) if failed.stage == FailureStage::Machine && self.stop.is_none() => {
                        return Err(Trouble::Broke(failed.message));
                    }
                    Frame::Failed(failed) => return Err(failure(failed).into()),
                    other => return Err(unexpected(&other).into()),
                }
            }
        }
    }

    fn next_frame(&self, deadline: Option<Instant>) -> Result<Option<Frame>, Trouble> {
        let mut fds = [PollFd::new(self.connection.stream(), PollFlags::IN), self.shared.wake.poll()];
        match poll(&mut fds, until(deadline).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(step("waiting for the job")(Box::new(e)).into()),
        }
        if !fds[1].revents().is_empty() {
            self.shared.wake.clear();
        }
        if fds[0].revents().is_empty() {
            return Ok(None);
        }
        Ok(Some(self.connection.receive()?.frame))
    }

    fn reason_to_stop(&self, wall_end: Instant, cpu_next: &mut Instant) -> Option<Stop> {
        let (cancelled, output_limit) = {
            let requests = self.shared.lock();
            (requests.cancelled, requests.output_limit)
        };
        let now = Instant::now();
        if cancelled {
            return Some(Stop::Cancelled);
        }
        if output_limit {
            return Some(Stop::Output);
        }
        if now >= wall_end {
            return Some(Stop::WallTime);
        }
        if now < *cpu_next {
            return None;
        }
        let used = self.cpu_used();
        let left = self.limits.cpu_time().saturating_sub(used);
        *cpu_next = now + earliest(left, self.limits.cpu_milli).max(CPU_CHECK_LEAST);
        left.is_zero().then_some(Stop::CpuTime)
    }

    /// Whether a job in its grace period must end at once after all.
    fn stop_now(&self) -> bool {
        self.stop != Some(Stop::Output) && self.shared.lock().output_limit
    }

    /// CPU time since the job came; zero if it can't be read, since the wall time still ends the job.
    fn cpu_used(&self) -> Duration {
        self.meter.cpu().map_or(Duration::ZERO, |cpu| cpu.saturating_sub(self.before.cpu))
    }

    fn forward_signals(&self) {
        loop {
            let Some(signal) = self.shared.lock().signals.pop_front() else { return };
            self.signal(signal, SignalTarget::First);
        }
    }

    fn signal(&self, signal: u8, target: SignalTarget) {
        // If it is gone the next receive says so.
        let _ = self.connection.send(&Frame::Signal { signal, target }, &[]);
    }

    /// What the job used: counted by the sandbox, and by the host's kernel.
    fn usage(&self, counted: &Usage, wall: Duration) -> Usage {
        let now = self.meter.read().unwrap_or(self.before);
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let (user, system) = now.cpu_since(&self.before);
        let times = Usage { cpu_user_us: us(user), cpu_system_us: us(system), wall_us: us(wall), ..*counted };
        if self.kind.own_kernel {
            return times;
        }
        Usage {
            peak_memory_bytes: now.memory_peak_bytes,
            oom_kills: now.oom_kills.saturating_sub(self.before.oom_kills),
            ..times
        }
    }

    /// Why the conversation broke off; a job that was being stopped, or made its sandbox run out of memory, has an outcome.
    fn explain(&self, trouble: Trouble, parts: &super::Parts) -> Result<Finished, SandboxError> {
        let error = match trouble {
            Trouble::Told(error) => {
                // A refused input or a missing image is the answer, unless the owner has cancelled meanwhile.
                return if self.shared.lock().cancelled {
                    Ok(self.ended(Stop::Cancelled))
                } else {
                    Err(error)
                };
            }
            Trouble::Broke(message) => return Ok(self.outcome(AttemptState::Failed, message)),
            Trouble::Wire(error) => error,
        };
        let ended = self.keeper.wait(KILL_TIMEOUT);
        if let Some(stop) = self.stop.or(self.shared.lock().cancelled.then_some(Stop::Cancelled)) {
            return Ok(self.ended(stop));
        }
        if self.meter.read().is_ok_and(|u| u.sentry_oom_kills > self.before.sentry_oom_kills) {
            let usage = self.usage(&Usage::default(), self.wall());
            let reason = format!(
                "{}; what it kept in memory files and buffers took its sandbox with it",
                verdict::out_of_memory(&usage, &self.limits)
            );
            return Ok(self.outcome(AttemptState::OutOfMemory, reason));
        }
        if self.keeper.overdue() {
            let time = if self.started.is_some() { STEP_TIMEOUT } else { self.kind.start_timeout };
            return Err(SandboxError::TimedOut { what: "answer", seconds: time.as_secs() });
        }
        tracing::warn!(sandbox = %self.id, %error, "a sandbox died");
        Err(SandboxError::Died(parts.how_it_died(ended)))
    }

    fn wall(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |s| s.elapsed())
    }

    fn ended(&self, stop: Stop) -> Finished {
        let usage = self.usage(&Usage::default(), self.wall());
        let (state, reason) = verdict::stopped(stop, &usage, &self.limits);
        self.outcome(state, reason)
    }

    fn outcome(&self, state: AttemptState, reason: String) -> Finished {
        Finished {
            state,
            termination: None,
            reason,
            usage: self.usage(&Usage::default(), self.wall()),
            output_problems: Vec::new(),
            top_syscalls: Vec::new(),
            unsupported_syscalls: Vec::new(),
        }
    }
}

/// A report that comes out of the job's own kernel, where the job may be root: its numbers are only told, and what they can
/// be is known. It has no calls of a sentry.
fn distrust(report: &mut ExitReport, limits: &Limits) {
    report.top_syscalls.clear();
    report.unsupported_syscalls.clear();
    report.usage.peak_memory_bytes = report.usage.peak_memory_bytes.min(limits.memory_bytes);
    report.usage.peak_disk_bytes = report.usage.peak_disk_bytes.min(limits.disk_bytes);
    if let Some(problem) = &mut report.start_problem
        && let Some((end, _)) = problem.char_indices().nth(START_PROBLEM_CHARS)
    {
        problem.truncate(end);
    }
}

/// The soonest that `left` of cpu time can be used up under a quota of `cpu_milli`.
fn earliest(left: Duration, cpu_milli: u64) -> Duration {
    let host = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let rate_milli = cpu_milli.clamp(1, host.saturating_mul(1000));
    let us = left.as_micros().saturating_mul(1000) / u128::from(rate_milli);
    Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_itself_is_bounded() {
        let limits = Limits::default();
        let usage = Usage { peak_memory_bytes: u64::MAX, peak_disk_bytes: 5, ..Usage::default() };
        let call = bulkhead_types::SyscallCount { name: "frob".into(), count: 1 };
        let mut report = ExitReport {
            termination: bulkhead_types::Termination::Exited(1),
            start_problem: Some("\u{fffd}".repeat(1 << 20)),
            usage,
            top_syscalls: vec![call.clone()],
            unsupported_syscalls: vec![call],
        };
        distrust(&mut report, &limits);
        assert_eq!((report.usage.peak_memory_bytes, report.usage.peak_disk_bytes), (limits.memory_bytes, 5));
        assert_eq!(report.start_problem.map(|p| p.chars().count()), Some(START_PROBLEM_CHARS));
        assert!(report.top_syscalls.is_empty() && report.unsupported_syscalls.is_empty());
    }

    #[test]
    fn cpu_time_is_looked_at_when_it_can_have_been_used_up() {
        assert_eq!(earliest(Duration::from_secs(10), 500), Duration::from_secs(20));
        assert_eq!(earliest(Duration::ZERO, 500), Duration::ZERO);
        assert!(earliest(Duration::from_secs(10), 64_000) <= Duration::from_secs(10));
        assert!(earliest(Duration::MAX, 1) > Duration::from_secs(86_400));
    }
}
