//! `plan`, `apply`, `status`: the directory of manifests, as the reconciler sees it.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use selkie::reconcile::action::Plan as ReconcilePlan;
use selkie::reconcile::desired::SourceName;
use selkie::reconcile::status::{
    ContainerStateStatus, PodPhase, PodStatus, StackState, StackStatus, StatusReport,
};

use super::client::{Client, quote};
use super::{EXIT_DIFFERENCES, absolute, render};

#[derive(Debug, Args)]
pub struct Plan {
    /// Directory of manifests [default: the daemon's]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    format: String,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// Directory of manifests [default: the daemon's]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Status {
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    format: String,
    /// First wait until every pod is Ready or has Completed, at most so many seconds; exits 1 if not
    #[arg(long, value_name = "SECONDS")]
    wait_ready: Option<u64>,
}

impl Plan {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let path = with_directory("/selkie/v1/plan", self.directory)?;
        let plan: ReconcilePlan = client.json(Method::POST, &path, None).await?;
        print_as(&self.format, &plan, |plan| plan.to_string())?;
        Ok(match plan {
            plan if plan.has_errors() => ExitCode::FAILURE,
            plan if plan.in_sync() => ExitCode::SUCCESS,
            _ => ExitCode::from(EXIT_DIFFERENCES),
        })
    }
}

impl Apply {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let path = with_directory("/selkie/v1/apply", self.directory)?;
        let applying = client.json::<StatusReport>(Method::POST, &path, None);
        let report = if std::io::stderr().is_terminal() {
            let spinner = indicatif::ProgressBar::new_spinner().with_message("applying");
            spinner.enable_steady_tick(Duration::from_millis(100));
            let report = show_progress(client, &spinner, applying).await;
            spinner.finish_and_clear();
            report?
        } else {
            applying.await?
        };
        print!("{}", text(&report));
        Ok(if has_errors(&report) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// How often a person is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

async fn show_progress<T>(
    client: &Client,
    spinner: &indicatif::ProgressBar,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                if let Ok(report) = status(client).await {
                    let ready = report.pods().filter(|pod| pod.is_ready()).count();
                    spinner.set_message(format!("applying: {ready} of {} pods ready", report.pods().count()));
                }
            }
        }
    }
}

impl Status {
    pub async fn run(self, client: &Client) -> Result<ExitCode> {
        let deadline = Instant::now() + Duration::from_secs(self.wait_ready.unwrap_or(0));
        let report = loop {
            let report = status(client).await?;
            if is_ready(&report) || Instant::now() >= deadline {
                break report;
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        };
        print_as(&self.format, &report, text)?;
        let failed = match self.wait_ready {
            Some(_) => !is_ready(&report),
            None => has_errors(&report),
        };
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn status(client: &Client) -> Result<StatusReport> {
    client.json(Method::GET, "/selkie/v1/status", None).await
}

/// A directory is watched, a first pass has been made, nothing is held, and every pod is ready.
fn is_ready(report: &StatusReport) -> bool {
    let watched = report.sources.iter().any(|source| matches!(source.source, SourceName::Directory(_)));
    watched && report.last_pass.is_some() && report.settled && !has_errors(report) && report.all_ready()
}

fn has_errors(report: &StatusReport) -> bool {
    report.sources.iter().any(|source| source.held.is_some())
        || report.stacks.iter().any(|stack| stack.state == StackState::Held)
}

fn with_directory(path: &str, directory: Option<PathBuf>) -> Result<String> {
    Ok(match directory {
        Some(directory) => format!("{path}?directory={}", quote(&absolute(&directory)?.to_string_lossy())),
        None => path.to_owned(),
    })
}

fn print_as<T: Serialize + DeserializeOwned>(
    format: &str,
    document: &T,
    text: impl Fn(&T) -> String,
) -> Result<()> {
    match format {
        "json" => println!("{}", serde_json::to_string_pretty(document)?),
        _ => print!("{}", text(document)),
    }
    Ok(())
}

/// The status for people: what is wrong first, then pods, then Services.
fn text(report: &StatusReport) -> String {
    let mut out = String::new();
    for source in &report.sources {
        let name = match &source.source {
            SourceName::Directory(path) => path.display().to_string(),
            SourceName::Played => "played manifests".to_owned(),
        };
        if let Some(cause) = &source.held {
            out.push_str(&format!("! {name}: held: {cause}\n"));
        }
        for warning in &source.warnings {
            out.push_str(&format!("? {name}: {warning}\n"));
        }
    }
    for stack in &report.stacks {
        out.push_str(&stack_problems(stack));
    }
    if !out.is_empty() {
        out.push('\n');
    }

    let mut rows = Vec::new();
    for stack in &report.stacks {
        rows.extend(stack.pods.iter().map(|pod| pod_row(stack, pod)));
    }
    let header = ["STACK", "POD", "READY", "STATUS", "RESTARTS", "IP", "PORTS"];
    out.push_str(&render::table(&header, &rows));

    let services = report.stacks.iter().flat_map(|stack| &stack.services);
    let rows: Vec<Vec<String>> = services
        .map(|service| {
            let address = service.address.map_or("None".to_owned(), |address| address.to_string());
            let endpoints: Vec<String> = service.endpoints.iter().map(ToString::to_string).collect();
            vec![service.service.to_string(), address, service.ports.join(","), endpoints.join(",")]
        })
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&render::table(&["SERVICE", "ADDRESS", "PORTS", "READY ENDPOINTS"], &rows));
    }
    out
}

fn stack_problems(stack: &StackStatus) -> String {
    let mut out = String::new();
    match stack.state {
        StackState::Held => out.push_str(&format!("! stack {}: held, what runs stays as it is", stack.stack)),
        StackState::Progressing if !stack.message.is_empty() => {
            out.push_str(&format!("~ stack {}", stack.stack))
        }
        StackState::Applied | StackState::Progressing | StackState::Unwatched => {}
    }
    if !out.is_empty() {
        if !stack.message.is_empty() {
            out.push_str(&format!(": {}", stack.message));
        }
        out.push('\n');
    }
    for error in &stack.errors {
        out.push_str(&format!("    {error}\n"));
    }
    for warning in &stack.warnings {
        out.push_str(&format!("  ? {}: {}: {}\n", warning.location, warning.field, warning.message));
    }
    for pod in &stack.pods {
        for note in pod.notes.iter().chain(&pod.message) {
            out.push_str(&format!("  pod {}: {note}\n", pod.pod));
        }
        for container in &pod.containers {
            if let ContainerStateStatus::Waiting { reason, message: Some(message) } = &container.state {
                out.push_str(&format!(
                    "  pod {}: container {}: {reason}: {message}\n",
                    pod.pod, container.name
                ));
            }
        }
    }
    out
}

fn pod_row(stack: &StackStatus, pod: &PodStatus) -> Vec<String> {
    let (ready, of) = pod.ready_count();
    let phase = match pod.phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Succeeded => "Completed",
        PodPhase::Failed => "Failed",
        PodPhase::Unknown => "Unknown",
    };
    vec![
        stack.stack.to_string(),
        pod.pod.to_string(),
        format!("{ready}/{of}"),
        pod.reason.clone().unwrap_or_else(|| phase.to_owned()),
        pod.restarts.to_string(),
        pod.pod_ip.map(|address| address.to_string()).unwrap_or_default(),
        pod.ports.join(","),
    ]
}
