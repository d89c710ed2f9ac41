//! A runtime without containers: plain child processes. The monitor around it is the real one, in a
//! process of its own: this test program, executed again by a script that stands for `selkie-monitor`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

use crate::engine::config::RuntimeName;
use crate::engine::runtime::{
    CreateRequest, ExecProcess, LaunchError, Launched, OciRuntime, Stdio, config_path,
};

/// Written by `delete`, a line each time.
pub const DELETED: &str = "deleted";
/// `create` does not return while the bundle has this file.
pub const HOLD: &str = "hold";
const PID: &str = "pid";
const GATE: &str = "gate";

/// Writes the script that runs [`fake_monitor`] as the program it stands for.
pub fn write_program(path: &Path) {
    let this = std::env::current_exe().unwrap();
    let test = "engine::monitor::fake::fake_monitor";
    // The test harness prints to standard output: the report goes by way of another descriptor. And it has a
    // second thread, which must not be the one that gets the signals the monitor waits for.
    let script = format!(
        "#!/bin/sh\nexec 3>&1 1>/dev/null\nSELKIE_FAKE_MONITOR=1 exec env --block-signal=CHLD,TERM,INT,HUP {} {test} --exact --ignored --nocapture --test-threads=1\n",
        this.display()
    );
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
#[ignore = "the program that other tests execute as their monitor"]
fn fake_monitor() {
    if std::env::var_os("SELKIE_FAKE_MONITOR").is_none() {
        return;
    }
    let signals = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    signals.into_iter().collect::<SigSet>().thread_unblock().unwrap();
    let report = File::options().write(true).open("/proc/self/fd/3").unwrap();
    rustix::stdio::dup2_stdout(&report).unwrap();
    drop(report);
    let clean = super::process::serve(open);
    std::process::exit(if clean { 0 } else { 1 });
}

pub fn open(_: &RuntimeName, request: &CreateRequest) -> Result<Box<dyn OciRuntime>, LaunchError> {
    Ok(Box::new(FakeRuntime { bundle: request.bundle.clone(), gate: None, pid: None }))
}

struct FakeRuntime {
    bundle: PathBuf,
    /// What the prepared process waits for.
    gate: Option<File>,
    pid: Option<i32>,
}

impl OciRuntime for FakeRuntime {
    fn create(&mut self, request: &CreateRequest, stdio: Stdio) -> Result<Launched, LaunchError> {
        while request.bundle.join(HOLD).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let text = std::fs::read(config_path(&request.bundle)).map_err(failed)?;
        let args: Vec<String> = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if args[0] == "missing" {
            return Err(LaunchError::CommandNotFound { command: args[0].clone() });
        }
        let gate = request.bundle.join(GATE);
        let _ = std::fs::remove_file(&gate);
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).map_err(|errno| failed(errno.into()))?;
        self.gate = Some(File::options().read(true).write(true).open(&gate).map_err(failed)?);
        let mut waiting = vec!["sh".to_owned(), "-c".into(), "read _ < \"$0\" && exec \"$@\"".into()];
        waiting.push(gate.to_string_lossy().into_owned());
        waiting.extend(args);
        let launched = spawn(&waiting, stdio)?;
        self.pid = Some(launched.pid);
        std::fs::write(request.bundle.join(PID), launched.pid.to_string()).map_err(failed)?;
        Ok(launched)
    }

    fn start(&mut self) -> Result<(), LaunchError> {
        let mut gate = self.gate.take().expect("created");
        if self.bundle.join("cannot-start").exists() {
            return Err(LaunchError::CommandNotExecutable { command: "x".into() });
        }
        gate.write_all(b"go\n").map_err(failed)?;
        // Open until it was read: what is in a pipe that nobody holds is gone.
        self.gate = Some(gate);
        Ok(())
    }

    fn exec(&mut self, exec: &ExecProcess, stdio: Stdio) -> Result<Launched, LaunchError> {
        spawn(exec.process.args().as_ref().expect("args"), stdio)
    }

    fn kill(&mut self, signal: i32) -> Result<(), LaunchError> {
        let signal = Signal::try_from(signal).map_err(|errno| failed(errno.into()))?;
        kill(Pid::from_raw(self.pid.expect("created")), signal).map_err(|errno| failed(errno.into()))
    }

    fn pause(&mut self) -> Result<(), LaunchError> {
        self.kill(Signal::SIGSTOP as i32)
    }

    fn resume(&mut self) -> Result<(), LaunchError> {
        self.kill(Signal::SIGCONT as i32)
    }

    fn delete(&mut self) -> Result<(), LaunchError> {
        if let Ok(pid) = std::fs::read_to_string(self.bundle.join(PID)) {
            // Its group stands for the cgroup.
            let _ = killpg(Pid::from_raw(pid.parse().expect("a pid")), Signal::SIGKILL);
            std::fs::remove_file(self.bundle.join(PID)).map_err(failed)?;
        }
        let mut deleted =
            File::options().create(true).append(true).open(self.bundle.join(DELETED)).map_err(failed)?;
        deleted.write_all(b"deleted\n").map_err(failed)
    }

    fn oom_events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn oom_killed(&self) -> bool {
        self.bundle.join("oom").exists()
    }
}

fn spawn(args: &[String], stdio: Stdio) -> Result<Launched, LaunchError> {
    let (mut command, stdin, stdout, stderr, console): (_, OwnedFd, OwnedFd, OwnedFd, _) = match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            let mut command = Command::new(&args[0]);
            command.args(&args[1..]).process_group(0);
            (command, stdin, stdout, stderr, None)
        }
        Stdio::Terminal { .. } => {
            let pty = nix::pty::openpty(None, None).map_err(|errno| failed(errno.into()))?;
            let mut command = Command::new("setsid");
            command.arg("--ctty").args(args);
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(failed);
            let (stdin, stdout) = (copy(&pty.slave)?, copy(&pty.slave)?);
            // From openpty without close-on-exec: a copy has it.
            (command, stdin, stdout, pty.slave, Some(copy(&pty.master)?))
        }
    };
    let child =
        command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LaunchError::CommandNotFound { command: args[0].clone() },
            _ => failed(error),
        })?;
    Ok(Launched { pid: child.id() as i32, console })
}

fn failed(error: io::Error) -> LaunchError {
    LaunchError::Failed { step: "fake".into(), source: error.into() }
}
