//! Where the service is and who the caller is: from flags, the environment, and what `bulkhead serve` wrote.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bulkhead_client::{Client, Connection};
use bulkhead_types::{JobId, JobName, TenantId};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Where `bulkhead serve` says how to reach it.
pub(crate) const CLIENT_FILE: &str = "client.json";
/// The data directory when nothing is said.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/bulkhead";

/// Which service, and as whom
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Settings {
    /// The service [default: the one that runs on the data directory of this machine]
    #[arg(long, global = true, value_name = "URL", env = "BULKHEAD_SERVER")]
    pub(crate) server: Option<String>,
    /// Token, or @FILE to read it from a file
    #[arg(long, global = true, value_name = "TOKEN", env = "BULKHEAD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with the certificate of the authority that signed the service's
    #[arg(long, global = true, value_name = "FILE", env = "BULKHEAD_CA")]
    ca: Option<PathBuf>,
    /// Tenant [default: the token's]
    #[arg(long, global = true, value_name = "TENANT", env = "BULKHEAD_TENANT")]
    pub(crate) tenant: Option<TenantId>,
    /// Data directory of the service on this machine
    #[arg(long, global = true, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}

/// How clients reach a service: `client.json` in its data directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientFile {
    /// `http://` or `https://`, host and port.
    pub(crate) endpoint: String,
    /// PEM of the authority that signed the service's certificate, if it is not a well-known one.
    pub(crate) authority: Option<String>,
}

impl ClientFile {
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(CLIENT_FILE)
    }

    pub(crate) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let path = Self::path(data_dir);
        let unfinished = path.with_extension("tmp");
        std::fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(unfinished, path)
    }
}

impl Settings {
    /// The token, if one was given.
    fn token(&self) -> Result<Option<String>, Failure> {
        match self.token.as_deref().filter(|token| !token.is_empty()) {
            None => Ok(None),
            Some(token) => match token.strip_prefix('@') {
                Some(path) => {
                    let text = std::fs::read_to_string(path)
                        .map_err(|e| Failure::of(format!("can't read the token's file {path}"), &e))?;
                    Ok(Some(text.trim().to_owned()))
                }
                None => Ok(Some(token.to_owned())),
            },
        }
    }

    /// Whether the caller means a service, rather than a data directory.
    pub(crate) fn names_service(&self) -> bool {
        self.server.is_some() || self.token.as_ref().is_some_and(|token| !token.is_empty())
    }

    /// A client of the service.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let mut connection = match &self.server {
            Some(server) if server.contains("://") => Connection::to(server.clone()),
            Some(server) => Connection::to(format!("http://{server}")),
            None => self.local_connection()?,
        };
        if let Some(ca) = &self.ca {
            let text = std::fs::read_to_string(ca)
                .map_err(|e| Failure::of(format!("can't read {}", ca.display()), &e))?;
            connection.authority = Some(text);
        }
        connection.token = self.token()?;
        Ok(Client::new(&connection)?)
    }

    fn local_connection(&self) -> Result<Connection, Failure> {
        let path = ClientFile::path(&self.data_dir);
        let text = std::fs::read(&path).map_err(|_| {
            Failure::new(format!("no service is known: {} can't be read", path.display()))
                .hint("start one with `bulkhead serve`, or say where it is with --server or BULKHEAD_SERVER")
        })?;
        let file: ClientFile = serde_json::from_slice(&text)
            .map_err(|e| Failure::of(format!("{} can't be used", path.display()), &e))?;
        Ok(Connection { authority: file.authority, ..Connection::to(file.endpoint) })
    }

    /// The tenant whose resources are meant: the one that was said, else the token's.
    pub(crate) fn tenant(&self) -> Result<TenantId, Failure> {
        if let Some(tenant) = &self.tenant {
            return Ok(tenant.clone());
        }
        let token = self.token()?.ok_or_else(|| {
            Failure::new("no token was given").hint("give one with --token or BULKHEAD_TOKEN")
        })?;
        tenant_of(&token)
            .ok_or_else(|| Failure::new("the token names no tenant").hint("say which one with --tenant"))
    }

    /// `tenants/{tenant}`.
    pub(crate) fn parent(&self) -> Result<String, Failure> {
        Ok(format!("tenants/{}", self.tenant()?))
    }

    /// A job's full name, from itself or from its last part.
    pub(crate) fn job_name(&self, text: &str) -> Result<String, Failure> {
        if let Ok(name) = text.parse::<JobName>() {
            return Ok(name.to_string());
        }
        let job: JobId = text.parse().map_err(|_| {
            Failure::new(format!("{text:?} is no job: use tenants/TENANT/jobs/ID, or the ID alone"))
        })?;
        Ok(JobName { tenant: self.tenant()?, job }.to_string())
    }
}

/// The tenant that a token speaks of. Only to fill in names: the service verifies the token, we do not.
fn tenant_of(token: &str) -> Option<TenantId> {
    #[derive(Deserialize)]
    struct Claims {
        tenant: TenantId,
    }
    let payload = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    Some(serde_json::from_slice::<Claims>(&bytes).ok()?.tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_tenant_is_read_and_nonsense_is_not() {
        let token = format!("x.{}.y", BASE64_URL_SAFE_NO_PAD.encode(r#"{"tenant":"acme","sub":"a"}"#));
        assert_eq!(tenant_of(&token), TenantId::new("acme").ok());
        for bad in ["", "a.b.c", "x.!!.y", &format!("x.{}.y", BASE64_URL_SAFE_NO_PAD.encode("{}"))] {
            assert_eq!(tenant_of(bad), None, "{bad}");
        }
    }
}
