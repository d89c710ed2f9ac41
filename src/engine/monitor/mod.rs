//! The monitor: parent of one container, owner of its streams and its log. This side starts monitors
//! and finds them again after a restart of the daemon; `process.rs` is what runs inside one.

pub mod protocol;
