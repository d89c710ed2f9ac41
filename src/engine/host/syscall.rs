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
    for capability in 0..64 {
        // SAFETY: no pointers.
        match check(c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            // Past the last capability this kernel knows.
            Err(Errno::EINVAL) => break,
            other => drop(other?),
        }
    }
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
