//! The service itself: ping, version, info.

use std::collections::BTreeMap;
use std::path::Path;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::api::rest::Context;
use crate::api::rest::{Outcome, host_facts, reply, version, view};
use crate::engine::Engine;
use crate::engine::config::RuntimeName;
use crate::engine::container::ContainerFilter;
use crate::engine::container::state::ContainerState;

/// Both dialects probe this before anything else.
pub async fn ping() -> Outcome {
    let mut reply = reply::text("OK");
    let headers = reply.headers_mut();
    let facts = [
        ("buildkit-version", ""),
        // 2 would make docker build through BuildKit sessions, which are not served.
        ("builder-version", "1"),
        ("docker-experimental", "true"),
        // `docker run --device` fails without it.
        ("ostype", "linux"),
        // By its presence docker clients tell podman's API apart.
        ("libpod-buildah-version", "none"),
    ];
    for (name, value) in facts {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(reply)
}

#[derive(Serialize)]
pub struct Version {
    #[serde(rename = "Platform")]
    platform: Platform,
    #[serde(rename = "Components")]
    components: Vec<Component>,
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "ApiVersion")]
    api_version: &'static str,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: &'static str,
    #[serde(rename = "GitCommit")]
    git_commit: &'static str,
    #[serde(rename = "GoVersion")]
    go_version: &'static str,
    #[serde(rename = "Os")]
    os: &'static str,
    #[serde(rename = "Arch")]
    arch: &'static str,
    #[serde(rename = "KernelVersion")]
    kernel_version: String,
    #[serde(rename = "BuildTime")]
    build_time: &'static str,
}

#[derive(Serialize)]
struct Platform {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "Name")]
    name: &'static str,
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "Details")]
    details: BTreeMap<&'static str, String>,
}

/// The same for both dialects: podman's clients read the first component, docker's the top level.
pub async fn version() -> Outcome {
    let kernel_version = kernel_version();
    let engine = BTreeMap::from([
        ("APIVersion", version::LIBPOD.to_owned()),
        ("MinAPIVersion", version::LIBPOD_MINIMUM.to_owned()),
        ("Arch", go_arch().to_owned()),
        ("BuildTime", BUILD_TIME.to_owned()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", NO_GO.to_owned()),
        ("KernelVersion", kernel_version.clone()),
        ("Os", "linux".to_owned()),
    ]);
    Ok(reply::json(&Version {
        platform: Platform { name: format!("linux/{}/selkie-{}", go_arch(), env!("CARGO_PKG_VERSION")) },
        components: vec![
            // The name is what podman's clients look for.
            Component { name: "Podman Engine", version: version::LIBPOD, details: engine },
            Component { name: "Selkie", version: env!("CARGO_PKG_VERSION"), details: BTreeMap::new() },
        ],
        version: version::LIBPOD,
        api_version: version::COMPAT,
        min_api_version: version::COMPAT_MINIMUM,
        git_commit: "",
        go_version: NO_GO,
        os: "linux",
        arch: go_arch(),
        kernel_version,
        build_time: BUILD_TIME,
    }))
}

/// The field is for Go programs; clients print it.
const NO_GO: &str = "rust";
// Clients parse it as a time. A build that records when it was made is not reproducible.
const BUILD_TIME: &str = "1970-01-01T00:00:00Z";

pub fn kernel_version() -> String {
    uname().map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned())
}

/// Go's name of this architecture, which is OCI's too.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How many containers are in which state.
#[derive(Default)]
pub struct ContainerCounts {
    pub total: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}

impl ContainerCounts {
    pub fn of(engine: &Engine) -> Self {
        let mut counts = Self::default();
        for record in engine.containers(&ContainerFilter { all: true, ..Default::default() }) {
            counts.total += 1;
            match record.state {
                ContainerState::Running(_) | ContainerState::Stopping(_) => counts.running += 1,
                ContainerState::Paused(_) => counts.paused += 1,
                ContainerState::Configured
                | ContainerState::Created(_)
                | ContainerState::Exited(_)
                | ContainerState::Removing => counts.stopped += 1,
            }
        }
        counts
    }
}

#[derive(Serialize)]
pub struct Info {
    host: HostInfo,
    store: StoreInfo,
    registries: BTreeMap<String, ()>,
    plugins: Plugins,
    version: VersionInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HostInfo {
    arch: &'static str,
    buildah_version: &'static str,
    cgroup_manager: &'static str,
    cgroup_version: &'static str,
    cgroup_controllers: Vec<String>,
    conmon: Program,
    cpus: usize,
    cpu_utilization: CpuUsage,
    database_backend: &'static str,
    distribution: Distribution,
    event_logger: &'static str,
    free_locks: Option<u32>,
    hostname: String,
    id_mappings: IdMappings,
    kernel: String,
    log_driver: &'static str,
    mem_free: u64,
    mem_total: u64,
    network_backend: &'static str,
    network_backend_info: NetworkInfo,
    oci_runtime: OciRuntime,
    os: &'static str,
    remote_socket: RemoteSocket,
    rootless_network_cmd: &'static str,
    service_is_remote: bool,
    security: Security,
    slirp4netns: Helper,
    pasta: Helper,
    swap_free: u64,
    swap_total: u64,
    uptime: String,
    variant: &'static str,
    linkmode: &'static str,
    emulated_architectures: [(); 0],
}

#[derive(Serialize)]
struct Program {
    package: String,
    path: String,
    version: String,
}

#[derive(Serialize)]
struct OciRuntime {
    name: String,
    package: String,
    path: String,
    version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuUsage {
    user_percent: f64,
    system_percent: f64,
    idle_percent: f64,
}

#[derive(Serialize)]
struct Distribution {
    distribution: String,
    version: String,
    codename: String,
}

#[derive(Serialize)]
struct IdMappings {
    gidmap: Option<()>,
    uidmap: Option<()>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkInfo {
    backend: &'static str,
    default_network: &'static str,
}

#[derive(Serialize)]
struct RemoteSocket {
    path: String,
    exists: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Security {
    apparmor_enabled: bool,
    capabilities: &'static str,
    rootless: bool,
    seccomp_enabled: bool,
    seccomp_profile_path: &'static str,
    selinux_enabled: bool,
}

#[derive(Default, Serialize)]
struct Helper {
    executable: &'static str,
    package: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreInfo {
    config_file: &'static str,
    container_store: ContainerStore,
    graph_driver_name: &'static str,
    graph_options: BTreeMap<String, ()>,
    graph_root: String,
    graph_root_allocated: u64,
    graph_root_used: u64,
    graph_status: BTreeMap<&'static str, &'static str>,
    image_copy_tmp_dir: String,
    image_store: ImageStore,
    run_root: String,
    volume_path: String,
    transient_store: bool,
}

#[derive(Serialize)]
struct ContainerStore {
    number: usize,
    paused: usize,
    running: usize,
    stopped: usize,
}

#[derive(Serialize)]
struct ImageStore {
    number: usize,
}

#[derive(Serialize)]
struct Plugins {
    volume: [&'static str; 1],
    network: [&'static str; 1],
    log: [&'static str; 3],
    authorization: Option<()>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionInfo {
    #[serde(rename = "APIVersion")]
    api_version: &'static str,
    version: &'static str,
    go_version: &'static str,
    git_commit: &'static str,
    built_time: &'static str,
    built: i64,
    build_origin: &'static str,
    os_arch: String,
    os: &'static str,
}

/// podman's default set, which is ours.
const CAPABILITIES: &str = "CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_FOWNER,CAP_FSETID,CAP_KILL,CAP_NET_BIND_SERVICE,\
                            CAP_SETFCAP,CAP_SETGID,CAP_SETPCAP,CAP_SETUID,CAP_SYS_CHROOT";

pub async fn info(State(context): State<Context>) -> Outcome {
    let engine = &context.engine;
    let config = engine.config();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let memory = host_facts::memory();
    let disk = host_facts::disk(&config.root);
    let (user_percent, system_percent, idle_percent) = host_facts::cpu_utilization();
    let os = host_facts::os_release();
    let os = |name: &str| os.get(name).cloned().unwrap_or_default();
    let counts = ContainerCounts::of(engine);
    let own = || format!("selkie {}", env!("CARGO_PKG_VERSION"));
    let oci_runtime = match &config.runtime {
        RuntimeName::Selkie => OciRuntime {
            name: "selkie".to_owned(),
            package: own(),
            path: text(&config.monitor),
            version: own(),
        },
        RuntimeName::External(name) => OciRuntime {
            name: name.clone(),
            package: String::new(),
            path: name.clone(),
            version: String::new(),
        },
    };
    let socket = context.socket.as_deref().map(text).unwrap_or_default();
    Ok(reply::json(&Info {
        host: HostInfo {
            arch: go_arch(),
            buildah_version: "",
            cgroup_manager: "cgroupfs",
            cgroup_version: host_facts::cgroup_version(),
            cgroup_controllers: host_facts::cgroup_controllers(),
            conmon: Program { package: own(), path: text(&config.monitor), version: own() },
            cpus: host_facts::cpus(),
            cpu_utilization: CpuUsage { user_percent, system_percent, idle_percent },
            database_backend: "sqlite",
            distribution: Distribution {
                distribution: os("ID"),
                version: os("VERSION_ID"),
                codename: os("VERSION_CODENAME"),
            },
            event_logger: "selkie",
            free_locks: None,
            hostname: host_facts::hostname(),
            id_mappings: IdMappings { gidmap: None, uidmap: None },
            kernel: kernel_version(),
            log_driver: "k8s-file",
            mem_free: memory.free_bytes,
            mem_total: memory.total_bytes,
            network_backend: "selkie",
            network_backend_info: NetworkInfo { backend: "selkie", default_network: view::DEFAULT_NETWORK },
            oci_runtime,
            os: "linux",
            remote_socket: RemoteSocket { exists: !socket.is_empty(), path: format!("unix://{socket}") },
            rootless_network_cmd: "",
            service_is_remote: true,
            security: Security {
                apparmor_enabled: false,
                capabilities: CAPABILITIES,
                rootless: false,
                seccomp_enabled: true,
                seccomp_profile_path: "",
                selinux_enabled: false,
            },
            slirp4netns: Helper::default(),
            pasta: Helper::default(),
            swap_free: memory.swap_free_bytes,
            swap_total: memory.swap_total_bytes,
            uptime: host_facts::uptime_text(host_facts::uptime_secs()),
            variant: "",
            linkmode: "dynamic",
            emulated_architectures: [],
        },
        store: StoreInfo {
            config_file: "",
            container_store: ContainerStore {
                number: counts.total,
                paused: counts.paused,
                running: counts.running,
                stopped: counts.stopped,
            },
            graph_driver_name: "overlay",
            graph_options: BTreeMap::new(),
            graph_root: text(&config.root),
            graph_root_allocated: disk.allocated_bytes,
            graph_root_used: disk.used_bytes,
            graph_status: BTreeMap::from([("Native Overlay Diff", "true")]),
            image_copy_tmp_dir: text(&config.root.join("tmp")),
            image_store: ImageStore { number: engine.images().len() },
            run_root: text(&config.run_root),
            volume_path: text(&config.volumes_dir()),
            transient_store: false,
        },
        registries: BTreeMap::new(),
        plugins: Plugins {
            volume: ["local"],
            network: ["bridge"],
            log: ["k8s-file", "json-file", "none"],
            authorization: None,
        },
        version: VersionInfo {
            api_version: version::LIBPOD,
            version: version::LIBPOD,
            go_version: NO_GO,
            git_commit: "",
            built_time: "Thu Jan  1 00:00:00 1970",
            built: 0,
            build_origin: "selkie",
            os_arch: format!("linux/{}", go_arch()),
            os: "linux",
        },
    }))
}
