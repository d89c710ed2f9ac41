//! The init of a pod's shared PID namespace: locks itself into nothing, reaps orphans, sleeps.
//!
//! Containers of the pod see it as process 1, so it must offer them nothing: its root is an empty read-only
//! file system, it holds no capability and no descriptor, and it is not dumpable, which closes its `/proc` entry.

use std::fs::File;
use std::io::Write as _;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{chdir, pivot_root};

use super::{Result, Step as _, syscall};

/// What it writes to standard output once it is locked in.
pub const READY: &[u8] = b"1";

/// Never returns while all is well. Started by `selkie-monitor pause` with the sandbox's directory as working
/// directory and a pipe as standard output.
pub fn run() -> Result<std::convert::Infallible> {
    super::process::ensure_protected_executable()?;
    nix::sys::prctl::set_dumpable(false).step(|| "become undumpable".into())?;
    // Blocked, then waited for: an init gets only signals that it handles, and SIGKILL from outside.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None).step(|| "block signals".into())?;
    enter_empty_root()?;
    nix::unistd::setsid().step(|| "start a session".into())?;
    nix::sys::prctl::set_no_new_privs().step(|| "give up new privileges".into())?;
    syscall::drop_all_capabilities().step(|| "drop capabilities".into())?;
    let mut output = std::io::stdout();
    output.write_all(READY).and_then(|()| output.flush()).step(|| "report readiness".into())?;
    syscall::close_from(0).step(|| "close descriptors".into())?;
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => std::process::exit(0),
            _ => {
                while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
                {
                }
            }
        }
    }
}

fn enter_empty_root() -> Result<()> {
    let here = std::env::current_dir().step(|| "find the sandbox directory".into())?;
    unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace".into())?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .step(|| "detach from the host's mounts".into())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("selkie-pause"), &here, Some("tmpfs"), flags, Some("size=4k,mode=555"))
        .step(|| format!("mount an empty file system on {}", here.display()))?;
    // Entered by its path: the old working directory is below the new mount.
    chdir(&here).step(|| "enter the empty file system".into())?;
    pivot_root(".", ".").step(|| "make the empty file system the root".into())?;
    umount2(".", MntFlags::MNT_DETACH).step(|| "let go of the host's mounts".into())?;
    chdir("/").step(|| "enter the new root".into())?;
    debug_assert!(File::open("/proc/self").is_err());
    Ok(())
}
