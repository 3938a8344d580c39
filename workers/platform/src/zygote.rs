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
        // SAFETY: fork takes nothing. The process has one thread (the caller's duty, documented at
        // `Platform::start`), so the child may call anything; it ends in execve or _exit.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => child.run(),
            -1 => return Err(Error::Host { action: "fork the zygote", source: host::last_errno() }),
            _ => drop(child),
        }
        let zygote = Self { socket, pid };
        if zygote.read("start").is_err() {
            return Err(Error::Zygote { action: Step::of_status(host::exit_status(pid)) });
        }
        let layout =
            read_layout(pid).ok_or(Error::Missing { what: "/proc of the sentry's pid namespace" })?;
        Ok((zygote, layout))
    }

    /// Makes a stub; its pid.
    pub(crate) fn clone_stub(&self) -> Result<i32, Error> {
        rustix::io::write(&self.socket, &[0; 8]).map_err(Error::host("ask the zygote for a stub"))?;
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
    image: Option<OwnedFd>,
    file: OwnedFd,
    socket: OwnedFd,
    name: CString,
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
        Ok(Self { setup, image, file, socket, name: CString::from(c"stub") })
    }

    /// In the child: never returns. The exit status says which step failed.
    fn run(self) -> ! {
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
        if let Some(adjust) = self.setup.oom_score_adj
            && std::fs::write("/proc/self/oom_score_adj", adjust.to_string()).is_err()
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
