//! Bodies that end at a deadline, however long the other side would go on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::Deadline;
use crate::error::ApiError;

/// A request's body: at the deadline its reader gets an error.
pub(super) fn request(body: Body, deadline: Deadline) -> Body {
    Body::new(Until::new(body, deadline, false))
}

/// A response's body: at the deadline its client gets the status.
pub(super) fn response(body: Body, deadline: Deadline) -> Body {
    // A response that has no body carries its status in its headers already.
    if body.is_end_stream() { body } else { Body::new(Until::new(body, deadline, true)) }
}

struct Until {
    /// None once it has been cut off.
    body: Option<Body>,
    sleep: Pin<Box<Sleep>>,
    /// Whether the end is told in trailers.
    trailers: bool,
}

impl Until {
    fn new(body: Body, deadline: Deadline, trailers: bool) -> Self {
        Self { body: Some(body), sleep: Box::pin(tokio::time::sleep_until(deadline.instant())), trailers }
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // The clock first: a body that always has something ends too.
        let late = self.sleep.as_mut().poll(context).is_ready();
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        if !late {
            return Pin::new(body).poll_frame(context);
        }
        self.body = None;
        let status = Status::from(ApiError::DeadlineExceeded);
        let mut trailers = HeaderMap::new();
        let told = self.trailers && status.add_header(&mut trailers).is_ok();
        Poll::Ready(Some(if told { Ok(Frame::trailers(trailers)) } else { Err(status) }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::new, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// A body that never has anything.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_silent_body_ends_at_its_deadline() {
        let deadline = Deadline::within(Duration::from_millis(1), None);
        let mut body = response(Body::new(Silent), deadline);
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let trailers = frame.expect("a frame").expect("no error").into_trailers().expect("trailers");
        assert_eq!(trailers.get(Status::GRPC_STATUS).expect("a status"), "4");
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
        let mut body = request(Body::new(Silent), deadline);
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(frame.expect("a frame").is_err());
    }
}
