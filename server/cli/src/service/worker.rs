use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_daemon::{Backends, Worker, WorkerConfig};
use bulkhead_pool::{Pool, PoolOptions};
use bulkhead_sandbox::{
    MicrovmBackend, MicrovmOptions, SentryBackend, SentryOptions, chain, leftovers, microvm,
};
use bulkhead_server::identity::SERVER_NAME;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::life;
use crate::failure::Failure;
use crate::sandbox::units;

/// A server that does not answer a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// A dead connection is noticed within these, long before a lease ends.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Most warm sandboxes: what they hold comes from the memory that the host keeps, of which they may fill a half.
const MOST_WARM: u16 = 64;

/// Run jobs for a server: half of what `serve` runs, or another machine's
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// Where the server's address for workers is
    #[arg(
        long,
        value_name = "URL",
        env = "BULKHEAD_WORKER_SERVER",
        default_value = "https://127.0.0.1:7444"
    )]
    server: String,
    /// Directory with authority.pem, node.pem and node.key.pem, from `bulkhead node credentials`
    #[arg(long, value_name = "DIR")]
    identity: PathBuf,
    #[command(flatten)]
    pub(super) options: WorkerOptions,
    /// Where the spool, the cache and scratch files are
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bulkhead/worker")]
    data_dir: PathBuf,
    /// End when standard input ends; say on standard output when ready
    #[arg(long, hide = true)]
    supervised: bool,
}

/// What `serve` hands on
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WorkerOptions {
    /// Disk for cached images and blobs
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "20G")]
    cache: u64,
    /// Memory that the host keeps [default: a tenth, at least 512M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory_reserve: Option<u64>,
    /// Most sandboxes that are made before their jobs come, about 4M of memory each [default: two per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(MOST_WARM)))]
    warm: Option<u16>,
    /// How long running jobs may go on when the worker stops; then they get SIGTERM and their grace period
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "10s")]
    drain: u64,
    /// Directory with the microVM guest's vmlinux and initramfs [default: guest, beside this program]
    #[arg(long, value_name = "DIR", env = "BULKHEAD_GUEST_DIR")]
    guest_dir: Option<PathBuf>,
}

impl WorkerOptions {
    /// The arguments that make a child do the same.
    pub(super) fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["--cache".into(), self.cache.to_string().into()];
        arguments.extend(["--drain".into(), format!("{}ms", self.drain).into()]);
        if let Some(reserve) = self.memory_reserve {
            arguments.extend(["--memory-reserve".into(), reserve.to_string().into()]);
        }
        if let Some(warm) = self.warm {
            arguments.extend(["--warm".into(), warm.to_string().into()]);
        }
        if let Some(directory) = &self.guest_dir {
            arguments.extend(["--guest-dir".into(), directory.into()]);
        }
        arguments
    }

    fn pool(&self) -> PoolOptions {
        let per_core = || std::thread::available_parallelism().map_or(2, |cores| 2 * cores.get());
        PoolOptions {
            most: self.warm.map_or_else(per_core, usize::from).min(MOST_WARM.into()),
            memory_is_short: Box::new(bulkhead_daemon::memory_is_short),
        }
    }

    /// How long a draining worker may take, from the signal to its end.
    pub(super) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain)
    }
}

fn endpoint(server: &str, identity: &Path) -> Result<Endpoint, Failure> {
    let read = |name: &str| {
        let path = identity.join(name);
        std::fs::read(&path).map_err(|e| {
            Failure::of(format!("can't read {}", path.display()), &e)
                .hint("`bulkhead node credentials` makes these files, on the machine of the service")
        })
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("authority.pem")?))
        .identity(Identity::from_pem(read("node.pem")?, read("node.key.pem")?))
        .domain_name(SERVER_NAME);
    let endpoint = Endpoint::from_shared(server.to_owned())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|e| Failure::of(format!("{server} can't be used as the server"), &e))?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true))
}

pub(crate) async fn worker(args: WorkerArgs) -> Result<ExitCode, Failure> {
    life::end_with_supervisor(args.supervised)?;
    make_private(&args.data_dir)?;
    remove_leftovers(&args.data_dir);
    let backends = backends(&args)?;
    let config = WorkerConfig {
        cache_budget_bytes: args.options.cache,
        memory_reserve_bytes: args.options.memory_reserve,
        drain_timeout: args.options.drain(),
        ..WorkerConfig::new(&args.data_dir)
    };
    let endpoint = endpoint(&args.server, &args.identity)?;
    let worker =
        Worker::new(&config, &endpoint, backends).map_err(|e| Failure::of("the worker can't start", &e))?;
    let registered = worker.registered();
    tokio::spawn(async move {
        registered.await;
        life::tell_ready(args.supervised, "registered");
    });
    worker
        .run(async {
            // Without signals the process can still be killed.
            let _ = life::told_to_stop().await;
        })
        .await;
    Ok(life::ENDED)
}

/// Sentries, and virtual machines where this host can run them: else the server is told why not.
fn backends(args: &WorkerArgs) -> Result<Backends, Failure> {
    let no_path = |e: std::io::Error| Failure::of("this program's path can't be read", &e);
    let options = SentryOptions::beside_current_executable(&args.data_dir).map_err(no_path)?;
    let sentry = SentryBackend::new(options)
        .map_err(|e| Failure::of("this host can't run sandboxes", &e).hint("see `bulkhead doctor`"))?;
    let guest = args.options.guest_dir.as_deref();
    let options = MicrovmOptions::beside_current_executable(&args.data_dir, guest).map_err(no_path)?;
    let warm = Pool::new(Arc::new(sentry), args.options.pool())
        .map_err(|e| Failure::of("no thread for the pool of sandboxes", &e))?;
    let backends = Backends::default().with(Arc::new(warm));
    Ok(match MicrovmBackend::new(options) {
        Ok(microvm) => backends.with(Arc::new(microvm)),
        Err(error) => {
            let why = chain(&error);
            tracing::info!(why, "no microVMs on this node");
            backends.without(microvm::NAME, why)
        }
    })
}

/// Removes the sandboxes that an earlier life left: their processes died with it, unless they died within this moment.
fn remove_leftovers(data_dir: &Path) {
    let (removed, stays) = leftovers::reap(&leftovers::Search::host(data_dir));
    for leftover in removed {
        tracing::info!(
            kind = leftover.kind.name(),
            what = leftover.what,
            "removed what an earlier life left"
        );
    }
    for what in stays {
        tracing::warn!(what, "can't be removed; see `bulkhead doctor --leftovers`");
    }
}

/// What jobs wrote, and cached images and blobs, are nobody else's business. The directory itself can be passed, so
/// that a sandbox's own host user reaches its scratch directory; it lists nothing.
fn make_private(directory: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed = |e: std::io::Error| Failure::of(format!("can't make {}", directory.display()), &e);
    for (path, mode) in
        [(directory.to_owned(), 0o711), (directory.join("spool"), 0o700), (directory.join("cache"), 0o700)]
    {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}
