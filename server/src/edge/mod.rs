//! What every public call goes through, before and after its method.
//!
//! ```text
//! request ─► token, scope ─► places ─► deadline ─► method ─► complete ─► response
//! ```
//! A call without a valid token, or for which there is no place, never reaches its method; a place is given back
//! when the response's body has ended. `complete` gives the errors that tonic makes itself the same form as ours.

mod complete;
mod connections;
mod deadline;
mod places;
mod until;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response, header};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

pub(crate) use connections::accept;
pub(crate) use deadline::Deadline;
pub use places::PlaceLimits;
use places::Places;

use crate::auth::{Access, Caller, Verifier, access};
use crate::error::ApiError;

/// How long a call without a token may last, its streams included: it may come from anybody.
const STRANGERS_TIME: Duration = Duration::from_secs(30);

/// What the edge works with.
#[derive(Clone)]
pub struct EdgeLayer {
    shared: Arc<Shared>,
}

struct Shared {
    verifier: Verifier,
    places: Places,
}

impl EdgeLayer {
    /// Lets calls in whose tokens `verifier` accepts, as many at once as there are places.
    pub fn new(verifier: Verifier, limits: PlaceLimits) -> Self {
        Self { shared: Arc::new(Shared { verifier, places: Places::new(limits) }) }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, shared: self.shared.clone() }
    }
}

/// A service behind the edge.
#[derive(Clone)]
pub struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone is not ready, the original is: take that one.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let shared = self.shared.clone();
        Box::pin(async move {
            let began = Instant::now();
            let path = request.uri().path().to_owned();
            let response = match admit(&shared, request) {
                Ok(admitted) => serve(inner, admitted).await,
                Err(error) => Status::from(error).into_http(),
            };
            log(&path, began, &response);
            Ok(response)
        })
    }
}

/// A call that may reach its method.
struct Admitted {
    request: Request<Body>,
    place: Option<tokio::sync::OwnedSemaphorePermit>,
    deadline: Option<Deadline>,
    /// Whether its streams end at the deadline too.
    stranger: bool,
}

fn admit(shared: &Shared, mut request: Request<Body>) -> Result<Admitted, ApiError> {
    let needs = access(request.uri().path());
    if needs != Access::Public {
        let caller = caller(&shared.verifier, &request)?;
        if let Access::Scope(scope) = needs {
            caller.require(scope)?;
        }
        request.extensions_mut().insert(caller);
    }
    let place = shared.places.take(request.uri().path())?;
    let mut deadline = Deadline::of_request(request.headers());
    let stranger = needs == Access::Public;
    if stranger {
        let own = Deadline::within(STRANGERS_TIME, deadline);
        deadline = Some(own);
        request = request.map(|body| until::request(body, own));
    }
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(deadline);
    }
    Ok(Admitted { request, place, deadline, stranger })
}

fn caller(verifier: &Verifier, request: &Request<Body>) -> Result<Caller, ApiError> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    let first = headers.next();
    // Two tokens could be read as either.
    if headers.next().is_some() {
        return Err(crate::auth::TokenError::Invalid.into());
    }
    Ok(verifier.verify(first.map(|value| value.as_bytes()))?)
}

async fn serve<S>(mut inner: S, admitted: Admitted) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let call = inner.call(admitted.request);
    let response = match admitted.deadline {
        Some(deadline) => match tokio::time::timeout_at(deadline.instant(), call).await {
            Ok(Ok(response)) => response,
            Err(_) => Status::from(ApiError::DeadlineExceeded).into_http(),
            Ok(Err(never)) => match never {},
        },
        None => match call.await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    let response = match admitted.deadline.filter(|_| admitted.stranger) {
        Some(deadline) => response.map(|body| until::response(body, deadline)),
        None => response,
    };
    places::hold(complete::complete(response), admitted.place)
}

fn log(path: &str, began: Instant, response: &Response<Body>) {
    let code =
        response.headers().get(Status::GRPC_STATUS).and_then(|value| value.to_str().ok()).unwrap_or("0");
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(method = path, code, micros, "call");
}
