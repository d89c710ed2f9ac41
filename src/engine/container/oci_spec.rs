//! From a container's record, its image's configuration and what was found on the host to the OCI runtime
//! spec. Pure: no file is read here, no clock, no kernel asked.
//!
//! Where Kubernetes, Docker and Podman differ in defaults, Podman's count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemory,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};
use thiserror::Error;

use super::ContainerRecord;
use super::capability::{CapabilityError, capabilities};
use super::command::{NoCommand, arguments, environment};
use super::mounts::{GeneratedFile, ResolvedMount, Shm, mounts};
use super::spec::{ContainerSpec, Resources, Ulimit};
use super::user::ResolvedUser;

/// podman's default, a guard against fork bombs.
const DEFAULT_PIDS_LIMIT: i64 = 2048;

/// podman's default for `nofile`, as far as the host allows.
const DEFAULT_NOFILE: u64 = 1_048_576;

/// What the engine's host lets it hand on. Read once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    pub hostname: String,
    /// The engine's own bounding set.
    pub capabilities: BTreeSet<&'static str>,
    /// Hard limits by name (`nofile`); `None` for one: it may be raised.
    pub hard_limits: BTreeMap<&'static str, u64>,
    /// With CAP_SYS_RESOURCE hard limits can be raised.
    pub may_raise_limits: bool,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespacePlan {
    New,
    Join(PathBuf),
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePlans {
    pub net: NamespacePlan,
    pub ipc: NamespacePlan,
    pub uts: NamespacePlan,
    pub pid: NamespacePlan,
    pub cgroup: NamespacePlan,
}

/// Everything that shapes the spec besides the record and the image.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Where the root file system is mounted.
    pub rootfs: PathBuf,
    pub user: ResolvedUser,
    pub hostname: String,
    pub namespaces: NamespacePlans,
    pub shm: Shm,
    pub files: Vec<GeneratedFile>,
    pub mounts: Vec<ResolvedMount>,
    pub devices: Vec<LinuxDevice>,
    /// Rules for `devices`; privileged containers may use every device.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// Relative to the hierarchy's root.
    pub cgroup: PathBuf,
    pub seccomp: Option<LinuxSeccomp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error(transparent)]
    NoCommand(#[from] NoCommand),
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    // kubelet's words.
    #[error("container has runAsNonRoot and image will run as root")]
    RunsAsRoot,
    #[error("unknown ulimit {0:?}")]
    UnknownUlimit(String),
}

/// The runtime spec of `record`.
pub fn runtime_spec(
    record: &ContainerRecord,
    image: Option<&ImageConfig>,
    host: &HostFacts,
    resolved: Resolved,
) -> Result<Spec, SpecError> {
    let spec = &record.spec;
    let process = process(spec, image, host, &resolved)?;
    let mut root = Root::default();
    root.set_path(resolved.rootfs.clone());
    root.set_readonly(Some(spec.security.read_only_rootfs));

    let mut runtime = Spec::default();
    runtime.set_version("1.0.2".to_owned());
    runtime.set_root(Some(root));
    runtime.set_process(Some(process));
    runtime.set_mounts(Some(mounts(&spec.security, &resolved.shm, &resolved.files, &resolved.mounts)));
    // A name belongs to the namespace: one that is joined has its own.
    runtime
        .set_hostname((resolved.namespaces.uts == NamespacePlan::New).then_some(resolved.hostname.clone()));
    runtime.set_annotations(Some(spec.annotations.clone().into_iter().collect()));
    runtime.set_linux(Some(linux(spec, resolved)));
    Ok(runtime)
}

fn process(
    spec: &ContainerSpec,
    image: Option<&ImageConfig>,
    host: &HostFacts,
    resolved: &Resolved,
) -> Result<Process, SpecError> {
    if spec.security.run_as_non_root && resolved.user.uid == 0 {
        return Err(SpecError::RunsAsRoot);
    }
    let mut groups: BTreeSet<u32> = resolved.user.additional_gids.iter().copied().collect();
    groups.extend(&spec.supplemental_groups);
    let mut user = User::default();
    user.set_uid(resolved.user.uid);
    user.set_gid(resolved.user.gid);
    user.set_umask(Some(spec.umask.unwrap_or(0o022)));
    user.set_additional_gids(Some(groups.into_iter().collect()));

    let of_image = image.and_then(|image| image.working_dir().clone()).filter(|dir| !dir.is_empty());
    let directory = spec.working_dir.clone().filter(|dir| !dir.is_empty()).or(of_image);

    let mut process = Process::default();
    process.set_terminal(Some(spec.terminal));
    process.set_user(user);
    process.set_args(Some(arguments(spec, image)?));
    process.set_env(Some(environment(spec, image, &resolved.hostname, &resolved.user.home)));
    process.set_cwd(directory.map_or_else(|| PathBuf::from("/"), PathBuf::from));
    process.set_capabilities(Some(capabilities(&spec.security, resolved.user.uid, &host.capabilities)?));
    process.set_rlimits(Some(rlimits(&spec.ulimits, host)?));
    process.set_no_new_privileges(Some(spec.security.no_new_privileges));
    process.set_apparmor_profile(spec.security.apparmor_profile.clone());
    process.set_selinux_label(spec.security.selinux_label.clone());
    process.set_oom_score_adj(spec.oom_score_adj);
    Ok(process)
}

fn linux(spec: &ContainerSpec, resolved: Resolved) -> Linux {
    let open = spec.security.privileged || spec.security.unmasked;
    let paths = |paths: &[&str]| {
        let closed = if open { &[][..] } else { paths };
        closed.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()
    };
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(&resolved.namespaces)));
    linux.set_cgroups_path(Some(resolved.cgroup));
    linux.set_resources(Some(resources(&spec.resources, spec.security.privileged, resolved.device_rules)));
    linux.set_devices(Some(resolved.devices));
    linux.set_seccomp(resolved.seccomp);
    linux.set_masked_paths(Some(paths(MASKED_PATHS)));
    linux.set_readonly_paths(Some(paths(READ_ONLY_PATHS)));
    linux.set_sysctl(Some(sysctls(spec, &resolved.namespaces)));
    // A mount point that is shared with the host needs the root to let it through.
    let propagates = |name: &str| {
        resolved
            .mounts
            .iter()
            .any(|mount| mount.options.iter().any(|option| option.trim_start_matches('r') == name))
    };
    linux.set_rootfs_propagation(if propagates("shared") {
        Some("shared".to_owned())
    } else if propagates("slave") {
        Some("slave".to_owned())
    } else {
        None
    });
    linux
}

/// Hidden and frozen parts of `/proc` and `/sys`, podman's lists.
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
const READ_ONLY_PATHS: &[&str] =
    &["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn namespaces(plans: &NamespacePlans) -> Vec<LinuxNamespace> {
    let mount = NamespacePlan::New;
    [
        (LinuxNamespaceType::Mount, &mount),
        (LinuxNamespaceType::Pid, &plans.pid),
        (LinuxNamespaceType::Network, &plans.net),
        (LinuxNamespaceType::Ipc, &plans.ipc),
        (LinuxNamespaceType::Uts, &plans.uts),
        (LinuxNamespaceType::Cgroup, &plans.cgroup),
    ]
    .into_iter()
    .filter_map(|(kind, plan)| {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        let namespace = match plan {
            NamespacePlan::New => namespace,
            NamespacePlan::Join(path) => namespace.path(path.clone()),
            NamespacePlan::Host => return None,
        };
        Some(namespace.build().expect("a namespace has a type"))
    })
    .collect()
}

/// Those that belong to a namespace of the container's own; a pod's are set once, on its sandbox.
fn sysctls(spec: &ContainerSpec, plans: &NamespacePlans) -> HashMap<String, String> {
    let mut sysctls: HashMap<String, String> = spec.sysctls.clone().into_iter().collect();
    if plans.net == NamespacePlan::New {
        // podman's default: ping without a capability.
        sysctls.entry(PING_GROUP_RANGE.0.to_owned()).or_insert_with(|| PING_GROUP_RANGE.1.to_owned());
    }
    sysctls
}

pub const PING_GROUP_RANGE: (&str, &str) = ("net.ipv4.ping_group_range", "0 0");

/// Limits of a container or of a whole pod.
pub fn resources(
    wanted: &Resources,
    all_devices: bool,
    device_rules: Vec<LinuxDeviceCgroup>,
) -> LinuxResources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut memory = LinuxMemory::default();
    memory.set_limit(wanted.memory_limit_bytes.map(signed));
    memory.set_reservation(wanted.memory_reservation_bytes.map(signed));
    memory.set_swap(wanted.memory_swap_bytes);
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(wanted.cpu_quota_us);
    cpu.set_period(wanted.cpu_period_us);
    cpu.set_shares(wanted.cpu_shares);
    cpu.set_cpus(wanted.cpuset_cpus.clone());
    cpu.set_mems(wanted.cpuset_mems.clone());
    let mut pids = LinuxPids::default();
    pids.set_limit(wanted.pids_limit.unwrap_or(DEFAULT_PIDS_LIMIT));

    let mut resources = LinuxResources::default();
    resources.set_memory((memory != LinuxMemory::default()).then_some(memory));
    resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    resources.set_pids(Some(pids));
    resources.set_devices(Some(if all_devices {
        vec![device_rule(true, None, None, None, "rwm")]
    } else {
        let mut rules = vec![device_rule(false, None, None, None, "rwm")];
        rules.extend(default_device_rules());
        rules.extend(device_rules);
        rules
    }));
    resources
}

/// The devices every runtime makes (OCI runtime spec, "Default Devices"), and making nodes, which is harmless.
fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let mut rules =
        vec![device_rule(true, Some(C), None, None, "m"), device_rule(true, Some(B), None, None, "m")];
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(device_rule(true, Some(C), Some(major), minor, "rwm"));
    }
    rules
}

/// `None` means any.
pub fn device_rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    rule = rule.typ(kind.unwrap_or(LinuxDeviceType::A));
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build().expect("every field without a default is given")
}

/// The request's limits, cut to what the host allows: a container that asks for more than there is starts
/// with what there is.
fn rlimits(wanted: &[Ulimit], host: &HostFacts) -> Result<Vec<PosixRlimit>, SpecError> {
    let mut limits: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    limits.insert("nofile", (DEFAULT_NOFILE, DEFAULT_NOFILE));
    for ulimit in wanted {
        limits.insert(&ulimit.name, (ulimit.soft, ulimit.hard));
    }
    limits
        .into_iter()
        .map(|(name, (soft, hard))| {
            let kind = rlimit_type(name).ok_or_else(|| SpecError::UnknownUlimit(name.to_owned()))?;
            let ceiling = match host.hard_limits.get(name) {
                Some(ceiling) if !host.may_raise_limits => *ceiling,
                _ => u64::MAX,
            };
            let hard = hard.min(ceiling);
            Ok(PosixRlimitBuilder::default()
                .typ(kind)
                .soft(soft.min(hard))
                .hard(hard)
                .build()
                .expect("every field is given"))
        })
        .collect()
}

pub fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    use PosixRlimitType as T;
    Some(match name {
        "cpu" => T::RlimitCpu,
        "fsize" => T::RlimitFsize,
        "data" => T::RlimitData,
        "stack" => T::RlimitStack,
        "core" => T::RlimitCore,
        "rss" => T::RlimitRss,
        "nproc" => T::RlimitNproc,
        "nofile" => T::RlimitNofile,
        "memlock" => T::RlimitMemlock,
        "as" => T::RlimitAs,
        "locks" => T::RlimitLocks,
        "sigpending" => T::RlimitSigpending,
        "msgqueue" => T::RlimitMsgqueue,
        "nice" => T::RlimitNice,
        "rtprio" => T::RlimitRtprio,
        "rttime" => T::RlimitRttime,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "oci_spec_tests.rs"]
mod tests;
