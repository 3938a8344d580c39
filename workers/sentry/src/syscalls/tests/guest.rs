//! A task without a host thread, whose calls are executed as the run loop would.

use std::sync::Arc;

use bulkhead_platform::{Abi, Call};

use crate::call::{Args, CallState, Fail, SysResult};
use crate::errno::Errno;
use crate::fs::testing::TestVfs;
use crate::kernel::{Blocked, Ctx, Kernel, Process, Rlimits, Space, Task, TaskParts};
use crate::memory::{Memory, MemoryRef};
use crate::sync::Mutex;
use crate::vfs::{Credentials, FdTable, FsContext};

/// Guest memory: addresses from [`BASE`] on.
pub(super) struct Flat(Mutex<Vec<u8>>);

pub(super) const BASE: u64 = 0x1_0000;
const SIZE: usize = 1 << 20;

impl Memory for Flat {
    fn read_some(&self, address: u64, into: &mut [u8]) -> usize {
        let bytes = self.0.lock();
        let Some(start) = address.checked_sub(BASE).map(|start| start as usize) else { return 0 };
        let rest = bytes.get(start..).unwrap_or(&[]);
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        count
    }

    fn write_some(&self, address: u64, from: &[u8]) -> usize {
        let mut bytes = self.0.lock();
        let Some(start) = address.checked_sub(BASE).map(|start| start as usize) else { return 0 };
        let Some(rest) = bytes.get_mut(start..) else { return 0 };
        let count = rest.len().min(from.len());
        rest[..count].copy_from_slice(&from[..count]);
        count
    }
}

pub(super) struct Guest {
    pub kernel: Arc<Kernel>,
    pub task: Arc<Task>,
    pub memory: MemoryRef,
    _vfs: TestVfs,
    next: std::cell::Cell<u64>,
}

/// A call that waits.
pub(super) struct Waiting {
    number: u64,
    args: [u64; 6],
    state: CallState,
    waiter: Option<Arc<Blocked>>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let test = TestVfs::new(64 << 20);
        let kernel = Kernel::for_tests();
        kernel.set_vfs(test.vfs.clone());
        let memory: MemoryRef = Arc::new(Flat(Mutex::new(vec![0; SIZE])));
        let limits = Rlimits::initial(&kernel.limits);
        let process = Process::new(&kernel, 1, limits, Arc::new(Space::default()));
        let root = test.vfs.root().clone();
        let parts = TaskParts {
            memory: memory.clone(),
            files: Arc::new(FdTable::new()),
            fs: Arc::new(FsContext::new(root.clone(), root)),
            credentials: Arc::new(Credentials::new(0, 0, &[])),
            name: [0; Task::NAME_LENGTH],
        };
        let task = Task::new(1, process, parts);
        task.process.tasks.lock().push(task.clone());
        Self { kernel, task, memory, _vfs: test, next: std::cell::Cell::new(BASE) }
    }

    /// Puts bytes into guest memory; answers where.
    pub(super) fn put(&self, bytes: &[u8]) -> u64 {
        let address = self.room(bytes.len());
        assert_eq!(self.memory.write_some(address, bytes), bytes.len());
        address
    }

    /// Guest memory for an answer.
    pub(super) fn room(&self, length: usize) -> u64 {
        let address = self.next.get();
        self.next.set(address + length.next_multiple_of(16) as u64);
        address
    }

    pub(super) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read(address, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn path(&self, path: &str) -> u64 {
        self.put(format!("{path}\0").as_bytes())
    }

    pub(super) fn call(&self, name: &str, args: &[u64]) -> Result<u64, Errno> {
        match self.start(name, args) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => panic!("{name} waits"),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a call that is expected to wait.
    pub(super) fn wait(&self, name: &str, args: &[u64]) -> Waiting {
        match self.start(name, args) {
            Ok(Err(waiting)) => waiting,
            Ok(Ok(value)) => panic!("{name} answers {value} at once"),
            Err(errno) => panic!("{name} fails with {errno}"),
        }
    }

    /// Makes a call: its value, or the call that waits.
    pub(super) fn start(&self, name: &str, args: &[u64]) -> Result<Result<u64, Waiting>, Errno> {
        let entry = crate::syscalls::all().find(|entry| entry.name == name).expect("a call with this name");
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let waiting = Waiting { number: entry.number, args: all, state: CallState::default(), waiter: None };
        self.resume(waiting)
    }

    /// Executes a waiting call again.
    pub(super) fn resume(&self, mut waiting: Waiting) -> Result<Result<u64, Waiting>, Errno> {
        let raw = Call { nr: waiting.number, args: waiting.args, ip: 0, abi: Abi::X86_64 };
        let handler = crate::syscalls::handler(&raw);
        waiting.state.executions += 1;
        let mut cx = Ctx {
            kernel: &self.kernel,
            task: &self.task,
            call: &mut waiting.state,
            memory: self.memory.clone(),
            raw,
            registers: None,
            waiter: &mut waiting.waiter,
        };
        let result: SysResult = handler(&mut cx, &Args(waiting.args));
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Fail::Errno(errno)) => Err(errno),
            Err(Fail::Park(_)) => Ok(Err(waiting)),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The value of a waiting call that must be ready now.
    pub(super) fn finish(&self, waiting: Waiting) -> u64 {
        match self.resume(waiting) {
            Ok(Ok(value)) => value,
            Ok(Err(_)) => panic!("it still waits"),
            Err(errno) => panic!("it fails with {errno}"),
        }
    }

    pub(super) fn open(&self, path: &str, flags: u32) -> u64 {
        self.call("open", &[self.path(path), flags.into(), 0o644]).unwrap()
    }

    pub(super) fn pair(&self, name: &str, args: &[u64]) -> (u64, u64) {
        let address = self.room(8);
        let mut all = args.to_vec();
        all.push(address);
        if name == "pipe2" {
            all = vec![address, args[0]];
        }
        self.call(name, &all).unwrap();
        let raw = self.get(address, 8);
        (
            u32::from_le_bytes(raw[..4].try_into().unwrap()).into(),
            u32::from_le_bytes(raw[4..].try_into().unwrap()).into(),
        )
    }

    pub(super) fn write(&self, fd: u64, bytes: &[u8]) -> Result<u64, Errno> {
        self.call("write", &[fd, self.put(bytes), bytes.len() as u64])
    }

    pub(super) fn read(&self, fd: u64, most: usize) -> Result<Vec<u8>, Errno> {
        let address = self.room(most);
        let count = self.call("read", &[fd, address, most as u64])?;
        Ok(self.get(address, count as usize))
    }
}
