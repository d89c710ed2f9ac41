//! Replies that go on: chunked records, the framing of container output, and connections that
//! become raw streams between a client and a container.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use axum::http::{Response, StatusCode};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::detach::DetachKeys;
use super::json;
use super::reply::{self, Reply};
use crate::api::connection::{Hijack, RawStream};
use crate::engine::BoxStream;
use crate::engine::container::OutputStream;

/// What attach and exec connections carry.
const RAW_STREAM: &str = "application/vnd.docker.raw-stream";

/// 200 with pieces until they end or the server does. The header goes out at once.
pub fn reply(
    content_type: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
    closing: &CancellationToken,
) -> Reply {
    let pieces = pieces.take_until(closing.clone().cancelled_owned());
    // Each piece is a frame of its own, and flushed by itself.
    let mut reply = Response::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)));
    *reply.status_mut() = StatusCode::OK;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 200 with a file's bytes. A file that stays incomplete, by an error or the server's end, breaks the connection:
/// nobody takes it for the whole.
pub fn file(content_type: &'static str, pieces: BoxStream<Bytes>, closing: &CancellationToken) -> Reply {
    let closing = closing.clone();
    let pieces = stream::unfold(Some((pieces, closing)), |state| async {
        let (mut pieces, closing) = state?;
        let piece = tokio::select! {
            biased;
            () = closing.cancelled() => Err(std::io::Error::other("the server ends")),
            piece = pieces.next() => match piece? {
                Ok(piece) => Ok(piece),
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a file was sent in part");
                    Err(std::io::Error::other(error))
                }
            },
        };
        let rest = piece.is_ok().then_some((pieces, closing));
        Some((piece, rest))
    });
    let mut reply = Response::new(Body::from_stream(pieces));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 200 with a piece at once and one after each `period`, until there is none or the server ends. `next` makes
/// a piece of what the one before left.
pub fn every<T, F, Fut>(period: Duration, closing: &CancellationToken, state: T, next: F) -> Reply
where
    T: Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Option<(Bytes, T)>> + Send + 'static,
{
    let next = Arc::new(next);
    let pieces = stream::unfold((state, false), move |(state, later)| {
        let next = next.clone();
        async move {
            if later {
                tokio::time::sleep(period).await;
            }
            let (piece, state) = next(state).await?;
            Some((piece, (state, true)))
        }
    });
    reply(super::reply::JSON, pieces, closing)
}

/// Where a long operation writes its JSON records.
#[derive(Clone)]
pub struct Records(mpsc::UnboundedSender<Option<Bytes>>);

impl Records {
    /// Each record goes out in one write: old clients read one record per read.
    pub fn send<T: Serialize>(&self, record: &T) {
        // Nobody listens any more: the work itself is about to be dropped, too.
        let _ = self.0.send(Some(json::encode(record).into()));
    }
}

/// Ends the records with the work, whoever still holds a [`Records`]: the engine keeps those of a pull.
struct End(Records);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.0.send(None);
    }
}

/// 200 with the records of `work` as they come. The work ends with its client.
pub fn records<F, Fut>(closing: &CancellationToken, work: F) -> Reply
where
    F: FnOnce(Records) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let end = End(Records(sender));
    let work = work(end.0.clone());
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let _end = end;
        work.await;
    }));
    let records = stream::unfold((receiver, task), |(mut receiver, task)| async {
        let record = receiver.recv().await??;
        Some((record, (receiver, task)))
    });
    reply(super::reply::JSON, records, closing)
}

/// One frame of multiplexed output: stream number, three zeros, big-endian length, payload.
pub fn frame(stream: OutputStream, payload: &[u8]) -> Bytes {
    let number = match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    };
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u32(number << 24);
    frame.put_u32(u32::try_from(payload.len()).expect("pieces of output are small"));
    frame.put_slice(payload);
    frame.freeze()
}

/// How output is told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// 8-byte headers: there are two streams.
    Multiplexed,
    /// A terminal has one.
    Raw,
}

impl Framing {
    pub fn of_terminal(terminal: bool) -> Self {
        if terminal { Self::Raw } else { Self::Multiplexed }
    }

    pub fn encode(self, stream: OutputStream, payload: Bytes) -> Bytes {
        match self {
            Self::Multiplexed => frame(stream, &payload),
            Self::Raw => payload,
        }
    }
}

/// Takes the connection over: 101 for clients that asked for an upgrade, else 200; raw bytes follow.
pub fn hijack<F, Fut>(request: &HeaderMap, session: F) -> Reply
where
    F: FnOnce(RawStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut reply = reply::empty(StatusCode::OK);
    reply.extensions_mut().insert(Hijack::new(hijack_head(request), session));
    reply
}

fn hijack_head(request: &HeaderMap) -> String {
    let text = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let asks = text(CONNECTION)
        .is_some_and(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")));
    match text(UPGRADE).filter(|protocol| asks && !protocol.is_empty()) {
        Some(protocol) => format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {RAW_STREAM}\r\nConnection: Upgrade\r\n\
             Upgrade: {protocol}\r\n\r\n"
        ),
        None => format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n\r\n"),
    }
}

/// A container's (or exec session's) side of a raw connection.
pub struct Conversation {
    pub output: BoxStream<(OutputStream, Bytes)>,
    /// `None`: what the client sends is ignored.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub framing: Framing,
    pub detach_keys: DetachKeys,
}

impl Conversation {
    /// Copies both ways until the output ends, the client detaches or is gone, or the server ends.
    /// A client that closes its writing side closes the container's input; output goes on.
    pub async fn hold(self, client: RawStream, closing: &CancellationToken) {
        let (from_client, to_client) = tokio::io::split(client);
        let output = write_output(self.output, self.framing, to_client);
        let input = read_input(from_client, self.input, self.detach_keys);
        tokio::pin!(output, input);
        tokio::select! {
            () = &mut output => {}
            ended = &mut input => match ended {
                InputEnd::Closed => tokio::select! {
                    () = &mut output => {}
                    () = closing.cancelled() => {}
                },
                InputEnd::Detached => {}
            },
            () = closing.cancelled() => {}
        }
    }
}

enum InputEnd {
    Closed,
    Detached,
}

async fn write_output(
    mut output: BoxStream<(OutputStream, Bytes)>,
    framing: Framing,
    mut client: impl AsyncWrite + Unpin,
) {
    while let Some(piece) = output.next().await {
        let bytes = match piece {
            Ok((stream, payload)) => framing.encode(stream, payload),
            // The status line has long gone: the client can only be told in the stream.
            Err(error) => framing.encode(OutputStream::Stderr, format!("{}\n", error.chain()).into()),
        };
        if client.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = client.shutdown().await;
}

async fn read_input(
    mut client: impl AsyncRead + Unpin,
    mut input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    mut detach_keys: DetachKeys,
) -> InputEnd {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = match client.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                if let Some(input) = &mut input {
                    let _ = input.shutdown().await;
                }
                return InputEnd::Closed;
            }
            Ok(count) => count,
        };
        let Some(target) = &mut input else { continue };
        let typed = detach_keys.filter(&buffer[..count]);
        // A container that no longer reads does not end the conversation: its output does.
        if target.write_all(&typed.bytes).await.is_err() || target.flush().await.is_err() {
            input = None;
        }
        if typed.detached {
            return InputEnd::Detached;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_depends_on_what_the_client_asked() {
        let mut request = HeaderMap::new();
        assert!(hijack_head(&request).starts_with("HTTP/1.1 200 OK\r\n"));
        request.insert(UPGRADE, HeaderValue::from_static("tcp"));
        assert!(hijack_head(&request).starts_with("HTTP/1.1 200 OK\r\n"));
        request.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        let head = hijack_head(&request);
        assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"));
        assert!(head.contains("\r\nUpgrade: tcp\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn records_end_with_the_work_although_somebody_keeps_their_sender() {
        let mut kept = None;
        let reply = records(&CancellationToken::new(), |records| {
            kept = Some(records.clone());
            async move { records.send(&1) }
        });
        let body = axum::body::to_bytes(reply.into_body(), 100);
        let body = tokio::time::timeout(std::time::Duration::from_secs(10), body).await;
        assert_eq!(body.expect("the reply ends").unwrap(), "1\n");
        assert!(kept.is_some());
    }

    #[test]
    fn frames_carry_stream_and_length() {
        assert_eq!(&frame(OutputStream::Stderr, b"no\n")[..], b"\x02\0\0\0\0\0\0\x03no\n");
        assert_eq!(&frame(OutputStream::Stdout, b"")[..], b"\x01\0\0\0\0\0\0\0");
    }
}
