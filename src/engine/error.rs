//! The engine's one error type. Doors branch on [`ErrorKind`], people read the printed chain.

use std::error::Error;
use std::fmt;

/// What class of failure this is. Each door maps every kind once (`api/error.rs`, `main.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    NotFound,
    InvalidArgument,
    AlreadyExists,
    InUse,
    WrongState,
    NotSupported,
    /// The container's command exists and cannot be executed (exit code 126).
    CommandNotExecutable,
    /// The container's command does not exist (exit code 127).
    CommandNotFound,
    /// A registry or another remote party failed.
    Upstream,
    Internal,
}

/// The object an operation was about, as printed in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Container(String),
    Pod(String),
    Image(String),
    Network(String),
    Volume(String),
    Exec(String),
    Secret(String),
    Service(String),
    /// The engine itself: its store, its directories, the host.
    Engine,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container {name}"),
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::Image(name) => write!(f, "image {name}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Exec(id) => write!(f, "exec session {id}"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Engine => write!(f, "engine"),
        }
    }
}

/// An operation of the engine that failed.
///
/// Printed as a chain: `start container web: mount rootfs: permission denied`. Each part says only
/// its own step; the cause stays in `source`.
#[derive(Debug)]
pub struct EngineError {
    kind: ErrorKind,
    subject: Subject,
    step: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl EngineError {
    /// `step` is what was being done, or, without a source, what is wrong: lower case, no full stop.
    pub fn new(kind: ErrorKind, subject: Subject, step: impl Into<String>) -> Self {
        Self { kind, subject, step: step.into(), source: None }
    }

    /// Keeps `source` as the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn internal(
        subject: Subject,
        step: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::new(ErrorKind::Internal, subject, step).with_source(source)
    }

    // The texts of the next three are tested for by podman's and docker's clients
    // (`spec/client-requirements.md`, "Text matched inside message").
    pub fn no_such(subject: Subject) -> Self {
        let step = match &subject {
            Subject::Container(_) => "no such container",
            Subject::Pod(_) => "no such pod",
            Subject::Image(_) => "image not known",
            Subject::Network(_) => "network not found",
            Subject::Volume(_) => "no such volume",
            Subject::Exec(_) => "no such exec session",
            Subject::Secret(_) => "no such secret",
            Subject::Service(_) => "no such service",
            Subject::Engine => "not found",
        };
        Self::new(ErrorKind::NotFound, subject, step)
    }

    pub fn wrong_state(subject: Subject, detail: impl fmt::Display) -> Self {
        Self::new(ErrorKind::WrongState, subject, format!("container state improper: {detail}"))
    }

    pub fn invalid(subject: Subject, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, subject, detail)
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The whole chain on one line, for a log or an API message.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The innermost cause, as podman's `cause` field.
    pub fn root_cause(&self) -> String {
        let mut cause: &dyn Error = self;
        while let Some(next) = cause.source() {
            cause = next;
        }
        match self.source {
            Some(_) => cause.to_string(),
            None => self.step.clone(),
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Engine => f.write_str(&self.step),
            _ => write!(f, "{}: {}", self.subject, self.step),
        }
    }
}

impl Error for EngineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

/// Any error with its causes, joined by `: `.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

pub type Result<T, E = EngineError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_object_step_and_cause_once() {
        let error = EngineError::internal(
            Subject::Container("web".into()),
            "mount rootfs",
            std::io::Error::from(std::io::ErrorKind::PermissionDenied),
        );
        assert_eq!(error.chain(), "container web: mount rootfs: permission denied");
        assert_eq!(error.root_cause(), "permission denied");
    }
}
