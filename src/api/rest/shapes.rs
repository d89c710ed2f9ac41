//! What goes out has exactly the members the clients were written against.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::compat;
use super::json::encode;
use super::libpod::containers::{ListContainer, Size};
use super::libpod::images::{ImageData, ImageSummary};
use super::libpod::inspect::{Facts, InspectContainerData};
use super::libpod::networks::Network;
use super::libpod::pods::{InspectPodData, ListPodsReport};
use super::libpod::volumes::Volume;
use super::version::ApiVersion;
use super::view::ContainerView;
use crate::engine::config::EngineConfig;
use crate::engine::container::ContainerRecord;
use crate::engine::container::spec::{
    ContainerSpec, CreatedBy, Device, DnsConfig, Healthcheck, Mount, MountSource, NetworkMode, PortMapping,
    Protocol, Resources, Ulimit,
};
use crate::engine::container::state::{ContainerState, ExitStatus, Process};
use crate::engine::id::{ContainerId, ImageId, NetworkId, PodId};
use crate::engine::image::{ImageRecord, LayerRecord};
use crate::engine::network::{AssignedAddress, InterfaceStatus, NetworkRecord, NetworkStatus, Subnet};
use crate::engine::pod::{PodRecord, PodSandboxSpec, PodState, SharedNamespaces};
use crate::engine::volume::VolumeRecord;

const FIELDS: &str = include_str!("../../../tests/fast/rest/fields.tsv");

/// Every member that is always there is there, and none is that the type does not have.
fn check(kind: &str, value: &Value) {
    let mut required = BTreeSet::new();
    let mut known = BTreeSet::new();
    for line in FIELDS.lines() {
        let mut columns = line.split('\t');
        if columns.next() != Some(kind) {
            continue;
        }
        let (Some(field), Some(presence)) = (columns.next(), columns.next()) else { panic!("{line}") };
        known.insert(field);
        if presence == "always" {
            required.insert(field);
        }
    }
    assert!(!known.is_empty(), "no fields known of {kind}");
    let members: BTreeSet<&str> =
        value.as_object().unwrap_or_else(|| panic!("{kind}: {value}")).keys().map(String::as_str).collect();
    let missing: Vec<_> = required.difference(&members).collect();
    let unknown: Vec<_> = members.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "{kind}: missing {missing:?}, unknown {unknown:?}");
}

fn sent<T: Serialize>(value: &T) -> Value {
    serde_json::from_slice(&encode(value)).unwrap()
}

fn now() -> Timestamp {
    "2026-11-21T10:19:02.221348422Z".parse().unwrap()
}

fn config() -> EngineConfig {
    EngineConfig::new(PathBuf::from("/root-dir"), PathBuf::from("/run-dir"))
}

fn network_status() -> NetworkStatus {
    NetworkStatus {
        interfaces: vec![InterfaceStatus {
            network: "podman".parse().unwrap(),
            network_id: NetworkId::random(),
            interface: "eth0".into(),
            host_interface: "veth1".into(),
            mac: "aa:94:2c:a8:54:f9".into(),
            addresses: vec![AssignedAddress {
                address: "10.88.0.2".parse().unwrap(),
                prefix_len: 16,
                gateway: Some("10.88.0.1".parse().unwrap()),
            }],
            aliases: vec!["web".into()],
        }],
        ports: vec![PortMapping::new(8099, 80, Protocol::Tcp)],
        dns_servers: Vec::new(),
    }
}

/// One of everything, so that no member stays empty for want of a value.
fn running() -> ContainerView {
    let mut spec = ContainerSpec::new("localhost/bb:1");
    spec.command = Some(vec!["sleep".into(), "1000".into()]);
    spec.env.insert("A".into(), "b".into());
    spec.labels.insert("a".into(), "b".into());
    spec.mounts = vec![
        Mount {
            destination: "/host".into(),
            source: MountSource::Bind("/tmp".into()),
            read_only: true,
            options: vec![],
        },
        Mount {
            destination: "/data".into(),
            source: MountSource::Volume { name: "vol1".parse().unwrap(), sub_path: None },
            read_only: false,
            options: vec!["nosuid".into()],
        },
        Mount {
            destination: "/t".into(),
            source: MountSource::Tmpfs { size_bytes: Some(65536), mode: None },
            read_only: false,
            options: vec![],
        },
    ];
    spec.published_ports = vec![PortMapping::new(8099, 80, Protocol::Tcp)];
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1024, hard: u64::MAX }];
    spec.devices = vec![Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: "rwm".into(),
    }];
    spec.healthcheck = Some(Healthcheck {
        test: vec!["CMD".into(), "true".into()],
        interval_ns: 1,
        timeout_ns: 1,
        start_period_ns: 1,
        retries: 1,
    });
    let process = Process { pid: 4711, start_ticks: 1, monitor_pid: 4710, started_at: now() };
    let record = ContainerRecord {
        id: ContainerId::random(),
        name: "web".parse().unwrap(),
        spec,
        image_id: Some(ImageId::random()),
        image_name: "localhost/bb:1".into(),
        created_at: now(),
        state: ContainerState::Running(process),
        pending: None,
        restart_count: 0,
        stopped_by_user: false,
        network: Some(network_status()),
        anonymous_volumes: Vec::new(),
    };
    ContainerView { record: Arc::new(record), pod: None, image: Some(Arc::new(image())) }
}

fn image() -> ImageRecord {
    let config = json!({
        "architecture": "amd64", "os": "linux", "author": "a",
        "config": {
            "User": "1", "Env": ["A=1", "B=2"], "Cmd": ["sh"], "Entrypoint": ["/e"], "WorkingDir": "/w",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"l": "1"}, "StopSignal": "SIGINT",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:ab"]},
        "history": [{"created": "2026-11-21T10:18:40Z", "created_by": "x", "comment": "c"}],
    });
    ImageRecord {
        id: ImageId::random(),
        names: vec!["localhost/bb:1".into()],
        manifest_digest: "sha256:cd".into(),
        repo_digests: vec!["localhost/bb@sha256:cd".into()],
        created_at: Some(now()),
        added_at: now(),
        size_bytes: 1_997_907,
        architecture: "amd64".into(),
        os: "linux".into(),
        config: serde_json::from_value(config).unwrap(),
        layers: vec![LayerRecord {
            digest: "sha256:ef".into(),
            diff_id: "sha256:ab".into(),
            chain_id: "sha256:ab".into(),
            size_bytes: 1,
        }],
    }
}

fn facts() -> Facts {
    Facts {
        config: config(),
        effective_capabilities: vec!["CAP_CHOWN".into()],
        bounding_capabilities: vec!["CAP_CHOWN".into()],
        env: vec!["A=b".into()],
        exec_ids: vec![],
        sandbox_key: "/run-dir/net".into(),
    }
}

fn version(text: &str) -> Option<ApiVersion> {
    ApiVersion::from_segment(text)
}

#[test]
fn podmans_list_of_containers() {
    let view = running();
    let size = Some(Size { root_fs_size: 1, rw_size: 1 });
    let value = sent(&ListContainer::new(&view, true, size));
    check("entities.ListContainer", &value);
    check("types.PortMapping", &value["Ports"][0]);
    assert_eq!(value["Created"], "2026-11-21T10:19:02.221348422Z");
    assert_eq!(value["StartedAt"], 1_795_256_342);
    assert_eq!(value["ExitedAt"], -62_135_596_800_i64);
    assert_eq!(value["Mounts"], json!(["/host", "/data", "/t"]));
    assert_eq!(value["Ports"][0]["host_ip"], "");
    assert_eq!(value["Names"], json!(["web"]));
}

#[test]
fn podmans_inspection_of_a_container() {
    let (view, facts) = (running(), facts());
    let value = sent(&InspectContainerData::new(&view, &facts, version("v5.0.0")));
    check("define.InspectContainerData", &value);
    check("define.InspectContainerState", &value["State"]);
    check("define.InspectMount", &value["Mounts"][0]);
    check("define.InspectNetworkSettings", &value["NetworkSettings"]);
    check("define.InspectAdditionalNetwork", &value["NetworkSettings"]["Networks"]["podman"]);
    check("define.InspectHostPort", &value["NetworkSettings"]["Ports"]["80/tcp"][0]);
    check("define.InspectContainerConfig", &value["Config"]);
    check("manifest.Schema2HealthConfig", &value["Config"]["Healthcheck"]);
    let host = &value["HostConfig"];
    check("define.InspectContainerHostConfig", host);
    check("define.InspectLogConfig", &host["LogConfig"]);
    check("define.InspectRestartPolicy", &host["RestartPolicy"]);
    check("define.InspectUlimit", &host["Ulimits"][0]);
    check("define.InspectDevice", &host["Devices"][0]);
    assert_eq!(host["Binds"][0], "/tmp:/host:ro,rprivate,rbind");
    assert_eq!(host["Binds"][1], "vol1:/data:rw,rprivate,nosuid,rbind");
    assert_eq!(host["Tmpfs"], json!({"/t": "rw,size=65536"}));
    assert_eq!(value["NetworkSettings"]["IPAddress"], "10.88.0.2");
    assert_eq!(value["Mounts"][1]["Source"], "/root-dir/volumes/vol1/_data");
    assert_eq!(host["Ulimits"][0], json!({"Name": "RLIMIT_NOFILE", "Soft": 1024, "Hard": -1}));
}

#[test]
fn podman_5_changed_what_inspection_shows() {
    let (view, facts) = (running(), facts());
    let old = sent(&InspectContainerData::new(&view, &facts, version("v4.3.1")));
    assert_eq!(old["Config"]["Entrypoint"], "/e");
    assert_eq!(old["Config"]["StopSignal"], 2);
    assert_eq!(old["State"]["Health"], json!({"Status": "", "FailingStreak": 0, "Log": null}));
    let new = sent(&InspectContainerData::new(&view, &facts, version("v5.0.0")));
    assert_eq!(new["Config"]["Entrypoint"], json!(["/e"]));
    assert_eq!(new["Config"]["StopSignal"], "SIGINT");
    assert_eq!(new["State"]["Health"], Value::Null);
}

#[test]
fn dockers_list_of_containers() {
    let view = running();
    let later = now() + jiff::SignedDuration::from_secs(180);
    let value = sent(&compat::containers::Container::new(&view, &config(), &BTreeMap::new(), later));
    check("handlers.Container", &value);
    check("docker.types.Port", &value["Ports"][0]);
    check("docker.types.MountPoint", &value["Mounts"][0]);
    check("docker.network.EndpointSettings", &value["NetworkSettings"]["Networks"]["bridge"]);
    assert_eq!(value["Status"], "Up 3 minutes");
    assert_eq!(value["Names"], json!(["/web"]));
    assert!(value["ImageID"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn dockers_words_for_an_end() {
    let view = running();
    let state = ContainerState::Exited(ExitStatus {
        code: 3,
        oom_killed: false,
        finished_at: now(),
        started_at: Some(now()),
        error: None,
    });
    let record = Arc::new(ContainerRecord { state, ..(*view.record).clone() });
    let view = ContainerView { record, ..view };
    let later = now() + jiff::SignedDuration::from_hours(2);
    let value = sent(&compat::containers::Container::new(&view, &config(), &BTreeMap::new(), later));
    assert_eq!(value["Status"], "Exited (3) 2 hours ago");
    assert_eq!(value["State"], "exited");
}

#[test]
fn dockers_inspection_of_a_container() {
    let (view, facts) = (running(), facts());
    let value = sent(&compat::inspect::ContainerJson::new(&view, &facts, &BTreeMap::new()));
    check("docker.types.ContainerJSON", &value);
    check("docker.types.ContainerState", &value["State"]);
    check("docker.container.Config", &value["Config"]);
    check("docker.container.HostConfig", &value["HostConfig"]);
    check("docker.types.NetworkSettings", &value["NetworkSettings"]);
    assert_eq!(value["Name"], "/web");
    assert_eq!(value["HostConfig"]["LogConfig"]["Type"], "json-file");
    assert_eq!(value["Config"]["StopSignal"], "2");
}

#[test]
fn images_in_both_dialects() {
    let image = image();
    let summary = sent(&ImageSummary::new(&image, 2));
    check("entities.ImageSummary", &summary);
    assert_eq!(summary["Containers"], 2);
    let docker = sent(&ImageSummary::new(&image, 2).for_docker(false));
    assert_eq!(docker["Id"], format!("sha256:{}", image.id));
    assert_eq!(docker["SharedSize"], -1);
    assert!(docker.get("VirtualSize").is_none());
    let data = sent(&ImageData::new(&image, Path::new("/root-dir")));
    check("inspect.ImageData", &data);
    check("oci.ImageConfig", &data["Config"]);
    check("inspect.RootFS", &data["RootFS"]);
    assert_eq!(data["Config"]["ExposedPorts"], json!({"80/tcp": {}}));
    let old = compat::images::ImageInspect::new(&image, Path::new("/root-dir"), version("v1.41"));
    check("handlers.ImageInspect", &sent(&old));
    let new = sent(&compat::images::ImageInspect::new(&image, Path::new("/root-dir"), None));
    assert!(new.get("VirtualSize").is_none() && new.get("ContainerConfig").is_none());
    check("docker.container.Config", &new["Config"]);
}

#[test]
fn an_image_without_a_name_is_dangling() {
    let image = ImageRecord { names: Vec::new(), ..image() };
    let podman = sent(&ImageSummary::new(&image, 0));
    assert_eq!((&podman["Dangling"], &podman["RepoTags"]), (&json!(true), &json!([])));
    assert_eq!(sent(&ImageSummary::new(&image, 0).for_docker(true))["RepoTags"], json!(["<none>:<none>"]));
}

#[test]
fn pods() {
    let view = running();
    let pod = PodRecord {
        id: PodId::random(),
        spec: PodSandboxSpec {
            name: "p1".parse().unwrap(),
            hostname: None,
            labels: BTreeMap::from([("a".into(), "b".into())]),
            annotations: BTreeMap::new(),
            share: SharedNamespaces::default(),
            network: NetworkMode::default(),
            published_ports: vec![PortMapping::new(8080, 80, Protocol::Tcp)],
            dns: DnsConfig::default(),
            hosts: Vec::new(),
            sysctls: BTreeMap::new(),
            resources: Resources::default(),
            shm_size_bytes: None,
            created_by: CreatedBy::Api,
        },
        created_at: now(),
        containers: vec![view.record.id.clone()],
        network: None,
    };
    let members = [view.record];
    let list = sent(&ListPodsReport::new(&pod, &members, PodState::Running, "selkie"));
    check("entities.ListPodsReport", &list);
    check("entities.ListPodContainer", &list["Containers"][0]);
    let inspection = sent(&InspectPodData::new(&pod, &members, PodState::Running, "selkie"));
    check("define.InspectPodData", &inspection);
    check("define.InspectPodInfraConfig", &inspection["InfraConfig"]);
    check("define.InspectPodContainerInfo", &inspection["Containers"][0]);
    assert_eq!(inspection["SharedNamespaces"], json!(["uts", "ipc", "net"]));
}

#[test]
fn volumes_and_networks_in_both_dialects() {
    let volume = VolumeRecord {
        name: "vol1".parse().unwrap(),
        created_at: now(),
        driver: "local".into(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        anonymous: false,
        mountpoint: "/root-dir/volumes/vol1/_data".into(),
        needs_copy_up: true,
    };
    check("entities.VolumeConfigResponse", &sent(&Volume::new(&volume)));
    check("docker.types.Volume", &sent(&compat::volumes::Volume::new(&volume)));
    let network = NetworkRecord {
        id: NetworkId::random(),
        name: "podman".parse().unwrap(),
        created_at: now(),
        bridge: "selkie0".into(),
        subnets: vec![Subnet { cidr: "10.88.0.0/16".into(), gateway: "10.88.0.1".parse().unwrap() }],
        internal: false,
        dns_enabled: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    let podman = sent(&Network::new(&network));
    check("types.Network", &podman);
    check("types.Subnet", &podman["subnets"][0]);
    let docker = sent(&compat::networks::NetworkResource::new(&network, &[running()]));
    check("docker.types.NetworkResource", &docker);
    check("docker.network.IPAM", &docker["IPAM"]);
    check("docker.network.IPAMConfig", &docker["IPAM"]["Config"][0]);
    let endpoints = docker["Containers"].as_object().unwrap();
    check("docker.types.EndpointResource", endpoints.values().next().unwrap());
    assert_eq!(docker["Name"], "bridge");
}
