//! What fields become.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::engine::config::RuntimeName;
use crate::engine::container::spec::{NamespaceMode, NetworkMode, SeccompProfile};
use crate::engine::image::PullPolicy;
use crate::reconcile::desired::{
    DesiredService, HookAction, LateFacts, PodRestartPolicy, ProbeAction, ServiceAddress, TargetPort,
};

fn full() -> DesiredPod {
    pod(include_str!("../full.yaml"))
}

fn files(pod: &DesiredPod, volume: &str) -> (Vec<(String, String, u32)>, bool) {
    match &pod.volumes[volume] {
        DesiredVolume::Files { files, secret } => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (files.iter().map(|f| (f.path.clone(), text(&f.content), f.mode)).collect(), *secret)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pod_has_what_the_manifest_says() {
    let pod = full();
    let sandbox = &pod.sandbox;
    assert_eq!(sandbox.hostname.as_deref(), Some("fuller.group.default.svc.cluster.local"));
    assert_eq!(pod.subdomain.as_deref(), Some("group"));
    assert!(sandbox.share.host_ipc && sandbox.share.pid && !sandbox.share.ipc && !sandbox.share.host_pid);
    assert_eq!(pod.restart_policy, PodRestartPolicy::OnFailure);
    assert_eq!((pod.termination_grace_period_secs, pod.active_deadline_secs), (7, Some(600)));
    assert_eq!(
        sandbox.dns.searches,
        ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]
    );
    assert_eq!(sandbox.dns.options, ["ndots:2", "edns0"]);
    assert_eq!(sandbox.hosts, [("192.0.2.7".parse().unwrap(), vec!["one".into(), "two.example".into()])]);
    assert_eq!(pod.fs_group, Some(2000));
    assert_eq!(sandbox.sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(
        pod.named_ports,
        BTreeMap::from([("dns".into(), 53), ("http".into(), 80), ("metrics".into(), 9090)])
    );
    assert_eq!(sandbox.published_ports.len(), 2);
    assert_eq!(sandbox.published_ports[0].host_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let login = pod.login_for("registry.example:5000/team/app:1").unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("a", "b"));
    assert!(pod.login_for("registry.example:50001/app").is_none());
    assert!(!format!("{:?}", pod.registry_logins).contains("\"b\""), "passwords are not printed");
}

#[test]
fn containers_have_what_the_manifest_says() {
    let pod = full();
    let main = &pod.containers[0];
    let spec = &main.spec;
    assert_eq!(spec.name.as_ref().unwrap().as_str(), "full-main");
    assert_eq!(spec.labels["io.kubernetes.pod.name"], "full");
    assert_eq!(spec.labels["io.kubernetes.container.name"], "main");
    assert_eq!(spec.user.as_deref(), Some("1000:1001"));
    assert_eq!(spec.supplemental_groups, [2000, 2500, 3000]);
    assert_eq!(spec.runtime, Some(RuntimeName::External("crun".into())));
    assert_eq!(spec.network, NetworkMode::Pod);
    assert_eq!((&spec.ipc_namespace, &spec.pid_namespace), (&NamespaceMode::Host, &NamespaceMode::Pod));
    assert_eq!(spec.stop_signal, Some(10));
    assert_eq!(spec.stop_timeout_secs, 7);
    assert!(spec.security.no_new_privileges && spec.security.run_as_non_root && spec.security.unmasked);
    assert_eq!(spec.security.capabilities_add, ["CAP_CHOWN", "CAP_NET_ADMIN"]);
    assert_eq!(spec.security.capabilities_drop, ["ALL"]);
    let profile = PathBuf::from("/var/lib/kubelet/seccomp/profiles/main.json");
    assert_eq!(spec.security.seccomp, SeccompProfile::File(profile));
    assert_eq!(spec.security.apparmor_profile.as_deref(), Some("main"));
    assert_eq!(pod.containers[1].spec.security.apparmor_profile.as_deref(), Some("unconfined"));
    assert!(pod.containers[1].spec.security.privileged);
    assert_eq!(pod.init_containers[0].spec.user.as_deref(), Some("5:6"));
    assert!(pod.init_containers[0].sidecar && !pod.init_containers[1].sidecar);
    assert_eq!(main.pull_policy, PullPolicy::Always);
    assert_eq!(pod.init_containers[1].pull_policy, PullPolicy::Always, "no tag");
    assert_eq!(pod.containers[1].pull_policy, PullPolicy::Missing);

    let liveness = main.liveness_probe.as_ref().unwrap();
    let ProbeAction::Http(http) = &liveness.action else { panic!("{liveness:?}") };
    assert_eq!((http.port, http.path.as_str(), http.https), (80, "/healthz", true));
    assert_eq!((liveness.period_secs, liveness.timeout_secs, liveness.failure_threshold), (2, 3, 3));
    assert_eq!(liveness.termination_grace_period_secs, Some(4));
    assert_eq!(main.readiness_probe.as_ref().unwrap().success_threshold, 2);
    assert_eq!(main.pre_stop, Some(HookAction::Sleep { seconds: 3 }));
    assert_eq!(main.mounts.len(), 9);
    let data = main.mounts.iter().find(|mount| mount.mount_path == "/data").unwrap();
    assert_eq!(data.sub_path.as_deref(), Some("default/x"));
}

#[test]
fn variables_are_filled_in() {
    let pod = full();
    let main = &pod.containers[0];
    let facts = LateFacts {
        pod_addresses: vec!["10.88.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        host_address: "10.88.0.1".parse().unwrap(),
        pod_uid: "uid".into(),
    };
    let spec = main.resolved_spec(&facts);
    assert_eq!(spec.entrypoint.unwrap(), ["main", "--advertise=10.88.0.5:80"]);
    assert_eq!(spec.command.unwrap(), ["1", "10.88.0.110.88.0.5", "$(MISSING)"]);
    for (name, want) in [
        ("A", "1"),
        ("CFG_B", "yes"),
        ("password", "p$$w(d"),
        // $(POD_IP) comes later in the list, so it is not known yet: Kubernetes leaves it.
        ("URL", "http://p$$w(d@$(POD_IP)/"),
        ("POD_IP", "10.88.0.5"),
        ("POD_IPS", "10.88.0.5,fd00::5"),
        ("HOST_IP", "10.88.0.1"),
        ("POD_UID", "uid"),
        ("ADDRESS", "$10.88.0.5:80$"),
        ("CPUS", "2"),
        ("MEMORY", "64"),
        ("EMPTY", ""),
        ("NODE", "node"),
    ] {
        assert_eq!(spec.env[name], want, "{name}");
    }
    assert!(!spec.env.contains_key("CFG_blob"), "a variable can not hold binary data");
    let setup = pod.init_containers[1].spec.entrypoint.as_ref().unwrap();
    assert_eq!(setup[1..], ["full", "$(POD)", "$HOME", "a$b"]);

    // On the host network, the pod's address is the host's.
    let facts = LateFacts { pod_addresses: Vec::new(), ..facts };
    assert_eq!(main.resolved_spec(&facts).env["POD_IPS"], "10.88.0.1");
}

#[test]
fn nothing_secret_is_printed() {
    let pod = full();
    assert_eq!(
        pod.containers[0].secret_env.iter().map(String::as_str).collect::<Vec<_>>(),
        ["PASSWORD", "URL", "password", "user"]
    );
    let told = pod.fields.values().cloned().collect::<Vec<_>>().join("\n");
    for secret in ["p$$w(d", "p$$$w(d", "selkie"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    assert!(pod.fields["spec.containers[main].env[PASSWORD].value"].starts_with("sha256:"));
    // But a change of it is a change of the pod.
    let changed = include_str!("../full.yaml").replace("p$$w(d", "other");
    assert_ne!(super::pod(&changed).hash, pod.hash);
}

#[test]
fn volumes_hold_what_they_are_made_of() {
    let pod = full();
    let owned = |path: &str, content: &str, mode| (path.to_owned(), content.to_owned(), mode);
    assert_eq!(
        files(&pod, "mixed"),
        (vec![owned("a", "1", 0o444), owned("name", "full", 0o444), owned("u", "selkie", 0o444)], true)
    );
    assert_eq!(
        files(&pod, "about"),
        (vec![owned("labels", "app=\"full\"\ntier=\"1\"", 0o640), owned("limit", "134217728", 0o600)], false)
    );
    let (secret, is_secret) = files(&pod, "secret");
    assert!(is_secret);
    assert_eq!(secret[1], owned("password", "p$$w(d", 0o400));
    assert_eq!(files(&pod, "some-config").0[1].2, 0o600);
    assert_eq!(files(&pod, "some-config").0[0].0, "blob");
    assert_eq!(
        pod.volumes["memory"],
        DesiredVolume::EmptyDir { memory: true, size_limit_bytes: Some(8 << 20) }
    );
    assert_eq!(pod.volumes["data"], DesiredVolume::Claim { volume: "data".into(), read_only: true });
}

#[test]
fn resources_follow_kubelets_formulas() {
    for (resources, memory, reservation, quota, shares, oom) in [
        ("{}", None, None, None, 2, 1000),
        ("{limits: {cpu: 1500m}}", None, None, Some(150_000), 1536, 999),
        ("{limits: {cpu: 1m}}", None, None, Some(1000), 2, 999),
        ("{requests: {cpu: 100m}}", None, None, None, 102, 999),
        ("{requests: {memory: 2Gi}}", None, Some(2_u64 << 30), None, 2, 500),
        (
            "{limits: {memory: 64Mi}, requests: {memory: 32Mi}}",
            Some(64_u64 << 20),
            Some(32 << 20),
            None,
            2,
            993,
        ),
        ("{limits: {cpu: 2, memory: 1Gi}}", Some(1 << 30), None, Some(200_000), 2048, -997),
    ] {
        let text = HEALTHY.replace("    image:", &format!("    resources: {resources}\n    image:"));
        let spec = &pod(&text).containers[0].spec;
        let found = (
            spec.resources.memory_limit_bytes,
            spec.resources.memory_reservation_bytes,
            spec.resources.cpu_quota_us,
            spec.resources.cpu_shares,
            spec.oom_score_adj,
        );
        assert_eq!(found, (memory, reservation, quota, Some(shares), Some(oom)), "{resources}");
    }
}

#[test]
fn saying_a_default_changes_nothing() {
    let plain = pod(HEALTHY);
    for (from, to) in [
        (
            "spec:\n",
            "spec:\n  restartPolicy: Always\n  dnsPolicy: ClusterFirst\n  terminationGracePeriodSeconds: 30\n",
        ),
        (
            "spec:\n",
            "spec:\n  hostNetwork: false\n  securityContext: {}\n  initContainers: []\n  hostname: web\n",
        ),
        (
            "    image:",
            "    imagePullPolicy: IfNotPresent\n    securityContext: {privileged: false, procMount: Default}\n    image:",
        ),
        ("containerPort: 80", "containerPort: 80, protocol: TCP, hostIP: 0.0.0.0"),
        ("    image:", "    env: []\n    command: []\n    args: null\n    image:"),
        ("mountPath: /data", "mountPath: /data/, readOnly: false, mountPropagation: None"),
        ("    image:", "    resources: {requests: {cpu: 0}}\n    image:"),
        ("containers:\n", "containers: # with a comment\n"),
    ] {
        assert!(HEALTHY.contains(from));
        let same = pod(&HEALTHY.replacen(from, to, 1));
        assert_eq!((&same.fields, &same.hash), (&plain.fields, &plain.hash), "{to}");
    }
}

fn workload(kind: &str, extra: &str, template: &str) -> String {
    format!(
        "apiVersion: {}\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n  {extra}\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      {template}\n      containers: [{{name: main, image: 'web:1', env: [{{name: ME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]}}]\n",
        if kind == "Job" { "batch/v1" } else { "apps/v1" }
    )
}

#[test]
fn controllers_make_their_pods() {
    let deployment = loaded(&workload("Deployment", "replicas: 3", ""));
    let names: Vec<&str> = deployment.pods.iter().map(|pod| pod.name.name.as_str()).collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    assert_eq!(deployment.pods[2].owner.to_string(), "deployment web");
    assert_eq!(deployment.pods[2].containers[0].spec.env["ME"], "web-2");
    assert_eq!(deployment.pods[0].labels["app"], "web");
    assert_eq!(loaded(&workload("Deployment", "replicas: 0", "")).pods.len(), 0);
    assert_eq!(loaded(&workload("DaemonSet", "", "")).pods[0].name.name, "web-0");

    let set = loaded(&workload(
        "StatefulSet",
        "{replicas: 2, serviceName: group, ordinals: {start: 4}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}],",
        "",
    )
    .replace("  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      \n      containers: ", " selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: ")
    .replace("metadata.name}}}]}]\n", "metadata.name}}}], volumeMounts: [{name: data, mountPath: /data}]}]}}}\n"));
    assert_eq!(set.pods[0].name.name, "web-4");
    assert_eq!(set.pods[0].subdomain.as_deref(), Some("group"));
    assert_eq!(
        set.pods[1].volumes["data"],
        DesiredVolume::Claim { volume: "data-web-5".into(), read_only: false }
    );
    assert_eq!(set.volumes[0].volume, "data-web-4");
    assert_eq!(set.pods[0].labels["apps.kubernetes.io/pod-index"], "4");

    let job = loaded(
        &workload("Job", "backoffLimit: 2\n  activeDeadlineSeconds: 9", "restartPolicy: Never")
            .replace("  selector: {matchLabels: {app: web}}\n", ""),
    );
    assert_eq!(job.pods[0].job.as_ref().unwrap().backoff_limit, 2);
    assert_eq!(job.pods[0].active_deadline_secs, Some(9));
    assert_eq!(job.pods[0].name.name, "web-0");
    let suspended = workload("Job", "suspend: true", "restartPolicy: Never")
        .replace("  selector: {matchLabels: {app: web}}\n", "");
    assert_eq!(loaded(&suspended).pods.len(), 0);
}

#[test]
fn controllers_are_validated() {
    for (text, want) in [
        (workload("Deployment", "replicas: -1", ""), "spec.replicas: must be between 0 and 1000"),
        (
            workload("Deployment", "", "").replace("matchLabels: {app: web}", "matchLabels: {app: x}"),
            "spec.selector: does not fit the labels of the template",
        ),
        (
            workload("Deployment", "", "").replace("  selector: {matchLabels: {app: web}}\n", ""),
            "spec.selector: is required",
        ),
        (workload("Deployment", "paused: true", ""), "spec.paused: only false is supported"),
        (
            workload("Deployment", "", "restartPolicy: Never"),
            "spec.template.spec.restartPolicy: must be Always here",
        ),
        (
            workload("Job", "completions: 3", "restartPolicy: Never"),
            "spec.completions: only 1 is supported: one pod is run once",
        ),
        (
            workload("Job", "", "").replace("  selector: {matchLabels: {app: web}}\n", ""),
            "spec.template.spec.restartPolicy: must be OnFailure or Never in a Job",
        ),
        (
            workload("StatefulSet", "persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}", ""),
            "whenDeleted: only Retain is supported: volumes are never removed unasked",
        ),
        (
            workload("Deployment", "", "").replace("template:", "tmplate:"),
            "spec.tmplate: unknown field (did you mean \"template\"?)",
        ),
    ] {
        let found = errors(&text);
        assert!(found.contains(want), "wanted {want}\nfound {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n")
}

fn one_service(spec: &str) -> DesiredService {
    loaded(&service(spec)).services.remove(0)
}

#[test]
fn services_have_what_the_manifest_says() {
    let plain = one_service("selector: {app: web}, ports: [{port: 80}]");
    assert_eq!(plain.address, ServiceAddress::Cluster(None));
    assert_eq!((plain.ports[0].port, &plain.ports[0].target), (80, &TargetPort::Number(80)));
    assert_eq!(plain.ports[0].node_port, None);
    let named = one_service("selector: {a: b}, ports: [{port: 80, targetPort: http}], clusterIP: 10.96.0.9");
    assert_eq!(named.ports[0].target, TargetPort::Name("http".into()));
    assert_eq!(named.address, ServiceAddress::Cluster(Some("10.96.0.9".parse().unwrap())));
    let headless = one_service("selector: {a: b}, clusterIP: None, publishNotReadyAddresses: true");
    assert_eq!(headless.address, ServiceAddress::Headless);
    assert!(headless.publish_not_ready && headless.ports.is_empty());
    let node = one_service("type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: 30080}]");
    assert_eq!(node.ports[0].node_port, Some(30_080));
    let chosen = |spec| one_service(spec).ports[0].node_port.unwrap();
    let port = chosen("type: NodePort, selector: {a: b}, ports: [{port: 80}]");
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(port, chosen("type: NodePort, selector: {c: d}, ports: [{port: 80}]"), "by name, so stable");
}

#[test]
fn services_are_validated() {
    for (spec, want) in [
        ("ports: [{port: 80}]", "4:7: spec.selector: must not be empty"),
        ("selector: {a: b}", "4:7: spec.ports: is required"),
        ("selector: {a: b}, ports: [{port: 0}]", "spec.ports[0].port: must be between 1 and 65535"),
        (
            "selector: {a: b}, ports: [{port: 1}, {port: 2}]",
            "spec.ports[0].name: is required when there are several ports",
        ),
        (
            "selector: {a: b}, ports: [{port: 1, name: a}, {port: 1, name: b}]",
            "spec.ports[1].port: port 1/tcp is given twice",
        ),
        (
            "type: LoadBalancer, selector: {a: b}, ports: [{port: 1}]",
            "spec.type: LoadBalancer is not supported: only ClusterIP and NodePort",
        ),
        (
            "type: ExternalName, externalName: x, selector: {a: b}, ports: [{port: 1}]",
            "spec.externalName: not supported",
        ),
        (
            "selector: {a: b}, ports: [{port: 1, nodePort: 30000}]",
            "spec.ports[0].nodePort: needs `type: NodePort`",
        ),
        (
            "type: NodePort, selector: {a: b}, ports: [{port: 1, nodePort: 80}]",
            "spec.ports[0].nodePort: must be between 30000 and 32767",
        ),
        (
            "selector: {a: b}, ports: [{port: 1}], sessionAffinity: ClientIP",
            "spec.sessionAffinity: only None is supported",
        ),
        (
            "selector: {a: b}, ports: [{port: 1}], clusterIP: nowhere",
            "spec.clusterIP: is not an IP address and not None",
        ),
        ("selector: {a: b}, ports: [{port: 1}], externalIPs: [192.0.2.1]", "spec.externalIPs: not supported"),
        (
            "selector: {a: b}, ports: [{port: 1, targetPort: '80'}]",
            "spec.ports[0].targetPort: a port number must not be in quotes",
        ),
    ] {
        let found = errors(&service(spec));
        assert!(found.contains(want), "wanted {want}\nfound {found}");
    }
}

#[test]
fn data_is_validated() {
    for (text, want) in [
        ("kind: Secret\ndata: {a: '!'}", "data.a: not valid base64"),
        ("kind: ConfigMap\ndata: {a/b: x}", "data.a/b: is not a valid key"),
        ("kind: ConfigMap\ndata: {a: 1}", "data.a: expected a string, found an integer 1: put it in quotes"),
        (
            "kind: PersistentVolumeClaim\nspec: {accessModes: [Sometimes]}",
            "spec.accessModes[0]: is not an access mode",
        ),
        (
            "kind: PersistentVolumeClaim\nspec: {volumeMode: Block}",
            "spec.volumeMode: only Filesystem is supported",
        ),
    ] {
        let found = errors(&format!("apiVersion: v1\nmetadata: {{name: x}}\n{text}\n"));
        assert!(found.contains(want), "wanted {want}\nfound {found}");
    }
}

#[test]
fn a_claim_nobody_declared_is_a_warning() {
    let objects = loaded(&HEALTHY.replace("emptyDir: {}", "persistentVolumeClaim: {claimName: disk}"));
    assert_eq!(objects.warnings.len(), 1);
    assert!(objects.warnings[0].message.starts_with("no PersistentVolumeClaim \"disk\" in the manifests"));
}
