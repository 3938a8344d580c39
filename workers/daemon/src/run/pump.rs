use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use bulkhead_types::OutputStream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::attempt::{Attempt, STREAMS, Stop};

/// One read, in bytes: what a pipe holds by default.
const READ_BYTES: usize = 64 << 10;

/// The thread that moves an attempt's output from its pipes into the spool, and counts it.
pub(super) struct Pump {
    thread: JoinHandle<()>,
    finish: OwnedFd,
}

/// The ends that the job writes to.
pub(super) struct JobEnds {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Pump {
    /// Makes the pipes and starts the thread. Standard output and error together keep `limit` bytes; more is counted,
    /// not kept, and ends the attempt.
    pub(super) fn start(attempt: &Arc<Attempt>, limit: u64) -> io::Result<(Self, JobEnds)> {
        let (stdout, job_stdout) = output_pipe()?;
        let (stderr, job_stderr) = output_pipe()?;
        let (finished, finish) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut pipes = Pipes {
            attempt: Arc::clone(attempt),
            open: [Some(stdout), Some(stderr)],
            left: limit,
            limit_told: false,
            buffer: vec![0; READ_BYTES],
        };
        let thread = std::thread::Builder::new().name("output".into()).spawn(move || pipes.run(&finished))?;
        Ok((Self { thread, finish }, JobEnds { stdout: job_stdout, stderr: job_stderr }))
    }

    /// The job has ended: takes what is still in the pipes, whoever may hold a write end, and returns when all of it
    /// is spooled.
    pub(super) fn finish(self) {
        drop(self.finish);
        if self.thread.join().is_err() {
            tracing::error!("the thread that moved a job's output died");
        }
    }
}

/// The daemon's end does not block: the thread polls, and must never hang on a pipe whose writers live on.
fn output_pipe() -> io::Result<(File, OwnedFd)> {
    let (ours, jobs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((File::from(ours), jobs))
}

struct Pipes {
    attempt: Arc<Attempt>,
    open: [Option<File>; 2],
    left: u64,
    limit_told: bool,
    buffer: Vec<u8>,
}

impl Pipes {
    fn run(&mut self, finished: &OwnedFd) {
        let mut last_round = false;
        while !last_round && self.open.iter().any(Option::is_some) {
            // Decided before the pipes are read: what came before the end is read after it at the latest.
            last_round = self.wait(finished);
            for index in 0..self.open.len() {
                if let Err(error) = self.drain(index) {
                    let reason = format!("the node can't keep the job's output: {error}");
                    self.attempt.stop(Stop::Lost(reason));
                    self.open[index] = None;
                }
            }
        }
    }

    /// Waits until there is something; says whether the job has ended.
    fn wait(&self, finished: &OwnedFd) -> bool {
        let mut fds = vec![PollFd::new(finished, PollFlags::IN)];
        fds.extend(
            self.open.iter().flatten().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)),
        );
        // An interrupted poll is one round more.
        let _ = poll(&mut fds, None);
        !fds[0].revents().is_empty()
    }

    fn drain(&mut self, index: usize) -> io::Result<()> {
        while let Some(file) = &mut self.open[index] {
            match file.read(&mut self.buffer) {
                Ok(0) => self.open[index] = None,
                Ok(count) => self.keep(STREAMS[index], count)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep(&mut self, stream: OutputStream, count: usize) -> io::Result<()> {
        let keep = usize::try_from(self.left).map_or(count, |left| left.min(count));
        self.attempt.spool.stream(stream).append(&self.buffer[..count], keep)?;
        self.left -= keep as u64;
        if keep < count && !self.limit_told {
            self.limit_told = true;
            self.attempt.output_limit_reached();
        }
        self.attempt.appended();
        Ok(())
    }
}
