//! System calls that `nix` does not wrap, each behind a safe signature.
#![expect(unsafe_code, reason = "raw system calls; every block says why it is sound")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_uint};

type Result<T> = std::result::Result<T, Errno>;

/// The number a system call returned, or its error.
fn check(result: c_long) -> Result<c_long> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// Takes over a descriptor the kernel has just made for us.
fn new_fd(result: c_long) -> Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo is allowed; the descriptor is borrowed for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

pub fn memfd_create(name: &CStr) -> Result<OwnedFd> {
    const MFD_EXEC: c_uint = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let create =
        |flags: c_uint| new_fd(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) });
    // Before Linux 6.3 the flag is unknown and executable is the default.
    match create(flags | MFD_EXEC) {
        Err(Errno::EINVAL) => create(flags),
        other => other,
    }
}

/// No more writing, growing, shrinking or unsealing.
pub fn seal(memfd: BorrowedFd<'_>) -> Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: integer argument only.
    check(c_long::from(unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, seals) })).map(drop)
}

pub fn is_write_sealed(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no pointers; files without seals answer EINVAL.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_WRITE != 0
}

/// Brings an interface of the caller's network namespace up.
pub fn interface_up(name: &str) -> Result<()> {
    // SAFETY: no pointers.
    let socket = new_fd(c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request outlives both calls and has the layout they expect.
    unsafe {
        check(c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request)))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request)))?;
    }
    Ok(())
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: c_uint) -> Result<()> {
    // SAFETY: only for processes that are about to end or to execute, or own no `OwnedFd` any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) }).map(drop)
}

/// Empties the bounding, ambient, inheritable, permitted and effective sets.
pub fn drop_all_capabilities() -> Result<()> {
    limit_bounding(0)?;
    clear_ambient()?;
    set_capabilities(CapabilitySets::default())
}

pub fn clear_ambient() -> Result<()> {
    // SAFETY: no pointers.
    check(c_long::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }))
        .map(drop)
}

/// Three of a thread's capability sets, as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

pub fn set_capabilities(sets: CapabilitySets) -> Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let word = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both structures have the kernel's layout and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// Which capabilities the calling thread has.
pub fn capabilities() -> Result<CapabilitySets> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    // Per half: effective, permitted, inheritable.
    let mut data = [[0u32; 3]; 2];
    // SAFETY: both structures have the kernel's layout and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) })?;
    let word = |at: usize| u64::from(data[0][at]) | u64::from(data[1][at]) << 32;
    Ok(CapabilitySets { effective: word(0), permitted: word(1), inheritable: word(2) })
}

/// Drops from the bounding set everything not in `keep`.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for capability in 0..64 {
        if keep >> capability & 1 == 1 {
            continue;
        }
        // SAFETY: no pointers.
        match check(c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            // Past the last capability this kernel knows.
            Err(Errno::EINVAL) => break,
            other => drop(other?),
        }
    }
    Ok(())
}

pub fn raise_ambient(capability: u32) -> Result<()> {
    // SAFETY: no pointers.
    check(c_long::from(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    }))
    .map(drop)
}

/// Whether capabilities survive a change of user.
pub fn keep_capabilities(keep: bool) -> Result<()> {
    // SAFETY: no pointers.
    check(c_long::from(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, c_int::from(keep), 0, 0, 0) })).map(drop)
}

/// Confines the calling thread with a compiled filter, for good.
pub fn load_seccomp(program: &[libc::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel only reads the program, which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) }).map(drop)
}

/// Joins a new session keyring of this name, so that the caller's keys stay out of reach.
pub fn join_session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name is NUL-terminated and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe the text.
    check(c_long::from(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// The kernel's own answer, which begins with `(unreachable)` when the directory is outside the root.
pub fn working_directory() -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length describe the buffer.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

/// Closes every descriptor but these, which need not be sorted.
///
/// Only for a process that is about to execute something else: its `OwnedFd`s lose their descriptors.
pub fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut next: c_uint = 0;
    for fd in keep {
        let fd = fd as c_uint;
        if fd > next {
            // SAFETY: see above.
            check(unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0) })?;
        }
        next = next.max(fd + 1);
    }
    close_from(next)
}

/// Marks every descriptor from `first` on to be closed when the process executes something.
pub fn close_on_exec_from(first: c_uint) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Which of the two `clone3` returned to.
#[derive(Debug)]
pub enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// Forks with these `CLONE_NEW*` flags, the child being born into the v2 cgroup if one is given.
///
/// # Safety
///
/// The process must have one thread: the child gets a copy of all locks as they are, and whoever holds one in
/// another thread does not exist in the child.
pub unsafe fn clone3(namespaces: c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let arguments = Arguments {
        flags: namespaces as u32 as u64
            | libc::CLONE_PIDFD as u64
            | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..Arguments::default()
    };
    // SAFETY: the arguments have the kernel's layout; without CLONE_VM the child has its own copy of everything.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<Arguments>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has stored a fresh descriptor there.
    Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process at once: no destructors, no exit handlers, which are the parent's business in a fork.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: never returns, touches no memory.
    unsafe { libc::_exit(code) }
}

// The file-descriptor mount calls. They name targets by descriptor, so that nobody can exchange a path's
// components between check and use.

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// A file system being configured.
pub fn fsopen(fs_type: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: c_int = 1;
    // SAFETY: the name is NUL-terminated and outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) })
}

pub fn fsconfig_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    const FSCONFIG_SET_FLAG: c_int = 0;
    fsconfig(fs, FSCONFIG_SET_FLAG, Some(key), None)
}

pub fn fsconfig_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    const FSCONFIG_SET_STRING: c_int = 1;
    fsconfig(fs, FSCONFIG_SET_STRING, Some(key), Some(value))
}

pub fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<()> {
    const FSCONFIG_CMD_CREATE: c_int = 6;
    fsconfig(fs, FSCONFIG_CMD_CREATE, None, None)
}

fn fsconfig(fs: BorrowedFd<'_>, command: c_int, key: Option<&CStr>, value: Option<&CStr>) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both texts are NUL-terminated or null and outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, pointer(key), pointer(value), 0)
    })
    .map(drop)
}

/// A mount of the configured file system that is attached nowhere yet.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: c_int = 1;
    // SAFETY: no pointers.
    new_fd(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

/// A copy of the mount tree (or of one mount) at a path, attached nowhere yet. An empty path is `dir` itself.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: c_int = 1;
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC
        | libc::AT_EMPTY_PATH
        | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated and outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches a detached mount on the file or directory that `target` is.
pub fn attach_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_int = 0x4;
    const MOVE_MOUNT_T_EMPTY_PATH: c_int = 0x40;
    // SAFETY: both paths are empty and static.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Changes a mount's attributes or propagation (`MS_PRIVATE` ...), and those of all below it if asked.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes { set, clear, propagation, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure has the kernel's layout; the path is empty and static.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attributes,
            size_of::<Attributes>(),
        )
    })
    .map(drop)
}

/// Lets the other end of a new pseudo-terminal be opened.
pub fn unlock_terminal(master: BorrowedFd<'_>) -> Result<()> {
    let unlocked: c_int = 0;
    // SAFETY: the integer outlives the call.
    check(c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &unlocked) }))
        .map(drop)
}

/// The other end of a pseudo-terminal, without a path that somebody could have exchanged.
pub fn terminal_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: integer argument only.
    new_fd(c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) }))
}

pub fn set_terminal_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure outlives the call.
    check(c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &size) })).map(drop)
}

/// How much of what was written to a unix socket its peer has not read yet. 0 means all of it was read.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut unread: c_int = 0;
    // SAFETY: the integer outlives the call.
    check(c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ as _, &mut unread) }))?;
    Ok(usize::try_from(unread).unwrap_or(0))
}

/// Makes the terminal the calling session's.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: integer argument only.
    check(c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) })).map(drop)
}

/// Takes default actions for all signals and blocks none: neither survives in a process that is a copy of us.
pub fn reset_signals() -> Result<()> {
    for signal in 1..=64 {
        // SAFETY: default actions call no code of ours. SIGKILL, SIGSTOP and libc's own answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let empty = nix::sys::signal::SigSet::empty();
    nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&empty), None)
}

/// Joins namespaces of the process that a descriptor names, all or none.
pub fn join_namespaces(pidfd: RawFd, flags: c_int) -> Result<()> {
    // SAFETY: no pointers.
    check(c_long::from(unsafe { libc::setns(pidfd, flags) })).map(drop)
}

/// `dup2`, for processes that are about to execute and no longer keep track of descriptors.
pub fn duplicate_to(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: no pointers.
    check(c_long::from(unsafe { libc::dup2(from, to) })).map(drop)
}

/// `close`, for the same processes.
pub fn close_one(fd: RawFd) {
    // SAFETY: the number is the caller's own.
    unsafe { libc::close(fd) };
}

/// A standard stream by number.
pub fn borrow(stream: RawFd) -> BorrowedFd<'static> {
    assert!((0..3).contains(&stream));
    // SAFETY: standard streams stay open for the life of the process.
    unsafe { BorrowedFd::borrow_raw(stream) }
}

pub fn set_io_priority(priority: c_int) -> Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}
