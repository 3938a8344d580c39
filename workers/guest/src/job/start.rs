//! The job's first process.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use bulkhead_types::{MAX_ACCOUNTS_BYTES, ResolvedUser, UserSpec};
use bulkhead_wire::Start;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitySet, remove_capability_from_bounding_set, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::system::{self, Strings};

/// Where a command without a slash is looked for when the environment has no PATH, as execvp and Docker do.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit code of a command that does not exist.
const NOT_FOUND: u8 = 127;
/// The exit code of a command that exists and can't be executed.
const NOT_EXECUTABLE: u8 = 126;

/// Why the first program did not start.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The job's exit code.
    pub(crate) code: u8,
    /// For a person.
    pub(crate) message: String,
}

impl Problem {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Who the job runs as, by the image's own accounts.
///
/// # Errors
/// A name that the image has no line for.
pub(crate) fn user(job: &Start) -> Result<ResolvedUser, Problem> {
    UserSpec(job.user.spec.clone())
        .resolve(&accounts("/etc/passwd"), &accounts("/etc/group"))
        .map_err(|error| Problem::new(NOT_EXECUTABLE, error.to_string()))
}

/// A file of the image, or nothing if it has none or it is unreasonably long.
fn accounts(path: &str) -> Vec<u8> {
    let fits = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_ACCOUNTS_BYTES as u64);
    if fits { fs::read(path).unwrap_or_default() } else { Vec::new() }
}

/// Starts the job's command, with its standard streams, in the group that `join` leads into. Answers its process id.
///
/// # Errors
/// [`Problem`], with the exit code that a shell would give.
pub(crate) fn start(job: &Start, streams: [OwnedFd; 3], join: Option<File>) -> Result<i32, Problem> {
    let user = user(job)?;
    let name = job.argv.first().ok_or_else(|| Problem::new(NOT_FOUND, "the command is empty"))?;
    let directory = &job.working_directory;
    let found =
        fs::metadata(directory).map_err(|error| code_of(&error)).and_then(|meta| match meta.is_dir() {
            true => Ok(()),
            false => Err(Errno::NOTDIR),
        });
    found.map_err(|errno| {
        Problem::new(NOT_EXECUTABLE, format!("working directory {directory}: {}", explain(errno)))
    })?;
    let child = Child::new(job, user, join)
        .ok_or_else(|| Problem::new(NOT_EXECUTABLE, "a zero byte in the command or environment"))?;
    let [stdin, stdout, stderr] = streams;
    // The name is only for the process between fork and exec, which `Child` does itself.
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    system::in_child(&mut command, move || Err(child.become_job()));
    match command.spawn() {
        Ok(child) => Ok(child.id() as i32),
        Err(error) => Err(problem(name, code_of(&error))),
    }
}

fn code_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// All that the child needs, made before the fork: it must not allocate.
struct Child {
    join: Option<File>,
    directory: CString,
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    processes: u64,
    candidates: Vec<CString>,
    arguments: Strings,
    /// For each candidate, to run it as a shell's script.
    scripts: Vec<Strings>,
    environment: Strings,
}

impl Child {
    /// None if a string holds a zero byte.
    fn new(job: &Start, user: ResolvedUser, join: Option<File>) -> Option<Self> {
        let arguments = strings(job.argv.iter().cloned())?;
        let candidates = strings(candidates(job).into_iter())?;
        let script = |path: &CString| {
            let head = [c"sh".to_owned(), path.clone()];
            Strings::new(head.into_iter().chain(arguments.iter().skip(1).cloned()).collect())
        };
        Some(Self {
            join,
            directory: CString::new(job.working_directory.as_str()).ok()?,
            user: Uid::from_raw(user.uid),
            group: Gid::from_raw(user.gid),
            groups: user.groups.into_iter().map(Gid::from_raw).collect(),
            processes: job.processes,
            scripts: candidates.iter().map(script).collect(),
            candidates,
            arguments: Strings::new(arguments),
            environment: Strings::new(strings(
                job.env.iter().map(|entry| format!("{}={}", entry.name, entry.value)),
            )?),
        })
    }

    /// Runs in the child; returns only why the job's program does not run.
    fn become_job(&self) -> io::Error {
        match self.prepare() {
            Ok(()) => self.execute().into(),
            Err(error) => error,
        }
    }

    fn prepare(&self) -> io::Result<()> {
        if let Some(mut join) = self.join.as_ref() {
            join.write_all(b"0")?;
        }
        // Its own group, and no terminal of anybody else's.
        setsid()?;
        limits(self.processes)?;
        umask(Mode::WGRP | Mode::WOTH);
        rustix::process::chdir(&*self.directory)?;
        // The machine is switched off by its host; a system that shuts down inside of a container must not take it along.
        remove_capability_from_bounding_set(CapabilitySet::SYS_BOOT)?;
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.group, self.group, self.group)?;
        set_thread_res_uid(self.user, self.user, self.user)?;
        Ok(())
    }

    /// Tries one candidate after the other, as execvp does.
    fn execute(&self) -> Errno {
        let mut worst = None;
        for (path, script) in self.candidates.iter().zip(&self.scripts) {
            let errno = code_of(&system::execute(path, &self.arguments, &self.environment));
            match errno {
                // No program of any machine: a script without its first line.
                Errno::NOEXEC if !is_program(path) => {
                    return code_of(&system::execute(c"/bin/sh", script, &self.environment));
                }
                Errno::NOENT | Errno::NOTDIR => {
                    worst.get_or_insert(errno);
                }
                Errno::ACCESS => worst = Some(errno),
                other => return other,
            }
        }
        worst.unwrap_or(Errno::NOENT)
    }
}

fn strings(texts: impl Iterator<Item = String>) -> Option<Vec<CString>> {
    texts.map(|text| CString::new(text).ok()).collect()
}

fn candidates(job: &Start) -> Vec<String> {
    let command = job.argv.first().map(String::as_str).unwrap_or_default();
    if command.contains('/') {
        return vec![command.to_owned()];
    }
    let path =
        job.env.iter().rev().find(|entry| entry.name == "PATH").map_or(DEFAULT_PATH, |entry| &entry.value);
    let directories = path.split(':').map(|directory| if directory.is_empty() { "." } else { directory });
    directories.map(|directory| format!("{directory}/{command}")).collect()
}

/// What the first process starts with, the same as in the other sandbox.
fn limits(processes: u64) -> io::Result<()> {
    const STACK: u64 = 8 << 20;
    const OPEN_FILES: (u64, u64) = (1024, 1 << 20);
    let table = [
        (Resource::Stack, Some(STACK), None),
        (Resource::Core, Some(0), None),
        (Resource::Nofile, Some(OPEN_FILES.0), Some(OPEN_FILES.1)),
        (Resource::Nproc, Some(processes), Some(processes)),
        // A tenant of a machine of its own may lock what it has: its control group is the limit.
        (Resource::Memlock, None, None),
    ];
    for (resource, current, maximum) in table {
        setrlimit(resource, Rlimit { current, maximum })?;
    }
    Ok(())
}

fn is_program(path: &CStr) -> bool {
    let mut head = [0; 4];
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    file.is_ok_and(|file| rustix::io::read(&file, &mut head).is_ok() && &head == b"\x7fELF")
}

fn problem(command: &str, errno: Errno) -> Problem {
    match errno {
        Errno::NOENT | Errno::NOTDIR => {
            Problem::new(NOT_FOUND, format!("{command}: command not found in the sandbox"))
        }
        Errno::NOEXEC => {
            Problem::new(NOT_EXECUTABLE, format!("{command}: not a program for this machine (x86-64)"))
        }
        errno => Problem::new(NOT_EXECUTABLE, format!("{command}: {}", explain(errno))),
    }
}

fn explain(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".into(),
        Errno::NOTDIR => "not a directory".into(),
        Errno::ACCESS => "permission denied (it is not executable)".into(),
        Errno::LOOP => "too many symbolic links or interpreters".into(),
        Errno::NOMEM => "not enough memory or address space to start it".into(),
        Errno::TOOBIG => "arguments and environment are too long".into(),
        other => other.to_string(),
    }
}
