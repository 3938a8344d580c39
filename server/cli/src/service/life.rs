//! How a supervised process lives: as long as the pipe on its standard input, and until SIGTERM or SIGINT.

use std::io::{Read, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// The status of a process whose supervisor has gone.
const ORPHANED: i32 = 3;

/// With `supervised`, ends this process when its supervisor has gone, however that ended: the supervisor holds the
/// other end of the pipe. A thread of its own, which no busy runtime holds up.
pub(super) fn end_with_supervisor(supervised: bool) -> Result<(), Failure> {
    if !supervised {
        return Ok(());
    }
    let wait = || {
        let mut stdin = std::io::stdin().lock();
        let mut byte = [0];
        // Nothing is ever written; an error is as final as the end.
        while matches!(stdin.read(&mut byte), Ok(1)) {}
        tracing::error!("the supervisor has gone");
        std::process::exit(ORPHANED);
    };
    let spawned = std::thread::Builder::new().name("supervisor".into()).spawn(wait);
    spawned.map(|_| ()).map_err(|e| Failure::of("can't start a thread", &e))
}

/// Tells the supervisor, on standard output, that this process does its work now.
pub(super) fn tell_ready(supervised: bool, what: &str) {
    if supervised {
        // A supervisor that does not read has gone, which the other pipe tells.
        let _ = writeln!(std::io::stdout(), "ready {what}");
    } else {
        tracing::info!("ready: {what}");
    }
}

/// Returns at SIGTERM or SIGINT.
pub(super) async fn told_to_stop() -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::of("can't wait for signals", &e));
    let mut terminations = listen(SignalKind::terminate())?;
    let mut interrupts = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminations.recv() => {}
        _ = interrupts.recv() => {}
    }
    Ok(())
}

/// The exit code of a service that ended in order.
pub(super) const ENDED: ExitCode = ExitCode::SUCCESS;
