//! The kernel, wrapped once: processes, namespaces, mounts and the raw system calls behind them.
//!
//! Used by the daemon and by the static monitor alike, so nothing here knows an async runtime: calls are short
//! and blocking. It never decides anything about containers; that is the callers' part. Together with
//! `runtime` it is the only place with `unsafe` code.

pub mod in_root;
pub mod mount;
pub mod namespace;
pub mod pause;
pub mod process;
pub mod syscall;
pub mod sysctl;

use std::io;

use thiserror::Error;

/// A touch of the kernel that failed: the step names the object, the kernel's answer is the cause.
#[derive(Debug, Error)]
#[error("{step}")]
pub struct HostError {
    step: String,
    #[source]
    source: io::Error,
}

pub type Result<T, E = HostError> = std::result::Result<T, E>;

impl HostError {
    pub fn new(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { step: step.into(), source: source.into() }
    }

    /// The kernel's answer.
    pub fn io(&self) -> &io::Error {
        &self.source
    }

    pub fn into_parts(self) -> (String, io::Error) {
        (self.step, self.source)
    }

    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Names the step of an operation whose error does not.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| HostError::new(step(), error))
    }
}
