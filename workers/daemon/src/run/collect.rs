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
    /// Bytes that may still come.
    left: u64,
}

impl Collector {
    /// All outputs together have at most `max_bytes`.
    pub(super) fn new(attempt: Arc<Attempt>, max_bytes: u64) -> Self {
        let directory = attempt.spool.outputs();
        Self { attempt, directory, outputs: Vec::new(), left: max_bytes }
    }

    pub(super) fn into_outputs(self) -> Vec<OutputFile> {
        self.outputs
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
        }))
    }
}

/// One output on its way to the spool; complete when dropped, unless a write failed.
struct Incoming<'a> {
    collector: &'a mut Collector,
    output: CollectedOutput,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    broken: bool,
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

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        let kept =
            !self.broken && fs::rename(&self.path, self.collector.directory.join(digest.hex())).is_ok();
        if !kept {
            self.collector.left += self.size;
            // What stays is removed with the attempt's directory.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.collector.outputs.push(OutputFile {
            path: std::mem::take(&mut self.output.path),
            mode: self.output.mode,
            size_bytes: self.size,
            digest,
            is_directory: self.output.is_directory,
        });
    }
}
