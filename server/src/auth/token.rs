//! Tokens: issued with the service's own key, and verified with that key and those of a JWKS file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bulkhead_types::{Digest, TenantId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{Caller, JwksError, KeySet, Scope};
use crate::identity::{IdentityError, KeyDirectory};

/// Longest token, in bytes: room for many claims, small beside the connection's header limit.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// How often a JWKS file is looked at for changes.
const JWKS_CHECK: Duration = Duration::from_secs(1);
/// Where the own signing key lies in the key directory: PKCS#8, Ed25519.
const SIGNING_KEY_FILE: &str = "token.pk8";
/// Longest subject, in bytes: it is logged.
const MAX_SUBJECT_BYTES: usize = 256;

/// Why a token does not hold. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("a token is needed: send the header authorization: Bearer TOKEN")]
    Missing,
    /// It was valid once.
    #[error("the token has expired; get a new one")]
    Expired,
    /// It will be valid later.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its issuer or audience is another.
    #[error("the token is of another issuer or for another audience")]
    Elsewhere,
    /// It is no token of ours: form, algorithm, key, signature or claims.
    #[error("the token is not valid")]
    Invalid,
}

impl TokenError {
    /// The reason of the ErrorInfo.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYetValid => "TOKEN_NOT_YET_VALID",
            Self::Elsewhere => "TOKEN_OF_ANOTHER_SERVICE",
            Self::Invalid => "TOKEN_INVALID",
        }
    }
}

/// What `iss` and `aud` of every token must say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// `iss`.
    pub issuer: String,
    /// `aud`, or one of them.
    pub audience: String,
}

impl Default for Expected {
    fn default() -> Self {
        Self { issuer: "bulkhead".into(), audience: "bulkhead".into() }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: serde_json::Value,
    exp: serde_json::Number,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    /// Separated by spaces (RFC 8693).
    #[serde(default)]
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<serde_json::Number>,
}

/// What a token is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `sub`: who it is for.
    pub subject: String,
    /// Whose resources it may reach.
    pub tenant: Option<TenantId>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// How long it holds.
    pub lifetime: Duration,
}

/// The service's own signing key, made at first use.
pub struct TokenIssuer {
    key: EncodingKey,
    id: String,
    public: Vec<u8>,
    expected: Expected,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer").field("kid", &self.id).finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Opens the signing key of a data directory, or makes it.
    ///
    /// # Errors
    /// [`IdentityError`] if the file can't be read, written or used.
    pub fn open_or_create(keys: &KeyDirectory, expected: Expected) -> Result<Self, IdentityError> {
        let damaged = || IdentityError::Damaged { path: keys.path(SIGNING_KEY_FILE) };
        let document = keys.read_or_create(SIGNING_KEY_FILE, || {
            let rng = aws_lc_rs::rand::SystemRandom::new();
            Ok(Ed25519KeyPair::generate_pkcs8(&rng).map_err(|_| IdentityError::Random)?.as_ref().to_vec())
        })?;
        let pair = Ed25519KeyPair::from_pkcs8(&document).map_err(|_| damaged())?;
        let public = pair.public_key().as_ref().to_vec();
        let id = Digest::from_bytes(sha2::Sha256::digest(&public).into()).hex()[..16].to_owned();
        Ok(Self { key: EncodingKey::from_ed_der(&document), id, public, expected })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`IdentityError::Sign`] if the signature can't be made.
    pub fn issue(&self, request: &TokenRequest) -> Result<String, IdentityError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let scopes: Vec<&str> = request.scopes.iter().map(|scope| scope.as_str()).collect();
        let claims = Claims {
            iss: self.expected.issuer.clone(),
            aud: self.expected.audience.clone().into(),
            exp: now.saturating_add(request.lifetime.as_secs()).into(),
            sub: request.subject.clone(),
            tenant: request.tenant.clone(),
            scope: scopes.join(" "),
            iat: Some(now.into()),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.clone());
        encode(&header, &claims, &self.key).map_err(|source| IdentityError::Sign(source.into()))
    }

    /// The key set that verifies this issuer's tokens.
    pub fn key_set(&self) -> KeySet {
        let mut set = KeySet::default();
        set.add_ed25519(self.id.clone(), &self.public);
        set
    }
}

/// A JWKS file and what it held when it was last read. Lock order: `checked`, then `keys`; neither is held over an
/// await.
struct JwksFile {
    path: PathBuf,
    keys: RwLock<Arc<KeySet>>,
    checked: Mutex<(Instant, Option<FileStamp>)>,
}

/// Tells whether a file has changed: time, size and inode.
type FileStamp = (Option<SystemTime>, u64, u64);

fn stamp(path: &Path) -> Option<FileStamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

impl JwksFile {
    fn open(path: PathBuf) -> Result<Self, JwksError> {
        let stamp = stamp(&path);
        let keys = RwLock::new(Arc::new(KeySet::from_jwks_file(&path)?));
        Ok(Self { path, keys, checked: Mutex::new((Instant::now(), stamp)) })
    }

    /// The keys, read again if the file has changed; a file that can't be used leaves the old ones in force.
    fn current(&self) -> Arc<KeySet> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.0.elapsed() >= JWKS_CHECK {
            checked.0 = Instant::now();
            let now = stamp(&self.path);
            if now != checked.1 {
                match KeySet::from_jwks_file(&self.path) {
                    Ok(fresh) => {
                        checked.1 = now;
                        tracing::info!(keys = ?fresh, "the JWKS file has changed");
                        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                    }
                    Err(error) => {
                        let error = bulkhead_telemetry::Chain(&error);
                        tracing::warn!(%error, "the JWKS file has changed but can't be used; the old keys stay");
                    }
                }
            }
        }
        drop(checked);
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Verifies tokens.
pub struct Verifier {
    own: KeySet,
    file: Option<JwksFile>,
    expected: Expected,
}

impl Verifier {
    /// Verifies with the service's own keys, and with those of a JWKS file if there is one; the file is read again
    /// when it changes.
    ///
    /// # Errors
    /// [`JwksError`] if the file can't be used now.
    pub fn new(own: KeySet, jwks: Option<PathBuf>, expected: Expected) -> Result<Self, JwksError> {
        Ok(Self { own, file: jwks.map(JwksFile::open).transpose()?, expected })
    }

    /// Who sent this `authorization` header.
    ///
    /// # Errors
    /// [`TokenError`], which says nothing of the token's content.
    pub fn verify(&self, authorization: Option<&[u8]>) -> Result<Caller, TokenError> {
        let header = authorization.ok_or(TokenError::Missing)?;
        let (scheme, token) = header.split_at_checked("bearer ".len()).ok_or(TokenError::Missing)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(TokenError::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        // Extensions that must be understood: we understand none (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.as_deref();
        let file = self.file.as_ref().map(JwksFile::current);
        let mut worst = TokenError::Invalid;
        for key in self.own.candidates(kid).chain(file.iter().flat_map(|set| set.candidates(kid))) {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = LEEWAY_SECONDS;
            validation.validate_nbf = true;
            validation.set_issuer(&[&self.expected.issuer]);
            validation.set_audience(&[&self.expected.audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            match decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return caller(data.claims),
                Err(error) => match error.kind() {
                    ErrorKind::ExpiredSignature => worst = TokenError::Expired,
                    ErrorKind::ImmatureSignature => worst = TokenError::NotYetValid,
                    ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => worst = TokenError::Elsewhere,
                    _ => {}
                },
            }
        }
        Err(worst)
    }
}

fn caller(claims: Claims) -> Result<Caller, TokenError> {
    if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES {
        return Err(TokenError::Invalid);
    }
    let scopes: BTreeSet<Scope> = claims.scope.split(' ').filter_map(|scope| scope.parse().ok()).collect();
    Ok(Caller { subject: claims.sub, tenant: claims.tenant, scopes })
}

#[cfg(test)]
mod tests;
