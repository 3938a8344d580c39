//! How stops begin and end: the private half of [`GuestThread`].

use std::os::fd::AsFd;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::consent::Consent;
use crate::host::{self, Notification};
use crate::listener::{Birth, BirthKind};
use crate::registers::{FRAME_SIZE, Frame, GENERAL_SIZE, UC_REGISTERS, UC_SIZE, start_context};
use crate::thread::{Bell, Commanded, Phase, Then};
use crate::{Abi, Call, GuestThread, HostCall, Ran, Registers, filter, layout, wire};

/// A stop that is being ended.
pub(crate) enum Stop {
    Call { id: u64 },
    Bell(Bell),
}

/// How a command list is to end.
pub(crate) struct Plan {
    pub(crate) op: u64,
    /// Loaded before the commands.
    pub(crate) registers: Option<Registers>,
    pub(crate) birth: Option<u64>,
    pub(crate) token: Option<u64>,
    pub(crate) then: Then,
}

impl Plan {
    pub(crate) fn new(op: u64) -> Self {
        Self { op, registers: None, birth: None, token: None, then: Then::Tell }
    }
}

/// Upper end of what fs and gs base may be.
const USER_END: u64 = 0x7fff_ffff_f000;

// Ending a stop. The phase changes before the answer is sent, and nothing is sent or written under its lock.
impl GuestThread {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn send(&self, id: u64, value: i64, flags: u32) {
        // A thread that is gone needs no answer.
        let _gone = host::send(self.stub().listener.fd.as_fd(), id, value, flags);
    }

    /// The host's thread is gone.
    pub(crate) fn over(&self) {
        *self.lock() = Phase::Over;
    }

    /// A failure means that the thread is gone.
    pub(crate) fn queue_kick(&self) {
        if let Some(_alive) = self.stub().hold() {
            let _gone = host::tgkill(self.stub().pid(), self.tid(), wire::KICK);
        }
    }

    pub(crate) fn take(&self) -> Option<Stop> {
        let mut phase = self.lock();
        let stop = match &*phase {
            Phase::Call { id, .. } => Stop::Call { id: *id },
            Phase::Bell(bell) => Stop::Bell(*bell),
            _ => return None,
        };
        *phase = Phase::Running;
        Some(stop)
    }

    pub(crate) fn take_call(&self) -> Option<(u64, Call)> {
        let mut phase = self.lock();
        let Phase::Call { id, call } = *phase else { return None };
        *phase = Phase::Running;
        Some((id, call))
    }

    pub(crate) fn take_bell(&self) -> Option<Bell> {
        let mut phase = self.lock();
        let Phase::Bell(bell) = *phase else { return None };
        *phase = Phase::Running;
        Some(bell)
    }

    pub(crate) fn peek_bell(&self) -> Option<Bell> {
        match &*self.lock() {
            Phase::Bell(bell) => Some(*bell),
            _ => None,
        }
    }

    /// Lets a thread in the handler go on with these registers.
    pub(crate) fn leave(&self, bell: Bell, registers: &Registers) {
        let only_rax = Registers { rax: registers.rax, ..bell.frame } == *registers;
        if only_rax && !bell.fresh && wire::is_plain(registers.rax) {
            self.send(bell.id, registers.rax as i64, 0);
            return;
        }
        let mut writes = Writes::default();
        let bases = self.put_registers(&mut writes, &bell, registers);
        let _gone = self.order(&bell, writes, wire::RESUME | bases);
    }

    /// Sends an order, or kills a guest that has taken its frame or slot away.
    /// False if the thread is gone.
    fn order(&self, bell: &Bell, writes: Writes, op: u64) -> bool {
        let memory = self.memory();
        if memory.write_vectors(&writes.ranges, &writes.bytes) < writes.bytes.len() {
            self.stub().condemn("its frame or slot can't be written");
            return false;
        }
        host::send(self.stub().listener.fd.as_fd(), bell.id, wire::order(op), 0)
    }

    /// Adds what changes in frame and slot; which order loads it.
    fn put_registers(&self, writes: &mut Writes, bell: &Bell, registers: &Registers) -> u64 {
        if bell.fresh {
            let stack = self.slot() + layout::SLOT_ALTSTACK;
            writes.push(bell.uc, &start_context(registers, stack, layout::ALTSTACK_SIZE));
        } else if registers.general() != bell.frame.general() {
            writes.push(bell.uc.wrapping_add(UC_REGISTERS), &registers.general());
        }
        let (old, new) = (&bell.frame, registers);
        if (old.fs_base, old.gs_base) == (new.fs_base, new.gs_base) {
            return 0;
        }
        let valid = |new: u64, old: u64| if new < USER_END { new } else { old };
        let mut bases = [0; 16];
        bases[..8].copy_from_slice(&valid(new.fs_base, old.fs_base).to_le_bytes());
        bases[8..].copy_from_slice(&valid(new.gs_base, old.gs_base).to_le_bytes());
        writes.push(self.slot() + layout::SLOT_FS, &bases);
        wire::BASES
    }

    /// Ends a stop with a command list.
    pub(crate) fn command(&self, commands: &[HostCall], plan: Plan) -> Result<(), Errno> {
        self.try_command(commands, plan).map(drop)
    }

    /// As `command`; false if the thread is gone.
    fn try_command(&self, commands: &[HostCall], plan: Plan) -> Result<bool, Errno> {
        if commands.len() > layout::MAX_COMMANDS {
            return Err(Errno::TOOBIG);
        }
        let shared = &self.stub().shared;
        let consent =
            Consent::new(commands, |c| filter::native(&shared.program, c.nr, c.args, layout::STUB_TEXT));
        let Some(mut bell) = self.peek_bell() else { return Ok(false) };
        let mut writes = Writes::default();
        let mut op = plan.op;
        if let Some(registers) = &plan.registers {
            op |= self.put_registers(&mut writes, &bell, registers);
            bell.frame = *registers;
            bell.fresh = false;
        }
        writes.push(self.slot() + layout::SLOT_COUNT, &(commands.len() as u64).to_le_bytes());
        let mut list = Vec::with_capacity(commands.len() * layout::COMMAND_SIZE);
        for command in commands {
            list.extend_from_slice(&command.nr.to_le_bytes());
            command.args.iter().for_each(|arg| list.extend_from_slice(&arg.to_le_bytes()));
        }
        writes.push(self.slot() + layout::SLOT_COMMANDS, &list);
        let rings = op & (wire::VALUE | wire::THEN_RESUME) == 0;
        let commanded = Commanded {
            bell,
            consent,
            count: commands.len(),
            rings,
            birth: plan.birth,
            token: plan.token,
            then: plan.then,
        };
        let closes =
            |fd: &i32| commands.iter().any(|c| c.nr == libc::SYS_close as u64 && c.args[0] == *fd as u64);
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).retain(|fd| !closes(fd));
        {
            let mut phase = self.lock();
            if !matches!(&*phase, Phase::Bell(now) if now.id == bell.id) {
                return Ok(false);
            }
            *phase = Phase::Commanded(commanded);
        }
        Ok(self.order(&bell, writes, op))
    }

    /// Ends the stop of a warm stub's first thread; false if it is gone.
    pub(crate) fn start(&self, commands: &[HostCall], registers: &Registers) -> Result<bool, Errno> {
        let op = wire::RUN | wire::THEN_RESUME;
        self.try_command(commands, Plan { registers: Some(*registers), ..Plan::new(op) })
    }

    /// Ends a stop with a clone in the stub.
    pub(crate) fn clone_host(&self, clone: HostCall, kind: BirthKind, token: u64, parent: &Registers) {
        let births = &self.stub().shared.births;
        let birth = births.expect(Birth { token, kind, parent: self.stub().clone(), consented: false });
        // A thread finds its word in its own slot, a forked child in its copy of the parent's.
        let (BirthKind::Fork { slot } | BirthKind::Thread { slot }) = kind;
        // Behind it the host will put the child's number into the parent's copy.
        let word_and_child = [birth.to_le_bytes(), [0; 8]].concat();
        let wrote = self.memory().write(slot + layout::SLOT_TOKEN, &word_and_child);
        let plan = Plan {
            op: wire::RUN | wire::THEN_RESUME,
            registers: Some(*parent),
            birth: Some(birth),
            token: Some(token),
            then: Then::Tell,
        };
        if wrote.is_ok() && matches!(self.try_command(&[clone], plan), Ok(true)) {
            return;
        }
        if wrote.is_err() {
            self.stub().condemn("its slot can't be written");
        }
        // Or its thread is gone. The reaper may have looked for births before this one was noted, or takes it.
        if births.take(birth).is_some() {
            self.stub().shared.kernel().stillborn(token);
        }
    }
}

/// Pieces of guest memory to be written by one host call.
#[derive(Default)]
struct Writes {
    ranges: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

impl Writes {
    fn push(&mut self, address: u64, bytes: &[u8]) {
        self.ranges.push((address, bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }
}

// Beginning a stop.
impl GuestThread {
    /// A notification of this thread has arrived. The kernel of the host vouches for whose it is, and for nothing
    /// else in it.
    pub(crate) fn notified(self: &Arc<Self>, notification: &Notification) {
        let n = notification;
        if n.nr == wire::BELL && n.arch == filter::X86_64 {
            self.bell(n);
        } else if !self.consented(n) {
            self.called(n);
        }
    }

    /// Whether this is the next call of the thread's commands; then it is let through.
    pub(crate) fn consented(&self, n: &Notification) -> bool {
        let rules = &self.stub().shared.rules;
        let mut phase = self.lock();
        let Phase::Commanded(commanded) = &mut *phase else { return false };
        if n.arch == filter::X86_64 && commanded.consent.take(n, rules.exact_consent) {
            let birth = commanded.birth.filter(|_| n.nr == libc::SYS_clone as i32);
            let ends = n.nr == libc::SYS_exit as i32;
            if ends {
                *phase = Phase::Over;
            }
            drop(phase);
            if let Some(birth) = birth {
                self.stub().shared.births.consented(birth);
            }
            if ends {
                // Before the answer: the tid and the slot may be used again at once.
                self.stub().shared.remove_thread(self);
                self.stub().give_slot(self.slot());
            }
            self.send(n.id, 0, host::CONTINUE);
            return true;
        }
        if commanded.rings {
            // Stub code would have rung. Somebody jumped out of the handler: nothing waits for this guest.
            drop(phase);
            self.stub().condemn("it left the handler while commands were outstanding");
            return true;
        }
        // The handler has resumed the guest; consent ends with the next notification.
        *phase = Phase::Running;
        false
    }

    /// The commands that these were for are over.
    fn sweep(&self, id: u64) {
        let numbers = std::mem::take(&mut *self.leftovers.lock().unwrap_or_else(PoisonError::into_inner));
        self.let_go(id, &numbers);
    }

    /// A plain call.
    fn called(self: &Arc<Self>, n: &Notification) {
        self.sweep(n.id);
        let shared = &self.stub().shared;
        let call = call_of(n);
        if n.arch == filter::X86_64 && layout::in_stub_text(n.ip) {
            // Nothing was commanded: a guest jumped into the handler.
            if shared.rules.consent {
                self.send(n.id, -i64::from(libc::EPERM), 0);
            } else {
                self.send(n.id, 0, host::CONTINUE);
            }
            return;
        }
        {
            let mut phase = self.lock();
            if !matches!(&*phase, Phase::Running | Phase::Redirected(_)) {
                drop(phase);
                self.stub().condemn("it called while it was stopped");
                return;
            }
            *phase = Phase::Call { id: n.id, call };
        }
        shared.kernel().call(self, call);
    }

    /// The handler (or a guest that pretends to be it) rings.
    fn bell(self: &Arc<Self>, n: &Notification) {
        let [kind, _, uc, ..] = n.args;
        if kind == wire::DONE {
            return self.done(n);
        }
        self.sweep(n.id);
        let Some(before) = self.enter() else {
            return self.stub().condemn("it rang while it was stopped");
        };
        let Some((stop, frame)) = self.read_frame(n.id, uc, n.args[3], n.args[4]) else {
            return self.stub().condemn("its frame can't be read");
        };
        let mut registers = stop.frame;
        *self.lock() = Phase::Bell(stop);
        let kernel = self.stub().shared.kernel();
        match i32::try_from(kind) {
            Ok(wire::KICK) => {
                let redirected = if let Phase::Redirected(call) = before {
                    registers.rip = call.ip;
                    registers.rax = call.nr;
                    Some(call)
                } else {
                    None
                };
                kernel.interrupted(self, registers, redirected);
            }
            Ok(libc::SIGSYS) => kernel.trapped(self, Call::of_registers(&registers), registers),
            Ok(signo @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP)) => {
                kernel.fault(self, frame.fault(signo), registers);
            }
            _ => self.stub().condemn("it rang with an unknown word"),
        }
    }

    /// Reads the handler's frame. It is hostile, like all guest memory: it is read once, here.
    pub(crate) fn read_frame(&self, id: u64, uc: u64, fs_base: u64, gs_base: u64) -> Option<(Bell, Frame)> {
        let mut frame = Frame([0; FRAME_SIZE]);
        self.memory().read(uc, &mut frame.0).ok()?;
        let registers = Registers::from_frame(&frame, fs_base, gs_base);
        Some((Bell { id, uc, frame: registers, fresh: false, fpstate: frame.fpstate() }, frame))
    }

    /// Leaves the running phases; what it was. None where no bell can ring.
    fn enter(&self) -> Option<Phase> {
        let mut phase = self.lock();
        let running = match &*phase {
            Phase::Running | Phase::Redirected(_) => true,
            Phase::Commanded(commanded) => !commanded.rings,
            _ => false,
        };
        running.then(|| std::mem::replace(&mut *phase, Phase::Running))
    }

    /// A command list has ended.
    fn done(self: &Arc<Self>, n: &Notification) {
        let shared = &self.stub().shared;
        let [_, left, .., result] = n.args;
        let commanded = {
            let mut phase = self.lock();
            let Phase::Commanded(commanded) = std::mem::replace(&mut *phase, Phase::Over) else {
                drop(phase);
                return self.stub().condemn("it told of commands that it was not given");
            };
            if commanded.then == Then::Park {
                // The first thread of the process: never answered.
                return;
            }
            *phase = Phase::Bell(Bell { id: n.id, ..commanded.bell });
            commanded
        };
        if let Some(birth) = commanded.birth {
            let refused = shared.births.take(birth);
            if let Some(Birth { kind: BirthKind::Thread { slot }, .. }) = refused {
                self.stub().give_slot(slot);
            }
        }
        let ran = Ran {
            succeeded: commanded.count.saturating_sub(usize::try_from(left).unwrap_or(usize::MAX)),
            result: outcome(result),
            token: commanded.token,
            registers: commanded.bell.frame,
        };
        shared.kernel().ran(self, ran);
    }
}

/// The result of a host call as Linux returns it.
fn outcome(result: u64) -> Result<u64, Errno> {
    match result as i64 {
        error @ -4095..=-1 => Err(Errno::from_raw_os_error(-(error as i32))),
        _ => Ok(result),
    }
}

fn call_of(n: &Notification) -> Call {
    let number = n.nr as u32;
    let (abi, nr) = if n.arch != filter::X86_64 {
        (Abi::I386, number)
    } else if number & filter::X32_BIT != 0 {
        (Abi::X32, number & !filter::X32_BIT)
    } else {
        (Abi::X86_64, number)
    };
    Call { nr: nr.into(), args: n.args, ip: n.ip, abi }
}

const _: () = assert!(UC_REGISTERS as usize + GENERAL_SIZE <= UC_SIZE);
