//! A client of one repository in one registry (OCI distribution specification): fetching, and sending what
//! [`super::push`] has made.
//!
//! Logging in (challenges, tokens) is oci-client's. Fetching is ours: oci-client reads manifests of any size into
//! memory and hashes blobs a second time, and a registry here may lie, stall or never stop talking. So every body
//! is bounded, every silence is timed, every digest is computed, and failures that may pass are tried again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::errors::OciDistributionError;
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Reference, RegistryOperation};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::digest::Digest;
use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT_BYTES, OCI_INDEX, OCI_MANIFEST,
};
use super::registries_conf::Endpoint;
use super::{Credentials, ImageSettings};

const USER_AGENT: &str = concat!("selkie/", env!("CARGO_PKG_VERSION"));
/// Of an error's body: enough for the message in it.
const MAX_ERROR_BYTES: u64 = 8 << 10;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("registry {registry}: {step}: not reachable")]
    Unreachable {
        registry: String,
        step: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("registry {registry}: {step}: nothing came for {} s", .after.as_secs_f32())]
    Stalled { registry: String, step: String, after: Duration },
    #[error("registry {registry}: {step}: the connection broke")]
    Broken {
        registry: String,
        step: String,
        #[source]
        source: reqwest::Error,
    },
    // docker-py tells a missing image by "repository does not exist".
    #[error("registry {registry}: {step}: manifest unknown or repository does not exist: {detail}")]
    NotFound { registry: String, step: String, detail: String },
    #[error("registry {registry}: {step}: unauthorized: {detail}")]
    Unauthorized { registry: String, step: String, detail: String },
    #[error("registry {registry}: {step}: log in")]
    Login {
        registry: String,
        step: String,
        #[source]
        source: Box<OciDistributionError>,
    },
    #[error("registry {registry}: {step}: status {status}: {detail}")]
    Status { registry: String, step: String, status: StatusCode, detail: String },
    #[error("registry {registry}: {step}: the answer is longer than {limit} bytes")]
    TooLong { registry: String, step: String, limit: u64 },
    #[error("registry {registry}: {step}: {found} bytes came, {expected} were promised")]
    Length { registry: String, step: String, expected: u64, found: u64 },
    #[error("registry {registry}: {step}: what came has digest {found}, not {expected}")]
    Digest { registry: String, step: String, expected: Digest, found: Digest },
    #[error("registry {registry}: {step}: it sent another range than asked for")]
    Range { registry: String, step: String },
    #[error("registry {registry}: {step}: it does not say where to send it")]
    NoLocation { registry: String, step: String },
    #[error("certificate {}", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("set up the connection to registry {registry}")]
    Client {
        registry: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RegistryError {
    /// The same request may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::NotFound { .. }
            | Self::Unauthorized { .. }
            | Self::Login { .. }
            | Self::TooLong { .. }
            | Self::Length { .. }
            | Self::Digest { .. }
            | Self::Range { .. }
            | Self::NoLocation { .. }
            | Self::Certificate { .. }
            | Self::Client { .. } => false,
        }
    }
}

/// One repository at one endpoint.
pub struct Registry {
    endpoint: Endpoint,
    credentials: Option<Credentials>,
    insecure: bool,
    http: reqwest::Client,
    certificates: Vec<Vec<u8>>,
    connect_timeout: Duration,
    stall_timeout: Duration,
    attempts: u32,
    retry_delay: Duration,
    operation: RegistryOperation,
    state: Mutex<State>,
    /// One login at a time: layers are fetched in parallel and would all begin with one.
    login: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct State {
    scheme: &'static str,
    authorization: Option<Authorization>,
    /// How many logins there were: a request that failed with an older authorization need not log in again.
    logins: u32,
}

#[derive(Clone)]
enum Authorization {
    Bearer(String),
    Basic,
}

/// One request.
struct Ask<'a> {
    method: Method,
    /// Below the repository, or a whole URL that the registry gave.
    target: Target<'a>,
    headers: Vec<(HeaderName, &'a str)>,
    payload: &'a Payload,
}

enum Target<'a> {
    Path(&'a str),
    Url(&'a Url),
}

/// What a request carries; sent again if the registry first wants a login.
pub enum Payload {
    Empty,
    Bytes(Bytes),
    File { file: Arc<File>, size_bytes: u64 },
}

/// Told how many bytes of a payload are on their way.
pub type Sent<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// How often what was sent is told, and looked at.
const SENT_PERIOD: Duration = Duration::from_millis(100);
const PAYLOAD_PIECE_BYTES: usize = 128 << 10;

impl Payload {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size_bytes, .. } => *size_bytes,
        }
    }

    fn body(&self, sent: &Arc<AtomicU64>) -> reqwest::Body {
        match self {
            Self::Empty => reqwest::Body::from(Bytes::new()),
            Self::Bytes(bytes) => bytes.clone().into(),
            Self::File { file, size_bytes } => {
                let (sender, receiver) = mpsc::channel(4);
                let (file, size_bytes, sent) = (Arc::clone(file), *size_bytes, Arc::clone(sent));
                tokio::task::spawn_blocking(move || {
                    let mut offset = 0;
                    while offset < size_bytes {
                        let mut piece = vec![0; PAYLOAD_PIECE_BYTES.min((size_bytes - offset) as usize)];
                        let read = file.read_exact_at(&mut piece, offset);
                        offset += piece.len() as u64;
                        let is_end = read.is_err();
                        // Whoever asked for it may have given up.
                        if sender.blocking_send(read.map(|()| Frame::data(Bytes::from(piece)))).is_err()
                            || is_end
                        {
                            return;
                        }
                        sent.store(offset, Ordering::Relaxed);
                    }
                });
                reqwest::Body::wrap(StreamBody::new(ReceiverStream::new(receiver)))
            }
        }
    }
}

/// A blob's bytes from `offset` on.
pub struct Blob {
    response: Response,
    /// To be thrown away: the registry began at 0 though asked for a later offset.
    surplus: u64,
}

impl Registry {
    /// Connects to nothing yet.
    pub fn new(
        endpoint: Endpoint,
        insecure: bool,
        credentials: Option<Credentials>,
        settings: &ImageSettings,
    ) -> Result<Self, RegistryError> {
        let certificates = read_certificates(&settings.certificates, &endpoint.host)?;
        let client = |source: reqwest::Error| RegistryError::Client {
            registry: endpoint.host.clone(),
            source: source.into(),
        };
        let mut extra = Vec::new();
        for certificate in &certificates {
            extra.push(reqwest::Certificate::from_pem(certificate).map_err(client)?);
        }
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(settings.connect_timeout)
            // Nothing is kept open, and nothing wakes up, once the pull is over.
            .pool_idle_timeout(Duration::from_secs(5))
            .tls_danger_accept_invalid_certs(insecure)
            .tls_certs_merge(extra)
            .build()
            .map_err(client)?;
        Ok(Self {
            endpoint,
            credentials,
            insecure,
            http,
            certificates,
            connect_timeout: settings.connect_timeout,
            stall_timeout: settings.stall_timeout,
            attempts: settings.attempts.max(1),
            retry_delay: settings.retry_delay,
            operation: RegistryOperation::Pull,
            state: Mutex::new(State { scheme: "https", authorization: None, logins: 0 }),
            login: tokio::sync::Mutex::new(()),
        })
    }

    /// Logs in for writing too.
    pub fn for_push(mut self) -> Self {
        self.operation = RegistryOperation::Push;
        self
    }

    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    pub fn repository(&self) -> &str {
        &self.endpoint.repository
    }

    /// Whether the repository has the blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let (step, path) = (format!("look for {digest}"), format!("blobs/{digest}"));
        let ask = Ask {
            method: Method::HEAD,
            target: Target::Path(&path),
            headers: Vec::new(),
            payload: &Payload::Empty,
        };
        match self.send_again(&ask, &step).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the blob over from another repository of the registry, if the registry does such things.
    pub async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let step = format!("mount {digest}");
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let ask = Ask {
            method: Method::POST,
            target: Target::Path(&path),
            headers: Vec::new(),
            payload: &Payload::Empty,
        };
        match self.send(&ask, &step, &|_| {}).await {
            // 202 is an upload begun instead; it dies of neglect.
            Ok(response) => Ok(response.status() == StatusCode::CREATED),
            // It may not read there, or does not know the place.
            Err(error) if !error.is_transient() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob in one piece.
    pub async fn put_blob(
        &self,
        digest: &Digest,
        payload: &Payload,
        sent: Sent<'_>,
    ) -> Result<(), RegistryError> {
        let mut failures = 0;
        loop {
            match self.try_put_blob(digest, payload, sent).await {
                Err(error) => self.before_another_try(&mut failures, error).await?,
                done => return done,
            }
        }
    }

    async fn try_put_blob(
        &self,
        digest: &Digest,
        payload: &Payload,
        sent: Sent<'_>,
    ) -> Result<(), RegistryError> {
        let step = format!("send {digest}");
        let begin = Ask {
            method: Method::POST,
            target: Target::Path("blobs/uploads/"),
            headers: Vec::new(),
            payload: &Payload::Empty,
        };
        let response = self.send(&begin, &step, &|_| {}).await?;
        let location = header(response.headers(), LOCATION.as_str());
        let mut url = location.and_then(|location| response.url().join(location).ok()).ok_or_else(|| {
            RegistryError::NoLocation { registry: self.host().to_owned(), step: step.clone() }
        })?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let put = Ask {
            method: Method::PUT,
            target: Target::Url(&url),
            headers: vec![(CONTENT_TYPE, "application/octet-stream")],
            payload,
        };
        self.send(&put, &step, sent).await.map(|_| ())
    }

    /// Sends a manifest; the registry must have all it names.
    pub async fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<(), RegistryError> {
        let (step, path) = (format!("send manifest {tag}"), format!("manifests/{tag}"));
        let ask = Ask {
            method: Method::PUT,
            target: Target::Path(&path),
            headers: vec![(CONTENT_TYPE, media_type)],
            payload: &Payload::Bytes(Bytes::copy_from_slice(manifest)),
        };
        let response = self.send_again(&ask, &step).await?;
        let promised = header(response.headers(), "docker-content-digest").and_then(|d| d.parse().ok());
        let expected = Digest::of(manifest);
        match promised {
            Some(found) if found != expected => {
                Err(RegistryError::Digest { registry: self.host().to_owned(), step, expected, found })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A manifest or index by tag or digest, exactly as sent, with the digest it really has.
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let mut failures = 0;
        loop {
            match self.try_manifest(tag_or_digest).await {
                Err(error) => self.before_another_try(&mut failures, error).await?,
                fetched => return fetched,
            }
        }
    }

    /// A small blob, whole and verified.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let mut failures = 0;
        loop {
            match self.try_document(descriptor).await {
                Err(error) => self.before_another_try(&mut failures, error).await?,
                fetched => return fetched,
            }
        }
    }

    /// Begins to read a blob at `offset`. Not tried again, and not verified: its reader does both.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Blob, RegistryError> {
        let step = step_of_blob(descriptor);
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let path = format!("blobs/{}", descriptor.digest);
        let response = self.request(&path, "*/*", range.as_deref(), &step).await?;
        let surplus = match (response.status(), header(response.headers(), CONTENT_RANGE.as_str())) {
            (StatusCode::PARTIAL_CONTENT, Some(range)) if range.starts_with(&format!("bytes {offset}-")) => 0,
            (StatusCode::PARTIAL_CONTENT, _) => {
                return Err(RegistryError::Range { registry: self.host().to_owned(), step });
            }
            _ => offset,
        };
        if let Some(length) = response.content_length() {
            let found = length + offset - surplus;
            if found != descriptor.size {
                let registry = self.host().to_owned();
                return Err(RegistryError::Length { registry, step, expected: descriptor.size, found });
            }
        }
        Ok(Blob { response, surplus })
    }

    /// The next piece of a blob; `None` at the end of what the registry sends.
    pub async fn next_piece(
        &self,
        blob: &mut Blob,
        descriptor: &Descriptor,
    ) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(mut piece) = self.chunk(&mut blob.response, &step_of_blob(descriptor)).await? else {
                return Ok(None);
            };
            let drop = blob.surplus.min(piece.len() as u64);
            blob.surplus -= drop;
            let kept = piece.split_off(drop as usize);
            if !kept.is_empty() {
                return Ok(Some(kept));
            }
        }
    }

    /// How long to wait before attempt number `failures + 1`.
    pub fn delay(&self, failures: u32) -> Duration {
        self.retry_delay.saturating_mul(1 << failures.saturating_sub(1).min(6))
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Waits if it makes sense to try again, else gives the error back.
    async fn before_another_try(
        &self,
        failures: &mut u32,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        *failures += 1;
        if !error.is_transient() || *failures >= self.attempts {
            return Err(error);
        }
        tracing::debug!(error = crate::engine::error::chain(&error), failures, "trying again");
        sleep(self.delay(*failures)).await;
        Ok(())
    }

    async fn try_manifest(&self, tag_or_digest: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let step = format!("fetch manifest {tag_or_digest}");
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let response = self.request(&format!("manifests/{tag_or_digest}"), &accept, None, &step).await?;
        let promised = header(response.headers(), "docker-content-digest").and_then(|d| d.parse().ok());
        let bytes = self.body(response, MAX_DOCUMENT_BYTES, &step).await?;
        let found = Digest::of(&bytes);
        match tag_or_digest.parse().ok().or(promised) {
            Some(expected) if expected != found => {
                Err(RegistryError::Digest { registry: self.host().to_owned(), step, expected, found })
            }
            Some(_) | None => Ok((bytes, found)),
        }
    }

    async fn try_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let step = format!("fetch {}", descriptor.digest);
        let registry = self.host().to_owned();
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(RegistryError::TooLong { registry, step, limit: MAX_DOCUMENT_BYTES });
        }
        let response = self.request(&format!("blobs/{}", descriptor.digest), "*/*", None, &step).await?;
        let bytes = self.body(response, descriptor.size, &step).await?;
        let (expected, found) = (descriptor.size, bytes.len() as u64);
        if found != expected {
            return Err(RegistryError::Length { registry, step, expected, found });
        }
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(RegistryError::Digest { registry, step, expected: descriptor.digest.clone(), found });
        }
        Ok(bytes)
    }

    /// A GET below the repository. The answer is a success.
    async fn request(
        &self,
        path: &str,
        accept: &str,
        range: Option<&str>,
        step: &str,
    ) -> Result<Response, RegistryError> {
        let mut headers = vec![(ACCEPT, accept)];
        headers.extend(range.map(|range| (RANGE, range)));
        let ask = Ask { method: Method::GET, target: Target::Path(path), headers, payload: &Payload::Empty };
        self.send(&ask, step, &|_| {}).await
    }

    /// As [`Registry::send`], tried again if the failure may pass.
    async fn send_again(&self, ask: &Ask<'_>, step: &str) -> Result<Response, RegistryError> {
        let mut failures = 0;
        loop {
            match self.send(ask, step, &|_| {}).await {
                Err(error) => self.before_another_try(&mut failures, error).await?,
                done => return done,
            }
        }
    }

    /// One request, with a login if the registry wants one. The answer is a success.
    async fn send(&self, ask: &Ask<'_>, step: &str, sent: Sent<'_>) -> Result<Response, RegistryError> {
        let mut logged_in = false;
        loop {
            let state = self.state();
            let url = match ask.target {
                Target::Path(path) => {
                    format!("{}://{}/v2/{}/{path}", state.scheme, self.host(), self.endpoint.repository)
                }
                Target::Url(url) => url.to_string(),
            };
            let is_registrys = url.starts_with(&format!("{}://{}/", state.scheme, self.host()));
            let on_its_way = Arc::new(AtomicU64::new(0));
            let mut request = self.http.request(ask.method.clone(), url);
            for (name, value) in &ask.headers {
                request = request.header(name, *value);
            }
            if ask.method == Method::PUT || ask.method == Method::POST {
                request = request
                    .header(CONTENT_LENGTH, ask.payload.size_bytes())
                    .body(ask.payload.body(&on_its_way));
            }
            request = match (&state.authorization, &self.credentials) {
                // A place that the registry names, elsewhere, gets no secret of the registry's.
                _ if !is_registrys => request,
                (Some(Authorization::Bearer(token)), _) => request.bearer_auth(token),
                (Some(Authorization::Basic), Some(Credentials { username, password })) => {
                    request.basic_auth(username, Some(password))
                }
                (Some(Authorization::Basic), None) | (None, _) => request,
            };
            let response = match self.while_it_moves(request.send(), &on_its_way, sent).await {
                None => return Err(self.stalled(step)),
                // Whoever says a registry is insecure does not say whether it speaks TLS.
                Some(Err(error)) if error.is_connect() && self.insecure && state.scheme == "https" => {
                    self.set(|state| state.scheme = "http");
                    continue;
                }
                Some(Err(source)) if error_is_unreachable(&source) => {
                    let (registry, step) = (self.host().to_owned(), step.to_owned());
                    return Err(RegistryError::Unreachable { registry, step, source: source.without_url() });
                }
                Some(Err(source)) => return Err(self.broken(step, source)),
                Some(Ok(response)) => response,
            };
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !logged_in => {
                    self.log_in(state.logins, step).await?;
                    logged_in = true;
                }
                status => return Err(self.refusal(status, response, step).await),
            }
        }
    }

    /// Waits for an answer as long as bytes go out; `None` if nothing has moved for too long.
    async fn while_it_moves<T>(
        &self,
        answer: impl Future<Output = T>,
        on_its_way: &AtomicU64,
        sent: Sent<'_>,
    ) -> Option<T> {
        let patience = self.stall_timeout.max(self.connect_timeout);
        tokio::pin!(answer);
        let (mut told, mut moved_at) = (0, tokio::time::Instant::now());
        loop {
            match timeout(SENT_PERIOD.min(patience), &mut answer).await {
                Ok(answer) => return Some(answer),
                Err(_) => {
                    let now = on_its_way.load(Ordering::Relaxed);
                    if now != told {
                        (told, moved_at) = (now, tokio::time::Instant::now());
                        sent(now);
                    } else if moved_at.elapsed() >= patience {
                        return None;
                    }
                }
            }
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response, step: &str) -> RegistryError {
        let retry_after = header(response.headers(), RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        let detail = match self.body(response, MAX_ERROR_BYTES, step).await {
            Ok(body) => detail_of(&body, status),
            Err(_) => status.to_string(),
        };
        if let (StatusCode::TOO_MANY_REQUESTS, Some(retry_after)) = (status, retry_after) {
            sleep(retry_after).await;
        }
        let (registry, step) = (self.host().to_owned(), step.to_owned());
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { registry, step, detail },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { registry, step, detail }
            }
            status => RegistryError::Status { registry, step, status, detail },
        }
    }

    /// Gets a token, or finds that the password itself is wanted.
    async fn log_in(&self, seen: u32, step: &str) -> Result<(), RegistryError> {
        let _one_at_a_time = self.login.lock().await;
        let state = self.state();
        if state.logins > seen {
            return Ok(());
        }
        let config = ClientConfig {
            protocol: if state.scheme == "http" { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: self.insecure,
            extra_root_certificates: self
                .certificates
                .iter()
                .map(|data| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() })
                .collect(),
            connect_timeout: Some(self.connect_timeout),
            read_timeout: Some(self.stall_timeout),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = oci_distribution::Client::try_from(config).map_err(|source| RegistryError::Client {
            registry: self.host().to_owned(),
            source: source.into(),
        })?;
        let auth = match &self.credentials {
            Some(Credentials { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            None => RegistryAuth::Anonymous,
        };
        let reference = Reference::with_tag(
            self.host().to_owned(),
            self.endpoint.repository.clone(),
            "latest".to_owned(),
        );
        let login = client.auth(&reference, &auth, self.operation);
        let authorization = match timeout(self.stall_timeout * 2, login).await {
            Err(_) => return Err(self.stalled(&format!("{step}: log in"))),
            Ok(Err(OciDistributionError::AuthenticationFailure(reason))) => {
                let (registry, step) = (self.host().to_owned(), step.to_owned());
                let detail = detail_of(reason.as_bytes(), StatusCode::UNAUTHORIZED);
                return Err(RegistryError::Unauthorized { registry, step, detail });
            }
            Ok(Err(source)) => {
                let (registry, step) = (self.host().to_owned(), step.to_owned());
                return Err(RegistryError::Login { registry, step, source: Box::new(source) });
            }
            Ok(Ok(Some(token))) => Authorization::Bearer(token),
            Ok(Ok(None)) if self.credentials.is_some() => Authorization::Basic,
            Ok(Ok(None)) => {
                let (registry, step) = (self.host().to_owned(), step.to_owned());
                let detail = "authentication required".to_owned();
                return Err(RegistryError::Unauthorized { registry, step, detail });
            }
        };
        self.set(|state| {
            state.authorization = Some(authorization);
            state.logins += 1;
        });
        Ok(())
    }

    /// The whole body, unless it is longer than `limit`.
    async fn body(&self, mut response: Response, limit: u64, step: &str) -> Result<Vec<u8>, RegistryError> {
        let too_long =
            || RegistryError::TooLong { registry: self.host().to_owned(), step: step.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, step).await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(too_long());
            }
        }
        Ok(body)
    }

    async fn chunk(&self, response: &mut Response, step: &str) -> Result<Option<Bytes>, RegistryError> {
        match timeout(self.stall_timeout, response.chunk()).await {
            Err(_) => Err(self.stalled(step)),
            Ok(Err(source)) => Err(self.broken(step, source)),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    fn stalled(&self, step: &str) -> RegistryError {
        let (registry, step) = (self.host().to_owned(), step.to_owned());
        RegistryError::Stalled { registry, step, after: self.stall_timeout }
    }

    fn broken(&self, step: &str, source: reqwest::Error) -> RegistryError {
        let (registry, step) = (self.host().to_owned(), step.to_owned());
        RegistryError::Broken { registry, step, source: source.without_url() }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

fn error_is_unreachable(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_timeout()
}

fn step_of_blob(descriptor: &Descriptor) -> String {
    format!("fetch layer {}", descriptor.digest)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The registry's own words, as far as they are fit to print.
fn detail_of(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let words = |error: &Error| match (error.message.as_str(), error.code.as_str()) {
                ("", code) => code.to_lowercase().replace('_', " "),
                (message, _) => message.to_owned(),
            };
            errors.iter().map(words).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if text.trim().is_empty() { status.to_string() } else { text }
}

fn read_certificates(directories: &[PathBuf], host: &str) -> Result<Vec<Vec<u8>>, RegistryError> {
    let mut certificates = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory.join(host)) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "crt")) {
            match std::fs::read(&path) {
                Ok(certificate) => certificates.push(certificate),
                Err(source) => return Err(RegistryError::Certificate { path, source: source.into() }),
            }
        }
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_shortened_and_cleaned() {
        let status = StatusCode::NOT_FOUND;
        let json = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"NAME_UNKNOWN"}]}"#;
        assert_eq!(detail_of(json, status), "manifest unknown; name unknown");
        assert_eq!(detail_of(b"", status), "404 Not Found");
        assert_eq!(detail_of(b"<html>\x1b[31m\n", status), "<html>[31m");
        assert_eq!(detail_of(&[b'x'; 5000], status).len(), 300);
    }
}
