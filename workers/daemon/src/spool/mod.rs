//! What the server has not confirmed yet, on disk: the output, the outcome and the collected files of each attempt.
//!
//! It survives the death of the worker, not that of the host's power: nothing is synced, since a node that loses
//! its power has lost its attempts anyway.
//!
//! ```text
//! spool/<job>.<attempt>.<token>/attempt.json     whose it is; made last, so a directory without it is a torn one
//!                               stdout stderr    what was kept, from the first byte
//!                               outputs/<digest> collected files
//!                               finished.json    the outcome, written once
//! ```

mod stream;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bulkhead_types::{AttemptOutcome, AttemptState, OutputStream, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use stream::StreamFile;

use crate::name::AttemptName;

const ATTEMPT: &str = "attempt.json";
const FINISHED: &str = "finished.json";
const OUTPUTS: &str = "outputs";

/// An attempt's outcome as it is spooled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinishedRecord {
    pub(crate) outcome: AttemptOutcome,
    pub(crate) time: Timestamp,
}

/// The directory of everything that is spooled.
#[derive(Debug)]
pub(crate) struct Spool {
    root: PathBuf,
}

/// One attempt's part of the spool.
#[derive(Debug)]
pub(crate) struct AttemptSpool {
    directory: PathBuf,
    stdout: StreamFile,
    stderr: StreamFile,
}

/// An attempt that an earlier life of the worker left.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) name: AttemptName,
    pub(crate) spool: AttemptSpool,
    pub(crate) finished: FinishedRecord,
}

impl Spool {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Makes the attempt's directory.
    pub(crate) fn create(&self, name: &AttemptName) -> io::Result<AttemptSpool> {
        let directory = self.root.join(name.directory());
        fs::create_dir_all(directory.join(OUTPUTS))?;
        let spool = AttemptSpool::open(directory)?;
        write_json(&spool.directory.join(ATTEMPT), name)?;
        Ok(spool)
    }

    /// Everything that an earlier life left. An attempt without an outcome ended with that life, since sandboxes
    /// die with their worker: it gets the outcome LOST, with what it wrote so far.
    pub(crate) fn recover(&self, now: Timestamp) -> io::Result<Vec<Recovered>> {
        let mut recovered = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let directory = entry?.path();
            let Some(name) = read_json::<AttemptName>(&directory.join(ATTEMPT)) else {
                tracing::warn!(directory = %directory.display(), "removing a torn directory of the spool");
                fs::remove_dir_all(&directory)?;
                continue;
            };
            let spool = AttemptSpool::open(directory)?;
            let finished = match read_json(&spool.directory.join(FINISHED)) {
                Some(finished) => finished,
                None => {
                    let outcome = spool.lost("the worker process ended while the attempt ran".to_owned());
                    spool.finish(outcome, now)?
                }
            };
            recovered.push(Recovered { name, spool, finished });
        }
        Ok(recovered)
    }
}

impl AttemptSpool {
    fn open(directory: PathBuf) -> io::Result<Self> {
        let stdout = StreamFile::open(&directory.join("stdout"))?;
        let stderr = StreamFile::open(&directory.join("stderr"))?;
        Ok(Self { directory, stdout, stderr })
    }

    pub(crate) fn stream(&self, stream: OutputStream) -> &StreamFile {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    /// Where collected files are kept, each named by its digest.
    pub(crate) fn outputs(&self) -> PathBuf {
        self.directory.join(OUTPUTS)
    }

    /// An outcome LOST with this reason and the output so far.
    pub(crate) fn lost(&self, reason: String) -> AttemptOutcome {
        self.outcome(AttemptState::Lost, reason)
    }

    /// An outcome of an attempt whose sandbox has nothing to tell.
    pub(crate) fn outcome(&self, state: AttemptState, reason: String) -> AttemptOutcome {
        AttemptOutcome {
            state,
            termination: None,
            reason,
            usage: bulkhead_types::Usage::default(),
            stdout: self.stdout.totals(),
            stderr: self.stderr.totals(),
            outputs: Vec::new(),
            output_problems: Vec::new(),
            top_syscalls: Vec::new(),
            unsupported_syscalls: Vec::new(),
        }
    }

    /// Writes the outcome; from here on a new life of the worker reports it as this one would.
    pub(crate) fn finish(&self, outcome: AttemptOutcome, time: Timestamp) -> io::Result<FinishedRecord> {
        let record = FinishedRecord { outcome, time };
        write_json(&self.directory.join(FINISHED), &record)?;
        Ok(record)
    }

    /// Forgets the attempt: the server has everything, or wants none of it.
    pub(crate) fn remove(&self) {
        // The name first: if the rest is torn by a death in between, the next life removes it.
        let _ = fs::remove_file(self.directory.join(ATTEMPT));
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "the spool keeps a directory");
        }
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = fs::File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    fs::rename(unfinished, path)
}

/// None if the file is missing or torn.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use bulkhead_types::{AttemptKey, JobId, TenantId};

    use super::*;

    fn name(token: u64) -> AttemptName {
        let tenant = TenantId::new("acme").expect("valid");
        AttemptName { tenant, key: AttemptKey { job: JobId::generate(), attempt: 1, token } }
    }

    #[test]
    fn what_was_spooled_is_there_in_the_next_life() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("spool");
        let spool = Spool::open(root.clone()).expect("spool");
        let now = Timestamp::from_micros(5);

        let done = spool.create(&name(1)).expect("created");
        done.stream(OutputStream::Stdout).append(b"hello", 3).expect("append");
        let outcome = done.outcome(AttemptState::Failed, "exited with status 3".into());
        let record = done.finish(outcome, now).expect("finished");
        assert_eq!(record.outcome.stdout, bulkhead_types::StreamTotals { total_bytes: 5, kept_bytes: 3 });

        let running = spool.create(&name(2)).expect("created");
        running.stream(OutputStream::Stderr).append(b"half", 4).expect("append");
        fs::create_dir(root.join("torn")).expect("made");

        let mut recovered = Spool::open(root.clone()).expect("spool").recover(now).expect("recovered");
        recovered.sort_by_key(|r| r.name.key.token);
        let [first, second] = recovered.as_slice() else { panic!("two attempts: {recovered:?}") };
        assert_eq!(first.finished, record);
        assert_eq!(first.spool.stream(OutputStream::Stdout).read(1, 100).expect("read"), b"el");
        assert_eq!(second.finished.outcome.state, AttemptState::Lost);
        assert_eq!(second.finished.outcome.stderr.kept_bytes, 4);

        first.spool.remove();
        second.spool.remove();
        assert_eq!(fs::read_dir(root).expect("root").count(), 0);
    }
}
