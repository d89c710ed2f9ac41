//! Where the daemon's settings come from: built-in defaults, then `/etc/selkie/selkie.toml`, then the
//! environment, then flags. The later wins.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;

use selkie::engine::config::{EngineConfig, RuntimeName};

/// Flags every command takes, before or after its name.
#[derive(Debug, Clone, Args)]
pub struct GlobalFlags {
    /// Durable state: database, images, volumes [default: /var/lib/selkie]
    #[arg(long, global = true, env = "SELKIE_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Disposable state, empty after a boot: sockets, namespaces [default: /run/selkie]
    #[arg(long, global = true, env = "SELKIE_RUNROOT", value_name = "DIR")]
    pub runroot: Option<PathBuf>,
    /// The daemon to talk to [default: unix://RUNROOT/selkie.sock]
    #[arg(long, global = true, env = "SELKIE_HOST", value_name = "unix:///PATH")]
    pub url: Option<String>,
    /// Settings file of the daemon [default: /etc/selkie/selkie.toml, if it exists]
    #[arg(long, global = true, env = "SELKIE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or per module as in `selkie::engine=debug`
    #[arg(long, global = true, env = "SELKIE_LOG", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Write logs as one JSON object a line
    #[arg(long, global = true)]
    pub log_json: bool,
}

/// `selkie.toml`. Every key is optional; an unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    pub root: Option<PathBuf>,
    pub runroot: Option<PathBuf>,
    /// `selkie`, or the name or path of an OCI runtime: `crun`, `runc`, `youki`.
    pub runtime: Option<String>,
    pub network_prefix: Option<String>,
    pub default_subnet: Option<String>,
    pub service_subnet: Option<String>,
    pub cgroup_parent: Option<String>,
}

/// The settings file is wrong: nothing to retry until someone edits it.
#[derive(Debug, thiserror::Error)]
#[error("settings file {path}")]
pub struct BadSettings {
    path: PathBuf,
    #[source]
    source: anyhow::Error,
}

const DEFAULT_SETTINGS: &str = "/etc/selkie/selkie.toml";

impl GlobalFlags {
    pub fn settings(&self) -> Result<SettingsFile, BadSettings> {
        let (path, required) = match &self.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_SETTINGS), false),
        };
        match read_settings(&path) {
            Ok(settings) => Ok(settings),
            Err(ReadFailure::Missing) if !required => Ok(SettingsFile::default()),
            Err(ReadFailure::Missing) => Err(BadSettings { path, source: anyhow::anyhow!("no such file") }),
            Err(ReadFailure::Bad(source)) => Err(BadSettings { path, source }),
        }
    }

    /// The run root alone, for clients, which do not need a valid settings file to find the socket.
    pub fn run_root(&self) -> PathBuf {
        let from_file = || self.settings().ok().and_then(|settings| settings.runroot);
        self.runroot.clone().or_else(from_file).unwrap_or_else(|| PathBuf::from("/run/selkie"))
    }

    /// The daemon's own socket.
    pub fn socket(&self) -> Result<PathBuf> {
        match &self.url {
            Some(url) => unix_path(url),
            None => Ok(self.run_root().join("selkie.sock")),
        }
    }

    pub fn engine_config(&self) -> Result<EngineConfig> {
        let file = self.settings()?;
        let defaults = EngineConfig::new(
            self.root.clone().or(file.root).unwrap_or_else(|| PathBuf::from("/var/lib/selkie")),
            self.runroot.clone().or(file.runroot).unwrap_or_else(|| PathBuf::from("/run/selkie")),
        );
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let runtime = env("SELKIE_RUNTIME").or(file.runtime).map(|name| match name.as_str() {
            "selkie" => RuntimeName::Selkie,
            _ => RuntimeName::External(name),
        });
        Ok(EngineConfig {
            monitor: monitor_program()?,
            runtime: runtime.unwrap_or(defaults.runtime),
            network_prefix: env("SELKIE_NETWORK_PREFIX")
                .or(file.network_prefix)
                .unwrap_or(defaults.network_prefix),
            default_subnet: env("SELKIE_DEFAULT_SUBNET")
                .or(file.default_subnet)
                .unwrap_or(defaults.default_subnet),
            service_subnet: env("SELKIE_SERVICE_SUBNET")
                .or(file.service_subnet)
                .unwrap_or(defaults.service_subnet),
            cgroup_parent: env("SELKIE_CGROUP_PARENT")
                .or(file.cgroup_parent)
                .unwrap_or(defaults.cgroup_parent),
            root: defaults.root,
            run_root: defaults.run_root,
        })
    }
}

enum ReadFailure {
    Missing,
    Bad(anyhow::Error),
}

fn read_settings(path: &Path) -> Result<SettingsFile, ReadFailure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ReadFailure::Missing),
        Err(error) => return Err(ReadFailure::Bad(error.into())),
    };
    toml::from_str(&text).map_err(|error| ReadFailure::Bad(error.into()))
}

/// `unix:///PATH`, or a bare absolute path.
pub fn unix_path(url: &str) -> Result<PathBuf> {
    let path = url.strip_prefix("unix://").unwrap_or(url);
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        anyhow::bail!("{url}: only unix:///PATH addresses are supported")
    }
}

/// `selkie-monitor` lives beside this program, or in `../libexec/selkie` once installed.
fn monitor_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SELKIE_MONITOR") {
        return Ok(path.into());
    }
    let program = std::env::current_exe().context("find this program")?;
    let directory = program.parent().context("find this program's directory")?;
    let candidates = [directory.join("selkie-monitor"), directory.join("../libexec/selkie/selkie-monitor")];
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .with_context(|| format!("selkie-monitor is not beside {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_the_key_that_is_wrong() {
        let error = toml::from_str::<SettingsFile>("rootdir = '/x'\n").unwrap_err().to_string();
        assert!(error.contains("rootdir"), "{error}");
    }

    #[test]
    fn urls_are_unix_sockets() {
        assert_eq!(unix_path("unix:///run/x.sock").unwrap(), PathBuf::from("/run/x.sock"));
        assert_eq!(unix_path("/run/x.sock").unwrap(), PathBuf::from("/run/x.sock"));
        assert!(unix_path("tcp://127.0.0.1:1").is_err());
    }
}
