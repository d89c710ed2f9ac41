//! Desired pods as Kubernetes objects again, without anything that is a default.
//!
//! The hash of a pod, the fields a plan prints and what `generate kube` writes all come from this one
//! rendering. So two manifests that mean the same have the same hash, and a generated manifest means
//! what the pod is.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::convert::{default_pull_policy, escape};
use super::names;
use super::quantity::{render_bytes, render_milli};
use crate::engine::config::RuntimeName;
use crate::engine::container::spec::{
    DnsConfig, NetworkMode, PortMapping, Protocol, Resources, SeccompProfile,
};
use crate::engine::image::PullPolicy;
use crate::reconcile::desired::{
    DesiredContainer, DesiredPod, DesiredVolume, HookAction, HostPathKind, HttpAction, LateValue,
    MountPropagation, PodRestartPolicy, Probe, ProbeAction, VolumeFile,
};

/// kubelet's directory of seccomp profiles.
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";
const DEFAULT_GRACE_PERIOD_SECS: u32 = 30;
const DEFAULT_FILE_MODE: u32 = 0o644;
/// Longer values are printed as their hash.
const MAX_SHOWN: usize = 120;

/// Fills in the pod's `hash` and `fields`.
pub fn seal(pod: &mut DesiredPod) {
    let shape = Renderer { files: Files::Digests, companions: Vec::new() }.pod(pod);
    pod.hash = hex(&Sha256::digest(shape.to_string()));
    pod.fields = fields(pod, &shape);
}

/// The pod as documents that can be played: ConfigMaps, Secrets and claims first, then the Pod.
pub fn documents(pod: &DesiredPod) -> Vec<Value> {
    let mut renderer = Renderer { files: Files::Companions, companions: Vec::new() };
    let document = renderer.pod(pod);
    let mut documents = renderer.companions;
    documents.push(document);
    documents
}

/// How the content of volumes is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Digests,
    /// As ConfigMaps and Secrets of their own.
    Companions,
}

struct Renderer {
    files: Files,
    companions: Vec<Value>,
}

/// A JSON object without empty members.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        if !empty {
            self.0.insert(name.to_owned(), value);
        }
    }

    fn put_if(&mut self, condition: bool, name: &str, value: impl Into<Value>) {
        if condition {
            self.put(name, value);
        }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

impl Renderer {
    fn pod(&mut self, pod: &DesiredPod) -> Value {
        let mut spec = Object::default();
        let sandbox = &pod.sandbox;
        let host_network = sandbox.network == NetworkMode::Host;
        if !host_network {
            put_hostname(&mut spec, pod);
        }
        spec.put("subdomain", pod.subdomain.clone());
        spec.put_if(host_network, "hostNetwork", true);
        spec.put_if(sandbox.share.host_pid, "hostPID", true);
        spec.put_if(sandbox.share.host_ipc, "hostIPC", true);
        spec.put_if(sandbox.share.pid, "shareProcessNamespace", true);
        put_dns(&mut spec, &sandbox.dns, &pod.name.namespace, host_network);
        let aliases = sandbox.hosts.iter().map(|(ip, names)| json!({"ip": ip, "hostnames": names}));
        spec.put("hostAliases", aliases.collect::<Vec<_>>());
        match pod.restart_policy {
            PodRestartPolicy::Always => {}
            PodRestartPolicy::OnFailure => spec.put("restartPolicy", "OnFailure"),
            PodRestartPolicy::Never => spec.put("restartPolicy", "Never"),
        }
        spec.put_if(
            pod.termination_grace_period_secs != DEFAULT_GRACE_PERIOD_SECS,
            "terminationGracePeriodSeconds",
            pod.termination_grace_period_secs,
        );
        spec.put("activeDeadlineSeconds", pod.active_deadline_secs);
        let first = pod.all_containers().next().map(|container| &container.spec);
        match first.and_then(|spec| spec.runtime.as_ref()) {
            None => {}
            Some(RuntimeName::Selkie) => spec.put("runtimeClassName", "selkie"),
            Some(RuntimeName::External(name)) => spec.put("runtimeClassName", name.clone()),
        }

        let mut security = Object::default();
        security.put("fsGroup", pod.fs_group);
        let groups = first.map_or(&[][..], |spec| &spec.supplemental_groups[..]);
        let groups: Vec<u32> = groups.iter().copied().filter(|group| Some(*group) != pod.fs_group).collect();
        security.put("supplementalGroups", groups);
        let sysctls = sandbox.sysctls.iter().map(|(name, value)| json!({"name": name, "value": value}));
        security.put("sysctls", sysctls.collect::<Vec<_>>());
        spec.put("securityContext", security);

        let volumes = pod.volumes.iter().map(|(name, volume)| self.volume(pod, name, volume));
        spec.put("volumes", volumes.collect::<Vec<_>>());
        let init = pod.init_containers.iter().map(|container| render_container(container, Vec::new()));
        spec.put("initContainers", init.collect::<Vec<_>>());
        // Ports belong to the pod; which container names them makes no difference.
        let mut ports = render_ports(pod);
        let containers =
            pod.containers.iter().map(|container| render_container(container, std::mem::take(&mut ports)));
        spec.put("containers", containers.collect::<Vec<_>>());

        let mut metadata = Object::default();
        metadata.put("name", pod.name.name.clone());
        metadata.put_if(pod.name.namespace != "default", "namespace", pod.name.namespace.clone());
        metadata.put("labels", json!(pod.labels));
        metadata.put("annotations", json!(sandbox.annotations));
        let mut document = Object::default();
        document.put("apiVersion", "v1");
        document.put("kind", "Pod");
        document.put("metadata", metadata);
        document.put("spec", spec);
        document.into()
    }

    fn volume(&mut self, pod: &DesiredPod, name: &str, volume: &DesiredVolume) -> Value {
        let mut object = Object::default();
        object.put("name", name);
        match volume {
            DesiredVolume::EmptyDir { memory, size_limit_bytes } => {
                let mut source = Object::default();
                source.put_if(*memory, "medium", "Memory");
                source.put("sizeLimit", size_limit_bytes.map(render_bytes));
                object.0.insert("emptyDir".into(), source.into());
            }
            DesiredVolume::HostPath { path, kind } => {
                let mut source = Object::default();
                source.put("path", path.display().to_string());
                source.put("type", host_path_kind(*kind));
                object.put("hostPath", source);
            }
            DesiredVolume::Claim { volume, read_only } => {
                let prefix = format!("{}_", pod.name.namespace);
                let claim = volume.strip_prefix(&prefix).unwrap_or(volume);
                let mut source = Object::default();
                source.put("claimName", claim);
                source.put_if(*read_only, "readOnly", true);
                object.put("persistentVolumeClaim", source);
                if self.files == Files::Companions && names::is_dns_subdomain(claim) {
                    let mut metadata = Object::default();
                    metadata.put("name", claim);
                    let other = pod.name.namespace != "default";
                    metadata.put_if(other, "namespace", pod.name.namespace.clone());
                    self.companions.push(json!({
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "metadata": Value::from(metadata),
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1Gi"}},
                        },
                    }));
                }
            }
            DesiredVolume::Files { files, secret } => match self.files {
                Files::Digests => object.put(if *secret { "secret" } else { "configMap" }, digests(files)),
                Files::Companions => self.put_files(&mut object, pod, name, files, *secret),
            },
        }
        object.into()
    }

    /// Writes the files of a volume as a ConfigMap or Secret called `POD-VOLUME`.
    fn put_files(
        &mut self,
        object: &mut Object,
        pod: &DesiredPod,
        volume: &str,
        files: &[VolumeFile],
        secret: bool,
    ) {
        let name = format!("{}-{volume}", pod.name.name);
        let (mut text, mut binary, mut items) = (Object::default(), Object::default(), Vec::new());
        let mut plain = true;
        for (index, file) in files.iter().enumerate() {
            let key =
                if names::is_data_key(&file.path) { file.path.clone() } else { format!("file-{index}") };
            plain &= key == file.path && file.mode == DEFAULT_FILE_MODE;
            items.push(json!({"key": key, "path": file.path, "mode": file.mode}));
            match std::str::from_utf8(&file.content) {
                Ok(content) => text.0.insert(key, content.into()),
                Err(_) => binary.0.insert(key, STANDARD.encode(&file.content).into()),
            };
        }
        let mut metadata = Object::default();
        metadata.put("name", name.clone());
        metadata.put_if(pod.name.namespace != "default", "namespace", pod.name.namespace.clone());
        let mut companion = Object::default();
        companion.put("apiVersion", "v1");
        companion.put("kind", if secret { "Secret" } else { "ConfigMap" });
        companion.put("metadata", metadata);
        companion.put(if secret { "stringData" } else { "data" }, text);
        companion.put(if secret { "data" } else { "binaryData" }, binary);
        self.companions.push(companion.into());
        let mut source = Object::default();
        source.put(if secret { "secretName" } else { "name" }, name);
        source.put_if(!plain, "items", items);
        object.put(if secret { "secret" } else { "configMap" }, source);
    }
}

/// Path, permissions and digest of each file.
fn digests(files: &[VolumeFile]) -> Value {
    let files = files.iter().map(|file| {
        let digest = hex(&Sha256::digest(&file.content));
        (file.path.clone(), json!(format!("{:04o} {} sha256:{digest}", file.mode, file.content.len())))
    });
    json!({"files": files.collect::<Map<String, Value>>()})
}

fn put_hostname(spec: &mut Object, pod: &DesiredPod) {
    let Some(hostname) = &pod.sandbox.hostname else { return };
    let default = pod.name.name.get(..63).unwrap_or(&pod.name.name).trim_end_matches(['-', '.']);
    let domain = pod
        .subdomain
        .as_ref()
        .map(|subdomain| format!(".{subdomain}.{}.svc.cluster.local", pod.name.namespace));
    let short = match domain.and_then(|domain| hostname.strip_suffix(&domain)) {
        Some(short) => {
            spec.put("setHostnameAsFQDN", true);
            short
        }
        None => hostname,
    };
    spec.put_if(short != default, "hostname", short);
}

fn put_dns(spec: &mut Object, dns: &DnsConfig, namespace: &str, host_network: bool) {
    let cluster =
        [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()];
    let mut searches = dns.searches.as_slice();
    let mut options = dns.options.clone();
    if !dns.servers.is_empty() {
        spec.put("dnsPolicy", "None");
    } else if !host_network && searches.starts_with(&cluster) {
        searches = &searches[cluster.len()..];
        options.retain(|option| option != "ndots:5");
    } else {
        spec.put_if(!host_network, "dnsPolicy", "Default");
    }
    let options = options.iter().map(|option| match option.split_once(':') {
        Some((name, value)) => json!({"name": name, "value": value}),
        None => json!({"name": option}),
    });
    let mut config = Object::default();
    config.put("nameservers", json!(dns.servers));
    config.put("searches", json!(searches));
    config.put("options", options.collect::<Vec<_>>());
    spec.put("dnsConfig", config);
}

fn host_path_kind(kind: HostPathKind) -> Value {
    match kind {
        HostPathKind::Unchecked => Value::Null,
        HostPathKind::DirectoryOrCreate => "DirectoryOrCreate".into(),
        HostPathKind::Directory => "Directory".into(),
        HostPathKind::FileOrCreate => "FileOrCreate".into(),
        HostPathKind::File => "File".into(),
        HostPathKind::Socket => "Socket".into(),
        HostPathKind::CharDevice => "CharDevice".into(),
        HostPathKind::BlockDevice => "BlockDevice".into(),
    }
}

/// Published ports, and named ones.
fn render_ports(pod: &DesiredPod) -> Vec<Value> {
    let mut named: Vec<(&str, u16)> =
        pod.named_ports.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    let mut ports = Vec::new();
    for mapping in &pod.sandbox.published_ports {
        for offset in 0..mapping.range.max(1) {
            let port = PortMapping {
                host_port: mapping.host_port + offset,
                container_port: mapping.container_port + offset,
                ..mapping.clone()
            };
            let name = named.iter().position(|(_, number)| *number == port.container_port);
            let name = name.map(|index| named.remove(index).0);
            let mut object = Object::default();
            object.put("containerPort", port.container_port);
            object.put("hostPort", port.host_port);
            let anywhere = port.host_address.is_unspecified() && port.host_address.is_ipv4();
            object.put_if(!anywhere, "hostIP", port.host_address.to_string());
            object.put_if(port.protocol != Protocol::Tcp, "protocol", port.protocol.as_str().to_uppercase());
            object.put("name", name);
            ports.push(object.into());
        }
    }
    ports.extend(named.into_iter().map(|(name, port)| json!({"containerPort": port, "name": name})));
    ports
}

fn render_container(container: &DesiredContainer, ports: Vec<Value>) -> Value {
    let spec = &container.spec;
    let late: BTreeMap<&'static str, &str> = spec
        .env
        .iter()
        .filter_map(|(name, value)| Some((LateValue::of_placeholder(value)?.placeholder(), name.as_str())))
        .collect();
    let words = |words: &Option<Vec<String>>| {
        words.as_ref().map(|words| words.iter().map(|word| render_text(word, &late)).collect::<Vec<_>>())
    };
    let mut object = Object::default();
    object.put("name", container.name.clone());
    object.put("image", spec.image.clone());
    object.put_if(
        container.pull_policy != default_pull_policy(&spec.image),
        "imagePullPolicy",
        match container.pull_policy {
            PullPolicy::Always | PullPolicy::Newer => "Always",
            PullPolicy::Missing => "IfNotPresent",
            PullPolicy::Never => "Never",
        },
    );
    object.put_if(container.sidecar, "restartPolicy", "Always");
    object.put("command", words(&spec.entrypoint));
    object.put("args", words(&spec.command));
    object.put("workingDir", spec.working_dir.clone());
    object.put_if(spec.stdin_open, "stdin", true);
    object.put_if(spec.terminal, "tty", true);
    object.put("ports", ports);
    object.put("env", render_env(container, &late));
    object.put("resources", render_resources(&spec.resources));
    object.put("volumeMounts", render_mounts(container));
    object.put("startupProbe", container.startup_probe.as_ref().map(render_probe));
    object.put("livenessProbe", container.liveness_probe.as_ref().map(render_probe));
    object.put("readinessProbe", container.readiness_probe.as_ref().map(render_probe));
    let mut lifecycle = Object::default();
    lifecycle.put("postStart", container.post_start.as_ref().map(render_hook));
    lifecycle.put("preStop", container.pre_stop.as_ref().map(render_hook));
    let signal = spec.stop_signal.and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    lifecycle.put("stopSignal", signal.map(nix::sys::signal::Signal::as_str));
    object.put("lifecycle", lifecycle);
    object.put("securityContext", render_security(container));
    object.into()
}

/// Those that stand for a field of the pod come first: others may refer to them.
fn render_env(container: &DesiredContainer, late: &BTreeMap<&'static str, &str>) -> Vec<Value> {
    let of_field = container.spec.env.iter().filter_map(|(name, value)| {
        let path = LateValue::of_placeholder(value)?.field_path();
        Some(json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}))
    });
    let others = container.spec.env.iter().filter(|(_, value)| LateValue::of_placeholder(value).is_none());
    of_field
        .chain(others.map(|(name, value)| json!({"name": name, "value": render_text(value, late)})))
        .collect()
}

/// A text so that expansion gives it back. Placeholders become `$(NAME)` of the variable that holds it.
fn render_text(text: &str, late: &BTreeMap<&'static str, &str>) -> String {
    let mut rendered = String::new();
    // Split at NUL, every other part is the inside of a placeholder.
    let parts: Vec<&str> = text.split('\0').collect();
    for (index, part) in parts.iter().enumerate() {
        if index % 2 == 0 {
            let before_reference = part.ends_with('$') && index + 1 < parts.len();
            rendered.push_str(&escape(part));
            if before_reference {
                rendered.push('$');
            }
        } else {
            let name = late
                .iter()
                .find(|(placeholder, _)| placeholder.trim_matches('\0') == *part)
                .map_or(*part, |(_, name)| name);
            rendered.push_str(&format!("$({name})"));
        }
    }
    rendered
}

fn render_resources(resources: &Resources) -> Object {
    let (mut limits, mut requests) = (Object::default(), Object::default());
    let cpu_milli = resources.cpu_quota_us.and_then(|quota| {
        let period = resources.cpu_period_us.unwrap_or(100_000).max(1);
        u64::try_from(quota).ok().filter(|quota| *quota > 0).map(|quota| (quota * 1000).div_ceil(period))
    });
    limits.put("cpu", cpu_milli.map(render_milli));
    limits.put("memory", resources.memory_limit_bytes.map(render_bytes));
    // The weight that comes with a limit, or with nothing, is not asked for.
    let implied = cpu_milli.map_or(2, |milli| (milli * 1024 / 1000).clamp(2, 262_144));
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != implied) {
        let milli = if shares <= 2 { 0 } else { (shares * 1000).div_ceil(1024) };
        requests.put("cpu", render_milli(milli));
    }
    requests.put("memory", resources.memory_reservation_bytes.map(render_bytes));
    let mut object = Object::default();
    object.put("limits", limits);
    object.put("requests", requests);
    object
}

fn render_mounts(container: &DesiredContainer) -> Vec<Value> {
    let render = |mount: &crate::reconcile::desired::VolumeMount| {
        let mut object = Object::default();
        object.put("name", mount.volume.clone());
        object.put("mountPath", mount.mount_path.clone());
        object.put_if(mount.read_only, "readOnly", true);
        object.put("subPath", mount.sub_path.clone());
        match mount.propagation {
            MountPropagation::Private => {}
            MountPropagation::Slave => object.put("mountPropagation", "HostToContainer"),
            MountPropagation::Shared => object.put("mountPropagation", "Bidirectional"),
        }
        object.into()
    };
    container.mounts.iter().map(render).collect()
}

fn render_probe(probe: &Probe) -> Value {
    let mut object = Object::default();
    match &probe.action {
        ProbeAction::Exec { command } => object.put("exec", json!({"command": command})),
        ProbeAction::Http(http) => object.put("httpGet", render_http(http)),
        ProbeAction::Tcp { host, port } => {
            let mut socket = Object::default();
            socket.put("port", *port);
            socket.put("host", host.clone());
            object.put("tcpSocket", socket);
        }
        ProbeAction::Grpc { port, service } => {
            let mut grpc = Object::default();
            grpc.put("port", *port);
            grpc.put_if(!service.is_empty(), "service", service.clone());
            object.put("grpc", grpc);
        }
    }
    for (name, value, default) in [
        ("initialDelaySeconds", probe.initial_delay_secs, 0),
        ("periodSeconds", probe.period_secs, 10),
        ("timeoutSeconds", probe.timeout_secs, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 3),
    ] {
        object.put_if(value != default, name, value);
    }
    object.put("terminationGracePeriodSeconds", probe.termination_grace_period_secs);
    object.into()
}

fn render_hook(hook: &HookAction) -> Value {
    match hook {
        HookAction::Exec { command } => json!({"exec": {"command": command}}),
        HookAction::Http(http) => json!({"httpGet": Value::from(render_http(http))}),
        HookAction::Sleep { seconds } => json!({"sleep": {"seconds": seconds}}),
    }
}

fn render_http(http: &HttpAction) -> Object {
    let mut object = Object::default();
    object.put("port", http.port);
    object.put_if(http.path != "/", "path", http.path.clone());
    object.put("host", http.host.clone());
    object.put_if(http.https, "scheme", "HTTPS");
    let headers = http.headers.iter().map(|(name, value)| json!({"name": name, "value": value}));
    object.put("httpHeaders", headers.collect::<Vec<_>>());
    object
}

fn render_security(container: &DesiredContainer) -> Object {
    let security = &container.spec.security;
    let mut object = Object::default();
    let (user, group) = match container.spec.user.as_deref() {
        Some(user) => match user.split_once(':') {
            Some((user, group)) => (Some(user), Some(group)),
            None => (Some(user), None),
        },
        None => (None, None),
    };
    object.put("runAsUser", user.and_then(|user| user.parse::<u32>().ok()));
    object.put("runAsGroup", group.and_then(|group| group.parse::<u32>().ok()));
    object.put_if(security.run_as_non_root, "runAsNonRoot", true);
    object.put_if(security.read_only_rootfs, "readOnlyRootFilesystem", true);
    object.put_if(security.privileged, "privileged", true);
    object.put_if(security.no_new_privileges, "allowPrivilegeEscalation", false);
    object.put_if(security.unmasked, "procMount", "Unmasked");
    let short = |names: &[String]| {
        names.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned()).collect::<Vec<_>>()
    };
    let mut capabilities = Object::default();
    capabilities.put("add", short(&security.capabilities_add));
    capabilities.put("drop", short(&security.capabilities_drop));
    object.put("capabilities", capabilities);
    match &security.seccomp {
        SeccompProfile::Default => {}
        SeccompProfile::Unconfined => object.put("seccompProfile", json!({"type": "Unconfined"})),
        SeccompProfile::File(path) => {
            let path = path.strip_prefix(Path::new(SECCOMP_ROOT)).unwrap_or(path);
            object.put("seccompProfile", json!({"type": "Localhost", "localhostProfile": path}));
        }
    }
    match security.apparmor_profile.as_deref() {
        None => {}
        Some("unconfined") => object.put("appArmorProfile", json!({"type": "Unconfined"})),
        Some(name) => {
            object.put("appArmorProfile", json!({"type": "Localhost", "localhostProfile": name}));
        }
    }
    object
}

/// The shape as field paths and values, with nothing secret in it.
fn fields(pod: &DesiredPod, shape: &Value) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for part in ["metadata", "spec"] {
        flatten(&shape[part], part, &mut fields);
    }
    fields.remove("metadata.name");
    fields.remove("metadata.namespace");
    for (list, containers) in [("initContainers", &pod.init_containers), ("containers", &pod.containers)] {
        for container in containers {
            for name in &container.secret_env {
                let path = format!("spec.{list}[{}].env[{name}].value", container.name);
                let Some(value) = container.spec.env.get(name) else { continue };
                fields.insert(path, format!("sha256:{}", &hex(&Sha256::digest(value))[..12]));
                // `$(VAR)` may have carried it on into an argument.
                if value.len() >= 4 {
                    for field in fields.values_mut() {
                        *field =
                            field.replace(value.as_str(), "(secret)").replace(&escape(value), "(secret)");
                    }
                }
            }
        }
    }
    for value in fields.values_mut() {
        if value.chars().count() > MAX_SHOWN {
            let start: String = value.chars().take(40).collect();
            *value = format!("{start}... sha256:{}", &hex(&Sha256::digest(value.as_bytes()))[..12]);
        }
    }
    fields
}

fn flatten(value: &Value, path: &str, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let mut path = path.to_owned();
                super::tree::push_key(&mut path, key);
                flatten(member, &path, fields);
            }
            if members.is_empty() {
                fields.insert(path.to_owned(), "{}".to_owned());
            }
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                let key = ["name", "ip", "containerPort"].iter().find_map(|key| item.get(key));
                let key = item.get("mountPath").or(key).map_or_else(
                    || index.to_string(),
                    |key| key.as_str().map_or_else(|| key.to_string(), str::to_owned),
                );
                flatten(item, &format!("{path}[{key}]"), fields);
            }
        }
        Value::Array(_) => {
            fields.insert(path.to_owned(), value.to_string());
        }
        Value::String(text) => {
            fields.insert(path.to_owned(), text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            fields.insert(path.to_owned(), value.to_string());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
