//! Who calls, and what they may do.
//!
//! A call carries a JWT in `authorization: Bearer ...`. Its algorithm is chosen by our own key, never by the token;
//! `iss`, `aud` and `exp` are required, `nbf` is checked, and `sub`, `tenant` and `scope` are used. The table in
//! [`methods`] says which scope each method needs; a method that is not in it needs a token at least.

mod keys;
mod methods;
mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use bulkhead_types::TenantId;

pub use keys::{JwksError, KeySet};
pub use methods::{Access, access};
pub use token::{Expected, TokenError, TokenIssuer, TokenRequest, Verifier};

use crate::error::ApiError;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Get, list, wait for and watch jobs.
    JobsRead,
    /// Create, cancel and delete jobs.
    JobsWrite,
    /// Download blobs.
    BlobsRead,
    /// Upload blobs.
    BlobsWrite,
    /// Get and list images.
    ImagesRead,
    /// Import and delete images.
    ImagesWrite,
    /// Tenants, nodes, and images that are shared with all.
    Operator,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::BlobsRead,
        Self::BlobsWrite,
        Self::ImagesRead,
        Self::ImagesWrite,
        Self::Operator,
    ];

    /// The scopes of somebody who works for a tenant: all but `operator`.
    pub const TENANT: [Self; 6] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::BlobsRead,
        Self::BlobsWrite,
        Self::ImagesRead,
        Self::ImagesWrite,
    ];

    /// As tokens spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs.read",
            Self::JobsWrite => "jobs.write",
            Self::BlobsRead => "blobs.read",
            Self::BlobsWrite => "blobs.write",
            Self::ImagesRead => "images.read",
            Self::ImagesWrite => "images.write",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scope that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown scope {0:?}: there are jobs.read, jobs.write, blobs.read, blobs.write, images.read, images.write, operator"
)]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// Who calls: what a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For logs: who it is at the issuer.
    pub subject: String,
    /// Whose resources it may reach; none for an operator who works for no tenant.
    pub tenant: Option<TenantId>,
    /// What it may do. Scopes that we don't know are left out.
    pub scopes: BTreeSet<Scope>,
}

impl Caller {
    /// Whether the token has the scope.
    ///
    /// # Errors
    /// [`ApiError::ScopeMissing`].
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(ApiError::ScopeMissing { scope }) }
    }

    /// Whether the caller works for `tenant`. Everything of another tenant does not exist, so that nobody can
    /// learn who else is here.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] of the thing that was named.
    pub fn works_for(&self, tenant: &TenantId, kind: &'static str, name: &str) -> Result<(), ApiError> {
        if self.tenant.as_ref() == Some(tenant) { Ok(()) } else { Err(ApiError::not_found(kind, name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("jobs".parse::<Scope>().is_err());
    }

    #[test]
    fn another_tenants_things_do_not_exist() {
        let tenant = |id: &str| TenantId::new(id).expect("valid");
        let mut caller =
            Caller { subject: "s".into(), tenant: Some(tenant("a")), scopes: [Scope::JobsRead].into() };
        assert!(caller.require(Scope::JobsRead).is_ok());
        assert!(matches!(caller.require(Scope::JobsWrite), Err(ApiError::ScopeMissing { .. })));
        assert!(caller.works_for(&tenant("a"), "job", "x").is_ok());
        assert!(matches!(caller.works_for(&tenant("b"), "job", "x"), Err(ApiError::NotFound { .. })));
        caller.tenant = None;
        assert!(caller.works_for(&tenant("a"), "job", "x").is_err());
    }
}
