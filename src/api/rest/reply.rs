//! Plain replies. Streams are in `stream.rs`.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use serde::Serialize;

use super::super::error::{ApiError, Dialect};
use super::json;

pub type Reply = Response;

pub const TEXT: &str = "text/plain; charset=us-ascii";
pub const JSON: &str = "application/json";

pub fn json<T: Serialize + ?Sized>(value: &T) -> Reply {
    json_with_status(StatusCode::OK, value)
}

pub fn json_with_status<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Reply {
    with_body(status, JSON, json::encode(value))
}

pub fn text(text: impl Into<String>) -> Reply {
    with_body(StatusCode::OK, TEXT, text.into().into_bytes())
}

/// 204: done, nothing to say.
pub fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

pub fn with_body(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub fn error(error: &ApiError, dialect: Dialect) -> Reply {
    match error.render(dialect) {
        (status, Some(body)) => json_with_status(status, &body),
        (status, None) => empty(status),
    }
}

/// Marks the two replies below.
#[derive(Clone)]
pub struct Unrouted;

// Plain text, as podman's router answers: it is no dialect's error body.
pub fn not_found() -> Reply {
    unrouted(StatusCode::NOT_FOUND, "Not Found\n")
}

/// axum adds which methods would do.
pub fn wrong_method() -> Reply {
    unrouted(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
}

fn unrouted(status: StatusCode, text: &str) -> Reply {
    let mut reply = with_body(status, TEXT, text.into());
    reply.extensions_mut().insert(Unrouted);
    reply
}
