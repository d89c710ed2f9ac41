//! The log as one sequence of entries over its files: the rotated predecessor, then the present one, and
//! on into the next when that is rotated away. Blocking.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How much is read at once.
const BLOCK_BYTES: usize = 64 * 1024;
/// Longer entries are no entries: a monitor writes at most 32 KiB of text, six times that in JSON.
const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// Reads lines from a place in the log to its end, and on from there when there is more.
pub struct LogFiles {
    path: PathBuf,
    /// The one being read, then those after it.
    files: VecDeque<(File, Identity)>,
    offset: u64,
    /// Read, and not yet a whole line.
    rest: Vec<u8>,
    /// Within a line too long to be an entry.
    skipping: bool,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl LogFiles {
    /// At the beginning of the log. A log that was never written is empty.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut files = VecDeque::new();
        // In this order: were it rotated in between, both names mean the same file, and no line is missed.
        let present = open_identified(path)?;
        let predecessor = open_identified(&rotated(path))?;
        if let Some(predecessor) = predecessor
            && present.as_ref().is_none_or(|(_, identity)| *identity != predecessor.1)
        {
            files.push_back(predecessor);
        }
        files.extend(present);
        Ok(Self { path: path.to_owned(), files, offset: 0, rest: Vec::new(), skipping: false })
    }

    /// Moves to where the last `count` lines begin. Called before anything is read.
    pub fn seek_last(&mut self, count: u64, mut counts: impl FnMut(&[u8]) -> Counts) -> io::Result<()> {
        if count == 0 {
            let last = self.files.len().saturating_sub(1);
            self.files.drain(..last);
            self.offset = self.files.front().map_or(Ok(0), |(file, _)| file.metadata().map(|m| m.len()))?;
            return Ok(());
        }
        let mut found = 0;
        // The end of a line that is not finished is a line too.
        let mut unfinished = true;
        for at in (0..self.files.len()).rev() {
            let mut lines = ReverseLines::new(&self.files[at].0)?;
            while let Some((start, line)) = lines.next()? {
                match counts(&line) {
                    Counts::Not => continue,
                    Counts::PartOfLine if unfinished => found += 1,
                    Counts::PartOfLine => {}
                    Counts::EndOfLine => found += 1,
                }
                unfinished = false;
                if found > count {
                    self.offset = start + line.len() as u64 + 1;
                    self.files.drain(..at);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The next lines, at most about a block of them. None: the end of what there is.
    pub fn read(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        loop {
            let Some((file, _)) = self.files.front() else {
                match open_identified(&self.path)? {
                    Some(opened) => self.files.push_back(opened),
                    None => return Ok(None),
                }
                continue;
            };
            let mut block = vec![0; BLOCK_BYTES];
            let length = file.read_at(&mut block, self.offset)?;
            if length > 0 {
                self.offset += length as u64;
                let lines = self.split(&block[..length]);
                if lines.is_empty() {
                    continue;
                }
                return Ok(Some(lines));
            }
            // Emptied in place (logrotate's copytruncate): from the beginning again.
            if file.metadata()?.len() < self.offset {
                self.rewind();
                continue;
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the file after the one that has been read to its end. False: there is none yet.
    fn advance(&mut self) -> io::Result<bool> {
        if self.files.len() > 1 {
            self.files.pop_front();
            self.rewind();
            return Ok(true);
        }
        let Some((file, current)) = self.files.front() else { return Ok(false) };
        let Some(present) = open_identified(&self.path)? else { return Ok(false) };
        if present.1 == *current {
            return Ok(false);
        }
        // Rotated away. What was written to it after the last read comes first.
        if file.metadata()?.len() > self.offset {
            return Ok(true);
        }
        let predecessor = open_identified(&rotated(&self.path))?;
        // Rotated twice: a whole file came in between.
        if let Some(predecessor) = predecessor
            && predecessor.1 != *current
            && predecessor.1 != present.1
        {
            self.files.push_back(predecessor);
        }
        self.files.push_back(present);
        self.files.pop_front();
        self.rewind();
        Ok(true)
    }

    fn rewind(&mut self) {
        self.offset = 0;
        self.rest.clear();
        self.skipping = false;
    }

    fn split(&mut self, block: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut parts = block.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let whole = parts.peek().is_some();
            if !self.skipping {
                self.rest.extend_from_slice(part);
            }
            if self.rest.len() > MAX_ENTRY_BYTES {
                self.skipping = true;
                self.rest = Vec::new();
            }
            if whole {
                if !std::mem::take(&mut self.skipping) {
                    lines.push(std::mem::take(&mut self.rest));
                }
                self.rest.clear();
            }
        }
        lines
    }
}

/// How an entry matters for the number of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Filtered out.
    Not,
    PartOfLine,
    EndOfLine,
}

/// The lines of a file from its end, with where they start.
struct ReverseLines<'a> {
    file: &'a File,
    /// What is before this offset was not read yet.
    position: u64,
    /// What was read and not yet returned.
    buffer: Vec<u8>,
}

impl<'a> ReverseLines<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let position = file.metadata()?.len();
        let mut lines = Self { file, position, buffer: Vec::new() };
        // What comes after the last newline is not a line yet.
        while lines.buffer.iter().all(|byte| *byte != b'\n') && lines.fill()? {
            lines.bound();
        }
        let end = lines.buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        lines.buffer.truncate(end);
        Ok(lines)
    }

    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let Some(text) = self.buffer.strip_suffix(b"\n") else {
                if self.buffer.is_empty() && self.fill()? {
                    continue;
                }
                return Ok(None);
            };
            match text.iter().rposition(|byte| *byte == b'\n') {
                Some(before) => {
                    let line = text[before + 1..].to_vec();
                    self.buffer.truncate(before + 1);
                    return Ok(Some((self.position + before as u64 + 1, line)));
                }
                None if self.position == 0 => {
                    let line = text.to_vec();
                    self.buffer.clear();
                    return Ok(Some((0, line)));
                }
                None => {
                    self.fill()?;
                    self.bound();
                }
            }
        }
    }

    /// Reads the block before what is there. False: there is none.
    fn fill(&mut self) -> io::Result<bool> {
        let length = self.position.min(BLOCK_BYTES as u64);
        if length == 0 {
            return Ok(false);
        }
        let mut block = vec![0; length as usize];
        self.file.read_exact_at(&mut block, self.position - length)?;
        self.position -= length;
        block.append(&mut self.buffer);
        self.buffer = block;
        Ok(true)
    }

    /// Forgets the middle of a line too long to be an entry: what is returned for it is none either way.
    fn bound(&mut self) {
        if self.buffer.len() > 2 * MAX_ENTRY_BYTES {
            self.buffer.drain(BLOCK_BYTES..self.buffer.len() - 1);
        }
    }
}

/// The name of a log's predecessor, as the monitor renames it.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn open_identified(path: &Path) -> io::Result<Option<(File, Identity)>> {
    match File::open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok(Some((file, Identity { device: metadata.dev(), inode: metadata.ino() })))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(files: &mut LogFiles) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(more) = files.read().unwrap() {
            lines.extend(more.into_iter().map(|line| String::from_utf8(line).unwrap()));
        }
        lines
    }

    fn log(content: &str, predecessor: Option<&str>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctr.log");
        std::fs::write(&path, content).unwrap();
        if let Some(text) = predecessor {
            std::fs::write(rotated(&path), text).unwrap();
        }
        (dir, path)
    }

    /// Upper case counts as the end of a line, lower case as a part of one, anything else not.
    fn letters(line: &[u8]) -> Counts {
        match line.first() {
            Some(b'A'..=b'Z') => Counts::EndOfLine,
            Some(b'a'..=b'z') => Counts::PartOfLine,
            _ => Counts::Not,
        }
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let cases: &[(Option<&str>, &str, u64, &[&str])] = &[
            (None, "A\nB\nC\n", 2, &["B", "C"]),
            (None, "A\nB\nC\n", 3, &["A", "B", "C"]),
            (None, "A\nB\nC\n", 9, &["A", "B", "C"]),
            (None, "A\nB\n", 0, &[]),
            (None, "", 3, &[]),
            (Some("X\nY\n"), "A\n", 2, &["Y", "A"]),
            (Some("X\nY\n"), "A\n", 1, &["A"]),
            (Some("X\nY\n"), "", 1, &["Y"]),
            (Some("X\nY\n"), "A\n", 0, &[]),
            // A line of several parts is one, also when its end is missing.
            (None, "A\nb\nB\n", 1, &["b", "B"]),
            (None, "A\nB\nc\nc\n", 2, &["B", "c", "c"]),
            // What is filtered out does not count.
            (None, "A\nB\n-\n-\n", 1, &["B", "-", "-"]),
            // Half an entry at the end is none.
            (None, "A\nB\nhal", 1, &["B"]),
        ];
        for (predecessor, content, count, expected) in cases {
            let (_dir, path) = log(content, *predecessor);
            let mut files = LogFiles::open(&path).unwrap();
            files.seek_last(*count, letters).unwrap();
            assert_eq!(&all(&mut files), expected, "last {count} of {predecessor:?} {content:?}");
        }
    }

    #[test]
    fn the_end_of_a_large_log_is_found_across_blocks() {
        let line = |number: u32| format!("L{number} {}", "x".repeat(number as usize % 1000));
        let content: String = (0..5_000).map(|number| line(number) + "\n").collect();
        let (_dir, path) = log(&content, None);
        for count in [1, 100, 1_000, 4_999, 5_000] {
            let mut files = LogFiles::open(&path).unwrap();
            files.seek_last(count, letters).unwrap();
            let expected: Vec<_> = (5_000 - count as u32..5_000).map(line).collect();
            assert!(all(&mut files) == expected, "last {count}");
        }
    }

    #[test]
    fn reading_goes_on_through_rotations() {
        let (_dir, path) = log("A\n", None);
        let append = |text: &str| {
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        let mut files = LogFiles::open(&path).unwrap();
        assert_eq!(all(&mut files), ["A"]);
        append("B\nhal");
        assert_eq!(all(&mut files), ["B"]);
        append("f\nC\n");
        std::fs::rename(&path, rotated(&path)).unwrap();
        append("D\n");
        assert_eq!(all(&mut files), ["half", "C", "D"]);
        for text in ["E\n", "F\n"] {
            std::fs::rename(&path, rotated(&path)).unwrap();
            append(text);
        }
        assert_eq!(all(&mut files), ["E", "F"]);
        std::fs::write(&path, "").unwrap();
        assert!(all(&mut files).is_empty());
        append("G\n");
        assert_eq!(all(&mut files), ["G"]);
    }

    #[test]
    fn endless_lines_are_skipped_in_bounded_memory() {
        let content = format!("A\n{}\nB\n", "x".repeat(5 * MAX_ENTRY_BYTES));
        let (_dir, path) = log(&content, None);
        let mut files = LogFiles::open(&path).unwrap();
        assert_eq!(all(&mut files), ["A", "B"]);
        let mut files = LogFiles::open(&path).unwrap();
        files.seek_last(1, letters).unwrap();
        assert_eq!(all(&mut files), ["B"]);
    }
}
