//! `docker info`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;

use crate::api::error::ApiError;
use crate::api::rest::libpod::system::{ContainerCounts, go_arch, kernel_version};
use crate::api::rest::{Outcome, host_facts, reply, version};
use crate::engine::Engine;
use crate::engine::config::RuntimeName;

/// A list or map Go would write as `null`.
type Null = Option<()>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'static str,
    driver_status: [[&'static str; 2]; 1],
    plugins: Plugins,
    memory_limit: bool,
    swap_limit: bool,
    kernel_memory: bool,
    #[serde(rename = "KernelMemoryTCP")]
    kernel_memory_tcp: bool,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    bridge_nf_iptables: bool,
    bridge_nf_ip6tables: bool,
    debug: bool,
    #[serde(rename = "NFd")]
    n_fd: usize,
    oom_kill_disable: bool,
    #[serde(rename = "NGoroutines")]
    n_goroutines: usize,
    system_time: String,
    logging_driver: &'static str,
    cgroup_driver: &'static str,
    #[serde(rename = "NEventsListener")]
    n_events_listener: usize,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSVersion")]
    os_version: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: &'static str,
    index_server_address: &'static str,
    registry_config: RegistryConfig,
    #[serde(rename = "NCPU")]
    n_cpu: usize,
    mem_total: u64,
    generic_resources: Null,
    docker_root_dir: String,
    http_proxy: &'static str,
    https_proxy: &'static str,
    no_proxy: &'static str,
    name: String,
    labels: Null,
    experimental_build: bool,
    server_version: &'static str,
    runtimes: BTreeMap<String, Runtime>,
    default_runtime: String,
    swarm: Swarm,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: Commit,
    runc_commit: Commit,
    init_commit: Commit,
    security_options: [&'static str; 1],
    product_license: &'static str,
    warnings: [(); 0],
    buildah_version: &'static str,
    #[serde(rename = "CPURealtimePeriod")]
    cpu_realtime_period: bool,
    #[serde(rename = "CPURealtimeRuntime")]
    cpu_realtime_runtime: bool,
    cgroup_version: &'static str,
    rootless: bool,
    swap_free: u64,
    swap_total: u64,
    uptime: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugins {
    volume: [&'static str; 1],
    network: [&'static str; 1],
    authorization: Null,
    log: [&'static str; 3],
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RegistryConfig {
    #[serde(rename = "AllowNondistributableArtifactsCIDRs")]
    allow_nondistributable_cidrs: [(); 0],
    allow_nondistributable_artifacts_hostnames: [(); 0],
    #[serde(rename = "InsecureRegistryCIDRs")]
    insecure_registry_cidrs: [(); 0],
    index_configs: BTreeMap<String, ()>,
    mirrors: [(); 0],
}

#[derive(Serialize)]
struct Runtime {
    path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Swarm {
    #[serde(rename = "NodeID")]
    node_id: &'static str,
    node_addr: &'static str,
    local_node_state: &'static str,
    control_available: bool,
    error: &'static str,
    remote_managers: Null,
}

#[derive(Default, Serialize)]
struct Commit {
    #[serde(rename = "ID")]
    id: &'static str,
    #[serde(rename = "Expected")]
    expected: &'static str,
}

pub async fn info(State(engine): State<Engine>) -> Outcome {
    let config = engine.config();
    let counts = ContainerCounts::of(&engine);
    let memory = host_facts::memory();
    let os = host_facts::os_release();
    let os = |name: &str| os.get(name).cloned().unwrap_or_default();
    let (default_runtime, path) = match &config.runtime {
        RuntimeName::Selkie => ("selkie".to_owned(), config.monitor.to_string_lossy().into_owned()),
        RuntimeName::External(name) => (name.clone(), name.clone()),
    };
    Ok(reply::json(&Info {
        id: host_facts::machine_id(),
        containers: counts.total,
        containers_running: counts.running,
        containers_paused: counts.paused,
        containers_stopped: counts.stopped,
        images: engine.images().len(),
        driver: "overlay",
        driver_status: [["Native Overlay Diff", "true"]],
        plugins: Plugins {
            volume: ["local"],
            network: ["bridge"],
            authorization: None,
            log: ["k8s-file", "json-file", "none"],
        },
        memory_limit: true,
        swap_limit: true,
        kernel_memory: false,
        kernel_memory_tcp: false,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        ipv4_forwarding: host_facts::ip_forwarding(),
        bridge_nf_iptables: true,
        bridge_nf_ip6tables: true,
        debug: false,
        n_fd: host_facts::open_descriptors(),
        oom_kill_disable: false,
        n_goroutines: 0,
        system_time: Timestamp::now().to_string(),
        logging_driver: "json-file",
        cgroup_driver: "cgroupfs",
        n_events_listener: 0,
        kernel_version: kernel_version(),
        operating_system: os("ID"),
        os_version: os("VERSION_ID"),
        os_type: "linux",
        architecture: go_arch(),
        index_server_address: "",
        registry_config: RegistryConfig::default(),
        n_cpu: host_facts::cpus(),
        mem_total: memory.total_bytes,
        generic_resources: None,
        docker_root_dir: config.root.to_string_lossy().into_owned(),
        http_proxy: "",
        https_proxy: "",
        no_proxy: "",
        name: host_facts::hostname(),
        labels: None,
        experimental_build: true,
        server_version: version::LIBPOD,
        runtimes: BTreeMap::from([(default_runtime.clone(), Runtime { path })]),
        default_runtime,
        swarm: Swarm {
            node_id: "",
            node_addr: "",
            local_node_state: "inactive",
            control_available: false,
            error: "",
            remote_managers: None,
        },
        live_restore_enabled: true,
        isolation: "",
        init_binary: "",
        containerd_commit: Commit::default(),
        runc_commit: Commit::default(),
        init_commit: Commit::default(),
        security_options: ["name=seccomp,profile=default"],
        product_license: "Apache-2.0",
        warnings: [],
        buildah_version: "",
        cpu_realtime_period: false,
        cpu_realtime_runtime: false,
        // Docker's CLI wants the bare number.
        cgroup_version: host_facts::cgroup_version().trim_start_matches('v'),
        rootless: false,
        swap_free: memory.swap_free_bytes,
        swap_total: memory.swap_total_bytes,
        uptime: host_facts::uptime_text(host_facts::uptime_secs()),
    }))
}

pub async fn no_swarm() -> Outcome {
    let message = "this engine is not part of a swarm";
    Err(ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, message))
}
