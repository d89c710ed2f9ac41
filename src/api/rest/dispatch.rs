//! From a request to its handler and back: matching, what every reply carries, what happens when a
//! handler panics or its client goes away. Which routes there are is `router.rs`.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderMap, HeaderName, HeaderValue, SERVER};
use hyper::{Method, Request, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use super::super::error::{ApiError, Dialect};
use super::extract::{Call, PathValues, Query, decode_path};
use super::reply::{self, Reply};
use super::version::{self, ApiVersion};
use super::{Context, Outcome};

const API_VERSION: HeaderName = HeaderName::from_static("api-version");
const LIBPOD_API_VERSION: HeaderName = HeaderName::from_static("libpod-api-version");
const X_REFERENCE_ID: HeaderName = HeaderName::from_static("x-reference-id");

type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// One row of the route table.
pub struct Route {
    method: Method,
    path: &'static str,
    pattern: Pattern,
    prefix: Prefix,
    abandon: Abandon,
    handler: Handler,
}

/// Where the version may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    /// `/v4.3.1/libpod/...` only: podman's own paths.
    Required,
    Optional,
}

/// What becomes of the work when the client goes away before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abandon {
    /// It is for that client alone.
    WithClient,
    /// It changes something, and half a change helps nobody.
    Never,
}

impl Route {
    pub fn new<F, Fut>(method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let versioned = path.starts_with("/libpod/");
        let reads = matches!(method, Method::GET | Method::HEAD);
        Self {
            path,
            pattern: Pattern::parse(path),
            prefix: if versioned { Prefix::Required } else { Prefix::Optional },
            abandon: if reads { Abandon::WithClient } else { Abandon::Never },
            handler: Arc::new(move |call| Box::pin(handler(call))),
            method,
        }
    }

    /// Also without a version in the path.
    pub fn unversioned(self) -> Self {
        Self { prefix: Prefix::Optional, ..self }
    }

    /// Changes nothing although it is no GET: ends when the client goes away.
    pub fn watching(self) -> Self {
        Self { abandon: Abandon::WithClient, ..self }
    }

    fn dialect(&self) -> Dialect {
        match self.path.starts_with("/libpod/") || self.path.starts_with("/selkie/") {
            true => Dialect::Libpod,
            false => Dialect::Compat,
        }
    }
}

/// `/containers/{name}/json`; `{name..}` also takes slashes, as unescaped image names have.
struct Pattern {
    before: Vec<Part>,
    many: Option<&'static str>,
    after: Vec<Part>,
}

enum Part {
    Literal(&'static str),
    Value(&'static str),
}

impl Pattern {
    fn parse(path: &'static str) -> Self {
        let mut pattern = Self { before: Vec::new(), many: None, after: Vec::new() };
        for segment in path.split('/').skip(1) {
            let value = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            if let Some(name) = value.and_then(|value| value.strip_suffix("..")) {
                assert!(pattern.many.is_none(), "{path}: only one value may take slashes");
                pattern.many = Some(name);
                continue;
            }
            let part = value.map_or(Part::Literal(segment), Part::Value);
            match pattern.many {
                None => pattern.before.push(part),
                Some(_) => pattern.after.push(part),
            }
        }
        pattern
    }

    /// The raw values, if the path fits.
    fn matches<'a>(&self, segments: &[&'a str]) -> Option<Vec<(&'static str, RawValue<'a>)>> {
        let fixed = self.before.len() + self.after.len();
        let fits = match self.many {
            None => segments.len() == fixed,
            Some(_) => segments.len() > fixed,
        };
        if !fits {
            return None;
        }
        let (head, rest) = segments.split_at(self.before.len());
        let (middle, tail) = rest.split_at(rest.len() - self.after.len());
        let mut values = Vec::new();
        let parts = self.before.iter().zip(head).chain(self.after.iter().zip(tail));
        for (part, segment) in parts {
            match part {
                Part::Literal(literal) if literal == segment => {}
                Part::Literal(_) => return None,
                Part::Value(_) if segment.is_empty() => return None,
                Part::Value(name) => values.push((*name, RawValue::One(segment))),
            }
        }
        if let Some(name) = self.many {
            values.push((name, RawValue::Many(middle.to_vec())));
        }
        Some(values)
    }
}

/// Not decoded yet: `%2F` in a value is no separator.
enum RawValue<'a> {
    One(&'a str),
    Many(Vec<&'a str>),
}

impl RawValue<'_> {
    fn decode(&self) -> Result<String, ApiError> {
        match self {
            Self::One(raw) => decode_path(raw),
            Self::Many(raw) => decode_path(&raw.join("/")),
        }
    }
}

enum Found<'a> {
    Route { route: &'a Route, path: Result<PathValues, ApiError>, version: Option<ApiVersion> },
    WrongMethod { allowed: String },
    Nothing,
}

/// The route table, ready to answer.
pub struct Router {
    routes: Vec<Route>,
    references: AtomicU64,
}

impl Router {
    pub fn with_routes(routes: Vec<Route>) -> Self {
        Self { routes, references: AtomicU64::new(1) }
    }

    /// Answers any request: every failure becomes a reply.
    pub async fn answer(&self, context: Arc<Context>, request: Request<Incoming>) -> Reply {
        let started = Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let reference = request.headers().get(&X_REFERENCE_ID).cloned();
        let reference = reference.unwrap_or_else(|| self.next_reference());
        let mut reply = self.dispatch(context, request).await;
        add_common_headers(reply.headers_mut(), reference);
        tracing::debug!(
            %method,
            path,
            status = reply.status().as_u16(),
            duration_ms = started.elapsed().as_millis() as u64,
            "answered"
        );
        reply
    }

    async fn dispatch(&self, context: Arc<Context>, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let (route, path, version) = match self.find(&parts.method, parts.uri.path()) {
            Found::Route { route, path, version } => (route, path, version),
            Found::WrongMethod { allowed } => return wrong_method(&allowed),
            Found::Nothing => return not_found(),
        };
        let dialect = route.dialect();
        let query = Query::parse(parts.uri.query());
        let outcome = match (path, query) {
            (Ok(path), Ok(query)) => {
                let call = Call { context, dialect, version, path, query, headers: parts.headers, body };
                run(route, call).await
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        outcome.unwrap_or_else(|error| {
            let reply = reply::error(&error, dialect);
            if reply.status().is_server_error() {
                tracing::warn!(method = %parts.method, path = parts.uri.path(), ?error, "request failed");
            }
            reply
        })
    }

    fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let version = segments.first().and_then(|segment| ApiVersion::from_segment(segment));
        let segments = if version.is_some() { &segments[1..] } else { &segments[..] };
        let mut allowed = Vec::new();
        for route in &self.routes {
            if version.is_none() && route.prefix == Prefix::Required {
                continue;
            }
            let Some(values) = route.pattern.matches(segments) else { continue };
            if route.method == *method {
                let decoded = values.iter().map(|(name, raw)| Ok((*name, raw.decode()?)));
                let path = decoded.collect::<Result<_, ApiError>>().map(PathValues);
                return Found::Route { route, path, version };
            }
            allowed.push(route.method.as_str());
        }
        match allowed.is_empty() {
            true => Found::Nothing,
            false => Found::WrongMethod { allowed: allowed.join(", ") },
        }
    }

    fn next_reference(&self) -> HeaderValue {
        let number = self.references.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("c{number:08x}")).expect("hexadecimal digits are a header value")
    }

    /// The row that answers, for the tests of the table.
    #[cfg(test)]
    pub fn pattern_of(&self, method: &Method, path: &str) -> Option<&'static str> {
        match self.find(method, path) {
            Found::Route { route, .. } => Some(route.path),
            Found::WrongMethod { .. } | Found::Nothing => None,
        }
    }
}

/// Runs a handler as a task of its own: its panic is an answer, and its client's leaving does not
/// cancel what must not be left half done.
async fn run(route: &Route, call: Call) -> Outcome {
    let task = tokio::spawn((route.handler)(call));
    let ended = match route.abandon {
        Abandon::WithClient => AbortOnDropHandle::new(task).await,
        Abandon::Never => task.await,
    };
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            match text {
                Some(text) => {
                    let message = format!("selkie made a mistake: {text}");
                    Err(ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR, message))
                }
                None => resume_unwind(panic),
            }
        }
        Err(_) => Err(ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down")),
    })
}

fn add_common_headers(headers: &mut HeaderMap, reference: HeaderValue) {
    headers.insert(API_VERSION, HeaderValue::from_static(version::COMPAT));
    headers.insert(LIBPOD_API_VERSION, HeaderValue::from_static(version::LIBPOD));
    headers.insert(SERVER, HeaderValue::from_static(version::SERVER));
    headers.insert(X_REFERENCE_ID, reference);
}

// Plain text, as podman's router answers: it is no dialect's error body.
fn not_found() -> Reply {
    reply::with_body(StatusCode::NOT_FOUND, reply::TEXT, b"Not Found\n".to_vec())
}

fn wrong_method(allowed: &str) -> Reply {
    let mut reply =
        reply::with_body(StatusCode::METHOD_NOT_ALLOWED, reply::TEXT, b"Method Not Allowed\n".to_vec());
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        reply.headers_mut().insert(ALLOW, allowed);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        let nothing = |_: Call| async { Ok(reply::no_content()) };
        Router::with_routes(vec![
            Route::new(Method::GET, "/libpod/_ping", nothing).unversioned(),
            Route::new(Method::GET, "/libpod/images/json", nothing),
            Route::new(Method::GET, "/libpod/images/{name..}/json", nothing),
            Route::new(Method::DELETE, "/libpod/images/{name..}", nothing),
            Route::new(Method::GET, "/containers/{name}/json", nothing),
        ])
    }

    /// The pattern and the decoded value found for a request, or the status otherwise.
    fn check(method: Method, path: &str, expected: Result<(&str, &str), u16>) {
        let router = router();
        let found = match router.find(&method, path) {
            Found::Route { route, path, .. } => {
                let values = path.unwrap();
                let value = values.0.first().map(|(_, value)| value.clone()).unwrap_or_default();
                Ok((route.path, value))
            }
            Found::WrongMethod { .. } => Err(405),
            Found::Nothing => Err(404),
        };
        assert_eq!(found, expected.map(|(path, value)| (path, value.to_owned())), "{method} {path}");
    }

    #[test]
    fn requests_find_their_route() {
        let image = "/libpod/images/{name..}/json";
        check(Method::GET, "/v4.3.1/libpod/images/json", Ok(("/libpod/images/json", "")));
        check(Method::GET, "/v4.3.1/libpod/images/a%2Fb%3A1/json", Ok((image, "a/b:1")));
        check(Method::GET, "/v4.3.1/libpod/images/a/b:1/json", Ok((image, "a/b:1")));
        check(Method::GET, "/v4/libpod/images/json/json", Ok((image, "json")));
        check(Method::GET, "/libpod/images/json", Err(404));
        check(Method::GET, "/libpod/_ping", Ok(("/libpod/_ping", "")));
        check(Method::GET, "/containers/web/json", Ok(("/containers/{name}/json", "web")));
        check(Method::GET, "/v1.41/containers/web/json", Ok(("/containers/{name}/json", "web")));
        check(Method::POST, "/containers/web/json", Err(405));
        check(Method::GET, "/containers//json", Err(404));
        check(Method::GET, "/containers/a/b/json", Err(404));
        check(Method::GET, "/", Err(404));
        check(Method::GET, "/v1.41", Err(404));
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused() {
        let router = router();
        let Found::Route { path, .. } = router.find(&Method::GET, "/containers/%ff/json") else { panic!() };
        assert!(path.is_err());
    }
}
