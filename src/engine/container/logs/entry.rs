//! One entry of a log file, in either format. Pure. What is no entry is skipped: a killed monitor may
//! have left half of one, and the file may be anybody's (`--log-opt path=`).

use jiff::Timestamp;
use serde::Deserialize;

use crate::engine::container::spec::LogDriver;
use crate::engine::container::{LogLine, OutputStream};

/// Parses one line of the file, without its newline.
pub fn parse(driver: LogDriver, line: &[u8]) -> Option<LogLine> {
    match driver {
        LogDriver::K8sFile => parse_k8s_file(line),
        LogDriver::JsonFile => parse_json_file(line),
        LogDriver::None => None,
    }
}

/// `TIMESTAMP STREAM F|P TEXT`. Further tags may follow the first, after colons.
fn parse_k8s_file(line: &[u8]) -> Option<LogLine> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = parse_time(std::str::from_utf8(fields.next()?).ok()?)?;
    let stream = parse_stream(fields.next()?)?;
    let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(LogLine { time, stream, text: fields.next()?.to_vec(), partial })
}

#[derive(Deserialize)]
struct JsonEntry<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: &'a str,
    time: &'a str,
}

fn parse_json_file(line: &[u8]) -> Option<LogLine> {
    let entry: JsonEntry = serde_json::from_slice(line).ok()?;
    let time = parse_time(entry.time)?;
    let stream = parse_stream(entry.stream.as_bytes())?;
    let mut text = entry.log.into_owned().into_bytes();
    let partial = text.last() != Some(&b'\n');
    if !partial {
        text.pop();
    }
    Some(LogLine { time, stream, text, partial })
}

fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn parse_stream(text: &[u8]) -> Option<OutputStream> {
    [OutputStream::Stdout, OutputStream::Stderr].into_iter().find(|stream| stream.as_str().as_bytes() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_formats() {
        use LogDriver::{JsonFile, K8sFile};
        use OutputStream::{Stderr, Stdout};
        type Expected = Option<(OutputStream, &'static str, bool)>;
        let cases: &[(LogDriver, &str, Expected)] = &[
            (K8sFile, "2026-01-02T03:04:05.000000006Z stdout F one two", Some((Stdout, "one two", false))),
            (K8sFile, "2026-01-02T05:04:05.000000006+02:00 stderr P part", Some((Stderr, "part", true))),
            (K8sFile, "2026-01-02T03:04:05.000000006Z stdout F:tag ", Some((Stdout, "", false))),
            (K8sFile, "2026-01-02T03:04:05.000000006Z stdout F", None),
            (K8sFile, "2026-01-02T03:04:05.000000006Z stdin F x", None),
            (K8sFile, "2026-01-02T03:04:05.000000006Z stdout X x", None),
            (K8sFile, "yesterday stdout F x", None),
            (K8sFile, "", None),
            (
                JsonFile,
                r#"{"log":"a\"b\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}"#,
                Some((Stdout, "a\"b", false)),
            ),
            (
                JsonFile,
                r#"{"log":"part","stream":"stderr","attrs":{"tag":"x"},"time":"2026-01-02T03:04:05.000000006Z"}"#,
                Some((Stderr, "part", true)),
            ),
            (JsonFile, r#"{"log":"cut of"#, None),
            (LogDriver::None, "2026-01-02T03:04:05.000000006Z stdout F x", None),
        ];
        for (driver, line, expected) in cases {
            let expected = expected.map(|(stream, text, partial)| LogLine {
                time: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
                stream,
                text: text.into(),
                partial,
            });
            assert_eq!(parse(*driver, line.as_bytes()), expected, "{line}");
        }
    }
}
