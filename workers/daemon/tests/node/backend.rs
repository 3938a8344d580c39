//! Runs a job's argv as a plain process of the host: what the daemon sees of a sandbox, without one.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bulkhead_sandbox::{
    Backend, CollectedOutput, Controller, CreateRequest, Events, Finished, Input, Job, Progress, Sandbox,
    SandboxError,
};
use bulkhead_types::{AttemptState, Limits, OutputSpec, SandboxId, SandboxOverhead, Termination, Usage};
use rustix::process::{Pid, Signal, kill_process_group};

#[derive(Default)]
pub(crate) struct Processes {
    /// Sandboxes can't be made.
    pub(crate) broken: AtomicBool,
}

impl Backend for Processes {
    fn name(&self) -> &'static str {
        "sentry"
    }

    fn overhead(&self) -> SandboxOverhead {
        SandboxOverhead::fixed(1 << 20)
    }

    fn create(&self, request: &CreateRequest) -> Result<Box<dyn Sandbox>, SandboxError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(SandboxError::Limit { limit: "memory", problem: "no controller".into() });
        }
        Ok(Box::new(Process { id: request.id, control: Arc::default() }))
    }
}

struct Process {
    id: SandboxId,
    control: Arc<Control>,
}

#[derive(Default)]
struct Control {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy)]
struct Asked {
    cancel: bool,
    output_limit: bool,
    kill: bool,
}

impl Control {
    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.asked.lock().expect("lock"));
        self.changed.notify_all();
    }
}

impl Controller for Control {
    fn cancel(&self) {
        self.ask(|asked| asked.cancel = true);
    }

    fn output_limit_reached(&self) {
        self.ask(|asked| asked.output_limit = true);
    }

    fn signal(&self, _: u8) {}

    fn kill(&self) {
        self.ask(|asked| asked.kill = true);
    }

    fn progress(&self) -> Option<Progress> {
        Some(Progress { cpu_us: 7, memory_bytes: 9 })
    }
}

impl Sandbox for Process {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn limit(&mut self, _: &Limits) -> Result<(), SandboxError> {
        Ok(())
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn controller(&self) -> Arc<dyn Controller> {
        self.control.clone()
    }

    fn run(self: Box<Self>, job: Job, events: &mut dyn Events) -> Result<Finished, SandboxError> {
        assert!(
            fs::read(&job.image.public).is_ok_and(|image| image == crate::server::IMAGE),
            "the image is there"
        );
        for input in job.inputs {
            let (Input::File { path, mut source, .. } | Input::Archive { directory: path, mut source }) =
                input;
            let mut file = fs::File::create(path).expect("input");
            std::io::copy(&mut source, &mut file).expect("input");
        }
        events.started();
        let child = Command::new(&job.argv[0])
            .args(&job.argv[1..])
            .env_clear()
            .envs(job.env.iter().map(|var| (&var.name, &var.value)))
            .stdin(Stdio::from(job.stdin))
            .stdout(Stdio::from(job.stdout))
            .stderr(Stdio::from(job.stderr))
            .process_group(0)
            .spawn()
            .expect("spawn");
        let (state, termination) = watch(child, &self.control, Duration::from_millis(job.grace_period_ms));
        for output in job.outputs {
            let OutputSpec::Glob(path) = output else { continue };
            let bytes = fs::read(&path).expect("output");
            let collected = CollectedOutput { path: path.into_bytes(), mode: 0o644, is_directory: false };
            let mut sink = events.output(collected).expect("taken");
            sink.write_all(&bytes).expect("written");
            sink.flush().expect("kept");
        }
        Ok(Finished {
            state,
            termination: Some(termination),
            reason: format!("{termination:?}"),
            usage: Usage { cpu_user_us: 1, ..Usage::default() },
            output_problems: vec![],
            top_syscalls: vec![],
            unsupported_syscalls: vec![],
        })
    }
}

fn watch(mut child: Child, control: &Control, grace: Duration) -> (AttemptState, Termination) {
    let group = Pid::from_raw(child.id().cast_signed()).expect("pid");
    let mut term_at: Option<Instant> = None;
    loop {
        let asked = *control.asked.lock().expect("lock");
        let overdue = term_at.is_some_and(|at| at.elapsed() >= grace);
        if asked.kill || asked.output_limit || overdue {
            let _ = kill_process_group(group, Signal::KILL);
        } else if asked.cancel && term_at.is_none() {
            term_at = Some(Instant::now());
            let _ = kill_process_group(group, Signal::TERM);
        }
        if let Some(status) = child.try_wait().expect("wait") {
            let termination = match status.code() {
                Some(code) => Termination::Exited(code as u8),
                None => Termination::Signaled(status.signal().expect("a signal") as u8),
            };
            let state = match (asked, termination) {
                (Asked { output_limit: true, .. }, _) => AttemptState::OutputLimit,
                (Asked { cancel: true, .. }, _) => AttemptState::Cancelled,
                (_, Termination::Exited(0)) => AttemptState::Succeeded,
                (_, Termination::Exited(_)) => AttemptState::Failed,
                (_, Termination::Signaled(_)) => AttemptState::Signaled,
            };
            return (state, termination);
        }
        let guard = control.asked.lock().expect("lock");
        drop(control.changed.wait_timeout(guard, Duration::from_millis(5)));
    }
}
