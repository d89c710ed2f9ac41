//! Named points between effects at which a test can kill the daemon.
//!
//! `SELKIE_FAILPOINT=name[:n]` makes the n-th pass (default: the first) through the point `name` end this
//! process with SIGKILL, as if the power of the daemon alone had failed. Without it a pass is one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Every point, in the order of a container's life. Crash tests go through this list.
pub const POINTS: &[&str] = &[
    "create-recorded",
    "launch-intent",
    "launch-namespaces",
    "launch-network",
    "launch-bundle",
    "launch-created",
    "launch-started",
    "start-recorded",
    "stop-intent",
    "stop-signalled",
    "exit-seen",
    "exit-network",
    "exit-recorded",
    "remove-intent",
    "remove-recorded",
    "remove-files",
    "pod-recorded",
    "pod-namespaces",
    "pod-network",
    "pod-sandbox-recorded",
    "pod-remove-containers",
    "pod-remove-sandbox",
    "pod-remove-recorded",
    "volume-directory",
    "volume-copied",
    "volume-remove-moved",
    "volume-remove-recorded",
    // After every effect of the reconciler: `reconcile:N` is the N-th.
    "reconcile",
];

struct Armed {
    name: String,
    passes_left: AtomicU32,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Passes the point `name`.
pub fn pass(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not in the list of fail points");
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("SELKIE_FAILPOINT").ok()?;
        let (name, passes) = match value.split_once(':') {
            Some((name, passes)) => (name, passes.parse().ok()?),
            None => (value.as_str(), 1),
        };
        Some(Armed { name: name.to_owned(), passes_left: AtomicU32::new(passes) })
    });
    let Some(armed) = armed else { return };
    if armed.name == name && armed.passes_left.fetch_sub(1, Ordering::Relaxed) == 1 {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}
