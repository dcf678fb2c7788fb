//! A bound on what an API server may send in one answer, so that one that lies cannot fill the
//! memory. Watches and logs have no end: they are read piece by piece.

use std::task::{Context, Poll};

use futures::{TryFutureExt as _, future::BoxFuture};
use http::{Request, Response, Uri};
use http_body_util::Limited;
use kube::client::Body;
use tower::{Layer, Service};

/// Maximum size of an answer in bytes. A page has 500 objects, and etcd stores up to 1.5 MiB of
/// each, but those of the API have less than a tenth of that.
const MAX_ANSWER: usize = 256 << 20;

/// Fails answers that are longer than this number of bytes, unless they are streams.
#[derive(Clone, Copy, Debug)]
pub struct BoundedAnswers(usize);

impl Default for BoundedAnswers {
    fn default() -> Self {
        Self(MAX_ANSWER)
    }
}

impl<S> Layer<S> for BoundedAnswers {
    type Service = BoundedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BoundedService { inner, max: self.0 }
    }
}

/// A service whose answers are bounded.
#[derive(Clone, Debug)]
pub struct BoundedService<S> {
    inner: S,
    max: usize,
}

impl<S, B> Service<Request<Body>> for BoundedService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<Limited<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let max = if is_stream(request.uri()) { usize::MAX } else { self.max };
        let answer = self.inner.call(request);
        Box::pin(answer.map_ok(move |answer| answer.map(|body| Limited::new(body, max))))
    }
}

/// Whether a request asks for a watch or a log.
fn is_stream(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    uri.path().ends_with("/log") || query.split('&').any(|part| part == "watch=true")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::ClientBuilder;

    use super::*;

    #[tokio::test]
    async fn an_answer_without_an_end_is_an_error_unless_it_is_a_stream() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let length = request.uri().path().split('/').nth(1).map(str::parse);
            let length = length.expect("a length").expect("a number");
            Ok::<_, Infallible>(Response::new(Body::from(vec![b'a'; length])))
        });
        let client = ClientBuilder::new(service, "team").with_layer(&BoundedAnswers(100)).build();
        let read = async |path: &str| {
            client.request_text(Request::get(path).body(Vec::new()).expect("a request")).await
        };
        assert_eq!(read("/100/pods").await.expect("it is short").len(), 100);
        read("/101/pods").await.expect_err("it is too long");
        assert_eq!(read("/101/pods?limit=1&watch=true").await.expect("a watch").len(), 101);
        assert_eq!(read("/101/pods/a/log").await.expect("a log").len(), 101);
    }
}
