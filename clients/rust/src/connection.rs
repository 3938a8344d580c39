use std::time::Duration;

use bulkhead_proto::v1;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::ClientError;

/// A service that does not answer a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// A dead peer is noticed within this and [`KEEPALIVE_ANSWER`], also on a stream that is silent for hours.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// The largest answer, in bytes: a page of 1,000 jobs whose specifications are large.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Where the service is, and who the caller is.
#[derive(Clone)]
pub struct Connection {
    /// `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// A bearer token. It is never logged, and `Debug` leaves it out.
    pub token: Option<String>,
    /// PEM of the authority that signed the service's certificate; none means the well-known ones.
    pub authority: Option<String>,
    /// The name in the service's certificate, if it is not the endpoint's host.
    pub server_name: Option<String>,
}

impl Connection {
    /// A connection without a token.
    pub fn to(endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), token: None, authority: None, server_name: None }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Puts the token on each call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub(crate) type Transport = InterceptedService<Channel, Bearer>;

/// A client of the service. Cheap to clone; clones share the connection, which is made at the first call and made
/// again when it breaks.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    endpoint: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

macro_rules! services {
    ($($name:ident: $module:ident :: $client:ident),+ $(,)?) => {
        $(pub(crate) fn $name(&self) -> v1::$module::$client<Transport> {
            v1::$module::$client::new(self.transport.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
        })+
    };
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError`] if the endpoint is no URI or the token or the authority can't be used.
    #[expect(clippy::result_large_err, reason = "called once; the error's parts are for its reader")]
    pub fn new(connection: &Connection) -> Result<Self, ClientError> {
        let local =
            |what: &str, error: &dyn std::error::Error| ClientError::local(format!("{what}: {error}"));
        let mut endpoint = Endpoint::from_shared(connection.endpoint.clone())
            .map_err(|e| local("the endpoint is no URI like http://host:port", &e))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER);
        if connection.endpoint.starts_with("https:") {
            let mut tls = ClientTlsConfig::new();
            if let Some(authority) = &connection.authority {
                tls = tls.ca_certificate(Certificate::from_pem(authority));
            }
            if let Some(name) = &connection.server_name {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| local("the authority can't be used", &e))?;
        }
        let bearer = match &connection.token {
            None => Bearer(None),
            Some(token) => {
                let value = format!("Bearer {}", token.trim()).parse();
                let mut value: MetadataValue<Ascii> = value
                    .map_err(|_| ClientError::local("the token holds characters that no token has".into()))?;
                value.set_sensitive(true);
                Bearer(Some(value))
            }
        };
        let transport = InterceptedService::new(endpoint.connect_lazy(), bearer);
        Ok(Self { transport, endpoint: connection.endpoint.clone() })
    }

    /// Where the service is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    services! {
        jobs: job_service_client::JobServiceClient,
        blobs: blob_service_client::BlobServiceClient,
        images: image_service_client::ImageServiceClient,
        tenants: tenant_service_client::TenantServiceClient,
        nodes: node_service_client::NodeServiceClient,
        versions: version_service_client::VersionServiceClient,
    }
}
