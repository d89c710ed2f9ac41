//! Logs, attach and exec of real containers, and monitors that are killed: the engine in this process, our own
//! launcher in the monitors.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::time::Duration;

use futures_util::StreamExt;
use selkie::engine::config::EngineConfig;
use selkie::engine::container::exec::ExecStreams;
use selkie::engine::container::spec::{ContainerSpec, NetworkMode};
use selkie::engine::container::state::ContainerState;
use selkie::engine::container::{
    ExecRequest, LogOptions, OutputStream, RemoveOptions, StopOptions, WaitCondition,
};
use selkie::engine::error::ErrorKind;
use selkie::engine::id::{ContainerId, NameOrId};
use selkie::engine::monitor::protocol::ExecLifetime;
use selkie::engine::{AttachOptions, BoxStream, Engine};
use tokio::io::AsyncWriteExt;

use crate::support::TestNode;

const PATIENCE: Duration = Duration::from_secs(60);

/// An engine on a node, and a root file system of busybox.
struct Place {
    engine: Engine,
    node: TestNode,
}

impl Place {
    async fn new() -> Self {
        let node = TestNode::new();
        let bin = node.scratch("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for dir in ["proc", "sys", "dev", "etc", "tmp", "run"] {
            std::fs::create_dir_all(node.scratch("rootfs").join(dir)).unwrap();
        }
        std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "echo", "env", "id", "seq", "sleep", "stty", "grep", "true", "wc"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\n";
        std::fs::write(node.scratch("rootfs/etc/passwd"), passwd).unwrap();
        Self { engine: open(&node).await, node }
    }

    fn spec(&self, args: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::new("");
        spec.rootfs = Some(self.node.scratch("rootfs"));
        spec.command = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
        spec.network = NetworkMode::None;
        spec
    }

    async fn create(&self, spec: ContainerSpec) -> NameOrId {
        NameOrId::from(&self.engine.create_container(spec).await.unwrap().id)
    }

    async fn start(&self, script: &str) -> NameOrId {
        let container = self.create(self.spec(&["sh", "-c", script])).await;
        self.engine.start_container(&container).await.unwrap();
        container
    }

    async fn exited(&self, container: &NameOrId) -> i32 {
        let wait = self.engine.wait_container(container, &[WaitCondition::Exited]);
        tokio::time::timeout(PATIENCE, wait).await.expect("an end").unwrap()
    }

    /// Whole lines: parts are put together.
    async fn logged(&self, container: &NameOrId, options: LogOptions) -> Vec<String> {
        let mut entries = self.engine.container_logs(container, options).await.unwrap();
        let read = async {
            let mut parts = BTreeMap::<&str, String>::new();
            let mut lines = Vec::new();
            while let Some(entry) = entries.next().await {
                let entry = entry.unwrap();
                let part = parts.entry(entry.stream.as_str()).or_default();
                part.push_str(std::str::from_utf8(&entry.text).unwrap());
                if !entry.partial {
                    lines.push(std::mem::take(part));
                }
            }
            lines
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an end of the log")
    }

    async fn exec(&self, container: &NameOrId, request: ExecRequest) -> (i32, String) {
        let output = self.engine.exec_container(container, request, 4096).await.unwrap();
        (output.code, String::from_utf8(output.output).unwrap())
    }

    async fn end(self) {
        for container in self.engine.containers(&Default::default()) {
            let options = RemoveOptions { force: true, stop_timeout_secs: Some(0), ..Default::default() };
            self.engine.remove_container(&NameOrId::from(&container.id), options).await.unwrap();
        }
        self.engine.close().await;
        assert_eq!(self.node.processes(), Vec::<i32>::new());
        assert_eq!(self.node.mounts(), Vec::<std::path::PathBuf>::new());
    }
}

async fn open(node: &TestNode) -> Engine {
    let mut config = EngineConfig::new(node.root(), node.run_root());
    config.monitor = env!("CARGO_BIN_EXE_selkie-monitor").into();
    config.network_prefix = node.network_prefix();
    config.default_subnet = node.subnet();
    config.service_subnet = node.service_subnet();
    config.cgroup_parent = node.cgroup_parent();
    Engine::open(config).await.unwrap()
}

const ALL: LogOptions =
    LogOptions { stdout: true, stderr: true, follow: false, since: None, until: None, tail: None };
const FOLLOW: LogOptions = LogOptions { follow: true, ..ALL };
const ATTACH: AttachOptions = AttachOptions { stdin: true, stdout: true, stderr: true };

fn command(args: &[&str]) -> ExecRequest {
    ExecRequest {
        command: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        user: None,
        working_dir: None,
        privileged: false,
    }
}

async fn collect(mut output: BoxStream<(OutputStream, bytes::Bytes)>) -> String {
    let mut text = Vec::new();
    let read = async {
        while let Some(chunk) = output.next().await {
            text.extend_from_slice(&chunk.unwrap().1);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an end of the output");
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_complete_and_followed_to_the_end() {
    let place = Place::new().await;
    let container = place.start("seq 2000; echo err >&2; exit 3").await;
    let followed = place.logged(&container, FOLLOW).await;
    assert_eq!(place.exited(&container).await, 3);
    let mut expected: Vec<String> = (1..=2000).map(|number| number.to_string()).collect();
    let stdout: Vec<_> = followed.iter().filter(|line| *line != "err").cloned().collect();
    assert!(stdout == expected, "{} lines", stdout.len());
    assert_eq!(followed.len(), 2001);
    assert_eq!(place.logged(&container, LogOptions { stdout: false, ..ALL }).await, ["err"]);
    let last = place.logged(&container, LogOptions { stderr: false, tail: Some(3), ..ALL }).await;
    assert_eq!(last, expected.split_off(1997));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_clients_talk_to_the_container() {
    let place = Place::new().await;
    let mut spec = place.spec(&["sh", "-c", "cat; exit 4"]);
    spec.stdin_open = true;
    let container = place.create(spec).await;
    // Before it was started, and so it misses nothing.
    let mut session = place.engine.attach_container(&container, ATTACH).await.unwrap();
    place.engine.start_container(&container).await.unwrap();
    session.input.write_all(b"hello\n").await.unwrap();
    session.input.shutdown().await.unwrap();
    assert_eq!(collect(session.output).await, "hello\n");
    assert_eq!(place.exited(&container).await, 4);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_resized_and_controls_its_processes() {
    let place = Place::new().await;
    // The first process of a PID namespace ignores what it does not handle.
    let script = "trap 'exit 7' INT; read x; stty size; echo typed $x; while :; do sleep 0.01; done";
    let mut spec = place.spec(&["sh", "-c", script]);
    (spec.terminal, spec.stdin_open) = (true, true);
    let container = place.create(spec).await;
    let mut session = place.engine.attach_container(&container, ATTACH).await.unwrap();
    place.engine.start_container(&container).await.unwrap();
    place.engine.resize_container(&container, 132, 50).await.unwrap();
    session.input.write_all(b"abc\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("typed abc") {
        let chunk = tokio::time::timeout(PATIENCE, session.output.next()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk.1).unwrap());
    }
    assert!(text.contains("50 132\r\n"), "{text:?}");
    // Ctrl-C: the terminal is the controlling one.
    session.input.write_all(b"\x03").await.unwrap();
    assert_eq!(place.exited(&container).await, 7);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_as_confined_as_the_container() {
    let place = Place::new().await;
    let mut spec = place.spec(&["sleep", "1000"]);
    spec.env.insert("A".into(), "1".into());
    spec.security.capabilities_drop = vec!["CAP_CHOWN".into()];
    let container = place.create(spec).await;
    place.engine.start_container(&container).await.unwrap();

    let status = command(&["cat", "/proc/self/status", "/proc/1/status"]);
    let (code, text) = place.exec(&container, status).await;
    assert_eq!(code, 0);
    for field in
        ["CapEff", "CapBnd", "CapPrm", "CapInh", "CapAmb", "Seccomp", "NoNewPrivs", "SigBlk", "SigIgn"]
    {
        let values: Vec<_> = text.lines().filter(|line| line.starts_with(&format!("{field}:"))).collect();
        assert!(values.len() == 2 && values[0] == values[1], "{field}: {values:?}");
    }
    // Nothing is blocked or ignored on account of the monitor, which ignores SIGPIPE. (32 and 33 are the C
    // library's own, and not to be changed by anybody else.)
    let mask = |field: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim();
        u64::from_str_radix(value, 16).unwrap() & !(3 << 31)
    };
    assert_eq!((mask("SigBlk:"), mask("SigIgn:")), (0, 0));
    assert!(text.contains("Seccomp:\t2"));
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let script =
            format!("[ $(readlink /proc/self/ns/{namespace}) = $(readlink /proc/1/ns/{namespace}) ]");
        let script = script.replace("readlink", "busybox readlink");
        assert_eq!(place.exec(&container, command(&["sh", "-c", &script])).await.0, 0, "{namespace}");
    }
    let same_cgroup = "busybox cmp /proc/self/cgroup /proc/1/cgroup";
    assert_eq!(place.exec(&container, command(&["sh", "-c", same_cgroup])).await.0, 0);

    let mut request = command(&["sh", "-c", "id -u; id -g; echo $A $B $HOME; busybox pwd"]);
    request.user = Some("web".into());
    request.env.insert("B".into(), "2".into());
    request.working_dir = Some("/tmp".into());
    let (code, text) = place.exec(&container, request).await;
    assert_eq!((code, text.as_str()), (0, "1000\n1001\n1 2 /srv\n/tmp\n"));
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_failures_have_their_kinds() {
    let place = Place::new().await;
    let container = place.start("sleep 1000").await;
    let kind = async |request: ExecRequest| {
        place.engine.exec_container(&container, request, 10).await.unwrap_err().kind()
    };
    assert_eq!(kind(command(&["nonesuch"])).await, ErrorKind::CommandNotFound);
    assert_eq!(kind(command(&["/etc/passwd"])).await, ErrorKind::CommandNotExecutable);
    assert_eq!(kind(command(&[])).await, ErrorKind::InvalidArgument);
    let unknown = ExecRequest { user: Some("nobody-knows".into()), ..command(&["true"]) };
    assert_eq!(kind(unknown).await, ErrorKind::InvalidArgument);
    // Bounded, and neither stuck nor failed by the rest.
    let output = place.engine.exec_container(&container, command(&["seq", "200000"]), 10).await.unwrap();
    assert_eq!((output.code, output.output.len()), (0, 10));
    // What stays behind and holds the output does not hold up the answer.
    let background = command(&["sh", "-c", "sleep 1000 & echo started"]);
    let exec = place.engine.exec_container(&container, background, 100);
    let output = tokio::time::timeout(PATIENCE, exec).await.expect("an answer").unwrap();
    assert_eq!(output.output, b"started\n");
    let stopped = StopOptions { timeout_secs: Some(0) };
    place.engine.stop_container(&container, stopped).await.unwrap();
    assert_eq!(kind(command(&["true"])).await, ErrorKind::WrongState);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_nobody_waits_for_is_killed() {
    let place = Place::new().await;
    let container = place.start("sleep 1000").await;
    let exec = place.engine.exec_container(&container, command(&["sleep", "987"]), 10);
    assert!(tokio::time::timeout(Duration::from_millis(500), exec).await.is_err());
    let deadline = std::time::Instant::now() + PATIENCE;
    let count = command(&["sh", "-c", "grep -l 987 /proc/[0-9]*/cmdline | grep -v self"]);
    // `grep` finds its own command line and the shell's.
    while place.exec(&container, count.clone()).await.1.lines().count() > 2 {
        assert!(std::time::Instant::now() < deadline, "the session goes");
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_sessions_have_terminals() {
    let place = Place::new().await;
    let container = place.start("sleep 1000").await;
    let streams = ExecStreams { terminal: Some((90, 30)), stdin: true, lifetime: ExecLifetime::Connection };
    let script = command(&["sh", "-c", "read x; stty size; echo $TERM; exit 6"]);
    let mut session = place.engine.start_exec(&container, script, streams).await.unwrap();
    session.control.resize(91, 31).unwrap();
    session.input.write_all(b"\n").await.unwrap();
    let text = collect(session.output).await;
    assert!(text.contains("31 91\r\nxterm\r\n"), "{text:?}");
    assert_eq!(session.control.wait().await.unwrap(), 6);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_engine_adopts_and_misses_nothing() {
    let place = Place::new().await;
    let go = place.node.scratch("rootfs/tmp/go");
    let script = "echo before; until [ -e /tmp/go ]; do sleep 0.01; done; echo after; exit 5";
    let container = place.start(script).await;
    let before = place.engine.container(&container).unwrap();
    place.engine.close().await;
    let Place { engine, node } = place;
    drop(engine);
    let place = Place { engine: open(&node).await, node };
    assert_eq!(place.engine.container(&container).unwrap().state, before.state);
    std::fs::write(go, "").unwrap();
    assert_eq!(place.exited(&container).await, 5);
    assert_eq!(place.logged(&container, ALL).await, ["before", "after"]);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_monitor_takes_everything_along() {
    let place = Place::new().await;
    let container = place.start("sleep 1000 & sleep 1000").await;
    let record = place.engine.container(&container).unwrap();
    let ContainerState::Running(process) = record.state else { panic!("{:?}", record.state) };
    let monitor = nix::unistd::Pid::from_raw(process.monitor_pid);
    nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(place.exited(&container).await, 137);
    let record = place.engine.container(&container).unwrap();
    assert_eq!(record.state.exit_status().unwrap().error.as_deref(), Some("the monitor died"));
    // Nothing runs and no cgroup is left.
    assert_eq!(place.node.processes(), Vec::<i32>::new());
    assert_eq!(cgroups_of(&place.node, &record.id), Vec::<std::path::PathBuf>::new());
    // And it can be started again.
    place.engine.start_container(&container).await.unwrap();
    place.end().await;
}

/// Cgroups that belong to the container, in any hierarchy.
fn cgroups_of(node: &TestNode, id: &ContainerId) -> Vec<std::path::PathBuf> {
    fn walk(dir: &std::path::Path, id: &str, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(id) {
                    found.push(entry.path());
                }
                walk(&entry.path(), id, found);
            }
        }
    }
    let mut found = Vec::new();
    let base = std::path::Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![base.to_owned()];
    hierarchies.extend(std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path()));
    for hierarchy in hierarchies {
        walk(&hierarchy.join(node.cgroup_parent()), id.as_str(), &mut found);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_killing_for_memory_is_told() {
    let place = Place::new().await;
    let mut spec = place.spec(&["sh", "-c", "x=x; while :; do x=$x$x; done"]);
    spec.resources.memory_limit_bytes = Some(16 * 1024 * 1024);
    let container = place.create(spec).await;
    place.engine.start_container(&container).await.unwrap();
    assert_eq!(place.exited(&container).await, 137);
    let record = place.engine.container(&container).unwrap();
    assert!(record.state.exit_status().unwrap().oom_killed);
    place.end().await;
}
