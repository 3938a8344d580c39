//! Each mechanism of the platform, with real guest programs.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_platform::layout::{self, IMAGE_FD};
use bulkhead_platform::{
    Call, Config, Fault, FileAccess, GuestThread, HostCall, Platform, Ran, Registers, ZygoteSetup,
};
use support::guest;
use support::kernel::{End, Mini, Ordinary, Policy, TEST_CALL, boot, run};

fn main() -> ExitCode {
    support::main(&[
        ("starts_a_static_program", starts_a_static_program),
        ("calls_keep_registers", calls_keep_registers),
        ("forks_and_waits", forks_and_waits),
        ("threads_begin_and_end", threads_begin_and_end),
        ("kicks_and_redirects", kicks_and_redirects),
        ("faults_arrive", faults_arrive),
        ("vfork_borrows_the_thread", vfork_borrows_the_thread),
        ("extended_state_is_read_and_written", extended_state_is_read_and_written),
        ("stops_and_tells_of_a_stub", stops_and_tells_of_a_stub),
        ("maps_files_by_the_guests_own_call", maps_files_by_the_guests_own_call),
        ("lets_go_of_what_was_mapped", lets_go_of_what_was_mapped),
        ("maps_the_public_image_natively", maps_the_public_image_natively),
        ("mediates_memory_calls", mediates_memory_calls),
        ("tells_of_a_refused_clone", tells_of_a_refused_clone),
        ("tells_of_a_child_that_never_arrives", tells_of_a_child_that_never_arrives),
        ("stubs_killed_while_they_wait_cost_no_process", stubs_killed_while_they_wait_cost_no_process),
        ("tells_of_a_failed_start", tells_of_a_failed_start),
        ("tells_which_step_of_the_zygote_failed", tells_which_step_of_the_zygote_failed),
        ("runs_a_static_libc_program", runs_a_static_libc_program),
        ("runs_a_dynamic_program", runs_a_dynamic_program),
    ])
}

fn starts_a_static_program() {
    let program = guest::program("hello");
    let (end, printed) = run(Config::default(), Ordinary, &program, &["world"]);
    assert_eq!((end, printed.as_str()), (End::Exited(3), "hello world\n"));
}

/// Answers the test call with 42, tgkill with 43, pause through all registers, kill with awkward values.
struct Answers;

impl Policy for Answers {
    fn call(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr == TEST_CALL;
        if ours {
            thread.ret(42);
        }
        ours
    }

    fn trapped(&self, _k: &Mini, thread: &Arc<GuestThread>, call: &Call, registers: &Registers) -> bool {
        assert_eq!((registers.rdi, call.args[0]), (call.args[0], registers.rdi));
        match call.nr as i64 {
            libc::SYS_tgkill => thread.ret(43),
            libc::SYS_pause => thread.resume(&Registers { rax: 44, r10: 1, ..*registers }),
            libc::SYS_kill if call.args[0] == 1 => thread.ret(0xb01d_ab1e_5700_0001_u64 as i64),
            libc::SYS_kill => thread.ret(-512),
            _ => return false,
        }
        true
    }
}

fn calls_keep_registers() {
    let program = guest::program("calls");
    let (end, printed) = run(Config::default(), Answers, &program, &[]);
    assert_eq!(printed, "plain 42\ntrapped 43\nresumed 44\norder 1\nrestart -512\n");
    assert_eq!(end, End::Exited(0));
}

fn forks_and_waits() {
    let program = guest::program("forks");
    let (end, printed) = run(Config::default(), Ordinary, &program, &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(6), ""));
}

/// Answers the test call with 1.
struct One;

impl Policy for One {
    fn call(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr == TEST_CALL;
        if ours {
            thread.ret(1);
        }
        ours
    }
}

fn threads_begin_and_end() {
    let program = guest::program("threads");
    let (end, printed) = run(Config::default(), One, &program, &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "sum 160000\n"));
}

/// Kicks the caller of the test call until it makes the next one.
#[derive(Default)]
struct Interrupter {
    mode: Arc<AtomicU64>,
    flag: AtomicU64,
    interrupted: AtomicU64,
}

impl Interrupter {
    fn kick_until_next_call(&self, thread: &Arc<GuestThread>) {
        let (mode, thread) = (self.mode.clone(), thread.clone());
        let stamp = mode.load(Ordering::SeqCst);
        std::thread::spawn(move || {
            while mode.load(Ordering::SeqCst) == stamp {
                std::thread::sleep(Duration::from_millis(5));
                thread.kick();
            }
        });
    }
}

impl Policy for Interrupter {
    fn call(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        if call.nr != TEST_CALL {
            return false;
        }
        // The upper half counts the calls, so that each kicker knows when its own is over.
        let stamp = (self.mode.load(Ordering::SeqCst) >> 32) + 1;
        self.mode.store(stamp << 32 | call.args[0], Ordering::SeqCst);
        match call.args[0] {
            mode @ (1 | 2) => {
                if mode == 1 {
                    self.flag.store(call.args[1], Ordering::SeqCst);
                }
                self.kick_until_next_call(thread);
                thread.ret(0);
            }
            3 => {
                let thread = thread.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(10));
                    thread.redirect();
                });
            }
            _ => thread.redirect(),
        }
        true
    }

    fn interrupted(
        &self,
        _k: &Mini,
        thread: &Arc<GuestThread>,
        regs: &Registers,
        redirected: Option<Call>,
    ) -> bool {
        self.interrupted.fetch_add(1, Ordering::SeqCst);
        let mut regs = *regs;
        match self.mode.load(Ordering::SeqCst) as u32 {
            1 => thread.memory().write(self.flag.load(Ordering::SeqCst), &[1]).expect("the flag"),
            2 if regs.rax == libc::SYS_futex as u64 => {
                let mut code = [0; 2];
                thread.memory().read(regs.rip, &mut code).expect("code");
                assert_eq!(code, [0x0f, 0x05]);
                regs.rip += 2;
                regs.rax = -i64::from(libc::EINTR) as u64;
            }
            mode @ (3 | 4) if redirected.is_some() => {
                let call = redirected.expect("checked");
                assert_eq!((call.nr, regs.rip, regs.rax), (TEST_CALL, call.ip, TEST_CALL));
                regs.rax = if mode == 3 { 777 } else { 1234 };
            }
            _ => {}
        }
        thread.resume(&regs);
        true
    }
}

fn kicks_and_redirects() {
    let program = guest::program("interrupts");
    let (end, printed) = run(Config::default(), Interrupter::default(), &program, &[]);
    assert_eq!(printed, "computing\nfutex -4\ntimed futex -4\nparked 777\n");
    assert_eq!(end, End::Exited(0));
}

/// Skips instructions that fault.
struct Skipper {
    seen: Arc<Mutex<Vec<Fault>>>,
}

impl Policy for Skipper {
    fn fault(&self, _kernel: &Mini, thread: &Arc<GuestThread>, fault: &Fault, regs: &Registers) -> bool {
        self.seen.lock().expect("faults").push(*fault);
        let skip = match fault.signo {
            libc::SIGSEGV if fault.addr == 0xdead_0000 => 3,
            libc::SIGILL => 2,
            libc::SIGTRAP => 0,
            _ => return false,
        };
        thread.resume(&Registers { rip: regs.rip + skip, rbx: 99, ..*regs });
        true
    }
}

fn faults_arrive() {
    let program = guest::program("faults");
    let seen: Arc<Mutex<Vec<Fault>>> = Arc::default();
    let (end, printed) = run(Config::default(), Skipper { seen: seen.clone() }, &program, &[]);
    assert_eq!(printed, "rbx 99\nafter ud2\nafter int3\n");
    assert_eq!(end, End::Signaled(libc::SIGSEGV));
    let seen = seen.lock().expect("faults");
    let first = seen[0];
    assert_eq!((first.cr2, first.trapno, first.code), (0xdead_0000, 14, 1));
    let signals: Vec<i32> = seen.iter().map(|fault| fault.signo).collect();
    assert_eq!(signals, [libc::SIGSEGV, libc::SIGILL, libc::SIGTRAP, libc::SIGSEGV]);
    assert_eq!(seen[3].addr, 8);
}

fn vfork_borrows_the_thread() {
    let program = guest::program("vfork");
    let hello = guest::program("hello");
    let (end, printed) = run(Config::default(), Ordinary, &program, &[&hello.display().to_string()]);
    assert_eq!((end, printed.as_str()), (End::Exited(3), "shared 50\nhello vforked\n"));
}

fn tells_which_step_of_the_zygote_failed() {
    let start = |zygote| Platform::start(Config { zygote, ..Config::default() });
    let said = |zygote| start(zygote).err().map(|error| error.to_string()).unwrap_or_default();
    let no_limit = ZygoteSetup { rlimits: vec![(9999, 0, 0)], ..ZygoteSetup::default() };
    assert_eq!(said(no_limit), "the zygote, or a stub of it, could not set its resource limits");
    let no_cgroup = File::open("/dev/null").expect("/dev/null");
    let no_cgroup = ZygoteSetup { cgroup_procs: vec![no_cgroup.into()], ..ZygoteSetup::default() };
    assert_eq!(said(no_cgroup), "the zygote, or a stub of it, could not join its cgroups");
    // As a sandbox sets it up; stubs need few descriptors.
    let rlimits = vec![(libc::RLIMIT_NOFILE, 64, 64), (libc::RLIMIT_CORE, 1, 1)];
    let image = File::open(guest::program("hello")).expect("a file");
    let zygote = ZygoteSetup { oom_score_adj: Some(1000), rlimits, ..ZygoteSetup::default() };
    let config = Config { zygote, public_image: Some(image.into()), ..Config::default() };
    let (end, _) = run(config, Ordinary, &guest::program("hello"), &["world"]);
    assert_eq!(end, End::Exited(3));
}

const LIBC_PRINTS: &str = "child 11\ntotal 330000 sum 810 mine 11 big 1 status 5\n";

fn runs_a_static_libc_program() {
    let program = guest::program("libc-static");
    let (end, printed) = run(Config::default(), Ordinary, &program, &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), LIBC_PRINTS));
}

fn runs_a_dynamic_program() {
    let program = guest::program("libc-dynamic");
    let (end, printed) = run(Config::default(), Ordinary, &program, &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), LIBC_PRINTS));
}

/// Changes xmm3 in a trap.
struct VectorChanger;

impl Policy for VectorChanger {
    fn trapped(&self, _k: &Mini, thread: &Arc<GuestThread>, call: &Call, _registers: &Registers) -> bool {
        let ours = call.nr == libc::SYS_tgkill as u64;
        if ours {
            // FXSAVE: xmm0 is at 160, 16 bytes each.
            const XMM3: usize = 160 + 3 * 16;
            let mut state = thread.extended_state().expect("a state");
            assert!(state.len() >= 512);
            assert_eq!(state[XMM3..XMM3 + 8], 0x1111_2222_3333_4444_u64.to_le_bytes());
            state[XMM3..XMM3 + 8].copy_from_slice(&0x5555_6666_7777_8888_u64.to_le_bytes());
            thread.set_extended_state(&state).expect("the same length");
            let longer = vec![0; state.len() + 1];
            assert!(thread.set_extended_state(&longer).is_err());
            thread.ret(0);
        }
        ours
    }
}

fn extended_state_is_read_and_written() {
    let (end, printed) = run(Config::default(), VectorChanger, &guest::program("xstate"), &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "xmm3 1\n"));
}

/// Notes the words of the test call.
struct Noter;

impl Policy for Noter {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr == TEST_CALL;
        if ours {
            kernel.note(format!("{} {}", call.args[0], call.args[1]));
            kernel.note("called");
            thread.ret(0);
        }
        ours
    }
}

fn stops_and_tells_of_a_stub() {
    let kernel = boot(Config::default(), Noter);
    let pid = kernel.spawn(&guest::program("counter"), &[]);
    kernel.wait_for_note("called");
    let note = kernel.notes.lock().expect("notes")[0].clone();
    let (counter, code) = note.split_once(' ').expect("two words");
    let (counter, code): (u64, u64) = (counter.parse().expect("one"), code.parse().expect("two"));
    let stub = kernel.stub_of(pid);
    let read = || {
        let mut bytes = [0; 8];
        stub.memory().read(counter, &mut bytes).expect("the counter");
        u64::from_le_bytes(bytes)
    };
    stub.stop();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", stub.pid())).expect("stat");
    while !state().contains(") T ") {
        std::thread::yield_now();
    }
    let stopped = read();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(read(), stopped);
    stub.cont();
    while read() == stopped {
        std::thread::yield_now();
    }
    let usage = stub.usage().expect("usage");
    assert!(usage.resident > 4096 && usage.peak_resident >= usage.resident && usage.cpu_ns > 0, "{usage:?}");
    let maps = stub.maps().expect("maps");
    assert!(maps.iter().any(|m| m.start <= code && code < m.end && m.permissions == *b"r-xp"), "{maps:?}");
    assert!(maps.iter().any(|m| m.name == "[vdso]" && m.start == kernel.platform().layout().vdso));
    assert!(maps.iter().all(|m| m.end <= layout::STUB_TEXT || m.start >= layout::SLOTS + layout::SLOTS_SIZE));
    // Neither the listener, nor the zygote's socket, nor anything else of the sentry's is open in it.
    let open = std::fs::read_dir(format!("/proc/{}/fd", stub.pid())).expect("fd").count();
    assert_eq!(open, 0);
    // Memory: whole pages, partial ranges, nothing, and what lies beyond user addresses.
    let mut bytes = vec![0; 3 * 4096];
    let text = maps.iter().find(|m| m.start <= code && code < m.end).expect("checked");
    let beyond = text.end - 100;
    let next = maps.iter().any(|m| m.start == text.end && m.permissions[0] == b'r');
    if !next {
        assert_eq!(stub.memory().read_some(beyond, &mut bytes), 100);
    }
    assert_eq!(stub.memory().read_some(u64::MAX - 10, &mut bytes), 0);
    assert_eq!(stub.memory().write_some(text.start, b"x"), 0, "protections hold");
    assert_eq!(stub.memory().read_some(0, &mut bytes), 0);
    stub.kill();
    assert_eq!(kernel.wait(pid), End::Signaled(libc::SIGKILL));
    assert_eq!(stub.memory().read_some(code, &mut bytes), 0, "nothing of it is left");
}

/// Maps an offered file writable.
struct Sharer(File);

impl Policy for Sharer {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        match call.nr as i64 {
            libc::SYS_mmap => {
                let file = kernel.file(call.args[4]).expect("the offered file");
                thread.map_file(file.as_fd(), FileAccess::ReadWrite).expect("a mapping");
            }
            _ if call.nr == TEST_CALL => {
                thread.ret(kernel.offer(self.0.try_clone().expect("a descriptor")) as i64);
            }
            _ => return false,
        }
        true
    }
}

fn maps_files_by_the_guests_own_call() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4096).expect("a page");
    let copy = file.try_clone().expect("a descriptor");
    let (end, printed) = run(Config::default(), Sharer(copy), &guest::program("share"), &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "shared 42\n"));
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("the page");
    assert_eq!(bytes[4], 42);
}

/// Counts what is open in a stub, before and after the guest closed a descriptor that it has mapped.
struct Leftovers(File);

impl Policy for Leftovers {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let [what, fd, ..] = call.args;
        match (call.nr as i64, what) {
            (libc::SYS_mmap, _) => {
                let file = kernel.file(call.args[4]).expect("the offered file");
                thread.map_file(file.as_fd(), FileAccess::ReadWrite).expect("a mapping");
                return true;
            }
            _ if call.nr != TEST_CALL => return false,
            (_, 1) => thread.ret(kernel.offer(self.0.try_clone().expect("a descriptor")) as i64),
            (_, what) => {
                if what == 3 {
                    thread.closed(fd as i32, fd as i32);
                }
                let open =
                    std::fs::read_dir(format!("/proc/{}/fd", thread.stub().pid())).expect("its descriptors");
                let files = open.flatten().filter(|entry| {
                    let link = std::fs::read_link(entry.path()).unwrap_or_default();
                    !link.to_string_lossy().starts_with("/memfd:empty")
                });
                thread.ret(files.count() as i64);
            }
        }
        true
    }
}

fn lets_go_of_what_was_mapped() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4096).expect("a page");
    let copy = file.try_clone().expect("a descriptor");
    let (end, printed) = run(Config::default(), Leftovers(copy), &guest::program("leftover"), &[]);
    assert_eq!(printed, "open 1\ninherited 1\nafter the child's close 0\nafter a close 0\n");
    assert_eq!(end, End::Exited(0));
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("the page");
    assert_eq!(bytes, [7, 0, 0, 0, 0, 0, 0, 0], "the mappings outlive it");
}

/// Maps from the public image.
struct ImageMapper;

impl Policy for ImageMapper {
    fn trapped(&self, _k: &Mini, thread: &Arc<GuestThread>, call: &Call, registers: &Registers) -> bool {
        let ours = call.nr == libc::SYS_mmap as u64;
        if ours {
            let [address, length, prot, flags, _, offset] = call.args;
            let map = HostCall::mmap(address, length, prot as i32, flags as i32, IMAGE_FD, offset);
            thread.run_and_return(&[map], registers).expect("one command");
        }
        ours
    }
}

fn maps_the_public_image_natively() {
    let image = tempfile::NamedTempFile::new().expect("a file");
    let mut bytes = vec![b'P'; 8192];
    bytes[4096..].fill(b'S');
    std::fs::write(image.path(), &bytes).expect("to write");
    let fd = File::open(image.path()).expect("the image");
    let config = Config { public_image: Some(fd.into()), ..Config::default() };
    let (end, printed) = run(config, ImageMapper, &guest::program("image"), &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "second page 1\nmprotect 0\n"));
    assert_eq!(std::fs::read(image.path()).expect("the image"), bytes, "nobody writes to it");
}

fn mediates_memory_calls() {
    let config = Config { mediated_mm: true, ..Config::default() };
    let kernel = boot(config, One);
    let pid = kernel.spawn(&guest::program("threads"), &[]);
    assert_eq!(kernel.wait(pid), End::Exited(0));
    assert_eq!(kernel.printed(), "sum 160000\n");
    assert!(kernel.count(libc::SYS_futex) > 0);
    for name in ["libc-static", "libc-dynamic"] {
        let pid = kernel.spawn(&guest::program(name), &[]);
        assert_eq!(kernel.wait(pid), End::Exited(0), "{name}: {}", kernel.printed());
    }
    assert!(kernel.count(libc::SYS_mmap) > 0 && kernel.count(libc::SYS_brk) > 0);
}

fn tells_of_a_refused_clone() {
    let Some(cgroup) = support::pids_cgroup() else {
        println!("skipped: tells_of_a_refused_clone: no pids cgroup can be made here");
        return;
    };
    // The zygote, a guest and the warm stubs behind it, and some children.
    std::fs::write(cgroup.join("pids.max"), "9").expect("pids.max");
    let procs =
        std::fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).expect("cgroup.procs");
    let zygote = ZygoteSetup { cgroup_procs: vec![procs.into()], ..ZygoteSetup::default() };
    let kernel = boot(Config { zygote, ..Config::default() }, Ordinary);
    let pid = kernel.spawn(&guest::program("refused"), &[]);
    assert_eq!(kernel.wait(pid), End::Exited(0), "{}", kernel.printed());
    assert_eq!(kernel.printed(), format!("fork -{}\n", libc::EAGAIN));
    assert!(kernel.noted(&format!("ran 0 commands, then -{}", libc::EAGAIN)));
    assert!(kernel.processes_ever() < 9);
}

fn tells_of_a_child_that_never_arrives() {
    let (end, printed) = run(Config::default(), Ordinary, &guest::program("stillborn"), &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "waited 1\nstatus 9\n"));
}

/// The host kills waiting stubs all the time, warm ones and such that are still being made, while a guest forks and
/// programs are started: each fork and each start comes to its proper end.
fn stubs_killed_while_they_wait_cost_no_process() {
    const ROUNDS: usize = 12;
    const STARTS: usize = 4;
    let kernel = boot(Config { warm: 4, ..Config::default() }, Ordinary);
    let over = Arc::new(AtomicBool::new(false));
    let killer = {
        let (kernel, over) = (kernel.clone(), over.clone());
        std::thread::spawn(move || {
            let mut killed = 0;
            while !over.load(Ordering::Relaxed) {
                kernel.platform().expect_program();
                killed += usize::from(kernel.platform().kill_waiting());
                // Uneven, so that a stub is caught at every stage of its making.
                std::thread::sleep(Duration::from_micros(300 + (killed as u64 * 997) % 3000));
            }
            killed
        })
    };
    let mut printed = String::new();
    for _ in 0..ROUNDS {
        let forking = kernel.spawn(&guest::program("forks"), &[]);
        for _ in 0..STARTS {
            let pid = kernel.spawn(&guest::program("hello"), &["again"]);
            assert_eq!(kernel.wait(pid), End::Exited(3));
            printed.push_str("hello again\n");
        }
        assert_eq!(kernel.wait(forking), End::Exited(6), "{}", kernel.printed());
    }
    over.store(true, Ordering::Relaxed);
    let killed = killer.join().expect("the killer");
    assert_eq!(kernel.printed(), printed);
    assert!(killed > 2 * ROUNDS, "only {killed} stubs were killed");
}

/// Notes what a start came to.
struct StartNoter;

impl Policy for StartNoter {
    fn ran(&self, kernel: &Mini, thread: &Arc<GuestThread>, ran: &Ran) -> bool {
        kernel.note(format!("{} {:?}", ran.succeeded, ran.result.map_err(|error| error.raw_os_error())));
        thread.stub().kill();
        true
    }
}

fn tells_of_a_failed_start() {
    let kernel = boot(Config::default(), StartNoter);
    let warm = kernel.platform().warm_stub().expect("a warm stub");
    let commands =
        [HostCall::munmap(0x10_0000, 4096), HostCall::munmap(1, 1), HostCall::munmap(0x10_0000, 4096)];
    warm.start(&commands, &Registers::default()).expect("a short list");
    kernel.wait_for_note(&format!("1 Err({})", libc::EINVAL));
    let warm = kernel.platform().warm_stub().expect("a warm stub");
    let many = vec![HostCall::munmap(0x10_0000, 4096); layout::MAX_COMMANDS + 1];
    assert!(warm.start(&many, &Registers::default()).is_err());
}
