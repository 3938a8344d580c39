//! The one error of the edge, and the only place that maps errors to a gRPC status.
//!
//! Every status carries exactly one google.rpc.ErrorInfo (domain "bulkhead", reason in UPPER_SNAKE), and beside it
//! what the client can act on: BadRequest names the field, RetryInfo says when, ResourceInfo says what is missing.
//! What went wrong inside is logged with a correlation id, and only the id is sent.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_proto::codec::ERROR_DOMAIN;
use bulkhead_store::StoreError;
use bulkhead_telemetry::Chain;
use bulkhead_types::{Digest, IdError, SpecError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::auth::{Scope, TokenError};

/// When to come back after the service was too busy or its database away.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// When to come back after a quota of waiting jobs was full: a few of them should have ended.
const RETRY_QUOTA: Duration = Duration::from_secs(5);
/// Longest part of a client's own text that is sent back in a message, in bytes.
const MAX_QUOTED: usize = 256;

/// Why a call was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No token, or one that does not hold.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A worker whose certificate names no node.
    #[error("the certificate names no node; get one from the service")]
    NodeUnknown,
    /// The token does not allow this.
    #[error("the token lacks the scope {scope}")]
    ScopeMissing {
        /// What the call needs.
        scope: Scope,
    },
    /// No such thing, or it belongs to another tenant: the two look the same on purpose.
    #[error("{kind} {name:?} was not found")]
    NotFound {
        /// The kind of thing, for example "job".
        kind: &'static str,
        /// Its resource name.
        name: String,
    },
    /// A thing of that name exists.
    #[error("{kind} {name:?} already exists")]
    AlreadyExists {
        /// The kind of thing.
        kind: &'static str,
        /// Its id.
        name: String,
    },
    /// A field is wrong.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path, for example `spec.argv[3]`.
        field: String,
        /// What is wrong and what is accepted.
        problem: String,
    },
    /// The bytes of an upload are not those that its header promised.
    #[error("the bytes have digest {found}, not {expected}")]
    DigestMismatch {
        /// What the header said.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// A message over the size that the method takes.
    #[error("the message is too large: {problem}")]
    MessageTooLarge {
        /// The sizes, as tonic says them.
        problem: String,
    },
    /// The archive of an image can't be converted.
    #[error("the archive can't be converted: {problem}")]
    ImageInvalid {
        /// What is wrong with it.
        problem: String,
    },
    /// The same `request_id` came with another body.
    #[error("request_id: this id was used before with a different request; use a new one")]
    RequestIdReused,
    /// The tenant has as many waiting and running jobs as it may.
    #[error(
        "tenant {tenant} has {limit} jobs that wait or run, which is its quota; try again when some have ended"
    )]
    JobQuota {
        /// The tenant.
        tenant: String,
        /// Its quota.
        limit: u64,
    },
    /// The tenant has stored as much as it may.
    #[error(
        "tenant {tenant} may store {limit} bytes: delete images, and jobs whose outputs are not needed any more (blobs \
         that no job names go a day after their last use), or ask the operator for a larger quota"
    )]
    StorageQuota {
        /// The tenant.
        tenant: String,
        /// Its quota, in bytes.
        limit: u64,
    },
    /// The service handles as many calls as it can.
    #[error("the service is at its limit of {what}; try again")]
    Overloaded {
        /// Which limit.
        what: &'static str,
    },
    /// No node has the sandbox that was asked for.
    #[error("no node offers the backend {backend}: {why}")]
    BackendUnavailable {
        /// The backend.
        backend: &'static str,
        /// What the nodes say, with what to do.
        why: String,
    },
    /// Only a job that has ended can be deleted.
    #[error("job {name} is {state}; cancel it, and delete it when it has ended")]
    JobNotEnded {
        /// The job.
        name: String,
        /// Its state.
        state: &'static str,
    },
    /// A report about an attempt that the node no longer has.
    #[error("the attempt is not this node's any more")]
    AttemptStale,
    /// The call's deadline has passed.
    #[error("the call's deadline has passed")]
    DeadlineExceeded,
    /// No such method.
    #[error("this service has no such method")]
    MethodUnknown,
    /// The service is shutting down, or its database is away.
    #[error("{what} is not available; try again")]
    Unavailable {
        /// What is away.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Anything else: a defect. Logged, never sent.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// A wrong field.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    /// A defect.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// A thing that is missing.
    pub fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }

    /// The status code and the reason of the ErrorInfo.
    fn classify(&self) -> (Code, &'static str) {
        match self {
            Self::Token(error) => (Code::Unauthenticated, error.reason()),
            Self::NodeUnknown => (Code::Unauthenticated, "NODE_UNKNOWN"),
            Self::ScopeMissing { .. } => (Code::PermissionDenied, "SCOPE_MISSING"),
            Self::NotFound { .. } => (Code::NotFound, "RESOURCE_NOT_FOUND"),
            Self::AlreadyExists { .. } => (Code::AlreadyExists, "RESOURCE_EXISTS"),
            Self::Field { .. } => (Code::InvalidArgument, "FIELD_INVALID"),
            Self::DigestMismatch { .. } => (Code::InvalidArgument, "DIGEST_MISMATCH"),
            Self::MessageTooLarge { .. } => (Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
            Self::ImageInvalid { .. } => (Code::InvalidArgument, "IMAGE_INVALID"),
            Self::RequestIdReused => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
            Self::JobQuota { .. } => (Code::ResourceExhausted, "JOB_QUOTA_EXCEEDED"),
            Self::StorageQuota { .. } => (Code::ResourceExhausted, "STORAGE_QUOTA_EXCEEDED"),
            Self::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED"),
            Self::BackendUnavailable { .. } => (Code::FailedPrecondition, "BACKEND_UNAVAILABLE"),
            Self::JobNotEnded { .. } => (Code::FailedPrecondition, "JOB_NOT_ENDED"),
            Self::AttemptStale => (Code::FailedPrecondition, "ATTEMPT_STALE"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::MethodUnknown => (Code::Unimplemented, "METHOD_UNKNOWN"),
            Self::Unavailable { .. } => (Code::Unavailable, "UNAVAILABLE"),
            Self::Internal(_) => (Code::Internal, "INTERNAL"),
        }
    }

    /// The field that BadRequest names.
    fn violated_field(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::DigestMismatch { .. } => Some("header.expected_digest"),
            Self::MessageTooLarge { .. } => Some("request"),
            Self::ImageInvalid { .. } => Some("data"),
            Self::RequestIdReused => Some("request_id"),
            _ => None,
        }
    }

    fn details(&self, reason: &'static str, correlation: Option<&Uuid>) -> ErrorDetails {
        let mut metadata: HashMap<String, String> = HashMap::new();
        let mut details = ErrorDetails::new();
        if let Some(field) = self.violated_field() {
            metadata.insert("field".into(), field.into());
            details.add_bad_request_violation(field, self.problem());
        }
        match self {
            Self::NotFound { kind, name } | Self::AlreadyExists { kind, name } => {
                details.set_resource_info(*kind, quoted(name), "", self.to_string());
            }
            Self::JobQuota { tenant, limit } => {
                metadata.insert("limit".into(), limit.to_string());
                details.add_quota_failure_violation(format!("tenants/{tenant}"), self.to_string());
                details.set_retry_info(Some(RETRY_QUOTA));
            }
            // Nothing frees itself while one waits: no RetryInfo.
            Self::StorageQuota { tenant, limit } => {
                metadata.insert("limit_bytes".into(), limit.to_string());
                details.add_quota_failure_violation(format!("tenants/{tenant}"), self.to_string());
            }
            Self::ScopeMissing { scope } => {
                metadata.insert("scope".into(), scope.to_string());
            }
            Self::BackendUnavailable { backend, .. } => {
                metadata.insert("backend".into(), (*backend).into());
            }
            Self::Overloaded { .. } | Self::Unavailable { .. } => {
                details.set_retry_info(Some(RETRY_SOON));
            }
            _ => {}
        }
        if let Some(id) = correlation {
            metadata.insert("correlation_id".into(), id.to_string());
        }
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        details
    }

    /// The text without the field's name, which BadRequest holds apart.
    fn problem(&self) -> String {
        match self {
            Self::Field { problem, .. } => quoted(problem),
            other => other.to_string(),
        }
    }

    /// Logs what is not sent.
    fn log(&self, correlation: &Uuid) {
        match self {
            Self::Internal(source) => {
                tracing::error!(%correlation, error = %Chain(&**source), "a call failed");
            }
            Self::Unavailable { what, source: Some(source) } => {
                tracing::warn!(%correlation, what, error = %Chain(&**source), "a call could not be served");
            }
            _ => {}
        }
    }
}

/// A client's own text, at a length that is fit to be sent back in a header.
fn quoted(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_QUOTED);
    if end < text.len() { format!("{}...", &text[..end]) } else { text.to_owned() }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (code, reason) = error.classify();
        let inside = matches!(error, ApiError::Internal(_) | ApiError::Unavailable { source: Some(_), .. });
        let correlation = inside.then(Uuid::new_v4);
        if let Some(id) = &correlation {
            error.log(id);
        }
        let details = error.details(reason, correlation.as_ref());
        let mut message = match &error {
            ApiError::Field { field, problem } => format!("{}: {}", quoted(field), quoted(problem)),
            ApiError::NotFound { kind, name } => format!("{kind} {:?} was not found", quoted(name)),
            other => other.to_string(),
        };
        if let Some(id) = correlation {
            message = format!("{message} (correlation id {id})");
        }
        Status::with_error_details(code, message, details)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what, name } => Self::NotFound { kind: what, name },
            StoreError::AlreadyExists { what, name } => Self::AlreadyExists { kind: what, name },
            StoreError::RequestIdReused { .. } => Self::RequestIdReused,
            StoreError::RequestIdInvalid => Self::field("request_id", "a UUID is needed"),
            StoreError::PageTokenInvalid => {
                Self::field("page_token", "the token does not belong to this list; start again without one")
            }
            StoreError::StaleAttempt { .. } => Self::AttemptStale,
            StoreError::NotEnded { job, state } => {
                Self::JobNotEnded { name: job.to_string(), state: state.as_str() }
            }
            StoreError::JobQuota { tenant, limit } => Self::JobQuota { tenant: tenant.to_string(), limit },
            StoreError::StorageQuota { tenant, limit } => {
                Self::StorageQuota { tenant: tenant.to_string(), limit }
            }
            StoreError::BlobNotFound { digest } => {
                Self::field("spec", format!("the blob {digest} does not exist; upload it first"))
            }
            StoreError::Unavailable(source) => {
                Self::Unavailable { what: "the database", source: Some(source.into()) }
            }
            other => Self::internal(other),
        }
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::Limit(limit) => {
                let field = format!("spec.{}", limit.field);
                let problem = limit.to_string();
                let problem = problem.strip_prefix(limit.field).unwrap_or(&problem).trim().to_owned();
                Self::Field { field, problem }
            }
            SpecError::Field { field, problem } => Self::Field { field, problem },
        }
    }
}

/// A resource name or id that has no valid form can't name anything of anybody: which field it came in is the
/// caller's to say.
pub(crate) fn bad_name(field: &'static str) -> impl Fn(IdError) -> ApiError {
    move |error| ApiError::field(field, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(status: &Status) -> (String, String) {
        let info = status.get_error_details().error_info().cloned().expect("an ErrorInfo");
        (info.domain, info.reason)
    }

    #[test]
    fn each_status_has_one_error_info_and_what_can_be_acted_on() {
        let status = Status::from(ApiError::field("spec.argv", "too many"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(info(&status), ("bulkhead".into(), "FIELD_INVALID".into()));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("violations").field_violations[0].field, "spec.argv");
        assert_eq!(status.message(), "spec.argv: too many");
        let infos = status
            .get_error_details_vec()
            .into_iter()
            .filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
        assert_eq!(infos.count(), 1);

        let status = Status::from(ApiError::JobQuota { tenant: "acme".into(), limit: 7 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_error_details().retry_info().expect("retry").retry_delay.is_some());

        let status = Status::from(ApiError::not_found("job", "tenants/a/jobs/b"));
        assert_eq!(status.get_error_details().resource_info().expect("resource").resource_type, "job");
    }

    #[test]
    fn what_went_wrong_inside_stays_inside() {
        let status = Status::from(ApiError::internal("password=hunter2"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("hunter2"));
        let details = status.get_error_details();
        let id = &details.error_info().expect("info").metadata["correlation_id"];
        assert!(status.message().contains(id));
    }

    #[test]
    fn a_limit_is_named_as_the_api_spells_it() {
        let error = bulkhead_types::Limits::MEMORY.resolve(-1).expect_err("negative");
        let status = Status::from(ApiError::from(SpecError::Limit(error)));
        let details = status.get_error_details();
        let violation = &details.bad_request().expect("violations").field_violations[0];
        assert_eq!(violation.field, "spec.limits.memory_bytes");
        assert!(violation.description.starts_with("must be between"), "{}", violation.description);
    }

    #[test]
    fn long_text_is_cut() {
        let status = Status::from(ApiError::field("f", "é".repeat(10_000)));
        assert!(status.message().len() < 400);
    }
}
