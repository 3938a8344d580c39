//! What runs behind the walls: prints what it sees, one fact per line, as `key=value`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_jail::seccomp::{self, Role};
use bulkhead_jail::{JailConfig, rlimit::Rlimits};

/// First descriptor that the launcher passes; the group files follow.
pub(crate) const FIRST_GROUP_FD: i32 = 3;

pub(crate) fn main(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["look", uid, scratch, groups] => {
            jail(uid, Some(scratch), groups);
            look();
        }
        ["refuse", uid] => {
            let error = bulkhead_jail::enter(config(uid, None, Vec::new())).expect_err("must be refused");
            println!("step={:?}", error.step);
        }
        ["badgroup"] => {
            let file = fs::File::open("/dev/null").expect("opens");
            let error = bulkhead_jail::enter(config("5", None, vec![file.into()])).expect_err("not writable");
            println!("step={:?}", error.step);
        }
        ["hog", groups] => {
            join(groups);
            hog();
        }
        ["fork", groups] => {
            join(groups);
            fork_until_refused();
        }
        ["sleep", groups] => {
            join(groups);
            println!("pid={}", std::process::id());
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
        ["filtered", what] => filtered(what),
        ["narrowed", role, what] => narrowed(role, what),
        ["descriptors"] => descriptors(),
        ["launcher"] => launcher(),
        other => panic!("unknown mode {other:?}"),
    }
}

fn group_files(count: &str) -> Vec<OwnedFd> {
    let count: i32 = count.parse().expect("a number");
    // SAFETY: 1. the launcher passed exactly these descriptors, and nothing else has taken them.
    (0..count).map(|i| unsafe { OwnedFd::from_raw_fd(FIRST_GROUP_FD + i) }).collect()
}

fn join(count: &str) {
    for fd in group_files(count) {
        fs::File::from(fd).write_all(b"0").expect("joins");
    }
}

fn config(uid: &str, scratch: Option<&str>, join: Vec<OwnedFd>) -> JailConfig {
    let uid = uid.parse().expect("a number");
    JailConfig { join, uid, gid: uid, scratch: scratch.map(PathBuf::from), rlimits: Rlimits::default() }
}

fn jail(uid: &str, scratch: Option<&str>, groups: &str) {
    bulkhead_jail::enter(config(uid, scratch, group_files(groups))).expect("enters");
}

fn look() {
    println!("pid={}", std::process::id());
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Groups"] {
        let status = fs::read_to_string("/proc/self/status").expect("own status");
        let line =
            status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap_or("absent").trim();
        println!("{key}={line}");
    }
    let words = |path: &str| {
        fs::read_to_string(path).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    println!("uid_map={}", words("/proc/self/uid_map"));
    println!("gid_map={}", words("/proc/self/gid_map"));
    let mut root: Vec<_> = fs::read_dir("/")
        .expect("root")
        .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
        .collect();
    root.sort();
    println!("root={}", root.join(","));
    println!("up={}", fs::read_dir("/../../..").expect("root").count());
    println!("root_writable={}", fs::write("/new", "x").is_ok());
    println!("scratch_writable={}", fs::write("/scratch/made-inside", "x").is_ok());
    let escaped = std::path::Path::new("/scratch/../../etc/passwd").exists();
    println!("escaped={escaped}");
    let processes = fs::read_dir("/proc")
        .expect("proc")
        .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok()))
        .count();
    println!("processes={processes}");
    let devices = fs::read_to_string("/proc/net/dev").expect("net").lines().skip(2).count();
    println!("devices={devices}");
    println!("network={:?}", TcpStream::connect("127.0.0.1:1").expect_err("no network").kind());
    println!("mounts={}", fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().count());
    println!("core={:?}", rustix::process::getrlimit(rustix::process::Resource::Core).maximum);
    let regained = rustix::thread::set_thread_res_uid(
        rustix::process::Uid::ROOT,
        rustix::process::Uid::ROOT,
        rustix::process::Uid::ROOT,
    );
    println!("uid_again={}", regained.is_ok() && fs::read_to_string("/proc/1/environ").is_err());
    println!("sysrq={}", fs::write("/proc/sysrq-trigger", "h").is_ok());
    println!("hostname_set={}", rustix::system::sethostname(b"x").is_ok());
    println!(
        "mounted={}",
        rustix::mount::mount("x", "/scratch", "tmpfs", rustix::mount::MountFlags::empty(), None).is_ok()
    );
}

fn hog() {
    let mut kept = Vec::new();
    loop {
        // Written, so that it is memory; kept, so that it stays.
        kept.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

fn fork_until_refused() {
    let mut made = 0;
    // SAFETY: 1. the children only exit.
    unsafe {
        loop {
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                -1 => break,
                _ => made += 1,
            }
            assert!(made < 10_000, "nothing stops it");
        }
    }
    println!("made={made}");
    println!("errno={}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
}

fn filtered(what: &str) {
    install(Role::Sentry);
    attempt(what);
}

fn install(role: Role) {
    rustix::thread::set_no_new_privs(true).expect("no_new_privs");
    seccomp::install(role).expect("installs");
    println!("installed=true");
    std::io::stdout().flush().expect("flushes");
}

/// As a VMM does: its first thread under the process's list, another one under its own.
fn narrowed(role: &str, what: &str) {
    // Opened before, as the launcher does for a VMM.
    let kvm = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .or_else(|_| fs::File::open("/dev/null"));
    let kvm = std::os::fd::AsRawFd::as_raw_fd(&kvm.expect("opens"));
    install(Role::Vmm);
    let role = match role {
        "process" => None,
        "vcpu" => Some(Role::VmmVcpu),
        "devices" => Some(Role::VmmDevices),
        other => panic!("unknown role {other}"),
    };
    let thread = std::thread::spawn({
        let what = what.to_owned();
        move || {
            if let Some(role) = role {
                seccomp::narrow(role).expect("narrows");
            }
            let ioctl = |request: libc::Ioctl| {
                // SAFETY: 1. neither call has an argument that points anywhere.
                unsafe { libc::ioctl(kvm, request, 0) };
            };
            match what.as_str() {
                "nothing" => {}
                // KVM_RUN of a descriptor that is no processor: an error of the kernel's, after the filter.
                "run" => ioctl(0xae80),
                "create-vm" => ioctl(0xae01),
                "create-vcpu" => ioctl(0xae41),
                "widen" => drop(seccomp::narrow(Role::Vmm)),
                other => attempt(other),
            }
        }
    });
    thread.join().expect("joins");
    println!("survived=true");
}

fn attempt(what: &str) {
    match what {
        "thread" => {
            let sum = std::thread::spawn(|| (1..=10).sum::<i32>()).join().expect("joins");
            println!("thread={sum}");
        }
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "file" => drop(fs::File::open("/proc/self/stat").expect("opens")),
        "exec" => drop(std::process::Command::new("/bin/true").status()),
        "executable" => {
            // SAFETY: 1. an anonymous mapping of one page that nothing uses.
            unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
        }
        "tiocsti" => {
            // SAFETY: 1. TIOCSTI reads one byte.
            unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
        }
        other => panic!("unknown call {other}"),
    }
    println!("survived=true");
}

fn descriptors() {
    let mut open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("proc")
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    println!("open={open:?}");
    let mut text = String::new();
    // SAFETY: 1. the launcher passed descriptor 7.
    fs::File::from(unsafe { OwnedFd::from_raw_fd(7) }).read_to_string(&mut text).expect("reads");
    println!("text={text}");
    println!("args={:?}", std::env::args().collect::<Vec<_>>().len());
    println!("env={:?}", std::env::vars().collect::<Vec<_>>());
}

/// A launcher that is going to be killed: starts a sleeper in a pid namespace of its own and waits.
fn launcher() {
    let child = crate::cases::start(&["sleep", "0"], &[], true).expect("starts");
    println!("child={}", child.child.pid());
    std::io::stdout().flush().expect("flushes");
    std::thread::sleep(std::time::Duration::from_secs(600));
}
