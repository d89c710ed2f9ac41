//! Signals by name or number.

use std::str::FromStr;

use nix::sys::signal::Signal;

use super::super::error::ApiError;

/// `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`.
pub fn parse(text: &str) -> Result<i32, ApiError> {
    number(text).ok_or_else(|| ApiError::bad_parameter("signal", format!("invalid signal: {text:?}")))
}

/// The signal's name with `SIG`, or its number if it has none.
pub fn name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        // The C library keeps the first two for itself.
        return real_time(34, offset);
    }
    if let Some(offset) = bare.strip_prefix("RTMAX") {
        return real_time(64, offset);
    }
    Signal::from_str(&format!("SIG{bare}")).ok().map(|signal| signal as i32)
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
    Some(base + offset).filter(|number| (34..=64).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(37), "37");
    }
}
