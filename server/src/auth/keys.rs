//! Keys that tokens are verified with: our own, and those of a JWKS file.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Largest JWKS file, in bytes: some hundred keys.
const MAX_JWKS_BYTES: u64 = 256 << 10;
/// Most keys of a set: every one without a `kid` may cost a verification per call.
const MAX_KEYS: usize = 64;

/// Why a JWKS file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// It can't be read.
    #[error("the JWKS file {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no JWKS.
    #[error("the JWKS file {path} is no JSON Web Key Set")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It is too large, or has too many keys.
    #[error(
        "the JWKS file {path} is too large: at most {MAX_KEYS} keys in {MAX_JWKS_BYTES} bytes are accepted"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// None of its keys can verify tokens.
    #[error("the JWKS file {path} has no key for signatures with EdDSA (Ed25519), ES256 or RS256")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A key, with the one algorithm that it is for.
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of one moment.
#[derive(Default)]
pub struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl KeySet {
    /// Reads the keys of a JWKS file that are for signatures with an algorithm that we accept; others are left out.
    ///
    /// # Errors
    /// [`JwksError`] if it can't be read, is no JWKS, or holds no such key.
    pub fn from_jwks_file(path: &Path) -> Result<Self, JwksError> {
        let owned = || path.to_owned();
        let failed = |source| JwksError::Read { path: owned(), source };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_JWKS_BYTES {
            return Err(JwksError::TooLarge { path: owned() });
        }
        let text = std::fs::read(path).map_err(failed)?;
        let set: JwkSet =
            serde_json::from_slice(&text).map_err(|source| JwksError::Parse { path: owned(), source })?;
        if set.keys.len() > MAX_KEYS {
            return Err(JwksError::TooLarge { path: owned() });
        }
        let keys: Vec<VerifyingKey> = set.keys.iter().filter_map(verifying_key).collect();
        if keys.is_empty() { Err(JwksError::Empty { path: owned() }) } else { Ok(Self { keys }) }
    }

    /// Adds a key whose algorithm is EdDSA: `public` is the 32 bytes of an Ed25519 public key.
    pub(super) fn add_ed25519(&mut self, id: String, public: &[u8]) {
        let key = DecodingKey::from_ed_der(public);
        self.keys.push(VerifyingKey { id: Some(id), algorithm: Algorithm::EdDSA, key });
    }

    /// The keys that may have signed a token whose header names `kid`, or none.
    pub(super) fn candidates<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a VerifyingKey> {
        self.keys.iter().filter(move |key| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid)
    }
}

/// The algorithm is the key's own; a key that says another one than its type allows is left out.
fn verifying_key(jwk: &Jwk) -> Option<VerifyingKey> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let said = match jwk.common.key_algorithm {
        None => algorithm,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        Some(KeyAlgorithm::ES256) => Algorithm::ES256,
        Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        Some(_) => return None,
    };
    if said != algorithm {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyingKey { id: jwk.common.key_id.clone(), algorithm, key })
}
