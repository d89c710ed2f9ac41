//! Seccomp filters: our default profile, OCI and docker profiles, compiled once and kept.
//!
//! The daemon compiles (this takes no part in a launch) and names the compiled file in the `CreateRequest`; the
//! launcher only loads it. External runtimes get the profile itself.

mod bpf;
mod default;
mod profile;
mod syscalls;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::libc;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub(super) use bpf::from_bytes;
use bpf::{Condition, Filter, Rule, Test, Verdict};

/// Changes whenever the same profile would compile to something else: kept filters of older versions are not used.
const COMPILER_VERSION: &str = "1";

/// Which calls a container may make.
#[derive(Debug, Clone, PartialEq)]
pub enum SeccompSource {
    /// Ours, which depends on the container's capabilities.
    Default,
    /// A profile file as docker, podman and kubelet take it: either OCI's form or docker's with its conditions.
    File(PathBuf),
    /// A runtime spec's.
    Oci(Box<LinuxSeccomp>),
}

#[derive(Debug, Error)]
pub enum SeccompError {
    #[error("read seccomp profile {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("parse seccomp profile {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("seccomp profile: {0}")]
    Unsupported(String),
    #[error("keep compiled seccomp filter {path}")]
    Keep {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The compiled filter's file in `cache_dir`, compiled now if it is not there yet.
pub fn compiled(
    source: &SeccompSource,
    capabilities: &[Capability],
    cache_dir: &Path,
) -> Result<PathBuf, SeccompError> {
    let mut hash = Sha256::new();
    hash.update(COMPILER_VERSION);
    hash.update(std::env::consts::ARCH);
    let seccomp = match source {
        SeccompSource::Default => {
            // The capabilities are all the default depends on: no need to build it to know its name.
            let names: Vec<String> = default::BY_CAPABILITY
                .iter()
                .map(|(capability, _)| *capability)
                .chain([Capability::AuditWrite])
                .filter(|capability| capabilities.contains(capability))
                .map(|capability| capability.to_string())
                .collect();
            hash.update("default");
            hash.update(names.join(","));
            None
        }
        SeccompSource::File(_) | SeccompSource::Oci(_) => {
            let seccomp = linux_seccomp(source, capabilities)?;
            hash.update("profile");
            hash.update(serde_json::to_vec(&seccomp).unwrap_or_default());
            Some(seccomp)
        }
    };
    let path = cache_dir.join(format!("{}.bpf", hex(&hash.finalize())));
    if path.exists() {
        return Ok(path);
    }
    let seccomp = seccomp.unwrap_or_else(|| default_linux_seccomp(capabilities));
    let program = filter(&seccomp)?.compile();
    if program.len() > 4096 {
        return Err(SeccompError::Unsupported(format!(
            "{} instructions, the kernel takes 4096",
            program.len()
        )));
    }
    keep(&path, &bpf::to_bytes(&program))
        .map_err(|source| SeccompError::Keep { path: path.clone(), source })?;
    Ok(path)
}

/// The profile as a runtime spec says it, for external runtimes.
pub fn linux_seccomp(
    source: &SeccompSource,
    capabilities: &[Capability],
) -> Result<LinuxSeccomp, SeccompError> {
    match source {
        SeccompSource::Default => Ok(default_linux_seccomp(capabilities)),
        SeccompSource::Oci(seccomp) => Ok((**seccomp).clone()),
        SeccompSource::File(path) => {
            let json = fs::read(path).map_err(|source| SeccompError::Read { path: path.clone(), source })?;
            profile::parse(&json, capabilities)
                .map_err(|source| SeccompError::Parse { path: path.clone(), source })
        }
    }
}

/// Our default profile for a container with these capabilities.
pub fn default_linux_seccomp(capabilities: &[Capability]) -> LinuxSeccomp {
    let mut syscalls = vec![
        rule(default::ALLOWED, LinuxSeccompAction::ScmpActAllow, None, vec![]),
        rule(default::REFUSED, LinuxSeccompAction::ScmpActErrno, Some(libc::EPERM), vec![]),
        match cfg!(target_arch = "x86_64") {
            true => rule(default::ALLOWED_X86, LinuxSeccompAction::ScmpActAllow, None, vec![]),
            false => rule(default::ALLOWED_ARM, LinuxSeccompAction::ScmpActAllow, None, vec![]),
        },
    ];
    for (capability, names) in default::BY_CAPABILITY {
        syscalls.push(match capabilities.contains(capability) {
            true => rule(names, LinuxSeccompAction::ScmpActAllow, None, vec![]),
            false => rule(names, LinuxSeccompAction::ScmpActErrno, Some(libc::EPERM), vec![]),
        });
    }
    for personality in default::PERSONALITIES {
        let same = argument(0, LinuxSeccompOperator::ScmpCmpEq, personality);
        syscalls.push(rule("personality", LinuxSeccompAction::ScmpActAllow, None, vec![same]));
    }
    if capabilities.contains(&Capability::AuditWrite) {
        syscalls.push(rule("socket", LinuxSeccompAction::ScmpActAllow, None, vec![]));
    } else {
        let (family, protocol) = (default::AF_NETLINK, default::NETLINK_AUDIT);
        let equal = LinuxSeccompOperator::ScmpCmpEq;
        let other = LinuxSeccompOperator::ScmpCmpNe;
        let audit = vec![argument(0, equal, family), argument(2, equal, protocol)];
        syscalls.push(rule("socket", LinuxSeccompAction::ScmpActErrno, Some(libc::EINVAL), audit));
        for argument in [argument(0, other, family), argument(2, other, protocol)] {
            syscalls.push(rule("socket", LinuxSeccompAction::ScmpActAllow, None, vec![argument]));
        }
    }
    let architectures = match cfg!(target_arch = "x86_64") {
        true => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        false => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::ENOSYS as u32)
        .architectures(architectures)
        .syscalls(syscalls)
        .build()
        .expect("every required field is set")
}

fn rule(
    names: &str,
    action: LinuxSeccompAction,
    errno: Option<i32>,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.split_ascii_whitespace().map(str::to_owned).collect();
    let mut syscall = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        syscall = syscall.errno_ret(errno as u32);
    }
    if !arguments.is_empty() {
        syscall = syscall.args(arguments);
    }
    syscall.build().expect("every required field is set")
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .op(op)
        .build()
        .expect("every required field is set")
}

/// What the profile means on this machine. Names that this architecture does not have are left out, as every
/// runtime does: profiles list the names of all architectures.
fn filter(seccomp: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let default = verdict(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for syscall in seccomp.syscalls().iter().flatten() {
        let verdict = verdict(syscall.action(), syscall.errno_ret())?;
        let conditions: Vec<Condition> =
            syscall.args().iter().flatten().map(condition).collect::<Result<_, _>>()?;
        for number in syscall.names().iter().filter_map(|name| syscalls::number(name)) {
            let rules = calls.entry(number).or_default();
            let repeated = (1..conditions.len())
                .any(|at| conditions[..at].iter().any(|other| other.argument == conditions[at].argument));
            if repeated {
                // runc's reading of several conditions on one argument: any of them is enough.
                rules.extend(conditions.iter().map(|one| Rule { conditions: vec![*one], verdict }));
            } else {
                rules.push(Rule { conditions: conditions.clone(), verdict });
            }
        }
    }
    for rules in calls.values_mut() {
        // An unconditional rule is the answer when no condition holds, wherever the profile has it.
        rules.sort_by_key(|rule| rule.conditions.is_empty());
    }
    let refuses = default.0 & !libc::SECCOMP_RET_DATA != libc::SECCOMP_RET_ALLOW
        && default.0 & !libc::SECCOMP_RET_DATA != libc::SECCOMP_RET_LOG;
    // As runc: a profile that refuses with EPERM would break programs that try a newer call first.
    let unknown = if refuses { Verdict::errno(libc::ENOSYS) } else { default };
    Ok(Filter { default, unknown, calls })
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict, SeccompError> {
    let data = |default: i32| errno.unwrap_or(default as u32) & libc::SECCOMP_RET_DATA;
    Ok(Verdict(match action {
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data(libc::EPERM),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | data(libc::EPERM),
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(SeccompError::Unsupported(
                "SCMP_ACT_NOTIFY needs an agent, and there is none".into(),
            ));
        }
    }))
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let index = u8::try_from(argument.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
        SeccompError::Unsupported(format!("argument {}, a system call has six", argument.index()))
    })?;
    let value = argument.value();
    let test = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Test::MaskedEqual { mask: value, value: argument.value_two().unwrap_or(0) }
        }
    };
    Ok(Condition { argument: index, test })
}

/// Written aside and renamed: a crash leaves no half filter under a name that is trusted.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let aside = path.with_extension(format!("{}.{}", std::process::id(), next_serial()));
    let written = fs::File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn next_serial() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seccomp: &LinuxSeccomp, call: &str, arguments: &[u64]) -> u32 {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        let program = filter(seccomp).unwrap().compile();
        bpf::tests::native(&program, syscalls::number(call).unwrap(), six)
    }

    fn allow() -> u32 {
        libc::SECCOMP_RET_ALLOW
    }

    fn errno(errno: i32) -> u32 {
        Verdict::errno(errno).0
    }

    #[test]
    fn default_profile_answers_as_podmans() {
        let plain = default_linux_seccomp(&[]);
        let cases: &[(&str, &[u64], u32)] = &[
            ("read", &[], allow()),
            ("clone3", &[], allow()),
            ("kexec_load", &[], errno(libc::EPERM)),
            ("bpf", &[], errno(libc::EPERM)),
            ("init_module", &[], errno(libc::EPERM)),
            ("open_by_handle_at", &[], errno(libc::EPERM)),
            ("chroot", &[], errno(libc::EPERM)),
            ("add_key", &[], errno(libc::ENOSYS)),
            ("io_uring_setup", &[], errno(libc::ENOSYS)),
            ("personality", &[0], allow()),
            ("personality", &[0xffff_ffff], allow()),
            ("personality", &[1], errno(libc::ENOSYS)),
            ("socket", &[16, 3, 9], errno(libc::EINVAL)),
            ("socket", &[16, 3, 0], allow()),
            ("socket", &[2, 1, 9], allow()),
            ("socket", &[2, 1, 0], allow()),
        ];
        for (call, arguments, expect) in cases {
            assert_eq!(answer(&plain, call, arguments), *expect, "{call} {arguments:?}");
        }
        let powerful =
            default_linux_seccomp(&[Capability::SysAdmin, Capability::AuditWrite, Capability::SysChroot]);
        for call in ["bpf", "chroot", "socket"] {
            assert_eq!(answer(&powerful, call, &[16, 3, 9]), allow(), "{call}");
        }
        assert_eq!(answer(&powerful, "init_module", &[]), errno(libc::EPERM));
        assert!(filter(&plain).unwrap().compile().len() < 400);
    }

    #[test]
    fn newer_calls_than_the_profile_knows_are_not_there_rather_than_forbidden() {
        let json = br#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let seccomp = profile::parse(json, &[]).unwrap();
        let program = filter(&seccomp).unwrap().compile();
        let read = syscalls::number("read").unwrap();
        assert_eq!(bpf::tests::native(&program, read, [0; 6]), allow());
        assert_eq!(bpf::tests::native(&program, 9999, [0; 6]), errno(libc::ENOSYS));
        if read > 0 {
            assert_eq!(bpf::tests::native(&program, read - 1, [0; 6]), errno(libc::EPERM));
        }
    }

    #[test]
    fn compiled_filters_are_kept_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = compiled(&SeccompSource::Default, &[], dir.path()).unwrap();
        let second = compiled(&SeccompSource::Default, &[Capability::SysAdmin], dir.path()).unwrap();
        let unrelated = compiled(&SeccompSource::Default, &[Capability::Chown], dir.path()).unwrap();
        assert_ne!(first, second);
        assert_eq!(first, unrelated, "only capabilities the profile asks about make a difference");
        let written = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(compiled(&SeccompSource::Default, &[], dir.path()).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(from_bytes(&fs::read(first).unwrap()).is_some());
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = SeccompSource::File(dir.path().join("missing.json"));
        assert!(matches!(compiled(&missing, &[], dir.path()), Err(SeccompError::Read { .. })));
        fs::write(dir.path().join("bad.json"), "{").unwrap();
        let bad = SeccompSource::File(dir.path().join("bad.json"));
        assert!(matches!(compiled(&bad, &[], dir.path()), Err(SeccompError::Parse { .. })));
        let notify = rule("read", LinuxSeccompAction::ScmpActNotify, None, vec![]);
        let mut seccomp = default_linux_seccomp(&[]);
        seccomp.set_syscalls(Some(vec![notify]));
        let notify = SeccompSource::Oci(Box::new(seccomp));
        assert!(matches!(compiled(&notify, &[], dir.path()), Err(SeccompError::Unsupported(_))));
    }
}
