use bulkhead_proto::v1;

use crate::retry::{request_id, retry};
use crate::{Client, ClientError};

/// What operators do. Each call fails with what the service says ([`ClientError`]); PERMISSION_DENIED without the
/// scope `operator`.
impl Client {
    /// Creates a tenant.
    ///
    /// # Errors
    /// ALREADY_EXISTS; INVALID_ARGUMENT names the field.
    pub async fn create_tenant(
        &self,
        tenant_id: &str,
        tenant: v1::Tenant,
    ) -> Result<v1::Tenant, ClientError> {
        let request = v1::CreateTenantRequest {
            tenant_id: tenant_id.to_owned(),
            tenant: Some(tenant),
            request_id: request_id(),
        };
        retry(|| {
            let (mut tenants, request) = (self.tenants(), request.clone());
            async move { tenants.create_tenant(request).await }
        })
        .await
    }

    /// Returns a tenant.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn get_tenant(&self, name: &str) -> Result<v1::Tenant, ClientError> {
        let request = v1::GetTenantRequest { name: name.to_owned() };
        retry(|| {
            let (mut tenants, request) = (self.tenants(), request.clone());
            async move { tenants.get_tenant(request).await }
        })
        .await
    }

    /// Returns a page of tenants.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad page token.
    pub async fn list_tenants(
        &self,
        request: &v1::ListTenantsRequest,
    ) -> Result<v1::ListTenantsResponse, ClientError> {
        retry(|| {
            let (mut tenants, request) = (self.tenants(), request.clone());
            async move { tenants.list_tenants(request).await }
        })
        .await
    }

    /// Returns a page of nodes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad page token.
    pub async fn list_nodes(
        &self,
        request: &v1::ListNodesRequest,
    ) -> Result<v1::ListNodesResponse, ClientError> {
        retry(|| {
            let (mut nodes, request) = (self.nodes(), request.clone());
            async move { nodes.list_nodes(request).await }
        })
        .await
    }

    /// Places no new jobs on a node; running ones end by themselves.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn drain_node(&self, name: &str) -> Result<v1::Node, ClientError> {
        let request = v1::DrainNodeRequest { name: name.to_owned(), request_id: request_id() };
        retry(|| {
            let (mut nodes, request) = (self.nodes(), request.clone());
            async move { nodes.drain_node(request).await }
        })
        .await
    }

    /// Places jobs on a node again.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn undrain_node(&self, name: &str) -> Result<v1::Node, ClientError> {
        let request = v1::UndrainNodeRequest { name: name.to_owned(), request_id: request_id() };
        retry(|| {
            let (mut nodes, request) = (self.nodes(), request.clone());
            async move { nodes.undrain_node(request).await }
        })
        .await
    }

    /// The service's version; needs no token.
    ///
    /// # Errors
    /// UNAVAILABLE if the service is not there.
    pub async fn version(&self) -> Result<v1::Version, ClientError> {
        retry(|| {
            let mut versions = self.versions();
            async move { versions.get(v1::GetVersionRequest {}).await }
        })
        .await
    }
}
