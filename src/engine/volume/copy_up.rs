//! The first use of a volume: what the image has at its place is copied into it, as podman and docker do.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{self as unix_fs, DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use crate::engine::rootfs::{Found, MergedDir, MergedTree, kind, magic_path, open_file};

/// Deeper trees are refused rather than followed to the end of the stack.
const MAX_DEPTH: usize = 256;

/// Fills the empty directory `data` (a volume's `_data`) with what `tree` has at `path`.
///
/// Everything is written beside it, synced, and takes its place by one rename: a crash leaves an empty
/// volume or a complete one. Without anything at `path` the volume gets `owner`, the container's user.
pub fn copy_up(tree: &MergedTree, path: &Path, data: &Path, owner: (u32, u32)) -> io::Result<()> {
    if fs::read_dir(data)?.next().is_some() {
        return Ok(());
    }
    let Some(Found::Directory(source)) = tree.find(path)? else {
        return chown(data, owner.0, owner.1);
    };
    let staging = data.with_file_name("_data.new");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&staging)?;
    let copied = Copy { links: HashMap::new() }.directory(&source, &staging, 0);
    let finished = copied.and_then(|()| {
        nix::unistd::syncfs(File::open(&staging)?)?;
        fs::rename(&staging, data)?;
        File::open(data.parent().unwrap_or(data))?.sync_all()
    });
    if finished.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_dir_all(&staging);
    }
    finished
}

struct Copy {
    /// First copy of a file with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, source: &MergedDir, target: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!("{} is nested too deeply", target.display())));
        }
        for name in source.names()? {
            match source.find(&name)? {
                None => {}
                Some(Found::Directory(directory)) => {
                    let target = target.join(&name);
                    fs::DirBuilder::new().mode(0o700).create(&target)?;
                    self.directory(&directory, &target, depth + 1)?;
                }
                Some(Found::Other { parent, name, stat }) => {
                    self.other(&parent, &name, &stat, &target.join(&name))?;
                }
            }
        }
        if let Some(top) = source.top() {
            copy_attributes(&magic_path(top), target)?;
            copy_ownership(&fstat(top)?, target)?;
        }
        Ok(())
    }

    fn other(&mut self, parent: &File, name: &OsStr, stat: &FileStat, target: &Path) -> io::Result<()> {
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&inode)
        {
            return fs::hard_link(first, target);
        }
        match kind(stat) {
            SFlag::S_IFREG => {
                let mut from = open_file(parent, name)?;
                let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
                io::copy(&mut from, &mut to)?;
                copy_attributes(&magic_path(&from), target)?;
            }
            SFlag::S_IFLNK => unix_fs::symlink(readlinkat(parent, name)?, target)?,
            SFlag::S_IFIFO => nix::unistd::mkfifo(target, Mode::S_IRUSR | Mode::S_IWUSR)?,
            // Volumes are mounted nodev; a socket without its server is nothing.
            _ => return Ok(()),
        }
        copy_ownership(stat, target)?;
        if stat.st_nlink > 1 {
            self.links.insert(inode, target.to_owned());
        }
        Ok(())
    }
}

/// Extended attributes but overlayfs's own marks.
fn copy_attributes(source: &Path, target: &Path) -> io::Result<()> {
    for name in xattr::list_deref(source)? {
        if name.to_string_lossy().starts_with("trusted.overlay.") {
            continue;
        }
        if let Some(value) = xattr::get_deref(source, &name)? {
            xattr::set(target, &name, &value)?;
        }
    }
    Ok(())
}

/// Owner, then mode (a change of owner clears set-id bits), then times.
fn copy_ownership(stat: &FileStat, target: &Path) -> io::Result<()> {
    chown(target, stat.st_uid, stat.st_gid)?;
    if kind(stat) != SFlag::S_IFLNK {
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        fchmodat(AT_FDCWD, target, mode, FchmodatFlags::FollowSymlink)?;
    }
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    utimensat(AT_FDCWD, target, &modified, &modified, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    fchownat(
        AT_FDCWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    struct Case {
        dir: tempfile::TempDir,
        tree: MergedTree,
    }

    impl Case {
        fn data(&self) -> PathBuf {
            self.dir.path().join("volume/_data")
        }
    }

    /// Two layers; the upper one hides one file, adds one and links to it.
    fn case() -> Case {
        let dir = tempfile::TempDir::new().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        fs::create_dir_all(upper.join("srv/www")).unwrap();
        fs::create_dir_all(lower.join("srv/www/deep")).unwrap();
        fs::create_dir_all(dir.path().join("volume/_data")).unwrap();
        fs::write(lower.join("srv/www/both"), "lower").unwrap();
        fs::write(upper.join("srv/www/both"), "upper").unwrap();
        fs::write(lower.join("srv/www/hidden"), "x").unwrap();
        nix::sys::stat::mknod(&upper.join("srv/www/hidden"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        fs::write(lower.join("srv/www/deep/file"), "deep").unwrap();
        fs::hard_link(lower.join("srv/www/deep/file"), lower.join("srv/www/deep/same")).unwrap();
        unix_fs::symlink("/etc/passwd", upper.join("srv/www/link")).unwrap();
        unix_fs::symlink("srv", upper.join("alias")).unwrap();
        fs::set_permissions(upper.join("srv/www"), fs::Permissions::from_mode(0o1771)).unwrap();
        chown(&upper.join("srv/www"), 33, 34).unwrap();
        fs::set_permissions(upper.join("srv/www/both"), fs::Permissions::from_mode(0o4750)).unwrap();
        let tree = MergedTree::open(&[upper, lower]).unwrap();
        Case { dir, tree }
    }

    #[test]
    fn node_copies_the_merged_directory_with_its_ownership() {
        for path in ["/srv/www", "/alias/www"] {
            let case = case();
            copy_up(&case.tree, Path::new(path), &case.data(), (7, 8)).unwrap();
            let data = case.data();
            let meta = fs::metadata(&data).unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (33, 34, 0o1771));
            assert_eq!(fs::read_to_string(data.join("both")).unwrap(), "upper");
            assert_eq!(fs::metadata(data.join("both")).unwrap().mode() & 0o7777, 0o4750);
            assert!(!data.join("hidden").exists());
            assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
            let (file, same) = (data.join("deep/file"), data.join("deep/same"));
            assert_eq!(fs::metadata(file).unwrap().ino(), fs::metadata(same).unwrap().ino());
            assert!(!data.with_file_name("_data.new").exists());
        }
    }

    #[test]
    fn node_a_volume_with_content_is_left_alone() {
        let case = case();
        fs::write(case.data().join("mine"), "x").unwrap();
        copy_up(&case.tree, Path::new("/srv/www"), &case.data(), (7, 8)).unwrap();
        assert_eq!(fs::read_dir(case.data()).unwrap().count(), 1);
    }

    #[test]
    fn node_without_a_directory_in_the_image_the_user_gets_the_volume() {
        let case = case();
        copy_up(&case.tree, Path::new("/nowhere"), &case.data(), (7, 8)).unwrap();
        let meta = fs::metadata(case.data()).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (7, 8));
    }

    #[test]
    fn node_leftovers_of_a_crash_are_replaced() {
        let case = case();
        fs::create_dir_all(case.data().with_file_name("_data.new").join("half")).unwrap();
        copy_up(&case.tree, Path::new("/srv/www"), &case.data(), (0, 0)).unwrap();
        assert!(!case.data().join("half").exists());
        assert!(case.data().join("both").exists());
    }
}
