//! Pod volumes on disk: files of ConfigMaps and Secrets, emptyDirs, checks of hostPaths, and the mounts
//! that containers get of them.
//!
//! A pod's durable volumes live in `ROOT/pods/UID/volumes`, so that an emptyDir survives a reboot as it
//! does with kubelet; Secrets and memory-backed ones live on a tmpfs below the run root. All of it goes
//! with the pod. PersistentVolumeClaims are engine volumes and stay.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use thiserror::Error;

use crate::engine::container::spec::{Mount, MountSource};
use crate::engine::host::{HostError, mount};
use crate::engine::id::{InvalidName, VolumeName};
use crate::reconcile::desired::{DesiredContainer, DesiredPod, DesiredVolume, HostPathKind, VolumeFile};

/// Why a volume can not be had. Its pod waits and tries again.
#[derive(Debug, Error)]
pub enum VolumeError {
    #[error("volume {volume}: {step} {path}")]
    Io { volume: String, step: &'static str, path: PathBuf, source: io::Error },
    #[error("volume {volume}: hostPath {path} is not a {wanted}")]
    WrongType { volume: String, path: PathBuf, wanted: &'static str },
    #[error("volume {volume}")]
    Host { volume: String, source: HostError },
    #[error("volume {volume}")]
    Name { volume: String, source: InvalidName },
    #[error("volume {volume} is mounted and not defined")]
    Undefined { volume: String },
}

/// Held while the tmpfs of all pods comes or goes.
static MEMORY: Mutex<()> = Mutex::new(());

/// Where one pod's volumes are.
#[derive(Debug, Clone)]
pub struct VolumeDirs {
    /// Survives a reboot.
    durable: PathBuf,
    /// On a tmpfs.
    volatile: PathBuf,
    /// The tmpfs of all pods.
    memory: PathBuf,
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    Directory {
        path: PathBuf,
        read_only: bool,
        /// Missing `subPath` directories are made.
        ours: bool,
    },
    File(PathBuf),
    Claim {
        name: VolumeName,
        read_only: bool,
    },
}

impl VolumeDirs {
    pub fn new(root: &Path, run_root: &Path, uid: &str) -> Self {
        let memory = run_root.join("reconcile").join("volumes");
        Self { durable: root.join("pods").join(uid), volatile: memory.join(uid), memory }
    }

    /// Log files of the pod's containers.
    pub fn logs(&self) -> PathBuf {
        self.durable.join("logs")
    }

    /// Makes every volume of `pod` be there; may be repeated, also after a crash or a reboot.
    pub fn prepare(&self, pod: &DesiredPod) -> Result<BTreeMap<String, Prepared>, VolumeError> {
        let volatile = pod.volumes.values().any(|volume| match volume {
            DesiredVolume::EmptyDir { memory, .. } => *memory,
            DesiredVolume::Files { secret, .. } => *secret,
            DesiredVolume::HostPath { .. } | DesiredVolume::Claim { .. } => false,
        });
        if volatile {
            let _memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
            self.ensure_memory()
                .map_err(|source| VolumeError::Host { volume: "of the pod".to_owned(), source })?;
        }
        let mut prepared = BTreeMap::new();
        for (name, volume) in &pod.volumes {
            prepared.insert(name.clone(), self.prepare_one(name, volume, pod.fs_group)?);
        }
        Ok(prepared)
    }

    fn prepare_one(
        &self,
        name: &str,
        volume: &DesiredVolume,
        fs_group: Option<u32>,
    ) -> Result<Prepared, VolumeError> {
        let failed = |step: &'static str, path: &Path| {
            let (volume, path) = (name.to_owned(), path.to_owned());
            move |source| VolumeError::Io { volume, step, path, source }
        };
        match volume {
            DesiredVolume::EmptyDir { memory: false, .. } => {
                let path = self.durable.join("volumes").join(name);
                make_dir(&path).map_err(failed("make", &path))?;
                share(&path, 0o777, fs_group).map_err(failed("set permissions of", &path))?;
                Ok(Prepared::Directory { path, read_only: false, ours: true })
            }
            DesiredVolume::EmptyDir { memory: true, size_limit_bytes } => {
                let path = self.volatile.join(name);
                make_dir(&path).map_err(failed("make", &path))?;
                let host = |source| VolumeError::Host { volume: name.to_owned(), source };
                if !mount::is_mount_point(&path).map_err(host)? {
                    mount::mount_tmpfs(&path, *size_limit_bytes, 0o777).map_err(host)?;
                    share(&path, 0o777, fs_group).map_err(failed("set permissions of", &path))?;
                }
                Ok(Prepared::Directory { path, read_only: false, ours: true })
            }
            DesiredVolume::Files { files, secret } => {
                let parent = if *secret { self.volatile.clone() } else { self.durable.join("volumes") };
                if *secret {
                    self.ensure_memory()
                        .map_err(|source| VolumeError::Host { volume: name.to_owned(), source })?;
                }
                let path = parent.join(name);
                make_dir(&path).map_err(failed("make", &path))?;
                write_files(&path, files, fs_group).map_err(failed("write files below", &path))?;
                Ok(Prepared::Directory { path, read_only: true, ours: false })
            }
            DesiredVolume::HostPath { path, kind } => host_path(name, path, *kind),
            DesiredVolume::Claim { volume, read_only } => {
                let claim = volume.parse();
                let claim = claim.map_err(|source| VolumeError::Name { volume: name.to_owned(), source })?;
                Ok(Prepared::Claim { name: claim, read_only: *read_only })
            }
        }
    }

    /// Secrets are never written to a disk: the run root usually is on a tmpfs, else one is mounted.
    /// Makes the pod's directory there, so that the tmpfs is in use from now on.
    fn ensure_memory(&self) -> Result<(), HostError> {
        let step = || format!("make {}", self.memory.display());
        let make = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| HostError::new(step(), error))
        };
        make(&self.memory)?;
        let kind = statfs(&self.memory).map_err(|error| HostError::new(step(), error))?.filesystem_type();
        if kind != TMPFS_MAGIC {
            mount::mount_tmpfs(&self.memory, None, 0o700)?;
        }
        make(&self.volatile)
    }

    /// Removes all of it, mounts first. Nothing there: nothing to do.
    pub fn remove(&self) -> io::Result<()> {
        mount::unmount_all(&self.volatile).map_err(|error| io::Error::other(error.to_string()))?;
        for dir in [&self.volatile, &self.durable] {
            match fs::remove_dir_all(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // The last pod takes the tmpfs with it.
        let _memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        if fs::read_dir(&self.memory).is_ok_and(|mut entries| entries.next().is_none())
            && mount::is_mount_point(&self.memory).unwrap_or(false)
        {
            let _ = mount::unmount(&self.memory);
        }
        Ok(())
    }

    /// Uids that have directories here, for the clean-up after a crash.
    pub fn known_uids(root: &Path, run_root: &Path) -> Vec<String> {
        let mut uids = Vec::new();
        for parent in [root.join("pods"), run_root.join("reconcile").join("volumes")] {
            let entries = fs::read_dir(parent).into_iter().flatten().flatten();
            uids.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        uids.sort();
        uids.dedup();
        uids
    }
}

/// The mounts of one container.
pub fn mounts(
    container: &DesiredContainer,
    prepared: &BTreeMap<String, Prepared>,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for volume_mount in &container.mounts {
        let volume = &volume_mount.volume;
        let Some(prepared) = prepared.get(volume) else {
            return Err(VolumeError::Undefined { volume: volume.clone() });
        };
        let sub_path = volume_mount.sub_path.as_deref().map(Path::new);
        let (source, read_only) = match prepared {
            Prepared::Directory { path, read_only, ours } => {
                let source = match sub_path {
                    None => MountSource::Bind(path.clone()),
                    Some(sub_path) => {
                        if *ours {
                            make_dirs_beneath(path, sub_path).map_err(|source| VolumeError::Io {
                                volume: volume.clone(),
                                step: "make subPath of",
                                path: path.clone(),
                                source,
                            })?;
                        }
                        MountSource::BindBeneath { base: path.clone(), path: sub_path.to_owned() }
                    }
                };
                (source, *read_only)
            }
            Prepared::File(path) => (MountSource::Bind(path.clone()), false),
            Prepared::Claim { name, read_only } => {
                let sub_path = sub_path.map(Path::to_owned);
                (MountSource::Volume { name: name.clone(), sub_path }, *read_only)
            }
        };
        mounts.push(Mount {
            destination: volume_mount.mount_path.clone(),
            source,
            read_only: read_only || volume_mount.read_only,
            options: vec![volume_mount.propagation.as_str().to_owned()],
        });
    }
    Ok(mounts)
}

/// Gives a claim's directory to the pod's `fsGroup`, unless its root already belongs to it (kubelet's
/// `OnRootMismatch`: a large volume is walked once).
pub fn share_claim(mountpoint: &Path, fs_group: u32) -> io::Result<()> {
    if fs::metadata(mountpoint)?.gid() == fs_group {
        return Ok(());
    }
    let mut pending = vec![mountpoint.to_owned()];
    let mut directories = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                chown(entry.path(), None, Some(fs_group))?;
                add_mode(&entry.path(), 0o660)?;
            }
        }
        directories.push(dir);
    }
    // The root last: it says that the walk was finished.
    for dir in directories.iter().rev() {
        chown(dir, None, Some(fs_group))?;
        add_mode(dir, 0o2770)?;
    }
    Ok(())
}

fn add_mode(path: &Path, bits: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | bits))
}

/// Parents are for root alone: what is inside is for the pod's containers, by mount.
fn make_dir(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn share(path: &Path, mode: u32, fs_group: Option<u32>) -> io::Result<()> {
    let mode = match fs_group {
        None => mode,
        Some(group) => {
            chown(path, None, Some(group))?;
            mode | 0o2000
        }
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The link that names the version in use, and how versions are called: both start with `..`, which
/// no file of a ConfigMap can. Applications know the name from kubelet and watch it.
const DATA_LINK: &str = "..data";

/// Writes all files as one: into a new directory, to which a link is then swapped. What was there stays
/// visible until the swap, and nothing is written if it is the same.
fn write_files(dir: &Path, files: &[VolumeFile], fs_group: Option<u32>) -> io::Result<()> {
    let link = dir.join(DATA_LINK);
    let current = fs::read_link(&link).ok();
    if current.as_ref().is_some_and(|current| holds(&dir.join(current), files)) {
        return Ok(());
    }
    let version = format!("..{}", &crate::reconcile::records::new_uid()[..13]);
    let target = dir.join(&version);
    fs::DirBuilder::new().mode(0o755).create(&target)?;
    for file in files {
        let path = target.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        fs::write(&path, &file.content)?;
        let mut mode = file.mode;
        if let Some(group) = fs_group {
            chown(&path, None, Some(group))?;
            mode |= 0o440;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let aside = dir.join("..data_tmp");
    let _ = fs::remove_file(&aside);
    symlink(&version, &aside)?;
    fs::rename(&aside, &link)?;
    link_names(dir, files)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

/// Exactly these files with this content are in `version`.
fn holds(version: &Path, files: &[VolumeFile]) -> bool {
    let same = |file: &VolumeFile| {
        let path = version.join(&file.path);
        fs::read(&path).is_ok_and(|content| content == file.content)
            && fs::metadata(&path)
                .is_ok_and(|metadata| metadata.mode() & 0o777 & file.mode == file.mode & 0o777)
    };
    files.iter().all(same) && count_files(version) == files.len()
}

fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

/// `name -> ..data/name` for each first component, and none that is no longer there.
fn link_names(dir: &Path, files: &[VolumeFile]) -> io::Result<()> {
    let first = |file: &VolumeFile| match Path::new(&file.path).components().next() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => None,
    };
    let names: std::collections::BTreeSet<_> = files.iter().filter_map(first).collect();
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"..") && !names.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        match symlink(Path::new(DATA_LINK).join(&name), dir.join(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn host_path(volume: &str, path: &Path, kind: HostPathKind) -> Result<Prepared, VolumeError> {
    let failed = |step: &'static str| {
        move |source| VolumeError::Io { volume: volume.to_owned(), step, path: path.to_owned(), source }
    };
    let create_dir =
        || fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make"));
    match kind {
        // What docker did and kubelet's runtimes still do: a missing path becomes a directory.
        HostPathKind::Unchecked if !path.exists() => create_dir()?,
        HostPathKind::DirectoryOrCreate if !path.exists() => create_dir()?,
        HostPathKind::FileOrCreate if !path.exists() => {
            fs::File::options()
                .create_new(true)
                .write(true)
                .open(path)
                .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
                .map_err(failed("make"))?;
        }
        HostPathKind::Unchecked
        | HostPathKind::DirectoryOrCreate
        | HostPathKind::Directory
        | HostPathKind::FileOrCreate
        | HostPathKind::File
        | HostPathKind::Socket
        | HostPathKind::CharDevice
        | HostPathKind::BlockDevice => {}
    }
    let found = fs::metadata(path).map_err(failed("look at"))?.file_type();
    let wanted = match kind {
        HostPathKind::Unchecked => None,
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (!found.is_dir()).then_some("directory"),
        HostPathKind::File | HostPathKind::FileOrCreate => (!found.is_file()).then_some("file"),
        HostPathKind::Socket => (!found.is_socket()).then_some("socket"),
        HostPathKind::CharDevice => (!found.is_char_device()).then_some("character device"),
        HostPathKind::BlockDevice => (!found.is_block_device()).then_some("block device"),
    };
    match wanted {
        Some(wanted) => {
            Err(VolumeError::WrongType { volume: volume.to_owned(), path: path.to_owned(), wanted })
        }
        None if found.is_dir() => {
            Ok(Prepared::Directory { path: path.to_owned(), read_only: false, ours: true })
        }
        None => Ok(Prepared::File(path.to_owned())),
    }
}

/// Makes the directories of `path` below `base` without ever leaving it: what is there may have been
/// written by a container that means harm.
fn make_dirs_beneath(base: &Path, path: &Path) -> io::Result<()> {
    let base = fs::File::open(base)?;
    let beneath = |path: &Path| {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH);
        openat2(&base, path, how)
    };
    match beneath(path) {
        Ok(_) => return Ok(()),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut walked = PathBuf::from(".");
    for component in path.components() {
        let name: &OsStr = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
        };
        let parent = beneath(&walked)?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        walked.push(name);
    }
    beneath(&walked)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> VolumeFile {
        VolumeFile { path: path.into(), content: content.into(), mode: 0o644 }
    }

    #[test]
    fn files_are_swapped_as_one_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        write_files(dir.path(), &[file("a", "1"), file("sub/b", "2")], None).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
        let first = fs::read_link(dir.path().join(DATA_LINK)).unwrap();
        write_files(dir.path(), &[file("a", "new")], None).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("new".into()), None));
        assert!(!dir.path().join(first).exists(), "the old version is removed");
        assert!(fs::symlink_metadata(dir.path().join("sub")).is_err(), "its names are removed");
    }

    #[test]
    fn the_same_files_are_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = [file("a", "1")];
        write_files(dir.path(), &files, None).unwrap();
        let version = fs::read_link(dir.path().join(DATA_LINK)).unwrap();
        write_files(dir.path(), &files, None).unwrap();
        assert_eq!(fs::read_link(dir.path().join(DATA_LINK)).unwrap(), version);
    }

    #[test]
    fn host_path_types_are_checked_and_missing_ones_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("dir")).unwrap();
        use HostPathKind as K;
        let rows: &[(&str, K, bool)] = &[
            ("dir", K::Directory, true),
            ("dir", K::File, false),
            ("file", K::File, true),
            ("file", K::Directory, false),
            ("file", K::Socket, false),
            ("file", K::CharDevice, false),
            ("file", K::BlockDevice, false),
            ("missing", K::Directory, false),
            ("missing", K::File, false),
            ("made-dir", K::DirectoryOrCreate, true),
            ("made-file", K::FileOrCreate, true),
            ("made", K::Unchecked, true),
        ];
        for (name, kind, ok) in rows {
            let got = host_path("v", &path(name), *kind);
            assert_eq!(got.is_ok(), *ok, "{name} as {kind:?}: {got:?}");
        }
        assert!(path("made-dir").is_dir() && path("made-file").is_file());
        assert!(!path("missing").exists());
    }

    #[test]
    fn sub_paths_never_leave_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        make_dirs_beneath(&base, Path::new("a/b/c")).unwrap();
        assert!(base.join("a/b/c").is_dir());
        symlink("../..", base.join("out")).unwrap();
        symlink("/", base.join("root")).unwrap();
        for hostile in ["out/made", "root/made", "../made"] {
            assert!(make_dirs_beneath(&base, Path::new(hostile)).is_err(), "{hostile}");
        }
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn everything_of_a_pod_is_removed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, run) = (dir.path().join("root"), dir.path().join("run"));
        let dirs = VolumeDirs::new(&root, &run, "uid-1");
        let volume = DesiredVolume::EmptyDir { memory: false, size_limit_bytes: None };
        let prepared = dirs.prepare_one("cache", &volume, None).unwrap();
        let Prepared::Directory { path, .. } = prepared else { panic!("{prepared:?}") };
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(VolumeDirs::known_uids(&root, &run), ["uid-1"]);
        dirs.remove().unwrap();
        dirs.remove().unwrap();
        assert!(VolumeDirs::known_uids(&root, &run).is_empty());
    }
}
