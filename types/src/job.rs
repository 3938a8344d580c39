use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageName, LimitError, Limits};

/// How large the parts of a job may be. All are checked by [`JobSpec::validate`].
pub mod bounds {
    /// argv and env together, in bytes with a terminator and a pointer each: Linux's ARG_MAX for the default
    /// 8 MiB stack is 2 MiB; a job must leave room for what the sandbox adds.
    pub const ARGV_ENV_BYTES: usize = 1 << 20;
    /// One string of argv or env: Linux's MAX_ARG_STRLEN.
    pub const STRING_BYTES: usize = 128 << 10;
    /// Strings in argv.
    pub const ARGV_COUNT: usize = 4096;
    /// Variables in env.
    pub const ENV_COUNT: usize = 4096;
    /// A path in the sandbox: Linux's PATH_MAX.
    pub const PATH_BYTES: usize = 4096;
    /// Input files of a job.
    pub const INPUT_FILES: usize = 1024;
    /// Input archives of a job.
    pub const INPUT_ARCHIVES: usize = 16;
    /// Output patterns of a job.
    pub const OUTPUTS: usize = 64;
    /// Bytes given inline in the request, all together; larger content comes as a blob.
    pub const INLINE_BYTES: usize = 1 << 20;
    /// Labels of a job.
    pub const LABELS: usize = 32;
    /// The key or value of a label, in bytes.
    pub const LABEL_BYTES: usize = 63;
    /// Attempts that a retry policy may ask for.
    pub const ATTEMPTS: u32 = 10;
    /// The longest grace period between SIGTERM and SIGKILL, in milliseconds.
    pub const GRACE_PERIOD_MS: u64 = 60_000;
    /// The grace period when a job says nothing, in milliseconds.
    pub const DEFAULT_GRACE_PERIOD_MS: u64 = 2_000;
    /// Files that one job's outputs may collect.
    pub const OUTPUT_FILES: usize = 1024;
}

/// Which sandbox a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Backend {
    /// The service chooses: the sentry.
    #[default]
    Auto,
    /// The user-space kernel.
    Sentry,
    /// A virtual machine with a Linux kernel of its own.
    Microvm,
}

impl Backend {
    /// The name of what runs the job, as nodes offer it and attempts report it.
    pub const fn runs_on(self) -> &'static str {
        match self {
            Backend::Auto | Backend::Sentry => "sentry",
            Backend::Microvm => "microvm",
        }
    }
}

/// An image by name or by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageRef {
    /// By name: the tenant's own image first, then one that the operator shares.
    Name(ImageName),
    /// By digest.
    Digest(Digest),
}

/// A variable of the job's environment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name, without `=` and NUL.
    pub name: String,
    /// Value, without NUL.
    pub value: String,
    /// Whether the value is never returned, logged or stored in clear.
    pub secret: bool,
}

impl std::fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.secret { "<secret>" } else { &self.value };
        write!(f, "{}={value}", self.name)
    }
}

/// Bytes given in the request, or a blob that was uploaded before.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// A blob of the same tenant.
    Blob(Digest),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Blob(digest) => write!(f, "Blob({digest})"),
        }
    }
}

/// A file placed into the sandbox before the job starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Absolute path in the sandbox; missing parents are made.
    pub path: String,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// What the file holds.
    pub content: Content,
}

/// A tar archive (plain or gzip is told by its first bytes) unpacked before the job starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputArchive {
    /// Absolute path of the directory, made if missing.
    pub directory: String,
    /// The archive's blob.
    pub blob: Digest,
}

/// What to collect from the sandbox when the attempt ends, also when it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputSpec {
    /// Every regular file that matches this absolute pattern (`*`, `?`, `[..]`, `**`), each as a blob.
    Glob(String),
    /// This absolute directory as one tar blob.
    Directory(String),
}

/// When a failed attempt is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// Retry when the node was lost.
    pub on_lost: bool,
    /// Retry when the job ended by itself with a failure (FAILED, SIGNALED, OUT_OF_MEMORY, ...).
    pub on_failure: bool,
}

impl Default for RetryPolicy {
    /// Two attempts, the second only when the node was lost.
    fn default() -> Self {
        Self { max_attempts: 2, on_lost: true, on_failure: false }
    }
}

/// Order inside one tenant's queue and between tenants of equal use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Priority {
    /// Runs when nothing else waits.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Runs before the others.
    High,
}

/// Who the job runs as: `uid[:gid]` or names of the image's own /etc/passwd and /etc/group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec(pub String);

/// A job as its owner described it, validated, with every default filled in that does not depend on the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The root file system.
    pub image: ImageRef,
    /// The command; empty means the image's entrypoint and command.
    pub argv: Vec<String>,
    /// Added to, and overriding, the image's environment.
    pub env: Vec<EnvVar>,
    /// Absolute path; none means the image's.
    pub working_directory: Option<String>,
    /// None means the image's user.
    pub user: Option<UserSpec>,
    /// Standard input; none means empty.
    pub stdin: Option<Content>,
    /// Files placed before the start.
    pub input_files: Vec<InputFile>,
    /// Archives unpacked before the start, before the files.
    pub input_archives: Vec<InputArchive>,
    /// What to collect at the end.
    pub outputs: Vec<OutputSpec>,
    /// The sandbox asked for.
    pub backend: Backend,
    /// Order among waiting jobs.
    pub priority: Priority,
    /// For the owner's own bookkeeping and filters.
    pub labels: BTreeMap<String, String>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Time between SIGTERM and SIGKILL, in milliseconds.
    pub grace_period_ms: u64,
    /// All in force.
    pub limits: Limits,
}

impl JobSpec {
    /// A job that says nothing but what to run: all else is the default.
    pub fn new(image: ImageRef, argv: Vec<String>) -> Self {
        Self {
            image,
            argv,
            env: Vec::new(),
            working_directory: None,
            user: None,
            stdin: None,
            input_files: Vec::new(),
            input_archives: Vec::new(),
            outputs: Vec::new(),
            backend: Backend::Auto,
            priority: Priority::Normal,
            labels: BTreeMap::new(),
            retry: RetryPolicy::default(),
            grace_period_ms: bounds::DEFAULT_GRACE_PERIOD_MS,
            limits: Limits::default(),
        }
    }

    /// What a node needs on its disk for the job, in bytes: the files that it writes in its sandbox, the copies of
    /// those that are collected (together at most as much again), and what it prints, which both wait there until the
    /// service has them.
    pub fn node_disk_bytes(&self) -> u64 {
        let collected = if self.outputs.is_empty() { 0 } else { self.limits.disk_bytes };
        self.limits.disk_bytes.saturating_add(collected).saturating_add(self.limits.output_bytes)
    }
}

/// What is wrong with a job's description; names the field as the API spells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A limit is out of range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Any other field.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path, for example `spec.input_files[3].path`.
        field: String,
        /// What is wrong and what is accepted.
        problem: String,
    },
}

impl SpecError {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    /// The field that is wrong, as the API spells it.
    pub fn field(&self) -> &str {
        match self {
            Self::Limit(error) => error.field,
            Self::Field { field, .. } => field,
        }
    }
}

impl JobSpec {
    /// Checks everything that can be checked without the image.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.validate_command()?;
        self.validate_inputs()?;
        self.validate_rest()
    }

    fn validate_command(&self) -> Result<(), SpecError> {
        at_most("spec.argv", self.argv.len(), bounds::ARGV_COUNT, "arguments")?;
        at_most("spec.env", self.env.len(), bounds::ENV_COUNT, "variables")?;
        let mut total = 0;
        for (index, arg) in self.argv.iter().enumerate() {
            total += arg.len() + 9;
            string(&format!("spec.argv[{index}]"), arg, bounds::STRING_BYTES)?;
        }
        if self.argv.first().is_some_and(String::is_empty) {
            return Err(SpecError::new("spec.argv[0]", "the command must not be empty"));
        }
        for (index, var) in self.env.iter().enumerate() {
            let field = format!("spec.env[{index}]");
            total += var.name.len() + var.value.len() + 10;
            if var.name.is_empty() || var.name.contains('=') {
                return Err(SpecError::new(field, "a name must not be empty or hold '='"));
            }
            string(&field, &var.name, bounds::STRING_BYTES)?;
            string(&field, &var.value, bounds::STRING_BYTES)?;
        }
        at_most("spec.argv", total, bounds::ARGV_ENV_BYTES, "bytes of arguments and environment")?;
        if let Some(directory) = &self.working_directory {
            absolute("spec.working_directory", directory)?;
        }
        match &self.user {
            Some(UserSpec(user)) if user.is_empty() || user.len() > 128 || user.contains('\0') => {
                Err(SpecError::new("spec.user", "a user is uid[:gid] or name[:group], at most 128 bytes"))
            }
            _ => Ok(()),
        }
    }

    fn validate_inputs(&self) -> Result<(), SpecError> {
        at_most("spec.input_files", self.input_files.len(), bounds::INPUT_FILES, "files")?;
        at_most("spec.input_archives", self.input_archives.len(), bounds::INPUT_ARCHIVES, "archives")?;
        at_most("spec.outputs", self.outputs.len(), bounds::OUTPUTS, "outputs")?;
        let mut inline = inline_bytes(self.stdin.as_ref());
        for (index, file) in self.input_files.iter().enumerate() {
            inline += inline_bytes(Some(&file.content));
            let field = format!("spec.input_files[{index}]");
            absolute(&format!("{field}.path"), &file.path)?;
            if file.path.ends_with('/') {
                return Err(SpecError::new(format!("{field}.path"), "a file's path must not end with '/'"));
            }
            if file.mode > 0o7777 {
                return Err(SpecError::new(format!("{field}.mode"), "a mode is at most 0o7777"));
            }
        }
        at_most("spec.input_files", inline, bounds::INLINE_BYTES, "inline bytes (upload a blob instead)")?;
        for (index, archive) in self.input_archives.iter().enumerate() {
            absolute(&format!("spec.input_archives[{index}].directory"), &archive.directory)?;
        }
        for (index, output) in self.outputs.iter().enumerate() {
            let (OutputSpec::Glob(path) | OutputSpec::Directory(path)) = output;
            absolute(&format!("spec.outputs[{index}]"), path)?;
        }
        Ok(())
    }

    fn validate_rest(&self) -> Result<(), SpecError> {
        at_most("spec.labels", self.labels.len(), bounds::LABELS, "labels")?;
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > bounds::LABEL_BYTES || value.len() > bounds::LABEL_BYTES {
                let problem = format!("keys have 1 to {0} bytes, values at most {0}", bounds::LABEL_BYTES);
                return Err(SpecError::new("spec.labels", problem));
            }
            if key.contains('\0') || value.contains('\0') {
                return Err(SpecError::new("spec.labels", "keys and values must not hold NUL"));
            }
        }
        if !(1..=bounds::ATTEMPTS).contains(&self.retry.max_attempts) {
            let problem = format!("must be between 1 and {}", bounds::ATTEMPTS);
            return Err(SpecError::new("spec.retry_policy.max_attempts", problem));
        }
        if self.grace_period_ms > bounds::GRACE_PERIOD_MS {
            let problem = format!("must be at most {} ms", bounds::GRACE_PERIOD_MS);
            return Err(SpecError::new("spec.grace_period", problem));
        }
        if self.limits.memory_request_bytes > self.limits.memory_bytes {
            return Err(SpecError::new(
                "spec.limits.memory_request_bytes",
                "must be at most limits.memory_bytes",
            ));
        }
        Ok(())
    }
}

fn inline_bytes(content: Option<&Content>) -> usize {
    match content {
        Some(Content::Inline(bytes)) => bytes.len(),
        _ => 0,
    }
}

fn at_most(field: &str, got: usize, max: usize, what: &str) -> Result<(), SpecError> {
    if got <= max {
        return Ok(());
    }
    Err(SpecError::new(field, format!("at most {max} {what} are accepted; got {got}")))
}

fn string(field: &str, text: &str, max: usize) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::new(field, "must not hold NUL"));
    }
    at_most(field, text.len(), max, "bytes")
}

fn absolute(field: &str, path: &str) -> Result<(), SpecError> {
    string(field, path, bounds::PATH_BYTES)?;
    if !path.starts_with('/') {
        return Err(SpecError::new(field, "an absolute path is needed"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(SpecError::new(field, "a path must not hold '..'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        JobSpec::new(ImageRef::Name(ImageName::new("demo").expect("valid")), vec!["/bin/true".into()])
    }

    #[test]
    fn a_node_keeps_room_for_all_that_a_job_may_leave_on_its_disk() {
        let mut job = spec();
        (job.limits.disk_bytes, job.limits.output_bytes) = (100, 7);
        assert_eq!(job.node_disk_bytes(), 107);
        job.outputs.push(OutputSpec::Glob("/out/*".into()));
        assert_eq!(job.node_disk_bytes(), 207);
        job.limits.disk_bytes = u64::MAX;
        assert_eq!(job.node_disk_bytes(), u64::MAX);
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Break = fn(&mut JobSpec);
        let file =
            |path: &str| InputFile { path: path.into(), mode: 0o644, content: Content::Inline(vec![]) };
        assert_eq!(spec().validate(), Ok(()));
        let mut with_file = spec();
        with_file.input_files.push(file("/a/../b"));
        assert_eq!(with_file.validate().expect_err("dots").field(), "spec.input_files[0].path");
        let cases: [(&str, Break); 8] = [
            ("spec.argv[0]", |s| s.argv = vec![String::new()]),
            ("spec.argv[0]", |s| s.argv = vec!["a\0b".into()]),
            ("spec.argv", |s| s.argv = vec!["x".repeat(100_000); 20]),
            ("spec.env[0]", |s| {
                s.env.push(EnvVar { name: "a=b".into(), value: String::new(), secret: false })
            }),
            ("spec.labels", |s| s.labels = (0..100_000).map(|i| (i.to_string(), String::new())).collect()),
            ("spec.retry_policy.max_attempts", |s| s.retry.max_attempts = 0),
            ("spec.outputs[0]", |s| s.outputs.push(OutputSpec::Glob("out/*".into()))),
            ("spec.limits.memory_request_bytes", |s| s.limits.memory_request_bytes = u64::MAX),
        ];
        for (field, break_it) in cases {
            let mut broken = spec();
            break_it(&mut broken);
            assert_eq!(broken.validate().expect_err(field).field(), field);
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        let var = EnvVar { name: "TOKEN".into(), value: "hunter2".into(), secret: true };
        assert!(!format!("{var:?}").contains("hunter2"));
    }
}
