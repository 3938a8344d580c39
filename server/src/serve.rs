//! The running server: what is opened, in which order it starts and ends.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_proto::FILE_DESCRIPTOR_SET;
use bulkhead_proto::v1::blob_service_server::BlobServiceServer;
use bulkhead_proto::v1::image_service_server::ImageServiceServer;
use bulkhead_proto::v1::job_service_server::JobServiceServer;
use bulkhead_proto::v1::node_service_server::NodeServiceServer;
use bulkhead_proto::v1::tenant_service_server::TenantServiceServer;
use bulkhead_proto::v1::version_service_server::VersionServiceServer;
use bulkhead_proto::worker::worker_service_server::WorkerServiceServer;
use bulkhead_scheduler::Scheduler;
use bulkhead_store::{SecretKey, Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server as Transport, ServerTlsConfig};

use crate::api::{Blobs, BodyKey, Images, Jobs, Nodes, Service, Shared, Tenants, Versions};
use crate::auth::{Expected, JwksError, TokenIssuer, TokenRequest, Verifier};
use crate::blobs::{BlobError, BlobFiles};
use crate::config::{ServerConfig, TlsFiles};
use crate::edge::{EdgeLayer, accept};
use crate::identity::{Authority, Credentials, IdentityError, KeyDirectory};
use crate::maintenance;
use crate::output::{OutputReader, OutputSpool};
use crate::worker::{MAX_MESSAGE_BYTES, Workers};

/// Largest request, in bytes: a description with everything at its bounds has about 3 MiB, and one that is over
/// them is to be told which field is.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Largest message of an upload, in bytes: 1 MiB of data and its envelope.
const MAX_UPLOAD_MESSAGE: usize = (1 << 20) + (64 << 10);
/// Largest answer, in bytes: a job of ten attempts with a thousand files each.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Most headers of a call, in bytes: a token of 8 KiB and what clients add.
const MAX_HEADER_BYTES: u32 = 32 << 10;
/// Most calls at once on one connection.
const MAX_STREAMS: u32 = 1024;
/// How often a silent connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long calls that are under way may take when the service stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a server can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Tokens and secrets would cross a network in clear.
    #[error(
        "{listen} is no loopback address, and without TLS tokens and secrets would cross the network in clear: give \
         --tls-cert and --tls-key, or --insecure-plaintext if something in front of the service does TLS"
    )]
    Plaintext {
        /// The address.
        listen: SocketAddr,
    },
    /// A key or certificate of our own.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The JWKS file.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The database.
    #[error("the database can't be used")]
    Store(#[from] StoreError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The images.
    #[error("the image store can't be used")]
    Images(#[from] bulkhead_image::StoreError),
    /// A file or directory.
    #[error("{path} can't be used")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS, or the transport.
    #[error("the gRPC transport failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the API.
    #[error("reflection can't be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A server that listens, and serves once it runs.
pub struct Server {
    config: ServerConfig,
    service: Shared,
    scheduler: Scheduler,
    verifier: Verifier,
    worker_identity: Credentials,
    shared: maintenance::SharedImages,
    public: TcpListener,
    workers: TcpListener,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("public", &self.public)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// Makes a token with the key of a data directory, for `bulkhead token`.
///
/// # Errors
/// [`IdentityError`] if the key can't be read, made or used.
pub fn issue_token(
    data_dir: &Path,
    expected: &Expected,
    request: &TokenRequest,
) -> Result<String, IdentityError> {
    let keys = KeyDirectory::open(data_dir)?;
    TokenIssuer::open_or_create(&keys, expected.clone())?.issue(request)
}

/// Opens everything, runs until `shutdown`, and ends in order.
///
/// # Errors
/// [`ServerError`].
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServerError> {
    Server::bind(config).await?.run(shutdown).await
}

impl Server {
    /// Opens keys, database (migrated), blobs and images, and listens; nothing is served before [`Self::run`].
    ///
    /// # Errors
    /// [`ServerError`]; nothing is listened on then.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        config.check()?;
        // One provider for the process; another part may have installed the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let keys = KeyDirectory::open(&config.data_dir)?;
        let issuer = TokenIssuer::open_or_create(&keys, config.tokens.clone())?;
        let verifier = Verifier::new(issuer.key_set(), config.jwks.clone(), config.tokens.clone())?;
        let worker_identity = Authority::open_or_create(&keys)?.server()?;
        let secrets = keys.secrets_key()?;
        bulkhead_store::migrate(&config.database).await?;
        let store = Store::connect(&config.database, SecretKey::new(&secrets), config.pools).await?;
        let scheduler = Scheduler::new(store.fleet().clone(), config.scheduler);
        let service = open(&config.data_dir, store, &scheduler, &secrets)?;
        let shared = maintenance::SharedImages::new(&service).await?;
        let public = listen(config.listen).await?;
        let workers = listen(config.worker_listen).await?;
        Ok(Self { config, service, scheduler, verifier, worker_identity, shared, public, workers })
    }

    /// Where the public API is: with port 0 in the configuration, the port that was found.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn public_address(&self) -> std::io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Where workers connect.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn worker_address(&self) -> std::io::Result<SocketAddr> {
        self.workers.local_addr()
    }

    /// Serves until `shutdown`; then takes no new calls, ends streams, lets calls under way end for some seconds,
    /// and stops the scheduler. Attempts go on at their nodes.
    ///
    /// # Errors
    /// [`ServerError::Transport`] if a listener fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let Self { config, service, scheduler, verifier, worker_identity, shared, public, workers } = self;
        let stop = service.shutdown.clone();
        let scheduler_stop = CancellationToken::new();
        let scheduling = tokio::spawn(scheduler.run(scheduler_stop.clone()));
        let (health, health_service) = tonic_health::server::health_reporter();
        let tending = tokio::spawn(maintenance::tend(service.clone(), health.clone(), shared));
        let tls = config.tls.as_ref().map(read_tls).transpose()?;
        let api = public_api(&service, health_service, EdgeLayer::new(verifier, config.places), tls)?;
        let node_api = worker_api(&service, &worker_identity)?;
        let serving = async {
            let public = api.serve_with_incoming_shutdown(accept(public), stop.clone().cancelled_owned());
            let workers =
                node_api.serve_with_incoming_shutdown(incoming(workers), stop.clone().cancelled_owned());
            tokio::try_join!(public, workers)
        };
        tracing::info!("serving");
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = &mut serving => ended.map(|_| ()),
            () = shutdown.cancelled() => {
                tracing::info!("stopping");
                stop.cancel();
                match tokio::time::timeout(DRAIN, &mut serving).await {
                    Ok(ended) => ended.map(|_| ()),
                    Err(_) => {
                        tracing::warn!("some calls did not end in time and are dropped");
                        Ok(())
                    }
                }
            }
        };
        stop.cancel();
        scheduler_stop.cancel();
        let _ = scheduling.await;
        let _ = tending.await;
        service.store.close().await;
        Ok(ended?)
    }
}

fn open(data: &Path, store: Store, scheduler: &Scheduler, secrets: &[u8; 32]) -> Result<Shared, ServerError> {
    let blobs = BlobFiles::open(data)?;
    let images = bulkhead_image::Store::open(data)?;
    let spool =
        OutputSpool::open(data).map_err(|source| ServerError::File { path: data.join("output"), source })?;
    let scratch = data.join("scratch");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&scratch);
    made.map_err(|source| ServerError::File { path: scratch.clone(), source })?;
    Ok(Arc::new(Service {
        intake: scheduler.intake(),
        output: OutputReader::new(store.clone(), blobs.clone(), spool.clone()),
        bodies: BodyKey::new(secrets),
        content: tokio::sync::RwLock::new(()),
        refused: std::sync::Mutex::default(),
        conversions: Arc::new(tokio::sync::Semaphore::new(crate::api::CONVERSIONS)),
        shutdown: CancellationToken::new(),
        store,
        blobs,
        images,
        spool,
        scratch,
    }))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE))
}

fn read_tls(files: &TlsFiles) -> Result<ServerTlsConfig, ServerError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ServerError::File { path: path.to_owned(), source })
    };
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    Ok(ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE))
}

fn transport() -> Transport {
    Transport::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
}

type PublicApi =
    tonic::transport::server::Router<tower::layer::util::Stack<EdgeLayer, tower::layer::util::Identity>>;

fn public_api<H>(
    service: &Shared,
    health: tonic_health::pb::health_server::HealthServer<H>,
    edge: EdgeLayer,
    tls: Option<ServerTlsConfig>,
) -> Result<PublicApi, ServerError>
where
    H: tonic_health::pb::health_server::Health,
{
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut transport = transport();
    if let Some(tls) = tls {
        transport = transport.tls_config(tls)?;
    }
    let jobs = JobServiceServer::new(Jobs::new(service.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let blobs = BlobServiceServer::new(Blobs(service.clone())).max_decoding_message_size(MAX_UPLOAD_MESSAGE);
    let images = ImageServiceServer::new(Images(service.clone()))
        .max_decoding_message_size(MAX_UPLOAD_MESSAGE)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    Ok(transport
        .layer(edge)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(VersionServiceServer::new(Versions))
        .add_service(jobs)
        .add_service(blobs)
        .add_service(images)
        .add_service(TenantServiceServer::new(Tenants(service.clone())))
        .add_service(NodeServiceServer::new(Nodes(service.clone()))))
}

fn worker_api(
    service: &Shared,
    identity: &Credentials,
) -> Result<tonic::transport::server::Router, ServerError> {
    // Without a certificate of our authority there is no connection at all.
    let tls = ServerTlsConfig::new()
        .timeout(HANDSHAKE)
        .identity(Identity::from_pem(&identity.certificate, &identity.key))
        .client_ca_root(Certificate::from_pem(&identity.authority));
    let workers = WorkerServiceServer::new(Workers(service.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(transport().tls_config(tls)?.add_service(workers))
}
