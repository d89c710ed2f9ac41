//! The keys with which a user leaves an attached container running.

use super::super::error::ApiError;
use super::extract::Query;

/// Watches typed bytes for the sequence. Empty: there is no such sequence.
#[derive(Debug, Default)]
pub struct DetachKeys {
    sequence: Vec<u8>,
    /// How much of it was typed last, and not passed on.
    held: usize,
}

/// What is to be passed on of some input.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    pub bytes: Vec<u8>,
    pub detached: bool,
}

impl DetachKeys {
    pub const DEFAULT: &str = "ctrl-p,ctrl-q";

    /// From `detachKeys`: absent means the default, empty means none.
    pub fn of_query(query: &Query) -> Result<Self, ApiError> {
        Self::parse(query.text("detachKeys").unwrap_or(Self::DEFAULT))
    }

    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let keys = text.split(',').filter(|key| !key.is_empty()).map(|key| {
            key_code(key).ok_or_else(|| ApiError::bad_parameter("detachKeys", format!("{key:?} is no key")))
        });
        Ok(Self { sequence: keys.collect::<Result<_, _>>()?, held: 0 })
    }

    pub fn filter(&mut self, input: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(input.len() + self.held);
        for &byte in input {
            if self.sequence.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.sequence.len() {
                    self.held = 0;
                    return Typed { bytes, detached: true };
                }
                continue;
            }
            bytes.extend_from_slice(&self.sequence[..self.held]);
            self.held = usize::from(self.sequence.first() == Some(&byte));
            if self.held == 0 {
                bytes.push(byte);
            }
        }
        Typed { bytes, detached: false }
    }
}

fn key_code(key: &str) -> Option<u8> {
    match key.as_bytes() {
        [byte] => Some(*byte),
        [rest @ .., letter] if rest.eq_ignore_ascii_case(b"ctrl-") => match letter.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            b'@' => Some(0),
            other @ b'['..=b'_' => Some(other - b'[' + 27),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(query: &str) -> DetachKeys {
        DetachKeys::of_query(&Query::parse(Some(query)).unwrap()).unwrap()
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_not_passed_on() {
        let mut keys = keys("");
        assert_eq!(keys.filter(b"ab\x10"), Typed { bytes: b"ab".to_vec(), detached: false });
        assert_eq!(keys.filter(b"\x11rest"), Typed { bytes: vec![], detached: true });
    }

    #[test]
    fn a_sequence_that_breaks_off_is_typed_text() {
        let mut keys = keys("");
        assert_eq!(keys.filter(b"\x10x"), Typed { bytes: b"\x10x".to_vec(), detached: false });
        assert_eq!(keys.filter(b"\x10\x10"), Typed { bytes: b"\x10".to_vec(), detached: false });
        assert_eq!(keys.filter(b"\x11"), Typed { bytes: vec![], detached: true });
    }

    #[test]
    fn an_empty_sequence_disables_it() {
        let typed = keys("detachKeys=").filter(b"\x10\x11");
        assert_eq!(typed, Typed { bytes: b"\x10\x11".to_vec(), detached: false });
    }

    #[test]
    fn keys_have_names() {
        assert_eq!(keys("detachKeys=ctrl-a,x,ctrl-%5B").sequence, [1, b'x', 27]);
        let query = Query::parse(Some("detachKeys=ctrl-%C3%A4")).unwrap();
        assert!(DetachKeys::of_query(&query).is_err());
    }
}
