//! What a cgroup has used so far, in one shape for both versions. A controller that is not there counts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Cgroup, Layout};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub cpu_user_nanos: u64,
    pub cpu_system_nanos: u64,
    /// By processor; only v1 knows.
    pub cpu_nanos_each: Vec<u64>,
    pub throttling: Throttling,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    /// `None`: unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Pages of files nobody has asked for lately: the first to go, so usually not counted as used.
    pub memory_inactive_file_bytes: u64,
    pub memory_fail_count: u64,
    /// `memory.stat` as it is.
    pub memory_stat: BTreeMap<String, u64>,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    pub devices: Vec<DeviceUsage>,
    pub is_unified: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanos: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceUsage {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Usage {
    /// Without what the kernel would give up first, as `podman stats` and `docker stats` show it.
    pub fn memory_in_use_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.memory_inactive_file_bytes)
    }

    pub fn read_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.read_bytes).sum()
    }

    pub fn write_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.write_bytes).sum()
    }
}

/// v1 says "unlimited" with the largest number of whole pages.
const LEGACY_UNLIMITED_BYTES: u64 = 1 << 62;

impl Cgroup {
    pub fn usage(&self) -> Usage {
        match &self.layout {
            Layout::Unified(root) => unified(&self.dir_in(root)),
            Layout::Legacy { .. } => self.legacy_usage(),
        }
    }

    fn legacy_usage(&self) -> Usage {
        let mut usage = Usage::default();
        let ticks_per_sec = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let tick_nanos =
            1_000_000_000 / ticks_per_sec.ok().flatten().map_or(100, |ticks| ticks.max(1) as u64);
        if let Some(dir) = self.controller_dir("cpuacct") {
            usage.cpu_nanos = number(&dir, "cpuacct.usage");
            let each = text(&dir, "cpuacct.usage_percpu");
            usage.cpu_nanos_each = each.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
            let times = table(&dir, "cpuacct.stat");
            usage.cpu_user_nanos = get(&times, "user") * tick_nanos;
            usage.cpu_system_nanos = get(&times, "system") * tick_nanos;
        }
        if let Some(dir) = self.controller_dir("cpu") {
            let stat = table(&dir, "cpu.stat");
            usage.throttling = Throttling {
                periods: get(&stat, "nr_periods"),
                throttled_periods: get(&stat, "nr_throttled"),
                throttled_nanos: get(&stat, "throttled_time"),
            };
        }
        if let Some(dir) = self.controller_dir("memory") {
            usage.memory_bytes = number(&dir, "memory.usage_in_bytes");
            usage.memory_peak_bytes = number(&dir, "memory.max_usage_in_bytes");
            usage.memory_fail_count = number(&dir, "memory.failcnt");
            usage.memory_limit_bytes = Some(number(&dir, "memory.limit_in_bytes"))
                .filter(|limit| *limit != 0 && *limit < LEGACY_UNLIMITED_BYTES);
            usage.memory_stat = table(&dir, "memory.stat");
            usage.memory_inactive_file_bytes = get(&usage.memory_stat, "total_inactive_file");
        }
        if let Some(dir) = self.controller_dir("pids") {
            usage.pids = number(&dir, "pids.current");
            usage.pids_limit = limit(&dir, "pids.max");
        }
        if let Some(dir) = self.controller_dir("blkio") {
            let mut devices = BTreeMap::new();
            legacy_io(&text(&dir, "blkio.throttle.io_service_bytes_recursive"), &mut devices, |device| {
                (&mut device.read_bytes, &mut device.write_bytes)
            });
            legacy_io(&text(&dir, "blkio.throttle.io_serviced_recursive"), &mut devices, |device| {
                (&mut device.reads, &mut device.writes)
            });
            usage.devices = devices.into_values().collect();
        }
        usage
    }
}

fn unified(dir: &Path) -> Usage {
    let cpu = table(dir, "cpu.stat");
    let memory_stat = table(dir, "memory.stat");
    Usage {
        cpu_nanos: get(&cpu, "usage_usec") * 1000,
        cpu_user_nanos: get(&cpu, "user_usec") * 1000,
        cpu_system_nanos: get(&cpu, "system_usec") * 1000,
        cpu_nanos_each: Vec::new(),
        throttling: Throttling {
            periods: get(&cpu, "nr_periods"),
            throttled_periods: get(&cpu, "nr_throttled"),
            throttled_nanos: get(&cpu, "throttled_usec") * 1000,
        },
        memory_bytes: number(dir, "memory.current"),
        memory_peak_bytes: number(dir, "memory.peak"),
        memory_limit_bytes: limit(dir, "memory.max"),
        memory_inactive_file_bytes: get(&memory_stat, "inactive_file"),
        memory_fail_count: get(&table(dir, "memory.events"), "max"),
        memory_stat,
        pids: number(dir, "pids.current"),
        pids_limit: limit(dir, "pids.max"),
        devices: text(dir, "io.stat").lines().filter_map(unified_device).collect(),
        is_unified: true,
    }
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn unified_device(line: &str) -> Option<DeviceUsage> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = device_number(words.next()?)?;
    let mut device = DeviceUsage { major, minor, ..DeviceUsage::default() };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match key {
            "rbytes" => device.read_bytes = value,
            "wbytes" => device.write_bytes = value,
            "rios" => device.reads = value,
            "wios" => device.writes = value,
            _ => {}
        }
    }
    Some(device)
}

/// `8:0 Read 4096`; other operations are the same bytes counted another way.
fn legacy_io(
    text: &str,
    devices: &mut BTreeMap<(u64, u64), DeviceUsage>,
    counters: impl Fn(&mut DeviceUsage) -> (&mut u64, &mut u64),
) {
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [number, operation, value] = words[..] else { continue };
        let (Some((major, minor)), Ok(value)) = (device_number(number), value.parse()) else { continue };
        let device =
            devices.entry((major, minor)).or_insert(DeviceUsage { major, minor, ..DeviceUsage::default() });
        let (read, written) = counters(device);
        match operation {
            "Read" => *read = value,
            "Write" => *written = value,
            _ => {}
        }
    }
}

fn device_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> u64 {
    text(dir, file).trim().parse().unwrap_or_default()
}

/// `max` is no number.
fn limit(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file).trim().parse().ok()
}

fn table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = text(dir, file);
    let rows = text.lines().filter_map(|line| line.split_once(' '));
    rows.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect()
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;

    fn files(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    const DISK: DeviceUsage =
        DeviceUsage { major: 8, minor: 0, read_bytes: 4096, write_bytes: 512, reads: 2, writes: 1 };

    #[test]
    fn both_versions_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        files(
            &root.join("v2/a"),
            &[
                (
                    "cpu.stat",
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 3\nthrottled_usec 7\n",
                ),
                ("memory.current", "1000\n"),
                ("memory.max", "max\n"),
                ("memory.stat", "anon 5\ninactive_file 400\n"),
                ("pids.current", "2\n"),
                ("pids.max", "10\n"),
                ("io.stat", "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n"),
            ],
        );
        let usage = Cgroup::new(Layout::Unified(root.join("v2")), Path::new("/a")).unwrap().usage();
        assert_eq!((usage.cpu_nanos, usage.cpu_user_nanos, usage.cpu_system_nanos), (30_000, 20_000, 10_000));
        assert_eq!((usage.throttling.throttled_periods, usage.throttling.throttled_nanos), (3, 7000));
        assert_eq!((usage.memory_in_use_bytes(), usage.memory_limit_bytes), (600, None));
        assert_eq!((usage.pids, usage.pids_limit, usage.devices.as_slice()), (2, Some(10), &[DISK][..]));

        files(
            &root.join("v1/a"),
            &[
                ("cpuacct.usage", "30000\n"),
                ("cpuacct.usage_percpu", "10000 20000 \n"),
                ("cpuacct.stat", "user 2\nsystem 1\n"),
                ("cpu.stat", "nr_periods 0\nnr_throttled 3\nthrottled_time 7000\n"),
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 400\n"),
                ("pids.current", "2\n"),
                ("pids.max", "max\n"),
                (
                    "blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Total 4608\nTotal 4608\n",
                ),
                ("blkio.throttle.io_serviced_recursive", "8:0 Read 2\n8:0 Write 1\nTotal 3\n"),
            ],
        );
        let controllers = ["cpu", "cpuacct", "memory", "pids", "blkio"].map(str::to_owned).to_vec();
        let hierarchies = vec![Hierarchy { mount_point: root.join("v1"), controllers }];
        let layout = Layout::Legacy { hierarchies, unified: None };
        let usage = Cgroup::new(layout, Path::new("/a")).unwrap().usage();
        assert_eq!((usage.cpu_nanos, usage.cpu_nanos_each.as_slice()), (30_000, &[10_000, 20_000][..]));
        assert_eq!(usage.cpu_user_nanos, 2 * usage.cpu_system_nanos);
        assert_eq!((usage.throttling.throttled_periods, usage.throttling.throttled_nanos), (3, 7000));
        assert_eq!((usage.memory_in_use_bytes(), usage.memory_limit_bytes), (600, None));
        assert_eq!((usage.pids, usage.pids_limit, usage.devices.as_slice()), (2, None, &[DISK][..]));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_used_nothing() {
        let layout = Layout::Unified("/does/not/exist".into());
        let usage = Cgroup::new(layout, Path::new("/a")).unwrap().usage();
        assert_eq!(usage, Usage { is_unified: true, ..Usage::default() });
    }
}
