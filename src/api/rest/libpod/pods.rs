//! Pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::containers::stop_timeout;
use super::create::{
    Namespace, PerNetworkOptions, ResourceLimits, SpecPort, dns, extra_hosts, filled, network_attachment,
    ports,
};
use super::inspect::{HostPort, host_ports};
use crate::api::error::ApiError;
use crate::api::rest::extract::{Filters, Json, Path, Query};
use crate::api::rest::filter::{self, LabelFilter, regexes, unknown};
use crate::api::rest::reply::Reply;
use crate::api::rest::{Outcome, reply, signal, time, view};
use crate::engine::Engine;
use crate::engine::container::spec::{CreatedBy, NetworkMode};
use crate::engine::container::{ContainerRecord, RemoveOptions, StopOptions};
use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::id::{NameOrId, PodId, PodName};
use crate::engine::pod::{PodRecord, PodSandboxSpec, PodState, SharedNamespaces};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListPodsReport<'a> {
    cgroup: &'a str,
    containers: Vec<ListPodContainer>,
    created: String,
    id: &'a str,
    infra_id: &'static str,
    name: &'a str,
    namespace: &'static str,
    networks: Vec<&'a str>,
    status: &'static str,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListPodContainer {
    id: String,
    names: String,
    status: &'static str,
    restart_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectPodData<'a> {
    id: &'a str,
    name: &'a str,
    created: String,
    exit_policy: &'static str,
    state: &'static str,
    hostname: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    create_cgroup: bool,
    cgroup_parent: &'a str,
    create_infra: bool,
    infra_config: InspectPodInfraConfig<'a>,
    shared_namespaces: Vec<&'static str>,
    num_containers: usize,
    containers: Vec<InspectPodContainer>,
    restart_policy: &'static str,
    lock_number: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectPodContainer {
    id: String,
    name: String,
    state: &'static str,
}

/// What podman keeps with the infra container, we keep with the pod.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectPodInfraConfig<'a> {
    port_bindings: BTreeMap<String, Vec<HostPort>>,
    host_network: bool,
    #[serde(rename = "StaticIP")]
    static_ip: &'static str,
    #[serde(rename = "StaticMAC")]
    static_mac: &'static str,
    no_manage_resolv_conf: bool,
    #[serde(rename = "DNSServer")]
    dns_server: Vec<String>,
    #[serde(rename = "DNSSearch")]
    dns_search: &'a [String],
    #[serde(rename = "DNSOption")]
    dns_option: &'a [String],
    no_manage_hosts: bool,
    host_add: Vec<String>,
    networks: Vec<&'a str>,
    network_options: Option<()>,
    #[serde(rename = "pid_ns")]
    pid_ns: &'static str,
    #[serde(rename = "userns")]
    userns: &'static str,
    #[serde(rename = "uts_ns")]
    uts_ns: &'static str,
    no_manage_hostname: bool,
    hosts_file: &'static str,
}

fn members(engine: &Engine, pod: &PodRecord) -> Vec<Arc<ContainerRecord>> {
    pod.containers.iter().filter_map(|id| engine.container(&NameOrId::from(id)).ok()).collect()
}

fn networks(pod: &PodRecord) -> Vec<&str> {
    match &pod.spec.network {
        NetworkMode::Bridge(attachments) if attachments.is_empty() => vec![view::DEFAULT_NETWORK],
        NetworkMode::Bridge(attachments) => attachments.iter().map(|a| a.network.as_str()).collect(),
        NetworkMode::Host
        | NetworkMode::None
        | NetworkMode::Pod
        | NetworkMode::Container(_)
        | NetworkMode::Path(_) => Vec::new(),
    }
}

impl<'a> ListPodsReport<'a> {
    pub fn new(
        pod: &'a PodRecord,
        members: &[Arc<ContainerRecord>],
        state: PodState,
        cgroup: &'a str,
    ) -> Self {
        let containers = members.iter().map(|record| ListPodContainer {
            id: record.id.to_string(),
            names: record.name.to_string(),
            status: record.state.as_str(),
            restart_count: record.restart_count,
        });
        Self {
            cgroup,
            containers: containers.collect(),
            created: time::rfc3339(Some(pod.created_at)),
            id: pod.id.as_str(),
            infra_id: "",
            name: pod.spec.name.as_str(),
            namespace: "",
            networks: networks(pod),
            status: state.as_str(),
            labels: &pod.spec.labels,
        }
    }
}

impl<'a> InspectPodData<'a> {
    pub fn new(
        pod: &'a PodRecord,
        members: &[Arc<ContainerRecord>],
        state: PodState,
        cgroup: &'a str,
    ) -> Self {
        let spec = &pod.spec;
        let containers = members.iter().map(|record| InspectPodContainer {
            id: record.id.to_string(),
            name: record.name.to_string(),
            state: record.state.as_str(),
        });
        let share = spec.share;
        let shared = [("uts", share.uts), ("ipc", share.ipc), ("net", share.net), ("pid", share.pid)];
        let hosts = spec.hosts.iter();
        let ports = pod.network.as_ref().map_or(&spec.published_ports, |network| &network.ports);
        Self {
            id: pod.id.as_str(),
            name: spec.name.as_str(),
            created: time::rfc3339(Some(pod.created_at)),
            exit_policy: "continue",
            state: state.as_str(),
            hostname: spec.hostname.as_deref().unwrap_or(spec.name.as_str()),
            labels: &spec.labels,
            create_cgroup: true,
            cgroup_parent: cgroup,
            // The pod's namespaces live without a container of their own.
            create_infra: false,
            infra_config: InspectPodInfraConfig {
                port_bindings: host_ports(ports),
                host_network: spec.network == NetworkMode::Host,
                static_ip: "",
                static_mac: "",
                no_manage_resolv_conf: false,
                dns_server: spec.dns.servers.iter().map(ToString::to_string).collect(),
                dns_search: &spec.dns.searches,
                dns_option: &spec.dns.options,
                no_manage_hosts: false,
                host_add: hosts
                    .flat_map(|(ip, names)| names.iter().map(move |name| format!("{name}:{ip}")))
                    .collect(),
                networks: networks(pod),
                network_options: None,
                pid_ns: if share.host_pid { "host" } else { "private" },
                userns: "host",
                uts_ns: "private",
                no_manage_hostname: false,
                hosts_file: "",
            },
            shared_namespaces: shared.iter().filter(|(_, shared)| *shared).map(|(name, _)| *name).collect(),
            num_containers: members.len(),
            containers: containers.collect(),
            restart_policy: "no",
            lock_number: 0,
        }
    }
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = PodFilter::parse(&query.filters()?)?;
    let pods = engine.pods();
    let cgroup = engine.config().cgroup_parent.as_str();
    let list: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            let (members, state) = (members(&engine, pod), engine.pod_state(pod));
            filter.matches(pod, &members, state).then(|| ListPodsReport::new(pod, &members, state, cgroup))
        })
        .collect();
    Ok(reply::json(&list))
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let pod = engine.pod(&name)?;
    let cgroup = engine.config().cgroup_parent.as_str();
    Ok(reply::json(&InspectPodData::new(&pod, &members(&engine, &pod), engine.pod_state(&pod), cgroup)))
}

pub async fn exists(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    engine.pod(&name)?;
    Ok(reply::no_content())
}

/// Start, stop, pause, kill ...: what failed, and of which pod.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PodReport<'a> {
    errs: Option<Vec<String>>,
    id: &'a str,
    raw_input: &'a str,
}

fn report(name: &NameOrId, pod: &PodId, outcome: Result<(), EngineError>) -> Outcome {
    let (status, errs) = match outcome {
        Ok(()) => (StatusCode::OK, None),
        // podman's clients expect the report, not the usual error, if the pod is not in a state for it.
        Err(error) if error.kind() == ErrorKind::WrongState => {
            (StatusCode::CONFLICT, Some(vec![error.chain()]))
        }
        Err(error) => return Err(error.into()),
    };
    let report = PodReport { errs, id: pod.as_str(), raw_input: name.as_str() };
    Ok(reply::json_with_status(status, &report))
}

pub async fn start(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let pod = engine.pod(&name)?;
    if engine.pod_state(&pod) == PodState::Running {
        return Err(ApiError::NotModified);
    }
    let outcome = engine.start_pod(&NameOrId::from(&pod.id)).await;
    report(&name, &pod.id, outcome)
}

pub async fn stop(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let pod = engine.pod(&name)?;
    if matches!(engine.pod_state(&pod), PodState::Created | PodState::Stopped | PodState::Exited) {
        return Err(ApiError::NotModified);
    }
    let options = StopOptions { timeout_secs: stop_timeout(&query)? };
    let outcome = engine.stop_pod(&NameOrId::from(&pod.id), options).await;
    report(&name, &pod.id, outcome)
}

pub async fn restart(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let pod = engine.pod(&name)?;
    let id = NameOrId::from(&pod.id);
    let outcome = match engine.stop_pod(&id, StopOptions::default()).await {
        Ok(()) => engine.start_pod(&id).await,
        failed => failed,
    };
    report(&name, &pod.id, outcome)
}

pub async fn kill(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let signal = signal::parse(query.filled("signal").unwrap_or("KILL"))?;
    let pod = engine.pod(&name)?;
    let outcome = engine.kill_pod(&NameOrId::from(&pod.id), signal).await;
    report(&name, &pod.id, outcome)
}

pub async fn pause(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let pod = engine.pod(&name)?;
    let mut outcome = Ok(());
    for record in members(&engine, &pod).iter().filter(|record| record.state.is_running()) {
        outcome = outcome.and(engine.pause_container(&NameOrId::from(&record.id)).await);
    }
    report(&name, &pod.id, outcome)
}

pub async fn unpause(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let pod = engine.pod(&name)?;
    let mut outcome = Ok(());
    let is_paused = |record: &&Arc<ContainerRecord>| {
        matches!(record.state, crate::engine::container::state::ContainerState::Paused(_))
    };
    for record in members(&engine, &pod).iter().filter(is_paused) {
        outcome = outcome.and(engine.unpause_container(&NameOrId::from(&record.id)).await);
    }
    report(&name, &pod.id, outcome)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PodRmReport<'a> {
    removed_ctrs: BTreeMap<String, Option<String>>,
    err: Option<String>,
    id: &'a str,
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let pod = engine.pod(&name)?;
    let options = RemoveOptions {
        force: query.flag("force")?,
        volumes: false,
        stop_timeout_secs: stop_timeout(&query)?,
    };
    engine.remove_pod(&NameOrId::from(&pod.id), options).await?;
    let removed_ctrs = pod.containers.iter().map(|id| (id.to_string(), None)).collect();
    Ok(reply::json(&PodRmReport { removed_ctrs, err: None, id: pod.id.as_str() }))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PodPruneReport {
    err: Option<String>,
    id: String,
}

/// Pods none of whose containers run.
pub async fn prune(State(engine): State<Engine>) -> Outcome {
    let mut reports = Vec::new();
    for pod in engine.pods() {
        if !matches!(engine.pod_state(&pod), PodState::Stopped | PodState::Exited) {
            continue;
        }
        let removed = engine.remove_pod(&NameOrId::from(&pod.id), RemoveOptions::default()).await;
        reports.push(PodPruneReport { err: removed.err().map(|e| e.chain()), id: pod.id.to_string() });
    }
    Ok(reply::json(&reports))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodSpecGenerator {
    name: String,
    hostname: String,
    exit_policy: String,
    labels: BTreeMap<String, String>,
    infra_command: Vec<String>,
    shared_namespaces: Vec<String>,
    pidns: Namespace,
    ipcns: Namespace,
    utsns: Namespace,
    userns: Namespace,
    netns: Namespace,
    sysctl: BTreeMap<String, String>,
    portmappings: Vec<SpecPort>,
    #[serde(rename = "Networks")]
    networks: BTreeMap<String, PerNetworkOptions>,
    no_manage_resolv_conf: bool,
    no_manage_hosts: bool,
    dns_server: Vec<String>,
    dns_search: Vec<String>,
    dns_option: Vec<String>,
    hostadd: Vec<String>,
    cgroup_parent: String,
    resource_limits: ResourceLimits,
    mounts: Vec<serde_json::Value>,
    volumes: Vec<serde_json::Value>,
    volumes_from: Vec<String>,
    pod_devices: Vec<String>,
    shm_size: Option<u64>,
    security_opt: Vec<String>,
    restart_policy: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PodCreateReport<'a> {
    id: &'a str,
}

pub async fn create(State(engine): State<Engine>, Json(generator): Json<PodSpecGenerator>) -> Outcome {
    let pod = engine.create_pod(generator.into_spec()?).await?;
    Ok(created(&pod))
}

fn created(pod: &PodRecord) -> Reply {
    reply::json_with_status(StatusCode::CREATED, &PodCreateReport { id: pod.id.as_str() })
}

impl PodSpecGenerator {
    fn into_spec(self) -> Result<PodSandboxSpec, ApiError> {
        self.refuse_unsupported()?;
        let name = match self.name.as_str() {
            // podman makes a name up; ours is as unique, and says what it is.
            "" => format!("pod-{}", PodId::random().short()),
            name => name.to_owned(),
        };
        let name: PodName = name.parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
        let attachments = self.networks.into_iter().map(|(name, options)| network_attachment(&name, options));
        let network = match self.netns.nsmode.as_str() {
            "" | "default" | "private" | "bridge" => {
                NetworkMode::Bridge(attachments.collect::<Result<_, _>>()?)
            }
            "host" => NetworkMode::Host,
            "none" => NetworkMode::None,
            other => {
                return Err(ApiError::not_supported(format_args!("network mode {other:?} of a pod")));
            }
        };
        Ok(PodSandboxSpec {
            name,
            hostname: filled(self.hostname),
            labels: self.labels,
            annotations: BTreeMap::new(),
            share: shared(&self.shared_namespaces, &self.pidns, &self.ipcns)?,
            network,
            published_ports: ports(&self.portmappings)?,
            dns: dns(&self.dns_server, self.dns_search, self.dns_option)?,
            hosts: extra_hosts(&self.hostadd)?,
            sysctls: self.sysctl,
            resources: self.resource_limits.into_resources()?,
            shm_size_bytes: self.shm_size,
            created_by: CreatedBy::Api,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let asked = [
            ("exit_policy", !matches!(self.exit_policy.as_str(), "" | "continue")),
            ("infra_command", !self.infra_command.is_empty()),
            ("userns", !matches!(self.userns.nsmode.as_str(), "" | "default" | "host")),
            ("utsns", !matches!(self.utsns.nsmode.as_str(), "" | "default" | "private")),
            ("no_manage_resolv_conf", self.no_manage_resolv_conf),
            ("no_manage_hosts", self.no_manage_hosts),
            ("cgroup_parent", !self.cgroup_parent.is_empty()),
            ("mounts", !self.mounts.is_empty() || !self.volumes.is_empty()),
            ("volumes_from", !self.volumes_from.is_empty()),
            ("pod_devices", !self.pod_devices.is_empty()),
            ("security_opt", !self.security_opt.is_empty()),
            ("restart_policy", !matches!(self.restart_policy.as_str(), "" | "no" | "never")),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((option, _)) => Err(ApiError::not_supported(format_args!("{option} of a pod"))),
            None => Ok(()),
        }
    }
}

fn shared(names: &[String], pidns: &Namespace, ipcns: &Namespace) -> Result<SharedNamespaces, ApiError> {
    let mut shared = match names {
        [] => SharedNamespaces::default(),
        _ => SharedNamespaces { net: false, ipc: false, uts: false, ..Default::default() },
    };
    for name in names {
        match name.as_str() {
            "net" => shared.net = true,
            "ipc" => shared.ipc = true,
            "uts" => shared.uts = true,
            "pid" => shared.pid = true,
            // `none` is no name of a namespace; cgroups are shared by a parent in any case.
            "none" | "cgroup" | "" => {}
            other => return Err(ApiError::bad_request(format!("unknown namespace {other:?}"))),
        }
    }
    shared.host_pid = pidns.nsmode == "host";
    shared.host_ipc = ipcns.nsmode == "host";
    Ok(shared)
}

struct PodFilter(Vec<Condition>);

enum Condition {
    Id(Vec<String>),
    Name(Vec<regex_lite::Regex>),
    Labels(Vec<LabelFilter>),
    Status(Vec<String>),
    Containers(Vec<String>),
    ContainerStatus(Vec<String>),
    Number(Vec<usize>),
    Network(Vec<String>),
    CreatedBefore(Timestamp),
}

impl PodFilter {
    fn parse(filters: &Filters) -> Result<Self, ApiError> {
        let mut conditions = Vec::new();
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            conditions.push(match name {
                "id" => Condition::Id(values.to_vec()),
                "name" => Condition::Name(regexes(name, values)?),
                "label" => Condition::Labels(LabelFilter::parse_all(values)),
                "status" => Condition::Status(values.to_vec()),
                "ctr-names" | "ctr-ids" => Condition::Containers(values.to_vec()),
                "ctr-status" => Condition::ContainerStatus(values.to_vec()),
                "ctr-number" => {
                    let numbers = values.iter().map(|value| value.parse());
                    Condition::Number(
                        numbers
                            .collect::<Result<_, _>>()
                            .map_err(|e| ApiError::bad_parameter("filters", e))?,
                    )
                }
                "network" => Condition::Network(values.to_vec()),
                "until" => Condition::CreatedBefore(filter::until(values, Timestamp::now())?),
                other => return Err(unknown(other)),
            });
        }
        Ok(Self(conditions))
    }

    fn matches(&self, pod: &PodRecord, members: &[Arc<ContainerRecord>], state: PodState) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Id(ids) => ids.iter().any(|id| pod.id.as_str().starts_with(id.as_str())),
            Condition::Name(patterns) => patterns.iter().any(|p| p.is_match(pod.spec.name.as_str())),
            Condition::Labels(labels) => labels.iter().all(|label| label.matches(&pod.spec.labels)),
            Condition::Status(states) => states.iter().any(|s| s.eq_ignore_ascii_case(state.as_str())),
            Condition::Containers(wanted) => members.iter().any(|record| {
                wanted.iter().any(|w| {
                    record.name.as_str().contains(w.as_str()) || record.id.as_str().starts_with(w.as_str())
                })
            }),
            Condition::ContainerStatus(states) => {
                members.iter().any(|record| states.iter().any(|s| s == record.state.as_str()))
            }
            Condition::Number(numbers) => numbers.contains(&members.len()),
            Condition::Network(wanted) => networks(pod).iter().any(|n| wanted.iter().any(|w| w == n)),
            Condition::CreatedBefore(time) => pod.created_at < *time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::json;

    #[test]
    fn a_pod_is_made_of_podmans_description() {
        let body = br#"{"name":"p","shared_namespaces":["net","pid"],"netns":{},"pidns":{},"Networks":
            {"podman":{"aliases":["x"]}},"portmappings":[{"container_port":80,"host_port":8080}]}"#;
        let spec = json::decode::<PodSpecGenerator>(body).unwrap().into_spec().unwrap();
        assert!(spec.share.net && spec.share.pid && !spec.share.ipc && !spec.share.uts);
        assert!(matches!(&spec.network, NetworkMode::Bridge(list) if list[0].aliases == ["x"]));
        assert_eq!(spec.published_ports.len(), 1);
        assert!(json::decode::<PodSpecGenerator>(br#"{"exit_policy":"stop"}"#).unwrap().into_spec().is_err());
    }

    #[test]
    fn a_pod_without_a_name_gets_one() {
        let spec = PodSpecGenerator::default().into_spec().unwrap();
        assert!(spec.name.as_str().starts_with("pod-"));
        assert_eq!(spec.share, SharedNamespaces::default());
    }
}
