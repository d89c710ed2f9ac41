//! The entries of a tar stream that may be hostile.
//!
//! The `tar` crate keeps a long name or a pax header of any size in memory and knows no limit on the number of
//! entries; a layer comes from strangers. This reader takes the header layouts from that crate and bounds the
//! rest. It writes nothing: [`super::layer`] decides what an entry may do.
//!
//! Understood: v7, ustar, GNU (long names, sparse) and pax (names, sizes, ids, times, attributes, sparse 0.0 to 1.0).

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};
use thiserror::Error;

const BLOCK: usize = 512;
/// Longest path or link target, bytes: the kernel's own limit.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest pax header, bytes. It may carry extended attributes, of which the kernel takes 64 KiB each.
const MAX_PAX_BYTES: u64 = 1 << 20;
const MAX_SPARSE_CHUNKS: usize = 1 << 16;

#[derive(Debug, Error)]
pub enum TarError {
    #[error("read the tar stream")]
    Read(#[source] io::Error),
    #[error("the tar stream ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("tar header {number} has a wrong checksum")]
    Checksum { number: u64 },
    #[error("tar entry {entry:?}: {what}")]
    Invalid { entry: String, what: &'static str },
    #[error("more than {0} tar entries")]
    TooManyEntries(u64),
}

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    Symlink(OsString),
    HardLink(OsString),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// An entry without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the tar: it may be absolute or full of `..`.
    pub path: OsString,
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
    /// Length of the file that is made; for a sparse one the holes count.
    pub size_bytes: u64,
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// Where the data belongs in a sparse file, ascending. `None`: the data is the file.
    pub chunks: Option<Vec<Chunk>>,
}

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub length: u64,
}

/// Iterates over the entries of `input`. The data of an entry is read through [`Entries::data`]; what is left of
/// it is skipped by the next call of [`Entries::next`].
pub struct Entries<R> {
    input: R,
    /// Of the current entry's data.
    unread: u64,
    padding: u64,
    headers: u64,
    max_entries: u64,
    ended: bool,
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    map: Vec<u64>,
}

impl<R: Read> Entries<R> {
    pub fn new(input: R, max_entries: u64) -> Self {
        Self { input, unread: 0, padding: 0, headers: 0, max_entries, ended: false }
    }

    /// The data of the entry that [`Entries::next`] returned last.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Forgets the current entry's data: the caller has moved the input past data and padding.
    /// Returns how many bytes that is.
    pub fn forget_data(&mut self) -> u64 {
        let skipped = self.unread + self.padding;
        (self.unread, self.padding) = (0, 0);
        skipped
    }

    #[expect(
        clippy::should_implement_trait,
        reason = "the data borrows the iterator, which Iterator cannot say"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extension = Extension::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = non_negative(&header.as_old().size, "its size is no number", &header)?;
            match header.as_old().linkflag[0] {
                b'L' => {
                    self.begin_data(size);
                    extension.path = Some(self.long_name(&header)?);
                }
                b'K' => {
                    self.begin_data(size);
                    extension.link = Some(self.long_name(&header)?);
                }
                b'x' | b'X' => {
                    self.begin_data(size);
                    let records = self.small_data(MAX_PAX_BYTES, "its pax header is too long", &header)?;
                    read_pax(&records, &mut extension).map_err(|what| invalid(&header, what))?;
                }
                // Defaults for all that follows. Only `comment` (the git commit) is ever met; Go reads none of it.
                b'g' => {
                    self.begin_data(size);
                    self.small_data(MAX_PAX_BYTES, "its pax header is too long", &header)?;
                }
                flag => return self.entry(&header, flag, size, extension).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        size: u64,
        extension: Extension,
    ) -> Result<Entry, TarError> {
        let fail = |what| invalid(header, what);
        let stored = extension.size.unwrap_or(size);
        let mut path = match extension.sparse.name.or(extension.path) {
            Some(path) => path,
            None => header.path_bytes().into_owned(),
        };
        let link = match extension.link {
            Some(link) => link,
            None => until_nul(&header.as_old().linkname).to_vec(),
        };
        for text in [&path, &link] {
            if text.len() > MAX_PATH_BYTES {
                return Err(fail("its path is longer than 4096 bytes"));
            }
            if text.contains(&0) {
                return Err(fail("its path holds a zero byte"));
            }
        }
        let link = OsString::from_vec(link);
        let has_data = matches!(flag, b'0' | 0 | b'7' | b'S');
        let kind = match flag {
            // Before ustar a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") && stored == 0 => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' | b'4' => {
                let (major, minor) =
                    device(header).ok_or_else(|| fail("its device numbers are no numbers"))?;
                if flag == b'3' {
                    EntryKind::CharDevice { major, minor }
                } else {
                    EntryKind::BlockDevice { major, minor }
                }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => return Err(fail("its type is unknown")),
        };
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        // Other kinds have no data, whatever the header's size field says (POSIX ustar).
        self.begin_data(if has_data { stored } else { 0 });

        let mut size_bytes = if has_data { stored } else { 0 };
        let mut chunks = None;
        if flag == b'S' {
            let (map, real_size) = self.gnu_sparse_map(header)?;
            (chunks, size_bytes) = (Some(map), real_size);
        } else if kind == EntryKind::File
            && let Some(real_size) = extension.sparse.real_size
        {
            let map = match extension.sparse.major {
                Some(1) => self.pax_sparse_map(header)?,
                Some(_) | None => pairs(&extension.sparse.map),
            };
            (chunks, size_bytes) = (Some(map), real_size);
        }
        if let Some(chunks) = &chunks
            && !is_sparse_map(chunks, self.unread, size_bytes)
        {
            return Err(fail("its sparse map does not fit its data"));
        }

        let id = |pax: Option<u64>, field: &[u8], what| {
            let value = match pax {
                Some(value) => Some(value),
                None => number(field).and_then(|n| u64::try_from(n).ok()),
            };
            // All ones means "leave it" to chown.
            value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n != u32::MAX).ok_or_else(|| fail(what))
        };
        let old = header.as_old();
        let (mtime_secs, mtime_nanos) = extension.mtime.unwrap_or((number(&old.mtime).unwrap_or(0), 0));
        let mode = number(&old.mode).ok_or_else(|| fail("its mode is no number"))?;
        Ok(Entry {
            path: OsString::from_vec(path),
            kind,
            mode: (mode & 0o7777) as u32,
            uid: id(extension.uid, &old.uid, "its user id is out of range")?,
            gid: id(extension.gid, &old.gid, "its group id is out of range")?,
            mtime_secs,
            mtime_nanos,
            size_bytes,
            xattrs: extension.xattrs,
            chunks,
        })
    }

    /// The next header block, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes(), "a header")? || is_zero(header.as_bytes()) {
            // Two blocks of zeros end an archive, though some writers forget one or both.
            let mut second = [0; BLOCK];
            if self.block(&mut second, "the end of the archive")? && !is_zero(&second) {
                return Err(TarError::Checksum { number: self.headers });
            }
            self.ended = true;
            return Ok(None);
        }
        self.headers += 1;
        if self.headers > self.max_entries {
            return Err(TarError::TooManyEntries(self.max_entries));
        }
        let sum = number(&header.as_old().cksum);
        let bytes = header.as_bytes();
        let of_bytes: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum();
        if sum != Some(i64::from(of_bytes) + 8 * i64::from(b' ')) {
            return Err(TarError::Checksum { number: self.headers });
        }
        Ok(Some(header))
    }

    /// Fills `block`; false at a clean end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK], what: &'static str) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated(what)),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(true)
    }

    fn begin_data(&mut self, size: u64) {
        self.unread = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.forget_data();
        if left > 0 {
            let skipped =
                io::copy(&mut (&mut self.input).take(left), &mut io::sink()).map_err(TarError::Read)?;
            if skipped < left {
                return Err(TarError::Truncated("a file"));
            }
        }
        Ok(())
    }

    fn small_data(&mut self, limit: u64, what: &'static str, header: &Header) -> Result<Vec<u8>, TarError> {
        if self.unread > limit {
            return Err(invalid(header, what));
        }
        let mut data = vec![0; self.unread as usize];
        self.data().read_exact(&mut data).map_err(read_error("an extension header"))?;
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let name =
            self.small_data(MAX_PATH_BYTES as u64 + 1, "its path is longer than 4096 bytes", header)?;
        Ok(until_nul(&name).to_vec())
    }

    /// The map of an old GNU sparse file: four places in the header, then blocks of 21.
    fn gnu_sparse_map(&mut self, header: &Header) -> Result<(Vec<Chunk>, u64), TarError> {
        let wrong = || invalid(header, "its sparse map is not readable");
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let mut chunks = Vec::new();
        let mut take = |places: &[GnuSparseHeader]| -> Result<(), TarError> {
            // Unused places are empty.
            for place in places.iter().filter(|place| place.offset[0] != 0) {
                let chunk =
                    number(&place.offset).zip(number(&place.numbytes)).and_then(|(offset, length)| {
                        Some(Chunk { offset: offset.try_into().ok()?, length: length.try_into().ok()? })
                    });
                chunks.push(chunk.ok_or_else(wrong)?);
                if chunks.len() > MAX_SPARSE_CHUNKS {
                    return Err(invalid(header, "its sparse map is too long"));
                }
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.isextended[0] == 1;
        while more {
            let mut block = GnuExtSparseHeader::new();
            let mut bytes = [0; BLOCK];
            if !self.block(&mut bytes, "a sparse map")? {
                return Err(TarError::Truncated("a sparse map"));
            }
            block.as_mut_bytes().copy_from_slice(&bytes);
            take(&block.sparse)?;
            more = block.isextended[0] == 1;
        }
        let real_size = number(&gnu.realsize).and_then(|n| n.try_into().ok()).ok_or_else(wrong)?;
        Ok((chunks, real_size))
    }

    /// The map of a pax 1.0 sparse file: decimal numbers, one a line, in whole blocks before the data.
    fn pax_sparse_map(&mut self, header: &Header) -> Result<Vec<Chunk>, TarError> {
        let wrong = || invalid(header, "its sparse map is not readable");
        let mut numbers = Vec::new();
        let mut wanted = None;
        let mut digits = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            self.data().read_exact(&mut block).map_err(read_error("a sparse map"))?;
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(wrong());
                    }
                    continue;
                }
                let value: u64 = decimal(&digits).ok_or_else(wrong)?;
                digits.clear();
                match wanted {
                    None if value > MAX_SPARSE_CHUNKS as u64 => {
                        return Err(invalid(header, "its sparse map is too long"));
                    }
                    None => wanted = Some(2 * value as usize),
                    Some(wanted) if numbers.len() < wanted => numbers.push(value),
                    Some(_) => {}
                }
                if wanted == Some(numbers.len()) {
                    break;
                }
            }
        }
        Ok(pairs(&numbers))
    }
}

/// Reads the data of one entry.
pub struct Data<'a, R>(&'a mut Entries<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.0.unread).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.0.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the tar stream ends in the middle of a file",
            ));
        }
        self.0.unread -= count as u64;
        Ok(count)
    }
}

fn read_error(what: &'static str) -> impl Fn(io::Error) -> TarError {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated(what),
        _ => TarError::Read(error),
    }
}

fn invalid(header: &Header, what: &'static str) -> TarError {
    TarError::Invalid { entry: String::from_utf8_lossy(&header.path_bytes()).into_owned(), what }
}

fn non_negative(field: &[u8], what: &'static str, header: &Header) -> Result<u64, TarError> {
    number(field).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| invalid(header, what))
}

fn device(header: &Header) -> Option<(u32, u32)> {
    // The fields stand at the same place in ustar and GNU headers; the magic may be missing.
    let bytes = header.as_bytes();
    let field = |range: std::ops::Range<usize>| number(&bytes[range]).and_then(|n| u32::try_from(n).ok());
    Some((field(329..337)?, field(337..345)?))
}

/// A numeric field: octal text, or base 256 if the first bit is set. Blank means 0.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0] as i8) } else { i128::from(field[0] & 0x7f) };
        let value = field[1..]
            .iter()
            .try_fold(first, |value, byte| value.checked_mul(256).map(|value| value | i128::from(*byte)))?;
        return value.try_into().ok();
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    i64::from_str_radix(text, 8).ok()
}

fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|b| *b == 0)
}

fn pairs(numbers: &[u64]) -> Vec<Chunk> {
    numbers.chunks_exact(2).map(|pair| Chunk { offset: pair[0], length: pair[1] }).collect()
}

/// Ascending, inside the file, and together as long as the data that is stored.
fn is_sparse_map(chunks: &[Chunk], stored: u64, size: u64) -> bool {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for chunk in chunks {
        let Some(chunk_end) = chunk.offset.checked_add(chunk.length) else { return false };
        if chunk.offset < end || chunk_end > size {
            return false;
        }
        end = chunk_end;
        total += chunk.length;
    }
    total == stored
}

/// Records of a pax header: `LENGTH KEY=VALUE\n`, the length counting itself.
fn read_pax(mut records: &[u8], extension: &mut Extension) -> Result<(), &'static str> {
    const MALFORMED: &str = "its pax header is malformed";
    while !records.is_empty() {
        let space = records.iter().position(|b| *b == b' ').ok_or(MALFORMED)?;
        let length: usize = decimal(&records[..space]).ok_or(MALFORMED)?;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(MALFORMED);
        }
        let record = &records[space + 1..length - 1];
        records = &records[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or(MALFORMED)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.link = Some(value.to_vec()),
            b"size" => extension.size = Some(decimal(value).ok_or(MALFORMED)?),
            b"uid" => extension.uid = Some(decimal(value).ok_or(MALFORMED)?),
            b"gid" => extension.gid = Some(decimal(value).ok_or(MALFORMED)?),
            b"mtime" => extension.mtime = Some(timestamp(value).ok_or(MALFORMED)?),
            b"GNU.sparse.major" => extension.sparse.major = Some(decimal(value).ok_or(MALFORMED)?),
            b"GNU.sparse.name" => extension.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                extension.sparse.real_size = Some(decimal(value).ok_or(MALFORMED)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                extension.sparse.map.push(decimal(value).ok_or(MALFORMED)?);
            }
            b"GNU.sparse.map" => {
                extension.sparse.map =
                    value.split(|b| *b == b',').map(decimal).collect::<Option<_>>().ok_or(MALFORMED)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extension.xattrs.push((OsString::from_vec(name.to_vec()), value.to_vec()));
                }
            }
        }
        if extension.sparse.map.len() > 2 * MAX_SPARSE_CHUNKS {
            return Err("its sparse map is too long");
        }
    }
    Ok(())
}

/// `[-]SECONDS[.FRACTION]`.
fn timestamp(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = secs.starts_with('-');
    let secs: i64 = secs.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some(if negative && nanos > 0 { (secs.checked_sub(1)?, 1_000_000_000 - nanos) } else { (secs, nanos) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, kind: u8, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn stream(parts: &[(Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, data) in parts {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> (Header, Vec<u8>) {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|n| n.to_string().len() + rest == *n).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        (header("pax", b'x', data.len() as u64), data)
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut entries = Entries::new(bytes, 100);
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            let mut data = Vec::new();
            entries.data().read_to_end(&mut data).map_err(TarError::Read)?;
            all.push((entry, data));
        }
        Ok(all)
    }

    #[test]
    fn names_longer_than_a_header_come_from_gnu_and_pax_records() {
        let long = "d/".repeat(120) + "f";
        let (pax_header, pax_data) = pax(&[("path", long.as_bytes()), ("linkpath", b"target")]);
        let bytes = stream(&[
            (header("././@LongLink", b'L', long.len() as u64 + 1), &[long.as_bytes(), b"\0"].concat()),
            (header("short", b'0', 2), b"ab"),
            (pax_header, &pax_data),
            (header("short", b'2', 0), b""),
        ]);
        let all = read_all(&bytes).unwrap();
        assert_eq!((all[0].0.path.to_str(), &all[0].1[..]), (Some(long.as_str()), &b"ab"[..]));
        assert_eq!(all[1].0.path.to_str(), Some(long.as_str()));
        assert_eq!(all[1].0.kind, EntryKind::Symlink("target".into()));
    }

    #[test]
    fn pax_records_override_ids_times_and_attributes() {
        let (pax_header, pax_data) = pax(&[
            ("uid", b"3000000"),
            ("gid", b"4"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.a", b"\0\n="),
            ("comment", b"ignored"),
        ]);
        let all = read_all(&stream(&[(pax_header, &pax_data), (header("f", b'0', 0), b"")])).unwrap();
        let entry = &all[0].0;
        assert_eq!((entry.uid, entry.gid), (3_000_000, 4));
        assert_eq!((entry.mtime_secs, entry.mtime_nanos), (-2, 750_000_000));
        assert_eq!(entry.xattrs, [("user.a".into(), b"\0\n=".to_vec())]);
    }

    #[test]
    fn sparse_files_of_every_kind_name_their_chunks() {
        let mut gnu = header("gnu", b'S', 4);
        {
            let gnu = gnu.as_gnu_mut().unwrap();
            gnu.sparse[0].offset.copy_from_slice(b"00000001000\0");
            gnu.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
            gnu.realsize.copy_from_slice(b"00000002000\0");
        }
        gnu.set_cksum();
        let (one, one_data) = pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", b"1024"),
        ]);
        let mut stored = b"1\n512\n4\n".to_vec();
        stored.resize(512, 0);
        stored.extend_from_slice(b"data");
        let (zero, zero_data) = pax(&[("GNU.sparse.size", b"1024"), ("GNU.sparse.map", b"512,4")]);
        let all = read_all(&stream(&[
            (gnu, b"data"),
            (one, &one_data),
            (header("GNUSparseFile.0/one", b'0', stored.len() as u64), &stored),
            (zero, &zero_data),
            (header("zero", b'0', 4), b"data"),
        ]))
        .unwrap();
        for (entry, data) in &all {
            assert_eq!(entry.size_bytes, 1024, "{:?}", entry.path);
            assert_eq!(entry.chunks, Some(vec![Chunk { offset: 512, length: 4 }]), "{:?}", entry.path);
            assert_eq!(data, b"data", "{:?}", entry.path);
        }
        assert_eq!(all[1].0.path, "one");
    }

    #[test]
    fn hostile_headers_are_refused_without_reading_what_they_promise() {
        let huge = 1 << 40;
        let mut wrong_sum = header("f", b'0', 0);
        wrong_sum.as_old_mut().cksum = *b"0000000\0";
        let mut odd_size = header("f", b'0', 0);
        odd_size.as_old_mut().size = *b"12x45678901\0";
        odd_size.set_cksum();
        let mut negative = header("f", b'0', 0);
        negative.as_old_mut().size = [0xff; 12];
        negative.set_cksum();
        let (overlap, overlap_data) = pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,4,2,4")]);
        let (beyond, beyond_data) = pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"8,4")]);
        let (wrap, wrap_data) =
            pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"18446744073709551615,4")]);
        let (big_id, big_id_data) = pax(&[("uid", b"4294967295")]);
        let (nul, nul_data) = pax(&[("path", b"a\0b")]);
        type Row<'a> = (&'a str, Vec<(Header, &'a [u8])>);
        let rows: [Row; 13] = [
            ("long name of a terabyte", vec![(header("n", b'L', huge), b"")]),
            ("pax header of a terabyte", vec![(header("n", b'x', huge), b"")]),
            ("global header of a terabyte", vec![(header("n", b'g', huge), b"")]),
            ("wrong checksum", vec![(wrong_sum, b"")]),
            ("size that is no number", vec![(odd_size, b"")]),
            ("negative size", vec![(negative, b"")]),
            ("unknown type", vec![(header("f", b'?', 0), b"")]),
            ("malformed pax", vec![(header("p", b'x', 6), b"9 a=b\n")]),
            ("overlapping sparse map", vec![(overlap, &overlap_data), (header("f", b'0', 8), b"12345678")]),
            ("sparse map beyond the file", vec![(beyond, &beyond_data), (header("f", b'0', 4), b"1234")]),
            ("sparse map that wraps around", vec![(wrap, &wrap_data), (header("f", b'0', 4), b"1234")]),
            ("user id -1", vec![(big_id, &big_id_data), (header("f", b'0', 0), b"")]),
            ("zero byte in a path", vec![(nul, &nul_data), (header("f", b'0', 0), b"")]),
        ];
        for (what, parts) in rows {
            assert!(read_all(&stream(&parts)).is_err(), "{what}");
        }
    }

    #[test]
    fn truncated_streams_are_errors_and_missing_end_blocks_are_not() {
        let whole = stream(&[(header("f", b'0', 600), &[1; 600])]);
        for length in [100, 512 + 10, 512 + 599] {
            assert!(read_all(&whole[..length]).is_err(), "{length}");
        }
        assert_eq!(read_all(&whole[..512 + 1024]).unwrap().len(), 1);
        assert_eq!(read_all(&[]).unwrap().len(), 0);
    }

    #[test]
    fn entries_are_counted() {
        let parts: Vec<_> = (0..101).map(|_| (header("f", b'0', 0), &b""[..])).collect();
        assert!(matches!(read_all(&stream(&parts)), Err(TarError::TooManyEntries(100))));
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"8", None),
            (b"-1", None),
            (&[0x80, 0, 0, 1, 0], Some(256)),
            (&[0xff, 0xff, 0xff, 0xfe], Some(-2)),
            (&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Any damage to a good archive is read or refused, never a panic, never more entries than allowed.
        #[test]
        fn damaged_archives_never_panic(at in 0_usize..4096, byte in 0_u8.., cut in 0_usize..6000) {
            let (pax_header, pax_data) = pax(&[("path", b"x/y"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,1")]);
            let mut bytes = stream(&[
                (header("a", b'5', 0), b""),
                (header("a/b", b'0', 5), b"hello"),
                (pax_header, &pax_data),
                (header("c", b'S', 0), b""),
            ]);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            let _ = read_all(&bytes);
        }
    }
}
