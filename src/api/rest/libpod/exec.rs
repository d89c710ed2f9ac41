//! Further commands in a running container: made, started, inspected. The same in both dialects.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use futures_util::{StreamExt, stream as futures_stream};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::containers::terminal_size;
use crate::api::error::ApiError;
use crate::api::rest::Context;
use crate::api::rest::detach::DetachKeys;
use crate::api::rest::exec_sessions::{NewSession, Session, SessionState};
use crate::api::rest::extract::{Json, Path, Query};
use crate::api::rest::stream::{Conversation, Framing, hijack};
use crate::api::rest::{Outcome, reply};
use crate::engine::container::ExecRequest;
use crate::engine::container::exec::ExecStreams;
use crate::engine::container::state::Operation;
use crate::engine::error::{EngineError, ErrorKind, Subject};
use crate::engine::id::NameOrId;
use crate::engine::monitor::protocol::ExecLifetime;
use crate::engine::{BoxStream, container::OutputStream};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecCreateConfig {
    user: String,
    privileged: bool,
    tty: bool,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: Option<String>,
    env: Vec<String>,
    working_dir: String,
    cmd: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExecStartConfig {
    #[serde(rename = "Detach")]
    detach: bool,
    h: u16,
    w: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IdResponse<'a> {
    id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectExecSession<'a> {
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: &'a str,
    detach_keys: &'a str,
    exit_code: i32,
    #[serde(rename = "ID")]
    id: &'a str,
    open_stderr: bool,
    open_stdin: bool,
    open_stdout: bool,
    running: bool,
    pid: i32,
    process_config: ProcessConfig<'a>,
}

#[derive(Serialize)]
struct ProcessConfig<'a> {
    arguments: &'a [String],
    entrypoint: &'a str,
    privileged: bool,
    tty: bool,
    user: &'a str,
}

pub async fn create(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    Json(config): Json<ExecCreateConfig>,
) -> Outcome {
    let record = context.engine.container(&name)?;
    if config.cmd.is_empty() {
        return Err(ApiError::bad_request("no command to execute was given"));
    }
    // Told now, and again by `start` if it has changed until then.
    record
        .state
        .check(Operation::Exec)
        .map_err(|wrong| EngineError::wrong_state(Subject::Container(record.name.to_string()), wrong))?;
    let env = config.env.iter().filter_map(|pair| pair.split_once('='));
    let session = context.exec_sessions.create(NewSession {
        container: record.id.clone(),
        request: ExecRequest {
            command: config.cmd,
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
            user: super::create::filled(config.user),
            working_dir: super::create::filled(config.working_dir),
            privileged: config.privileged,
        },
        terminal: config.tty,
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        detach_keys: config.detach_keys.unwrap_or_else(|| DetachKeys::DEFAULT.to_owned()),
    });
    Ok(reply::json_with_status(StatusCode::CREATED, &IdResponse { id: session.id.as_str() }))
}

pub async fn start(
    State(context): State<Context>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(config): Json<ExecStartConfig>,
) -> Outcome {
    let session = context.exec_sessions.find(&id)?;
    let detach_keys = DetachKeys::parse(&session.detach_keys)?;
    session.begin()?;
    let streams = ExecStreams {
        terminal: session.terminal.then_some((config.w, config.h)),
        stdin: session.stdin && !config.detach,
        lifetime: ExecLifetime::Own,
    };
    let container = NameOrId::from(&session.container);
    let started = match context.engine.start_exec(&container, session.request.clone(), streams).await {
        Ok(started) => started,
        Err(error) => {
            session.failed(&error);
            return refused(&headers, &session, config.detach, error);
        }
    };
    session.follow(started.pid, started.control);
    if config.detach {
        // Nobody reads: what it prints must not stop it when the pipe is full.
        tokio::spawn(started.output.for_each(|_| std::future::ready(())));
        return Ok(reply::empty(StatusCode::OK));
    }
    let conversation = Conversation {
        output: until_ended(wanted(started.output, &session), session.clone()),
        input: session.stdin.then_some(started.input),
        framing: Framing::of_terminal(session.terminal),
        detach_keys,
    };
    let closing = context.closing.clone();
    Ok(hijack(&headers, move |client| async move { conversation.hold(client, &closing).await }))
}

/// A command that cannot be run is told in the stream, and by the session's exit code: that is where
/// both podman's and docker's clients look for it.
fn refused(headers: &HeaderMap, session: &Session, detached: bool, error: EngineError) -> Outcome {
    let about_command = matches!(error.kind(), ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable);
    if detached || !about_command {
        return Err(error.into());
    }
    let framing = Framing::of_terminal(session.terminal);
    let told = framing.encode(OutputStream::Stderr, format!("{}\n", error.chain()).into());
    Ok(hijack(headers, move |mut client| async move {
        let _ = client.write_all(&told).await;
    }))
}

type Output = BoxStream<(OutputStream, bytes::Bytes)>;

/// Without what the client did not ask for. A terminal has one stream.
fn wanted(output: Output, session: &Session) -> Output {
    let (stdout, stderr) = (session.stdout || session.terminal, session.stderr || session.terminal);
    Box::pin(output.filter(move |piece| {
        let wanted = match piece {
            Ok((OutputStream::Stdout, _)) => stdout,
            Ok((OutputStream::Stderr, _)) => stderr,
            Err(_) => true,
        };
        std::future::ready(wanted)
    }))
}

/// Ends when the exit code is known: clients ask for it as soon as the stream has ended.
fn until_ended(output: Output, session: Arc<Session>) -> Output {
    let ended = futures_stream::once(async move { session.ended().await }).filter_map(|()| async { None });
    Box::pin(output.chain(ended))
}

pub async fn inspect(State(context): State<Context>, Path(id): Path<String>) -> Outcome {
    let session = context.exec_sessions.find(&id)?;
    let (running, pid, exit_code, can_remove) = match session.state() {
        SessionState::Created | SessionState::Starting => (false, 0, 0, false),
        SessionState::Running { pid } => (true, pid, 0, false),
        SessionState::Exited { code } => (false, 0, code, true),
    };
    let (entrypoint, arguments) = session.request.command.split_first().expect("checked at create");
    Ok(reply::json(&InspectExecSession {
        can_remove,
        container_id: session.container.as_str(),
        detach_keys: &session.detach_keys,
        exit_code,
        id: session.id.as_str(),
        open_stderr: session.stderr,
        open_stdin: session.stdin,
        open_stdout: session.stdout,
        running,
        pid,
        process_config: ProcessConfig {
            arguments,
            entrypoint,
            privileged: session.request.privileged,
            tty: session.terminal,
            user: session.request.user.as_deref().unwrap_or_default(),
        },
    }))
}

pub async fn resize(State(context): State<Context>, Path(id): Path<String>, query: Query) -> Outcome {
    let session = context.exec_sessions.find(&id)?;
    let (columns, rows) = terminal_size(&query)?;
    if !session.resize(columns, rows) && !query.flag("running")? {
        let subject = Subject::Exec(session.id.to_string());
        return Err(EngineError::wrong_state(subject, "it is not running").into());
    }
    Ok(reply::empty(StatusCode::CREATED))
}

/// podman 4.8 and later tidy up after themselves.
pub async fn remove(State(context): State<Context>, Path(id): Path<String>) -> Outcome {
    let session = context.exec_sessions.find(&id)?;
    if let SessionState::Running { .. } = session.state() {
        let subject = Subject::Exec(session.id.to_string());
        return Err(EngineError::wrong_state(subject, "it is running").into());
    }
    context.exec_sessions.remove(&session.id);
    Ok(reply::empty(StatusCode::OK))
}
