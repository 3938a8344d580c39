//! `request_id`: the same id and body get the first answer, another body is refused.

use sqlx::PgTransaction;

use crate::StoreError;

/// Longest `request_id`, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// A mutation's `request_id`, with what it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The method, for example `CreateJob`: ids of different methods don't meet.
    pub method: &'static str,
    /// As the client chose it: 1 to 128 bytes.
    pub request_id: String,
    /// SHA-256 of the request's body.
    pub body_sha256: [u8; 32],
}

/// Takes the id for `resource`, or answers with the resource of the first request. Whoever comes second waits
/// here until the first has committed or failed.
///
/// # Errors
/// [`StoreError::RequestIdReused`] for another body.
pub(crate) async fn request_claim(
    tx: &mut PgTransaction<'_>,
    tenant: &str,
    key: &RequestKey,
    resource: &str,
) -> Result<Option<String>, StoreError> {
    use crate::sql::tenants::REQUEST_CLAIM;
    let id = &key.request_id;
    if id.is_empty() || id.len() > MAX_REQUEST_ID || id.contains('\0') {
        return Err(StoreError::RequestIdInvalid);
    }
    let claimed = sqlx::query(REQUEST_CLAIM)
        .bind(tenant)
        .bind(key.method)
        .bind(id)
        .bind(&key.body_sha256[..])
        .bind(resource)
        .fetch_optional(&mut **tx)
        .await?;
    if claimed.is_some() {
        return Ok(None);
    }
    request_first(tx, tenant, key).await
}

/// The resource of the first request with this id; none if there was none.
///
/// # Errors
/// [`StoreError::RequestIdReused`] for another body.
pub(crate) async fn request_first(
    tx: &mut PgTransaction<'_>,
    tenant: &str,
    key: &RequestKey,
) -> Result<Option<String>, StoreError> {
    use crate::sql::tenants::REQUEST_GET;
    let id = &key.request_id;
    let row: Option<(Vec<u8>, String)> =
        sqlx::query_as(REQUEST_GET).bind(tenant).bind(key.method).bind(id).fetch_optional(&mut **tx).await?;
    match row {
        Some((body, _)) if body != key.body_sha256 => {
            Err(StoreError::RequestIdReused { request_id: id.clone() })
        }
        row => Ok(row.map(|(_, first)| first)),
    }
}
