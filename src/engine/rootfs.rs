//! An image's file system read without mounting it: overlayfs's rules, applied to the layer directories.
//!
//! The content is a stranger's. Every step is one name looked up in an open directory, symbolic links are
//! followed by hand and never leave the tree, nothing but regular files is opened for reading.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// The layers of one root file system, topmost first.
pub struct MergedTree {
    layers: Vec<File>,
}

/// A directory of the merged tree: those of the layers that make it up, topmost first.
pub struct MergedDir {
    parts: Vec<File>,
}

/// What a path leads to.
pub enum Found {
    Directory(MergedDir),
    /// Anything else: the directory part it is in, and its name there.
    Other {
        parent: File,
        name: OsString,
        stat: FileStat,
    },
}

impl MergedTree {
    /// A layer that does not exist (an upper directory before the first start) is as good as empty.
    pub fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let mut open = Vec::with_capacity(layers.len());
        for layer in layers {
            match open_directory(nix::fcntl::AT_FDCWD, layer.as_os_str()) {
                Ok(directory) => open.push(directory),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self { layers: open })
    }

    /// Reads the regular file at `path`, through symbolic links; `None` if there is none.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(Found::Other { parent, name, stat }) = self.find(path)? else { return Ok(None) };
        if kind(&stat) != SFlag::S_IFREG {
            return Ok(None);
        }
        if stat.st_size as u64 > limit_bytes {
            return Err(io::Error::other(format!(
                "{} in the image is larger than {limit_bytes} bytes",
                path.display()
            )));
        }
        let file = open_file(&parent, &name)?;
        let mut content = Vec::new();
        file.take(limit_bytes).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Follows `path` from the root, through symbolic links. `None` if it leads nowhere.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut todo: VecDeque<OsString> = components(path);
        // The way from the root to here, so that `..` is a step back and never a step out.
        let mut way = vec![self.root()?];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().expect("the root is never popped");
            match here.find(&name)? {
                None => return Ok(None),
                Some(Found::Directory(directory)) => way.push(directory),
                Some(Found::Other { parent, name, stat }) if kind(&stat) == SFlag::S_IFLNK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = PathBuf::from(readlinkat(&parent, name.as_os_str())?);
                    if target.is_absolute() {
                        way.truncate(1);
                    }
                    let mut rest = components(&target);
                    rest.append(&mut todo);
                    todo = rest;
                }
                Some(other) if todo.is_empty() => return Ok(Some(other)),
                Some(_) => return Ok(None),
            }
        }
        Ok(way.pop().map(Found::Directory))
    }

    fn root(&self) -> io::Result<MergedDir> {
        let parts = self.layers.iter().map(File::try_clone).collect::<io::Result<_>>()?;
        Ok(MergedDir { parts })
    }
}

impl MergedDir {
    /// The topmost part: its owner and mode are the directory's.
    pub fn top(&self) -> Option<&File> {
        self.parts.first()
    }

    /// Looks up one name.
    pub fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let stat = match fstatat(part, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if is_whiteout(&stat) {
                break;
            }
            if kind(&stat) != SFlag::S_IFDIR {
                if parts.is_empty() {
                    return Ok(Some(Found::Other { parent: part.try_clone()?, name: name.to_owned(), stat }));
                }
                break;
            }
            let directory = open_directory(part, name)?;
            let opaque = is_opaque(&directory)?;
            parts.push(directory);
            if opaque {
                break;
            }
        }
        Ok((!parts.is_empty()).then_some(Found::Directory(Self { parts })))
    }

    /// The names in it that are not whited out, in order.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for part in &self.parts {
            let mut directory = Dir::openat(part, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            for entry in directory.iter() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let name = OsString::from_vec(name.to_vec());
                if names.contains_key(&name) {
                    continue;
                }
                let visible = match fstatat(part, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => !is_whiteout(&stat),
                    Err(Errno::ENOENT) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                names.insert(name, visible);
            }
        }
        Ok(names.into_iter().filter_map(|(name, visible)| visible.then_some(name)).collect())
    }
}

pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Opens a regular file found in the tree. A name that has become something else by now is refused, and a
/// FIFO does not block.
pub fn open_file(parent: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

fn open_directory(at: impl AsFd, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty()).map(File::from)
}

/// overlayfs marks what a layer removed with a character device 0:0.
fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// An opaque directory hides everything the layers below have in it.
fn is_opaque(directory: &File) -> io::Result<bool> {
    use xattr::FileExt as _;
    Ok(directory.get_xattr("trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The path by which the kernel's path-taking calls reach an open file.
pub fn magic_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    /// Upper and lower directory.
    fn layers() -> (TempDir, PathBuf, PathBuf) {
        let dir = TempDir::new().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::create_dir_all(lower.join("etc")).unwrap();
        fs::write(lower.join("etc/passwd"), "lower").unwrap();
        (dir, upper, lower)
    }

    fn read(upper: &Path, lower: &Path, path: &str) -> io::Result<Option<String>> {
        let tree = MergedTree::open(&[upper.into(), "/does/not/exist".into(), lower.into()])?;
        Ok(tree.read(Path::new(path), 1000)?.map(|content| String::from_utf8(content).unwrap()))
    }

    #[test]
    fn upper_layers_hide_lower_ones() {
        let (_dir, upper, lower) = layers();
        assert_eq!(read(&upper, &lower, "/etc/passwd").unwrap().as_deref(), Some("lower"));
        fs::write(upper.join("etc/passwd"), "upper").unwrap();
        assert_eq!(read(&upper, &lower, "/etc/passwd").unwrap().as_deref(), Some("upper"));
        assert_eq!(read(&upper, &lower, "/etc/nothing").unwrap(), None);
        assert_eq!(read(&upper, &lower, "/etc").unwrap(), None, "a directory is no file");
        assert_eq!(read(&upper, &lower, "/etc/passwd/x").unwrap(), None);
    }

    #[test]
    fn links_stay_inside() {
        let (dir, upper, lower) = layers();
        fs::write(dir.path().join("secret"), "host").unwrap();
        symlink(dir.path().join("secret"), upper.join("absolute")).unwrap();
        symlink("../../../../../../../../etc/passwd", upper.join("up")).unwrap();
        symlink("up", upper.join("twice")).unwrap();
        symlink("loop", upper.join("loop")).unwrap();
        symlink("etc", upper.join("dir")).unwrap();
        assert_eq!(read(&upper, &lower, "/absolute").unwrap(), None);
        for path in ["/up", "/twice", "/dir/passwd", "/dir/../etc/passwd", "../etc/passwd"] {
            assert_eq!(read(&upper, &lower, path).unwrap().as_deref(), Some("lower"), "{path}");
        }
        assert!(read(&upper, &lower, "/loop").is_err());
    }

    #[test]
    fn large_files_and_special_files_are_not_read() {
        let (_dir, upper, lower) = layers();
        fs::write(upper.join("big"), vec![b'x'; 1001]).unwrap();
        assert!(
            read(&upper, &lower, "/big").unwrap_err().to_string().contains("/big in the image is larger")
        );
        nix::unistd::mkfifo(&upper.join("fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(read(&upper, &lower, "/fifo").unwrap(), None);
    }

    /// Needs root: whiteouts are devices, opaque marks are trusted attributes.
    #[test]
    fn node_whiteouts_and_opaque_directories_hide() {
        let (_dir, upper, lower) = layers();
        fs::write(lower.join("etc/group"), "lower").unwrap();
        let whiteout = upper.join("etc/passwd");
        nix::sys::stat::mknod(&whiteout, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        assert_eq!(read(&upper, &lower, "/etc/passwd").unwrap(), None);
        let tree = MergedTree::open(&[upper.clone(), lower.clone()]).unwrap();
        let Some(Found::Directory(etc)) = tree.find(Path::new("/etc")).unwrap() else {
            panic!("/etc is there")
        };
        assert_eq!(etc.names().unwrap(), ["group"]);
        xattr::set(upper.join("etc"), "trusted.overlay.opaque", b"y").unwrap();
        assert_eq!(read(&upper, &lower, "/etc/group").unwrap(), None);
    }
}
