//! One attached client: what it wants, and what waits for it.
//!
//! A client that reads slower than the container writes makes the container wait, as the reader of any
//! pipe does: nothing is lost on the way to `podman run ... | slow`. One that reads nothing at all is
//! given up after [`STALL_LIMIT`], so that it can stop neither the container nor its log.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::packet;
use super::protocol::Channel;

/// What may wait for one client before the container's output is left unread.
const QUEUE_BYTES: usize = 128 * 1024;
/// How long a full queue may stand still.
pub const STALL_LIMIT: Duration = Duration::from_secs(5);

pub struct Client {
    pub stdin: bool,
    stdout: bool,
    stderr: bool,
    queue: VecDeque<Rc<[u8]>>,
    queued_bytes: usize,
    /// When the socket last took a packet, while some are queued.
    moved_at: Instant,
}

impl Client {
    pub fn new(stdin: bool, stdout: bool, stderr: bool) -> Self {
        Self { stdin, stdout, stderr, queue: VecDeque::new(), queued_bytes: 0, moved_at: Instant::now() }
    }

    /// Sends `packet` (channel byte and data), or queues it. `shared` makes the one copy that the
    /// queues of all clients refer to. An error means that the client is gone.
    pub fn offer(
        &mut self,
        socket: BorrowedFd<'_>,
        channel: Channel,
        packet: &[u8],
        shared: &mut Option<Rc<[u8]>>,
    ) -> io::Result<()> {
        let wanted = match channel {
            Channel::Stdin => false,
            Channel::Stdout => self.stdout,
            Channel::Stderr => self.stderr,
        };
        if !wanted {
            return Ok(());
        }
        if self.queue.is_empty() {
            match packet::send(socket, packet, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.moved_at = Instant::now(),
                result => return result,
            }
        }
        self.queue.push_back(shared.get_or_insert_with(|| packet.into()).clone());
        self.queued_bytes += packet.len();
        Ok(())
    }

    /// Wants nothing any more.
    pub fn drop_output(&mut self) {
        (self.stdout, self.stderr) = (false, false);
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
    }

    /// Sends what waits, as far as the socket takes it. An error means that the client is gone.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(packet) = self.queue.front() {
            match packet::send(socket, packet, &[]) {
                Ok(()) => {
                    self.queued_bytes -= packet.len();
                    self.queue.pop_front();
                    self.moved_at = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.queue.shrink_to(0);
        Ok(())
    }

    /// Sends all that waits into the socket's buffer, grown for it: the monitor is about to end, and what
    /// is in the kernel's hands outlives it.
    pub fn flush_at_end(&mut self, socket: BorrowedFd<'_>) {
        if self.queue.is_empty() {
            return;
        }
        // The kernel counts its own overhead, less than double for packets of this size.
        let size = 4 * self.queued_bytes + 512 * 1024;
        if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, size).is_err() {
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, size);
        }
        let _ = self.flush(socket);
        if !self.queue.is_empty() {
            eprintln!("attached client: {} bytes of the last output lost", self.queued_bytes);
        }
    }

    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The container's output must wait for this client; until when at most.
    pub fn holds_up_until(&self) -> Option<Instant> {
        (self.queued_bytes >= QUEUE_BYTES).then(|| self.moved_at + STALL_LIMIT)
    }
}
