//! One container in full, as `docker inspect` shows it.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;

use super::containers::{EndpointSettings, MountPoint, NetworkIds, endpoints, network_ids, state_name};
use crate::api::rest::Context;
use crate::api::rest::extract::Path;
use crate::api::rest::libpod::images::Empty;
use crate::api::rest::libpod::inspect::{
    Facts, GraphDriver, HealthConfig, HostPort, InspectDevice, InspectRestartPolicy, InspectUlimit, devices,
    extra_hosts, graph_driver, host_ports, log_driver, namespace_mode, nano_cpus, network_mode,
    security_options,
};
use crate::api::rest::view::{ContainerView, MountView};
use crate::api::rest::{Outcome, reply, time};
use crate::engine::config::EngineConfig;
use crate::engine::container::state::ContainerState;
use crate::engine::id::NameOrId;

type Map<T> = BTreeMap<String, T>;
/// A list or map Go would write as `null`.
type Null = Option<()>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerJson<'a> {
    id: &'a str,
    created: String,
    path: String,
    args: Vec<String>,
    state: StateJson,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'a str,
    #[serde(rename = "ExecIDs")]
    exec_ids: &'a [String],
    host_config: HostConfig<'a>,
    graph_driver: GraphDriver,
    size_root_fs: u64,
    mounts: Vec<MountPoint>,
    config: Config<'a>,
    network_settings: NetworkSettings,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateJson {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: i32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    hostname: &'a str,
    domainname: &'static str,
    user: &'a str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "Map::is_empty")]
    exposed_ports: Map<Empty>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: &'a [String],
    cmd: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<HealthConfig<'a>>,
    image: &'a str,
    volumes: Null,
    working_dir: &'a str,
    entrypoint: &'a [String],
    on_build: Null,
    labels: &'a Map<String>,
    stop_signal: String,
    stop_timeout: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig<'a> {
    binds: Vec<String>,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: &'static str,
    log_config: LogConfig,
    network_mode: String,
    port_bindings: Map<Vec<HostPort>>,
    restart_policy: InspectRestartPolicy,
    auto_remove: bool,
    volume_driver: &'static str,
    volumes_from: Null,
    cap_add: &'a [String],
    cap_drop: &'a [String],
    cgroupns_mode: String,
    dns: Vec<String>,
    dns_options: &'a [String],
    dns_search: &'a [String],
    extra_hosts: Vec<String>,
    group_add: Vec<String>,
    ipc_mode: String,
    cgroup: &'static str,
    links: Null,
    oom_score_adj: i32,
    pid_mode: String,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    security_opt: Vec<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    tmpfs: Map<String>,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: &'static str,
    shm_size: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    sysctls: &'a Map<String>,
    runtime: &'static str,
    console_size: [u16; 2],
    isolation: &'static str,
    cpu_shares: u64,
    memory: u64,
    nano_cpus: i64,
    cgroup_parent: &'static str,
    blkio_weight: u16,
    blkio_weight_device: Null,
    blkio_device_read_bps: Null,
    blkio_device_write_bps: Null,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Null,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Null,
    cpu_period: u64,
    cpu_quota: i64,
    cpu_realtime_period: u64,
    cpu_realtime_runtime: i64,
    cpuset_cpus: &'a str,
    cpuset_mems: &'a str,
    devices: Vec<InspectDevice>,
    device_cgroup_rules: Null,
    device_requests: Null,
    kernel_memory: i64,
    #[serde(rename = "KernelMemoryTCP")]
    kernel_memory_tcp: i64,
    memory_reservation: u64,
    memory_swap: i64,
    memory_swappiness: Null,
    oom_kill_disable: bool,
    pids_limit: i64,
    ulimits: Vec<InspectUlimit>,
    cpu_count: u64,
    cpu_percent: u64,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: u64,
    masked_paths: Null,
    readonly_paths: Null,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    init: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    r#type: &'static str,
    config: Null,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: &'static str,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    ports: Map<Vec<HostPort>>,
    sandbox_key: &'static str,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Null,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Null,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'static str,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: Map<EndpointSettings>,
}

pub async fn inspect(State(context): State<Context>, Path(name): Path<NameOrId>) -> Outcome {
    let engine = &context.engine;
    let view = ContainerView::new(engine, engine.container(&name)?);
    Ok(reply::json(&ContainerJson::new(&view, &Facts::of(&context, &view), &network_ids(engine))))
}

impl<'a> ContainerJson<'a> {
    pub fn new(view: &'a ContainerView, facts: &'a Facts, ids: &NetworkIds) -> Self {
        let config = &facts.config;
        let record = &*view.record;
        let run_directory = config.container_run_dir(&record.id);
        let in_run = |name: &str| run_directory.join(name).to_string_lossy().into_owned();
        let network_files = view.network_files(config);
        let in_network = |name: &str| network_files.join(name).to_string_lossy().into_owned();
        let (path, args) = view.path_and_args();
        Self {
            id: record.id.as_str(),
            created: time::rfc3339(Some(record.created_at)),
            path,
            args,
            state: StateJson::new(view),
            image: format!("sha256:{}", view.image_id()),
            resolv_conf_path: in_network("resolv.conf"),
            hostname_path: in_run("hostname"),
            hosts_path: in_network("hosts"),
            log_path: view.log_path(config),
            name: format!("/{}", record.name),
            restart_count: record.restart_count,
            driver: "overlay",
            platform: "linux",
            mount_label: "",
            process_label: "",
            app_armor_profile: record.spec.security.apparmor_profile.as_deref().unwrap_or_default(),
            exec_ids: &facts.exec_ids,
            host_config: HostConfig::new(view, config),
            graph_driver: graph_driver(&config.container_dir(&record.id)),
            size_root_fs: view.image.as_ref().map_or(0, |image| image.size_bytes),
            mounts: view.mounts(config).iter().map(MountPoint::new).collect(),
            config: Config::new(view, &facts.env),
            network_settings: NetworkSettings::new(view, ids),
        }
    }
}

impl StateJson {
    fn new(view: &ContainerView) -> Self {
        let state = &view.record.state;
        let exit = state.exit_status();
        Self {
            status: state_name(state),
            // To docker a paused container runs.
            running: state.is_running(),
            paused: matches!(state, ContainerState::Paused(_)),
            restarting: false,
            oom_killed: exit.is_some_and(|status| status.oom_killed),
            dead: false,
            pid: view.pid(),
            exit_code: view.exit_code(),
            error: exit.and_then(|status| status.error.clone()).unwrap_or_default(),
            started_at: time::rfc3339(view.started_at()),
            finished_at: time::rfc3339(view.finished_at()),
        }
    }
}

impl<'a> Config<'a> {
    fn new(view: &'a ContainerView, env: &'a [String]) -> Self {
        let spec = &view.record.spec;
        let exposed = host_ports(&spec.published_ports).into_keys().map(|port| (port, Empty {}));
        Self {
            hostname: view.hostname(),
            domainname: "",
            user: view.user(),
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            exposed_ports: exposed.collect(),
            tty: spec.terminal,
            open_stdin: spec.stdin_open,
            stdin_once: false,
            env,
            cmd: view.command(),
            healthcheck: spec.healthcheck.as_ref().map(HealthConfig::new),
            image: &view.record.image_name,
            volumes: None,
            working_dir: view.working_dir(),
            entrypoint: view.entrypoint(),
            on_build: None,
            labels: &spec.labels,
            // podman writes the number as text.
            stop_signal: view.stop_signal().to_string(),
            stop_timeout: spec.stop_timeout_secs,
        }
    }
}

impl<'a> HostConfig<'a> {
    fn new(view: &'a ContainerView, config: &EngineConfig) -> Self {
        let spec = &view.record.spec;
        let limits = &spec.resources;
        let security = &spec.security;
        Self {
            binds: view.mounts(config).iter().map(MountView::bind).collect(),
            container_id_file: "",
            // Docker's clients read logs only of drivers they know.
            log_config: LogConfig {
                r#type: match log_driver(spec.log.driver) {
                    "k8s-file" => "json-file",
                    other => other,
                },
                config: None,
            },
            network_mode: network_mode(view),
            port_bindings: host_ports(&spec.published_ports),
            restart_policy: InspectRestartPolicy::new(spec.restart_policy),
            auto_remove: spec.auto_remove,
            volume_driver: "",
            volumes_from: None,
            cap_add: &security.capabilities_add,
            cap_drop: &security.capabilities_drop,
            cgroupns_mode: namespace_mode(&spec.cgroup_namespace, "private"),
            dns: spec.dns.servers.iter().map(ToString::to_string).collect(),
            dns_options: &spec.dns.options,
            dns_search: &spec.dns.searches,
            extra_hosts: extra_hosts(view),
            group_add: spec.supplemental_groups.iter().map(ToString::to_string).collect(),
            ipc_mode: namespace_mode(&spec.ipc_namespace, "shareable"),
            cgroup: "",
            links: None,
            oom_score_adj: spec.oom_score_adj.unwrap_or(0),
            pid_mode: namespace_mode(&spec.pid_namespace, "private"),
            privileged: security.privileged,
            publish_all_ports: false,
            readonly_rootfs: security.read_only_rootfs,
            security_opt: security_options(view),
            tmpfs: view.tmpfs(),
            uts_mode: namespace_mode(&spec.uts_namespace, "private"),
            userns_mode: "",
            shm_size: spec.shm_size_bytes.unwrap_or(64 << 20),
            sysctls: &spec.sysctls,
            runtime: "oci",
            console_size: [0, 0],
            isolation: "",
            cpu_shares: limits.cpu_shares.unwrap_or(0),
            memory: limits.memory_limit_bytes.unwrap_or(0),
            nano_cpus: nano_cpus(view),
            cgroup_parent: "",
            blkio_weight: 0,
            blkio_weight_device: None,
            blkio_device_read_bps: None,
            blkio_device_write_bps: None,
            blkio_device_read_iops: None,
            blkio_device_write_iops: None,
            cpu_period: limits.cpu_period_us.unwrap_or(0),
            cpu_quota: limits.cpu_quota_us.unwrap_or(0),
            cpu_realtime_period: 0,
            cpu_realtime_runtime: 0,
            cpuset_cpus: limits.cpuset_cpus.as_deref().unwrap_or_default(),
            cpuset_mems: limits.cpuset_mems.as_deref().unwrap_or_default(),
            devices: devices(view),
            device_cgroup_rules: None,
            device_requests: None,
            kernel_memory: 0,
            kernel_memory_tcp: 0,
            memory_reservation: limits.memory_reservation_bytes.unwrap_or(0),
            memory_swap: limits.memory_swap_bytes.unwrap_or(0),
            memory_swappiness: None,
            oom_kill_disable: false,
            pids_limit: limits.pids_limit.unwrap_or(2048),
            ulimits: spec.ulimits.iter().map(InspectUlimit::new).collect(),
            cpu_count: 0,
            cpu_percent: 0,
            io_maximum_iops: 0,
            io_maximum_bandwidth: 0,
            masked_paths: None,
            readonly_paths: None,
            init: spec.init,
        }
    }
}

impl NetworkSettings {
    fn new(view: &ContainerView, ids: &NetworkIds) -> Self {
        let networks = view.networks();
        let only = match networks.as_slice() {
            [(_, interface)] => *interface,
            _ => None,
        };
        let of = |v6: bool| only?.addresses.iter().find(|a| a.address.is_ipv6() == v6);
        let address = |v6: bool| of(v6).map(|a| a.address.to_string()).unwrap_or_default();
        let gateway = |v6: bool| of(v6).and_then(|a| a.gateway).map(|g| g.to_string()).unwrap_or_default();
        Self {
            bridge: "",
            sandbox_id: "",
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            ports: host_ports(view.ports()),
            sandbox_key: "",
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            endpoint_id: "",
            gateway: gateway(false),
            global_ipv6_address: address(true),
            global_ipv6_prefix_len: of(true).map_or(0, |a| a.prefix_len),
            ip_address: address(false),
            ip_prefix_len: of(false).map_or(0, |a| a.prefix_len),
            ipv6_gateway: gateway(true),
            mac_address: only.map(|i| i.mac.clone()).unwrap_or_default(),
            networks: endpoints(view, ids),
        }
    }
}
