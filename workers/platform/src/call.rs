//! Values that pass between platform and kernel.

use rustix::io::Errno;

use crate::Registers;

/// By which of the machine's system call tables a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// The native table.
    X86_64,
    /// 32-bit calls (`int 0x80`, `sysenter`). The numbers mean other calls.
    I386,
    /// x32: the native table with bit 30 set; `nr` is given without that bit.
    X32,
}

/// A system call of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The call's number in the table that `abi` names.
    pub nr: u64,
    /// The arguments as the registers hold them: untrusted, not truncated.
    pub args: [u64; 6],
    /// The address behind the `syscall` instruction. For a call through the vsyscall page it lies in that page:
    /// answer such a call, never rewind it.
    pub ip: u64,
    /// The table.
    pub abi: Abi,
}

impl Call {
    pub(crate) fn of_registers(registers: &Registers) -> Self {
        let r = registers;
        Self { nr: r.rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], ip: r.rip, abi: Abi::X86_64 }
    }
}

/// A synchronous signal of the guest's own making, as the host's kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.
    pub signo: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub addr: u64,
    /// The processor's trap number, for the guest's own signal frame.
    pub trapno: u64,
    /// The processor's error code.
    pub err: u64,
    /// The page fault address register.
    pub cr2: u64,
}

/// A host system call that a stub is told to make. Carried out only with exactly these arguments: those that
/// the filter notifies are consented to one by one, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCall {
    /// The number in the host's x86-64 table, or [`HostCall::ZERO`].
    pub nr: u64,
    /// The arguments.
    pub args: [u64; 6],
}

impl HostCall {
    /// Not a call: clears `args[1]` bytes at `args[0]`, which must be writable.
    pub const ZERO: u64 = u64::MAX;

    /// A call with these arguments.
    pub const fn new(nr: i64, args: [u64; 6]) -> Self {
        Self { nr: nr as u64, args }
    }

    /// Clears memory (the tail of a data segment).
    pub const fn zero(address: u64, length: u64) -> Self {
        Self { nr: Self::ZERO, args: [address, length, 0, 0, 0, 0] }
    }

    /// `mmap`.
    pub const fn mmap(address: u64, length: u64, prot: i32, flags: i32, fd: i32, offset: u64) -> Self {
        Self::new(
            libc::SYS_mmap,
            [address, length, prot as u32 as u64, flags as u32 as u64, fd as u32 as u64, offset],
        )
    }

    /// `munmap`.
    pub const fn munmap(address: u64, length: u64) -> Self {
        Self::new(libc::SYS_munmap, [address, length, 0, 0, 0, 0])
    }

    /// `mprotect`.
    pub const fn mprotect(address: u64, length: u64, prot: i32) -> Self {
        Self::new(libc::SYS_mprotect, [address, length, prot as u32 as u64, 0, 0, 0])
    }

    /// `close`, for descriptors that [`add_fd`](crate::GuestThread::add_fd) put into the stub.
    pub const fn close(fd: i32) -> Self {
        Self::new(libc::SYS_close, [fd as u32 as u64, 0, 0, 0, 0, 0])
    }
}

/// What became of a command list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// Commands that succeeded, from the front.
    pub succeeded: usize,
    /// The last result: of the last command, or the error of the one that failed. The guest's word: it may lie,
    /// about its own address space only.
    pub result: Result<u64, Errno>,
    /// The token of the `fork` or `spawn_thread` that the host refused.
    pub token: Option<u64>,
    /// The guest thread's registers, if it was running before (not after a failed start).
    pub registers: Registers,
}
