//! The threads that serve listeners. One that has no listener left waits for the next: a thread costs twenty host calls
//! to make and to end, and short programs come and go by the thousand.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::listener::{self, Listener};
use crate::platform::{Error, Shared};

/// Stack of a server thread, in bytes: the kernel's calls are served on it. Only touched pages cost memory.
const STACK: usize = 1 << 20;
/// Threads that wait for work, at most: what a shell's pipelines need.
const IDLE_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Servers {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    idle: usize,
    /// Listeners for idle threads that are on their way: never more than those.
    queue: VecDeque<Arc<Listener>>,
}

impl Servers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a listener to an idle thread; gives it back if there is none.
    fn hand_over(&self, listener: Arc<Listener>) -> Option<Arc<Listener>> {
        let mut state = self.lock();
        if state.idle <= state.queue.len() {
            return Some(listener);
        }
        state.queue.push_back(listener);
        self.more.notify_one();
        None
    }

    /// The next listener for a thread that has none; none if the thread is not needed.
    fn next(&self) -> Option<Arc<Listener>> {
        let mut state = self.lock();
        if state.idle >= IDLE_MAX {
            return None;
        }
        state.idle += 1;
        let wait = |state: &mut State| state.queue.is_empty();
        let mut state = self.more.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        state.queue.pop_front()
    }
}

/// Serves a listener on a thread of its own until its last process has died.
pub(crate) fn serve(listener: Arc<Listener>, shared: Arc<Shared>) -> Result<(), Error> {
    let Some(listener) = shared.servers.hand_over(listener) else { return Ok(()) };
    let builder = std::thread::Builder::new().name("listener".to_owned()).stack_size(STACK);
    let thread = builder.spawn(move || {
        let mut next = Some(listener);
        while let Some(listener) = next {
            listener::serve(&listener, &shared);
            drop(listener);
            next = shared.servers.next();
        }
    });
    thread.map(drop).map_err(|error| Error::Host {
        action: "make a server thread",
        source: Errno::from_io_error(&error).unwrap_or(Errno::AGAIN),
    })
}
