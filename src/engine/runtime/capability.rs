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
    let at = IN_KERNEL_ORDER.iter().position(|known| *known == capability);
    at.expect("every capability is in the table") as u32
}

pub const IN_KERNEL_ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(bit(Capability::Chown), 0);
        assert_eq!(bit(Capability::SysAdmin), 21);
        assert_eq!(bit(Capability::CheckpointRestore), 40);
    }

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
