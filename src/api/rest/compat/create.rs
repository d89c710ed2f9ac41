//! docker's create request and its way into a `ContainerSpec`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::rest::extract::{Json, Query};
use crate::api::rest::libpod::create::{
    ContainerCreateResponse, HealthConfig, capabilities, container_id, container_name, dns, exposed_ports,
    extra_hosts, filled, groups, host_address, log_driver, mount_of, network_name, parse_port,
    publish_exposed, restart_policy, runtime, seccomp, tmpfs_source, volume_name,
};
use crate::api::rest::{Outcome, reply, signal};
use crate::engine::Engine;
use crate::engine::container::spec::{
    ContainerSpec, CreatedBy, Device, LogConfig, Mount, MountSource, NamespaceMode, NetworkAttachment,
    NetworkMode, PortMapping, Resources, SecurityOptions, Ulimit,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateContainerConfig {
    hostname: String,
    domainname: String,
    user: String,
    exposed_ports: BTreeMap<String, Value>,
    tty: bool,
    open_stdin: bool,
    env: Vec<String>,
    cmd: Words,
    healthcheck: Option<HealthConfig>,
    image: String,
    volumes: BTreeMap<String, Value>,
    working_dir: String,
    entrypoint: Words,
    network_disabled: bool,
    mac_address: String,
    labels: BTreeMap<String, String>,
    stop_signal: String,
    stop_timeout: Option<u32>,
    host_config: HostConfig,
    networking_config: NetworkingConfig,
    env_merge: Vec<String>,
    unset_env: Vec<String>,
    unset_env_all: bool,
}

/// A list, or one text.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Words {
    #[default]
    Absent,
    Text(String),
    List(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    binds: Vec<String>,
    log_config: LogConfiguration,
    network_mode: String,
    port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    restart_policy: Policy,
    auto_remove: bool,
    volume_driver: String,
    volumes_from: Vec<String>,
    cap_add: Words,
    cap_drop: Words,
    cgroupns_mode: String,
    dns: Vec<String>,
    dns_options: Vec<String>,
    dns_search: Vec<String>,
    extra_hosts: Vec<String>,
    group_add: Vec<String>,
    ipc_mode: String,
    links: Vec<String>,
    oom_score_adj: i32,
    pid_mode: String,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    security_opt: Vec<String>,
    storage_opt: BTreeMap<String, String>,
    tmpfs: BTreeMap<String, String>,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: String,
    shm_size: u64,
    sysctls: BTreeMap<String, String>,
    runtime: String,
    cpu_shares: u64,
    memory: u64,
    nano_cpus: i64,
    cgroup_parent: String,
    blkio_weight: u16,
    blkio_weight_device: Vec<Value>,
    blkio_device_read_bps: Vec<Value>,
    blkio_device_write_bps: Vec<Value>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Vec<Value>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Vec<Value>,
    cpu_period: u64,
    cpu_quota: i64,
    cpu_realtime_period: i64,
    cpu_realtime_runtime: i64,
    cpuset_cpus: String,
    cpuset_mems: String,
    devices: Vec<DeviceMapping>,
    device_cgroup_rules: Vec<String>,
    device_requests: Vec<Value>,
    memory_reservation: u64,
    memory_swap: i64,
    oom_kill_disable: Option<bool>,
    pids_limit: Option<i64>,
    ulimits: Vec<DockerUlimit>,
    mounts: Vec<DockerMount>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    init: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LogConfiguration {
    r#type: String,
    config: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct PortBinding {
    host_ip: String,
    host_port: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Policy {
    name: String,
    maximum_retry_count: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceMapping {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerUlimit {
    name: String,
    hard: i64,
    soft: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerMount {
    r#type: String,
    source: String,
    target: String,
    read_only: bool,
    bind_options: BindOptions,
    volume_options: VolumeOptions,
    tmpfs_options: TmpfsOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct BindOptions {
    propagation: String,
    non_recursive: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct VolumeOptions {
    driver_config: DriverConfig,
    subpath: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DriverConfig {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TmpfsOptions {
    size_bytes: u64,
    mode: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkingConfig {
    endpoints_config: BTreeMap<String, EndpointConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct EndpointConfig {
    #[serde(rename = "IPAMConfig")]
    ipam_config: EndpointIpam,
    aliases: Vec<String>,
    mac_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointIpam {
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

pub async fn create(
    State(engine): State<Engine>,
    query: Query,
    Json(config): Json<CreateContainerConfig>,
) -> Outcome {
    let name = query.filled("name").unwrap_or_default().to_owned();
    let spec = config.into_spec(&name, &engine)?;
    let record = engine.create_container(spec).await?;
    let response = ContainerCreateResponse { id: record.id.as_str(), warnings: &[] };
    Ok(reply::json_with_status(StatusCode::CREATED, &response))
}

impl Words {
    /// Docker's empty list means the image's own, as does its absence.
    fn into_words(self) -> Option<Vec<String>> {
        match self {
            Self::Absent => None,
            Self::Text(text) => Some(vec![text]),
            Self::List(words) => Some(words),
        }
        .filter(|words| words.iter().any(|word| !word.is_empty()))
    }
}

impl CreateContainerConfig {
    fn into_spec(self, name: &str, engine: &Engine) -> Result<ContainerSpec, ApiError> {
        self.refuse_unsupported()?;
        let host = self.host_config;
        let network = network_mode(&host.network_mode, self.networking_config, self.mac_address, engine)?;
        let mut published_ports = port_bindings(&host.port_bindings)?;
        if host.publish_all_ports {
            let mut exposed = exposed_ports(engine, &self.image, &BTreeMap::new())?;
            for port in self.exposed_ports.keys() {
                exposed.insert(parse_port(port)?);
            }
            publish_exposed(&mut published_ports, &exposed);
        }
        let mut security = security_options(&host.security_opt)?;
        security.privileged = host.privileged;
        security.read_only_rootfs = host.readonly_rootfs;
        security.capabilities_add = capabilities(&host.cap_add.into_words().unwrap_or_default());
        security.capabilities_drop = capabilities(&host.cap_drop.into_words().unwrap_or_default());
        // Docker asks for no masks at all with two empty lists, and for the usual with none given.
        security.unmasked = host.masked_paths.is_some_and(|paths| paths.is_empty())
            && host.readonly_paths.is_some_and(|paths| paths.is_empty());
        let mut mounts = binds(&host.binds)?;
        mounts.extend(host.mounts.into_iter().map(DockerMount::into_mount).collect::<Result<Vec<_>, _>>()?);
        for destination in self.volumes.into_keys() {
            if !mounts.iter().any(|mount| mount.destination == destination) {
                mounts.push(mount_of(destination, MountSource::AnonymousVolume, Vec::new()));
            }
        }
        for (destination, options) in host.tmpfs {
            let options: Vec<String> = options.split(',').map(str::to_owned).collect();
            mounts.push(mount_of(destination, tmpfs_source(&options)?, options));
        }
        Ok(ContainerSpec {
            name: container_name(name)?,
            image: self.image,
            rootfs: None,
            pod: None,
            entrypoint: self.entrypoint.into_words(),
            command: self.cmd.into_words(),
            env: environment(&self.env),
            working_dir: filled(self.working_dir),
            user: filled(self.user),
            supplemental_groups: groups(&host.group_add)?,
            terminal: self.tty,
            stdin_open: self.open_stdin,
            hostname: filled(self.hostname),
            labels: self.labels,
            annotations: BTreeMap::new(),
            mounts,
            network,
            published_ports,
            dns: dns(&host.dns, host.dns_search, host.dns_options)?,
            hosts: extra_hosts(&host.extra_hosts)?,
            pid_namespace: namespace(&host.pid_mode, engine)?,
            ipc_namespace: namespace(&host.ipc_mode, engine)?,
            uts_namespace: namespace(&host.uts_mode, engine)?,
            cgroup_namespace: namespace(&host.cgroupns_mode, engine)?,
            security,
            resources: Resources {
                memory_limit_bytes: positive(host.memory),
                memory_reservation_bytes: positive(host.memory_reservation),
                memory_swap_bytes: Some(host.memory_swap).filter(|swap| *swap != 0),
                cpu_quota_us: cpu_quota(host.nano_cpus, host.cpu_quota),
                cpu_period_us: if host.nano_cpus > 0 {
                    Some(CPU_PERIOD_US)
                } else {
                    positive(host.cpu_period)
                },
                cpu_shares: positive(host.cpu_shares),
                cpuset_cpus: filled(host.cpuset_cpus),
                cpuset_mems: filled(host.cpuset_mems),
                pids_limit: host.pids_limit.filter(|limit| *limit != 0),
            },
            ulimits: host.ulimits.into_iter().map(DockerUlimit::into_ulimit).collect(),
            sysctls: host.sysctls,
            devices: host.devices.into_iter().map(DeviceMapping::into_device).collect(),
            shm_size_bytes: positive(host.shm_size),
            oom_score_adj: Some(host.oom_score_adj).filter(|score| *score != 0),
            stop_signal: filled(self.stop_signal).map(|name| signal::parse(&name)).transpose()?,
            stop_timeout_secs: self.stop_timeout.unwrap_or(10),
            restart_policy: restart_policy(
                &host.restart_policy.name,
                Some(host.restart_policy.maximum_retry_count),
            )?,
            log: host.log_config.into_log()?,
            init: host.init.unwrap_or(false),
            auto_remove: host.auto_remove,
            healthcheck: self.healthcheck.and_then(HealthConfig::into_healthcheck),
            umask: None,
            timezone: None,
            runtime: runtime(&host.runtime),
            created_by: CreatedBy::Api,
        })
    }

    /// What is asked for and cannot be kept is refused, not dropped.
    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let host = &self.host_config;
        let block_io = [
            &host.blkio_weight_device,
            &host.blkio_device_read_bps,
            &host.blkio_device_write_bps,
            &host.blkio_device_read_iops,
            &host.blkio_device_write_iops,
        ];
        let asked = [
            ("Domainname", !self.domainname.is_empty()),
            ("NetworkDisabled", self.network_disabled),
            ("EnvMerge", !self.env_merge.is_empty()),
            ("UnsetEnv", self.unset_env_all || !self.unset_env.is_empty()),
            ("VolumeDriver", !matches!(host.volume_driver.as_str(), "" | "local")),
            ("VolumesFrom", !host.volumes_from.is_empty()),
            ("Links", !host.links.is_empty()),
            ("StorageOpt", !host.storage_opt.is_empty()),
            ("UsernsMode", !matches!(host.userns_mode.as_str(), "" | "host")),
            ("CgroupParent", !host.cgroup_parent.is_empty()),
            ("block I/O limits", host.blkio_weight != 0 || block_io.iter().any(|list| !list.is_empty())),
            ("realtime CPU", host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0),
            ("DeviceCgroupRules", !host.device_cgroup_rules.is_empty()),
            ("DeviceRequests", !host.device_requests.is_empty()),
            ("OomKillDisable", host.oom_kill_disable == Some(true)),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((option, _)) => Err(ApiError::not_supported(format_args!("{option} of a container"))),
            None => Ok(()),
        }
    }
}

/// What `--cpus` is a share of.
const CPU_PERIOD_US: u64 = 100_000;

fn positive(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number > 0)
}

fn cpu_quota(nano_cpus: i64, quota: i64) -> Option<i64> {
    match nano_cpus {
        nano if nano > 0 => Some(nano / 1_000_000_000 * 100_000 + nano % 1_000_000_000 / 10_000),
        _ => Some(quota).filter(|quota| *quota > 0),
    }
}

/// `NAME=value`; a name alone is not passed on, as there is no client's environment here.
fn environment(pairs: &[String]) -> BTreeMap<String, String> {
    let split = pairs.iter().filter_map(|pair| pair.split_once('='));
    split.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl LogConfiguration {
    fn into_log(self) -> Result<LogConfig, ApiError> {
        // Docker's default driver is podman's default too, whatever that writes.
        let driver = if self.r#type == "json-file" { "" } else { &self.r#type };
        let config = |name: &str| self.config.get(name).cloned();
        Ok(LogConfig { driver: log_driver(driver)?, path: None, max_size_bytes: None, tag: config("tag") })
    }
}

impl DockerUlimit {
    fn into_ulimit(self) -> Ulimit {
        // -1 is unlimited, which is the largest number there is.
        Ulimit { name: self.name.to_ascii_lowercase(), soft: self.soft as u64, hard: self.hard as u64 }
    }
}

impl DeviceMapping {
    fn into_device(self) -> Device {
        let container = filled(self.path_in_container).unwrap_or_else(|| self.path_on_host.clone());
        Device {
            host_path: PathBuf::from(self.path_on_host),
            container_path: PathBuf::from(container),
            permissions: filled(self.cgroup_permissions).unwrap_or_else(|| "rwm".to_owned()),
        }
    }
}

impl DockerMount {
    fn into_mount(self) -> Result<Mount, ApiError> {
        let mut options = Vec::new();
        if self.read_only {
            options.push("ro".to_owned());
        }
        let source = match self.r#type.as_str() {
            "bind" => {
                options.extend(filled(self.bind_options.propagation));
                options.push(if self.bind_options.non_recursive { "bind" } else { "rbind" }.to_owned());
                MountSource::Bind(PathBuf::from(self.source))
            }
            "volume" => {
                crate::api::rest::libpod::volumes::check_driver(&self.volume_options.driver_config.name)?;
                let sub_path = filled(self.volume_options.subpath).map(PathBuf::from);
                match self.source.as_str() {
                    "" => MountSource::AnonymousVolume,
                    name => MountSource::Volume { name: volume_name(name)?, sub_path },
                }
            }
            "tmpfs" => MountSource::Tmpfs {
                size_bytes: positive(self.tmpfs_options.size_bytes),
                mode: Some(self.tmpfs_options.mode).filter(|mode| *mode != 0),
            },
            other => return Err(ApiError::not_supported(format_args!("mount type {other:?}"))),
        };
        Ok(mount_of(self.target, source, options))
    }
}

/// `source:destination[:options]`; a source that is no path names a volume.
fn binds(binds: &[String]) -> Result<Vec<Mount>, ApiError> {
    let parse = |bind: &String| {
        let mut parts = bind.splitn(3, ':');
        let source = parts.next().unwrap_or_default();
        let Some(destination) = parts.next().filter(|destination| !destination.is_empty()) else {
            return Err(ApiError::bad_request(format!("invalid bind {bind:?}")));
        };
        let options = parts.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        let source = match source.starts_with(['/', '.']) {
            true => MountSource::Bind(PathBuf::from(source)),
            false => MountSource::Volume { name: volume_name(source)?, sub_path: None },
        };
        Ok(mount_of(destination.to_owned(), source, options))
    };
    binds.iter().map(parse).collect()
}

fn port_bindings(
    bindings: &BTreeMap<String, Option<Vec<PortBinding>>>,
) -> Result<Vec<PortMapping>, ApiError> {
    let mut mappings = Vec::new();
    for (port, bindings) in bindings {
        let (container_port, protocol) = parse_port(port)?;
        for binding in bindings.iter().flatten() {
            let host_port = match binding.host_port.as_str() {
                "" => 0,
                text => text
                    .parse()
                    .map_err(|e| ApiError::bad_request(format!("invalid host port {text:?}: {e}")))?,
            };
            let host_address = host_address(&binding.host_ip)?;
            mappings
                .push(PortMapping { host_address, ..PortMapping::new(host_port, container_port, protocol) });
        }
    }
    // Docker's CLI asks for IPv4 and IPv6 by two bindings; they are one wish when both mean all addresses.
    let mut seen = std::collections::HashSet::new();
    mappings.retain(|m| {
        let all = m.host_address.is_unspecified();
        seen.insert((
            m.container_port,
            m.protocol,
            m.host_port,
            if all { None } else { Some(m.host_address) },
        ))
    });
    Ok(mappings)
}

fn network_mode(
    mode: &str,
    networking: NetworkingConfig,
    mac_address: String,
    engine: &Engine,
) -> Result<NetworkMode, ApiError> {
    match mode {
        "host" => return Ok(NetworkMode::Host),
        "none" => return Ok(NetworkMode::None),
        mode => {
            if let Some(name) = mode.strip_prefix("container:") {
                return Ok(NetworkMode::Container(container_id(name, engine)?));
            }
            if let Some(path) = mode.strip_prefix("ns:") {
                return Ok(NetworkMode::Path(PathBuf::from(path)));
            }
        }
    }
    let mut attachments = Vec::new();
    for (name, endpoint) in networking.endpoints_config {
        attachments.push(endpoint.into_attachment(&name)?);
    }
    let named = match mode {
        "" | "default" | "bridge" if !attachments.is_empty() => None,
        "" | "default" | "bridge" => None,
        name => Some(network_name(name)?),
    };
    if let Some(network) = named
        && !attachments.iter().any(|attachment| attachment.network == network)
    {
        attachments.insert(0, EndpointConfig::default().into_attachment(network.as_str())?);
    }
    if let (Some(mac), Some(first)) = (filled(mac_address), attachments.first_mut()) {
        first.static_mac.get_or_insert(mac);
    }
    Ok(NetworkMode::Bridge(attachments))
}

impl EndpointConfig {
    fn into_attachment(self, name: &str) -> Result<NetworkAttachment, ApiError> {
        let addresses = [self.ipam_config.ipv4_address, self.ipam_config.ipv6_address];
        let parse = |text: String| {
            text.parse().map_err(|e| ApiError::bad_request(format!("invalid address {text:?}: {e}")))
        };
        let given = addresses.into_iter().filter(|text| !text.is_empty());
        Ok(NetworkAttachment {
            network: network_name(name)?,
            aliases: self.aliases,
            static_addresses: given.map(parse).collect::<Result<_, _>>()?,
            static_mac: filled(self.mac_address),
            interface: None,
        })
    }
}

fn namespace(mode: &str, engine: &Engine) -> Result<NamespaceMode, ApiError> {
    match mode {
        "" | "default" | "private" | "shareable" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        other => match (other.strip_prefix("container:"), other.strip_prefix("ns:")) {
            (Some(name), _) => Ok(NamespaceMode::Container(container_id(name, engine)?)),
            (_, Some(path)) => Ok(NamespaceMode::Path(PathBuf::from(path))),
            (None, None) => Err(ApiError::not_supported(format_args!("namespace mode {other:?}"))),
        },
    }
}

/// `no-new-privileges`, `seccomp=...`, `apparmor=...`; labels that are switched off.
fn security_options(options: &[String]) -> Result<SecurityOptions, ApiError> {
    let mut security = SecurityOptions::default();
    for option in options {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => {}
            // The docker CLI sends the profile's text, not its path.
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                return Err(ApiError::not_supported("a seccomp profile sent as text"));
            }
            ("seccomp", profile) => security.seccomp = seccomp(profile),
            ("apparmor", profile) => security.apparmor_profile = filled(profile.to_owned()),
            ("label", "disable") => {}
            ("unmask", all) if all.eq_ignore_ascii_case("all") => security.unmasked = true,
            _ => return Err(ApiError::not_supported(format_args!("security option {option:?}"))),
        }
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::json;
    use crate::engine::container::spec::{Protocol, SeccompProfile};

    fn config(body: &str) -> CreateContainerConfig {
        json::decode(body.as_bytes()).unwrap()
    }

    #[test]
    fn what_docker_sends_is_understood() {
        // From docker 28: run -d -p 8080:80 -v /tmp:/t:ro -v data:/d --cpus 0.5 busybox, shortened.
        let config = config(
            r#"{"Hostname":"","Domainname":"","AttachStdin":false,"Tty":false,"Env":null,"Cmd":["sleep","1"],
            "Image":"busybox","Volumes":{},"WorkingDir":"","Entrypoint":null,"Labels":{},"HostConfig":{
            "Binds":["/tmp:/t:ro","data:/d"],"LogConfig":{"Type":"","Config":{}},"NetworkMode":"bridge",
            "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"RestartPolicy":{"Name":"no",
            "MaximumRetryCount":0},"CapAdd":null,"NanoCpus":500000000,"BlkioDeviceReadBps":[],"Devices":[],
            "MaskedPaths":null,"ReadonlyPaths":null,"ConsoleSize":[0,0]},
            "NetworkingConfig":{"EndpointsConfig":{}}}"#,
        );
        config.refuse_unsupported().unwrap();
        let mounts = binds(&config.host_config.binds).unwrap();
        assert!(mounts[0].read_only && mounts[0].options.is_empty());
        assert!(matches!(&mounts[1].source, MountSource::Volume { name, .. } if name.as_str() == "data"));
        let ports = port_bindings(&config.host_config.port_bindings).unwrap();
        assert_eq!(ports, [PortMapping::new(8080, 80, Protocol::Tcp)]);
        assert_eq!(config.cmd.into_words().unwrap(), ["sleep", "1"]);
        assert_eq!(cpu_quota(config.host_config.nano_cpus, 0), Some(50_000));
    }

    #[test]
    fn commands_are_lists_or_one_text() {
        assert_eq!(config(r#"{"Cmd":"true"}"#).cmd.into_words().unwrap(), ["true"]);
        assert_eq!(config(r#"{"Entrypoint":[]}"#).entrypoint.into_words(), None);
        assert_eq!(config(r#"{"Entrypoint":[""]}"#).entrypoint.into_words(), None);
    }

    #[test]
    fn security_is_never_dropped() {
        let parse = |option: &str| security_options(&[option.to_owned()]);
        assert!(parse("no-new-privileges").unwrap().no_new_privileges);
        assert!(parse("no-new-privileges:true").unwrap().no_new_privileges);
        assert_eq!(parse("seccomp=unconfined").unwrap().seccomp, SeccompProfile::Unconfined);
        assert!(parse("label=type:x").is_err());
        assert!(parse("seccomp={\"defaultAction\":\"x\"}").is_err());
        assert!(config(r#"{"HostConfig":{"UsernsMode":"keep-id"}}"#).refuse_unsupported().is_err());
        assert!(config(r#"{"HostConfig":{"DeviceCgroupRules":["c 1:1 r"]}}"#).refuse_unsupported().is_err());
    }

    #[test]
    fn a_port_asked_for_on_both_address_families_is_one() {
        let body = r#"{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"1"},
            {"HostIp":"::","HostPort":"1"},{"HostIp":"127.0.0.1","HostPort":"1"}]}}}"#;
        assert_eq!(port_bindings(&config(body).host_config.port_bindings).unwrap().len(), 2);
    }
}
