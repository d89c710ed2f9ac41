//! The same bundle through our launcher and through runc: what a program inside sees and may do must be the same.
//!
//! Needs root, runc and a static busybox. Each launch happens in a fork of the test program, which is a monitor
//! in that it has one thread, adopts orphans and reaps.
#![expect(unsafe_code, reason = "forks")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe2};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::engine::runtime::cgroup::{Cgroup, Layout};
use crate::engine::runtime::seccomp::SeccompSource;

/// The capabilities podman gives by default.
const DEFAULT_CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

fn selkie() -> RuntimeName {
    RuntimeName::Selkie
}

fn runc() -> RuntimeName {
    RuntimeName::External("runc".into())
}

/// A bundle in a directory of its own. Whatever is left of it goes with it.
struct Bundle {
    dir: tempfile::TempDir,
    id: String,
    spec: Value,
    seccomp: bool,
}

impl Bundle {
    /// A shell of busybox, confined as podman would.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        for name in ["bin", "etc", "proc", "sys", "tmp", "dev", "home", "run"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/u:/bin/sh\n")
            .unwrap();
        fs::write(layer.join("etc/data"), "data").unwrap();
        fs::write(layer.join("bin/plain"), "not executable").unwrap();
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let unique = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let id = format!("selkie-oracle-{unique}");
        let spec = json!({
            "ociVersion": "1.0.2",
            "hostname": "oracle",
            "root": {"path": "rootfs"},
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0, "umask": 0o22},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/usr/bin:/bin", "A=1"],
                "cwd": "/",
                "capabilities": {
                    "bounding": DEFAULT_CAPABILITIES, "effective": DEFAULT_CAPABILITIES,
                    "permitted": DEFAULT_CAPABILITIES,
                },
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1000}],
                "oomScoreAdj": 500,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "mount"}, {"type": "cgroup"}],
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 67108864},
                    "pids": {"limit": 100},
                    "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                },
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                    "/sys/firmware", "/sys/fs/selinux", "/sys/dev/block"],
                "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                    "/proc/sysrq-trigger"],
            },
        });
        Self { dir, id, spec, seccomp: true }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn process(&mut self) -> &mut Value {
        &mut self.spec["process"]
    }

    fn add_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    fn request(&self) -> CreateRequest {
        let mut spec = self.spec.clone();
        let mut seccomp_bpf = None;
        if self.seccomp {
            let names = self.spec["process"]["capabilities"]["bounding"].clone();
            let capabilities: Vec<oci_spec::runtime::Capability> = serde_json::from_value(names).unwrap();
            spec["linux"]["seccomp"] =
                serde_json::to_value(seccomp::default_linux_seccomp(&capabilities)).unwrap();
            let cache = self.path("seccomp");
            seccomp_bpf = Some(seccomp::compiled(&SeccompSource::Default, &capabilities, &cache).unwrap());
        }
        fs::write(config_path(self.dir.path()), spec.to_string()).unwrap();
        CreateRequest {
            id: self.id.clone(),
            bundle: self.dir.path().to_owned(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.path("layer")],
                upper: self.path("upper"),
                work: self.path("work"),
            },
            seccomp_bpf,
        }
    }

    /// Runs `scenario` as a monitor would and returns what it says.
    #[track_caller]
    fn monitor<T: Serialize + for<'de> Deserialize<'de>>(
        &self,
        name: &RuntimeName,
        scenario: impl FnOnce(&mut Monitor) -> T,
    ) -> T {
        // Each run begins with the image as it was.
        for dir in ["upper", "work"] {
            let _ = fs::remove_dir_all(self.path(dir));
            fs::create_dir(self.path(dir)).unwrap();
        }
        let request = self.request();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // SAFETY: libc's own fork leaves its allocator usable in the child of a program with threads, and the
        // child uses nothing else that another thread may have locked.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop(read);
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    // A panic's message must not wait for a lock that nobody holds any more.
                    std::panic::set_hook(Box::new(|_| {}));
                    // A launch that hangs must not hang the tests: SIGALRM ends this fork.
                    nix::unistd::alarm::set(60);
                    nix::sys::prctl::set_child_subreaper(true).unwrap();
                    let mut monitor = Monitor {
                        runtime: open(name, &request).unwrap(),
                        request: request.clone(),
                        output: request.bundle.join("output"),
                        pid: 0,
                        codes: BTreeMap::new(),
                    };
                    let said = scenario(&mut monitor);
                    monitor.runtime.delete().map_err(|error| crate::engine::error::chain(&error)).unwrap();
                    monitor.runtime.delete().unwrap();
                    said
                }));
                let json = match outcome {
                    Ok(said) => json!({"said": said}),
                    Err(panic) => json!({"panic": panic.downcast_ref::<String>().cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))}),
                };
                let _ = File::from(write).write_all(json.to_string().as_bytes());
                crate::engine::host::syscall::exit_now(0);
            }
            ForkResult::Parent { child } => {
                drop(write);
                let mut text = String::new();
                File::from(read).read_to_string(&mut text).unwrap();
                waitpid(child, None).unwrap();
                let mut outcome: Value =
                    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name:?} hangs: {text}"));
                assert!(outcome.get("panic").is_none(), "{name:?}: {}", outcome["panic"]);
                assert_eq!(self.cgroup().processes().unwrap(), Vec::<i32>::new());
                serde_json::from_value(outcome["said"].take()).unwrap()
            }
        }
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::new(Layout::detect().unwrap(), Path::new(&self.id)).unwrap()
    }

    /// Runs to its end: what it printed, and its exit code.
    #[track_caller]
    fn run(&self, name: &RuntimeName) -> (String, i32) {
        self.monitor(name, |monitor| {
            monitor.create().unwrap();
            monitor.runtime.start().unwrap();
            let code = monitor.wait_first();
            (monitor.printed(), code)
        })
    }

    /// What it printed is the same through both runtimes, but for the lines `differs` names.
    #[track_caller]
    fn compare(&self, differs: &[&str]) -> BTreeMap<String, String> {
        let ours = self.run(&selkie());
        let theirs = self.run(&runc());
        same(&ours.0, &theirs.0, differs);
        assert_eq!(ours.1, theirs.1, "exit code");
        ours.0
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(k, v)| (k.into(), v.trim().into()))
            .collect()
    }
}

/// Asserts that two programs printed the same, but for lines that contain one of `differs`.
#[track_caller]
fn same(ours: &str, theirs: &str, differs: &[&str]) {
    /// Where we are stricter: what hides a path is read-only, and so is the directory of the hierarchies.
    const STRICTER: [&str; 6] =
        ["/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/sys/dev/block", "/sys/fs/cgroup"];
    let lines = |text: &str| -> Vec<String> {
        let kept = text.lines().filter(|line| !differs.iter().any(|part| line.contains(part)));
        kept.map(|line| match line.strip_prefix("mount ").and_then(|line| line.split_once(' ')) {
            Some((target, _)) if STRICTER.contains(&target) => target.to_owned(),
            _ => line.to_owned(),
        })
        .collect()
    };
    let (ours, theirs) = (lines(ours), lines(theirs));
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let surplus: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "only runc: {missing:#?}\nonly selkie: {surplus:#?}");
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.cgroup().remove();
        let _ = crate::engine::host::mount::unmount_all(self.dir.path());
    }
}

struct Monitor {
    runtime: Box<dyn OciRuntime>,
    request: CreateRequest,
    output: PathBuf,
    pid: i32,
    codes: BTreeMap<i32, i32>,
}

impl Monitor {
    fn streams(&self) -> Stdio {
        let output: OwnedFd = File::options().create(true).append(true).open(&self.output).unwrap().into();
        Stdio::Pipes {
            stdin: File::open("/dev/null").unwrap().into(),
            stdout: output.try_clone().unwrap(),
            stderr: output,
        }
    }

    fn create(&mut self) -> Result<(), LaunchError> {
        let _ = fs::remove_file(&self.output);
        let launched = self.runtime.create(&self.request.clone(), self.streams())?;
        self.pid = launched.pid;
        Ok(())
    }

    fn exec(&mut self, process: Value) -> Result<i32, LaunchError> {
        let process = ExecProcess { process: serde_json::from_value(process).unwrap() };
        let streams = self.streams();
        Ok(self.runtime.exec(&process, streams)?.pid)
    }

    /// Reaps whatever ends, as a monitor must: the first process of a PID namespace ends after all others are
    /// reaped.
    fn wait(&mut self, pid: i32) -> i32 {
        loop {
            if let Some(code) = self.codes.remove(&pid) {
                return code;
            }
            let (ended, code) = match waitpid(None, None).unwrap() {
                WaitStatus::Exited(ended, code) => (ended, code),
                WaitStatus::Signaled(ended, signal, _) => (ended, 128 + signal as i32),
                other => panic!("unexpected {other:?}"),
            };
            self.codes.insert(ended.as_raw(), code);
        }
    }

    fn wait_first(&mut self) -> i32 {
        self.wait(self.pid)
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }
}

/// What a program can find out about itself.
const LOOK: &str = r#"
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|SigBlk)' /proc/self/status
tail -n +2 /proc/self/limits | sed 's/^/limit /'
sed -E 's/^[0-9]+ [0-9]+ [0-9:]+ ([^ ]+) ([^ ]+) ([^ ]+) .*- ([^ ]+) ([^ ]+) .*/mount \2 \3 \4 \1/; s/lowerdir.*//' /proc/self/mountinfo | grep -v '^mount / '
ls -ln /dev /dev/pts | awk '{print "dev", $1, $3, $4, $5, $6, $(NF-2), $(NF-1), $NF}' | sed -E 's/[0-9]+:[0-9]+//'
env | sed 's/^/env /'
echo "host: $(hostname) $(cat /proc/sys/kernel/domainname)"
sed 's/^/cgroup /' /proc/self/cgroup
echo "cwd: $(pwd)"
echo "oom: $(cat /proc/self/oom_score_adj)"
echo "descriptors: $(ls /proc/self/fd | wc -l)"
set -- /proc/[0-9]*; echo "processes: $#"
echo "interfaces: $(ip -o addr 2>&1 | tr '\n' ' ')"
echo "memory: $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)"
echo "pids: $(cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null)"
read -r _ _ _ _ _ session _ < /proc/$$/stat; echo "session: $((session == $$))"
"#;

/// What it must not be able to do, and what it may.
const TRY: &str = r#"
try() { name="$1"; shift; if out=$("$@" 2>&1 </dev/null | head -c 200; exit 0); then :; fi; "$@" >/dev/null 2>&1 </dev/null; echo "try $name: $? $(echo $out | tr '\n' ' ')"; }
try kcore sh -c 'head -c 1 /proc/kcore | wc -c'
try keys cat /proc/keys
try timer_list sh -c 'wc -c < /proc/timer_list'
try firmware ls /sys/firmware
try core_pattern sh -c 'echo x > /proc/sys/kernel/core_pattern'
try sysrq sh -c 'echo h > /proc/sysrq-trigger'
try sysfs mkdir /sys/x
try remount_sys mount -o remount,rw /sys
try mount mount -t tmpfs none /tmp
try umount umount /proc/sys
try unmask umount /proc/kcore
try mknod_disk mknod /tmp/disk b 8 0
try mknod_mem sh -c 'mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem'
try use_null sh -c 'mknod /tmp/null c 1 3 && echo > /tmp/null'
try own_memory sh -c 'for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do test -e $f && echo 1000000000 > $f; done'
try own_devices sh -c 'echo a > /sys/fs/cgroup/devices/devices.allow'
try new_cgroup mkdir /sys/fs/cgroup/pids/x
try release_agent ls /sys/fs/cgroup/memory/release_agent
try hostname hostname other
try date date -s 2020-01-01
try dmesg sh -c 'dmesg | head -c 0'
try link ip link add d type dummy
try chroot chroot / true
try ping sh -c 'ping -c 1 -W 1 127.0.0.1 | grep -c seq'
try low_port sh -c 'timeout 0.1 nc -l -p 80; test $? = 143 -o $? = 124'
try chown chown 5 /etc/data
try fork_bomb sh -c 'ulimit -u'
try unshare unshare -m true
try user_namespace unshare -U true
try join_own sh -c 'unshare -Uru nsenter --uts=/proc/self/ns/uts true'
try join_init nsenter -t 1 -n true
try nice nice -n -5 true
try swapoff swapoff -a
try kmsg head -c 1 /dev/kmsg
try host_init ls /proc/1/root/
try rewrite_init sh -c 'echo x > /proc/1/exe'
try tmp_write sh -c 'echo x > /tmp/x'
try root_write sh -c 'echo x > /x'
try shm sh -c 'echo x > /dev/shm/x'
try dev_write sh -c 'echo x > /dev/x'
"#;

#[test]
fn node_a_program_sees_the_same_as_under_runc() {
    let bundle = Bundle::new(LOOK);
    let seen = bundle.compare(&[]);
    assert_eq!(seen["Seccomp"], "2");
    assert_eq!(seen["host"], "oracle (none)");
    assert_eq!(seen["memory"], "67108864");
    assert_eq!(seen["pids"], "100");
    assert_eq!(seen["oom"], "500");
}

#[test]
fn node_a_program_may_do_the_same_as_under_runc() {
    let bundle = Bundle::new(TRY);
    bundle.compare(&[]);
}

#[test]
fn node_an_ordinary_user_with_everything_set_is_the_same_as_under_runc() {
    let mut bundle = Bundle::new(&format!("{LOOK}\n{TRY}"));
    let process = bundle.process();
    process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 44], "umask": 0o27});
    process["cwd"] = json!("/made/for/me");
    process["noNewPrivileges"] = json!(true);
    process["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"],
        "inheritable": ["CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"],
    });
    bundle.spec["root"]["readonly"] = json!(true);
    bundle.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77", "kernel.domainname": "example"});
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4}]);
    for name in ["volume", "secret"] {
        fs::create_dir(bundle.path(name)).unwrap();
        fs::write(bundle.path(name).join("file"), name).unwrap();
    }
    let source = |name: &str| bundle.path(name).to_string_lossy().into_owned();
    let mounts = [
        json!({"destination": "/data/volume", "type": "bind", "source": source("volume"), "options": ["rbind", "rprivate"]}),
        json!({"destination": "/run/secret", "type": "bind", "source": source("secret/file"),
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}),
        json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777", "noexec"]}),
        json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup", "mode=755"]}),
    ];
    for mount in mounts {
        bundle.add_mount(mount);
    }
    let script = format!(
        "{LOOK}\n{TRY}\ncat /data/volume/file; cat /run/secret; echo x > /run/secret; ls -ln /etc | awk '{{print $1,$3,$4,$9}}'; \
         echo x > /etc/data; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni"
    );
    bundle.process()["args"] = json!(["sh", "-c", script]);
    // runc leaves the directory it made to root, too; podman and we give it no other owner.
    let seen = bundle.compare(&[]);
    assert_eq!(seen["NoNewPrivs"], "1");
    assert_eq!(seen["cwd"], "/made/for/me");
}

#[test]
fn node_a_privileged_container_is_the_same_as_under_runc() {
    let mut bundle = Bundle::new(LOOK);
    bundle.seccomp = false;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let mask = own.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    let all: Vec<oci_spec::runtime::Capability> = capability::IN_KERNEL_ORDER
        .into_iter()
        .filter(|capability| mask >> capability::bit(*capability) & 1 == 1)
        .collect();
    bundle.process()["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    bundle.spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    for mount in bundle.spec["mounts"].as_array_mut().unwrap() {
        mount["options"].as_array_mut().unwrap().retain(|option| option != "ro");
    }
    let seen = bundle.compare(&[]);
    assert_eq!(seen["Seccomp"], "0");
    let mut bundle_host = Bundle::new(LOOK);
    // Host namespaces where podman offers them.
    bundle_host.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]);
    bundle_host.compare(&["processes:", "interfaces:"]);
}

#[test]
fn node_commands_that_cannot_run_are_told_apart() {
    for (args, expect) in [
        (json!(["no-such-command"]), "NotFound"),
        (json!(["/no/such/path"]), "NotFound"),
        (json!(["/etc/data"]), "NotExecutable"),
        (json!(["plain"]), "NotFound"),
        (json!(["/bin"]), "NotExecutable"),
    ] {
        let mut bundle = Bundle::new("");
        bundle.process()["args"] = args.clone();
        for name in [selkie(), runc()] {
            let got = bundle.monitor(&name, |monitor| {
                let made = monitor.create().and_then(|()| monitor.runtime.start());
                match made {
                    Ok(()) => "started".to_owned(),
                    Err(LaunchError::CommandNotFound { .. }) => "NotFound".into(),
                    Err(LaunchError::CommandNotExecutable { .. }) => "NotExecutable".into(),
                    Err(error) => crate::engine::error::chain(&error),
                }
            });
            // runc calls a directory a permission problem too, in other words.
            if name == selkie() || args[0] != "/bin" {
                assert_eq!(got, expect, "{args} through {name:?}");
            }
        }
    }
}

#[test]
fn node_nothing_runs_before_start_and_nothing_is_left_after_delete() {
    for name in [selkie(), runc()] {
        let bundle = Bundle::new("echo started; sleep 1000 & sleep 1000");
        let before = crate::engine::host::mount::mounts().unwrap();
        let said: Vec<String> = bundle.monitor(&name, |monitor| {
            monitor.create().unwrap();
            let early = monitor.printed();
            monitor.runtime.start().unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !monitor.printed().contains("started") {
                assert!(std::time::Instant::now() < deadline, "the command does not run");
                std::thread::yield_now();
            }
            monitor.runtime.pause().unwrap();
            let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            let frozen = stat(monitor.pid);
            monitor.runtime.resume().unwrap();
            monitor.runtime.pause().unwrap();
            vec![early, frozen]
        });
        assert_eq!(said[0], "", "{name:?}");
        assert_eq!(crate::engine::host::mount::mounts().unwrap(), before);
        let Layout::Legacy { hierarchies, .. } = Layout::detect().unwrap() else { continue };
        for hierarchy in hierarchies {
            assert!(!hierarchy.mount_point.join(&bundle.id).exists(), "{name:?}");
        }
    }
}

#[test]
fn node_a_process_added_later_is_confined_the_same() {
    let bundle = Bundle::new("sleep 1000");
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["sh", "-c", format!("{LOOK}\n{TRY}\nreadlink /proc/self/root; exit 7")]);
    process["env"] = json!(["PATH=/bin", "B=2"]);
    process["cwd"] = json!("/tmp");
    let run = |name: &RuntimeName| -> (String, i32) {
        bundle.monitor(name, |monitor| {
            monitor.create().unwrap();
            monitor.runtime.start().unwrap();
            let pid = monitor.exec(process.clone()).unwrap();
            let code = monitor.wait(pid);
            (monitor.printed(), code)
        })
    };
    let (ours, theirs) = (run(&selkie()), run(&runc()));
    // runc, a Go program, passes on its own raised soft limit.
    same(&ours.0, &theirs.0, &["Max open files"]);
    assert_eq!((ours.1, theirs.1), (7, 7));

    let said = bundle.monitor(&selkie(), |monitor| {
        monitor.create().unwrap();
        monitor.runtime.start().unwrap();
        let mut missing = process.clone();
        missing["args"] = json!(["no-such-command"]);
        let first = monitor.exec(missing).unwrap_err().to_string();
        // A container that has ended takes nobody in.
        monitor.runtime.kill(9).unwrap();
        let code = monitor.wait_first();
        let second = crate::engine::error::chain(&monitor.exec(process.clone()).unwrap_err());
        (first, code, second)
    });
    assert_eq!(said.0, "no-such-command: no such file or directory");
    assert_eq!(said.1, 137);
    assert!(said.2.contains("namespace"), "{}", said.2);
}

#[test]
fn node_a_terminal_is_the_containers_own_and_controls_it() {
    let mut bundle = Bundle::new(
        "tty; stty size; ls -l /dev/console | cut -c1; echo x > /dev/tty && echo controlled; cat",
    );
    bundle.process()["terminal"] = json!(true);
    let process = bundle.spec["process"].clone();
    for name in [selkie(), runc()] {
        let (printed, added): (String, String) = bundle.monitor(&name, |monitor| {
            let talk = |launched: Launched, send: &str| {
                let mut console = File::from(launched.console.unwrap());
                console.write_all(send.as_bytes()).unwrap();
                let mut text = Vec::new();
                let mut buffer = [0; 1024];
                // EIO: the last process has closed the terminal.
                while let Ok(length) = console.read(&mut buffer) {
                    if length == 0 {
                        break;
                    }
                    text.extend(&buffer[..length]);
                    if send.is_empty() && text.ends_with(b"end\r\n") {
                        break;
                    }
                }
                String::from_utf8(text).unwrap()
            };
            let request = monitor.request.clone();
            let launched =
                monitor.runtime.create(&request, Stdio::Terminal { columns: 91, rows: 23 }).unwrap();
            monitor.pid = launched.pid;
            monitor.runtime.start().unwrap();
            let mut process = process.clone();
            process["args"] = json!(["sh", "-c", "tty; stty size; echo end; sleep 1000"]);
            let exec = ExecProcess { process: serde_json::from_value(process).unwrap() };
            let added = monitor.runtime.exec(&exec, Stdio::Terminal { columns: 40, rows: 12 }).unwrap();
            let added = talk(added, "");
            let printed = talk(launched, "typed\n\u{4}");
            monitor.wait_first();
            (printed, added)
        });
        let printed = printed.replace('\r', "");
        for part in ["/dev/pts/0\n", "23 91\n", "c\n", "controlled\n", "typed\n"] {
            assert!(printed.contains(part), "{name:?}: {part:?} in {printed:?}");
        }
        assert!(added.contains("12 40"), "{name:?}: {added:?}");
    }
}

#[test]
fn node_the_kernel_killing_for_memory_is_noticed() {
    let mut bundle =
        Bundle::new("head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null; echo survived $?");
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16777216});
    for name in [selkie(), runc()] {
        let said: (bool, bool, bool) = bundle.monitor(&name, |monitor| {
            monitor.create().unwrap();
            let before = monitor.runtime.oom_killed();
            monitor.runtime.start().unwrap();
            let events = monitor.runtime.oom_events().unwrap();
            let mut fds = [nix::poll::PollFd::new(events, nix::poll::PollFlags::POLLIN)];
            let noticed = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(20_000u16)).unwrap() == 1;
            monitor.wait_first();
            (before, noticed, monitor.runtime.oom_killed())
        });
        assert_eq!(said, (false, true, true), "{name:?}");
    }
}

#[test]
fn node_existing_namespaces_are_joined() {
    use crate::engine::host::namespace::{self, NamespaceKind, pinned_path};
    let mut bundle = Bundle::new(
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; readlink /proc/self/ns/net",
    );
    let pod = bundle.path("pod");
    let kinds = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
    let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "55".to_owned())]);
    namespace::create_pinned(&pod, &kinds, Some("pod-name"), &sysctls, Path::new("/nonexistent")).unwrap();
    let path = |kind| pinned_path(&pod, kind).to_string_lossy().into_owned();
    bundle.spec["hostname"] = json!("");
    bundle.spec["linux"]["namespaces"] = json!([
        {"type": "network", "path": path(NamespaceKind::Net)}, {"type": "ipc", "path": path(NamespaceKind::Ipc)},
        {"type": "uts", "path": path(NamespaceKind::Uts)}, {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
    ]);
    let seen = bundle.run(&selkie());
    let same = bundle.run(&runc());
    namespace::remove_pinned(&pod).unwrap();
    assert_eq!(seen, same);
    assert!(seen.0.starts_with("pod-name\n55\nnet:["), "{}", seen.0);
}

#[test]
fn node_a_volume_cannot_lead_out_of_its_base() {
    let mut bundle = Bundle::new("cat /v/file");
    let base = bundle.path("volume");
    fs::create_dir_all(base.join("good")).unwrap();
    fs::write(base.join("good/file"), "inside").unwrap();
    symlink("/etc", base.join("bad")).unwrap();
    let beneath = format!("beneath={}", base.display());
    bundle.add_mount(
        json!({"destination": "/v", "type": "bind", "source": "good", "options": ["rbind", beneath]}),
    );
    for name in [selkie(), runc()] {
        assert_eq!(bundle.run(&name), ("inside".to_owned(), 0), "{name:?}");
    }
    bundle.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = json!("bad");
    for name in [selkie(), runc()] {
        let refused: bool = bundle.monitor(&name, |monitor| monitor.create().is_err());
        assert!(refused, "{name:?}");
    }
}

#[test]
fn node_an_image_cannot_redirect_what_is_mounted_or_hidden() {
    // The image's /proc is a link: hiding paths below it would hide something else.
    let bundle = Bundle::new("true");
    fs::remove_dir(bundle.path("layer/proc")).unwrap();
    fs::create_dir(bundle.path("layer/fake")).unwrap();
    symlink("/fake", bundle.path("layer/proc")).unwrap();
    let message: String =
        bundle.monitor(&selkie(), |monitor| crate::engine::error::chain(&monitor.create().unwrap_err()));
    assert!(message.contains("/proc is not an ordinary directory"), "{message}");
    // A volume over a part of /proc, by name or through a link.
    for destination in ["/proc/self/attr", "/link"] {
        let mut bundle = Bundle::new("true");
        symlink("/proc/sys", bundle.path("layer/link")).unwrap();
        fs::create_dir(bundle.path("volume")).unwrap();
        let source = bundle.path("volume").to_string_lossy().into_owned();
        bundle.add_mount(
            json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]}),
        );
        let refused: bool = bundle.monitor(&selkie(), |monitor| monitor.create().is_err());
        assert!(refused, "{destination}");
    }
    // Executing the launcher itself would put it within the container's reach.
    let mut bundle = Bundle::new("");
    bundle.process()["args"] = json!(["/proc/self/exe"]);
    let started: bool =
        bundle.monitor(&selkie(), |monitor| monitor.create().and_then(|()| monitor.runtime.start()).is_ok());
    assert!(!started);
}

#[test]
fn node_many_and_oddly_named_layers_are_mounted() {
    let bundle = Bundle::new("cat /etc/data; ls /l*");
    let odd = bundle.path("a:b,c\\d");
    fs::create_dir_all(odd.join("l0")).unwrap();
    let mut request = bundle.request();
    let Rootfs::Overlay { lower, .. } = &mut request.rootfs else { unreachable!() };
    lower.push(odd);
    for number in 1..120 {
        let layer = bundle.path(&format!("layer-{number:0>60}"));
        fs::create_dir_all(layer.join(format!("l{number}"))).unwrap();
        lower.push(layer);
    }
    let said: (String, i32) = bundle.monitor(&selkie(), |monitor| {
        monitor.request = request.clone();
        monitor.runtime = open(&selkie(), &request).unwrap();
        monitor.create().unwrap();
        monitor.runtime.start().unwrap();
        let code = monitor.wait_first();
        (monitor.printed(), code)
    });
    assert_eq!(said.1, 0, "{}", said.0);
    assert!(said.0.starts_with("data") && said.0.contains("/l0") && said.0.contains("/l119"), "{}", said.0);
}

#[test]
fn node_hooks_run_where_the_spec_says() {
    let mut bundle = Bundle::new("echo ran >> /trace");
    let trace = bundle.path("trace");
    let hook = |word: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {word} $(grep -o '\"status\":\"[a-z]*' ) >> {}", trace.display())]}]);
    bundle.spec["hooks"] = json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
        "poststop": hook("poststop"), "createContainer": hook("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo inside >> /trace"]}],
    });
    let _ = bundle.run(&selkie());
    let outside = fs::read_to_string(&trace).unwrap();
    let words: Vec<&str> = outside.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);
    assert_eq!(fs::read_to_string(bundle.path("upper/trace")).unwrap(), "inside\nran\n");

    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let message: String =
        bundle.monitor(&selkie(), |monitor| crate::engine::error::chain(&monitor.create().unwrap_err()));
    assert!(message.contains("/bin/false"), "{message}");
}

#[test]
fn node_the_unified_hierarchy_restricts_devices_freezes_and_kills() {
    use std::os::unix::process::CommandExt as _;
    let root = match Layout::detect().unwrap() {
        Layout::Unified(root) => root,
        Layout::Legacy { unified, .. } => unified.expect("a cgroup2 mount beside v1"),
    };
    let bundle = Bundle::new("");
    let parent = Cgroup::new(Layout::Unified(root.clone()), Path::new(&bundle.id)).unwrap();
    let cgroup = Cgroup::new(Layout::Unified(root), &Path::new(&bundle.id).join("inner")).unwrap();
    cgroup.create(None).unwrap();
    let joined = cgroup.clone();
    let mut command = std::process::Command::new("/bin/busybox");
    let script =
        "head -c 1 /dev/zero | wc -c; head -c 1 /dev/kmsg 2>&1 | grep -o 'not permitted'; exec sleep 1000";
    command.args(["sh", "-c", script]).stdout(std::process::Stdio::piped());
    // SAFETY: opens and writes one file after the fork.
    unsafe {
        command.pre_exec(move || {
            joined.join_unified().map_err(|error| std::io::Error::other(error.to_string()))
        });
    }
    let mut child = command.spawn().unwrap();
    let mut printed = [0; 16];
    child.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"1\nnot permitted\n");
    cgroup.freeze(true).unwrap();
    cgroup.freeze(false).unwrap();
    cgroup.freeze(true).unwrap();
    parent.remove().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    cgroup.remove().unwrap();
}

/// Hides the v1 hierarchies from the calling process: a machine with cgroup v2 alone, as far as it can see.
fn leave_only_unified() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for entry in crate::engine::host::mount::mounts().unwrap().iter().rev() {
        if entry.fs_type == "cgroup" {
            umount2(&entry.mount_point, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

#[test]
fn node_with_cgroup_v2_alone_a_container_is_born_into_its_cgroup() {
    let mut bundle = Bundle::new(
        "cat /proc/self/cgroup | grep ^0; ls /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.procs | head -1; \
         mkdir /sys/fs/cgroup/x; mknod /tmp/k c 1 11; cat /tmp/k; sleep 1000",
    );
    // This machine's v2 hierarchy has no controllers.
    bundle.spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let printed: String = bundle.monitor(&selkie(), |monitor| {
        leave_only_unified();
        assert!(matches!(Layout::detect().unwrap(), Layout::Unified(_)));
        monitor.create().unwrap();
        monitor.runtime.start().unwrap();
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["sh", "-c", "grep ^0 /proc/self/cgroup; mknod /tmp/l c 1 11; cat /tmp/l"]);
        let added = monitor.exec(process).unwrap();
        assert_ne!(monitor.wait(added), 0);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while monitor.printed().matches("not permitted").count() < 2 {
            assert!(std::time::Instant::now() < deadline, "{}", monitor.printed());
            std::thread::yield_now();
        }
        monitor.runtime.pause().unwrap();
        monitor.printed()
    });
    assert_eq!(printed.matches("0::/\n").count(), 2, "{printed}");
    assert!(printed.contains("/sys/fs/cgroup/cgroup.procs\n") && printed.contains("\n1\n"), "{printed}");
    assert!(printed.contains("mkdir: can't create directory"), "{printed}");

    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 67108864});
    let message: String = bundle.monitor(&selkie(), |monitor| {
        leave_only_unified();
        crate::engine::error::chain(&monitor.create().unwrap_err())
    });
    assert!(message.contains("memory.max"), "a limit that cannot be set is an error: {message}");
}
