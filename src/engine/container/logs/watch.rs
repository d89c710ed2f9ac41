//! Learning that a file was written, created or replaced, without looking again and again.
//!
//! One inotify instance and one thread serve all readers of the process: the kernel allows a user only
//! 128 instances. The thread is started by the first reader and sleeps while nothing is written.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::Notify;

/// Notices changes of one file, from when it was made.
pub struct Watch {
    hub: &'static Hub,
    directory: WatchDescriptor,
    changed: Arc<Notify>,
}

struct Hub {
    inotify: Inotify,
    /// By directory: the file names that are waited for.
    watched: Mutex<HashMap<WatchDescriptor, Vec<NamedFile>>>,
}

/// A file's name in its directory, and whom its changes wake.
type NamedFile = (OsString, Arc<Notify>);

impl Watch {
    /// Its directory must exist; the file need not.
    pub fn new(path: &Path) -> io::Result<Self> {
        let hub = hub()?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no file in a directory"));
        };
        let changed = Arc::new(Notify::new());
        // Under the lock: an event that comes at once is looked up only when the entry is there.
        let mut watched = hub.watched.lock().expect("no panic under this lock");
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        let directory = hub.inotify.add_watch(parent, flags)?;
        watched.entry(directory).or_default().push((name.to_owned(), changed.clone()));
        Ok(Self { hub, directory, changed })
    }

    /// Resolves when something happened since the last time it resolved.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.hub.watched.lock().expect("no panic under this lock");
        let Some(entries) = watched.get_mut(&self.directory) else { return };
        entries.retain(|(_, changed)| !Arc::ptr_eq(changed, &self.changed));
        if entries.is_empty() {
            watched.remove(&self.directory);
            // Fails if the directory has gone, which took the watch along.
            let _ = self.hub.inotify.rm_watch(self.directory);
        }
    }
}

fn hub() -> io::Result<&'static Hub> {
    static HUB: LazyLock<Result<Hub, nix::errno::Errno>> = LazyLock::new(|| {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        Ok(Hub { inotify, watched: Mutex::default() })
    });
    static THREAD: LazyLock<io::Result<()>> = LazyLock::new(|| {
        std::thread::Builder::new().name("log-watch".to_owned()).spawn(|| {
            if let Ok(hub) = &*HUB {
                hub.run();
            }
        })?;
        Ok(())
    });
    let hub = HUB.as_ref().map_err(|errno| io::Error::from(*errno))?;
    THREAD.as_ref().map_err(|error| io::Error::new(error.kind(), "cannot start the log watcher"))?;
    Ok(hub)
}

impl Hub {
    fn run(&self) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot read file events: logs are not followed any more");
                    return;
                }
            };
            let mut watched = self.watched.lock().expect("no panic under this lock");
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    watched.values().flatten().for_each(|(_, changed)| changed.notify_one());
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    // The directory has gone. A watch taken back has no entry any more.
                    for (_, changed) in watched.remove(&event.wd).unwrap_or_default() {
                        changed.notify_one();
                    }
                } else if let Some(entries) = watched.get(&event.wd) {
                    let concerned = entries.iter().filter(|(name, _)| Some(name) == event.name.as_ref());
                    concerned.for_each(|(_, changed)| changed.notify_one());
                }
            }
        }
    }
}
