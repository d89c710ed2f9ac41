//! The one table from an engine's error to HTTP.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::engine::error::{EngineError, ErrorKind, Subject};

/// Which client is asking: the rules differ in small ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Libpod,
    /// Docker's.
    Compat,
}

/// A refused or failed request, in the words of either dialect.
#[derive(Debug)]
pub enum ApiError {
    /// The engine said no.
    Engine(EngineError),
    /// The request itself is malformed, or a reply has no body of our usual shape.
    Request { status: StatusCode, cause: String, message: String },
    /// 304, which must not have a body: the object already is as asked.
    NotModified,
}

/// The body of every error, in both dialects.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The innermost cause.
    pub cause: String,
    /// The whole chain.
    pub message: String,
    /// The HTTP status again.
    pub response: u16,
}

impl ApiError {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::BAD_REQUEST, message)
    }

    /// A parameter of the query that is not what it should be.
    pub fn bad_parameter(name: &str, cause: impl std::fmt::Display) -> Self {
        Self::Request {
            status: StatusCode::BAD_REQUEST,
            cause: cause.to_string(),
            message: format!("failed to parse parameter {name:?}: {cause}"),
        }
    }

    pub fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Request { status, cause: message.clone(), message }
    }

    pub fn not_supported(what: impl std::fmt::Display) -> Self {
        Self::with_status(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by selkie"))
    }

    /// Status and body; a body is missing only where HTTP forbids one.
    pub fn render(&self, dialect: Dialect) -> (StatusCode, Option<ErrorBody>) {
        let (status, cause, message) = match self {
            Self::NotModified => return (StatusCode::NOT_MODIFIED, None),
            Self::Request { status, cause, message } => (*status, cause.clone(), message.clone()),
            Self::Engine(error) => {
                (status(error.kind(), dialect), error.root_cause(), message(error, dialect))
            }
        };
        let body = ErrorBody { cause, message, response: status.as_u16() };
        (status, Some(body))
    }
}

/// What a reply carries until the layer that knows the dialect has put it into words.
#[derive(Clone)]
pub struct Failure(pub Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut reply = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        reply.extensions_mut().insert(Failure(Arc::new(self)));
        reply
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

fn status(kind: ErrorKind, dialect: Dialect) -> StatusCode {
    match (kind, dialect) {
        (ErrorKind::NotFound, _) => StatusCode::NOT_FOUND,
        (ErrorKind::InvalidArgument, _) => StatusCode::BAD_REQUEST,
        // podman answers a taken container name with 500 on its own create (`CreateContainer` in
        // pkg/api/handlers/libpod) and with 409 on docker's. Its clients take any 4xx or 5xx, so
        // both dialects get the one that says what is wrong.
        (ErrorKind::AlreadyExists | ErrorKind::InUse | ErrorKind::WrongState, _) => StatusCode::CONFLICT,
        (ErrorKind::NotSupported, _) => StatusCode::NOT_IMPLEMENTED,
        // Docker's daemon answers a command that cannot be run with 400, and its CLI derives 126 and
        // 127 from the text of that answer; podman answers 500 to both.
        (ErrorKind::CommandNotExecutable | ErrorKind::CommandNotFound, Dialect::Compat) => {
            StatusCode::BAD_REQUEST
        }
        (ErrorKind::CommandNotExecutable | ErrorKind::CommandNotFound, Dialect::Libpod) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        (ErrorKind::Upstream | ErrorKind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn message(error: &EngineError, dialect: Dialect) -> String {
    match (error.kind(), error.subject(), dialect) {
        // The docker CLI prints this text before it pulls; docker-py looks for it to raise ImageNotFound.
        (ErrorKind::NotFound, Subject::Image(name), _) => format!("No such image: {name}: {}", error.chain()),
        _ => error.chain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_status() {
        use Dialect::{Compat, Libpod};
        let table = [
            (ErrorKind::NotFound, 404, 404),
            (ErrorKind::InvalidArgument, 400, 400),
            (ErrorKind::AlreadyExists, 409, 409),
            (ErrorKind::InUse, 409, 409),
            (ErrorKind::WrongState, 409, 409),
            (ErrorKind::NotSupported, 501, 501),
            (ErrorKind::CommandNotExecutable, 500, 400),
            (ErrorKind::CommandNotFound, 500, 400),
            (ErrorKind::Upstream, 500, 500),
            (ErrorKind::Internal, 500, 500),
        ];
        for (kind, libpod, compat) in table {
            assert_eq!(status(kind, Libpod).as_u16(), libpod, "{kind:?}");
            assert_eq!(status(kind, Compat).as_u16(), compat, "{kind:?}");
        }
    }

    #[test]
    fn bodies_carry_cause_message_and_status() {
        let error = ApiError::from(EngineError::no_such(Subject::Container("web".into())));
        let (status, body) = error.render(Dialect::Libpod);
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(
            body,
            Some(ErrorBody {
                cause: "no such container".into(),
                message: "container web: no such container".into(),
                response: 404,
            })
        );
    }

    #[test]
    fn a_missing_image_is_worded_for_docker_and_for_podman() {
        let error = ApiError::from(EngineError::no_such(Subject::Image("web".into())));
        for dialect in [Dialect::Libpod, Dialect::Compat] {
            let message = error.render(dialect).1.unwrap().message;
            assert!(message.contains("No such image: web") && message.contains("image not known"));
        }
    }
}
