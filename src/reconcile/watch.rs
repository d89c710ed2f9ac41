//! Notices that a directory of manifests may have changed: bumps a number, and nothing else.
//!
//! Watched are the directory, its subdirectories, and the parent of every component of its path, links
//! followed: so that a link that is swapped (git-sync), a directory that is moved away and one that
//! comes back are all noticed. Each is watched by itself and anew after every change: `notify` gives a
//! watch up with the directory it was set on. It also tells of every open, ours too: only what changes
//! something counts. Every minute a walk that costs only stat calls catches what no event tells (a file
//! system mounted over it or unmounted, a network file system, a lost event).
//!
//! Tasks: one, and the thread of `notify`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Editors and deployment tools write in several steps: a burst is over after this silence.
const QUIET: Duration = Duration::from_millis(30);
/// And is looked at after this at the latest, however long it goes on.
const PATIENCE: Duration = Duration::from_millis(500);
const RESCAN: Duration = Duration::from_secs(60);

/// Links in a path that are followed before it is taken for a circle, as the kernel does.
const MAX_LINKS: usize = 40;
/// How deep subdirectories are watched.
const MAX_DEPTH: usize = 8;

/// Watches until dropped.
pub struct DirectoryWatch {
    generation: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl DirectoryWatch {
    pub fn spawn(directory: PathBuf) -> Self {
        let (bump, generation) = watch::channel(0);
        Self { generation, task: tokio::spawn(run(directory, bump)) }
    }

    /// A number that grows whenever the directory may have changed.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(directory: PathBuf, bump: watch::Sender<u64>) {
    let mut eyes = match Eyes::open(&directory) {
        Ok(eyes) => Some(eyes),
        Err(error) => {
            tracing::warn!(
                "watch {}: {error}; looking every {} s instead",
                directory.display(),
                RESCAN.as_secs()
            );
            None
        }
    };
    let mut seen = Fingerprint::of(&directory);
    // What changed between the first reading of the directory and the first watch on it.
    bump.send_modify(|generation| *generation += 1);
    loop {
        let noticed = match &mut eyes {
            Some(eyes) => tokio::time::timeout(RESCAN, eyes.change()).await.is_ok(),
            None => {
                tokio::time::sleep(RESCAN).await;
                false
            }
        };
        if noticed && let Some(eyes) = &mut eyes {
            let patience = tokio::time::Instant::now() + PATIENCE;
            while tokio::time::Instant::now() < patience
                && tokio::time::timeout(QUIET, eyes.change()).await.is_ok()
            {}
        }
        if let Some(eyes) = &mut eyes {
            eyes.arm();
        }
        let now = Fingerprint::of(&directory);
        if noticed || now != seen {
            seen = now;
            bump.send_modify(|generation| *generation += 1);
        }
    }
}

/// What is of interest in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Interested {
    Everything,
    /// Entries that are part of the way to the manifests.
    Names(BTreeSet<OsString>),
}

impl Interested {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Names(mut known), Self::Names(more)) => {
                known.extend(more);
                Self::Names(known)
            }
        }
    }
}

/// Device and inode: what a watch is on, whatever its path.
type Inode = (u64, u64);

struct Eyes {
    directory: PathBuf,
    watcher: RecommendedWatcher,
    scope: Arc<Mutex<Scope>>,
    changed: mpsc::Receiver<PathBuf>,
    watched: BTreeMap<PathBuf, Inode>,
    /// Said once, not every minute.
    told_limit: bool,
}

impl Eyes {
    fn open(directory: &Path) -> notify::Result<Self> {
        let scope = Arc::new(Mutex::new(Scope::default()));
        let (noticed, changed) = mpsc::channel(16);
        let filter = scope.clone();
        let fallback = directory.to_owned();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let path = match event {
                Ok(event) if event.need_rescan() => Some(fallback.clone()),
                Ok(event) => filter.lock().unwrap_or_else(PoisonError::into_inner).touched(&event),
                // What was lost with the error is not known.
                Err(_) => Some(fallback.clone()),
            };
            if let Some(path) = path {
                // Full: that there is a change is known already.
                let _ = noticed.try_send(path);
            }
        })?;
        let mut eyes = Self {
            directory: directory.to_owned(),
            watcher,
            scope,
            changed,
            watched: BTreeMap::new(),
            told_limit: false,
        };
        eyes.arm();
        Ok(eyes)
    }

    /// Returns what has changed, as soon as something of interest has.
    async fn change(&mut self) -> PathBuf {
        match self.changed.recv().await {
            Some(path) => path,
            None => std::future::pending().await,
        }
    }

    /// Watches what there is to watch now, and nothing that was only on the old way.
    fn arm(&mut self) {
        // One watch per inode: two paths of one directory would share a watch, and end it for each other.
        let mut wanted: BTreeMap<Inode, (PathBuf, Interested)> = BTreeMap::new();
        for (path, interested) in places(&self.directory) {
            // What vanished meanwhile is noticed by the watch on its parent.
            let Ok(path) = fs::canonicalize(path) else { continue };
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !metadata.is_dir() {
                continue;
            }
            let inode = (metadata.dev(), metadata.ino());
            let place = match wanted.remove(&inode) {
                Some((path, known)) => (path, known.and(interested)),
                None => (path, interested),
            };
            wanted.insert(inode, place);
        }
        *self.scope.lock().unwrap_or_else(PoisonError::into_inner) = Scope::of(wanted.values());
        let wanted: BTreeMap<PathBuf, Inode> =
            wanted.into_iter().map(|(inode, (path, _))| (path, inode)).collect();
        for (path, inode) in &self.watched {
            if wanted.get(path) != Some(inode) {
                // An error: it went with its directory.
                let _ = self.watcher.unwatch(path);
            }
        }
        for path in wanted.keys() {
            // Those that are known too: a directory that went and came back may have its inode again,
            // but not its watch.
            self.watch(path);
        }
        self.watched = wanted;
    }

    fn watch(&mut self, path: &Path) {
        let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) else { return };
        match error.kind {
            notify::ErrorKind::MaxFilesWatch if !self.told_limit => {
                self.told_limit = true;
                tracing::warn!(
                    "watch {}: fs.inotify.max_user_watches is reached; looking every {} s instead",
                    path.display(),
                    RESCAN.as_secs()
                );
            }
            // It vanished just now, which its parent's watch tells.
            _ => tracing::debug!("watch {}: {error}", path.display()),
        }
    }
}

/// Which events count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scope {
    /// Everything in them counts.
    contents: BTreeSet<PathBuf>,
    /// That they come and go counts, not what happens in them.
    entries: BTreeSet<PathBuf>,
}

impl Scope {
    fn of<'a>(places: impl Iterator<Item = &'a (PathBuf, Interested)>) -> Self {
        let mut scope = Self::default();
        for (path, interested) in places {
            scope.entries.insert(path.clone());
            match interested {
                Interested::Everything => {
                    scope.contents.insert(path.clone());
                }
                Interested::Names(names) => {
                    scope.entries.extend(names.iter().map(|name| path.join(name)));
                }
            }
        }
        scope
    }

    /// The path that makes an event one of interest.
    fn touched(&self, event: &Event) -> Option<PathBuf> {
        let comes_or_goes = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return None,
            EventKind::Modify(ModifyKind::Name(_)) => true,
            EventKind::Modify(_) => false,
            EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
        };
        let counts = |path: &Path| {
            self.contents.contains(path)
                || path.parent().is_some_and(|parent| self.contents.contains(parent))
                || (comes_or_goes && self.entries.contains(path))
        };
        event.paths.iter().find(|path| counts(path)).cloned()
    }
}

/// Every directory to be watched, with what is of interest in it.
fn places(directory: &Path) -> Vec<(PathBuf, Interested)> {
    let mut names: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    walk_components(directory, &mut names, &mut 0);
    let mut places: Vec<(PathBuf, Interested)> =
        names.into_iter().map(|(path, names)| (path, Interested::Names(names))).collect();
    let mut dirs = Vec::new();
    collect_dirs(directory, 0, &mut dirs);
    places.extend(dirs.into_iter().map(|dir| (dir, Interested::Everything)));
    places
}

/// Notes each component of `path` with the directory it is looked up in, links followed.
fn walk_components(path: &Path, names: &mut BTreeMap<PathBuf, BTreeSet<OsString>>, links: &mut usize) {
    let mut at = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                at.pop();
            }
            Component::Normal(name) => {
                names.entry(at.clone()).or_default().insert(name.to_owned());
                let next = at.join(name);
                match fs::read_link(&next) {
                    Ok(target) if *links < MAX_LINKS => {
                        *links += 1;
                        let target = at.join(target);
                        walk_components(&target, names, links);
                        at = fs::canonicalize(&target).unwrap_or(target);
                    }
                    Ok(_) | Err(_) => at = next,
                }
            }
        }
    }
}

fn collect_dirs(dir: &Path, depth: usize, dirs: &mut Vec<PathBuf>) {
    dirs.push(dir.to_owned());
    if depth == MAX_DEPTH {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // `path().is_dir()` follows links: `..data` and linked subdirectories count.
        if entry.path().is_dir() {
            collect_dirs(&entry.path(), depth + 1, dirs);
        }
    }
}

/// What stat tells of everything in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fingerprint(BTreeMap<PathBuf, (u64, u64, i64, i64, u64, u32)>);

impl Fingerprint {
    fn of(directory: &Path) -> Self {
        let mut fingerprint = Self::default();
        fingerprint.add(directory, 0);
        fingerprint
    }

    fn add(&mut self, path: &Path, depth: usize) {
        let Ok(metadata) = fs::metadata(path) else { return };
        let stat = (
            metadata.dev(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
            metadata.mode(),
        );
        self.0.insert(path.to_owned(), stat);
        if metadata.is_dir() && depth <= MAX_DEPTH {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                self.add(&entry.path(), depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Waits for the next bump.
    async fn bumped(generation: &mut watch::Receiver<u64>) {
        tokio::time::timeout(Duration::from_secs(20), generation.changed())
            .await
            .expect("a change is noticed")
            .expect("the watch runs");
    }

    async fn watching(directory: &Path) -> (DirectoryWatch, watch::Receiver<u64>) {
        let watch = DirectoryWatch::spawn(directory.to_owned());
        let mut generation = watch.generation();
        bumped(&mut generation).await;
        (watch, generation)
    }

    #[tokio::test]
    async fn writes_renames_and_removals_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (_watch, mut generation) = watching(dir.path()).await;
        fs::write(dir.path().join("a.yaml"), "1").unwrap();
        bumped(&mut generation).await;
        fs::rename(dir.path().join("a.yaml"), dir.path().join("b.yaml")).unwrap();
        bumped(&mut generation).await;
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        bumped(&mut generation).await;
        fs::create_dir(dir.path().join("sub")).unwrap();
        bumped(&mut generation).await;
        fs::write(dir.path().join("sub/c.yaml"), "1").unwrap();
        bumped(&mut generation).await;
    }

    #[tokio::test]
    async fn a_swapped_link_is_noticed_and_its_new_target_watched() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        symlink("one", dir.path().join("current")).unwrap();
        let (_watch, mut generation) = watching(&dir.path().join("current")).await;
        symlink("two", dir.path().join("next")).unwrap();
        fs::rename(dir.path().join("next"), dir.path().join("current")).unwrap();
        bumped(&mut generation).await;
        fs::write(dir.path().join("two/a.yaml"), "1").unwrap();
        bumped(&mut generation).await;
    }

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_back_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("deep/manifests");
        fs::create_dir_all(&manifests).unwrap();
        let (_watch, mut generation) = watching(&manifests).await;
        fs::remove_dir_all(dir.path().join("deep")).unwrap();
        bumped(&mut generation).await;
        fs::create_dir_all(&manifests).unwrap();
        bumped(&mut generation).await;
        fs::write(manifests.join("a.yaml"), "1").unwrap();
        bumped(&mut generation).await;
    }

    #[tokio::test]
    async fn reading_and_strangers_are_not_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let manifests = root.join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("a.yaml"), "1").unwrap();
        let mut eyes = Eyes::open(&manifests).unwrap();
        fs::read(manifests.join("a.yaml")).unwrap();
        fs::read_dir(&manifests).unwrap().count();
        fs::write(root.join("stranger"), "1").unwrap();
        eyes.arm();
        // Events come in order: what is told first is the first that counted.
        fs::write(manifests.join("b.yaml"), "2").unwrap();
        let first = tokio::time::timeout(Duration::from_secs(20), eyes.change()).await;
        assert_eq!(first.expect("a write is noticed"), manifests.join("b.yaml"));
    }

    #[tokio::test]
    async fn a_directory_with_two_names_stays_watched_when_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        let (_watch, mut generation) = watching(&root).await;
        fs::remove_file(root.join("alias")).unwrap();
        bumped(&mut generation).await;
        fs::write(root.join("real/a.yaml"), "1").unwrap();
        bumped(&mut generation).await;
    }

    #[test]
    fn what_counts_depends_on_the_place_and_on_what_happened() {
        use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};
        let names = |name: &str| Interested::Names([OsString::from(name)].into());
        let places = [
            ("/".into(), names("etc")),
            ("/etc".into(), names("m")),
            ("/etc/m".into(), Interested::Everything),
        ];
        let scope = Scope::of(places.iter());
        let write = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let attributes = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        let create = EventKind::Create(CreateKind::File);
        let remove = EventKind::Remove(RemoveKind::Folder);
        for (kind, path, counts) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/etc/m/a.yaml", false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), "/etc/m/a.yaml", false),
            (write, "/etc/m/a.yaml", true),
            (data, "/etc/m/a.yaml", true),
            (attributes, "/etc/m/a.yaml", true),
            (create, "/etc/m/a.yaml", true),
            (renamed, "/etc/m", true),
            (remove, "/etc/m", true),
            (remove, "/etc", true),
            (attributes, "/etc", false),
            (create, "/etc/hosts", false),
            (write, "/etc/hosts", false),
            (create, "/vmlinuz", false),
        ] {
            let event = Event::new(kind).add_path(path.into());
            assert_eq!(scope.touched(&event).is_some(), counts, "{kind:?} {path}");
        }
    }
}
