//! Filling a new tmpfs with what it is about to cover: runc's and podman's `tmpcopyup`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use super::inside;
use crate::engine::host::{Result, Step as _};

/// Deeper trees are left out rather than followed for ever.
const MAX_DEPTH: usize = 64;

/// Copies regular files, directories and symlinks with owner and mode; other things stay behind.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let step = || "copy what the tmpfs covers".to_owned();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let from = inside::open_strict(from, Path::new("."), flags).step(step)?;
    copy_dir(from.as_fd(), to, 0).step(step)
}

fn copy_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    let mut listing =
        Dir::openat(from, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        let nofollow = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match inside::kind(&stat) {
            SFlag::S_IFDIR if depth < MAX_DEPTH => {
                mkdirat(to, name, mode)?;
                let inner_from =
                    openat(from, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | nofollow, Mode::empty())?;
                let inner_to =
                    openat(to, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | nofollow, Mode::empty())?;
                copy_dir(inner_from.as_fd(), inner_to.as_fd(), depth + 1)?;
                fchown(&inner_to, uid, gid)?;
                fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)?;
            }
            SFlag::S_IFREG => {
                let mut source: File = openat(from, name, OFlag::O_RDONLY | nofollow, Mode::empty())?.into();
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | nofollow;
                let mut target: File = openat(to, name, flags, mode)?.into();
                io::copy(&mut source, &mut target)?;
                fchown(&target, uid, gid)?;
                fchmod(&target, mode)?;
            }
            SFlag::S_IFLNK => {
                let link = readlinkat(from, name)?;
                symlinkat(link.as_os_str(), to, name)?;
                fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}
