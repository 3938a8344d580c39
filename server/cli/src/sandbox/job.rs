//! What the commands of all kinds of sandboxes take alike, and the job that it describes.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use bulkhead_sandbox::{Input, Job};
use bulkhead_types::{EnvVar, Limits};

use super::image::Defaults;
use super::{AnyError, units};

/// `PATH` of a job whose image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The job and its limits.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    /// Image in the local store, by name or digest
    #[arg(long, value_name = "NAME", conflicts_with = "rootfs")]
    pub(super) image: Option<String>,
    /// Directory that holds the root file system; it is copied, never written
    #[arg(long, value_name = "DIR")]
    pub(super) rootfs: Option<PathBuf>,
    /// Where images are and scratch files go
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = "/var/lib/bulkhead")]
    pub(super) data_dir: PathBuf,
    /// Memory, hard limit [bytes, or with K, M, G; default 512M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory: Option<u64>,
    /// CPUs [for example 0.5; default 1]
    #[arg(long, value_name = "CPUS", value_parser = units::cpus)]
    cpu: Option<u64>,
    /// Processes and threads at once [default 512]
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Longest run [for example 90s, 5m, 500ms; default 10m]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    wall: Option<u64>,
    /// CPU time [default 10m]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    cpu_time: Option<u64>,
    /// Bytes of writable files [default 1G]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    disk: Option<u64>,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "2s")]
    grace: u64,
    /// Environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = units::variable)]
    env: Vec<(String, String)>,
    /// Working directory [default: the image's]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// User, as uid[:gid] or a name of the image [default: the image's]
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Host name that the job sees
    #[arg(long, value_name = "NAME", default_value = "sandbox")]
    hostname: String,
    /// Archive (tar, plain or gzip) to unpack into a directory of the sandbox; may be repeated
    #[arg(long, value_name = "FILE:DIR", value_parser = units::placement)]
    input_archive: Vec<(PathBuf, String)>,
    /// File to place into the sandbox; may be repeated
    #[arg(long, value_name = "FILE:PATH", value_parser = units::placement)]
    input: Vec<(PathBuf, String)>,
    /// Say nothing on standard error, also when a limit was hit
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Write the outcome (state, reason, usage, system calls) to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// The command and its arguments [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn limits(args: &JobArgs) -> Result<Limits, AnyError> {
    let pick = |limit: bulkhead_types::Limit, value: Option<u64>| {
        limit.resolve(i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX))
    };
    let memory_bytes = pick(Limits::MEMORY, args.memory)?;
    Ok(Limits {
        memory_bytes,
        memory_request_bytes: memory_bytes,
        cpu_milli: pick(Limits::CPU, args.cpu)?,
        processes: pick(Limits::PROCESSES, args.pids)?,
        wall_time_ms: pick(Limits::WALL_TIME, args.wall)?,
        cpu_time_ms: pick(Limits::CPU_TIME, args.cpu_time)?,
        disk_bytes: pick(Limits::DISK, args.disk)?,
        // The streams are this process's own: whoever reads them decides how much is enough.
        output_bytes: Limits::OUTPUT.max,
    })
}

/// The job; its streams are this process's.
pub(super) fn job(
    args: JobArgs,
    image: bulkhead_sandbox::ImageFiles,
    defaults: Defaults,
) -> Result<Job, AnyError> {
    let argv = defaults.argv(args.command);
    if argv.is_empty() {
        return Err("no command: the image has none, so give one after --".into());
    }
    let mut env = defaults.env;
    if !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    for (name, value) in args.env {
        env.retain(|(other, _)| *other != name);
        env.push((name, value));
    }
    let open = |path: &PathBuf| -> Result<Box<dyn io::Read + Send>, AnyError> {
        let file = std::fs::File::open(path).map_err(|e| format!("can't open {}: {e}", path.display()))?;
        Ok(Box::new(file))
    };
    let mut inputs = Vec::new();
    for (path, directory) in args.input_archive {
        inputs.push(Input::Archive { directory, source: open(&path)? });
    }
    for (source, path) in args.input {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&source).map_or(0o644, |m| m.permissions().mode() & 0o7777);
        inputs.push(Input::File { path, mode, source: open(&source)? });
    }
    Ok(Job {
        image,
        argv,
        env: env.into_iter().map(|(name, value)| EnvVar { name, value, secret: false }).collect(),
        working_directory: args.workdir.unwrap_or(defaults.working_directory),
        user: args.user.unwrap_or(defaults.user),
        hostname: args.hostname,
        stdin: io::stdin().as_fd().try_clone_to_owned()?,
        stdout: io::stdout().as_fd().try_clone_to_owned()?,
        stderr: io::stderr().as_fd().try_clone_to_owned()?,
        inputs,
        outputs: Vec::new(),
        grace_period_ms: args.grace,
    })
}
