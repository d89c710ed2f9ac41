//! Packets of a SOCK_SEQPACKET socket, with the descriptors that travel with them, and the control
//! socket's address. Used on both sides; nothing here waits unless the socket blocks.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest packet: well below the kernel's default send buffer (208 KiB), which bounds it.
pub const MAX_PACKET_BYTES: usize = 64 * 1024;
/// The largest message. One that does not fit a packet travels in a memory file.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most descriptors of one packet: three streams and a memory file.
const MAX_DESCRIPTORS: usize = 4;
/// A packet of this byte alone: the message is in the last descriptor that came with it. JSON never
/// begins with it.
const IN_DESCRIPTOR: u8 = b'@';

/// The name of the control socket in a container's run directory.
pub const SOCKET_NAME: &str = "ctl";

/// One packet as it arrived.
#[derive(Debug)]
pub struct Packet {
    pub length: usize,
    pub descriptors: Vec<OwnedFd>,
}

/// Sends one packet, whole or not at all.
pub fn send(socket: impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(data)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet into `buffer`. `None`: the other side has closed.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too large"));
    }
    Ok((message.bytes > 0 || !descriptors.is_empty())
        .then_some(Packet { length: message.bytes, descriptors }))
}

/// Sends a message as JSON.
pub fn send_message<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() <= MAX_PACKET_BYTES {
        return send(socket, &text, descriptors);
    }
    if text.len() > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
    }
    let mut file = std::fs::File::from(rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(&text)?;
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    let mut descriptors = descriptors.to_vec();
    descriptors.push(file.as_fd());
    send(socket, &[IN_DESCRIPTOR], &descriptors)
}

/// Reads the message of a packet whose data is the beginning of `buffer`. The descriptors left in the
/// packet are those that belong to the message.
pub fn read_message<T: DeserializeOwned>(packet: &mut Packet, buffer: &[u8]) -> io::Result<T> {
    let data = &buffer[..packet.length];
    if data != [IN_DESCRIPTOR] {
        return Ok(serde_json::from_slice(data)?);
    }
    let file = packet.descriptors.pop().ok_or_else(|| invalid("a message in a descriptor, without one"))?;
    // A file of memory alone: reading it cannot block, as a pipe or a socket sent in its place would.
    if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file() {
        return Err(invalid("a message in something that is not a file"));
    }
    let mut text = Vec::new();
    std::fs::File::from(file).take(MAX_MESSAGE_BYTES as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_MESSAGE_BYTES {
        return Err(invalid("message too large"));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Listens on the control socket of `run_dir`, in place of any earlier one.
pub fn listen(run_dir: &Path) -> io::Result<OwnedFd> {
    let dir = open_dir(run_dir)?;
    match rustix::fs::unlinkat(&dir, SOCKET_NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &address(&dir)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Connects to the control socket of `run_dir`. The socket does not block.
pub fn connect(run_dir: &Path) -> io::Result<OwnedFd> {
    let dir = open_dir(run_dir)?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address(&dir)?)?;
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// By way of the directory's descriptor: a socket's address holds 108 bytes, fewer than many a path.
fn address(dir: &OwnedFd) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()))?)
}

fn invalid(detail: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::monitor::protocol::{Channel, Request, Response};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap()
    }

    fn receive_message<T: DeserializeOwned>(socket: &OwnedFd) -> (T, Vec<OwnedFd>) {
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let mut packet = receive(socket, &mut buffer).unwrap().expect("a packet");
        (read_message(&mut packet, &buffer).unwrap(), packet.descriptors)
    }

    #[test]
    fn every_message_survives_the_wire() {
        let (here, there) = pair();
        for request in [
            Request::State,
            Request::Start,
            Request::Kill { signal: 15 },
            Request::Resize { columns: 80, rows: 24 },
            Request::ExecWait { id: "a".into() },
            Request::Attach { stdin: true, stdout: false, stderr: true },
            Request::ReopenLog,
        ] {
            send_message(&here, &request, &[]).unwrap();
            assert_eq!(receive_message::<Request>(&there).0, request);
        }
        let response = Response::ExecExited { code: 137 };
        send_message(&there, &response, &[]).unwrap();
        assert_eq!(receive_message::<Response>(&here).0, response);
    }

    #[test]
    fn descriptors_travel_with_their_packet_also_when_the_message_is_large() {
        let (here, there) = pair();
        for length in [10, MAX_PACKET_BYTES * 3] {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let text = "x".repeat(length);
            send_message(&here, &text, &[writer.as_fd()]).unwrap();
            drop(writer);
            let (got, descriptors) = receive_message::<String>(&there);
            assert_eq!(got, text);
            assert_eq!(descriptors.len(), 1, "{length} bytes");
            rustix::io::write(&descriptors[0], b"hello").unwrap();
            let mut buffer = [0; 8];
            assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 5);
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let (here, there) = pair();
        let error = send_message(&here, &"x".repeat(MAX_MESSAGE_BYTES), &[]).unwrap_err();
        assert_eq!(error.to_string(), "message too large");
        send(&here, &[0; 100], &[]).unwrap();
        assert_eq!(receive(&there, &mut [0; 10]).unwrap_err().to_string(), "packet too large");
    }

    #[test]
    fn a_pipe_in_place_of_a_message_is_refused_without_reading_it() {
        let (here, there) = pair();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        send(&here, &[IN_DESCRIPTOR], &[reader.as_fd()]).unwrap();
        let mut buffer = [0; 64];
        let mut packet = receive(&there, &mut buffer).unwrap().unwrap();
        assert!(read_message::<Request>(&mut packet, &buffer).is_err());
    }

    #[test]
    fn a_closed_socket_is_the_end() {
        let (here, there) = pair();
        drop(here);
        assert!(receive(&there, &mut [0; 10]).unwrap().is_none());
    }

    #[test]
    fn channels_are_their_bytes() {
        for channel in [Channel::Stdin, Channel::Stdout, Channel::Stderr] {
            assert_eq!(Channel::from_byte(channel as u8), Some(channel));
        }
        assert_eq!(Channel::from_byte(3), None);
    }

    #[test]
    fn a_socket_can_live_below_a_path_longer_than_an_address() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let first = listen(&dir).unwrap();
        connect(&dir).unwrap();
        drop(first);
        let refused = connect(&dir).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _second = listen(&dir).unwrap();
        connect(&dir).unwrap();
    }
}
