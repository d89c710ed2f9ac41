//! A daemon that is killed between any two effects: the next one finds a state it understands, nothing is
//! started twice, nothing is left over, and the whole life of a container can be gone through again.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use selkie::engine::container::spec::{Mount, MountSource};
use selkie::engine::container::{ContainerFilter, RemoveOptions, StopOptions, WaitCondition};
use selkie::engine::error::ErrorKind;
use selkie::engine::failpoint;
use selkie::engine::{Engine, config::EngineConfig};

use super::bed::{Bed, IMAGE, config, sh, sleeper};
use super::pods::pod;
use crate::support::TestNode;

const ROOT: &str = "SELKIE_CRASH_TEST";

/// The life that is interrupted: one container that is stopped, one that ends by itself, one in a pod with a
/// volume; in the end everything is removed again.
async fn whole_life(engine: &Engine) {
    let stop = StopOptions { timeout_secs: Some(30) };
    let force = RemoveOptions { force: true, volumes: true, stop_timeout_secs: Some(0) };
    let ensure = async |spec: selkie::engine::container::spec::ContainerSpec| match engine
        .create_container(spec)
        .await
    {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{}", error.chain()),
        _ => {}
    };
    let done = |result: Result<(), selkie::engine::error::EngineError>| match result {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}", error.chain()),
        _ => {}
    };
    ensure(sleeper("stopped")).await;
    engine.start_container(&"stopped".into()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    engine.stop_container(&"stopped".into(), stop).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    ensure(sh("ended", "exit 3")).await;
    engine.start_container(&"ended".into()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let code = engine.wait_container(&"ended".into(), &[WaitCondition::Exited]).await.unwrap();
    assert_eq!(code, 3);

    match engine.create_pod(pod("front")).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{}", error.chain()),
        _ => {}
    }
    let mut member = sh("member", "exit 0");
    member.pod = Some(engine.pod(&"front".into()).unwrap().id.clone());
    let source = MountSource::Volume { name: "data".parse().unwrap(), sub_path: None };
    member.mounts = vec![Mount { destination: "/etc".into(), source, read_only: false, options: Vec::new() }];
    ensure(member).await;
    engine.start_pod(&"front".into()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    engine.wait_container(&"member".into(), &[WaitCondition::Exited]).await.unwrap();

    done(engine.remove_container(&"stopped".into(), force.clone()).await);
    done(engine.remove_container(&"ended".into(), force.clone()).await);
    done(engine.remove_pod(&"front".into(), force).await);
    done(engine.remove_volume("data", true).await);
}

/// Not a test by itself: the daemon that `a_crash_at_any_step_converges` kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_crash_at_any_step_converges"]
async fn child_daemon() {
    let words = std::env::var(ROOT).expect("run by a_crash_at_any_step_converges");
    let [root, run_root, prefix, subnet, services, cgroup] =
        words.split('\n').collect::<Vec<_>>().try_into().expect("six words");
    let config = EngineConfig {
        monitor: env!("CARGO_BIN_EXE_selkie-monitor").into(),
        network_prefix: prefix.into(),
        default_subnet: subnet.into(),
        service_subnet: services.into(),
        cgroup_parent: cgroup.into(),
        ..EngineConfig::new(root.into(), run_root.into())
    };
    let engine = Engine::open(config).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    whole_life(&engine).await;
}

/// Runs the life with a fail point armed; whether it was reached.
fn crash_at(node: &TestNode, point: &str) -> bool {
    let config = config(node);
    let words = [
        config.root.to_str().unwrap(),
        config.run_root.to_str().unwrap(),
        &config.network_prefix,
        &config.default_subnet,
        &config.service_subnet,
        &config.cgroup_parent,
    ];
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::crash::child_daemon", "--ignored", "--nocapture"])
        .env(ROOT, words.join("\n"))
        .env("SELKIE_FAILPOINT", point)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.signal() == Some(9) {
        return true;
    }
    assert!(output.status.success(), "{point}: {}", crate::support::text(&output.stderr));
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_converges() {
    let mut bed = Bed::new().await;
    let mut never_reached = Vec::new();
    // The reconciler's own points are its own tests' matter.
    for point in failpoint::POINTS.iter().filter(|point| !point.starts_with("reconcile")) {
        bed.stop_daemon().await;
        if !crash_at(&bed.node, point) {
            never_reached.push(*point);
        }
        bed.start_daemon().await;
        let all = ContainerFilter { all: true, ..ContainerFilter::default() };
        for container in bed.engine().containers(&all) {
            assert_ne!(container.pending, Some(selkie::engine::container::Pending::Launch), "{point}");
        }
        // As often as anything runs, it runs once.
        for name in ["stopped", "ended", "member"] {
            let Ok(container) = bed.engine().container(&name.into()) else { continue };
            let processes = bed.processes_of(container.id.as_str());
            assert!(
                processes.is_empty() || container.state.process().is_some(),
                "{point}: {name} is {} and has processes {processes:?}",
                container.state.as_str()
            );
        }
        whole_life(bed.engine()).await;
        bed.assert_nothing_left();
        assert!(bed.engine().volumes().is_empty(), "{point}");
    }
    assert_eq!(never_reached, [""; 0], "fail points nobody passes");
    assert!(bed.engine().image(IMAGE).is_ok());
}

impl Bed {
    /// Processes in a container's cgroup.
    fn processes_of(&self, id: &str) -> Vec<i32> {
        self.node
            .processes()
            .into_iter()
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroup| cgroup.contains(id))
            })
            .collect()
    }
}
