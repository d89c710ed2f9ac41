//! Pods: shared namespaces, one address, one end.

use std::collections::BTreeMap;

use selkie::engine::container::spec::{ContainerSpec, CreatedBy, DnsConfig, NetworkMode, Resources};
use selkie::engine::container::{RemoveOptions, StopOptions};
use selkie::engine::error::ErrorKind;
use selkie::engine::pod::{PodSandboxSpec, PodState, SharedNamespaces};

use super::bed::{Bed, sh, sleeper};

pub fn pod(name: &str) -> PodSandboxSpec {
    PodSandboxSpec {
        name: name.parse().unwrap(),
        hostname: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        share: SharedNamespaces::default(),
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

impl Bed {
    async fn create_pod(&self, spec: PodSandboxSpec) {
        self.engine().create_pod(spec).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    fn in_pod(&self, pod: &str, spec: ContainerSpec) -> ContainerSpec {
        let id = self.engine().pod(&pod.into()).unwrap().id.clone();
        ContainerSpec { pod: Some(id), ..spec }
    }

    async fn remove_pod(&self, name: &str) {
        let options = RemoveOptions { force: true, stop_timeout_secs: Some(0), volumes: true };
        self.engine()
            .remove_pod(&name.into(), options)
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    fn pod_state(&self, name: &str) -> PodState {
        self.engine().pod_state(&self.engine().pod(&name.into()).unwrap())
    }

    fn address(&self, pod: &str) -> Option<std::net::IpAddr> {
        self.engine().pod(&pod.into()).unwrap().network.as_ref().and_then(|network| network.primary_address())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_network_ipc_and_name() {
    let bed = Bed::new().await;
    bed.create_pod(pod("front")).await;
    let server = "echo shared > /dev/shm/note; while :; do echo hello | nc -l -p 8080; done";
    bed.run(bed.in_pod("front", sh("server", server))).await;
    let client = "until nc 127.0.0.1 8080 < /dev/null; do :; done; cat /dev/shm/note; hostname; readlink /proc/self/ns/ipc; readlink /proc/self/ns/net";
    bed.run(bed.in_pod("front", sh("client", client))).await;
    let output = bed.output("client").await;
    assert!(output.starts_with("hello\nshared\nfront\n"), "{output}");
    let pid = bed.pid("server");
    for kind in ["ipc", "net"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert!(output.contains(link.to_str().unwrap()), "{kind} in {output}");
    }
    assert_eq!(bed.pod_state("front"), PodState::Degraded);
    // A container that starts again finds the same address.
    let address = bed.address("front").expect("it has an address");
    bed.start("client").await;
    assert_eq!(bed.address("front"), Some(address));
    bed.remove_pod("front").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_outlives_each_container() {
    let bed = Bed::new().await;
    let share = SharedNamespaces { pid: true, ..SharedNamespaces::default() };
    bed.create_pod(PodSandboxSpec { share, ..pod("front") }).await;
    bed.run(bed.in_pod("front", sleeper("web"))).await;
    let seen = "ps -o comm,args | grep -c 'sleep 1000'";
    bed.run(bed.in_pod("front", sh("peer", seen))).await;
    assert!(!bed.output("peer").await.starts_with('0'), "the other container's processes are seen");
    bed.remove("web").await;
    bed.start("peer").await;
    assert_eq!(bed.exit_code("peer").await, 0, "grep counts itself");
    bed.remove_pod("front").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_a_pod_frees_its_address_and_starting_it_brings_it_back() {
    let bed = Bed::new().await;
    bed.create_pod(pod("front")).await;
    for name in ["one", "two"] {
        bed.create(bed.in_pod("front", sleeper(name))).await;
    }
    assert_eq!(bed.pod_state("front"), PodState::Created);
    for _ in 0..2 {
        bed.engine().start_pod(&"front".into()).await.unwrap();
        assert_eq!(bed.pod_state("front"), PodState::Running);
        assert!(bed.address("front").is_some());
        for name in ["one", "two"] {
            bed.exec_ready(name).await;
        }
        bed.engine().stop_pod(&"front".into(), StopOptions { timeout_secs: Some(30) }).await.unwrap();
        assert_eq!(bed.pod_state("front"), PodState::Exited);
        assert_eq!(bed.address("front"), None);
        assert!(bed.node.mounts().is_empty(), "{:?}", bed.node.mounts());
    }
    let refused = bed.engine().create_pod(pod("front")).await.expect_err("the name is taken");
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    bed.remove_pod("front").await;
    assert!(bed.engine().pods().is_empty());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_is_removed_only_by_force() {
    let bed = Bed::new().await;
    bed.create_pod(pod("front")).await;
    bed.run(bed.in_pod("front", sleeper("one"))).await;
    let error =
        bed.engine().remove_pod(&"front".into(), RemoveOptions::default()).await.expect_err("it runs");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    bed.create(bed.in_pod("front", sleeper("two"))).await;
    bed.remove_pod("front").await;
    bed.assert_nothing_left();
}
