//! The OCI spec's hooks: programs of the user's that run at fixed points of a container's life.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;

use crate::engine::host::{HostError, Result, Step as _, process};

/// The container as a hook is told of it.
#[derive(Debug, Clone, Copy)]
pub struct HookState<'a> {
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'static str,
    pub pid: Option<i32>,
    pub bundle: &'a Path,
}

/// Runs the hooks in order, each told of the state on its standard input. The first that fails ends it.
pub fn run(hooks: &[Hook], state: HookState<'_>) -> Result<()> {
    let json = serde_json::json!({
        "ociVersion": "1.0.2",
        "id": state.id,
        "status": state.status,
        "pid": state.pid.unwrap_or(0),
        "bundle": state.bundle,
    })
    .to_string();
    hooks.iter().try_for_each(|hook| run_one(hook, &json))
}

fn run_one(hook: &Hook, state: &str) -> Result<()> {
    let step = || format!("run hook {}", hook.path().display());
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    command.env_clear().envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().step(step)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read what it is told.
        let _ = stdin.write_all(state.as_bytes());
    }
    if let Some(timeout) = hook.timeout().and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs > 0) {
        let pidfd = process::pidfd_open(child.id() as i32)?;
        let timeout_ms = Duration::from_secs(timeout).as_millis().min(u128::from(u16::MAX / 2)) as u16;
        if !process::wait_ended(pidfd.as_fd(), timeout_ms) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(HostError::new(step(), std::io::Error::from(std::io::ErrorKind::TimedOut)));
        }
    }
    let status = child.wait().step(step)?;
    match status.success() {
        true => Ok(()),
        false => Err(HostError::new(step(), std::io::Error::other(status.to_string()))),
    }
}
