//! Resource names, request ids and pages. Each error names the field that the text came in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bulkhead_types::{Digest, ImageName, JobName, NodeId, TenantId};
use uuid::Uuid;

use crate::error::{ApiError, bad_name};

/// Largest page of a list.
const MAX_PAGE_SIZE: i32 = 1000;
/// A page when the request says nothing.
const DEFAULT_PAGE_SIZE: u32 = 50;
/// Longest page token of ours, in bytes.
const MAX_PAGE_TOKEN: usize = 512;

/// `tenants/{tenant}` in the field `parent`.
///
/// # Errors
/// [`ApiError::Field`].
pub(crate) fn parent(text: &str) -> Result<TenantId, ApiError> {
    let tenant = text
        .strip_prefix("tenants/")
        .ok_or_else(|| ApiError::field("parent", "a name of the form tenants/{tenant} is needed"))?;
    TenantId::new(tenant).map_err(bad_name("parent"))
}

/// `tenants/{tenant}/jobs/{job}` in the field `name`.
///
/// # Errors
/// [`ApiError::Field`].
pub(crate) fn job_name(text: &str) -> Result<JobName, ApiError> {
    text.parse().map_err(bad_name("name"))
}

/// `nodes/{node}` in the field `name`.
///
/// # Errors
/// [`ApiError::Field`].
pub(crate) fn node_name(text: &str) -> Result<NodeId, ApiError> {
    let node = text
        .strip_prefix("nodes/")
        .ok_or_else(|| ApiError::field("name", "a name of the form nodes/{node} is needed"))?;
    NodeId::new(node).map_err(bad_name("name"))
}

/// `tenants/{tenant}/blobs/{64 hexadecimal digits}` in the field `name`.
///
/// # Errors
/// [`ApiError::Field`].
pub(crate) fn blob_name(text: &str) -> Result<(TenantId, Digest), ApiError> {
    let bad = || {
        ApiError::field("name", "a name of the form tenants/{tenant}/blobs/{64 hexadecimal digits} is needed")
    };
    let (tenant, digest) =
        text.strip_prefix("tenants/").and_then(|rest| rest.split_once("/blobs/")).ok_or_else(bad)?;
    let tenant = TenantId::new(tenant).map_err(bad_name("name"))?;
    // One spelling for one blob: without the prefix that digests have elsewhere.
    if digest.len() != 64 {
        return Err(bad());
    }
    Ok((tenant, digest.parse().map_err(|_| bad())?))
}

/// Who owns an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageOwner {
    /// A tenant.
    Tenant(TenantId),
    /// The operator, who shares it with all tenants.
    Operator,
}

impl ImageOwner {
    /// `tenants/{tenant}` or `operator` in the field `header.parent`.
    ///
    /// # Errors
    /// [`ApiError::Field`].
    pub(crate) fn from_parent(text: &str) -> Result<Self, ApiError> {
        if text == "operator" {
            return Ok(Self::Operator);
        }
        let tenant = text.strip_prefix("tenants/").ok_or_else(|| {
            ApiError::field("header.parent", "a name of the form tenants/{tenant}, or operator, is needed")
        })?;
        Ok(Self::Tenant(TenantId::new(tenant).map_err(bad_name("header.parent"))?))
    }
}

/// `tenants/{tenant}/images/{image}` or `operator/images/{image}` in the field `name`.
///
/// # Errors
/// [`ApiError::Field`].
pub(crate) fn image_name(text: &str) -> Result<(ImageOwner, ImageName), ApiError> {
    let pattern = "a name of the form tenants/{tenant}/images/{image} or operator/images/{image} is needed";
    let bad = || ApiError::field("name", pattern);
    let (owner, image) = text.split_once("/images/").ok_or_else(bad)?;
    let owner = match owner.strip_prefix("tenants/") {
        Some(tenant) => ImageOwner::Tenant(TenantId::new(tenant).map_err(bad_name("name"))?),
        None if owner == "operator" => ImageOwner::Operator,
        None => return Err(bad()),
    };
    Ok((owner, ImageName::new(image).map_err(bad_name("name"))?))
}

/// A `request_id`: none if empty.
///
/// # Errors
/// [`ApiError::Field`] if it is no UUID.
pub(crate) fn request_id(text: &str) -> Result<Option<Uuid>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let uuid = Uuid::try_parse(text).map_err(|_| ApiError::field("request_id", "a UUID is needed"))?;
    Ok(Some(uuid))
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Most entries.
    pub(crate) size: u32,
    /// Go on behind this one.
    pub(crate) token: Option<String>,
}

/// Checks `page_size` and `page_token`.
///
/// # Errors
/// [`ApiError::Field`] if the size is negative or over 1,000, or the token is too long to be ours.
pub(crate) fn page(size: i32, token: String) -> Result<Page, ApiError> {
    let size = match size {
        0 => DEFAULT_PAGE_SIZE,
        1..=MAX_PAGE_SIZE => size.unsigned_abs(),
        _ => {
            let problem =
                format!("must be between 1 and {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}; got {size}");
            return Err(ApiError::field("page_size", problem));
        }
    };
    if token.len() > MAX_PAGE_TOKEN {
        return Err(bad_token());
    }
    Ok(Page { size, token: Some(token).filter(|token| !token.is_empty()) })
}

fn bad_token() -> ApiError {
    ApiError::field("page_token", "the token does not belong to this list; start again without one")
}

impl Page {
    /// The name that the page before ended with, for lists that are sorted by name.
    ///
    /// # Errors
    /// [`ApiError::Field`] if the token is not one of [`page_token`].
    pub(crate) fn after(&self) -> Result<Option<String>, ApiError> {
        let Some(token) = &self.token else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad_token())?;
        String::from_utf8(bytes).map(Some).map_err(|_| bad_token())
    }

    /// The error of a token whose content is not of this list.
    pub(crate) fn bad_token() -> ApiError {
        bad_token()
    }
}

/// The token of the page behind the entry `last`.
pub(crate) fn page_token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let hex = "ab".repeat(32);
        assert!(blob_name(&format!("tenants/a/blobs/{hex}")).is_ok());
        for bad in ["", "tenants/a", &format!("tenants/a/blobs/sha256:{hex}"), "tenants/A/blobs/x"] {
            assert!(blob_name(bad).is_err(), "{bad}");
        }
        assert!(image_name("operator/images/demo").is_ok());
        assert!(image_name("tenants/a/images/demo").is_ok());
        for bad in ["images/demo", "root/images/demo", "tenants//images/x", "operator/images/A"] {
            assert!(image_name(bad).is_err(), "{bad}");
        }
        assert!(parent("tenants/a").is_ok());
        for bad in ["a", "tenants/", "tenants/a/b"] {
            assert!(parent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(page(0, String::new()).expect("default").size, 50);
        for bad in [-1, 1001, 1_000_000_000, i32::MIN] {
            assert!(page(bad, String::new()).is_err(), "{bad}");
        }
        assert!(page(1, "x".repeat(10_000)).is_err());
        let next = page(1, page_token("node-7")).expect("page");
        assert_eq!(next.after().expect("token"), Some("node-7".into()));
        assert!(page(1, "!".into()).expect("page").after().is_err());
    }

    #[test]
    fn a_request_id_is_a_uuid() {
        assert_eq!(request_id("").expect("none"), None);
        assert!(request_id("7f3c1a52-1b1c-4c6e-9c57-0f2b8a3a9e11").expect("uuid").is_some());
        assert!(request_id("once").is_err());
    }
}
