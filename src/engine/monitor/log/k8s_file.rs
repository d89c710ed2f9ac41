//! The CRI line format: `TIMESTAMP STREAM F|P TEXT`. What does not end in a newline is `P`: its line
//! goes on in the stream's next entry. Nothing is held back, so a prompt is in the log at once.

use std::io::Write;

use jiff::Timestamp;

use crate::engine::container::OutputStream;

/// Appends the entry for `line`: up to and including its newline, or a part without one.
pub fn append(entries: &mut Vec<u8>, time: Timestamp, stream: OutputStream, line: &[u8]) {
    let (text, tag) = match line.strip_suffix(b"\n") {
        Some(text) => (text, 'F'),
        None => (line, 'P'),
    };
    let stream = stream.as_str();
    write!(entries, "{time:.9} {stream} {tag} ").expect("memory takes what is written");
    entries.extend_from_slice(text);
    entries.push(b'\n');
}
