use bulkhead_proto::v1::tenant_service_server::TenantService;
use bulkhead_proto::v1::{
    CreateTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse, Tenant,
};
use bulkhead_store::{NewTenant, TenantRecord};
use bulkhead_types::TenantId;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::convert::{self, Page};
use crate::error::{ApiError, bad_name};

/// What the API's weight counts in: 100 is a tenant like the others.
const WEIGHT_UNIT: f64 = 100.0;
/// Largest weight.
const MAX_WEIGHT: u32 = 10_000;
/// Largest quota of jobs.
const MAX_ACTIVE_JOBS: i64 = 1_000_000;
/// Largest quota of stored bytes: 16 TiB.
const MAX_STORED_BYTES: i64 = 16 << 40;
/// Longest display name, in bytes.
const MAX_DISPLAY_NAME: usize = 256;

/// Serves tenants to operators.
pub(crate) struct Tenants(pub(crate) Shared);

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        Ok(Response::new(self.get(&request.into_inner().name).await?))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }
}

impl Tenants {
    async fn create(&self, request: CreateTenantRequest) -> Result<Tenant, ApiError> {
        let id = TenantId::new(request.tenant_id).map_err(bad_name("tenant_id"))?;
        let tenant = new_tenant(&id, request.tenant.unwrap_or_default())?;
        let key = self.0.bodies.request("CreateTenant", &request.request_id, || {
            let NewTenant { display_name, weight, max_active_jobs, max_stored_bytes } = &tenant;
            format!("{id}\0{display_name}\0{weight}\0{max_active_jobs}\0{max_stored_bytes}").into_bytes()
        })?;
        Ok(message(self.0.store.fleet().tenant_create(&id, &tenant, key.as_ref()).await?))
    }

    async fn get(&self, name: &str) -> Result<Tenant, ApiError> {
        let id = name
            .strip_prefix("tenants/")
            .ok_or_else(|| ApiError::field("name", "a name of the form tenants/{tenant} is needed"))?;
        let id = TenantId::new(id).map_err(bad_name("name"))?;
        Ok(message(self.0.store.fleet().tenant_get(&id).await?))
    }

    async fn list(&self, request: ListTenantsRequest) -> Result<ListTenantsResponse, ApiError> {
        let page = convert::page(request.page_size, request.page_token)?;
        let after = page.after()?.map(TenantId::new).transpose().map_err(|_| Page::bad_token())?;
        let tenants = self.0.store.fleet().tenant_list(page.size, after.as_ref()).await?;
        let full = tenants.len() >= page.size as usize;
        let last = tenants.last().filter(|_| full).map(|tenant| convert::page_token(tenant.id.as_str()));
        Ok(ListTenantsResponse {
            tenants: tenants.into_iter().map(message).collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }
}

fn new_tenant(id: &TenantId, tenant: Tenant) -> Result<NewTenant, ApiError> {
    let default = NewTenant::named(tenant.display_name);
    if default.display_name.len() > MAX_DISPLAY_NAME || default.display_name.contains('\0') {
        let problem = format!("at most {MAX_DISPLAY_NAME} bytes without NUL are accepted");
        return Err(ApiError::field("tenant.display_name", problem));
    }
    let weight = match tenant.weight {
        0 => default.weight,
        1..=MAX_WEIGHT => f64::from(tenant.weight) / WEIGHT_UNIT,
        other => {
            let problem = format!("must be between 1 and {MAX_WEIGHT}, or 0 for 100; got {other}");
            return Err(ApiError::field("tenant.weight", problem));
        }
    };
    let max_active_jobs = match tenant.max_active_jobs {
        0 => default.max_active_jobs,
        1..=MAX_ACTIVE_JOBS => tenant.max_active_jobs.unsigned_abs(),
        other => {
            let problem = format!("must be between 1 and {MAX_ACTIVE_JOBS}, or 0 for 10000; got {other}");
            return Err(ApiError::field("tenant.max_active_jobs", problem));
        }
    };
    let max_stored_bytes = match tenant.max_stored_bytes {
        0 => default.max_stored_bytes,
        1..=MAX_STORED_BYTES => tenant.max_stored_bytes.unsigned_abs(),
        other => {
            let default = default.max_stored_bytes;
            let problem =
                format!("must be between 1 and {MAX_STORED_BYTES}, or 0 for {default}; got {other}");
            return Err(ApiError::field("tenant.max_stored_bytes", problem));
        }
    };
    let named = if default.display_name.is_empty() { id.to_string() } else { default.display_name };
    Ok(NewTenant { display_name: named, weight, max_active_jobs, max_stored_bytes })
}

fn message(tenant: TenantRecord) -> Tenant {
    // Back to the API's unit; in range, since it came from there.
    let weight = (tenant.weight * WEIGHT_UNIT).round().clamp(1.0, f64::from(MAX_WEIGHT));
    Tenant {
        name: format!("tenants/{}", tenant.id),
        display_name: tenant.display_name,
        create_time: Some(convert::timestamp(tenant.created)),
        weight: weight as u32,
        max_active_jobs: convert::int64(tenant.max_active_jobs),
        max_stored_bytes: convert::int64(tenant.max_stored_bytes),
        stored_bytes: convert::int64(tenant.stored_bytes),
    }
}
