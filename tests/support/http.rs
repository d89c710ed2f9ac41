//! A blocking HTTP client over a unix socket, as plain as `curl --unix-socket`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub struct Reply {
    pub status: u16,
    /// The header lines as sent.
    pub headers: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("not JSON ({error}), status {}: {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own; the whole reply.
pub fn request(socket: &Path, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(socket).expect("connect to the daemon");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("send the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read the reply");
    parse(&answer)
}

fn parse(answer: &[u8]) -> Reply {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a reply has headers");
    let headers = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a reply has a status");
    let raw = &answer[end + 4..];
    let chunked = headers.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Reply { status, headers, body: if chunked { dechunk(raw) } else { raw.to_vec() } }
}

fn dechunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = raw.windows(2).position(|two| two == b"\r\n") {
        let size =
            std::str::from_utf8(&raw[..end]).ok().and_then(|hex| usize::from_str_radix(hex.trim(), 16).ok());
        match size {
            Some(0) | None => break,
            Some(size) => {
                body.extend_from_slice(&raw[end + 2..end + 2 + size]);
                raw = &raw[end + 2 + size + 2..];
            }
        }
    }
    body
}
