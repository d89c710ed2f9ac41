//! One connection: HTTP/1.1 requests, until one of them takes the connection over as a raw stream.
//!
//! hyper switches protocols only for requests that ask with an `Upgrade` header, and writes its own
//! reason phrase. `podman --remote exec` sends no such header and still expects the raw stream after
//! a 200. So a handler that wants the connection answers with a [`Hijack`] in the reply's extensions;
//! the connection is then taken back from hyper before it has written anything, and everything from
//! the status line on is ours.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::activity::{Activity, Busy};
use super::rest::router::Api;
use crate::engine::host::syscall::unread_by_peer;

/// A raw connection: what hyper had read ahead comes first.
pub struct RawStream {
    ahead: Bytes,
    stream: UnixStream,
}

impl RawStream {
    /// Waits until the client has read what was written, but not for ever.
    ///
    /// `podman --remote` reads the head through its HTTP library's buffer, and all that follows from the
    /// socket behind that library's back: what comes together with the head is lost to it.
    async fn all_read(&self) {
        let deadline = Instant::now() + READ_DEADLINE;
        while unread_by_peer(self.stream.as_fd()).is_ok_and(|count| count > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A client that has not read the head of its reply after so long must take what comes.
const READ_DEADLINE: Duration = Duration::from_secs(2);

type Session = Box<dyn FnOnce(RawStream) -> BoxFuture<'static, ()> + Send>;

/// A reply that takes the connection over. Put into the extensions of an otherwise ignored reply.
#[derive(Clone)]
pub struct Hijack(Arc<Mutex<Option<Taken>>>);

struct Taken {
    head: String,
    session: Session,
}

impl Hijack {
    /// `head` is written first, from the status line to the empty line; then `session` runs, and
    /// the connection is closed when it ends.
    pub fn new<F, Fut>(head: String, session: F) -> Self
    where
        F: FnOnce(RawStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let session: Session = Box::new(move |stream| Box::pin(session(stream)));
        Self(Arc::new(Mutex::new(Some(Taken { head, session }))))
    }
}

/// Serves one connection to its end.
pub async fn serve(stream: UnixStream, api: Api, closing: CancellationToken, activity: Activity) {
    let taken: Arc<Mutex<Option<Hijack>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (api, taken) = (api.clone(), taken.clone());
        let busy = activity.begin();
        // hyper gives a connection back only from behind a future that may be moved.
        Box::pin(async move {
            let Ok(mut reply) = api.oneshot(request.map(Body::new)).await;
            match reply.extensions_mut().remove::<Hijack>() {
                Some(hijack) => {
                    *taken.lock().unwrap() = Some(hijack);
                    Err(TakeOver)
                }
                None => Ok(reply.map(|body| Counted { body, _busy: busy })),
            }
        })
    });
    let mut hung_up = pin!(hang_up(&stream));
    let mut http = http1::Builder::new()
        // A client may have said all it has to say; whether it still listens is for `hang_up` to tell.
        .half_close(true)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);

    let mut closed = pin!(closing.cancelled());
    let mut told = false;
    let end = poll_fn(|task| {
        if !told && closed.as_mut().poll(task).is_ready() {
            told = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        match http.poll_without_shutdown(task) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => hung_up.as_mut().poll(task).map(|()| None),
        }
    })
    .await;
    // What was being done for this client alone ends here, with its connection.
    let Some(end) = end else { return };

    let hijack = taken.lock().unwrap().take();
    if let Some(taken) = hijack.and_then(|hijack| hijack.0.lock().unwrap().take()) {
        let parts = http.into_parts();
        let _busy = activity.begin();
        let mut stream = RawStream { ahead: parts.read_buf, stream: parts.io.into_inner() };
        if stream.write_all(taken.head.as_bytes()).await.is_ok() {
            stream.all_read().await;
            tokio::select! {
                () = (taken.session)(stream) => {}
                () = hung_up => {}
            }
        }
        return;
    }
    match end {
        Ok(()) => {
            let mut stream = http.into_parts().io.into_inner();
            let _ = stream.shutdown().await;
        }
        // A client that went away in the middle is its own business.
        Err(error) => tracing::debug!(%error, "connection ended"),
    }
}

/// Completes when the client has closed its connection altogether. That it has closed its writing side
/// alone is an ordinary thing to do, and looks the same to a reader.
#[expect(deprecated, reason = "unsound for types that lie about their descriptor; its successor is unsafe")]
fn hang_up(stream: &UnixStream) -> impl Future<Output = ()> + use<> {
    let watch = stream
        .as_fd()
        .try_clone_to_owned()
        .and_then(|socket| AsyncFd::with_interest(socket, Interest::WRITABLE));
    async move {
        match watch {
            // Each answer but the one waited for is forgotten, so this wakes up once at the beginning and
            // once at the end.
            Ok(watch) => {
                while let Ok(mut ready) = watch.writable().await {
                    if ready.ready().is_write_closed() {
                        return;
                    }
                    ready.clear_ready_matching(Ready::WRITABLE);
                }
            }
            // Out of descriptors: the client's going is noticed when something is written to it.
            Err(error) => tracing::debug!(%error, "can not watch a connection"),
        }
        std::future::pending().await
    }
}

/// The body of a reply: its request counts as under way until it has gone out.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Tells hyper to stop where it is.
#[derive(Debug)]
struct TakeOver;

impl fmt::Display for TakeOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection becomes a raw stream")
    }
}

impl std::error::Error for TakeOver {}

impl AsyncRead for RawStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for RawStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
