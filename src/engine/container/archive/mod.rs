//! Files in and out of a container as tar streams, and what a path is.
//!
//! The container is a stranger that may move things while we look: every path is resolved by the kernel from the
//! container's root (`host::in_root`), and from there on only names in open directories are used, never followed.
//! A running container is seen as it sees itself, volumes included; of one that does not run the root file system
//! is mounted for as long as it takes, and its lock is held.

mod read;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use tokio::sync::mpsc;

use super::ContainerRecord;
use super::lifecycle::present;
use super::prepare::{failed, make_directories};
use super::state::ContainerState;
use super::table::Entry;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::host::in_root::{open_in_root, root_of};
use crate::engine::host::process::is_same;
use crate::engine::id::NameOrId;
use crate::engine::runtime::Rootfs;
use crate::engine::{BoxStream, Inner};

pub use write::PutOptions;

/// As many symbolic links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// So many pieces of an archive wait for a slow reader.
const PIECES_AHEAD: usize = 4;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of what it leads to; `.` for the root.
    pub name: String,
    pub size_bytes: i64,
    /// Of the link itself, if it is one, as the rest is.
    pub mode: u32,
    pub modified_at: Timestamp,
    /// Where it leads, links followed; the path itself if it is none.
    pub link_target: String,
    pub leads_to_directory: bool,
    /// `false`: a link to nowhere.
    pub leads_somewhere: bool,
}

/// A container's file system, open.
struct View {
    root: File,
    /// Nobody starts the container meanwhile.
    _effects: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Inner {
    pub async fn stat_path(&self, wanted: &NameOrId, path: &Path) -> Result<PathStat> {
        let (record, view) = self.open_view(wanted).await?;
        stat_path(&view.root, path).map_err(path_failed(&record, path))
    }

    /// The tree at `path` as a tar stream, under the path's last name, or without it if that is `.`.
    pub async fn read_archive(
        self: &Arc<Self>,
        wanted: &NameOrId,
        path: &Path,
        renames: BTreeMap<String, String>,
    ) -> Result<(PathStat, BoxStream<Bytes>)> {
        let (record, view) = self.open_view(wanted).await?;
        let stat = stat_path(&view.root, path).map_err(path_failed(&record, path))?;
        if !stat.leads_somewhere {
            return Err(path_failed(&record, path)(Errno::ENOENT.into()));
        }
        // The parent is found by its path, the last name as what it leads to.
        let resolved = PathBuf::from(&stat.link_target);
        let last = match path.as_os_str().as_encoded_bytes() {
            bytes if bytes.ends_with(b"/.") || bytes == b"." => None,
            _ => path.file_name().map(ToOwned::to_owned),
        };
        let source = open_in_root(&view.root, &resolved, OFlag::O_PATH)
            .map_err(|errno| path_failed(&record, path)(errno.into()))?;
        let stream = self.archive_stream(record, view, move |sink| {
            read::write_tree(sink, &source, last.as_deref().map(Path::new), &renames, read::Mounts::Enter)
        });
        Ok((stat, stream))
    }

    /// The whole root file system, without what is mounted in it.
    pub async fn export_container(self: &Arc<Self>, wanted: &NameOrId) -> Result<BoxStream<Bytes>> {
        let (record, view) = self.open_view(wanted).await?;
        let root = view.root.try_clone().map_err(failed(&record, "open its root file system"))?;
        Ok(self.archive_stream(record, view, move |sink| {
            read::write_tree(sink, &root, None, &BTreeMap::new(), read::Mounts::LeaveOut)
        }))
    }

    fn archive_stream(
        self: &Arc<Self>,
        record: Arc<ContainerRecord>,
        view: View,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
    ) -> BoxStream<Bytes> {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        self.tasks.spawn_blocking(move || {
            let mut sink = io::BufWriter::with_capacity(64 << 10, read::Pieces(sender.clone()));
            let written = write(&mut sink).and_then(|()| io::Write::flush(&mut sink));
            if let Err(error) = written {
                // Nobody listens any more if the failure was the sending.
                let _ = sender.blocking_send(Err(failed(&record, "read its files")(error)));
            }
            // What is left in it belongs to an archive that failed.
            drop(sink.into_parts());
            drop(view);
        });
        Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|piece| (piece, receiver))
        }))
    }

    /// Unpacks the archive in the file `archive` (plain or compressed) into the directory at `path`, which is made
    /// if it is not there.
    pub async fn write_archive(
        &self,
        wanted: &NameOrId,
        path: &Path,
        archive: File,
        options: PutOptions,
    ) -> Result<()> {
        let (record, view) = self.open_view(wanted).await?;
        let owner = match options.owned_by_user {
            true => {
                let image = self.image_config(&record)?;
                let user = self.user(&record, image.as_ref())?;
                Some((user.uid, user.gid))
            }
            false => None,
        };
        let directory = path.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            let written = write::unpack(&view.root, &directory, archive, owner, &options);
            drop(view);
            written
        });
        written
            .await
            .map_err(failed(&record, "unpack an archive"))?
            .map_err(|error| path_failed(&record, path)(error))
    }

    async fn open_view(&self, wanted: &NameOrId) -> Result<(Arc<ContainerRecord>, View)> {
        let entry: Arc<Entry> = self.containers.find(&self.names, wanted)?;
        let effects = entry.effects.clone().lock_owned().await;
        let record = present(&entry)?;
        if record.state == ContainerState::Removing {
            return Err(EngineError::wrong_state(
                Subject::Container(record.name.to_string()),
                "it is being removed",
            ));
        }
        if let Some(process) = record.state.process() {
            let root = root_of(process.pid);
            // Its root, and not that of whoever has the number now.
            if is_same(process.pid, process.start_ticks) {
                let root = root.map_err(failed(&record, "open its root file system"))?;
                return Ok((record, View { root, _effects: None }));
            }
        }
        let (run_dir, dir) =
            (self.config.container_run_dir(&record.id), self.config.container_dir(&record.id));
        if record.state.process().is_none() && run_dir.exists() {
            // Of a run whose end could not be cleaned up after.
            self.unprepare(&record).await?;
        }
        let root = match self.rootfs(&record)? {
            Rootfs::Directory(directory) => open_directory(&directory).map_err(io::Error::from),
            Rootfs::Overlay { lower, upper, work } => make_directories(&run_dir, &dir)
                .and_then(|()| mount_for_a_while(&run_dir.join("pins"), &lower, &upper, &work)),
        };
        if record.state.process().is_none() {
            self.unprepare_files(&record)?;
        }
        let root = root.map_err(failed(&record, "mount its root file system"))?;
        Ok((record, View { root, _effects: Some(effects) }))
    }
}

fn open_directory(path: &Path) -> nix::Result<File> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

/// An overlay that no path leads to: it goes with the last descriptor in it. What a crash leaves of it is in the run
/// directory, where the next start lets go of it.
fn mount_for_a_while(pins: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<File> {
    let point = pins.join("rootfs");
    fs::create_dir_all(&point)?;
    // Descriptors are short and have no characters that mean something to overlayfs.
    let layers: Vec<File> = lower.iter().map(|layer| open_directory(layer)).collect::<nix::Result<_>>()?;
    let (upper, work) = (open_directory(upper)?, open_directory(work)?);
    let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower: Vec<String> = layers.iter().map(name).collect();
    if lower.is_empty() {
        // Overlayfs wants a lower layer; an image may have none.
        return Ok(upper);
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), name(&upper), name(&work));
    mount(Some("overlay"), &point, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    let root = open_directory(&point);
    umount2(&point, MntFlags::MNT_DETACH)?;
    Ok(root?)
}

/// Follows the links at the end of `path`, by the words in them; those before are the kernel's business.
fn stat_path(root: &File, path: &Path) -> io::Result<PathStat> {
    let first = stat_at(root, path)?;
    let mut target = clean(path);
    let mut last = Some(first);
    let mut links = 0;
    while last.as_ref().is_some_and(|stat| kind(stat) == SFlag::S_IFLNK) {
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        let link = open_in_root(root, &target, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let words = PathBuf::from(readlinkat(&link, "")?);
        let parent = target.parent().unwrap_or(Path::new("/"));
        target = clean(&parent.join(words));
        last = match stat_at(root, &target) {
            Ok(stat) => Some(stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
    }
    let seconds = Timestamp::new(first.st_mtime, i32::try_from(first.st_mtime_nsec).unwrap_or_default());
    Ok(PathStat {
        name: match target.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => ".".to_owned(),
        },
        size_bytes: first.st_size,
        mode: first.st_mode,
        modified_at: seconds.unwrap_or(Timestamp::UNIX_EPOCH),
        link_target: target.to_string_lossy().into_owned(),
        leads_to_directory: last.as_ref().is_some_and(|stat| kind(stat) == SFlag::S_IFDIR),
        leads_somewhere: last.is_some(),
    })
}

fn stat_at(root: &File, path: &Path) -> io::Result<FileStat> {
    let file = open_in_root(root, &clean(path), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    Ok(fstat(&file)?)
}

/// Absolute, without `.` and empty parts; `..` by the words.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// What went wrong with a path a user named is mostly the path.
fn path_failed<'a>(
    record: &'a ContainerRecord,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> EngineError + 'a {
    move |error| {
        let subject = Subject::Container(record.name.to_string());
        let errno = error.raw_os_error().map(Errno::from_raw);
        let kind = match errno {
            Some(Errno::ENOENT) => ErrorKind::NotFound,
            Some(Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR | Errno::EROFS | Errno::ENAMETOOLONG) => {
                ErrorKind::InvalidArgument
            }
            _ if error.kind() == io::ErrorKind::InvalidData => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        };
        // docker's and podman's clients look for these words.
        let step = match kind {
            ErrorKind::NotFound => format!(
                "could not find the file {} in the container: no such file or directory",
                path.display()
            ),
            _ => path.display().to_string(),
        };
        match kind {
            ErrorKind::NotFound => EngineError::new(kind, subject, step),
            _ => EngineError::new(kind, subject, step).with_source(error),
        }
    }
}
