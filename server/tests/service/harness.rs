//! A server on loopback with a database of its own, and clients for it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_image::{ImageConfig, Owner};
use bulkhead_proto::v1::blob_service_client::BlobServiceClient;
use bulkhead_proto::v1::image_service_client::ImageServiceClient;
use bulkhead_proto::v1::job_service_client::JobServiceClient;
use bulkhead_proto::v1::job_spec::Image;
use bulkhead_proto::v1::node_service_client::NodeServiceClient;
use bulkhead_proto::v1::tenant_service_client::TenantServiceClient;
use bulkhead_proto::v1::{
    CreateJobRequest, CreateTenantRequest, GetJobRequest, Job, JobSpec, State, WaitJobRequest,
};
use bulkhead_scheduler::SchedulerConfig;
use bulkhead_server::auth::{Expected, Scope, TokenRequest};
use bulkhead_server::{PlaceLimits, Server, ServerConfig, issue_token};
use bulkhead_store::DatabaseUrls;
use bulkhead_types::{ImageName, TenantId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// What nothing here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running {
    pub(crate) public: SocketAddr,
    pub(crate) workers: SocketAddr,
    pub(crate) data: PathBuf,
    _data: tempfile::TempDir,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), bulkhead_server::ServerError>>,
}

pub(crate) struct AddToken(Option<MetadataValue<Ascii>>);

impl Interceptor for AddToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub(crate) type Authed = InterceptedService<Channel, AddToken>;

/// Clients with one token.
pub(crate) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    pub(crate) tenant: String,
}

impl Client {
    fn authed(&self) -> Authed {
        InterceptedService::new(self.channel.clone(), AddToken(self.token.clone()))
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Authed> {
        JobServiceClient::new(self.authed())
    }

    pub(crate) fn blobs(&self) -> BlobServiceClient<Authed> {
        BlobServiceClient::new(self.authed())
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Authed> {
        ImageServiceClient::new(self.authed())
    }

    pub(crate) fn tenants(&self) -> TenantServiceClient<Authed> {
        TenantServiceClient::new(self.authed())
    }

    pub(crate) fn nodes(&self) -> NodeServiceClient<Authed> {
        NodeServiceClient::new(self.authed())
    }

    pub(crate) fn parent(&self) -> String {
        format!("tenants/{}", self.tenant)
    }

    /// Creates a job that runs `true` on the image `demo`, changed by `change`.
    pub(crate) async fn create(&self, change: impl FnOnce(&mut JobSpec)) -> Result<Job, Status> {
        let mut spec = spec();
        change(&mut spec);
        let request = CreateJobRequest { parent: self.parent(), spec: Some(spec), request_id: String::new() };
        Ok(self.jobs().create_job(request).await?.into_inner())
    }

    /// Waits until the service has stored that the job runs: what a node says of it is stored a moment later.
    pub(crate) async fn runs(&self, name: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let request = GetJobRequest { name: name.into() };
        while self.jobs().get_job(request.clone()).await.expect("gets").get_ref().state() != State::Running {
            assert!(tokio::time::Instant::now() < deadline, "{name} does not run");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until the job has ended.
    pub(crate) async fn ended(&self, name: &str) -> Job {
        let mut request = Request::new(WaitJobRequest { name: name.into() });
        request.set_timeout(PATIENCE);
        let job = self.jobs().wait_job(request).await.expect("waits").into_inner();
        assert_ne!(job.state(), State::Running, "{job:?}");
        job
    }
}

pub(crate) fn spec() -> JobSpec {
    JobSpec {
        image: Some(Image::ImageName("demo".into())),
        argv: vec!["/bin/true".into()],
        ..Default::default()
    }
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(bulkhead_store::testing::test_database().await, |_| {}).await
    }

    pub(crate) async fn start_with(database: DatabaseUrls, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let data = tempfile::tempdir().expect("directory");
        let image = ImageConfig::default();
        add_image(data.path(), "demo", image, b"the public file of the image demo", b"its private file");
        let mut config = ServerConfig::new(data.path(), database);
        config.listen = ([127, 0, 0, 1], 0).into();
        config.worker_listen = ([127, 0, 0, 1], 0).into();
        config.pools = bulkhead_store::PoolSizes { service: 4, scheduler: 4 };
        config.scheduler = SchedulerConfig { retry: Duration::from_millis(20), ..SchedulerConfig::default() };
        config.places = PlaceLimits::default();
        change(&mut config);
        let server = Server::bind(config).await.expect("binds");
        let (public, workers) = (server.public_address(), server.worker_address());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self {
            public: public.expect("address"),
            workers: workers.expect("address"),
            data: data.path().to_owned(),
            _data: data,
            shutdown,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("in time").expect("no panic").expect("stops");
    }

    pub(crate) fn token(&self, tenant: Option<&str>, scopes: &[Scope]) -> String {
        let request = TokenRequest {
            subject: "test".into(),
            tenant: tenant.map(|tenant| TenantId::new(tenant).expect("valid")),
            scopes: scopes.to_vec(),
            lifetime: Duration::from_secs(600),
        };
        issue_token(&self.data, &Expected::default(), &request).expect("a token")
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.public)).expect("address");
        endpoint.connect().await.expect("connects")
    }

    pub(crate) async fn with_token(&self, tenant: &str, token: Option<&str>) -> Client {
        let token = token.map(|token| format!("Bearer {token}").parse().expect("ASCII"));
        Client { channel: self.channel().await, token, tenant: tenant.into() }
    }

    pub(crate) async fn operator(&self) -> Client {
        let scopes: Vec<Scope> = Scope::ALL.to_vec();
        self.with_token("", Some(&self.token(None, &scopes))).await
    }

    /// A tenant that exists, and a client with all of a tenant's scopes.
    pub(crate) async fn tenant(&self, id: &str) -> Client {
        let request = CreateTenantRequest { tenant_id: id.into(), ..Default::default() };
        let created = self.operator().await.tenants().create_tenant(request).await;
        created.expect("the tenant is created");
        self.with_token(id, Some(&self.token(Some(id), &Scope::TENANT))).await
    }
}

/// Puts an image of the operator into a store; what is in it only nodes look at.
pub(crate) fn add_image(data: &Path, name: &str, config: ImageConfig, public: &[u8], private: &[u8]) {
    let images = bulkhead_image::Store::open(data).expect("image store");
    let stage = images.stage(&Owner::Operator).expect("stage");
    stage.public().write_all(public).expect("written");
    stage.private().write_all(private).expect("written");
    let name = ImageName::new(name).expect("valid");
    stage.commit(config, !private.is_empty(), Some(&name)).expect("committed");
}

/// The reason of a status, which must have exactly one ErrorInfo of ours.
pub(crate) fn reason(status: &Status) -> String {
    let infos: Vec<_> = (status.get_error_details_vec().into_iter())
        .filter_map(|detail| match detail {
            tonic_types::ErrorDetail::ErrorInfo(info) => Some(info),
            _ => None,
        })
        .collect();
    assert_eq!(infos.len(), 1, "{status:?}");
    assert_eq!(infos[0].domain, "bulkhead");
    infos[0].reason.clone()
}

/// The status is INVALID_ARGUMENT and names the field.
pub(crate) fn assert_field(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    reason(status);
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a violation").field_violations;
    assert_eq!(violations[0].field, field, "{status:?}");
}

pub(crate) fn assert_not_found(status: &Status) {
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(reason(status), "RESOURCE_NOT_FOUND");
    assert!(status.get_error_details().resource_info().is_some());
}
