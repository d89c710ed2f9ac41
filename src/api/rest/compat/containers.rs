//! Containers as docker lists, waits for and removes them. What is the same is in `libpod/`.

use std::collections::BTreeMap;

use axum::extract::State;
use bytes::Bytes;
use futures_util::stream as futures_stream;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::networks::docker_name;
use crate::api::error::ApiError;
use crate::api::rest::Context;
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::libpod::containers::{listed, prune_stopped, remove_options};
use crate::api::rest::view::{ContainerView, MountView};
use crate::api::rest::{Outcome, json, reply, stream, time};
use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::container::WaitCondition;
use crate::engine::container::spec::PortMapping;
use crate::engine::container::state::ContainerState;
use crate::engine::id::NameOrId;
use crate::engine::network::InterfaceStatus;

/// A list or map Go would write as `null`.
type Null = Option<()>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container<'a> {
    id: &'a str,
    names: [String; 1],
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<Port>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    network_settings: Networks,
    mounts: Vec<MountPoint>,
    // podman inlines docker's create request; its members are always empty.
    name: &'static str,
    config: Null,
    networking_config: Null,
    platform: Null,
    #[serde(rename = "AdjustCPUShares")]
    adjust_cpu_shares: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Port {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    ip: String,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Networks {
    networks: BTreeMap<String, EndpointSettings>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Null,
    links: Null,
    aliases: Vec<String>,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'static str,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    mac_address: String,
    driver_opts: Null,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountPoint {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    driver: &'static str,
    mode: &'static str,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: String,
}

impl Port {
    fn expand(port: &PortMapping) -> impl Iterator<Item = Self> {
        let (ip, kind) = (port.host_address.to_string(), port.protocol.as_str());
        let (container, host) = (port.container_port, port.host_port);
        (0..port.range).map(move |offset| Self {
            ip: ip.clone(),
            private_port: container + offset,
            public_port: (host != 0).then(|| host + offset),
            r#type: kind,
        })
    }
}

impl EndpointSettings {
    pub fn new(
        view: &ContainerView,
        network: &str,
        interface: Option<&InterfaceStatus>,
        ids: &NetworkIds,
    ) -> Self {
        let of = |v6: bool| interface?.addresses.iter().find(|a| a.address.is_ipv6() == v6);
        let address = |v6: bool| of(v6).map(|a| a.address.to_string()).unwrap_or_default();
        let gateway = |v6: bool| of(v6).and_then(|a| a.gateway).map(|g| g.to_string()).unwrap_or_default();
        let mut aliases = vec![view.record.id.short().to_owned()];
        aliases.extend(interface.iter().flat_map(|i| i.aliases.iter().cloned()));
        aliases.dedup();
        let id = |i: &InterfaceStatus| i.network_id.to_string();
        let known = || ids.get(network).cloned().unwrap_or_default();
        Self {
            ipam_config: None,
            links: None,
            aliases,
            network_id: interface.map_or_else(known, id),
            endpoint_id: "",
            gateway: gateway(false),
            ip_address: address(false),
            ip_prefix_len: of(false).map_or(0, |a| a.prefix_len),
            ipv6_gateway: gateway(true),
            global_ipv6_address: address(true),
            global_ipv6_prefix_len: of(true).map_or(0, |a| a.prefix_len),
            mac_address: interface.map(|i| i.mac.clone()).unwrap_or_default(),
            driver_opts: None,
        }
    }
}

/// Ids of networks by name.
pub type NetworkIds = BTreeMap<String, String>;

pub fn network_ids(engine: &Engine) -> NetworkIds {
    engine.networks().iter().map(|network| (network.name.to_string(), network.id.to_string())).collect()
}

/// Networks by the name docker knows them.
pub fn endpoints(view: &ContainerView, ids: &NetworkIds) -> BTreeMap<String, EndpointSettings> {
    let networks = view.networks().into_iter();
    let settings = networks.map(|(name, interface)| {
        (docker_name(name).to_owned(), EndpointSettings::new(view, name, interface, ids))
    });
    settings.collect()
}

impl MountPoint {
    pub fn new(view: &MountView) -> Self {
        Self {
            r#type: view.kind,
            name: view.name.clone(),
            source: view.source.clone(),
            destination: view.mount.destination.clone(),
            driver: if view.name.is_some() { "local" } else { "" },
            mode: "",
            rw: !view.mount.read_only,
            propagation: view.propagation().to_owned(),
        }
    }
}

impl<'a> Container<'a> {
    pub fn new(view: &'a ContainerView, config: &EngineConfig, ids: &NetworkIds, now: Timestamp) -> Self {
        let record = &view.record;
        Self {
            id: record.id.as_str(),
            names: [format!("/{}", record.name)],
            image: &record.image_name,
            image_id: format!("sha256:{}", view.image_id()),
            command: view.command().join(" "),
            created: record.created_at.as_second(),
            ports: view.ports().iter().flat_map(Port::expand).collect(),
            labels: record.labels(),
            state: state_name(&record.state),
            status: status(view, now),
            network_settings: Networks { networks: endpoints(view, ids) },
            mounts: view.mounts(config).iter().map(MountPoint::new).collect(),
            name: "",
            config: None,
            networking_config: None,
            platform: None,
            adjust_cpu_shares: false,
        }
    }
}

/// Docker has fewer states.
pub fn state_name(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Configured | ContainerState::Created(_) => "created",
        ContainerState::Running(_) | ContainerState::Stopping(_) => "running",
        ContainerState::Paused(_) => "paused",
        ContainerState::Exited(_) => "exited",
        ContainerState::Removing => "removing",
    }
}

/// `Up 3 minutes`, `Exited (0) 2 hours ago`, `Created`.
fn status(view: &ContainerView, now: Timestamp) -> String {
    let since = |time: Option<Timestamp>| {
        time::in_words(time.map_or(SignedDuration::ZERO, |time| now.duration_since(time)))
    };
    match &view.record.state {
        ContainerState::Configured | ContainerState::Created(_) => "Created".to_owned(),
        ContainerState::Running(_) | ContainerState::Stopping(_) => {
            format!("Up {}", since(view.started_at()))
        }
        ContainerState::Paused(_) => format!("Up {} (Paused)", since(view.started_at())),
        ContainerState::Exited(exit) => {
            format!("Exited ({}) {} ago", exit.code, since(Some(exit.finished_at)))
        }
        ContainerState::Removing => "Removal In Progress".to_owned(),
    }
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let views = listed(&engine, &query)?;
    let now = Timestamp::now();
    let (config, ids) = (engine.config(), network_ids(&engine));
    let list: Vec<_> = views.iter().map(|view| Container::new(view, config, &ids, now)).collect();
    Ok(reply::json(&list))
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let options = remove_options(&query)?;
    engine.remove_container(&name, options).await?;
    Ok(reply::no_content())
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitBody {
    status_code: i32,
    error: Option<WaitError>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitError {
    message: String,
}

/// Status line and headers go out before the wait begins: the docker CLI starts the container only
/// after it has seen them.
pub async fn wait(State(context): State<Context>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let condition = match query.filled("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            let cause = format!("{other:?} is none of not-running, next-exit, removed");
            return Err(ApiError::bad_parameter("condition", cause));
        }
    };
    let engine = context.engine.clone();
    let id = NameOrId::from(&engine.container(&name)?.id);
    let waited = async move {
        let body = match engine.wait_container(&id, &[condition]).await {
            Ok(status_code) => WaitBody { status_code, error: None },
            Err(error) => WaitBody { status_code: -1, error: Some(WaitError { message: error.chain() }) },
        };
        Bytes::from(json::encode(&body))
    };
    // Asked once before the header goes out, so that no exit after it is missed.
    let mut waited = Box::pin(waited);
    let early = futures_util::poll!(&mut waited);
    let body = async move {
        match early {
            std::task::Poll::Ready(body) => body,
            std::task::Poll::Pending => waited.await,
        }
    };
    Ok(stream::reply(reply::JSON, futures_stream::once(body), &context.closing))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneReport {
    containers_deleted: Vec<String>,
    space_reclaimed: u64,
}

pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let outcomes = prune_stopped(&engine, &query).await?;
    let deleted = outcomes.into_iter().filter_map(|(id, error)| error.is_none().then_some(id));
    Ok(reply::json(&PruneReport { containers_deleted: deleted.collect(), space_reclaimed: 0 }))
}
