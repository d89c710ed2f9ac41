//! One container's use of the machine in docker's shape, which podman's own clients of one container share.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use serde::Serialize;

use crate::api::rest::extract::{Path, Query};
use crate::api::rest::libpod::stats::is_same_run;
use crate::api::rest::{Context, Outcome, json, reply, stream, time};
use crate::engine::Engine;
use crate::engine::container::stats::{ContainerStats, InterfaceCounters, Reading};
use crate::engine::id::NameOrId;
use crate::engine::runtime::cgroup::usage::{DeviceUsage, Usage};

/// Docker's clients show rates and count on one reading each second.
const PERIOD: Duration = Duration::from_secs(1);

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Serialize)]
pub struct StatsJson<'a> {
    read: String,
    preread: String,
    pids_stats: Pids,
    blkio_stats: BlockIo,
    num_procs: u32,
    storage_stats: Empty,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    name: String,
    #[serde(rename = "Id")]
    id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<&'a str, Network>,
}

#[derive(Default, Serialize)]
struct Empty {}

#[derive(Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Default, Serialize)]
struct BlockIo {
    io_service_bytes_recursive: Vec<BlockIoEntry>,
    io_serviced_recursive: Option<Vec<BlockIoEntry>>,
    io_queue_recursive: Option<()>,
    io_service_time_recursive: Option<()>,
    io_wait_time_recursive: Option<()>,
    io_merged_recursive: Option<()>,
    io_time_recursive: Option<()>,
    sectors_recursive: Option<()>,
}

#[derive(Serialize)]
struct BlockIoEntry {
    major: u64,
    minor: u64,
    op: &'static str,
    value: u64,
}

#[derive(Default, Serialize)]
struct Cpu {
    cpu_usage: CpuUsage,
    #[serde(skip_serializing_if = "is_zero")]
    system_cpu_usage: u64,
    #[serde(skip_serializing_if = "is_zero_u32")]
    online_cpus: u32,
    cpu: f64,
    throttling_data: Throttling,
}

#[derive(Default, Serialize)]
struct CpuUsage {
    total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_usage: Vec<u64>,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Default, Serialize)]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

#[derive(Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_usage: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stats: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    failcnt: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Serialize)]
struct Network {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

impl From<&InterfaceCounters> for Network {
    fn from(counters: &InterfaceCounters) -> Self {
        Self {
            rx_bytes: counters.rx_bytes,
            rx_packets: counters.rx_packets,
            rx_errors: counters.rx_errors,
            rx_dropped: counters.rx_dropped,
            tx_bytes: counters.tx_bytes,
            tx_packets: counters.tx_packets,
            tx_errors: counters.tx_errors,
            tx_dropped: counters.tx_dropped,
        }
    }
}

impl BlockIo {
    fn new(usage: &Usage) -> Self {
        // docker's client looks for the first letter in either case; cgroup v2's names are lower case there.
        let [read, write] = if usage.is_unified { ["read", "write"] } else { ["Read", "Write"] };
        let entries = |of: fn(&DeviceUsage) -> (u64, u64)| {
            usage.devices.iter().flat_map(move |device| {
                let (reads, writes) = of(device);
                let entry = |op, value| BlockIoEntry { major: device.major, minor: device.minor, op, value };
                [entry(read, reads), entry(write, writes)]
            })
        };
        let serviced: Vec<_> = entries(|device| (device.reads, device.writes)).collect();
        Self {
            io_service_bytes_recursive: entries(|device| (device.read_bytes, device.write_bytes)).collect(),
            io_serviced_recursive: (!serviced.is_empty()).then_some(serviced),
            ..Self::default()
        }
    }
}

impl Cpu {
    fn new(reading: &Reading, before: Option<&Reading>) -> Self {
        let usage = &reading.usage;
        let since = before.map_or(reading.started_at, |before| before.read_at);
        let used = usage.cpu_nanos.saturating_sub(before.map_or(0, |before| before.usage.cpu_nanos));
        let nanos = reading.read_at.duration_since(since).as_nanos();
        Self {
            cpu_usage: CpuUsage {
                total_usage: usage.cpu_nanos,
                percpu_usage: usage.cpu_nanos_each.clone(),
                usage_in_kernelmode: usage.cpu_system_nanos,
                usage_in_usermode: usage.cpu_user_nanos,
            },
            system_cpu_usage: reading.host.cpu_nanos,
            online_cpus: reading.host.processors,
            cpu: if nanos > 0 { used as f64 * 100.0 / nanos as f64 } else { 0.0 },
            throttling_data: Throttling {
                periods: usage.throttling.periods,
                throttled_periods: usage.throttling.throttled_periods,
                throttled_time: usage.throttling.throttled_nanos,
            },
        }
    }
}

impl<'a> StatsJson<'a> {
    pub fn new(stats: &'a ContainerStats, before: Option<&Reading>) -> Self {
        let mut body = Self {
            read: NEVER.to_owned(),
            preread: NEVER.to_owned(),
            pids_stats: Pids::default(),
            blkio_stats: BlockIo::default(),
            num_procs: 0,
            storage_stats: Empty {},
            cpu_stats: Cpu::default(),
            precpu_stats: Cpu::default(),
            memory_stats: Memory::default(),
            name: format!("/{}", stats.container.name),
            id: stats.container.id.as_str(),
            networks: BTreeMap::new(),
        };
        let Some(reading) = &stats.reading else { return body };
        let usage = &reading.usage;
        let before = before.filter(|before| is_same_run(before, reading));
        body.read = time::rfc3339(Some(reading.read_at));
        if let Some(before) = before {
            body.preread = time::rfc3339(Some(before.read_at));
            body.precpu_stats = Cpu::new(before, None);
        }
        body.cpu_stats = Cpu::new(reading, before);
        body.pids_stats = Pids { current: usage.pids, limit: usage.pids_limit.unwrap_or_default() };
        body.blkio_stats = BlockIo::new(usage);
        body.memory_stats = Memory {
            usage: usage.memory_bytes,
            max_usage: usage.memory_peak_bytes,
            stats: usage.memory_stat.clone(),
            failcnt: usage.memory_fail_count,
            limit: reading.memory_limit_bytes(),
        };
        body.networks = reading.interfaces.iter().map(|(name, c)| (name.as_str(), c.into())).collect();
        body
    }
}

struct Watch {
    engine: Engine,
    id: NameOrId,
    first: Option<ContainerStats>,
    before: Option<Reading>,
}

pub async fn stats(State(context): State<Context>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let engine = context.engine.clone();
    let first = engine.container_stats(&name).await?;
    let id = NameOrId::from(&first.container.id);
    if !query.optional_flag("stream")?.unwrap_or(true) {
        if query.flag("one-shot")? || first.reading.is_none() {
            return Ok(reply::json(&StatsJson::new(&first, None)));
        }
        // Two, for the rates: docker's daemon does the same.
        tokio::time::sleep(PERIOD).await;
        let second = engine.container_stats(&id).await?;
        return Ok(reply::json(&StatsJson::new(&second, first.reading.as_ref())));
    }
    let watch = Watch { engine, id, first: Some(first), before: None };
    Ok(stream::every(PERIOD, &context.closing, Some(watch), |watch: Option<Watch>| async move {
        let mut watch = watch?;
        let stats = match watch.first.take() {
            Some(first) => first,
            None => watch.engine.container_stats(&watch.id).await.ok()?,
        };
        let body = json::encode(&StatsJson::new(&stats, watch.before.as_ref()));
        // One that does not run says so once.
        let runs = stats.reading.is_some();
        watch.before = stats.reading;
        Some((body.into(), runs.then_some(watch)))
    }))
}
