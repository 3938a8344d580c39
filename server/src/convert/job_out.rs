//! Jobs and attempts as the API shows them. Values of secret variables are left out, whatever the record holds.

use std::time::Duration;

use bulkhead_proto::v1;
use bulkhead_store::{AttemptRecord, JobRecord};
use bulkhead_types::{
    AttemptOutcome, AttemptState, Backend, Content, ImageRef, JobName, JobSpec, JobState, Limits, OutputFile,
    OutputSpec, Priority, StreamTotals, SyscallCount, Termination, Usage,
};

use super::{duration, int64, timestamp};

/// A job's state.
pub(crate) fn state_message(state: JobState) -> v1::State {
    match state {
        JobState::Queued => v1::State::Queued,
        JobState::Leased => v1::State::Leased,
        JobState::Running => v1::State::Running,
        JobState::Succeeded => v1::State::Succeeded,
        JobState::Failed => v1::State::Failed,
        JobState::Signaled => v1::State::Signaled,
        JobState::OutOfMemory => v1::State::OutOfMemory,
        JobState::TimedOut => v1::State::TimedOut,
        JobState::OutputLimit => v1::State::OutputLimit,
        JobState::DiskLimit => v1::State::DiskLimit,
        JobState::Unsupported => v1::State::Unsupported,
        JobState::Cancelled => v1::State::Cancelled,
        JobState::Rejected => v1::State::Rejected,
        JobState::Lost => v1::State::Lost,
    }
}

/// A job with its attempts.
pub(crate) fn job_message(job: JobRecord) -> v1::Job {
    let name = JobName { tenant: job.tenant, job: job.id };
    let backend = job.spec.backend;
    v1::Job {
        name: name.to_string(),
        spec: Some(spec_message(job.spec)),
        state: state_message(job.state).into(),
        reason: if job.state.is_terminal() { job.reason } else { String::new() },
        attempts: job.attempts.into_iter().map(|attempt| attempt_message(attempt, backend)).collect(),
        create_time: Some(timestamp(job.created)),
        end_time: job.ended.map(timestamp),
        cancel_requested: job.cancel_requested.is_some() && !job.state.is_terminal(),
    }
}

fn spec_message(spec: JobSpec) -> v1::JobSpec {
    use v1::job_spec::Image;
    v1::JobSpec {
        image: Some(match spec.image {
            ImageRef::Name(name) => Image::ImageName(name.to_string()),
            ImageRef::Digest(digest) => Image::ImageDigest(digest.to_string()),
        }),
        argv: spec.argv,
        env: spec.env.into_iter().map(env_message).collect(),
        working_directory: spec.working_directory.unwrap_or_default(),
        user: spec.user.map(|user| user.0).unwrap_or_default(),
        stdin: spec.stdin.map(content_message),
        input_files: (spec.input_files.into_iter())
            .map(|file| v1::InputFile {
                path: file.path,
                mode: file.mode,
                content: Some(content_message(file.content)),
            })
            .collect(),
        input_archives: (spec.input_archives.into_iter())
            .map(|archive| v1::InputArchive {
                directory: archive.directory,
                blob_digest: archive.blob.to_string(),
            })
            .collect(),
        outputs: spec.outputs.into_iter().map(output_message).collect(),
        backend: backend_message(spec.backend).into(),
        priority: match spec.priority {
            Priority::Low => v1::Priority::Low,
            Priority::Normal => v1::Priority::Normal,
            Priority::High => v1::Priority::High,
        }
        .into(),
        labels: spec.labels.into_iter().collect(),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: spec.retry.max_attempts,
            no_retry_on_lost: !spec.retry.on_lost,
            retry_on_failure: spec.retry.on_failure,
        }),
        grace_period: Some(duration(Duration::from_millis(spec.grace_period_ms))),
        limits: Some(limits_message(&spec.limits)),
    }
}

fn backend_message(backend: Backend) -> v1::Backend {
    match backend {
        Backend::Auto => v1::Backend::Auto,
        Backend::Sentry => v1::Backend::Sentry,
        Backend::Microvm => v1::Backend::Microvm,
    }
}

fn env_message(var: bulkhead_types::EnvVar) -> v1::EnvVar {
    let value = if var.secret { String::new() } else { var.value };
    v1::EnvVar { name: var.name, value, secret: var.secret }
}

fn content_message(content: Content) -> v1::Content {
    use v1::content::Kind;
    let kind = match content {
        Content::Inline(bytes) => Kind::Inline(bytes),
        Content::Blob(digest) => Kind::BlobDigest(digest.to_string()),
    };
    v1::Content { kind: Some(kind) }
}

fn output_message(output: OutputSpec) -> v1::OutputSpec {
    use v1::output_spec::Kind;
    let kind = match output {
        OutputSpec::Glob(pattern) => Kind::Glob(pattern),
        OutputSpec::Directory(path) => Kind::Directory(path),
    };
    v1::OutputSpec { kind: Some(kind) }
}

fn limits_message(limits: &Limits) -> v1::Limits {
    v1::Limits {
        memory_bytes: int64(limits.memory_bytes),
        memory_request_bytes: int64(limits.memory_request_bytes),
        cpu_milli: int64(limits.cpu_milli),
        processes: int64(limits.processes),
        wall_time: Some(duration(limits.wall_time())),
        cpu_time: Some(duration(limits.cpu_time())),
        disk_bytes: int64(limits.disk_bytes),
        output_bytes: int64(limits.output_bytes),
    }
}

/// One attempt.
fn attempt_message(attempt: AttemptRecord, backend: Backend) -> v1::Attempt {
    let running = if attempt.started.is_some() { v1::State::Running } else { v1::State::Leased };
    let mut message = v1::Attempt {
        number: attempt.attempt,
        state: running.into(),
        node: format!("nodes/{}", attempt.node),
        backend: match backend {
            Backend::Auto | Backend::Sentry => v1::Backend::Sentry.into(),
            Backend::Microvm => v1::Backend::Microvm.into(),
        },
        lease_time: Some(timestamp(attempt.leased)),
        start_time: attempt.started.map(timestamp),
        end_time: attempt.finished.map(timestamp),
        ..Default::default()
    };
    if let Some(outcome) = attempt.outcome {
        add_outcome(&mut message, outcome);
    }
    message
}

fn add_outcome(message: &mut v1::Attempt, outcome: AttemptOutcome) {
    message.state = state_message(AttemptState::job_state(outcome.state)).into();
    match outcome.termination {
        Some(Termination::Exited(code)) => message.exit_code = Some(code.into()),
        Some(Termination::Signaled(signal)) => message.signal = Some(signal.into()),
        None => {}
    }
    message.reason = outcome.reason;
    message.usage = Some(usage_message(&outcome.usage));
    message.stdout = Some(totals_message(&outcome.stdout));
    message.stderr = Some(totals_message(&outcome.stderr));
    message.output_files = outcome.outputs.into_iter().map(file_message).collect();
    message.output_problems = outcome.output_problems;
    message.top_syscalls = outcome.top_syscalls.into_iter().map(call_message).collect();
    message.unsupported_syscalls = outcome.unsupported_syscalls.into_iter().map(call_message).collect();
}

fn usage_message(usage: &Usage) -> v1::Usage {
    v1::Usage {
        cpu_user: Some(duration(Duration::from_micros(usage.cpu_user_us))),
        cpu_system: Some(duration(Duration::from_micros(usage.cpu_system_us))),
        peak_memory_bytes: int64(usage.peak_memory_bytes),
        wall: Some(duration(Duration::from_micros(usage.wall_us))),
        read_bytes: int64(usage.read_bytes),
        written_bytes: int64(usage.written_bytes),
        peak_disk_bytes: int64(usage.peak_disk_bytes),
        oom_kills: int64(usage.oom_kills),
    }
}

fn totals_message(totals: &StreamTotals) -> v1::StreamTotals {
    v1::StreamTotals {
        total_bytes: int64(totals.total_bytes),
        kept_bytes: int64(totals.kept_bytes),
        truncated: totals.truncated(),
    }
}

fn file_message(file: OutputFile) -> v1::OutputFile {
    v1::OutputFile {
        path: file.path,
        mode: file.mode,
        size_bytes: int64(file.size_bytes),
        blob_digest: file.digest.to_string(),
        is_directory: file.is_directory,
    }
}

fn call_message(call: SyscallCount) -> v1::SyscallCount {
    v1::SyscallCount { name: call.name, count: int64(call.count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::job_spec;

    #[test]
    fn a_description_comes_back_as_it_was_but_for_secrets() {
        let var = |name: &str, secret| v1::EnvVar { name: name.into(), value: "hunter2".into(), secret };
        let inline = |bytes: &[u8]| v1::Content { kind: Some(v1::content::Kind::Inline(bytes.to_vec())) };
        let sent = v1::JobSpec {
            image: Some(v1::job_spec::Image::ImageName("demo".into())),
            argv: vec!["/bin/true".into()],
            env: vec![var("A", false), var("B", true)],
            stdin: Some(inline(b"in")),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            outputs: vec![v1::OutputSpec { kind: Some(v1::output_spec::Kind::Glob("/out/*".into())) }],
            ..Default::default()
        };
        let first = spec_message(job_spec(Some(sent)).expect("valid"));
        assert_eq!(first.env[0].value, "hunter2");
        assert_eq!(first.env[1].value, "");
        assert!(first.env[1].secret);
        // What comes back can be sent again and means the same.
        let again = spec_message(job_spec(Some(first.clone())).expect("valid"));
        assert_eq!(first, again);
    }

    #[test]
    fn every_state_has_its_message() {
        for state in JobState::ALL {
            assert_eq!(state_message(*state).as_str_name(), state.as_str());
        }
    }
}
