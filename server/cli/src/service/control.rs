use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulkhead_server::auth::Expected;
use bulkhead_server::{DEFAULT_PORT, DEFAULT_WORKER_PORT, Server, ServerConfig, TlsFiles};
use bulkhead_store::DatabaseUrls;
use bulkhead_store::cluster::PrivateCluster;
use tokio_util::sync::CancellationToken;

use super::life;
use crate::failure::Failure;
use crate::settings::DEFAULT_DATA_DIR;

/// Run the server and the scheduler: half of what `serve` runs
#[derive(Debug, clap::Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    pub(super) options: ControlOptions,
    /// End when standard input ends; say on standard output when ready
    #[arg(long, hide = true)]
    supervised: bool,
}

/// What `serve` hands on
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ControlOptions {
    /// Where keys, blobs, images and the private database are
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    pub(super) data_dir: PathBuf,
    /// PostgreSQL to use, as its database's owner [default: a private one in the data directory]
    #[arg(long, value_name = "URL", env = DATABASE_VARIABLE, hide_env_values = true)]
    pub(super) database_url: Option<String>,
    /// Address of the API
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    pub(super) listen: SocketAddr,
    /// Address for workers, always with mutual TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_WORKER_PORT)))]
    pub(super) worker_listen: SocketAddr,
    /// Certificate of the API (PEM); needed for addresses that are not loopback
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Accept plain text on other addresses too: something in front of the service does TLS
    #[arg(long)]
    pub(super) insecure_plaintext: bool,
    /// Keys (JWKS) of another issuer of tokens, beside our own
    #[arg(long, value_name = "FILE")]
    pub(super) jwks: Option<PathBuf>,
    /// What the issuer of tokens must say
    #[arg(long, value_name = "NAME", default_value = "bulkhead")]
    pub(super) issuer: String,
    /// What the audience of tokens must say
    #[arg(long, value_name = "NAME", default_value = "bulkhead")]
    pub(super) audience: String,
}

/// The variable that holds the database's URL: it may hold a password, so it is never an argument of a child.
pub(super) const DATABASE_VARIABLE: &str = "BULKHEAD_DATABASE_URL";

impl ControlOptions {
    /// The arguments that make a child do the same. The database's URL travels in the environment.
    pub(super) fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["--data-dir".into(), self.data_dir.clone().into()];
        let mut add = |name: &str, value: &std::ffi::OsStr| arguments.extend([name.into(), value.to_owned()]);
        add("--listen", self.listen.to_string().as_ref());
        add("--worker-listen", self.worker_listen.to_string().as_ref());
        add("--issuer", self.issuer.as_ref());
        add("--audience", self.audience.as_ref());
        let files = [("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key), ("--jwks", &self.jwks)];
        for (name, path) in files {
            if let Some(path) = path {
                add(name, path.as_os_str());
            }
        }
        if self.insecure_plaintext {
            arguments.push("--insecure-plaintext".into());
        }
        arguments
    }

    fn server_config(&self, database: DatabaseUrls) -> ServerConfig {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
            }
            _ => None,
        };
        ServerConfig {
            listen: self.listen,
            worker_listen: self.worker_listen,
            tls,
            insecure_plaintext: self.insecure_plaintext,
            jwks: self.jwks.clone(),
            tokens: Expected { issuer: self.issuer.clone(), audience: self.audience.clone() },
            ..ServerConfig::new(self.data_dir.clone(), database)
        }
    }
}

/// The database that was named, or the private one, which is started if it does not run.
async fn database(url: Option<&str>, data_dir: &Path) -> Result<DatabaseUrls, Failure> {
    match url {
        Some(url) => DatabaseUrls::from_owner_url(url).map_err(|_| {
            Failure::new("the database's URL can't be used: postgres://USER:PASSWORD@HOST/DATABASE")
        }),
        None => {
            let cluster = PrivateCluster::start(data_dir).await;
            Ok(cluster.map_err(|e| Failure::of("the private PostgreSQL can't be started", &e))?.urls())
        }
    }
}

pub(crate) async fn control(args: ControlArgs) -> Result<ExitCode, Failure> {
    life::end_with_supervisor(args.supervised)?;
    let options = &args.options;
    let database = database(options.database_url.as_deref(), &options.data_dir).await?;
    let failed = |e: bulkhead_server::ServerError| Failure::of("the server can't run", &e);
    let server = Server::bind(options.server_config(database)).await.map_err(failed)?;
    let address = server.public_address().map_err(|e| Failure::of("the server does not listen", &e))?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        // Without signals the process can still be killed.
        let _ = life::told_to_stop().await;
        stop.cancel();
    });
    // The listeners exist: whoever connects from here on is served.
    life::tell_ready(args.supervised, &address.to_string());
    server.run(shutdown).await.map_err(failed)?;
    Ok(life::ENDED)
}
