//! Errors that tonic makes by itself (unknown methods, broken frames, messages over the bound), given the form of
//! ours: our own always have details, so one without is tonic's.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::ApiError;

/// Gives a response that is an error without details the details that it lacks.
pub(super) fn complete(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return response;
    }
    match restate(&status) {
        Some(error) => Status::from(error).into_http(),
        None => response,
    }
}

fn restate(status: &Status) -> Option<ApiError> {
    let message = status.message().to_owned();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Some(ApiError::MessageTooLarge { problem: message }),
        Code::Unimplemented => Some(ApiError::MethodUnknown),
        // Frames that are none, a stream that ends within a message, no message where one is needed: the sender's.
        Code::Internal | Code::InvalidArgument => Some(ApiError::field("request", message)),
        Code::DeadlineExceeded => Some(ApiError::DeadlineExceeded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::StatusExt;

    fn completed(status: Status) -> Status {
        let response = complete(status.into_http());
        Status::from_header_map(response.headers()).expect("a status")
    }

    #[test]
    fn tonics_own_errors_get_an_error_info() {
        for (status, code, reason) in [
            (Status::unimplemented(""), Code::Unimplemented, "METHOD_UNKNOWN"),
            (Status::out_of_range("too large"), Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
            (Status::internal("protocol error"), Code::InvalidArgument, "FIELD_INVALID"),
        ] {
            let status = completed(status);
            assert_eq!(status.code(), code);
            assert_eq!(status.get_error_details().error_info().expect("info").reason, reason);
        }
    }

    #[test]
    fn our_own_stay_as_they_are() {
        let status = completed(Status::from(ApiError::internal("a defect")));
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.get_error_details().error_info().expect("info").reason, "INTERNAL");
    }
}
