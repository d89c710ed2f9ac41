//! Processes named so that a reused number is never mistaken for the one that was meant.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::{HostError, Result, Step as _, syscall};

/// When `pid` started, in clock ticks since boot: together with the number it names a process for good
/// (until the next boot). `None`: there is no such process.
pub fn start_ticks(pid: i32) -> Result<Option<u64>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => match parse_start_ticks(&stat) {
            Some(ticks) => Ok(Some(ticks)),
            None => Err(HostError::new(
                format!("read start time of process {pid}"),
                io::Error::from(io::ErrorKind::InvalidData),
            )),
        },
        // A process that ends while its file is read answers ESRCH.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(HostError::new(format!("read start time of process {pid}"), error)),
    }
}

/// Whether `pid` still is the process that started at `start_ticks`. A zombie still is.
pub fn is_same(pid: i32, start_ticks: u64) -> bool {
    matches!(self::start_ticks(pid), Ok(Some(ticks)) if ticks == start_ticks)
}

/// A descriptor for the process: readable when it has ended, and immune to reuse of the number.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    syscall::pidfd_open(pid).step(|| format!("open process {pid}"))
}

/// Opens `pid` and makes sure that it is the process that started at `start_ticks`. `None`: it has gone.
pub fn pidfd_open_same(pid: i32, start_ticks: u64) -> Result<Option<OwnedFd>> {
    let pidfd = match syscall::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(HostError::new(format!("open process {pid}"), error)),
    };
    // Checked after opening: whoever has the number now is who was opened.
    Ok(is_same(pid, start_ticks).then_some(pidfd))
}

/// Sends a signal through a descriptor. A process that has ended is no error.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    match syscall::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(HostError::new(format!("send signal {signal}"), error)),
    }
}

/// An executable copied into memory and sealed: nobody who gets hold of a process running it can write to it
/// (CVE-2019-5736). The daemon keeps one and starts all its monitors from it, so that they share its pages.
#[derive(Debug)]
pub struct SealedProgram(OwnedFd);

impl SealedProgram {
    pub fn open(program: &Path) -> Result<Self> {
        let name = format!("copy {} into memory", program.display());
        let mut source = fs::File::open(program).step(|| name.clone())?;
        let sealed = syscall::memfd_create(c"selkie-monitor").step(|| name.clone())?;
        let mut copy = fs::File::from(sealed);
        io::copy(&mut source, &mut copy).step(|| name.clone())?;
        copy.flush().step(|| name.clone())?;
        syscall::seal(copy.as_fd()).step(|| name.clone())?;
        // Reopened for reading: a program open for writing anywhere cannot be executed (ETXTBSY).
        let readable = fs::File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).step(|| name)?;
        Ok(Self(readable.into()))
    }

    /// The path to execute, valid in this process and its children as long as `self` lives.
    pub fn path(&self) -> std::path::PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

/// Whether the running program cannot be written to through `/proc/self/exe`: a sealed memory file or on a
/// read-only mount.
pub fn executable_is_protected() -> Result<bool> {
    let exe = fs::File::open("/proc/self/exe").step(|| "open own executable".into())?;
    if syscall::is_write_sealed(exe.as_fd()) {
        return Ok(true);
    }
    let stat = nix::sys::statvfs::fstatvfs(&exe).step(|| "examine own executable".into())?;
    Ok(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

/// Executes this very program again from a sealed copy, unless it already runs from one. To be called first
/// thing in the monitor's `main`, before anything was read from standard input.
pub fn ensure_protected_executable() -> Result<()> {
    if executable_is_protected()? {
        return Ok(());
    }
    let sealed = SealedProgram::open(Path::new("/proc/self/exe"))?;
    let arguments: Vec<std::ffi::CString> =
        std::env::args_os().filter_map(|argument| to_c_string(argument.as_os_str())).collect();
    let environment: Vec<std::ffi::CString> = std::env::vars_os()
        .filter_map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            to_c_string(&key)
        })
        .collect();
    match nix::unistd::fexecve(&sealed.0, &arguments, &environment) {
        Ok(never) => match never {},
        Err(error) => Err(HostError::new("execute the sealed copy of this program", error)),
    }
}

/// Reaps a child of ours named by descriptor, waiting for its end. Not our child: nothing to do.
pub fn reap(pidfd: &OwnedFd) -> Result<()> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(_) | Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(HostError::new("reap a child", error)),
        }
    }
}

/// Waits at most `timeout_ms` for the end of a process. True: it has ended.
pub fn wait_ended(pidfd: BorrowedFd<'_>, timeout_ms: u16) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(timeout_ms)), Ok(n) if n > 0)
}

fn to_c_string(text: &std::ffi::OsStr) -> Option<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::CString::new(text.as_bytes()).ok()
}

/// Field 22 of proc(5)'s `stat`; the second field is a name in parentheses that may itself contain anything.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_hostile_process_names() {
        let stat = b"42 (a) b) c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_start_ticks(stat), Some(987654));
        assert_eq!(parse_start_ticks(b"42 (x"), None);
    }

    #[test]
    fn this_process_is_itself_and_not_an_older_one() {
        let pid = std::process::id() as i32;
        let ticks = start_ticks(pid).unwrap().unwrap();
        assert!(is_same(pid, ticks));
        assert!(!is_same(pid, ticks - 1));
        assert!(start_ticks(i32::MAX).unwrap().is_none());
    }

    #[test]
    fn sealed_program_runs_and_refuses_writes() {
        let sealed = SealedProgram::open(Path::new("/bin/true")).unwrap();
        let written =
            fs::OpenOptions::new().write(true).open(sealed.path()).and_then(|mut f| f.write_all(b"x"));
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(std::process::Command::new(sealed.path()).status().unwrap().success());
    }
}
