//! The processes of a container as a table, without a `ps` inside it: read from the host's `/proc`.

mod columns;
mod process;

use std::sync::Arc;

pub use columns::{Columns, UnknownColumn};

use super::ContainerRecord;
use super::prepare::failed;
use crate::engine::Inner;
use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::host::process::is_same;
use crate::engine::id::NameOrId;
use process::{Host, Inside, Process};

/// Whose numbers stand for processes and users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// As the container sees itself: podman.
    Container,
    /// docker.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTable {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Inner {
    pub fn top_of_container(&self, wanted: &NameOrId, columns: &Columns) -> Result<ProcessTable> {
        let record = self.containers.find(&self.names, wanted)?.record();
        if !record.state.is_running() {
            return Err(EngineError::wrong_state(
                Subject::Container(record.name.to_string()),
                "top can only be used on running containers",
            ));
        }
        Ok(ProcessTable { titles: columns.titles(), rows: self.process_rows(&record, columns)? })
    }

    /// Of all its running containers.
    pub fn top_of_pod(&self, wanted: &NameOrId, columns: &Columns) -> Result<ProcessTable> {
        let pod = self.pods.find(&self.names, wanted)?.record();
        let members = pod.containers.iter().filter_map(|id| self.containers.by_id(id));
        let running: Vec<Arc<ContainerRecord>> =
            members.map(|entry| entry.record()).filter(|record| record.state.is_running()).collect();
        if running.is_empty() {
            return Err(EngineError::wrong_state(
                Subject::Pod(pod.spec.name.to_string()),
                "top can only be used on pods with at least one running container",
            ));
        }
        let mut rows = Vec::new();
        for record in running {
            rows.extend(self.process_rows(&record, columns)?);
        }
        Ok(ProcessTable { titles: columns.titles(), rows })
    }

    fn process_rows(&self, record: &ContainerRecord, columns: &Columns) -> Result<Vec<Vec<String>>> {
        let Some(first) = record.state.process() else { return Ok(Vec::new()) };
        let mut pids = self
            .cgroup_of(record)
            .and_then(|cgroup| cgroup.processes())
            .map_err(failed(record, "list its processes"))?;
        pids.sort_unstable();
        pids.dedup();
        let host = Host::observe().map_err(failed(record, "read the host's clock"))?;
        let inside = Inside::observe(first.pid);
        // Whoever has the number now may be somebody else.
        if !is_same(first.pid, first.start_ticks) {
            return Ok(Vec::new());
        }
        let processes: Vec<Process> = pids.into_iter().filter_map(Process::read).collect();
        Ok(processes.iter().map(|process| columns.row(process, &processes, &host, &inside)).collect())
    }
}
