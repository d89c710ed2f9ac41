//! Namespaces without processes: made on a thread of their own, kept alive by bind mounts.
//!
//! A pod's sandbox is a directory with one file per namespace kind. Namespaces belong to threads, so nothing
//! here disturbs the caller: every call works on a fresh thread that ends with it. The PID namespace alone needs
//! a process, its init; see [`super::pause`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::NSFS_MAGIC;
use serde::{Deserialize, Serialize};

use super::{HostError, Result, Step as _, mount as mounts, process, syscall, sysctl};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    Net,
    Ipc,
    Uts,
    Pid,
}

impl NamespaceKind {
    /// The name of its link below `/proc/PID/ns`, and of its file in a sandbox directory.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
        }
    }

    fn clone_flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Pid => CloneFlags::CLONE_NEWPID,
        }
    }
}

/// The init of a pinned PID namespace. Recorded in the sandbox directory: whoever removes it can end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseProcess {
    pub pid: i32,
    pub start_ticks: u64,
}

/// Where a namespace is pinned.
pub fn pinned_path(dir: &Path, kind: NamespaceKind) -> PathBuf {
    dir.join(kind.as_str())
}

/// Makes new namespaces and pins each at `dir/<kind>`. The network namespace's loopback is up, sysctls and
/// hostname are set. `dir` is made if missing. On error nothing is left behind.
///
/// `monitor` is the `selkie-monitor` program, needed for [`NamespaceKind::Pid`] alone: its `pause` command is the
/// namespace's init.
pub fn create_pinned(
    dir: &Path,
    kinds: &[NamespaceKind],
    hostname: Option<&str>,
    sysctls: &BTreeMap<String, String>,
    monitor: &Path,
) -> Result<Option<PauseProcess>> {
    for key in sysctls.keys() {
        if !sysctl::namespace_of(key).is_some_and(|kind| kinds.contains(&kind)) {
            return Err(HostError::new(
                format!("sysctl {key} belongs to no namespace of this sandbox"),
                io::Error::from(io::ErrorKind::InvalidInput),
            ));
        }
    }
    fs::create_dir_all(dir).step(|| format!("create {}", dir.display()))?;
    let made = on_fresh_thread("selkie-sandbox", || pin(dir, kinds, hostname, sysctls, monitor));
    if made.is_err()
        && let Err(error) = remove_pinned(dir)
    {
        tracing::warn!(path = %dir.display(), error = %crate::engine::error::chain(&error),
            "namespaces of a failed sandbox were left behind");
    }
    made
}

/// Lets go of what [`create_pinned`] made, including a PID namespace's processes. May be repeated.
pub fn remove_pinned(dir: &Path) -> Result<()> {
    if let Some(pause) = pause_process(dir)? {
        if let Some(pidfd) = process::pidfd_open_same(pause.pid, pause.start_ticks)? {
            process::pidfd_signal(pidfd.as_fd(), nix::libc::SIGKILL)?;
            process::reap(&pidfd)?;
        }
        remove_file(&pause_file(dir))?;
    }
    for kind in [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Pid] {
        let path = pinned_path(dir, kind);
        mounts::unmount(&path)?;
        remove_file(&path)?;
    }
    match fs::remove_dir(dir) {
        // The directory may hold other things of the caller's.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(HostError::new(format!("remove {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// Whether every one of `kinds` is pinned in `dir` (after a reboot the files may be there, but not the mounts),
/// and a PID namespace's init alive.
pub fn is_pinned(dir: &Path, kinds: &[NamespaceKind]) -> bool {
    kinds.iter().all(|kind| is_namespace_file(&pinned_path(dir, *kind)))
        && (!kinds.contains(&NamespaceKind::Pid)
            || pause_process(dir).ok().flatten().is_some_and(|pause| {
                process::pidfd_open_same(pause.pid, pause.start_ticks)
                    .ok()
                    .flatten()
                    .is_some_and(|pidfd| !process::wait_ended(pidfd.as_fd(), 0))
            }))
}

/// The init of the PID namespace pinned in `dir`, if one was made there.
pub fn pause_process(dir: &Path) -> Result<Option<PauseProcess>> {
    let path = pause_file(dir);
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map(Some).step(|| format!("read {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::new(format!("read {}", path.display()), error)),
    }
}

/// Runs `f` on a thread of its own inside the network namespace at `path`, and hands back what it returns:
/// sockets made there stay there. Blocks until `f` is done, so keep it short.
pub fn within_netns<T, F>(path: &Path, f: F) -> Result<T>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    let step = || format!("enter network namespace {}", path.display());
    let netns = File::open(path).step(step)?;
    on_fresh_thread("selkie-netns", move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).step(step)?;
        Ok(f())
    })
}

/// A namespace's descriptor, to be kept or passed on.
pub fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).step(|| format!("open namespace {}", path.display()))
}

/// Runs on a thread that nobody else will ever use: its namespaces may change.
fn on_fresh_thread<T: Send>(name: &str, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, f)
            .step(|| "start a thread for a namespace".into())?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn pin(
    dir: &Path,
    kinds: &[NamespaceKind],
    hostname: Option<&str>,
    sysctls: &BTreeMap<String, String>,
    monitor: &Path,
) -> Result<Option<PauseProcess>> {
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.clone_flag());
    unshare(flags).step(|| "make new namespaces".into())?;
    if kinds.contains(&NamespaceKind::Net) {
        syscall::interface_up("lo").step(|| "bring up the loopback interface".into())?;
    }
    if let (true, Some(hostname)) = (kinds.contains(&NamespaceKind::Uts), hostname) {
        nix::unistd::sethostname(hostname).step(|| format!("set hostname {hostname}"))?;
    }
    sysctl::apply(Path::new("/proc"), sysctls)?;
    let pause = match kinds.contains(&NamespaceKind::Pid) {
        // Before the bind mounts: a PID namespace can only be bound once it has an init.
        true => Some(spawn_pause(dir, monitor)?),
        false => None,
    };
    for kind in kinds {
        let link = match kind {
            NamespaceKind::Pid => "/proc/thread-self/ns/pid_for_children".to_owned(),
            NamespaceKind::Net | NamespaceKind::Ipc | NamespaceKind::Uts => {
                format!("/proc/thread-self/ns/{}", kind.as_str())
            }
        };
        let target = pinned_path(dir, *kind);
        let step = || format!("pin {} namespace at {}", kind.as_str(), target.display());
        File::create(&target).step(step)?;
        mount(Some(link.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).step(step)?;
    }
    Ok(pause)
}

fn spawn_pause(dir: &Path, monitor: &Path) -> Result<PauseProcess> {
    let step = || format!("start {} pause", monitor.display());
    let mut child = Command::new(monitor)
        .arg("pause")
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .step(step)?;
    let pid = child.id() as i32;
    let ready = (|| {
        let start_ticks = process::start_ticks(pid)?
            .ok_or_else(|| HostError::new(step(), io::Error::from(io::ErrorKind::NotFound)))?;
        let pause = PauseProcess { pid, start_ticks };
        // Recorded at once, so that a crash from here on leaves it to `remove_pinned`.
        let json = serde_json::to_vec(&pause).step(step)?;
        fs::write(pause_file(dir), json).step(|| format!("write {}", pause_file(dir).display()))?;
        // It closes its output when it has locked itself in; one byte says that it has succeeded.
        let mut answer = Vec::new();
        if let Some(mut output) = child.stdout.take() {
            io::Read::read_to_end(&mut output, &mut answer).step(step)?;
        }
        match answer.as_slice() {
            super::pause::READY => Ok(pause),
            _ => Err(HostError::new(step(), io::Error::other("it did not become ready"))),
        }
    })();
    if ready.is_err() {
        // It may have ended already; either way it must not stay a zombie.
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(pause_file(dir));
    }
    ready
}

fn pause_file(dir: &Path) -> PathBuf {
    dir.join("pause.json")
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HostError::new(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn is_namespace_file(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn sandbox(sysctls: &[(&str, &str)], check: impl FnOnce(&Path, Result<Option<PauseProcess>>)) {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        let sysctls = sysctls.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let kinds = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
        struct Cleanup(PathBuf);
        impl Drop for Cleanup {
            fn drop(&mut self) {
                let _ = remove_pinned(&self.0);
            }
        }
        let _cleanup = Cleanup(pod.clone());
        let made = create_pinned(&pod, &kinds, Some("selkie-pod"), &sysctls, Path::new("/nonexistent"));
        check(&pod, made);
    }

    #[test]
    fn node_pinned_namespaces_are_new_and_configured_and_go_without_a_trace() {
        let before = fs::read_link("/proc/self/ns/net").unwrap();
        sandbox(&[("net.ipv4.ip_unprivileged_port_start", "77"), ("kernel.shmmni", "123")], |pod, made| {
            assert_eq!(made.unwrap(), None);
            let kinds = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
            assert!(is_pinned(pod, &kinds));
            let (start, address) = within_netns(&pinned_path(pod, NamespaceKind::Net), || {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                TcpStream::connect(address).unwrap();
                let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
                (start, address)
            })
            .unwrap();
            assert_eq!(start.trim(), "77");
            // The daemon itself stayed where it was.
            assert!(TcpStream::connect(address).is_err());
            assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), before);
            let uts = open(&pinned_path(pod, NamespaceKind::Uts)).unwrap();
            let name = on_fresh_thread("test", || {
                setns(&uts, CloneFlags::CLONE_NEWUTS).step(|| "enter".into())?;
                Ok(nix::unistd::gethostname().unwrap())
            })
            .unwrap();
            assert_eq!(name, "selkie-pod");

            remove_pinned(pod).unwrap();
            remove_pinned(pod).unwrap();
            assert!(!pod.exists());
            assert!(!mounts::mounts().unwrap().iter().any(|entry| entry.mount_point.starts_with(pod)));
        });
    }

    #[test]
    fn node_a_sysctl_of_the_whole_machine_is_refused_and_nothing_is_made() {
        sandbox(&[("kernel.core_pattern", "x")], |pod, made| {
            assert!(made.unwrap_err().to_string().contains("kernel.core_pattern"));
            assert!(!pod.exists());
        });
    }

    #[test]
    fn node_a_failed_sandbox_leaves_nothing() {
        sandbox(&[("net.ipv4.no_such_parameter", "1")], |pod, made| {
            assert!(made.unwrap_err().to_string().contains("no_such_parameter"));
            assert!(!pod.exists());
        });
    }
}
