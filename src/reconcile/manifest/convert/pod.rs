//! A pod spec becomes a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::container::{self, PodShape, Ports, Requirements, Role};
use super::env::PodFacts;
use super::volume::volumes;
use super::{Problems, Scope, one_of, required_text, seconds, text_list, unix_id};
use crate::engine::config::RuntimeName;
use crate::engine::container::spec::{CreatedBy, DnsConfig, NetworkMode, PortMapping, Resources};
use crate::engine::pod::{PodSandboxSpec, SharedNamespaces};
use crate::reconcile::desired::{
    DesiredPod, JobLimits, Location, ObjectName, ObjectRef, PodRestartPolicy, RegistryLogin,
};
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::tree::Node;

/// Kubernetes' cluster domain. Manifests have it in them, so it is not ours to choose.
const CLUSTER_DOMAIN: &str = "cluster.local";
const DEFAULT_GRACE_PERIOD_SECS: u32 = 30;
const MAX_HOSTNAME: usize = 63;

/// One pod to make of a spec.
pub struct PodSource<'a> {
    pub name: ObjectName,
    pub owner: ObjectRef,
    pub location: Location,
    /// Of the Pod or the template: has `metadata` and `spec`.
    pub template: &'a Node,
    pub labels: BTreeMap<String, String>,
    pub restart: Restart,
    pub job: Option<JobLimits>,
    /// A StatefulSet's `serviceName`.
    pub service_name: Option<&'a str>,
    /// A StatefulSet's claims for this pod: volume name to engine volume.
    pub claims: BTreeMap<String, String>,
}

/// Which restart policies the owner allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    Any,
    AlwaysOnly,
    NotAlways,
}

/// The pod, and every port it takes on the host.
pub fn pod(
    source: PodSource<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Option<(DesiredPod, Vec<PortMapping>)> {
    let Some(spec) = source.template.get("spec") else {
        problems.error_in(source.template, "spec", "is required");
        return None;
    };
    let engine_name = names::engine_name(&source.name);
    let annotations = annotations(source.template);
    let (main, init) = (spec.list("containers"), spec.list("initContainers"));
    if main.is_empty() {
        problems.error_in(spec, "containers", "is required");
    }
    container::check_names([main, init], problems);

    let requirements: Vec<Requirements> =
        main.iter().chain(init).map(|node| container::requirements(node, Some(problems))).collect();
    let facts = PodFacts {
        name: &source.name.name,
        namespace: &source.name.namespace,
        labels: &source.labels,
        annotations: &annotations,
        requirements: main
            .iter()
            .chain(init)
            .zip(&requirements)
            .filter_map(|(node, requirements)| Some((node.text("name")?, *requirements)))
            .collect(),
    };

    let flag = |field: &str| spec.boolean(field).unwrap_or(false);
    let (host_network, host_pid, host_ipc) = (flag("hostNetwork"), flag("hostPID"), flag("hostIPC"));
    let share_pid = flag("shareProcessNamespace");
    if host_pid && share_pid {
        problems.error_in(spec, "shareProcessNamespace", "excludes hostPID");
    }
    check_node_name(spec, scope, problems);

    let security = spec.get("securityContext");
    let fs_group = security.and_then(|node| unix_id(node, "fsGroup", problems));
    let supplemental_groups = supplemental_groups(security, fs_group, problems);
    let volumes = volumes(spec, &source.claims, &facts, scope, problems);
    let grace_period_secs =
        seconds(spec, "terminationGracePeriodSeconds", 0, problems).unwrap_or(DEFAULT_GRACE_PERIOD_SECS);
    let shape = PodShape {
        engine_name: &engine_name,
        facts: &facts,
        security,
        volumes: &volumes,
        host_network,
        host_pid,
        host_ipc,
        share_pid,
        runtime: runtime(spec, problems),
        grace_period_secs,
        supplemental_groups: &supplemental_groups,
        oom_score_adj: 0,
    };
    let ports: Vec<Ports> =
        main.iter().chain(init).map(|node| container::ports(node, shape.host_network, problems)).collect();
    let guaranteed = requirements.iter().all(Requirements::is_guaranteed);
    let best_effort = requirements.iter().all(Requirements::is_empty);
    let mut containers = Vec::new();
    for (index, node) in main.iter().chain(init).enumerate() {
        let role = if index < main.len() { Role::Main } else { Role::Init };
        let oom_score_adj = match (guaranteed, best_effort) {
            (true, _) => -997,
            (_, true) => 1000,
            (false, false) => burstable_score(&requirements[index], scope.context.memory_bytes),
        };
        let shape = PodShape { oom_score_adj, runtime: shape.runtime.clone(), ..shape };
        containers.push(container::container(node, role, &ports[index], &shape, scope, problems));
    }
    for (container, node) in containers.iter().zip(main.iter().chain(init)) {
        if container.spec.name.is_none() && node.text("name").is_some_and(names::is_dns_label) {
            problems.error_in(node, "name", "is not a valid name");
        }
    }
    let init_containers = containers.split_off(main.len());

    let published: Vec<PortMapping> = ports.iter().flat_map(|ports| ports.published.clone()).collect();
    check_ports_within(&published, spec, problems);
    let mut named_ports = BTreeMap::new();
    for ports in ports {
        for (name, number) in ports.named {
            named_ports.entry(name).or_insert(number);
        }
    }

    let (hostname, subdomain) = hostname(spec, &source, scope, host_network, problems);
    let sandbox = PodSandboxSpec {
        name: engine_name.parse().unwrap_or_else(|_| "invalid".parse().expect("is a valid name")),
        hostname: Some(hostname),
        labels: source.labels.clone(),
        annotations,
        share: SharedNamespaces { net: true, ipc: !host_ipc, uts: true, pid: share_pid, host_pid, host_ipc },
        network: if host_network { NetworkMode::Host } else { NetworkMode::default() },
        published_ports: if host_network { Vec::new() } else { published.clone() },
        dns: dns(spec, host_network, scope, problems),
        hosts: host_aliases(spec, problems),
        sysctls: sysctls(security, problems),
        resources: Resources::default(),
        shm_size_bytes: None,
        created_by: CreatedBy::Reconciler,
    };
    let pod = DesiredPod {
        name: source.name,
        owner: source.owner,
        location: source.location,
        sandbox,
        init_containers,
        containers,
        volumes,
        restart_policy: restart_policy(spec, source.restart, problems),
        termination_grace_period_secs: grace_period_secs,
        fs_group,
        job: source.job,
        active_deadline_secs: seconds(spec, "activeDeadlineSeconds", 1, problems).map(u64::from),
        subdomain,
        registry_logins: registry_logins(spec, scope, problems),
        named_ports,
        labels: source.labels,
        hash: String::new(),
        fields: BTreeMap::new(),
    };
    Some((pod, published))
}

fn annotations(template: &Node) -> BTreeMap<String, String> {
    let mut annotations = super::text_map(template.get("metadata").and_then(|node| node.get("annotations")));
    // kubectl's copy of the document; it would double every pod's size and change with every comment.
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations
}

fn restart_policy(spec: &Node, allowed: Restart, problems: &mut Problems<'_>) -> PodRestartPolicy {
    let policies = [
        ("Always", PodRestartPolicy::Always),
        ("OnFailure", PodRestartPolicy::OnFailure),
        ("Never", PodRestartPolicy::Never),
    ];
    let policy = one_of(spec, "restartPolicy", &policies, problems);
    match (allowed, policy) {
        (Restart::AlwaysOnly, PodRestartPolicy::OnFailure | PodRestartPolicy::Never) => {
            problems.error_in(spec, "restartPolicy", "must be Always here");
        }
        (Restart::NotAlways, PodRestartPolicy::Always) => {
            problems.error_in(spec, "restartPolicy", "must be OnFailure or Never in a Job");
        }
        (Restart::Any | Restart::AlwaysOnly | Restart::NotAlways, _) => {}
    }
    policy
}

fn check_node_name(spec: &Node, scope: &Scope<'_>, problems: &mut Problems<'_>) {
    if spec.text("nodeName").is_some_and(|name| name != scope.context.node_name) {
        problems.error_in(spec, "nodeName", format!("this node is called {:?}", scope.context.node_name));
    }
}

fn runtime(spec: &Node, problems: &mut Problems<'_>) -> Option<RuntimeName> {
    match spec.text("runtimeClassName")? {
        "selkie" => Some(RuntimeName::Selkie),
        name @ ("crun" | "runc" | "youki") => Some(RuntimeName::External(name.to_owned())),
        name => {
            problems.error_in(
                spec,
                "runtimeClassName",
                format!("{name:?} is not one of selkie, crun, runc, youki"),
            );
            None
        }
    }
}

fn supplemental_groups(
    security: Option<&Node>,
    fs_group: Option<u32>,
    problems: &mut Problems<'_>,
) -> Vec<u32> {
    let mut groups = Vec::new();
    for item in security.map_or(&[][..], |node| node.list("supplementalGroups")) {
        match item.as_integer().map(i32::try_from) {
            Some(Ok(group @ 0..)) => groups.push(group.unsigned_abs()),
            _ => problems.error(item, "is not a group id"),
        }
    }
    groups.extend(fs_group);
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// kubelet's score of a Burstable container: the more memory it asked for, the later it is killed.
fn burstable_score(requirements: &Requirements, memory_bytes: u64) -> i32 {
    let asked = requirements.memory_request.map_or(0, |request| request.units());
    let score = 1000 - (1000 * asked) / i128::from(memory_bytes.max(1));
    i32::try_from(score.clamp(3, 999)).unwrap_or(999)
}

/// Two containers of one pod can not both have a host port.
fn check_ports_within(published: &[PortMapping], spec: &Node, problems: &mut Problems<'_>) {
    for (index, port) in published.iter().enumerate() {
        if published[..index].iter().any(|other| ports_collide(port, other)) {
            let message = format!("host port {}/{} is taken twice", port.host_port, port.protocol.as_str());
            problems.error_in(spec, "containers", message);
        }
    }
}

pub fn ports_collide(one: &PortMapping, other: &PortMapping) -> bool {
    one.host_port == other.host_port
        && one.protocol == other.protocol
        && (one.host_address == other.host_address
            || one.host_address.is_unspecified()
            || other.host_address.is_unspecified())
}

/// What `hostname` says in the pod, and the subdomain.
fn hostname(
    spec: &Node,
    source: &PodSource<'_>,
    scope: &Scope<'_>,
    host_network: bool,
    problems: &mut Problems<'_>,
) -> (String, Option<String>) {
    if spec.text("hostname").is_some_and(|name| !names::is_dns_label(name)) {
        problems.error_in(
            spec,
            "hostname",
            "is not a valid host name: lower case letters, digits and inner dashes",
        );
    }
    if spec.text("subdomain").is_some_and(|name| !names::is_dns_label(name)) {
        problems.error_in(
            spec,
            "subdomain",
            "is not a valid name: lower case letters, digits and inner dashes",
        );
    }
    let subdomain = spec.text("subdomain").or(source.service_name).map(str::to_owned);
    if host_network {
        return (scope.context.node_name.clone(), subdomain);
    }
    let name = spec.text("hostname").unwrap_or(&source.name.name);
    let cut = name.get(..MAX_HOSTNAME).unwrap_or(name).trim_end_matches(['-', '.']);
    let full = spec.boolean("setHostnameAsFQDN").unwrap_or(false);
    match &subdomain {
        Some(subdomain) if full => {
            let long = format!("{cut}.{subdomain}.{}.svc.{CLUSTER_DOMAIN}", source.name.namespace);
            // The kernel's limit.
            if long.len() > 64 {
                problems.error_in(
                    spec,
                    "setHostnameAsFQDN",
                    format!("{long:?} is longer than 64 characters"),
                );
            }
            (long, Some(subdomain.clone()))
        }
        _ => (cut.to_owned(), subdomain),
    }
}

fn dns(spec: &Node, host_network: bool, scope: &Scope<'_>, problems: &mut Problems<'_>) -> DnsConfig {
    #[derive(Clone, Copy, PartialEq)]
    enum Policy {
        ClusterFirst,
        Host,
        None,
    }
    let policies =
        [("ClusterFirst", Policy::ClusterFirst), ("Default", Policy::Host), ("None", Policy::None)];
    let mut policy = Policy::ClusterFirst;
    if spec.text("dnsPolicy") == Some("ClusterFirstWithHostNet") {
        if host_network {
            problems.error_in(
                spec,
                "dnsPolicy",
                "not supported: a pod on the host network asks the host's name servers",
            );
        }
    } else {
        policy = one_of(spec, "dnsPolicy", &policies, problems);
    }
    // As in Kubernetes, a pod on the host network has the host's name servers.
    if host_network && policy == Policy::ClusterFirst {
        policy = Policy::Host;
    }
    let mut dns = DnsConfig::default();
    if policy == Policy::ClusterFirst {
        dns.searches = vec![
            format!("{}.svc.{CLUSTER_DOMAIN}", scope.namespace),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ];
        dns.options = vec!["ndots:5".to_owned()];
    }
    let Some(config) = spec.get("dnsConfig") else {
        if policy == Policy::None {
            problems.error_in(spec, "dnsConfig", "is required with `dnsPolicy: None`");
        }
        return dns;
    };
    for item in config.list("nameservers") {
        match item.as_text().map(str::parse::<IpAddr>) {
            Some(Ok(address)) => dns.servers.push(address),
            _ => problems.error(item, "is not an IP address"),
        }
    }
    match (policy == Policy::None, dns.servers.is_empty()) {
        (true, true) => problems.error_in(config, "nameservers", "is required with `dnsPolicy: None`"),
        (false, false) => problems.error_in(
            config,
            "nameservers",
            "not supported without `dnsPolicy: None`: the names of Services would not be found",
        ),
        (true, false) | (false, true) => {}
    }
    for search in text_list(config, "searches") {
        if !dns.searches.contains(&search) {
            dns.searches.push(search);
        }
    }
    for item in config.list("options") {
        let Some(name) = required_text(item, "name", problems) else { continue };
        // What the pod says replaces what the policy said.
        dns.options.retain(|option| option.split(':').next() != Some(name));
        dns.options.push(match item.text("value") {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    dns
}

fn host_aliases(spec: &Node, problems: &mut Problems<'_>) -> Vec<(IpAddr, Vec<String>)> {
    let mut hosts = Vec::new();
    for item in spec.list("hostAliases") {
        let Some(text) = required_text(item, "ip", problems) else { continue };
        let Ok(address) = text.parse() else {
            problems.error_in(item, "ip", "is not an IP address");
            continue;
        };
        let names = text_list(item, "hostnames");
        if names.iter().any(|name| !names::is_dns_subdomain(name)) {
            problems.error_in(item, "hostnames", "has an invalid host name");
        }
        hosts.push((address, names));
    }
    hosts
}

fn sysctls(security: Option<&Node>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for item in security.map_or(&[][..], |node| node.list("sysctls")) {
        let Some(name) = required_text(item, "name", problems) else { continue };
        let name = name.replace('/', ".");
        // The others belong to the host.
        let namespaced = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."];
        if !namespaced.iter().any(|prefix| name.starts_with(prefix)) {
            problems.error_in(item, "name", "not supported: this kernel parameter is not a pod's own");
        }
        let value = item.text("value").unwrap_or_default().to_owned();
        if sysctls.insert(name, value).is_some() {
            problems.error_in(item, "name", "is given twice");
        }
    }
    sysctls
}

fn registry_logins(spec: &Node, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Vec<RegistryLogin> {
    let mut logins = Vec::new();
    for item in spec.list("imagePullSecrets") {
        let Some(secret) = scope.secret(item, "name", problems) else { continue };
        let config = match secret.kind.as_str() {
            "kubernetes.io/dockerconfigjson" => secret.entries.get(".dockerconfigjson"),
            _ => None,
        };
        match config.and_then(|bytes| parse_docker_config(bytes)) {
            Some(found) => logins.extend(found),
            None => problems.error_in(
                item,
                "name",
                "is not a Secret of type kubernetes.io/dockerconfigjson with a readable .dockerconfigjson",
            ),
        }
    }
    logins
}

fn parse_docker_config(bytes: &[u8]) -> Option<Vec<RegistryLogin>> {
    let config: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let mut logins = Vec::new();
    for (registry, entry) in config.get("auths")?.as_object()? {
        let text = |key: &str| entry.get(key).and_then(|value| value.as_str());
        let (username, password) = match (text("username"), text("password"), text("auth")) {
            (Some(username), Some(password), _) => (username.to_owned(), password.to_owned()),
            (_, _, Some(auth)) => {
                let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
                let (username, password) = decoded.split_once(':')?;
                (username.to_owned(), password.to_owned())
            }
            _ => return None,
        };
        let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
        // docker's name for its own registry has the path of an old API.
        let registry = match registry.trim_end_matches('/') {
            "index.docker.io/v1" | "index.docker.io" => "docker.io",
            other => other,
        };
        logins.push(RegistryLogin { registry: registry.to_owned(), username, password });
    }
    Some(logins)
}
