//! Attaching to a container: a raw connection to its standard streams. The same in both dialects.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use futures_util::StreamExt;

use super::logs::render_line;
use crate::api::error::{ApiError, Dialect};
use crate::api::rest::Context;
use crate::api::rest::Outcome;
use crate::api::rest::detach::DetachKeys;
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::stream::{Conversation, Framing, hijack};
use crate::engine::container::LogOptions;
use crate::engine::error::ErrorKind;
use crate::engine::id::NameOrId;
use crate::engine::{AttachOptions, BoxStream};

pub async fn attach(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    dialect: Dialect,
    query: Query,
    headers: HeaderMap,
) -> Outcome {
    let (stream, logs) = (query.optional_flag("stream")?.unwrap_or(true), query.flag("logs")?);
    if !stream && !logs {
        return Err(ApiError::bad_request("at least one of logs and stream must be true"));
    }
    let streams = streams(&query)?;
    let detach_keys = DetachKeys::of_query(&query)?;
    let engine = &context.engine;
    let record = engine.container(&name)?;
    let id = NameOrId::from(&record.id);
    let framing = Framing::of_terminal(record.spec.terminal);
    let mut output: BoxStream<_> = Box::pin(futures_util::stream::empty());
    let mut input = None;
    if logs {
        let lines = engine.container_logs(&id, stored_lines(&streams)).await?;
        output = Box::pin(lines.map(|line| line.map(|line| (line.stream, render_line(&line, None)))));
    }
    if stream {
        // Before the header goes out: a client starts the container when it has seen the header.
        match engine.attach_container(&id, streams).await {
            Ok(session) => {
                output = Box::pin(output.chain(session.output));
                input = streams.stdin.then_some(session.input);
            }
            // Docker's clients attach to what was only created, and want to hear from `start`, not from here,
            // that its command cannot be run: that is how they come to their exit code.
            Err(error) if dialect == Dialect::Compat && is_about_command(error.kind()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let conversation = Conversation { output, input, framing, detach_keys };
    let closing = context.closing.clone();
    Ok(hijack(&headers, move |client| async move { conversation.hold(client, &closing).await }))
}

fn is_about_command(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable)
}

/// Which streams; all of them if the client names none.
fn streams(query: &Query) -> Result<AttachOptions, ApiError> {
    let given = |name| query.text(name).is_some();
    if !given("stdin") && !given("stdout") && !given("stderr") {
        return Ok(AttachOptions { stdin: true, stdout: true, stderr: true });
    }
    let options = AttachOptions {
        stdin: query.flag("stdin")?,
        stdout: query.flag("stdout")?,
        stderr: query.flag("stderr")?,
    };
    match options {
        AttachOptions { stdin: false, stdout: false, stderr: false } => Err(ApiError::with_status(
            StatusCode::BAD_REQUEST,
            "at least one of stdin, stdout, stderr must be true",
        )),
        options => Ok(options),
    }
}

fn stored_lines(streams: &AttachOptions) -> LogOptions {
    LogOptions {
        stdout: streams.stdout,
        stderr: streams.stderr,
        follow: false,
        since: None,
        until: None,
        tail: None,
    }
}
