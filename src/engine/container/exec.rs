//! Further commands in a running container: as its own process is, but for what the request changes.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec, UserBuilder};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::attach::failed;
use super::capability;
use super::user::{ResolvedUser, UserError, resolve_user};
use super::{ExecOutput, ExecRequest};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::monitor::protocol::ExecLifetime;
use crate::engine::monitor::{ExecSession, ExecStart, Monitors};
use crate::engine::runtime::{ExecProcess, config_path};

/// More is not read of a container's `/etc/passwd` or `/etc/group`.
const USER_FILE_LIMIT_BYTES: u64 = 1024 * 1024;
/// How long to read on after the command has ended, when something that it started holds its output open.
const LINGER: Duration = Duration::from_millis(100);

/// How a session's streams are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecStreams {
    /// Columns and rows of a new pseudo-terminal; `None`: pipes.
    pub terminal: Option<(u16, u16)>,
    pub stdin: bool,
    pub lifetime: ExecLifetime,
}

/// Starts a session in the container whose monitor is in `run_dir`; `name` is for messages. `pid` is the
/// container's first process, for looking up user names in its own `/etc/passwd`.
pub async fn start(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    pid: i32,
    request: &ExecRequest,
    streams: ExecStreams,
) -> Result<ExecSession> {
    if request.command.first().is_none_or(String::is_empty) {
        let subject = Subject::Container(name.to_owned());
        return Err(EngineError::invalid(
            subject,
            "must provide a non-empty command to start an exec session",
        ));
    }
    let (bundle_of, name_of, request_of) = (run_dir.to_owned(), name.to_owned(), request.clone());
    let process = tokio::task::spawn_blocking(move || {
        prepare(&bundle_of, &name_of, pid, &request_of, streams.terminal.is_some())
    })
    .await
    .map_err(|error| EngineError::internal(Subject::Container(name.to_owned()), "exec", error))??;
    let start = ExecStart {
        process: ExecProcess { process },
        terminal: streams.terminal,
        stdin: streams.stdin,
        lifetime: streams.lifetime,
    };
    monitors.exec(run_dir, start).await.map_err(|error| failed(name, "exec", error))
}

/// Runs a command to its end and collects at most `output_limit` bytes of what it printed. Killed when
/// the future is dropped.
pub async fn run(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    pid: i32,
    request: &ExecRequest,
    output_limit: usize,
) -> Result<ExecOutput> {
    let streams = ExecStreams { terminal: None, stdin: false, lifetime: ExecLifetime::Connection };
    let ExecSession { mut output, mut control, .. } =
        start(monitors, run_dir, name, pid, request, streams).await?;
    let mut collected = Vec::new();
    // What is beyond the limit is read all the same: the command must not wait for it.
    let mut read = async || {
        while let Some(chunk) = output.next().await {
            let (_, bytes) = chunk?;
            let room = output_limit - collected.len();
            collected.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        Ok::<_, EngineError>(())
    };
    let code = {
        let mut reading = std::pin::pin!(read());
        tokio::select! {
            result = &mut reading => {
                result?;
                control.wait().await
            }
            code = control.wait() => {
                // All that the command itself wrote is in the pipes already.
                if let Ok(result) = tokio::time::timeout(LINGER, reading).await {
                    result?;
                }
                code
            }
        }
    };
    let code = code.map_err(|error| failed(name, "wait for exec session", error))?;
    Ok(ExecOutput { code, output: collected })
}

/// The process to run: the container's own, changed. Blocking.
fn prepare(run_dir: &Path, name: &str, pid: i32, request: &ExecRequest, terminal: bool) -> Result<Process> {
    let subject = || Subject::Container(name.to_owned());
    let launched = Monitors::launch_request(run_dir).map_err(|error| failed(name, "exec", error))?;
    let spec = Spec::load(config_path(&launched.create.bundle))
        .map_err(|error| EngineError::internal(subject(), "read the bundle's configuration", error))?;
    let Some(own) = spec.process() else {
        return Err(EngineError::wrong_state(subject(), "its configuration has no process"));
    };
    let root = Root::open(pid).map_err(|error| EngineError::internal(subject(), "open root", error))?;
    let user = match &request.user {
        Some(user) if !user.is_empty() => Some(root.user(user).map_err(|error| match error {
            LookupError::User(error) => {
                EngineError::new(ErrorKind::InvalidArgument, subject(), "exec").with_source(error)
            }
            LookupError::Io(error) => EngineError::internal(subject(), "look up exec user", error),
        })?),
        // The container's own identity, and the home that belongs to it.
        Some(_) | None => None,
    };
    let home = match &user {
        Some(user) => user.home.clone(),
        None => root.user(&own.user().uid().to_string()).map_or("/".to_owned(), |user| user.home),
    };
    let held = held_capabilities();
    Ok(exec_process(own, request, user.as_ref(), &home, terminal, &held))
}

/// The container's process with the request's changes. Pure.
fn exec_process(
    own: &Process,
    request: &ExecRequest,
    user: Option<&ResolvedUser>,
    home: &str,
    terminal: bool,
    held: &HashSet<Capability>,
) -> Process {
    let mut process = own.clone();
    process.set_args(Some(request.command.clone()));
    process.set_terminal(Some(terminal));
    process.set_console_size(None);
    process.set_env(Some(environment(own, request, user.is_some().then_some(home), home, terminal)));
    if let Some(dir) = request.working_dir.as_ref().filter(|dir| !dir.is_empty()) {
        process.set_cwd(dir.into());
    }
    let same_user = user.is_none_or(|user| user.uid == own.user().uid());
    if let Some(user) = user {
        let umask = own.user().umask();
        let mut identity = UserBuilder::default()
            .uid(user.uid)
            .gid(user.gid)
            .additional_gids(user.additional_gids.clone())
            .build()
            .expect("everything required is set");
        identity.set_umask(umask);
        process.set_user(identity);
    }
    let uid = process.user().uid();
    process.set_capabilities(exec_capabilities(own, request.privileged.then_some(held), uid, same_user));
    if request.privileged {
        process.set_no_new_privileges(Some(false));
    }
    process
}

/// As podman: the container's bounding set stays. Root has all of it, the container's own user what its process
/// has, anybody else nothing. A privileged session has what the engine can give.
fn exec_capabilities(
    own: &Process,
    privileged: Option<&HashSet<Capability>>,
    uid: u32,
    same_user: bool,
) -> Option<LinuxCapabilities> {
    let own = own.capabilities().clone();
    let bounding = match privileged {
        Some(held) => held.clone(),
        None if same_user => return own,
        None => own.as_ref().and_then(|own| own.bounding().clone()).unwrap_or_default(),
    };
    let effective = if uid == 0 { bounding.clone() } else { HashSet::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding));
    sets.set_effective(Some(effective.clone()));
    sets.set_permitted(Some(effective));
    sets.set_inheritable(Some(HashSet::new()));
    sets.set_ambient(Some(HashSet::new()));
    Some(sets)
}

/// The container's, then the request's. `HOME` is the asked-for user's unless the request says otherwise.
fn environment(
    own: &Process,
    request: &ExecRequest,
    new_home: Option<&str>,
    home: &str,
    terminal: bool,
) -> Vec<String> {
    let mut env = own.env().clone().unwrap_or_default();
    let mut set = |name: &str, value: &str| {
        env.retain(|entry| entry.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
    };
    if let Some(home) = new_home {
        set("HOME", home);
    }
    for (name, value) in &request.env {
        set(name, value);
    }
    let has = |env: &[String], name: &str| env.iter().any(|entry| entry.split('=').next() == Some(name));
    if !has(&env, "HOME") {
        env.push(format!("HOME={home}"));
    }
    if terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// What this process may hand on.
fn held_capabilities() -> HashSet<Capability> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    capability::names_of_mask(mask).into_iter().filter_map(|name| name.parse().ok()).collect()
}

enum LookupError {
    User(UserError),
    Io(io::Error),
}

/// A container's root as its processes see it. Its contents are hostile: nothing is followed out of it.
struct Root(std::os::fd::OwnedFd);

impl Root {
    fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?))
    }

    fn user(&self, user: &str) -> Result<ResolvedUser, LookupError> {
        let passwd = self.read("etc/passwd").map_err(LookupError::Io)?;
        let group = self.read("etc/group").map_err(LookupError::Io)?;
        resolve_user(user, &passwd, &group).map_err(LookupError::User)
    }

    /// What is not there, or is no file, is empty.
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        // Without waiting for the writer of a FIFO.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Ok(file) => std::fs::File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Ok(Vec::new());
            }
            Err(errno) => return Err(errno.into()),
        };
        let mut content = Vec::new();
        if file.metadata()?.is_file() {
            file.take(USER_FILE_LIMIT_BYTES).read_to_end(&mut content)?;
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        let mut process = Process::default();
        process.set_args(Some(vec!["server".into()]));
        process.set_env(Some(vec!["PATH=/bin".into(), "A=1".into(), "HOME=/srv".into()]));
        process.set_cwd("/srv".into());
        process.set_capabilities(Some(sets(&[Capability::Chown, Capability::Kill], &[Capability::Chown])));
        process.user_mut().set_umask(Some(0o27));
        process
    }

    fn sets(bounding: &[Capability], effective: &[Capability]) -> LinuxCapabilities {
        let set = |list: &[Capability]| Some(list.iter().copied().collect::<HashSet<_>>());
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(set(bounding));
        sets.set_effective(set(effective));
        sets.set_permitted(set(effective));
        sets.set_inheritable(set(&[]));
        sets.set_ambient(set(&[]));
        sets
    }

    fn request() -> ExecRequest {
        ExecRequest {
            command: vec!["ls".into()],
            env: Default::default(),
            user: None,
            working_dir: None,
            privileged: false,
        }
    }

    fn user(uid: u32) -> ResolvedUser {
        ResolvedUser { uid, gid: 7, additional_gids: vec![8], home: "/home/u".into() }
    }

    fn made(request: &ExecRequest, user: Option<&ResolvedUser>, terminal: bool) -> Process {
        let held = HashSet::from([Capability::SysAdmin]);
        exec_process(&own(), request, user, "/home/u", terminal, &held)
    }

    #[test]
    fn without_changes_it_is_as_the_container_s_own_process() {
        let process = made(&request(), None, false);
        let mut expected = own();
        expected.set_args(Some(vec!["ls".into()]));
        expected.set_terminal(Some(false));
        assert_eq!(process, expected);
    }

    #[test]
    fn environment_is_merged() {
        let with_env = |env: &[(&str, &str)]| ExecRequest {
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..request()
        };
        let env = |process: Process| process.env().clone().unwrap();
        let nobody = user(1000);
        let cases = [
            (made(&with_env(&[("A", "2"), ("B", "=")]), None, false), "PATH=/bin HOME=/srv A=2 B=="),
            (made(&request(), None, true), "PATH=/bin A=1 HOME=/srv TERM=xterm"),
            (made(&with_env(&[("TERM", "vt")]), None, true), "PATH=/bin A=1 HOME=/srv TERM=vt"),
            (made(&request(), Some(&nobody), false), "PATH=/bin A=1 HOME=/home/u"),
            (made(&with_env(&[("HOME", "/x")]), Some(&nobody), false), "PATH=/bin A=1 HOME=/x"),
        ];
        for (process, expected) in cases {
            assert_eq!(env(process).join(" "), expected);
        }
    }

    #[test]
    fn identity_and_capabilities_go_together() {
        let all = [Capability::Chown, Capability::Kill];
        let cases = [
            // The container's user is root here.
            (None, false, sets(&all, &[Capability::Chown])),
            (Some(user(0)), false, sets(&all, &[Capability::Chown])),
            (Some(user(1000)), false, sets(&all, &[])),
            (None, true, sets(&[Capability::SysAdmin], &[Capability::SysAdmin])),
            (Some(user(1000)), true, sets(&[Capability::SysAdmin], &[])),
        ];
        for (user, privileged, expected) in cases {
            let process = made(&ExecRequest { privileged, ..request() }, user.as_ref(), false);
            assert_eq!(process.capabilities().as_ref(), Some(&expected), "{user:?} {privileged}");
            if let Some(user) = user {
                assert_eq!((process.user().uid(), process.user().gid()), (user.uid, 7));
                assert_eq!(process.user().additional_gids(), &Some(vec![8]));
            }
            assert_eq!(process.user().umask(), Some(0o27));
        }
    }

    #[test]
    fn a_hostile_root_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Root(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap());
        let passwd = dir.path().join("etc/passwd");
        for target in
            ["/proc/self/root/etc/passwd", "../../../../../../../etc/passwd", "/etc/passwd", "passwd"]
        {
            std::os::unix::fs::symlink(target, &passwd).unwrap();
            assert_eq!(root.read("etc/passwd").unwrap(), b"", "{target}");
            std::fs::remove_file(&passwd).unwrap();
        }
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(root.read("etc/passwd").unwrap(), b"");
        std::fs::remove_file(&passwd).unwrap();
        std::fs::write(dir.path().join("etc/real"), "u:x:5:6::/h:/s").unwrap();
        std::os::unix::fs::symlink("/etc/real", &passwd).unwrap();
        assert!(root.user("u").is_ok_and(|user| (user.uid, user.gid) == (5, 6)));
    }
}
