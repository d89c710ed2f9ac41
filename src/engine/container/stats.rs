//! What a container uses: its cgroup's counters and those of its network interfaces. One reading; rates are the
//! difference of two, which is the caller's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::ContainerRecord;
use super::prepare::failed;
use super::spec::NetworkMode;
use crate::engine::Inner;
use crate::engine::error::Result;
use crate::engine::host::process::is_same;
use crate::engine::id::NameOrId;
use crate::engine::runtime::cgroup::usage::Usage;
use crate::engine::runtime::cgroup::{Cgroup, Layout};

#[derive(Debug, Clone)]
pub struct ContainerStats {
    pub container: Arc<ContainerRecord>,
    /// `None`: it does not run.
    pub reading: Option<Reading>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub read_at: Timestamp,
    pub started_at: Timestamp,
    pub usage: Usage,
    /// By name, but for the loopback. Empty on the host's network: that is not the container's.
    pub interfaces: BTreeMap<String, InterfaceCounters>,
    pub host: HostUsage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The machine's part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// Of all processors together, idle included.
    pub cpu_nanos: u64,
    pub processors: u32,
    pub memory_bytes: u64,
}

impl Reading {
    /// The smaller of the container's limit and what there is.
    pub fn memory_limit_bytes(&self) -> u64 {
        self.usage
            .memory_limit_bytes
            .map_or(self.host.memory_bytes, |limit| limit.min(self.host.memory_bytes))
    }
}

impl Inner {
    pub fn container_stats(&self, wanted: &NameOrId) -> Result<ContainerStats> {
        let container = self.containers.find(&self.names, wanted)?.record();
        let process = container.state.process().filter(|_| container.state.is_running());
        let Some(process) = process.copied() else { return Ok(ContainerStats { container, reading: None }) };
        let usage = self.cgroup_of(&container).map_err(failed(&container, "find its cgroup"))?.usage();
        let interfaces = match self.is_on_host_network(&container) {
            true => BTreeMap::new(),
            // A process's own view of the network, without entering its namespace.
            false => parse_interfaces(
                &fs::read_to_string(format!("/proc/{}/net/dev", process.pid)).unwrap_or_default(),
            ),
        };
        // What was read may be another's if it has ended meanwhile.
        let reading = is_same(process.pid, process.start_ticks).then(|| Reading {
            read_at: Timestamp::now(),
            started_at: process.started_at,
            usage,
            interfaces,
            host: observe_host_usage(),
        });
        Ok(ContainerStats { container, reading })
    }

    pub fn cgroup_of(&self, record: &ContainerRecord) -> crate::engine::host::Result<Cgroup> {
        Cgroup::new(Layout::detect()?, &self.cgroup(record))
    }

    fn is_on_host_network(&self, record: &ContainerRecord) -> bool {
        match &record.spec.network {
            NetworkMode::Host => true,
            NetworkMode::Pod => record
                .pod()
                .and_then(|pod| self.pods.by_id(pod))
                .is_some_and(|pod| pod.record().spec.network == NetworkMode::Host),
            NetworkMode::Container(id) => {
                self.containers.by_id(id).is_some_and(|other| self.is_on_host_network(&other.record()))
            }
            NetworkMode::Bridge(_) | NetworkMode::None | NetworkMode::Path(_) => false,
        }
    }
}

fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceCounters> {
    let rows = text.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let numbers: Vec<u64> = counters.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
        let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
        let counters = InterfaceCounters {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        Some((name.trim().to_owned(), counters))
    });
    rows.filter(|(name, _)| name != "lo").collect()
}

fn observe_host_usage() -> HostUsage {
    use nix::unistd::{SysconfVar, sysconf};
    let number = |variable| sysconf(variable).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let stat = fs::read_to_string(Path::new("/proc/stat")).unwrap_or_default();
    let ticks_per_sec = number(SysconfVar::CLK_TCK).max(1);
    HostUsage {
        cpu_nanos: host_cpu_ticks(&stat).saturating_mul(1_000_000_000 / ticks_per_sec),
        processors: u32::try_from(number(SysconfVar::_NPROCESSORS_ONLN)).unwrap_or(1),
        memory_bytes: number(SysconfVar::PAGE_SIZE) * number(SysconfVar::_PHYS_PAGES),
    }
}

/// user, nice, system, idle, iowait, irq, softirq and steal; what guests use is part of user.
fn host_cpu_ticks(stat: &str) -> u64 {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    all.split_ascii_whitespace().take(8).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_but_for_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    \
                    lo:  10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  \
                    eth0:1256 16 2 3 0 0 0 0 746 9 4 5 0 0 0 0\n";
        let interfaces = parse_interfaces(text);
        let expected = InterfaceCounters {
            rx_bytes: 1256,
            rx_packets: 16,
            rx_errors: 2,
            rx_dropped: 3,
            tx_bytes: 746,
            tx_packets: 9,
            tx_errors: 4,
            tx_dropped: 5,
        };
        assert_eq!(interfaces, BTreeMap::from([("eth0".to_owned(), expected)]));
    }

    #[test]
    fn guests_are_not_counted_twice() {
        assert_eq!(host_cpu_ticks("cpu  1 2 3 4 5 6 7 8 100 200\ncpu0 9 9 9\n"), 36);
    }
}
