//! Which capabilities a container gets. Pure.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use thiserror::Error;

use super::spec::SecurityOptions;

/// By number, as in `linux/capability.h`.
const BY_NUMBER: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// podman's default set since version 4: docker's without AUDIT_WRITE, MKNOD and NET_RAW.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    #[error("unknown capability {0:?}")]
    Unknown(String),
    #[error("capability {0} is both added and dropped")]
    Contradiction(&'static str),
    #[error("capability {0} was asked for, and this host does not let the engine give it")]
    NotHeld(&'static str),
}

type Names = BTreeSet<&'static str>;

/// The names of the bits set in a mask, as in `CapBnd` of `/proc/self/status`.
pub fn names_of_mask(mask: u64) -> Names {
    BY_NUMBER.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

/// The sets a process of user `uid` starts with. `host` is what the engine itself may hand on.
pub fn capabilities(
    security: &SecurityOptions,
    uid: u32,
    host: &Names,
) -> Result<LinuxCapabilities, CapabilityError> {
    let bounding = bounding_set(security, host)?;
    // podman: root gets all of it; another user only what was added by name, and that for good
    // (ambient, so that it survives execve).
    let user: Names = if uid == 0 {
        bounding.clone()
    } else {
        parse(&security.capabilities_add)?.named.intersection(&bounding).copied().collect()
    };
    let ambient = if uid == 0 { Names::new() } else { user.clone() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(typed(&bounding)));
    sets.set_effective(Some(typed(&user)));
    sets.set_permitted(Some(typed(&user)));
    // CVE-2022-27649: root's inheritable set stays empty.
    sets.set_inheritable(Some(typed(&ambient)));
    sets.set_ambient(Some(typed(&ambient)));
    Ok(sets)
}

/// Whether every name in the request means something.
pub fn check(security: &SecurityOptions) -> Result<(), CapabilityError> {
    let add = parse(&security.capabilities_add)?;
    let drop = parse(&security.capabilities_drop)?;
    match add.named.intersection(&drop.named).next() {
        Some(name) => Err(CapabilityError::Contradiction(name)),
        None => Ok(()),
    }
}

fn bounding_set(security: &SecurityOptions, host: &Names) -> Result<Names, CapabilityError> {
    check(security)?;
    let add = parse(&security.capabilities_add)?;
    let drop = parse(&security.capabilities_drop)?;
    if security.privileged {
        return Ok(host.difference(&drop.named).copied().collect());
    }
    // `drop ALL` empties the defaults, then the additions count; `add ALL` starts from everything.
    let mut set = match (add.all, drop.all) {
        (true, false) => host.clone(),
        (_, true) => Names::new(),
        (false, false) => DEFAULT.iter().copied().filter(|name| host.contains(name)).collect(),
    };
    for name in &add.named {
        if !host.contains(name) {
            return Err(CapabilityError::NotHeld(name));
        }
        set.insert(name);
    }
    set.retain(|name| !drop.named.contains(name));
    Ok(set)
}

struct Parsed {
    all: bool,
    named: Names,
}

/// `CAP_NET_ADMIN`, `NET_ADMIN`, `net_admin`, `ALL`.
fn parse(names: &[String]) -> Result<Parsed, CapabilityError> {
    let mut parsed = Parsed { all: false, named: Names::new() };
    for text in names {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            parsed.all = true;
            continue;
        }
        match BY_NUMBER.iter().find(|known| **known == name) {
            Some(known) => parsed.named.insert(known),
            None => return Err(CapabilityError::Unknown(text.clone())),
        };
    }
    Ok(parsed)
}

fn typed(names: &Names) -> Capabilities {
    names
        .iter()
        .map(|name| Capability::from_str(name).expect("the table names every capability as oci-spec does"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(add: &[&str], drop: &[&str]) -> SecurityOptions {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        SecurityOptions {
            capabilities_add: owned(add),
            capabilities_drop: owned(drop),
            ..SecurityOptions::default()
        }
    }

    fn all() -> Names {
        names_of_mask(u64::MAX)
    }

    fn set(security: &SecurityOptions) -> Vec<&'static str> {
        bounding_set(security, &all()).unwrap().into_iter().collect()
    }

    #[test]
    fn the_table_is_complete_and_known_to_oci_spec() {
        assert_eq!(typed(&all()).len(), 41);
        assert_eq!(names_of_mask(0b10_0001), BTreeSet::from(["CHOWN", "KILL"]));
        assert_eq!(names_of_mask(1 << 40), BTreeSet::from(["CHECKPOINT_RESTORE"]));
    }

    #[test]
    fn additions_and_removals() {
        assert_eq!(set(&security(&[], &[])), DEFAULT);
        assert_eq!(set(&security(&["CAP_NET_ADMIN"], &["ALL"])), ["NET_ADMIN"]);
        assert_eq!(set(&security(&[], &["all"])), [""; 0]);
        assert_eq!(set(&security(&["ALL"], &[])).len(), 41);
        assert_eq!(set(&security(&["ALL"], &["sys_admin"])).len(), 40);
        assert_eq!(set(&security(&["ALL"], &["ALL"])), [""; 0]);
        assert_eq!(set(&security(&["net_raw"], &["CHOWN"])).len(), DEFAULT.len());
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |add: &[&str], drop: &[&str]| check(&security(add, drop)).unwrap_err();
        assert_eq!(refused(&["CAP_FLY"], &[]), CapabilityError::Unknown("CAP_FLY".into()));
        assert_eq!(refused(&[], &[""]), CapabilityError::Unknown(String::new()));
        assert_eq!(refused(&["KILL"], &["CAP_KILL"]), CapabilityError::Contradiction("KILL"));
    }

    #[test]
    fn nothing_is_given_that_the_host_withholds() {
        let mut host = all();
        host.remove("SYS_RESOURCE");
        host.remove("CHOWN");
        let privileged = SecurityOptions { privileged: true, ..SecurityOptions::default() };
        assert_eq!(bounding_set(&privileged, &host).unwrap().len(), 39);
        assert!(!bounding_set(&security(&[], &[]), &host).unwrap().contains("CHOWN"));
        assert_eq!(
            bounding_set(&security(&["SYS_RESOURCE"], &[]), &host),
            Err(CapabilityError::NotHeld("SYS_RESOURCE"))
        );
    }

    #[test]
    fn other_users_hold_only_what_was_added_by_name() {
        let sets = capabilities(&security(&["NET_ADMIN"], &[]), 1000, &all()).unwrap();
        let only = Some(Capabilities::from([Capability::NetAdmin]));
        assert_eq!(sets.effective(), &only);
        assert_eq!(sets.ambient(), &only);
        assert_eq!(sets.bounding().as_ref().unwrap().len(), DEFAULT.len() + 1);
        let root = capabilities(&security(&["NET_ADMIN"], &[]), 0, &all()).unwrap();
        assert_eq!(root.effective(), root.bounding());
        assert_eq!(root.inheritable(), &Some(Capabilities::new()));
        assert_eq!(root.ambient(), &Some(Capabilities::new()));
    }
}
