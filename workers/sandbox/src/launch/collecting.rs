//! A job's outputs, out of its sandbox.

use std::io::Write;

use bulkhead_types::bounds as job_bounds;
use bulkhead_wire::{Collect, Frame, OutputStart};

use crate::{CollectedOutput, Events};

use super::Trouble;
use super::running::{Run, failure, unexpected};

/// Bytes that collected outputs may have beyond the job's disk limit: headers of tar archives.
const OUTPUT_SPARE_BYTES: u64 = 64 << 20;

pub(super) fn lost_outputs(trouble: &Trouble) -> String {
    let why = match trouble {
        Trouble::Wire(error) => crate::chain(error),
        Trouble::Told(error) => crate::chain(error),
        Trouble::Broke(message) => message.clone(),
    };
    format!("the sandbox ended while its outputs were collected: {why}")
}

impl Run<'_> {
    pub(super) fn collect(&self, what: Collect, events: &mut dyn Events) -> Result<Vec<String>, Trouble> {
        self.step_deadline();
        self.connection.send(&Frame::Collect(what), &[])?;
        let mut problems = Vec::new();
        let mut left = self.limits.disk_bytes.saturating_add(OUTPUT_SPARE_BYTES);
        // Each pattern may bring its files and a problem for each.
        for _ in 0..=4 * job_bounds::OUTPUT_FILES {
            self.step_deadline();
            match self.connection.receive()?.frame {
                Frame::Collected => return Ok(problems),
                Frame::OutputProblem(problem) => problems.push(problem),
                Frame::Output(start) => {
                    if let Some(problem) = self.receive_output(start, &mut left, events)? {
                        problems.push(problem);
                    }
                    if left == 0 {
                        problems.push(
                            "the outputs are larger than the disk limit; the rest was not collected".into(),
                        );
                        return Ok(problems);
                    }
                }
                Frame::Failed(failed) => return Err(failure(failed).into()),
                other => return Err(unexpected(&other).into()),
            }
        }
        problems.push("too many outputs; the rest was not collected".into());
        Ok(problems)
    }

    /// Passes one output on; the text says why it could not be.
    fn receive_output(
        &self,
        start: OutputStart,
        left: &mut u64,
        events: &mut dyn Events,
    ) -> Result<Option<String>, Trouble> {
        let OutputStart { path, mode, is_directory } = start;
        let name = String::from_utf8_lossy(&path).into_owned();
        let mut problem = None;
        let mut sink = match events.output(CollectedOutput { path, mode, is_directory }) {
            Ok(sink) => Some(sink),
            Err(e) => {
                problem = Some(format!("{name}: {e}"));
                None
            }
        };
        loop {
            self.step_deadline();
            match self.connection.receive()?.frame {
                Frame::Data(bytes) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    if *left == 0 {
                        return Ok(Some(format!("{name}: larger than the disk limit")));
                    }
                    // However long the sink takes is not the sandbox's fault.
                    self.keeper.deadline(None);
                    if let Some(Err(e)) = sink.as_mut().map(|s| s.write_all(&bytes)) {
                        problem = Some(format!("{name}: {e}"));
                        sink = None;
                    }
                }
                Frame::End => {
                    self.keeper.deadline(None);
                    if let Some(Err(e)) = sink.as_mut().map(Write::flush) {
                        problem = Some(format!("{name}: {e}"));
                    }
                    return Ok(problem);
                }
                Frame::Failed(failed) => return Err(failure(failed).into()),
                other => return Err(unexpected(&other).into()),
            }
        }
    }
}
