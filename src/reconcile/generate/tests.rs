//! What is written is what plays again.

use super::*;
use crate::engine::container::spec::{ContainerSpec, PortMapping, Protocol, SeccompProfile};
use crate::engine::container::state::ContainerState;
use crate::engine::id::ContainerId;
use crate::reconcile::desired::{DesiredStack, SourceName, StackObjects};
use crate::reconcile::manifest::{Context, SourceFiles, desired_from};

fn context() -> Context {
    Context {
        node_name: "node".into(),
        memory_bytes: 4 << 30,
        cpus: 2,
        seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
    }
}

fn loaded(text: &str) -> StackObjects {
    let source = SourceFiles::of_texts(SourceName::Played, [("x", text)]);
    match desired_from(&[source], &context()).stacks.into_values().next().unwrap() {
        DesiredStack::Loaded(objects) => objects,
        DesiredStack::Held { errors } => panic!("{errors:?}\n{text}"),
    }
}

fn record(name: &str, change: impl FnOnce(&mut ContainerSpec)) -> Arc<ContainerRecord> {
    let mut spec = ContainerSpec::new("web:1");
    change(&mut spec);
    Arc::new(ContainerRecord {
        id: ContainerId::random(),
        name: name.parse().unwrap(),
        spec,
        image_id: None,
        image_name: "example.org/web:1".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        state: ContainerState::Configured,
        pending: None,
        restart_count: 0,
        stopped_by_user: false,
        network: None,
        anonymous_volumes: Vec::new(),
    })
}

fn yaml_of(containers: &[Arc<ContainerRecord>]) -> String {
    let name = format!("{}-pod", kubernetes_name(containers[0].name.as_str()));
    write(&[read_pod(&name, sandbox_of(&name, containers), containers)], false)
}

/// Everything a manifest can say, at least once.
const FULL: &str = include_str!("../manifest/full.yaml");

/// The values of Secrets are told apart only while it is known that they are.
fn is_secret(pod: &DesiredPod, path: &str) -> bool {
    pod.fields[path].contains("sha256:") && path.contains(".env[") || pod.fields[path].contains("(secret)")
}

#[test]
fn what_is_generated_is_the_same_pod() {
    let objects = loaded(FULL);
    assert_eq!(objects.pods.len(), 1);
    for pod in objects.pods {
        let text = write(&[Readback { pod: pod.clone(), lost: Vec::new() }], false);
        let again = loaded(&text);
        assert_eq!(again.pods.len(), 1, "{text}");
        let differing: Vec<_> = pod
            .fields
            .iter()
            .filter(|(path, value)| again.pods[0].fields.get(*path) != Some(value))
            .chain(again.pods[0].fields.iter().filter(|(path, _)| !pod.fields.contains_key(*path)))
            .filter(|(path, _)| !is_secret(&pod, path))
            .collect();
        assert!(differing.is_empty(), "{differing:#?}\n{text}");
        assert_eq!(again.pods[0].hash, pod.hash, "{text}");
        // And not only by what is hashed.
        let mut same = again.pods[0].clone();
        same.location = pod.location.clone();
        same.owner = pod.owner.clone();
        same.registry_logins = pod.registry_logins.clone();
        same.fields = pod.fields.clone();
        for (container, original) in same.containers.iter_mut().zip(&pod.containers) {
            // A generated manifest has the values of Secrets in it.
            container.secret_env = original.secret_env.clone();
        }
        let json = |pod: &DesiredPod| serde_json::to_value(pod).unwrap();
        let (same, pod) = (json(&same), json(&pod));
        for (key, value) in pod.as_object().unwrap() {
            assert_eq!(&same[key], value, "{key}\n{text}");
        }
    }
}

#[test]
fn a_container_becomes_a_pod_that_is_played_alike() {
    let web = record("My_Web", |spec| {
        spec.command = Some(vec!["sh".into(), "-c".into(), "echo $(date) $$".into()]);
        spec.env = BTreeMap::from([("A".into(), "yes".into()), ("B".into(), "$(A)".into())]);
        spec.user = Some("1000:1000".into());
        spec.published_ports = vec![PortMapping::new(8080, 80, Protocol::Tcp)];
        spec.restart_policy = RestartPolicy::UnlessStopped;
        spec.security.seccomp = SeccompProfile::Unconfined;
        spec.security.capabilities_drop = vec!["ALL".into()];
        spec.resources.memory_limit_bytes = Some(64 << 20);
        spec.mounts = vec![
            Mount {
                destination: "/data".into(),
                source: MountSource::Volume { name: "data".parse().unwrap(), sub_path: None },
                read_only: false,
                options: vec!["rbind".into()],
            },
            Mount {
                destination: "/srv".into(),
                source: MountSource::Bind("/srv/www".into()),
                read_only: true,
                options: vec!["rslave".into(), "noexec".into()],
            },
        ];
        spec.umask = Some(0o27);
    });
    let text = yaml_of(std::slice::from_ref(&web));
    assert!(text.contains("# Not part of it: container My_Web: the umask.\n"), "{text}");
    assert!(text.contains("# Not part of it: container My_Web: mount option noexec of /srv.\n"), "{text}");
    let objects = loaded(&text);
    assert_eq!(objects.volumes[0].volume, "data");
    let pod = &objects.pods[0];
    assert_eq!(pod.name.name, "my-web-pod");
    assert_eq!(pod.restart_policy, PodRestartPolicy::Always);
    assert_eq!(pod.termination_grace_period_secs, 10);
    assert_eq!(pod.sandbox.published_ports, web.spec.published_ports);
    let container = &pod.containers[0];
    assert_eq!((container.name.as_str(), container.spec.image.as_str()), ("my-web", "example.org/web:1"));
    assert_eq!(container.spec.command, web.spec.command);
    assert_eq!(container.spec.env, web.spec.env);
    assert_eq!(container.spec.user, web.spec.user);
    assert_eq!(container.spec.security, web.spec.security);
    assert_eq!(container.spec.resources.memory_limit_bytes, Some(64 << 20));
    assert_eq!(container.mounts.len(), 2);
    assert!(
        matches!(&pod.volumes["srv-www-host"], DesiredVolume::HostPath { path, .. } if path == "/srv/www")
    );
}

#[test]
fn volumes_of_one_name_are_kept_apart() {
    let one = |destination: &str, path: &str| Mount {
        destination: destination.into(),
        source: MountSource::Bind(path.into()),
        read_only: false,
        options: Vec::new(),
    };
    let text = yaml_of(&[record("a", |spec| {
        spec.mounts = vec![one("/1", "/x/y"), one("/2", "/x-y"), one("/3", "/x/y")];
    })]);
    let pod = &loaded(&text).pods[0];
    let names: Vec<&str> = pod.volumes.keys().map(String::as_str).collect();
    assert_eq!(names, ["x-y-host", "x-y-host-2"], "{text}");
    assert_eq!(pod.containers[0].mounts[2].volume, "x-y-host");
}

#[test]
fn a_service_is_added_for_published_ports() {
    let web = [record("web", |spec| spec.published_ports = vec![PortMapping::new(8080, 80, Protocol::Tcp)])];
    let text = write(&[read_pod("web-pod", sandbox_of("web-pod", &web), &web)], true);
    let objects = loaded(&text);
    assert_eq!(objects.services.len(), 1, "{text}");
    assert_eq!(objects.services[0].selector, objects.pods[0].labels);
    assert_eq!(objects.services[0].ports[0].port, 80);
}

#[test]
fn any_name_becomes_one_that_kubernetes_takes() {
    for (name, want) in [("My_Web", "my-web"), ("/srv/www-host", "srv-www-host"), ("--", "x"), ("a.b", "a-b")]
    {
        assert_eq!(kubernetes_name(name), want);
    }
    assert!(names::is_dns_label(&kubernetes_name(&"é".repeat(90))));
    assert!(names::is_dns_label(&kubernetes_name(&format!("{}-b", "a".repeat(62)))));
}

/// What the pods in `text` become when they are written and played again; at most one warning-free load.
fn plays_again(pod: &DesiredPod) {
    let text = write(&[Readback { pod: pod.clone(), lost: Vec::new() }], false);
    let again = loaded(&text);
    assert_eq!(again.warnings, [], "{text}");
    assert_eq!(again.pods.len(), 1, "{text}");
    assert_eq!(again.pods[0].hash, pod.hash, "{text}");
    assert_eq!(again.pods[0].name, pod.name, "{text}");
}

#[test]
fn every_example_is_the_same_when_generated() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests");
    let desired = desired_from(&[crate::reconcile::manifest::read_directory(&directory)], &context());
    let mut pods = 0;
    for (name, stack) in desired.stacks {
        let DesiredStack::Loaded(objects) = stack else { panic!("{name} is held") };
        for pod in objects.pods {
            plays_again(&pod);
            pods += 1;
        }
    }
    assert!(pods >= 7, "{pods}");
}
