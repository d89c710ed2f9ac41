//! `SpecGenerator`, podman's description of a container to make, and its way into a `ContainerSpec`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::rest::extract::Json;
use crate::api::rest::{Outcome, reply};
use crate::engine::Engine;
use crate::engine::config::RuntimeName;
use crate::engine::container::spec::{
    ContainerSpec, CreatedBy, Device, DnsConfig, Healthcheck, LogConfig, LogDriver, Mount, MountSource,
    NamespaceMode, NetworkAttachment, NetworkMode, PortMapping, Protocol, Resources, RestartPolicy,
    SeccompProfile, SecurityOptions, Ulimit,
};
use crate::engine::id::{ContainerId, ContainerName, NameOrId, NetworkName, VolumeName};
use crate::engine::pod::SharedNamespaces;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpecGenerator {
    pub name: String,
    pub pod: String,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub env_host: bool,
    pub terminal: bool,
    pub stdin: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub stop_signal: Option<i32>,
    pub stop_timeout: Option<u32>,
    pub timeout: u64,
    pub log_configuration: LogConfiguration,
    pub restart_policy: String,
    pub restart_tries: Option<u32>,
    pub oci_runtime: String,
    pub pidns: Namespace,
    pub utsns: Namespace,
    pub ipcns: Namespace,
    pub cgroupns: Namespace,
    pub userns: Namespace,
    pub netns: Namespace,
    pub hostname: String,
    pub sysctl: BTreeMap<String, String>,
    pub remove: bool,
    pub timezone: String,
    pub init_container_type: String,
    pub secret_env: BTreeMap<String, String>,
    pub unsetenv: Vec<String>,
    pub unsetenvall: bool,
    pub envmerge: Vec<String>,
    pub image: String,
    pub rootfs: String,
    pub rootfs_overlay: bool,
    pub volumes_from: Vec<String>,
    pub init: bool,
    pub mounts: Vec<SpecMount>,
    pub volumes: Vec<NamedVolume>,
    pub overlay_volumes: Vec<serde_json::Value>,
    pub image_volumes: Vec<serde_json::Value>,
    pub devices: Vec<SpecDevice>,
    pub device_cgroup_rule: Vec<serde_json::Value>,
    pub devices_from: Vec<String>,
    pub shm_size: Option<u64>,
    pub work_dir: String,
    pub storage_opts: BTreeMap<String, String>,
    pub secrets: Vec<serde_json::Value>,
    pub chroot_directories: Vec<String>,
    pub privileged: bool,
    pub user: String,
    pub groups: Vec<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub selinux_opts: Vec<String>,
    pub apparmor_profile: String,
    pub seccomp_policy: String,
    pub seccomp_profile_path: String,
    pub no_new_privileges: bool,
    pub read_only_filesystem: bool,
    pub umask: String,
    pub procfs_opts: Vec<String>,
    pub mask: Vec<String>,
    pub unmask: Vec<String>,
    pub cgroups_mode: String,
    pub cgroup_parent: String,
    pub portmappings: Vec<SpecPort>,
    pub publish_image_ports: bool,
    pub expose: BTreeMap<String, String>,
    #[serde(rename = "Networks")]
    pub networks: BTreeMap<String, PerNetworkOptions>,
    pub cni_networks: Vec<String>,
    pub use_image_resolve_conf: bool,
    pub use_image_hosts: bool,
    pub dns_server: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_option: Vec<String>,
    pub hostadd: Vec<String>,
    pub resource_limits: ResourceLimits,
    pub r_limits: Vec<SpecUlimit>,
    pub oom_score_adj: Option<i32>,
    #[serde(rename = "weightDevice")]
    pub weight_device: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "throttleReadBpsDevice")]
    pub throttle_read_bps: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "throttleWriteBpsDevice")]
    pub throttle_write_bps: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops: BTreeMap<String, serde_json::Value>,
    pub unified: BTreeMap<String, String>,
    pub healthconfig: Option<HealthConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogConfiguration {
    driver: String,
    path: String,
    size: i64,
    options: BTreeMap<String, String>,
}

/// `nsmode` and what it refers to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub nsmode: String,
    pub value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpecMount {
    destination: String,
    r#type: String,
    source: String,
    options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamedVolume {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Dest")]
    dest: String,
    #[serde(rename = "Options")]
    options: Vec<String>,
    #[serde(rename = "IsAnonymous")]
    is_anonymous: bool,
    #[serde(rename = "SubPath")]
    sub_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpecDevice {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpecPort {
    pub host_ip: String,
    pub container_port: u16,
    pub host_port: u16,
    pub range: u16,
    pub protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PerNetworkOptions {
    static_ips: Vec<IpAddr>,
    aliases: Vec<String>,
    static_mac: String,
    interface_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    memory: Memory,
    cpu: Cpu,
    pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    block_io: BTreeMap<String, serde_json::Value>,
    devices: Vec<serde_json::Value>,
    #[serde(rename = "hugepageLimits")]
    hugepage_limits: Vec<serde_json::Value>,
    rdma: BTreeMap<String, serde_json::Value>,
    unified: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
    reservation: Option<i64>,
    swap: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: String,
    mems: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpecUlimit {
    r#type: String,
    hard: u64,
    soft: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HealthConfig {
    #[serde(rename = "Test")]
    pub test: Vec<String>,
    #[serde(rename = "StartPeriod")]
    pub start_period: u64,
    #[serde(rename = "Interval")]
    pub interval: u64,
    #[serde(rename = "Timeout")]
    pub timeout: u64,
    #[serde(rename = "Retries")]
    pub retries: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerCreateResponse<'a> {
    pub id: &'a str,
    pub warnings: &'a [String],
}

pub async fn create(State(engine): State<Engine>, Json(generator): Json<SpecGenerator>) -> Outcome {
    let spec = generator.into_spec(&engine)?;
    let record = engine.create_container(spec).await?;
    let response = ContainerCreateResponse { id: record.id.as_str(), warnings: &[] };
    Ok(reply::json_with_status(StatusCode::CREATED, &response))
}

impl SpecGenerator {
    fn into_spec(self, engine: &Engine) -> Result<ContainerSpec, ApiError> {
        self.refuse_unsupported()?;
        let pod = match self.pod.as_str() {
            "" => None,
            name => Some(engine.pod(&NameOrId::from(name))?),
        };
        let inherited = Inherited::of(pod.as_ref().map(|pod| pod.spec.share));
        let mut published_ports = ports(&self.portmappings)?;
        if self.publish_image_ports {
            publish_exposed(&mut published_ports, &exposed_ports(engine, &self.image, &self.expose)?);
        }
        let network = network_mode(&self.netns, self.networks, &self.cni_networks, inherited.net, engine)?;
        Ok(ContainerSpec {
            name: container_name(&self.name)?,
            image: self.image,
            rootfs: filled(self.rootfs).map(PathBuf::from),
            entrypoint: self.entrypoint.filter(|words| words.iter().any(|word| !word.is_empty())),
            command: self.command.filter(|words| !words.is_empty()),
            env: self.env,
            working_dir: filled(self.work_dir),
            user: filled(self.user),
            supplemental_groups: groups(&self.groups)?,
            terminal: self.terminal,
            stdin_open: self.stdin,
            hostname: filled(self.hostname),
            labels: self.labels,
            annotations: self.annotations,
            mounts: mounts(self.mounts, self.volumes)?,
            network,
            published_ports,
            dns: dns(&self.dns_server, self.dns_search, self.dns_option)?,
            hosts: extra_hosts(&self.hostadd)?,
            pid_namespace: namespace("pidns", &self.pidns, inherited.pid, engine)?,
            ipc_namespace: namespace("ipcns", &self.ipcns, inherited.ipc, engine)?,
            uts_namespace: namespace("utsns", &self.utsns, inherited.uts, engine)?,
            cgroup_namespace: namespace("cgroupns", &self.cgroupns, NamespaceMode::Private, engine)?,
            security: SecurityOptions {
                privileged: self.privileged,
                read_only_rootfs: self.read_only_filesystem,
                no_new_privileges: self.no_new_privileges,
                capabilities_add: capabilities(&self.cap_add),
                capabilities_drop: capabilities(&self.cap_drop),
                seccomp: seccomp(&self.seccomp_profile_path),
                apparmor_profile: filled(self.apparmor_profile),
                selinux_label: None,
                unmasked: unmasked(&self.unmask)?,
                run_as_non_root: false,
            },
            resources: self.resource_limits.into_resources()?,
            ulimits: self.r_limits.into_iter().map(SpecUlimit::into_ulimit).collect(),
            sysctls: self.sysctl,
            devices: self
                .devices
                .iter()
                .map(|device| parse_device(&device.path))
                .collect::<Result<_, _>>()?,
            shm_size_bytes: self.shm_size,
            oom_score_adj: self.oom_score_adj,
            stop_signal: self.stop_signal,
            stop_timeout_secs: self.stop_timeout.unwrap_or(10),
            restart_policy: restart_policy(&self.restart_policy, self.restart_tries)?,
            log: self.log_configuration.into_log()?,
            init: self.init,
            auto_remove: self.remove,
            healthcheck: self.healthconfig.and_then(HealthConfig::into_healthcheck),
            umask: umask(&self.umask)?,
            timezone: filled(self.timezone),
            runtime: runtime(&self.oci_runtime),
            created_by: CreatedBy::Api,
            pod: pod.map(|pod| pod.id.clone()),
        })
    }

    /// What is asked for and cannot be kept is refused, not dropped.
    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let limits = &self.resource_limits;
        let asked = [
            ("env_host", self.env_host),
            ("timeout", self.timeout != 0),
            ("userns", !matches!(self.userns.nsmode.as_str(), "" | "default" | "host")),
            ("init_container_type", !self.init_container_type.is_empty()),
            ("secret_env", !self.secret_env.is_empty()),
            ("unsetenv", self.unsetenvall || !self.unsetenv.is_empty()),
            ("envmerge", !self.envmerge.is_empty()),
            ("rootfs_overlay", self.rootfs_overlay),
            ("volumes_from", !self.volumes_from.is_empty()),
            ("overlay_volumes", !self.overlay_volumes.is_empty()),
            ("image_volumes", !self.image_volumes.is_empty()),
            ("device_cgroup_rule", !self.device_cgroup_rule.is_empty() || !limits.devices.is_empty()),
            ("devices_from", !self.devices_from.is_empty()),
            ("storage_opts", !self.storage_opts.is_empty()),
            ("secrets", !self.secrets.is_empty()),
            ("chroot_directories", !self.chroot_directories.is_empty()),
            // `disable` asks for what is the case; anything else for a label we cannot set.
            ("selinux_opts", self.selinux_opts.iter().any(|option| option != "disable")),
            ("procfs_opts", !self.procfs_opts.is_empty()),
            ("mask", !self.mask.is_empty()),
            ("cgroups_mode", !matches!(self.cgroups_mode.as_str(), "" | "default" | "enabled")),
            ("cgroup_parent", !self.cgroup_parent.is_empty()),
            ("use_image_resolve_conf", self.use_image_resolve_conf),
            ("use_image_hosts", self.use_image_hosts),
            ("hugepage limits", !limits.hugepage_limits.is_empty() || !limits.rdma.is_empty()),
            ("unified", !self.unified.is_empty() || !limits.unified.is_empty()),
            (
                "block I/O limits",
                !limits.block_io.is_empty()
                    || [
                        &self.weight_device,
                        &self.throttle_read_bps,
                        &self.throttle_write_bps,
                        &self.throttle_read_iops,
                        &self.throttle_write_iops,
                    ]
                    .iter()
                    .any(|devices| !devices.is_empty()),
            ),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((option, _)) => Err(ApiError::not_supported(format_args!("{option} of a container"))),
            None => Ok(()),
        }
    }
}

impl LogConfiguration {
    fn into_log(self) -> Result<LogConfig, ApiError> {
        let given = |name: &str| self.options.get(name).cloned();
        Ok(LogConfig {
            driver: log_driver(&self.driver)?,
            path: filled(self.path.clone()).or_else(|| given("path")).map(PathBuf::from),
            max_size_bytes: u64::try_from(self.size).ok().filter(|size| *size > 0),
            tag: given("tag"),
        })
    }
}

impl ResourceLimits {
    pub fn into_resources(self) -> Result<Resources, ApiError> {
        let positive = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        Ok(Resources {
            memory_limit_bytes: positive(self.memory.limit),
            memory_reservation_bytes: positive(self.memory.reservation),
            memory_swap_bytes: self.memory.swap.filter(|swap| *swap != 0),
            cpu_quota_us: self.cpu.quota.filter(|quota| *quota > 0),
            cpu_period_us: self.cpu.period.filter(|period| *period > 0),
            cpu_shares: self.cpu.shares.filter(|shares| *shares > 0),
            cpuset_cpus: filled(self.cpu.cpus),
            cpuset_mems: filled(self.cpu.mems),
            pids_limit: self.pids.and_then(|pids| pids.limit).filter(|limit| *limit != 0),
        })
    }
}

impl SpecUlimit {
    fn into_ulimit(self) -> Ulimit {
        let name = self.r#type.to_ascii_lowercase();
        let name = name.strip_prefix("rlimit_").map(str::to_owned).unwrap_or(name);
        Ulimit { name, soft: self.soft, hard: self.hard }
    }
}

impl HealthConfig {
    /// Times default as podman's do.
    pub fn into_healthcheck(self) -> Option<Healthcheck> {
        const SECOND: u64 = 1_000_000_000;
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        (!self.test.is_empty()).then(|| Healthcheck {
            test: self.test,
            interval_ns: or(self.interval, 30 * SECOND),
            timeout_ns: or(self.timeout, 30 * SECOND),
            start_period_ns: self.start_period,
            retries: if self.retries == 0 { 3 } else { self.retries },
        })
    }
}

pub fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub fn container_name(name: &str) -> Result<Option<ContainerName>, ApiError> {
    match name.strip_prefix('/').unwrap_or(name) {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(|e| ApiError::bad_request(format!("{e}"))),
    }
}

pub fn groups(groups: &[String]) -> Result<Vec<u32>, ApiError> {
    let parse = |group: &String| {
        let refuse = || ApiError::not_supported(format_args!("supplemental group {group:?} by name"));
        group.parse().map_err(|_| refuse())
    };
    groups.iter().map(parse).collect()
}

pub fn capabilities(names: &[String]) -> Vec<String> {
    let normal = |name: &String| match name.to_ascii_uppercase() {
        all if all == "ALL" => all,
        name if name.starts_with("CAP_") => name,
        name => format!("CAP_{name}"),
    };
    names.iter().map(normal).collect()
}

pub fn seccomp(path: &str) -> SeccompProfile {
    match path {
        "" | "default" => SeccompProfile::Default,
        "unconfined" => SeccompProfile::Unconfined,
        path => SeccompProfile::File(PathBuf::from(path)),
    }
}

/// All of the masked paths or none: single ones cannot be lifted.
fn unmasked(paths: &[String]) -> Result<bool, ApiError> {
    match paths {
        [] => Ok(false),
        paths if paths.iter().any(|path| path.eq_ignore_ascii_case("all")) => Ok(true),
        _ => Err(ApiError::not_supported("unmasking single paths of a container")),
    }
}

pub fn log_driver(name: &str) -> Result<LogDriver, ApiError> {
    match name {
        "" | "k8s-file" => Ok(LogDriver::K8sFile),
        "json-file" => Ok(LogDriver::JsonFile),
        "none" => Ok(LogDriver::None),
        other => Err(ApiError::not_supported(format_args!("log driver {other:?}"))),
    }
}

pub fn restart_policy(name: &str, tries: Option<u32>) -> Result<RestartPolicy, ApiError> {
    match name {
        "" | "no" | "never" => Ok(RestartPolicy::No),
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "on-failure" => Ok(RestartPolicy::OnFailure { max_retries: tries.filter(|tries| *tries > 0) }),
        other => Err(ApiError::bad_request(format!("invalid restart policy: {other:?}"))),
    }
}

fn umask(text: &str) -> Result<Option<u32>, ApiError> {
    match text {
        "" => Ok(None),
        text => u32::from_str_radix(text, 8)
            .map(Some)
            .map_err(|e| ApiError::bad_request(format!("invalid umask {text:?}: {e}"))),
    }
}

pub fn runtime(name: &str) -> Option<RuntimeName> {
    match name {
        // `oci` is what podman's inspect prints for its default.
        "" | "oci" => None,
        "selkie" => Some(RuntimeName::Selkie),
        name => Some(RuntimeName::External(name.to_owned())),
    }
}

pub fn dns(servers: &[String], searches: Vec<String>, options: Vec<String>) -> Result<DnsConfig, ApiError> {
    let address = |server: &String| {
        server.parse().map_err(|e| ApiError::bad_request(format!("invalid DNS server {server:?}: {e}")))
    };
    Ok(DnsConfig { servers: servers.iter().map(address).collect::<Result<_, _>>()?, searches, options })
}

/// `name:address`, several names parted by `;`.
pub fn extra_hosts(entries: &[String]) -> Result<Vec<(IpAddr, Vec<String>)>, ApiError> {
    let parse = |entry: &String| {
        let (names, address) = entry.split_once(':')?;
        let address = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some((address, names.split(';').map(str::to_owned).collect()))
    };
    let refuse = |entry: &String| ApiError::bad_request(format!("invalid host entry {entry:?}"));
    entries.iter().map(|entry| parse(entry).ok_or_else(|| refuse(entry))).collect()
}

/// `/dev/host[:/dev/container[:rwm]]`.
pub fn parse_device(text: &str) -> Result<Device, ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_permissions = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (*host, *host, *permissions),
        [host, container] => (*host, *container, "rwm"),
        [host, container, permissions] if is_permissions(permissions) => (*host, *container, *permissions),
        _ => return Err(ApiError::bad_request(format!("invalid device {text:?}"))),
    };
    Ok(Device {
        host_path: PathBuf::from(host),
        container_path: PathBuf::from(container),
        permissions: permissions.to_owned(),
    })
}

pub fn ports(ports: &[SpecPort]) -> Result<Vec<PortMapping>, ApiError> {
    let mut mappings = Vec::new();
    for port in ports {
        let host_address = host_address(&port.host_ip)?;
        let protocols = if port.protocol.is_empty() { "tcp" } else { &port.protocol };
        for name in protocols.split(',') {
            mappings.push(PortMapping {
                host_address,
                host_port: port.host_port,
                container_port: port.container_port,
                range: port.range.max(1),
                protocol: protocol(name)?,
            });
        }
    }
    Ok(mappings)
}

pub fn host_address(text: &str) -> Result<IpAddr, ApiError> {
    match text {
        "" => Ok(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        text => {
            text.parse().map_err(|e| ApiError::bad_request(format!("invalid host address {text:?}: {e}")))
        }
    }
}

pub fn protocol(name: &str) -> Result<Protocol, ApiError> {
    match name.trim().to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(ApiError::bad_request(format!("unknown protocol {name:?}"))),
    }
}

/// Ports the image or the request declares, as `80/tcp`.
pub fn exposed_ports(
    engine: &Engine,
    image: &str,
    expose: &BTreeMap<String, String>,
) -> Result<BTreeSet<(u16, Protocol)>, ApiError> {
    let image = engine.image(image)?;
    let declared = image.config.config().as_ref().and_then(|config| config.exposed_ports().clone());
    let mut ports = BTreeSet::new();
    for text in declared.unwrap_or_default() {
        ports.insert(parse_port(&text)?);
    }
    for (port, protocols) in expose {
        for name in protocols.split(',') {
            ports.insert(parse_port(&format!("{port}/{}", if name.is_empty() { "tcp" } else { name }))?);
        }
    }
    Ok(ports)
}

/// `80` or `80/udp`.
pub fn parse_port(text: &str) -> Result<(u16, Protocol), ApiError> {
    let (port, name) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().map_err(|e| ApiError::bad_request(format!("invalid port {text:?}: {e}")))?;
    Ok((port, protocol(name)?))
}

/// Gives every exposed port without a mapping one with a host port to be chosen.
pub fn publish_exposed(mappings: &mut Vec<PortMapping>, exposed: &BTreeSet<(u16, Protocol)>) {
    for (port, protocol) in exposed {
        let covered = mappings.iter().any(|m| {
            m.protocol == *protocol && (m.container_port..m.container_port + m.range).contains(port)
        });
        if !covered {
            mappings.push(PortMapping::new(0, *port, *protocol));
        }
    }
}

pub fn network_attachment(name: &str, options: PerNetworkOptions) -> Result<NetworkAttachment, ApiError> {
    Ok(NetworkAttachment {
        network: network_name(name)?,
        aliases: options.aliases,
        static_addresses: options.static_ips,
        static_mac: filled(options.static_mac),
        interface: filled(options.interface_name),
    })
}

/// `default` and docker's `bridge` mean the default network.
pub fn network_name(name: &str) -> Result<NetworkName, ApiError> {
    let name = match name {
        "default" | "bridge" => crate::api::rest::view::DEFAULT_NETWORK,
        name => name,
    };
    name.parse().map_err(|e| ApiError::bad_request(format!("{e}")))
}

fn network_mode(
    netns: &Namespace,
    networks: BTreeMap<String, PerNetworkOptions>,
    cni_networks: &[String],
    in_pod: bool,
    engine: &Engine,
) -> Result<NetworkMode, ApiError> {
    let mut attachments =
        networks.into_iter().map(|(n, o)| network_attachment(&n, o)).collect::<Result<Vec<_>, _>>()?;
    if attachments.is_empty() {
        for name in cni_networks {
            attachments.push(network_attachment(name, PerNetworkOptions::default())?);
        }
    }
    match netns.nsmode.as_str() {
        "pod" => Ok(NetworkMode::Pod),
        "" | "default" | "private" | "bridge" if in_pod => Ok(NetworkMode::Pod),
        "" | "default" | "private" | "bridge" => Ok(NetworkMode::Bridge(attachments)),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        "container" => Ok(NetworkMode::Container(container_id(&netns.value, engine)?)),
        "path" => Ok(NetworkMode::Path(PathBuf::from(&netns.value))),
        other => Err(ApiError::not_supported(format_args!("network mode {other:?}"))),
    }
}

/// The namespaces a container has that asks for none: its pod's, as far as the pod shares them.
struct Inherited {
    net: bool,
    pid: NamespaceMode,
    ipc: NamespaceMode,
    uts: NamespaceMode,
}

impl Inherited {
    fn of(shared: Option<SharedNamespaces>) -> Self {
        let mode = |shared: bool, host: bool| match (shared, host) {
            (_, true) => NamespaceMode::Host,
            (true, false) => NamespaceMode::Pod,
            (false, false) => NamespaceMode::Private,
        };
        match shared {
            Some(share) => Self {
                net: share.net,
                pid: mode(share.pid, share.host_pid),
                ipc: mode(share.ipc, share.host_ipc),
                uts: mode(share.uts, false),
            },
            None => Self {
                net: false,
                pid: NamespaceMode::Private,
                ipc: NamespaceMode::Private,
                uts: NamespaceMode::Private,
            },
        }
    }
}

fn namespace(
    option: &str,
    namespace: &Namespace,
    inherited: NamespaceMode,
    engine: &Engine,
) -> Result<NamespaceMode, ApiError> {
    match namespace.nsmode.as_str() {
        "" | "default" => Ok(inherited),
        "pod" => Ok(NamespaceMode::Pod),
        "private" | "shareable" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        "container" => Ok(NamespaceMode::Container(container_id(&namespace.value, engine)?)),
        "path" => Ok(NamespaceMode::Path(PathBuf::from(&namespace.value))),
        other => Err(ApiError::not_supported(format_args!("{option} {other:?}"))),
    }
}

pub fn container_id(name: &str, engine: &Engine) -> Result<ContainerId, ApiError> {
    Ok(engine.container(&NameOrId::from(name))?.id.clone())
}

fn mounts(mounts: Vec<SpecMount>, volumes: Vec<NamedVolume>) -> Result<Vec<Mount>, ApiError> {
    let mut all = Vec::new();
    for mount in mounts {
        let source = match mount.r#type.as_str() {
            "bind" | "" => MountSource::Bind(PathBuf::from(&mount.source)),
            "tmpfs" => tmpfs_source(&mount.options)?,
            other => return Err(ApiError::not_supported(format_args!("mount type {other:?}"))),
        };
        all.push(mount_of(mount.destination, source, mount.options));
    }
    for volume in volumes {
        let sub_path = filled(volume.sub_path).map(PathBuf::from);
        let source = match volume.name.as_str() {
            "" => MountSource::AnonymousVolume,
            _ if volume.is_anonymous => MountSource::AnonymousVolume,
            name => MountSource::Volume { name: volume_name(name)?, sub_path },
        };
        all.push(mount_of(volume.dest, source, volume.options));
    }
    Ok(all)
}

pub fn volume_name(name: &str) -> Result<VolumeName, ApiError> {
    name.parse().map_err(|e| ApiError::bad_request(format!("{e}")))
}

/// A mount with what its options say about access and relabelling taken out of them.
pub fn mount_of(destination: String, source: MountSource, options: Vec<String>) -> Mount {
    let read_only = options.iter().any(|option| option == "ro" || option == "readonly");
    // Relabelling (z, Z) has nothing to do without SELinux; copying up is what volumes do anyway.
    const WITHOUT_EFFECT: [&str; 9] =
        ["ro", "readonly", "rw", "z", "Z", "copy", "tmpcopyup", "", "consistent"];
    let tmpfs = matches!(source, MountSource::Tmpfs { .. });
    let keep = |option: &String| {
        !WITHOUT_EFFECT.contains(&option.as_str())
            && !(tmpfs && (option.starts_with("size=") || option.starts_with("mode=")))
    };
    Mount { destination, source, read_only, options: options.into_iter().filter(keep).collect() }
}

pub fn tmpfs_source(options: &[String]) -> Result<MountSource, ApiError> {
    let given = |name: &str| options.iter().rev().find_map(|option| option.strip_prefix(name));
    let size_bytes = given("size=").map(parse_size).transpose()?;
    let mode = given("mode=").map(|mode| {
        u32::from_str_radix(mode, 8).map_err(|e| ApiError::bad_request(format!("invalid mode {mode:?}: {e}")))
    });
    Ok(MountSource::Tmpfs { size_bytes, mode: mode.transpose()? })
}

/// A size as mount(8) and docker write it: `64m`, `1g`, plain bytes.
fn parse_size(text: &str) -> Result<u64, ApiError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" => Some(1 << 10),
        "m" | "mb" => Some(1 << 20),
        "g" | "gb" => Some(1 << 30),
        _ => None,
    };
    let size = text[..digits].parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
    size.ok_or_else(|| ApiError::bad_request(format!("invalid size {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::json;

    fn generator(body: &str) -> SpecGenerator {
        json::decode(body.as_bytes()).unwrap()
    }

    #[test]
    fn what_podman_sends_is_understood() {
        // From `podman --remote run --rm -i ...` of 4.3.1, shortened.
        let spec = generator(
            r#"{"command":["cat"],"httpproxy":true,"env":{"A":"B"},"stdin":true,"stop_timeout":10,
            "log_configuration":{},"systemd":"true","sdnotifyMode":"container","pidns":{},"hostname":"hh",
            "remove":true,"init_container_type":"","manage_password":true,"image":"localhost/bb:1",
            "mounts":[{"destination":"/host","type":"bind","source":"/tmp","options":["ro"]}],
            "volumes":[{"Name":"vol9","Dest":"/v","Options":null,"IsAnonymous":false}],"ipcns":{},
            "work_dir":"/tmp","volatile":true,"user":"1000","seccomp_policy":"default","userns":{},
            "idmappings":{"HostUIDMapping":true},"umask":"0022","cgroups_mode":"enabled",
            "netns":{"nsmode":"bridge"},"Networks":{"podman":{"interface_name":""}},
            "portmappings":[{"host_ip":"","container_port":80,"host_port":8077,"range":1,"protocol":""}],
            "resource_limits":{"memory":{"limit":67108864,"swap":134217728},
            "cpu":{"quota":50000,"period":100000}}}"#,
        );
        spec.refuse_unsupported().unwrap();
        assert_eq!(ports(&spec.portmappings).unwrap(), [PortMapping::new(8077, 80, Protocol::Tcp)]);
        assert_eq!(umask(&spec.umask).unwrap(), Some(0o022));
        let mounts = mounts(spec.mounts, spec.volumes).unwrap();
        assert!(mounts[0].read_only && mounts[0].options.is_empty());
        assert!(matches!(&mounts[1].source, MountSource::Volume { name, .. } if name.as_str() == "vol9"));
        let limits = spec.resource_limits.into_resources().unwrap();
        assert_eq!(limits.memory_limit_bytes, Some(64 << 20));
        assert_eq!((limits.cpu_quota_us, limits.cpu_period_us), (Some(50_000), Some(100_000)));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        for (body, option) in [
            (r#"{"userns":{"nsmode":"auto"}}"#, "userns"),
            (r#"{"secrets":[{"Source":"s"}]}"#, "secrets"),
            (r#"{"volumes_from":["x"]}"#, "volumes_from"),
            (r#"{"mask":["/proc/x"]}"#, "mask"),
            (r#"{"throttleReadBpsDevice":{"/dev/sda":{"rate":1}}}"#, "block I/O"),
            (r#"{"resource_limits":{"unified":{"memory.high":"1"}}}"#, "unified"),
        ] {
            let error = generator(body).refuse_unsupported().unwrap_err();
            let text = error.render(crate::api::error::Dialect::Libpod).1.unwrap().message;
            assert!(text.contains(option), "{text}");
        }
    }

    #[test]
    fn small_languages_parse() {
        assert_eq!(parse_port("80/udp").unwrap(), (80, Protocol::Udp));
        assert!(parse_port("80/x").is_err());
        let device = parse_device("/dev/a:/dev/b:r").unwrap();
        assert_eq!((device.container_path, device.permissions), (PathBuf::from("/dev/b"), "r".to_owned()));
        assert_eq!(parse_device("/dev/a:rw").unwrap().permissions, "rw");
        assert!(parse_device("a:b:c:d").is_err());
        assert_eq!(extra_hosts(&["a;b:10.0.0.1".into()]).unwrap()[0].1, ["a", "b"]);
        assert_eq!(extra_hosts(&["a:::1".into()]).unwrap()[0].0, "::1".parse::<IpAddr>().unwrap());
        assert!(extra_hosts(&["a".into()]).is_err());
        assert_eq!(parse_size("64m").unwrap(), 64 << 20);
        assert!(parse_size("64x").is_err() && parse_size("99999999999999999999g").is_err());
        assert_eq!(capabilities(&["net_admin".into(), "all".into()]), ["CAP_NET_ADMIN", "ALL"]);
    }

    #[test]
    fn exposed_ports_are_published_unless_they_are() {
        let mut mappings = vec![PortMapping::new(8080, 80, Protocol::Tcp)];
        let exposed = BTreeSet::from([(80, Protocol::Tcp), (53, Protocol::Udp)]);
        publish_exposed(&mut mappings, &exposed);
        assert_eq!(mappings[1..], [PortMapping::new(0, 53, Protocol::Udp)]);
    }
}
