//! The daemon's end of a control connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::protocol::{FailureKind, Request, Response};
use super::{MonitorError, packet};

/// How long a monitor may take for an answer that needs no more than the kernel.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a monitor's control socket.
pub struct Client {
    socket: AsyncFd<OwnedFd>,
}

impl Client {
    pub fn connect(run_dir: &Path, step: &'static str) -> Result<Self, MonitorError> {
        let socket = packet::connect(run_dir).and_then(readiness).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => MonitorError::Gone { step },
            _ => MonitorError::Io { step, path: run_dir.join(packet::SOCKET_NAME), source },
        })?;
        Ok(Self { socket })
    }

    /// One request and its answer, within a time that is generous for everything but waiting for an end.
    pub async fn call(
        &self,
        step: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Response, Vec<OwnedFd>), MonitorError> {
        let answer = async {
            self.send(step, request, descriptors).await?;
            self.answer(step).await
        };
        tokio::time::timeout(ANSWER_LIMIT, answer)
            .await
            .unwrap_or(Err(MonitorError::Timeout { step, secs: ANSWER_LIMIT.as_secs() }))
    }

    pub async fn send(
        &self,
        step: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), MonitorError> {
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| packet::send_message(socket, request, descriptors));
        sent.await.map_err(|source| broken(step, source))
    }

    /// The next answer, however long it takes. A failure that the monitor reports is an error.
    pub async fn answer(&self, step: &'static str) -> Result<(Response, Vec<OwnedFd>), MonitorError> {
        let mut buffer = vec![0; packet::MAX_PACKET_BYTES];
        let mut packet = self
            .socket
            .async_io(Interest::READABLE, |socket| packet::receive(socket, &mut buffer))
            .await
            .map_err(|source| broken(step, source))?
            .ok_or(MonitorError::Gone { step })?;
        match packet::read_message(&mut packet, &buffer) {
            Ok(Response::Failed { kind, message }) => Err(failure(kind, message)),
            Ok(response) => Ok((response, packet.descriptors)),
            Err(error) => Err(MonitorError::Protocol { step, detail: error.to_string() }),
        }
    }

    pub fn into_socket(self) -> AsyncFd<OwnedFd> {
        self.socket
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// What the monitor reports as failed, as an error.
pub fn failure(kind: FailureKind, message: String) -> MonitorError {
    match kind {
        FailureKind::CommandNotFound => MonitorError::CommandNotFound(message),
        FailureKind::CommandNotExecutable => MonitorError::CommandNotExecutable(message),
        FailureKind::NoSuchExec => MonitorError::NoSuchExec,
        FailureKind::WrongState => MonitorError::WrongState(message),
        FailureKind::Internal => MonitorError::Failed(message),
    }
}

/// The answer was of a kind that does not belong to the request.
pub fn unexpected(step: &'static str, response: &Response) -> MonitorError {
    MonitorError::Protocol { step, detail: format!("{response:?}") }
}

fn broken(step: &'static str, source: io::Error) -> MonitorError {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => MonitorError::Gone { step },
        _ => MonitorError::Protocol { step, detail: source.to_string() },
    }
}

/// Waits for a descriptor's readiness with the async runtime.
#[expect(deprecated, reason = "unsound for types that lie about their descriptor; its successor is unsafe")]
pub fn readiness(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}
