//! Makes one check of a container: HTTP, TCP, gRPC from the daemon inside the pod's network namespace
//! (a socket belongs to the namespace it was made in, so no process is needed), or a command in the
//! container through the engine. Decides nothing: an answer is `Ok` or the reason why not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Empty;
use hyper::header::{HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::engine::Engine;
use crate::engine::container::ExecRequest;
use crate::engine::host::namespace::within_netns;
use crate::engine::id::{ContainerId, NameOrId};
use crate::reconcile::desired::{HttpAction, ProbeAction};

/// Applications tell probes apart by this; kubelet's begins with `kube-probe/`.
const AGENT: &str = concat!("kube-probe/1.34 selkie/", env!("CARGO_PKG_VERSION"));

/// How many times a redirect within the same host is followed.
const REDIRECTS: usize = 10;

/// As much of a command's output as an explanation needs.
const OUTPUT_LIMIT: usize = 10 * 1024;

/// Where a pod is to be asked.
#[derive(Debug, Clone)]
pub struct Target {
    /// `None`: the host's.
    pub netns: Option<PathBuf>,
    /// The pod's address; `None` on the host network and without a network.
    pub address: Option<IpAddr>,
    pub container: ContainerId,
}

impl Target {
    fn host(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// One check, at most `timeout` long.
pub async fn probe(
    engine: &Engine,
    target: &Target,
    action: &ProbeAction,
    timeout: Duration,
) -> Result<(), String> {
    let check = async {
        match action {
            ProbeAction::Exec { command } => exec(engine, &target.container, command).await.map(drop),
            ProbeAction::Http(action) => http(target, action).await,
            ProbeAction::Tcp { host, port } => {
                let host = host.as_deref().map_or_else(|| target.host().to_string(), str::to_owned);
                connect(target, &host, *port).await.map(drop)
            }
            ProbeAction::Grpc { port, service } => grpc(target, *port, service).await,
        }
    };
    match tokio::time::timeout(timeout, check).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
    }
}

/// Runs a command in the container; its output on success, exit code and output otherwise.
pub async fn exec(engine: &Engine, container: &ContainerId, command: &[String]) -> Result<Vec<u8>, String> {
    let request = ExecRequest {
        command: command.to_vec(),
        env: Default::default(),
        user: None,
        working_dir: None,
        privileged: false,
    };
    let output = engine
        .exec_container(&NameOrId::from(container), request, OUTPUT_LIMIT)
        .await
        .map_err(|error| error.chain())?;
    match output.code {
        0 => Ok(output.output),
        code => {
            let text = String::from_utf8_lossy(&output.output);
            Err(format!("command exited with {code}: {}", shorten(text.trim())))
        }
    }
}

fn shorten(text: &str) -> &str {
    match text.char_indices().nth(500) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Success is 200 to 399. Redirects are followed within the same host only, as kubelet does.
pub async fn http(target: &Target, action: &HttpAction) -> Result<(), String> {
    let host = action.host.clone().unwrap_or_else(|| target.host().to_string());
    let path = if action.path.starts_with('/') { action.path.clone() } else { format!("/{}", action.path) };
    let mut place = Place { https: action.https, host, port: action.port, path };
    for _ in 0..=REDIRECTS {
        let (status, location) = request(target, &place, &action.headers).await?;
        if !(200..400).contains(&status.as_u16()) {
            return Err(format!("HTTP status {}", status.as_u16()));
        }
        match location.and_then(|location| place.redirected(&location)) {
            Some(next) if status.is_redirection() => place = next,
            _ => return Ok(()),
        }
    }
    Err(format!("more than {REDIRECTS} redirects"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    /// Where a `Location` leads, if that is on the same host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query()?.to_string();
        match uri.authority() {
            None if path.starts_with('/') => Some(Self { path, ..self.clone() }),
            None => {
                let base = self.path.rsplit_once('/').map_or("", |(base, _)| base);
                Some(Self { path: format!("{base}/{path}"), ..self.clone() })
            }
            Some(authority) => {
                let https = uri.scheme_str() == Some("https");
                let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
                (authority.host() == self.host).then(|| Self { https, host: self.host.clone(), port, path })
            }
        }
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

async fn request(
    target: &Target,
    place: &Place,
    headers: &[(String, String)],
) -> Result<(StatusCode, Option<String>), String> {
    let stream = connect(target, &place.host, place.port).await?;
    match place.https {
        false => exchange(stream, place, headers).await,
        true => {
            let name = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
            let stream = tls_connector()?
                .connect(name, stream)
                .await
                .map_err(|error| format!("TLS with {}: {error}", place.authority()))?;
            exchange(stream, place, headers).await
        }
    }
}

async fn exchange<S>(
    stream: S,
    place: &Place,
    headers: &[(String, String)],
) -> Result<(StatusCode, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("HTTP with {}: {error}", place.authority());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // The body is of no interest; the connection ends when this does.
    let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let mut request = Request::get(place.path.as_str())
        .header(HOST, place.authority())
        .header(USER_AGENT, AGENT)
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the probe's request: {error}"))?;
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
        let value: HeaderValue = value.parse().map_err(|_| format!("{value:?} is no header value"))?;
        request.headers_mut().insert(name, value);
    }
    let response = sender.send_request(request).await.map_err(failed)?;
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let answer = (response.status(), location.map(str::to_owned));
    drop(driver);
    Ok(answer)
}

/// A connection made inside the pod's network namespace.
async fn connect(target: &Target, host: &str, port: u16) -> Result<TcpStream, String> {
    let address = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("resolve {host}: {error}"))?
            .next()
            .ok_or_else(|| format!("{host} has no address"))?,
    };
    let new_socket = move || match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = match target.netns.clone() {
        None => new_socket(),
        Some(netns) => tokio::task::spawn_blocking(move || within_netns(&netns, new_socket))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| crate::engine::error::chain(&error))?,
    };
    let socket = socket.map_err(|error| format!("make a socket: {error}"))?;
    socket.connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}

/// `grpc.health.v1.Health/Check`, by hand: one message of one string out, one of one number in.
async fn grpc(target: &Target, port: u16, service: &str) -> Result<(), String> {
    const SERVING: u64 = 1;
    let host = target.host().to_string();
    let stream = connect(target, &host, port).await?;
    let failed = |error: h2::Error| format!("gRPC with {host}:{port}: {error}");
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let _driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(|error| error.to_string())?;
    let (response, mut body) = client.send_request(request, false).map_err(failed)?;
    body.send_data(health_request(service), true).map_err(failed)?;
    let response = response.await.map_err(failed)?;
    let early = response.headers().get("grpc-status").cloned();
    let mut stream = response.into_body();
    let mut message = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(failed)?;
        let _ = stream.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
        if message.len() > OUTPUT_LIMIT {
            return Err("gRPC: the answer is too long".to_owned());
        }
    }
    let late = stream.trailers().await.map_err(failed)?.and_then(|map| map.get("grpc-status").cloned());
    match late.or(early).as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        status => {
            let status = status.map_or("none".into(), String::from_utf8_lossy);
            return Err(format!("gRPC status {status}"));
        }
    }
    match health_status(&message) {
        Some(SERVING) => Ok(()),
        status => Err(format!("gRPC health is {}", status.map_or(-1, |status| status as i64))),
    }
}

/// A length-prefixed `HealthCheckRequest { service }`.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

/// The `status` of a length-prefixed `HealthCheckResponse`; 0 (unknown) if it is left out.
fn health_status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message.split_first() {
        None => Some(0),
        Some((0x08, rest)) => {
            let mut value = 0;
            for (index, byte) in rest.iter().take(9).enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * index);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        }
        Some(_) => None,
    }
}

fn put_varint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

fn tls_connector() -> Result<TlsConnector, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Kubernetes: "if scheme is HTTPS, the kubelet sends an HTTPS request skipping the certificate
/// verification". The question is whether the application answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn here() -> Target {
        Target { netns: None, address: None, container: ContainerId::random() }
    }

    fn get(port: u16, path: &str) -> HttpAction {
        HttpAction { host: None, port, path: path.into(), https: false, headers: Vec::new() }
    }

    /// Answers each request by its path, and keeps what was asked.
    async fn serve(
        answers: &'static [(&'static str, &'static str)],
    ) -> (u16, Arc<std::sync::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(request);
                let answer = answers.iter().find(|(known, _)| *known == path);
                if let Some((_, answer)) = answer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        (port, asked)
    }

    #[tokio::test]
    async fn http_success_is_200_to_399() {
        let (port, asked) = serve(&[
            ("/ok", "HTTP/1.1 204 No Content\r\n\r\n"),
            ("/moved", "HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n"),
            ("/moved-to-bad", "HTTP/1.1 302 Found\r\nlocation: /bad\r\ncontent-length: 0\r\n\r\n"),
            ("/away", "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n"),
            ("/loop", "HTTP/1.1 302 Found\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n"),
            ("/bad", "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
            ("/garbage", "NONSENSE\r\n\r\n"),
        ])
        .await;
        for (path, ok) in [
            ("/ok", true),
            ("ok", true),
            ("/moved", true),
            ("/moved-to-bad", false),
            ("/away", true),
            ("/loop", false),
            ("/bad", false),
            ("/garbage", false),
            ("/silence", false),
        ] {
            let answer = http(&here(), &get(port, path)).await;
            assert_eq!(answer.is_ok(), ok, "{path}: {answer:?}");
        }
        let asked = asked.lock().unwrap();
        assert!(asked[0].to_lowercase().contains("user-agent: kube-probe/"), "{}", asked[0]);
        assert!(asked[0].to_lowercase().contains(&format!("host: 127.0.0.1:{port}")), "{}", asked[0]);
    }

    #[tokio::test]
    async fn headers_of_the_probe_win_over_ours() {
        let (port, asked) = serve(&[("/", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]).await;
        let mut action = get(port, "/");
        action.headers = vec![("Host".into(), "shop.example".into()), ("X-Probe".into(), "1".into())];
        http(&here(), &action).await.unwrap();
        let request = asked.lock().unwrap()[0].to_lowercase();
        assert!(request.contains("host: shop.example") && request.contains("x-probe: 1"), "{request}");
        assert_eq!(request.matches("host:").count(), 1);
    }

    #[tokio::test]
    async fn tcp_needs_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect(&here(), "127.0.0.1", port).await.is_ok());
        drop(listener);
        let refused = connect(&here(), "127.0.0.1", port).await.unwrap_err();
        assert!(refused.contains("connect to 127.0.0.1"), "{refused}");
    }

    #[tokio::test]
    async fn grpc_health_must_be_serving() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut server = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = server.accept().await {
                        let path = request.uri().path().to_owned();
                        let mut body = request.into_body();
                        let data = body.data().await.unwrap().unwrap();
                        let service = String::from_utf8_lossy(data.get(7..).unwrap_or_default()).into_owned();
                        let status: u8 = if service == "down" { 2 } else { 1 };
                        assert_eq!(path, "/grpc.health.v1.Health/Check");
                        let mut send = respond.send_response(hyper::Response::new(()), false).unwrap();
                        send.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                        let mut trailers = hyper::HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        send.send_trailers(trailers).unwrap();
                    }
                });
            }
        });
        assert_eq!(grpc(&here(), port, "").await, Ok(()));
        assert_eq!(grpc(&here(), port, "up").await, Ok(()));
        assert_eq!(grpc(&here(), port, "down").await, Err("gRPC health is 2".into()));
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let place = Place { https: false, host: "10.0.0.1".into(), port: 80, path: "/a/b".into() };
        let to = |location: &str| place.redirected(location).map(|place| (place.authority(), place.path));
        assert_eq!(to("/x?y"), Some(("10.0.0.1:80".into(), "/x?y".into())));
        assert_eq!(to("http://10.0.0.1:81/x"), Some(("10.0.0.1:81".into(), "/x".into())));
        assert_eq!(to("http://elsewhere/x"), None);
    }
}
