//! Profile files: OCI's form, and docker's, which adds conditions on capabilities, architecture and kernel.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscallBuilder,
};
use serde::Deserialize;

/// Both forms at once: what docker's adds is optional.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(default)]
    syscalls: Option<Vec<Syscall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscall {
    /// The old form has one name per entry.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

/// `null` counts as absent, as it does in Go.
#[derive(Deserialize)]
#[serde(transparent)]
struct Argument(LinuxSeccompArg);

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// The profile as it applies to a container with these capabilities, on this machine.
pub(super) fn parse(json: &[u8], capabilities: &[Capability]) -> Result<LinuxSeccomp, serde_json::Error> {
    let profile: Profile = serde_json::from_slice(json)?;
    let has = |name: &String| capabilities.iter().any(|capability| format!("CAP_{capability}") == *name);
    let kernel = nix::sys::utsname::uname()
        .ok()
        .and_then(|name| parse_kernel(&name.release().to_string_lossy()))
        .unwrap_or((0, 0));
    let mut syscalls = Vec::new();
    for syscall in profile.syscalls.into_iter().flatten() {
        let (includes, excludes) = (&syscall.includes, &syscall.excludes);
        let newer = |wanted: &Option<String>| {
            wanted.as_deref().and_then(parse_kernel).is_some_and(|wanted| kernel >= wanted)
        };
        // As docker and podman read them: every listed capability must be there to include, any excludes.
        let applies = includes.caps.iter().flatten().all(has)
            && !excludes.caps.iter().flatten().any(has)
            && includes.arches.as_ref().is_none_or(|list| list.is_empty() || is_ours(list))
            && !excludes.arches.as_ref().is_some_and(|list| is_ours(list))
            && (includes.min_kernel.is_none() || newer(&includes.min_kernel))
            && !newer(&excludes.min_kernel);
        let names: Vec<String> = syscall.name.into_iter().chain(syscall.names).collect();
        if !applies || names.is_empty() {
            continue;
        }
        let mut built = LinuxSyscallBuilder::default().names(names).action(syscall.action);
        if let Some(errno) = syscall.errno_ret {
            built = built.errno_ret(errno);
        }
        let args: Vec<LinuxSeccompArg> =
            syscall.args.into_iter().flatten().map(|Argument(arg)| arg).collect();
        if !args.is_empty() {
            built = built.args(args);
        }
        syscalls.push(built.build().map_err(serde::de::Error::custom)?);
    }
    let mut architectures = profile.architectures;
    for map in profile.arch_map.into_iter().filter(|map| map.architecture == native()) {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures.into_iter().flatten());
    }
    let mut seccomp =
        LinuxSeccompBuilder::default().default_action(profile.default_action).syscalls(syscalls);
    if let Some(errno) = profile.default_errno_ret {
        seccomp = seccomp.default_errno_ret(errno);
    }
    if !architectures.is_empty() {
        seccomp = seccomp.architectures(architectures);
    }
    if !profile.flags.is_empty() {
        seccomp = seccomp.flags(profile.flags);
    }
    seccomp.build().map_err(serde::de::Error::custom)
}

fn native() -> Arch {
    match cfg!(target_arch = "x86_64") {
        true => Arch::ScmpArchX86_64,
        false => Arch::ScmpArchAarch64,
    }
}

/// docker names architectures as Go does.
fn is_ours(arches: &[String]) -> bool {
    let ours = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    arches.iter().any(|arch| arch == ours)
}

/// Major and minor of `5.10.0-23-amd64` or `4.8`.
fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_choose_the_rules() {
        let json = br#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
                {"name": "bpf", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["vm86"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
                {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 4294967295, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}
            ]}"#;
        let names = |capabilities: &[Capability]| -> Vec<String> {
            let seccomp = parse(json, capabilities).unwrap();
            assert_eq!(seccomp.architectures().as_ref().unwrap()[0], native());
            let rules = seccomp.syscalls().clone().unwrap();
            rules.iter().map(|rule| format!("{} {:?}", rule.names().join(","), rule.action())).collect()
        };
        let plain = names(&[]);
        assert_eq!(
            plain,
            ["read,write ScmpActAllow", "bpf ScmpActErrno", "ptrace ScmpActAllow", "mount ScmpActAllow"]
        );
        assert_eq!(names(&[Capability::SysAdmin])[1], "bpf ScmpActAllow");
    }
}
