//! What containers use, as podman's clients show it. Docker's shape is in `compat/stats.rs`.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;

use super::top::delay;
use crate::api::error::ApiError;
use crate::api::rest::extract::Query;
use crate::api::rest::{Context, Outcome, json, reply, stream};
use crate::engine::Engine;
use crate::engine::container::ContainerFilter;
use crate::engine::container::stats::{ContainerStats, InterfaceCounters, Reading};
use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::id::{ContainerId, NameOrId, PodId};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatsReport {
    error: Option<String>,
    stats: Vec<Stats>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stats {
    #[serde(rename = "AvgCPU")]
    avg_cpu: f64,
    #[serde(rename = "ContainerID")]
    container_id: String,
    name: String,
    #[serde(rename = "PerCPU")]
    per_cpu: Option<Vec<u64>>,
    #[serde(rename = "CPU")]
    cpu: f64,
    #[serde(rename = "CPUNano")]
    cpu_nano: u64,
    #[serde(rename = "CPUSystemNano")]
    cpu_system_nano: u64,
    system_nano: u64,
    mem_usage: u64,
    mem_limit: u64,
    mem_perc: f64,
    /// Until podman 4; `network` since podman 5.
    net_input: u64,
    net_output: u64,
    network: BTreeMap<String, Counters>,
    block_input: u64,
    block_output: u64,
    #[serde(rename = "PIDs")]
    pids: u64,
    /// Time of the processors, too: podman prints it as such.
    up_time: u64,
    duration: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Counters {
    rx_bytes: u64,
    rx_dropped: u64,
    rx_errors: u64,
    rx_packets: u64,
    tx_bytes: u64,
    tx_dropped: u64,
    tx_errors: u64,
    tx_packets: u64,
}

impl From<&InterfaceCounters> for Counters {
    fn from(counters: &InterfaceCounters) -> Self {
        Self {
            rx_bytes: counters.rx_bytes,
            rx_dropped: counters.rx_dropped,
            rx_errors: counters.rx_errors,
            rx_packets: counters.rx_packets,
            tx_bytes: counters.tx_bytes,
            tx_dropped: counters.tx_dropped,
            tx_errors: counters.tx_errors,
            tx_packets: counters.tx_packets,
        }
    }
}

/// When a container was read last and what its processors had done by then.
type Before = (Timestamp, u64);

impl Stats {
    /// Rates are since `before`, or since the start.
    pub fn new(stats: &ContainerStats, before: Option<Before>) -> Self {
        let named = Self {
            container_id: stats.container.id.to_string(),
            name: stats.container.name.to_string(),
            ..Self::default()
        };
        let Some(reading) = &stats.reading else { return named };
        let usage = &reading.usage;
        let limit = reading.memory_limit_bytes();
        let (since, cpu_before) = before.unwrap_or((reading.started_at, 0));
        let in_use = usage.memory_in_use_bytes();
        let total = |of: fn(&InterfaceCounters) -> u64| reading.interfaces.values().map(of).sum();
        Self {
            avg_cpu: percent_of_time(usage.cpu_nanos, reading.started_at, reading.read_at),
            per_cpu: (!usage.cpu_nanos_each.is_empty()).then(|| usage.cpu_nanos_each.clone()),
            cpu: percent_of_time(usage.cpu_nanos.saturating_sub(cpu_before), since, reading.read_at),
            cpu_nano: usage.cpu_nanos,
            cpu_system_nano: usage.cpu_system_nanos,
            system_nano: u64::try_from(reading.read_at.as_nanosecond()).unwrap_or_default(),
            mem_usage: in_use,
            mem_limit: limit,
            mem_perc: in_use as f64 * 100.0 / limit.max(1) as f64,
            net_input: total(|counters| counters.rx_bytes),
            net_output: total(|counters| counters.tx_bytes),
            network: reading.interfaces.iter().map(|(name, c)| (name.clone(), c.into())).collect(),
            block_input: usage.read_bytes(),
            block_output: usage.write_bytes(),
            pids: usage.pids,
            up_time: usage.cpu_nanos,
            duration: usage.cpu_nanos,
            ..named
        }
    }
}

fn percent_of_time(cpu_nanos: u64, since: Timestamp, now: Timestamp) -> f64 {
    let nanos = now.duration_since(since).as_nanos();
    if nanos <= 0 { 0.0 } else { cpu_nanos as f64 * 100.0 / nanos as f64 }
}

pub async fn containers(State(context): State<Context>, query: Query) -> Outcome {
    let period = delay(&query, "interval")?;
    let names: Vec<String> = query.list("containers").into_iter().filter(|name| !name.is_empty()).collect();
    // Refused while there is still a status to refuse with.
    let chosen: Vec<NameOrId> = names
        .iter()
        .map(|name| context.engine.container(&NameOrId::from(name.as_str())))
        .map(|found| found.map(|record| NameOrId::from(&record.id)))
        .collect::<Result<_, _>>()?;
    let all = query.flag("all")?;
    let mut watch = Watch { engine: context.engine.clone(), chosen, all, before: HashMap::new() };
    if !query.optional_flag("stream")?.unwrap_or(true) {
        return Ok(reply::json(&watch.report().await));
    }
    Ok(stream::every(period, &context.closing, watch, |mut watch: Watch| async move {
        Some((json::encode(&watch.report().await).into(), watch))
    }))
}

struct Watch {
    engine: Engine,
    /// Empty: all that run, or really all.
    chosen: Vec<NameOrId>,
    all: bool,
    before: HashMap<ContainerId, Before>,
}

impl Watch {
    async fn report(&mut self) -> StatsReport {
        let ids = match self.chosen.is_empty() {
            false => self.chosen.clone(),
            true => {
                let filter = ContainerFilter { all: self.all, ..ContainerFilter::default() };
                self.engine.containers(&filter).iter().map(|record| NameOrId::from(&record.id)).collect()
            }
        };
        let mut report = StatsReport { error: None, stats: Vec::new() };
        for id in ids {
            match self.engine.container_stats(&id).await {
                Ok(stats) => report.stats.push(self.measure(&stats)),
                // Removed meanwhile: it was not asked for by name, or is simply gone.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => report.error = Some(error.chain()),
            }
        }
        report
    }

    fn measure(&mut self, stats: &ContainerStats) -> Stats {
        let before = self.before.get(&stats.container.id).copied();
        if let Some(reading) = &stats.reading {
            self.before.insert(stats.container.id.clone(), (reading.read_at, reading.usage.cpu_nanos));
        }
        // A container that was started again counts from 0.
        let same_run = |(at, _): &Before| stats.reading.as_ref().is_some_and(|now| now.started_at <= *at);
        Stats::new(stats, before.filter(same_run))
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PodStats {
    #[serde(rename = "CPU")]
    cpu: String,
    mem_usage: String,
    mem_usage_bytes: String,
    mem: String,
    #[serde(rename = "NetIO")]
    net_io: String,
    #[serde(rename = "BlockIO")]
    block_io: String,
    #[serde(rename = "PIDS")]
    pids: String,
    pod: String,
    #[serde(rename = "CID")]
    cid: String,
    name: String,
}

impl PodStats {
    pub fn new(pod: &PodId, stats: &Stats) -> Self {
        let pair = |a: u64, b: u64| match (a, b) {
            (0, 0) => "-- / --".to_owned(),
            _ => format!("{} / {}", decimal_size(a), decimal_size(b)),
        };
        Self {
            cpu: format!("{:.2}%", stats.cpu),
            mem_usage: format!("{} / {}", decimal_size(stats.mem_usage), decimal_size(stats.mem_limit)),
            mem_usage_bytes: format!("{} / {}", binary_size(stats.mem_usage), binary_size(stats.mem_limit)),
            mem: format!("{:.2}%", stats.mem_perc),
            net_io: pair(stats.net_input, stats.net_output),
            block_io: pair(stats.block_input, stats.block_output),
            pids: stats.pids.to_string(),
            pod: pod.short().to_owned(),
            cid: stats.container_id.chars().take(12).collect(),
            name: stats.name.clone(),
        }
    }
}

pub async fn pods(State(context): State<Context>, query: Query) -> Outcome {
    let period = delay(&query, "delay")?;
    let names: Vec<String> = query.list("namesOrIDs").into_iter().filter(|name| !name.is_empty()).collect();
    if query.flag("all")? && !names.is_empty() {
        return Err(ApiError::bad_request("all and namesOrIDs exclude each other"));
    }
    let mut watch =
        Watch { engine: context.engine.clone(), chosen: Vec::new(), all: false, before: HashMap::new() };
    let first = watch.pods(&names).await?;
    if !query.flag("stream")? {
        return Ok(reply::json(&first));
    }
    let state = (watch, names, Some(first));
    Ok(stream::every(period, &context.closing, state, |(mut watch, names, mut first)| async move {
        let reports = match first.take() {
            Some(first) => first,
            None => watch.pods(&names).await.ok()?,
        };
        Some((json::encode(&reports).into(), (watch, names, first)))
    }))
}

impl Watch {
    /// One row for each running container of the named pods; none named: of all.
    async fn pods(&mut self, names: &[String]) -> Result<Vec<PodStats>, EngineError> {
        let pods = match names {
            [] => self.engine.pods(),
            names => names
                .iter()
                .map(|name| self.engine.pod(&NameOrId::from(name.as_str())))
                .collect::<Result<_, _>>()?,
        };
        let mut reports = Vec::new();
        for pod in pods {
            for id in &pod.containers {
                match self.engine.container_stats(&NameOrId::from(id)).await {
                    Ok(stats) if stats.reading.is_some() => {
                        reports.push(PodStats::new(&pod.id, &self.measure(&stats)));
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(reports)
    }
}

fn decimal_size(bytes: u64) -> String {
    size(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

fn binary_size(bytes: u64) -> String {
    size(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Four digits that count, as podman prints sizes.
fn size(bytes: u64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let whole_digits = if value < 1.0 { 1 } else { value.log10() as usize + 1 };
    let text = format!("{value:.decimals$}", decimals = 4_usize.saturating_sub(whole_digits));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// Whether two readings are of one run, for rates between them.
pub fn is_same_run(before: &Reading, now: &Reading) -> bool {
    before.started_at == now.started_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, decimal, binary) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (393_216, "393.2kB", "384KiB"),
            (25_276_514_304, "25.28GB", "23.54GiB"),
            (1_000_000, "1MB", "976.6KiB"),
        ] {
            assert_eq!((decimal_size(bytes).as_str(), binary_size(bytes).as_str()), (decimal, binary));
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let at = |secs| Timestamp::from_second(secs).unwrap();
        assert_eq!(percent_of_time(500_000_000, at(10), at(11)), 50.0);
        assert_eq!(percent_of_time(500_000_000, at(10), at(10)), 0.0);
    }
}
