//! A tree of a container as a tar stream.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::kind;
use crate::engine::error::EngineError;

/// Whether what is mounted below is a part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    Enter,
    /// Their places stay, empty.
    LeaveOut,
}

/// Hands an archive to whoever reads the stream.
pub struct Pieces(pub mpsc::Sender<Result<Bytes, EngineError>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `source` is an `O_PATH` descriptor of anything but a link. `None` for its name: only what is in it.
pub fn write_tree(
    sink: &mut dyn Write,
    source: &File,
    name: Option<&Path>,
    renames: &BTreeMap<String, String>,
    mounts: Mounts,
) -> io::Result<()> {
    let mut tree = Tree { tar: Builder::new(sink), links: HashMap::new(), renames, mount: None };
    if mounts == Mounts::LeaveOut {
        tree.mount = Some(mount_id(source)?);
    }
    let stat = fstat(source)?;
    match kind(&stat) {
        SFlag::S_IFDIR => tree.directory(source, &stat, name.unwrap_or(Path::new("")))?,
        _ => {
            // Through the descriptor: there is no name to be exchanged in between.
            let name = name.unwrap_or(Path::new("file"));
            tree.leaf(&stat, name, || reopen(source), || Err(Errno::EINVAL.into()))?;
        }
    }
    tree.tar.finish()
}

struct Tree<'a, 's> {
    tar: Builder<&'s mut dyn Write>,
    /// Where a file with several names was first.
    links: HashMap<(u64, u64), PathBuf>,
    renames: &'a BTreeMap<String, String>,
    /// Only what is on this mount.
    mount: Option<u64>,
}

impl Tree<'_, '_> {
    fn directory(&mut self, directory: &File, stat: &FileStat, path: &Path) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            self.entry(stat, EntryType::Directory, path, io::empty(), 0)?;
        }
        let Some(directory) = self.here(open_at(directory, OsStr::new("."), OFlag::O_DIRECTORY)?)? else {
            return Ok(());
        };
        for name in names(&directory)? {
            let stat = match fstatat(&directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                // Removed meanwhile.
                Err(Errno::ENOENT) => continue,
                stat => stat?,
            };
            let path = path.join(&name);
            if kind(&stat) == SFlag::S_IFDIR {
                match open_at(&directory, &name, OFlag::O_DIRECTORY) {
                    Err(error) if is_gone(&error) => {}
                    child => {
                        let child = child?;
                        let stat = fstat(&child)?;
                        self.directory(&child, &stat, &path)?;
                    }
                }
                continue;
            }
            let file = || open_at(&directory, &name, OFlag::O_NONBLOCK);
            let link = || Ok(readlinkat(&directory, name.as_os_str())?);
            match self.leaf(&stat, &path, file, link) {
                Err(error) if is_gone(&error) => {}
                written => written?,
            }
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        stat: &FileStat,
        path: &Path,
        file: impl FnOnce() -> io::Result<File>,
        link: impl FnOnce() -> io::Result<OsString>,
    ) -> io::Result<()> {
        let entry = match kind(stat) {
            SFlag::S_IFREG => EntryType::Regular,
            SFlag::S_IFLNK => {
                let target = link()?;
                let mut header = header(stat, EntryType::Symlink, 0)?;
                let path = self.renamed(path);
                return self.tar.append_link(&mut header, path, Path::new(&target));
            }
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            // Sockets live with who listens on them.
            _ => return Ok(()),
        };
        if entry != EntryType::Regular {
            return self.entry(stat, entry, path, io::empty(), 0);
        }
        let opened = file()?;
        // What was opened counts, not what was looked at before.
        let stat = fstat(&opened)?;
        if kind(&stat) != SFlag::S_IFREG {
            return Ok(());
        }
        let Some(file) = self.here(opened)? else {
            return self.entry(&stat, EntryType::Regular, path, io::empty(), 0);
        };
        if stat.st_nlink > 1 {
            let known = self.links.get(&(stat.st_dev, stat.st_ino)).cloned();
            if let Some(first) = known {
                let mut header = header(&stat, EntryType::Link, 0)?;
                let path = self.renamed(path);
                return self.tar.append_link(&mut header, path, first);
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.renamed(path));
        }
        let size = stat.st_size.unsigned_abs();
        self.entry(&stat, EntryType::Regular, path, file.chain(io::repeat(0)).take(size), size)
    }

    fn entry(
        &mut self,
        stat: &FileStat,
        kind: EntryType,
        path: &Path,
        data: impl io::Read,
        size: u64,
    ) -> io::Result<()> {
        let mut header = header(stat, kind, size)?;
        let path = self.renamed(path);
        self.tar.append_data(&mut header, path, data)
    }

    /// `None` for what is on another mount, if that matters.
    fn here(&self, file: File) -> io::Result<Option<File>> {
        match self.mount {
            Some(mount) if mount_id(&file)? != mount => Ok(None),
            _ => Ok(Some(file)),
        }
    }

    /// A name given as another, or anything below it.
    fn renamed(&self, path: &Path) -> PathBuf {
        for (old, new) in self.renames {
            if let Ok(rest) = path.strip_prefix(old) {
                let new = Path::new(new);
                return if rest.as_os_str().is_empty() { new.to_owned() } else { new.join(rest) };
            }
        }
        path.to_owned()
    }
}

fn header(stat: &FileStat, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(stat.st_mtime.max(0).unsigned_abs());
    header.set_size(size);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        let number = |part: u64| u32::try_from(part).map_err(io::Error::other);
        header.set_device_major(number(major(stat.st_rdev))?)?;
        header.set_device_minor(number(minor(stat.st_rdev))?)?;
    }
    Ok(header)
}

fn names(directory: &File) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

fn open_at(directory: &File, name: &OsStr, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty()).map(File::from)?)
}

/// An `O_PATH` descriptor as one to read from.
fn reopen(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(open(path.as_str(), flags, Mode::empty()).map(File::from)?)
}

fn mount_id(file: &File) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ELOOP, Errno::ENOTDIR, Errno::ENXIO];
    error.raw_os_error().is_some_and(|number| gone.contains(&Errno::from_raw(number)))
}
