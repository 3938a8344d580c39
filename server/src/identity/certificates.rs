//! Certificates for the workers' connection: our own authority, the server's, and one for each node.
//!
//! The node's id is the common name of its certificate; the authority signs nothing else for clients, so that a
//! certificate of it is a worker's.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bulkhead_types::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

use super::{IdentityError, KeyDirectory};

/// The name that workers expect in the server's certificate, whatever address they connect to.
pub const SERVER_NAME: &str = "bulkhead-server";

const AUTHORITY_KEY: &str = "authority.key.pem";
const AUTHORITY_CERTIFICATE: &str = "authority.pem";
const AUTHORITY_NAME: &str = "Bulkhead workers' authority";
/// How long the authority and the certificates of nodes hold.
const YEARS_10: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of nodes may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// A certificate with its key and the authority that signed it, all PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The authority's certificate: what the other side's is checked with.
    pub authority: String,
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Signs the certificates of the workers' connection.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority of a data directory, or makes it.
    ///
    /// # Errors
    /// [`IdentityError`] if its files can't be read, made or used.
    pub fn open_or_create(keys: &KeyDirectory) -> Result<Self, IdentityError> {
        let text = |name: &str, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| IdentityError::Damaged { path: keys.path(name) })
        };
        let key = keys.read_or_create(AUTHORITY_KEY, || Ok(new_key()?.serialize_pem().into_bytes()))?;
        let key = KeyPair::from_pem(&text(AUTHORITY_KEY, key)?)
            .map_err(|_| IdentityError::Damaged { path: keys.path(AUTHORITY_KEY) })?;
        let params = authority_params();
        let certificate = keys.read_or_create(AUTHORITY_CERTIFICATE, || {
            let certificate = params.self_signed(&key).map_err(IdentityError::Certificate)?;
            Ok(certificate.pem().into_bytes())
        })?;
        let certificate = text(AUTHORITY_CERTIFICATE, certificate)?;
        // The issuer is its name and key; the stored certificate is what the others check against.
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for the server itself, made anew at each start.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn server(&self) -> Result<Credentials, IdentityError> {
        let names = [SERVER_NAME.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).map_err(IdentityError::Certificate)?;
        self.sign(params, SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a node.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn node(&self, node: &NodeId) -> Result<Credentials, IdentityError> {
        self.sign(CertificateParams::default(), node.as_str(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Writes a node's credentials into a directory (made with mode 0700): `authority.pem`, `node.pem` and
    /// `node.key.pem`, all with mode 0600. Existing files are replaced.
    ///
    /// # Errors
    /// [`IdentityError`] if they can't be made or written.
    pub fn write_node(&self, node: &NodeId, directory: &Path) -> Result<(), IdentityError> {
        use std::io::Write;
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let credentials = self.node(node)?;
        let failed = |source| IdentityError::Io { path: directory.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let files = [
            ("authority.pem", &credentials.authority),
            ("node.pem", &credentials.certificate),
            ("node.key.pem", &credentials.key),
        ];
        for (name, text) in files {
            let (path, fresh) = (directory.join(name), directory.join(format!(".{name}.new")));
            let failed = |source| IdentityError::Io { path: path.clone(), source };
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            std::fs::rename(&fresh, &path).map_err(failed)?;
        }
        Ok(())
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Credentials, IdentityError> {
        params.distinguished_name = common_name(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        valid_from_now(&mut params);
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(IdentityError::Certificate)?;
        Ok(Credentials {
            authority: self.certificate.clone(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Certificate)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn valid_from_now(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + YEARS_10).into();
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(AUTHORITY_NAME);
    // It signs no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_from_now(&mut params);
    params
}

/// Which node a certificate (DER), already verified by TLS, was made for.
pub fn node_of_certificate(der: &[u8]) -> Option<NodeId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    if names.next().is_some() {
        return None;
    }
    NodeId::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn a_node_is_named_by_its_certificate() {
        let data = tempfile::tempdir().expect("directory");
        let keys = KeyDirectory::open(data.path()).expect("open");
        let first = Authority::open_or_create(&keys).expect("made");
        let again = Authority::open_or_create(&keys).expect("opened");
        assert_eq!(first.certificate(), again.certificate());
        let node = NodeId::new("node-1").expect("valid");
        let credentials = again.node(&node).expect("certificate");
        let der = CertificateDer::from_pem_slice(credentials.certificate.as_bytes()).expect("PEM");
        assert_eq!(node_of_certificate(&der), Some(node.clone()));
        assert_eq!(node_of_certificate(b"nothing"), None);
        assert!(!format!("{credentials:?}").contains("KEY"));
        let directory = data.path().join("worker");
        again.write_node(&node, &directory).expect("written");
        assert_eq!(std::fs::read_dir(&directory).expect("list").count(), 3);
    }
}
