//! Capability names as the kernel's bits.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::engine::host::syscall::CapabilitySets;

/// A process's five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    pub bounding: u64,
    pub sets: CapabilitySets,
    pub ambient: u64,
}

impl CapabilityPlan {
    /// What the spec asks for, as far as we have it ourselves (`ours`: our permitted set) to give: the kernel
    /// refuses the rest, and a container with less is safe.
    pub fn new(spec: Option<&LinuxCapabilities>, ours: u64) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let limited = |set: &Option<Capabilities>| bits(set) & ours;
        let permitted = limited(spec.permitted());
        let inheritable = limited(spec.inheritable());
        Self {
            bounding: limited(spec.bounding()),
            sets: CapabilitySets {
                // The kernel wants each of the others to lie within permitted.
                effective: limited(spec.effective()) & permitted,
                permitted,
                inheritable,
            },
            ambient: limited(spec.ambient()) & permitted & inheritable,
        }
    }
}

/// What the spec asks for beyond `ours`, for a warning.
pub fn beyond(spec: &LinuxCapabilities, ours: u64) -> Vec<String> {
    let mut names: Vec<String> = [spec.permitted(), spec.bounding()]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|capability| 1 << bit(**capability) & ours == 0)
        .map(|capability| format!("CAP_{capability}"))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().fold(0, |bits, capability| bits | 1 << bit(*capability))
}

/// The number in the kernel's `capability.h`.
pub fn bit(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_stay_within_what_we_have_and_within_each_other() {
        let spec: LinuxCapabilities = serde_json::from_value(serde_json::json!({
            "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"],
            "permitted": ["CAP_CHOWN"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": [],
            "ambient": ["CAP_CHOWN"],
        }))
        .unwrap();
        let ours = !(1 << 24);
        let plan = CapabilityPlan::new(Some(&spec), ours);
        assert_eq!(plan.bounding, 1);
        assert_eq!(plan.sets, CapabilitySets { effective: 1, permitted: 1, inheritable: 0 });
        assert_eq!(plan.ambient, 0);
        assert_eq!(beyond(&spec, ours), ["CAP_SYS_RESOURCE"]);
        assert_eq!(CapabilityPlan::new(None, ours), CapabilityPlan::default());
    }
}
