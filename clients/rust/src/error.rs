use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path, for example `spec.limits.memory_bytes`.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub description: String,
}

/// Why a call failed: what the service said, taken apart.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// The status; UNKNOWN for what went wrong on this side.
    pub code: Code,
    /// For a person.
    pub message: String,
    /// For a program, for example `JOB_NOT_FOUND`; empty if the service was not reached.
    pub reason: String,
    /// Whose reasons these are: `bulkhead`.
    pub domain: String,
    /// Details of the reason.
    pub metadata: HashMap<String, String>,
    /// When to try again, if the service said so.
    pub retry_after: Option<Duration>,
    /// Which fields are wrong.
    pub fields: Vec<FieldViolation>,
}

impl ClientError {
    /// Something that went wrong on this side.
    pub(crate) fn local(message: String) -> Self {
        Self::plain(Code::Unknown, message)
    }

    fn plain(code: Code, message: String) -> Self {
        Self {
            code,
            message,
            reason: String::new(),
            domain: String::new(),
            metadata: HashMap::new(),
            retry_after: None,
            fields: Vec::new(),
        }
    }

    /// Whether the service could not be reached, or was not there.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }
}

/// Whether the connection was lost or could not be made, rather than the service answering with this status. What the
/// transport makes up (UNKNOWN, CANCELLED, INTERNAL, as it happens to break) has a source; an answer has none.
pub(crate) fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || (std::error::Error::source(status).is_some()
            && matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal))
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let code = if is_lost(&status) { Code::Unavailable } else { status.code() };
        let mut error = Self::plain(code, status.message().to_owned());
        if let Some(info) = status.get_details_error_info() {
            error.reason = info.reason;
            error.domain = info.domain;
            error.metadata = info.metadata;
        }
        error.retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        if let Some(bad) = status.get_details_bad_request() {
            let violations = bad.field_violations.into_iter();
            error.fields = violations
                .map(|violation| FieldViolation {
                    field: violation.field,
                    description: violation.description,
                })
                .collect();
        }
        if error.message.is_empty() {
            error.message = format!("the call failed with {:?}", error.code);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_are_taken_apart() {
        let mut details = ErrorDetails::new();
        details.set_error_info("TOO_MANY_JOBS", "bulkhead", [("limit".to_owned(), "5".to_owned())]);
        details.set_retry_info(Some(Duration::from_secs(3)));
        details.add_bad_request_violation("spec.argv", "must not be empty");
        let error =
            ClientError::from(Status::with_error_details(Code::ResourceExhausted, "too many", details));
        assert_eq!((error.reason.as_str(), error.domain.as_str()), ("TOO_MANY_JOBS", "bulkhead"));
        assert_eq!(error.metadata["limit"], "5");
        assert_eq!(error.retry_after, Some(Duration::from_secs(3)));
        assert_eq!(error.fields[0].field, "spec.argv");
        assert_eq!(error.to_string(), "too many");
    }
}
