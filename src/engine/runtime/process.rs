//! A process as it shall be, worked out by the launcher beforehand: what is left to the child is to do it.

use std::ffi::CString;

use nix::libc::sock_filter;
use nix::sys::resource::Resource;
use oci_spec::runtime::{PosixRlimitType, Process};

use super::capability::{self, CapabilityPlan};
use crate::engine::host::{HostError, Result, syscall};

/// podman's, for a process that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SYS_RESOURCE: u32 = 24;

#[derive(Debug)]
pub struct ProcessPlan {
    /// What is executed, as typed: searched for in `path` if it has no slash.
    pub command: String,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub path: String,
    /// The environment has no `HOME`: to be filled in from the container's `/etc/passwd`.
    pub wants_home: bool,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: CapabilityPlan,
    pub no_new_privileges: bool,
    pub seccomp: Option<Vec<sock_filter>>,
    /// Resource, soft, hard.
    pub rlimits: Vec<(Resource, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub io_priority: Option<i32>,
}

impl ProcessPlan {
    pub fn new(process: &Process, seccomp: Option<Vec<sock_filter>>) -> Result<Self> {
        let invalid = |what: &str| {
            HostError::new(format!("process: {what}"), std::io::Error::from(std::io::ErrorKind::InvalidInput))
        };
        let text = |text: &String| CString::new(text.as_str()).map_err(|_| invalid("a text contains NUL"));
        let args = process.args().as_deref().unwrap_or_default();
        let command = args.first().cloned().ok_or_else(|| invalid("no command"))?;
        let env = process.env().as_deref().unwrap_or_default();
        // The last of two settings of one variable wins, as it does for a shell.
        let variable = |name: &str| {
            env.iter()
                .rev()
                .find_map(|line| line.split_once('=').filter(|(key, _)| *key == name).map(|(_, v)| v))
        };
        let cwd = process.cwd().to_str().ok_or_else(|| invalid("working directory is not text"))?;
        if !cwd.starts_with('/') {
            return Err(invalid("working directory is not absolute"));
        }
        if process.scheduler().is_some() {
            return Err(invalid("scheduler settings are not supported"));
        }
        let ours = syscall::capabilities()
            .map_err(|error| HostError::new("read own capabilities", error))?
            .permitted;
        if let Some(spec) = process.capabilities() {
            let beyond = capability::beyond(spec, ours);
            if !beyond.is_empty() {
                tracing::warn!(
                    capabilities = beyond.join(","),
                    "not given: this process does not have them itself"
                );
            }
        }
        let may_raise = ours >> SYS_RESOURCE & 1 == 1;
        let user = process.user();
        Ok(Self {
            args: args.iter().map(text).collect::<Result<_>>()?,
            env: env.iter().map(text).collect::<Result<_>>()?,
            path: variable("PATH").unwrap_or(DEFAULT_PATH).to_owned(),
            wants_home: variable("HOME").is_none_or(str::is_empty),
            command,
            cwd: cwd.to_owned(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: CapabilityPlan::new(process.capabilities().as_ref(), ours),
            no_new_privileges: process.no_new_privileges() == Some(true),
            seccomp,
            rlimits: rlimits(process, may_raise)?,
            oom_score_adj: oom_score_adj(process.oom_score_adj(), may_raise),
            apparmor_profile: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
            selinux_label: process.selinux_label().clone().filter(|label| !label.is_empty()),
            io_priority: process.io_priority().as_ref().map(io_priority),
        })
    }
}

/// Limits as asked for, or as near as we are allowed to come: raising a hard limit takes CAP_SYS_RESOURCE.
fn rlimits(process: &Process, may_raise: bool) -> Result<Vec<(Resource, u64, u64)>> {
    let mut limits = Vec::new();
    for rlimit in process.rlimits().iter().flatten() {
        let resource = resource(rlimit.typ());
        let (_, hard) = nix::sys::resource::getrlimit(resource)
            .map_err(|error| HostError::new(format!("read limit {:?}", rlimit.typ()), error))?;
        let (soft, wanted) = clamp(rlimit.soft(), rlimit.hard(), hard, may_raise);
        if wanted != rlimit.hard() {
            tracing::warn!(limit = ?rlimit.typ(), asked = rlimit.hard(), given = wanted,
                "limit lowered to this process's own");
        }
        limits.push((resource, soft, wanted));
    }
    Ok(limits)
}

fn clamp(soft: u64, hard: u64, own_hard: u64, may_raise: bool) -> (u64, u64) {
    let hard = if may_raise { hard } else { hard.min(own_hard) };
    (soft.min(hard), hard)
}

/// Lowering one's own score takes CAP_SYS_RESOURCE.
fn oom_score_adj(wanted: Option<i32>, may_lower: bool) -> Option<i32> {
    let wanted = wanted?.clamp(-1000, 1000);
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    if wanted < own && !may_lower {
        tracing::warn!(asked = wanted, given = own, "OOM score adjustment left as it is");
        return None;
    }
    Some(wanted)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Class and level as ioprio_set(2) packs them.
fn io_priority(priority: &oci_spec::runtime::LinuxIOPriority) -> i32 {
    use oci_spec::runtime::IOPriorityClass;
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    class << 13 | (priority.priority().clamp(0, 7) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stay_within_what_may_be_set() {
        assert_eq!(clamp(100, 200, 50, false), (50, 50));
        assert_eq!(clamp(10, 200, 50, false), (10, 50));
        assert_eq!(clamp(100, 200, 50, true), (100, 200));
        assert_eq!(clamp(u64::MAX, u64::MAX, u64::MAX, false), (u64::MAX, u64::MAX));
    }

    #[test]
    fn a_process_without_command_or_with_a_relative_directory_is_refused() {
        let plan = |json: serde_json::Value| {
            let process: Process = serde_json::from_value(json).unwrap();
            ProcessPlan::new(&process, None)
        };
        let user = serde_json::json!({"uid": 0, "gid": 0});
        assert!(plan(serde_json::json!({"user": user, "cwd": "/", "args": []})).is_err());
        assert!(plan(serde_json::json!({"user": user, "cwd": "x", "args": ["true"]})).is_err());
        let env = ["PATH=/a", "PATH=/b", "HOME=/root"];
        let good = plan(serde_json::json!({"user": user, "cwd": "/", "args": ["true"], "env": env})).unwrap();
        assert_eq!(good.path, "/b");
        assert!(!good.wants_home);
    }
}
