//! External OCI runtimes: `crun`, `runc`, `youki` and whatever has their command line.
//!
//! The root file system is mounted in a mount namespace of the monitor's own, so that it goes with the monitor;
//! the program gets a copy of the bundle in which every path is absolute. Processes it leaves behind become the
//! monitor's children, since the monitor is a subreaper.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{OFlag, open as open_host};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use oci_spec::runtime::{BoxBuilder, Process, Spec};

use super::cgroup::{Cgroup, Layout, OomWatch};
use super::mount_options::MountOptions;
use super::{
    CreateRequest, ExecProcess, LaunchError, Launched, OciRuntime, Stdio, config_path, inside, rootfs, sync,
};
use crate::engine::host::{HostError, Result, Step as _, mount as mounts, process, syscall};

/// How long the program may take for one command.
const COMMAND_TIMEOUT_MS: u16 = 60_000;

pub struct External {
    program: String,
    request: CreateRequest,
    running: Option<Running>,
}

/// After `create`.
struct Running {
    pidfd: OwnedFd,
    oom: Option<OomWatch>,
}

impl External {
    pub fn new(program: &str, request: CreateRequest) -> Self {
        Self { program: program.to_owned(), request, running: None }
    }

    /// Where the program keeps its state, and we what we pass to it.
    fn dir(&self) -> PathBuf {
        self.request.bundle.join("external")
    }

    fn try_create(&mut self, spec: Spec, stdio: Stdio) -> Result<Launched, LaunchError> {
        let dir = self.dir();
        fs::create_dir_all(dir.join("state")).step(|| format!("create {}", dir.display()))?;
        let cgroup = cgroup(&spec, &self.request.id)?;
        let root = dir.join("rootfs");
        own_mount_namespace()?;
        rootfs::mount_root(&self.request.rootfs, &root)?;
        let mut spec = self.rewrite(spec, &root)?;
        if let Some(process) = spec.process_mut() {
            set_terminal(process, &stdio);
        }
        let json = serde_json::to_vec(&spec).step(|| "render the runtime spec".into())?;
        fs::write(config_path(&dir), json).step(|| format!("write {}", config_path(&dir).display()))?;
        let mut arguments = vec!["create".into(), "--bundle".into(), dir.clone().into_os_string()];
        let launched = self.launch(&mut arguments, stdio)?;
        let pidfd = process::pidfd_open(launched.pid)?;
        self.running = Some(Running { pidfd, oom: cgroup.watch_oom()? });
        Ok(launched)
    }

    /// The spec with absolute paths, and without options that are ours alone.
    fn rewrite(&self, mut spec: Spec, root: &Path) -> Result<Spec, LaunchError> {
        let has_filter = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
        if self.request.seccomp_bpf.is_some() && !has_filter {
            let source =
                "the spec names no seccomp profile, and this runtime takes no compiled filter".into();
            return Err(LaunchError::Failed { step: "check the runtime spec".into(), source });
        }
        if let Some(spec_root) = spec.root_mut() {
            spec_root.set_path(root.to_owned());
        }
        if let Some(linux) = spec.linux_mut() {
            let path = linux.cgroups_path().clone().unwrap_or_else(|| PathBuf::from(&self.request.id));
            // To these programs a relative path is relative to their own cgroup.
            linux.set_cgroups_path(Some(Path::new("/").join(path)));
        }
        for (at, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
            let options = mount.options().clone().unwrap_or_default();
            let Some(base) = MountOptions::parse(&options).beneath else { continue };
            let source = mount.source().clone().unwrap_or_default();
            let step = || format!("bind {} of {}", source.display(), base.display());
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let base_fd = open_host(&base, flags | OFlag::O_DIRECTORY, Mode::empty()).step(step)?;
            let resolved = inside::open_beneath(base_fd.as_fd(), &source, flags).step(step)?;
            // Bound to a name that nobody else can exchange, in this mount namespace alone.
            let bound = self.dir().join(format!("source-{at}"));
            match inside::is_directory(resolved.as_fd()).step(step)? {
                true => fs::create_dir_all(&bound).step(step)?,
                false => File::create(&bound).map(drop).step(step)?,
            }
            let target = open_host(&bound, flags, Mode::empty()).step(step)?;
            let copy = syscall::clone_mount(resolved.as_fd(), c"", true).step(step)?;
            syscall::attach_mount(copy.as_fd(), target.as_fd()).step(step)?;
            mount.set_source(Some(bound));
            mount.set_options(Some(options.into_iter().filter(|o| !o.starts_with("beneath=")).collect()));
        }
        Ok(spec)
    }

    /// Runs `create` or `exec`, with the streams or a new terminal, and finds the process it made.
    fn launch(&self, arguments: &mut Vec<std::ffi::OsString>, stdio: Stdio) -> Result<Launched, LaunchError> {
        let dir = self.dir();
        let pid_file = dir.join("pid");
        arguments.extend(["--pid-file".into(), pid_file.clone().into_os_string()]);
        let mut command = self.command();
        let console = match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => {
                command.args(&*arguments).arg(&self.request.id);
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
            Stdio::Terminal { .. } => {
                let console = ConsoleSocket::listen(&dir)?;
                command.args(&*arguments).arg("--console-socket").arg(console.name()).arg(&self.request.id);
                command.stdin(std::process::Stdio::null());
                command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
                Some(console)
            }
        };
        self.finish(command)?;
        let text = fs::read_to_string(&pid_file).step(|| format!("read {}", pid_file.display()))?;
        let pid = text.trim().parse().step_parse(&pid_file)?;
        let console = console.map(|console| console.receive()).transpose()?;
        Ok(Launched { pid, console })
    }

    fn command(&self) -> Command {
        let dir = self.dir();
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(dir.join("state"));
        command.arg("--log").arg(dir.join("log")).arg("--log-format").arg("json");
        command.current_dir(&dir);
        command
    }

    /// A command without streams.
    fn run<I: AsRef<OsStr>>(&self, arguments: &[I]) -> Result<(), LaunchError> {
        let mut command = self.command();
        command.args(arguments).arg(&self.request.id);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        self.finish(command)
    }

    fn finish(&self, mut command: Command) -> Result<(), LaunchError> {
        let step = || format!("run {}", self.program);
        let log = self.dir().join("log");
        let _ = fs::remove_file(&log);
        let mut child = command.spawn().step(step)?;
        // The streams are the container's now: our copies would keep its ends open.
        drop(command);
        let pidfd = process::pidfd_open(child.id() as i32)?;
        if !process::wait_ended(pidfd.as_fd(), COMMAND_TIMEOUT_MS) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(HostError::new(step(), io::Error::from(io::ErrorKind::TimedOut)).into());
        }
        let status = child.wait().step(step)?;
        if status.success() {
            return Ok(());
        }
        let message = last_error(&fs::read_to_string(&log).unwrap_or_default());
        Err(self.failure(message.unwrap_or_else(|| status.to_string())))
    }

    /// These programs tell causes apart by text alone.
    fn failure(&self, message: String) -> LaunchError {
        let command = || {
            load_spec(&self.request.bundle)
                .ok()
                .and_then(|spec| spec.process().as_ref()?.args().as_ref()?.first().cloned())
                .unwrap_or_else(|| "command".into())
        };
        match meaning(&message) {
            Meaning::NotFound => LaunchError::CommandNotFound { command: command() },
            Meaning::NotExecutable => LaunchError::CommandNotExecutable { command: command() },
            Meaning::Other => {
                LaunchError::Failed { step: format!("run {}", self.program), source: message.into() }
            }
        }
    }

    fn running(&self) -> Result<&Running, LaunchError> {
        self.running.as_ref().ok_or_else(|| LaunchError::Failed {
            step: format!("container {}", self.request.id),
            source: "it was not created".into(),
        })
    }
}

impl OciRuntime for External {
    fn create(&mut self, _: &CreateRequest, stdio: Stdio) -> Result<Launched, LaunchError> {
        let spec = load_spec(&self.request.bundle)?;
        let created = self.try_create(spec, stdio);
        if created.is_err()
            && let Err(error) = self.delete()
        {
            tracing::warn!(container.id = self.request.id, error = %crate::engine::error::chain(&error),
                "a failed launch left something behind");
        }
        created
    }

    fn start(&mut self) -> Result<(), LaunchError> {
        self.running()?;
        self.run(&["start"])
    }

    fn exec(&mut self, exec: &ExecProcess, stdio: Stdio) -> Result<Launched, LaunchError> {
        self.running()?;
        let mut process = exec.process.clone();
        set_terminal(&mut process, &stdio);
        let file = self.dir().join("process.json");
        let json = serde_json::to_vec(&process).step(|| "render the process".into())?;
        fs::write(&file, json).step(|| format!("write {}", file.display()))?;
        let mut arguments = vec!["exec".into(), "--detach".into(), "--process".into(), file.into_os_string()];
        self.launch(&mut arguments, stdio)
    }

    fn kill(&mut self, signal: i32) -> Result<(), LaunchError> {
        Ok(process::pidfd_signal(self.running()?.pidfd.as_fd(), signal)?)
    }

    fn pause(&mut self) -> Result<(), LaunchError> {
        self.running()?;
        self.run(&["pause"])
    }

    fn resume(&mut self) -> Result<(), LaunchError> {
        self.running()?;
        self.run(&["resume"])
    }

    fn delete(&mut self) -> Result<(), LaunchError> {
        self.running = None;
        let spec = match load_spec(&self.request.bundle) {
            Ok(spec) => spec,
            // The bundle goes last: without one there is nothing left.
            Err(error) if error.io().kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let dir = self.dir();
        if dir.join("state").join(&self.request.id).exists() {
            self.run(&["delete", "--force"])?;
        }
        cgroup(&spec, &self.request.id)?.remove()?;
        mounts::unmount_all(&dir)?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HostError::new(format!("remove {}", dir.display()), error).into())
            }
            _ => Ok(()),
        }
    }

    fn oom_events(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref()?.oom.as_ref().map(OomWatch::events)
    }

    fn oom_killed(&self) -> bool {
        self.running.as_ref().and_then(|running| running.oom.as_ref()).is_some_and(|oom| oom.kills() > 0)
    }
}

/// Where the program sends the terminal's other end.
struct ConsoleSocket {
    listener: UnixListener,
    /// Names the socket: its full path may be longer than a socket's name may be.
    dir: File,
}

impl ConsoleSocket {
    const NAME: &str = "console.sock";

    fn listen(dir: &Path) -> Result<Self> {
        let step = || format!("listen in {}", dir.display());
        let _ = fs::remove_file(dir.join(Self::NAME));
        let dir = File::open(dir).step(step)?;
        let listener = UnixListener::bind(Self::path(&dir)).step(step)?;
        Ok(Self { listener, dir })
    }

    fn path(dir: &File) -> PathBuf {
        format!("/proc/{}/fd/{}/{}", std::process::id(), dir.as_raw_fd(), Self::NAME).into()
    }

    fn name(&self) -> PathBuf {
        Self::path(&self.dir)
    }

    fn receive(&self) -> Result<OwnedFd> {
        const TIMEOUT_MS: u16 = 10_000;
        let step = || "receive the terminal".to_owned();
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(TIMEOUT_MS)).step(step)? == 0 {
            return Err(HostError::new(step(), io::Error::from(io::ErrorKind::TimedOut)));
        }
        let (stream, _) = self.listener.accept().step(step)?;
        sync::receive_descriptor(stream.as_fd())?
            .ok_or_else(|| HostError::new(step(), io::Error::from(io::ErrorKind::UnexpectedEof)))
    }
}

/// Known to the program, so that the command never sees a terminal without a size.
fn set_terminal(process: &mut Process, stdio: &Stdio) {
    match stdio {
        Stdio::Pipes { .. } => {
            process.set_terminal(Some(false));
        }
        Stdio::Terminal { columns, rows } => {
            let size = BoxBuilder::default().width(u64::from(*columns)).height(u64::from(*rows)).build();
            process.set_terminal(Some(true));
            process.set_console_size(size.ok());
        }
    }
}

/// From here on, what is mounted is mounted for the monitor and its children alone.
fn own_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace".into())?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .step(|| "separate from the host's mounts".into())
}

fn cgroup(spec: &Spec, id: &str) -> Result<Cgroup> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    Cgroup::new(Layout::detect()?, &path.unwrap_or_else(|| PathBuf::from(id)))
}

fn load_spec(bundle: &Path) -> Result<Spec> {
    let path = config_path(bundle);
    let step = || format!("read {}", path.display());
    serde_json::from_slice(&fs::read(&path).step(step)?).step(step)
}

enum Meaning {
    NotFound,
    NotExecutable,
    Other,
}

/// The same words podman looks for in the output of runc, crun and youki.
fn meaning(message: &str) -> Meaning {
    let text = message.to_lowercase();
    let about_command = text.contains("exec") || text.contains("executable");
    if text.contains("executable file not found")
        || (about_command && (text.contains("no such file or directory") || text.contains("not found")))
    {
        Meaning::NotFound
    } else if about_command && text.contains("permission denied") {
        Meaning::NotExecutable
    } else {
        Meaning::Other
    }
}

/// The last error of a log of JSON lines.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        matches!(entry.get("level")?.as_str()?.to_lowercase().as_str(), "error" | "fatal")
            .then(|| entry.get("msg").or(entry.get("message"))?.as_str().map(str::to_owned))
            .flatten()
    })
}

trait StepParse<T> {
    fn step_parse(self, path: &Path) -> Result<T>;
}

impl<T> StepParse<T> for std::result::Result<T, std::num::ParseIntError> {
    fn step_parse(self, path: &Path) -> Result<T> {
        self.map_err(|error| HostError::new(format!("read {}", path.display()), io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_failed() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"e1\"}\n\
                   {\"level\":\"error\",\"msg\":\"e2\"}\n{\"level\":\"info\",\"msg\":\"i\"}\nrubbish";
        assert_eq!(last_error(log).as_deref(), Some("e2"));
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn messages_of_the_runtimes_are_understood() {
        let runc = "container_linux.go:380: starting container process caused: exec: \"x\": executable file not found in $PATH";
        assert!(matches!(meaning(runc), Meaning::NotFound));
        assert!(matches!(
            meaning("executable file `x` not found in $PATH: No such file or directory"),
            Meaning::NotFound
        ));
        let denied = "exec: \"/etc/passwd\": permission denied: unknown";
        assert!(matches!(meaning(denied), Meaning::NotExecutable));
        assert!(matches!(meaning("open `/etc/passwd`: Permission denied"), Meaning::Other));
        assert!(matches!(meaning("cgroup: no such file or directory"), Meaning::Other));
    }
}
