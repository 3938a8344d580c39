//! A place on this host that no other test shares, and the count of everything in it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_jail::cgroup::Hierarchy;
use bulkhead_jail::uid::UidRange;
use bulkhead_sandbox::{SandboxRecord, SentryBackend, SentryOptions};

pub(crate) struct TestHost {
    directory: tempfile::TempDir,
    name: String,
}

/// Everything that a sandbox can leave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Count {
    descriptors: usize,
    threads: usize,
    children: Vec<String>,
    mounts: usize,
    groups: Vec<String>,
    scratch: usize,
    notes: usize,
}

impl TestHost {
    pub(crate) fn new() -> Self {
        let name = format!("bulkhead-test-{}", std::process::id());
        Hierarchy::detect_named(&name).expect("this host has the controllers");
        TestHost { directory: tempfile::tempdir().expect("temporary directory"), name }
    }

    /// The same place, as another process sees it.
    pub(crate) fn options_at(directory: PathBuf, name: &str) -> SentryOptions {
        SentryOptions {
            program: std::env::current_exe().expect("own path"),
            scratch_root: directory.join("scratch"),
            run_directory: directory.join("run"),
            cgroup_name: name.to_owned(),
            uids: UidRange::new(1_999_000_000, 1000, &directory.join("uids")),
            mediated_memory: false,
            log_calls: false,
        }
    }

    pub(crate) fn options(&self) -> SentryOptions {
        Self::options_at(self.directory.path().to_path_buf(), &self.name)
    }

    pub(crate) fn backend(&self) -> SentryBackend {
        SentryBackend::new(self.options()).expect("root with control groups")
    }

    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.directory.path().display(), self.name)
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.options().run_directory
    }

    fn hierarchy(&self) -> Hierarchy {
        Hierarchy::detect_named(&self.name).expect("this host has the controllers")
    }

    pub(crate) fn count(&self) -> Count {
        let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
        let options = self.options();
        Count {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            children: children(),
            mounts: fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().count(),
            groups: self.hierarchy().sandboxes(),
            scratch: entries(&options.scratch_root.to_string_lossy()),
            notes: SandboxRecord::all(&options.run_directory).len(),
        }
    }

    /// Counts until it equals `before`: a thread's end shows in /proc a moment after it.
    pub(crate) fn settled(&self, before: &Count) -> Count {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let now = self.count();
            if now == *before || Instant::now() > deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn finish(&self) {
        self.hierarchy().remove_if_empty();
    }
}

/// Names of this process's children.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if rest.split_whitespace().nth(1) == Some(own.as_str()) {
            found.push(name.to_owned());
        }
    }
    found
}
