//! Unpacks one layer into a directory that becomes an overlayfs lower layer.
//!
//! The tar comes from strangers. Whatever it says, nothing outside the layer's directory is touched: every path
//! is resolved by the kernel with that directory as its root (`openat2`), so that symbolic links planted earlier
//! lead at most to another place in the same layer, as they would for docker, which unpacks in a chroot.
//! Entries, bytes, path lengths and depth are bounded.
//!
//! What is in the tar beside the files' content goes to the layer's recipe ([`super::recipe`]).
//!
//! OCI whiteouts become overlayfs's: `.wh.NAME` a character device 0:0, `.wh..wh..opq` an attribute.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use xattr::FileExt;

use super::digest::Digest;
use super::entries::{Entries, Entry, EntryKind, TarError};
use super::recipe::{RecipeWriter, Recorded};

const WHITEOUT: &str = ".wh.";
/// Reserved by aufs, which invented the format: only the opaque mark means anything.
const WHITEOUT_META: &str = ".wh..wh.";
const WHITEOUT_OPAQUE: &str = ".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

const COPY_BYTES: usize = 128 << 10;

/// What a layer may hold at most. The defaults are far above any image met in the wild.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Headers in the tar, extension headers included.
    pub entries: u64,
    /// All files together, holes included.
    pub bytes: u64,
    /// Directories above an entry.
    pub depth: usize,
    /// Memory for the paths whose times are set last.
    pub path_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4 << 20, bytes: 64 << 30, depth: 256, path_bytes: 128 << 20 }
    }
}

#[derive(Debug, Error)]
pub enum LayerError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {0:?} leads out of the layer")]
    Escapes(PathBuf),
    #[error("entry {path:?}: {what}")]
    Refused { path: PathBuf, what: &'static str },
    #[error("unpack {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the layer unpacks to more than {0} bytes")]
    TooBig(u64),
    #[error("the layer has too many directories")]
    TooManyDirectories,
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("decompress the layer")]
    Decompress(#[source] io::Error),
    #[error("the blob is {found} bytes long, its descriptor says {expected}")]
    Size { expected: u64, found: u64 },
    #[error("the blob is longer than the {expected} bytes that its descriptor says")]
    TooLong { expected: u64 },
    #[error("the blob's digest is {found}, its descriptor says {expected}")]
    BlobDigest { expected: Digest, found: Digest },
    #[error("the uncompressed layer's digest is {found}, the image configuration says {expected}")]
    DiffId { expected: Digest, found: Digest },
}

impl LayerError {
    /// The disk is full, or a quota is.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// What a blob must turn out to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Digest and size in bytes of the blob as it is stored or sent; unknown in a docker-archive.
    pub blob: Option<(Digest, u64)>,
    pub diff_id: Digest,
}

/// Reads a blob to its end in one pass: verifies, decompresses, verifies again and unpacks into `root`, an empty
/// directory, noting in `recipe` how to write its tar again. Returns the size of the files in bytes. After an error
/// `root` and `recipe` hold rubbish.
pub fn unpack_blob(
    blob: &mut dyn Read,
    expected: &Expected,
    root: &Path,
    recipe: Option<File>,
    limits: &Limits,
) -> Result<u64, LayerError> {
    let failed = |source| LayerError::Write { path: root.to_owned(), source };
    let recipe = RefCell::new(RecipeWriter::new(recipe).map_err(failed)?);
    let limit = expected.blob.as_ref().map(|(_, size)| *size);
    let mut blob = BufReader::with_capacity(
        COPY_BYTES,
        Checked { input: blob, hash: expected.blob.as_ref().map(|_| Sha256::new()), count: 0, limit },
    );
    let outcome = unpack_compressed(&mut blob, root, &recipe, limits);
    if let Some((digest, size)) = &expected.blob {
        // If the bytes are not the right ones, that is the error, and not what made no sense in them.
        let is_about_content = match &outcome {
            Ok(_) => true,
            Err(LayerError::Write { .. } | LayerError::TooBig(_) | LayerError::TooManyDirectories) => false,
            Err(_) => true,
        };
        if is_about_content {
            io::copy(&mut blob, &mut io::sink()).map_err(LayerError::Read)?;
            let checked = blob.into_inner();
            if checked.count > *size {
                return Err(LayerError::TooLong { expected: *size });
            }
            if checked.count < *size {
                return Err(LayerError::Size { expected: *size, found: checked.count });
            }
            let found = Digest::finish(checked.hash.expect("it was asked for"));
            if found != *digest {
                return Err(LayerError::BlobDigest { expected: digest.clone(), found });
            }
        }
    }
    let (size_bytes, diff_id) = outcome?;
    if diff_id != expected.diff_id {
        return Err(LayerError::DiffId { expected: expected.diff_id.clone(), found: diff_id });
    }
    recipe.into_inner().finish().map_err(failed)?;
    Ok(size_bytes)
}

/// A stream without its compression, told by its first bytes: media types are often wrong.
pub fn decompress<'a>(input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match sniff(input)? {
        Sniffed::Gzip(input) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Sniffed::Zstd(input) => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Sniffed::Plain(input) => Box::new(input),
    })
}

fn unpack_compressed(
    blob: &mut dyn BufRead,
    root: &Path,
    recipe: &RefCell<RecipeWriter>,
    limits: &Limits,
) -> Result<(u64, Digest), LayerError> {
    match sniff(blob).map_err(LayerError::Read)? {
        Sniffed::Gzip(input) => {
            unpack_hashed(flate2::bufread::MultiGzDecoder::new(input), root, recipe, limits)
        }
        Sniffed::Zstd(input) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(LayerError::Decompress)?;
            unpack_hashed(decoder, root, recipe, limits)
        }
        Sniffed::Plain(input) => unpack_hashed(input, root, recipe, limits),
    }
}

fn unpack_hashed(
    tar: impl Read,
    root: &Path,
    recipe: &RefCell<RecipeWriter>,
    limits: &Limits,
) -> Result<(u64, Digest), LayerError> {
    let mut tar = Checked { input: tar, hash: Some(Sha256::new()), count: 0, limit: None };
    let size_bytes = unpack(&mut tar, root, recipe, limits)?;
    // Padding after the end of the archive belongs to the digest.
    let rest = Recorded { input: &mut tar, recipe };
    let rest = io::copy(&mut rest.take(limits.bytes), &mut io::sink()).map_err(LayerError::Decompress)?;
    if rest == limits.bytes {
        return Err(LayerError::TooBig(limits.bytes));
    }
    Ok((size_bytes, Digest::finish(tar.hash.expect("it was asked for"))))
}

/// Unpacks a tar stream into `root`, an existing directory; returns the size of its files in bytes.
pub fn unpack(
    tar: impl Read,
    root: &Path,
    recipe: &RefCell<RecipeWriter>,
    limits: &Limits,
) -> Result<u64, LayerError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(root, flags, Mode::empty())
        .map_err(|errno| LayerError::Write { path: root.to_owned(), source: errno.into() })?;
    let mut unpacker = Unpacker {
        root: directory,
        recipe,
        parent: None,
        directories: Vec::new(),
        path_bytes: 0,
        size_bytes: 0,
        limits: *limits,
        buffer: vec![0; COPY_BYTES],
    };
    let mut entries = Entries::new(Recorded { input: tar, recipe }, limits.entries);
    while let Some(entry) = entries.next()? {
        unpacker.entry(&entry, &mut entries.data())?;
    }
    unpacker.finish()
}

/// Counts and hashes what is read, and never reads more than one byte beyond the limit.
struct Checked<R> {
    input: R,
    /// `None`: nobody asks.
    hash: Option<Sha256>,
    count: u64,
    limit: Option<u64>,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = match self.limit {
            Some(limit) => buffer
                .len()
                .min(usize::try_from((limit + 1).saturating_sub(self.count)).unwrap_or(usize::MAX)),
            None => buffer.len(),
        };
        let count = self.input.read(&mut buffer[..most])?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        self.count += count as u64;
        Ok(count)
    }
}

enum Sniffed<R> {
    Gzip(R),
    Zstd(R),
    Plain(R),
}

fn sniff<R: BufRead>(mut input: R) -> io::Result<Sniffed<R>> {
    // The first read of a buffered reader gives at least one byte; four are there unless the sender is silly,
    // and a silly sender's layer is then refused as a malformed tar.
    let start = input.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Sniffed::Gzip(input),
        // A frame, or a skippable frame before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Sniffed::Zstd(input),
        _ => Sniffed::Plain(input),
    })
}

struct Unpacker<'a> {
    root: OwnedFd,
    recipe: &'a RefCell<RecipeWriter>,
    /// The directory that was resolved last: entries of one directory mostly follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modification times, set when nothing is written into the directories any more.
    directories: Vec<(PathBuf, TimeSpec)>,
    path_bytes: usize,
    size_bytes: u64,
    limits: Limits,
    buffer: Vec<u8>,
}

/// What stood at an entry's path before.
enum Replaced {
    Nothing,
    /// It stays: the entry is about the same directory.
    Directory,
    /// It hid a lower layer's entry, and whatever replaces it must too.
    Whiteout,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), LayerError> {
        let path = clean(&entry.path, self.limits.depth)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return match entry.kind {
                EntryKind::Directory => self.root_directory(entry),
                _ => Err(LayerError::Refused {
                    path: entry.path.clone().into(),
                    what: "the root is a directory",
                }),
            };
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.iter().any(is_whiteout_name) {
            return Err(LayerError::Refused { path, what: "a whiteout is no directory" });
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
            let parent = parent.to_owned();
            return self.whiteout(&path, &parent, &name, OsStr::from_bytes(hidden));
        }
        self.size_bytes = self.size_bytes.saturating_add(entry.size_bytes);
        if self.size_bytes > self.limits.bytes {
            return Err(LayerError::TooBig(self.limits.bytes));
        }
        let failed = |errno: Errno| LayerError::Write { path: path.clone(), source: errno.into() };
        match &entry.kind {
            EntryKind::File => self.file(entry, &path, &name, data),
            EntryKind::Directory => self.directory(entry, &path, &name),
            EntryKind::HardLink(target) => self.hard_link(&path, &name, target),
            EntryKind::Symlink(target) => {
                self.replace(&path, &name, false)?;
                let parent = self.parent(parent)?;
                symlinkat(target.as_os_str(), parent, name.as_os_str()).map_err(failed)?;
                set_owner_at(parent, &name, entry).map_err(failed)?;
                set_times_at(parent, &name, entry).map_err(failed)
            }
            EntryKind::CharDevice { major, minor } => {
                self.node(entry, &path, &name, SFlag::S_IFCHR, makedev((*major).into(), (*minor).into()))
            }
            EntryKind::BlockDevice { major, minor } => {
                self.node(entry, &path, &name, SFlag::S_IFBLK, makedev((*major).into(), (*minor).into()))
            }
            EntryKind::Fifo => self.node(entry, &path, &name, SFlag::S_IFIFO, 0),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        path: &Path,
        name: &OsStr,
        data: &mut dyn Read,
    ) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::Write { path: path.to_owned(), source };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let directory = path.parent().unwrap_or(Path::new(""));
        let file = match openat(self.parent(directory)?, name, flags, mode) {
            Err(Errno::EEXIST) => {
                self.replace(path, name, false)?;
                openat(self.parent(directory)?, name, flags, mode)
            }
            other => other,
        };
        let mut file = File::from(file.map_err(|errno| failed(errno.into()))?);
        match &entry.chunks {
            None => {
                self.recipe.borrow_mut().content_follows(path, 0, entry.size_bytes);
                copy(data, &mut file, entry.size_bytes, &mut self.buffer, path)?;
            }
            Some(chunks) => {
                for chunk in chunks {
                    file.seek(SeekFrom::Start(chunk.offset)).map_err(failed)?;
                    self.recipe.borrow_mut().content_follows(path, chunk.offset, chunk.length);
                    copy(data, &mut file, chunk.length, &mut self.buffer, path)?;
                }
                file.set_len(entry.size_bytes).map_err(failed)?;
            }
        }
        set_metadata(&file, entry).map_err(failed)?;
        futimens(&file, &mtime(entry), &mtime(entry)).map_err(|errno| failed(errno.into()))
    }

    fn directory(&mut self, entry: &Entry, path: &Path, name: &OsStr) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::Write { path: path.to_owned(), source };
        let parent = path.parent().unwrap_or(Path::new(""));
        let mode = Mode::from_bits_truncate(0o700);
        let made = mkdirat(self.parent(parent)?, name, mode);
        let mut hides_lower = false;
        match made {
            Ok(()) => {}
            Err(Errno::EEXIST) => match self.replace(path, name, true)? {
                Replaced::Directory => {}
                replaced @ (Replaced::Nothing | Replaced::Whiteout) => {
                    hides_lower = matches!(replaced, Replaced::Whiteout);
                    mkdirat(self.parent(parent)?, name, mode).map_err(|errno| failed(errno.into()))?;
                }
            },
            Err(errno) => return Err(failed(errno.into())),
        }
        let directory =
            open_directory_at(self.parent(parent)?, name).map_err(|errno| failed(errno.into()))?;
        if hides_lower {
            directory.set_xattr(OPAQUE_XATTR, b"y").map_err(failed)?;
        }
        set_metadata(&directory, entry).map_err(failed)?;
        self.set_time_later(path, entry)
    }

    fn root_directory(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let failed = |source| LayerError::Write { path: "/".into(), source };
        let root = File::from(self.root.try_clone().map_err(failed)?);
        set_metadata(&root, entry).map_err(failed)?;
        self.set_time_later(Path::new(""), entry)
    }

    fn hard_link(&mut self, path: &Path, name: &OsStr, target: &OsStr) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::Write { path: path.to_owned(), source: errno.into() };
        let refused = |what| LayerError::Refused { path: path.to_owned(), what };
        let target = clean(target, self.limits.depth)?;
        let target_name = target.file_name().ok_or_else(|| refused("a hard link to the root"))?;
        if target.iter().any(is_whiteout_name) {
            return Err(refused("a hard link to a whiteout"));
        }
        let missing = "its link target is not in the layer";
        let target_parent = match self.open_directory(target.parent().unwrap_or(Path::new(""))) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(refused(missing)),
            other => other.map_err(failed)?,
        };
        let target_stat = match fstatat(&target_parent, target_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Err(refused(missing)),
            other => other.map_err(failed)?,
        };
        if is_whiteout(&target_stat) {
            return Err(refused("a hard link to a whiteout"));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Ok(stat) = fstatat(self.parent(parent)?, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            && (stat.st_dev, stat.st_ino) == (target_stat.st_dev, target_stat.st_ino)
        {
            return Ok(());
        }
        self.replace(path, name, false)?;
        match linkat(&target_parent, target_name, self.parent(parent)?, name, AtFlags::empty()) {
            // The target lay in the directory that the link has replaced.
            Err(Errno::ENOENT) => Err(refused(missing)),
            Err(Errno::EPERM) => Err(refused("a hard link to a directory")),
            other => other.map_err(failed),
        }
    }

    fn node(
        &mut self,
        entry: &Entry,
        path: &Path,
        name: &OsStr,
        kind: SFlag,
        device: nix::libc::dev_t,
    ) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::Write { path: path.to_owned(), source: errno.into() };
        self.replace(path, name, false)?;
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        let mode = Mode::from_bits_truncate(entry.mode);
        mknodat(parent, name, kind, mode, device).map_err(failed)?;
        set_owner_at(parent, name, entry).map_err(failed)?;
        // The name is the node just made, so there is no link to follow.
        fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).map_err(failed)?;
        set_times_at(parent, name, entry).map_err(failed)
    }

    fn whiteout(
        &mut self,
        path: &Path,
        parent: &Path,
        name: &OsStr,
        hidden: &OsStr,
    ) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::Write { path: path.to_owned(), source };
        if name == WHITEOUT_OPAQUE {
            self.parent(parent)?;
            let directory = self.open_directory(parent).map_err(|errno| failed(errno.into()))?;
            return make_opaque(&directory, Path::new(".")).map_err(failed);
        }
        if name.as_bytes().starts_with(WHITEOUT_META.as_bytes()) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(LayerError::Refused { path: path.to_owned(), what: "a whiteout of nothing" });
        }
        let parent = self.parent(parent)?;
        match fstatat(parent, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|errno| failed(errno.into())),
            Err(errno) => Err(failed(errno.into())),
            // A whiteout is about lower layers; what this layer has of the same name stays.
            Ok(stat) if is_directory(&stat) => make_opaque(parent, Path::new(hidden)).map_err(failed),
            Ok(_) => Ok(()),
        }
    }

    /// Makes room at `path`: a later entry of the same path wins, as with every tar.
    fn replace(&mut self, path: &Path, name: &OsStr, by_directory: bool) -> Result<Replaced, LayerError> {
        let failed = |source: io::Error| LayerError::Write { path: path.to_owned(), source };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Replaced::Nothing),
            other => other.map_err(|errno| failed(errno.into()))?,
        };
        if is_directory(&stat) {
            if by_directory {
                return Ok(Replaced::Directory);
            }
            std::fs::remove_dir_all(proc_path(parent).join(name)).map_err(failed)?;
            self.recipe.borrow_mut().give_up();
            // It may have been inside.
            self.parent = None;
            return Ok(Replaced::Nothing);
        }
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| failed(errno.into()))?;
        if !is_whiteout(&stat) {
            self.recipe.borrow_mut().give_up();
        }
        // A link that led there leads elsewhere now.
        self.parent = None;
        Ok(if is_whiteout(&stat) { Replaced::Whiteout } else { Replaced::Nothing })
    }

    /// The directory `path`, made if it is not there.
    fn parent(&mut self, path: &Path) -> Result<&OwnedFd, LayerError> {
        if path.as_os_str().is_empty() {
            return Ok(&self.root);
        }
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != path) {
            let directory = match self.open_directory(path) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_directories(path)?,
                other => other
                    .map_err(|errno| LayerError::Write { path: path.to_owned(), source: errno.into() })?,
            };
            self.check_depth(path, &directory)?;
            self.parent = Some((path.to_owned(), directory));
        }
        Ok(&self.parent.as_ref().expect("it was just set").1)
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        if path.as_os_str().is_empty() {
            return self
                .root
                .try_clone()
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let resolve =
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let mut tries = 0;
        loop {
            match openat2(&self.root, path, how) {
                // Somewhere on the machine something was renamed while `..` in a link was followed.
                Err(Errno::EAGAIN | Errno::EINTR) if tries < 128 => tries += 1,
                other => return other,
            }
        }
    }

    /// Layers may name `a/b/c` without ever naming `a`. podman and docker make such directories 0755 root.
    fn make_directories(&mut self, path: &Path) -> Result<OwnedFd, LayerError> {
        let mut above =
            self.root.try_clone().map_err(|source| LayerError::Write { path: path.to_owned(), source })?;
        let mut sofar = PathBuf::new();
        for name in path {
            sofar.push(name);
            let failed = |errno: Errno| LayerError::Write { path: sofar.clone(), source: errno.into() };
            let next = match self.open_directory(&sofar) {
                Ok(directory) => directory,
                Err(Errno::ENOENT) => {
                    make_directory(&above, name).map_err(failed)?;
                    self.open_directory(&sofar).map_err(failed)?
                }
                Err(Errno::ENOTDIR) => {
                    let stat = fstatat(&above, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
                    if !is_whiteout(&stat) {
                        return Err(failed(Errno::ENOTDIR));
                    }
                    unlinkat(&above, name, UnlinkatFlags::NoRemoveDir).map_err(failed)?;
                    make_directory(&above, name).map_err(failed)?;
                    make_opaque(&above, Path::new(name))
                        .map_err(|source| LayerError::Write { path: sofar.clone(), source })?;
                    self.open_directory(&sofar).map_err(failed)?
                }
                Err(errno) => return Err(failed(errno)),
            };
            above = next;
        }
        Ok(above)
    }

    /// Links can make a short path stand for a deep one; removing a tree needs its depth bounded.
    fn check_depth(&self, path: &Path, directory: &OwnedFd) -> Result<(), LayerError> {
        let failed = |source| LayerError::Write { path: path.to_owned(), source };
        let root = std::fs::read_link(proc_path(&self.root)).map_err(failed)?;
        let real = std::fs::read_link(proc_path(directory)).map_err(failed)?;
        let inside = real.strip_prefix(&root).map_err(|_| LayerError::Escapes(path.to_owned()))?;
        if inside.iter().count() > self.limits.depth {
            return Err(LayerError::Refused { path: path.to_owned(), what: "too many directories deep" });
        }
        Ok(())
    }

    fn set_time_later(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        self.path_bytes += path.as_os_str().len() + size_of::<(PathBuf, TimeSpec)>();
        if self.path_bytes > self.limits.path_bytes {
            return Err(LayerError::TooManyDirectories);
        }
        self.directories.push((path.to_owned(), mtime(entry)));
        Ok(())
    }

    fn finish(self) -> Result<u64, LayerError> {
        for (path, time) in &self.directories {
            let outcome = self.open_directory(path).and_then(|directory| {
                utimensat(AT_FDCWD, &proc_path(&directory), time, time, UtimensatFlags::FollowSymlink)
            });
            match outcome {
                // A later entry has replaced it.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(LayerError::Write { path: path.clone(), source: errno.into() }),
            }
        }
        Ok(self.size_bytes)
    }
}

/// A tar's path as a path below the layer's root: `/` in front and `.` mean nothing, `..` is taken literally
/// and may not lead above the root. The root itself is the empty path.
fn clean(path: &OsStr, max_depth: usize) -> Result<PathBuf, LayerError> {
    let mut clean: Vec<&[u8]> = Vec::new();
    for component in path.as_bytes().split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                clean.pop().ok_or_else(|| LayerError::Escapes(path.into()))?;
            }
            name => clean.push(name),
        }
    }
    if clean.len() > max_depth {
        return Err(LayerError::Refused { path: path.into(), what: "too many directories deep" });
    }
    Ok(OsString::from(OsStr::from_bytes(&clean.join(&b'/'))).into())
}

fn is_whiteout_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT.as_bytes())
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == 0
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn open_directory_at(parent: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from)
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
    let directory = open_directory_at(parent, name)?;
    // The daemon's umask, and a setgid directory above, do not count.
    fchown(&directory, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))?;
    fchmod(&directory, Mode::from_bits_truncate(0o755))
}

fn make_opaque(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    open_directory_at(parent, name.as_os_str())?.set_xattr(OPAQUE_XATTR, b"y")
}

/// Owner, mode and attributes, in this order: chown clears setuid and capabilities.
fn set_metadata(file: &File, entry: &Entry) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(file, Mode::from_bits_truncate(entry.mode))?;
    for (name, value) in &entry.xattrs {
        let name_bytes = name.as_bytes();
        // Never `trusted.`, which overlayfs obeys, nor `user.overlay.`, which it obeys when mounted rootless.
        let is_user = name_bytes.starts_with(b"user.") && !name_bytes.starts_with(b"user.overlay.");
        if !is_user && name_bytes != b"security.capability" {
            continue;
        }
        match file.set_xattr(name, value) {
            // tmpfs before 6.6 has no user attributes; nothing in an image depends on them.
            Err(error) if is_user && error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_owner_at(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn set_times_at(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    utimensat(parent, name, &mtime(entry), &mtime(entry), UtimensatFlags::NoFollowSymlink)
}

fn mtime(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime_secs, entry.mtime_nanos.into())
}

/// Copies exactly `length` bytes; tells a failed read from a failed write.
fn copy(
    data: &mut dyn Read,
    file: &mut File,
    length: u64,
    buffer: &mut [u8],
    path: &Path,
) -> Result<(), LayerError> {
    let mut left = length;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = match data.read(&mut buffer[..most]) {
            Ok(0) => return Err(TarError::Truncated("a file").into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TarError::Read(error).into()),
        };
        file.write_all(&buffer[..count])
            .map_err(|source| LayerError::Write { path: path.to_owned(), source })?;
        left -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
