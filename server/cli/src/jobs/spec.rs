use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_client::{Client, v1};

use crate::failure::Failure;
use crate::progress;
use crate::sandbox::units;

/// Files and standard input up to this size, in bytes, travel in the request; larger ones as blobs. A job may have
/// 1 MiB of them together.
const INLINE_BYTES: u64 = 64 << 10;
const INLINE_TOTAL: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BackendArg {
    Auto,
    Sentry,
    Microvm,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PriorityArg {
    Low,
    Normal,
    High,
}

/// The job
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// Image, by name or digest (sha256:...) [default: the first of WORDS]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = units::variable)]
    env: Vec<(String, String)>,
    /// Secret variable, never returned, logged or stored in clear; NAME alone takes this process's own value
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = units::variable)]
    secret: Vec<(String, String)>,
    /// Working directory [default: the image's]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// User, as uid[:gid] or a name of the image [default: the image's]
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Give the job this command's standard input, which is read to its end first
    #[arg(long, short)]
    interactive: bool,
    /// Give the job this file as standard input
    #[arg(long, value_name = "FILE", conflicts_with = "interactive")]
    stdin: Option<PathBuf>,
    /// File to place into the sandbox; may be repeated
    #[arg(long, value_name = "FILE:PATH", value_parser = units::placement)]
    input: Vec<(PathBuf, String)>,
    /// Archive (tar, plain or with gzip) to unpack into a directory of the sandbox; may be repeated
    #[arg(long, value_name = "FILE:DIR", value_parser = units::placement)]
    input_archive: Vec<(PathBuf, String)>,
    /// Files to collect at the end, as a pattern (*, ?, [..], **); may be repeated
    #[arg(long, value_name = "PATTERN")]
    output: Vec<String>,
    /// Directory to collect at the end, as one tar; may be repeated
    #[arg(long, value_name = "DIR")]
    output_dir: Vec<String>,
    /// Label; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Sandbox [default: auto]
    #[arg(long, value_enum, value_name = "KIND")]
    backend: Option<BackendArg>,
    /// Order among waiting jobs [default: normal]
    #[arg(long, value_enum, value_name = "LEVEL")]
    priority: Option<PriorityArg>,
    /// Attempts in all [default: 2, the second only if the node was lost]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Also try again when the job itself failed
    #[arg(long)]
    retry_on_failure: bool,
    /// Do not try again when the node was lost
    #[arg(long)]
    no_retry_on_lost: bool,
    /// Time between SIGTERM and SIGKILL [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    grace: Option<u64>,
    #[command(flatten)]
    limits: LimitArgs,
    /// [IMAGE] COMMAND ARGS...
    #[arg(value_name = "WORDS", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits, all enforced")]
struct LimitArgs {
    /// Memory [default: 512M; 8M to 256G]
    #[arg(long, short, value_name = "SIZE", value_parser = units::size)]
    memory: Option<u64>,
    /// Memory that the job will probably need, for packing [default: the limit]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory_request: Option<u64>,
    /// CPUs [default: 1; 0.1 to 64]
    #[arg(long, visible_alias = "cpus", value_name = "CPUS", value_parser = units::cpus)]
    cpu: Option<u64>,
    /// Processes and threads at once [default: 512]
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Longest run [default: 10m; 100ms to 24h]
    #[arg(long, visible_alias = "timeout", value_name = "TIME", value_parser = units::time)]
    wall: Option<u64>,
    /// CPU time [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    cpu_time: Option<u64>,
    /// Bytes of writable files [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    disk: Option<u64>,
    /// Bytes of standard output and error together [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    output_limit: Option<u64>,
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
}

impl SpecArgs {
    /// Whether there is something that asks for collected files.
    pub(crate) fn collects(&self) -> bool {
        !self.output.is_empty() || !self.output_dir.is_empty()
    }

    /// The specification; uploads what does not fit into the request.
    pub(crate) async fn into_spec(self, client: &Client, parent: &str) -> Result<v1::JobSpec, Failure> {
        let mut words = self.words.into_iter();
        let Some(image) = self.image.or_else(|| words.next()) else {
            return Err(Failure::new("no image was given").hint("use: bulkhead run IMAGE COMMAND ARGS..."));
        };
        let mut content = ContentMaker { client, parent, inline_left: INLINE_TOTAL };
        let stdin = match (&self.stdin, self.interactive) {
            (Some(path), _) => Some(content.of_file(path).await?),
            (None, true) => Some(content.of_stdin().await?),
            (None, false) => None,
        };
        let mut input_files = Vec::new();
        for (path, target) in &self.input {
            let mode = file_mode(path)?;
            input_files.push(v1::InputFile {
                path: target.clone(),
                mode,
                content: Some(content.of_file(path).await?),
            });
        }
        let mut input_archives = Vec::new();
        for (path, directory) in &self.input_archive {
            let blob_digest = content.upload(path).await?;
            input_archives.push(v1::InputArchive { directory: directory.clone(), blob_digest });
        }
        let globs = self.output.into_iter().map(v1::output_spec::Kind::Glob);
        let directories = self.output_dir.into_iter().map(v1::output_spec::Kind::Directory);
        let retry_policy = v1::RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(0),
            no_retry_on_lost: self.no_retry_on_lost,
            retry_on_failure: self.retry_on_failure,
        };
        let mut spec = v1::JobSpec {
            image: Some(image_of(image)),
            argv: words.collect(),
            env: variables(self.env, self.secret),
            working_directory: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            stdin,
            input_files,
            input_archives,
            outputs: globs.chain(directories).map(|kind| v1::OutputSpec { kind: Some(kind) }).collect(),
            labels: self.label.into_iter().collect(),
            retry_policy: Some(retry_policy),
            limits: Some(self.limits.into_limits()),
            ..Default::default()
        };
        if let Some(grace) = self.grace {
            spec.grace_period = duration(grace);
        }
        spec.set_backend(match self.backend {
            None => v1::Backend::Unspecified,
            Some(BackendArg::Auto) => v1::Backend::Auto,
            Some(BackendArg::Sentry) => v1::Backend::Sentry,
            Some(BackendArg::Microvm) => v1::Backend::Microvm,
        });
        spec.set_priority(match self.priority {
            None => v1::Priority::Unspecified,
            Some(PriorityArg::Low) => v1::Priority::Low,
            Some(PriorityArg::Normal) => v1::Priority::Normal,
            Some(PriorityArg::High) => v1::Priority::High,
        });
        Ok(spec)
    }
}

fn image_of(text: String) -> v1::job_spec::Image {
    if text.starts_with("sha256:") {
        v1::job_spec::Image::ImageDigest(text)
    } else {
        v1::job_spec::Image::ImageName(text)
    }
}

fn variables(open: Vec<(String, String)>, secret: Vec<(String, String)>) -> Vec<v1::EnvVar> {
    let open = open.into_iter().map(|(name, value)| v1::EnvVar { name, value, secret: false });
    open.chain(secret.into_iter().map(|(name, value)| v1::EnvVar { name, value, secret: true })).collect()
}

impl LimitArgs {
    /// 0 means the service's default.
    fn into_limits(self) -> v1::Limits {
        let number = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
        v1::Limits {
            memory_bytes: number(self.memory),
            memory_request_bytes: number(self.memory_request),
            cpu_milli: number(self.cpu),
            processes: number(self.pids),
            wall_time: self.wall.and_then(duration),
            cpu_time: self.cpu_time.and_then(duration),
            disk_bytes: number(self.disk),
            output_bytes: number(self.output_limit),
        }
    }
}

fn duration<T: TryFrom<Duration>>(ms: u64) -> Option<T> {
    // What people can type is at most a year, which every form of a duration holds.
    Duration::from_millis(ms).try_into().ok()
}

fn file_mode(path: &Path) -> Result<u32, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let metadata =
        std::fs::metadata(path).map_err(|e| Failure::of(format!("can't read {}", path.display()), &e))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Makes contents of files: small ones inline, others as blobs.
struct ContentMaker<'a> {
    client: &'a Client,
    parent: &'a str,
    inline_left: u64,
}

impl ContentMaker<'_> {
    async fn of_file(&mut self, path: &Path) -> Result<v1::Content, Failure> {
        let failed = |e: std::io::Error| Failure::of(format!("can't read {}", path.display()), &e);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if metadata.is_file() && metadata.len() <= INLINE_BYTES {
            let bytes = std::fs::read(path).map_err(failed)?;
            if let Some(inline) = self.inline(&bytes) {
                return Ok(inline);
            }
        }
        Ok(blob(self.upload(path).await?))
    }

    async fn of_stdin(&mut self) -> Result<v1::Content, Failure> {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|e| Failure::of("can't read standard input", &e))?;
        if let Some(inline) = self.inline(&bytes) {
            return Ok(inline);
        }
        let uploaded = self.client.upload_blob(self.parent, std::io::Cursor::new(bytes), None).await?;
        Ok(blob(uploaded.digest))
    }

    fn inline(&mut self, bytes: &[u8]) -> Option<v1::Content> {
        let size = bytes.len() as u64;
        if size > INLINE_BYTES || size > self.inline_left {
            return None;
        }
        self.inline_left -= size;
        Some(v1::Content { kind: Some(v1::content::Kind::Inline(bytes.to_vec())) })
    }

    async fn upload(&self, path: &Path) -> Result<String, Failure> {
        let file = progress::open(path, "uploading").await?;
        Ok(self.client.upload_blob(self.parent, file, None).await?.digest)
    }
}

fn blob(digest: String) -> v1::Content {
    v1::Content { kind: Some(v1::content::Kind::BlobDigest(digest)) }
}
