//! Secret values at rest: AES-256-GCM under the service's key, bound to their job.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use bulkhead_types::JobId;

use crate::StoreError;

/// First byte of a sealed value: which layout follows.
const VERSION: u8 = 1;

/// The key that seals secret values in the database; the service keeps it outside of the database.
pub struct SecretKey(RandomizedNonceKey);

impl SecretKey {
    /// Wraps 32 random bytes.
    ///
    /// # Panics
    /// Never: AES-256 takes any 32 bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("32 bytes are a key of AES-256"))
    }

    /// Seals the values of one job: version, nonce, ciphertext with tag.
    pub(crate) fn seal(&self, job: JobId, values: &[String]) -> Result<Vec<u8>, StoreError> {
        let mut data = serde_json::to_vec(values).map_err(|e| StoreError::corrupt_by("secret", e))?;
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(job.as_uuid().into_bytes()), &mut data)
            .map_err(|_| StoreError::Secrets { job })?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + data.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut data);
        Ok(sealed)
    }

    /// Opens what [`Self::seal`] made for the same job.
    pub(crate) fn open(&self, job: JobId, sealed: &[u8]) -> Result<Vec<String>, StoreError> {
        let error = || StoreError::Secrets { job };
        let (version, rest) = sealed.split_first().ok_or_else(error)?;
        if *version != VERSION || rest.len() < NONCE_LEN {
            return Err(error());
        }
        let (nonce, data) = rest.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| error())?;
        let mut data = data.to_vec();
        let aad = Aad::from(job.as_uuid().into_bytes());
        let opened = self.0.open_in_place(nonce, aad, &mut data).map_err(|_| error())?;
        serde_json::from_slice(opened).map_err(|_| error())
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_open_for_their_job_and_key_only() {
        let key = SecretKey::new(&[7; 32]);
        let job = JobId::generate();
        let values = vec!["hunter2".to_owned(), String::new()];
        let sealed = key.seal(job, &values).expect("seals");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_eq!(key.open(job, &sealed).expect("opens"), values);
        assert!(key.open(JobId::generate(), &sealed).is_err());
        assert!(SecretKey::new(&[8; 32]).open(job, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(key.open(job, &damaged).is_err(), "byte {at}");
            assert!(key.open(job, &sealed[..at]).is_err(), "cut at {at}");
        }
        assert_ne!(sealed, key.seal(job, &values).expect("seals"), "a nonce is never used twice");
    }
}
