//! The job's first process.

use std::sync::Arc;

use bulkhead_types::{MAX_ACCOUNTS_BYTES, ResolvedUser, UserSpec};
use bulkhead_wire::Start;

use crate::errno::Errno;
use crate::kernel::{FIRST_PID, Kernel, Node, Process, Rlimits, Space, State, Task, TaskParts};
use crate::loader::{self, Strings};
use crate::memory::{Memory, MemoryRef};
use crate::vfs::{Caller, Credentials, FdTable, FsContext, OpenFile, OpenHow, Vfs, WalkFlags};

/// Where a command without a slash is looked for when the environment has no PATH, as execvp and Docker do.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit code of a command that does not exist.
const NOT_FOUND: u8 = 127;
/// The exit code of a command that exists and can't be executed.
const NOT_EXECUTABLE: u8 = 126;

/// Why the first program did not start.
pub(super) struct Problem {
    /// The job's exit code.
    pub(super) code: u8,
    /// For a person.
    pub(super) message: String,
}

impl Problem {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Memory of a process that has no program yet.
struct NoMemory;

impl Memory for NoMemory {
    fn read_some(&self, _address: u64, _into: &mut [u8]) -> usize {
        0
    }

    fn write_some(&self, _address: u64, _from: &[u8]) -> usize {
        0
    }
}

/// Makes the first process and starts the job's command in it.
pub(super) fn start(
    kernel: &Arc<Kernel>,
    vfs: &Arc<Vfs>,
    job: &Start,
    streams: &[Arc<OpenFile>; 3],
) -> Result<(), Problem> {
    let task = first_task(kernel, vfs, job, streams)?;
    let result = run(kernel, &task, job);
    if result.is_err() {
        kernel.unmake(&task);
    }
    result
}

fn root_of_sandbox(vfs: &Vfs) -> Caller {
    let fs = FsContext::new(vfs.root().clone(), vfs.root().clone());
    fs.caller(Arc::new(Credentials::new(0, 0, &[])), FIRST_PID, FIRST_PID)
}

/// Who the job runs as, by the image's own accounts.
pub(super) fn user(vfs: &Vfs, job: &Start) -> Result<ResolvedUser, Problem> {
    let caller = root_of_sandbox(vfs);
    let read = |path: &str| read_file(vfs, &caller, path);
    UserSpec(job.user.spec.clone())
        .resolve(&read("/etc/passwd"), &read("/etc/group"))
        .map_err(|error| Problem::new(NOT_EXECUTABLE, error.to_string()))
}

fn first_task(
    kernel: &Arc<Kernel>,
    vfs: &Arc<Vfs>,
    job: &Start,
    streams: &[Arc<OpenFile>; 3],
) -> Result<Arc<Task>, Problem> {
    let user = user(vfs, job)?;
    let root = vfs.root().clone();
    let fs = FsContext::new(root.clone(), root.clone());
    let setup = root_of_sandbox(vfs);
    let credentials = Arc::new(Credentials::new(user.uid, user.gid, &user.groups));
    let directory = job.working_directory.as_bytes();
    let cwd = vfs
        .lookup(&setup, &root, directory, WalkFlags::FOLLOW)
        .and_then(|cwd| if cwd.inode().is_directory() { Ok(cwd) } else { Err(Errno::ENOTDIR) })
        .map_err(|errno| {
            let why = explain(errno);
            Problem::new(NOT_EXECUTABLE, format!("working directory {}: {why}", job.working_directory))
        })?;
    fs.set_cwd(cwd);
    let files = Arc::new(FdTable::new());
    for (fd, stream) in (0..).zip(streams) {
        let _three_fit = files.install_at(stream.clone(), fd, false, 3);
    }
    let process =
        Process::new(kernel, FIRST_PID, Rlimits::initial(&kernel.limits), Arc::new(Space::default()));
    let memory: MemoryRef = Arc::new(NoMemory);
    let parts = TaskParts { memory, files, fs: Arc::new(fs), credentials, name: [0; Task::NAME_LENGTH] };
    let task = Task::new(FIRST_PID, process.clone(), parts);
    process.tasks.lock().push(task.clone());
    let mut tree = kernel.tree.lock();
    let _one = tree.allocate();
    tree.add(Node::first(process, State::Alive));
    tree.add_task(task.clone());
    Ok(task)
}

/// A file of the image, or nothing if it has none or it is unreasonably long.
fn read_file(vfs: &Vfs, caller: &Caller, path: &str) -> Vec<u8> {
    let Ok(file) = vfs.open(caller, &caller.root, path.as_bytes(), OpenHow::READ) else { return Vec::new() };
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while bytes.len() <= MAX_ACCOUNTS_BYTES {
        match file.read(&mut part) {
            Ok(0) | Err(_) => return bytes,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
    Vec::new()
}

fn run(kernel: &Arc<Kernel>, task: &Arc<Task>, job: &Start) -> Result<(), Problem> {
    let Some(command) = job.argv.first() else {
        return Err(Problem::new(NOT_FOUND, "the command is empty"));
    };
    let mut strings = Strings {
        arguments: job.argv.iter().map(|text| text.clone().into_bytes()).collect(),
        environment: job.env.iter().map(|var| format!("{}={}", var.name, var.value).into_bytes()).collect(),
    };
    let mut worst = None;
    for path in candidates(job, command) {
        match execute(task, &path, &strings) {
            Ok(()) => return Ok(()),
            // No program of any machine: a script without its first line, as execvp runs it.
            Err(Errno::ENOEXEC) if !is_program(kernel, task, &path) => {
                strings.arguments[0] = path.clone();
                strings.arguments.insert(0, b"sh".to_vec());
                return execute(task, b"/bin/sh", &strings).map_err(|errno| problem(command, errno));
            }
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => {
                worst.get_or_insert(errno);
            }
            Err(errno @ Errno::EACCES) => worst = Some(errno),
            Err(errno) => return Err(problem(command, errno)),
        }
    }
    Err(problem(command, worst.unwrap_or(Errno::ENOENT)))
}

fn candidates(job: &Start, command: &str) -> Vec<Vec<u8>> {
    if command.contains('/') {
        return vec![command.as_bytes().to_vec()];
    }
    let path = job.env.iter().rev().find(|var| var.name == "PATH").map_or(DEFAULT_PATH, |var| &var.value);
    let directories = path.split(':').map(|directory| if directory.is_empty() { "." } else { directory });
    directories.map(|directory| format!("{directory}/{command}").into_bytes()).collect()
}

fn execute(task: &Arc<Task>, path: &[u8], strings: &Strings) -> Result<(), Errno> {
    let request = loader::Request {
        base: task.fs().cwd(),
        path: path.to_vec(),
        walk: WalkFlags::FOLLOW,
        strings: strings.clone(),
    };
    loader::start_first(task, request)
}

fn is_program(kernel: &Kernel, task: &Task, path: &[u8]) -> bool {
    let caller = task.fs().caller(task.credentials(), FIRST_PID, FIRST_PID);
    let mut head = [0; 4];
    let file = kernel.vfs().open(&caller, &caller.cwd, path, OpenHow::READ);
    file.is_ok_and(|file| file.read(&mut head).is_ok() && &head == b"\x7fELF")
}

fn problem(command: &str, errno: Errno) -> Problem {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            Problem::new(NOT_FOUND, format!("{command}: command not found in the sandbox"))
        }
        Errno::ENOEXEC => {
            Problem::new(NOT_EXECUTABLE, format!("{command}: not a program for this machine (x86-64)"))
        }
        errno => Problem::new(NOT_EXECUTABLE, format!("{command}: {}", explain(errno))),
    }
}

fn explain(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file or directory".into(),
        Errno::ENOTDIR => "not a directory".into(),
        Errno::EACCES => "permission denied (it is not executable)".into(),
        Errno::ELOOP => "too many symbolic links or interpreters".into(),
        Errno::ENOMEM => "not enough memory or address space to start it".into(),
        Errno::E2BIG => "arguments and environment are too long".into(),
        other => format!("{other}"),
    }
}
