//! Reads a manifest directory once, consistently. Decides nothing about what it reads.
//!
//! Directories are replaced under our feet: git-sync swaps the symlink that is the directory, a mounted
//! ConfigMap swaps `..data` inside of it, editors rename files into place. So everything is opened
//! beneath one directory descriptor, and afterwards looked at again from the path: unless each file is
//! still the one that was read, the pass is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::{Context, SourceFiles};
use crate::reconcile::desired::{SourceHealth, SourceName};

/// Larger files are refused: no manifest is, and whatever it is has to be held in memory several times.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
const MAX_TOTAL_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 8;
/// Passes until a directory that changes all the time is given up.
const MAX_PASSES: usize = 5;

/// Image archives for air-gapped nodes; not a stack.
const IMAGES_DIRECTORY: &str = "images";

/// Everything in `directory` that counts as a manifest: `*.yaml`, `*.yml`, `*.json`, no dot files. Never
/// fails: a file that can not be read is a value, and a directory that can not be trusted (missing,
/// empty, changing all the time) is held.
pub fn read_directory(directory: &Path) -> SourceFiles {
    read_repeatedly(directory, &mut || {})
}

/// `after_pass` is called between reading and looking again; tests change the directory there.
fn read_repeatedly(directory: &Path, after_pass: &mut dyn FnMut()) -> SourceFiles {
    let held = |cause: String| SourceFiles {
        source: SourceName::Directory(directory.to_owned()),
        health: SourceHealth::Held { cause },
        files: BTreeMap::new(),
        empty_directories: BTreeSet::new(),
    };
    for _ in 0..MAX_PASSES {
        let mut reading = Pass { read_content: true, ..Pass::default() };
        let outcome = reading.walk_root(directory);
        after_pass();
        let mut again = Pass::default();
        let repeated = again.walk_root(directory);
        if let (Err(cause), Err(_)) = (&outcome, &repeated) {
            return held(cause.clone());
        }
        if outcome.is_err() || repeated.is_err() || reading.stamps != again.stamps {
            continue;
        }
        if reading.files.is_empty() && reading.empty_directories.is_empty() {
            return held(
                "it holds no manifest; to remove everything on purpose, leave a file with \
                 `{apiVersion: v1, kind: List, items: []}`"
                    .to_owned(),
            );
        }
        return SourceFiles {
            source: SourceName::Directory(directory.to_owned()),
            health: SourceHealth::Read,
            files: reading.files,
            empty_directories: reading.empty_directories,
        };
    }
    held("it changes all the time while being read".to_owned())
}

impl Context {
    /// Of the machine we run on.
    pub fn of_this_machine() -> Self {
        let node_name = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into())
            .to_lowercase();
        let memory_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))
                .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        });
        Self {
            node_name,
            memory_bytes: memory_kib.unwrap_or(1 << 20) * 1024,
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
        }
    }
}

/// What makes one state of a file different from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Default)]
struct Pass {
    /// Otherwise only stamps are taken.
    read_content: bool,
    files: BTreeMap<PathBuf, Result<Arc<[u8]>, String>>,
    empty_directories: BTreeSet<String>,
    /// `None`: it could not even be looked at.
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    total_bytes: u64,
}

impl Pass {
    fn walk_root(&mut self, directory: &Path) -> Result<(), String> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(directory, flags, Mode::empty()).map_err(|error| match error {
            Errno::ENOENT => "it does not exist".to_owned(),
            error => format!("it can not be opened: {}", error.desc()),
        })?;
        self.walk(&root, Path::new(""), 0).map(drop)
    }

    /// Returns whether the directory has any entry at all.
    fn walk(&mut self, directory: &OwnedFd, path: &Path, depth: usize) -> Result<bool, String> {
        if depth > MAX_DEPTH {
            return Err(format!("{} is nested more than {MAX_DEPTH} levels deep", path.display()));
        }
        let mut names = list(directory).map_err(|error| format!("it can not be listed: {}", error.desc()))?;
        names.sort();
        for name in &names {
            let name = OsStr::from_bytes(name);
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let path = path.join(name);
            match fstatat(directory, name, AtFlags::empty()) {
                Ok(stat) if is(&stat, SFlag::S_IFDIR) => {
                    if depth > 0 || name != IMAGES_DIRECTORY {
                        self.enter(directory, name, &path, depth, &stat)?;
                    }
                }
                Ok(stat) if is_manifest(name) => self.visit(directory, name, path, &stat)?,
                Err(error) if is_manifest(name) => {
                    self.files.insert(path.clone(), Err(format!("can not be read: {}", error.desc())));
                    self.stamps.insert(path, None);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(!names.is_empty())
    }

    fn enter(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        depth: usize,
        stat: &FileStat,
    ) -> Result<(), String> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // Of directories only the identity counts: their times change with every editor's dropping.
        self.stamps.insert(
            path.to_owned(),
            Some(Stamp { size: 0, modified: (0, 0), changed: (0, 0), ..Stamp::of(stat) }),
        );
        match openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => {
                let filled = self.walk(&directory, path, depth + 1)?;
                if !filled && depth == 0 {
                    self.empty_directories.insert(path.display().to_string());
                }
            }
            Err(error) => {
                self.files.insert(path.to_owned(), Err(format!("can not be opened: {}", error.desc())));
            }
        }
        Ok(())
    }

    fn visit(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: PathBuf,
        stat: &FileStat,
    ) -> Result<(), String> {
        if self.files.len() + 1 > MAX_FILES {
            return Err(format!("it holds more than {MAX_FILES} manifests"));
        }
        if !self.read_content {
            self.stamps.insert(path, Some(Stamp::of(stat)));
            return Ok(());
        }
        let (content, stamp) = match read_file(directory, name) {
            Ok((content, stat)) => (content.map(Arc::from), Some(Stamp::of(&stat))),
            Err(error) => (Err(format!("can not be read: {}", error.desc())), Some(Stamp::of(stat))),
        };
        self.total_bytes += content.as_ref().map_or(0, |bytes: &Arc<[u8]>| bytes.len() as u64);
        if self.total_bytes > MAX_TOTAL_BYTES {
            return Err(format!("it holds more than {} MiB of manifests", MAX_TOTAL_BYTES >> 20));
        }
        self.stamps.insert(path.clone(), stamp);
        self.files.insert(path, content);
        Ok(())
    }
}

/// The content, or what is wrong with the file as such; and what was read, exactly.
fn read_file(directory: &OwnedFd, name: &OsStr) -> Result<(Result<Vec<u8>, String>, FileStat), Errno> {
    // Without O_NONBLOCK, a FIFO called `web.yaml` would hold us up for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut file = File::from(openat(directory, name, flags, Mode::empty())?);
    let stat = fstat(file.as_fd())?;
    if !is(&stat, SFlag::S_IFREG) {
        return Ok((Err("is not a regular file".into()), stat));
    }
    let too_large = |bytes: u64| format!("has {bytes} bytes: more than {} MiB", MAX_FILE_BYTES >> 20);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > MAX_FILE_BYTES {
        return Ok((Err(too_large(size)), stat));
    }
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    if let Err(error) = file.by_ref().take(MAX_FILE_BYTES + 1).read_to_end(&mut content) {
        return Ok((Err(format!("can not be read: {error}")), stat));
    }
    if content.len() as u64 > MAX_FILE_BYTES {
        return Ok((Err(too_large(content.len() as u64)), stat));
    }
    Ok((Ok(content), stat))
}

fn list(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(directory, ".", flags, Mode::empty())?;
    entries
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .filter(|name| !matches!(name.as_deref(), Ok(b"." | b"..")))
        .collect()
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
}

impl Stamp {
    fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(found: &SourceFiles) -> Vec<String> {
        found.files.keys().map(|path| path.display().to_string()).collect()
    }

    fn content<'f>(found: &'f SourceFiles, path: &str) -> &'f str {
        std::str::from_utf8(found.files[Path::new(path)].as_ref().unwrap()).unwrap()
    }

    fn cause(found: &SourceFiles) -> &str {
        match &found.health {
            SourceHealth::Held { cause } => cause,
            SourceHealth::Read => panic!("not held: {:?}", found.files),
        }
    }

    #[test]
    fn manifests_are_read_and_droppings_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yml", "c.json", "README.md", ".hidden.yaml", "a.yaml~", "#a.yaml#", "a.swp"]
        {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir_all(dir.path().join("shop/deep")).unwrap();
        fs::create_dir_all(dir.path().join("images")).unwrap();
        fs::create_dir_all(dir.path().join("void")).unwrap();
        fs::write(dir.path().join("shop/deep/x.yaml"), "x").unwrap();
        fs::write(dir.path().join("images/not-a-stack.json"), "x").unwrap();
        let found = read_directory(dir.path());
        assert_eq!(found.health, SourceHealth::Read);
        assert_eq!(names(&found), ["a.yaml", "b.yml", "c.json", "shop/deep/x.yaml"]);
        assert_eq!(content(&found, "a.yaml"), "a.yaml");
        assert_eq!(found.empty_directories, BTreeSet::from(["void".to_owned()]));
    }

    #[test]
    fn a_missing_or_empty_directory_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert!(cause(&read_directory(&dir.path().join("nowhere"))).contains("does not exist"));
        assert!(cause(&read_directory(dir.path())).contains("holds no manifest"));
        fs::write(dir.path().join("README"), "only words").unwrap();
        assert!(cause(&read_directory(dir.path())).contains("holds no manifest"));
        assert!(cause(&read_directory(&dir.path().join("README"))).contains("can not be opened"));
    }

    #[test]
    fn what_can_not_be_read_is_an_error_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("good.yaml"), "fine").unwrap();
        fs::write(dir.path().join("big.yaml"), vec![b'#'; 10 << 20]).unwrap();
        symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo.yaml"), Mode::S_IRWXU).unwrap();
        let found = read_directory(dir.path());
        assert_eq!(content(&found, "good.yaml"), "fine");
        for (name, want) in [
            ("big.yaml", "has 10485760 bytes: more than 4 MiB"),
            ("dangling.yaml", "can not be read: No such file or directory"),
            ("fifo.yaml", "is not a regular file"),
        ] {
            assert_eq!(found.files[Path::new(name)].as_ref().unwrap_err(), want);
        }
    }

    #[test]
    fn a_file_we_may_not_read_is_an_error_of_its_own() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(dir.path().join("good.yaml"), "fine").unwrap();
        fs::write(dir.path().join("closed.yaml"), "secret").unwrap();
        fs::create_dir(dir.path().join("shop")).unwrap();
        allow(dir.path(), 0o755);
        allow(&dir.path().join("good.yaml"), 0o644);
        allow(&dir.path().join("closed.yaml"), 0);
        allow(&dir.path().join("shop"), 0);
        let path = dir.path().to_owned();
        // Root may read everything. This is a matter of the thread, which ends.
        let found = std::thread::spawn(move || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            read_directory(&path)
        })
        .join()
        .unwrap();
        assert_eq!(content(&found, "good.yaml"), "fine");
        for (name, want) in [
            ("closed.yaml", "can not be read: Permission denied"),
            ("shop", "can not be opened: Permission denied"),
        ] {
            assert_eq!(found.files[Path::new(name)].as_ref().unwrap_err(), want);
        }
    }

    #[test]
    fn a_swapped_symlink_is_read_from_one_side_only() {
        let dir = tempfile::tempdir().unwrap();
        for (tree, text) in [("one", "old"), ("two", "new")] {
            fs::create_dir(dir.path().join(tree)).unwrap();
            for name in ["a.yaml", "b.yaml"] {
                fs::write(dir.path().join(tree).join(name), text).unwrap();
            }
        }
        let link = dir.path().join("current");
        symlink("one", &link).unwrap();
        let mut swaps = 0;
        let found = read_repeatedly(&link, &mut || {
            if swaps == 0 {
                symlink("two", dir.path().join("next")).unwrap();
                fs::rename(dir.path().join("next"), &link).unwrap();
                fs::remove_dir_all(dir.path().join("one")).unwrap();
            }
            swaps += 1;
        });
        assert_eq!((content(&found, "a.yaml"), content(&found, "b.yaml")), ("new", "new"));
        assert_eq!(found.source, SourceName::Directory(link));
        assert_eq!(swaps, 2);
    }

    #[test]
    fn a_config_map_mount_that_is_updated_meanwhile_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for (tree, text) in [("..2024", "old"), ("..2025", "new")] {
            fs::create_dir(dir.path().join(tree)).unwrap();
            fs::write(dir.path().join(tree).join("web.yaml"), text).unwrap();
        }
        symlink("..2024", dir.path().join("..data")).unwrap();
        symlink("..data/web.yaml", dir.path().join("web.yaml")).unwrap();
        assert_eq!(content(&read_directory(dir.path()), "web.yaml"), "old");
        let found = read_repeatedly(dir.path(), &mut || {
            symlink("..2025", dir.path().join("..tmp")).unwrap();
            fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        });
        assert_eq!(content(&found, "web.yaml"), "new");
        assert_eq!(names(&found), ["web.yaml"]);
    }

    #[test]
    fn a_directory_that_never_rests_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "0").unwrap();
        let mut text = String::from("0");
        let found = read_repeatedly(dir.path(), &mut || {
            text.push('x');
            fs::write(&file, &text).unwrap();
        });
        assert!(cause(&found).contains("changes all the time"));
    }
}
