//! The daemon is killed after every single effect of the reconciler, and the next one brings everything to
//! the same end: nothing is started twice, nothing is lost, nothing is left behind.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use selkie::reconcile::status::PodPhase;

use crate::reconcile::{IMAGE, node, pod, starts, try_status};
use crate::support::{TestNode, wait_for, wait_until};

/// Three pods: a plain one, one with an init container and a volume of each kind, and a Job; a Service.
fn write_first(node: &TestNode) {
    let init = format!(
        "  initContainers:
  - name: init
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, 'echo init >> /starts/full-init']
    volumeMounts: [{{name: starts, mountPath: /starts}}, {{name: config, mountPath: /config}}]
  containers:"
    );
    let full = pod(node, "full", "")
        .replacen("  containers:", &init, 1)
        .replace("  volumes:", "  volumes:\n  - {name: config, configMap: {name: config}}\n  - {name: work, emptyDir: {medium: Memory}}");
    let objects = "---
{apiVersion: v1, kind: ConfigMap, metadata: {name: config}, data: {mode: fast}}
---
{apiVersion: v1, kind: Service, metadata: {name: full}, spec: {selector: {app: full}, ports: [{port: 80}]}}
";
    let job = pod(node, "once", "")
        .replace("while :; do sleep 0.1; done", "exit 0")
        .replace("  containers:", "  restartPolicy: OnFailure\n  containers:");
    node.write_manifest("web.yaml", &pod(node, "web", ""));
    node.write_manifest("full.yaml", &format!("{full}{objects}"));
    node.write_manifest("once.yaml", &job);
}

/// The plain pod changes, the full one goes, another one comes.
fn write_second(node: &TestNode) {
    node.write_manifest("web.yaml", &pod(node, "web", "    env: [{name: COLOR, value: green}]"));
    node.remove_manifest("full.yaml");
    node.write_manifest("new.yaml", &pod(node, "new", ""));
}

fn is_done(node: &TestNode, ready: &[&str], gone: &[&str]) -> bool {
    // The daemon may die between the question and the answer.
    let Some(status) = try_status(node) else { return false };
    let find = |name: &str| status.pods().find(|pod| pod.pod.name == name);
    status.settled
        && ready.iter().all(|name| find(name).is_some_and(|pod| pod.is_ready()))
        && find("once").is_some_and(|pod| pod.phase == PodPhase::Succeeded)
        && gone.iter().all(|name| find(name).is_none())
}

/// Runs a daemon that is killed after its `number`-th effect. `false`: there was no such effect, and what
/// is written was reached.
fn up_until(node: &mut TestNode, number: u32, done: &dyn Fn(&TestNode) -> bool) -> bool {
    node.set_env("SELKIE_FAILPOINT", &format!("reconcile:{number}"));
    let manifests = node.manifests();
    node.spawn_daemon(&["up", manifests.to_str().unwrap()]);
    let died = wait_for("the daemon dies or is done", || {
        if !node.daemon_is_alive() {
            return Some(true);
        }
        let listens = std::os::unix::net::UnixStream::connect(node.socket()).is_ok();
        (listens && done(node)).then_some(false)
    });
    node.unset_env("SELKIE_FAILPOINT");
    match died {
        true => assert_eq!(node.daemon_ended().signal(), Some(9), "it was killed, it did not fail"),
        false => node.stop_daemon(),
    }
    died
}

fn counted(node: &TestNode) -> BTreeMap<&'static str, usize> {
    ["web", "full", "full-init", "once", "new"].into_iter().map(|name| (name, starts(node, name))).collect()
}

/// Takes everything away, and looks for what is left.
fn end(node: &mut TestNode) {
    for file in ["web.yaml", "once.yaml", "new.yaml", "full.yaml"] {
        if node.manifests().join(file).exists() {
            node.write_manifest(file, "{apiVersion: v1, kind: List, items: []}");
        }
    }
    wait_until("everything is gone", || try_status(node).is_some_and(|status| status.pods().count() == 0));
    wait_until("no process is left", || {
        let own = node.daemon_pid() as i32;
        node.processes().into_iter().filter(|pid| *pid != own).count() == 0
    });
    let left: Vec<_> = std::fs::read_dir(node.root().join("pods")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "volumes are left: {left:?}");
    let left: Vec<_> =
        std::fs::read_dir(node.root().join("containers")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "containers are left: {left:?}");
    let mounts = node.mounts();
    let mounts: Vec<_> = mounts.iter().filter(|mount| mount.to_string_lossy().contains("pods")).collect();
    assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
    node.stop_daemon();
}

#[test]
fn a_crash_after_any_effect_of_the_first_plan_converges() {
    for number in 1.. {
        let mut node = node();
        write_first(&node);
        let done = |node: &TestNode| is_done(node, &["web", "full"], &[]);
        let died = up_until(&mut node, number, &done);
        node.up();
        wait_until(&format!("all is well after a crash at effect {number}"), || done(&node));
        let expected = [("web", 1), ("full", 1), ("full-init", 1), ("once", 1), ("new", 0)].into();
        assert_eq!(counted(&node), expected, "starts after a crash at effect {number}");
        end(&mut node);
        if !died {
            assert!(number > 20, "only {number} effects were seen");
            return;
        }
    }
}

#[test]
fn a_crash_after_any_effect_of_a_change_converges() {
    for number in 1.. {
        let mut node = node();
        write_first(&node);
        node.up();
        wait_until("the first is reached", || is_done(&node, &["web", "full"], &[]));
        node.stop_daemon();
        write_second(&node);
        let done = |node: &TestNode| is_done(node, &["web", "new"], &["full"]);
        let died = up_until(&mut node, number, &done);
        node.up();
        wait_until(&format!("all is well after a crash at effect {number}"), || done(&node));
        let expected = [("web", 2), ("full", 1), ("full-init", 1), ("once", 1), ("new", 1)].into();
        assert_eq!(counted(&node), expected, "starts after a crash at effect {number}");
        assert_eq!(starts(&node, "full.end"), 1, "what went was asked to end");
        end(&mut node);
        if !died {
            assert!(number > 8, "only {number} effects were seen");
            return;
        }
    }
}
