//! How the archive of an unpacked layer is written again, byte for byte.
//!
//! An image's configuration names its layers by the digest of their tar, and no two programs write the same tar
//! from the same files. So what is not in the files is kept when a layer is unpacked: headers, padding and the
//! archive's end, in order, with a mark where a file's content stood (docker and podman keep the same and call it
//! tar-split). [`RecipeWriter`] notes it while the layer passes, [`write_tar`] puts it together with the files.
//!
//! An archive whose entries overwrite each other has content that is in no file afterwards. Its recipe is empty,
//! and the layer can not be written again.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::digest::Digest;
use super::entries::MAX_PATH_BYTES;

const MAGIC: &[u8] = b"selkie layer recipe 1\n";
const RAW: u8 = 0;
const FILE: u8 = 1;
const RAW_STEP_BYTES: usize = 64 << 10;
/// Headers are some hundred bytes a file. An archive made of nothing but headers is not worth its place.
const MAX_RAW_BYTES: u64 = 4 << 30;
const COPY_BYTES: usize = 128 << 10;

#[derive(Debug, Error)]
pub enum RecipeError {
    #[error("its files were stored without the layout of their archive: remove the image and fetch it again")]
    Missing,
    #[error("entries of its archive overwrite each other, so that it can not be made again from its files")]
    Overwritten,
    #[error("the layout of its archive is damaged")]
    Damaged(#[source] io::Error),
    #[error("read {path:?} in it")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("its files were changed: its digest is {found} now, not {expected}")]
    Changed { expected: Digest, found: Digest },
    #[error("send it")]
    Output(#[source] io::Error),
}

/// Notes a tar that is being unpacked.
pub struct RecipeWriter {
    /// `None`: nobody wants it, or it can not be made.
    output: Option<zstd::Encoder<'static, File>>,
    raw: Vec<u8>,
    raw_bytes: u64,
    /// Of the file whose content is passing.
    content_left: u64,
    failure: Option<io::Error>,
}

impl RecipeWriter {
    pub fn new(file: Option<File>) -> io::Result<Self> {
        let output = match file {
            Some(file) => {
                let mut encoder = zstd::Encoder::new(file, 1)?;
                encoder.include_checksum(true)?;
                encoder.write_all(MAGIC)?;
                Some(encoder)
            }
            None => None,
        };
        Ok(Self { output, raw: Vec::new(), raw_bytes: 0, content_left: 0, failure: None })
    }

    /// The next `length` bytes are the file's content from `offset` on.
    pub fn content_follows(&mut self, path: &Path, offset: u64, length: u64) {
        if self.output.is_none() || length == 0 {
            return;
        }
        self.flush_raw();
        let path = path.as_os_str().as_bytes();
        let mut step = vec![FILE];
        step.extend(offset.to_le_bytes());
        step.extend(length.to_le_bytes());
        step.extend(u32::try_from(path.len()).expect("a path is at most 4096 bytes long").to_le_bytes());
        step.extend(path);
        self.write(&step);
        self.content_left = length;
    }

    /// Content that passed earlier is in no file any more.
    pub fn give_up(&mut self) {
        if let Some(mut output) = self.output.take()
            && let Err(error) = output.get_mut().set_len(0)
        {
            self.failure = Some(error);
        }
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw();
        if let Some(output) = self.output.take() {
            output.finish()?;
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn passed(&mut self, bytes: &[u8]) {
        let content = bytes.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        self.content_left -= content as u64;
        if self.output.is_none() {
            return;
        }
        let raw = &bytes[content..];
        self.raw_bytes += raw.len() as u64;
        if self.raw_bytes > MAX_RAW_BYTES {
            return self.give_up();
        }
        self.raw.extend_from_slice(raw);
        if self.raw.len() >= RAW_STEP_BYTES {
            self.flush_raw();
        }
    }

    fn flush_raw(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        for piece in raw.chunks(RAW_STEP_BYTES) {
            let mut head = [RAW; 5];
            head[1..].copy_from_slice(&(piece.len() as u32).to_le_bytes());
            self.write(&head);
            self.write(piece);
        }
        self.raw = raw;
        self.raw.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.write_all(bytes)
        {
            self.failure.get_or_insert(error);
            self.output = None;
        }
    }
}

/// A reader that shows the recipe what passes.
pub struct Recorded<'a, R> {
    pub input: R,
    pub recipe: &'a RefCell<RecipeWriter>,
}

impl<R: Read> Read for Recorded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.recipe.borrow_mut().passed(&buffer[..count]);
        Ok(count)
    }
}

/// Length of the tar that the recipe makes.
pub fn tar_bytes(recipe: &Path) -> Result<u64, RecipeError> {
    let mut steps = Steps::open(recipe)?;
    let mut bytes = 0;
    while let Some(step) = steps.next()? {
        bytes += match step {
            Step::Raw(raw) => raw.len() as u64,
            Step::File { length, .. } => length,
        };
    }
    Ok(bytes)
}

/// Writes the tar of the layer unpacked in `root`, whose digest must be `expected`. What is written is only good
/// if this succeeds.
pub fn write_tar(
    recipe: &Path,
    root: &Path,
    expected: &Digest,
    output: &mut dyn Write,
) -> Result<(), RecipeError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(root, flags, Mode::empty())
        .map_err(|errno| RecipeError::File { path: "/".into(), source: errno.into() })?;
    let mut steps = Steps::open(recipe)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    while let Some(step) = steps.next()? {
        match step {
            Step::Raw(raw) => {
                hash.update(&raw);
                output.write_all(&raw).map_err(RecipeError::Output)?;
            }
            Step::File { path, offset, length } => {
                let failed = |source| RecipeError::File { path: path.clone(), source };
                let mut file = open_in(&root, &path).map_err(failed)?;
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
                let mut left = length;
                while left > 0 {
                    let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = file.read(&mut buffer[..most]).map_err(failed)?;
                    if count == 0 {
                        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
                    }
                    hash.update(&buffer[..count]);
                    output.write_all(&buffer[..count]).map_err(RecipeError::Output)?;
                    left -= count as u64;
                }
            }
        }
    }
    let found = Digest::finish(hash);
    if found != *expected {
        return Err(RecipeError::Changed { expected: expected.clone(), found });
    }
    Ok(())
}

/// As the unpacker resolved it, with the layer as the root. The file itself is no link: its content went there.
fn open_in(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve =
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let mut tries = 0;
    loop {
        match openat2(root, path, how) {
            // Somewhere on the machine something was renamed while `..` in a link was followed.
            Err(Errno::EAGAIN | Errno::EINTR) if tries < 128 => tries += 1,
            other => return Ok(other?.into()),
        }
    }
}

enum Step {
    Raw(Vec<u8>),
    File { path: PathBuf, offset: u64, length: u64 },
}

struct Steps(zstd::Decoder<'static, BufReader<File>>);

impl Steps {
    fn open(recipe: &Path) -> Result<Self, RecipeError> {
        let file = match File::open(recipe) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RecipeError::Missing),
            other => other.map_err(RecipeError::Damaged)?,
        };
        if file.metadata().map_err(RecipeError::Damaged)?.len() == 0 {
            return Err(RecipeError::Overwritten);
        }
        let mut steps = Self(zstd::Decoder::new(file).map_err(RecipeError::Damaged)?);
        match steps.bytes(MAGIC.len())? {
            magic if magic == MAGIC => Ok(steps),
            _ => Err(damaged()),
        }
    }

    fn next(&mut self) -> Result<Option<Step>, RecipeError> {
        let mut tag = [0];
        match self.0.read_exact(&mut tag) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(RecipeError::Damaged)?,
        }
        match tag[0] {
            RAW => {
                let length = self.length(RAW_STEP_BYTES)?;
                Ok(Some(Step::Raw(self.bytes(length)?)))
            }
            FILE => {
                let (offset, length) = (self.number()?, self.number()?);
                let path_length = self.length(MAX_PATH_BYTES)?;
                let path = OsString::from_vec(self.bytes(path_length)?).into();
                Ok(Some(Step::File { path, offset, length }))
            }
            _ => Err(damaged()),
        }
    }

    fn number(&mut self) -> Result<u64, RecipeError> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes).map_err(RecipeError::Damaged)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn length(&mut self, most: usize) -> Result<usize, RecipeError> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes).map_err(RecipeError::Damaged)?;
        let length = u32::from_le_bytes(bytes) as usize;
        if length <= most { Ok(length) } else { Err(damaged()) }
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, RecipeError> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).map_err(RecipeError::Damaged)?;
        Ok(bytes)
    }
}

fn damaged() -> RecipeError {
    RecipeError::Damaged(io::ErrorKind::InvalidData.into())
}
