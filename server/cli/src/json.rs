//! What `--json` prints: the API's messages with the .proto's field names; enums by name, times in RFC 3339, durations
//! in seconds, bytes as text (with the exact bytes in base64 beside it, where they are no UTF-8).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bulkhead_client::v1;
use serde_json::{Map, Value, json};

fn time(time: Option<&(impl std::fmt::Display + Sized)>) -> Value {
    time.map_or(Value::Null, |time| Value::String(time.to_string()))
}

macro_rules! seconds {
    ($duration:expr) => {
        $duration.as_ref().map(|d| d.seconds as f64 + f64::from(d.nanos) / 1e9)
    };
}

/// A job with its attempts.
pub(crate) fn job(job: &v1::Job) -> Value {
    json!({
        "name": job.name,
        "state": job.state().as_str_name(),
        "reason": job.reason,
        "cancel_requested": job.cancel_requested,
        "create_time": time(job.create_time.as_ref()),
        "end_time": time(job.end_time.as_ref()),
        "attempts": job.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "spec": job.spec.as_ref().map(spec),
    })
}

fn attempt(attempt: &v1::Attempt) -> Value {
    let counts = |counts: &[v1::SyscallCount]| {
        let rows = counts.iter().map(|count| json!({ "name": count.name, "count": count.count }));
        rows.collect::<Vec<_>>()
    };
    json!({
        "number": attempt.number,
        "state": attempt.state().as_str_name(),
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "reason": attempt.reason,
        "usage": attempt.usage.as_ref().map(usage),
        "node": attempt.node,
        "backend": attempt.backend().as_str_name(),
        "lease_time": time(attempt.lease_time.as_ref()),
        "start_time": time(attempt.start_time.as_ref()),
        "end_time": time(attempt.end_time.as_ref()),
        "stdout": attempt.stdout.as_ref().map(totals),
        "stderr": attempt.stderr.as_ref().map(totals),
        "output_files": attempt.output_files.iter().map(output_file).collect::<Vec<_>>(),
        "output_problems": attempt.output_problems,
        "top_syscalls": counts(&attempt.top_syscalls),
        "unsupported_syscalls": counts(&attempt.unsupported_syscalls),
    })
}

fn usage(usage: &v1::Usage) -> Value {
    json!({
        "cpu_user": seconds!(usage.cpu_user),
        "cpu_system": seconds!(usage.cpu_system),
        "wall": seconds!(usage.wall),
        "peak_memory_bytes": usage.peak_memory_bytes,
        "read_bytes": usage.read_bytes,
        "written_bytes": usage.written_bytes,
        "peak_disk_bytes": usage.peak_disk_bytes,
        "oom_kills": usage.oom_kills,
    })
}

fn totals(totals: &v1::StreamTotals) -> Value {
    json!({
        "total_bytes": totals.total_bytes,
        "kept_bytes": totals.kept_bytes,
        "truncated": totals.truncated,
    })
}

fn output_file(file: &v1::OutputFile) -> Value {
    let mut object = bytes("path", &file.path);
    object.insert("mode".into(), json!(file.mode));
    object.insert("size_bytes".into(), json!(file.size_bytes));
    object.insert("blob_digest".into(), json!(file.blob_digest));
    object.insert("is_directory".into(), json!(file.is_directory));
    Value::Object(object)
}

/// `name` as text, and `name_base64` when the text is not exact.
fn bytes(name: &str, bytes: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert(name.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{name}_base64"), BASE64_STANDARD.encode(bytes).into());
    }
    object
}

fn spec(spec: &v1::JobSpec) -> Value {
    let image = match &spec.image {
        Some(v1::job_spec::Image::ImageName(name)) => json!({ "name": name }),
        Some(v1::job_spec::Image::ImageDigest(digest)) => json!({ "digest": digest }),
        None => Value::Null,
    };
    let env = spec.env.iter().map(|var| match var.secret {
        true => json!({ "name": var.name, "secret": true }),
        false => json!({ "name": var.name, "value": var.value, "secret": false }),
    });
    let outputs = spec.outputs.iter().map(|output| match &output.kind {
        Some(v1::output_spec::Kind::Glob(glob)) => json!({ "glob": glob }),
        Some(v1::output_spec::Kind::Directory(directory)) => json!({ "directory": directory }),
        None => Value::Null,
    });
    json!({
        "image": image,
        "argv": spec.argv,
        "env": env.collect::<Vec<_>>(),
        "working_directory": spec.working_directory,
        "user": spec.user,
        "stdin": spec.stdin.as_ref().map(content),
        "input_files": spec.input_files.iter().map(|file| json!({
            "path": file.path, "mode": file.mode, "content": file.content.as_ref().map(content),
        })).collect::<Vec<_>>(),
        "input_archives": spec.input_archives.iter().map(|archive| json!({
            "directory": archive.directory, "blob_digest": archive.blob_digest,
        })).collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "backend": spec.backend().as_str_name(),
        "priority": spec.priority().as_str_name(),
        "labels": spec.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "retry_policy": spec.retry_policy.as_ref().map(|retry| json!({
            "max_attempts": retry.max_attempts,
            "no_retry_on_lost": retry.no_retry_on_lost,
            "retry_on_failure": retry.retry_on_failure,
        })),
        "grace_period": seconds!(spec.grace_period),
        "limits": spec.limits.as_ref().map(limits),
    })
}

/// Content is described, not repeated.
fn content(content: &v1::Content) -> Value {
    match &content.kind {
        Some(v1::content::Kind::Inline(bytes)) => json!({ "inline_bytes": bytes.len() }),
        Some(v1::content::Kind::BlobDigest(digest)) => json!({ "blob_digest": digest }),
        None => Value::Null,
    }
}

fn limits(limits: &v1::Limits) -> Value {
    json!({
        "memory_bytes": limits.memory_bytes,
        "memory_request_bytes": limits.memory_request_bytes,
        "cpu_milli": limits.cpu_milli,
        "processes": limits.processes,
        "wall_time": seconds!(limits.wall_time),
        "cpu_time": seconds!(limits.cpu_time),
        "disk_bytes": limits.disk_bytes,
        "output_bytes": limits.output_bytes,
    })
}

/// One line of `logs --json`.
pub(crate) fn state_change(change: &v1::StateChange) -> Value {
    json!({
        "event": "state",
        "sequence": change.sequence,
        "state": change.state().as_str_name(),
        "attempt": change.attempt,
        "time": time(change.time.as_ref()),
        "reason": change.reason,
    })
}

/// One line of `logs --json`.
pub(crate) fn output_chunk(chunk: &v1::OutputChunk) -> Value {
    let mut object = bytes("data", &chunk.data);
    object.insert("event".into(), "output".into());
    object.insert("attempt".into(), chunk.attempt.into());
    object.insert("stream".into(), chunk.stream().as_str_name().to_lowercase().into());
    object.insert("offset".into(), chunk.offset.into());
    Value::Object(object)
}

/// An image of the service.
pub(crate) fn image(image: &v1::Image) -> Value {
    json!({
        "name": image.name,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "entrypoint": image.entrypoint,
        "command": image.command,
        "env": image.env,
        "user": image.user,
        "working_directory": image.working_directory,
        "create_time": time(image.create_time.as_ref()),
    })
}

/// A blob.
pub(crate) fn blob(blob: &v1::Blob) -> Value {
    json!({ "name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes })
}

/// A node.
pub(crate) fn node(node: &v1::Node) -> Value {
    json!({
        "name": node.name,
        "condition": node.condition().as_str_name(),
        "last_heartbeat_time": time(node.last_heartbeat_time.as_ref()),
        "memory_bytes": node.memory_bytes,
        "cpu_milli": node.cpu_milli,
        "disk_bytes": node.disk_bytes,
        "promised_memory_bytes": node.promised_memory_bytes,
        "promised_cpu_milli": node.promised_cpu_milli,
        "running_attempts": node.running_attempts,
        "backends": node.backends,
        "version": node.version,
        "sandbox_overhead_bytes": node.sandbox_overhead_bytes,
    })
}

/// A tenant.
pub(crate) fn tenant(tenant: &v1::Tenant) -> Value {
    json!({
        "name": tenant.name,
        "display_name": tenant.display_name,
        "create_time": time(tenant.create_time.as_ref()),
        "weight": tenant.weight,
        "max_active_jobs": tenant.max_active_jobs,
        "max_stored_bytes": tenant.max_stored_bytes,
        "stored_bytes": tenant.stored_bytes,
    })
}
