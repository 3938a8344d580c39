//! Runs real programs in real sandboxes: the launcher's own backend, jail and limits on.

pub(crate) mod root;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use bulkhead_jail::uid::UidRange;
use bulkhead_sandbox::{
    Backend, CollectedOutput, CreateRequest, Events, Finished, ImageFiles, Job, SentryBackend, SentryOptions,
};
use bulkhead_types::{AttemptState, EnvVar, Limits, OutputSpec, SandboxId};

/// What a job came to.
pub(crate) struct Ran {
    pub(crate) finished: Finished,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) outputs: Vec<(String, Vec<u8>)>,
}

impl Ran {
    pub(crate) fn state(&self) -> AttemptState {
        self.finished.state
    }

    pub(crate) fn reason(&self) -> &str {
        &self.finished.reason
    }
}

impl std::fmt::Debug for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\nstdout: {}\nstderr: {}", self.finished, self.stdout, self.stderr)
    }
}

struct Place {
    _directory: tempfile::TempDir,
    backend: SentryBackend,
}

/// Flags of the sentry's own. Set before the first sandbox is made.
pub(crate) static SENTRY_FLAGS: OnceLock<&str> = OnceLock::new();

/// The sentry, or a script that starts it with flags.
fn program(directory: &Path) -> PathBuf {
    let sentry = PathBuf::from(env!("CARGO_BIN_EXE_bulkhead-sentry"));
    let Some(flags) = SENTRY_FLAGS.get() else { return sentry };
    let script = directory.join("sentry");
    let text = format!("#!/bin/sh\nexec {} \"$@\" {flags}\n", sentry.display());
    std::fs::write(&script, text).expect("a script");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).expect("a mode");
    script
}

/// One backend for all tests of a binary.
fn backend() -> &'static SentryBackend {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let options = SentryOptions {
            program: program(directory.path()),
            scratch_root: at("scratch"),
            run_directory: at("run"),
            cgroup_name: format!("bulkhead-programs-{}", std::process::id()),
            uids: UidRange::new(1_998_000_000, 1000, &at("uids")),
            mediated_memory: false,
            log_calls: std::env::var_os("BULKHEAD_TEST_LOG").is_some(),
        };
        let backend = SentryBackend::new(options).expect("root with control groups");
        Place { _directory: directory, backend }
    });
    &place.backend
}

/// A job to be.
pub(crate) struct Run {
    argv: Vec<String>,
    limits: Limits,
    inputs: Vec<(String, Vec<u8>)>,
    outputs: Vec<OutputSpec>,
    stdin: Vec<u8>,
    image: Option<ImageFiles>,
}

impl Run {
    pub(crate) fn new(argv: &[&str]) -> Self {
        Self {
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            limits: Limits::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            stdin: Vec::new(),
            image: None,
        }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self.limits.memory_request_bytes = self.limits.memory_bytes;
        self
    }

    pub(crate) fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    pub(crate) fn input(mut self, path: &str, bytes: &[u8]) -> Self {
        self.inputs.push((path.to_owned(), bytes.to_vec()));
        self
    }

    pub(crate) fn output(mut self, pattern: &str) -> Self {
        self.outputs.push(OutputSpec::Glob(pattern.to_owned()));
        self
    }

    pub(crate) fn image(mut self, image: ImageFiles) -> Self {
        self.image = Some(image);
        self
    }

    /// Runs it to its end.
    pub(crate) fn go(self) -> Ran {
        let request = CreateRequest { id: SandboxId::generate(), limits: self.limits };
        let sandbox = backend().create(&request).expect("a sandbox");
        let (stdin, mut input) = io::pipe().expect("a pipe");
        let (out, stdout) = io::pipe().expect("a pipe");
        let (err, stderr) = io::pipe().expect("a pipe");
        let given = self.stdin;
        let writer = thread::spawn(move || {
            // A job need not read what it is given.
            let _broken = input.write_all(&given);
        });
        let (out, err) = (reader(out.into()), reader(err.into()));
        let inputs = self.inputs.into_iter().map(|(path, bytes)| bulkhead_sandbox::Input::File {
            path,
            mode: 0o755,
            source: Box::new(io::Cursor::new(bytes)),
        });
        let path = EnvVar { name: "PATH".into(), value: "/usr/bin:/bin".into(), secret: false };
        let job = Job {
            image: self.image.unwrap_or_else(|| root::image().clone()),
            argv: self.argv,
            env: vec![path],
            working_directory: "/".into(),
            user: String::new(),
            hostname: "sandbox".into(),
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            inputs: inputs.collect(),
            outputs: self.outputs,
            grace_period_ms: 500,
        };
        let mut collector = Collector::default();
        let finished = sandbox.run(job, &mut collector).expect("the sandbox itself works");
        writer.join().expect("the writer");
        let [stdout, stderr] = [out, err].map(|reader| reader.join().expect("the reader"));
        Ran { finished, stdout, stderr, outputs: collector.outputs }
    }
}

fn reader(from: OwnedFd) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(from).read_to_end(&mut bytes).expect("a pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[derive(Default)]
struct Collector {
    outputs: Vec<(String, Vec<u8>)>,
}

impl Events for Collector {
    fn started(&mut self) {}

    fn output(&mut self, output: CollectedOutput) -> io::Result<Box<dyn Write + '_>> {
        let path = String::from_utf8_lossy(&output.path).into_owned();
        self.outputs.push((path, Vec::new()));
        let (_, bytes) = self.outputs.last_mut().expect("just pushed");
        Ok(Box::new(bytes))
    }
}
