//! A description in three parts: JSON without secrets and inline bytes, the inline bytes, the secret values.

use bulkhead_types::{Content, Digest, JobSpec};

use crate::StoreError;

/// The parts in which a description is stored.
pub(crate) struct SplitSpec {
    /// Secret values are empty strings, inline contents are empty.
    pub(crate) spec: JobSpec,
    /// Standard input first, then files, in order.
    pub(crate) inline: Vec<Vec<u8>>,
    /// In the order of the environment.
    pub(crate) secrets: Vec<String>,
}

fn contents(spec: &mut JobSpec) -> impl Iterator<Item = &mut Vec<u8>> {
    let stdin = spec.stdin.as_mut().into_iter();
    let files = spec.input_files.iter_mut().map(|file| &mut file.content);
    stdin.chain(files).filter_map(|content| match content {
        Content::Inline(bytes) => Some(bytes),
        Content::Blob(_) => None,
    })
}

/// Takes a description apart.
pub(crate) fn split(mut spec: JobSpec) -> SplitSpec {
    let inline = contents(&mut spec).map(std::mem::take).collect();
    let secrets =
        (spec.env.iter_mut().filter(|var| var.secret)).map(|var| std::mem::take(&mut var.value)).collect();
    SplitSpec { spec, inline, secrets }
}

/// Puts inline bytes back.
///
/// # Errors
/// [`StoreError::Corrupt`] if the parts don't belong together.
pub(crate) fn restore_inline(spec: &mut JobSpec, inline: Vec<Vec<u8>>) -> Result<(), StoreError> {
    let mut parts = inline.into_iter();
    for slot in contents(spec) {
        *slot = parts.next().ok_or_else(|| StoreError::corrupt("description: inline bytes are missing"))?;
    }
    match parts.next() {
        None => Ok(()),
        Some(_) => Err(StoreError::corrupt("description: too many inline bytes")),
    }
}

/// Puts secret values back.
///
/// # Errors
/// [`StoreError::Corrupt`] if the parts don't belong together.
pub(crate) fn restore_secrets(spec: &mut JobSpec, secrets: Vec<String>) -> Result<(), StoreError> {
    let mut values = secrets.into_iter();
    for var in spec.env.iter_mut().filter(|var| var.secret) {
        var.value = values.next().ok_or_else(|| StoreError::corrupt("description: secrets are missing"))?;
    }
    match values.next() {
        None => Ok(()),
        Some(_) => Err(StoreError::corrupt("description: too many secrets")),
    }
}

/// Every blob that the description names, each once.
pub(crate) fn blobs(spec: &JobSpec) -> Vec<Digest> {
    let contents = spec.stdin.iter().chain(spec.input_files.iter().map(|file| &file.content));
    let mut digests: Vec<Digest> = contents
        .filter_map(|content| match content {
            Content::Blob(digest) => Some(*digest),
            Content::Inline(_) => None,
        })
        .chain(spec.input_archives.iter().map(|archive| archive.blob))
        .collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::example_spec;
    use bulkhead_types::{EnvVar, InputFile};

    #[test]
    fn a_description_survives_being_taken_apart() {
        let mut spec = example_spec();
        spec.stdin = Some(Content::Inline(b"in".to_vec()));
        let file = |content| InputFile { path: "/a".into(), mode: 0o644, content };
        spec.input_files = vec![
            file(Content::Inline(vec![0, 255])),
            file(Content::Blob(Digest::from_bytes([1; 32]))),
            file(Content::Inline(vec![])),
        ];
        spec.env.push(EnvVar { name: "A".into(), value: "clear".into(), secret: false });
        spec.env.push(EnvVar { name: "B".into(), value: "hunter2".into(), secret: true });
        let parts = split(spec.clone());
        let text = serde_json::to_string(&parts.spec).expect("json");
        assert!(text.contains("clear") && !text.contains("hunter2"));
        assert_eq!(parts.inline, [b"in".to_vec(), vec![0, 255], vec![]]);
        assert_eq!(blobs(&spec), [Digest::from_bytes([1; 32])]);
        let mut joined = parts.spec;
        assert!(restore_inline(&mut joined.clone(), vec![]).is_err());
        restore_inline(&mut joined, parts.inline).expect("inline");
        restore_secrets(&mut joined, parts.secrets).expect("secrets");
        assert_eq!(joined, spec);
    }
}
