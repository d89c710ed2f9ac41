//! Replies that go on: chunked records and the framing of container output.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::reply::Reply;
use crate::api::activity::Busy;
use crate::engine::container::OutputStream;

/// The body of a reply: all of it, or pieces as they come, each flushed by itself.
#[derive(Default)]
pub struct Body {
    content: Content,
    /// The request counts as under way until its reply has gone out.
    _busy: Option<Busy>,
}

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    Whole(Bytes),
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn pieces(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { content: Content::Pieces(Box::pin(pieces)), _busy: None }
    }

    pub fn holding(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self { content: Content::Whole(bytes.into()), _busy: None }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Whole(_) => {
                let Content::Whole(bytes) = std::mem::take(&mut self.content) else { unreachable!() };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Pieces(pieces) => {
                pieces.poll_next_unpin(task).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Pieces(_) => SizeHint::default(),
        }
    }
}

/// 200 with pieces until they end or the server does. The header goes out at once.
pub fn reply(
    content_type: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
    closing: &CancellationToken,
) -> Reply {
    let pieces = pieces.take_until(closing.clone().cancelled_owned());
    let mut reply = Response::new(Body::pieces(pieces));
    *reply.status_mut() = StatusCode::OK;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_stream_and_length() {
        assert_eq!(&frame(OutputStream::Stderr, b"no\n")[..], b"\x02\0\0\0\0\0\0\x03no\n");
        assert_eq!(&frame(OutputStream::Stdout, b"")[..], b"\x01\0\0\0\0\0\0\0");
    }
}
