//! What a pod needs next. Pure: what is written, what is seen and what is remembered in; steps out.
//!
//! ```text
//!            ┌── no sandbox ──▶ MakeSandbox ──▶ init containers, one by one, sidecars stay
//!  Pending ──┤                                       │ all done
//!            └── sandbox ◀──────────────────────┐    ▼
//!                                               │  containers, in order ──▶ probes, restarts
//!  Succeeded / Failed ◀── nothing to restart ───┴──────────────┘
//! ```
//!
//! A container belongs to the sandbox it was made in (a label says which). After a reboot the sandbox is
//! another one, so that everything starts over from the init containers, as kubelet does it; what ended
//! for good (a finished Job) stays ended. A restart makes the container anew from its image, as kubelet
//! does: what a crashed process left in its root file system does not trip up the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::engine::container::state::ExitStatus;
use crate::engine::id::ContainerId;
use crate::reconcile::backoff::{self, ACTION, CONTAINER};
use crate::reconcile::desired::{DesiredContainer, DesiredPod, PodRestartPolicy, Probe};
use crate::reconcile::records::RunState;
use crate::reconcile::worker::probes::{ProbeKind, ProbeTrack};

/// What the engine shows of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The identity of the sandbox that stands, if one does.
    pub sandbox: Option<String>,
    pub created_at: Timestamp,
    pub containers: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: ContainerId,
    /// What it was made from.
    pub hash: String,
    pub sandbox: String,
    /// How many runs there were before this one.
    pub restarts: u32,
    /// How many restarts in a row led here, for the back-off.
    pub streak: u32,
    /// Somebody asked the engine to stop it; perhaps we did.
    pub was_stopped: bool,
    pub state: SeenState,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SeenState {
    /// Made, not started.
    New,
    Running {
        started_at: Timestamp,
    },
    Stopping,
    Exited(ExitStatus),
    Removing,
}

impl SeenState {
    fn runs(&self) -> bool {
        match self {
            Self::Running { .. } | Self::Stopping => true,
            Self::New | Self::Exited(_) | Self::Removing => false,
        }
    }
}

/// What only the daemon's memory knows of a pod.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub tracks: BTreeMap<String, Track>,
    pub sandbox_busy: bool,
    pub sandbox_fault: Option<Fault>,
    /// No further probes of readiness, no restarts: the pod is going away.
    pub leaving: bool,
    /// What someone else did to a container, and that it is being put right; by container.
    pub repairs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Track {
    pub busy: Option<Busy>,
    /// This run was stopped by us.
    pub stopped: bool,
    /// The run the rest is about.
    pub run: Option<ContainerId>,
    pub probes: BTreeMap<ProbeKind, ProbeTrack>,
    /// This run has to end.
    pub doomed: Option<StopReason>,
    /// When the container may run again, and how many restarts in a row that makes.
    pub restart: Option<Restart>,
    /// It could not be made or started.
    pub fault: Option<Fault>,
    /// How the run before this one ended.
    pub last_exit: Option<ExitStatus>,
    /// The last failing answer of a probe.
    pub unhealthy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Launching,
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    pub at: Instant,
    pub streak: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// `CreateContainerError`, `RunContainerError`, `CreatePodSandboxError` ...
    pub reason: &'static str,
    pub message: String,
    pub failures: u32,
    pub retry_at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// It was made from something else than is written now.
    Changed,
    Unhealthy {
        kind: ProbeKind,
        message: String,
    },
    /// The pod has ended, or its time is over.
    PodEnded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    MakeSandbox,
    /// Remove what is left of the last run, make it anew if need be, start it.
    Launch {
        container: String,
        restarts: u32,
        streak: u32,
    },
    Stop {
        container: String,
        reason: StopReason,
        grace_secs: u32,
    },
    Probe {
        container: String,
        kind: ProbeKind,
    },
    /// The pod has ended: its addresses are free.
    DropSandbox,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub steps: Vec<Step>,
    /// When to look again even if nothing happens.
    pub wake_at: Option<Instant>,
    pub outcome: Option<Outcome>,
}

/// How a pod has ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed { reason: &'static str, message: String },
}

/// One look at a pod.
pub struct Look<'a> {
    pub pod: &'a DesiredPod,
    /// What each container shall be made from.
    pub hashes: &'a BTreeMap<String, String>,
    pub seen: &'a Observed,
    /// `false`: containers are made and left for someone to start (`kube play --start=false`).
    pub start: bool,
    pub now: Instant,
    pub wall: Timestamp,
}

impl Memory {
    /// Takes note of runs that began and ended since the last look.
    pub fn update(&mut self, look: &Look<'_>, run_state: &RunState) {
        for container in look.pod.all_containers() {
            let track = self.tracks.entry(container.name.clone()).or_default();
            let Some(seen) = look.seen.containers.get(&container.name) else {
                if track.run.is_some() && track.busy.is_none() {
                    let repair = format!("someone removed container {} at {:.0}", container.name, look.wall);
                    self.repairs.insert(container.name.clone(), repair);
                }
                track.forget_run();
                continue;
            };
            if track.run.as_ref() != Some(&seen.id) {
                track.forget_run();
                track.run = Some(seen.id.clone());
            }
            match &seen.state {
                SeenState::Running { started_at } => {
                    track.restart = None;
                    let running_for = elapsed(*started_at, look.wall);
                    for (kind, probe) in probes_of(container) {
                        track.probes.entry(kind).or_insert_with(|| {
                            let passed = match kind {
                                ProbeKind::Startup => run_state.started.contains(&seen.id),
                                ProbeKind::Readiness => run_state.ready.contains(&seen.id),
                                ProbeKind::Liveness => false,
                            };
                            match passed {
                                true => ProbeTrack::passed_before(probe, look.now),
                                false => ProbeTrack::new(probe, look.now, running_for),
                            }
                        });
                    }
                    let kept: BTreeSet<ProbeKind> = probes_of(container).map(|(kind, _)| kind).collect();
                    track.probes.retain(|kind, _| kept.contains(kind));
                }
                SeenState::Exited(exit) => {
                    track.probes.clear();
                    track.doomed = None;
                    if track.restart.is_none() {
                        track.restart = Some(restart_after(seen, exit, look));
                        if seen.was_stopped && !track.stopped && track.busy.is_none() {
                            let repair =
                                format!("someone stopped container {} at {:.0}", container.name, look.wall);
                            self.repairs.insert(container.name.clone(), repair);
                        }
                    }
                    track.last_exit = Some(exit.clone());
                }
                SeenState::New | SeenState::Stopping | SeenState::Removing => track.probes.clear(),
            }
        }
    }

    /// Takes an answer of a probe; `false` if it came too late to mean anything.
    pub fn probed(
        &mut self,
        container: &DesiredContainer,
        run: &ContainerId,
        kind: ProbeKind,
        answer: Result<(), String>,
        now: Instant,
    ) -> bool {
        let Some(track) = self.tracks.get_mut(&container.name) else { return false };
        let Some((_, probe)) = probes_of(container).find(|(known, _)| *known == kind) else { return false };
        if track.run.as_ref() != Some(run) {
            return false;
        }
        let Some(probe_track) = track.probes.get_mut(&kind) else { return false };
        let verdict = probe_track.answer(probe, kind, answer.is_ok(), now);
        track.unhealthy = answer.err().map(|message| format!("{} probe failed: {message}", kind.as_str()));
        let kills = matches!(kind, ProbeKind::Startup | ProbeKind::Liveness);
        if kills && verdict == Some(false) && track.doomed.is_none() {
            let message = track.unhealthy.clone().unwrap_or_default();
            track.doomed = Some(StopReason::Unhealthy { kind, message });
        }
        true
    }

    pub fn failed(&mut self, container: &str, reason: &'static str, message: String, now: Instant) {
        let track = self.tracks.entry(container.to_owned()).or_default();
        track.fault = Some(Fault::after(track.fault.as_ref(), reason, message, now));
    }

    /// It runs, and its startup probe (if it has one) has succeeded.
    pub fn is_started(&self, container: &DesiredContainer, seen: &Observed) -> bool {
        let running = seen
            .containers
            .get(&container.name)
            .is_some_and(|seen| matches!(seen.state, SeenState::Running { .. }));
        running
            && (container.startup_probe.is_none()
                || self.verdict(container, ProbeKind::Startup) == Some(true))
    }

    pub fn is_ready(&self, container: &DesiredContainer, seen: &Observed) -> bool {
        !self.leaving
            && self.is_started(container, seen)
            && self.tracks.get(&container.name).is_some_and(|track| track.busy.is_none())
            && (container.readiness_probe.is_none()
                || self.verdict(container, ProbeKind::Readiness) == Some(true))
    }

    fn verdict(&self, container: &DesiredContainer, kind: ProbeKind) -> Option<bool> {
        self.tracks.get(&container.name)?.probes.get(&kind)?.verdict()
    }

    fn busy(&self, container: &str) -> Option<Busy> {
        self.tracks.get(container).and_then(|track| track.busy)
    }
}

impl Track {
    fn forget_run(&mut self) {
        self.run = None;
        self.probes.clear();
        self.doomed = None;
        self.restart = None;
        self.stopped = false;
        self.unhealthy = None;
    }
}

impl Fault {
    pub fn after(before: Option<&Self>, reason: &'static str, message: String, now: Instant) -> Self {
        let failures = before.map_or(0, |fault| fault.failures) + 1;
        Self { reason, message, failures, retry_at: now + ACTION.delay(failures) }
    }
}

/// The probes a container has.
pub fn probes_of(container: &DesiredContainer) -> impl Iterator<Item = (ProbeKind, &Probe)> {
    [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| probe.as_ref().map(|probe| (kind, probe)))
}

/// How long ago that was, as far as a clock that may have been set since can tell.
fn elapsed(since: Timestamp, wall: Timestamp) -> Duration {
    Duration::try_from(wall.duration_since(since)).unwrap_or(Duration::ZERO)
}

fn restart_after(seen: &Seen, exit: &ExitStatus, look: &Look<'_>) -> Restart {
    let ran_for = exit.started_at.map_or(Duration::ZERO, |started| elapsed(started, exit.finished_at));
    let streak = backoff::streak_after(seen.streak, ran_for);
    let delay = CONTAINER.delay(streak);
    let waited = elapsed(exit.finished_at, look.wall).min(delay);
    Restart { at: look.now + (delay - waited), streak }
}

/// Whether the pod has ended for good, and how.
pub fn outcome(look: &Look<'_>) -> Option<Outcome> {
    let pod = look.pod;
    let exit = |container: &DesiredContainer| match look.seen.containers.get(&container.name) {
        Some(Seen { state: SeenState::Exited(exit), restarts, .. }) => Some((exit.clone(), *restarts)),
        Some(_) | None => None,
    };
    let all_done = pod.restart_policy != PodRestartPolicy::Always
        && pod.containers.iter().all(|container| exit(container).is_some_and(|(exit, _)| exit.code == 0));
    if all_done {
        return Some(Outcome::Succeeded);
    }
    if let Some(limit) = pod.active_deadline_secs
        && elapsed(look.seen.created_at, look.wall) >= Duration::from_secs(limit)
    {
        let message = format!("was active longer than {limit} seconds");
        return Some(Outcome::Failed { reason: "DeadlineExceeded", message });
    }
    if let Some(job) = &pod.job {
        // The first run is no restart: a limit of n allows n restarts of whatever failed.
        let failures: u32 = pod
            .all_containers()
            .filter_map(|container| look.seen.containers.get(&container.name))
            .map(|seen| match &seen.state {
                SeenState::Exited(exit) if exit.code != 0 => seen.restarts + 1,
                _ => seen.restarts,
            })
            .sum();
        if failures > job.backoff_limit {
            let message = format!("failed {failures} times, its limit is {}", job.backoff_limit);
            return Some(Outcome::Failed { reason: "BackoffLimitExceeded", message });
        }
        return None;
    }
    match pod.restart_policy {
        PodRestartPolicy::Always | PodRestartPolicy::OnFailure => None,
        PodRestartPolicy::Never => {
            let failed_init =
                pod.init_containers.iter().filter(|container| !container.sidecar).find_map(|container| {
                    exit(container).filter(|(exit, _)| exit.code != 0).map(|_| container)
                });
            if let Some(container) = failed_init {
                let message = format!("init container {} failed", container.name);
                return Some(Outcome::Failed { reason: "InitContainerFailed", message });
            }
            let all_ended = pod.containers.iter().all(|container| exit(container).is_some());
            // Nothing of it is run twice, not even when the machine went down under it.
            let lost_sandbox = look.seen.sandbox.is_none()
                && pod
                    .containers
                    .iter()
                    .any(|container| exit(container).is_some_and(|(e, _)| e.started_at.is_some()));
            (all_ended || lost_sandbox).then(|| {
                let failed: Vec<&str> = pod
                    .containers
                    .iter()
                    .filter(|container| exit(container).is_none_or(|(exit, _)| exit.code != 0))
                    .map(|container| container.name.as_str())
                    .collect();
                Outcome::Failed { reason: "Error", message: format!("failed: {}", failed.join(", ")) }
            })
        }
    }
}

/// What is to be done now.
pub fn decide(look: &Look<'_>, memory: &Memory) -> Decision {
    let mut decider = Decider { look, memory, steps: Vec::new(), wake_at: None };
    let outcome = outcome(look);
    match &outcome {
        Some(_) => decider.wind_up(),
        None => {
            if let Some(limit) = look.pod.active_deadline_secs {
                let left =
                    Duration::from_secs(limit).saturating_sub(elapsed(look.seen.created_at, look.wall));
                decider.wake(look.now + left);
            }
            decider.go_on();
        }
    }
    let Decider { steps, wake_at, .. } = decider;
    Decision { steps, wake_at, outcome }
}

struct Decider<'a> {
    look: &'a Look<'a>,
    memory: &'a Memory,
    steps: Vec<Step>,
    wake_at: Option<Instant>,
}

/// Whether the sequence of init containers may go on.
enum Progress {
    Done,
    Wait,
}

impl<'a> Decider<'a> {
    fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// The pod has ended: what still runs (sidecars, or everything when its time is over) goes, then the
    /// sandbox.
    fn wind_up(&mut self) {
        let pod = self.look.pod;
        // Sidecars serve the others, so they go last, and in reverse.
        let groups: Vec<Vec<&DesiredContainer>> = std::iter::once(pod.containers.iter().collect())
            .chain(pod.init_containers.iter().rev().map(|container| vec![container]))
            .collect();
        for group in groups {
            let mut waits = false;
            for container in group {
                let Some(seen) = self.look.seen.containers.get(&container.name) else {
                    waits |= self.memory.busy(&container.name).is_some();
                    continue;
                };
                let busy = self.memory.busy(&container.name);
                if busy.is_some() || seen.state.runs() {
                    waits = true;
                }
                if busy.is_none() && seen.state.runs() {
                    self.stop(container, StopReason::PodEnded);
                }
            }
            if waits {
                return;
            }
        }
        if self.look.seen.sandbox.is_some() && !self.memory.sandbox_busy {
            self.steps.push(Step::DropSandbox);
        }
    }

    fn go_on(&mut self) {
        let Some(sandbox) = &self.look.seen.sandbox else {
            match &self.memory.sandbox_fault {
                _ if self.memory.sandbox_busy => {}
                Some(fault) if fault.retry_at > self.look.now => self.wake(fault.retry_at),
                _ => self.steps.push(Step::MakeSandbox),
            }
            return;
        };
        let pod = self.look.pod;
        self.stop_doomed();
        self.probe_all();
        // The main containers are made after the init containers are done; that they are there says so,
        // even if someone has removed an init container since.
        let initialized = pod.containers.iter().any(|container| {
            self.look.seen.containers.get(&container.name).is_some_and(|seen| seen.sandbox == *sandbox)
        });
        for container in &pod.init_containers {
            match self.init_container(container, sandbox, initialized) {
                Progress::Done => {}
                Progress::Wait => return,
            }
        }
        for container in &pod.containers {
            self.main_container(container, sandbox);
        }
    }

    fn init_container(
        &mut self,
        container: &'a DesiredContainer,
        sandbox: &str,
        initialized: bool,
    ) -> Progress {
        if container.sidecar {
            self.keep_running(container, sandbox, true);
            let started = self.memory.is_started(container, self.look.seen)
                && self.memory.busy(&container.name).is_none();
            let goes_on = started || initialized || !self.look.start;
            return if goes_on { Progress::Done } else { Progress::Wait };
        }
        if initialized {
            return Progress::Done;
        }
        let seen = self.look.seen.containers.get(&container.name).filter(|seen| seen.sandbox == sandbox);
        match seen.map(|seen| &seen.state) {
            Some(SeenState::Exited(exit)) if exit.code == 0 => Progress::Done,
            _ => {
                self.keep_running(container, sandbox, true);
                if self.look.start { Progress::Wait } else { Progress::Done }
            }
        }
    }

    fn main_container(&mut self, container: &'a DesiredContainer, sandbox: &str) {
        let restarts = |exit: &ExitStatus| match self.look.pod.restart_policy {
            PodRestartPolicy::Always => true,
            PodRestartPolicy::OnFailure => exit.code != 0,
            // A Job's pod that failed is tried again up to its limit; `outcome` has looked at that.
            PodRestartPolicy::Never => self.look.pod.job.is_some() && exit.code != 0,
        };
        let again = match self.look.seen.containers.get(&container.name).map(|seen| &seen.state) {
            Some(SeenState::Exited(exit)) => restarts(exit),
            Some(_) | None => true,
        };
        self.keep_running(container, sandbox, again);
    }

    /// Launches a container that is not running, if it may run `again`, when its time has come.
    fn keep_running(&mut self, container: &'a DesiredContainer, sandbox: &str, again: bool) {
        let name = &container.name;
        if self.memory.busy(name).is_some() {
            return;
        }
        let track = self.memory.tracks.get(name);
        let stale = |seen: &Seen| {
            seen.sandbox != sandbox || self.look.hashes.get(name).is_some_and(|hash| *hash != seen.hash)
        };
        let (restarts, streak, at) = match self.look.seen.containers.get(name) {
            None => (0, 0, None),
            Some(seen) => match &seen.state {
                SeenState::New if !self.look.start => return,
                SeenState::New => (seen.restarts, seen.streak, None),
                SeenState::Running { .. } | SeenState::Stopping | SeenState::Removing => return,
                SeenState::Exited(exit) => {
                    let succeeded_before = exit.code == 0
                        && self.look.pod.restart_policy == PodRestartPolicy::OnFailure
                        && !self.look.pod.init_containers.iter().any(|init| init.name == *name);
                    // Whatever ended by itself and shall not run again stays as it ended, also when the
                    // sandbox is another one now.
                    if !again && (seen.sandbox == sandbox || succeeded_before || !stale(seen)) {
                        return;
                    }
                    match stale(seen) {
                        true => (seen.restarts + 1, 0, None),
                        false => {
                            let restart = track.and_then(|track| track.restart);
                            let streak = restart.map_or(seen.streak, |restart| restart.streak);
                            (seen.restarts + 1, streak + 1, restart.map(|restart| restart.at))
                        }
                    }
                }
            },
        };
        let fault_until = track.and_then(|track| track.fault.as_ref()).map(|fault| fault.retry_at);
        if let Some(at) = at.max(fault_until)
            && at > self.look.now
        {
            self.wake(at);
            return;
        }
        // One launch at a time within a pod: containers start in the order they are written in.
        let launching = self.memory.tracks.values().any(|track| track.busy == Some(Busy::Launching))
            || self.steps.iter().any(|step| matches!(step, Step::Launch { .. }));
        if !launching {
            self.steps.push(Step::Launch { container: name.clone(), restarts, streak });
        }
    }

    /// Containers that must not go on: made from something else, or found sick.
    fn stop_doomed(&mut self) {
        let pod = self.look.pod;
        for container in pod.all_containers() {
            let Some(seen) = self.look.seen.containers.get(&container.name) else { continue };
            if self.memory.busy(&container.name).is_some() || !matches!(seen.state, SeenState::Running { .. })
            {
                continue;
            }
            let init = pod.init_containers.iter().any(|init| init.name == container.name);
            let changed = (!init || container.sidecar)
                && self.look.hashes.get(&container.name).is_some_and(|hash| *hash != seen.hash);
            let doomed = self.memory.tracks.get(&container.name).and_then(|track| track.doomed.clone());
            let reason = match (changed, doomed) {
                (true, _) => StopReason::Changed,
                (false, Some(reason)) => reason,
                (false, None) => continue,
            };
            self.stop(container, reason);
        }
    }

    fn stop(&mut self, container: &DesiredContainer, reason: StopReason) {
        let own_grace = match &reason {
            StopReason::Unhealthy { kind, .. } => probes_of(container)
                .find(|(known, _)| known == kind)
                .and_then(|(_, probe)| probe.termination_grace_period_secs),
            StopReason::Changed | StopReason::PodEnded => None,
        };
        self.steps.push(Step::Stop {
            container: container.name.clone(),
            reason,
            grace_secs: own_grace.unwrap_or(self.look.pod.termination_grace_period_secs),
        });
    }

    fn probe_all(&mut self) {
        for container in self.look.pod.all_containers() {
            let Some(track) = self.memory.tracks.get(&container.name) else { continue };
            if track.busy.is_some() || track.doomed.is_some() {
                continue;
            }
            let started = self.memory.is_started(container, self.look.seen);
            for (kind, probe) in &track.probes {
                // Until it has started up nothing else is asked; afterwards startup no more.
                if (*kind == ProbeKind::Startup) == started {
                    continue;
                }
                if probe.is_due(self.look.now) {
                    self.steps.push(Step::Probe { container: container.name.clone(), kind: *kind });
                } else if let Some(at) = probe.due_at() {
                    self.wake(at);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
