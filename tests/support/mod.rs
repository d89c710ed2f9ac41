//! What the tests share: a node of its own for each test, and waiting for conditions.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub mod http;
pub mod image;

/// How long a condition may take to come true on a busy two-core machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Some`, or fails the test naming what it waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Closes an engine inside the test, for `drop`, which can not wait otherwise. Needs a test of the
/// multi-thread flavour.
pub fn close(engine: &selkie::engine::Engine) {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(engine.close()));
}

/// A selkie of its own: root, run root, bridge names, subnets and cgroup that nothing else uses.
/// Everything it made is gone when it is dropped; what a killed test left is swept by the next.
pub struct TestNode {
    dir: PathBuf,
    number: u32,
    daemon: Option<Child>,
    environment: Vec<(String, String)>,
}

const DIR_PREFIX: &str = "selkie-test-";

impl TestNode {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: std::sync::Once = std::sync::Once::new();
        assert!(nix::unistd::geteuid().is_root(), "node tests need root");
        SWEEP.call_once(sweep_dead_nodes);
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        // Bridge names and subnets must differ between test processes too.
        let number = (std::process::id().wrapping_mul(61) + count) % 4096;
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("manifests")).expect("make the node's directory");
        Self { dir, number, daemon: None, environment: Vec::new() }
    }

    /// Sets a variable for every program this node starts from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.unset_env(name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn unset_env(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub fn run_root(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_root().join("selkie.sock")
    }

    /// The directory `up` watches.
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Room for a test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn cgroup_parent(&self) -> String {
        cgroup_parent(self.number)
    }

    pub fn network_prefix(&self) -> String {
        network_prefix(self.number)
    }

    /// `10.A.B.0/24`, its own.
    pub fn subnet(&self) -> String {
        format!("10.{}.{}.0/24", 100 + self.number / 128, self.number % 128)
    }

    pub fn service_subnet(&self) -> String {
        format!("10.{}.{}.0/24", 100 + self.number / 128, 128 + self.number % 128)
    }

    /// Writes a manifest as an editor would: aside, then renamed.
    pub fn write_manifest(&self, name: &str, text: &str) {
        let aside = self.dir.join("aside");
        std::fs::write(&aside, text).expect("write a manifest");
        std::fs::rename(&aside, self.manifests().join(name)).expect("rename a manifest into place");
    }

    pub fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.manifests().join(name)).expect("remove a manifest");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("SELKIE_ROOT", self.root())
            .env("SELKIE_RUNROOT", self.run_root())
            .env("SELKIE_NETWORK_PREFIX", self.network_prefix())
            .env("SELKIE_DEFAULT_SUBNET", self.subnet())
            .env("SELKIE_SERVICE_SUBNET", self.service_subnet())
            .env("SELKIE_CGROUP_PARENT", self.cgroup_parent())
            .env_remove("SELKIE_HOST")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir);
        command
    }

    /// Runs a client command to its end.
    pub fn selkie(&self, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_selkie")).args(args).output().expect("run selkie")
    }

    /// As `selkie`, and it must succeed; returns its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.selkie(args);
        assert!(output.status.success(), "selkie {args:?} failed: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Another program that talks to this node: `podman --remote`, `docker`.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.command(program);
        let address = format!("unix://{}", self.socket().display());
        command.env("CONTAINER_HOST", &address).env("DOCKER_HOST", &address);
        command
    }

    /// Loads `localhost/busybox:latest`, made from Debian's busybox-static.
    pub fn load_busybox(&self) {
        let archive = self.dir.join("busybox.tar");
        if !archive.exists() {
            image::busybox_archive(&archive, "localhost/busybox:latest");
        }
        self.ok(&["load", "--input", archive.to_str().expect("test paths are UTF-8")]);
    }

    /// Starts `selkie up` on the node's manifests and waits until it listens.
    pub fn up(&mut self) {
        let manifests = self.manifests();
        self.start_daemon(&["up", manifests.to_str().expect("test paths are UTF-8")]);
    }

    /// Starts `selkie system service` for ever and waits until it listens.
    pub fn service(&mut self) {
        self.start_daemon(&["system", "service", "--time", "0"]);
    }

    pub fn start_daemon(&mut self, args: &[&str]) {
        self.spawn_daemon(args);
        wait_until("the daemon listens", || {
            assert!(self.daemon_is_alive(), "the daemon ended");
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Starts a daemon without waiting for anything.
    pub fn spawn_daemon(&mut self, args: &[&str]) {
        assert!(!self.daemon_is_alive(), "the node has a daemon already");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path());
        // The daemon must not outlive a killed test.
        let child = self
            .command("setpriv")
            .args(["--pdeathsig", "SIGKILL", env!("CARGO_BIN_EXE_selkie"), "--log-level", "debug"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("open the daemon's log"))
            .spawn();
        self.daemon = Some(child.expect("start the daemon"));
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the node has a daemon").id()
    }

    pub fn daemon_is_alive(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| child.try_wait().expect("ask for the daemon").is_none())
    }

    /// Waits until the daemon has ended by itself (fail points).
    pub fn daemon_ended(&mut self) -> ExitStatus {
        let status = wait_for("the daemon ends", || {
            self.daemon.as_mut().expect("the node has a daemon").try_wait().expect("ask for the daemon")
        });
        self.daemon = None;
        status
    }

    /// Ends the daemon as systemd would; containers run on.
    pub fn stop_daemon(&mut self) {
        self.signal_daemon(Signal::SIGTERM);
        self.daemon_ended();
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        self.signal_daemon(Signal::SIGKILL);
        self.daemon_ended();
    }

    fn signal_daemon(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon_pid() as i32), signal).expect("signal the daemon");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What a reboot leaves, as far as one machine can play it: no process of the node, no bridge, no
    /// rule, an empty run root. To be called without a daemon.
    pub fn reboot(&mut self) {
        assert!(!self.daemon_is_alive(), "stop the daemon before the machine");
        end_everything(&self.dir, self.number);
        let _ = std::fs::remove_dir_all(self.run_root());
    }

    /// Processes of this node that are alive: monitors, and whatever runs in its cgroups.
    pub fn processes(&self) -> Vec<i32> {
        processes_of(&self.dir, self.number)
    }

    /// Mounts that this node has made on the host.
    pub fn mounts(&self) -> Vec<PathBuf> {
        mounts_below(&self.dir)
    }
}

impl Default for TestNode {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if self.daemon_is_alive() {
                eprintln!("--- status ---\n{}", text(&self.selkie(&["status"]).stdout));
            }
            let log = self.daemon_log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG answered")).collect();
            eprintln!(
                "--- the daemon's last words ---\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        end_everything(&self.dir, self.number);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cgroup_parent(number: u32) -> String {
    format!("selkie-test-{number}")
}

fn network_prefix(number: u32) -> String {
    format!("st{number}x")
}

/// Removes what nodes of test processes that no longer exist have left.
fn sweep_dead_nodes() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, number)) = name.strip_prefix(DIR_PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        if !Path::new("/proc").join(pid).exists() {
            end_everything(&entry.path(), number);
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Ends and removes everything a node can have made outside its directory, whatever state it is in.
fn end_everything(dir: &Path, number: u32) {
    let start = Instant::now();
    loop {
        let alive = processes_of(dir, number);
        if alive.is_empty() || start.elapsed() > DEADLINE {
            break;
        }
        for pid in alive {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    for target in mounts_below(dir).iter().rev() {
        let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    }
    delete_network(&network_prefix(number));
    let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
    hierarchies.extend(
        std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()),
    );
    for hierarchy in hierarchies {
        remove_cgroup_tree(&hierarchy.join(cgroup_parent(number)));
    }
}

fn processes_of(dir: &Path, number: u32) -> Vec<i32> {
    let own = std::process::id() as i32;
    let marker = text(dir.as_os_str().as_encoded_bytes());
    let cgroup = format!("/{}/", cgroup_parent(number));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if pid == own {
            continue;
        }
        let read =
            |name: &str| std::fs::read(entry.path().join(name)).map(|bytes| text(&bytes)).unwrap_or_default();
        let is_monitor = read("comm").starts_with("selkie") && read("environ").contains(&marker);
        let in_cgroup = read("cgroup").lines().any(|line| line.contains(&cgroup));
        // A zombie is not alive, only not yet waited for.
        if (is_monitor || in_cgroup) && !read("stat").contains(") Z ") {
            found.push(pid);
        }
    }
    found
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    targets.filter(|target| target.starts_with(dir)).collect()
}

/// Interfaces and nftables tables whose names begin with the node's prefix.
fn delete_network(prefix: &str) {
    for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            let _ = Command::new("ip").args(["link", "delete", &name]).output();
        }
    }
    let listed = Command::new("nft").args(["list", "tables"]).output();
    let listed = listed.map(|output| text(&output.stdout)).unwrap_or_default();
    for line in listed.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [_, family, name] = words[..]
            && name.contains(prefix)
        {
            let _ = Command::new("nft").args(["delete", "table", family, name]).output();
        }
    }
}

fn remove_cgroup_tree(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}
