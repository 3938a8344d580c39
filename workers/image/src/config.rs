//! What an image says about itself: how its program is started, and what files it consists of.

use bulkhead_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the description's form.
const VERSION: u32 = 1;
/// Most strings of a list in an image's configuration.
const MAX_STRINGS: usize = 4096;
/// Most bytes of all strings of a list, as a job's own.
const MAX_STRING_BYTES: usize = 1 << 20;

/// Defaults that a job takes from its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Program and first arguments, before the command.
    pub entrypoint: Vec<String>,
    /// Further arguments, which a job's own replace.
    pub cmd: Vec<String>,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// Absolute, or empty for `/`.
    pub working_dir: String,
}

/// What is wrong with an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image's configuration: {0}")]
pub struct ConfigError(pub(crate) &'static str);

impl ImageConfig {
    /// Checks that the configuration can be used to start something.
    ///
    /// # Errors
    /// [`ConfigError`], which says what is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for list in [&self.entrypoint, &self.cmd, &self.env] {
            if list.len() > MAX_STRINGS || list.iter().map(String::len).sum::<usize>() > MAX_STRING_BYTES {
                return Err(ConfigError("a list has more than 4096 strings or 1 MiB"));
            }
            if list.iter().any(|text| text.contains('\0')) {
                return Err(ConfigError("a string has a NUL"));
            }
        }
        if self.env.iter().any(|text| text.find('=').is_none_or(|at| at == 0)) {
            return Err(ConfigError("a variable is not of the form NAME=VALUE"));
        }
        if self.user.len() > 128 || self.user.contains('\0') {
            return Err(ConfigError("the user is longer than 128 bytes, or has a NUL"));
        }
        let directory = &self.working_dir;
        if directory.len() > 4095 || directory.contains('\0') {
            return Err(ConfigError("the working directory is longer than 4095 bytes, or has a NUL"));
        }
        if !directory.is_empty() && !directory.starts_with('/') {
            return Err(ConfigError("the working directory is not absolute"));
        }
        Ok(())
    }
}

/// A file of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// The description of an image, `image.json`. **The image's digest is the SHA-256 of this text**,
/// which names the digests of the image's files and holds its configuration; so it covers all of the
/// image. The text is what [`ImageMeta::to_json`] makes, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageMeta {
    /// Version of this form: 1.
    pub version: u32,
    /// The EROFS file with the tree and all that is world-readable.
    pub public: FileDigest,
    /// The EROFS file with the data of other files, if there are any.
    pub private: Option<FileDigest>,
    pub config: ImageConfig,
}

impl ImageMeta {
    /// Describes an image.
    pub fn new(public: FileDigest, private: Option<FileDigest>, config: ImageConfig) -> Self {
        Self { version: VERSION, public, private, config }
    }

    /// Reads a description, which must be of the one form that [`ImageMeta::to_json`] makes.
    ///
    /// # Errors
    /// [`ConfigError`], if it is not.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        let meta = serde_json::from_slice::<Self>(text).map_err(|_| ConfigError("malformed"))?;
        if meta.version != VERSION || meta.to_json().as_bytes() != text {
            return Err(ConfigError("of another version or form"));
        }
        meta.config.validate()?;
        Ok(meta)
    }

    /// The text of the description.
    pub fn to_json(&self) -> String {
        // A struct of strings and numbers always has a form.
        serde_json::to_string(self).expect("a description of plain values serialises")
    }

    /// The image's digest.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(Sha256::digest(self.to_json()).into())
    }

    /// Bytes of the image's files.
    pub fn size(&self) -> u64 {
        self.public.size.saturating_add(self.private.map_or(0, |file| file.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FileDigest {
        FileDigest { digest: Digest::from_bytes([7; 32]), size: 4096 }
    }

    #[test]
    fn descriptions_have_one_form() {
        let config = ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() };
        let meta = ImageMeta::new(file(), Some(file()), config);
        let text = meta.to_json();
        assert_eq!(ImageMeta::from_json(text.as_bytes()), Ok(meta.clone()));
        assert!(ImageMeta::from_json(format!(" {text}").as_bytes()).is_err());
        assert!(ImageMeta::from_json(text.replace("\"version\":1", "\"version\":2").as_bytes()).is_err());
        let other = ImageMeta::new(file(), None, meta.config.clone());
        assert_ne!(other.digest(), meta.digest());
    }

    #[test]
    fn unusable_configurations_are_refused() {
        let good = ImageConfig { env: vec!["A=".into()], working_dir: "/w".into(), ..ImageConfig::default() };
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            ImageConfig { env: vec!["=x".into()], ..good.clone() },
            ImageConfig { env: vec!["x".into()], ..good.clone() },
            ImageConfig { cmd: vec!["a\0b".into()], ..good.clone() },
            ImageConfig { cmd: vec!["x".into(); 5000], ..good.clone() },
            ImageConfig { working_dir: "w".into(), ..good.clone() },
            ImageConfig { user: "u".repeat(129), ..good.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
