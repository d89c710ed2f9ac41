//! Real monitors in processes of their own, around the fake runtime.

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::engine::config::RuntimeName;
use crate::engine::container::spec::{LogConfig, LogDriver};
use crate::engine::runtime::{CreateRequest, Rootfs};

const PATIENCE: Duration = Duration::from_secs(30);
const ALL: AttachOptions = AttachOptions { stdin: true, stdout: true, stderr: true };

/// One container's directories, and the program.
struct Place {
    temp: tempfile::TempDir,
    monitors: Monitors,
    run_dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("monitor");
        fake::write_program(&program);
        let run_dir = temp.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        std::fs::create_dir(temp.path().join("bundle")).unwrap();
        Self { monitors: Monitors::with(program, fake::open), run_dir, temp }
    }

    fn bundle(&self, file: &str) -> PathBuf {
        self.temp.path().join("bundle").join(file)
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("ctr.log")
    }

    fn request(&self, args: &[&str]) -> LaunchRequest {
        std::fs::write(self.bundle("config.json"), serde_json::to_vec(args).unwrap()).unwrap();
        LaunchRequest {
            create: CreateRequest {
                id: "c".repeat(64),
                bundle: self.temp.path().join("bundle"),
                rootfs: Rootfs::Directory("/".into()),
                seccomp_bpf: None,
            },
            runtime: RuntimeName::Selkie,
            terminal: false,
            stdin_open: false,
            log: LogConfig::default(),
            log_path: self.log(),
            run_dir: self.run_dir.clone(),
        }
    }

    /// Launches and starts a shell command.
    async fn run(&self, script: &str) -> Process {
        self.run_request(self.request(&["sh", "-c", script])).await
    }

    async fn run_request(&self, request: LaunchRequest) -> Process {
        let created = self.monitors.launch(request).await.unwrap();
        let started = self.monitors.start(&self.run_dir).await.unwrap();
        assert_eq!((created.pid, created.start_ticks), (started.pid, started.start_ticks));
        assert_eq!(created.monitor_pid, started.monitor_pid);
        started
    }

    async fn exited(&self, process: &Process) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.monitors.exited(&self.run_dir, process)).await.expect("an end")
    }

    /// Launches, starts and waits.
    async fn run_to_end(&self, script: &str) -> ExitStatus {
        let process = self.run(script).await;
        self.exited(&process).await
    }

    fn deleted(&self) -> usize {
        std::fs::read_to_string(self.bundle(fake::DELETED)).unwrap_or_default().lines().count()
    }

    /// The texts of the log, without time.
    fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.log()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn assert_nothing_left(&self, monitor_pid: i32) {
        assert!(!Path::new(&format!("/proc/{monitor_pid}")).exists(), "the monitor was reaped");
        assert!(!self.run_dir.join(packet::SOCKET_NAME).exists());
        assert!(self.deleted() > 0);
        assert!(!launch::is_locked(&self.run_dir));
        assert!(self.monitors.0.watched.lock().unwrap().is_empty());
    }
}

impl Drop for Place {
    /// Also when a test panics: no monitor is left, and with it no child.
    fn drop(&mut self) {
        if let Ok(socket) = packet::connect(&self.run_dir)
            && let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket)
        {
            let _ = rustix::process::kill_process(peer.pid, rustix::process::Signal::KILL);
            launch::cleanup_leftovers(&self.run_dir, fake::open);
        }
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All output, as text; whether it ended well.
async fn collect(mut output: BoxStream<(OutputStream, Bytes)>) -> (String, bool) {
    let mut text = Vec::new();
    let read = async {
        while let Some(chunk) = output.next().await {
            match chunk {
                Ok((_, bytes)) => text.extend_from_slice(&bytes),
                Err(_) => return false,
            }
        }
        true
    };
    let well = tokio::time::timeout(PATIENCE, read).await.expect("an end of the output");
    (String::from_utf8(text).unwrap(), well)
}

fn alive(pid: i32, ticks: u64) -> bool {
    process_host::is_same(pid, ticks)
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
}

#[tokio::test]
async fn exit_codes_are_the_container_s() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let place = Place::new();
        let before = Timestamp::now();
        let process = place.run(script).await;
        let status = place.exited(&process).await;
        assert_eq!(status.code, code, "{script}");
        assert_eq!(status.started_at, Some(process.started_at));
        assert!(before <= process.started_at && process.started_at <= status.finished_at);
        assert!(!status.oom_killed);
        assert_eq!(status.error, None);
        place.assert_nothing_left(process.monitor_pid);
        // After the fact, and by another daemon, the same.
        assert_eq!(place.exited(&process).await, status);
        assert_eq!(place.monitors.adopt(&place.run_dir).await, Adopted::Ended(status));
        assert_eq!(place.deleted(), 1);
    }
}

#[tokio::test]
async fn output_is_logged_to_the_last_byte() {
    let place = Place::new();
    let status = place.run_to_end("echo out; echo err >&2; printf end").await;
    assert_eq!(status.code, 0);
    let mut lines = place.logged();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P end"]);
}

#[tokio::test]
async fn a_memory_kill_is_reported() {
    let place = Place::new();
    std::fs::write(place.bundle("oom"), "").unwrap();
    assert!(place.run_to_end("kill -9 $$").await.oom_killed);
}

#[tokio::test]
async fn logs_rotate() {
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "for i in $(seq 100); do echo line $i; done"]);
    request.log = LogConfig { max_size_bytes: Some(2_000), driver: LogDriver::JsonFile, ..request.log };
    let process = place.run_request(request).await;
    place.exited(&process).await;
    let present = std::fs::read_to_string(place.log()).unwrap();
    let predecessor = std::fs::read_to_string(place.temp.path().join("ctr.log.1")).unwrap();
    assert!(present.ends_with('\n') && predecessor.ends_with('\n'));
    assert!(present.contains(r#"{"log":"line 100\n","stream":"stdout","#), "{present}");
}

#[tokio::test]
async fn a_failed_create_says_why_and_leaves_nothing() {
    let place = Place::new();
    let error = place.monitors.launch(place.request(&["missing"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    assert_eq!(error.to_string(), "missing: no such file or directory");
    let Adopted::Ended(status) = place.monitors.adopt(&place.run_dir).await else { panic!() };
    assert_eq!((status.code, status.started_at), (127, None));
    assert!(place.monitors.0.watched.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_start_says_why_and_leaves_nothing() {
    let place = Place::new();
    std::fs::write(place.bundle("cannot-start"), "").unwrap();
    let process = place.monitors.launch(place.request(&["true"])).await.unwrap();
    let error = place.monitors.start(&place.run_dir).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotExecutable);
    place.assert_nothing_left(process.monitor_pid);
    assert_eq!(place.exited(&process).await.code, 126);
}

#[tokio::test]
async fn a_program_that_is_no_monitor_is_an_error() {
    let place = Place::new();
    let nowhere = Monitors::with("/nonexistent/monitor".into(), fake::open);
    assert!(nowhere.launch(place.request(&["true"])).await.is_err());
    let silent = Monitors::with("/bin/true".into(), fake::open);
    assert!(matches!(silent.launch(place.request(&["true"])).await, Err(MonitorError::Gone { .. })));
    assert_eq!(silent.adopt(&place.run_dir).await, Adopted::Lost);
}

#[tokio::test]
async fn signals_pause_and_resume_reach_the_container() {
    let place = Place::new();
    let process = place.run("trap 'exit 3' USR1; echo ready; while :; do sleep 0.01; done").await;
    eventually("the trap is set", || {
        std::fs::read_to_string(place.log()).is_ok_and(|log| log.contains("ready"))
    })
    .await;
    place.monitors.pause(&place.run_dir).await.unwrap();
    assert!(matches!(launch::read_state(&place.run_dir), Some(MonitorState::Paused { .. })));
    let exec =
        ExecStart { process: command(&["true"]), terminal: None, stdin: false, lifetime: ExecLifetime::Own };
    let error = place.monitors.exec(&place.run_dir, exec).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    place.monitors.resume(&place.run_dir).await.unwrap();
    assert!(matches!(launch::read_state(&place.run_dir), Some(MonitorState::Running { .. })));
    place.monitors.kill(&place.run_dir, Signal::USR1.as_raw()).await.unwrap();
    assert_eq!(place.exited(&process).await.code, 3);
    let error = place.monitors.kill(&place.run_dir, 9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
}

use rustix::process::Signal;

#[tokio::test]
async fn a_container_killed_before_its_start_never_started() {
    let place = Place::new();
    let process = place.monitors.launch(place.request(&["true"])).await.unwrap();
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    let status = place.exited(&process).await;
    assert_eq!((status.code, status.started_at), (137, None));
}

#[tokio::test]
async fn starting_twice_is_starting_once() {
    let place = Place::new();
    let first = place.run("echo once; sleep 1000").await;
    assert_eq!(place.monitors.start(&place.run_dir).await.unwrap(), first);
    eventually("it has run", || place.logged() == ["stdout F once"]).await;
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&first).await;
    assert_eq!(place.logged(), ["stdout F once"]);
}

#[tokio::test]
async fn every_attached_client_sees_everything() {
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "echo err >&2; cat; exit 4"]);
    request.stdin_open = true;
    let process = place.monitors.launch(request).await.unwrap();
    let mut first = place.monitors.attach(&place.run_dir, ALL).await.unwrap();
    let second = AttachOptions { stdin: false, ..ALL };
    let mut second = place.monitors.attach(&place.run_dir, second).await.unwrap();
    let third = AttachOptions { stderr: false, ..ALL };
    let third = place.monitors.attach(&place.run_dir, third).await.unwrap();
    place.monitors.start(&place.run_dir).await.unwrap();
    first.input.write_all(b"hello\n").await.unwrap();
    // Who did not ask for standard input has none to write to, and none to close.
    second.input.write_all(b"nothing\n").await.unwrap();
    second.input.shutdown().await.unwrap();
    // One that merely goes away closes nothing either.
    drop(place.monitors.attach(&place.run_dir, ALL).await.unwrap());
    first.input.write_all(b"world\n").await.unwrap();
    first.input.shutdown().await.unwrap();
    let (first, second, third) =
        tokio::join!(collect(first.output), collect(second.output), collect(third.output));
    for (name, (text, well)) in [("first", first), ("second", second)] {
        assert!(well, "{name}");
        // The streams are two pipes: only within one there is an order.
        assert_eq!(text.replace("err\n", ""), "hello\nworld\n", "{name}");
        assert!(text.contains("err\n"), "{name}");
    }
    assert_eq!(third, ("hello\nworld\n".to_owned(), true));
    assert_eq!(place.exited(&process).await.code, 4);
}

#[tokio::test]
async fn standard_input_waits_for_a_slow_container() {
    let place = Place::new();
    // Reads nothing until told to, then counts.
    let go = place.bundle("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done; wc -c", go.display());
    let mut request = place.request(&["sh", "-c", &script]);
    request.stdin_open = true;
    let process = place.run_request(request).await;
    let AttachHalves { output, mut input } = place.monitors.attach(&place.run_dir, ALL).await.unwrap();
    let writer = tokio::spawn(async move {
        input.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
        input.shutdown().await.unwrap();
    });
    // The monitor answers others meanwhile.
    for _ in 0..10 {
        place.monitors.resize(&place.run_dir, 80, 24).await.unwrap();
    }
    assert!(!writer.is_finished(), "3 MB are not swallowed by buffers");
    std::fs::write(go, "").unwrap();
    assert_eq!(collect(output).await, ("3000000\n".to_owned(), true));
    writer.await.unwrap();
    assert_eq!(place.exited(&process).await.code, 0);
}

#[tokio::test]
async fn slow_clients_lose_nothing_and_dead_ones_hold_nobody_up() {
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "seq 400000"]);
    request.log.driver = LogDriver::JsonFile;
    let process = place.monitors.launch(request).await.unwrap();
    let attach = async || place.monitors.attach(&place.run_dir, ALL).await.unwrap().output;
    let (dead, fast, mut slow) = (attach().await, attach().await, attach().await);
    place.monitors.start(&place.run_dir).await.unwrap();
    let slow = tokio::spawn(async move {
        // Behind from the beginning: the first pause alone is longer than it takes to fill every buffer.
        let mut text = Vec::new();
        let mut chunks = 0;
        while let Some(chunk) = slow.next().await {
            text.extend_from_slice(&chunk.unwrap().1);
            chunks += 1;
            if chunks % 20 == 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        String::from_utf8(text).unwrap()
    });
    let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    let (fast, well) = collect(fast).await;
    assert!(well && fast == expected, "the fast client got {} of {} bytes", fast.len(), expected.len());
    assert!(slow.await.unwrap() == expected);
    assert_eq!(place.exited(&process).await.code, 0);
    let log = std::fs::read_to_string(place.log()).unwrap();
    assert!(log.contains(r#"{"log":"400000\n""#));
    // It was cut off while the container ran on. When it looks, the end is there and is regular.
    let (text, _) = collect(dead).await;
    assert!(text.len() < expected.len() && expected.starts_with(&text));
}

#[tokio::test]
async fn a_client_that_was_cut_off_is_told() {
    let place = Place::new();
    let process = place.run("seq 400000; echo done >&2; sleep 1000").await;
    let dead = place.monitors.attach(&place.run_dir, ALL).await.unwrap();
    eventually("the container goes on", || {
        std::fs::read_to_string(place.log()).is_ok_and(|log| log.contains("stderr F done"))
    })
    .await;
    let (_, well) = collect(dead.output).await;
    assert!(!well);
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&process).await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_stream() {
    let place = Place::new();
    let go = place.bundle("go");
    let script =
        format!("until [ -e {} ]; do sleep 0.01; done; stty size; read x; echo \"<$x>\" >&2", go.display());
    let mut request = place.request(&["sh", "-c", &script]);
    request.terminal = true;
    let process = place.run_request(request).await;
    place.monitors.resize(&place.run_dir, 120, 40).await.unwrap();
    let AttachHalves { output, mut input } = place.monitors.attach(&place.run_dir, ALL).await.unwrap();
    std::fs::write(go, "").unwrap();
    input.write_all(b"typed\n").await.unwrap();
    let (text, well) = collect(output).await;
    assert!(well && text.contains("40 120\r\n") && text.contains("<typed>\r\n"), "{text:?}");
    assert_eq!(place.exited(&process).await.code, 0);
    assert!(place.logged().iter().all(|line| line.starts_with("stdout ")));
}

fn command(args: &[&str]) -> ExecProcess {
    let mut process = oci_spec::runtime::Process::default();
    process.set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()));
    ExecProcess { process }
}

fn exec(args: &[&str], lifetime: ExecLifetime) -> ExecStart {
    ExecStart { process: command(args), terminal: None, stdin: true, lifetime }
}

#[tokio::test]
async fn exec_sessions_have_streams_and_codes() {
    let place = Place::new();
    let process = place.run("sleep 1000").await;
    let session = exec(&["sh", "-c", "echo err >&2; cat; exit 5"], ExecLifetime::Connection);
    let mut session = place.monitors.exec(&place.run_dir, session).await.unwrap();
    session.input.write_all(b"hello").await.unwrap();
    session.input.shutdown().await.unwrap();
    let (text, well) = collect(session.output).await;
    assert!(well && text.contains("err\n") && text.contains("hello"), "{text}");
    assert_eq!(session.control.wait().await.unwrap(), 5);
    assert_eq!(session.control.wait().await.unwrap(), 5, "asked again");

    let missing = place.monitors.exec(&place.run_dir, exec(&["no-such-command"], ExecLifetime::Own)).await;
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::CommandNotFound);

    let sleep = exec(&["sleep", "1000"], ExecLifetime::Own);
    let mut session = place.monitors.exec(&place.run_dir, sleep).await.unwrap();
    // Waiting can be given up and taken up again.
    assert!(tokio::time::timeout(Duration::from_millis(20), session.control.wait()).await.is_err());
    session.control.kill(15).await.unwrap();
    assert_eq!(session.control.wait().await.unwrap(), 143);
    session.control.kill(15).await.unwrap();

    let terminal =
        ExecStart { terminal: Some((80, 24)), ..exec(&["sh", "-c", "read x; stty size"], ExecLifetime::Own) };
    let mut session = place.monitors.exec(&place.run_dir, terminal).await.unwrap();
    session.control.resize(100, 50).unwrap();
    session.input.write_all(b"\n").await.unwrap();
    let (text, well) = collect(session.output).await;
    assert!(well && text.contains("50 100\r\n"), "{text:?}");
    assert_eq!(session.control.wait().await.unwrap(), 0);

    // The container's end is the end of those who still run in it.
    let sleep = exec(&["sleep", "1000"], ExecLifetime::Own);
    let mut session = place.monitors.exec(&place.run_dir, sleep).await.unwrap();
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&process).await;
    assert_eq!(session.control.wait().await.unwrap(), 137);
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(session.pid).unwrap(), Signal::KILL);
}

#[tokio::test]
async fn a_dropped_exec_session_is_killed_with_its_children_and_a_detached_one_is_not() {
    let place = Place::new();
    let process = place.run("sleep 1000").await;
    let script = ["sh", "-c", "sleep 1000 & echo $!; wait"];
    for (lifetime, survives) in [(ExecLifetime::Connection, false), (ExecLifetime::Own, true)] {
        let mut session = place.monitors.exec(&place.run_dir, exec(&script, lifetime)).await.unwrap();
        let child: i32 = {
            let chunk = session.output.next().await.unwrap().unwrap().1;
            std::str::from_utf8(&chunk).unwrap().trim().parse().unwrap()
        };
        let ticks = process_host::start_ticks(child).unwrap().unwrap();
        let pid = session.pid;
        drop(session);
        if survives {
            // It goes when it is told to, and not before: the monitor has served others since.
            place.monitors.resize(&place.run_dir, 1, 1).await.unwrap();
            assert!(alive(child, ticks));
            let _ = rustix::process::kill_process_group(
                rustix::process::Pid::from_raw(pid).unwrap(),
                Signal::KILL,
            );
        }
        eventually("the session's child is gone", || !alive(child, ticks)).await;
    }
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&process).await;
}

fn children(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.to_owned()).unwrap_or_default();
        fields.split_ascii_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

#[tokio::test]
async fn orphans_are_reaped() {
    let place = Place::new();
    let process = place.run("(true & sleep 0 & exec true) & wait; echo done; sleep 1000").await;
    eventually("the orphans were made", || {
        std::fs::read_to_string(place.log()).is_ok_and(|log| log.contains("done"))
    })
    .await;
    eventually("only the container is left", || children(process.monitor_pid) == [process.pid]).await;
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&process).await;
}

#[tokio::test]
async fn what_holds_the_streams_open_does_not_hold_up_the_end() {
    let place = Place::new();
    // In a session of its own, out of reach of `delete`'s stand-in for the cgroup.
    let process = place.run("setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.1; exit 0").await;
    assert_eq!(place.exited(&process).await.code, 0);
    let line = place.logged().remove(0);
    let pid: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn sigterm_to_the_monitor_is_passed_on_and_the_end_recorded() {
    let place = Place::new();
    let process = place.run("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done").await;
    eventually("the trap is set", || {
        std::fs::read_to_string(place.log()).is_ok_and(|log| log.contains("ready"))
    })
    .await;
    let monitor = rustix::process::Pid::from_raw(process.monitor_pid).unwrap();
    rustix::process::kill_process(monitor, Signal::TERM).unwrap();
    assert_eq!(place.exited(&process).await.code, 9);
    place.assert_nothing_left(process.monitor_pid);
}

#[tokio::test]
async fn a_monitor_that_is_killed_takes_its_container_along() {
    for start in [true, false] {
        let place = Place::new();
        let request = place.request(&["sleep", "1000"]);
        let process = match start {
            true => place.run_request(request).await,
            false => place.monitors.launch(request).await.unwrap(),
        };
        let monitor = rustix::process::Pid::from_raw(process.monitor_pid).unwrap();
        rustix::process::kill_process(monitor, Signal::KILL).unwrap();
        let status = place.exited(&process).await;
        assert_eq!((status.code, status.error.as_deref()), (137, Some("the monitor died")));
        assert_eq!(status.started_at, start.then_some(process.started_at));
        assert!(!alive(process.pid, process.start_ticks));
        place.assert_nothing_left(process.monitor_pid);
        // Found out once.
        assert_eq!(place.exited(&process).await, status);
        assert_eq!(place.deleted(), 1);
    }
}

/// A daemon of its own: launches what it is told, starts it if told so, and is killed.
#[test]
#[ignore = "the daemon that other tests kill"]
fn fake_daemon() {
    let Some(request) = std::env::var_os("SELKIE_FAKE_DAEMON") else { return };
    let request: LaunchRequest = serde_json::from_slice(&std::fs::read(&request).unwrap()).unwrap();
    let program = request.run_dir.parent().unwrap().join("monitor");
    let held = request.create.bundle.join(fake::HOLD).exists();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let monitors = Monitors::with(program, fake::open);
        let run_dir = request.run_dir.clone();
        if held {
            let killed = async {
                // Locked is the run directory before that already.
                eventually("the monitor was spawned", || monitors.watched(&run_dir).is_some()).await;
                rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
            };
            let _ = tokio::join!(monitors.launch(request), killed);
        } else {
            monitors.launch(request).await.unwrap();
            monitors.start(&run_dir).await.unwrap();
        }
    });
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
}

/// Has a daemon launch the request, and waits until that daemon was killed.
async fn launch_and_die(place: &Place, request: &LaunchRequest) {
    let file = place.temp.path().join("request.json");
    std::fs::write(&file, serde_json::to_vec(request).unwrap()).unwrap();
    let this = std::env::current_exe().unwrap();
    let mut daemon = std::process::Command::new(this)
        .args(["engine::monitor::tests::fake_daemon", "--exact", "--ignored", "--nocapture"])
        .env("SELKIE_FAKE_DAEMON", file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = tokio::task::spawn_blocking(move || daemon.wait().unwrap()).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn containers_outlive_the_daemon_and_are_adopted() {
    let place = Place::new();
    let go = place.bundle("go");
    let script =
        format!("echo before; until [ -e {} ]; do sleep 0.01; done; echo after; exit 6", go.display());
    launch_and_die(&place, &place.request(&["sh", "-c", &script])).await;
    let Adopted::Alive { state, monitor_pid } = place.monitors.adopt(&place.run_dir).await else { panic!() };
    let MonitorState::Running { pid, start_ticks, started_at } = state else { panic!("{state:?}") };
    assert!(alive(pid, start_ticks));
    // Adopting again changes nothing.
    assert!(matches!(place.monitors.adopt(&place.run_dir).await, Adopted::Alive { .. }));
    std::fs::write(go, "").unwrap();
    let process = Process { pid, start_ticks, monitor_pid, started_at };
    let status = place.exited(&process).await;
    assert_eq!((status.code, status.started_at), (6, Some(started_at)));
    assert_eq!(place.logged(), ["stdout F before", "stdout F after"]);
    assert_eq!(place.deleted(), 1);
}

#[tokio::test]
async fn an_end_that_no_daemon_saw_is_known_to_the_next() {
    let place = Place::new();
    launch_and_die(&place, &place.request(&["sh", "-c", "exit 8"])).await;
    eventually("the end", || matches!(launch::read_state(&place.run_dir), Some(MonitorState::Exited(_))))
        .await;
    let Adopted::Ended(status) = place.monitors.adopt(&place.run_dir).await else { panic!() };
    assert_eq!(status.code, 8);
}

#[tokio::test]
async fn a_launch_whose_daemon_died_is_waited_for() {
    let place = Place::new();
    std::fs::write(place.bundle(fake::HOLD), "").unwrap();
    launch_and_die(&place, &place.request(&["sh", "-c", "exit 2"])).await;
    let (monitors, run_dir) = (place.monitors.clone(), place.run_dir.clone());
    let adoption = tokio::spawn(async move { monitors.adopt(&run_dir).await });
    eventually("the monitor listens", || place.run_dir.join(packet::SOCKET_NAME).exists()).await;
    assert!(!adoption.is_finished(), "what will become of it is not known yet");
    std::fs::remove_file(place.bundle(fake::HOLD)).unwrap();
    let Adopted::Alive { state, monitor_pid } = adoption.await.unwrap() else { panic!() };
    let MonitorState::Created { pid, start_ticks } = state else { panic!("{state:?}") };
    place.monitors.start(&place.run_dir).await.unwrap();
    let process = Process { pid, start_ticks, monitor_pid, started_at: Timestamp::now() };
    assert_eq!(place.exited(&process).await.code, 2);
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let place = Place::new();
    std::fs::write(place.bundle(fake::HOLD), "").unwrap();
    let launch = place.monitors.launch(place.request(&["true"]));
    assert!(tokio::time::timeout(Duration::from_millis(300), launch).await.is_err());
    eventually("its monitor is gone", || {
        !launch::is_locked(&place.run_dir) && place.monitors.0.watched.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(place.monitors.adopt(&place.run_dir).await, Adopted::Lost);
}

#[tokio::test]
async fn the_run_directory_of_nobody_tells_nothing() {
    let place = Place::new();
    assert_eq!(place.monitors.adopt(&place.run_dir).await, Adopted::Lost);
    assert_eq!(place.monitors.adopt(Path::new("/nonexistent")).await, Adopted::Lost);
    let process = Process { pid: 1, start_ticks: 1, monitor_pid: 1, started_at: Timestamp::now() };
    assert_eq!(place.exited(&process).await.code, -1);
}

#[tokio::test]
async fn one_directory_runs_again_and_again() {
    let place = Place::new();
    for code in 0..5 {
        assert_eq!(place.run_to_end(&format!("exit {code}")).await.code, code);
    }
    assert_eq!(place.deleted(), 5);
}

#[tokio::test]
async fn two_launches_in_one_directory_are_refused() {
    let place = Place::new();
    let process = place.run("sleep 1000").await;
    assert!(place.monitors.launch(place.request(&["true"])).await.is_err());
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    assert_eq!(place.exited(&process).await.code, 137);
}

#[tokio::test]
async fn a_monitor_at_rest_does_not_wake() {
    let place = Place::new();
    let process = place.run("sleep 1000").await;
    let _client = place.monitors.attach(&place.run_dir, ALL).await.unwrap();
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.monitor_pid)).unwrap();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    let mut before = switches();
    // Until the last answer's wake-up is over, then for a while.
    eventually("rest", || std::mem::replace(&mut before, switches()) == before).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(switches(), before);
    place.monitors.kill(&place.run_dir, 9).await.unwrap();
    place.exited(&process).await;
}
