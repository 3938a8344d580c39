//! Sandboxes made before their jobs are known, so that a job starts at once.
//!
//! A [`Pool`] is a backend around another one. Whoever creates a sandbox gets a warm one with its job's limits set, or waits
//! for a new one when none is warm; a sandbox is handed out once and never comes back. One thread keeps as many warm as were
//! lately wanted at once, replaces those that died, and gives all of them up when the host's memory is short.

mod demand;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_sandbox::{Backend, CreateRequest, Sandbox, SandboxError, chain};
use bulkhead_types::SandboxOverhead;

use demand::Demand;

/// Held when nothing was wanted lately: the next job, and one that follows at once.
const LEAST: usize = 2;
/// How often the warm ones are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The job that just got a sandbox goes first: the next one is made this long after, if another is warm still.
const AFTER_A_JOB: Duration = Duration::from_millis(10);
/// After a sandbox could not be made.
const AFTER_A_FAILURE: Duration = Duration::from_secs(5);

/// How much a pool holds.
pub struct PoolOptions {
    /// Most warm sandboxes at once; 0 holds none.
    pub most: usize,
    /// Whether the host's memory is short: then nothing is held.
    pub memory_is_short: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A backend that holds sandboxes of another one ready.
pub struct Pool {
    shared: Arc<Shared>,
    filler: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    options: PoolOptions,
    state: Mutex<State>,
    /// A sandbox was taken, or the pool is closed.
    changed: Condvar,
}

struct State {
    warm: Vec<Box<dyn Sandbox>>,
    demand: Demand,
    last_taken: Option<Instant>,
    closed: bool,
}

impl Pool {
    /// Begins to hold sandboxes of `backend` ready. Where that kind can't be made ahead, or `most` is 0, it is as without a
    /// pool.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn new(backend: Arc<dyn Backend>, options: PoolOptions) -> std::io::Result<Self> {
        let holds = options.most > 0;
        let state =
            State { warm: Vec::new(), demand: Demand::new(Instant::now()), last_taken: None, closed: false };
        let shared = Arc::new(Shared { backend, options, state: Mutex::new(state), changed: Condvar::new() });
        let filler = holds.then(|| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("pool".into()).spawn(move || shared.keep_filled())
        });
        Ok(Self { shared, filler: Mutex::new(filler.transpose()?) })
    }

    /// Sandboxes that wait for a job now.
    pub fn warm(&self) -> usize {
        self.shared.lock().warm.len()
    }
}

impl Backend for Pool {
    fn name(&self) -> &'static str {
        self.shared.backend.name()
    }

    fn overhead(&self) -> SandboxOverhead {
        self.shared.backend.overhead()
    }

    fn start_timeout(&self) -> Duration {
        self.shared.backend.start_timeout()
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        if let Some(mut sandbox) = self.shared.take() {
            match sandbox.limit(&request.limits) {
                Ok(()) => return Ok(sandbox),
                // One that is made with these limits may succeed, or say better why not.
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a warm sandbox can't have its job's limits")
                }
            }
        }
        self.shared.backend.create(request)
    }

    fn create_ahead(&self) -> Option<Result<Box<dyn Sandbox>, SandboxError>> {
        self.shared.backend.create_ahead()
    }

    fn close(&self) {
        let given_up = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.warm)
        };
        self.shared.changed.notify_all();
        drop(given_up);
        let filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if filler.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the pool's thread panicked");
        }
        self.shared.backend.close();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A warm sandbox that lives, if there is one. The dead ones on the way are removed.
    fn take(&self) -> Option<Box<dyn Sandbox>> {
        let now = Instant::now();
        self.lock().demand.count(now);
        loop {
            let taken = {
                let mut state = self.lock();
                state.last_taken = Some(now);
                state.warm.pop()
            };
            self.changed.notify_all();
            match taken {
                Some(dead) if !dead.is_alive() => drop(dead),
                other => return other,
            }
        }
    }

    /// How many are to be warm, where there is memory for them.
    fn target(&self, state: &mut State) -> usize {
        state.demand.recent(Instant::now()).max(LEAST).min(self.options.most)
    }

    fn keep_filled(&self) {
        loop {
            let short = (self.options.memory_is_short)();
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let target = if short { 0 } else { self.target(&mut state) };
            let (mut keep, mut remove): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.warm).into_iter().partition(|sandbox| sandbox.is_alive());
            if !remove.is_empty() {
                tracing::warn!(count = remove.len(), "warm sandboxes died");
            }
            remove.extend(keep.drain(target.min(keep.len())..));
            let missing = keep.len() < target;
            state.warm = keep;
            if !remove.is_empty() {
                drop(state);
                drop(remove);
                continue;
            }
            let since = state.last_taken.map_or(AFTER_A_JOB, |taken| taken.elapsed());
            if missing && (state.warm.is_empty() || since >= AFTER_A_JOB) {
                drop(state);
                if !self.make_one() {
                    return;
                }
                continue;
            }
            let wait = if missing { AFTER_A_JOB - since } else { LOOK };
            // A spurious return only looks once more.
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Makes one more; false if this kind can't be made ahead.
    fn make_one(&self) -> bool {
        match self.backend.create_ahead() {
            None => return false,
            Some(Ok(sandbox)) => {
                let mut state = self.lock();
                if !state.closed {
                    state.warm.push(sandbox);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "no sandbox could be made ahead");
                let state = self.lock();
                let closed = |state: &mut State| !state.closed;
                drop(self.changed.wait_timeout_while(state, AFTER_A_FAILURE, closed));
            }
        }
        true
    }
}
