//! Reading a container's log: the last lines, a span of time, and what is still being written.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use crate::engine::BoxStream;
use crate::engine::container::spec::LogDriver;
use crate::engine::container::{LogLine, LogOptions, OutputStream};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};

mod entry;
mod file;
mod watch;

use file::{Counts, LogFiles};
use watch::Watch;

/// Where a container's log is.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// The container's name, for messages.
    pub container: String,
    pub path: PathBuf,
    pub driver: LogDriver,
}

/// The lines `options` ask for, oldest first. With `follow` the stream goes on until `ended` resolves
/// and everything written by then was read, or the time `until` has come.
pub fn read(
    source: LogSource,
    options: LogOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<BoxStream<LogLine>> {
    let subject = Subject::Container(source.container.clone());
    if source.driver == LogDriver::None {
        return Err(EngineError::new(
            ErrorKind::NotSupported,
            subject,
            "this container is using the 'none' log driver, cannot read logs",
        ));
    }
    // Before the first read: what is written after that is noticed.
    let watch = match options.follow.then(|| Watch::new(&source.path)) {
        Some(Ok(watch)) => Some(watch),
        // Never started, or about to be removed: there is nothing to follow.
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Some(Err(error)) => return Err(EngineError::internal(subject, "watch log", error)),
        None => None,
    };
    let follow = watch.map(|watch| Follow { watch, ended: Box::pin(ended), last_pass: false });
    let reader = Reader { source, options, files: None, follow };
    let batches = stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(lines)) => {
                Some((lines.into_iter().map(Ok).collect::<Vec<Result<LogLine>>>(), Some(reader)))
            }
            Ok(None) => None,
            Err(error) => {
                let subject = Subject::Container(reader.source.container);
                Some((vec![Err(EngineError::internal(subject, "read log", error))], None))
            }
        }
    });
    Ok(batches.flat_map(stream::iter).boxed())
}

struct Reader {
    source: LogSource,
    options: LogOptions,
    files: Option<LogFiles>,
    follow: Option<Follow>,
}

struct Follow {
    watch: Watch,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The container has ended: what is there is all there will be.
    last_pass: bool,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Vec<LogLine>>> {
        loop {
            if let Some(lines) = self.read().await? {
                if !lines.is_empty() {
                    return Ok(Some(lines));
                }
                continue;
            }
            let Some(follow) = &mut self.follow else { return Ok(None) };
            if follow.last_pass {
                return Ok(None);
            }
            tokio::select! {
                () = follow.watch.changed() => {}
                () = &mut follow.ended => follow.last_pass = true,
                () = sleep_until(self.options.until) => follow.last_pass = true,
            }
        }
    }

    /// One batch, with what does not fit the options already left out. `None`: the end, for now.
    async fn read(&mut self) -> io::Result<Option<Vec<LogLine>>> {
        let (files, source, options) = (self.files.take(), self.source.clone(), self.options.clone());
        let (files, lines) = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let mut files = match files {
                Some(files) => files,
                None => open(&source, &options)?,
            };
            let lines = files.read()?.map(|lines| {
                let entries = lines.iter().filter_map(|line| entry::parse(source.driver, line));
                entries.filter(|line| wanted(&options, line)).collect()
            });
            Ok((files, lines))
        })
        .await
        .map_err(io::Error::other)??;
        self.files = Some(files);
        Ok(lines)
    }
}

fn open(source: &LogSource, options: &LogOptions) -> io::Result<LogFiles> {
    let mut files = LogFiles::open(&source.path)?;
    if let Some(tail) = options.tail {
        files.seek_last(tail, |line| match entry::parse(source.driver, line) {
            Some(line) if !wanted(options, &line) => Counts::Not,
            Some(line) if line.partial => Counts::PartOfLine,
            Some(_) => Counts::EndOfLine,
            None => Counts::Not,
        })?;
    }
    Ok(files)
}

fn wanted(options: &LogOptions, line: &LogLine) -> bool {
    let stream = match line.stream {
        OutputStream::Stdout => options.stdout,
        OutputStream::Stderr => options.stderr,
    };
    stream
        && options.since.is_none_or(|since| line.time >= since)
        && options.until.is_none_or(|until| line.time <= until)
}

async fn sleep_until(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let left = time.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const ALL: LogOptions =
        LogOptions { stdout: true, stderr: true, follow: false, since: None, until: None, tail: None };

    fn source(dir: &tempfile::TempDir) -> LogSource {
        LogSource { container: "web".into(), path: dir.path().join("ctr.log"), driver: LogDriver::K8sFile }
    }

    fn line(second: u32, stream: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}Z {stream} F {text}\n")
    }

    async fn texts(lines: BoxStream<LogLine>) -> Vec<String> {
        lines.map(|line| String::from_utf8(line.unwrap().text).unwrap()).collect().await
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir);
        let content: String =
            (0..10).map(|n| line(n, if n % 2 == 0 { "stdout" } else { "stderr" }, &n.to_string())).collect();
        std::fs::write(&source.path, content).unwrap();
        let at = |second: u32| Some(format!("2026-01-01T00:00:{second:02}Z").parse().unwrap());
        let cases: &[(LogOptions, &str)] = &[
            (ALL, "0123456789"),
            (LogOptions { stderr: false, ..ALL }, "02468"),
            (LogOptions { tail: Some(3), ..ALL }, "789"),
            (LogOptions { tail: Some(3), stdout: false, ..ALL }, "579"),
            (LogOptions { since: at(7), ..ALL }, "789"),
            (LogOptions { until: at(2), ..ALL }, "012"),
            (LogOptions { since: at(2), until: at(5), tail: Some(2), ..ALL }, "45"),
            (LogOptions { tail: Some(0), ..ALL }, ""),
            // Its end has come already.
            (LogOptions { follow: true, until: at(1), ..ALL }, "01"),
        ];
        for (options, expected) in cases {
            let lines = read(source.clone(), options.clone(), std::future::pending()).unwrap();
            assert_eq!(texts(lines).await.concat(), *expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn a_log_never_written_is_empty_and_no_log_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir);
        assert!(texts(read(source.clone(), ALL, std::future::pending()).unwrap()).await.is_empty());
        let gone = LogSource { path: dir.path().join("gone/ctr.log"), ..source.clone() };
        let follow = LogOptions { follow: true, ..ALL };
        assert!(texts(read(gone, follow, std::future::pending()).unwrap()).await.is_empty());
        let none = LogSource { driver: LogDriver::None, ..source };
        let error = read(none, ALL, std::future::pending()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotSupported);
    }

    #[tokio::test]
    async fn following_sees_every_line_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir);
        let (end, ended) = oneshot::channel::<()>();
        let options = LogOptions { follow: true, ..ALL };
        let lines = read(source.clone(), options, async { drop(ended.await) }).unwrap();
        let reader = tokio::spawn(texts(lines));
        // Written as the monitor does, with rotation in between, at its own pace.
        let path = source.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut expected = Vec::new();
            for number in 0..2_000 {
                if number % 1_000 == 0 && number > 0 {
                    std::fs::rename(&path, dir.path().join("ctr.log.1")).unwrap();
                }
                let mut file = File::options().create(true).append(true).open(&path).unwrap();
                file.write_all(line(number % 60, "stdout", &number.to_string()).as_bytes()).unwrap();
                expected.push(number.to_string());
            }
            (dir, expected)
        });
        let (_dir, expected) = written.await.unwrap();
        end.send(()).unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), reader).await.unwrap().unwrap();
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir);
        std::fs::write(&source.path, line(0, "stdout", "old")).unwrap();
        let options = LogOptions { follow: true, tail: Some(0), ..ALL };
        let mut lines = read(source.clone(), options, std::future::pending()).unwrap();
        let mut next = tokio::spawn(async move { lines.next().await.unwrap().unwrap() });
        // Still waiting: nothing new was written.
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut next).await.is_err());
        let mut file = File::options().append(true).open(&source.path).unwrap();
        file.write_all(line(1, "stderr", "new").as_bytes()).unwrap();
        let line = tokio::time::timeout(Duration::from_secs(30), next).await.unwrap().unwrap();
        assert_eq!((line.stream, line.text.as_slice()), (OutputStream::Stderr, &b"new"[..]));
    }
}
