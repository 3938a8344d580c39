use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_sandbox::{CollectedOutput, Events};
use bulkhead_types::{Digest, OutputFile, bounds};
use sha2::{Digest as _, Sha256};

use crate::attempt::{Attempt, now};

/// Keeps what the sandbox tells: the start, and the collected files under their digests.
pub(super) struct Collector {
    attempt: Arc<Attempt>,
    directory: PathBuf,
    outputs: Vec<OutputFile>,
    /// Paths of those that broke off.
    torn: Vec<String>,
    /// Bytes that may still come.
    left: u64,
}

impl Collector {
    /// All outputs together have at most `max_bytes`.
    pub(super) fn new(attempt: Arc<Attempt>, max_bytes: u64) -> Self {
        let directory = attempt.spool.outputs();
        Self { attempt, directory, outputs: Vec::new(), torn: Vec::new(), left: max_bytes }
    }

    /// The complete outputs; and `told`, with a line for each that broke off and has none yet.
    pub(super) fn into_outputs(self, mut told: Vec<String>) -> (Vec<OutputFile>, Vec<String>) {
        for path in self.torn {
            let prefix = format!("{path}: ");
            if !told.iter().any(|problem| problem.starts_with(&prefix)) {
                told.push(format!("{prefix}its collection broke off"));
            }
        }
        (self.outputs, told)
    }
}

impl Events for Collector {
    fn started(&mut self) {
        self.attempt.set_started(now());
    }

    fn output(&mut self, output: CollectedOutput) -> io::Result<Box<dyn Write + '_>> {
        if self.outputs.len() >= bounds::OUTPUT_FILES {
            return Err(io::Error::other(format!("a job may have {} outputs", bounds::OUTPUT_FILES)));
        }
        let path = self.directory.join("incoming");
        let file = File::create(&path)?;
        Ok(Box::new(Incoming {
            collector: self,
            output,
            path,
            file,
            hash: Sha256::new(),
            size: 0,
            broken: false,
            complete: false,
        }))
    }
}

/// One output on its way to the spool; complete when flushed, discarded when dropped before.
struct Incoming<'a> {
    collector: &'a mut Collector,
    output: CollectedOutput,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    broken: bool,
    complete: bool,
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.collector.left.checked_sub(bytes.len() as u64) else {
            self.broken = true;
            return Err(io::Error::other("the outputs together are larger than the job's disk limit"));
        };
        if let Err(error) = self.file.write_all(bytes) {
            self.broken = true;
            return Err(error);
        }
        self.collector.left = left;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// The sandbox flushes once, when all bytes were sent.
    fn flush(&mut self) -> io::Result<()> {
        if self.complete {
            return Ok(());
        }
        if self.broken {
            return Err(io::Error::other("a part of it could not be written"));
        }
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        fs::rename(&self.path, self.collector.directory.join(digest.hex())).inspect_err(|_| {
            self.broken = true;
        })?;
        self.complete = true;
        self.collector.outputs.push(OutputFile {
            path: std::mem::take(&mut self.output.path),
            mode: self.output.mode,
            size_bytes: self.size,
            digest,
            is_directory: self.output.is_directory,
        });
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        self.collector.left += self.size;
        self.collector.torn.push(String::from_utf8_lossy(&self.output.path).into_owned());
        // What stays is removed with the attempt's directory.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_types::{AttemptKey, JobId, TenantId};

    use super::*;
    use crate::name::AttemptName;
    use crate::spool::Spool;

    #[test]
    fn only_a_flushed_file_is_an_output() {
        let directory = tempfile::tempdir().expect("directory");
        let spool = Spool::open(directory.path().join("spool")).expect("opens");
        let tenant = TenantId::new("acme").expect("id");
        let name = AttemptName { tenant, key: AttemptKey { job: JobId::generate(), attempt: 1, token: 1 } };
        let own = spool.create(&name).expect("creates");
        let outputs = own.outputs();
        let mut collector = Collector::new(Attempt::new(name, own, None), 10);
        let output = |path: &str| CollectedOutput { path: path.into(), mode: 0o644, is_directory: false };
        let mut whole = collector.output(output("/whole")).expect("taken");
        whole.write_all(b"12345").expect("written");
        whole.flush().expect("complete");
        drop(whole);
        for path in ["/torn", "/limit"] {
            // The second has the room that the first gave back.
            collector.output(output(path)).expect("taken").write_all(b"12345").expect("written");
        }
        let (files, problems) = collector.into_outputs(vec!["/limit: larger than the disk limit".into()]);
        assert_eq!(files.iter().map(|file| &file.path[..]).collect::<Vec<_>>(), [b"/whole"]);
        assert_eq!(problems, ["/limit: larger than the disk limit", "/torn: its collection broke off"]);
        assert_eq!(fs::read_dir(outputs).expect("lists").count(), 1);
    }
}
