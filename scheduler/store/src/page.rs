//! Page tokens of ListJobs: where to go on, bound to the tenant and filter that they were made for.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use bulkhead_types::{JobState, TenantId};
use uuid::Uuid;

use crate::StoreError;

/// Which jobs a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In one of these states; empty means in any.
    pub states: Vec<JobState>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// Bytes of the filter's hash in a token: enough that a mistake is found; a forged token gains nothing.
const TAG_BYTES: usize = 8;

fn tag(tenant: &TenantId, filter: &JobFilter) -> [u8; TAG_BYTES] {
    let mut states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    states.sort_unstable();
    let text = format!("{tenant}\0{states:?}\0{:?}", filter.labels);
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref()[..TAG_BYTES].try_into().expect("SHA-256 is longer than the tag")
}

/// The token of the page after `last`.
pub(crate) fn encode(tenant: &TenantId, filter: &JobFilter, last: Uuid) -> String {
    use std::fmt::Write;
    let bytes = last.into_bytes().into_iter().chain(tag(tenant, filter));
    bytes.fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Where the page begins.
///
/// # Errors
/// [`StoreError::PageTokenInvalid`] if it is damaged or belongs to another list.
pub(crate) fn decode(tenant: &TenantId, filter: &JobFilter, token: &str) -> Result<Uuid, StoreError> {
    let parse = || -> Option<(Uuid, Vec<u8>)> {
        if token.len() != 2 * (16 + TAG_BYTES) || !token.is_ascii() {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).ok()).collect();
        let bytes = bytes?;
        Some((Uuid::from_slice(&bytes[..16]).ok()?, bytes[16..].to_vec()))
    };
    match parse() {
        Some((last, found)) if found == tag(tenant, filter) => Ok(last),
        _ => Err(StoreError::PageTokenInvalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_list() {
        let (acme, other) = (TenantId::new("acme").expect("valid"), TenantId::new("other").expect("valid"));
        let all = JobFilter::default();
        let queued = JobFilter { states: vec![JobState::Queued], ..Default::default() };
        let last = Uuid::now_v7();
        let token = encode(&acme, &all, last);
        assert_eq!(decode(&acme, &all, &token).expect("own token"), last);
        for (tenant, filter) in [(&other, &all), (&acme, &queued)] {
            assert!(matches!(decode(tenant, filter, &token), Err(StoreError::PageTokenInvalid)));
        }
        for bad in ["", "zz", &token[1..], &"é".repeat(24), &"z".repeat(48)] {
            assert!(matches!(decode(&acme, &all, bad), Err(StoreError::PageTokenInvalid)), "{bad}");
        }
    }
}
