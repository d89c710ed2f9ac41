//! What the parts of one engine share, and the one way to change durable state: commit, then memory, then
//! events.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::EngineConfig;
use super::container::capability;
use super::container::oci_spec::HostFacts;
use super::container::table::Containers;
use super::container::wait::PastExits;
use super::error::{EngineError, ErrorKind, Result, Subject};
use super::event::{Event, EventBus};
use super::id::ImageId;
use super::image::ImageStore;
use super::monitor::Monitors;
use super::names::Names;
use super::network::Networks;
use super::pod::table::Pods;
use super::store::{Change, Store};
use super::volume::Volumes;

pub(in crate::engine) struct Inner {
    pub config: EngineConfig,
    pub store: Store,
    pub events: EventBus,
    pub containers: Containers,
    pub pods: Pods,
    pub names: Names,
    pub volumes: Volumes,
    pub notes: Notes,
    pub images: ImageStore,
    /// Images of containers that are being created and not yet to be seen.
    pub images_in_creation: Mutex<Vec<ImageId>>,
    pub networks: Networks,
    pub monitors: Monitors,
    pub past_exits: PastExits,
    pub host: HostFacts,
    /// Everything that runs for this engine ends when this is cancelled.
    pub closing: CancellationToken,
    /// Followers of running containers, and effects whose caller may go away.
    pub tasks: TaskTracker,
    /// Two daemons on one root would undo each other's work.
    pub _lock: RootLock,
}

impl Inner {
    /// Makes `changes` durable together with the events that tell of them, then shows them to everyone in this
    /// process with `show`, then sends the events. On error nothing has changed anywhere.
    pub async fn commit(
        &self,
        context: impl FnOnce() -> (Subject, &'static str),
        mut changes: Vec<Change>,
        events: Vec<Event>,
        show: impl FnOnce(),
    ) -> Result<()> {
        changes.extend(events.iter().cloned().map(Change::AppendEvent));
        self.store.commit(changes).await.map_err(|source| {
            let (subject, step) = context();
            EngineError::internal(subject, step, source)
        })?;
        show();
        self.events.publish(events);
        Ok(())
    }

    /// Records and sends an event whose change was made durable elsewhere.
    pub async fn tell(&self, events: Vec<Event>) {
        let changes = events.iter().cloned().map(Change::AppendEvent).collect();
        if let Err(error) = self.store.commit(changes).await {
            tracing::warn!(
                error = super::error::chain(&error),
                "an event could not be written to the journal"
            );
        }
        self.events.publish(events);
    }

    /// Runs an effect to its end even if whoever asked for it goes away: half an effect is nobody's wish.
    pub async fn detached<T: Send + 'static>(
        &self,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.closing.is_cancelled() {
            return Err(EngineError::new(ErrorKind::Internal, Subject::Engine, "the engine is closing"));
        }
        self.tasks.spawn(effect).await.unwrap_or_else(|source| {
            Err(EngineError::internal(Subject::Engine, "an operation ended before its time", source))
        })
    }
}

/// The owners' small durable notes in memory.
#[derive(Default)]
pub(in crate::engine) struct Notes {
    areas: RwLock<BTreeMap<String, BTreeMap<String, Arc<[u8]>>>>,
    /// Keeps memory in the order of the disk when two write one key.
    writing: tokio::sync::Mutex<()>,
}

impl Notes {
    pub fn new(areas: BTreeMap<String, BTreeMap<String, Arc<[u8]>>>) -> Self {
        Self { areas: RwLock::new(areas), writing: tokio::sync::Mutex::default() }
    }

    pub fn area(&self, area: &str) -> BTreeMap<String, Arc<[u8]>> {
        self.areas.read().unwrap_or_else(PoisonError::into_inner).get(area).cloned().unwrap_or_default()
    }
}

impl Inner {
    pub async fn put_note(&self, area: &str, key: &str, value: Vec<u8>) -> Result<()> {
        let value: Arc<[u8]> = value.into();
        let _writing = self.notes.writing.lock().await;
        let change = Change::PutNote { area: area.to_owned(), key: key.to_owned(), value: value.clone() };
        self.commit(
            || (Subject::Engine, "write a note"),
            vec![change],
            Vec::new(),
            || {
                let mut areas = self.notes.areas.write().unwrap_or_else(PoisonError::into_inner);
                areas.entry(area.to_owned()).or_default().insert(key.to_owned(), value);
            },
        )
        .await
    }

    pub async fn remove_note(&self, area: &str, key: &str) -> Result<()> {
        let _writing = self.notes.writing.lock().await;
        let change = Change::RemoveNote { area: area.to_owned(), key: key.to_owned() };
        self.commit(
            || (Subject::Engine, "remove a note"),
            vec![change],
            Vec::new(),
            || {
                let mut areas = self.notes.areas.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(notes) = areas.get_mut(area) {
                    notes.remove(key);
                }
            },
        )
        .await
    }
}

/// Held for as long as the engine lives; the kernel lets go of it when the process dies, however it dies.
pub(in crate::engine) struct RootLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl RootLock {
    /// Waits in the kernel's queue, where those who only try can not overtake.
    pub async fn take(root: &Path, patience: Duration) -> Result<Self> {
        let path = root.join("lock");
        let failed = |source: io::Error| {
            EngineError::internal(Subject::Engine, format!("lock {}", path.display()), source)
        };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Self(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        let (locked, lock) = oneshot::channel();
        if !patience.is_zero() {
            // A thread of its own: it may never end, and the runtime waits for those it lends.
            thread::spawn(move || locked.send(Flock::lock(file, FlockArg::LockExclusive)));
        }
        match tokio::time::timeout(patience, lock).await {
            Ok(Ok(Ok(lock))) => Ok(Self(lock)),
            Ok(Ok(Err((_, errno)))) => Err(failed(errno.into())),
            Ok(Err(_)) | Err(_) => Err(EngineError::new(
                ErrorKind::InUse,
                Subject::Engine,
                format!("another selkie is using {}: one root belongs to one daemon", root.display()),
            )),
        }
    }
}

/// Asks the host once what containers can be given.
pub(in crate::engine) fn observe_host() -> io::Result<HostFacts> {
    use nix::sys::resource::{Resource, getrlimit};
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("no CapBnd line in /proc/self/status"))?;
    let capabilities = capability::names_of_mask(mask);
    let mut hard_limits = BTreeMap::new();
    for (name, resource) in [
        ("cpu", Resource::RLIMIT_CPU),
        ("fsize", Resource::RLIMIT_FSIZE),
        ("data", Resource::RLIMIT_DATA),
        ("stack", Resource::RLIMIT_STACK),
        ("core", Resource::RLIMIT_CORE),
        ("rss", Resource::RLIMIT_RSS),
        ("nproc", Resource::RLIMIT_NPROC),
        ("nofile", Resource::RLIMIT_NOFILE),
        ("memlock", Resource::RLIMIT_MEMLOCK),
        ("as", Resource::RLIMIT_AS),
        ("locks", Resource::RLIMIT_LOCKS),
        ("sigpending", Resource::RLIMIT_SIGPENDING),
        ("msgqueue", Resource::RLIMIT_MSGQUEUE),
        ("nice", Resource::RLIMIT_NICE),
        ("rtprio", Resource::RLIMIT_RTPRIO),
        ("rttime", Resource::RLIMIT_RTTIME),
    ] {
        hard_limits.insert(name, getrlimit(resource)?.1);
    }
    Ok(HostFacts {
        hostname: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        may_raise_limits: capabilities.contains("SYS_RESOURCE"),
        capabilities,
        hard_limits,
    })
}
