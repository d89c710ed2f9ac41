//! Tables of the pod machine: a pod in a few words, what is seen of it, and the steps that follow.

use std::path::PathBuf;

use super::*;
use crate::reconcile::desired::{DesiredStack, SourceName};
use crate::reconcile::manifest::{Context, SourceFiles, desired_from};

/// A pod and everything the machine looks at, to be set up as a test needs it.
struct Stage {
    pod: DesiredPod,
    hashes: BTreeMap<String, String>,
    seen: Observed,
    memory: Memory,
    run_state: RunState,
    start: bool,
    now: Instant,
    wall: Timestamp,
}

const WALL: i64 = 1_800_000_000;

/// `spec` is what follows `spec:` of a pod, in flow style.
fn stage(spec: &str) -> Stage {
    stage_of(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n"))
}

fn stage_of(text: &str) -> Stage {
    let context = Context {
        node_name: "node".into(),
        memory_bytes: 1 << 30,
        cpus: 1,
        seccomp_profile_root: PathBuf::from("/none"),
    };
    let source = SourceName::Directory(PathBuf::from("/m"));
    let desired = desired_from(&[SourceFiles::of_texts(source, [("web", text)])], &context);
    let pod = match desired.stacks.into_values().next() {
        Some(DesiredStack::Loaded(mut objects)) => objects.pods.remove(0),
        other => panic!("{text}: {other:?}"),
    };
    let hashes = pod.all_containers().map(|c| (c.name.clone(), "h".to_owned())).collect();
    let wall = Timestamp::from_second(WALL).unwrap();
    Stage {
        pod,
        hashes,
        seen: Observed { sandbox: Some("s1".into()), created_at: wall, containers: BTreeMap::new() },
        memory: Memory::default(),
        run_state: RunState::default(),
        start: true,
        now: Instant::now(),
        wall,
    }
}

impl Stage {
    fn without_sandbox(mut self) -> Self {
        self.seen.sandbox = None;
        self
    }

    fn see(&mut self, name: &str, state: SeenState) -> &mut Seen {
        let seen = Seen {
            id: ContainerId::random(),
            hash: "h".into(),
            sandbox: "s1".into(),
            restarts: 0,
            streak: 0,
            was_stopped: false,
            state,
        };
        self.seen.containers.insert(name.into(), seen);
        self.seen.containers.get_mut(name).unwrap()
    }

    fn running(mut self, name: &str) -> Self {
        let started_at = self.wall;
        self.see(name, SeenState::Running { started_at });
        self
    }

    fn with_container(mut self, name: &str) -> Self {
        self.see(name, SeenState::New);
        self
    }

    /// Ended just now after a second.
    fn exited(self, name: &str, code: i32) -> Self {
        self.ended(name, code, 1, 0, 0)
    }

    fn ended(mut self, name: &str, code: i32, ran_secs: i64, ago_secs: i64, streak: u32) -> Self {
        let finished_at = Timestamp::from_second(self.wall.as_second() - ago_secs).unwrap();
        let started_at = Some(Timestamp::from_second(finished_at.as_second() - ran_secs).unwrap());
        let exit = ExitStatus { code, oom_killed: false, finished_at, started_at, error: None };
        let seen = self.see(name, SeenState::Exited(exit));
        seen.streak = streak;
        seen.restarts = streak;
        self
    }

    fn in_sandbox(mut self, name: &str, sandbox: &str) -> Self {
        self.seen.containers.get_mut(name).unwrap().sandbox = sandbox.into();
        self
    }

    fn made_from(mut self, name: &str, hash: &str) -> Self {
        self.seen.containers.get_mut(name).unwrap().hash = hash.into();
        self
    }

    fn busy(mut self, name: &str, busy: Busy) -> Self {
        self.memory.tracks.entry(name.into()).or_default().busy = Some(busy);
        self
    }

    fn later(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
        self.wall = Timestamp::from_second(self.wall.as_second() + secs as i64).unwrap();
    }

    fn look(&mut self) -> Decision {
        let look = Look {
            pod: &self.pod,
            hashes: &self.hashes,
            seen: &self.seen,
            start: self.start,
            now: self.now,
            wall: self.wall,
        };
        self.memory.update(&look, &self.run_state);
        decide(&look, &self.memory)
    }

    /// The steps in words, and how many seconds until the next look.
    fn told(mut self) -> (Vec<String>, Option<u64>) {
        let now = self.now;
        let decision = self.look();
        let steps = decision.steps.iter().map(words).collect();
        (steps, decision.wake_at.map(|at| (at - now).as_secs()))
    }

    fn answer(&mut self, name: &str, kind: ProbeKind, success: bool) {
        let container = self.pod.all_containers().find(|c| c.name == name).unwrap().clone();
        let run = self.seen.containers[name].id.clone();
        let answer = if success { Ok(()) } else { Err("no".to_owned()) };
        assert!(self.memory.probed(&container, &run, kind, answer, self.now));
    }
}

fn words(step: &Step) -> String {
    match step {
        Step::MakeSandbox => "sandbox".into(),
        Step::Launch { container, restarts, streak } => match (restarts, streak) {
            (0, 0) => format!("launch {container}"),
            (restarts, streak) => format!("launch {container} #{restarts} streak {streak}"),
        },
        Step::Stop { container, reason, grace_secs } => match reason {
            StopReason::Changed => format!("stop {container} changed {grace_secs}"),
            StopReason::Unhealthy { kind, .. } => format!("stop {container} {} {grace_secs}", kind.as_str()),
            StopReason::PodEnded => format!("stop {container} ended {grace_secs}"),
        },
        Step::Probe { container, kind } => format!("probe {container} {}", kind.as_str()),
        Step::DropSandbox => "drop sandbox".into(),
    }
}

#[track_caller]
fn check(stage: Stage, steps: &[&str], wake_secs: Option<u64>) {
    let (got, wake) = stage.told();
    assert_eq!(got, steps);
    assert_eq!(wake, wake_secs, "when to look again");
}

const ONE: &str = "{containers: [{name: a, image: localhost/x}]}";
const TWO: &str = "{containers: [{name: a, image: localhost/x}, {name: b, image: localhost/x}]}";
const INIT: &str = "{initContainers: [{name: i, image: localhost/x}, {name: j, image: localhost/x}], containers: [{name: a, image: localhost/x}]}";
const SIDECAR: &str = "{initContainers: [{name: s, image: localhost/x, restartPolicy: Always}, {name: i, image: localhost/x}], containers: [{name: a, image: localhost/x}]}";

fn with_policy(spec: &str, policy: &str) -> Stage {
    stage(&format!("{{restartPolicy: {policy}, {}", &spec[1..]))
}

#[test]
fn the_sandbox_comes_first_and_once() {
    check(stage(ONE).without_sandbox(), &["sandbox"], None);
    let mut busy = stage(ONE).without_sandbox();
    busy.memory.sandbox_busy = true;
    check(busy, &[], None);
}

#[test]
fn a_sandbox_that_could_not_be_made_is_tried_again_later() {
    let mut stage = stage(ONE).without_sandbox();
    let mut fault = None;
    for delay in [1, 2, 4] {
        fault = Some(Fault::after(fault.as_ref(), "CreatePodSandboxError", "no".into(), stage.now));
        stage.memory.sandbox_fault = fault.clone();
        let decision = stage.look();
        assert_eq!(decision.steps, []);
        assert_eq!(decision.wake_at, Some(stage.now + Duration::from_secs(delay)));
        stage.later(delay);
        assert_eq!(stage.look().steps, [Step::MakeSandbox]);
    }
}

#[test]
fn containers_start_one_after_the_other() {
    check(stage(TWO), &["launch a"], None);
    check(stage(TWO).busy("a", Busy::Launching), &[], None);
    check(stage(TWO).running("a"), &["launch b"], None);
    check(stage(TWO).running("a").with_container("b"), &["launch b"], None);
    check(stage(TWO).running("a").running("b"), &[], None);
}

#[test]
fn init_containers_run_one_by_one_and_before_all_others() {
    check(stage(INIT), &["launch i"], None);
    check(stage(INIT).running("i"), &[], None);
    check(stage(INIT).exited("i", 0), &["launch j"], None);
    check(stage(INIT).exited("i", 0).running("j"), &[], None);
    check(stage(INIT).exited("i", 0).exited("j", 0), &["launch a"], None);
    // Once the others are there, it does not matter what became of them.
    check(stage(INIT).running("a"), &[], None);
    check(stage(INIT).exited("i", 0).exited("a", 1), &["launch a #1 streak 1"], None);
}

#[test]
fn a_failed_init_container_is_run_again_unless_the_pod_never_restarts() {
    check(stage(INIT).exited("i", 1), &["launch i #1 streak 1"], None);
    check(stage(INIT).ended("i", 1, 1, 0, 1), &[], Some(10));
    check(with_policy(INIT, "OnFailure").exited("i", 1), &["launch i #1 streak 1"], None);
    check(with_policy(INIT, "Never").exited("i", 1), &["drop sandbox"], None);
}

#[test]
fn sidecars_stay_and_the_others_wait_only_for_their_start() {
    check(stage(SIDECAR), &["launch s"], None);
    check(stage(SIDECAR).running("s"), &["launch i"], None);
    check(stage(SIDECAR).busy("s", Busy::Launching).running("s"), &[], None);
    check(stage(SIDECAR).running("s").exited("i", 0), &["launch a"], None);
    // One that ends is started again at any time, also with exit code 0.
    check(stage(SIDECAR).exited("s", 0).exited("i", 0).running("a"), &["launch s #1 streak 1"], None);
    check(with_policy(SIDECAR, "Never").exited("s", 0), &["launch s #1 streak 1"], None);
}

#[test]
fn restart_policies_are_kubernetes() {
    let rows: &[(&str, i32, &[&str])] = &[
        ("Always", 0, &["launch a #1 streak 1"]),
        ("Always", 1, &["launch a #1 streak 1"]),
        ("OnFailure", 0, &["drop sandbox"]),
        ("OnFailure", 1, &["launch a #1 streak 1"]),
        ("OnFailure", -1, &["launch a #1 streak 1"]),
        ("Never", 0, &["drop sandbox"]),
        ("Never", 1, &["drop sandbox"]),
    ];
    for (policy, code, steps) in rows {
        let (got, _) = with_policy(ONE, policy).exited("a", *code).told();
        assert_eq!(got, *steps, "{policy} after exit {code}");
    }
}

#[test]
fn a_pod_has_ended_when_all_of_it_has() {
    let outcome = |stage: Stage| {
        let mut stage = stage;
        stage.look().outcome
    };
    assert_eq!(outcome(with_policy(TWO, "Never").exited("a", 0).running("b")), None);
    assert_eq!(outcome(with_policy(TWO, "Never").exited("a", 0).exited("b", 0)), Some(Outcome::Succeeded));
    let failed = outcome(with_policy(TWO, "Never").exited("a", 0).exited("b", 3));
    assert!(matches!(failed, Some(Outcome::Failed { reason: "Error", .. })), "{failed:?}");
    assert_eq!(outcome(stage(TWO).exited("a", 0).exited("b", 0)), None, "Always never ends");
}

#[test]
fn restarts_back_off_as_kubelets_do() {
    // (restarts in a row, ran for, ended ago) -> wait, next streak
    let rows: &[(u32, i64, i64, Result<u32, u64>)] = &[
        (0, 1, 0, Ok(1)),
        (1, 1, 0, Err(10)),
        (1, 1, 4, Err(6)),
        (1, 1, 10, Ok(2)),
        (2, 1, 0, Err(20)),
        (5, 1, 0, Err(160)),
        (6, 1, 0, Err(300)),
        (60, 1, 0, Err(300)),
        // After ten minutes of running all is forgiven.
        (6, 600, 0, Ok(1)),
        (6, 599, 0, Err(300)),
        // A clock that was set back does not make it wait longer.
        (1, 1, -3600, Err(10)),
    ];
    for (streak, ran, ago, expected) in rows {
        let (steps, wake) = stage(ONE).ended("a", 1, *ran, *ago, *streak).told();
        let row = format!("{streak} restarts, ran {ran} s, ended {ago} s ago");
        match expected {
            Ok(next) => assert_eq!(steps, [format!("launch a #{} streak {next}", streak + 1)], "{row}"),
            Err(wait) => assert_eq!((steps, wake), (vec![], Some(*wait)), "{row}"),
        }
    }
}

#[test]
fn a_wait_does_not_start_over_with_each_look() {
    let mut stage = stage(ONE).ended("a", 1, 1, 0, 1);
    for left in [10, 7, 4, 1] {
        let now = stage.now;
        assert_eq!(stage.look().wake_at, Some(now + Duration::from_secs(left)));
        stage.later(3);
    }
    assert_eq!(stage.look().steps.len(), 1);
}

#[test]
fn a_container_made_from_something_else_is_stopped_and_made_anew_at_once() {
    check(stage(TWO).running("a").running("b").made_from("a", "old"), &["stop a changed 30"], None);
    let stopping = stage(TWO).running("a").running("b").made_from("a", "old").busy("a", Busy::Stopping);
    check(stopping, &[], None);
    // It was us who stopped it: no back-off.
    check(
        stage(TWO).ended("a", 143, 1, 0, 5).made_from("a", "old").running("b"),
        &["launch a #6 streak 0"],
        None,
    );
}

#[test]
fn after_a_reboot_everything_starts_over_with_the_init_containers() {
    let rebooted = || stage(INIT).exited("i", 0).exited("j", 0).exited("a", -1);
    check(rebooted().without_sandbox(), &["sandbox"], None);
    let mut next = rebooted();
    next.seen.sandbox = Some("s2".into());
    check(next, &["launch i #1 streak 0"], None);
    let mut next = rebooted().in_sandbox("i", "s2").in_sandbox("j", "s2");
    next.seen.sandbox = Some("s2".into());
    check(next, &["launch a #1 streak 0"], None);
}

#[test]
fn what_has_ended_for_good_stays_ended_after_a_reboot() {
    for policy in ["Never", "OnFailure"] {
        check(with_policy(ONE, policy).exited("a", 0).without_sandbox(), &[], None);
    }
    check(with_policy(ONE, "Never").exited("a", 1).without_sandbox(), &[], None);
    // Lost with the power: not run twice if it must never restart, run again if failures are retried.
    check(
        with_policy(TWO, "Never").exited("a", -1).running("b").without_sandbox(),
        &["stop b ended 30"],
        None,
    );
    check(with_policy(ONE, "OnFailure").exited("a", -1).without_sandbox(), &["sandbox"], None);
    // Of a pod that goes on, what had succeeded is not run again.
    let mut half = with_policy(TWO, "OnFailure").exited("a", 0).exited("b", -1);
    half.seen.sandbox = Some("s2".into());
    check(half, &["launch b #1 streak 0"], None);
}

const JOB: &str = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec: {backoffLimit: 2, template: {spec: {restartPolicy: Never, containers: [{name: a, image: localhost/x}]}}}\n";

#[test]
fn a_job_is_tried_again_up_to_its_limit() {
    let tried = |times: u32| stage_of(JOB).ended("a", 1, 1, 3600, times);
    assert_eq!(tried(0).told().0, ["launch a #1 streak 1"]);
    assert_eq!(tried(1).told().0, ["launch a #2 streak 2"]);
    let mut over = tried(2);
    let decision = over.look();
    assert!(matches!(decision.outcome, Some(Outcome::Failed { reason: "BackoffLimitExceeded", .. })));
    assert_eq!(decision.steps, [Step::DropSandbox]);
    assert_eq!(stage_of(JOB).ended("a", 0, 1, 0, 2).look().outcome, Some(Outcome::Succeeded));
}

#[test]
fn a_pod_whose_time_is_over_is_stopped() {
    let spec = "{activeDeadlineSeconds: 60, containers: [{name: a, image: localhost/x}]}";
    let mut stage = stage(spec).running("a");
    let now = stage.now;
    assert_eq!(stage.look().wake_at, Some(now + Duration::from_secs(60)));
    stage.later(60);
    let decision = stage.look();
    assert_eq!(decision.steps.iter().map(words).collect::<Vec<_>>(), ["stop a ended 30"]);
    assert!(matches!(decision.outcome, Some(Outcome::Failed { reason: "DeadlineExceeded", .. })));
}

#[test]
fn when_the_others_have_ended_sidecars_go_last_and_the_sandbox_after_them() {
    let done = || with_policy(SIDECAR, "Never").exited("i", 0).exited("a", 0);
    check(done().running("s"), &["stop s ended 30"], None);
    check(done().running("s").busy("s", Busy::Stopping), &[], None);
    check(done().exited("s", 143), &["drop sandbox"], None);
    check(done().exited("s", 143).without_sandbox(), &[], None);
}

#[test]
fn made_and_not_started_is_left_for_someone_to_start() {
    let held = |stage: Stage| Stage { start: false, ..stage };
    check(held(stage(INIT)), &["launch i"], None);
    check(held(stage(INIT).with_container("i")), &["launch j"], None);
    check(held(stage(INIT).with_container("i").with_container("j")), &["launch a"], None);
    check(held(stage(INIT).with_container("i").with_container("j").with_container("a")), &[], None);
}

#[test]
fn a_launch_that_failed_is_tried_again_with_growing_pauses() {
    let mut stage = stage(ONE);
    for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
        stage.memory.failed("a", "CreateContainerError", "no".into(), stage.now);
        let now = stage.now;
        let decision = stage.look();
        assert_eq!((decision.steps, decision.wake_at), (vec![], Some(now + Duration::from_secs(delay))));
        stage.later(delay);
        assert_eq!(stage.look().steps.len(), 1);
    }
}

const PROBED: &str = "{terminationGracePeriodSeconds: 7, containers: [{name: a, image: localhost/x, \
    startupProbe: {tcpSocket: {port: 1}, periodSeconds: 2, failureThreshold: 2, terminationGracePeriodSeconds: 3}, \
    livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 5, failureThreshold: 2}, \
    readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 5}}]}";

#[test]
fn until_it_has_started_up_nothing_else_is_asked() {
    let mut stage = stage(PROBED).running("a");
    assert_eq!(stage.look().steps.iter().map(words).collect::<Vec<_>>(), ["probe a startup"]);
    stage.answer("a", ProbeKind::Startup, true);
    let steps: Vec<String> = stage.look().steps.iter().map(words).collect();
    assert_eq!(steps, ["probe a liveness", "probe a readiness"]);
    let container = stage.pod.containers[0].clone();
    assert!(
        stage.memory.is_started(&container, &stage.seen) && !stage.memory.is_ready(&container, &stage.seen)
    );
    stage.answer("a", ProbeKind::Readiness, true);
    assert!(stage.memory.is_ready(&container, &stage.seen));
}

#[test]
fn startup_and_liveness_kill_after_their_threshold_with_their_own_grace() {
    for (kind, before, grace) in
        [(ProbeKind::Startup, None, 3), (ProbeKind::Liveness, Some(ProbeKind::Startup), 7)]
    {
        let mut stage = stage(PROBED).running("a");
        stage.look();
        if let Some(passed) = before {
            stage.answer("a", passed, true);
            stage.look();
        }
        stage.answer("a", kind, false);
        assert!(stage.look().steps.iter().all(|step| !matches!(step, Step::Stop { .. })), "one is not two");
        stage.answer("a", kind, false);
        let steps: Vec<String> = stage.look().steps.iter().map(words).collect();
        assert_eq!(steps, [format!("stop a {} {grace}", kind.as_str())]);
    }
}

#[test]
fn readiness_never_kills() {
    let mut stage = stage(PROBED).running("a");
    stage.look();
    stage.answer("a", ProbeKind::Startup, true);
    stage.look();
    for _ in 0..10 {
        stage.answer("a", ProbeKind::Readiness, false);
        assert!(stage.look().steps.iter().all(|step| !matches!(step, Step::Stop { .. })));
    }
}

#[test]
fn an_answer_about_an_earlier_run_means_nothing() {
    let mut stage = stage(PROBED).running("a");
    stage.look();
    let container = stage.pod.containers[0].clone();
    let other = ContainerId::random();
    assert!(!stage.memory.probed(&container, &other, ProbeKind::Startup, Ok(()), stage.now));
    assert!(!stage.memory.is_started(&container, &stage.seen));
}

#[test]
fn a_restarted_daemon_takes_what_was_ready_for_ready_until_it_has_asked() {
    let mut stage = stage(PROBED).running("a");
    let id = stage.seen.containers["a"].id.clone();
    stage.run_state.started.insert(id.clone());
    stage.run_state.ready.insert(id);
    let steps: Vec<String> = stage.look().steps.iter().map(words).collect();
    assert_eq!(steps, ["probe a liveness", "probe a readiness"]);
    let container = stage.pod.containers[0].clone();
    assert!(stage.memory.is_ready(&container, &stage.seen));
    stage.answer("a", ProbeKind::Readiness, false);
    stage.answer("a", ProbeKind::Readiness, false);
    stage.answer("a", ProbeKind::Readiness, false);
    assert!(!stage.memory.is_ready(&container, &stage.seen));
}

#[test]
fn nothing_that_is_busy_or_leaving_is_ready() {
    let mut stage = stage(ONE).running("a");
    stage.look();
    let container = stage.pod.containers[0].clone();
    assert!(stage.memory.is_ready(&container, &stage.seen));
    stage.memory.tracks.get_mut("a").unwrap().busy = Some(Busy::Stopping);
    assert!(!stage.memory.is_ready(&container, &stage.seen));
    stage.memory.tracks.get_mut("a").unwrap().busy = None;
    stage.memory.leaving = true;
    assert!(!stage.memory.is_ready(&container, &stage.seen));
}

#[test]
fn a_settled_pod_asks_for_nothing() {
    let mut stage = stage(TWO).running("a").running("b");
    for _ in 0..3 {
        let decision = stage.look();
        assert_eq!((decision.steps, decision.wake_at), (vec![], None));
        stage.later(1000);
    }
}

#[test]
fn what_someone_else_did_is_said() {
    let mut stopped = stage(ONE).exited("a", 143);
    stopped.seen.containers.get_mut("a").unwrap().was_stopped = true;
    stopped.look();
    assert!(stopped.memory.repairs["a"].starts_with("someone stopped container a"));
    let mut ours = stage(ONE).running("a");
    ours.look();
    ours.memory.tracks.get_mut("a").unwrap().stopped = true;
    let id = ours.seen.containers["a"].id.clone();
    let mut ours = ours.exited("a", 143);
    let seen = ours.seen.containers.get_mut("a").unwrap();
    (seen.id, seen.was_stopped) = (id, true);
    ours.look();
    assert!(ours.memory.repairs.is_empty());
    let mut removed = stage(ONE).running("a");
    removed.look();
    removed.seen.containers.clear();
    assert_eq!(removed.look().steps.len(), 1);
    assert!(removed.memory.repairs["a"].starts_with("someone removed container a"));
}
