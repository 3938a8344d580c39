//! Stub processes, seccomp notifications and guest memory: how the sentry runs a guest.
//!
//! This crate is mechanism without policy. It owns every rule that keeps a guest in; what a system call *does*
//! is decided by the implementor of [`Kernel`].
//!
//! ```text
//! sentry: Kernel implementor                             one host process
//!   server thread: RECV on a listener -> Kernel::...() -> RECV ...        (one for each listener)
//! stub = host process = guest address space             Stub
//!   guest threads, host threads of the stub              GuestThread
//!   stub page: handler code, read-only; for each thread a slot with its command list and alternate stack
//! ```
//!
//! # How a call arrives
//! | what the guest does | callback | what the answer can change |
//! |---|---|---|
//! | calls of [`filter::NATIVE`] with plain arguments | none, the host's kernel serves it | |
//! | calls of [`filter::TRAPPED`] (clone, fork, execve, exit, rt_sigreturn, wait4, kill, private file mmap...) | [`Kernel::trapped`] | every register |
//! | every other call, and every i386 or x32 call | [`Kernel::call`] | the return value |
//! | SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP of its own making | [`Kernel::fault`] | every register |
//! | anything, after [`GuestThread::kick`] or [`GuestThread::redirect`] | [`Kernel::interrupted`] | every register |
//! | a new thread or forked child runs for the first time | [`Kernel::born`] | every register |
//! | the commands of [`GuestThread::run`] have been carried out (or one failed) | [`Kernel::ran`] | every register |
//! | a forked child dies before it has arrived | [`Kernel::stillborn`] | |
//! | the process dies, for whatever reason | [`Kernel::gone`] | |
//!
//! # Who may answer, and when
//! A callback runs on the server thread of the guest thread's listener and must not wait for anything: a call
//! that blocks is remembered and the callback returns. Each callback (but `gone` and `stillborn`) hands over exactly one
//! *stop* of the guest thread, and each stop is ended exactly once by one of
//! [`ret`](GuestThread::ret), [`native`](GuestThread::native), [`map_file`](GuestThread::map_file),
//! [`redirect`](GuestThread::redirect) (these end a `call`), or
//! [`ret`](GuestThread::ret), [`resume`](GuestThread::resume), [`run`](GuestThread::run),
//! [`run_and_return`](GuestThread::run_and_return), [`fork`](GuestThread::fork),
//! [`spawn_thread`](GuestThread::spawn_thread), [`exit_thread`](GuestThread::exit_thread) (these end all others).
//! Any thread of the sentry may end it, inside the callback or later, but never while it holds a lock that
//! another server thread could want: the answer may switch to the guest at once. An answer to a thread that has
//! died meanwhile, or a second answer to the same stop, does nothing.
//!
//! # Life of a [`GuestThread`]
//! ```text
//! warm stub --WarmStub::start--> running        clone by fork() or spawn_thread() --> born (stopped) --resume--> running
//! running --call/trapped/fault/interrupted--> stopped --ret/resume/...--> running
//! trapped --run--> running its commands --ran--> stopped
//! trapped --exit_thread--> over (the host's thread ends, or parks if it is the process's first one)
//! any     --Stub::kill, a crash, the host's OOM killer--> gone(stub): every thread of the stub is over
//! ```
//! A `GuestThread` is one host thread. Which guest task it serves is the kernel's affair
//! ([`attach`](GuestThread::attach)): for vfork the child *borrows* it. In `trapped(vfork)` the kernel keeps the
//! parent's registers (and, if it cares, its extended state), attaches the child's task and resumes with rax 0;
//! calls are then the child's. When the child execs, its program starts in a warm stub, and the thread, which is
//! stopped in `trapped(execve)`, is attached to the parent again and resumed with the parent's registers and rax
//! = the child's pid. When the child exits, it is stopped in a plain `call(exit_group)`: `redirect()` it, and
//! resume the parent from `interrupted`. If the child is killed while it runs: `kick()`, the same. The thread
//! pointer of the parent comes back by `fs_base` in its saved registers.
//!
//! # Signals
//! Host signals never mean guest signals. To bring a thread in: if the kernel holds its plain call, `redirect()`;
//! if it holds another stop, change the registers before `resume()`; otherwise `kick()`. `kick` and a call can
//! cross: then `call` (or another callback) comes first and `interrupted` right after its answer, so
//! `interrupted` must expect to find nothing to do and resume the registers as they are.
//! In `interrupted` after a kick, a thread that waited in a native futex has rip at its `syscall` instruction and
//! rax = the call's number, as Linux restarts it; a timed wait has already returned EINTR.
//!
//! # What keeps a guest in
//! Stub code, its slot and its frames are the guest's to change at any time; nothing here trusts them. Each rule
//! has a hostile guest in `tests/hostile` that is contained by it and gets out when the test switches it off.
//! | rule | where | without it a guest |
//! |---|---|---|
//! | a call of stub code needs a command outstanding, with exactly its arguments | `consent` | clones and opens through the handler |
//! | who notifies is what the host's kernel says | `listener` | has the sentry write into another process |
//! | CONTINUE only for calls that memory can't change | `injection` | changes a path after it was checked |
//! | injected descriptors have the rights of the guest's file, and are regular files | `injection` | makes a read-only mapping writable |
//! | mremap that grows is notified | `filter` | sees what lies behind its file |
//! | other system call tables are notified first | `filter` | makes 32-bit calls under 64-bit numbers |
//! | what is on no list is notified; arguments of native calls are checked | `filter` | calls the host |
//! | clone, exec and their kin are trapped | `filter` | forks without the sentry |
//!
//! A sibling thread can still move a file mapping under an mremap that was found to be anonymous. It gains
//! nothing as long as every injected file is one that the guest may see whole: its own host file, or the public
//! image. Never inject a part of a file whose other parts are secret.
//!
//! Needs Linux 6.6 (wake-ups on the same core) and a kernel whose RECV returns when a listener's last process
//! dies, FSGSBASE, and `/proc` of the sentry's own pid namespace.
//!
//! # Lock order
//! platform's own locks are leaves: no callback is made, no answer is sent and no guest memory is touched under
//! one of them, except that a stub's process is kept from being reaped while its memory is accessed.

pub mod filter;
pub mod layout;

mod blob;
mod bpf;
mod call;
mod consent;
mod host;
mod injection;
mod kernel;
mod leftovers;
mod listener;
mod memory;
mod platform;
mod pool;
mod processes;
mod procfs;
mod reaper;
mod registers;
mod servers;
mod stop;
mod stub;
mod thread;
mod wire;
mod zygote;

pub use call::{Abi, Call, Fault, HostCall, Ran};
pub use filter::Rules;
pub use kernel::{ExitStatus, Kernel};
pub use memory::GuestMemory;
pub use platform::{Config, Error, Platform, ZygoteSetup};
pub use registers::Registers;
pub use stub::{Mapping, Spent, Stub, Usage, WarmStub};
pub use thread::{FileAccess, GuestThread};
