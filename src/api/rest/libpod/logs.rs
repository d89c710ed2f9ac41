//! Stored and new log lines. Both dialects: docker's sends a terminal's output without frames.

use axum::extract::State;
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::api::error::{ApiError, Dialect};
use crate::api::rest::Context;
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::stream::{self, Framing};
use crate::api::rest::{Outcome, time};
use crate::engine::container::{LogLine, LogOptions, OutputStream};
use crate::engine::id::NameOrId;

pub async fn logs(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    dialect: Dialect,
    query: Query,
) -> Outcome {
    let options = log_options(&query, Timestamp::now())?;
    let timestamps = query.flag("timestamps")?;
    let record = context.engine.container(&name)?;
    let framing = match dialect {
        Dialect::Libpod => Framing::Multiplexed,
        Dialect::Compat => Framing::of_terminal(record.spec.terminal),
    };
    let lines = context.engine.container_logs(&NameOrId::from(&record.id), options).await?;
    let mut stamps = Stamps { wanted: timestamps, stdout_continues: false, stderr_continues: false };
    let pieces = lines.map(move |line| match line {
        Ok(line) => {
            let stamp = stamps.of(&line);
            framing.encode(line.stream, render_line(&line, stamp))
        }
        Err(error) => framing.encode(OutputStream::Stderr, format!("{}\n", error.chain()).into()),
    });
    Ok(stream::reply("application/octet-stream", pieces, &context.closing))
}

/// The text of a line as clients print it: with its end, unless it goes on.
pub fn render_line(line: &LogLine, stamp: Option<Timestamp>) -> Bytes {
    let mut text = Vec::with_capacity(line.text.len() + 32);
    if let Some(stamp) = stamp {
        text.extend_from_slice(time::log_stamp(stamp).as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.text);
    if !line.partial {
        text.push(b'\n');
    }
    text.into()
}

/// Which pieces get a time: the first of each line.
struct Stamps {
    wanted: bool,
    stdout_continues: bool,
    stderr_continues: bool,
}

impl Stamps {
    fn of(&mut self, line: &LogLine) -> Option<Timestamp> {
        let continues = match line.stream {
            OutputStream::Stdout => &mut self.stdout_continues,
            OutputStream::Stderr => &mut self.stderr_continues,
        };
        let starts = !std::mem::replace(continues, line.partial);
        (self.wanted && starts).then_some(line.time)
    }
}

fn log_options(query: &Query, now: Timestamp) -> Result<LogOptions, ApiError> {
    let options = LogOptions {
        stdout: query.flag("stdout")?,
        stderr: query.flag("stderr")?,
        follow: query.flag("follow")?,
        since: time::moment(query, "since", now)?,
        until: time::moment(query, "until", now)?,
        tail: tail(query)?,
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::bad_request("at least one of stdout and stderr must be true"));
    }
    Ok(options)
}

/// A number of lines; `all` and negative ones mean all.
fn tail(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.filled("tail") {
        None | Some("all") => Ok(None),
        Some(_) => Ok(query.number::<i64>("tail")?.and_then(|lines| u64::try_from(lines).ok())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, partial: bool) -> LogLine {
        let time = "2026-11-21T10:00:00.5Z".parse().unwrap();
        LogLine { time, stream: OutputStream::Stdout, text: text.into(), partial }
    }

    #[test]
    fn a_line_in_pieces_gets_one_time_and_one_end() {
        let mut stamps = Stamps { wanted: true, stdout_continues: false, stderr_continues: false };
        let mut text = Vec::new();
        for line in [line("ab", true), line("cd", false), line("ef", false)] {
            text.extend_from_slice(&render_line(&line, stamps.of(&line)));
        }
        let stamp = "2026-11-21T10:00:00.500000000Z";
        assert_eq!(String::from_utf8(text).unwrap(), format!("{stamp} abcd\n{stamp} ef\n"));
    }

    #[test]
    fn options_are_podmans() {
        let options = |text: &str| log_options(&Query::parse(Some(text)).unwrap(), Timestamp::UNIX_EPOCH);
        assert!(options("follow=true").is_err());
        let sent =
            "follow=false&since=0001-01-01T00%3A00%3A00Z&stderr=true&stdout=true&tail=3&timestamps=false";
        let parsed = options(sent).unwrap();
        assert_eq!((parsed.tail, parsed.since, parsed.follow), (Some(3), None, false));
        assert_eq!(options("stdout=1&tail=all").unwrap().tail, None);
        assert_eq!(options("stdout=1&tail=-1").unwrap().tail, None);
        assert!(options("stdout=1&tail=x").is_err());
    }
}
