use std::process::ExitCode;

use bulkhead_client::v1;
use bulkhead_types::TenantId;
use serde_json::Value;

use crate::failure::Failure;
use crate::print;
use crate::sandbox::units;
use crate::settings::Settings;

/// Tenants of one page, at most what the service gives.
const PAGE: i32 = 500;

/// Create and list tenants
#[derive(Debug, clap::Args)]
pub(crate) struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TenantCommand {
    /// Create a tenant
    Create {
        /// 1 to 63 characters of a-z, 0-9, '-', '_', '.'
        id: TenantId,
        /// For people
        #[arg(long, default_value = "")]
        display_name: String,
        /// Share relative to other tenants when nodes are full [default: 100; 1 to 10,000]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        weight: u32,
        /// Most jobs that wait or run at once [default: 10,000]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        max_active_jobs: i64,
        /// Most that its blobs and images have together, with K, M, G or T [default: 16G; at most 16T]
        #[arg(long, value_name = "SIZE", value_parser = units::size)]
        max_stored: Option<u64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a tenant
    Get {
        /// The tenant
        id: TenantId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List tenants
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn tenant(args: TenantArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    match args.command {
        TenantCommand::Create { id, display_name, weight, max_active_jobs, max_stored, json } => {
            let max_stored_bytes = max_stored.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            let tenant =
                v1::Tenant { display_name, weight, max_active_jobs, max_stored_bytes, ..Default::default() };
            show(&client.create_tenant(id.as_str(), tenant).await?, json)?;
        }
        TenantCommand::Get { id, json } => {
            show(&client.get_tenant(&format!("tenants/{id}")).await?, json)?;
        }
        TenantCommand::List { json } => {
            let tenants = all(&client).await?;
            if json {
                print::json(&Value::Array(tenants.iter().map(crate::json::tenant).collect()))?;
            } else {
                let rows: Vec<_> = tenants.iter().map(row).collect();
                print::table(&["TENANT", "NAME", "WEIGHT", "MAX JOBS", "STORED", "MAX STORED"], &rows)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn all(client: &bulkhead_client::Client) -> Result<Vec<v1::Tenant>, Failure> {
    let mut tenants = Vec::new();
    let mut request = v1::ListTenantsRequest { page_size: PAGE, ..Default::default() };
    loop {
        let page = client.list_tenants(&request).await?;
        tenants.extend(page.tenants);
        if page.next_page_token.is_empty() {
            return Ok(tenants);
        }
        request.page_token = page.next_page_token;
    }
}

fn row(tenant: &v1::Tenant) -> Vec<String> {
    vec![
        tenant.name.clone(),
        tenant.display_name.clone(),
        tenant.weight.to_string(),
        tenant.max_active_jobs.to_string(),
        print::bytes(tenant.stored_bytes),
        print::bytes(tenant.max_stored_bytes),
    ]
}

fn show(tenant: &v1::Tenant, json: bool) -> Result<(), Failure> {
    if json { print::json(&crate::json::tenant(tenant)) } else { print::line(&tenant.name) }
}
