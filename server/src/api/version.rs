use bulkhead_proto::v1::version_service_server::VersionService;
use bulkhead_proto::v1::{GetVersionRequest, Version};
use tonic::{Request, Response, Status};

/// The public API's name.
const API: &str = "bulkhead.v1";

/// Serves the version.
pub(crate) struct Versions;

#[tonic::async_trait]
impl VersionService for Versions {
    async fn get(&self, _: Request<GetVersionRequest>) -> Result<Response<Version>, Status> {
        Ok(Response::new(Version { version: env!("CARGO_PKG_VERSION").into(), api: API.into() }))
    }
}
