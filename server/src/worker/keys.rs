//! Attempts as the workers' protocol names them.

use bulkhead_proto::worker::AttemptId;
use bulkhead_types::{AttemptKey, JobId, OutputStream, TenantId};

use crate::error::ApiError;

/// The attempt that a message names.
///
/// # Errors
/// [`ApiError::Field`].
pub(super) fn attempt_key(id: Option<&AttemptId>) -> Result<AttemptKey, ApiError> {
    let id = id.ok_or_else(|| ApiError::field("id", "an attempt is needed"))?;
    let job: JobId = id.job.parse().map_err(crate::error::bad_name("id.job"))?;
    let token = u64::try_from(id.token).map_err(|_| ApiError::field("id.token", "must not be negative"))?;
    Ok(AttemptKey { job, attempt: id.attempt, token })
}

/// An attempt of a tenant, for a message.
pub(super) fn attempt_id(tenant: &TenantId, key: AttemptKey) -> AttemptId {
    AttemptId {
        tenant: tenant.to_string(),
        job: key.job.to_string(),
        attempt: key.attempt,
        token: i64::try_from(key.token).unwrap_or(i64::MAX),
    }
}

/// The number of a stream in the protocol.
pub(super) fn stream_number(stream: OutputStream) -> u32 {
    match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    }
}

/// The stream with a number of the protocol.
///
/// # Errors
/// [`ApiError::Field`].
pub(super) fn stream_of(number: u32) -> Result<OutputStream, ApiError> {
    match number {
        1 => Ok(OutputStream::Stdout),
        2 => Ok(OutputStream::Stderr),
        _ => Err(ApiError::field("stream", "1 (stdout) or 2 (stderr) is needed")),
    }
}
