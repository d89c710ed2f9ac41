//! Notices that a directory of manifests may have changed: bumps a number, and nothing else.
//!
//! Watched are the directory, its subdirectories, and the parent of every component of its path, links
//! followed: so that a link that is swapped (git-sync), a directory that is moved away and one that
//! comes back are all noticed. Only what changes something wakes us: unlike a general watching library,
//! which is told of every open and read of ours too, inotify itself is asked for just those events.
//! Every minute a walk that costs only stat calls catches what no event tells (a file system mounted over
//! it, a network file system, a lost event).
//!
//! Tasks: one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
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

struct Eyes {
    directory: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    watched: BTreeMap<i32, Interested>,
}

impl Eyes {
    #[expect(
        deprecated,
        reason = "unsound for types that lie about their descriptor; its successor is unsafe"
    )]
    fn open(directory: &Path) -> Result<Self, std::io::Error> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let inotify = AsyncFd::new(inotify)?;
        let mut eyes = Self { directory: directory.to_owned(), inotify, watched: BTreeMap::new() };
        eyes.arm();
        Ok(eyes)
    }

    /// Returns when something of interest has happened.
    async fn change(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            let mut changed = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                        changed |= self.is_of_interest(event.wd(), event.events(), name);
                    }
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(_) => return,
                }
            }
            if changed {
                return;
            }
        }
    }

    fn is_of_interest(&self, wd: i32, events: ReadFlags, name: Option<&OsStr>) -> bool {
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            return true;
        }
        if events.contains(ReadFlags::IGNORED) {
            return false;
        }
        match (self.watched.get(&wd), name) {
            (None, _) => false,
            (Some(Interested::Everything), _) | (Some(Interested::Names(_)), None) => true,
            (Some(Interested::Names(names)), Some(name)) => names.contains(name),
        }
    }

    /// Watches what there is to watch now, and nothing that was only on the old way.
    fn arm(&mut self) {
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let contents = changes | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
        let mut watched: BTreeMap<i32, Interested> = BTreeMap::new();
        for (path, interested) in places(&self.directory) {
            let mask = match interested {
                Interested::Everything => contents,
                Interested::Names(_) => changes,
            };
            let mask = mask | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
            // What vanished meanwhile is noticed by the watch on its parent.
            let Ok(wd) = inotify::add_watch(self.inotify.get_ref(), &path, mask) else { continue };
            let interested = match (watched.remove(&wd), interested) {
                (None, interested) => interested,
                (Some(Interested::Everything), _) | (_, Interested::Everything) => Interested::Everything,
                (Some(Interested::Names(mut known)), Interested::Names(more)) => {
                    known.extend(more);
                    Interested::Names(known)
                }
            };
            watched.insert(wd, interested);
        }
        for wd in self.watched.keys().filter(|wd| !watched.contains_key(wd)) {
            let _ = inotify::remove_watch(self.inotify.get_ref(), *wd);
        }
        self.watched = watched;
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
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("a.yaml"), "1").unwrap();
        let mut eyes = Eyes::open(&manifests).unwrap();
        fs::read(manifests.join("a.yaml")).unwrap();
        fs::read_dir(&manifests).unwrap().count();
        fs::write(dir.path().join("stranger"), "1").unwrap();
        let noticed = tokio::time::timeout(Duration::from_millis(1), eyes.change()).await;
        assert!(noticed.is_err(), "nothing of interest happened");
        fs::write(manifests.join("a.yaml"), "2").unwrap();
        tokio::time::timeout(Duration::from_secs(20), eyes.change()).await.expect("a write is noticed");
    }
}
