//! A guest thread: what it is stopped in, and how a stop is ended.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::consent::Consent;
use crate::listener::BirthKind;
use crate::stop::{Plan, Stop};
use crate::stub::Stub;
use crate::{Abi, Call, GuestMemory, HostCall, Registers, host, injection, layout, procfs, registers, wire};

/// One host thread of a stub. See the crate's head for its life and for who may call what.
pub struct GuestThread {
    tid: i32,
    slot: u64,
    stub: Arc<Stub>,
    pub(crate) phase: Mutex<Phase>,
    attached: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    /// Descriptors that commands were to map: not needed at the next notification.
    pub(crate) leftovers: Mutex<Vec<i32>>,
}

/// Rights of an injected descriptor: those of the guest's open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Mappings of it can never be made writable for the file.
    ReadOnly,
    /// Mappings of it may write to the file.
    ReadWrite,
}

/// Where a guest thread is, as far as the sentry knows.
pub(crate) enum Phase {
    /// In guest code or in a native call.
    Running,
    /// In a plain call that the kernel holds.
    Call { id: u64, call: Call },
    /// Its plain call was ended by a queued signal; the handler's bell is next.
    Redirected(Call),
    /// In the handler, stopped at the bell.
    Bell(Bell),
    /// In the handler, carrying out commands.
    Commanded(Commanded),
    /// The guest's thread has ended; the host's thread is parked or ending.
    Over,
}

/// A stop in the handler.
#[derive(Clone, Copy)]
pub(crate) struct Bell {
    pub(crate) id: u64,
    /// Address of the frame's ucontext. From the guest's registers: hostile, but only ever used in its own memory.
    pub(crate) uc: u64,
    /// What the frame holds.
    pub(crate) frame: Registers,
    /// The frame is yet to be written: a thread that has never run.
    pub(crate) fresh: bool,
    /// Address of the extended state; 0 if there is none.
    pub(crate) fpstate: u64,
}

/// A command list on its way.
pub(crate) struct Commanded {
    pub(crate) bell: Bell,
    pub(crate) consent: Consent,
    pub(crate) count: usize,
    /// Set where the handler rings again when it is done; otherwise it resumes the guest by itself.
    pub(crate) rings: bool,
    /// The clone that is in the list.
    pub(crate) birth: Option<u64>,
    pub(crate) token: Option<u64>,
    pub(crate) then: Then,
}

/// What happens when the handler rings with the results.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The kernel is told.
    Tell,
    /// The first thread of the process stays parked for ever.
    Park,
}

impl GuestThread {
    pub(crate) fn new(tid: i32, slot: u64, stub: Arc<Stub>, phase: Phase) -> Self {
        Self {
            tid,
            slot,
            stub,
            phase: Mutex::new(phase),
            attached: Mutex::new(None),
            leftovers: Mutex::default(),
        }
    }

    /// The host's thread id, from the host's kernel and never from the stub.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    pub(crate) fn slot(&self) -> u64 {
        self.slot
    }

    /// Processor time used so far, in nanoseconds.
    ///
    /// # Errors
    /// ESRCH after its end.
    pub fn cpu_ns(&self) -> Result<u64, Errno> {
        let _alive = self.stub.hold().ok_or(Errno::SRCH)?;
        crate::procfs::thread_cpu_ns(self.stub.pid(), self.tid).ok_or(Errno::SRCH)
    }

    /// The process it belongs to.
    pub fn stub(&self) -> &Arc<Stub> {
        &self.stub
    }

    /// Whether the host thread waits: if no stop of it is open, in a call that the host serves (a futex, a sleep).
    pub fn sleeps(&self) -> bool {
        self.stub.hold().is_some_and(|_alive| procfs::sleeps(self.stub.pid(), self.tid))
    }

    /// Guest memory.
    pub fn memory(&self) -> GuestMemory {
        GuestMemory::new(self.stub.clone())
    }

    /// Hangs a value of the kernel's on the thread (its task), replacing the last one.
    pub fn attach(&self, value: Arc<dyn Any + Send + Sync>) {
        *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// What `attach` was given last.
    pub fn attached(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// [`layout::SCRATCH_SIZE`] bytes of stub memory for data that commands point to. The guest can change it at
    /// any time.
    pub fn scratch(&self) -> u64 {
        self.slot + layout::SLOT_SCRATCH
    }

    /// Ends any stop: the return value of a plain call, or rax alone of another stop.
    pub fn ret(&self, value: i64) {
        match self.take() {
            Some(Stop::Call { id }) => self.send(id, value, 0),
            Some(Stop::Bell(bell)) => {
                let registers = Registers { rax: value as u64, ..bell.frame };
                self.leave(bell, &registers);
            }
            None => {}
        }
    }

    /// Ends any stop but a plain call: all registers.
    pub fn resume(&self, registers: &Registers) {
        if let Some(bell) = self.take_bell() {
            self.leave(bell, registers);
        }
    }

    /// Ends a plain call: the host's kernel executes it. Refused with EPERM in the guest's return register unless
    /// the call is one that the guest could make natively (it arrives here with `mediated_mm`), rseq, or a
    /// growing mremap of anonymous memory: memory can change under every other call.
    pub fn native(&self) {
        let Some((id, call)) = self.take_call() else { return };
        match self.stub.shared.native_allowed(&self.stub, &call) {
            Ok(()) => self.send(id, 0, host::CONTINUE),
            Err(errno) => self.send(id, -i64::from(errno.raw_os_error()), 0),
        }
    }

    /// Ends a plain `mmap` call of a file that has a host file of its own: puts the descriptor at the guest's own
    /// number and lets the guest's call map it.
    ///
    /// # Errors
    /// The call is still open when this fails. EINVAL if the stop is no plain mmap of a descriptor, or the flags
    /// are none of MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_POPULATE; EMFILE if
    /// the guest's number is beyond the stub's table (then `redirect` and `run_and_return`); EACCES as for mmap; and
    /// what [`add_fd`](Self::add_fd) says.
    pub fn map_file(&self, fd: BorrowedFd<'_>, access: FileAccess) -> Result<(), Errno> {
        let (id, call) = match &*self.lock() {
            Phase::Call { id, call } => (*id, *call),
            _ => return Err(Errno::INVAL),
        };
        let number = injection::check_mmap(&call, access)?;
        let fd = self.stub.shared.injectable(fd, access)?;
        host::add_fd(self.stub.listener.fd.as_fd(), id, fd.as_fd(), Some(number))?;
        self.stub.injected.note(number);
        if self.take_call().is_some() {
            self.send(id, 0, host::CONTINUE);
        }
        Ok(())
    }

    /// Ends a plain `exit_group` call: the host's kernel executes it, and the process dies where it is, without a signal
    /// that wakes it elsewhere. False if the stop is another one; it is still open then.
    pub fn exit_process(&self) -> bool {
        let is_exit = |call: &Call| call.abi == Abi::X86_64 && call.nr == libc::SYS_exit_group as u64;
        if !matches!(&*self.lock(), Phase::Call { call, .. } if is_exit(call)) {
            return false;
        }
        if let Some((id, _)) = self.take_call() {
            self.send(id, 0, host::CONTINUE);
        }
        true
    }

    /// Ends a plain call without an answer: the thread comes back in `interrupted`, with all registers. For a
    /// signal that ends a parked call.
    pub fn redirect(&self) {
        let taken = {
            let mut phase = self.lock();
            match *phase {
                Phase::Call { id, call } => {
                    *phase = Phase::Redirected(call);
                    Some(id)
                }
                _ => None,
            }
        };
        if let Some(id) = taken {
            self.queue_kick();
            self.send(id, 0, 0);
        }
    }

    /// Brings a running thread in: `interrupted` follows. If the thread is stopped, it follows the end of that
    /// stop. A kick of a thread that is over does nothing.
    pub fn kick(&self) {
        if !matches!(&*self.lock(), Phase::Over) {
            self.queue_kick();
        }
    }

    /// Ends any stop but a plain call: carries out host calls in the stub; `Kernel::ran` follows.
    ///
    /// # Errors
    /// E2BIG if there are more than [`layout::MAX_COMMANDS`]; the stop is still open.
    pub fn run(&self, commands: &[HostCall]) -> Result<(), Errno> {
        self.command(commands, Plan::new(wire::RUN))
    }

    /// As `run`, but the thread resumes by itself, with the last result (or the first error) in rax: one round
    /// trip less. `registers` are loaded first.
    ///
    /// # Errors
    /// E2BIG, as `run`.
    pub fn run_and_return(&self, commands: &[HostCall], registers: &Registers) -> Result<(), Errno> {
        let op = wire::RUN | wire::VALUE;
        self.command(commands, Plan { registers: Some(*registers), ..Plan::new(op) })
    }

    /// Ends any stop but a plain call: copies the address space into a new stub, whose only thread arrives in
    /// `born` with `token`. The calling thread resumes by itself with `parent`, unless the host refuses (EAGAIN at
    /// a limit): then `ran` comes, with the token.
    pub fn fork(&self, token: u64, parent: &Registers) {
        let flags = (libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD) as u64;
        let clone = HostCall::new(libc::SYS_clone, [flags, 0, self.slot + layout::SLOT_CHILD, 0, 0, 0]);
        self.clone_host(clone, BirthKind::Fork { slot: self.slot }, token, parent);
    }

    /// Ends any stop but a plain call: makes a new thread of this stub, which arrives in `born` with `token` and a
    /// clear extended state. The calling thread resumes by itself with `parent`, or `ran` comes, as for `fork`.
    ///
    /// # Errors
    /// EAGAIN if the stub has [`layout::MAX_THREADS`] threads; the stop is still open.
    pub fn spawn_thread(&self, token: u64, parent: &Registers) -> Result<(), Errno> {
        let slot = self.stub.take_slot().ok_or(Errno::AGAIN)?;
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let stack = slot + layout::SLOT_SIZE - wire::STACK_MARGIN;
        let clone = HostCall::new(libc::SYS_clone, [flags as u64, stack, 0, 0, 0, 0]);
        self.clone_host(clone, BirthKind::Thread { slot }, token, parent);
        Ok(())
    }

    /// Ends any stop but a plain call, and the guest's thread with it: unregisters rseq (address, length,
    /// signature), stores 0 at `clear_tid` and wakes one waiter there. The process lives on while the kernel
    /// doesn't kill it, even without threads.
    pub fn exit_thread(&self, clear_tid: Option<u64>, rseq: Option<(u64, u32, u32)>) {
        let mut commands = Vec::with_capacity(3);
        if let Some((address, length, signature)) = rseq {
            const UNREGISTER: u64 = 1;
            let args = [address, length.into(), UNREGISTER, signature.into(), 0, 0];
            commands.push(HostCall::new(libc::SYS_rseq, args));
        }
        if let Some(address) = clear_tid {
            // One call that stores and wakes, and that an unmapped address can't hurt. Not the private form:
            // Linux wakes the shared one.
            let wake_op = libc::FUTEX_WAKE_OP as u64;
            commands.push(HostCall::new(libc::SYS_futex, [address, wake_op, 1, 0, address, 0]));
        }
        let first = self.tid == self.stub.pid();
        if !first {
            commands.push(HostCall::new(libc::SYS_exit, [0; 6]));
        }
        let plan = Plan { then: Then::Park, ..Plan::new(wire::RUN | wire::KEEP_GOING) };
        // At most three commands: it can't be too long.
        let _fits = self.command(&commands, plan);
    }

    /// Puts a file into the stub, for a mapping command: at `at`, replacing what is there, or at a number of the platform's
    /// own, which is good until the thread runs on. Only in a stop.
    ///
    /// # Errors
    /// EINVAL if the file is no regular file or memfd; EACCES if it can't be had with these rights; EMFILE; ENOENT
    /// if the thread is not stopped.
    pub fn add_fd(&self, fd: BorrowedFd<'_>, at: Option<i32>, access: FileAccess) -> Result<i32, Errno> {
        let id = self.stop_id().ok_or(Errno::NOENT)?;
        let fd = self.stub.shared.injectable(fd, access)?;
        let put = |at| host::add_fd(self.stub.listener.fd.as_fd(), id, fd.as_fd(), at);
        let number = match put(at.or_else(|| Some(self.stub.injected.number()))) {
            // Stubs have fewer descriptors than that: then any free one.
            Err(Errno::BADF) if at.is_none() => put(None)?,
            other => other?,
        };
        if at.is_none() {
            self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }
        Ok(number)
    }

    /// Whether the host's thread waits for the end of its stop; false if it is not stopped, or has died in it.
    pub(crate) fn waits(&self) -> bool {
        self.stop_id().is_some_and(|id| host::is_waiting(self.stub.listener.fd.as_fd(), id))
    }

    fn stop_id(&self) -> Option<u64> {
        match &*self.lock() {
            Phase::Call { id, .. } => Some(*id),
            Phase::Bell(bell) => Some(bell.id),
            _ => None,
        }
    }

    /// Says that the guest has closed its own numbers from `first` to `last`: what `map_file` put there is let go of.
    /// Only in a stop; costs nothing where nothing was mapped.
    pub fn closed(&self, first: i32, last: i32) {
        let numbers = self.stub.injected.forget(first, last);
        if let Some(id) = self.stop_id() {
            self.let_go(id, &numbers);
        }
    }

    /// Puts the empty file in the place of these descriptors.
    pub(crate) fn let_go(&self, id: u64, numbers: &[i32]) {
        for number in numbers {
            // Fails if the thread is gone, and its table with it or somebody else's affair.
            let _gone = host::add_fd(
                self.stub.listener.fd.as_fd(),
                id,
                self.stub.shared.empty.as_fd(),
                Some(*number),
            );
        }
    }

    /// The extended state (x87, SSE, AVX...) in a stop that is no plain call: the bytes that belong behind the
    /// guest's own signal frame (`struct _xstate`, standard format). Empty for a thread that has never run.
    ///
    /// # Errors
    /// EINVAL in another stop; EFAULT if the guest took its frame away.
    pub fn extended_state(&self) -> Result<Vec<u8>, Errno> {
        let bell = self.peek_bell().ok_or(Errno::INVAL)?;
        if bell.fpstate == 0 {
            return Ok(Vec::new());
        }
        registers::read_extended(&self.memory(), bell.fpstate)
    }

    /// Replaces the extended state of a stop that is no plain call by what the guest's own frame held. The
    /// host's kernel checks it when the thread resumes.
    ///
    /// # Errors
    /// As `extended_state`; EINVAL also if it is longer than the frame's own.
    pub fn set_extended_state(&self, state: &[u8]) -> Result<(), Errno> {
        let bell = self.peek_bell().filter(|bell| bell.fpstate != 0).ok_or(Errno::INVAL)?;
        registers::write_extended(&self.memory(), bell.fpstate, state)
    }
}
