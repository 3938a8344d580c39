//! A job's description as the API has it, made into the service's own, defaults filled in, checked.

use std::collections::BTreeMap;

use bulkhead_proto::v1;
use bulkhead_types::{
    Backend, Content, Digest, EnvVar, ImageName, ImageRef, InputArchive, InputFile, JobSpec, Limit, Limits,
    OutputSpec, Priority, RetryPolicy, SpecError, UserSpec, bounds,
};

use super::millis;
use crate::error::ApiError;

/// Permission bits of an input file that says nothing.
const DEFAULT_MODE: u32 = 0o644;

/// Converts and checks a description.
///
/// # Errors
/// [`ApiError::Field`]: the first field that is wrong, as the API spells it.
pub(crate) fn job_spec(spec: Option<v1::JobSpec>) -> Result<JobSpec, ApiError> {
    let spec = spec.ok_or_else(|| ApiError::field("spec", "a description of the job is needed"))?;
    // Counts first: a list that is too long must not cost a conversion.
    check_counts(&spec)?;
    let converted = JobSpec {
        image: image(spec.image)?,
        argv: spec.argv,
        env: spec.env.into_iter().map(env_var).collect(),
        working_directory: Some(spec.working_directory).filter(|path| !path.is_empty()),
        user: Some(spec.user).filter(|user| !user.is_empty()).map(UserSpec),
        stdin: spec.stdin.map(|stdin| content("spec.stdin", stdin)).transpose()?,
        input_files: each(spec.input_files, "spec.input_files", input_file)?,
        input_archives: each(spec.input_archives, "spec.input_archives", input_archive)?,
        outputs: each(spec.outputs, "spec.outputs", output)?,
        backend: backend(spec.backend)?,
        priority: priority(spec.priority)?,
        labels: spec.labels.into_iter().collect::<BTreeMap<_, _>>(),
        retry: retry(spec.retry_policy.unwrap_or_default()),
        grace_period_ms: grace_period(spec.grace_period)?,
        limits: limits(spec.limits.unwrap_or_default())?,
    };
    converted.validate()?;
    Ok(converted)
}

fn check_counts(spec: &v1::JobSpec) -> Result<(), ApiError> {
    let counts = [
        ("spec.argv", spec.argv.len(), bounds::ARGV_COUNT),
        ("spec.env", spec.env.len(), bounds::ENV_COUNT),
        ("spec.input_files", spec.input_files.len(), bounds::INPUT_FILES),
        ("spec.input_archives", spec.input_archives.len(), bounds::INPUT_ARCHIVES),
        ("spec.outputs", spec.outputs.len(), bounds::OUTPUTS),
        ("spec.labels", spec.labels.len(), bounds::LABELS),
    ];
    match counts.iter().find(|(_, got, max)| got > max) {
        Some((field, got, max)) => {
            Err(ApiError::field(*field, format!("at most {max} entries are accepted; got {got}")))
        }
        None => Ok(()),
    }
}

fn each<A, B>(
    list: Vec<A>,
    field: &str,
    convert: impl Fn(&str, A) -> Result<B, ApiError>,
) -> Result<Vec<B>, ApiError> {
    list.into_iter().enumerate().map(|(index, item)| convert(&format!("{field}[{index}]"), item)).collect()
}

fn image(image: Option<v1::job_spec::Image>) -> Result<ImageRef, ApiError> {
    use v1::job_spec::Image;
    match image {
        None => Err(ApiError::field("spec.image_name", "an image is needed: its name, or image_digest")),
        Some(Image::ImageName(name)) => {
            let name = ImageName::new(name).map_err(crate::error::bad_name("spec.image_name"))?;
            Ok(ImageRef::Name(name))
        }
        Some(Image::ImageDigest(text)) => Ok(ImageRef::Digest(digest("spec.image_digest", &text)?)),
    }
}

fn digest(field: &str, text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: bulkhead_types::ParseDigestError| ApiError::field(field, error.to_string()))
}

fn env_var(var: v1::EnvVar) -> EnvVar {
    EnvVar { name: var.name, value: var.value, secret: var.secret }
}

fn content(field: &str, content: v1::Content) -> Result<Content, ApiError> {
    use v1::content::Kind;
    match content.kind {
        None => Err(ApiError::field(field, "inline bytes or blob_digest is needed")),
        Some(Kind::Inline(bytes)) => Ok(Content::Inline(bytes)),
        Some(Kind::BlobDigest(text)) => Ok(Content::Blob(digest(&format!("{field}.blob_digest"), &text)?)),
    }
}

fn input_file(field: &str, file: v1::InputFile) -> Result<InputFile, ApiError> {
    let content = content(&format!("{field}.content"), file.content.unwrap_or_default())?;
    let mode = if file.mode == 0 { DEFAULT_MODE } else { file.mode };
    Ok(InputFile { path: file.path, mode, content })
}

fn input_archive(field: &str, archive: v1::InputArchive) -> Result<InputArchive, ApiError> {
    let blob = digest(&format!("{field}.blob_digest"), &archive.blob_digest)?;
    Ok(InputArchive { directory: archive.directory, blob })
}

fn output(field: &str, output: v1::OutputSpec) -> Result<OutputSpec, ApiError> {
    use v1::output_spec::Kind;
    match output.kind {
        None => Err(ApiError::field(field, "a glob or a directory is needed")),
        Some(Kind::Glob(pattern)) => Ok(OutputSpec::Glob(pattern)),
        Some(Kind::Directory(path)) => Ok(OutputSpec::Directory(path)),
    }
}

fn backend(number: i32) -> Result<Backend, ApiError> {
    match v1::Backend::try_from(number) {
        Ok(v1::Backend::Unspecified | v1::Backend::Auto) => Ok(Backend::Auto),
        Ok(v1::Backend::Sentry) => Ok(Backend::Sentry),
        Ok(v1::Backend::Microvm) => Ok(Backend::Microvm),
        Err(_) => {
            Err(ApiError::field("spec.backend", format!("there is no backend with the number {number}")))
        }
    }
}

fn priority(number: i32) -> Result<Priority, ApiError> {
    match v1::Priority::try_from(number) {
        Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Ok(Priority::Normal),
        Ok(v1::Priority::Low) => Ok(Priority::Low),
        Ok(v1::Priority::High) => Ok(Priority::High),
        Err(_) => {
            Err(ApiError::field("spec.priority", format!("there is no priority with the number {number}")))
        }
    }
}

fn retry(policy: v1::RetryPolicy) -> RetryPolicy {
    let default = RetryPolicy::default();
    RetryPolicy {
        max_attempts: if policy.max_attempts == 0 { default.max_attempts } else { policy.max_attempts },
        on_lost: !policy.no_retry_on_lost,
        on_failure: policy.retry_on_failure,
    }
}

fn grace_period(span: Option<prost_types::Duration>) -> Result<u64, ApiError> {
    let Some(span) = span else { return Ok(bounds::DEFAULT_GRACE_PERIOD_MS) };
    u64::try_from(millis(&span)).map_err(|_| ApiError::field("spec.grace_period", "must not be negative"))
}

fn limits(limits: v1::Limits) -> Result<Limits, ApiError> {
    let resolve = |limit: Limit, got: i64| limit.resolve(got).map_err(SpecError::Limit);
    let span = |span: Option<prost_types::Duration>| span.map_or(0, |span| millis(&span));
    let memory_bytes = resolve(Limits::MEMORY, limits.memory_bytes)?;
    let memory_request_bytes = match u64::try_from(limits.memory_request_bytes) {
        Ok(0) => memory_bytes,
        Ok(bytes) => bytes,
        Err(_) => return Err(ApiError::field("spec.limits.memory_request_bytes", "must not be negative")),
    };
    Ok(Limits {
        memory_bytes,
        memory_request_bytes,
        cpu_milli: resolve(Limits::CPU, limits.cpu_milli)?,
        processes: resolve(Limits::PROCESSES, limits.processes)?,
        wall_time_ms: resolve(Limits::WALL_TIME, span(limits.wall_time))?,
        cpu_time_ms: resolve(Limits::CPU_TIME, span(limits.cpu_time))?,
        disk_bytes: resolve(Limits::DISK, limits.disk_bytes)?,
        output_bytes: resolve(Limits::OUTPUT, limits.output_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> v1::JobSpec {
        v1::JobSpec {
            image: Some(v1::job_spec::Image::ImageName("demo".into())),
            argv: vec!["/bin/true".into()],
            ..Default::default()
        }
    }

    fn wrong_field(spec: v1::JobSpec) -> String {
        match job_spec(Some(spec)).expect_err("wrong") {
            ApiError::Field { field, .. } => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let converted = job_spec(Some(spec())).expect("valid");
        assert_eq!(converted.limits, Limits::default());
        assert_eq!(converted.retry, RetryPolicy::default());
        assert_eq!(converted.grace_period_ms, bounds::DEFAULT_GRACE_PERIOD_MS);
        assert_eq!(converted.backend, Backend::Auto);
        let mut with_file = spec();
        let kind = Some(v1::content::Kind::Inline(vec![1]));
        with_file.input_files.push(v1::InputFile {
            path: "/a".into(),
            mode: 0,
            content: Some(v1::Content { kind }),
        });
        assert_eq!(job_spec(Some(with_file)).expect("valid").input_files[0].mode, 0o644);
        let mut smaller = spec();
        smaller.limits = Some(v1::Limits { memory_bytes: 16 << 20, ..Default::default() });
        assert_eq!(job_spec(Some(smaller)).expect("valid").limits.memory_request_bytes, 16 << 20);
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Break = fn(&mut v1::JobSpec);
        let cases: [(&str, Break); 19] = [
            ("spec.image_name", |s| s.image = None),
            ("spec.image_name", |s| s.image = Some(v1::job_spec::Image::ImageName("A".into()))),
            ("spec.image_digest", |s| s.image = Some(v1::job_spec::Image::ImageDigest("x".into()))),
            ("spec.argv", |s| s.argv = vec!["x".repeat(100_000); 21]),
            ("spec.argv[0]", |s| s.argv = vec!["x".repeat(2 << 20)]),
            ("spec.argv", |s| s.argv = vec!["x".into(); 100_000]),
            ("spec.labels", |s| s.labels = (0..100_000).map(|i| (i.to_string(), String::new())).collect()),
            ("spec.stdin", |s| s.stdin = Some(v1::Content { kind: None })),
            ("spec.input_files[0].content", |s| s.input_files.push(v1::InputFile::default())),
            ("spec.input_archives[0].blob_digest", |s| {
                s.input_archives.push(v1::InputArchive { directory: "/in".into(), blob_digest: "?".into() });
            }),
            ("spec.outputs[0]", |s| s.outputs.push(v1::OutputSpec { kind: None })),
            ("spec.backend", |s| s.backend = 17),
            ("spec.priority", |s| s.priority = -1),
            ("spec.retry_policy.max_attempts", |s| {
                s.retry_policy = Some(v1::RetryPolicy { max_attempts: 11, ..Default::default() });
            }),
            ("spec.grace_period", |s| s.grace_period = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
            ("spec.grace_period", |s| s.grace_period = Some(prost_types::Duration { seconds: 61, nanos: 0 })),
            ("spec.limits.memory_bytes", |s| {
                s.limits = Some(v1::Limits { memory_bytes: -1, ..Default::default() });
            }),
            ("spec.limits.memory_request_bytes", |s| {
                s.limits = Some(v1::Limits { memory_request_bytes: i64::MAX, ..Default::default() });
            }),
            ("spec.limits.wall_time", |s| {
                let forever = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
                s.limits = Some(v1::Limits { wall_time: Some(forever), ..Default::default() });
            }),
        ];
        for (field, break_it) in cases {
            let mut broken = spec();
            break_it(&mut broken);
            assert_eq!(wrong_field(broken), field);
        }
        assert!(job_spec(None).is_err());
    }
}
