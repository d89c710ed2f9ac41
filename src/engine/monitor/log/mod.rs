//! The container's log file: whole entries, never split between two files, one predecessor kept.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::engine::container::OutputStream;
use crate::engine::container::spec::LogDriver;

mod json_file;
mod k8s_file;

/// How much is formatted before it is written.
const FLUSH_BYTES: usize = 32 * 1024;

/// Writes what the container prints.
pub struct Log {
    file: Option<LogFile>,
    format: Format,
    /// Formatted, not yet written. Empty between calls.
    entries: Vec<u8>,
}

enum Format {
    K8sFile,
    JsonFile(json_file::Carry),
}

struct LogFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    max_size_bytes: Option<u64>,
    /// The last write failed: said once, not for every line of a full disk.
    failing: bool,
}

impl Log {
    /// Opens or creates the file; with [`LogDriver::None`] nothing is written at all.
    pub fn open(driver: LogDriver, path: &Path, max_size_bytes: Option<u64>) -> io::Result<Self> {
        let format = match driver {
            LogDriver::K8sFile | LogDriver::None => Format::K8sFile,
            LogDriver::JsonFile => Format::JsonFile(json_file::Carry::default()),
        };
        let file = match driver {
            LogDriver::None => None,
            LogDriver::K8sFile | LogDriver::JsonFile => {
                let (file, size_bytes) = open_file(path)?;
                Some(LogFile { file, path: path.to_owned(), size_bytes, max_size_bytes, failing: false })
            }
        };
        Ok(Self { file, format, entries: Vec::new() })
    }

    /// Writes `chunk`, read from the container at `time`. Failures are complained of on standard error
    /// and cost log lines, never the container.
    pub fn write(&mut self, time: Timestamp, stream: OutputStream, chunk: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let mut rest = chunk;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            match &mut self.format {
                Format::K8sFile => k8s_file::append(&mut self.entries, time, stream, line),
                Format::JsonFile(carry) => carry.append(&mut self.entries, time, stream, line),
            }
            if self.entries.len() >= file.batch_bytes() {
                file.append(&self.entries);
                self.entries.clear();
            }
            rest = after;
        }
        file.append(&self.entries);
        self.entries.clear();
    }

    /// Nothing more will come: writes what was held back.
    pub fn finish(&mut self, time: Timestamp) {
        let Some(file) = &mut self.file else { return };
        if let Format::JsonFile(carry) = &mut self.format {
            carry.finish(&mut self.entries, time);
            file.append(&self.entries);
            self.entries.clear();
        }
    }

    /// Goes on with the file that now has the name.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Some(log) = &mut self.file {
            (log.file, log.size_bytes) = open_file(&log.path)?;
        }
        Ok(())
    }
}

impl LogFile {
    /// How much is written at once: a burst must not make the file many times as large as it may be.
    fn batch_bytes(&self) -> usize {
        let max = self.max_size_bytes.and_then(|max| usize::try_from(max).ok());
        max.map_or(FLUSH_BYTES, |max| max.min(FLUSH_BYTES))
    }

    fn append(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let result = self.rotate_before(entries.len()).and_then(|()| self.write_all(entries));
        match result {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                eprintln!("write log {}: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }

    fn write_all(&mut self, entries: &[u8]) -> io::Result<()> {
        match self.file.write_all(entries) {
            Ok(()) => {
                self.size_bytes += entries.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half an entry would spoil the next one.
                let _ = self.file.set_len(self.size_bytes);
                Err(error)
            }
        }
    }

    fn rotate_before(&mut self, length: usize) -> io::Result<()> {
        match self.max_size_bytes {
            Some(max) if self.size_bytes > 0 && self.size_bytes + length as u64 > max => {
                std::fs::rename(&self.path, rotated(&self.path))?;
                (self.file, self.size_bytes) = open_file(&self.path)?;
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The name of a log's predecessor.
pub fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        // Opening a FIFO must not wait for a reader.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a log must be a file"));
    }
    let mut size_bytes = metadata.len();
    // A monitor that was killed in the middle of a write left half an entry.
    if size_bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size_bytes += 1;
        }
    }
    Ok((file, size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000006Z";

    fn log(dir: &tempfile::TempDir, driver: LogDriver, max: Option<u64>) -> (Log, PathBuf) {
        let path = dir.path().join("ctr.log");
        (Log::open(driver, &path, max).unwrap(), path)
    }

    #[test]
    fn a_burst_is_rotated_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, LogDriver::K8sFile, Some(2_000));
        let burst: String = (0..1_000).map(|number| format!("line {number}\n")).collect();
        log.write(TIME.parse().unwrap(), OutputStream::Stdout, burst.as_bytes());
        for file in [rotated(&path), path.clone()] {
            let size = std::fs::metadata(&file).unwrap().len();
            assert!((1..=2_100).contains(&size), "{}: {size} bytes", file.display());
        }
        assert!(std::fs::read_to_string(path).unwrap().ends_with("line 999\n"));
    }

    #[test]
    fn chunks_become_the_entries_of_each_format() {
        type Chunks = &'static [(OutputStream, &'static [u8])];
        let cases: &[(LogDriver, Chunks, &str)] = &[
            (
                LogDriver::K8sFile,
                &[(OutputStream::Stdout, b"one\ntwo\nthr"), (OutputStream::Stderr, b"ee\n")],
                "T stdout F one\nT stdout F two\nT stdout P thr\nT stderr F ee\n",
            ),
            (LogDriver::K8sFile, &[(OutputStream::Stdout, b"\n\r\n")], "T stdout F \nT stdout F \r\n"),
            (
                LogDriver::JsonFile,
                &[(OutputStream::Stdout, b"one\n\"two"), (OutputStream::Stderr, b"\x01\\\n")],
                concat!(
                    r#"{"log":"one\n","stream":"stdout","time":"T"}"#,
                    "\n",
                    r#"{"log":"\"two","stream":"stdout","time":"T"}"#,
                    "\n",
                    r#"{"log":"\u0001\\\n","stream":"stderr","time":"T"}"#,
                    "\n",
                ),
            ),
            // A character cut by the end of a read is put together again, per stream.
            (
                LogDriver::JsonFile,
                &[
                    (OutputStream::Stdout, b"gr\xc3"),
                    (OutputStream::Stderr, b"x\n"),
                    (OutputStream::Stdout, b"\xbc\n"),
                ],
                concat!(
                    r#"{"log":"gr","stream":"stdout","time":"T"}"#,
                    "\n",
                    r#"{"log":"x\n","stream":"stderr","time":"T"}"#,
                    "\n",
                    r#"{"log":"ü\n","stream":"stdout","time":"T"}"#,
                    "\n",
                ),
            ),
            // What is no UTF-8 is replaced; a cut character at the very end too.
            (
                LogDriver::JsonFile,
                &[(OutputStream::Stdout, b"a\xffb\n"), (OutputStream::Stdout, b"\xc3")],
                concat!(
                    "{\"log\":\"a\u{fffd}b\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n",
                    "{\"log\":\"\u{fffd}\",\"stream\":\"stdout\",\"time\":\"T\"}\n",
                ),
            ),
        ];
        for (driver, chunks, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, path) = log(&dir, *driver, None);
            for (stream, chunk) in *chunks {
                log.write(TIME.parse().unwrap(), *stream, chunk);
            }
            log.finish(TIME.parse().unwrap());
            let text = std::fs::read_to_string(path).unwrap();
            assert_eq!(text, expected.replace('T', TIME), "{driver:?} {chunks:?}");
        }
    }

    #[test]
    fn rotation_keeps_one_predecessor_and_whole_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, LogDriver::K8sFile, Some(100));
        for number in 0..7 {
            log.write(TIME.parse().unwrap(), OutputStream::Stdout, format!("line {number}\n").as_bytes());
        }
        let line = |number| format!("{TIME} stdout F line {number}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(6));
        assert_eq!(std::fs::read_to_string(rotated(&path)).unwrap(), line(4) + &line(5));
    }

    #[test]
    fn reopening_an_old_log_appends_and_repairs_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctr.log");
        std::fs::write(&path, "half an ent").unwrap();
        let (mut log, _) = log(&dir, LogDriver::K8sFile, None);
        log.write(TIME.parse().unwrap(), OutputStream::Stdout, b"x\n");
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        log.reopen().unwrap();
        log.write(TIME.parse().unwrap(), OutputStream::Stdout, b"y\n");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("moved")).unwrap(),
            format!("half an ent\n{TIME} stdout F x\n")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{TIME} stdout F y\n"));
    }

    #[test]
    fn no_driver_writes_no_file_and_a_fifo_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = log(&dir, LogDriver::None, None);
        log.write(Timestamp::now(), OutputStream::Stdout, b"x\n");
        assert!(!path.exists());
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(Log::open(LogDriver::K8sFile, &path, None).is_err());
    }

    #[test]
    fn a_full_disk_costs_lines_and_leaves_whole_entries() {
        // A file-size limit would raise a signal in every thread of the test: /dev/full fails as a full disk does.
        let (mut log, _) = (
            Log {
                file: Some(LogFile {
                    file: std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(),
                    path: "/dev/full".into(),
                    size_bytes: 0,
                    max_size_bytes: None,
                    failing: false,
                }),
                format: Format::K8sFile,
                entries: Vec::new(),
            },
            (),
        );
        log.write(Timestamp::now(), OutputStream::Stdout, b"lost\n");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctr.log");
        let file = log.file.as_mut().unwrap();
        assert!(file.failing);
        (file.file, file.size_bytes) = open_file(&path).unwrap();
        log.write(TIME.parse().unwrap(), OutputStream::Stdout, b"kept\n");
        assert!(!log.file.as_ref().unwrap().failing);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{TIME} stdout F kept\n"));
    }
}
