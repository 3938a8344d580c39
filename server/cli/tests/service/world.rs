//! A service on a directory of its own, with a tiny image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::ready;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const BUSYBOX: &str = "/bin/busybox";

/// Whether this machine can run the test; says why not.
pub(crate) fn have(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: {test}: sandboxes need root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: {test}: {BUSYBOX} is missing (package busybox-static)");
        return false;
    }
    true
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Waits until the process is gone.
pub(crate) fn gone(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    until("a process's end", || test_kill_process(pid).is_err());
}

fn until(what: &str, mut now: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !now() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    serve: Child,
    ready: serde_json::Value,
    operator: String,
}

impl World {
    pub(crate) fn start() -> Self {
        // Other users pass through it: PostgreSQL's, and those of sandboxes.
        let dir = tempfile::Builder::new().prefix("bulkhead-serve-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        import_tiny(dir.path());
        let (serve, ready) = serve(dir.path());
        let mut world = Self { dir, serve, ready, operator: String::new() };
        world.operator = world.token(&["--operator"]);
        for tenant in ["acme", "rival"] {
            let made = world.bulkhead(&["tenant", "create", tenant], Some(&world.operator));
            assert!(made.status.success(), "{}", text(&made.stderr));
        }
        world
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn token(&self, args: &[&str]) -> String {
        let output = self.bulkhead(&[&["token"], args].concat(), None);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    pub(crate) fn bulkhead(&self, args: &[&str], token: Option<&str>) -> Output {
        self.command(args, token).output().unwrap()
    }

    fn command(&self, args: &[&str], token: Option<&str>) -> Command {
        let mut command = program();
        command.args(args).env("BULKHEAD_DATA_DIR", self.data()).stdin(Stdio::null());
        if let Some(token) = token {
            command.env("BULKHEAD_TOKEN", token);
        }
        command
    }

    pub(crate) fn in_tenant<T>(&self, tenant: &str, work: impl FnOnce(&Tenant<'_>) -> T) -> T {
        work(&Tenant { world: self, token: self.token(&["--tenant", tenant]) })
    }

    pub(crate) fn pid(&self, which: &str) -> u32 {
        u32::try_from(self.ready[which].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.serve.kill().unwrap();
        self.serve.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        (self.serve, self.ready) = serve(self.dir.path());
    }

    pub(crate) fn stop(mut self) {
        signal(self.serve.id(), Signal::TERM);
        assert!(self.serve.wait().unwrap().success());
        gone(self.pid("postgres_pid"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // After a failure: PostgreSQL would outlive the service, and its directory.
        let _ = self.serve.kill();
        let _ = self.serve.wait();
        if let Some(pid) = self.ready["postgres_pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(pid, Signal::QUIT);
            let end = Instant::now() + PATIENCE;
            while test_kill_process(pid).is_ok() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    for name in ["SERVER", "TOKEN", "TENANT", "CA", "DATABASE_URL"] {
        command.env_remove(format!("BULKHEAD_{name}"));
    }
    command
}

/// Starts the service and waits until it says that it is ready.
fn serve(dir: &Path) -> (Child, serde_json::Value) {
    let mut serve = program();
    serve.args(["serve", "--node", "here", "--cache", "1G", "--data-dir"]).arg(dir.join("data"));
    ready::start(serve, &dir.join("serve.log"))
}

/// An image of busybox and nothing else, by way of a directory.
fn import_tiny(dir: &Path) {
    let root = dir.join("root");
    for part in ["bin", "tmp", "etc", "proc", "dev"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for tool in ["sh", "echo", "cat", "sleep", "true", "yes", "tr", "mkdir", "kill"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    let imported = program()
        .args(["image", "import", "--name", "tiny", "--data-dir"])
        .args([dir.join("data"), root])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", text(&imported.stderr));
}

/// What one tenant can do.
pub(crate) struct Tenant<'a> {
    world: &'a World,
    token: String,
}

impl Tenant<'_> {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.world.command(args, Some(&self.token))
    }

    pub(crate) fn bulkhead(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn with_stdin(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.bulkhead(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn submit(&self, args: &[&str]) -> String {
        let output = self.bulkhead(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    pub(crate) fn until(&self, name: &str, state: &str) {
        until(state, || self.json(&["get", "--json", name])["state"] == state);
    }
}
