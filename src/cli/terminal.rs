//! This process' own terminal, and the framing of container output.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use hyper::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Client;
use super::containers::flush;

/// Which stream a frame belongs to, as the second column of docker's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameStream {
    Stdout,
    Stderr,
}

/// Takes docker's 8-byte framing apart: stream, three zeros, length (big endian), payload.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
}

impl FrameDecoder {
    pub fn push(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(FrameStream, &[u8]) -> Result<()>,
    ) -> Result<()> {
        const HEADER: usize = 8;
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(header) = self.buffer.get(start..start + HEADER) {
            let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            // 2 is standard error, 3 an error of the daemon itself.
            let stream = if header[0] >= 2 { FrameStream::Stderr } else { FrameStream::Stdout };
            let Some(payload) = self.buffer.get(start + HEADER..start + HEADER + length) else { break };
            sink(stream, payload)?;
            start += HEADER + length;
        }
        self.buffer.drain(..start);
        Ok(())
    }
}

/// Writes a frame's payload where it belongs.
pub fn write_frame(stream: FrameStream, payload: &[u8]) -> Result<()> {
    match stream {
        FrameStream::Stdout => std::io::stdout().write_all(payload)?,
        FrameStream::Stderr => std::io::stderr().write_all(payload)?,
    }
    flush()?;
    Ok(())
}

pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Puts the terminal back when dropped.
pub struct RawMode {
    saved: Termios,
}

pub fn raw_mode() -> Result<RawMode> {
    let stdin = std::io::stdin();
    let saved = tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
    let mut raw = saved.clone();
    cfmakeraw(&mut raw);
    tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).context("set the terminal to raw mode")?;
    Ok(RawMode { saved })
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.saved);
    }
}

/// Tells the container its terminal's size, now and whenever it changes.
pub fn follow_size(client: Client, container: String) {
    tokio::spawn(async move {
        let Ok(mut changes) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
        else {
            return;
        };
        loop {
            let (columns, rows) = console_size();
            let path = format!("/containers/{container}/resize?h={rows}&w={columns}");
            let _ = client.bytes(Method::POST, &path, None).await;
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
}

fn console_size() -> (u16, u16) {
    const CLASSIC: (u16, u16) = (80, 24);
    terminal_size::terminal_size().map_or(CLASSIC, |(width, height)| (width.0, height.0))
}

/// Carries standard input there and output here, until the container's streams end.
pub async fn relay(stream: Upgraded, stdin: bool, tty: bool) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
    let input = tokio::spawn(async move {
        if stdin {
            let mut chunks = read_stdin();
            while let Some(chunk) = chunks.recv().await {
                if to.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            let _ = to.shutdown().await;
        }
        // Without standard input the half stays open: closing it would end the connection.
        to
    });
    let mut frames = FrameDecoder::default();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = from.read(&mut buffer).await.context("read the container's output")?;
        match (count, tty) {
            (0, _) => break,
            (count, true) => write_frame(FrameStream::Stdout, &buffer[..count])?,
            (count, false) => frames.push(&buffer[..count], &mut write_frame)?,
        }
    }
    input.abort();
    Ok(())
}

/// Standard input, read by a thread that ends with the process: a read of a terminal can not be
/// cancelled, and the command must not wait for a key when the container has ended.
fn read_stdin() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_from_any_pieces() {
        let wire = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\0";
        for piece in 1..wire.len() {
            let mut seen = Vec::new();
            let mut decoder = FrameDecoder::default();
            for chunk in wire.chunks(piece) {
                decoder
                    .push(chunk, &mut |stream, payload| {
                        seen.push((stream, payload.to_vec()));
                        Ok(())
                    })
                    .unwrap();
            }
            let expected = [
                (FrameStream::Stdout, b"out".to_vec()),
                (FrameStream::Stderr, b"err".to_vec()),
                (FrameStream::Stdout, Vec::new()),
            ];
            assert_eq!(seen, expected, "pieces of {piece}");
        }
    }
}
