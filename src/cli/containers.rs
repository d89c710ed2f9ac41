//! `ps`, `run`, `start`, `logs`, `stop`, `rename`, `rm`, `inspect`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use hyper::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Client, quote};
use super::terminal::{self, FrameDecoder};
use super::{images, render};

#[derive(Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// e.g. label=app=web, name=web, status=exited (repeatable)
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
}

#[derive(Debug, Args)]
pub struct Logs {
    container: String,
    /// Go on until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Seconds since the epoch, RFC 3339 time, or how long ago, e.g. 10m
    #[arg(long)]
    since: Option<String>,
    #[arg(long)]
    until: Option<String>,
    #[arg(long, short)]
    timestamps: bool,
}

#[derive(Debug, Args)]
pub struct Start {
    #[arg(required = true)]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    #[arg(required = true)]
    containers: Vec<String>,
    /// Seconds between the stop signal and SIGKILL [default: the container's, 10]
    #[arg(long, short)]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Rename {
    container: String,
    name: String,
}

#[derive(Debug, Args)]
pub struct Rm {
    #[arg(required = true)]
    containers: Vec<String>,
    /// Stop them first
    #[arg(long, short)]
    force: bool,
    /// Remove their anonymous volumes too
    #[arg(long, short)]
    volumes: bool,
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[arg(required = true)]
    names: Vec<String>,
    #[arg(long, short = 't', value_enum, default_value_t = ObjectType::Container)]
    r#type: ObjectType,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ObjectType {
    Container,
    Image,
    Pod,
    Volume,
    Network,
}

#[derive(Debug, Args)]
pub struct Run {
    image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Print the container's id and leave it running
    #[arg(long, short)]
    detach: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Pass standard input
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// HOST-PATH|VOLUME:CONTAINER-PATH[:ro]
    #[arg(long, short, value_name = "SOURCE:TARGET")]
    volume: Vec<String>,
    /// [HOST-ADDRESS:][HOST-PORT:]CONTAINER-PORT[/udp]
    #[arg(long, short, value_name = "PORTS")]
    publish: Vec<String>,
    /// bridge, host, none, container:NAME, or a network's name
    #[arg(long)]
    network: Option<String>,
    #[arg(long)]
    pod: Option<String>,
    #[arg(long, short)]
    workdir: Option<String>,
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[arg(long)]
    entrypoint: Option<String>,
    #[arg(long)]
    hostname: Option<String>,
    #[arg(long, short, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// no, always, unless-stopped, on-failure[:N]
    #[arg(long)]
    restart: Option<String>,
    /// Bytes, or with a unit: 64m
    #[arg(long, short)]
    memory: Option<String>,
    #[arg(long)]
    cpus: Option<f64>,
    #[arg(long)]
    privileged: bool,
    #[arg(long)]
    cap_add: Vec<String>,
    #[arg(long)]
    cap_drop: Vec<String>,
    #[arg(long)]
    read_only: bool,
    #[arg(long)]
    init: bool,
    /// selkie, or the name of an OCI runtime
    #[arg(long)]
    runtime: Option<String>,
    #[arg(long, value_parser = ["always", "missing", "never"], default_value = "missing")]
    pull: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedContainer {
    id: String,
    image: String,
    #[serde(default)]
    command: Option<Vec<String>>,
    created: Timestamp,
    state: String,
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    exited_at: i64,
    #[serde(default)]
    started_at: i64,
    names: Vec<String>,
    #[serde(default)]
    ports: Option<Vec<ListedPort>>,
}

#[derive(Debug, Deserialize)]
struct ListedPort {
    #[serde(default)]
    host_ip: String,
    host_port: u16,
    container_port: u16,
    protocol: String,
    #[serde(default)]
    range: u16,
}

impl Ps {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for filter in &self.filter {
            let (key, value) =
                filter.split_once('=').with_context(|| format!("filter {filter:?} is not KEY=VALUE"))?;
            filters.entry(key).or_default().push(value);
        }
        let path =
            format!("/containers/json?all={}&filters={}", self.all, quote(&serde_json::to_string(&filters)?));
        let bytes = client.bytes(Method::GET, &path, None).await?;
        if self.format == "json" {
            println!("{}", String::from_utf8_lossy(&bytes).trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        let containers: Vec<ListedContainer> = serde_json::from_slice(&bytes)?;
        if self.quiet {
            for container in &containers {
                println!("{}", &container.id[..12]);
            }
            return Ok(ExitCode::SUCCESS);
        }
        let now = Timestamp::now();
        let rows: Vec<Vec<String>> = containers.iter().map(|container| container.row(now)).collect();
        let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        print!("{}", render::table(&header, &rows));
        Ok(ExitCode::SUCCESS)
    }
}

impl ListedContainer {
    fn row(&self, now: Timestamp) -> Vec<String> {
        let ago =
            |secs: i64| Timestamp::from_second(secs).map(|then| render::age(then, now)).unwrap_or_default();
        let status = match self.state.as_str() {
            "running" => format!("Up {}", ago(self.started_at).trim_end_matches(" ago")),
            "paused" => format!("Up {} (Paused)", ago(self.started_at).trim_end_matches(" ago")),
            "exited" => format!("Exited ({}) {}", self.exit_code, ago(self.exited_at)),
            "created" => "Created".to_owned(),
            other => other.to_owned(),
        };
        let mut command = self.command.clone().unwrap_or_default().join(" ");
        if command.chars().count() > 20 {
            command = command.chars().take(17).collect::<String>() + "...";
        }
        let ports: Vec<String> = self.ports.iter().flatten().map(ListedPort::render).collect();
        vec![
            self.id[..12].to_owned(),
            self.image.clone(),
            command,
            render::age(self.created, now),
            status,
            ports.join(", "),
            self.names.join(","),
        ]
    }
}

impl ListedPort {
    fn render(&self) -> String {
        let address = if self.host_ip.is_empty() { "0.0.0.0" } else { &self.host_ip };
        let span = |first: u16| match self.range {
            0 | 1 => first.to_string(),
            range => format!("{first}-{}", first + range - 1),
        };
        format!("{address}:{}->{}/{}", span(self.host_port), span(self.container_port), self.protocol)
    }
}

impl Logs {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let mut path = format!(
            "/containers/{}/logs?stdout=true&stderr=true&follow={}&timestamps={}",
            quote(&self.container),
            self.follow,
            self.timestamps
        );
        for (key, value) in [
            ("tail", self.tail.map(|lines| lines.to_string())),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", quote(&value)));
            }
        }
        let response = client.send(Method::GET, &path, None).await?;
        let mut body = http_body_util::BodyDataStream::new(response.into_body());
        let mut frames = FrameDecoder::default();
        while let Some(chunk) = body.try_next().await.context("read the log")? {
            frames.push(&chunk, &mut terminal::write_frame)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Start {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        each(&self.containers, async |name| {
            client.bytes(Method::POST, &format!("/containers/{}/start", quote(name)), None).await.map(drop)
        })
        .await
    }
}

impl Stop {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let query = self.time.map(|secs| format!("?timeout={secs}")).unwrap_or_default();
        each(&self.containers, async |name| {
            client
                .bytes(Method::POST, &format!("/containers/{}/stop{query}", quote(name)), None)
                .await
                .map(drop)
        })
        .await
    }
}

impl Rename {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let path = format!("/containers/{}/rename?name={}", quote(&self.container), quote(&self.name));
        client.bytes(Method::POST, &path, None).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Rm {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        each(&self.containers, async |name| {
            let path = format!("/containers/{}?force={}&v={}", quote(name), self.force, self.volumes);
            client.bytes(Method::DELETE, &path, None).await.map(drop)
        })
        .await
    }
}

/// Does the same to each, prints each name done, and goes on past failures.
async fn each(names: &[String], operation: impl AsyncFn(&str) -> Result<()>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match operation(name).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("Error: {}", super::one_line(&error));
                code = ExitCode::from(super::EXIT_ENGINE);
            }
        }
    }
    Ok(code)
}

impl Inspect {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let collection = match self.r#type {
            ObjectType::Container => "containers",
            ObjectType::Image => "images",
            ObjectType::Pod => "pods",
            ObjectType::Volume => "volumes",
            ObjectType::Network => "networks",
        };
        let mut found = Vec::new();
        for name in &self.names {
            let value: Value =
                client.json(Method::GET, &format!("/{collection}/{}/json", quote(name)), None).await?;
            found.push(value);
        }
        println!("{}", serde_json::to_string_pretty(&found)?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        if self.tty && !self.detach && !terminal::is_terminal() {
            bail!("-t needs a terminal on standard input");
        }
        let id = self.create(client).await?;
        let path = format!("/containers/{id}");
        if self.detach {
            self.start(client, &path).await?;
            println!("{id}");
            return Ok(ExitCode::SUCCESS);
        }
        let attach = format!("{path}/attach?stream=true&stdin={}&stdout=true&stderr=true", self.interactive);
        let stream = client.hijack(&attach).await?;
        self.start(client, &path).await?;
        let _raw = if self.tty { Some(terminal::raw_mode()?) } else { None };
        if self.tty {
            terminal::follow_size(client.clone(), id.clone());
        }
        terminal::relay(stream, self.interactive, self.tty).await?;
        let code: i32 = client.json(Method::POST, &format!("{path}/wait"), None).await?;
        if self.rm {
            client.bytes(Method::DELETE, &format!("{path}?force=true&v=true&ignore=true"), None).await?;
        }
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(super::EXIT_ENGINE)))
    }

    async fn create(&self, client: &Client) -> Result<String> {
        if self.pull == "always" {
            images::pull(client, &self.image, None, false).await?;
        }
        let body = self.spec()?;
        let created = client.json::<Value>(Method::POST, "/containers/create", Some(&body)).await;
        let created = match created {
            Err(error) if self.pull == "missing" && is_missing_image(&error) => {
                images::pull(client, &self.image, None, false).await?;
                client.json(Method::POST, "/containers/create", Some(&body)).await?
            }
            created => created?,
        };
        for warning in created["Warnings"].as_array().into_iter().flatten() {
            eprintln!("Warning: {}", warning.as_str().unwrap_or_default());
        }
        Ok(created["Id"].as_str().context("the daemon's answer has no Id")?.to_owned())
    }

    /// Starts it; a container that cannot start is not left behind with `--rm`.
    async fn start(&self, client: &Client, path: &str) -> Result<()> {
        let started = client.bytes(Method::POST, &format!("{path}/start"), None).await;
        if let Err(error) = started {
            if self.rm {
                let _ = client.bytes(Method::DELETE, &format!("{path}?force=true&v=true"), None).await;
            }
            let message = super::one_line(&error);
            eprintln!("Error: {message}");
            // podman tells the two by their message as well (exit codes 126 and 127).
            let code = match message {
                m if m.contains("no such file or directory") || m.contains("not found") => 127,
                m if m.contains("permission denied") => 126,
                _ => super::EXIT_ENGINE.into(),
            };
            std::process::exit(code);
        }
        Ok(())
    }

    /// podman's SpecGenerator.
    fn spec(&self) -> Result<Value> {
        let mut spec = json!({
            "image": self.image,
            "terminal": self.tty,
            "stdin": self.interactive,
            "remove": self.rm && self.detach,
            "privileged": self.privileged,
            "read_only_filesystem": self.read_only,
            "cap_add": self.cap_add,
            "cap_drop": self.cap_drop,
            "init": self.init,
        });
        let fields = spec.as_object_mut().expect("made as an object above");
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        if !self.command.is_empty() {
            set("command", json!(self.command));
        }
        for (key, value) in [
            ("name", &self.name),
            ("pod", &self.pod),
            ("work_dir", &self.workdir),
            ("user", &self.user),
            ("hostname", &self.hostname),
            ("oci_runtime", &self.runtime),
        ] {
            if let Some(value) = value {
                set(key, json!(value));
            }
        }
        if let Some(entrypoint) = &self.entrypoint {
            set("entrypoint", json!([entrypoint]));
        }
        set("env", json!(self.env.iter().map(|pair| key_value(pair)).collect::<BTreeMap<_, _>>()));
        set("labels", json!(self.label.iter().map(|pair| key_value(pair)).collect::<BTreeMap<_, _>>()));
        if let Some(policy) = &self.restart {
            let (policy, tries) = policy.split_once(':').unwrap_or((policy, ""));
            set("restart_policy", json!(policy));
            if !tries.is_empty() {
                let tries: u32 = tries.parse().context("--restart on-failure:N: N is not a number")?;
                set("restart_tries", json!(tries));
            }
        }
        if let Some(network) = &self.network {
            match network.split_once(':') {
                None if matches!(network.as_str(), "host" | "none" | "bridge") => {
                    set("netns", json!({"nsmode": network}));
                }
                Some(("container", name)) => {
                    set("netns", json!({"nsmode": "container", "value": name}));
                }
                _ => {
                    set("netns", json!({"nsmode": "bridge"}));
                    set("Networks", json!({network: {}}));
                }
            }
        }
        if !self.publish.is_empty() {
            let ports: Vec<Value> =
                self.publish.iter().map(|text| port_mapping(text)).collect::<Result<_>>()?;
            set("portmappings", json!(ports));
        }
        let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
        for text in &self.volume {
            let mount = VolumeFlag::parse(text)?;
            match mount.source.starts_with('/') {
                true => mounts.push(json!({
                    "type": "bind", "source": mount.source, "destination": mount.target, "options": mount.options
                })),
                false => volumes
                    .push(json!({"Name": mount.source, "Dest": mount.target, "Options": mount.options})),
            }
        }
        set("mounts", json!(mounts));
        set("volumes", json!(volumes));
        let mut limits = serde_json::Map::new();
        if let Some(memory) = &self.memory {
            limits.insert("memory".into(), json!({"limit": parse_bytes(memory)?}));
        }
        if let Some(cpus) = self.cpus {
            const PERIOD_US: f64 = 100_000.0;
            limits.insert(
                "cpu".into(),
                json!({"period": PERIOD_US as u64, "quota": (cpus * PERIOD_US) as i64}),
            );
        }
        if !limits.is_empty() {
            set("resource_limits", Value::Object(limits));
        }
        Ok(spec)
    }
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(|error| error.status == 404)
}

/// `KEY=VALUE`; a bare `KEY` takes the value of this process' environment, as podman does.
fn key_value(pair: &str) -> (String, String) {
    match pair.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (pair.to_owned(), std::env::var(pair).unwrap_or_default()),
    }
}

struct VolumeFlag {
    source: String,
    target: String,
    options: Vec<String>,
}

impl VolumeFlag {
    fn parse(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let (source, target) = match (parts.next(), parts.next()) {
            (Some(source), Some(target)) if !source.is_empty() && target.starts_with('/') => (source, target),
            _ => bail!("--volume {text}: expected SOURCE:/TARGET[:OPTIONS]"),
        };
        let source = match source.starts_with('.') {
            true => super::absolute(&PathBuf::from(source))?.to_string_lossy().into_owned(),
            false => source.to_owned(),
        };
        let options = parts.next().map(|o| o.split(',').map(str::to_owned).collect()).unwrap_or_default();
        Ok(Self { source, target: target.to_owned(), options })
    }
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`, ports may be ranges `8000-8010`.
fn port_mapping(text: &str) -> Result<Value> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut parts: Vec<&str> = ports.rsplitn(3, ':').collect();
    let (container, range) = port_range(parts.remove(0)).with_context(|| format!("--publish {text}"))?;
    let host = match parts.first() {
        Some(&"") | None => 0,
        Some(port) => port_range(port).with_context(|| format!("--publish {text}"))?.0,
    };
    let address = parts.get(1).copied().unwrap_or("");
    Ok(json!({
        "container_port": container, "host_port": host, "host_ip": address, "range": range, "protocol": protocol
    }))
}

fn port_range(text: &str) -> Result<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().with_context(|| format!("{text:?} is not a port"));
    match text.split_once('-') {
        None => Ok((port(text)?, 1)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            if last < first {
                bail!("{text}: the range ends before it begins");
            }
            Ok((first, last - first + 1))
        }
    }
}

/// `64m`, `1.5g`, `1024`: powers of two, as docker and podman read them.
fn parse_bytes(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, factor) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 1_u64 << 10),
        Some('m') => (&digits[..digits.len() - 1], 1 << 20),
        Some('g') => (&digits[..digits.len() - 1], 1 << 30),
        Some('t') => (&digits[..digits.len() - 1], 1 << 40),
        _ => (digits, 1),
    };
    let number: f64 =
        number.parse().ok().filter(|n| *n >= 0.0).with_context(|| format!("{text:?} is not a size"))?;
    Ok((number * factor as f64) as u64)
}

/// Flushes both outputs, so that nothing is lost when the process ends.
pub fn flush() -> std::io::Result<()> {
    std::io::stdout().flush()?;
    std::io::stderr().flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_takes_podmans_forms() {
        for (text, host_ip, host, container, range, protocol) in [
            ("80", "", 0, 80, 1, "tcp"),
            ("8080:80", "", 8080, 80, 1, "tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1", 8080, 80, 1, "udp"),
            ("127.0.0.1::80", "127.0.0.1", 0, 80, 1, "tcp"),
            ("8000-8002:80-82", "", 8000, 80, 3, "tcp"),
        ] {
            let expected = json!({"container_port": container, "host_port": host, "host_ip": host_ip,
                "range": range, "protocol": protocol});
            assert_eq!(port_mapping(text).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "1:x", "70000", "9-8"] {
            assert!(port_mapping(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(parse_bytes("64m").unwrap(), 64 << 20);
        assert_eq!(parse_bytes("1.5g").unwrap(), 3 << 29);
        assert_eq!(parse_bytes("10").unwrap(), 10);
        assert_eq!(parse_bytes("2KiB").unwrap(), 2048);
        assert!(parse_bytes("-1").is_err() && parse_bytes("m").is_err());
    }

    #[test]
    fn volumes_need_an_absolute_target() {
        let volume = VolumeFlag::parse("data:/var/data:ro,z").unwrap();
        assert_eq!((volume.source.as_str(), volume.target.as_str()), ("data", "/var/data"));
        assert_eq!(volume.options, ["ro", "z"]);
        assert!(VolumeFlag::parse("data").is_err() && VolumeFlag::parse("a:b").is_err());
    }
}
