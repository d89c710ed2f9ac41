//! Create, start, stop, kill, pause, wait, remove.

use std::time::{Duration, Instant};

use selkie::engine::Engine;
use selkie::engine::container::spec::{ContainerSpec, NetworkMode, PortMapping, Protocol};
use selkie::engine::container::state::ContainerState;
use selkie::engine::container::{
    ContainerFilter, RemoveOptions, StartOutcome, StopOptions, StopOutcome, WaitCondition,
};
use selkie::engine::error::ErrorKind;
use selkie::engine::event::{EventAction, EventKind};

use super::bed::{Bed, IMAGE, config, sh, sleeper, stubborn};

fn within(secs: u32) -> StopOptions {
    StopOptions { timeout_secs: Some(secs) }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_the_commands_own() {
    let bed = Bed::new().await;
    for code in [0, 3, 255] {
        bed.run(sh("web", &format!("exit {code}"))).await;
        assert_eq!(bed.exit_code("web").await, code);
        bed.remove("web").await;
    }
    bed.run(sh("web", "kill -9 $$")).await;
    // PID 1 is immune to its own SIGKILL.
    assert_eq!(bed.exit_code("web").await, 0);
    bed.remove("web").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_can_not_be_executed_is_126_or_127() {
    let bed = Bed::new().await;
    let rows = [
        ("/does/not/exist", ErrorKind::CommandNotFound, 127),
        ("nothing-on-path", ErrorKind::CommandNotFound, 127),
        ("/etc/passwd", ErrorKind::CommandNotExecutable, 126),
    ];
    for (command, kind, code) in rows {
        let mut spec = sh("web", "");
        spec.command = Some(vec![command.to_owned()]);
        bed.create(spec).await;
        let error = bed.engine().start_container(&"web".into()).await.expect_err("it can not start");
        assert_eq!(error.kind(), kind, "{command}: {}", error.chain());
        assert!(error.chain().contains("container web"), "{}", error.chain());
        let state = bed.state("web");
        let status = state.exit_status().expect("it is over");
        assert_eq!((status.code, status.started_at), (code, None));
        assert!(status.error.as_ref().is_some_and(|error| error.contains(command)));
        bed.remove("web").await;
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_everything_as_it_was() {
    let bed = Bed::new().await;
    let mut unknown_user = sh("web", "true");
    unknown_user.user = Some("nobody-knows".into());
    let mut as_root = sh("web", "true");
    as_root.security.run_as_non_root = true;
    let mut missing_source = sh("web", "true");
    missing_source.mounts = vec![super::volumes::bind("/data", "/does/not/exist")];
    for (spec, reason) in [
        (unknown_user, "unable to find user nobody-knows"),
        (as_root, "image will run as root"),
        (missing_source, "/does/not/exist"),
    ] {
        bed.create(spec).await;
        let error = bed.engine().start_container(&"web".into()).await.expect_err("it can not start");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.chain());
        assert!(error.chain().contains(reason), "{}", error.chain());
        let record = bed.record("web");
        assert_eq!((&record.state, record.pending), (&ContainerState::Configured, None));
        bed.remove("web").await;
        bed.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_change_nothing() {
    let bed = Bed::new().await;
    let engine = bed.engine();
    let refused =
        async |spec: ContainerSpec| engine.create_container(spec).await.expect_err("refused").kind();
    assert_eq!(refused(ContainerSpec::new("localhost/nothing")).await, ErrorKind::NotFound);
    let mut contradiction = sh("web", "true");
    contradiction.mounts = vec![super::volumes::bind("relative", "/tmp")];
    assert_eq!(refused(contradiction).await, ErrorKind::InvalidArgument);
    bed.create(sh("web", "true")).await;
    assert_eq!(refused(sh("web", "true")).await, ErrorKind::AlreadyExists);
    let all = ContainerFilter { all: true, ..ContainerFilter::default() };
    assert_eq!(engine.containers(&all).len(), 1);
    bed.remove("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_and_stop_may_be_repeated() {
    let bed = Bed::new().await;
    let (engine, web) = (bed.engine(), "web".into());
    bed.create(sleeper("web")).await;
    assert_eq!(engine.stop_container(&web, within(5)).await.unwrap(), StopOutcome::AlreadyStopped);
    for _ in 0..2 {
        assert_eq!(engine.start_container(&web).await.unwrap(), StartOutcome::Started);
        assert_eq!(engine.start_container(&web).await.unwrap(), StartOutcome::AlreadyRunning);
        bed.exec_ready("web").await;
        assert_eq!(engine.stop_container(&web, within(30)).await.unwrap(), StopOutcome::Stopped);
        assert_eq!(bed.state("web").exit_status().unwrap().code, 7);
        assert_eq!(engine.stop_container(&web, within(5)).await.unwrap(), StopOutcome::AlreadyStopped);
    }
    engine.start_container(&web).await.unwrap();
    let before = bed.pid("web");
    bed.exec_ready("web").await;
    engine.restart_container(&web, within(30)).await.unwrap();
    assert_ne!(bed.pid("web"), before);
    bed.remove("web").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ignores_the_stop_signal_is_killed() {
    let bed = Bed::new().await;
    bed.run(stubborn("web")).await;
    bed.exec_ready("web").await;
    let start = Instant::now();
    bed.engine().stop_container(&"web".into(), within(1)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(bed.state("web").exit_status().unwrap().code, 137);
    bed.remove("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_gets_through_while_a_stop_waits() {
    let bed = Bed::new().await;
    bed.run(stubborn("web")).await;
    bed.exec_ready("web").await;
    let engine = bed.engine().clone();
    let stop = tokio::spawn(async move { engine.stop_container(&"web".into(), within(600)).await });
    crate::support::wait_until("it is stopping", || matches!(bed.state("web"), ContainerState::Stopping(_)));
    // The list answers meanwhile.
    assert_eq!(bed.engine().containers(&ContainerFilter::default()).len(), 1);
    bed.engine().kill_container(&"web".into(), 9).await.unwrap();
    assert_eq!(stop.await.unwrap().unwrap(), StopOutcome::Stopped);
    assert_eq!(bed.exit_code("web").await, 137);
    let error = bed.engine().kill_container(&"web".into(), 9).await.expect_err("it is dead");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    bed.remove("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_needs_force_for_what_runs() {
    let bed = Bed::new().await;
    bed.run(sleeper("web")).await;
    let error =
        bed.engine().remove_container(&"web".into(), RemoveOptions::default()).await.expect_err("it runs");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    bed.remove("web").await;
    let gone = bed.engine().container(&"web".into()).expect_err("it is gone");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_during_start_leaves_nothing() {
    let bed = Bed::new().await;
    for _ in 0..5 {
        bed.create(sleeper("web")).await;
        let engine = bed.engine().clone();
        let start = tokio::spawn(async move { engine.start_container(&"web".into()).await });
        crate::support::wait_until("the start has begun", || {
            bed.record("web").pending.is_some() || bed.state("web").process().is_some() || start.is_finished()
        });
        bed.remove("web").await;
        // Whichever came first, both are answered.
        let _ = start.await.unwrap();
        bed.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_stops_the_clock_of_a_container() {
    let bed = Bed::new().await;
    let (engine, web) = (bed.engine(), "web".into());
    bed.run(sleeper("web")).await;
    bed.exec_ready("web").await;
    engine.pause_container(&web).await.unwrap();
    assert!(matches!(bed.state("web"), ContainerState::Paused(_)));
    assert_eq!(engine.pause_container(&web).await.unwrap_err().kind(), ErrorKind::WrongState);
    engine.unpause_container(&web).await.unwrap();
    engine.pause_container(&web).await.unwrap();
    // Stopping unpauses first: the signal must be able to arrive.
    engine.stop_container(&web, within(30)).await.unwrap();
    assert_eq!(bed.state("web").exit_status().unwrap().code, 7);
    bed.remove("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_misses_no_end() {
    let bed = Bed::new().await;
    let engine = bed.engine();
    bed.create(sh("web", "exit 5")).await;
    for _ in 0..5 {
        let waiter = engine.clone();
        let wait =
            tokio::spawn(
                async move { waiter.wait_container(&"web".into(), &[WaitCondition::NextExit]).await },
            );
        tokio::task::yield_now().await;
        bed.start("web").await;
        assert_eq!(bed.wait("web", WaitCondition::Exited).await, 5);
        // A waiter that came late waits for the next end.
        if !wait.is_finished() {
            bed.start("web").await;
        }
        assert_eq!(wait.await.unwrap().unwrap(), 5);
        bed.wait("web", WaitCondition::NotRunning).await;
    }
    bed.remove("web").await;
    // Even what is gone is remembered for those who ask too late.
    assert_eq!(bed.wait("web", WaitCondition::Removed).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_remove_removes_and_the_code_is_not_lost() {
    let bed = Bed::new().await;
    let mut spec = sh("web", "exit 4");
    spec.auto_remove = true;
    bed.run(spec).await;
    assert_eq!(bed.wait("web", WaitCondition::Removed).await, 4);
    assert!(bed.engine().container(&"web".into()).is_err());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_and_kept() {
    let bed = Bed::new().await;
    let since = jiff::Timestamp::now();
    let mut events = bed.engine().subscribe();
    let mut spec = sh("web", "exit 3");
    spec.labels.insert("app".into(), "shop".into());
    bed.run(spec).await;
    bed.exit_code("web").await;
    bed.remove("web").await;
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert_eq!((event.kind, event.name.as_str()), (EventKind::Container, "web"));
        assert_eq!(event.attributes["image"], IMAGE);
        assert_eq!(event.attributes["app"], "shop");
        if event.action == EventAction::Died {
            assert_eq!(event.attributes["containerExitCode"], "3");
        }
        seen.push(event);
    }
    use EventAction as A;
    let actions: Vec<_> = seen.iter().map(|event| event.action).collect();
    assert_eq!(actions, [A::Create, A::Init, A::Start, A::Died, A::Remove]);
    assert_eq!(bed.engine().past_events(since, jiff::Timestamp::now()).unwrap(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_what_it_was_promised() {
    let bed = Bed::new().await;
    let mut spec = sh(
        "web",
        "id -u; hostname; echo $GREETING $HOME $container; cat /etc/hosts; ls -d /run/.containerenv; pwd",
    );
    spec.env.insert("GREETING".into(), "hello".into());
    spec.user = Some("nobody".into());
    spec.hostname = Some("front".into());
    spec.working_dir = Some("/tmp".into());
    spec.hosts = vec![("1.2.3.4".parse().unwrap(), vec!["other".into()])];
    let output = bed.output_of(spec).await;
    let subnet = bed.node.subnet();
    let prefix = subnet.rsplit_once('.').unwrap().0;
    for expected in [
        "65534\nfront\nhello /home podman\n",
        "1.2.3.4\tother\n",
        "\tfront web\n",
        "/run/.containerenv\n/tmp\n",
    ] {
        assert!(output.contains(expected), "{expected:?} in {output}");
    }
    assert!(output.contains(prefix), "an address of {subnet} in {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_answer_and_are_free_afterwards() {
    let bed = Bed::new().await;
    let port = 20_000 + std::process::id() as u16 % 10_000;
    for _ in 0..2 {
        let mut spec = sh("web", "while :; do echo hello | nc -l -p 80; done");
        spec.published_ports = vec![PortMapping::new(port, 80, Protocol::Tcp)];
        bed.run(spec).await;
        let answer = crate::support::wait_for("the port answers", || {
            use std::io::Read as _;
            let mut connection = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
            let mut answer = [0; 5];
            connection.read_exact(&mut answer).ok()?;
            Some(answer)
        });
        assert_eq!(&answer, b"hello");
        bed.remove("web").await;
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn network_modes_differ_in_what_is_seen() {
    let bed = Bed::new().await;
    let script = "ip -o addr | grep -c 'inet ' ; readlink /proc/self/ns/net";
    let with = |network: NetworkMode| {
        let mut spec = sh("probe", script);
        spec.network = network;
        spec
    };
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let seen = bed.output_of(with(NetworkMode::Host)).await;
    assert!(seen.contains(host.to_str().unwrap()), "{seen}");
    let none = bed.output_of(with(NetworkMode::None)).await;
    assert!(none.starts_with("1\n") && !none.contains(host.to_str().unwrap()), "only loopback: {none}");
    let bridge = bed.output_of(with(NetworkMode::default())).await;
    assert!(bridge.starts_with("2\n"), "{bridge}");

    bed.run(sleeper("web")).await;
    let web = bed.record("web").id.clone();
    let expected = std::fs::read_link(format!("/proc/{}/ns/net", bed.pid("web"))).unwrap();
    let shared = bed.output_of(with(NetworkMode::Container(web))).await;
    assert!(shared.contains(expected.to_str().unwrap()), "{shared}");
    bed.remove("web").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_inside_a_running_container_only() {
    let bed = Bed::new().await;
    let mut spec = sleeper("web");
    spec.env.insert("GREETING".into(), "hello".into());
    bed.create(spec).await;
    let refused = bed.exec("web", "true").await.expect_err("it does not run");
    assert_eq!(refused.kind(), ErrorKind::WrongState);
    bed.start("web").await;
    assert_eq!(bed.exec("web", "echo $GREETING; exit 5").await.unwrap(), (5, "hello\n".to_owned()));
    bed.remove("web").await;
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_root_belongs_to_one_engine() {
    let bed = Bed::new().await;
    let error = Engine::open(config(&bed.node)).await.map(|_| ()).expect_err("the root is taken");
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.chain().contains("another selkie"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_by_name_id_and_beginning() {
    let bed = Bed::new().await;
    bed.create(sh("web", "true")).await;
    let id = bed.record("web").id.clone();
    for wanted in ["web", id.as_str(), id.short(), &id.as_str()[..3]] {
        assert_eq!(bed.record(wanted).id, id);
    }
    assert!(bed.engine().container(&"we".into()).is_err(), "names have no beginnings");
    bed.remove("web").await;
}

/// A disk that is full refuses the operation, says so, and nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_changes_nothing() {
    let node = crate::support::TestNode::new();
    std::fs::create_dir_all(node.root()).unwrap();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, &node.root(), Some("tmpfs"), flags, Some("size=24m")).unwrap();
    let bed = Bed::on(node).await;
    bed.load(&crate::support::image::busybox(), IMAGE).await;
    bed.create(sh("before", "true")).await;
    let filler = bed.node.root().join("filler");
    // To the last byte.
    use std::io::Write as _;
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
    drop(file);

    let mut refused = 0;
    for number in 0..50 {
        match bed.engine().create_container(sh(&format!("full-{number}"), "true")).await {
            // The log of the database may have room left.
            Ok(_) => {}
            Err(error) => {
                assert!(error.chain().contains("full"), "{}", error.chain());
                assert!(error.chain().contains(&format!("full-{number}")), "{}", error.chain());
                assert!(bed.engine().container(&format!("full-{number}").as_str().into()).is_err());
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the disk was not full");
    let error = bed.engine().start_container(&"before".into()).await.expect_err("no room to start");
    assert!(error.chain().contains("full") || error.chain().contains("No space"), "{}", error.chain());
    assert_eq!(bed.state("before"), ContainerState::Configured);
    // Room again: everything goes on.
    std::fs::remove_file(&filler).unwrap();
    bed.start("before").await;
    assert_eq!(bed.exit_code("before").await, 0);
    bed.create(sh("after", "true")).await;
}
