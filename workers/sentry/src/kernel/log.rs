//! A log of every call on the sentry's standard error, like strace's. Off unless the launcher asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_platform::Call;

use super::Task;
use crate::call::SysResult;
use crate::syscalls;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Switches the log on.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Whether the log is on.
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Logs one execution of a call.
pub fn result(task: &Arc<Task>, call: &Call, result: &SysResult) {
    if !enabled() {
        return;
    }
    let [a, b, c, d, e, f] = call.args;
    let outcome = match result {
        Ok(value) if *value > 0xffff => format!("{value:#x}"),
        Ok(value) => value.to_string(),
        Err(fail) => format!("{fail:?}"),
    };
    let (pid, tid, name) = (task.process.pid, task.tid(), syscalls::name(call.nr));
    let text = text_argument(task, call);
    eprintln!("[{pid}.{tid}] {name}({text}{a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {f:#x}) = {outcome}");
}

/// Logs anything else.
pub fn event(text: impl FnOnce() -> String) {
    if enabled() {
        eprintln!("[sentry] {}", text());
    }
}

/// The path that the call names, if it is one of those that name one.
fn text_argument(task: &Arc<Task>, call: &Call) -> String {
    const FIRST: [u64; 12] = [2, 4, 6, 21, 59, 79, 80, 82, 83, 84, 87, 89];
    const SECOND: [u64; 9] = [257, 258, 262, 263, 264, 267, 269, 322, 439];
    /// Bytes of a path that are shown.
    const SHOWN: usize = 200;
    let address = match call.nr {
        nr if FIRST.contains(&nr) => call.args[0],
        nr if SECOND.contains(&nr) => call.args[1],
        _ => return String::new(),
    };
    let path = task.memory().read_string(address, SHOWN, crate::errno::Errno::ENAMETOOLONG);
    path.map_or_else(|_| String::new(), |path| format!("\"{}\" ", String::from_utf8_lossy(&path)))
}
