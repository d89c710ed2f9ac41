//! A registry on the loopback, in the test's own process, that can be told to misbehave.
//!
//! Plain threads and sockets: every byte that goes out, or does not, is decided here. It ends with its last handle.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::image::{Blob, Image};

/// What the registry does instead of answering properly, to requests whose path contains a given text.
#[derive(Debug, Clone)]
pub enum Misbehaviour {
    /// Sends so many bytes of the body, then nothing, and keeps the connection open.
    StallAfter(usize),
    /// Closes the connection after so many bytes of the body; only the given number of times.
    BreakAfter { bytes: usize, times: usize },
    /// Sends these bytes as if they were the right ones.
    Replace(Vec<u8>),
    /// Sends these bytes without saying how many.
    ReplaceUnannounced(Vec<u8>),
    /// Sends zeros for ever.
    Endless,
    /// Answers with this status; only the given number of times.
    Status { code: u16, times: usize },
    /// Sends the whole blob though asked for a part, after breaking off once after so many bytes.
    IgnoreRange { break_after: usize },
    /// Answers a range with another one, after breaking off once after so many bytes.
    WrongRange { break_after: usize },
    /// Accepts the request and never answers.
    Silent,
}

/// How clients have to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Login {
    #[default]
    None,
    /// A token from `/token`, for anybody.
    Token,
    /// A token from `/token`, for `user` with password `secret`.
    TokenForUser,
    /// HTTP basic, `user` with password `secret`.
    Basic,
}

pub struct Registry {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// By path below `/v2/`.
    content: Mutex<HashMap<String, Blob>>,
    misbehaviours: Mutex<Vec<(String, Misbehaviour)>>,
    requests: Mutex<Vec<String>>,
    login: Mutex<Login>,
    /// Tokens die when this changes.
    token: Mutex<u32>,
    ended: AtomicBool,
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind on the loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&served)) else { continue };
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || {
                    let _ = state.serve(stream, address);
                });
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A registries.conf that lets this registry speak http.
    pub fn registries_conf(&self) -> String {
        format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", self.host())
    }

    /// Stores an image; returns its full name.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        let manifest = self.push_untagged(repository, image);
        self.put_manifest(repository, tag, manifest);
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Stores a multi-platform image; returns its full name.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[(&Image, &str)]) -> String {
        let manifests: Vec<_> = images
            .iter()
            .map(|(image, architecture)| {
                let mut descriptor = self.push_untagged(repository, image).descriptor();
                descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
                descriptor
            })
            .collect();
        let index = Blob {
            media_type: "application/vnd.oci.image.index.v1+json",
            bytes: serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests})).expect("JSON"),
        };
        self.put_manifest(repository, tag, index);
        format!("{}/{repository}:{tag}", self.host())
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: Blob) {
        self.put(format!("{repository}/manifests/{}", manifest.digest()), manifest.clone());
        self.put(format!("{repository}/manifests/{tag}"), manifest);
    }

    pub fn put_blob(&self, repository: &str, blob: Blob) {
        self.put(format!("{repository}/blobs/{}", blob.digest()), blob);
    }

    /// From now on, for paths that contain `path`: a digest, a tag, `/blobs/` ...
    pub fn misbehave(&self, path: &str, how: Misbehaviour) {
        self.state.misbehaviours.lock().expect("no test panics here").push((path.to_owned(), how));
    }

    pub fn behave(&self) {
        self.state.misbehaviours.lock().expect("no test panics here").clear();
    }

    pub fn require(&self, login: Login) {
        *self.state.login.lock().expect("no test panics here") = login;
    }

    /// Tokens handed out so far are worth nothing any more.
    pub fn expire_tokens(&self) {
        *self.state.token.lock().expect("no test panics here") += 1;
    }

    /// The requests so far: path, and range if one was asked for.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().expect("no test panics here").clone()
    }

    /// How many requests so far contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.requests().iter().filter(|request| request.contains(text)).count()
    }

    fn push_untagged(&self, repository: &str, image: &Image) -> Blob {
        let built = image.build();
        for blob in built.layers.into_iter().chain([built.config]) {
            self.put_blob(repository, blob);
        }
        self.put(format!("{repository}/manifests/{}", built.manifest.digest()), built.manifest.clone());
        built.manifest
    }

    fn put(&self, path: String, blob: Blob) {
        self.state.content.lock().expect("no test panics here").insert(path, blob);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

struct Request {
    path: String,
    range_start: Option<usize>,
    authorization: Option<String>,
}

impl State {
    fn serve(&self, mut stream: TcpStream, address: SocketAddr) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        // Someone speaks TLS.
        if reader.fill_buf()?.first() == Some(&0x16) {
            return Ok(());
        }
        while let Some(request) = read_request(&mut reader)? {
            let range = request.range_start.map(|start| format!(" from {start}")).unwrap_or_default();
            self.requests.lock().expect("no test panics here").push(format!("{}{range}", request.path));
            if !self.answer(&mut stream, &request, address)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False if the connection is to be closed.
    fn answer(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        address: SocketAddr,
    ) -> std::io::Result<bool> {
        if request.path.starts_with("/token") {
            return self.answer_token(stream, request);
        }
        if !self.is_logged_in(request) {
            let login = *self.login.lock().expect("no test panics here");
            let challenge = match login {
                Login::Basic => "Basic realm=\"test\"".to_owned(),
                Login::None | Login::Token | Login::TokenForUser => {
                    format!("Bearer realm=\"http://{address}/token\",service=\"test\"")
                }
            };
            let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            respond(stream, 401, &[("WWW-Authenticate", &challenge)], body)?;
            return Ok(true);
        }
        let Some(key) = request.path.strip_prefix("/v2/") else {
            return respond(stream, 404, &[], b"").map(|()| true);
        };
        if key.is_empty() {
            return respond(stream, 200, &[], b"{}").map(|()| true);
        }
        let misbehaviour = self.misbehaviour(&request.path);
        let blob = self.content.lock().expect("no test panics here").get(key).cloned();
        let Some(blob) = blob else {
            let code = if key.contains("/manifests/") { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
            let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"\"}}]}}");
            return respond(stream, 404, &[], body.as_bytes()).map(|()| true);
        };
        let digest = blob.digest();
        let headers = [("Content-Type", blob.media_type), ("Docker-Content-Digest", digest.as_str())];
        let start = request.range_start.unwrap_or(0).min(blob.bytes.len());
        let body = &blob.bytes[start..];
        let content_range = format!("bytes {start}-{}/{}", blob.bytes.len().max(1) - 1, blob.bytes.len());
        let ranged = [headers[0], headers[1], ("Content-Range", content_range.as_str())];
        let (status, full_headers) =
            if request.range_start.is_some() { (206, &ranged[..]) } else { (200, &headers[..]) };
        let cut = |stream: &mut TcpStream, bytes: usize| {
            head(stream, status, full_headers, Some(body.len()))?;
            stream.write_all(&body[..bytes.min(body.len())])?;
            stream.flush()
        };
        match misbehaviour {
            None => respond(stream, status, full_headers, body)?,
            Some(Misbehaviour::StallAfter(bytes)) => {
                cut(stream, bytes)?;
                self.wait_for_end(stream);
                return Ok(false);
            }
            Some(Misbehaviour::Silent) => {
                self.wait_for_end(stream);
                return Ok(false);
            }
            Some(
                Misbehaviour::BreakAfter { bytes, .. }
                | Misbehaviour::IgnoreRange { break_after: bytes }
                | Misbehaviour::WrongRange { break_after: bytes },
            ) if request.range_start.is_none()
                || matches!(misbehaviour, Some(Misbehaviour::BreakAfter { .. })) =>
            {
                cut(stream, bytes)?;
                return Ok(false);
            }
            Some(Misbehaviour::IgnoreRange { .. }) => respond(stream, 200, &headers, &blob.bytes)?,
            Some(Misbehaviour::WrongRange { .. }) => {
                let wrong = [headers[0], headers[1], ("Content-Range", "bytes 1-2/3")];
                respond(stream, 206, &wrong, body)?;
            }
            Some(Misbehaviour::BreakAfter { .. }) => unreachable!("it is handled above"),
            Some(Misbehaviour::Replace(bytes)) => respond(stream, 200, &headers, &bytes)?,
            Some(Misbehaviour::ReplaceUnannounced(bytes)) => {
                head(stream, 200, &headers, None)?;
                stream.write_all(&bytes)?;
                return Ok(false);
            }
            Some(Misbehaviour::Endless) => {
                head(stream, 200, &headers, None)?;
                while !self.ended.load(Ordering::SeqCst) {
                    stream.write_all(&[0; 64 << 10])?;
                }
                return Ok(false);
            }
            Some(Misbehaviour::Status { code, .. }) => respond(stream, code, &[], b"temporarily wrong")?,
        }
        Ok(true)
    }

    fn answer_token(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<bool> {
        let login = *self.login.lock().expect("no test panics here");
        if login == Login::TokenForUser && !has_password(request) {
            let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
            return respond(stream, 401, &[], body).map(|()| true);
        }
        let token = self.current_token();
        let body = serde_json::to_vec(&json!({"token": token, "expires_in": 300})).expect("JSON");
        respond(stream, 200, &[("Content-Type", "application/json")], &body).map(|()| true)
    }

    fn is_logged_in(&self, request: &Request) -> bool {
        match *self.login.lock().expect("no test panics here") {
            Login::None => true,
            Login::Basic => has_password(request),
            Login::Token | Login::TokenForUser => {
                request.authorization == Some(format!("Bearer {}", self.current_token()))
            }
        }
    }

    fn current_token(&self) -> String {
        format!("token-{}", self.token.lock().expect("no test panics here"))
    }

    fn misbehaviour(&self, path: &str) -> Option<Misbehaviour> {
        let mut all = self.misbehaviours.lock().expect("no test panics here");
        let found = all.iter_mut().find(|(wanted, how)| {
            let is_used_up = matches!(
                how,
                Misbehaviour::BreakAfter { times: 0, .. } | Misbehaviour::Status { times: 0, .. }
            );
            path.contains(wanted.as_str()) && !is_used_up
        })?;
        let how = found.1.clone();
        if let Misbehaviour::BreakAfter { times, .. } | Misbehaviour::Status { times, .. } = &mut found.1 {
            *times -= 1;
        }
        Some(how)
    }

    /// Until the client gives up or the test ends.
    fn wait_for_end(&self, stream: &mut TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        let mut byte = [0];
        while !self.ended.load(Ordering::SeqCst) {
            match stream.read(&mut byte) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return,
            }
        }
    }
}

fn has_password(request: &Request) -> bool {
    request.authorization == Some(format!("Basic {}", STANDARD.encode("user:secret")))
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    let mut request = Request { path, range_start: None, authorization: None };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(request));
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let start = value.strip_prefix("bytes=").and_then(|range| range.split('-').next());
                request.range_start = start.and_then(|start| start.parse().ok());
            }
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn respond(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    head(stream, status, headers, Some(body.len()))?;
    stream.write_all(body)?;
    stream.flush()
}

fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match length {
        Some(length) => text.push_str(&format!("Content-Length: {length}\r\n\r\n")),
        None => text.push_str("Connection: close\r\n\r\n"),
    }
    stream.write_all(text.as_bytes())
}
