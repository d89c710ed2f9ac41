//! What a request must not ask for. Pure: bad input is refused before anything changes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::spec::{ContainerSpec, Mount, MountSource, NamespaceMode, NetworkMode, RestartPolicy};
use super::{capability, mounts, oci_spec};
use crate::engine::host::namespace::NamespaceKind;
use crate::engine::host::sysctl;
use crate::engine::pod::PodSandboxSpec;

/// The reason a request is refused, as a sentence's end: "container web: ...".
pub type Refusal = String;

pub fn check(spec: &ContainerSpec) -> Result<(), Refusal> {
    check_text(spec)?;
    check_mounts(&spec.mounts)?;
    check_network(spec)?;
    check_sysctls(spec)?;
    capability::check(&spec.security).map_err(|error| error.to_string())?;
    for ulimit in &spec.ulimits {
        if oci_spec::rlimit_type(&ulimit.name).is_none() {
            return Err(format!("unknown ulimit {:?}", ulimit.name));
        }
        if ulimit.soft > ulimit.hard {
            return Err(format!("ulimit {}: the soft limit is above the hard limit", ulimit.name));
        }
    }
    if spec.auto_remove && spec.restart_policy != RestartPolicy::No {
        return Err("it can not both be removed and be restarted when it ends".into());
    }
    if let Some(signal) = spec.stop_signal
        && !(1..=64).contains(&signal)
    {
        return Err(format!("{signal} is no signal"));
    }
    if let Some(score) = spec.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(format!("OOM score adjustment {score} is not between -1000 and 1000"));
    }
    Ok(())
}

fn check_text(spec: &ContainerSpec) -> Result<(), Refusal> {
    for name in spec.env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("environment variable name {name:?} is not valid"));
        }
    }
    let words = spec.entrypoint.iter().flatten().chain(spec.command.iter().flatten());
    if words.chain(spec.env.values()).any(|word| word.contains('\0')) {
        return Err("a command or environment value contains a NUL character".into());
    }
    if let Some(directory) = &spec.working_dir
        && !directory.is_empty()
        && (!directory.starts_with('/') || directory.contains('\0'))
    {
        return Err(format!("working directory {directory:?} is not an absolute path"));
    }
    if let Some(hostname) = &spec.hostname {
        check_hostname(hostname)?;
    }
    Ok(())
}

/// What the kernel and resolvers take.
pub fn check_hostname(hostname: &str) -> Result<(), Refusal> {
    let fine = (1..=64).contains(&hostname.len())
        && hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if fine { Ok(()) } else { Err(format!("{hostname:?} is no host name")) }
}

fn check_mounts(requested: &[Mount]) -> Result<(), Refusal> {
    let mut destinations = BTreeSet::new();
    for mount in requested {
        let destination = &mount.destination;
        let path: PathBuf = PathBuf::from(destination).components().collect();
        if !destination.starts_with('/') || destination.contains('\0') {
            return Err(format!("mount destination {destination:?} is not an absolute path"));
        }
        if path.components().count() < 2 || destination.split('/').any(|part| part == "..") {
            return Err(format!("mount destination {destination:?} is not a place inside the container"));
        }
        if !destinations.insert(path) {
            return Err(format!("{destination}: duplicate mount destination"));
        }
        if let Some(option) = mount.options.iter().find(|option| !mounts::is_known_option(option)) {
            return Err(format!("mount {destination}: option {option:?} is not supported"));
        }
        let source = match &mount.source {
            MountSource::Bind(path) | MountSource::BindBeneath { base: path, .. } => Some(path),
            MountSource::Volume { .. } | MountSource::AnonymousVolume | MountSource::Tmpfs { .. } => None,
        };
        if let Some(source) = source
            && !source.is_absolute()
        {
            return Err(format!("mount {destination}: source {} is not an absolute path", source.display()));
        }
    }
    Ok(())
}

fn check_network(spec: &ContainerSpec) -> Result<(), Refusal> {
    if spec.published_ports.iter().any(|port| port.range == 0 || port.container_port == 0) {
        return Err("a published port needs a container port and a range of at least 1".into());
    }
    let own = match &spec.network {
        NetworkMode::Bridge(_) => true,
        // podman and docker warn and go on: every port of the container is the host's already.
        NetworkMode::Host => true,
        NetworkMode::None | NetworkMode::Pod | NetworkMode::Container(_) | NetworkMode::Path(_) => false,
    };
    if !own && !spec.published_ports.is_empty() {
        return Err("ports can not be published without a network of its own".into());
    }
    if spec.pod.is_none() {
        let of_pod = |mode: &NamespaceMode| *mode == NamespaceMode::Pod;
        if spec.network == NetworkMode::Pod
            || [&spec.pid_namespace, &spec.ipc_namespace, &spec.uts_namespace].into_iter().any(of_pod)
        {
            return Err("it shares a pod's namespaces and is in no pod".into());
        }
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's own: anything else is the host's or another container's.
fn check_sysctls(spec: &ContainerSpec) -> Result<(), Refusal> {
    for key in spec.sysctls.keys() {
        let own = match sysctl::namespace_of(key) {
            Some(NamespaceKind::Net) => {
                matches!(spec.network, NetworkMode::Bridge(_) | NetworkMode::None)
            }
            Some(NamespaceKind::Ipc) => spec.ipc_namespace == NamespaceMode::Private,
            Some(NamespaceKind::Uts) => spec.uts_namespace == NamespaceMode::Private,
            Some(NamespaceKind::Pid) => spec.pid_namespace == NamespaceMode::Private,
            None => return Err(format!("sysctl {key} is not confined to a namespace")),
        };
        if !own {
            return Err(format!("sysctl {key} belongs to a namespace that is not the container's own"));
        }
    }
    Ok(())
}

/// Puts a container into its pod: what it left open becomes the pod's.
pub fn join_pod(spec: &mut ContainerSpec, pod: &PodSandboxSpec) -> Result<(), Refusal> {
    if pod.share.net {
        match &spec.network {
            NetworkMode::Bridge(attachments) if attachments.is_empty() => spec.network = NetworkMode::Pod,
            NetworkMode::Pod => {}
            // podman lets these leave the pod's network.
            NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Path(_) => {}
            NetworkMode::Bridge(_) => {
                return Err("its network is the pod's: it can not join others".into());
            }
        }
        if spec.network == NetworkMode::Pod && !spec.published_ports.is_empty() {
            return Err("its network is the pod's: ports are published by the pod".into());
        }
    } else if spec.network == NetworkMode::Pod {
        return Err("the pod shares no network".into());
    }
    let adopt = |mode: &mut NamespaceMode, shared: bool, host: bool, what: &str| match mode {
        NamespaceMode::Private if host => {
            *mode = NamespaceMode::Host;
            Ok(())
        }
        NamespaceMode::Private if shared => {
            *mode = NamespaceMode::Pod;
            Ok(())
        }
        NamespaceMode::Pod if host => {
            *mode = NamespaceMode::Host;
            Ok(())
        }
        NamespaceMode::Pod if !shared => Err(format!("the pod shares no {what} namespace")),
        NamespaceMode::Private
        | NamespaceMode::Pod
        | NamespaceMode::Host
        | NamespaceMode::Container(_)
        | NamespaceMode::Path(_) => Ok(()),
    };
    adopt(&mut spec.ipc_namespace, pod.share.ipc, pod.share.host_ipc, "IPC")?;
    adopt(&mut spec.pid_namespace, pod.share.pid, pod.share.host_pid, "PID")?;
    adopt(&mut spec.uts_namespace, pod.share.uts, false, "UTS")?;
    let pods = pod.hostname.as_deref().unwrap_or(pod.name.as_str());
    if spec.uts_namespace == NamespaceMode::Pod && spec.hostname.as_deref().is_some_and(|own| own != pods) {
        return Err("its host name is the pod's".into());
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
