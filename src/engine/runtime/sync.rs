//! What a process on its way into a container and its launcher tell each other.
//!
//! One socket pair, one packet per message. The child's end is closed by executing the user's command: silence is
//! success. It is also the barrier of `start`: a child whose launcher has died reads an end and ends.
#![expect(unsafe_code, reason = "takes over descriptors that arrive over the socket")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::LaunchError;
use crate::engine::host::{HostError, Result, Step as _};

/// Child to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// Inside its namespaces, root file system complete but not entered: time for hooks. Waits for [`release`].
    Hooks,
    /// Everything done but executing. Carries the terminal's other end if there is one. A container's first
    /// process waits for [`release`], others go on.
    Ready,
    Failed(Failure),
}

/// Why the child gave up.
#[derive(Debug, Serialize, Deserialize)]
pub enum Failure {
    NotFound { command: String },
    NotExecutable { command: String },
    Step { step: String, cause: String },
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let (step, source) = error.into_parts();
        Self::Step { step, cause: source.to_string() }
    }
}

impl From<Failure> for LaunchError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotFound { command } => Self::CommandNotFound { command },
            Failure::NotExecutable { command } => Self::CommandNotExecutable { command },
            Failure::Step { step, cause } => Self::Failed { step, source: cause.into() },
        }
    }
}

/// The launcher's end and the child's.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .step(|| "make a socket pair for a new process".into())
}

pub fn tell(socket: BorrowedFd<'_>, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let step = || "report to the launcher".to_owned();
    let json = serde_json::to_vec(message).step(step)?;
    let descriptors: Vec<RawFd> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
    let control: &[ControlMessage<'_>] =
        if descriptors.is_empty() { &[] } else { &[ControlMessage::ScmRights(&descriptors)] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&json)], control, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .step(step)
}

/// The child's next message. `None`: it has executed the command, or ended.
pub fn hear(socket: BorrowedFd<'_>) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let (bytes, descriptor) = receive(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes).step(|| "hear from the new process".into())?;
    Ok(Some((message, descriptor)))
}

/// The descriptor that comes with one message, as runc sends a terminal's other end.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    Ok(receive(socket)?.1)
}

fn receive(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let step = || "hear from another process".to_owned();
    let mut buffer = vec![0; 16 * 1024];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => {
                let mut descriptor = None;
                for control in message.cmsgs().step(step)? {
                    if let ControlMessageOwned::ScmRights(received) = control {
                        for fd in received {
                            // SAFETY: the kernel has just made it for us; nobody else knows it.
                            descriptor = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                        }
                    }
                }
                let length = message.bytes;
                buffer.truncate(length);
                return Ok((buffer, descriptor));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((Vec::new(), None)),
            Err(error) => return Err(HostError::new(step(), error)),
        }
    }
}

/// Lets the child go on.
pub fn release(socket: BorrowedFd<'_>) -> Result<()> {
    send(socket.as_raw_fd(), b"1", MsgFlags::MSG_NOSIGNAL).map(drop).step(|| "release the new process".into())
}

/// Waits for [`release`]. False: the launcher has gone.
pub fn await_release(socket: BorrowedFd<'_>) -> Result<bool> {
    let mut byte = [0];
    loop {
        match recv(socket.as_raw_fd(), &mut byte, MsgFlags::empty()) {
            Ok(length) => return Ok(length == 1),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(HostError::new("wait for the launcher", error)),
        }
    }
}
