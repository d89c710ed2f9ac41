//! What a process does on its way into a container: from `clone3` to `execve`.
//!
//! Runs in the child alone. Each step is in the order that runc established, since each takes away what an
//! earlier one needs: namespaces, cgroup, file system, parameters, labels, privileges, filter, command.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{
    AccessFlags, Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, faccessat, fchown, setgroups,
    setresgid, setresuid, setsid,
};
use oci_spec::runtime::{Hook, LinuxNamespaceType};

use super::Stdio;
use super::cgroup::Cgroup;
use super::hooks::{self, HookState};
use super::inside::{self, Missing};
use super::process::ProcessPlan;
use super::rootfs::{self, RootfsPlan};
use super::sync::{self, Failure, Message};
use crate::engine::host::{HostError, Step as _, syscall, sysctl};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// A container's first process.
pub struct Init<'a> {
    pub id: &'a str,
    pub rootfs: RootfsPlan<'a>,
    pub process: &'a ProcessPlan,
    /// Existing namespaces to enter, in order.
    pub joins: &'a [(LinuxNamespaceType, OwnedFd)],
    /// A network namespace of its own was made: its loopback is to be brought up.
    pub new_network: bool,
    /// There are hooks for the launcher to run once the namespaces are there.
    pub runtime_hooks: bool,
}

/// A process added to a running container.
pub struct Joiner<'a> {
    pub process: &'a ProcessPlan,
    pub cgroup: &'a Cgroup,
    /// The container's first process, whose namespaces are entered.
    pub target: BorrowedFd<'a>,
}

impl Init<'_> {
    /// Never returns to the caller's code: executes the command, or reports why not and ends.
    pub fn run(&self, socket: BorrowedFd<'_>, stdio: &Stdio) -> ! {
        let never = self.try_run(socket, stdio);
        give_up(socket, never)
    }

    fn try_run(&self, socket: BorrowedFd<'_>, stdio: &Stdio) -> Result<Infallible> {
        let spec = self.rootfs.spec;
        become_independent(self.process)?;
        self.rootfs.cgroup.join_legacy()?;
        for (kind, namespace) in self.joins {
            let flag = clone_flag(*kind);
            setns(namespace, flag).step(|| format!("join the {kind} namespace"))?;
        }
        if self.rootfs.own_cgroup_namespace
            && !self.joins.iter().any(|(kind, _)| *kind == LinuxNamespaceType::Cgroup)
        {
            // Only now, so that its root is the container's cgroup.
            unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace".into())?;
        }
        take_streams(stdio)?;
        syscall::close_all_but(&[0, 1, 2, socket.as_raw_fd()]).step(|| "close descriptors".into())?;
        if self.new_network {
            syscall::interface_up("lo").step(|| "bring up the loopback interface".into())?;
        }
        let proc = rootfs::host_procfs()?;
        // Modes are meant as they are written.
        umask(Mode::empty());
        let root = rootfs::build(&self.rootfs)?;
        if self.runtime_hooks {
            sync::tell(socket, &Message::Hooks, None)?;
            if !sync::await_release(socket)? {
                syscall::exit_now(1);
            }
        }
        self.run_hooks(|hooks| hooks.create_container().as_deref(), "creating")?;
        let cwd = Path::new(&self.process.cwd);
        if self.process.cwd != "/" {
            umask(Mode::from_bits_truncate(0o022));
            inside::ensure(root.as_fd(), cwd, Missing::Directory)?;
            umask(Mode::empty());
        }
        let console = match stdio {
            Stdio::Terminal { columns, rows } => {
                let console = open_console(root.as_fd(), self.process, *columns, *rows)?;
                bind_console(root.as_fd(), &console.peer)?;
                Some(console)
            }
            Stdio::Pipes { .. } => None,
        };
        self.set_names_and_parameters(proc.as_fd())?;
        rootfs::protect(root.as_fd(), spec)?;
        rootfs::enter(root.as_fd(), spec)?;
        drop(root);
        use_streams(console.as_ref(), self.process)?;
        let keyring = CString::new(format!("_ses.{}", self.id)).unwrap_or_default();
        let prepared = confine(self.process, proc, &keyring)?;
        sync::tell(socket, &Message::Ready, console.as_ref().map(|console| console.master.as_fd()))?;
        drop(console);
        if !sync::await_release(socket)? {
            syscall::exit_now(1);
        }
        self.run_hooks(|hooks| hooks.start_container().as_deref(), "created")?;
        execute(self.process, prepared)
    }

    fn run_hooks(
        &self,
        choose: impl FnOnce(&oci_spec::runtime::Hooks) -> Option<&[Hook]>,
        status: &'static str,
    ) -> Result<()> {
        let Some(hooks) = self.rootfs.spec.hooks().as_ref().and_then(choose) else { return Ok(()) };
        let pid = Some(std::process::id() as i32);
        let state = HookState { id: self.id, status, pid, bundle: self.rootfs.bundle };
        Ok(hooks::run(hooks, state)?)
    }

    /// Host name and sysctls, which the launcher has checked to be the container's own.
    fn set_names_and_parameters(&self, proc: BorrowedFd<'_>) -> Result<()> {
        let spec = self.rootfs.spec;
        if let Some(hostname) = spec.hostname().as_deref().filter(|name| !name.is_empty()) {
            nix::unistd::sethostname(hostname).step(|| format!("set hostname {hostname}"))?;
        }
        if let Some(domain) = spec.domainname().as_deref().filter(|name| !name.is_empty()) {
            syscall::set_domain_name(domain).step(|| format!("set domain name {domain}"))?;
        }
        let sysctls: BTreeMap<String, String> = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.sysctl().clone())
            .unwrap_or_default()
            .into_iter()
            .collect();
        for (key, value) in &sysctls {
            write_in(proc, &Path::new("sys").join(sysctl::relative_path(key)), value)
                .step(|| format!("set sysctl {key}"))?;
        }
        Ok(())
    }
}

impl Joiner<'_> {
    /// As [`Init::run`].
    pub fn run(&self, socket: BorrowedFd<'_>, stdio: &Stdio) -> ! {
        let never = self.try_run(socket, stdio);
        give_up(socket, never)
    }

    fn try_run(&self, socket: BorrowedFd<'_>, stdio: &Stdio) -> Result<Infallible> {
        become_independent(self.process)?;
        self.cgroup.join_legacy()?;
        let proc = rootfs::host_procfs()?;
        take_streams(stdio)?;
        let target = keep_above_streams(self.target)?;
        let keep = [0, 1, 2, socket.as_raw_fd(), target, proc.as_raw_fd()];
        syscall::close_all_but(&keep).step(|| "close descriptors".into())?;
        // All at once; the PID namespace came with the clone.
        let all = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        syscall::join_namespaces(target, all.bits()).step(|| "join the container's namespaces".into())?;
        syscall::close_one(target);
        umask(Mode::from_bits_truncate(0o022));
        let console = match stdio {
            Stdio::Terminal { columns, rows } => {
                let root = File::open("/").step(|| "open the root".into())?;
                Some(open_console(root.as_fd(), self.process, *columns, *rows)?)
            }
            Stdio::Pipes { .. } => None,
        };
        use_streams(console.as_ref(), self.process)?;
        let prepared = confine(self.process, proc, c"_ses.exec")?;
        sync::tell(socket, &Message::Ready, console.as_ref().map(|console| console.master.as_fd()))?;
        drop(console);
        execute(self.process, prepared)
    }
}

fn give_up(socket: BorrowedFd<'_>, failed: Result<Infallible>) -> ! {
    let Err(failure) = failed;
    // If even this fails, the launcher sees the end without a reason.
    let _ = sync::tell(socket, &Message::Failed(failure), None);
    syscall::exit_now(1)
}

/// Nothing of the launcher's that the container could feel or reach: signals, session, `/proc` entry.
fn become_independent(process: &ProcessPlan) -> Result<()> {
    // Until the command is executed nobody in the container may look into this process (CVE-2016-9962).
    nix::sys::prctl::set_dumpable(false).step(|| "become undumpable".into())?;
    syscall::reset_signals().step(|| "reset signals".into())?;
    setsid().step(|| "start a session".into())?;
    if let Some(score) = process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .step(|| format!("set OOM score {score}"))?;
    }
    for (resource, soft, hard) in &process.rlimits {
        nix::sys::resource::setrlimit(*resource, *soft, *hard)
            .step(|| format!("set limit {resource:?} to {soft}:{hard}"))?;
    }
    if let Some(priority) = process.io_priority {
        syscall::set_io_priority(priority).step(|| "set I/O priority".into())?;
    }
    Ok(())
}

/// Puts the streams where the command expects them.
fn take_streams(stdio: &Stdio) -> Result<()> {
    let step = || "set up standard streams".to_owned();
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            // Copied out of the way first: they may themselves have the numbers 0 to 2.
            let aside = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(10)).step(step);
            let numbers = [aside(stdin)?, aside(stdout)?, aside(stderr)?];
            for (at, number) in numbers.into_iter().enumerate() {
                syscall::duplicate_to(number, at as RawFd).step(step)?;
            }
        }
        Stdio::Terminal { .. } => {
            let null = File::options().read(true).write(true).open("/dev/null").step(step)?;
            let aside = fcntl(&null, FcntlArg::F_DUPFD_CLOEXEC(10)).step(step)?;
            for number in 0..3 {
                syscall::duplicate_to(aside, number).step(step)?;
            }
        }
    }
    Ok(())
}

fn keep_above_streams(fd: BorrowedFd<'_>) -> Result<RawFd> {
    Ok(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(10)).step(|| "duplicate a descriptor".into())?)
}

struct Console {
    master: OwnedFd,
    peer: OwnedFd,
}

/// A new pseudo-terminal of the container's own devpts.
fn open_console(root: BorrowedFd<'_>, process: &ProcessPlan, columns: u16, rows: u16) -> Result<Console> {
    let step = || "make a terminal".to_owned();
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = inside::open_strict(root, Path::new("dev/pts/ptmx"), flags).step(step)?;
    // A container that is being joined may have put anything there.
    if fstatfs(&master).step(step)?.filesystem_type() != DEVPTS_SUPER_MAGIC {
        return Err(HostError::new("/dev/pts is not devpts", Errno::EINVAL).into());
    }
    syscall::unlock_terminal(master.as_fd()).step(step)?;
    let peer = syscall::terminal_peer(master.as_fd()).step(step)?;
    if columns > 0 && rows > 0 {
        syscall::set_terminal_size(peer.as_fd(), columns, rows).step(step)?;
    }
    fchown(&peer, Some(Uid::from_raw(process.uid)), None).step(step)?;
    Ok(Console { master, peer })
}

/// The container's `/dev/console` is its terminal.
fn bind_console(root: BorrowedFd<'_>, peer: &OwnedFd) -> Result<()> {
    let step = || "make /dev/console".to_owned();
    let target = inside::ensure(root, Path::new("/dev/console"), Missing::File)?;
    let copy = syscall::clone_mount(peer.as_fd(), c"", false).step(step)?;
    Ok(syscall::attach_mount(copy.as_fd(), target.as_fd()).step(step)?)
}

/// Inside the container: the terminal becomes the streams, or the streams the user's.
fn use_streams(console: Option<&Console>, process: &ProcessPlan) -> Result<()> {
    let step = || "set up standard streams".to_owned();
    if let Some(console) = console {
        syscall::set_controlling_terminal(console.peer.as_fd()).step(step)?;
        dup2_stdin(&console.peer).step(step)?;
        dup2_stdout(&console.peer).step(step)?;
        dup2_stderr(&console.peer).step(step)?;
        return Ok(());
    }
    let streams = [
        (std::io::stdin().as_fd().as_raw_fd(), OFlag::O_RDONLY),
        (std::io::stdout().as_fd().as_raw_fd(), OFlag::O_WRONLY),
        (std::io::stderr().as_fd().as_raw_fd(), OFlag::O_WRONLY),
    ];
    for (number, flags) in streams {
        let stream = syscall::borrow(number);
        if rootfs::is_null_device(stream) {
            // The host's device file must not be reachable from inside; some containers have none of their own.
            if let Ok(null) = nix::fcntl::open("/dev/null", flags | OFlag::O_CLOEXEC, Mode::empty())
                && rootfs::is_null_device(null.as_fd())
            {
                syscall::duplicate_to(null.as_raw_fd(), number).step(step)?;
            }
        } else if fstat(stream).is_ok_and(|stat| stat.st_uid != process.uid) {
            // So that the user can open /dev/stdout again. Streams that cannot change owner are used as they are.
            let _ = fchown(stream, Some(Uid::from_raw(process.uid)), None);
        }
    }
    Ok(())
}

/// What [`execute`] needs, found while it still could be.
struct Prepared {
    program: CString,
    home: Option<CString>,
}

/// Takes away everything the command shall not have. Shared by a container's first process and later ones.
fn confine(process: &ProcessPlan, proc: OwnedFd, keyring: &std::ffi::CStr) -> Result<Prepared> {
    match syscall::join_session_keyring(keyring) {
        // A kernel without keyrings, or a quota reached: there is then nothing to be protected from, or nothing
        // more to get. runc goes on as well.
        Ok(()) | Err(Errno::ENOSYS | Errno::EDQUOT) => {}
        Err(error) => return Err(HostError::new("join a session keyring", error).into()),
    }
    apply_labels(process, proc.as_fd())?;
    drop(proc);
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().step(|| "give up new privileges".into())?;
    } else if let Some(program) = &process.seccomp {
        // Without no_new_privs this takes CAP_SYS_ADMIN, so it must be now; with it, see `execute`.
        syscall::load_seccomp(program).step(|| "load the seccomp filter".into())?;
    }
    let home = process.wants_home.then(|| home_of(process.uid));
    change_user(process)?;
    let program = find_program(process)?;
    Ok(Prepared { program, home })
}

fn apply_labels(process: &ProcessPlan, proc: BorrowedFd<'_>) -> Result<()> {
    if let Some(profile) = process.apparmor_profile.as_deref().filter(|profile| *profile != "unconfined") {
        let step = || format!("apply AppArmor profile {profile}");
        let label = format!("exec {profile}");
        // The second is where kernels before 5.8 have it.
        match write_in(proc, Path::new("thread-self/attr/apparmor/exec"), &label) {
            Err(Errno::ENOENT) => write_in(proc, Path::new("thread-self/attr/exec"), &label).step(step)?,
            other => other.step(step)?,
        }
    }
    if let Some(label) = &process.selinux_label
        && Path::new("/sys/fs/selinux/enforce").exists()
    {
        write_in(proc, Path::new("thread-self/attr/exec"), label)
            .step(|| format!("apply SELinux label {label}"))?;
    }
    Ok(())
}

fn change_user(process: &ProcessPlan) -> Result<()> {
    let capabilities = &process.capabilities;
    syscall::limit_bounding(capabilities.bounding).step(|| "limit the bounding set".into())?;
    syscall::keep_capabilities(true).step(|| "keep capabilities".into())?;
    // As root first: the directory may be closed to the user. A second try is made as the user, who may be let
    // in where root is not (a network file system).
    let entered = chdir(process.cwd.as_str());
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).step(|| "set groups".into())?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    setresgid(gid, gid, gid).step(|| format!("become group {gid}"))?;
    setresuid(uid, uid, uid).step(|| format!("become user {uid}"))?;
    syscall::set_capabilities(capabilities.sets).step(|| "set capabilities".into())?;
    syscall::keep_capabilities(false).step(|| "keep capabilities no longer".into())?;
    syscall::clear_ambient().step(|| "clear ambient capabilities".into())?;
    for capability in (0..64).filter(|bit| capabilities.ambient >> bit & 1 == 1) {
        syscall::raise_ambient(capability).step(|| format!("raise ambient capability {capability}"))?;
    }
    if entered.is_err() {
        chdir(process.cwd.as_str()).step(|| format!("enter {}", process.cwd))?;
    }
    // A directory outside the root would be a way out (CVE-2024-21626).
    let here = syscall::working_directory().step(|| format!("enter {}", process.cwd))?;
    if !here.starts_with(b"/") {
        return Err(
            HostError::new(format!("{} lies outside the container", process.cwd), Errno::EXDEV).into()
        );
    }
    umask(Mode::from_bits_truncate(process.umask.unwrap_or(0o022)));
    Ok(())
}

/// The last steps, with nothing left that could be taken away.
fn execute(process: &ProcessPlan, prepared: Prepared) -> Result<Infallible> {
    if process.no_new_privileges
        && let Some(program) = &process.seccomp
    {
        syscall::load_seccomp(program).step(|| "load the seccomp filter".into())?;
    }
    // The socket to the launcher among them: its end tells of success.
    syscall::close_on_exec_from(3).step(|| "mark descriptors to be closed".into())?;
    let mut environment = process.env.clone();
    environment.extend(prepared.home);
    let Err(error) = execve(&prepared.program, &process.args, &environment);
    let command = process.command.clone();
    Err(match error {
        // The file was there: its interpreter is not.
        Errno::ENOENT | Errno::ENOTDIR => Failure::NotFound { command },
        Errno::EACCES | Errno::EPERM | Errno::EISDIR => Failure::NotExecutable { command },
        other => HostError::new(format!("execute {command}"), other).into(),
    })
}

/// The file to execute, as the user sees it: by path, or found in `PATH`.
fn find_program(process: &ProcessPlan) -> Result<CString> {
    let command = process.command.as_str();
    let candidates: Vec<PathBuf> = match command.contains('/') {
        true => vec![command.into()],
        false if command.is_empty() => vec![],
        // An empty entry means the working directory.
        false => process
            .path
            .split(':')
            .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(command))
            .collect(),
    };
    let mut reason = Errno::ENOENT;
    for candidate in candidates {
        match executable(&candidate) {
            Ok(()) => {
                return CString::new(candidate.into_os_string().into_encoded_bytes())
                    .map_err(|_| Failure::NotFound { command: command.to_owned() });
            }
            Err(error) => reason = error,
        }
    }
    let by_path = command.contains('/');
    let command = command.to_owned();
    // A search passes over what it may not execute, as runc's does: then the command was not found.
    Err(match reason {
        Errno::EACCES | Errno::EPERM if by_path => Failure::NotExecutable { command },
        _ => Failure::NotFound { command },
    })
}

fn executable(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if inside::kind(&stat) != SFlag::S_IFREG {
        return Err(Errno::EACCES);
    }
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// The user's home in the container's own `/etc/passwd`, as runc and podman fill it in; `/` if it has none.
fn home_of(uid: u32) -> CString {
    let mut text = String::new();
    // A hostile file may be endless.
    let limit = 1 << 20;
    let read = File::open("/etc/passwd").and_then(|file| file.take(limit).read_to_string(&mut text));
    let home = read.ok().and_then(|_| {
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).copied()).flatten()
        })
    });
    CString::new(format!("HOME={}", home.unwrap_or("/"))).unwrap_or_default()
}

fn write_in(dir: BorrowedFd<'_>, path: &Path, text: &str) -> Result<(), Errno> {
    let file = openat(dir, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file)
        .write_all(text.as_bytes())
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// The `CLONE_NEW*` flag of a namespace.
pub fn clone_flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
    }
}
