use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use bulkhead_client::{Client, Connection, v1};

use super::{Tenant, alive, children, command_of, debian, eventually, kill, tiny};
use crate::ready;

/// A running `bulkhead serve` with a data directory that goes with it.
pub(crate) struct Service {
    child: Child,
    endpoint: String,
    data: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    /// Where its workers look for the guest of virtual machines, if not beside their program.
    guest: Option<PathBuf>,
}

impl Service {
    /// Starts a service that has the image `tiny`, and `demo` where the tests have it.
    pub(crate) fn start() -> Self {
        Self::begin(None, false)
    }

    /// Starts one that holds no sandboxes ready: each that it has runs a job.
    pub(crate) fn start_without_pool() -> Self {
        Self::begin(None, true)
    }

    /// Starts one whose node finds the guest of virtual machines there.
    pub(crate) fn start_with_guest(guest: Option<&Path>) -> Self {
        Self::begin(guest, false)
    }

    fn begin(guest: Option<&Path>, without_pool: bool) -> Self {
        // Not in a temporary directory of the user's: PostgreSQL runs as another one. A short path, for its socket.
        let data = tempfile::Builder::new().prefix("bulkhead-e2e.").tempdir_in("/var/tmp").expect("a folder");
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
        import(data.path(), "tiny", tiny());
        if let Some(tar) = debian() {
            import(data.path(), "demo", &tar);
        }
        let guest = guest.map(Path::to_path_buf);
        let (child, endpoint) = serve(data.path(), guest.as_deref(), without_pool);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { child, endpoint, data, runtime: runtime.expect("a runtime"), guest }
    }

    /// `bulkhead` with this data directory as the default.
    pub(crate) fn command(&self) -> Command {
        bulkhead(self.data.path())
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    /// A client with a token of these arguments.
    pub(crate) fn client(&self, token: &[&str]) -> Client {
        let output = self.command().arg("token").args(token).output().expect("bulkhead runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout).expect("a token is text").trim().to_owned();
        let _context = self.runtime.enter();
        Client::new(&Connection { token: Some(token), ..Connection::to(&*self.endpoint) }).expect("a client")
    }

    /// Creates a tenant.
    pub(crate) fn tenant(&self, id: &str) -> Tenant<'_> {
        let operator = self.client(&["--operator"]);
        let created = self.runtime.block_on(operator.create_tenant(id, v1::Tenant::default()));
        created.expect("the tenant is created");
        Tenant::new(self, id)
    }

    /// A tenant that was created before.
    pub(crate) fn existing_tenant(&self, id: &str) -> Tenant<'_> {
        Tenant::new(self, id)
    }

    pub(crate) fn serve_pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The child of `serve` that runs this command, once there is one.
    fn child_that(&self, command: &str) -> i32 {
        let mut found = 0;
        eventually(&format!("there is a {command} process"), || {
            let of_command = |pid: &i32| command_of(*pid).split(' ').nth(1) == Some(command);
            found = children(self.serve_pid()).into_iter().find(of_command).unwrap_or(0);
            found != 0
        });
        found
    }

    pub(crate) fn control_pid(&self) -> i32 {
        self.child_that("control")
    }

    pub(crate) fn worker_pid(&self) -> i32 {
        self.child_that("worker")
    }

    /// The main process of the private PostgreSQL.
    pub(crate) fn postgres_pid(&self) -> i32 {
        let path = self.data.path().join("postgres/data/postmaster.pid");
        let text = fs::read_to_string(path).expect("PostgreSQL runs");
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("its first line is the pid")
    }

    /// The sandboxes that run now: their first processes.
    pub(crate) fn sentries(&self) -> Vec<i32> {
        self.sandboxes("bulkhead-sentry")
    }

    /// The virtual machines that run now.
    pub(crate) fn machines(&self) -> Vec<i32> {
        self.sandboxes("bulkhead-vmm")
    }

    fn sandboxes(&self, program: &str) -> Vec<i32> {
        let runs = |pid: &i32| alive(*pid) && command_of(*pid).contains(program);
        children(self.worker_pid()).into_iter().filter(runs).collect()
    }

    /// Rows of the database, read past the service, each as its columns joined by `|`.
    pub(crate) fn sql(&self, query: &str) -> Vec<String> {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        psql.arg("--host").arg(self.data.path().join("postgres/run"));
        psql.args(["--username", "bulkhead_scheduler", "--dbname", "bulkhead", "--command", query]);
        let output = psql.output().expect("psql runs");
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Every job has ended, with one terminal state, no lease is left, and no attempt is open.
    pub(crate) fn assert_each_job_ended_once(&self) {
        eventually("no lease is left", || self.sql("SELECT count(*) FROM leases") == ["0"]);
        let open = "SELECT id, state FROM jobs WHERE ended_us IS NULL";
        assert_eq!(self.sql(open), [""; 0], "jobs that have not ended");
        let attempts = "SELECT job, attempt FROM attempts WHERE state IS NULL OR finished_us IS NULL";
        assert_eq!(self.sql(attempts), [""; 0], "attempts that have not ended");
        let ends = "SELECT jobs.id, jobs.state, count(event.seq) FROM jobs LEFT JOIN job_events event \
                    ON event.job = jobs.id AND event.state NOT IN ('QUEUED', 'LEASED', 'RUNNING') \
                    GROUP BY jobs.id, jobs.state \
                    HAVING count(event.seq) <> 1 OR min(event.state) <> jobs.state";
        assert_eq!(
            self.sql(ends),
            [""; 0],
            "jobs without exactly one terminal event, the same as their state"
        );
    }

    /// What `doctor --leftovers` says, as far as it is about this service's data directory.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let output: Output = self.command().args(["doctor", "--leftovers"]).output().expect("bulkhead runs");
        let data = self.data.path().display().to_string();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let ours: Vec<String> = text.lines().filter(|line| line.contains(&data)).map(str::to_owned).collect();
        assert!(ours.is_empty() || !output.status.success(), "leftovers are named, but the status is 0");
        ours
    }

    /// Kills `serve` without a warning, and waits until what lived by it has gone.
    pub(crate) fn kill(&mut self) {
        let parts = [self.control_pid(), self.worker_pid()];
        let sentries = self.sentries();
        self.child.kill().expect("serve is ours");
        self.child.wait().expect("serve can be waited for");
        eventually("control, worker and sandboxes end with serve", || {
            !parts.iter().chain(&sentries).any(|pid| alive(*pid))
        });
    }

    /// Starts it again on the same data directory.
    pub(crate) fn start_again(&mut self) {
        (self.child, self.endpoint) = serve(self.data.path(), self.guest.as_deref(), false);
    }

    /// Stops it in order, and checks that nothing of it is left.
    pub(crate) fn stop(mut self) {
        let postgres = self.postgres_pid();
        terminate(&mut self.child);
        assert!(!alive(postgres), "PostgreSQL ends with its service");
        assert_eq!(self.leftovers(), [""; 0]);
    }

    /// What the service's processes said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for Service {
    /// A test that failed must leave nothing running.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if std::thread::panicking() {
                let log = self.log();
                let lines: Vec<&str> = log.lines().collect();
                println!(
                    "the end of the service's log:\n{}",
                    lines[lines.len().saturating_sub(60)..].join("\n")
                );
            }
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(self.serve_pid()).expect("a pid"),
                rustix::process::Signal::TERM,
            );
            let _ = self.child.wait();
        } else if self.data.path().join("postgres/data/postmaster.pid").exists() {
            kill(self.postgres_pid());
        }
    }
}

fn bulkhead(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    for name in ["SERVER", "TOKEN", "TENANT", "CA"] {
        command.env_remove(format!("BULKHEAD_{name}"));
    }
    command.env("BULKHEAD_DATA_DIR", data);
    command
}

/// Imports an archive as an image of the operator's.
fn import(data: &Path, name: &str, tar: &Path) {
    let output = bulkhead(data).args(["image", "import", "--name", name]).arg(tar).output();
    let output = output.expect("bulkhead runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn serve(data: &Path, guest: Option<&Path>, without_pool: bool) -> (Child, String) {
    let mut command = bulkhead(data);
    command.arg("serve");
    if without_pool {
        command.args(["--warm", "0"]);
    }
    if let Some(guest) = guest {
        command.env("BULKHEAD_GUEST_DIR", guest);
    }
    let (child, ready) = ready::start(command, &data.join("serve.log"));
    (child, ready["endpoint"].as_str().expect("an endpoint").to_owned())
}

/// SIGTERM, and the end in order.
fn terminate(child: &mut Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("serve is ours");
    let mut status = None;
    eventually("serve ends after SIGTERM", || {
        status = child.try_wait().expect("serve can be waited for");
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "serve ended with {status:?}");
}
