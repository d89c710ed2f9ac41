//! A node whose engine runs inside the test, and what a test asks of it.

use std::path::PathBuf;
use std::time::Instant;

use futures_util::StreamExt as _;
use selkie::engine::Engine;
use selkie::engine::config::EngineConfig;
use selkie::engine::container::spec::ContainerSpec;
use selkie::engine::container::state::ContainerState;
use selkie::engine::container::{ContainerRecord, ExecRequest, LogOptions, RemoveOptions, WaitCondition};
use selkie::engine::error::{ErrorKind, Result};
use selkie::engine::id::NameOrId;

use crate::support::{self, TestNode, image};

pub const IMAGE: &str = "localhost/busybox:latest";

pub struct Bed {
    pub node: TestNode,
    engine: Option<Engine>,
}

impl Bed {
    pub async fn new() -> Self {
        let node = TestNode::new();
        let engine = Some(open(&node).await);
        let bed = Self { node, engine };
        bed.load(&image::busybox(), IMAGE).await;
        bed
    }

    /// On a node that has been used before.
    pub async fn on(node: TestNode) -> Self {
        let engine = Some(open(&node).await);
        Self { node, engine }
    }

    pub async fn load(&self, image: &image::Image, name: &str) {
        let archive = self.node.scratch("image.tar");
        image.docker_archive(&archive, &[name]);
        self.engine().load_images(&archive).await.expect("load an image");
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("an engine is open")
    }

    /// Ends the daemon's side; containers run on.
    pub async fn stop_daemon(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close().await;
        }
    }

    pub async fn start_daemon(&mut self) {
        self.engine = Some(open(&self.node).await);
    }

    pub fn record(&self, name: &str) -> std::sync::Arc<ContainerRecord> {
        self.engine().container(&name.into()).expect("the container is known")
    }

    pub fn state(&self, name: &str) -> ContainerState {
        self.record(name).state.clone()
    }

    pub fn pid(&self, name: &str) -> i32 {
        self.state(name).process().expect("the container has a process").pid
    }

    pub async fn create(&self, spec: ContainerSpec) {
        self.engine().create_container(spec).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    pub async fn start(&self, name: &str) {
        self.engine().start_container(&name.into()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    /// Creates and starts.
    pub async fn run(&self, spec: ContainerSpec) {
        let name = spec.name.as_ref().expect("tests name their containers").to_string();
        self.create(spec).await;
        self.start(&name).await;
    }

    pub async fn exit_code(&self, name: &str) -> i32 {
        self.wait(name, WaitCondition::Exited).await
    }

    pub async fn wait(&self, name: &str, condition: WaitCondition) -> i32 {
        let name = NameOrId::from(name);
        let conditions = [condition];
        let wait = self.engine().wait_container(&name, &conditions);
        tokio::time::timeout(support::DEADLINE, wait)
            .await
            .unwrap_or_else(|_| panic!("{name} is not {condition:?} in time"))
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    pub async fn remove(&self, name: &str) {
        let options = RemoveOptions { force: true, stop_timeout_secs: Some(0), volumes: true };
        self.engine()
            .remove_container(&name.into(), options)
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    /// Everything it has written to its standard output.
    pub async fn output(&self, name: &str) -> String {
        let options =
            LogOptions { stdout: true, stderr: false, follow: true, since: None, until: None, tail: None };
        let mut lines =
            self.engine().container_logs(&name.into(), options).await.expect("the log is readable");
        let mut text = String::new();
        while let Some(line) = lines.next().await {
            let line = line.expect("the log is readable");
            text.push_str(&String::from_utf8_lossy(&line.text));
            if !line.partial {
                text.push('\n');
            }
        }
        text
    }

    /// Runs a script in a container to its end.
    pub async fn output_of(&self, spec: ContainerSpec) -> String {
        let name = spec.name.as_ref().expect("tests name their containers").to_string();
        self.run(spec).await;
        let output = self.output(&name).await;
        self.remove(&name).await;
        output
    }

    pub async fn exec(&self, name: &str, script: &str) -> Result<(i32, String)> {
        let request = ExecRequest {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: Default::default(),
            user: None,
            working_dir: None,
            privileged: false,
        };
        let output = self.engine().exec_container(&name.into(), request, 1 << 20).await?;
        Ok((output.code, support::text(&output.output)))
    }

    /// Once every container and pod is removed, nothing of them is left anywhere.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let empty =
            |dir: PathBuf| std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
        support::wait_until("nothing is left", || {
            self.node.processes().is_empty()
                && self.node.mounts().is_empty()
                && empty(self.node.run_root().join("containers"))
                && empty(self.node.run_root().join("pods"))
                && empty(self.node.root().join("containers"))
                && self.cgroups().is_empty()
                && self.links().len() <= 1
        });
    }

    /// Cgroups below the node's own.
    fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        hierarchies
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .flat_map(|root| {
                std::fs::read_dir(root.join(self.node.cgroup_parent())).into_iter().flatten().flatten()
            })
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()
    }

    /// Interfaces on the host: the bridge, and one for each connected namespace.
    fn links(&self) -> Vec<String> {
        let prefix = self.node.network_prefix();
        let names = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }
}

/// An engine that is still awake would put back the bridge and the table that the node takes away.
impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            support::close(&engine);
        }
    }
}

/// The root is locked until the last part of the engine before is gone.
pub async fn open(node: &TestNode) -> Engine {
    let start = Instant::now();
    loop {
        match Engine::open(config(node)).await {
            Ok(engine) => return engine,
            Err(error) if error.kind() == ErrorKind::InUse && start.elapsed() < support::DEADLINE => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("open the engine: {}", error.chain()),
        }
    }
}

pub fn config(node: &TestNode) -> EngineConfig {
    EngineConfig {
        monitor: PathBuf::from(env!("CARGO_BIN_EXE_selkie-monitor")),
        network_prefix: node.network_prefix(),
        default_subnet: node.subnet(),
        service_subnet: node.service_subnet(),
        cgroup_parent: node.cgroup_parent(),
        ..EngineConfig::new(node.root(), node.run_root())
    }
}

/// A container that runs a shell script.
pub fn sh(name: &str, script: &str) -> ContainerSpec {
    let mut spec = ContainerSpec::new(IMAGE);
    spec.name = Some(name.parse().expect("a container name"));
    spec.command = Some(["sh", "-c", script].map(str::to_owned).to_vec());
    spec
}

/// Ends at once when asked to.
pub fn sleeper(name: &str) -> ContainerSpec {
    sh(name, "trap 'exit 7' TERM; while :; do sleep 1000 & wait $!; done")
}

/// Has to be killed.
pub fn stubborn(name: &str) -> ContainerSpec {
    sh(name, "trap '' TERM; while :; do sleep 1000; done")
}

impl Bed {
    /// Waits until the container's shell has set its traps: its child sleeps then.
    pub async fn exec_ready(&self, name: &str) {
        let pid = self.pid(name);
        support::wait_until("the container's script waits", || {
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
                .is_ok_and(|children| !children.trim().is_empty())
        });
    }
}
