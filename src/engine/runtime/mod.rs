//! OCI runtimes: our own launcher, and external programs with the same contract.
//!
//! Everything here runs inside the monitor process: single-threaded, no async runtime, no store.
//!
//! Contract of every implementation:
//! - `create` leaves a process that has done everything but execute the user's command, inside its
//!   namespaces, cgroup and root file system. On error nothing of it is left behind.
//! - `start` lets it execute. A command that cannot be executed is reported here or by `create`, as
//!   [`LaunchError::CommandNotFound`] or [`LaunchError::CommandNotExecutable`].
//! - `exec` adds a process under the same confinement: namespaces, cgroup, seccomp, capabilities, label.
//! - `delete` removes the cgroup and whatever else `create` made, also when called again.

pub mod cgroup;
pub mod seccomp;

mod capability;
mod copy_up;
mod external;
mod hooks;
mod init;
mod inside;
mod launcher;
mod mount_options;
#[cfg(test)]
mod oracle;
mod process;
mod rootfs;
mod sync;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::RuntimeName;
use super::host::HostError;

/// Where a container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootfs {
    /// Mounted inside the container's own mount namespace: nothing to leak on the host.
    Overlay {
        /// Lowest layer last, as overlayfs wants them.
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
    /// A directory used as it is.
    Directory(PathBuf),
}

/// A container about to be launched. The bundle's `config.json` is a complete OCI runtime spec; its
/// `root.path` is where `rootfs` is to be mounted, and its `linux.cgroupsPath` is relative to the
/// hierarchy's root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: Rootfs,
    /// Compiled filter (array of `sock_filter`) for our launcher; `None`: unconfined.
    pub seccomp_bpf: Option<PathBuf>,
}

/// Standard streams for a new process.
#[derive(Debug)]
pub enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new pseudo-terminal is made inside the container's devpts.
    Terminal {
        columns: u16,
        rows: u16,
    },
}

/// A process that `create` or `exec` has made.
#[derive(Debug)]
pub struct Launched {
    /// In the monitor's PID namespace; a child of the monitor.
    pub pid: i32,
    /// The terminal's other end, when one was asked for.
    pub console: Option<OwnedFd>,
}

/// A process to add to a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecProcess {
    /// The OCI `process` object: args, env, cwd, user, capabilities, terminal ...
    pub process: oci_spec::runtime::Process,
}

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("{command}: no such file or directory")]
    CommandNotFound { command: String },
    #[error("{command}: permission denied")]
    CommandNotExecutable { command: String },
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<HostError> for LaunchError {
    fn from(error: HostError) -> Self {
        let (step, source) = error.into_parts();
        Self::Failed { step, source: source.into() }
    }
}

/// The runtime of that name for one container. Does nothing yet; `delete` alone may be called to take away what
/// an earlier process, which has gone, made of the same request.
pub fn open(name: &RuntimeName, request: &CreateRequest) -> Result<Box<dyn OciRuntime>, LaunchError> {
    Ok(match name {
        RuntimeName::Selkie => Box::new(launcher::Launcher::new(request.clone())),
        RuntimeName::External(program) => Box::new(external::External::new(program, request.clone())),
    })
}

pub trait OciRuntime {
    fn create(&mut self, request: &CreateRequest, stdio: Stdio) -> Result<Launched, LaunchError>;
    fn start(&mut self) -> Result<(), LaunchError>;
    fn exec(&mut self, exec: &ExecProcess, stdio: Stdio) -> Result<Launched, LaunchError>;
    /// Sends a signal to the container's first process.
    fn kill(&mut self, signal: i32) -> Result<(), LaunchError>;
    fn pause(&mut self) -> Result<(), LaunchError>;
    fn resume(&mut self) -> Result<(), LaunchError>;
    fn delete(&mut self) -> Result<(), LaunchError>;
    /// A descriptor that becomes readable when the kernel kills for memory in this cgroup, if there is one.
    fn oom_events(&self) -> Option<BorrowedFd<'_>>;
    /// Whether the kernel has killed for memory in this cgroup so far.
    fn oom_killed(&self) -> bool;
}

/// The path of a program that must be given to callers who only know a bundle.
pub fn config_path(bundle: &Path) -> PathBuf {
    bundle.join("config.json")
}
