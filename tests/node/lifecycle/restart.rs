//! What outlives what: containers the daemon, records the machine, policies the process.

use selkie::engine::container::spec::RestartPolicy;
use selkie::engine::container::state::ContainerState;
use selkie::engine::container::{ContainerFilter, StopOptions};
use selkie::engine::event::EventAction;

use super::bed::{Bed, sh, sleeper};
use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_daemon() {
    let mut bed = Bed::new().await;
    bed.run(sleeper("lasting")).await;
    bed.run(sh("ending", "sleep 1000; exit 9")).await;
    bed.create(sh("idle", "true")).await;
    bed.run(sh("over", "exit 2")).await;
    bed.exit_code("over").await;
    let lasting = bed.record("lasting");
    let ending = bed.pid("ending");
    bed.stop_daemon().await;
    // It ends while nobody watches.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(ending), nix::sys::signal::Signal::SIGKILL).unwrap();
    support::wait_until("its process is gone", || !std::path::Path::new(&format!("/proc/{ending}")).exists());
    bed.start_daemon().await;
    assert_eq!(*bed.record("lasting"), *lasting, "adopted, not touched");
    assert_eq!(bed.exit_code("ending").await, 137);
    assert_eq!(bed.state("idle"), ContainerState::Configured);
    assert_eq!(bed.exit_code("over").await, 2);
    // What was adopted is followed as before.
    bed.exec_ready("lasting").await;
    bed.engine().stop_container(&"lasting".into(), StopOptions { timeout_secs: Some(30) }).await.unwrap();
    assert_eq!(bed.exit_code("lasting").await, 7);
    for name in ["lasting", "ending", "idle", "over"] {
        bed.remove(name).await;
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_ends_everything_and_always_means_always() {
    let mut bed = Bed::new().await;
    bed.run(sleeper("plain")).await;
    let mut always = sleeper("always");
    always.restart_policy = RestartPolicy::Always;
    bed.run(always).await;
    bed.stop_daemon().await;
    bed.node.reboot();
    bed.start_daemon().await;
    let status = bed.state("plain").exit_status().cloned().expect("it ended with the machine");
    assert_eq!(status.code, -1);
    assert!(status.started_at.is_some());
    support::wait_until("it is started again", || bed.state("always").is_running());
    bed.start("plain").await;
    bed.remove("plain").await;
    bed.remove("always").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_back_at_once() {
    let bed = Bed::new().await;
    let mut spec = sleeper("web");
    spec.restart_policy = RestartPolicy::Always;
    bed.run(spec).await;
    let mut events = bed.engine().subscribe();
    for round in 1..=2 {
        let pid = bed.pid("web");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        support::wait_until("it runs again", || bed.state("web").is_running() && bed.pid("web") != pid);
        assert_eq!(bed.record("web").restart_count, round);
    }
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event.action);
    }
    use EventAction as A;
    assert_eq!(seen, [A::Died, A::Restart, A::Init, A::Start].repeat(2));
    // A user's stop ends it for good.
    bed.exec_ready("web").await;
    bed.engine().stop_container(&"web".into(), StopOptions { timeout_secs: Some(30) }).await.unwrap();
    assert!(bed.record("web").stopped_by_user && bed.state("web").exit_status().is_some());
    bed.remove("web").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_failure_gives_up_after_its_retries() {
    let bed = Bed::new().await;
    let mut spec = sh("web", "exit 1");
    spec.restart_policy = RestartPolicy::OnFailure { max_retries: Some(2) };
    bed.run(spec).await;
    support::wait_until("it was tried twice more", || {
        let web = bed.record("web");
        web.restart_count == 2 && web.pending.is_none() && web.state.exit_status().is_some()
    });
    let mut fine = sh("fine", "exit 0");
    fine.restart_policy = RestartPolicy::OnFailure { max_retries: None };
    bed.run(fine).await;
    bed.exit_code("fine").await;
    assert_eq!(bed.record("fine").restart_count, 0);
    assert!(bed.engine().containers(&ContainerFilter::default()).is_empty(), "nothing runs");
    bed.remove("web").await;
    bed.remove("fine").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_was_owed_is_made_by_the_next_daemon() {
    let mut bed = Bed::new().await;
    let mut spec = sh("web", "exit 1");
    spec.restart_policy = RestartPolicy::Always;
    bed.run(spec).await;
    // By now it waits longer and longer.
    support::wait_until("it was restarted", || bed.record("web").restart_count >= 3);
    let before = bed.record("web").restart_count;
    bed.stop_daemon().await;
    bed.start_daemon().await;
    support::wait_until("it is restarted again", || bed.record("web").restart_count >= before + 2);
    bed.remove("web").await;
    bed.assert_nothing_left();
}
