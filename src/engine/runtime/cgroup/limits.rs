//! The spec's limits as the kernel's files, for both versions.
//!
//! A limit that cannot be set is an error: a container never runs with less confinement than was asked for.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::write;
use crate::engine::host::{HostError, Result};

/// What to write, in order: controller, file, value. `optional` files are absent on some kernels and only weigh.
struct Write {
    controller: &'static str,
    file: String,
    value: String,
    optional: bool,
}

pub(super) fn apply_legacy(
    dir: &dyn Fn(&str) -> Option<PathBuf>,
    resources: Option<&LinuxResources>,
) -> Result<()> {
    let Some(resources) = resources else { return Ok(()) };
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(unavailable("limits of cgroup v2", "unified"));
    }
    for limit in legacy(resources) {
        match dir(limit.controller) {
            Some(dir) => apply(&dir, &limit)?,
            None if limit.optional => {}
            None => return Err(unavailable(&limit.file, limit.controller)),
        }
    }
    Ok(())
}

pub(super) fn apply_unified(dir: &Path, resources: Option<&LinuxResources>) -> Result<()> {
    let Some(resources) = resources else { return Ok(()) };
    for limit in unified(resources) {
        apply(dir, &limit)?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') {
            return Err(unavailable(file, "unified"));
        }
        write(&dir.join(file), value)?;
    }
    Ok(())
}

fn apply(dir: &Path, limit: &Write) -> Result<()> {
    let path = dir.join(&limit.file);
    if limit.optional && !path.exists() {
        tracing::warn!(file = %path.display(), "this kernel does not have it; not limited");
        return Ok(());
    }
    write(&path, &limit.value)
}

fn unavailable(what: &str, controller: &str) -> HostError {
    HostError::new(
        format!("set {what}: cgroup controller {controller} is not available"),
        std::io::Error::from(std::io::ErrorKind::Unsupported),
    )
}

fn legacy(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut set = |controller, file: &str, value: String| {
        writes.push(Write { controller, file: file.to_owned(), value, optional: false });
    };
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            set("memory", "memory.limit_in_bytes", limit.to_string());
        }
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            set("memory", "memory.memsw.limit_in_bytes", swap.to_string());
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            set("memory", "memory.soft_limit_in_bytes", reservation.to_string());
        }
        if let Some(swappiness) = memory.swappiness() {
            set("memory", "memory.swappiness", swappiness.to_string());
        }
        if memory.disable_oom_killer() == Some(true) {
            set("memory", "memory.oom_control", "1".into());
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            set("cpu", "cpu.shares", shares.to_string());
        }
        if let Some(period) = cpu.period().filter(|period| *period != 0) {
            set("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            set("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        if let Some(burst) = cpu.burst() {
            set("cpu", "cpu.cfs_burst_us", burst.to_string());
        }
        if let Some(idle) = cpu.idle() {
            set("cpu", "cpu.idle", idle.to_string());
        }
        if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
            set("cpu", "cpu.rt_period_us", period.to_string());
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
            set("cpu", "cpu.rt_runtime_us", runtime.to_string());
        }
        cpuset(cpu.cpus().as_deref(), cpu.mems().as_deref(), &mut set);
    }
    if let Some(pids) = resources.pids() {
        set("pids", "pids.max", or_max(pids.limit()));
    }
    if let Some(io) = resources.block_io() {
        throttles(io.throttle_read_bps_device(), |line| set("blkio", "blkio.throttle.read_bps_device", line));
        throttles(io.throttle_write_bps_device(), |line| {
            set("blkio", "blkio.throttle.write_bps_device", line)
        });
        throttles(io.throttle_read_iops_device(), |line| {
            set("blkio", "blkio.throttle.read_iops_device", line)
        });
        throttles(io.throttle_write_iops_device(), |line| {
            set("blkio", "blkio.throttle.write_iops_device", line);
        });
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        set("hugetlb", &format!("hugetlb.{}.limit_in_bytes", huge.page_size()), huge.limit().to_string());
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            set("net_cls", "net_cls.classid", class.to_string());
        }
        for priority in network.priorities().iter().flatten() {
            set("net_prio", "net_prio.ifpriomap", format!("{} {}", priority.name(), priority.priority()));
        }
    }
    if let Some(weight) =
        resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0)
    {
        // The scheduler in use decides which of the two there is.
        for file in ["blkio.weight", "blkio.bfq.weight"] {
            let file = file.to_owned();
            writes.push(Write { controller: "blkio", file, value: weight.to_string(), optional: true });
        }
    }
    writes
}

fn unified(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut set = |controller, file: &str, value: String| {
        writes.push(Write { controller, file: file.to_owned(), value, optional: false });
    };
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            set("memory", "memory.max", or_max(limit));
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            set("memory", "memory.low", or_max(reservation));
        }
        if let Some(swap) = swap_alone(memory) {
            set("memory", "memory.swap.max", swap);
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            set("cpu", "cpu.weight", weight_of_shares(shares).to_string());
        }
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        if quota.is_some() || period.is_some() {
            let quota = quota.map_or_else(|| "max".into(), or_max);
            set("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
        }
        if let Some(burst) = cpu.burst() {
            set("cpu", "cpu.max.burst", burst.to_string());
        }
        if let Some(idle) = cpu.idle() {
            set("cpu", "cpu.idle", idle.to_string());
        }
        cpuset(cpu.cpus().as_deref(), cpu.mems().as_deref(), &mut set);
    }
    if let Some(pids) = resources.pids() {
        set("pids", "pids.max", or_max(pids.limit()));
    }
    if let Some(io) = resources.block_io() {
        let kinds = [
            (io.throttle_read_bps_device(), "rbps"),
            (io.throttle_write_bps_device(), "wbps"),
            (io.throttle_read_iops_device(), "riops"),
            (io.throttle_write_iops_device(), "wiops"),
        ];
        for (devices, key) in kinds {
            for device in devices.iter().flatten() {
                let line = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
                set("io", "io.max", line);
            }
        }
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        set("hugetlb", &format!("hugetlb.{}.max", huge.page_size()), or_max(huge.limit()));
    }
    if let Some(weight) =
        resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0)
    {
        let value = io_weight(weight).to_string();
        for (file, value) in [("io.weight", value), ("io.bfq.weight", weight.to_string())] {
            writes.push(Write { controller: "io", file: file.to_owned(), value, optional: true });
        }
    }
    writes
}

fn cpuset(cpus: Option<&str>, mems: Option<&str>, set: &mut dyn FnMut(&'static str, &str, String)) {
    if let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) {
        set("cpuset", "cpuset.cpus", cpus.to_owned());
    }
    if let Some(mems) = mems.filter(|mems| !mems.is_empty()) {
        set("cpuset", "cpuset.mems", mems.to_owned());
    }
}

fn throttles(devices: &Option<Vec<LinuxThrottleDevice>>, mut set: impl FnMut(String)) {
    for device in devices.iter().flatten() {
        set(format!("{}:{} {}", device.major(), device.minor(), device.rate()));
    }
}

/// Not positive means without limit.
fn or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".into() }
}

/// v1, and so the spec, limits memory and swap together; v2 limits swap alone.
fn swap_alone(memory: &LinuxMemory) -> Option<String> {
    match (memory.swap(), memory.limit()) {
        (None | Some(0), _) => None,
        (Some(swap), _) if swap < 0 => Some("max".into()),
        (Some(swap), Some(limit)) if limit > 0 => Some(swap.saturating_sub(limit).max(0).to_string()),
        (Some(_), _) => None,
    }
}

/// v1's 2 to 262,144 onto v2's 1 to 10,000, linearly, as runc and crun do.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// v1's 10 to 1,000 onto v2's 1 to 10,000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1_000)) - 10) * 9_999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(writes: Vec<Write>) -> Vec<String> {
        writes.into_iter().map(|w| format!("{} {}", w.file, w.value)).collect()
    }

    #[test]
    fn the_same_limits_in_both_dialects() {
        let resources: LinuxResources = serde_json::from_value(json!({
            "memory": {"limit": 1000, "swap": 1500, "reservation": 500},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "pids": {"limit": 64},
            "blockIO": {"weight": 500,
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}]},
        }))
        .unwrap();
        assert_eq!(
            lines(legacy(&resources)),
            [
                "memory.limit_in_bytes 1000",
                "memory.memsw.limit_in_bytes 1500",
                "memory.soft_limit_in_bytes 500",
                "cpu.shares 1024",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 50000",
                "cpuset.cpus 0-1",
                "pids.max 64",
                "blkio.throttle.read_bps_device 8:0 1048576",
                "blkio.weight 500",
                "blkio.bfq.weight 500",
            ]
        );
        assert_eq!(
            lines(unified(&resources)),
            [
                "memory.max 1000",
                "memory.low 500",
                "memory.swap.max 500",
                "cpu.weight 39",
                "cpu.max 50000 100000",
                "cpuset.cpus 0-1",
                "pids.max 64",
                "io.max 8:0 rbps=1048576",
                "io.weight 4950",
                "io.bfq.weight 500",
            ]
        );
    }

    #[test]
    fn unlimited_is_spelled_out() {
        let resources: LinuxResources =
            serde_json::from_value(json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}))
                .unwrap();
        assert_eq!(lines(unified(&resources)), ["memory.max max", "memory.swap.max max", "pids.max max"]);
        assert_eq!((weight_of_shares(2), weight_of_shares(262_144)), (1, 10_000));
        assert_eq!((io_weight(10), io_weight(1_000)), (1, 10_000));
    }
}
