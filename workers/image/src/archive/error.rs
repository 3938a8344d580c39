//! Why an archive is not an image. It crosses from the converter's process to its caller, so that it
//! holds text, not causes.

use serde::{Deserialize, Serialize};

/// Longest part of a name in bytes that a message shows.
const MAX_SHOWN: usize = 200;

/// Why an archive can't become an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is nothing that we know.
    #[error("not a tar archive, plain or compressed with gzip or zstd: {why}")]
    NotAnArchive { why: String },
    /// It ends early.
    #[error("the archive is cut off: {what}")]
    Truncated { what: String },
    /// A header or a number in it makes no sense.
    #[error("the archive is damaged at {at}: {what}")]
    Damaged { at: String, what: String },
    /// The decompressor refuses.
    #[error("the archive's compressed data are damaged: {why}")]
    Compression { why: String },
    /// A legal archive with something that we don't have.
    #[error("the archive has {what}, which is not supported")]
    Unsupported { what: String },
    /// A name that leads out of the image, or that no file can have.
    #[error("{path} is not a legal path in an image: {why}")]
    Path { path: String, why: String },
    /// A path leads through something that is no directory, or a hard link to nothing.
    #[error("{path} can't be placed: {why}")]
    Placement { path: String, why: String },
    /// A bound of this module, which the message names.
    #[error("the archive has more than {limit} {what}")]
    TooMuch { limit: u64, what: String },
    /// The bytes are not those that the image's own description promises.
    #[error("the digest of {what} is {found}, but {expected} was promised")]
    Digest { what: String, expected: String, found: String },
    /// A description (index, manifest, configuration) is missing, or not of its form.
    #[error("{what}: {why}")]
    Description { what: String, why: String },
    /// The archive's stream could not be read.
    #[error("could not read the archive: {why}")]
    Read { why: String },
    /// The host did not take the image's bytes.
    #[error("could not store the image: {why}")]
    Write { why: String },
}

impl ArchiveError {
    pub(crate) fn damaged(at: &[u8], what: impl Into<String>) -> Self {
        Self::Damaged { at: show(at), what: what.into() }
    }

    pub(crate) fn too_much(limit: u64, what: &str) -> Self {
        Self::TooMuch { limit, what: what.into() }
    }

    pub(crate) fn description(what: &str, why: impl ToString) -> Self {
        Self::Description { what: what.into(), why: why.to_string() }
    }
}

/// A name as a message can show it.
pub(crate) fn show(name: &[u8]) -> String {
    let shown = name.get(..MAX_SHOWN).unwrap_or(name).escape_ascii();
    format!("\"{shown}\"{}", if name.len() > MAX_SHOWN { "..." } else { "" })
}
