//! The job: its first process, its streams, its end.

mod pump;
mod start;

use std::os::fd::OwnedFd;
use std::time::Instant;

use bulkhead_types::{Termination, Usage as Used};
use bulkhead_wire::{ExitReport, Failed, Frame, SignalTarget, Start};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::cgroup::Groups;
use crate::channel::Channel;
use crate::disk::Usage;
use crate::system;

use pump::Pump;
pub(crate) use start::user;

const SIGKILL: u8 = 9;
/// Everything but ourselves.
const ALL: i32 = -1;

/// The host's ends of the job's streams: input, output, error.
pub(crate) type Streams = [OwnedFd; 3];

/// A job that runs.
struct Running<'a> {
    channel: &'a mut Channel,
    children: OwnedFd,
    pumps: [Pump; 3],
    disk: Usage,
    first: i32,
    ended: Option<Termination>,
    /// No process of the job is left.
    gone: bool,
}

/// Runs the job to the end of its last process; the report is sent.
///
/// # Errors
/// When the launcher is gone or speaks out of turn.
pub(crate) fn run(
    channel: &mut Channel,
    job: &Start,
    streams: Streams,
    disk: Usage,
    groups: Option<&Groups>,
) -> Result<(), Failed> {
    let failed = |error: &dyn std::error::Error| Failed::internal("the job's streams", error);
    let children =
        system::child_events().map_err(|error| Failed::internal("waiting for children", &error))?;
    let (pumps, ends) = pipes(job, streams).map_err(|error| failed(&error))?;
    let join = groups.map(Groups::join).transpose().map_err(|error| failed(&error))?;
    if let Some(groups) = groups {
        groups.limit(job)?;
    }
    channel.send(&Frame::Started)?;
    let begin = Instant::now();
    let transferred = Transferred::now();
    let (first, problem) = match start::start(job, ends, join) {
        Ok(pid) => (pid, None),
        Err(problem) => (0, Some(problem)),
    };
    let ended = problem.as_ref().map(|problem| Termination::Exited(problem.code));
    let mut running = Running { channel, children, pumps, disk, first, ended, gone: ended.is_some() };
    running.watch()?;
    let usage = running.usage(begin, &transferred, groups);
    let report = ExitReport {
        termination: running.ended.unwrap_or(Termination::Signaled(SIGKILL)),
        start_problem: problem.map(|problem| problem.message),
        usage,
        top_syscalls: Vec::new(),
        unsupported_syscalls: Vec::new(),
    };
    Ok(channel.send(&Frame::Exited(Box::new(report)))?)
}

/// Bytes that we and all children that we have waited for (and theirs) read and wrote.
struct Transferred {
    read: u64,
    written: u64,
}

impl Transferred {
    fn now() -> Self {
        // Nothing is counted by a kernel without the file.
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self { read: field("rchar:"), written: field("wchar:") }
    }
}

/// Pipes for the job's streams, and what moves bytes between them and the host.
fn pipes(job: &Start, [stdin, stdout, stderr]: Streams) -> std::io::Result<([Pump; 3], [OwnedFd; 3])> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (input, into) = pipe()?;
    let (from_output, output) = pipe()?;
    let (from_error, error) = pipe()?;
    // A user who is not root opens /dev/stdout again.
    if let Ok(user) = user(job) {
        let (user, group) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
        for end in [&input, &output, &error] {
            rustix::fs::fchown(end, Some(user), Some(group))?;
        }
    }
    let pumps = [
        Pump::into_pipe(stdin, into)?,
        Pump::to_host(from_output, stdout)?,
        Pump::to_host(from_error, stderr)?,
    ];
    Ok((pumps, [input, output, error]))
}

impl Running<'_> {
    /// Until every process is gone and all of its output is on its way.
    fn watch(&mut self) -> Result<(), Failed> {
        loop {
            self.reap();
            for pump in &mut self.pumps {
                pump.run();
            }
            self.disk.look_if_due();
            while let Some(frame) = self.channel.received()? {
                self.obey(&frame)?;
            }
            if self.gone && self.pumps[1..].iter().all(Pump::is_done) {
                self.disk.look();
                return Ok(());
            }
            if self.wait_for_something()? {
                self.channel.read()?;
            }
        }
    }

    /// Answers whether the launcher has said something.
    fn wait_for_something(&self) -> Result<bool, Failed> {
        let until = self.disk.next().saturating_duration_since(Instant::now());
        let until = Timespec { tv_sec: until.as_secs() as i64, tv_nsec: until.subsec_nanos().into() };
        let mut fds =
            vec![PollFd::new(&*self.channel, PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
        fds.extend(
            self.pumps
                .iter()
                .filter_map(Pump::waits_for)
                .map(|(fd, what)| PollFd::from_borrowed_fd(fd, what)),
        );
        match poll(&mut fds, Some(&until)) {
            Ok(_) | Err(Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(Failed::internal("waiting for the job", &error)),
        }
    }

    /// Takes what has ended; the first process takes all others with it.
    fn reap(&mut self) {
        let mut event = [0; 128];
        while rustix::io::read(&self.children, &mut event).is_ok() {}
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if pid.as_raw_nonzero().get() == self.first && self.ended.is_none() =>
                {
                    self.ended = Some(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Termination::Exited(code as u8),
                        (None, Some(signal)) => Termination::Signaled(signal as u8),
                        (None, None) => continue,
                    });
                    system::kill(ALL, SIGKILL);
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, frame: &Frame) -> Result<(), Failed> {
        let Frame::Signal { signal, target } = frame else { return Err(Failed::unexpected()) };
        match target {
            SignalTarget::All => system::kill(ALL, *signal),
            // Only while it is a process: its number may be another's afterwards.
            SignalTarget::First if self.ended.is_none() => system::kill(self.first, *signal),
            SignalTarget::First => {}
        }
        Ok(())
    }

    fn usage(&self, begin: Instant, before: &Transferred, groups: Option<&Groups>) -> Used {
        let counted = groups.map(Groups::counted).unwrap_or_default();
        let (peak_disk_bytes, disk_limit_hits) = self.disk.result();
        let transferred = Transferred::now();
        // What went through our own hands.
        let pumped: u64 = self.pumps.iter().map(Pump::moved).sum();
        let of_job = |after: u64, before: u64| after.saturating_sub(before).saturating_sub(pumped);
        Used {
            cpu_user_us: counted.user_us,
            cpu_system_us: counted.system_us,
            peak_memory_bytes: counted.peak_memory_bytes,
            wall_us: begin.elapsed().as_micros() as u64,
            read_bytes: of_job(transferred.read, before.read),
            written_bytes: of_job(transferred.written, before.written),
            peak_disk_bytes,
            oom_kills: counted.oom_kills,
            disk_limit_hits,
        }
    }
}
