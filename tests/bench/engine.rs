//! `make bench`: the engine beside podman where it is installed, in one run on one machine.
//!
//! Prints medians and ratios. Nothing is asserted: numbers belong to the machine they were read on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../support/mod.rs"]
mod support;

use support::http::{Reply, request};
use support::{TestNode, wait_until};

const LIFE_CYCLES: usize = 30;
const POD_COUNTS: [usize; 3] = [1, 10, 20];
const REAPPLIED_PODS: usize = 20;

fn main() {
    let mut selkie = TestNode::new();
    selkie.service();
    selkie.load_busybox();
    let ours = Door { name: "selkie", socket: selkie.socket() };
    let podman = PodmanService::start(&selkie);
    let theirs = podman.as_ref().map(|service| Door { name: "podman", socket: service.socket.clone() });
    if theirs.is_none() {
        println!("podman is not installed or does not serve: measuring selkie alone");
    }

    println!("\ncreate + start + wait + remove over REST, bridge network (median of {LIFE_CYCLES})");
    let mut row = Row::default();
    for door in std::iter::once(&ours).chain(&theirs) {
        row.add(door, median(LIFE_CYCLES, || life_cycle(door)));
    }
    row.print();

    for count in POD_COUNTS {
        println!("\n{count} pods from YAML to running over play/kube (median of 3)");
        let mut row = Row::default();
        for door in std::iter::once(&ours).chain(&theirs) {
            row.add(door, median(3, || play_pods(door, count)));
        }
        row.print();
    }

    memory(&ours, &selkie);
    drop(podman);
    drop(selkie);
    reapply();
}

/// One engine's socket.
struct Door {
    name: &'static str,
    socket: PathBuf,
}

impl Door {
    fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let reply = request(
            &self.socket,
            method,
            &format!("/v4.0.0/libpod{path}"),
            "application/json",
            body.as_bytes(),
        );
        assert!(reply.status < 400, "{}: {method} {path}: {} {}", self.name, reply.status, reply.text());
        reply
    }
}

fn life_cycle(door: &Door) -> Duration {
    let start = Instant::now();
    let spec = r#"{"image":"localhost/busybox:latest","command":["/bin/busybox","true"],"netns":{"nsmode":"bridge"}}"#;
    let created = door.send("POST", "/containers/create", spec).json();
    let id = created["Id"].as_str().expect("create answers with an Id");
    door.send("POST", &format!("/containers/{id}/start"), "");
    door.send("POST", &format!("/containers/{id}/wait"), "");
    door.send("DELETE", &format!("/containers/{id}"), "");
    start.elapsed()
}

fn play_pods(door: &Door, count: usize) -> Duration {
    let yaml = pods_yaml(count);
    let start = Instant::now();
    door.send("POST", "/play/kube", &yaml);
    let took = start.elapsed();
    door.send("DELETE", "/play/kube", &yaml);
    took
}

fn pods_yaml(count: usize) -> String {
    (0..count)
        .map(|number| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: bench-{number}}}\nspec:\n  \
                 terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    \
                 image: localhost/busybox:latest\n    imagePullPolicy: IfNotPresent\n    \
                 command: [/bin/busybox, sleep, \"3600\"]\n"
            )
        })
        .collect()
}

/// What a pass over an unchanged directory costs: time, processes, bytes written.
fn reapply() {
    let mut node = TestNode::new();
    node.load_busybox();
    node.write_manifest("bench.yaml", &pods_yaml(REAPPLIED_PODS));
    node.up();
    wait_until("every pod is ready", || node.selkie(&["status", "--wait-ready", "30"]).status.success());

    let apply = || {
        let reply = request(&node.socket(), "POST", "/selkie/v1/apply", "application/json", b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    apply();
    let (forks, written) = (forks(), bytes_written(node.daemon_pid()));
    let took = median(20, || {
        let start = Instant::now();
        apply();
        start.elapsed()
    });
    println!("\napply of an unchanged directory with {REAPPLIED_PODS} pods");
    println!("  median            {:>9.2} ms", millis(took));
    println!("  processes spawned {:>9}    (whole machine, 20 passes)", self::forks() - forks);
    println!("  bytes written     {:>9}    (daemon, 20 passes)", bytes_written(node.daemon_pid()) - written);
    println!("\nmemory of the daemon with {REAPPLIED_PODS} pods");
    println!("  PSS               {:>9} KiB", smaps(node.daemon_pid() as i32, "Pss:"));
}

fn memory(door: &Door, node: &TestNode) {
    const COUNT: usize = 10;
    door.send("POST", "/play/kube", &pods_yaml(COUNT));
    let monitors: Vec<i32> =
        node.processes().into_iter().filter(|pid| comm(*pid).starts_with("selkie-monitor")).collect();
    println!("\nmemory per container: {} monitors for {COUNT} pods", monitors.len());
    for key in ["Pss:", "Private_Dirty:"] {
        let sum: u64 = monitors.iter().map(|pid| smaps(*pid, key)).sum();
        println!("  {key:<18}{:>9} KiB", sum / monitors.len().max(1) as u64);
    }
    door.send("DELETE", "/play/kube", &pods_yaml(COUNT));
}

/// A podman service with a storage of its own.
struct PodmanService {
    child: Child,
    socket: PathBuf,
    root: PathBuf,
}

impl PodmanService {
    fn start(node: &TestNode) -> Option<Self> {
        let root = node.scratch("podman");
        std::fs::create_dir_all(&root).expect("make podman's directory");
        let conf = root.join("containers.conf");
        // What podman 4.3.1 needs where raising hard limits is forbidden.
        let text = "[engine]\nruntime=\"runc\"\n[containers]\n\
                    default_ulimits=[\"nofile=1024:1024\",\"nproc=4096:4096\"]\n";
        std::fs::write(&conf, text).expect("write containers.conf");
        let socket = root.join("podman.sock");
        let podman = || {
            let mut command = Command::new("podman");
            command
                .env("CONTAINERS_CONF", &conf)
                .arg("--root")
                .arg(root.join("root"))
                .arg("--runroot")
                .arg(root.join("run"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let archive = node.scratch("busybox.tar");
        podman().args(["load", "--input"]).arg(&archive).status().ok().filter(|status| status.success())?;
        let address = format!("unix://{}", socket.display());
        let child = podman().args(["system", "service", "--time", "0", &address]).spawn().ok()?;
        let service = Self { child, socket, root };
        wait_until("podman listens", || std::os::unix::net::UnixStream::connect(&service.socket).is_ok());
        Some(service)
    }
}

impl Drop for PodmanService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = nix::mount::umount2(&self.root.join("root/overlay"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[derive(Default)]
struct Row {
    cells: Vec<(&'static str, Duration)>,
}

impl Row {
    fn add(&mut self, door: &Door, took: Duration) {
        self.cells.push((door.name, took));
    }

    fn print(&self) {
        for (name, took) in &self.cells {
            let ratio = took.as_secs_f64() / self.cells[0].1.as_secs_f64();
            println!("  {name:<10}{:>9.1} ms {ratio:>8.1} x", millis(*took));
        }
    }
}

fn median(count: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut all: Vec<Duration> = (0..count).map(|_| measure()).collect();
    all.sort_unstable();
    all[count / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn forks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let line = stat.lines().find_map(|line| line.strip_prefix("processes "));
    line.and_then(|count| count.trim().parse().ok()).expect("/proc/stat counts processes")
}

fn bytes_written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("read the daemon's io");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|count| count.trim().parse().ok()).expect("/proc/PID/io counts bytes")
}

fn smaps(pid: i32, key: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn comm(pid: i32) -> String {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).unwrap_or_default()
}
