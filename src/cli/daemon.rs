//! The daemon's roles: `up DIR` and `system service`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use selkie::{DaemonOptions, run_daemon};

use super::settings::{GlobalFlags, unix_path};
use super::{absolute, system};

#[derive(Debug, Args)]
pub struct Up {
    /// Directory of manifests; each file or subdirectory at its top is one stack
    #[arg(default_value = "/etc/selkie/manifests", value_name = "DIR")]
    directory: PathBuf,
    /// Also listen here (repeatable), e.g. unix:///run/podman/podman.sock
    #[arg(long, value_name = "unix:///PATH")]
    listen: Vec<String>,
}

/// Either role of the daemon.
pub struct Role {
    directory: Option<PathBuf>,
    /// Instead of the daemon's own socket.
    socket: Option<String>,
    also_listen: Vec<String>,
    idle_timeout: Option<Duration>,
}

impl From<Up> for Role {
    fn from(up: Up) -> Self {
        Self { directory: Some(up.directory), socket: None, also_listen: up.listen, idle_timeout: None }
    }
}

impl From<system::Service> for Role {
    fn from(service: system::Service) -> Self {
        Self {
            directory: None,
            socket: service.address,
            also_listen: Vec::new(),
            idle_timeout: (service.time > 0).then(|| Duration::from_secs(service.time)),
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until it has been idle; containers run on.
pub fn run(flags: &GlobalFlags, role: Role) -> Result<ExitCode> {
    set_up_logging(flags)?;
    let own_socket = match &role.socket {
        Some(address) => unix_path(address)?,
        None => flags.socket()?,
    };
    let mut sockets = vec![own_socket];
    for address in &role.also_listen {
        sockets.push(unix_path(address)?);
    }
    let options = DaemonOptions {
        engine: flags.engine_config()?,
        directory: role.directory.as_deref().map(absolute).transpose()?,
        sockets,
        idle_timeout: role.idle_timeout,
    };
    // Two threads serve hundreds of pods; more would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(run_daemon(options));
    // A blocking task that hangs in the kernel must not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn set_up_logging(flags: &GlobalFlags) -> Result<()> {
    let filter = EnvFilter::try_new(&flags.log_level)
        .with_context(|| format!("--log-level {}: not a level or a filter", flags.log_level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if flags.log_json {
        builder.json().flatten_event(true).finish().init();
    } else {
        builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false)
            .finish()
            .init();
    }
    Ok(())
}
