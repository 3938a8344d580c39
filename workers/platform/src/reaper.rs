//! Reaps every child of the sentry and tells the kernel which stubs are gone.

use std::sync::{Arc, PoisonError};

use rustix::io::Errno;

use crate::ExitStatus;
use crate::host;
use crate::platform::{Error, Shared};
use crate::processes::Ended;
use crate::stub::Stub;

pub(crate) fn spawn(shared: Arc<Shared>) -> Result<(), Error> {
    let builder = std::thread::Builder::new().name("reaper".to_owned());
    let thread = builder.spawn(move || {
        loop {
            match host::wait_ended() {
                Ok(ended) => reap(&shared, &ended),
                Err(Errno::INTR) => {}
                // No child is left, not even the zygote: the sandbox is ending.
                Err(_) => return,
            }
        }
    });
    thread.map(drop).map_err(|error| Error::Host {
        action: "make the reaper's thread",
        source: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
    })
}

/// Until `host::reap` the pid stays taken; before it, everyone who could use it is kept away.
fn reap(shared: &Shared, ended: &host::Ended) {
    let zygote = shared.zygote.pid();
    if ended.pid == zygote {
        // Whoever waits for a stub waits in vain.
        shared.zygote.hang_up();
    }
    match shared.processes.ended(ended.pid, zygote) {
        Ended::Stub(stub) => bury(shared, &stub, ended),
        Ended::Nobody => {}
        Ended::Newborn => {
            if let Some(token) = shared.births.lose(ended.pid) {
                shared.kernel().stillborn(token);
            }
        }
    }
    if shared.births.orphans() && !shared.processes.any_unclaimed(zygote) {
        for token in shared.births.lose_orphans() {
            shared.kernel().stillborn(token);
        }
    }
}

fn bury(shared: &Shared, stub: &Arc<Stub>, ended: &host::Ended) {
    {
        let mut threads = shared.threads.write().unwrap_or_else(PoisonError::into_inner);
        for thread in stub.end().iter().filter_map(|tid| threads.remove(tid)) {
            thread.over();
        }
    }
    stub.set_spent(host::reap(ended.pid));
    for token in shared.births.lose_parent(stub) {
        shared.kernel().stillborn(token);
    }
    let announced = *stub.announced();
    if announced {
        let status =
            if ended.killed { ExitStatus::Killed(ended.status) } else { ExitStatus::Exited(ended.status) };
        shared.kernel().gone(stub, status);
    }
}
