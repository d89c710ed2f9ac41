//! The container's standard streams: output goes to the log and to attached clients, input comes from
//! them. Nothing here blocks.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;

use super::log::Log;
use super::protocol::{Channel, LaunchRequest, MAX_ATTACH_BYTES};
use crate::engine::container::OutputStream;
use crate::engine::runtime::Stdio;

/// What may wait for the container to read its standard input, before clients are left unread.
const INPUT_BYTES: usize = 64 * 1024;

/// The monitor's ends.
pub struct Streams {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    input: Option<Input>,
    terminal: bool,
    /// For its size, as long as the container lives.
    console: Option<OwnedFd>,
    log: Log,
    /// One packet: the channel's byte, then data.
    buffer: Box<[u8]>,
}

struct Input {
    descriptor: OwnedFd,
    pending: VecDeque<u8>,
    close_after: bool,
}

/// What one read brought.
pub enum Chunk<'a> {
    /// A packet for attached clients, already in the log.
    Data(Channel, &'a [u8]),
    Nothing,
    /// The stream has ended and is closed.
    End,
}

impl Streams {
    /// Makes the streams; the second part is for the container.
    pub fn open(request: &LaunchRequest, log: Log) -> io::Result<(Self, Stdio)> {
        let mut streams = Self {
            stdout: None,
            stderr: None,
            input: None,
            terminal: request.terminal,
            console: None,
            log,
            buffer: vec![0; 1 + MAX_ATTACH_BYTES].into(),
        };
        if request.terminal {
            // The size until the first client says its own; podman's and docker's default.
            return Ok((streams, Stdio::Terminal { columns: 80, rows: 24 }));
        }
        let stdin = if request.stdin_open {
            let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&writer, true)?;
            streams.input = Some(Input::new(writer));
            reader
        } else {
            File::open("/dev/null")?.into()
        };
        let (stdout_reader, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr_reader, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&stdout_reader, true)?;
        rustix::io::ioctl_fionbio(&stderr_reader, true)?;
        streams.stdout = Some(stdout_reader);
        streams.stderr = Some(stderr_reader);
        Ok((streams, Stdio::Pipes { stdin, stdout, stderr }))
    }

    /// The console of a container with a terminal, once it is made.
    pub fn set_console(&mut self, console: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&console, true)?;
        self.stdout = Some(console.try_clone()?);
        self.input = Some(Input::new(console.try_clone()?));
        self.console = Some(console);
        Ok(())
    }

    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(console) = &self.console else { return Ok(()) };
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(console, size)?)
    }

    pub fn output(&self, stream: OutputStream) -> Option<BorrowedFd<'_>> {
        match stream {
            OutputStream::Stdout => self.stdout.as_ref().map(AsFd::as_fd),
            OutputStream::Stderr => self.stderr.as_ref().map(AsFd::as_fd),
        }
    }

    /// Reads once and writes what came to the log.
    pub fn read(&mut self, stream: OutputStream) -> Chunk<'_> {
        let (slot, channel) = match stream {
            OutputStream::Stdout => (&mut self.stdout, Channel::Stdout),
            OutputStream::Stderr => (&mut self.stderr, Channel::Stderr),
        };
        let Some(descriptor) = slot else { return Chunk::End };
        match rustix::io::read(descriptor, &mut self.buffer[1..]) {
            Ok(length @ 1..) => {
                self.buffer[0] = channel as u8;
                self.log.write(Timestamp::now(), stream, &self.buffer[1..=length]);
                Chunk::Data(channel, &self.buffer[..=length])
            }
            Err(Errno::AGAIN | Errno::INTR) => Chunk::Nothing,
            // EIO is how a terminal says that its last user has closed it.
            Ok(0) | Err(_) => {
                *slot = None;
                Chunk::End
            }
        }
    }

    pub fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }

    pub fn finish_log(&mut self) {
        self.log.finish(Timestamp::now());
    }

    /// Whether standard input has room for another packet. What nobody reads any more always has.
    pub fn input_has_room(&self) -> bool {
        self.input.as_ref().is_none_or(|input| input.pending.len() < INPUT_BYTES)
    }

    /// Descriptor to wait for when something is pending.
    pub fn blocked_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|input| !input.pending.is_empty()).map(|input| input.descriptor.as_fd())
    }

    pub fn write_input(&mut self, data: &[u8]) {
        if let Some(input) = &mut self.input
            && !input.close_after
        {
            input.pending.extend(data);
            self.flush_input();
        }
    }

    /// Closes standard input when what is pending has been read. A terminal has no such end: it hangs up
    /// with the container.
    pub fn close_input(&mut self) {
        if let Some(input) = &mut self.input
            && !self.terminal
        {
            input.close_after = true;
            self.flush_input();
        }
    }

    pub fn flush_input(&mut self) {
        if let Some(input) = &mut self.input
            && !input.flush()
        {
            self.input = None;
        }
    }
}

impl Input {
    fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor, pending: VecDeque::new(), close_after: false }
    }

    /// Writes what the container takes. Says whether there is anything left to do with it.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.descriptor, self.pending.as_slices().0) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                // Nobody will ever read it.
                Err(_) => return false,
            }
        }
        self.pending.shrink_to(0);
        !self.close_after
    }
}

/// Says what went wrong where nobody else is told: the monitor's own log.
pub fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{:.3} {what}", Timestamp::now());
}
