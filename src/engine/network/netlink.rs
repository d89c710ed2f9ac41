//! netlink: messages as bytes, and sockets that send many of them in one system call.
//!
//! Used for links and addresses (rtnetlink, by [`super::bridge`]) and for the table (nfnetlink, by [`super::nft`]).
//! The kernel carries a request out inside `send`, so these calls block for exactly as long as the work takes;
//! callers run them off the async threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, sockopt};
use nix::sys::time::TimeVal;
use thiserror::Error;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 0x2;
/// In an error message: the original request is cut to its header.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER_BYTES: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// The longest an attribute can say it is.
pub(super) const ATTRIBUTE_MAX_BYTES: usize = u16::MAX as usize;
const RECEIVE_BYTES: usize = 64 * 1024;
/// A limit, not an allocation: a whole table for a thousand Services fits.
const SEND_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// The kernel answers at once or something is very wrong.
const RECEIVE_TIMEOUT_SECS: i64 = 10;

/// A request that the kernel, or the way to it, refused.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// `index` counts the messages of the batch.
    #[error("{}", render_refusal(*.errno, .detail))]
    Refused { index: usize, errno: Errno, detail: Option<String> },
    #[error("netlink socket")]
    Io(#[from] io::Error),
    #[error("the kernel's answer breaks off")]
    Truncated,
}

impl NetlinkError {
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io(error) => error.raw_os_error().map(Errno::from_raw),
            Self::Truncated => None,
        }
    }
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

fn render_refusal(errno: Errno, detail: &Option<String>) -> String {
    match detail {
        Some(detail) => format!("{} ({detail})", errno.desc()),
        None => errno.desc().to_lowercase(),
    }
}

/// Messages that travel together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// Appends a message: `header` is the fixed part after the netlink header, `attributes` writes the rest.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes),
    ) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence number and port are filled in when sent.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        align(&mut self.bytes);
        attributes(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    fn add_flags(&mut self, index: usize, flags: u16) {
        let at = self.starts[index] + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn number(&mut self, first: u32) {
        for (index, start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }
}

/// Writes the attributes of one message, or those inside a nested one.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        align(self.0);
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// nfnetlink's numbers are in network byte order.
    pub fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        inner(&mut Attributes(self.0));
        let length =
            u16::try_from(self.0.len() - start).expect("callers keep nested attributes below 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
    }

    /// A fixed structure before the attributes, as inside veth's `VETH_INFO_PEER`.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
        align(self.0);
    }
}

fn align(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

/// One message from the kernel.
#[derive(Debug)]
pub(super) struct Reply {
    pub kind: u16,
    /// The port of the socket that caused it; 0 is the kernel itself.
    pub port: u32,
    /// Fixed part and attributes.
    pub payload: Vec<u8>,
}

impl Reply {
    /// Attributes after a fixed part of `header_bytes`.
    pub fn attributes(&self, header_bytes: usize) -> AttributeIter<'_> {
        AttributeIter(self.payload.get(header_bytes..).unwrap_or_default())
    }
}

/// Kind and value of each attribute; stops at the first that does not fit.
pub(super) struct AttributeIter<'a>(&'a [u8]);

impl<'a> AttributeIter<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Text of an attribute without its terminating zero.
pub(super) fn attribute_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

pub(super) fn attribute_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(0..4)?.try_into().ok()?))
}

pub(super) fn attribute_u32_be(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(0..4)?.try_into().ok()?))
}

/// A netlink socket. It belongs to the network namespace it was opened in, whichever thread uses it later.
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // Says in words what the kernel did not like; old kernels lack it.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let timeout = TimeVal::new(RECEIVE_TIMEOUT_SECS, 0);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        // Not fatal: without CAP_NET_ADMIN nothing else would work either.
        let _ = socket::setsockopt(&socket, sockopt::SndBufForce, &SEND_LIMIT_BYTES);
        let _ = socket::setsockopt(&socket, sockopt::RcvBufForce, &(4 * 1024 * 1024));
        Ok(Self { socket, sequence: 1 })
    }

    /// A socket that hears what others change: `groups` is the mask of the first 32 multicast groups.
    pub fn listen(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 1 })
    }

    /// The kernel's name for this socket.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Sends all messages at once and returns when the kernel has carried out the last of them. The first
    /// refusal is the error; with rtnetlink the others may still have been carried out.
    ///
    /// `last` is the message to wait for: the last one of the batch, or the one before nfnetlink's closing mark.
    pub fn execute(&mut self, mut batch: Batch, last: usize) -> Result<(), NetlinkError> {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(batch.len() as u32);
        batch.number(first);
        batch.add_flags(last, NLM_F_ACK);
        self.send(&batch.bytes)?;
        let count = batch.len() as u32;
        loop {
            for reply in self.receive(MsgFlags::empty())? {
                let index = reply.sequence.wrapping_sub(first);
                if reply.kind != NLMSG_ERROR || index >= count {
                    continue;
                }
                if let Some((errno, detail)) = reply.error()? {
                    self.drain();
                    return Err(NetlinkError::Refused { index: index as usize, errno, detail });
                }
                if index as usize == last {
                    return Ok(());
                }
            }
        }
    }

    /// One question with one answer (`RTM_GETLINK` by name), or a dump with many.
    pub fn query(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes),
    ) -> Result<Vec<Reply>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(kind, flags, header, attributes);
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        batch.number(sequence);
        self.send(&batch.bytes)?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive(MsgFlags::empty())? {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => match reply.error()? {
                        Some((errno, detail)) => {
                            return Err(NetlinkError::Refused { index: 0, errno, detail });
                        }
                        None => return Ok(replies),
                    },
                    _ => {
                        let more = reply.flags & NLM_F_MULTI != 0;
                        replies.push(Reply { kind: reply.kind, port: reply.port, payload: reply.payload });
                        if !more {
                            return Ok(replies);
                        }
                    }
                }
            }
        }
    }

    /// What has arrived on a listening socket; `WouldBlock` when nothing has, `ENOBUFS` when messages were lost.
    pub fn notifications(&self) -> io::Result<Vec<Reply>> {
        match self.receive(MsgFlags::MSG_DONTWAIT) {
            Ok(replies) => Ok(replies
                .into_iter()
                .map(|reply| Reply { kind: reply.kind, port: reply.port, payload: reply.payload })
                .collect()),
            Err(NetlinkError::Io(error)) => Err(error),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Truncated) }
    }

    fn receive(&self, flags: MsgFlags) -> Result<Vec<Received>, NetlinkError> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let length = loop {
            match socket::recv(self.socket.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => break length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
        };
        Received::parse_all(&buffer[..length])
    }

    /// Throws away answers to the rest of a batch that failed.
    fn drain(&self) {
        while self.receive(MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Received {
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    payload: Vec<u8>,
}

impl Received {
    fn parse_all(mut bytes: &[u8]) -> Result<Vec<Self>, NetlinkError> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let header = bytes.get(..HEADER_BYTES).ok_or(NetlinkError::Truncated)?;
            let word =
                |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = word(0) as usize;
            let payload = bytes.get(HEADER_BYTES..length).ok_or(NetlinkError::Truncated)?.to_vec();
            all.push(Self {
                kind: u16::from_ne_bytes([header[4], header[5]]),
                flags: u16::from_ne_bytes([header[6], header[7]]),
                sequence: word(8),
                port: word(12),
                payload,
            });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(all)
    }

    /// `None`: an acknowledgement.
    fn error(&self) -> Result<Option<(Errno, Option<String>)>, NetlinkError> {
        let code = self.payload.get(0..4).ok_or(NetlinkError::Truncated)?;
        let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
        if code == 0 {
            return Ok(None);
        }
        let mut detail = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let request = match self.flags & NLM_F_CAPPED {
                0 => self.payload.get(4..8).and_then(attribute_u32).unwrap_or(0) as usize,
                _ => HEADER_BYTES,
            };
            let attributes = self.payload.get(4 + request.next_multiple_of(4)..).unwrap_or_default();
            detail = AttributeIter::new(attributes).find(NLMSGERR_ATTR_MSG).map(attribute_text);
        }
        Ok(Some((Errno::from_raw(-code), detail)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_written_are_read_back() {
        let mut batch = Batch::default();
        batch.message(16, 0, &[1, 2, 3, 4], |attributes| {
            attributes.text(3, "eth0");
            attributes.nested(18, |inner| inner.u8(4, 1));
            attributes.u32_be(5, 7);
        });
        let reply = Reply { kind: 16, port: 0, payload: batch.bytes[HEADER_BYTES..].to_vec() };
        assert_eq!(reply.attributes(4).find(3).map(attribute_text).as_deref(), Some("eth0"));
        let nested = reply.attributes(4).find(18).expect("nested attribute");
        assert_eq!(AttributeIter::new(nested).find(4), Some(&[1u8][..]));
        assert_eq!(reply.attributes(4).find(5).and_then(attribute_u32_be), Some(7));
    }

    #[test]
    fn a_cut_answer_is_an_error_and_not_a_panic() {
        let mut batch = Batch::default();
        batch.message(16, 0, &[0; 16], |attributes| attributes.text(3, "eth0"));
        for cut in 1..batch.bytes.len() {
            assert!(Received::parse_all(&batch.bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(AttributeIter::new(&[200, 0, 1, 0, 5]).count(), 0);
    }
}
