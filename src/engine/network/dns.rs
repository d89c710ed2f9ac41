//! The resolver: one listener per network, on its gateway address, UDP and TCP.
//!
//! It lives in the daemon. What to answer is [`super::names`]'s decision; this file moves packets, and asks the
//! host's resolvers about everything that is not ours. Tasks: two per listener, one per forwarded question and
//! per TCP connection, both bounded.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::firewall::DNS_PORT;
use super::names::{self, Names, Transport, Verdict};
use crate::engine::id::NetworkId;

/// Questions under way to the host's resolvers at one time; more are answered "server failure".
const FORWARDS_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 256;
/// Clients wait five seconds before they ask again: two servers must fit in.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const SERVERS_MAX: usize = 3;
const MESSAGE_MAX_BYTES: usize = 65_535;
const BACKLOG: i32 = 64;

pub struct Resolver {
    shared: Arc<Shared>,
    listeners: Mutex<HashMap<NetworkId, Listener>>,
}

struct Shared {
    names: RwLock<Names>,
    upstream: Upstream,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
}

struct Listener {
    port: u16,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Resolver {
    /// `resolv_conf` names the servers to ask about the rest of the world; it is read again when it changes.
    pub fn new(resolv_conf: PathBuf) -> Self {
        let shared = Shared {
            names: RwLock::new(Names::default()),
            upstream: Upstream { path: resolv_conf, read: Mutex::new(None), own: RwLock::default() },
            forwards: Semaphore::new(FORWARDS_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        Self { shared: Arc::new(shared), listeners: Mutex::default() }
    }

    /// Answers on `gateway`, which need not be an address of the host yet. Returns the port: another than 53 if
    /// that is taken. Nothing is done if it answers already.
    pub fn listen(&self, network: &NetworkId, gateway: Ipv4Addr) -> io::Result<u16> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listeners.get(network) {
            return Ok(listener.port);
        }
        let (udp, tcp, port) = match bind_both(gateway, DNS_PORT) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind_both(gateway, 0)?,
            bound => bound?,
        };
        self.shared.upstream.own.write().unwrap_or_else(PoisonError::into_inner).push(gateway);
        let listener = Listener {
            port,
            tasks: [
                tokio::spawn(serve_udp(
                    self.shared.clone(),
                    network.clone(),
                    UdpSocket::from_std(udp.into())?,
                )),
                tokio::spawn(serve_tcp(
                    self.shared.clone(),
                    network.clone(),
                    TcpListener::from_std(tcp.into())?,
                )),
            ],
        };
        listeners.insert(network.clone(), listener);
        Ok(port)
    }

    pub fn stop(&self, network: &NetworkId) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(network);
    }

    pub fn stop_all(&self) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether some listener has port 53.
    pub fn has_dns_port(&self) -> bool {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.values().any(|listener| listener.port == DNS_PORT)
    }

    pub fn change_names<T>(&self, change: impl FnOnce(&mut Names) -> T) -> T {
        change(&mut self.shared.names.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn decide(&self, query: &[u8], network: &NetworkId, asker: SocketAddr, transport: Transport) -> Verdict {
        let asker = match asker.ip() {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.decide(query, network, asker, transport)
    }

    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        // Refused rather than queued: a client that waits too long asks again and makes it worse.
        let Ok(_permit) = self.forwards.try_acquire() else { return names::server_failure(query) };
        for server in self.upstream.servers() {
            let answer = match transport {
                Transport::Udp => timeout(FORWARD_TIMEOUT, ask_udp(server, query)).await,
                Transport::Tcp => timeout(FORWARD_TIMEOUT, ask_tcp(server, query)).await,
            };
            match answer {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server did not answer"),
                Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
            }
        }
        names::server_failure(query)
    }
}

async fn serve_udp(shared: Arc<Shared>, network: NetworkId, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; MESSAGE_MAX_BYTES];
    loop {
        let (length, asker) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error for an earlier answer; the socket itself is sound.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::error!(network.id = %network, %error, "the resolver of a network failed");
                return;
            }
        };
        match shared.decide(&buffer[..length], &network, asker, Transport::Udp) {
            Verdict::Answer(answer) => reply(&socket, &answer, asker).await,
            Verdict::Ignore => {}
            Verdict::Forward => {
                let (shared, socket, query) = (shared.clone(), socket.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    if let Some(answer) = shared.forward(&query, Transport::Udp).await {
                        reply(&socket, &answer, asker).await;
                    }
                });
            }
        }
    }
}

async fn reply(socket: &UdpSocket, answer: &[u8], asker: SocketAddr) {
    if let Err(error) = socket.send_to(answer, asker).await {
        tracing::debug!(%asker, %error, "an answer of the resolver could not be sent");
    }
}

async fn serve_tcp(shared: Arc<Shared>, network: NetworkId, listener: TcpListener) {
    loop {
        // Taken before accepting: connections beyond the limit wait in the kernel.
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, asker)) => {
                let (shared, network) = (shared.clone(), network.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(&shared, &network, stream, asker).await {
                        tracing::debug!(%asker, %error, "a connection to the resolver broke");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(network.id = %network, %error, "the resolver could not accept a connection");
                // Out of descriptors: accepting again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    shared: &Shared,
    network: &NetworkId,
    mut stream: TcpStream,
    asker: SocketAddr,
) -> io::Result<()> {
    loop {
        let query = match timeout(CONNECTION_IDLE_TIMEOUT, read_framed(&mut stream)).await {
            Ok(Ok(query)) => query,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let answer = match shared.decide(&query, network, asker, Transport::Tcp) {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward => shared.forward(&query, Transport::Tcp).await,
            Verdict::Ignore => None,
        };
        match answer {
            Some(answer) => timeout(CONNECTION_IDLE_TIMEOUT, write_framed(&mut stream, &answer)).await??,
            None => return Ok(()),
        }
    }
}

/// Over UDP from a port of its own, under an identifier of its own: nobody else can guess an answer.
async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (query, original) = with_new_id(query)?;
    socket.send(&query).await?;
    let mut buffer = vec![0; MESSAGE_MAX_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = accept_answer(&query, &buffer[..length], original) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (query, original) = with_new_id(query)?;
    write_framed(&mut stream, &query).await?;
    let answer = read_framed(&mut stream).await?;
    accept_answer(&query, &answer, original)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
}

fn with_new_id(query: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let original = [query[0], query[1]];
    let mut query = query.to_vec();
    getrandom::fill(&mut query[..2]).map_err(|error| io::Error::other(error.to_string()))?;
    Ok((query, original))
}

/// An answer has the identifier and, but for upper and lower case, the question that were sent.
fn accept_answer(query: &[u8], answer: &[u8], original: [u8; 2]) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 12;
    let question = question_end(query).map(|end| &query[HEADER_BYTES..end])?;
    let is_answer = answer.len() >= HEADER_BYTES && answer[2] & 0x80 != 0 && answer[..2] == query[..2];
    // Some servers leave the question out of an error.
    let questions = answer.get(4..6)?;
    let same = questions == [0, 0]
        || answer.get(HEADER_BYTES..HEADER_BYTES + question.len())?.eq_ignore_ascii_case(question);
    (is_answer && same).then(|| {
        let mut answer = answer.to_vec();
        answer[..2].copy_from_slice(&original);
        answer
    })
}

/// Where the first question ends; its name is not compressed, as nothing stands before it.
fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1 + length;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
    }
    (at + 4 <= query.len()).then_some(at + 4)
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// UDP and TCP on the same port.
fn bind_both(address: Ipv4Addr, port: u16) -> io::Result<(OwnedFd, OwnedFd, u16)> {
    let udp = bind(address, port, SockType::Datagram)?;
    let bound: SockaddrIn = socket::getsockname(udp.as_raw_fd())?;
    let tcp = bind(address, bound.port(), SockType::Stream)?;
    socket::listen(&tcp, socket::Backlog::new(BACKLOG)?)?;
    Ok((udp, tcp, bound.port()))
}

fn bind(address: Ipv4Addr, port: u16, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Inet, kind, flags, None)?;
    // The bridge may come later, or be gone for a moment.
    socket::setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, port)))?;
    Ok(socket)
}

/// The host's own resolvers.
struct Upstream {
    path: PathBuf,
    read: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
    /// Our own addresses, in case the host asks us: a question must not go round in circles.
    own: RwLock<Vec<Ipv4Addr>>,
}

impl Upstream {
    fn servers(&self) -> Vec<SocketAddr> {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = matches!((&*read, modified), (Some((known, _)), Some(now)) if *known == now);
        if !is_fresh {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            *read = Some((modified.unwrap_or(SystemTime::UNIX_EPOCH), parse_resolv_conf(&text)));
        }
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        let servers = read.as_ref().map(|(_, servers)| servers.clone()).unwrap_or_default();
        servers
            .into_iter()
            .filter(|server| !matches!(server.ip(), IpAddr::V4(address) if own.contains(&address)))
            .take(SERVERS_MAX)
            .collect()
    }
}

/// The name servers of a resolv.conf(5). None at all means one on this host.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        // A scope (`fe80::1%eth0`) needs the index of an interface: such servers are left out.
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect();
    if servers.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 \nnameserver rubbish\n";
        let servers: Vec<_> = parse_resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(parse_resolv_conf("")[0].to_string(), "127.0.0.1:53");
    }

    #[test]
    fn only_an_answer_to_the_question_is_accepted() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01".to_vec();
        let mut answer = query.clone();
        answer[2] |= 0x80;
        assert_eq!(accept_answer(&query, &answer, [9, 9]).map(|a| a[..2].to_vec()), Some(vec![9, 9]));
        let mut upper = answer.clone();
        upper[13..16].copy_from_slice(b"WEB");
        assert!(accept_answer(&query, &upper, [9, 9]).is_some(), "case may differ");
        let mut other = answer.clone();
        other[13..16].copy_from_slice(b"wet");
        assert!(accept_answer(&query, &other, [9, 9]).is_none(), "another name");
        let mut id = answer.clone();
        id[0] = 0;
        assert!(accept_answer(&query, &id, [9, 9]).is_none(), "another identifier");
        assert!(accept_answer(&query, &query, [9, 9]).is_none(), "a question is no answer");
        for cut in 0..answer.len() {
            assert!(accept_answer(&query, &answer[..cut], [9, 9]).is_none(), "cut at {cut}");
        }
    }
}
