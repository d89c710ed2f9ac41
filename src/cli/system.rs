//! `system service`, `system info`, `version`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hyper::Method;

use super::client::{Client, quote};

#[derive(Debug, Subcommand)]
pub enum System {
    /// Serve the REST API alone, without a directory of manifests
    Service(Service),
    /// Facts about the daemon and the machine, as JSON
    Info,
    /// Remove every pod, container, image, network and volume; needs --force
    Reset(Reset),
    /// The table of Kubernetes fields: honoured, emulated, inert or refused
    Support,
}

#[derive(Debug, Args)]
pub struct Service {
    /// Seconds without requests after which the service ends; 0: never
    #[arg(long, short, default_value_t = 300, value_name = "SECONDS")]
    pub time: u64,
    /// Where to listen [default: the daemon's own socket]
    #[arg(value_name = "unix:///PATH")]
    pub address: Option<String>,
}

#[derive(Debug, Args)]
pub struct Reset {
    /// Really do it: volumes go too
    #[arg(long, short, required = true)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Version {}

impl System {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        match self {
            Self::Info => {
                let info: serde_json::Value = client.json(Method::GET, "/info", None).await?;
                println!("{}", serde_json::to_string_pretty(&info)?);
                Ok(ExitCode::SUCCESS)
            }
            Self::Reset(reset) => reset.run(client).await,
            Self::Service(_) | Self::Support => unreachable!("needs no client"),
        }
    }
}

impl Reset {
    /// Pods before containers, containers before what they use.
    async fn run(self, client: &Client) -> Result<ExitCode> {
        debug_assert!(self.force, "clap requires the flag");
        for (list, id, remove) in [
            ("/pods/json", "Id", "/pods/{}?force=true"),
            ("/containers/json?all=true", "Id", "/containers/{}?force=true&v=true&ignore=true"),
            ("/images/json?all=true", "Id", "/images/{}?force=true"),
            ("/volumes/json", "Name", "/volumes/{}?force=true"),
            ("/networks/json", "name", "/networks/{}?force=true"),
        ] {
            let found: Option<Vec<serde_json::Value>> = client.json(Method::GET, list, None).await?;
            for object in found.unwrap_or_default() {
                let name = object[id].as_str().unwrap_or_default();
                // The default network is the engine's own; it goes with the last step.
                if list == "/networks/json" && name == "podman" {
                    continue;
                }
                client.bytes(Method::DELETE, &remove.replace("{}", &quote(name)), None).await?;
            }
        }
        client.bytes(Method::POST, "/selkie/v1/dismantle", None).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What becomes of each Kubernetes field.
pub fn print_support() -> Result<ExitCode> {
    print!("{}", selkie::reconcile::manifest::support::page());
    Ok(ExitCode::SUCCESS)
}

impl Version {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let version: serde_json::Value = client.json(Method::GET, "/version", None).await?;
        let api = version["Components"][0]["Details"]["APIVersion"].as_str().unwrap_or("unknown").to_owned();
        println!("Client:       selkie {}", env!("CARGO_PKG_VERSION"));
        println!(
            "Daemon:       selkie {}",
            version["Components"][0]["Details"]["SelkieVersion"].as_str().unwrap_or("unknown")
        );
        println!("libpod API:   {api}");
        println!("docker API:   {}", version["ApiVersion"].as_str().unwrap_or("unknown"));
        println!(
            "OS/Arch:      {}/{}",
            version["Os"].as_str().unwrap_or(""),
            version["Arch"].as_str().unwrap_or("")
        );
        Ok(ExitCode::SUCCESS)
    }
}
