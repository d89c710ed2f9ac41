//! A tar stream into a container.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};

use super::kind;
use crate::engine::host::in_root::open_in_root;
use crate::engine::image::layer::decompress;

#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Everything becomes the container's user's; otherwise owners are as in the archive.
    pub owned_by_user: bool,
    /// What is no directory does not replace one, nor the other way round.
    pub keep_kinds: bool,
    /// First parts of names, and what they become.
    pub renames: BTreeMap<String, String>,
}

pub fn unpack(
    root: &File,
    directory: &Path,
    archive: File,
    owner: Option<(u32, u32)>,
    options: &PutOptions,
) -> io::Result<()> {
    let mut target = Target { root, directory, owner, options, directories: Vec::new() };
    target.make_directories(Path::new(""))?;
    let input = decompress(BufReader::new(archive)).map_err(malformed)?;
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(malformed)? {
        target.entry(&mut entry.map_err(malformed)?)?;
    }
    target.finish()
}

fn malformed(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

struct Target<'a> {
    root: &'a File,
    directory: &'a Path,
    owner: Option<(u32, u32)>,
    options: &'a PutOptions,
    /// Their times are set last: what is put into them changes those.
    directories: Vec<(PathBuf, i64)>,
}

/// What an entry says of the object, whatever it is.
struct Metadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: TimeSpec,
}

impl Target<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let path = self.renamed(&inside(&entry.path().map_err(malformed)?)?);
        let header = entry.header().clone();
        let uid = u32::try_from(header.uid().map_err(malformed)?).map_err(|_| Errno::EINVAL)?;
        let gid = u32::try_from(header.gid().map_err(malformed)?).map_err(|_| Errno::EINVAL)?;
        let (uid, gid) = self.owner.unwrap_or((uid, gid));
        let seconds = i64::try_from(header.mtime().map_err(malformed)?).unwrap_or(i64::MAX);
        let metadata = Metadata {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            mode: Mode::from_bits_truncate(header.mode().map_err(malformed)? & 0o7777),
            mtime: TimeSpec::new(seconds, 0),
        };
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The directory itself: podman and docker leave it as it is.
            return Ok(());
        };
        let parent = self.make_directories(path.parent().unwrap_or(Path::new("")))?;
        match header.entry_type() {
            EntryType::Directory => self.make_directory(&parent, &name, &path, &metadata),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = self.create(&parent, &name)?;
                io::copy(entry, &mut file)?;
                dress(&parent, &name, &metadata)?;
                // After chown, which takes setuid away.
                Ok(fchmod(&file, metadata.mode)?).and_then(|()| touch(&parent, &name, &metadata))
            }
            EntryType::Symlink => {
                let link = link_of(entry)?;
                self.clear(&parent, &name)?;
                symlinkat(&link, &parent, name.as_os_str())?;
                dress(&parent, &name, &metadata)?;
                touch(&parent, &name, &metadata)
            }
            EntryType::Link => {
                let link = link_of(entry)?;
                let link = self.renamed(&inside(&link)?);
                let first = link.file_name().ok_or(Errno::EINVAL)?.to_owned();
                let from = self.make_directories(link.parent().unwrap_or(Path::new("")))?;
                self.clear(&parent, &name)?;
                Ok(linkat(&from, first.as_os_str(), &parent, name.as_os_str(), LinkatFlags::empty())?)
            }
            special @ (EntryType::Char | EntryType::Block | EntryType::Fifo) => {
                self.clear(&parent, &name)?;
                let number =
                    |part: io::Result<Option<u32>>| part.map_err(malformed).map(Option::unwrap_or_default);
                let (flag, device) = match special {
                    EntryType::Fifo => (SFlag::S_IFIFO, 0),
                    other => {
                        let flag = if other == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                        let (major, minor) = (number(header.device_major())?, number(header.device_minor())?);
                        (flag, makedev(major.into(), minor.into()))
                    }
                };
                mknodat(&parent, name.as_os_str(), flag, metadata.mode, device)?;
                dress(&parent, &name, &metadata)?;
                touch(&parent, &name, &metadata)
            }
            // Headers about other headers are tar's own affair.
            _ => Ok(()),
        }
    }

    /// Opens a directory below the target, making what is missing. The kernel keeps the way inside the root,
    /// through whatever links the container has put there.
    fn make_directories(&self, below: &Path) -> io::Result<File> {
        let whole = self.directory.join(below);
        match self.open(&whole) {
            Err(Errno::ENOENT) => {}
            opened => return Ok(opened?),
        }
        let mut here = self.open(Path::new("/"))?;
        let mut walked = PathBuf::from("/");
        for component in whole.components() {
            match component {
                Component::Normal(name) => {
                    walked.push(name);
                    here = match self.open(&walked) {
                        Err(Errno::ENOENT) => {
                            match mkdirat(&here, name, Mode::from_bits_truncate(0o755)) {
                                Ok(()) | Err(Errno::EEXIST) => {}
                                Err(errno) => return Err(errno.into()),
                            }
                            if let Some((uid, gid)) = self.owner {
                                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                                fchownat(&here, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                            }
                            self.open(&walked)?
                        }
                        opened => opened?,
                    };
                }
                Component::ParentDir => {
                    walked.push("..");
                    here = self.open(&walked)?;
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(here)
    }

    fn open(&self, path: &Path) -> nix::Result<File> {
        open_in_root(self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn make_directory(
        &mut self,
        parent: &File,
        name: &OsStr,
        path: &Path,
        metadata: &Metadata,
    ) -> io::Result<()> {
        let there = stat(parent, name)?;
        if there.as_ref().is_none_or(|stat| kind(stat) != SFlag::S_IFDIR) {
            if there.is_some() {
                if self.options.keep_kinds {
                    return Err(Errno::ENOTDIR.into());
                }
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            }
            mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = File::from(openat(parent, name, flags, Mode::empty())?);
        dress(parent, name, metadata)?;
        fchmod(&made, metadata.mode)?;
        self.directories.push((path.to_owned(), metadata.mtime.tv_sec()));
        Ok(())
    }

    fn create(&self, parent: &File, name: &OsStr) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match self.clear(parent, name) {
            // A file that is mounted there, as /etc/hosts is: it stays and gets the content.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                Ok(openat(parent, name, flags | OFlag::O_TRUNC | OFlag::O_NONBLOCK, Mode::empty())
                    .map(File::from)?)
            }
            cleared => {
                cleared?;
                let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                Ok(openat(parent, name, flags, Mode::from_bits_truncate(0o600)).map(File::from)?)
            }
        }
    }

    /// What is in the way goes, unless it is a directory.
    fn clear(&self, parent: &File, name: &OsStr) -> io::Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn finish(&self) -> io::Result<()> {
        for (path, seconds) in self.directories.iter().rev() {
            let whole = self.directory.join(path);
            let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else { continue };
            let time = TimeSpec::new(*seconds, 0);
            let parent = self.open(parent)?;
            utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
        Ok(())
    }

    fn renamed(&self, path: &Path) -> PathBuf {
        for (old, new) in &self.options.renames {
            if let (Ok(rest), Ok(new)) = (path.strip_prefix(old), inside(Path::new(new))) {
                return if rest.as_os_str().is_empty() { new } else { new.join(rest) };
            }
        }
        path.to_owned()
    }
}

fn link_of<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let link = entry.link_name().map_err(malformed)?.map(|link| link.into_owned());
    link.ok_or_else(|| malformed(io::Error::other("a link in the archive leads nowhere")))
}

/// A name of an archive as a path below the target.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let detail = format!("{} in the archive leads out of it", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
            }
        }
    }
    Ok(inside)
}

fn stat(parent: &File, name: &OsStr) -> io::Result<Option<FileStat>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn dress(parent: &File, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
    Ok(fchownat(parent, name, Some(metadata.uid), Some(metadata.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn touch(parent: &File, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
    Ok(utimensat(parent, name, &metadata.mtime, &metadata.mtime, UtimensatFlags::NoFollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Seek as _, Write as _};
    use tar::{Builder, Header};

    fn archive(entries: &[(&str, EntryType, &str)]) -> File {
        let mut tar = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_000_000);
            // As it is written, however hostile.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let data = match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                    ""
                }
                _ => content,
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            tar.append(&header, data.as_bytes()).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&tar.into_inner().unwrap()).unwrap();
        file.rewind().unwrap();
        file
    }

    /// Needs root: owners are set.
    #[test]
    fn node_links_of_an_archive_lead_nowhere_else() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("target")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "host").unwrap();
        let outside = dir.path().join("outside");
        // What the links lead to, seen from inside.
        fs::create_dir(root.join("outside")).unwrap();
        fs::create_dir_all(root.join(outside.strip_prefix("/").unwrap())).unwrap();
        let put = |entries: &[_], options: &PutOptions| {
            unpack(&File::open(&root).unwrap(), Path::new("/target"), archive(entries), Some((7, 8)), options)
        };
        let options = PutOptions::default();
        let file = EntryType::Regular;
        put(
            &[
                ("up", EntryType::Symlink, "../../outside"),
                ("up/planted", file, "x"),
                ("absolute", EntryType::Symlink, outside.to_str().unwrap()),
                ("absolute/planted", file, "x"),
                ("/first/second", file, "y"),
                ("again", EntryType::Link, "first/second"),
            ],
            &options,
        )
        .unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(root.join("outside/planted").exists());
        assert_eq!(fs::read_to_string(root.join("target/again")).unwrap(), "y");
        let made = fs::metadata(root.join("target/first/second")).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!((made.uid(), made.gid(), made.mtime(), made.nlink()), (7, 8, 1_000_000, 2));
        for bad in ["../planted", "first/../../../planted"] {
            let error = put(&[(bad, file, "x")], &options).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad}");
        }
        // Not linked to, either: the first word of the host would be a file of the container.
        assert!(put(&[("stolen", EntryType::Link, "absolute/secret")], &options).is_err());
        assert!(put(&[("first", file, "x")], &options).is_err(), "a directory stays");
        let kept = PutOptions { keep_kinds: true, ..options };
        assert!(put(&[("again", EntryType::Directory, "")], &kept).is_err());
        let renamed = PutOptions { renames: BTreeMap::from([("a".into(), "b".into())]), ..kept };
        put(&[("a/c", file, "z")], &renamed).unwrap();
        assert_eq!(fs::read_to_string(root.join("target/b/c")).unwrap(), "z");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let root = tempfile::TempDir::new().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 2000]).unwrap();
        file.rewind().unwrap();
        let root = File::open(root.path()).unwrap();
        let error = unpack(&root, Path::new("/"), file, None, &PutOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
