//! Paths below a directory that someone hostile may write to.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Opens (as `O_PATH`) what `path` leads to, never leaving `base`: a symbolic link that points out of it is
/// refused. Directories that are missing are made, as kubelet does for `subPath`.
///
/// The descriptor names the object itself: whatever is renamed or linked afterwards, it stays the one that
/// was checked.
pub fn open_beneath(base: &Path, path: &Path) -> io::Result<File> {
    let root = File::from(nix::fcntl::open(
        base,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?);
    let mut here = root.try_clone()?;
    let mut walked = std::path::PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => continue,
            Component::Normal(name) => walked.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} must not contain '..'", path.display()),
                ));
            }
        }
        // From the root each time: a link inside may lead up, as long as it stays beneath.
        here = match open(&root, &walked) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                let name = walked.file_name().unwrap_or(OsStr::new(""));
                match mkdirat(&here, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open(&root, &walked).map_err(|errno| outside(errno, path))?
            }
            Err(errno) => return Err(outside(errno, path)),
        };
    }
    Ok(here)
}

fn open(root: &File, path: &Path) -> nix::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: something was renamed while the kernel looked; it asks to try again.
    for _ in 0..16 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            result => return result.map(File::from),
        }
    }
    Err(Errno::EAGAIN)
}

fn outside(errno: Errno, path: &Path) -> io::Error {
    match errno {
        Errno::EXDEV | Errno::ELOOP => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} leads out of its volume", path.display()),
        ),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_stay_beneath_their_base() {
        let dir = tempfile::TempDir::new().unwrap();
        let base = dir.path().join("base");
        fs::create_dir_all(base.join("a/b")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(base.join("file"), "x").unwrap();
        symlink("../outside", base.join("up")).unwrap();
        symlink(dir.path().join("outside"), base.join("absolute")).unwrap();
        symlink("a/b", base.join("inside")).unwrap();
        symlink("../../file", base.join("a/b/back")).unwrap();
        symlink("nowhere", base.join("dangling")).unwrap();

        for good in ["", "a/b", "/a/b", "./a", "file", "inside", "inside/back", "new/deep/er"] {
            open_beneath(&base, Path::new(good)).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        assert!(base.join("new/deep/er").is_dir());
        for bad in ["..", "a/../..", "up", "absolute", "up/x", "absolute/x", "file/x", "dangling"] {
            assert!(open_beneath(&base, Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }
}
