//! `images`, `pull`, `push`, `load`, `save`, `tag`, `rmi`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::TryStreamExt;
use hyper::Method;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::client::{Client, quote};
use super::render;

#[derive(Debug, Args)]
pub struct Images {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
}

#[derive(Debug, Args)]
pub struct Pull {
    image: String,
    /// Print only the id
    #[arg(long, short)]
    quiet: bool,
    /// false: also accept http or any certificate
    #[arg(long, value_name = "BOOL")]
    tls_verify: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Load {
    /// docker-archive or oci-archive, compressed or not
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Write to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only a docker-archive can hold several images
    #[arg(long, value_parser = ["docker-archive", "oci-archive"], default_value = "docker-archive")]
    format: String,
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Push {
    image: String,
    /// Default: the image's name
    destination: Option<String>,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    /// false: also accept http or any certificate
    #[arg(long, value_name = "BOOL")]
    tls_verify: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Tag {
    image: String,
    /// New names
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rmi {
    /// Remove containers that use an image too, and all names of an image given by id
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageSummary {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    created: i64,
    size: u64,
}

impl Images {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let bytes = client.bytes(Method::GET, "/images/json", None).await?;
        if self.format == "json" {
            println!("{}", String::from_utf8_lossy(&bytes).trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        let images: Vec<ImageSummary> = serde_json::from_slice(&bytes)?;
        if self.quiet {
            for image in &images {
                println!("{}", short(&image.id));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let now = Timestamp::now();
        let mut rows = Vec::new();
        for image in &images {
            let tags = match &image.repo_tags {
                Some(tags) if !tags.is_empty() => tags.clone(),
                _ => vec!["<none>:<none>".to_owned()],
            };
            for tag in tags {
                let (name, tag) = tag.rsplit_once(':').unwrap_or((&tag, "<none>"));
                rows.push(vec![
                    name.to_owned(),
                    tag.to_owned(),
                    short(&image.id).to_owned(),
                    render::age(Timestamp::from_second(image.created)?, now),
                    render::size(image.size),
                ]);
            }
        }
        print!("{}", render::table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows));
        Ok(ExitCode::SUCCESS)
    }
}

impl Pull {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let id = pull(client, &self.image, self.tls_verify, self.quiet).await?;
        println!("{id}");
        Ok(ExitCode::SUCCESS)
    }
}

impl Load {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let file = tokio::fs::File::open(&self.input)
            .await
            .with_context(|| format!("open {}", self.input.display()))?;
        let response = client.send_file(Method::POST, "/images/load", file).await?;
        let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        let report: serde_json::Value = serde_json::from_slice(&body)?;
        for name in report["Names"].as_array().into_iter().flatten() {
            println!("Loaded image: {}", name.as_str().unwrap_or_default());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Save {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            bail!("an archive is not for a terminal: use --output or a pipe");
        }
        let references: String =
            self.images.iter().map(|image| format!("&references={}", quote(image))).collect();
        let path = format!("/images/export?format={}{references}", self.format);
        let response = client.send(Method::GET, &path, None).await?;
        let mut body = reader(response.into_body());
        let Some(target) = self.output else {
            let stdout = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
            let mut stdout = tokio::fs::File::from_std(stdout);
            tokio::io::copy(&mut body, &mut stdout).await.context("write the archive")?;
            stdout.flush().await.context("write the archive")?;
            return Ok(ExitCode::SUCCESS);
        };
        let failed = || format!("write {}", target.display());
        let mut file = tokio::fs::File::create(&target).await.with_context(failed)?;
        let copied = async {
            tokio::io::copy(&mut body, &mut file).await?;
            file.flush().await
        };
        if let Err(error) = copied.await {
            // Half an archive is of no use; a device is not removed.
            if file.metadata().await.is_ok_and(|metadata| metadata.is_file()) {
                let _ = std::fs::remove_file(&target);
            }
            return Err(error).with_context(failed);
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Deserialize)]
struct PushLine {
    stream: Option<String>,
    error: Option<String>,
    manifestdigest: Option<String>,
}

impl Push {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let mut path = format!("/images/{}/push?quiet=false", quote(&self.image));
        if let Some(destination) = &self.destination {
            path.push_str(&format!("&destination={}", quote(destination)));
        }
        if let Some(verify) = self.tls_verify {
            path.push_str(&format!("&tlsVerify={verify}"));
        }
        let response = client.send(Method::POST, &path, None).await?;
        let mut lines = lines(response.into_body());
        let mut digest = None;
        while let Some(line) = lines.next_line().await.context("read the daemon's progress")? {
            let line: PushLine =
                serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))?;
            if let Some(error) = line.error {
                bail!(error);
            }
            if let Some(text) = line.stream.filter(|_| !self.quiet) {
                eprint!("{text}");
            }
            digest = digest.or(line.manifestdigest);
        }
        let digest = digest.context("the daemon ended before the push did")?;
        if !self.quiet {
            println!("{digest}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Tag {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        for name in &self.names {
            // A registry's port is no tag.
            let (repository, tag) = match name.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                _ => (name.as_str(), ""),
            };
            let path =
                format!("/images/{}/tag?repo={}&tag={}", quote(&self.image), quote(repository), quote(tag));
            client.bytes(Method::POST, &path, None).await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RemoveReport {
    deleted: Vec<String>,
    untagged: Vec<String>,
    exit_code: u8,
    errors: Vec<String>,
}

impl Rmi {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let images: String = self.images.iter().map(|image| format!("&images={}", quote(image))).collect();
        let path = format!("/images/remove?force={}{images}", self.force);
        let report: RemoveReport = client.json(Method::DELETE, &path, None).await?;
        for name in &report.untagged {
            println!("Untagged: {name}");
        }
        for id in &report.deleted {
            println!("Deleted: {id}");
        }
        for error in &report.errors {
            eprintln!("Error: {error}");
        }
        Ok(ExitCode::from(report.exit_code))
    }
}

/// One line of the docker dialect's pull stream, which tells the progress of each layer.
#[derive(Debug, Deserialize)]
struct ProgressLine {
    #[serde(default)]
    status: String,
    id: Option<String>,
    #[serde(default, rename = "progressDetail")]
    detail: ProgressDetail,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ProgressDetail {
    current: Option<u64>,
    total: Option<u64>,
}

/// Pulls with bars on a terminal, lines otherwise; returns the image's id.
pub async fn pull(client: &Client, image: &str, tls_verify: Option<bool>, quiet: bool) -> Result<String> {
    // libpod's route with docker's lines: the only one that tells how far each layer is.
    let mut path = format!("/images/pull?reference={}&compatMode=true", quote(image));
    if let Some(verify) = tls_verify {
        path.push_str(&format!("&tlsVerify={verify}"));
    }
    let response = client.send(Method::POST, &path, None).await?;
    let mut display = PullDisplay::new(quiet);
    let mut lines = lines(response.into_body());
    while let Some(line) = lines.next_line().await.context("read the daemon's progress")? {
        let line: ProgressLine =
            serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))?;
        if let Some(error) = line.error {
            bail!(error);
        }
        display.show(&line);
    }
    display.finish();
    let inspected: serde_json::Value =
        client.json(Method::GET, &format!("/images/{}/json", quote(image)), None).await?;
    Ok(inspected["Id"].as_str().unwrap_or_default().to_owned())
}

/// The body's bytes, as they come.
fn reader(body: Incoming) -> impl AsyncBufRead + Unpin {
    let stream = http_body_util::BodyDataStream::new(body).map_err(std::io::Error::other);
    tokio_util::io::StreamReader::new(stream)
}

/// The body's lines, as they come.
pub fn lines(body: Incoming) -> tokio::io::Lines<impl AsyncBufRead + Unpin> {
    BufReader::new(reader(body)).lines()
}

enum PullDisplay {
    Quiet,
    Lines { last: BTreeMap<String, String> },
    Bars { all: MultiProgress, layers: BTreeMap<String, ProgressBar> },
}

impl PullDisplay {
    fn new(quiet: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bars { all: MultiProgress::new(), layers: BTreeMap::new() }
        } else {
            Self::Lines { last: BTreeMap::new() }
        }
    }

    fn show(&mut self, line: &ProgressLine) {
        match self {
            Self::Quiet => {}
            Self::Lines { last } => {
                let id = line.id.clone().unwrap_or_default();
                // Each step once: a log is not a progress bar.
                if !line.status.is_empty() && last.get(&id) != Some(&line.status) {
                    match id.as_str() {
                        "" => eprintln!("{}", line.status),
                        id => eprintln!("{id}: {}", line.status),
                    }
                    last.insert(id, line.status.clone());
                }
            }
            Self::Bars { all, layers } => match &line.id {
                None => {
                    let _ = all.println(&line.status);
                }
                Some(id) => {
                    let bar = layers.entry(id.clone()).or_insert_with(|| {
                        let style =
                            ProgressStyle::with_template("{prefix} {msg:18} {bar:30} {bytes}/{total_bytes}")
                                .expect("the template is constant and valid");
                        all.add(ProgressBar::new(0).with_style(style).with_prefix(id.clone()))
                    });
                    bar.set_message(line.status.clone());
                    if let Some(total) = line.detail.total {
                        bar.set_length(total);
                    }
                    if let Some(current) = line.detail.current {
                        bar.set_position(current);
                    }
                }
            },
        }
    }

    fn finish(self) {
        if let Self::Bars { layers, .. } = self {
            for bar in layers.values() {
                bar.finish();
            }
        }
    }
}

fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}
