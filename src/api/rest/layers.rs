//! What surrounds the handlers: what every reply carries, the words of an error, panics, and what
//! becomes of the work when its client goes away. Which handlers there are is `router.rs`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ALLOW, HeaderMap, HeaderName, HeaderValue, SERVER};
use axum::middleware::Next;
use axum::response::IntoResponse;
use futures_util::FutureExt;

use super::super::error::{ApiError, Dialect, Failure};
use super::reply::{self, Reply};
use super::version;

const API_VERSION: HeaderName = HeaderName::from_static("api-version");
const LIBPOD_API_VERSION: HeaderName = HeaderName::from_static("libpod-api-version");
const X_REFERENCE_ID: HeaderName = HeaderName::from_static("x-reference-id");

/// Numbers requests that come without a name of their own.
#[derive(Clone, Default)]
pub struct References(Arc<AtomicU64>);

impl References {
    fn next(&self) -> HeaderValue {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        HeaderValue::try_from(format!("c{number:08x}")).expect("hexadecimal digits are a header value")
    }
}

/// Around everything: the headers of every reply, and the log.
pub async fn answer(State(references): State<References>, request: Request, next: Next) -> Reply {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let reference = request.headers().get(&X_REFERENCE_ID).cloned();
    let reference = reference.unwrap_or_else(|| references.next());
    let mut reply = next.run(request).await;
    let status = reply.status();
    add_common_headers(reply.headers_mut(), reference);
    if status != StatusCode::METHOD_NOT_ALLOWED {
        // axum's, where a name answered for a word: see `router.rs`.
        reply.headers_mut().remove(ALLOW);
    }
    let duration_ms = started.elapsed().as_millis() as u64;
    tracing::debug!(%method, path, status = status.as_u16(), duration_ms, "answered");
    reply
}

fn add_common_headers(headers: &mut HeaderMap, reference: HeaderValue) {
    headers.insert(API_VERSION, HeaderValue::from_static(version::COMPAT));
    headers.insert(LIBPOD_API_VERSION, HeaderValue::from_static(version::LIBPOD));
    headers.insert(SERVER, HeaderValue::from_static(version::SERVER));
    headers.insert(X_REFERENCE_ID, reference);
}

/// Tells the handler its dialect, and says in that dialect what went wrong; a panic did, too.
pub async fn speak(
    State(dialect): State<Dialect>,
    route: MatchedPath,
    mut request: Request,
    next: Next,
) -> Reply {
    let method = request.method().clone();
    request.extensions_mut().insert(dialect);
    let reply = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut reply = reply.unwrap_or_else(|panic| mistake(panic.as_ref()).into_response());
    let Some(Failure(error)) = reply.extensions_mut().remove::<Failure>() else { return reply };
    let reply = reply::error(&error, dialect);
    if reply.status().is_server_error() {
        tracing::warn!(%method, route = route.as_str(), ?error, "request failed");
    }
    reply
}

fn mistake(panic: &(dyn Any + Send)) -> ApiError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!("selkie made a mistake: {}", text.unwrap_or("it did not say which"));
    ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// For what changes something: half a change helps nobody, so the client's leaving does not end it.
pub async fn carry_through(request: Request, next: Next) -> Reply {
    match tokio::spawn(next.run(request)).await {
        Ok(reply) => reply,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => {
                let message = "the service is shutting down";
                ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::middleware::{from_fn, from_fn_with_state};
    use axum::routing::{get, post};
    use tower::ServiceExt;

    async fn ask(router: Router, method: &str, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let reply = router.oneshot(request).await.unwrap();
        let status = reply.status().as_u16();
        let body = to_bytes(reply.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        async fn fails() -> Reply {
            panic!("of {}", "cause")
        }
        let router = Router::new()
            .route("/x", get(fails).merge(post(fails).route_layer(from_fn(carry_through))))
            .layer(from_fn_with_state(Dialect::Libpod, speak));
        for method in ["GET", "POST"] {
            let (status, body) = ask(router.clone(), method, "/x").await;
            assert_eq!(status, 500, "{method}");
            assert!(body.contains("\"response\":500") && body.contains("of cause"), "{method}: {body}");
        }
    }

    #[tokio::test]
    async fn changes_go_on_without_their_client() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
        let handler = move || async move {
            tokio::task::yield_now().await;
            sender.send(()).await.unwrap();
            reply::no_content()
        };
        let router = Router::new().route("/x", post(handler).route_layer(from_fn(carry_through)));
        let asked = ask(router, "POST", "/x");
        // Asked once, then gone.
        assert!(asked.now_or_never().is_none());
        assert_eq!(receiver.recv().await, Some(()));
    }
}
