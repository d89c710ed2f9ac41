//! Containers: lists, life cycle, waiting, removal. Docker's dialect shares whatever is the same.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;

use crate::api::error::ApiError;
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::filter::ContainerFilter;
use crate::api::rest::reply::Reply;
use crate::api::rest::version::ApiVersion;
use crate::api::rest::view::{self, ContainerView};
use crate::api::rest::{Outcome, host_facts, reply, signal, time};
use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::container::spec::PortMapping;
use crate::engine::container::state::ContainerState;
use crate::engine::container::{
    ContainerFilter as EngineFilter, RemoveOptions, StartOutcome, StopOptions, StopOutcome, WaitCondition,
};
use crate::engine::error::ErrorKind;
use crate::engine::id::NameOrId;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListContainer<'a> {
    auto_remove: bool,
    command: &'a [String],
    created: String,
    created_at: &'static str,
    #[serde(rename = "CIDFile")]
    cid_file: &'static str,
    exited: bool,
    exited_at: i64,
    exit_code: i32,
    exposed_ports: Option<()>,
    id: &'a str,
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    is_infra: bool,
    labels: Option<&'a BTreeMap<String, String>>,
    mounts: Vec<&'a str>,
    names: [&'a str; 1],
    namespaces: Namespaces,
    networks: Vec<&'a str>,
    pid: i32,
    pod: &'a str,
    pod_name: &'a str,
    ports: Option<Vec<Port>>,
    restarts: u32,
    size: Option<Size>,
    started_at: i64,
    state: &'static str,
    status: &'static str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Namespaces {
    #[serde(skip_serializing_if = "String::is_empty")]
    mnt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cgroup: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ipc: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    net: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pidns: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uts: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
}

#[derive(Serialize)]
pub struct Port {
    host_ip: String,
    container_port: u16,
    host_port: u16,
    range: u16,
    protocol: &'static str,
}

/// Bytes: of the image and what the container wrote over it together, and of the latter.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    pub root_fs_size: u64,
    pub rw_size: u64,
}

impl Size {
    /// Walks the container's own layer, so only when somebody asked.
    pub fn measure(view: &ContainerView, config: &EngineConfig) -> Self {
        let rw_size = host_facts::tree_bytes(&config.container_dir(&view.record.id).join("upper"));
        let image_size = view.image.as_ref().map_or(0, |image| image.size_bytes);
        Self { root_fs_size: image_size + rw_size, rw_size }
    }
}

impl Port {
    pub fn new(port: &PortMapping) -> Self {
        Self {
            host_ip: view::host_ip(port.host_address),
            container_port: port.container_port,
            host_port: port.host_port,
            range: port.range,
            protocol: port.protocol.as_str(),
        }
    }
}

impl<'a> ListContainer<'a> {
    pub fn new(view: &'a ContainerView, namespaces: bool, size: Option<Size>) -> Self {
        let record = &view.record;
        let labels = record.labels();
        let ports: Vec<_> = view.ports().iter().map(Port::new).collect();
        Self {
            auto_remove: record.spec.auto_remove,
            command: view.command(),
            created: time::rfc3339(Some(record.created_at)),
            // Empty on the wire: podman's clients fill it from `Created`.
            created_at: "",
            cid_file: "",
            exited: matches!(record.state, ContainerState::Exited(_)),
            exited_at: time::unix_secs(view.finished_at()),
            exit_code: view.exit_code(),
            exposed_ports: None,
            id: record.id.as_str(),
            image: &record.image_name,
            image_id: view.image_id(),
            is_infra: false,
            labels: (!labels.is_empty()).then_some(labels),
            mounts: record.spec.mounts.iter().map(|mount| mount.destination.as_str()).collect(),
            names: [record.name.as_str()],
            namespaces: if namespaces { Namespaces::of(view.pid()) } else { Namespaces::default() },
            networks: view.networks().iter().map(|(name, _)| *name).collect(),
            pid: view.pid(),
            pod: view.pod_id(),
            pod_name: view.pod_name(),
            ports: (!ports.is_empty()).then_some(ports),
            restarts: record.restart_count,
            size,
            started_at: time::unix_secs(view.started_at()),
            state: record.state.as_str(),
            status: "",
        }
    }
}

impl Namespaces {
    /// The inode numbers of a process's namespaces; empty for one that is gone.
    fn of(pid: i32) -> Self {
        let number = |name: &str| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_default();
            let text = link.to_string_lossy();
            let number = text.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
            number.unwrap_or_default().to_owned()
        };
        Self {
            mnt: number("mnt"),
            cgroup: number("cgroup"),
            ipc: number("ipc"),
            net: number("net"),
            pidns: number("pid"),
            uts: number("uts"),
            user: number("user"),
        }
    }
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let views = listed(&engine, &query)?;
    let (namespaces, size) = (query.flag("namespace")?, query.flag("size")?);
    if !size {
        return Ok(render_list(&views, namespaces, |_| None));
    }
    let config = engine.config().clone();
    let measured = tokio::task::spawn_blocking(move || {
        render_list(&views, namespaces, |view| Some(Size::measure(view, &config)))
    });
    measured.await.map_err(|e| ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn render_list(
    views: &[ContainerView],
    namespaces: bool,
    size: impl Fn(&ContainerView) -> Option<Size>,
) -> Reply {
    let list: Vec<_> = views.iter().map(|view| ListContainer::new(view, namespaces, size(view))).collect();
    reply::json(&list)
}

/// The containers a list request means, newest first. Docker's `limit` is podman's `last`.
pub fn listed(engine: &Engine, query: &Query) -> Result<Vec<ContainerView>, ApiError> {
    let last = match query.number::<i64>("last")? {
        Some(last) => Some(last),
        None => query.number::<i64>("limit")?,
    };
    let last = last.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let filter = ContainerFilter::parse(&query.filters()?, engine, Timestamp::now())?;
    let all = query.flag("all")? || last.is_some() || filter.all_states;
    let records = engine.containers(&EngineFilter { all, ..Default::default() });
    let views = ContainerView::all(engine, records);
    Ok(views.filter(|view| filter.matches(view)).take(last.unwrap_or(usize::MAX)).collect())
}

pub async fn exists(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    engine.container(&name)?;
    Ok(reply::no_content())
}

pub async fn init(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let record = engine.container(&name)?;
    if matches!(record.state, ContainerState::Created(_)) {
        return Err(ApiError::NotModified);
    }
    engine.init_container(&NameOrId::from(&record.id)).await?;
    Ok(reply::no_content())
}

pub async fn start(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    match engine.start_container(&name).await? {
        StartOutcome::Started => Ok(reply::no_content()),
        StartOutcome::AlreadyRunning => Err(ApiError::NotModified),
    }
}

pub async fn stop(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let options = StopOptions { timeout_secs: stop_timeout(&query)? };
    match engine.stop_container(&name, options).await {
        Ok(StopOutcome::Stopped) => Ok(reply::no_content()),
        Ok(StopOutcome::AlreadyStopped) => Err(ApiError::NotModified),
        Err(error) if error.kind() == ErrorKind::NotFound && query.flag("ignore")? => Ok(reply::no_content()),
        Err(error) => Err(error.into()),
    }
}

pub async fn restart(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let options = StopOptions { timeout_secs: stop_timeout(&query)? };
    engine.restart_container(&name, options).await?;
    Ok(reply::no_content())
}

pub async fn kill(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let signal = signal::parse(query.filled("signal").unwrap_or("KILL"))?;
    engine.kill_container(&name, signal).await?;
    Ok(reply::no_content())
}

pub async fn pause(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    engine.pause_container(&name).await?;
    Ok(reply::no_content())
}

pub async fn unpause(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    engine.unpause_container(&name).await?;
    Ok(reply::no_content())
}

pub async fn rename(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let wanted = query.required("name")?;
    // Docker's clients may begin a name with a slash, as its own lists do.
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let new = wanted.parse().map_err(|error| ApiError::bad_parameter("name", error))?;
    engine.rename_container(&name, new).await?;
    Ok(reply::no_content())
}

pub async fn resize(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let (columns, rows) = terminal_size(&query)?;
    let record = engine.container(&name)?;
    // A terminal that has gone meanwhile has no size to set: clients send this on every change of theirs.
    if query.flag("running")? && !record.state.is_running() {
        return Ok(reply::empty(StatusCode::OK));
    }
    engine.resize_container(&NameOrId::from(&record.id), columns, rows).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// The bare exit code, as text: podman's clients parse a number.
pub async fn wait(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let mut conditions = Vec::new();
    for name in query.list("condition").iter().filter(|name| !name.is_empty()) {
        conditions.push(wait_condition(name)?);
    }
    if conditions.is_empty() {
        conditions.extend([WaitCondition::Stopped, WaitCondition::Exited]);
    }
    let code = engine.wait_container(&name, &conditions).await?;
    Ok(reply::text(format!("{code}\n")))
}

#[derive(Serialize)]
struct RmReport<'a> {
    #[serde(rename = "Id")]
    id: &'a str,
    #[serde(rename = "Err", skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "RawInput")]
    raw_input: &'a str,
}

/// Since podman 4.0 a list of one; before, 204.
pub async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<NameOrId>,
    version: Option<ApiVersion>,
    query: Query,
) -> Outcome {
    let record = match engine.container(&name) {
        Ok(record) => record,
        Err(error) if error.kind() == ErrorKind::NotFound && query.flag("ignore")? => {
            return Ok(reply::json::<[RmReport; 0]>(&[]));
        }
        Err(error) => return Err(error.into()),
    };
    let options = remove_options(&query)?;
    engine.remove_container(&NameOrId::from(&record.id), options).await?;
    if crate::api::rest::version::is_before(version, 4, 0) {
        return Ok(reply::no_content());
    }
    let report = RmReport { id: record.id.as_str(), error: None, raw_input: name.as_str() };
    Ok(reply::json(&[report]))
}

#[derive(Serialize)]
struct PruneReport {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Err", skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
}

pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let outcomes = prune_stopped(&engine, &query).await?;
    let reports = outcomes.into_iter().map(|(id, error)| PruneReport { id, error, size: 0 });
    Ok(reply::json(&reports.collect::<Vec<_>>()))
}

/// Removes containers that do not run and match, but for those of pods, which go with their pod.
pub async fn prune_stopped(
    engine: &Engine,
    query: &Query,
) -> Result<Vec<(String, Option<String>)>, ApiError> {
    let filter = ContainerFilter::parse(&query.filters()?, engine, Timestamp::now())?;
    let mut outcomes = Vec::new();
    let records = engine.containers(&EngineFilter { all: true, ..Default::default() });
    for view in ContainerView::all(engine, records) {
        let at_rest = match view.record.state {
            ContainerState::Configured | ContainerState::Created(_) | ContainerState::Exited(_) => true,
            ContainerState::Running(_)
            | ContainerState::Paused(_)
            | ContainerState::Stopping(_)
            | ContainerState::Removing => false,
        };
        if !at_rest || view.record.pod().is_some() || !filter.matches(&view) {
            continue;
        }
        let id = NameOrId::from(&view.record.id);
        match engine.remove_container(&id, RemoveOptions::default()).await {
            Ok(()) => outcomes.push((view.record.id.to_string(), None)),
            // Started or removed meanwhile: not meant any more.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WrongState) => {}
            Err(error) => outcomes.push((view.record.id.to_string(), Some(error.chain()))),
        }
    }
    Ok(outcomes)
}

pub fn remove_options(query: &Query) -> Result<RemoveOptions, ApiError> {
    Ok(RemoveOptions {
        force: query.flag("force")?,
        volumes: query.flag("v")? || query.flag("volumes")?,
        stop_timeout_secs: stop_timeout(query)?,
    })
}

/// Seconds; podman sends -1 for the container's own.
pub fn stop_timeout(query: &Query) -> Result<Option<u32>, ApiError> {
    let given = match query.number::<i64>("timeout")? {
        Some(seconds) => Some(seconds),
        None => query.number::<i64>("t")?,
    };
    Ok(given.and_then(|seconds| u32::try_from(seconds).ok()))
}

pub fn terminal_size(query: &Query) -> Result<(u16, u16), ApiError> {
    let number = |name| query.number::<u16>(name).map(Option::unwrap_or_default);
    Ok((number("w")?, number("h")?))
}

fn wait_condition(name: &str) -> Result<WaitCondition, ApiError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "configured" => WaitCondition::Configured,
        "created" | "initialized" => WaitCondition::Created,
        "running" => WaitCondition::Running,
        "paused" => WaitCondition::Paused,
        "stopped" | "stopping" => WaitCondition::Stopped,
        "exited" => WaitCondition::Exited,
        "removing" => WaitCondition::Removing,
        "removed" => WaitCondition::Removed,
        "next-exit" => WaitCondition::NextExit,
        "not-running" => WaitCondition::NotRunning,
        _ => {
            return Err(ApiError::bad_parameter("condition", format!("{name:?} is no state of a container")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_timeout_is_the_containers_own() {
        let timeout = |text: &str| stop_timeout(&Query::parse(Some(text)).unwrap()).unwrap();
        assert_eq!(timeout("timeout=-1"), None);
        assert_eq!(timeout("t=0"), Some(0));
        assert_eq!(timeout("timeout=7&t=3"), Some(7));
    }

    #[test]
    fn namespaces_of_a_process_are_numbers() {
        let own = Namespaces::of(std::process::id() as i32);
        assert!(own.mnt.parse::<u64>().is_ok());
        assert!(Namespaces::of(0).mnt.is_empty());
    }
}
