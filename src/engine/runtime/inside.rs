//! Paths inside a root file system whose contents are hostile.
//!
//! An image may hold any symlink. Every path is resolved by the kernel with the container's root as root
//! (`RESOLVE_IN_ROOT`) and without the magic links of procfs; what comes back is a descriptor, and only that is
//! used afterwards.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};

use crate::engine::host::{HostError, Result, Step as _};

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Directory,
    File,
}

/// Opens `path` inside `root`.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    retry(|| openat2(root, path, how))
}

/// The same, for a path that must not lead over any symlink.
pub fn open_strict(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    retry(|| openat2(root, path, how))
}

/// Opens `path` below `base` without ever leaving it: links that lead out are refused, not reinterpreted.
pub fn open_beneath(base: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    retry(|| openat2(base, path, how))
}

/// A handle (`O_PATH`) on `path` inside `root`, made if missing, with its parents. A dangling symlink leads to
/// where it points, inside.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<OwnedFd> {
    let step = || format!("make {} in the root file system", path.display());
    match open(root, path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => {}
        other => return other.step(step),
    }
    walk(root, path, missing).step(step)
}

/// A handle on the directory that holds `path`, made if missing, and the last component.
pub fn ensure_parent(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, OsString)> {
    let name = path
        .file_name()
        .ok_or_else(|| HostError::new(format!("{} names no file", path.display()), Errno::EINVAL))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((ensure(root, parent, Missing::Directory)?, name.to_owned()))
}

pub fn is_directory(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(kind(&fstat(fd)?) == SFlag::S_IFDIR)
}

pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Component by component, since what is missing must be made on the way.
fn walk(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> nix::Result<OwnedFd> {
    /// As the kernel's own limit.
    const MAX_LINKS: usize = 40;
    let mut todo: VecDeque<OsString> = parts(path);
    // Resolved so far, without symlinks and without `..`.
    let mut done = PathBuf::from("/");
    let mut links = 0;
    let mut here = open(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            done.pop();
            here = open(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            continue;
        }
        let next = done.join(&part);
        let opened = match open(root, &next, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Err(Errno::ENOENT) => {
                make(here.as_fd(), &part, if todo.is_empty() { missing } else { Missing::Directory })?;
                open(root, &next, OFlag::O_PATH | OFlag::O_NOFOLLOW)?
            }
            other => other?,
        };
        if kind(&fstat(&opened)?) == SFlag::S_IFLNK {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = PathBuf::from(readlinkat(&opened, OsStr::new(""))?);
            if target.is_absolute() {
                done = PathBuf::from("/");
                here = open(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        done = next;
        here = opened;
    }
    Ok(here)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn make(dir: BorrowedFd<'_>, name: &OsStr, what: Missing) -> nix::Result<()> {
    debug_assert!(!name.as_bytes().contains(&b'/'));
    let made = match what {
        Missing::Directory => mkdirat(dir, name, Mode::from_bits_truncate(0o755)),
        Missing::File => mknodat(dir, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
    };
    match made {
        // Somebody else was faster, which the caller's next step judges.
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

/// EAGAIN: something was renamed meanwhile, so that the kernel could not tell whether the path stays inside.
fn retry(mut open: impl FnMut() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    for _ in 0..128 {
        match open() {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_ever_made_outside() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        symlink("/../../escape", root.join("absolute")).unwrap();
        symlink("../../../escape", root.join("etc/relative")).unwrap();
        symlink(outside.path(), root.join("host")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = File::open(&root).unwrap();
        ensure(fd.as_fd(), Path::new("/absolute/a"), Missing::File).unwrap();
        ensure(fd.as_fd(), Path::new("/etc/relative/d"), Missing::File).unwrap();
        ensure(fd.as_fd(), Path::new("/host/b"), Missing::Directory).unwrap();
        ensure(fd.as_fd(), Path::new("/../../c"), Missing::File).unwrap();
        assert!(ensure(fd.as_fd(), Path::new("/loop/x"), Missing::File).is_err());
        assert!(root.join("escape/a").is_file() && root.join("escape/d").is_file());
        assert!(root.join("c").is_file());
        assert!(root.join(outside.path().strip_prefix("/").unwrap()).join("b").is_dir());
        let left: Vec<_> =
            fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["root"]);
    }

    #[test]
    fn a_dangling_link_is_made_where_it_points() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("../run/systemd/resolve/stub.conf", root.path().join("etc/resolv.conf")).unwrap();
        let fd = File::open(root.path()).unwrap();
        ensure(fd.as_fd(), Path::new("/etc/resolv.conf"), Missing::File).unwrap();
        assert!(root.path().join("run/systemd/resolve/stub.conf").is_file());
    }

    #[test]
    fn beneath_refuses_what_leads_out() {
        let base = tempfile::tempdir().unwrap();
        symlink("/etc", base.path().join("out")).unwrap();
        fs::create_dir(base.path().join("in")).unwrap();
        let fd = File::open(base.path()).unwrap();
        let path = |path: &str| open_beneath(fd.as_fd(), Path::new(path), OFlag::O_PATH);
        assert!(path("in").is_ok());
        assert_eq!(path("out").unwrap_err(), Errno::EXDEV);
        assert_eq!(path("in/../..").unwrap_err(), Errno::EXDEV);
        assert_eq!(path("/etc").unwrap_err(), Errno::EXDEV);
    }
}
