//! Times as clients write and read them: Go's, and docker's words for how long ago.

use jiff::{SignedDuration, Timestamp};

use super::super::error::ApiError;
use super::extract::Query;

/// Go's zero time: "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";
/// The same in unix seconds, as podman prints it.
pub const NEVER_SECS: i64 = -62_135_596_800;

/// RFC 3339 with nanoseconds, or Go's zero.
pub fn rfc3339(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

/// RFC 3339 with always nine digits: a column of a log.
pub fn log_stamp(time: Timestamp) -> String {
    format!("{time:.9}")
}

pub fn unix_secs(time: Option<Timestamp>) -> i64 {
    time.map_or(NEVER_SECS, Timestamp::as_second)
}

/// A moment of the query: unix seconds (with fraction), RFC 3339, or how long ago (`1h30m`).
/// `None` for what means "no limit": nothing, `0`, Go's zero time.
pub fn moment(query: &Query, name: &str, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.filled(name) else { return Ok(None) };
    if text == "0" || text == NEVER {
        return Ok(None);
    }
    parse_moment(text, now).map(Some).ok_or_else(|| {
        ApiError::bad_parameter(name, format!("{text:?} is no unix time, RFC 3339 time or duration"))
    })
}

fn parse_moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(time) = parse_unix(text) {
        return Some(time);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    // Without a zone it is the server's time; with a date alone, its midnight.
    if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
        return civil.to_zoned(jiff::tz::TimeZone::system()).ok().map(|zoned| zoned.timestamp());
    }
    now.checked_sub(parse_duration(text)?).ok()
}

fn parse_unix(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = whole.parse::<i64>().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse::<i32>().ok()?;
    Timestamp::new(seconds, nanoseconds).ok()
}

/// A duration as Go writes it: `1h2m3.5s`, `300ms`.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += value
            * match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    SignedDuration::try_from_secs_f64(sign * seconds).ok()
}

/// Docker's words: `Less than a second`, `About a minute`, `3 hours`.
pub fn in_words(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ => match hours {
            0 | 1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17_520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_in_every_spelling() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("1795255200", Some("2026-11-21T10:00:00Z")),
            ("1795255200.5", Some("2026-11-21T10:00:00.5Z")),
            ("2026-11-21T09:59:00.1Z", Some("2026-11-21T09:59:00.1Z")),
            ("2026-11-21T11:00:00+01:00", Some("2026-11-21T10:00:00Z")),
            ("1h30m", Some("2026-11-21T08:30:00Z")),
            ("1.5s", Some("2026-11-21T09:59:58.5Z")),
            ("soon", None),
            ("5", Some("1970-01-01T00:00:05Z")),
            ("5x", None),
            ("-", None),
        ] {
            let parsed = parse_moment(text, now).map(|time| time.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn no_limit_is_what_clients_send_for_it() {
        for text in ["since=", "since=0", "since=0001-01-01T00%3A00%3A00Z", "until=1"] {
            let query = Query::parse(Some(text)).unwrap();
            assert_eq!(moment(&query, "since", Timestamp::UNIX_EPOCH).unwrap(), None, "{text}");
        }
        let query = Query::parse(Some("since=soon")).unwrap();
        assert!(moment(&query, "since", Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn durations_are_told_as_docker_does() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (60 * 3600, "2 days"),
            (15 * 24 * 3600, "2 weeks"),
            (65 * 24 * 3600, "2 months"),
            (800 * 24 * 3600, "2 years"),
        ] {
            assert_eq!(in_words(SignedDuration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn log_stamps_line_up() {
        assert_eq!(log_stamp("2026-11-21T10:00:00.5Z".parse().unwrap()), "2026-11-21T10:00:00.500000000Z");
    }
}
