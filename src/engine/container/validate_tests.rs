//! Tests of `validate.rs`: one healthy request and a mistake per row.

use std::collections::BTreeMap;

use super::*;
use crate::engine::container::spec::{
    CreatedBy, DnsConfig, NetworkAttachment, PortMapping, Protocol, Resources, Ulimit,
};
use crate::engine::id::ContainerId;
use crate::engine::pod::SharedNamespaces;

fn spec() -> ContainerSpec {
    ContainerSpec::new("busybox")
}

fn mount(destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Bind("/src".into()),
        read_only: false,
        options: Vec::new(),
    }
}

fn attachment() -> NetworkAttachment {
    NetworkAttachment {
        network: "n".parse().unwrap(),
        aliases: Vec::new(),
        static_addresses: Vec::new(),
        static_mac: None,
        interface: None,
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut ContainerSpec), reason: &str) {
    let mut spec = spec();
    change(&mut spec);
    let refusal = check(&spec).expect_err("it is refused");
    assert!(refusal.contains(reason), "{refusal:?} does not say {reason:?}");
}

#[track_caller]
fn accepted(change: impl FnOnce(&mut ContainerSpec)) {
    let mut spec = spec();
    change(&mut spec);
    check(&spec).expect("it is accepted");
}

#[test]
fn a_plain_request_is_accepted() {
    accepted(|_| {});
    accepted(|s| s.mounts = vec![mount("/a"), mount("/a/b")]);
    accepted(|s| s.published_ports = vec![PortMapping::new(8080, 80, Protocol::Tcp)]);
    accepted(|s| s.sysctls = BTreeMap::from([("net.core.somaxconn".into(), "1".into())]));
    accepted(|s| {
        s.network = NetworkMode::Host;
        s.published_ports = vec![PortMapping::new(80, 80, Protocol::Tcp)];
    });
}

#[test]
fn mistakes_are_named() {
    let port = || vec![PortMapping::new(80, 80, Protocol::Tcp)];
    let source = |source: MountSource| Mount { source, ..mount("/a") };
    refused(|s| s.mounts = vec![mount("a")], "\"a\" is not an absolute path");
    refused(|s| s.mounts = vec![mount("/")], "not a place inside");
    refused(|s| s.mounts = vec![mount("/a/../..")], "not a place inside");
    refused(|s| s.mounts = vec![mount("/a\0")], "not an absolute path");
    refused(|s| s.mounts = vec![mount("/a/b"), mount("/a//b/")], "duplicate mount destination");
    refused(|s| s.mounts = vec![source(MountSource::Bind("relative".into()))], "source relative");
    refused(
        |s| s.mounts = vec![Mount { options: vec!["U".into()], ..mount("/a") }],
        "option \"U\" is not supported",
    );
    refused(|s| s.env = BTreeMap::from([("A=B".into(), "c".into())]), "\"A=B\"");
    refused(|s| s.env = BTreeMap::from([("".into(), "c".into())]), "\"\"");
    refused(|s| s.command = Some(vec!["a\0b".into()]), "NUL");
    refused(|s| s.working_dir = Some("here".into()), "\"here\"");
    refused(|s| s.hostname = Some("a b".into()), "\"a b\"");
    refused(|s| s.hostname = Some("x".repeat(65)), "no host name");
    refused(|s| s.security.capabilities_add = vec!["FLY".into()], "\"FLY\"");
    refused(|s| s.ulimits = vec![Ulimit { name: "x".into(), soft: 1, hard: 1 }], "unknown ulimit");
    refused(|s| s.ulimits = vec![Ulimit { name: "nofile".into(), soft: 2, hard: 1 }], "above the hard limit");
    refused(
        |s| {
            s.auto_remove = true;
            s.restart_policy = RestartPolicy::Always;
        },
        "removed and be restarted",
    );
    refused(|s| s.stop_signal = Some(0), "no signal");
    refused(|s| s.oom_score_adj = Some(1001), "between -1000 and 1000");
    refused(
        |s| s.published_ports = vec![PortMapping { range: 0, ..port()[0].clone() }],
        "range of at least 1",
    );
    for mode in
        [NetworkMode::None, NetworkMode::Container(ContainerId::random()), NetworkMode::Path("/n".into())]
    {
        refused(
            |s| {
                s.network = mode;
                s.published_ports = port();
            },
            "without a network of its own",
        );
    }
    refused(|s| s.network = NetworkMode::Pod, "in no pod");
    refused(|s| s.ipc_namespace = NamespaceMode::Pod, "in no pod");
    let sysctl = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
    refused(|s| s.sysctls = sysctl("vm.swappiness"), "not confined");
    refused(
        |s| {
            s.sysctls = sysctl("net.core.somaxconn");
            s.network = NetworkMode::Host;
        },
        "not the container's own",
    );
    refused(
        |s| {
            s.sysctls = sysctl("kernel.shmmax");
            s.ipc_namespace = NamespaceMode::Host;
        },
        "not the container's own",
    );
}

fn pod(share: SharedNamespaces) -> PodSandboxSpec {
    PodSandboxSpec {
        name: "front".parse().unwrap(),
        hostname: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        share,
        network: NetworkMode::default(),
        published_ports: Vec::new(),
        dns: DnsConfig::default(),
        hosts: Vec::new(),
        sysctls: BTreeMap::new(),
        resources: Resources::default(),
        shm_size_bytes: None,
        created_by: CreatedBy::Api,
    }
}

#[test]
fn what_a_container_leaves_open_becomes_the_pods() {
    use NamespaceMode as N;
    let all = SharedNamespaces { pid: true, ..SharedNamespaces::default() };
    let host = SharedNamespaces { host_pid: true, host_ipc: true, ..SharedNamespaces::default() };
    let nothing =
        SharedNamespaces { net: false, ipc: false, uts: false, pid: false, host_pid: false, host_ipc: false };
    let bridge = NetworkMode::Bridge(Vec::new());
    let rows = [
        (SharedNamespaces::default(), NetworkMode::Pod, N::Pod, N::Pod, N::Private),
        (all, NetworkMode::Pod, N::Pod, N::Pod, N::Pod),
        (host, NetworkMode::Pod, N::Host, N::Pod, N::Host),
        (nothing, bridge, N::Private, N::Private, N::Private),
    ];
    for (share, network, ipc, uts, pid) in rows {
        let mut spec = spec();
        join_pod(&mut spec, &pod(share)).unwrap();
        let got = (spec.network, spec.ipc_namespace, spec.uts_namespace, spec.pid_namespace);
        assert_eq!(got, (network, ipc, uts, pid), "{share:?}");
    }
}

#[test]
fn what_a_pod_does_not_offer_is_refused() {
    let share = SharedNamespaces::default();
    let no_net = SharedNamespaces { net: false, ..share };
    let no_ipc = SharedNamespaces { ipc: false, ..share };
    let refusal = |share, change: fn(&mut ContainerSpec)| {
        let mut spec = spec();
        change(&mut spec);
        join_pod(&mut spec, &pod(share)).expect_err("it is refused")
    };
    assert!(refusal(no_net, |s| s.network = NetworkMode::Pod).contains("shares no network"));
    assert!(refusal(no_ipc, |s| s.ipc_namespace = NamespaceMode::Pod).contains("no IPC namespace"));
    assert!(refusal(share, |s| s.pid_namespace = NamespaceMode::Pod).contains("no PID namespace"));
    assert!(refusal(share, |s| s.network = NetworkMode::Bridge(vec![attachment()])).contains("join others"));
    assert!(
        refusal(share, |s| s.published_ports = vec![PortMapping::new(1, 1, Protocol::Tcp)])
            .contains("published by the pod")
    );
    assert!(refusal(share, |s| s.hostname = Some("other".into())).contains("host name is the pod's"));
    let mut same = spec();
    same.hostname = Some("front".into());
    join_pod(&mut same, &pod(share)).unwrap();
}
