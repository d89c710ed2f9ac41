//! `kube play`, `kube down`, `kube generate`: podman's verbs for Kubernetes YAML.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;

use super::client::{Client, quote};

#[derive(Debug, Subcommand)]
pub enum Kube {
    /// Run the pods of a YAML file, and keep them running
    Play(Play),
    /// Remove the pods of a YAML file
    Down(Down),
    /// Print the YAML of containers and pods
    Generate(GenerateKube),
}

#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print the Kubernetes YAML of containers and pods
    Kube(GenerateKube),
}

#[derive(Debug, Args)]
pub struct Play {
    /// A file, or - for standard input
    file: PathBuf,
    /// Remove the same pods first
    #[arg(long)]
    replace: bool,
    /// false: create the pods, do not start them
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    start: bool,
    /// Join this network (repeatable)
    #[arg(long)]
    network: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Down {
    /// A file, or - for standard input
    file: PathBuf,
    /// Remove its volumes too
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct GenerateKube {
    #[arg(required = true, value_name = "CONTAINER|POD")]
    names: Vec<String>,
    /// Also print a Service for published ports
    #[arg(long, short)]
    service: bool,
    /// Write to a file instead of standard output
    #[arg(long, short)]
    filename: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PlayReport {
    #[serde(default)]
    pods: Option<Vec<PlayedPod>>,
    #[serde(default)]
    rm_report: Option<Vec<RemovedPod>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PlayedPod {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    containers: Option<Vec<String>>,
    #[serde(default)]
    container_errors: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RemovedPod {
    id: String,
    #[serde(default)]
    err: Option<serde_json::Value>,
}

impl Kube {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        match self {
            Self::Play(play) => play.run(client).await,
            Self::Down(down) => down.run(client).await,
            Self::Generate(generate) => generate.run(client).await,
        }
    }
}

impl Generate {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let Self::Kube(generate) = self;
        generate.run(client).await
    }
}

impl Play {
    async fn run(self, client: &Client) -> Result<ExitCode> {
        let mut path = format!("/play/kube?start={}&replace={}", self.start, self.replace);
        for network in &self.network {
            path.push_str(&format!("&network={}", quote(network)));
        }
        let report: PlayReport = send_yaml(client, Method::POST, &path, &self.file).await?;
        let mut code = ExitCode::SUCCESS;
        for pod in report.pods.unwrap_or_default() {
            println!("Pod:\n{}", pod.id);
            let containers = pod.containers.unwrap_or_default();
            println!("{}:", if containers.len() == 1 { "Container" } else { "Containers" });
            for container in containers {
                println!("{container}");
            }
            for error in pod.container_errors.unwrap_or_default() {
                eprintln!("Error: {error}");
                code = ExitCode::from(super::EXIT_ENGINE);
            }
            println!();
        }
        Ok(code)
    }
}

impl Down {
    async fn run(self, client: &Client) -> Result<ExitCode> {
        let path = format!("/play/kube?force={}", self.force);
        let report: PlayReport = send_yaml(client, Method::DELETE, &path, &self.file).await?;
        println!("Pods removed:");
        let mut code = ExitCode::SUCCESS;
        for pod in report.rm_report.unwrap_or_default() {
            match pod.err {
                None | Some(serde_json::Value::Null) => println!("{}", pod.id),
                Some(error) => {
                    eprintln!("Error: {}: {error}", pod.id);
                    code = ExitCode::from(super::EXIT_ENGINE);
                }
            }
        }
        Ok(code)
    }
}

impl GenerateKube {
    async fn run(self, client: &Client) -> Result<ExitCode> {
        let mut path = format!("/generate/kube?service={}", self.service);
        for name in &self.names {
            path.push_str(&format!("&names={}", quote(name)));
        }
        let yaml = client.bytes(Method::GET, &path, None).await?;
        match &self.filename {
            Some(file) => std::fs::write(file, &yaml).with_context(|| format!("write {}", file.display()))?,
            None => std::io::stdout().write_all(&yaml)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn send_yaml(client: &Client, method: Method, path: &str, file: &PathBuf) -> Result<PlayReport> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    }
    let response = client.send_text(method, path, text).await?;
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    serde_json::from_slice(&body).context("understand the daemon's report")
}
