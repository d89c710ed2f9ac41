//! Reading a container's log: the last lines, a span of time, and what is still being written.

use std::future::Future;
use std::path::PathBuf;

use crate::engine::BoxStream;
use crate::engine::container::spec::LogDriver;
use crate::engine::container::{LogLine, LogOptions};
use crate::engine::error::Result;

/// Where a container's log is.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// The container's name, for messages.
    pub container: String,
    pub path: PathBuf,
    pub driver: LogDriver,
}

/// The lines `options` ask for, oldest first. With `follow` the stream goes on until `ended` resolves
/// and everything written by then was read.
#[allow(unused_variables)]
pub fn read(
    source: LogSource,
    options: LogOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<BoxStream<LogLine>> {
    todo!("monitor")
}
