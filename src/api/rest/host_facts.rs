//! What `info` tells about the machine, read when asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// `/proc/meminfo`, bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
}

pub struct Disk {
    pub allocated_bytes: u64,
    pub used_bytes: u64,
}

pub fn memory() -> Memory {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse_meminfo(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory {
        total_bytes: bytes("MemTotal"),
        free_bytes: bytes("MemFree"),
        swap_total_bytes: bytes("SwapTotal"),
        swap_free_bytes: bytes("SwapFree"),
    }
}

pub fn uptime_secs() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|secs| secs.parse().ok()).unwrap_or(0)
}

/// As podman prints it: `1h 2m 50.00s (Approximately 0.04 days)`.
pub fn uptime_text(secs: u64) -> String {
    let (hours, minutes, rest) = (secs / 3600, secs % 3600 / 60, secs % 60);
    let mut text = format!("{hours}h {minutes}m {rest}.00s");
    if hours > 0 {
        text.push_str(&format!(" (Approximately {:.2} days)", secs as f64 / 86_400.0));
    }
    text
}

pub fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}

/// `/etc/os-release`.
pub fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Shares of user, system and idle time since boot, per cent.
pub fn cpu_utilization() -> (f64, f64, f64) {
    parse_cpu_utilization(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn parse_cpu_utilization(stat: &str) -> (f64, f64, f64) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let total: f64 = ticks.iter().sum();
    let share = |index: usize| match ticks.get(index) {
        Some(part) if total > 0.0 => (part / total * 10_000.0).round() / 100.0,
        _ => 0.0,
    };
    (share(0), share(2), share(3))
}

/// `v2` when the unified hierarchy is the only one.
pub fn cgroup_version() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" }
}

pub fn cgroup_controllers() -> Vec<String> {
    if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return text.split_whitespace().map(str::to_owned).collect();
    }
    // `#subsys_name hierarchy num_cgroups enabled`
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let enabled = text.lines().filter(|line| !line.starts_with('#') && line.ends_with('1'));
    enabled.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

pub fn disk(path: &Path) -> Disk {
    statvfs(path).map_or(Disk { allocated_bytes: 0, used_bytes: 0 }, |stat| {
        let block = stat.fragment_size();
        Disk {
            allocated_bytes: stat.blocks() * block,
            used_bytes: stat.blocks().saturating_sub(stat.blocks_free()) * block,
        }
    })
}

/// Bytes of the files below `root`, links not followed; what cannot be read counts nothing.
pub fn tree_bytes(root: &Path) -> u64 {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) | Err(_) => 0,
    });
    sizes.sum()
}

pub fn ip_forwarding() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// The same on every call and on every boot of this machine.
pub fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

pub fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables_are_read() {
        let memory = parse_meminfo("MemTotal:       2 kB\nMemFree:  1 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
        assert_eq!((memory.total_bytes, memory.free_bytes), (2048, 1024));
        assert_eq!(parse_meminfo(""), Memory::default());
        assert_eq!(parse_cpu_utilization("cpu  50 0 25 25\n"), (50.0, 25.0, 25.0));
        assert_eq!(uptime_text(3770), "1h 2m 50.00s (Approximately 0.04 days)");
        assert_eq!(uptime_text(5), "0h 0m 5.00s");
    }
}
