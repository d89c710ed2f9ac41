//! One container of a pod.

use std::collections::{BTreeMap, BTreeSet};

use super::env::{Environment, PodFacts, environment, expand};
use super::probe::{NamedPorts, ProbeKind, hook, probe};
use super::{Problems, Scope, one_of, port_number, required_text, text_list, unix_id};
use crate::engine::container::spec::{
    ContainerSpec, CreatedBy, NamespaceMode, NetworkMode, PortMapping, Protocol, Resources, SeccompProfile,
    SecurityOptions,
};
use crate::engine::image::PullPolicy;
use crate::engine::image::reference::{InvalidReference, TypedName};
use crate::reconcile::desired::{DesiredContainer, DesiredVolume, MountPropagation, VolumeMount};
use crate::reconcile::manifest::check::nearest;
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::quantity::Quantity;
use crate::reconcile::manifest::tree::{Node, Value};

/// kubelet's CPU period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// kubelet's smallest quota, microseconds.
const MIN_QUOTA_US: i128 = 1_000;
const MIN_SHARES: i128 = 2;
const MAX_SHARES: i128 = 262_144;

const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// What the containers of a pod have in common.
pub struct PodShape<'a> {
    /// Name of the engine's pod.
    pub engine_name: &'a str,
    pub facts: &'a PodFacts<'a>,
    pub security: Option<&'a Node>,
    pub volumes: &'a BTreeMap<String, DesiredVolume>,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_pid: bool,
    pub runtime: Option<crate::engine::config::RuntimeName>,
    pub grace_period_secs: u32,
    pub supplemental_groups: &'a [u32],
    pub oom_score_adj: i32,
}

/// Quantities of one container's `resources`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Requirements {
    pub cpu_limit: Option<Quantity>,
    pub cpu_request: Option<Quantity>,
    pub memory_limit: Option<Quantity>,
    pub memory_request: Option<Quantity>,
}

/// What ports a container has: `name -> number`, and those published on the host.
#[derive(Debug, Default)]
pub struct Ports {
    pub named: NamedPorts,
    pub published: Vec<PortMapping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Main,
    Init,
}

pub fn container(
    node: &Node,
    role: Role,
    ports: &Ports,
    shape: &PodShape<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> DesiredContainer {
    let name = node.text("name").unwrap_or_default();
    let image = required_text(node, "image", problems).unwrap_or_default();
    // The id of an image that is here is as good as a name.
    match image.parse::<TypedName>() {
        Err(error) if !image.is_empty() && !matches!(error, InvalidReference::IsId(_)) => {
            problems.error_in(node, "image", error.to_string());
        }
        Ok(_) | Err(_) => {}
    }
    let sidecar = role == Role::Init && is_sidecar(node, problems);
    if role == Role::Main && node.get("restartPolicy").is_some() {
        problems.error_in(node, "restartPolicy", "not supported: only init containers have one of their own");
    }
    if role == Role::Init && !sidecar {
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if node.get(field).is_some() {
                problems.error_in(node, field, "must not be set for an init container that ends");
            }
        }
    }

    let env = environment(node, shape.facts, scope, problems);
    let mounts = mounts(node, &env, shape, problems);
    let lifecycle = node.get("lifecycle");
    let spec = spec(node, image, name, env.values, shape, scope, problems);
    DesiredContainer {
        name: name.to_owned(),
        pull_policy: pull_policy(node, image, problems),
        mounts,
        secret_env: env.secret,
        sidecar,
        startup_probe: probe(node, ProbeKind::Startup, &ports.named, problems),
        liveness_probe: probe(node, ProbeKind::Liveness, &ports.named, problems),
        readiness_probe: probe(node, ProbeKind::Readiness, &ports.named, problems),
        post_start: lifecycle.and_then(|node| hook(node, "postStart", &ports.named, problems)),
        pre_stop: lifecycle.and_then(|node| hook(node, "preStop", &ports.named, problems)),
        spec,
    }
}

fn is_sidecar(node: &Node, problems: &mut Problems<'_>) -> bool {
    match node.text("restartPolicy") {
        None => false,
        Some("Always") => true,
        Some(_) => {
            problems.error_in(node, "restartPolicy", "of an init container must be Always, if given");
            false
        }
    }
}

fn spec(
    node: &Node,
    image: &str,
    name: &str,
    env: BTreeMap<String, String>,
    shape: &PodShape<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> ContainerSpec {
    let mut spec = ContainerSpec::new(image);
    let engine_name = names::container_name(shape.engine_name, name);
    spec.name = engine_name.parse().ok();
    spec.entrypoint = expanded_list(node, "command", &env, problems);
    spec.command = expanded_list(node, "args", &env, problems);
    spec.env = env;
    spec.working_dir = node.text("workingDir").map(str::to_owned);
    spec.terminal = node.boolean("tty").unwrap_or(false);
    spec.stdin_open = node.boolean("stdin").unwrap_or(false);
    spec.labels = BTreeMap::from([
        ("io.kubernetes.container.name".to_owned(), name.to_owned()),
        ("io.kubernetes.pod.name".to_owned(), shape.facts.name.to_owned()),
        ("io.kubernetes.pod.namespace".to_owned(), shape.facts.namespace.to_owned()),
    ]);
    spec.network = NetworkMode::Pod;
    spec.uts_namespace = NamespaceMode::Pod;
    spec.ipc_namespace = if shape.host_ipc { NamespaceMode::Host } else { NamespaceMode::Pod };
    spec.pid_namespace = match (shape.host_pid, shape.share_pid) {
        (true, _) => NamespaceMode::Host,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Private,
    };
    spec.resources = requirements(node, None).resources();
    spec.oom_score_adj = Some(shape.oom_score_adj);
    spec.stop_timeout_secs = shape.grace_period_secs;
    spec.stop_signal = stop_signal(node, problems);
    spec.supplemental_groups = shape.supplemental_groups.to_vec();
    spec.runtime = shape.runtime.clone();
    spec.created_by = CreatedBy::Reconciler;
    spec.user = user(node, shape.security, problems);
    spec.security = security(node, shape.security, spec.user.as_deref(), scope, problems);
    spec
}

fn expanded_list(
    node: &Node,
    field: &str,
    env: &BTreeMap<String, String>,
    problems: &mut Problems<'_>,
) -> Option<Vec<String>> {
    let words = text_list(node, field);
    if words.iter().any(|word| word.contains('\0')) {
        problems.error_in(node, field, "an argument can not hold a NUL");
        return None;
    }
    // An empty list is "not given": the image's own command holds.
    (!words.is_empty()).then(|| words.iter().map(|word| expand(word, env).0).collect())
}

/// `uid[:gid]`; the container's own context wins over the pod's.
fn user(node: &Node, pod: Option<&Node>, problems: &mut Problems<'_>) -> Option<String> {
    let own = node.get("securityContext");
    let mut id = |field| {
        own.and_then(|node| unix_id(node, field, problems))
            .or_else(|| pod.and_then(|node| unix_id(node, field, problems)))
    };
    match (id("runAsUser"), id("runAsGroup")) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, None) => None,
        (None, Some(_)) => {
            let holder = own.filter(|node| node.get("runAsGroup").is_some()).or(pod).unwrap_or(node);
            problems.error_in(holder, "runAsGroup", "not supported without runAsUser");
            None
        }
    }
}

fn security(
    node: &Node,
    pod: Option<&Node>,
    user: Option<&str>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> SecurityOptions {
    let own = node.get("securityContext");
    let either = |field: &str| own.filter(|node| node.get(field).is_some()).or(pod);
    let flag = |field: &str| own.and_then(|node| node.boolean(field));
    let mut security = SecurityOptions {
        privileged: flag("privileged").unwrap_or(false),
        read_only_rootfs: flag("readOnlyRootFilesystem").unwrap_or(false),
        no_new_privileges: flag("allowPrivilegeEscalation") == Some(false),
        run_as_non_root: either("runAsNonRoot").and_then(|node| node.boolean("runAsNonRoot")) == Some(true),
        unmasked: own.is_some_and(|node| {
            one_of(node, "procMount", &[("Default", false), ("Unmasked", true)], problems)
        }),
        ..SecurityOptions::default()
    };
    if security.run_as_non_root && user.is_some_and(|user| user == "0" || user.starts_with("0:")) {
        let holder = either("runAsNonRoot").unwrap_or(node);
        problems.error_in(holder, "runAsNonRoot", "can not hold: runAsUser is 0");
    }
    if let Some(capabilities) = own.and_then(|node| node.get("capabilities")) {
        security.capabilities_add = capability_names(capabilities, "add", problems);
        security.capabilities_drop = capability_names(capabilities, "drop", problems);
    }
    if security.no_new_privileges {
        let powerful = security.capabilities_add.iter().any(|name| name == "CAP_SYS_ADMIN" || name == "ALL");
        if let Some(own) = own.filter(|_| security.privileged || powerful) {
            let what = if security.privileged { "privileged" } else { "capability SYS_ADMIN" };
            problems.error_in(own, "allowPrivilegeEscalation", format!("can not be false with {what}"));
        }
    }
    if let Some(profile) = either("seccompProfile").and_then(|node| node.get("seccompProfile")) {
        security.seccomp = seccomp(profile, scope, problems);
    }
    if let Some(profile) = either("appArmorProfile").and_then(|node| node.get("appArmorProfile")) {
        security.apparmor_profile = apparmor(profile, problems);
    }
    security
}

fn capability_names(node: &Node, field: &str, problems: &mut Problems<'_>) -> Vec<String> {
    let mut names = BTreeSet::new();
    for item in node.list(field) {
        let Some(text) = item.as_text() else { continue };
        let name = text.strip_prefix("CAP_").unwrap_or(text);
        if name == "ALL" {
            names.insert("ALL".to_owned());
        } else if CAPABILITIES.contains(&name) {
            names.insert(format!("CAP_{name}"));
        } else {
            let like = nearest(name, CAPABILITIES.into_iter());
            let hint = like.map_or(String::new(), |like| format!(" (did you mean {like:?}?)"));
            problems.error(item, format!("{text:?} is not a capability{hint}"));
        }
    }
    names.into_iter().collect()
}

fn seccomp(node: &Node, scope: &Scope<'_>, problems: &mut Problems<'_>) -> SeccompProfile {
    if required_text(node, "type", problems).is_none() {
        return SeccompProfile::Default;
    }
    let kinds = [("RuntimeDefault", 0), ("Unconfined", 1), ("Localhost", 2)];
    let kind = one_of(node, "type", &kinds, problems);
    if kind != 2 {
        if node.get("localhostProfile").is_some() {
            problems.error_in(node, "localhostProfile", "must only be set with `type: Localhost`");
        }
        return if kind == 1 { SeccompProfile::Unconfined } else { SeccompProfile::Default };
    }
    let Some(path) = required_text(node, "localhostProfile", problems) else {
        return SeccompProfile::Default;
    };
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        problems.error_in(node, "localhostProfile", "must be relative and without `..`");
    }
    SeccompProfile::File(scope.context.seccomp_profile_root.join(path))
}

fn apparmor(node: &Node, problems: &mut Problems<'_>) -> Option<String> {
    match required_text(node, "type", problems)? {
        "Unconfined" => Some("unconfined".to_owned()),
        "Localhost" => required_text(node, "localhostProfile", problems).map(str::to_owned),
        "RuntimeDefault" => {
            problems.error_in(node, "type", "not supported: Selkie brings no AppArmor profile of its own");
            None
        }
        other => {
            problems.error_in(
                node,
                "type",
                format!("{other:?} is not one of RuntimeDefault, Unconfined, Localhost"),
            );
            None
        }
    }
}

fn stop_signal(node: &Node, problems: &mut Problems<'_>) -> Option<i32> {
    let lifecycle = node.get("lifecycle")?;
    let name = lifecycle.text("stopSignal")?;
    let signal: Option<nix::sys::signal::Signal> = name.parse().ok();
    if signal.is_none() {
        problems.error_in(lifecycle, "stopSignal", format!("{name:?} is not a signal"));
    }
    signal.map(|signal| signal as i32)
}

fn mounts(
    node: &Node,
    env: &Environment,
    shape: &PodShape<'_>,
    problems: &mut Problems<'_>,
) -> Vec<VolumeMount> {
    let mut mounts: BTreeMap<String, VolumeMount> = BTreeMap::new();
    for item in node.list("volumeMounts") {
        let (Some(volume), Some(path)) =
            (required_text(item, "name", problems), required_text(item, "mountPath", problems))
        else {
            continue;
        };
        if !shape.volumes.contains_key(volume) {
            let like = nearest(volume, shape.volumes.keys().map(String::as_str));
            let hint = like.map_or(String::new(), |like| format!(" (did you mean {like:?}?)"));
            problems.error_in(item, "name", format!("no volume {volume:?} in this pod{hint}"));
        }
        if path.contains([':', '\0']) || path.split('/').any(|part| part == "..") {
            problems.error_in(item, "mountPath", "must not contain `:` or `..`");
        }
        let mount_path = normal_path(path);
        let mount = VolumeMount {
            volume: volume.to_owned(),
            mount_path: mount_path.clone(),
            read_only: item.boolean("readOnly").unwrap_or(false),
            sub_path: sub_path(item, env, problems),
            propagation: one_of(
                item,
                "mountPropagation",
                &[
                    ("None", MountPropagation::Private),
                    ("HostToContainer", MountPropagation::Slave),
                    ("Bidirectional", MountPropagation::Shared),
                ],
                problems,
            ),
        };
        let privileged = node.get("securityContext").and_then(|node| node.boolean("privileged"));
        if mount.propagation == MountPropagation::Shared && privileged != Some(true) {
            problems.error_in(item, "mountPropagation", "Bidirectional is for privileged containers only");
        }
        if mounts.insert(mount_path, mount).is_some() {
            problems.error_in(item, "mountPath", "two volumes are mounted here");
        }
    }
    mounts.into_values().collect()
}

/// Absolute, without doubled or trailing slashes.
fn normal_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn sub_path(item: &Node, env: &Environment, problems: &mut Problems<'_>) -> Option<String> {
    let (field, path) = match (item.text("subPath"), item.text("subPathExpr")) {
        (Some(_), Some(_)) => {
            problems.error(item, "subPath and subPathExpr exclude each other");
            return None;
        }
        (Some(path), None) => ("subPath", path.to_owned()),
        (None, Some(text)) => ("subPathExpr", expand(text, &env.values).0),
        (None, None) => return None,
    };
    if path.contains('\0') {
        problems.error_in(item, field, "not supported: only the running pod knows the value");
    } else if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        problems.error_in(item, field, "must be relative and without `..`");
    }
    Some(path)
}

fn pull_policy(node: &Node, image: &str, problems: &mut Problems<'_>) -> PullPolicy {
    if node.text("imagePullPolicy").is_none() {
        return default_pull_policy(image);
    }
    let policies =
        [("Always", PullPolicy::Always), ("IfNotPresent", PullPolicy::Missing), ("Never", PullPolicy::Never)];
    one_of(node, "imagePullPolicy", &policies, problems)
}

/// `Always` for the tag `latest` or none, as in Kubernetes; but `localhost/NAME` is an image made here,
/// which no registry has.
pub fn default_pull_policy(image: &str) -> PullPolicy {
    let last = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if latest && !image.starts_with("localhost/") { PullPolicy::Always } else { PullPolicy::Missing }
}

/// `resources` of a container. Problems are only told where `problems` is given, so that they are told
/// once.
pub fn requirements(node: &Node, problems: Option<&mut Problems<'_>>) -> Requirements {
    let Some(resources) = node.get("resources") else { return Requirements::default() };
    let amount = |list: &str, name: &str| resources.get(list)?.get(name).and_then(Quantity::of);
    let limits = Requirements {
        cpu_limit: amount("limits", "cpu"),
        memory_limit: amount("limits", "memory"),
        // The API server fills a missing request in from the limit.
        cpu_request: amount("requests", "cpu").or(amount("limits", "cpu")),
        memory_request: amount("requests", "memory").or(amount("limits", "memory")),
    };
    if let Some(problems) = problems {
        check_resources(resources, &limits, problems);
    }
    limits
}

fn check_resources(resources: &Node, found: &Requirements, problems: &mut Problems<'_>) {
    for list in ["limits", "requests"] {
        let Some(map) = resources.get(list) else { continue };
        for entry in map.entries() {
            match (list, entry.key.as_str()) {
                (_, "cpu" | "memory") => {
                    if Quantity::of(&entry.node).is_some_and(Quantity::is_negative) {
                        problems.error(&entry.node, "must not be negative");
                    }
                }
                ("requests", "ephemeral-storage") => {}
                _ => {
                    let hint = nearest(&entry.key, ["cpu", "memory"].into_iter());
                    problems.error_at_key(map, entry, "not supported: only cpu and memory are limited", hint);
                }
            }
        }
    }
    let Some(requests) = resources.get("requests") else { return };
    for (name, request, limit) in
        [("cpu", found.cpu_request, found.cpu_limit), ("memory", found.memory_request, found.memory_limit)]
    {
        if limit.is_some() && request > limit {
            problems.error_in(requests, name, "must not be more than the limit");
        }
    }
}

impl Requirements {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every limit is given and is what is asked for.
    pub fn is_guaranteed(&self) -> bool {
        self.cpu_limit.is_some()
            && self.memory_limit.is_some()
            && self.cpu_limit == self.cpu_request
            && self.memory_limit == self.memory_request
    }

    /// kubelet's formulas.
    fn resources(&self) -> Resources {
        let bytes = |amount: Quantity| u64::try_from(amount.units()).ok().filter(|bytes| *bytes > 0);
        let quota = |limit: Quantity| {
            let quota = limit.milli().saturating_mul(i128::from(CPU_PERIOD_US)) / 1000;
            i64::try_from(quota.max(MIN_QUOTA_US)).unwrap_or(i64::MAX)
        };
        let quota = self.cpu_limit.filter(|limit| !limit.is_zero()).map(quota);
        let milli = self.cpu_request.map_or(0, Quantity::milli);
        let shares = (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES);
        // podman's use of the request: memory is taken back down to it first. A request that only
        // repeats the limit says nothing.
        let reservation = self.memory_request.filter(|request| Some(*request) != self.memory_limit);
        Resources {
            memory_limit_bytes: self.memory_limit.and_then(bytes),
            memory_reservation_bytes: reservation.and_then(bytes),
            cpu_quota_us: quota,
            cpu_period_us: quota.map(|_| CPU_PERIOD_US),
            cpu_shares: u64::try_from(shares).ok(),
            ..Resources::default()
        }
    }
}

/// Names and published ports of `node`.
pub fn ports(node: &Node, host_network: bool, problems: &mut Problems<'_>) -> Ports {
    let mut found = Ports::default();
    for item in node.list("ports") {
        if item.get("containerPort").is_none() {
            problems.error_in(item, "containerPort", "is required");
        }
        let Some(container_port) = port_number(item, "containerPort", problems) else { continue };
        let protocol = protocol(item, problems);
        if let Some(name) = item.text("name") {
            if !names::is_port_name(name) {
                problems.error_in(
                    item,
                    "name",
                    "is not a valid port name: at most 15 lower case letters, digits and inner dashes",
                );
            }
            if found.named.insert(name.to_owned(), container_port).is_some() {
                problems.error_in(item, "name", format!("two ports are called {name:?}"));
            }
        }
        let host_port = port_number(item, "hostPort", problems);
        if host_network && host_port.is_some_and(|port| port != container_port) {
            problems.error_in(item, "hostPort", "must be the containerPort on the host network");
        }
        // On the host network every container port is a host port.
        let host_port = host_port.or(host_network.then_some(container_port));
        let Some(host_port) = host_port else { continue };
        let mut mapping = PortMapping::new(host_port, container_port, protocol);
        if let Some(text) = item.text("hostIP") {
            match text.parse() {
                Ok(address) => mapping.host_address = address,
                Err(_) => problems.error_in(item, "hostIP", "is not an IP address"),
            }
        }
        found.published.push(mapping);
    }
    found
}

pub fn protocol(node: &Node, problems: &mut Problems<'_>) -> Protocol {
    let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    one_of(node, "protocol", &protocols, problems)
}

/// The container names of `list`; wrong and doubled ones are told.
pub fn check_names<'n>(lists: [&'n [Node]; 2], problems: &mut Problems<'_>) {
    let mut seen: BTreeSet<&'n str> = BTreeSet::new();
    for node in lists.into_iter().flatten() {
        if !matches!(node.value, Value::Map(_)) {
            continue;
        }
        let Some(name) = required_text(node, "name", problems) else { continue };
        if !names::is_dns_label(name) {
            problems.error_in(
                node,
                "name",
                "is not a valid name: lower case letters, digits and inner dashes",
            );
        }
        if !seen.insert(name) {
            problems.error_in(node, "name", format!("two containers are called {name:?}"));
        }
    }
}
