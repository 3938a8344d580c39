//! The zygote: the process that stubs are cloned from.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::bpf::Instruction;
use crate::layout::{self, Layout};
use crate::platform::{Error, ZygoteSetup};
use crate::{blob, host, procfs};

/// The zygote's end of the socket, in the zygote and in stubs until they are warm.
pub(crate) const SOCKET_FD: RawFd = 3;

/// AT_HWCAP2: the FS and GS base instructions work in user mode.
const HWCAP2_FSGSBASE: u64 = 2;

/// The sentry's end.
pub(crate) struct Zygote {
    socket: OwnedFd,
    pid: i32,
}

impl Zygote {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn start(
        setup: ZygoteSetup,
        image: Option<OwnedFd>,
        program: &[Instruction],
    ) -> Result<(Self, Layout), Error> {
        // SAFETY: getauxval takes and returns a plain number.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
            return Err(Error::Missing { what: "the FSGSBASE instructions" });
        }
        let file = rustix::fs::memfd_create("stub", MemfdFlags::CLOEXEC)
            .map_err(Error::host("make the stub's memory file"))?;
        std::fs::File::from(file.try_clone().map_err(io("copy a descriptor"))?)
            .write_all(&blob::build(program))
            .map_err(io("write the stub's program"))?;
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::host("make the zygote's socket"))?;
        let child = Child::prepare(setup, image, file, theirs)?;
        let pid = child.spawn().map_err(|source| Error::Host { action: "fork the zygote", source })?;
        drop(child);
        let zygote = Self { socket, pid };
        if zygote.read("start").is_err() {
            return Err(Error::Zygote { action: Step::of_status(host::exit_status(pid)) });
        }
        let layout =
            read_layout(pid).ok_or(Error::Missing { what: "/proc of the sentry's pid namespace" })?;
        Ok((zygote, layout))
    }

    /// Asks for a stub.
    pub(crate) fn ask(&self) -> Result<(), Error> {
        let asked = rustix::io::write(&self.socket, &[0; 8]);
        asked.map(drop).map_err(Error::host("ask the zygote for a stub"))
    }

    /// Ends all waiting for the zygote: it is dead, but its socket may be open in a stub that it made last.
    pub(crate) fn hang_up(&self) {
        // Fails only if that was done before.
        let _done = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// The pid of the stub that was asked for.
    pub(crate) fn answer(&self) -> Result<i32, Error> {
        let answer = self.read("make a stub")?;
        if answer < 0 {
            let source = Errno::from_raw_os_error(-(answer as i32));
            return Err(Error::Host { action: "clone a stub", source });
        }
        Ok(answer as i32)
    }

    fn read(&self, action: &'static str) -> Result<i64, Error> {
        let mut answer = [0; 8];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut answer));
        match got.map_err(Error::host("hear from the zygote"))? {
            8 => Ok(i64::from_le_bytes(answer)),
            _ => Err(Error::Zygote { action }),
        }
    }
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::Host { action, source: Errno::from_io_error(&error).unwrap_or(Errno::IO) }
}

fn read_layout(pid: i32) -> Option<Layout> {
    let maps = procfs::maps(pid)?;
    let named = |name: &str| maps.iter().find(|m| m.name == name);
    let vdso = named("[vdso]")?;
    let stack = named("[stack]")?;
    let low = maps.iter().filter(|m| m.start > layout::SLOTS && m.start < stack.start).map(|m| m.start).min();
    Some(Layout {
        vdso: vdso.start,
        vdso_size: vdso.end - vdso.start,
        stack_top: stack.end,
        stack_bottom: stack.start,
        mmap_base: low.unwrap_or(vdso.start),
    })
}

/// Where the forked child failed: its exit status.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Step {
    Cgroups = 10,
    OomScore,
    NoNewPrivileges,
    Descriptors,
    Limits,
    Execute,
}

impl Step {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Cgroups, "join its cgroups"),
        (Self::OomScore, "set its oom_score_adj"),
        (Self::NoNewPrivileges, "set no_new_privs"),
        (Self::Descriptors, "arrange its descriptors"),
        (Self::Limits, "set its resource limits"),
        (Self::Execute, "execute the stub's program"),
    ];

    fn of_status(status: Option<i32>) -> &'static str {
        let failed = Self::ALL.iter().find(|(step, _)| Some(*step as i32) == status);
        failed.map_or("map its memory and set its signals", |(_, action)| action)
    }
}

/// What the forked child does before it becomes the zygote, prepared so that it needs no memory.
struct Child {
    setup: ZygoteSetup,
    oom_score_adj: Option<String>,
    image: Option<OwnedFd>,
    file: OwnedFd,
    socket: OwnedFd,
    name: CString,
}

/// Bytes; the child makes a few system calls.
const CHILD_STACK: usize = 64 << 10;

extern "C" fn run_child(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `Child::spawn` passes itself, and waits until this process has executed or ended.
    unsafe { &*child.cast::<Child>() }.run()
}

impl Child {
    fn prepare(
        setup: ZygoteSetup,
        image: Option<OwnedFd>,
        file: OwnedFd,
        socket: OwnedFd,
    ) -> Result<Self, Error> {
        // Out of the way of the numbers that dup2 is going to fill.
        let above = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, SOCKET_FD + 1).map_err(Error::host("copy a descriptor"))
        };
        let socket = above(socket.as_fd())?;
        let file = above(file.as_fd())?;
        let oom_score_adj = setup.oom_score_adj.map(|adjust| adjust.to_string());
        Ok(Self { setup, oom_score_adj, image, file, socket, name: CString::from(c"stub") })
    }

    /// Starts the child in this process's memory, as vfork does: a copy would be thrown away at its exec. Its pid, once it
    /// has executed the zygote or ended.
    fn spawn(&self) -> Result<i32, Errno> {
        let mut stack = vec![0u128; CHILD_STACK / size_of::<u128>()];
        // SAFETY: 1. the stack is aligned to 16 bytes, grows down from its end, and outlives the child's use of it, since
        // CLONE_VFORK holds this thread until the child has executed or ended; 2. this thread is the process's only one (the
        // caller's duty, documented at `Platform::start`), so nothing else uses its memory meanwhile, and the child may do what
        // this thread may; 3. the child has descriptors and signal handlers of its own (no CLONE_FILES, no CLONE_SIGHAND).
        let pid = unsafe {
            libc::clone(
                run_child,
                stack.as_mut_ptr_range().end.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                std::ptr::from_ref(self).cast_mut().cast(),
            )
        };
        if pid < 0 { Err(host::last_errno()) } else { Ok(pid) }
    }

    /// In the child: never returns. The exit status says which step failed.
    fn run(&self) -> ! {
        let failed = self.become_zygote();
        // SAFETY: _exit takes a plain number.
        unsafe { libc::_exit(failed as i32) }
    }

    fn become_zygote(&self) -> Step {
        for cgroup in &self.setup.cgroup_procs {
            if rustix::io::write(cgroup, b"0").is_err() {
                return Step::Cgroups;
            }
        }
        if let Some(adjust) = &self.oom_score_adj
            && std::fs::write("/proc/self/oom_score_adj", adjust).is_err()
        {
            return Step::OomScore;
        }
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Step::NoNewPrivileges;
        }
        // Before the limits: the image's number may lie above the one for descriptors.
        if !self.arrange_descriptors() {
            return Step::Descriptors;
        }
        for (resource, soft, hard) in &self.setup.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            // SAFETY: `limit` is live and ours.
            if unsafe { libc::setrlimit(*resource, &raw const limit) } != 0 {
                return Step::Limits;
            }
        }
        let argv = [self.name.as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<libc::c_char>()];
        // SAFETY: path, argv and envp are live, NUL-terminated and null-terminated.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.file.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        Step::Execute
    }

    /// Leaves the socket and the image open across exec, and nothing else.
    fn arrange_descriptors(&self) -> bool {
        let dup = |fd: &OwnedFd, to: RawFd| {
            // SAFETY: plain numbers; what was open at `to` is not used any more in this process.
            unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) == to }
        };
        let image = self.image.as_ref().is_none_or(|fd| dup(fd, layout::IMAGE_FD));
        if !image || !dup(&self.socket, SOCKET_FD) {
            return false;
        }
        let inherit = |fd: RawFd| {
            // SAFETY: plain numbers.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) == 0 }
        };
        // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags.
        let all =
            unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 };
        all && inherit(SOCKET_FD) && (self.image.is_none() || inherit(layout::IMAGE_FD))
    }
}
