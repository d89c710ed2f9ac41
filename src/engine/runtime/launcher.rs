//! Our own launcher: the parent's side. The child's is [`super::init`].
//!
//! No program is executed but the user's: the child is a copy of the monitor, made by one `clone3` straight into
//! its new namespaces, which does everything to itself and then executes the command. That, and filters compiled
//! beforehand, is why a launch takes a few milliseconds.
#![expect(unsafe_code, reason = "forks; the monitor has one thread")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::libc::sock_filter;
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{Hook, Hooks, LinuxNamespace, LinuxNamespaceType, Process, Spec};

use super::cgroup::{Cgroup, Layout, OomWatch};
use super::hooks::{self, HookState};
use super::init::{Init, Joiner, clone_flag};
use super::process::ProcessPlan;
use super::rootfs::RootfsPlan;
use super::seccomp::{self, SeccompSource};
use super::sync::{self, Failure, Message};
use super::{CreateRequest, ExecProcess, LaunchError, Launched, OciRuntime, Stdio, config_path};
use crate::engine::host::namespace::NamespaceKind;
use crate::engine::host::syscall::{self, Cloned};
use crate::engine::host::{HostError, Result, Step as _, process as processes, sysctl};

/// One container.
pub struct Launcher {
    request: CreateRequest,
    container: Option<Container>,
}

/// After `create`.
struct Container {
    spec: Box<Spec>,
    cgroup: Cgroup,
    pid: i32,
    pidfd: OwnedFd,
    /// The barrier; gone once `start` has passed it.
    socket: Option<OwnedFd>,
    oom: Option<OomWatch>,
    seccomp: Option<Vec<sock_filter>>,
}

impl Launcher {
    pub fn new(request: CreateRequest) -> Self {
        Self { request, container: None }
    }

    fn container(&self, step: &str) -> Result<&Container> {
        self.container.as_ref().ok_or_else(|| {
            HostError::new(
                format!("{step} container {}", self.request.id),
                io::Error::other("it was not created"),
            )
        })
    }

    fn try_create(
        &mut self,
        cgroup: &Cgroup,
        spec: Box<Spec>,
        stdio: Stdio,
    ) -> Result<Launched, LaunchError> {
        check(&spec)?;
        let seccomp = self.filter(&spec)?;
        let process = spec.process().as_ref().ok_or_else(|| refused("a process is missing".into()))?;
        let process = ProcessPlan::new(process, seccomp.clone())?;
        let namespaces = Namespaces::open(&spec)?;
        cgroup.create(spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()))?;
        let oom = cgroup.watch_oom()?;
        let unified = cgroup.open_unified()?;
        let mount_point = self.root_path(&spec)?;
        let hooks = spec.hooks().clone().unwrap_or_default();
        let runtime_hooks = !prestart(&hooks).is_empty() || !create_runtime(&hooks).is_empty();
        let init = Init {
            id: &self.request.id,
            rootfs: RootfsPlan {
                spec: &spec,
                rootfs: &self.request.rootfs,
                mount_point: &mount_point,
                bundle: &self.request.bundle,
                cgroup,
                own_cgroup_namespace: namespaces.own_cgroup,
            },
            process: &process,
            joins: &namespaces.joins,
            new_network: namespaces.new.contains(CloneFlags::CLONE_NEWNET),
            runtime_hooks,
        };
        let (ours, theirs) = sync::pair()?;
        let (pid, pidfd) = namespaces.clone_into(unified.as_ref(), || init.run(theirs.as_fd(), &stdio))?;
        let mut guard = Guard { pidfd: Some(pidfd) };
        drop(theirs);
        drop(stdio);
        let state =
            |status| HookState { id: &self.request.id, status, pid: Some(pid), bundle: &self.request.bundle };
        let console = loop {
            match sync::hear(ours.as_fd())? {
                Some((Message::Hooks, _)) => {
                    hooks::run(prestart(&hooks), state("creating"))?;
                    hooks::run(create_runtime(&hooks), state("creating"))?;
                    sync::release(ours.as_fd())?;
                }
                Some((Message::Ready, console)) => break console,
                Some((Message::Failed(failure), _)) => return Err(failure.into()),
                None => return Err(ended_early()),
            }
        };
        let Some(pidfd) = guard.pidfd.take() else { return Err(ended_early()) };
        self.container =
            Some(Container { cgroup: cgroup.clone(), pid, pidfd, socket: Some(ours), oom, seccomp, spec });
        Ok(Launched { pid, console })
    }

    /// The filter to load: compiled beforehand, or now if only the spec has one.
    fn filter(&self, spec: &Spec) -> Result<Option<Vec<sock_filter>>, LaunchError> {
        let path = match (&self.request.seccomp_bpf, spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()))
        {
            (Some(path), _) => path.clone(),
            (None, None) => return Ok(None),
            (None, Some(seccomp)) => {
                let source = SeccompSource::Oci(Box::new(seccomp.clone()));
                seccomp::compiled(&source, &[], &self.request.bundle).map_err(|error| {
                    LaunchError::Failed { step: "compile seccomp profile".into(), source: error.into() }
                })?
            }
        };
        let step = || format!("read seccomp filter {}", path.display());
        let bytes = fs::read(&path).step(step)?;
        let program = seccomp::from_bytes(&bytes)
            .ok_or_else(|| HostError::new(step(), io::Error::from(io::ErrorKind::InvalidData)))?;
        Ok(Some(program))
    }

    fn root_path(&self, spec: &Spec) -> Result<PathBuf> {
        let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path().as_path());
        let joined = self.request.bundle.join(root);
        std::path::absolute(&joined).step(|| format!("resolve {}", joined.display()))
    }

    /// The container's cgroup, whether or not this process has made it.
    fn cgroup(&self, spec: &Spec) -> Result<Cgroup> {
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
        Cgroup::new(Layout::detect()?, &path.unwrap_or_else(|| PathBuf::from(&self.request.id)))
    }

    fn exec_process(&self, process: &Process) -> Result<ProcessPlan> {
        let container = self.container("execute in")?;
        let mut process = process.clone();
        // Confinement is the container's, whatever the request leaves out.
        let Some(init) = container.spec.process() else { return ProcessPlan::new(&process, None) };
        if process.apparmor_profile().is_none() {
            process.set_apparmor_profile(init.apparmor_profile().clone());
        }
        if process.selinux_label().is_none() {
            process.set_selinux_label(init.selinux_label().clone());
        }
        if process.capabilities().is_none() {
            process.set_capabilities(init.capabilities().clone());
        }
        if init.no_new_privileges() == Some(true) {
            process.set_no_new_privileges(Some(true));
        }
        if process.oom_score_adj().is_none() {
            process.set_oom_score_adj(init.oom_score_adj());
        }
        if process.rlimits().is_none() {
            process.set_rlimits(init.rlimits().clone());
        }
        ProcessPlan::new(&process, container.seccomp.clone())
    }
}

impl OciRuntime for Launcher {
    fn create(&mut self, _: &CreateRequest, stdio: Stdio) -> Result<Launched, LaunchError> {
        let spec = Box::new(load_spec(&self.request.bundle)?);
        let cgroup = self.cgroup(&spec)?;
        let created = self.try_create(&cgroup, spec, stdio);
        if created.is_err()
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!(container.id = self.request.id, error = %crate::engine::error::chain(&error),
                "cgroup of a failed launch was left behind");
        }
        created
    }

    fn start(&mut self) -> Result<(), LaunchError> {
        let id = self.request.id.clone();
        let bundle = self.request.bundle.clone();
        let container =
            self.container.as_mut().ok_or_else(|| refused(format!("container {id} was not created")))?;
        let socket =
            container.socket.take().ok_or_else(|| refused(format!("container {id} was started already")))?;
        sync::release(socket.as_fd())?;
        match sync::hear(socket.as_fd())? {
            None => {}
            Some((Message::Failed(failure), _)) => return Err(failure.into()),
            Some((Message::Hooks | Message::Ready, _)) => return Err(out_of_order()),
        }
        if let Some(hooks) = container.spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref()) {
            let state = HookState { id: &id, status: "running", pid: Some(container.pid), bundle: &bundle };
            if let Err(error) = hooks::run(hooks, state) {
                // The spec: log and go on as if it had succeeded.
                tracing::warn!(container.id = id, error = %crate::engine::error::chain(&error), "poststart hook failed");
            }
        }
        Ok(())
    }

    fn exec(&mut self, exec: &ExecProcess, stdio: Stdio) -> Result<Launched, LaunchError> {
        let process = self.exec_process(&exec.process)?;
        let container = self.container("execute in")?;
        let unified = container.cgroup.open_unified()?;
        let namespaces = Namespaces::joining(container.pidfd.as_fd().as_raw_fd());
        let joiner = Joiner { process: &process, cgroup: &container.cgroup, target: container.pidfd.as_fd() };
        let (ours, theirs) = sync::pair()?;
        let (pid, pidfd) = namespaces.clone_into(unified.as_ref(), || joiner.run(theirs.as_fd(), &stdio))?;
        let mut guard = Guard { pidfd: Some(pidfd) };
        drop(theirs);
        drop(stdio);
        let mut console = None;
        loop {
            match sync::hear(ours.as_fd())? {
                Some((Message::Ready, terminal)) => console = Some(terminal),
                Some((Message::Failed(failure), _)) => return Err(failure.into()),
                Some((Message::Hooks, _)) => return Err(out_of_order()),
                None => break,
            }
        }
        match console {
            Some(console) => {
                guard.pidfd = None;
                Ok(Launched { pid, console })
            }
            None => Err(ended_early()),
        }
    }

    fn kill(&mut self, signal: i32) -> Result<(), LaunchError> {
        let container = self.container("signal")?;
        Ok(processes::pidfd_signal(container.pidfd.as_fd(), signal)?)
    }

    fn pause(&mut self) -> Result<(), LaunchError> {
        Ok(self.container("pause")?.cgroup.freeze(true)?)
    }

    fn resume(&mut self) -> Result<(), LaunchError> {
        Ok(self.container("resume")?.cgroup.freeze(false)?)
    }

    fn delete(&mut self) -> Result<(), LaunchError> {
        let (cgroup, hooks) = match self.container.take() {
            Some(container) => (container.cgroup, container.spec.hooks().clone()),
            None => match load_spec(&self.request.bundle) {
                Ok(spec) => (self.cgroup(&spec)?, None),
                // The bundle goes last: without one there is nothing left.
                Err(error) if error.io().kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        };
        cgroup.remove()?;
        if let Some(hooks) = hooks.as_ref().and_then(|hooks| hooks.poststop().as_deref()) {
            let state = HookState {
                id: &self.request.id,
                status: "stopped",
                pid: None,
                bundle: &self.request.bundle,
            };
            if let Err(error) = hooks::run(hooks, state) {
                tracing::warn!(container.id = self.request.id, error = %crate::engine::error::chain(&error),
                    "poststop hook failed");
            }
        }
        Ok(())
    }

    fn oom_events(&self) -> Option<BorrowedFd<'_>> {
        self.container.as_ref()?.oom.as_ref().map(OomWatch::events)
    }

    fn oom_killed(&self) -> bool {
        self.container
            .as_ref()
            .and_then(|container| container.oom.as_ref())
            .is_some_and(|oom| oom.kills() > 0)
    }
}

/// Ends a child that did not make it.
struct Guard {
    pidfd: Option<OwnedFd>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // Both fail only for a child that is not there any more.
            let _ = processes::pidfd_signal(pidfd.as_fd(), nix::libc::SIGKILL);
            let _ = processes::reap(pidfd);
        }
    }
}

/// Which namespaces the child is born into, and which it enters itself.
struct Namespaces {
    new: CloneFlags,
    joins: Vec<(LinuxNamespaceType, OwnedFd)>,
    /// An existing PID namespace: a process can only be born into one.
    pid: PidNamespace,
    own_cgroup: bool,
}

enum PidNamespace {
    /// New, or the launcher's own.
    AsCloned,
    Existing(OwnedFd),
    /// That of a running process, by its descriptor.
    OfProcess(RawFd),
}

impl Namespaces {
    fn open(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self {
            new: CloneFlags::empty(),
            joins: Vec::new(),
            pid: PidNamespace::AsCloned,
            own_cgroup: false,
        };
        for namespace in spec_namespaces(spec) {
            let kind = namespace.typ();
            let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
            match (kind, path) {
                (LinuxNamespaceType::Cgroup, None) => namespaces.own_cgroup = true,
                (_, None) => namespaces.new |= clone_flag(kind),
                (LinuxNamespaceType::Pid, Some(path)) => {
                    namespaces.pid = PidNamespace::Existing(open_namespace(path)?);
                }
                (_, Some(path)) => {
                    namespaces.own_cgroup |= kind == LinuxNamespaceType::Cgroup;
                    namespaces.joins.push((kind, open_namespace(path)?));
                }
            }
        }
        Ok(namespaces)
    }

    fn joining(pidfd: RawFd) -> Self {
        Self {
            new: CloneFlags::empty(),
            joins: Vec::new(),
            pid: PidNamespace::OfProcess(pidfd),
            own_cgroup: false,
        }
    }

    /// Forks; the child runs `child`.
    fn clone_into(&self, cgroup: Option<&OwnedFd>, child: impl FnOnce()) -> Result<(i32, OwnedFd)> {
        let own = match &self.pid {
            PidNamespace::AsCloned => None,
            // Affects children only, and may be taken back since the own one is an ancestor.
            PidNamespace::Existing(namespace) => {
                let own = open_namespace(Path::new("/proc/self/ns/pid"))?;
                setns(namespace, CloneFlags::CLONE_NEWPID).step(|| "join the pid namespace".into())?;
                Some(own)
            }
            PidNamespace::OfProcess(pidfd) => {
                let own = open_namespace(Path::new("/proc/self/ns/pid"))?;
                syscall::join_namespaces(*pidfd, CloneFlags::CLONE_NEWPID.bits())
                    .step(|| "join the container's pid namespace".into())?;
                Some(own)
            }
        };
        // SAFETY: the monitor has one thread (see the module's contract), so no lock is held by another.
        let cloned = unsafe { syscall::clone3(self.new.bits(), cgroup.map(|cgroup| cgroup.as_fd())) };
        if let Ok(Cloned::Child) = cloned {
            child();
            // It never comes here; nor must anything that runs in the copy.
            syscall::exit_now(1);
        }
        if let Some(own) = own {
            setns(&own, CloneFlags::CLONE_NEWPID).step(|| "return to the own pid namespace".into())?;
        }
        match cloned.step(|| "make a process in new namespaces".into())? {
            Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
            Cloned::Child => Err(HostError::new("unreachable", io::Error::from(io::ErrorKind::Other))),
        }
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).step(|| format!("open namespace {}", path.display()))
}

fn spec_namespaces(spec: &Spec) -> &[LinuxNamespace] {
    spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default()
}

fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = config_path(bundle);
    let step = || format!("read {}", path.display());
    let json = fs::read(&path).step(step)?;
    serde_json::from_slice(&json).step(step)
}

/// Refuses what would reach beyond the container, or what we cannot do: neither is left out in silence.
fn check(spec: &Spec) -> Result<(), LaunchError> {
    let namespaces = spec_namespaces(spec);
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    let refuse = |what: String| Err(refused(what));
    for (at, namespace) in namespaces.iter().enumerate() {
        if namespaces[..at].iter().any(|other| other.typ() == namespace.typ()) {
            return refuse(format!("two {} namespaces", namespace.typ()));
        }
    }
    let new_mount = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Mount && namespace.path().is_none()
    };
    if !namespaces.iter().any(new_mount) {
        return refuse("a mount namespace of its own is required".into());
    }
    for kind in [LinuxNamespaceType::User, LinuxNamespaceType::Time] {
        if has(kind) {
            return refuse(format!("{kind} namespaces are not supported by this runtime"));
        }
    }
    let named = spec.hostname().as_ref().or(spec.domainname().as_ref()).is_some_and(|name| !name.is_empty());
    if named && !has(LinuxNamespaceType::Uts) {
        return refuse("a hostname needs a uts namespace, or it would be the machine's".into());
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    for key in linux.sysctl().iter().flatten().map(|(key, _)| key) {
        let kind = match sysctl::namespace_of(key) {
            None => return refuse(format!("sysctl {key} is the whole machine's")),
            Some(NamespaceKind::Net) => LinuxNamespaceType::Network,
            Some(NamespaceKind::Ipc) => LinuxNamespaceType::Ipc,
            Some(NamespaceKind::Uts) => LinuxNamespaceType::Uts,
            Some(NamespaceKind::Pid) => LinuxNamespaceType::Pid,
        };
        if !has(kind) {
            return refuse(format!("sysctl {key} needs a {kind} namespace, or it would be the machine's"));
        }
    }
    let unsupported = [
        ("intelRdt", linux.intel_rdt().is_some()),
        ("personality", linux.personality().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        ("netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
        ("uidMappings", linux.uid_mappings().as_ref().is_some_and(|maps| !maps.is_empty())),
        ("gidMappings", linux.gid_mappings().as_ref().is_some_and(|maps| !maps.is_empty())),
    ];
    match unsupported.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => refuse(format!("linux.{what} is not supported by this runtime")),
        None => Ok(()),
    }
}

fn refused(what: String) -> LaunchError {
    LaunchError::Failed { step: "check the runtime spec".into(), source: what.into() }
}

fn ended_early() -> LaunchError {
    Failure::Step { step: "launch".into(), cause: "the new process ended before it was ready".into() }.into()
}

fn out_of_order() -> LaunchError {
    Failure::Step { step: "launch".into(), cause: "the new process spoke out of turn".into() }.into()
}

/// Deprecated, and still honoured by every runtime.
fn prestart(hooks: &Hooks) -> &[Hook] {
    hooks.prestart().as_deref().unwrap_or_default()
}

fn create_runtime(hooks: &Hooks) -> &[Hook] {
    hooks.create_runtime().as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), String> {
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "hostname": "box",
            "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]},
        });
        change(&mut spec);
        let spec: Spec = serde_json::from_value(spec).unwrap();
        check(&spec).map_err(|error| crate::engine::error::chain(&error))
    }

    #[test]
    fn what_would_reach_beyond_the_container_is_refused() {
        assert_eq!(verdict(|_| {}), Ok(()));
        let cases: [(fn(&mut serde_json::Value), &str); 6] = [
            (|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}]), "mount namespace"),
            (|spec| spec["linux"]["namespaces"] = json!([{"type": "mount"}]), "uts"),
            (|spec| spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "x"}), "whole machine"),
            (|spec| spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}), "net namespace"),
            (|spec| spec["linux"]["namespaces"][2] = json!({"type": "user"}), "user namespaces"),
            (|spec| spec["linux"]["namespaces"][2] = json!({"type": "uts"}), "two uts"),
        ];
        for (change, expect) in cases {
            let error = verdict(change).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }
}
