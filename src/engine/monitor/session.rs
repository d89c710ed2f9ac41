//! Streams of attached containers and of exec sessions, on the daemon's side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;

use super::client::{Client, readiness, unexpected};
use super::protocol::{Channel, MAX_ATTACH_BYTES, MonitorState, Request, Response};
use super::{AttachHalves, ExecStart, MonitorError, launch, packet};
use crate::engine::container::OutputStream;
use crate::engine::error::{EngineError, Subject};
use crate::engine::id::ExecId;
use crate::engine::{AttachOptions, BoxStream};

/// A running exec session. Dropping its `control` kills a session of
/// [`ExecLifetime::Connection`](super::protocol::ExecLifetime::Connection).
pub struct ExecSession {
    pub pid: i32,
    /// Standard output and error (only the former with a terminal), to the end of both.
    pub output: BoxStream<(OutputStream, Bytes)>,
    /// Shutting it down, or dropping it, closes the process's standard input (a terminal has no such end).
    /// Writes go nowhere if none was asked for.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    pub control: ExecControl,
}

/// What can be asked of an exec session besides its data.
pub struct ExecControl {
    run_dir: PathBuf,
    id: String,
    connection: Client,
    /// The end was asked for; the answer comes once.
    asked: bool,
    code: Option<i32>,
    console: Option<Console>,
}

impl ExecControl {
    /// Its exit code, 128 + signal when killed. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<i32, MonitorError> {
        const STEP: &str = "wait for exec session";
        if let Some(code) = self.code {
            return Ok(code);
        }
        let code = match self.ask_for_end(STEP).await {
            Ok((Response::ExecExited { code }, _)) => code,
            Ok((response, _)) => return Err(unexpected(STEP, &response)),
            // The container has ended, or the monitor was killed: in both cases the process was too.
            Err(MonitorError::Gone { .. }) => 137,
            Err(error) => return Err(error),
        };
        self.code = Some(code);
        Ok(code)
    }

    async fn ask_for_end(&mut self, step: &'static str) -> Result<(Response, Vec<OwnedFd>), MonitorError> {
        if !self.asked {
            self.connection.send(step, &Request::ExecWait { id: self.id.clone() }, &[]).await?;
            self.asked = true;
        }
        self.connection.answer(step).await
    }

    /// A session that has ended is left alone.
    pub async fn kill(&self, signal: i32) -> Result<(), MonitorError> {
        const STEP: &str = "signal exec session";
        // On a connection of its own: the session's may be waiting.
        let client = Client::connect(&self.run_dir, STEP)?;
        match client.call(STEP, &Request::ExecKill { id: self.id.clone(), signal }, &[]).await {
            Ok((Response::Done, _)) | Err(MonitorError::NoSuchExec) => Ok(()),
            Ok((response, _)) => Err(unexpected(STEP, &response)),
            Err(error) => Err(error),
        }
    }

    /// Nothing happens without a terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), MonitorError> {
        let Some(console) = &self.console else { return Ok(()) };
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(console.0.get_ref(), size).map_err(|error| MonitorError::Io {
            step: "resize the terminal of an exec session in",
            path: self.run_dir.clone(),
            source: error.into(),
        })
    }
}

/// Starts an exec session.
pub async fn exec(run_dir: PathBuf, exec: ExecStart) -> Result<ExecSession, MonitorError> {
    const STEP: &str = "exec";
    let broken =
        |source: io::Error| MonitorError::Io { step: "make streams for", path: run_dir.clone(), source };
    let connection = Client::connect(&run_dir, STEP)?;
    let id = String::from(ExecId::random());
    let (columns, rows) = exec.terminal.unwrap_or_default();
    let request = Request::Exec {
        id: id.clone(),
        process: Box::new(exec.process),
        terminal: exec.terminal.is_some(),
        columns,
        rows,
        lifetime: exec.lifetime,
    };
    let started = |response: Response| match response {
        Response::ExecStarted { pid } => Ok(pid),
        other => Err(unexpected(STEP, &other)),
    };
    let subject = subject(&run_dir);
    let control = |connection, console| ExecControl {
        run_dir: run_dir.clone(),
        id: id.clone(),
        connection,
        asked: false,
        code: None,
        console,
    };
    if exec.terminal.is_some() {
        let (response, descriptors) = connection.call(STEP, &request, &[]).await?;
        let pid = started(response)?;
        let console = descriptors.into_iter().next().ok_or_else(|| MonitorError::Protocol {
            step: STEP,
            detail: "a terminal without its console".to_owned(),
        })?;
        let console = Console::new(console).map_err(broken)?;
        return Ok(ExecSession {
            pid,
            output: read_all(OutputStream::Stdout, console.clone(), subject),
            input: Box::pin(console.clone()),
            control: control(connection, Some(console)),
        });
    }
    let (stdin, input): (OwnedFd, Pin<Box<dyn AsyncWrite + Send>>) = if exec.stdin {
        let (reader, writer) = pipe_pair().map_err(broken)?;
        let writer = pipe::Sender::from_owned_fd(writer).map_err(broken)?;
        (reader, Box::pin(Closing(Some(writer))))
    } else {
        (std::fs::File::open("/dev/null").map_err(broken)?.into(), Box::pin(tokio::io::sink()))
    };
    let (stdout_reader, stdout) = pipe_pair().map_err(broken)?;
    let (stderr_reader, stderr) = pipe_pair().map_err(broken)?;
    let descriptors = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let pid = started(connection.call(STEP, &request, &descriptors).await?.0)?;
    drop((stdin, stdout, stderr));
    let stdout = pipe::Receiver::from_owned_fd(stdout_reader).map_err(broken)?;
    let stderr = pipe::Receiver::from_owned_fd(stderr_reader).map_err(broken)?;
    let output = stream::select(
        read_all(OutputStream::Stdout, stdout, subject.clone()),
        read_all(OutputStream::Stderr, stderr, subject),
    );
    Ok(ExecSession { pid, output: output.boxed(), input, control: control(connection, None) })
}

/// Attaches to a container.
pub async fn attach(run_dir: PathBuf, options: AttachOptions) -> Result<AttachHalves, MonitorError> {
    const STEP: &str = "attach";
    let client = Client::connect(&run_dir, STEP)?;
    let AttachOptions { stdin, stdout, stderr } = options;
    match client.call(STEP, &Request::Attach { stdin, stdout, stderr }, &[]).await? {
        (Response::Done, _) => {}
        (response, _) => return Err(unexpected(STEP, &response)),
    }
    let socket = Arc::new(client.into_socket());
    let reader = AttachReader { socket: socket.clone(), run_dir, buffer: vec![0; 1 + MAX_ATTACH_BYTES] };
    let output = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(AttachHalves { output: output.boxed(), input: Box::pin(AttachWriter { socket, closed: !stdin }) })
}

struct AttachReader {
    socket: Arc<AsyncFd<OwnedFd>>,
    run_dir: PathBuf,
    buffer: Vec<u8>,
}

impl AttachReader {
    async fn next(&mut self) -> Result<Option<(OutputStream, Bytes)>, EngineError> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| packet::receive(socket, &mut self.buffer))
                .await;
            let packet = match received {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.end().map(|()| None),
                Err(error) => {
                    return Err(EngineError::internal(subject(&self.run_dir), "read attached output", error));
                }
            };
            let stream = match Channel::from_byte(self.buffer[0]) {
                Some(Channel::Stdout) => OutputStream::Stdout,
                Some(Channel::Stderr) => OutputStream::Stderr,
                Some(Channel::Stdin) | None => continue,
            };
            return Ok(Some((stream, Bytes::copy_from_slice(&self.buffer[1..packet.length]))));
        }
    }

    /// The stream ends with the container. Anything else is a loss, and said to be one.
    fn end(&self) -> Result<(), EngineError> {
        let subject = subject(&self.run_dir);
        match launch::read_state(&self.run_dir) {
            // The run directory goes with the container.
            Some(MonitorState::Exited(_) | MonitorState::Failed { .. }) | None => Ok(()),
            Some(
                MonitorState::Created { .. } | MonitorState::Running { .. } | MonitorState::Paused { .. },
            ) => {
                let cause = io::Error::from(io::ErrorKind::ConnectionReset);
                let step = "attached output was cut: it was not read, or the monitor died";
                Err(EngineError::internal(subject, step, cause))
            }
        }
    }
}

/// Standard input of a container. Shutting it down closes that; dropping it merely lets go.
struct AttachWriter {
    socket: Arc<AsyncFd<OwnedFd>>,
    closed: bool,
}

impl AttachWriter {
    fn poll_send(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<()>> {
        let mut packet = Vec::with_capacity(1 + data.len());
        packet.push(Channel::Stdin as u8);
        packet.extend_from_slice(data);
        loop {
            let mut guard = ready!(self.socket.poll_write_ready(cx))?;
            match guard.try_io(|socket| packet::send(socket, &packet, &[])) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for AttachWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() || self.closed {
            // Not asked for, or closed: nobody will read it.
            return Poll::Ready(Ok(data.len()));
        }
        let part = &data[..data.len().min(MAX_ATTACH_BYTES)];
        ready!(self.poll_send(cx, part))?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_send(cx, &[]))?;
            self.closed = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// Closes what it writes to when shut down, which the descriptor of a pipe alone does not.
struct Closing<W>(Option<W>);

impl<W: AsyncWrite + Unpin> AsyncWrite for Closing<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(writer) => Pin::new(writer).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(writer) => Pin::new(writer).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// A pseudo-terminal's other end, read and written.
#[derive(Clone)]
struct Console(Arc<AsyncFd<OwnedFd>>);

impl Console {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self(Arc::new(readiness(descriptor)?)))
    }
}

impl AsyncRead for Console {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| Ok(rustix::io::read(fd, buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // How a terminal says that its last user has closed it.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Console {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, data)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Everything that comes, to the end.
fn read_all<R>(name: OutputStream, reader: R, subject: Subject) -> BoxStream<(OutputStream, Bytes)>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let chunks = stream::unfold(Some((reader, subject)), move |state| async move {
        let (mut reader, subject) = state?;
        let mut buffer = bytes::BytesMut::with_capacity(16 * 1024);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok((name, buffer.freeze())), Some((reader, subject)))),
            Err(error) => {
                Some((Err(EngineError::internal(subject, "read output of an exec session", error)), None))
            }
        }
    });
    Box::pin(chunks) as Pin<Box<dyn Stream<Item = _> + Send>>
}

fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// The directory is named after the container.
fn subject(run_dir: &std::path::Path) -> Subject {
    Subject::Container(run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned())
}
