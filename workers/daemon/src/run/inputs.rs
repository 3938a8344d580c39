use std::fs::File;
use std::io::{self, Cursor};
use std::os::fd::OwnedFd;

use bulkhead_sandbox::{Input, Source};
use bulkhead_types::{Content, Digest, JobSpec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::fetch::Blobs;

/// The digests of all blobs that the job needs before it starts.
pub(super) fn needed(spec: &JobSpec) -> Vec<Digest> {
    let contents = spec.stdin.iter().chain(spec.input_files.iter().map(|file| &file.content));
    let blobs = contents.filter_map(|content| match content {
        Content::Blob(digest) => Some(*digest),
        Content::Inline(_) => None,
    });
    let mut digests: Vec<Digest> =
        blobs.chain(spec.input_archives.iter().map(|archive| archive.blob)).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// The inputs in the order in which the sandbox places them: archives, then files.
pub(super) fn inputs(spec: &mut JobSpec, blobs: &Blobs) -> io::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for archive in std::mem::take(&mut spec.input_archives) {
        let source = Box::new(blobs.open(&archive.blob)?);
        inputs.push(Input::Archive { directory: archive.directory, source });
    }
    for file in std::mem::take(&mut spec.input_files) {
        let source = source(file.content, blobs)?;
        inputs.push(Input::File { path: file.path, mode: file.mode, source });
    }
    Ok(inputs)
}

fn source(content: Content, blobs: &Blobs) -> io::Result<Source> {
    Ok(match content {
        Content::Inline(bytes) => Box::new(Cursor::new(bytes)),
        Content::Blob(digest) => Box::new(blobs.open(&digest)?),
    })
}

/// The read end of the job's standard input. A thread fills it, which ends with the content or with the job.
pub(super) fn stdin(content: Option<Content>, blobs: &Blobs) -> io::Result<OwnedFd> {
    let (jobs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    let Some(content) = content else { return Ok(jobs) };
    let mut source = source(content, blobs)?;
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        // A job that does not read to the end closes the pipe; that is its right.
        let _ = io::copy(&mut source, &mut File::from(ours));
    })?;
    Ok(jobs)
}
