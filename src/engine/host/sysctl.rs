//! Kernel parameters that belong to a namespace, and no others.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::namespace::NamespaceKind;
use super::{Result, Step as _};

/// The namespace a parameter is private to. `None`: it is the whole machine's, which no container may change.
///
/// The list is that of sysctl(8) parameters the kernel keeps per namespace, as runc checks it.
pub fn namespace_of(key: &str) -> Option<NamespaceKind> {
    let key = normalized(key);
    match key.as_str() {
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => Some(NamespaceKind::Ipc),
        "kernel/domainname" | "kernel/hostname" => Some(NamespaceKind::Uts),
        _ if key.split('/').any(|part| part.is_empty() || part == "." || part == "..") => None,
        _ if key.starts_with("fs/mqueue/") => Some(NamespaceKind::Ipc),
        _ if key.starts_with("net/") => Some(NamespaceKind::Net),
        _ => None,
    }
}

/// The parameter's path below `/proc/sys`. Both spellings are taken, as sysctl(8) does: `net.ipv4.conf.eth0/1.x`
/// means the interface `eth0.1`.
pub fn relative_path(key: &str) -> PathBuf {
    PathBuf::from(normalized(key))
}

/// Writes parameters of the caller's own namespaces through a procfs that the caller trusts.
pub fn apply(proc: &Path, sysctls: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in sysctls {
        OpenOptions::new()
            .write(true)
            .open(proc.join("sys").join(relative_path(key)))
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .step(|| format!("set sysctl {key}"))?;
    }
    Ok(())
}

/// Slash-separated, whichever of `.` and `/` came first being the separator.
fn normalized(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_parameters_have_a_namespace() {
        for (key, expect) in [
            ("net.ipv4.ip_forward", Some(NamespaceKind::Net)),
            ("net/ipv4/ip_forward", Some(NamespaceKind::Net)),
            ("kernel.shmmax", Some(NamespaceKind::Ipc)),
            ("fs.mqueue.msg_max", Some(NamespaceKind::Ipc)),
            ("kernel.hostname", Some(NamespaceKind::Uts)),
            ("kernel.core_pattern", None),
            ("vm.swappiness", None),
            ("net/../kernel/core_pattern", None),
            ("fs/mqueue/../../kernel/core_pattern", None),
            ("net//ipv4", None),
            ("fs.file-max", None),
        ] {
            assert_eq!(namespace_of(key), expect, "{key}");
        }
    }

    #[test]
    fn interface_names_may_contain_dots() {
        assert_eq!(
            relative_path("net.ipv4.conf.eth0/1.forwarding"),
            Path::new("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            relative_path("net/ipv4/conf/eth0.1/forwarding"),
            Path::new("net/ipv4/conf/eth0.1/forwarding")
        );
    }
}
