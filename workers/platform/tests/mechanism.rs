//! Each mechanism of the platform, with real guest programs.

mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_platform::{Call, Config, Fault, GuestThread, Registers};
use support::guest;
use support::kernel::{End, Mini, Ordinary, Policy, TEST_CALL, run};

fn main() -> ExitCode {
    support::main(&[
        ("starts_a_static_program", starts_a_static_program),
        ("calls_keep_registers", calls_keep_registers),
        ("forks_and_waits", forks_and_waits),
        ("threads_begin_and_end", threads_begin_and_end),
        ("kicks_and_redirects", kicks_and_redirects),
        ("faults_arrive", faults_arrive),
        ("vfork_borrows_the_thread", vfork_borrows_the_thread),
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
