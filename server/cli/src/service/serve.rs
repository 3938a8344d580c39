use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_server::identity::{Authority, KeyDirectory};
use bulkhead_types::NodeId;
use bulkhead_types::bounds::GRACE_PERIOD_MS;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::control::{ControlOptions, DATABASE_VARIABLE};
use super::life;
use super::supervise::Supervised;
use super::worker::WorkerOptions;
use crate::failure::Failure;
use crate::settings::ClientFile;

/// How long the control process may take to end: calls under way, and the scheduler's last writes.
const CONTROL_PATIENCE: Duration = Duration::from_secs(20);
/// Beyond its drain time and the longest grace period, what the worker may take to end.
const WORKER_PATIENCE: Duration = Duration::from_secs(30);

/// Run everything on this machine: API, scheduler, worker, and a private PostgreSQL
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Signals: SIGTERM and SIGINT stop the service in order (running jobs get the drain time, then \
SIGTERM and their grace period); a second one stops it at once. The data directory's client.json tells the other \
commands of this machine where the service is. BULKHEAD_LOG sets what is logged, for example debug."
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    worker: WorkerOptions,
    /// Name of this machine's node [default: its host name]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeId>,
    /// Run no worker: others join from other machines
    #[arg(long)]
    no_worker: bool,
    /// When everything is ready, write a line of JSON to this file descriptor
    #[arg(long, value_name = "FD")]
    ready_fd: Option<u32>,
}

pub(crate) async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let data_dir = args.control.data_dir.clone();
    let _alone = claim(&data_dir)?;
    let mut options = args.control;
    options.data_dir = data_dir
        .canonicalize()
        .map_err(|e| Failure::of(format!("{} can't be used", data_dir.display()), &e))?;
    options.listen = fixed(options.listen)?;
    options.worker_listen = fixed(options.worker_listen)?;

    let cluster = match options.database_url {
        Some(_) => None,
        None => Some(Cluster::start(&options.data_dir).await?),
    };
    let started = start_processes(&options, &args.worker, args.node, args.no_worker).await;
    let Processes { control, worker } = match started {
        Ok(processes) => processes,
        Err(failure) => {
            stop_cluster(cluster).await;
            return Err(failure);
        }
    };
    let endpoint = write_client_file(&options)?;
    announce(
        &endpoint,
        &options,
        args.ready_fd,
        [
            ("control_pid", control.pid()),
            ("worker_pid", worker.as_ref().and_then(Supervised::pid)),
            ("postgres_pid", cluster.as_ref().map(Cluster::pid)),
        ],
    )?;
    run(control, worker, cluster, args.worker.drain()).await
}

/// Makes the directory, and keeps a second service out of it.
fn claim(data_dir: &Path) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::of(format!("{} can't be used", data_dir.display()), &e);
    // PostgreSQL and sandboxes run as other users and pass through; what they must not read is closed below.
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(data_dir).map_err(failed)?;
    let lock = File::create(data_dir.join("serve.lock")).map_err(failed)?;
    lock.try_lock().map_err(|_| {
        Failure::new(format!("another `bulkhead serve` works on {}", data_dir.display()))
            .hint("stop it, or choose another directory with --data-dir")
    })?;
    Ok(lock)
}

/// A port that stays the same when the process that listens on it is started again.
fn fixed(address: SocketAddr) -> Result<SocketAddr, Failure> {
    if address.port() != 0 {
        return Ok(address);
    }
    let found = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    found.map_err(|e| Failure::of(format!("can't listen on {address}"), &e))
}

struct Processes {
    control: Supervised,
    worker: Option<Supervised>,
}

async fn start_processes(
    options: &ControlOptions,
    worker: &WorkerOptions,
    node: Option<NodeId>,
    no_worker: bool,
) -> Result<Processes, Failure> {
    let environment = options.database_url.iter().map(|url| (DATABASE_VARIABLE, url.clone())).collect();
    let (control, _) = Supervised::start("control", options.arguments(), environment).await?;
    if no_worker {
        return Ok(Processes { control, worker: None });
    }
    let identity = options.data_dir.join("node");
    let failed =
        |e: bulkhead_server::identity::IdentityError| Failure::of("can't make the worker's credentials", &e);
    let keys = KeyDirectory::open(&options.data_dir).map_err(failed)?;
    let node = node.unwrap_or_else(host_name);
    Authority::open_or_create(&keys).map_err(failed)?.write_node(&node, &identity).map_err(failed)?;
    let mut arguments = worker.arguments();
    arguments.extend(["--server".into(), format!("https://{}", reachable(options.worker_listen)).into()]);
    arguments.extend(["--identity".into(), identity.into()]);
    arguments.extend(["--data-dir".into(), options.data_dir.join("worker").into()]);
    let (worker, _) = Supervised::start("worker", arguments, Vec::new()).await?;
    Ok(Processes { control, worker: Some(worker) })
}

/// The host's name as a node's, or `local` where it has none that can be one.
fn host_name() -> NodeId {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    NodeId::new(name).unwrap_or_else(|_| NodeId::new("local").expect("a valid name"))
}

/// From this machine, an address that listens everywhere is reached at the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        _ => address,
    }
}

fn write_client_file(options: &ControlOptions) -> Result<String, Failure> {
    let scheme = if options.tls_cert.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://{}", reachable(options.listen));
    let authority = match &options.tls_cert {
        // A certificate that signed itself is its own authority; for another one this does no harm.
        Some(path) => std::fs::read_to_string(path).ok(),
        None => None,
    };
    let file = ClientFile { endpoint: endpoint.clone(), authority };
    file.write(&options.data_dir).map_err(|e| {
        Failure::of(format!("can't write {}", ClientFile::path(&options.data_dir).display()), &e)
    })?;
    Ok(endpoint)
}

/// Says to people and to programs that the service is there.
fn announce(
    endpoint: &str,
    options: &ControlOptions,
    ready_fd: Option<u32>,
    pids: [(&str, Option<u32>); 3],
) -> Result<(), Failure> {
    let mut ready = json!({
        "endpoint": endpoint,
        "worker_endpoint": format!("https://{}", reachable(options.worker_listen)),
        "data_dir": options.data_dir.display().to_string(),
        "pid": std::process::id(),
    });
    for (name, pid) in pids {
        ready[name] = pid.into();
    }
    eprintln!("bulkhead: ready at {endpoint} (data in {})", options.data_dir.display());
    if let Some(fd) = ready_fd {
        let failed = |e: std::io::Error| Failure::of(format!("can't write to descriptor {fd}"), &e);
        // By its name under /proc: a number that a person gives can't be taken for an owned descriptor.
        let mut file = File::options().append(true).open(format!("/proc/self/fd/{fd}")).map_err(failed)?;
        writeln!(file, "{ready}").map_err(failed)?;
    }
    Ok(())
}

/// Supervises until it is told to stop, then stops in order: the worker, control, PostgreSQL.
async fn run(
    control: Supervised,
    worker: Option<Supervised>,
    cluster: Option<Cluster>,
    drain: Duration,
) -> Result<ExitCode, Failure> {
    let stops = [(); 3].map(|()| CancellationToken::new());
    let [stop_worker, stop_control, stop_cluster] = &stops;
    let hurry = CancellationToken::new();
    let patience = drain + Duration::from_millis(GRACE_PERIOD_MS) + WORKER_PATIENCE;
    let worker = worker.map(|worker| tokio::spawn(worker.keep(stop_worker.clone(), patience, hurry.clone())));
    let control = tokio::spawn(control.keep(stop_control.clone(), CONTROL_PATIENCE, hurry.clone()));
    let cluster = cluster.map(|cluster| tokio::spawn(cluster.keep(stop_cluster.clone())));

    life::told_to_stop().await?;
    eprintln!("bulkhead: stopping; once more to stop at once");
    let again = hurry.clone();
    tokio::spawn(async move {
        // Without signals there is no hurry.
        if life::told_to_stop().await.is_ok() {
            again.cancel();
        }
    });
    stop_worker.cancel();
    if let Some(worker) = worker {
        let _ = worker.await;
    }
    stop_control.cancel();
    let _ = control.await;
    stop_cluster.cancel();
    if let Some(cluster) = cluster {
        let _ = cluster.await;
    }
    Ok(life::ENDED)
}

async fn stop_cluster(cluster: Option<Cluster>) {
    if let Some(cluster) = cluster {
        let stop = CancellationToken::new();
        stop.cancel();
        cluster.keep(stop).await;
    }
}
