//! Prints what the platform's mechanisms cost on this machine, in nanoseconds.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use bulkhead_platform::{Call, Config, GuestThread, Registers};
use support::kernel::{End, Mini, Policy, TEST_CALL, run};

struct Costs;

impl Policy for Costs {
    fn call(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        if call.nr != TEST_CALL {
            return false;
        }
        match call.args[0] {
            1 => {
                let mut bytes = [0; 40];
                thread.ret(thread.memory().read_some(call.args[1], &mut bytes) as i64);
            }
            2 => thread.redirect(),
            _ => thread.ret(0),
        }
        true
    }

    fn trapped(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call, registers: &Registers) -> bool {
        match call.nr as i64 {
            libc::SYS_tgkill => thread.ret(0),
            libc::SYS_pause => thread.resume(&Registers { rax: 0, r10: registers.r10 + 1, ..*registers }),
            _ => return false,
        }
        true
    }
}

fn costs() {
    let program = support::guest::program("cost");
    let (end, printed) = run(Config::default(), Costs, &program, &[]);
    assert_eq!(end, End::Exited(0));
    // The harness shows only what failing tests print, so the figures go to a file that the parent reads.
    std::fs::write(std::env::var("COSTS").expect("the parent's file"), printed).expect("to write");
}

fn main() -> ExitCode {
    let file = tempfile::NamedTempFile::new().expect("a file");
    if std::env::var_os("COSTS").is_none() {
        // SAFETY: this process has a single thread.
        unsafe { std::env::set_var("COSTS", file.path()) };
    }
    let code = support::main(&[("costs", costs)]);
    print!("{}", std::fs::read_to_string(file.path()).unwrap_or_default());
    code
}
