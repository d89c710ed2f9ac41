//! Logs, attach, exec: what flows in and out of a container.

use std::sync::Arc;

use super::lifecycle::check;
use super::state::{ContainerState, Operation, Step};
use super::{ContainerRecord, ExecOutput, ExecRequest, LogLine, LogOptions, attach, exec, logs};
use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::id::NameOrId;
use crate::engine::monitor::ExecSession;
use crate::engine::{AttachOptions, AttachSession, BoxStream, Inner};

impl Inner {
    pub fn container_logs(&self, wanted: &NameOrId, options: LogOptions) -> Result<BoxStream<LogLine>> {
        let entry = self.containers.find(&self.names, wanted)?;
        let record = entry.record();
        let source = logs::LogSource {
            container: record.name.to_string(),
            path: self.log_path(&record),
            driver: record.spec.log.driver,
        };
        let mut views = entry.watch();
        let closing = self.closing.clone();
        // One that was never started may still be: its log is followed from its first line.
        let ended = async move {
            let over = views.wait_for(|view| {
                view.removed
                    || matches!(view.record.state, ContainerState::Exited(_) | ContainerState::Removing)
            });
            tokio::select! {
                _ = over => {}
                () = closing.cancelled() => {}
            }
        };
        logs::read(source, options, ended)
    }

    pub async fn attach_container(
        self: &Arc<Self>,
        wanted: &NameOrId,
        options: AttachOptions,
    ) -> Result<AttachSession> {
        let entry = self.containers.find(&self.names, wanted)?;
        // podman's and docker's clients attach to a container before they start it.
        if check(&entry.record(), Operation::Attach)? == Step::InitFirst {
            let inner = self.clone();
            let wanted = NameOrId::from(&entry.record().id);
            self.detached(async move { inner.init_container(&wanted).await }).await?;
        }
        let record = entry.record();
        let run_dir = self.config.container_run_dir(&record.id);
        attach::attach(&self.monitors, &run_dir, record.name.as_str(), options).await
    }

    pub async fn resize_container(&self, wanted: &NameOrId, columns: u16, rows: u16) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let record = entry.record();
        check(&record, Operation::Attach)?;
        let run_dir = self.config.container_run_dir(&record.id);
        attach::resize(&self.monitors, &run_dir, record.name.as_str(), columns, rows).await
    }

    pub async fn exec_container(
        &self,
        wanted: &NameOrId,
        request: &ExecRequest,
        output_limit: usize,
    ) -> Result<ExecOutput> {
        let (record, pid) = self.executable(wanted)?;
        let run_dir = self.config.container_run_dir(&record.id);
        exec::run(&self.monitors, &run_dir, record.name.as_str(), pid, request, output_limit).await
    }

    pub async fn start_exec(
        &self,
        wanted: &NameOrId,
        request: &ExecRequest,
        streams: exec::ExecStreams,
    ) -> Result<ExecSession> {
        let (record, pid) = self.executable(wanted)?;
        let run_dir = self.config.container_run_dir(&record.id);
        exec::start(&self.monitors, &run_dir, record.name.as_str(), pid, request, streams).await
    }

    /// A container that a command can be executed in, and its first process.
    fn executable(&self, wanted: &NameOrId) -> Result<(Arc<ContainerRecord>, i32)> {
        let record = self.containers.find(&self.names, wanted)?.record();
        check(&record, Operation::Exec)?;
        match record.state.process() {
            Some(process) => {
                let pid = process.pid;
                Ok((record, pid))
            }
            None => {
                let subject = Subject::Container(record.name.to_string());
                Err(EngineError::wrong_state(subject, "it is not running"))
            }
        }
    }
}
