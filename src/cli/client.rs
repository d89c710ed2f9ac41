//! HTTP over the daemon's unix socket. If no daemon listens, one is started for the occasion.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::settings::GlobalFlags;

/// How long a daemon started on demand lives without requests, seconds.
const ON_DEMAND_IDLE_SECS: u32 = 5;
/// How long a daemon may take to listen: recovery after a crash included.
const ON_DEMAND_DEADLINE: Duration = Duration::from_secs(60);
/// The version podman's routes are addressed with.
const API: &str = "/v5.0.0/libpod";

/// An error the daemon answered with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    pub message: String,
}

/// A connection factory: each request has a connection of its own, so streams never block each other.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Finds the daemon, or starts one that goes away by itself when it has been idle.
    pub async fn connect(flags: &GlobalFlags) -> Result<Self> {
        let socket = flags.socket()?;
        match UnixStream::connect(&socket).await {
            Ok(_) => {}
            Err(error) if flags.url.is_some() => {
                return Err(error).with_context(|| format!("connect to {}", socket.display()));
            }
            Err(_) => start_on_demand(flags, &socket).await?,
        }
        Ok(Self { socket })
    }

    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("understand the daemon's answer to {path}"))
    }

    /// A request whose answer's body is small, or of no interest.
    pub async fn bytes(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> Result<Bytes> {
        let response = self.send(method, path, body).await?;
        Ok(response.into_body().collect().await.context("read the daemon's answer")?.to_bytes())
    }

    /// A request whose answer is read as it comes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>> {
        let bytes = match body {
            Some(value) => Bytes::from(serde_json::to_vec(value)?),
            None => Bytes::new(),
        };
        self.send_body(method, path, "application/json", full(bytes)).await
    }

    /// Sends text (YAML).
    pub async fn send_text(&self, method: Method, path: &str, text: String) -> Result<Response<Incoming>> {
        self.send_body(method, path, "application/yaml", full(Bytes::from(text))).await
    }

    /// Sends a file without reading it into memory.
    pub async fn send_file(
        &self,
        method: Method,
        path: &str,
        file: tokio::fs::File,
    ) -> Result<Response<Incoming>> {
        use futures_util::TryStreamExt;
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024).map_ok(Frame::data);
        self.send_body(method, path, "application/x-tar", BodyExt::boxed(StreamBody::new(stream))).await
    }

    /// Turns the connection into a raw stream, as docker and podman do for attach.
    pub async fn hijack(&self, path: &str) -> Result<Upgraded> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{API}{path}"))
            .header(header::HOST, "d")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .body(full(Bytes::new()))?;
        let response = self.exchange(request).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Ok(hyper::upgrade::on(response).await?),
            _ => {
                accept(response).await?;
                bail!("the daemon did not switch to a stream for {path}")
            }
        }
    }

    async fn send_body(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: BoxBody<Bytes, std::io::Error>,
    ) -> Result<Response<Incoming>> {
        // Paths of our own API are complete; the others are libpod's.
        let uri = if path.starts_with("/selkie/") { path.to_owned() } else { format!("{API}{path}") };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "d")
            .header(header::CONTENT_TYPE, content_type)
            .body(body)?;
        accept(self.exchange(request).await?).await
    }

    async fn exchange(&self, request: Request<BoxBody<Bytes, std::io::Error>>) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .with_context(|| format!("connect to {}", self.socket.display()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.context("talk to the daemon")
    }
}

/// An object's name as one path segment or query value.
pub fn quote(text: &str) -> String {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, KEEP).to_string()
}

fn full(bytes: Bytes) -> BoxBody<Bytes, std::io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

async fn accept(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|value| value["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    Err(ApiError { status: status.as_u16(), message }.into())
}

async fn start_on_demand(flags: &GlobalFlags, socket: &Path) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let log = flags.run_root().join("service.log");
    std::fs::create_dir_all(flags.run_root())
        .with_context(|| format!("create {}", flags.run_root().display()))?;
    let log_file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = std::process::Command::new(program);
    for (flag, value) in [("--root", &flags.root), ("--runroot", &flags.runroot), ("--config", &flags.config)]
    {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    command
        .args([
            "--log-level",
            &flags.log_level,
            "system",
            "service",
            "--time",
            &ON_DEMAND_IDLE_SECS.to_string(),
        ])
        .arg(format!("unix://{}", socket.display()))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log_file);
    // Its own session: Ctrl-C of this command is not meant for it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("start a daemon")?;

    let deadline = Instant::now() + ON_DEMAND_DEADLINE;
    loop {
        if UnixStream::connect(socket).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing");
            bail!(
                "no daemon listens on {} and one started for this command ended ({status}): {last}",
                socket.display()
            );
        }
        if Instant::now() > deadline {
            bail!(
                "a daemon started for this command does not listen on {} yet; see {}",
                socket.display(),
                log.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
