//! Docker's format: one JSON object per line, `{"log":"text\n","stream":"stdout","time":"..."}`. A text
//! without the newline goes on in the stream's next entry.
//!
//! JSON is UTF-8: a character cut in two by the end of a read waits for its other half, and bytes that
//! are no UTF-8 at all are replaced, as docker does.

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::container::OutputStream;

/// The beginnings of cut characters, by stream; at most three bytes each.
#[derive(Default)]
pub struct Carry {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Serialize)]
struct Entry<'a> {
    log: &'a str,
    stream: &'a str,
    time: String,
}

impl Carry {
    /// Appends the entry for `line`: up to and including its newline, or a part without one.
    pub fn append(&mut self, entries: &mut Vec<u8>, time: Timestamp, stream: OutputStream, line: &[u8]) {
        let carry = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if carry.is_empty() {
            let whole = line.len() - cut_character(line);
            push(entries, time, stream, &line[..whole]);
            carry.extend_from_slice(&line[whole..]);
        } else {
            carry.extend_from_slice(line);
            let whole = carry.len() - cut_character(carry);
            push(entries, time, stream, &carry[..whole]);
            carry.drain(..whole);
            carry.shrink_to(8);
        }
    }

    /// Writes what will never be completed.
    pub fn finish(&mut self, entries: &mut Vec<u8>, time: Timestamp) {
        push(entries, time, OutputStream::Stdout, &std::mem::take(&mut self.stdout));
        push(entries, time, OutputStream::Stderr, &std::mem::take(&mut self.stderr));
    }
}

fn push(entries: &mut Vec<u8>, time: Timestamp, stream: OutputStream, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let entry =
        Entry { log: &String::from_utf8_lossy(text), stream: stream.as_str(), time: format!("{time:.9}") };
    serde_json::to_writer(&mut *entries, &entry).expect("an entry is always JSON");
    entries.push(b'\n');
}

/// How many bytes at the end are the beginning of a character.
fn cut_character(text: &[u8]) -> usize {
    let tail = &text[text.len().saturating_sub(3)..];
    for (at, byte) in tail.iter().enumerate().rev() {
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        let present = tail.len() - at;
        return if present < length { present } else { 0 };
    }
    0
}
