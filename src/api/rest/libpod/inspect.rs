//! One container in full, as `podman inspect` shows it.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;

use crate::api::rest::extract::Path;
use crate::api::rest::version::{ApiVersion, is_before};
use crate::api::rest::view::{ContainerView, MountView};
use crate::api::rest::{Context, Outcome, reply, signal, time};
use crate::engine::Engine;
use crate::engine::config::{EngineConfig, RuntimeName};
use crate::engine::container::spec::{
    Healthcheck, LogDriver, NamespaceMode, NetworkMode, PortMapping, RestartPolicy, SeccompProfile, Ulimit,
};
use crate::engine::container::state::ContainerState;
use crate::engine::id::NameOrId;
use crate::engine::network::InterfaceStatus;

type Map<T> = BTreeMap<String, T>;
/// A list or map Go would write as `null`.
type Null = Option<()>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectContainerData<'a> {
    id: &'a str,
    created: String,
    path: String,
    args: Vec<String>,
    state: InspectContainerState,
    image: &'a str,
    image_digest: &'a str,
    image_name: &'a str,
    rootfs: String,
    pod: &'a str,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    static_dir: String,
    #[serde(rename = "OCIConfigPath")]
    oci_config_path: String,
    #[serde(rename = "OCIRuntime")]
    oci_runtime: String,
    conmon_pid_file: &'static str,
    pid_file: &'static str,
    name: &'a str,
    restart_count: u32,
    driver: &'static str,
    mount_label: &'static str,
    process_label: &'a str,
    app_armor_profile: &'a str,
    effective_caps: &'a [String],
    bounding_caps: &'a [String],
    #[serde(rename = "ExecIDs")]
    exec_ids: &'a [String],
    graph_driver: GraphDriver,
    mounts: Vec<InspectMount>,
    dependencies: [(); 0],
    network_settings: NetworkSettings<'a>,
    namespace: &'static str,
    is_infra: bool,
    is_service: bool,
    kube_exit_code_propagation: &'static str,
    #[serde(rename = "lockNumber")]
    lock_number: u32,
    use_image_hosts: bool,
    use_image_hostname: bool,
    config: Config<'a>,
    host_config: HostConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectContainerState {
    oci_version: &'static str,
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    conmon_pid: Option<i32>,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    health: Option<Health>,
    checkpointed_at: &'static str,
    restored_at: &'static str,
    stopped_by_user: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: &'static str,
    failing_streak: u32,
    log: Null,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    name: &'static str,
    data: Map<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectMount {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    source: String,
    destination: String,
    driver: &'static str,
    mode: &'static str,
    options: Vec<String>,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: String,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BasicNetwork {
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
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSettings<'a> {
    #[serde(flatten)]
    basic: BasicNetwork,
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: &'static str,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    ports: Map<Vec<HostPort>>,
    sandbox_key: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    networks: Map<AdditionalNetwork>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AdditionalNetwork {
    #[serde(flatten)]
    basic: BasicNetwork,
    #[serde(rename = "NetworkID")]
    network_id: String,
    driver_opts: Null,
    #[serde(rename = "IPAMConfig")]
    ipam_config: Null,
    links: Null,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPort {
    host_ip: String,
    host_port: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config<'a> {
    hostname: &'a str,
    domainname: &'static str,
    user: &'a str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: &'a [String],
    cmd: &'a [String],
    image: &'a str,
    volumes: Null,
    working_dir: &'a str,
    entrypoint: Entrypoint<'a>,
    on_build: Null,
    labels: Option<&'a Map<String>>,
    annotations: &'a Map<String>,
    stop_signal: StopSignal,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<HealthConfig<'a>>,
    healthcheck_on_failure_action: &'static str,
    create_command: Null,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    umask: String,
    timeout: u32,
    stop_timeout: u32,
    passwd: bool,
    #[serde(rename = "sdNotifyMode")]
    sd_notify_mode: &'static str,
}

/// One text before podman 5, a list since.
#[derive(Serialize)]
#[serde(untagged)]
enum Entrypoint<'a> {
    Text(String),
    List(&'a [String]),
}

/// A number before podman 5, a name since.
#[derive(Serialize)]
#[serde(untagged)]
enum StopSignal {
    Number(i32),
    Name(String),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthConfig<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    test: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    start_period: u64,
    #[serde(skip_serializing_if = "is_zero")]
    interval: u64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig<'a> {
    binds: Vec<String>,
    cgroup_manager: &'static str,
    cgroup_mode: String,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: &'static str,
    log_config: InspectLogConfig<'a>,
    network_mode: String,
    port_bindings: Map<Vec<HostPort>>,
    restart_policy: InspectRestartPolicy,
    auto_remove: bool,
    auto_remove_image: bool,
    annotations: &'a Map<String>,
    volume_driver: &'static str,
    volumes_from: Null,
    cap_add: &'a [String],
    cap_drop: &'a [String],
    dns: Vec<String>,
    dns_options: &'a [String],
    dns_search: &'a [String],
    extra_hosts: Vec<String>,
    hosts_file: &'static str,
    group_add: Vec<String>,
    ipc_mode: String,
    cgroup: &'static str,
    cgroups: &'static str,
    links: Null,
    oom_score_adj: i32,
    pid_mode: String,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    security_opt: Vec<String>,
    tmpfs: Map<String>,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: &'static str,
    shm_size: u64,
    runtime: &'static str,
    console_size: [u16; 2],
    isolation: &'static str,
    cpu_shares: u64,
    memory: u64,
    nano_cpus: i64,
    cgroup_parent: &'a str,
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
    disk_quota: u64,
    kernel_memory: i64,
    memory_reservation: u64,
    memory_swap: i64,
    memory_swappiness: i64,
    oom_kill_disable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    init: bool,
    pids_limit: i64,
    ulimits: Vec<InspectUlimit>,
    cpu_count: u64,
    cpu_percent: u64,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: u64,
    cgroup_conf: Null,
    #[serde(rename = "IntelRdtClosID")]
    intel_rdt_clos_id: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectLogConfig<'a> {
    r#type: &'static str,
    config: Null,
    path: String,
    tag: &'a str,
    size: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectRestartPolicy {
    pub name: &'static str,
    pub maximum_retry_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectDevice {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InspectUlimit {
    name: String,
    soft: i64,
    hard: i64,
}

pub async fn inspect(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    version: Option<ApiVersion>,
) -> Outcome {
    let engine = &context.engine;
    let view = ContainerView::new(engine, engine.container(&name)?);
    let facts = Facts::of(&context, &view);
    Ok(reply::json(&InspectContainerData::new(&view, &facts, version)))
}

impl<'a> InspectContainerData<'a> {
    pub fn new(view: &'a ContainerView, facts: &'a Facts, version: Option<ApiVersion>) -> Self {
        let record = &*view.record;
        let config = &facts.config;
        let spec = &record.spec;
        let directory = config.container_dir(&record.id);
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
            state: InspectContainerState::new(view, version),
            image: view.image_id(),
            image_digest: view.image.as_ref().map_or("", |image| image.manifest_digest.as_str()),
            image_name: &record.image_name,
            rootfs: spec.rootfs.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            pod: view.pod_id(),
            resolv_conf_path: in_network("resolv.conf"),
            hostname_path: in_run("hostname"),
            hosts_path: in_network("hosts"),
            static_dir: directory.to_string_lossy().into_owned(),
            oci_config_path: in_run("config.json"),
            oci_runtime: runtime_name(view, config),
            conmon_pid_file: "",
            pid_file: "",
            name: record.name.as_str(),
            restart_count: record.restart_count,
            driver: "overlay",
            mount_label: "",
            process_label: spec.security.selinux_label.as_deref().unwrap_or_default(),
            app_armor_profile: spec.security.apparmor_profile.as_deref().unwrap_or_default(),
            effective_caps: &facts.effective_capabilities,
            bounding_caps: &facts.bounding_capabilities,
            exec_ids: &facts.exec_ids,
            graph_driver: graph_driver(&directory),
            mounts: view.mounts(config).iter().map(InspectMount::new).collect(),
            dependencies: [],
            network_settings: NetworkSettings::new(view, &facts.sandbox_key),
            namespace: "",
            is_infra: false,
            is_service: false,
            kube_exit_code_propagation: "invalid",
            lock_number: 0,
            use_image_hosts: false,
            use_image_hostname: false,
            config: Config::new(view, &facts.env, version),
            host_config: HostConfig::new(view, config),
        }
    }
}

impl InspectContainerState {
    fn new(view: &ContainerView, version: Option<ApiVersion>) -> Self {
        let state = &view.record.state;
        let exit = state.exit_status();
        // Before podman 5 there is always a health, if only an empty one.
        let health = is_before(version, 5, 0).then_some(Health { status: "", failing_streak: 0, log: None });
        Self {
            oci_version: "1.2.0",
            status: state.as_str(),
            running: matches!(state, ContainerState::Running(_) | ContainerState::Stopping(_)),
            paused: matches!(state, ContainerState::Paused(_)),
            restarting: false,
            oom_killed: exit.is_some_and(|status| status.oom_killed),
            dead: false,
            pid: view.pid(),
            conmon_pid: state.process().map(|process| process.monitor_pid),
            exit_code: view.exit_code(),
            error: exit.and_then(|status| status.error.clone()).unwrap_or_default(),
            started_at: time::rfc3339(view.started_at()),
            finished_at: time::rfc3339(view.finished_at()),
            health,
            checkpointed_at: time::NEVER,
            restored_at: time::NEVER,
            stopped_by_user: view.record.stopped_by_user,
        }
    }
}

impl InspectMount {
    pub fn new(view: &MountView) -> Self {
        Self {
            r#type: view.kind,
            name: view.name.clone(),
            source: view.source.clone(),
            destination: view.mount.destination.clone(),
            driver: if view.name.is_some() { "local" } else { "" },
            mode: "",
            options: view.options(),
            rw: !view.mount.read_only,
            propagation: view.propagation().to_owned(),
        }
    }
}

impl BasicNetwork {
    fn new(interface: Option<&InterfaceStatus>) -> Self {
        let Some(interface) = interface else { return Self::default() };
        let first = |v6: bool| interface.addresses.iter().find(|a| a.address.is_ipv6() == v6);
        let text = |address: Option<std::net::IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        let (v4, v6) = (first(false), first(true));
        Self {
            endpoint_id: "",
            gateway: text(v4.and_then(|a| a.gateway)),
            ip_address: text(v4.map(|a| a.address)),
            ip_prefix_len: v4.map_or(0, |a| a.prefix_len),
            ipv6_gateway: text(v6.and_then(|a| a.gateway)),
            global_ipv6_address: text(v6.map(|a| a.address)),
            global_ipv6_prefix_len: v6.map_or(0, |a| a.prefix_len),
            mac_address: interface.mac.clone(),
        }
    }
}

impl<'a> NetworkSettings<'a> {
    fn new(view: &ContainerView, sandbox_key: &'a str) -> Self {
        let networks = view.networks();
        let additional = networks.iter().map(|(name, interface)| {
            let mut aliases = vec![view.record.id.short().to_owned()];
            aliases.extend(interface.iter().flat_map(|i| i.aliases.iter().cloned()));
            aliases.dedup();
            let network = AdditionalNetwork {
                basic: BasicNetwork::new(*interface),
                // podman puts the name here.
                network_id: (*name).to_owned(),
                driver_opts: None,
                ipam_config: None,
                links: None,
                aliases,
            };
            ((*name).to_owned(), network)
        });
        // Like docker, podman repeats the addresses at the top level if there is one network only.
        let basic = match networks.as_slice() {
            [(_, interface)] => BasicNetwork::new(*interface),
            _ => BasicNetwork::default(),
        };
        Self {
            basic,
            bridge: "",
            sandbox_id: "",
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            ports: host_ports(view.ports()),
            sandbox_key,
            networks: additional.collect(),
        }
    }
}

impl<'a> Config<'a> {
    fn new(view: &'a ContainerView, env: &'a [String], version: Option<ApiVersion>) -> Self {
        let spec = &view.record.spec;
        let old = is_before(version, 5, 0);
        Self {
            hostname: view.hostname(),
            domainname: "",
            user: view.user(),
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            tty: spec.terminal,
            open_stdin: spec.stdin_open,
            stdin_once: false,
            env,
            cmd: view.command(),
            image: &view.record.image_name,
            volumes: None,
            working_dir: view.working_dir(),
            entrypoint: match old {
                true => Entrypoint::Text(view.entrypoint().join(" ")),
                false => Entrypoint::List(view.entrypoint()),
            },
            on_build: None,
            labels: (!spec.labels.is_empty()).then_some(&spec.labels),
            annotations: &spec.annotations,
            stop_signal: match old {
                true => StopSignal::Number(view.stop_signal()),
                false => StopSignal::Name(signal::name(view.stop_signal())),
            },
            healthcheck: spec.healthcheck.as_ref().map(HealthConfig::new),
            healthcheck_on_failure_action: "none",
            create_command: None,
            timezone: spec.timezone.as_deref(),
            umask: format!("{:04o}", spec.umask.unwrap_or(0o022)),
            timeout: 0,
            stop_timeout: spec.stop_timeout_secs,
            passwd: true,
            sd_notify_mode: "ignore",
        }
    }
}

impl<'a> HealthConfig<'a> {
    pub fn new(check: &'a Healthcheck) -> Self {
        Self {
            test: &check.test,
            start_period: check.start_period_ns,
            interval: check.interval_ns,
            timeout: check.timeout_ns,
            retries: check.retries.into(),
        }
    }
}

impl<'a> HostConfig<'a> {
    fn new(view: &'a ContainerView, config: &'a EngineConfig) -> Self {
        let spec = &view.record.spec;
        let limits = &spec.resources;
        let security = &spec.security;
        Self {
            binds: view.mounts(config).iter().map(MountView::bind).collect(),
            cgroup_manager: "cgroupfs",
            cgroup_mode: namespace_mode(&spec.cgroup_namespace, "private"),
            container_id_file: "",
            log_config: InspectLogConfig {
                r#type: log_driver(spec.log.driver),
                config: None,
                path: view.log_path(config),
                tag: spec.log.tag.as_deref().unwrap_or_default(),
                size: format!("{}B", spec.log.max_size_bytes.unwrap_or(0)),
            },
            network_mode: network_mode(view),
            port_bindings: host_ports(&spec.published_ports),
            restart_policy: InspectRestartPolicy::new(spec.restart_policy),
            auto_remove: spec.auto_remove,
            auto_remove_image: false,
            annotations: &spec.annotations,
            volume_driver: "",
            volumes_from: None,
            cap_add: &security.capabilities_add,
            cap_drop: &security.capabilities_drop,
            dns: spec.dns.servers.iter().map(ToString::to_string).collect(),
            dns_options: &spec.dns.options,
            dns_search: &spec.dns.searches,
            extra_hosts: extra_hosts(view),
            hosts_file: "",
            group_add: spec.supplemental_groups.iter().map(ToString::to_string).collect(),
            ipc_mode: namespace_mode(&spec.ipc_namespace, "shareable"),
            cgroup: "",
            cgroups: "default",
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
            runtime: "oci",
            console_size: [0, 0],
            isolation: "",
            cpu_shares: limits.cpu_shares.unwrap_or(0),
            memory: limits.memory_limit_bytes.unwrap_or(0),
            nano_cpus: nano_cpus(view),
            cgroup_parent: &config.cgroup_parent,
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
            disk_quota: 0,
            kernel_memory: 0,
            memory_reservation: limits.memory_reservation_bytes.unwrap_or(0),
            memory_swap: limits.memory_swap_bytes.unwrap_or(0),
            memory_swappiness: 0,
            oom_kill_disable: false,
            init: spec.init,
            pids_limit: limits.pids_limit.unwrap_or(2048),
            ulimits: spec.ulimits.iter().map(InspectUlimit::new).collect(),
            cpu_count: 0,
            cpu_percent: 0,
            io_maximum_iops: 0,
            io_maximum_bandwidth: 0,
            cgroup_conf: None,
            intel_rdt_clos_id: "",
        }
    }
}

impl InspectRestartPolicy {
    pub fn new(policy: RestartPolicy) -> Self {
        let (name, maximum_retry_count) = match policy {
            RestartPolicy::No => ("no", 0),
            RestartPolicy::Always => ("always", 0),
            RestartPolicy::UnlessStopped => ("unless-stopped", 0),
            RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries.unwrap_or(0)),
        };
        Self { name, maximum_retry_count }
    }
}

impl InspectUlimit {
    pub fn new(limit: &Ulimit) -> Self {
        // Unlimited is -1 to clients.
        let signed = |value: u64| i64::try_from(value).unwrap_or(-1);
        Self {
            name: format!("RLIMIT_{}", limit.name.to_uppercase()),
            soft: signed(limit.soft),
            hard: signed(limit.hard),
        }
    }
}

/// What is not in the record.
pub struct Facts {
    pub config: EngineConfig,
    /// What the OCI runtime is told to keep.
    pub effective_capabilities: Vec<String>,
    pub bounding_capabilities: Vec<String>,
    /// The whole environment: the image's, the container's and the engine's own.
    pub env: Vec<String>,
    pub exec_ids: Vec<String>,
    /// Path of the network namespace, if there is one.
    pub sandbox_key: String,
}

impl Facts {
    pub fn of(context: &Context, view: &ContainerView) -> Self {
        let engine = &context.engine;
        let spec = engine.runtime_spec(&NameOrId::from(&view.record.id)).ok();
        let capabilities = spec.as_ref().and_then(|s| s.process().as_ref()?.capabilities().as_ref());
        let names = |set: Option<&oci_spec::runtime::Capabilities>| {
            let mut names: Vec<_> = set.into_iter().flatten().map(capability_name).collect();
            names.sort();
            names
        };
        Self {
            config: engine.config().clone(),
            effective_capabilities: names(capabilities.and_then(|c| c.effective().as_ref())),
            bounding_capabilities: names(capabilities.and_then(|c| c.bounding().as_ref())),
            env: spec
                .as_ref()
                .and_then(|s| s.process().as_ref()?.env().clone())
                .unwrap_or_else(|| view.env()),
            exec_ids: context.exec_sessions.of_container(&view.record.id),
            sandbox_key: sandbox_key(view, engine),
        }
    }
}

fn capability_name(capability: &oci_spec::runtime::Capability) -> String {
    match capability.to_string() {
        name if name.starts_with("CAP_") => name,
        name => format!("CAP_{name}"),
    }
}

pub fn graph_driver(directory: &std::path::Path) -> GraphDriver {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let data = BTreeMap::from([("UpperDir".to_owned(), path("upper")), ("WorkDir".to_owned(), path("work"))]);
    GraphDriver { name: "overlay", data }
}

fn runtime_name(view: &ContainerView, config: &EngineConfig) -> String {
    match view.record.spec.runtime.as_ref().unwrap_or(&config.runtime) {
        RuntimeName::Selkie => "selkie".to_owned(),
        RuntimeName::External(name) => name.clone(),
    }
}

/// `80/tcp` → host ports, one entry for each port of a range.
pub fn host_ports(ports: &[PortMapping]) -> Map<Vec<HostPort>> {
    let mut map: Map<Vec<HostPort>> = BTreeMap::new();
    for port in ports {
        for offset in 0..port.range {
            let key = format!("{}/{}", port.container_port + offset, port.protocol.as_str());
            let host_port = match port.host_port {
                0 => String::new(),
                first => (first + offset).to_string(),
            };
            let binding = HostPort { host_ip: port.host_address.to_string(), host_port };
            map.entry(key).or_default().push(binding);
        }
    }
    map
}

fn sandbox_key(view: &ContainerView, engine: &Engine) -> String {
    let path = match view.record.pod() {
        Some(pod) => engine.pod_netns(pod),
        None => view.record.network.as_ref().and_then(|_| {
            let path = engine.config().container_run_dir(&view.record.id).join("ns/net");
            path.exists().then_some(path)
        }),
    };
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn network_mode(view: &ContainerView) -> String {
    let mode = match (&view.record.spec.network, &view.pod) {
        (NetworkMode::Pod, Some(pod)) => &pod.spec.network,
        (mode, _) => mode,
    };
    match mode {
        NetworkMode::Bridge(_) => "bridge".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Pod => "pod".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Path(path) => format!("ns:{}", path.display()),
    }
}

pub fn namespace_mode(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Pod => "pod".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
        NamespaceMode::Path(path) => format!("ns:{}", path.display()),
    }
}

pub fn log_driver(driver: LogDriver) -> &'static str {
    match driver {
        LogDriver::K8sFile => "k8s-file",
        LogDriver::JsonFile => "json-file",
        LogDriver::None => "none",
    }
}

pub fn extra_hosts(view: &ContainerView) -> Vec<String> {
    let hosts = view.record.spec.hosts.iter();
    hosts.flat_map(|(ip, names)| names.iter().map(move |name| format!("{name}:{ip}"))).collect()
}

pub fn security_options(view: &ContainerView) -> Vec<String> {
    let security = &view.record.spec.security;
    let mut options = Vec::new();
    match &security.seccomp {
        SeccompProfile::Default => {}
        SeccompProfile::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompProfile::File(path) => options.push(format!("seccomp={}", path.display())),
    }
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if let Some(profile) = &security.apparmor_profile {
        options.push(format!("apparmor={profile}"));
    }
    if security.unmasked {
        options.push("unmask=all".to_owned());
    }
    options
}

/// Billionths of a CPU, as `--cpus` sets them.
pub fn nano_cpus(view: &ContainerView) -> i64 {
    let limits = &view.record.spec.resources;
    let quota = i128::from(limits.cpu_quota_us.unwrap_or(0));
    let period = i128::from(limits.cpu_period_us.unwrap_or(100_000)).max(1);
    i64::try_from(quota * 1_000_000_000 / period).unwrap_or(0)
}

pub fn devices(view: &ContainerView) -> Vec<InspectDevice> {
    let devices = view.record.spec.devices.iter().map(|device| InspectDevice {
        path_on_host: device.host_path.to_string_lossy().into_owned(),
        path_in_container: device.container_path.to_string_lossy().into_owned(),
        cgroup_permissions: device.permissions.clone(),
    });
    devices.collect()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
