//! The sockets: made by us at a path, or passed in by systemd.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Root and root's group only: whoever can write to the socket is root on this machine.
const SOCKET_MODE: u32 = 0o660;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A unix socket at this path, made by us. Its directory is made if missing.
    Unix(PathBuf),
    /// Every unix socket systemd passed (`LISTEN_FDS`).
    Systemd,
}

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("another server listens on {}", .0.display())]
    Taken(PathBuf),
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("listen on {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("systemd passed no unix socket (LISTEN_FDS)")]
    NothingPassed,
    #[error("take the sockets systemd passed")]
    Passed(#[source] io::Error),
}

/// Open sockets. Those we made are removed from the file system when this is dropped.
pub struct Listeners {
    sockets: Vec<UnixListener>,
    made: Vec<MadeSocket>,
}

/// A socket file of ours, known by its inode so that a successor's is never removed.
struct MadeSocket {
    path: PathBuf,
    inode: u64,
}

impl Listeners {
    pub fn open(addresses: &[ListenAddress]) -> Result<Self, ListenError> {
        let mut listeners = Self { sockets: Vec::new(), made: Vec::new() };
        for address in addresses {
            match address {
                ListenAddress::Unix(path) => {
                    let (socket, made) = bind(path)?;
                    listeners.sockets.push(socket);
                    listeners.made.push(made);
                }
                ListenAddress::Systemd => listeners.sockets.extend(passed_sockets()?),
            }
        }
        Ok(listeners)
    }

    /// Where the first socket is, for `info`.
    pub fn first_path(&self) -> Option<PathBuf> {
        let address = self.sockets.first()?.local_addr().ok()?;
        address.as_pathname().map(Path::to_owned)
    }

    /// Accepts on all sockets until the result is dropped, which also removes the socket files.
    pub(super) fn spawn_accepting(mut self, accepted: mpsc::Sender<UnixStream>) -> Accepting {
        let mut tasks = JoinSet::new();
        for socket in std::mem::take(&mut self.sockets) {
            tasks.spawn(accept(socket, accepted.clone()));
        }
        Accepting { _tasks: tasks, _files: self }
    }
}

pub(super) struct Accepting {
    _tasks: JoinSet<()>,
    _files: Listeners,
}

impl Drop for MadeSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn accept(socket: UnixListener, accepted: mpsc::Sender<UnixStream>) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, or the client gave up: others must still be served.
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

fn bind(path: &Path) -> Result<(UnixListener, MadeSocket), ListenError> {
    let open_error = |source| ListenError::Open { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(open_error)?;
    }
    remove_stale(path)?;
    // The kernel creates it with the umask applied, never writable for others in between.
    let socket = StdUnixListener::bind(path).map_err(open_error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(open_error)?;
    let inode = fs::symlink_metadata(path).map_err(open_error)?.ino();
    let made = MadeSocket { path: path.to_owned(), inode };
    Ok((register(socket).map_err(open_error)?, made))
}

/// Removes a socket nobody listens on, left by a server that was killed.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let open_error = |source| ListenError::Open { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(open_error(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(ListenError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(open_error)
        }
        // For one, a listener whose backlog is full: somebody is there.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::Taken(path.to_owned())),
        Err(error) => Err(open_error(error)),
    }
}

fn passed_sockets() -> Result<Vec<UnixListener>, ListenError> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        if let Some(socket) = passed.take_unix_listener(index).map_err(ListenError::Passed)? {
            sockets.push(register(socket).map_err(ListenError::Passed)?);
        }
    }
    if sockets.is_empty() { Err(ListenError::NothingPassed) } else { Ok(sockets) }
}

fn register(socket: StdUnixListener) -> io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Listeners, ListenError> {
        Listeners::open(&[ListenAddress::Unix(path.to_owned())])
    }

    #[tokio::test]
    async fn a_socket_is_for_root_and_its_group_and_goes_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/api.sock");
        let listeners = open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(listeners.first_path(), Some(path.clone()));
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listeners = open(&path).unwrap();
        assert!(matches!(open(&path), Err(ListenError::Taken(_))));
        drop(listeners);
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(open(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let old = open(&path).unwrap();
        fs::rename(&path, dir.path().join("aside")).unwrap();
        let new = open(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
    }
}
