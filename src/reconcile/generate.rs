//! Kubernetes YAML of what runs (`generate kube`), which can be played again and gives the same pod.
//!
//! A pod of the reconciler is written from what it was made from: probes, hooks and the content of
//! volumes are the reconciler's knowledge, not the engine's. Everything else is read back from the
//! engine's records. Both become a [`DesiredPod`] and are written by the one renderer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::desired::{
    DesiredContainer, DesiredPod, DesiredVolume, HostPathKind, Location, MountPropagation, ObjectName,
    ObjectRef, PodRestartPolicy, VolumeMount,
};
use super::manifest::{names, render, write::yaml};
use crate::engine::Engine;
use crate::engine::container::ContainerRecord;
use crate::engine::container::spec::{
    CreatedBy, DnsConfig, Mount, MountSource, NamespaceMode, NetworkMode, Resources, RestartPolicy,
};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{NameOrId, PodName};
use crate::engine::image::PullPolicy;
use crate::engine::pod::{PodRecord, PodSandboxSpec, SharedNamespaces};

/// YAML of the pods and containers that `wanted` names. Containers outside of pods become one pod
/// together. `service` adds a Service for the published ports of each pod. `owned` knows the
/// reconciler's pods.
pub fn generate(
    engine: &Engine,
    wanted: &[NameOrId],
    service: bool,
    owned: &dyn Fn(&PodName) -> Option<DesiredPod>,
) -> Result<String> {
    let mut pods = Vec::new();
    let mut alone = Vec::new();
    for name in wanted {
        match engine.pod(name) {
            Ok(pod) => pods.push(of_pod(engine, &pod, owned)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let container = engine.container(name)?;
                if container.pod().is_some() {
                    return Err(EngineError::invalid(
                        Subject::Container(container.name.to_string()),
                        "it is part of a pod: generate the pod",
                    ));
                }
                alone.push(container);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(first) = alone.first() {
        let name = format!("{}-pod", kubernetes_name(first.name.as_str()));
        pods.push(read_pod(&name, sandbox_of(&name, &alone), &alone));
    }
    Ok(write(&pods, service))
}

/// A pod, and what of it Kubernetes has no words for.
#[derive(Debug)]
struct Readback {
    pod: DesiredPod,
    lost: Vec<String>,
}

fn of_pod(
    engine: &Engine,
    record: &PodRecord,
    owned: &dyn Fn(&PodName) -> Option<DesiredPod>,
) -> Result<Readback> {
    if record.spec.created_by == CreatedBy::Reconciler
        && let Some(pod) = owned(&record.spec.name)
    {
        return Ok(Readback { pod, lost: Vec::new() });
    }
    let containers: Vec<Arc<ContainerRecord>> =
        record.containers.iter().map(|id| engine.container(&id.into())).collect::<Result<_>>()?;
    if containers.is_empty() {
        return Err(EngineError::invalid(Subject::Pod(record.spec.name.to_string()), "it has no containers"));
    }
    Ok(read_pod(&kubernetes_name(record.spec.name.as_str()), record.spec.clone(), &containers))
}

fn write(pods: &[Readback], service: bool) -> String {
    let mut text = format!(
        "# Pods and containers of this machine as Kubernetes YAML, written by selkie {}.\n\
         # `selkie kube play FILE` runs them again; a cluster takes the file as well.\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut documents: Vec<Value> = Vec::new();
    let mut services = Vec::new();
    for readback in pods {
        for lost in &readback.lost {
            text.push_str(&format!("# Not part of it: {lost}.\n"));
        }
        let mut pod = readback.pod.clone();
        if service {
            services.extend(service_of(&mut pod));
        }
        for document in render::documents(&pod) {
            // Two pods may share a volume.
            if !documents.contains(&document) {
                documents.push(document);
            }
        }
    }
    documents.extend(services);
    text + &yaml(&documents)
}

/// A Service in front of the pod's published ports, as podman's `--service` makes it. A pod without
/// labels gets one, for the selector.
fn service_of(pod: &mut DesiredPod) -> Option<Value> {
    let mut seen = BTreeSet::new();
    let ports: Vec<Value> = pod
        .sandbox
        .published_ports
        .iter()
        .filter(|port| seen.insert((port.container_port, port.protocol)))
        .map(|port| {
            json!({
                "name": format!("{}-{}", port.protocol.as_str(), port.container_port),
                "port": port.container_port,
                "protocol": port.protocol.as_str().to_uppercase(),
                "targetPort": port.container_port,
            })
        })
        .collect();
    if ports.is_empty() {
        return None;
    }
    if pod.labels.is_empty() {
        pod.labels.insert("app".into(), pod.name.name.clone());
    }
    Some(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": pod.name.name},
        "spec": {"type": "NodePort", "selector": pod.labels, "ports": ports},
    }))
}

/// What containers without a pod would share if they were one.
fn sandbox_of(name: &str, containers: &[Arc<ContainerRecord>]) -> PodSandboxSpec {
    let specs = || containers.iter().map(|container| &container.spec);
    let host = specs().any(|spec| spec.network == NetworkMode::Host);
    let mut ports = Vec::new();
    for container in containers {
        // With what was chosen for port 0, if it runs.
        let chosen =
            container.network.as_ref().map(|network| &network.ports).filter(|ports| !ports.is_empty());
        ports.extend(chosen.unwrap_or(&container.spec.published_ports).iter().cloned());
    }
    PodSandboxSpec {
        name: name.parse().unwrap_or_else(|_| "pod".parse().expect("is a valid name")),
        hostname: specs().find_map(|spec| spec.hostname.clone()),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        share: SharedNamespaces {
            host_pid: specs().any(|spec| spec.pid_namespace == NamespaceMode::Host),
            host_ipc: specs().any(|spec| spec.ipc_namespace == NamespaceMode::Host),
            ..SharedNamespaces::default()
        },
        network: if host { NetworkMode::Host } else { NetworkMode::default() },
        published_ports: ports,
        dns: specs()
            .map(|spec| spec.dns.clone())
            .find(|dns| *dns != DnsConfig::default())
            .unwrap_or_default(),
        hosts: specs().flat_map(|spec| spec.hosts.clone()).collect(),
        sysctls: specs().flat_map(|spec| spec.sysctls.clone()).collect(),
        resources: Resources::default(),
        shm_size_bytes: None,
        created_by: CreatedBy::Api,
    }
}

fn read_pod(name: &str, mut sandbox: PodSandboxSpec, containers: &[Arc<ContainerRecord>]) -> Readback {
    let mut lost = Vec::new();
    let mut volumes = BTreeMap::new();
    let mut desired = Vec::new();
    for container in containers {
        desired.push(read_container(sandbox.name.as_str(), container, &mut volumes, &mut lost));
    }
    if sandbox.network == NetworkMode::None {
        lost.push(format!("pod {name} has no network"));
    }
    if sandbox.resources != Resources::default() {
        lost.push(format!("pod {name}: limits of the pod as a whole"));
    }
    // What was not said is as the cluster would have it.
    if sandbox.dns == DnsConfig::default() && sandbox.network != NetworkMode::Host {
        sandbox.dns = cluster_dns();
    }
    sandbox.hostname = sandbox.hostname.filter(|name| names::is_dns_label(name)).or(Some(name.to_owned()));
    let labels = std::mem::take(&mut sandbox.labels);
    let labels: BTreeMap<String, String> = labels
        .into_iter()
        .filter(|(key, value)| {
            let fits = names::is_qualified_key(key) && names::is_label_value(value);
            if !fits {
                lost.push(format!("pod {name}: label {key}"));
            }
            fits
        })
        .collect();
    let object = ObjectName { namespace: "default".into(), name: name.to_owned() };
    let pod = DesiredPod {
        owner: ObjectRef { kind: "Pod".into(), object: object.clone() },
        name: object,
        location: Location { file: PathBuf::new(), line: 1, column: 1 },
        init_containers: Vec::new(),
        containers: desired,
        volumes,
        restart_policy: restart_policy(containers),
        termination_grace_period_secs: containers
            .iter()
            .map(|container| container.spec.stop_timeout_secs)
            .max()
            .unwrap_or_default(),
        fs_group: None,
        job: None,
        active_deadline_secs: None,
        subdomain: None,
        registry_logins: Vec::new(),
        named_ports: BTreeMap::new(),
        labels,
        hash: String::new(),
        fields: BTreeMap::new(),
        sandbox,
    };
    Readback { pod, lost }
}

fn cluster_dns() -> DnsConfig {
    let searches = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    DnsConfig {
        servers: Vec::new(),
        searches: searches.map(str::to_owned).to_vec(),
        options: vec!["ndots:5".into()],
    }
}

/// One policy for the pod: the most insistent.
fn restart_policy(containers: &[Arc<ContainerRecord>]) -> PodRestartPolicy {
    let policies = || containers.iter().map(|container| container.spec.restart_policy);
    if policies().any(|policy| matches!(policy, RestartPolicy::Always | RestartPolicy::UnlessStopped)) {
        PodRestartPolicy::Always
    } else if policies().any(|policy| matches!(policy, RestartPolicy::OnFailure { .. })) {
        PodRestartPolicy::OnFailure
    } else {
        PodRestartPolicy::Never
    }
}

fn read_container(
    pod: &str,
    record: &ContainerRecord,
    volumes: &mut BTreeMap<String, DesiredVolume>,
    lost: &mut Vec<String>,
) -> DesiredContainer {
    let full_name = record.name.as_str();
    let short = full_name.strip_prefix(&format!("{pod}-")).unwrap_or(full_name);
    let mut spec = record.spec.clone();
    spec.image = match record.image_name.as_str() {
        "" => record.image_id.as_ref().map_or(spec.image, ToString::to_string),
        name => name.to_owned(),
    };
    let numeric = |user: &String| {
        let (user, group) = user.split_once(':').unwrap_or((user, "0"));
        user.parse::<u32>().is_ok() && group.parse::<u32>().is_ok()
    };
    let mut missing = Vec::new();
    if let Some(user) = spec.user.as_ref().filter(|user| !numeric(user)) {
        missing.push(format!("user {user}, who has no number here"));
        spec.user = None;
    }
    let default = crate::engine::container::spec::ContainerSpec::new("");
    let unsaid = [
        (spec.rootfs.is_some(), "its own root file system"),
        (spec.healthcheck.is_some(), "the health check"),
        (!spec.ulimits.is_empty(), "ulimits"),
        (!spec.devices.is_empty(), "devices"),
        (spec.shm_size_bytes.is_some(), "the size of /dev/shm"),
        (spec.umask.is_some(), "the umask"),
        (spec.timezone.is_some(), "the time zone"),
        (spec.init, "the init process"),
        (spec.oom_score_adj.is_some() && spec.created_by == CreatedBy::Api, "the OOM score"),
        (spec.resources.pids_limit.is_some(), "the limit of processes"),
        (spec.resources.memory_swap_bytes.is_some(), "the limit of swap"),
        (spec.resources.cpuset_cpus.is_some() || spec.resources.cpuset_mems.is_some(), "CPU sets"),
        (spec.security.selinux_label.is_some(), "the SELinux label"),
        (spec.log != default.log, "the log driver"),
        (matches!(spec.network, NetworkMode::None), "being without a network"),
        (!matches!(spec.cgroup_namespace, NamespaceMode::Private), "the cgroup namespace"),
    ];
    missing.extend(unsaid.iter().filter(|(there, _)| *there).map(|(_, what)| (*what).to_owned()));
    let mounts: Vec<VolumeMount> =
        spec.mounts.iter().map(|mount| read_mount(mount, short, volumes, &mut missing)).collect();
    lost.extend(missing.iter().map(|what| format!("container {full_name}: {what}")));
    spec.supplemental_groups.sort_unstable();
    DesiredContainer {
        name: kubernetes_name(short),
        // What is here is good enough; a registry may not have it at all.
        pull_policy: PullPolicy::Missing,
        mounts,
        secret_env: BTreeSet::new(),
        sidecar: false,
        startup_probe: None,
        liveness_probe: None,
        readiness_probe: None,
        post_start: None,
        pre_stop: None,
        spec,
    }
}

fn read_mount(
    mount: &Mount,
    container: &str,
    volumes: &mut BTreeMap<String, DesiredVolume>,
    missing: &mut Vec<String>,
) -> VolumeMount {
    let mut propagation = MountPropagation::Private;
    for option in &mount.options {
        match option.as_str() {
            "rslave" | "slave" => propagation = MountPropagation::Slave,
            "rshared" | "shared" => propagation = MountPropagation::Shared,
            // What a bind mount has anyway.
            "rprivate" | "private" | "rbind" | "bind" | "rw" | "ro" | "nosuid" | "nodev" => {}
            other => missing.push(format!("mount option {other} of {}", mount.destination)),
        }
    }
    let host = |path: &PathBuf| DesiredVolume::HostPath { path: path.clone(), kind: HostPathKind::Unchecked };
    let (base, volume, sub_path) = match &mount.source {
        MountSource::Bind(path) => (format!("{}-host", path.display()), host(path), None),
        MountSource::BindBeneath { base, path } => {
            (format!("{}-host", base.display()), host(base), Some(path))
        }
        MountSource::Volume { name, sub_path } => (
            format!("{name}-pvc"),
            DesiredVolume::Claim { volume: name.to_string(), read_only: false },
            sub_path.as_ref(),
        ),
        MountSource::AnonymousVolume => (
            format!("{container}{}", mount.destination),
            DesiredVolume::EmptyDir { memory: false, size_limit_bytes: None },
            None,
        ),
        MountSource::Tmpfs { size_bytes, .. } => (
            format!("{container}{}-tmp", mount.destination),
            DesiredVolume::EmptyDir { memory: true, size_limit_bytes: *size_bytes },
            None,
        ),
    };
    VolumeMount {
        volume: volume_name(&base, volume, volumes),
        mount_path: mount.destination.clone(),
        read_only: mount.read_only,
        sub_path: sub_path.map(|path| path.display().to_string()),
        propagation,
    }
}

/// Enters `volume` under a name made of `base`, unless it is there already.
fn volume_name(base: &str, volume: DesiredVolume, volumes: &mut BTreeMap<String, DesiredVolume>) -> String {
    let base = kubernetes_name(base);
    let mut name = base.clone();
    for number in 2.. {
        match volumes.get(&name) {
            None => break,
            Some(other) if *other == volume => return name,
            Some(_) => {
                let suffix = format!("-{number}");
                name = format!("{}{suffix}", &base[..base.len().min(63 - suffix.len())]);
            }
        }
    }
    volumes.insert(name.clone(), volume);
    name
}

/// The nearest thing to `name` that Kubernetes takes for one: podman allows capitals and underscores.
fn kubernetes_name(name: &str) -> String {
    let dashed: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    let trimmed = dashed.trim_matches('-');
    if trimmed.is_empty() { "x".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests;
