use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulkhead_server::auth::{Expected, Scope, TokenRequest};
use bulkhead_types::TenantId;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::sandbox::units;
use crate::settings::DEFAULT_DATA_DIR;

/// Make a token with the service's own key
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// Tenant whose resources the token reaches
    #[arg(long, value_name = "TENANT", env = "BULKHEAD_TENANT")]
    tenant: Option<TenantId>,
    /// Add the scope operator: tenants, nodes and shared images
    #[arg(long)]
    operator: bool,
    /// Scope; may be repeated [default: all of a tenant's, if there is a tenant]
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', value_parser = scope)]
    scope: Vec<Scope>,
    /// How long it holds
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "1h")]
    ttl: u64,
    /// Who it is for, as logs name them
    #[arg(long, value_name = "NAME", default_value = "cli")]
    subject: String,
    /// Data directory of the service
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// What the token's issuer is to say, as `bulkhead serve --issuer` does
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// What the token's audience is to say, as `bulkhead serve --audience` does
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// As JSON: token, tenant, scopes, expires_in (seconds)
    #[arg(long)]
    json: bool,
}

fn scope(text: &str) -> Result<Scope, String> {
    let known = Scope::ALL.map(|scope| scope.as_str()).join(", ");
    Scope::ALL
        .into_iter()
        .find(|scope| scope.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no scope: there are {known}"))
}

pub(crate) fn token(args: TokenArgs) -> Result<ExitCode, Failure> {
    let mut scopes = args.scope;
    if scopes.is_empty() && args.tenant.is_some() {
        scopes.extend(Scope::TENANT);
    }
    if args.operator && !scopes.contains(&Scope::Operator) {
        scopes.push(Scope::Operator);
    }
    if scopes.is_empty() {
        return Err(Failure::new("a token for nobody and nothing is of no use")
            .hint("say --tenant TENANT, --operator, or both"));
    }
    let mut expected = Expected::default();
    if let Some(issuer) = args.issuer {
        expected.issuer = issuer;
    }
    if let Some(audience) = args.audience {
        expected.audience = audience;
    }
    let lifetime = Duration::from_millis(args.ttl);
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let tenant = args.tenant.as_ref().map(ToString::to_string);
    let request =
        TokenRequest { subject: args.subject, tenant: args.tenant, scopes: scopes.clone(), lifetime };
    let token = bulkhead_server::issue_token(&args.data_dir, &expected, &request).map_err(|e| {
        Failure::of(format!("can't make a token with the keys in {}", args.data_dir.display()), &e)
    })?;
    if args.json {
        let seconds = lifetime.as_secs();
        print::json(&json!({ "token": token, "tenant": tenant, "scopes": names, "expires_in": seconds }))?;
    } else {
        print::line(&token)?;
    }
    Ok(ExitCode::SUCCESS)
}
