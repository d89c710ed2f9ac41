//! Tests of `oci_spec.rs`: one healthy container and a change per row.

use super::*;
use crate::engine::container::capability::names_of_mask;
use crate::engine::container::mounts::{ResolvedSource, Shm};
use crate::engine::container::spec::ContainerSpec;
use crate::engine::container::state::ContainerState;
use crate::engine::id::ContainerId;
use jiff::Timestamp;
use oci_spec::image::ConfigBuilder;

struct Case {
    record: ContainerRecord,
    image: ImageConfig,
    host: HostFacts,
    resolved: Resolved,
}

fn case() -> Case {
    let mut spec = ContainerSpec::new("x");
    spec.command = Some(vec!["run".into()]);
    Case {
        record: ContainerRecord {
            id: ContainerId::random(),
            name: "web".parse().unwrap(),
            spec,
            image_id: None,
            image_name: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            state: ContainerState::Configured,
            pending: None,
            restart_count: 0,
            stopped_by_user: false,
            network: None,
            anonymous_volumes: Vec::new(),
        },
        image: ConfigBuilder::default().working_dir("/srv".to_owned()).build().unwrap(),
        host: HostFacts {
            hostname: "host".into(),
            capabilities: names_of_mask(u64::MAX),
            hard_limits: BTreeMap::from([("nofile", 4096), ("nproc", 100)]),
            may_raise_limits: false,
        },
        resolved: Resolved {
            rootfs: "/run/rootfs".into(),
            user: ResolvedUser { uid: 0, gid: 0, additional_gids: vec![10], home: "/root".into() },
            hostname: "web".into(),
            namespaces: NamespacePlans {
                net: NamespacePlan::Join("/run/ns/net".into()),
                ipc: NamespacePlan::New,
                uts: NamespacePlan::New,
                pid: NamespacePlan::New,
                cgroup: NamespacePlan::New,
            },
            shm: Shm::Private { size_bytes: 1024 },
            files: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            device_rules: Vec::new(),
            cgroup: "/selkie/x".into(),
            seccomp: None,
        },
    }
}

impl Case {
    fn spec(self) -> Result<Spec, SpecError> {
        runtime_spec(&self.record, Some(&self.image), &self.host, self.resolved)
    }
}

/// Changes the healthy container and looks at the result as JSON, as a runtime does.
#[track_caller]
fn check(change: impl FnOnce(&mut Case), pointer: &str, expected: serde_json::Value) {
    let mut case = case();
    change(&mut case);
    let spec = serde_json::to_value(case.spec().unwrap()).unwrap();
    assert_eq!(spec.pointer(pointer).unwrap_or(&serde_json::Value::Null), &expected, "{pointer}");
}

#[test]
fn the_process_is_what_request_image_and_user_say() {
    use serde_json::json;
    let none = |_: &mut Case| {};
    check(none, "/process/args", json!(["run"]));
    check(none, "/process/cwd", json!("/srv"));
    check(|c| c.record.spec.working_dir = Some("/mine".into()), "/process/cwd", json!("/mine"));
    check(|c| c.image = ImageConfig::default(), "/process/cwd", json!("/"));
    check(none, "/process/user", json!({"uid": 0, "gid": 0, "umask": 18, "additionalGids": [10]}));
    check(
        |c| {
            c.record.spec.supplemental_groups = vec![5, 10];
            c.record.spec.umask = Some(0o077);
        },
        "/process/user",
        json!({"uid": 0, "gid": 0, "umask": 63, "additionalGids": [5, 10]}),
    );
    check(none, "/process/terminal", json!(false));
    check(|c| c.record.spec.terminal = true, "/process/terminal", json!(true));
    check(none, "/process/noNewPrivileges", json!(false));
    check(|c| c.record.spec.security.no_new_privileges = true, "/process/noNewPrivileges", json!(true));
    check(none, "/process/oomScoreAdj", json!(null));
    check(|c| c.record.spec.oom_score_adj = Some(-5), "/process/oomScoreAdj", json!(-5));
}

#[test]
fn limits_are_cut_to_what_the_host_has() {
    use serde_json::json;
    let limit = |kind: &str, soft: u64, hard: u64| json!({"type": kind, "soft": soft, "hard": hard});
    let wanted = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    check(|_| {}, "/process/rlimits", json!([limit("RLIMIT_NOFILE", 4096, 4096)]));
    check(
        |c| c.host.may_raise_limits = true,
        "/process/rlimits",
        json!([limit("RLIMIT_NOFILE", 1_048_576, 1_048_576)]),
    );
    check(
        |c| c.record.spec.ulimits = vec![wanted("nofile", 100, 9999), wanted("nproc", 50, 60)],
        "/process/rlimits",
        json!([limit("RLIMIT_NOFILE", 100, 4096), limit("RLIMIT_NPROC", 50, 60)]),
    );
    let mut bad = case();
    bad.record.spec.ulimits = vec![wanted("files", 1, 1)];
    assert_eq!(bad.spec(), Err(SpecError::UnknownUlimit("files".into())));
}

#[test]
fn resources_follow_the_request() {
    use serde_json::json;
    check(|_| {}, "/linux/resources/pids", json!({"limit": 2048}));
    check(|c| c.record.spec.resources.pids_limit = Some(-1), "/linux/resources/pids", json!({"limit": -1}));
    check(|_| {}, "/linux/resources/memory", json!(null));
    check(
        |c| {
            c.record.spec.resources.memory_limit_bytes = Some(1 << 20);
            c.record.spec.resources.memory_swap_bytes = Some(-1);
        },
        "/linux/resources/memory",
        json!({"limit": 1 << 20, "swap": -1}),
    );
    check(
        |c| {
            c.record.spec.resources.cpu_quota_us = Some(50_000);
            c.record.spec.resources.cpu_period_us = Some(100_000);
            c.record.spec.resources.cpuset_cpus = Some("0-1".into());
        },
        "/linux/resources/cpu",
        json!({"quota": 50_000, "period": 100_000, "cpus": "0-1"}),
    );
    check(|_| {}, "/linux/resources/devices/0", json!({"allow": false, "type": "a", "access": "rwm"}));
    check(
        |c| c.record.spec.security.privileged = true,
        "/linux/resources/devices",
        json!([{"allow": true, "type": "a", "access": "rwm"}]),
    );
    check(|_| {}, "/linux/cgroupsPath", json!("/selkie/x"));
}

#[test]
fn namespaces_are_new_joined_or_the_hosts() {
    use serde_json::json;
    check(
        |_| {},
        "/linux/namespaces",
        json!([
            {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/ns/net"},
            {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"},
        ]),
    );
    check(
        |c| {
            c.resolved.namespaces.net = NamespacePlan::Host;
            c.resolved.namespaces.pid = NamespacePlan::Host;
            c.resolved.namespaces.uts = NamespacePlan::Join("/run/ns/uts".into());
        },
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts", "path": "/run/ns/uts"}, {"type": "cgroup"}]),
    );
    check(|_| {}, "/hostname", json!("web"));
    check(|c| c.resolved.namespaces.uts = NamespacePlan::Join("/x".into()), "/hostname", json!(null));
    check(|c| c.resolved.namespaces.uts = NamespacePlan::Host, "/hostname", json!(null));
}

#[test]
fn confinement_is_lifted_only_on_request() {
    let paths = |change: fn(&mut Case)| {
        let mut case = case();
        change(&mut case);
        let linux = case.spec().unwrap().linux().clone().unwrap();
        (linux.masked_paths().clone().unwrap().len(), linux.readonly_paths().clone().unwrap().len())
    };
    assert_eq!(paths(|_| {}), (MASKED_PATHS.len(), READ_ONLY_PATHS.len()));
    assert_eq!(paths(|c| c.record.spec.security.privileged = true), (0, 0));
    assert_eq!(paths(|c| c.record.spec.security.unmasked = true), (0, 0));
    use serde_json::json;
    check(|_| {}, "/root", json!({"path": "/run/rootfs", "readonly": false}));
    check(|c| c.record.spec.security.read_only_rootfs = true, "/root/readonly", json!(true));
}

#[test]
fn root_is_refused_where_root_must_not_be() {
    let mut root = case();
    root.record.spec.security.run_as_non_root = true;
    assert_eq!(root.spec(), Err(SpecError::RunsAsRoot));
    let mut other = case();
    other.record.spec.security.run_as_non_root = true;
    other.resolved.user.uid = 1000;
    assert!(other.spec().is_ok());
}

#[test]
fn a_container_without_a_command_is_refused() {
    let mut case = case();
    case.record.spec.command = None;
    assert_eq!(case.spec(), Err(SpecError::NoCommand(NoCommand)));
}

#[test]
fn propagation_of_a_mount_reaches_the_root() {
    use serde_json::json;
    for (option, expected) in
        [("rslave", json!("slave")), ("rshared", json!("shared")), ("noexec", json!(null))]
    {
        let mount = ResolvedMount {
            destination: "/a".into(),
            source: ResolvedSource::Bind("/b".into()),
            read_only: false,
            options: vec![option.into()],
        };
        check(|c| c.resolved.mounts = vec![mount], "/linux/rootfsPropagation", expected);
    }
}

/// The spec must survive being written to a bundle.
#[test]
fn the_spec_reads_back_as_it_was() {
    let mut full = case();
    full.record.spec.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    full.record.spec.annotations.insert("a".into(), "b".into());
    let spec = full.spec().unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}
