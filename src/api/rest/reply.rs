//! Plain replies. Streams are in `stream.rs`.

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::super::error::{ApiError, Dialect};
use super::json;
use super::stream::Body;

pub type Reply = Response<Body>;

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
