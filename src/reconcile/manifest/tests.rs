//! The whole way from texts to desired state, in tables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::reconcile::desired::{
    DesiredPod, DesiredStack, DesiredState, DesiredVolume, StackName, StackObjects,
};

const HEALTHY: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: main
    image: example.org/web:1
    ports:
    - {name: http, containerPort: 80, hostPort: 8080}
    volumeMounts:
    - {name: data, mountPath: /data}
  volumes:
  - name: data
    emptyDir: {}
";

pub fn context() -> Context {
    Context {
        node_name: "node".into(),
        memory_bytes: 4 << 30,
        cpus: 2,
        seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
    }
}

fn source() -> SourceName {
    SourceName::Directory(PathBuf::from("/manifests"))
}

pub fn desired(files: &[(&str, &str)]) -> DesiredState {
    let files =
        files.iter().map(|(path, text)| (PathBuf::from(path), Ok(Arc::from(text.as_bytes())))).collect();
    let files = SourceFiles {
        source: source(),
        health: SourceHealth::Read,
        files,
        empty_directories: BTreeSet::new(),
    };
    desired_from(&[files], &context())
}

fn stack<'d>(desired: &'d DesiredState, name: &str) -> &'d DesiredStack {
    &desired.stacks[&StackName { source: source(), name: name.into() }]
}

fn loaded(text: &str) -> StackObjects {
    match stack(&desired(&[("web.yaml", text)]), "web") {
        DesiredStack::Loaded(objects) => objects.clone(),
        DesiredStack::Held { errors } => panic!("held: {}\n{text}", printed(errors)),
    }
}

fn pod(text: &str) -> DesiredPod {
    let mut pods = loaded(text).pods;
    assert_eq!(pods.len(), 1);
    pods.remove(0)
}

fn printed(errors: &[crate::reconcile::desired::ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn errors_of(desired: &DesiredState, name: &str) -> String {
    match stack(desired, name) {
        DesiredStack::Held { errors } => printed(errors),
        DesiredStack::Loaded(_) => panic!("{name} is not held"),
    }
}

fn errors(text: &str) -> String {
    errors_of(&desired(&[("web.yaml", text)]), "web")
}

#[test]
fn a_healthy_manifest_loads() {
    let objects = loaded(HEALTHY);
    assert_eq!(objects.warnings, []);
    let pod = &objects.pods[0];
    assert_eq!(pod.sandbox.published_ports.len(), 1);
    assert_eq!(pod.hash.len(), 64);
    assert_eq!(pod.fields["spec.containers[main].image"], "example.org/web:1");
}

#[test]
fn fields_read_like_the_manifest() {
    let pod = pod(HEALTHY);
    let fields: Vec<String> = pod.fields.iter().map(|(path, value)| format!("{path}: {value}")).collect();
    assert_eq!(
        fields,
        [
            "metadata.labels.app: web",
            "spec.containers[main].image: example.org/web:1",
            "spec.containers[main].name: main",
            "spec.containers[main].ports[http].containerPort: 80",
            "spec.containers[main].ports[http].hostPort: 8080",
            "spec.containers[main].ports[http].name: http",
            "spec.containers[main].volumeMounts[/data].mountPath: /data",
            "spec.containers[main].volumeMounts[/data].name: data",
            "spec.volumes[data].emptyDir: {}",
            "spec.volumes[data].name: data",
        ]
    );
}

/// One change to the healthy manifest, and the whole error it causes.
#[test]
fn a_mistake_is_told_with_its_place() {
    let rows: &[(&str, &str, &str)] = &[
        // Unknown and misspelt.
        (
            "  containers:",
            "  contaners:",
            "web.yaml:7:3: spec.contaners: unknown field (did you mean \"containers\"?)",
        ),
        (
            "    image:",
            "    Image:",
            "web.yaml:9:5: spec.containers[0].Image: unknown field (did you mean \"image\"?)",
        ),
        (
            "hostPort: 8080",
            "hostport: 8080",
            "web.yaml:11:39: spec.containers[0].ports[0].hostport: unknown field (did you mean \"hostPort\"?)",
        ),
        (
            "emptyDir: {}",
            "emptydir: {}",
            "web.yaml:16:5: spec.volumes[0].emptydir: unknown field (did you mean \"emptyDir\"?)",
        ),
        ("emptyDir: {}", "zzz: {}\n    emptyDir: {}", "web.yaml:16:5: spec.volumes[0].zzz: unknown field"),
        ("kind: Pod", "kind: Pods", "web.yaml:2:1: kind: unknown kind \"Pods\" (did you mean \"Pod\"?)"),
        ("kind: Pod\n", "", "web.yaml:1:1: kind: is required"),
        ("apiVersion: v1", "apiVersion: v2", "web.yaml:1:13: apiVersion: must be v1 for a Pod"),
        // Wrong types.
        (
            "name: web\n",
            "name: 12\n",
            "web.yaml:4:9: metadata.name: expected a string, found an integer 12: put it in quotes",
        ),
        (
            "containerPort: 80",
            "containerPort: '80'",
            "web.yaml:11:35: spec.containers[0].ports[0].containerPort: expected an integer, found \"80\"",
        ),
        (
            "    ports:\n    -",
            "    ports:\n     ",
            "web.yaml:11:7: spec.containers[0].ports: expected a list, found a mapping",
        ),
        (
            "{app: web}",
            "{app: yes}",
            "web.yaml:5:17: metadata.labels.app: expected a string, found a boolean true: put it in quotes",
        ),
        ("{app: web}", "[app]", "web.yaml:5:11: metadata.labels: expected a mapping, found a list"),
        ("    emptyDir: {}", "    {}", "web.yaml:17:1: not valid YAML: simple key expect ':'"),
        (
            "spec:\n",
            "spec:\n  tolerations: [{key: [b]}]\n",
            "web.yaml:7:23: spec.tolerations[0].key: invalid type: sequence, expected a string",
        ),
        // Names.
        (
            "name: web\n",
            "name: Web\n",
            "web.yaml:4:9: metadata.name: is not a valid name: lower case letters, digits and inner dashes",
        ),
        (
            "name: main",
            "name: main_1",
            "web.yaml:8:11: spec.containers[0].name: is not a valid name: lower case letters, digits and inner dashes",
        ),
        ("{app: web}", "{a b: web}", "web.yaml:5:12: metadata.labels[\"a b\"]: is not a valid label name"),
        (
            "name: http",
            "name: HTTP",
            "web.yaml:11:14: spec.containers[0].ports[0].name: is not a valid port name: at most 15 lower case letters, digits and inner dashes",
        ),
        (
            "  labels:",
            "  namespace: a.b\n  labels:",
            "web.yaml:5:14: metadata.namespace: is not a valid namespace: lower case letters, digits and inner dashes",
        ),
        // Values.
        (
            "containerPort: 80",
            "containerPort: 70000",
            "web.yaml:11:35: spec.containers[0].ports[0].containerPort: must be between 1 and 65535",
        ),
        (
            "image: example.org/web:1",
            "image: example.org/Web:1",
            "web.yaml:9:12: spec.containers[0].image: invalid reference format: repository name (Web) must be lowercase",
        ),
        (
            "- {name: data, mount",
            "- {name: date, mount",
            "web.yaml:13:14: spec.containers[0].volumeMounts[0].name: no volume \"date\" in this pod (did you mean \"data\"?)",
        ),
        (
            "mountPath: /data",
            "mountPath: /a/../b",
            "web.yaml:13:31: spec.containers[0].volumeMounts[0].mountPath: must not contain `:` or `..`",
        ),
        (
            "spec:\n",
            "spec:\n  restartPolicy: Sometimes\n",
            "web.yaml:7:18: spec.restartPolicy: \"Sometimes\" is not one of Always, OnFailure, Never",
        ),
        (
            "spec:\n",
            "spec:\n  terminationGracePeriodSeconds: -1\n",
            "web.yaml:7:34: spec.terminationGracePeriodSeconds: must be between 0 and 2147483647",
        ),
        (
            "spec:\n",
            "spec:\n  hostNetwork: true\n",
            "web.yaml:12:49: spec.containers[0].ports[0].hostPort: must be the containerPort on the host network",
        ),
        (
            "spec:\n",
            "spec:\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n",
            "web.yaml:8:14: spec.dnsPolicy: not supported: a pod on the host network asks the host's name servers\nweb.yaml:13:49: spec.containers[0].ports[0].hostPort: must be the containerPort on the host network",
        ),
        (
            "spec:\n",
            "spec:\n  dnsConfig: {nameservers: [192.0.2.1]}\n",
            "web.yaml:7:28: spec.dnsConfig.nameservers: not supported without `dnsPolicy: None`: the names of Services would not be found",
        ),
        (
            "spec:\n",
            "spec:\n  runtimeClassName: gvisor\n",
            "web.yaml:7:21: spec.runtimeClassName: \"gvisor\" is not one of selkie, crun, runc, youki",
        ),
        (
            "spec:\n",
            "spec:\n  nodeName: other\n",
            "web.yaml:7:13: spec.nodeName: this node is called \"node\"",
        ),
        (
            "    image:",
            "    resources: {limits: {cpu: lots}}\n    image:",
            "web.yaml:9:31: spec.containers[0].resources.limits.cpu: expected a quantity such as 100m or 64Mi, found \"lots\"",
        ),
        (
            "    image:",
            "    resources: {limits: {cpu: 1}, requests: {cpu: 2}}\n    image:",
            "web.yaml:9:51: spec.containers[0].resources.requests.cpu: must not be more than the limit",
        ),
        (
            "    image:",
            "    resources: {limits: {nvidia.com/gpu: 1}}\n    image:",
            "web.yaml:9:26: spec.containers[0].resources.limits[\"nvidia.com/gpu\"]: not supported: only cpu and memory are limited",
        ),
        (
            "    image:",
            "    livenessProbe: {httpGet: {port: web}}\n    image:",
            "web.yaml:9:37: spec.containers[0].livenessProbe.httpGet.port: no port \"web\" in this container",
        ),
        (
            "    image:",
            "    livenessProbe: {periodSeconds: 3}\n    image:",
            "web.yaml:9:20: spec.containers[0].livenessProbe: one of exec, httpGet, tcpSocket, grpc is required",
        ),
        (
            "    image:",
            "    livenessProbe: {tcpSocket: {port: 1}, grpc: {port: 1}}\n    image:",
            "web.yaml:9:20: spec.containers[0].livenessProbe: tcpSocket and grpc exclude each other",
        ),
        (
            "    image:",
            "    livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}\n    image:",
            "web.yaml:9:61: spec.containers[0].livenessProbe.successThreshold: must be 1 for this probe",
        ),
        (
            "    image:",
            "    env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k}}}]\n    image:",
            "web.yaml:9:57: spec.containers[0].env[0].valueFrom.configMapKeyRef.name: no ConfigMap \"none\" in the manifests",
        ),
        (
            "    image:",
            "    envFrom: [{secretRef: {name: none}}]\n    image:",
            "web.yaml:9:34: spec.containers[0].envFrom[0].secretRef.name: no Secret \"none\" in the manifests",
        ),
        (
            "    image:",
            "    env: [{name: A, value: 8080}]\n    image:",
            "web.yaml:9:28: spec.containers[0].env[0].value: expected a string, found an integer 8080: put it in quotes",
        ),
        (
            "    image:",
            "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.x}}}]\n    image:",
            "web.yaml:9:55: spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"spec.x\" is not a field that can be asked for",
        ),
        (
            "emptyDir: {}",
            "configMap: {name: none}",
            "web.yaml:16:23: spec.volumes[0].configMap.name: no ConfigMap \"none\" in the manifests",
        ),
        (
            "emptyDir: {}",
            "hostPath: {path: data}",
            "web.yaml:16:22: spec.volumes[0].hostPath.path: must be absolute and without `..`",
        ),
        (
            "emptyDir: {}",
            "emptyDir: {sizeLimit: 1Gi}",
            "web.yaml:16:27: spec.volumes[0].emptyDir.sizeLimit: not supported on disk: only with `medium: Memory`",
        ),
        // Doubled.
        (
            "  - name: main",
            "  - {name: main, image: a}\n  - name: main",
            "web.yaml:9:11: spec.containers[1].name: two containers are called \"main\"",
        ),
        (
            "  - name: data\n",
            "  - {name: data, emptyDir: {}}\n  - name: data\n",
            "web.yaml:16:11: spec.volumes[1].name: two volumes are called \"data\"",
        ),
        (
            "    - {name: data, mountPath: /data}",
            "    - {name: data, mountPath: /data}\n    - {name: data, mountPath: /data/}",
            "web.yaml:14:31: spec.containers[0].volumeMounts[1].mountPath: two volumes are mounted here",
        ),
        (
            "  name: web\n",
            "  name: web\n  name: web\n",
            "web.yaml:5:3: duplicate key \"name\", first on line 4",
        ),
        // Refused with the reason.
        (
            "spec:\n",
            "spec:\n  readinessGates: [{conditionType: x}]\n",
            "web.yaml:7:3: spec.readinessGates: not supported: nobody here would set the condition, so the pod would never be ready",
        ),
        (
            "spec:\n",
            "spec:\n  hostUsers: false\n",
            "web.yaml:7:14: spec.hostUsers: only true is supported: user namespaces are not made yet",
        ),
        ("spec:\n", "spec:\n  os: {name: windows}\n", "web.yaml:7:14: spec.os.name: only linux is supported"),
        (
            "emptyDir: {}",
            "nfs: {server: a, path: /}",
            "web.yaml:16:5: spec.volumes[0].nfs: not supported: mount it on the host and use hostPath",
        ),
        // Security is never taken lightly.
        (
            "    image:",
            "    securityContext: {seLinuxOptions: {level: s0}}\n    image:",
            "web.yaml:9:23: spec.containers[0].securityContext.seLinuxOptions: not supported: SELinux labels are not set yet",
        ),
        (
            "    image:",
            "    securityContext: {runAsGroup: 5}\n    image:",
            "web.yaml:9:35: spec.containers[0].securityContext.runAsGroup: not supported without runAsUser",
        ),
        (
            "    image:",
            "    securityContext: {runAsNonRoot: true, runAsUser: 0}\n    image:",
            "web.yaml:9:37: spec.containers[0].securityContext.runAsNonRoot: can not hold: runAsUser is 0",
        ),
        (
            "    image:",
            "    securityContext: {privileged: true, allowPrivilegeEscalation: false}\n    image:",
            "web.yaml:9:67: spec.containers[0].securityContext.allowPrivilegeEscalation: can not be false with privileged",
        ),
        (
            "    image:",
            "    securityContext: {capabilities: {add: [NET_ADMN]}}\n    image:",
            "web.yaml:9:44: spec.containers[0].securityContext.capabilities.add[0]: \"NET_ADMN\" is not a capability (did you mean \"NET_ADMIN\"?)",
        ),
        (
            "    image:",
            "    securityContext: {appArmorProfile: {type: RuntimeDefault}}\n    image:",
            "web.yaml:9:47: spec.containers[0].securityContext.appArmorProfile.type: not supported: Selkie brings no AppArmor profile of its own",
        ),
        (
            "    image:",
            "    securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}\n    image:",
            "web.yaml:9:75: spec.containers[0].securityContext.seccompProfile.localhostProfile: must be relative and without `..`",
        ),
        (
            "  labels:",
            "  annotations: {container.apparmor.security.beta.kubernetes.io/main: unconfined}\n  labels:",
            "web.yaml:5:17: metadata.annotations[\"container.apparmor.security.beta.kubernetes.io/main\"]: not supported: use securityContext",
        ),
        (
            "    image:",
            "    volumeDevices: [{name: a, devicePath: /dev/b}]\n    image:",
            "web.yaml:9:5: spec.containers[0].volumeDevices: not supported: block devices are not handed to containers yet",
        ),
    ];
    let mut wrong = String::new();
    for (from, to, want) in rows {
        assert!(HEALTHY.contains(from), "{from:?} is not in the healthy manifest");
        let text = HEALTHY.replacen(from, to, 1);
        let mut want: Vec<&str> = want.split('\n').collect();
        want.sort_unstable();
        let found = errors(&text);
        let mut found: Vec<&str> = found.split('\n').collect();
        found.sort_unstable();
        if found != want {
            wrong.push_str(&format!("\n{to:?}\n  wanted {want:#?}\n  found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

mod again;
mod honesty;
mod hostile;
mod stacks;
mod values;
