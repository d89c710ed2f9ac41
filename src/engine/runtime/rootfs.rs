//! A container's file system: everything mounted, made and hidden before it is entered.
//!
//! All of it happens in the container's own mount namespace, with the root as a descriptor; the last step is
//! [`enter`]. Nothing is left on the host when the namespace ends.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_host};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fchmodat, fstat, major, makedev, minor, mkdirat, mknodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, UnlinkatFlags, chdir, fchdir, fchownat, pivot_root, symlinkat, unlinkat};
use oci_spec::runtime::{Linux, LinuxDeviceType, Mount, Spec};

use super::Rootfs;
use super::cgroup::{Cgroup, Layout};
use super::inside::{self, Missing};
use super::mount_options::{self, MountOptions};
use crate::engine::host::syscall::{
    self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use crate::engine::host::{HostError, Result, Step as _};

/// What it takes to build one.
pub struct RootfsPlan<'a> {
    pub spec: &'a Spec,
    pub rootfs: &'a Rootfs,
    /// Where the root is mounted on its way.
    pub mount_point: &'a Path,
    pub bundle: &'a Path,
    pub cgroup: &'a Cgroup,
    /// Whether the cgroup namespace is the container's own.
    pub own_cgroup_namespace: bool,
}

/// Mounts the root and everything below it, and makes the devices. Returns a handle on the root.
pub fn build(plan: &RootfsPlan<'_>) -> Result<OwnedFd> {
    let linux = plan.spec.linux().as_ref();
    detach_from_host(linux, plan.mount_point)?;
    mount_root(plan.rootfs, plan.mount_point)?;
    let root =
        open_host(plan.mount_point, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .step(|| format!("open {}", plan.mount_point.display()))?;
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let mut read_only_later = Vec::new();
    for mount in mounts {
        mount_one(plan, root.as_fd(), mount, &mut read_only_later)
            .map_err(|error| within(format!("mount {}", mount.destination().display()), error))?;
    }
    // A /dev of the host's comes complete.
    let own_dev =
        !mounts.iter().any(|mount| mount.destination() == Path::new("/dev") && parse(mount).bind.is_some());
    if own_dev {
        make_devices(root.as_fd(), linux)?;
    }
    for (path, mount) in read_only_later {
        syscall::mount_setattr(mount.as_fd(), MOUNT_ATTR_RDONLY, 0, 0, false)
            .step(|| format!("make {} read-only", path.display()))?;
    }
    Ok(root)
}

/// Makes paths read-only, or hides them, and makes the root itself read-only if it shall be.
pub fn protect(root: BorrowedFd<'_>, spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    for path in linux.and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default() {
        let step = || format!("make {path} read-only");
        let Some(target) = open_existing(root, path).step(step)? else { continue };
        let copy = syscall::clone_mount(target.as_fd(), c"", true).step(step)?;
        syscall::mount_setattr(copy.as_fd(), MOUNT_ATTR_RDONLY, 0, 0, true).step(step)?;
        syscall::attach_mount(copy.as_fd(), target.as_fd()).step(step)?;
    }
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
    if !masked.is_empty() {
        mask(root, masked)?;
    }
    if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        syscall::mount_setattr(root, MOUNT_ATTR_RDONLY, 0, 0, false)
            .step(|| "make the root read-only".into())?;
    }
    Ok(())
}

/// Makes `root` the root and lets go of the host's file system.
pub fn enter(root: BorrowedFd<'_>, spec: &Spec) -> Result<()> {
    fchdir(root).step(|| "enter the root file system".into())?;
    pivot_root(".", ".").step(|| "make it the root".into())?;
    // The old root is on top of the new one now. As a slave: unmounting it must not reach the host.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, ".", None::<&str>, slave, None::<&str>)
        .step(|| "cut off the host's mounts".into())?;
    umount2(".", MntFlags::MNT_DETACH).step(|| "let go of the host's mounts".into())?;
    chdir("/").step(|| "enter the new root".into())?;
    let wanted = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    if let Some((flag, recursive)) = wanted.and_then(mount_options::propagation) {
        let flags = MsFlags::from_bits_truncate(flag | if recursive { libc::MS_REC } else { 0 });
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .step(|| "set the root's propagation".into())?;
    }
    Ok(())
}

/// Mounts the root where an external runtime, or [`build`], expects it.
pub fn mount_root(rootfs: &Rootfs, mount_point: &Path) -> Result<()> {
    let step = || format!("mount root file system on {}", mount_point.display());
    std::fs::create_dir_all(mount_point).step(step)?;
    match rootfs {
        Rootfs::Directory(dir) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(dir), mount_point, None::<&str>, flags, None::<&str>).step(step)
        }
        Rootfs::Overlay { lower, upper, work } if lower.is_empty() => {
            let _ = work;
            mount(Some(upper), mount_point, None::<&str>, MsFlags::MS_BIND, None::<&str>).step(step)
        }
        Rootfs::Overlay { lower, upper, work } => mount_overlay(lower, upper, work, mount_point).step(step),
    }
}

/// In the container's mount namespace: nothing mounted here reaches the host.
fn detach_from_host(linux: Option<&Linux>, mount_point: &Path) -> Result<()> {
    let wanted = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    let (flag, recursive) = match wanted.filter(|wanted| !wanted.is_empty()) {
        None => (libc::MS_SLAVE, true),
        Some(wanted) => mount_options::propagation(wanted)
            .ok_or_else(|| HostError::new(format!("root file system propagation {wanted}"), Errno::EINVAL))?,
    };
    let flags = MsFlags::from_bits_truncate(flag | if recursive { libc::MS_REC } else { 0 });
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .step(|| "separate from the host's mounts".into())?;
    if flag & libc::MS_SHARED == 0 {
        return Ok(());
    }
    // A root can only be pivoted to if what it is mounted on is not shared.
    let parent = crate::engine::host::mount::mounts()?
        .into_iter()
        .map(|entry| entry.mount_point)
        .filter(|path| mount_point.starts_with(path))
        .max_by_key(|path| path.as_os_str().len())
        .unwrap_or_else(|| PathBuf::from("/"));
    mount(None::<&str>, &parent, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .step(|| format!("make {} private", parent.display()))
}

fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, mount_point: &Path) -> nix::Result<()> {
    /// mount(2) takes one page of options.
    const MAX_OPTIONS: usize = 4000;
    let special = |path: &Path| path.as_os_str().as_bytes().iter().any(|byte| b":,\\".contains(byte));
    let plain = overlay_options(lower, upper, work);
    let all = || lower.iter().map(PathBuf::as_path).chain([upper, work]);
    if plain.len() <= MAX_OPTIONS && !all().any(special) {
        return mount(
            Some("overlay"),
            mount_point,
            Some("overlay"),
            MsFlags::empty(),
            Some(plain.as_os_str()),
        );
    }
    // Many or oddly named layers: each by descriptor, the shortest name there is.
    let open =
        |path: &Path| open_host(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let descriptors: Vec<OwnedFd> = all().map(open).collect::<nix::Result<_>>()?;
    let names: Vec<PathBuf> = descriptors.iter().map(|fd| fd.as_raw_fd().to_string().into()).collect();
    let (layers, own) = names.split_at(lower.len());
    let options = overlay_options(layers, &own[0], &own[1]);
    let before = open(Path::new("."))?;
    let mount_point = std::path::absolute(mount_point).map_err(|_| Errno::EINVAL)?;
    chdir("/proc/self/fd")?;
    let mounted =
        mount(Some("overlay"), &mount_point, Some("overlay"), MsFlags::empty(), Some(options.as_os_str()));
    fchdir(before)?;
    mounted
}

fn overlay_options(lower: &[PathBuf], upper: &Path, work: &Path) -> OsString {
    let mut options = OsString::from("lowerdir=");
    for (at, layer) in lower.iter().enumerate() {
        if at > 0 {
            options.push(":");
        }
        options.push(layer);
    }
    options.push(",upperdir=");
    options.push(upper);
    options.push(",workdir=");
    options.push(work);
    options
}

fn parse(mount: &Mount) -> MountOptions {
    let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    if mount.typ().as_deref() == Some("bind") && options.bind.is_none() {
        options.bind = Some(false);
    }
    options
}

fn mount_one(
    plan: &RootfsPlan<'_>,
    root: BorrowedFd<'_>,
    spec: &Mount,
    read_only_later: &mut Vec<(PathBuf, OwnedFd)>,
) -> Result<()> {
    let options = parse(spec);
    if let Some(refused) = &options.refused {
        return Err(HostError::new(format!("mount option {refused} is not supported"), Errno::EOPNOTSUPP));
    }
    let destination = spec.destination().as_path();
    let fs_type = spec.typ().as_deref().unwrap_or("none");
    let mounted = match (options.bind, fs_type) {
        (Some(recursive), _) => bind(plan, root, spec, &options, recursive)?,
        (None, "cgroup" | "cgroup2") => mount_cgroups(plan, root, destination, options.set)?,
        (None, _) => {
            // procfs and sysfs over a link would hide from the masks below what they are meant for.
            let strict = matches!(fs_type, "proc" | "sysfs");
            let target = target(root, destination, Missing::Directory, strict)?;
            if fs_type != "proc" && fs_type != "sysfs" {
                refuse_procfs(target.as_fd(), destination, false)?;
            }
            let source = spec.source().as_deref().map(Path::as_os_str);
            // What is made inside must be made first.
            let later = options.is_read_only() && (fs_type == "tmpfs" || destination == Path::new("/dev"));
            let attributes = if later { options.set & !MOUNT_ATTR_RDONLY } else { options.set };
            let data = with_mode_of_covered(fs_type, &options.data, target.as_fd());
            let mounted = new_mount(fs_type, source, &data, attributes)?;
            if options.copy_up && fs_type == "tmpfs" {
                super::copy_up::copy(target.as_fd(), mounted.as_fd())?;
            }
            syscall::attach_mount(mounted.as_fd(), target.as_fd()).step(|| "attach".into())?;
            if later {
                read_only_later.push((destination.to_owned(), duplicate(&mounted)?));
            }
            mounted
        }
    };
    for (flag, recursive) in &options.propagation {
        syscall::mount_setattr(mounted.as_fd(), 0, 0, *flag, *recursive).step(|| "set propagation".into())?;
    }
    Ok(())
}

/// A tmpfs without a mode of its own takes that of the directory it covers, as runc's do.
fn with_mode_of_covered(fs_type: &str, data: &[String], target: BorrowedFd<'_>) -> Vec<String> {
    let mut data = data.to_vec();
    if fs_type == "tmpfs"
        && !data.iter().any(|option| option.starts_with("mode="))
        && let Ok(stat) = fstat(target)
    {
        data.push(format!("mode={:o}", stat.st_mode & 0o7777));
    }
    data
}

fn bind(
    plan: &RootfsPlan<'_>,
    root: BorrowedFd<'_>,
    spec: &Mount,
    options: &MountOptions,
    recursive: bool,
) -> Result<OwnedFd> {
    let source = spec.source().as_deref().unwrap_or(Path::new(""));
    let step = || format!("bind {}", source.display());
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let opened = match &options.beneath {
        Some(base) => {
            let base_fd = open_host(base, flags | OFlag::O_DIRECTORY, Mode::empty()).step(step)?;
            inside::open_beneath(base_fd.as_fd(), source, flags)
        }
        None => open_host(&plan.bundle.join(source), flags, Mode::empty()),
    }
    .step(step)?;
    let missing = match inside::is_directory(opened.as_fd()).step(step)? {
        true => Missing::Directory,
        false => Missing::File,
    };
    let target = target(root, spec.destination(), missing, false)?;
    let from_procfs = fstatfs(&opened).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC);
    refuse_procfs(target.as_fd(), spec.destination(), from_procfs)?;
    let copy = syscall::clone_mount(opened.as_fd(), c"", recursive).step(step)?;
    if options.set_below | options.clear_below != 0 {
        syscall::mount_setattr(copy.as_fd(), options.set_below, options.clear_below, 0, true).step(step)?;
    }
    if options.set | options.clear != 0 {
        syscall::mount_setattr(copy.as_fd(), options.set, options.clear, 0, false).step(step)?;
    }
    syscall::attach_mount(copy.as_fd(), target.as_fd()).step(step)?;
    Ok(copy)
}

/// The handle to mount on.
fn target(root: BorrowedFd<'_>, path: &Path, missing: Missing, strict: bool) -> Result<OwnedFd> {
    if !strict {
        return inside::ensure(root, path, missing);
    }
    let step = || format!("{} is not an ordinary directory", path.display());
    match inside::open_strict(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Err(Errno::ENOENT) => {
            inside::ensure(root, path, missing)?;
            inside::open_strict(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).step(step)
        }
        other => other.step(step),
    }
}

/// Nothing may be mounted inside procfs but what lxcfs and its like provide: security labels are set and limits
/// read through it. runc has the same list.
fn refuse_procfs(target: BorrowedFd<'_>, destination: &Path, from_procfs: bool) -> Result<()> {
    const ALLOWED: [&str; 11] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    ];
    let in_procfs = fstatfs(target).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC);
    // The whole of the host's procfs over the container's is what `--pid=host` looks like.
    let whole = destination == Path::new("/proc") && from_procfs;
    if !in_procfs || whole || ALLOWED.iter().any(|allowed| destination == Path::new(allowed)) {
        return Ok(());
    }
    Err(HostError::new(format!("{} lies in procfs", destination.display()), Errno::EPERM))
}

/// A new mount, attached nowhere yet.
fn new_mount(fs_type: &str, source: Option<&OsStr>, data: &[String], attributes: u64) -> Result<OwnedFd> {
    let step = || format!("configure file system {fs_type}");
    let text =
        |text: &[u8]| CString::new(text).step(|| format!("file system {fs_type}: option contains NUL"));
    let fs = syscall::fsopen(&text(fs_type.as_bytes())?).step(step)?;
    if let Some(source) = source {
        syscall::fsconfig_string(fs.as_fd(), c"source", &text(source.as_bytes())?).step(step)?;
    }
    for option in data.iter().flat_map(|options| options.split(',')).filter(|option| !option.is_empty()) {
        let step = || format!("set option {option} of file system {fs_type}");
        match option.split_once('=') {
            Some((key, value)) => {
                let (key, value) = (text(key.as_bytes())?, text(value.as_bytes())?);
                syscall::fsconfig_string(fs.as_fd(), &key, &value).step(step)?;
            }
            None => syscall::fsconfig_flag(fs.as_fd(), &text(option.as_bytes())?).step(step)?,
        }
    }
    syscall::fsconfig_create(fs.as_fd()).step(|| format!("create file system {fs_type}"))?;
    syscall::fsmount(fs.as_fd(), attributes).step(|| format!("mount file system {fs_type}"))
}

/// The cgroup file systems as the container shall see them: only its own part, if the namespace is its own.
fn mount_cgroups(
    plan: &RootfsPlan<'_>,
    root: BorrowedFd<'_>,
    destination: &Path,
    attributes: u64,
) -> Result<OwnedFd> {
    let target = target(root, destination, Missing::Directory, false)?;
    refuse_procfs(target.as_fd(), destination, false)?;
    let hierarchies = match plan.cgroup.layout() {
        Layout::Unified(mount_point) => {
            let mounted = unified_mount(plan, mount_point, attributes)?;
            syscall::attach_mount(mounted.as_fd(), target.as_fd()).step(|| "attach".into())?;
            return Ok(mounted);
        }
        // As runc: a v2 hierarchy beside them is not shown.
        Layout::Legacy { hierarchies, .. } => hierarchies,
    };
    let base = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let top = new_mount("tmpfs", Some(OsStr::new("tmpfs")), &["mode=755".to_owned()], base)?;
    syscall::attach_mount(top.as_fd(), target.as_fd()).step(|| "attach".into())?;
    for hierarchy in hierarchies {
        let name = hierarchy.mount_point.file_name().unwrap_or(OsStr::new("cgroup"));
        let step = || format!("mount cgroup hierarchy {}", name.display());
        let mounted = if plan.own_cgroup_namespace {
            new_mount("cgroup", Some(OsStr::new("cgroup")), &hierarchy.controllers, base | attributes)?
        } else {
            let own = plan.cgroup.dir_in(&hierarchy.mount_point);
            let own = open_host(&own, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
            let copy = syscall::clone_mount(own.as_fd(), c"", false).step(step)?;
            syscall::mount_setattr(copy.as_fd(), base | attributes, 0, 0, false).step(step)?;
            copy
        };
        attach_in(top.as_fd(), name, mounted.as_fd()).step(step)?;
        // Co-mounted controllers are found by each one's name too.
        for controller in &hierarchy.controllers {
            let alias = controller.strip_prefix("name=").unwrap_or(controller);
            if OsStr::new(alias) != name {
                match symlinkat(name, top.as_fd(), alias) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(HostError::new(step(), error)),
                }
            }
        }
    }
    syscall::mount_setattr(top.as_fd(), attributes, 0, 0, false).step(|| "set attributes".into())?;
    Ok(top)
}

fn unified_mount(plan: &RootfsPlan<'_>, mount_point: &Path, attributes: u64) -> Result<OwnedFd> {
    if plan.own_cgroup_namespace {
        return new_mount("cgroup2", Some(OsStr::new("cgroup")), &[], attributes);
    }
    let step = || "bind the unified cgroup hierarchy".to_owned();
    let whole = open_host(mount_point, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
    let copy = syscall::clone_mount(whole.as_fd(), c"", false).step(step)?;
    syscall::mount_setattr(copy.as_fd(), attributes, 0, 0, false).step(step)?;
    Ok(copy)
}

fn attach_in(dir: BorrowedFd<'_>, name: &OsStr, mounted: BorrowedFd<'_>) -> nix::Result<()> {
    mkdirat(dir, name, Mode::from_bits_truncate(0o755))?;
    let target = inside::open_strict(dir, Path::new(name), OFlag::O_PATH)?;
    syscall::attach_mount(mounted, target.as_fd())
}

fn make_devices(root: BorrowedFd<'_>, linux: Option<&Linux>) -> Result<()> {
    const USUAL: [(&str, u64, u64); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let dev = inside::ensure(root, Path::new("/dev"), Missing::Directory)?;
    for (name, major, minor) in USUAL {
        make_device(dev.as_fd(), OsStr::new(name), SFlag::S_IFCHR, makedev(major, minor), 0o666, (0, 0))
            .step(|| format!("make /dev/{name}"))?;
    }
    for device in linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default() {
        let step = || format!("make device {}", device.path().display());
        let (dir, name) = inside::ensure_parent(root, device.path())?;
        let kind = match device.typ() {
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => return Err(HostError::new(step(), Errno::EINVAL)),
        };
        let number = |number: i64| u64::try_from(number).map_err(|_| Errno::EINVAL).step(step);
        let id = match kind {
            SFlag::S_IFIFO => 0,
            _ => makedev(number(device.major())?, number(device.minor())?),
        };
        let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        make_device(dir.as_fd(), &name, kind, id, mode, owner).step(step)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        match symlinkat(target, dev.as_fd(), name) {
            // The image's own /dev may have them, or the root may be read-only.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(HostError::new(format!("make /dev/{name}"), error)),
        }
    }
    Ok(())
}

fn make_device(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: SFlag,
    id: libc::dev_t,
    mode: u32,
    owner: (u32, u32),
) -> nix::Result<()> {
    let bits = Mode::from_bits_truncate(mode);
    match mknodat(dir, name, kind, bits, id) {
        Err(Errno::EEXIST) => {
            // Left by the image: only the very same device may stay.
            let there = inside::open_strict(dir, Path::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW);
            let same = there.and_then(|there| fstat(&there)).is_ok_and(|stat| {
                inside::kind(&stat) == kind && (kind == SFlag::S_IFIFO || stat.st_rdev == id)
            });
            if !same {
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
                mknodat(dir, name, kind, bits, id)?;
            }
        }
        other => other?,
    }
    fchmodat(dir, name, bits, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    if owner != (0, 0) {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        fchownat(dir, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Hides each path behind an empty read-only directory or a null device, both on one small file system of their
/// own: nothing of the image's is trusted to be what it should be (CVE-2025-31133).
fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<()> {
    let step = || "prepare what hides paths".to_owned();
    let base = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    let cover = empty_tmpfs(base)?;
    mkdirat(&cover, "empty", Mode::from_bits_truncate(0o755)).step(step)?;
    mknodat(&cover, "null", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).step(step)?;
    fchmodat(&cover, "null", Mode::from_bits_truncate(0o666), nix::sys::stat::FchmodatFlags::FollowSymlink)
        .step(step)?;
    // Read-only keeps the directory empty and the device's mode; writing to a device is no matter of the mount's.
    syscall::mount_setattr(cover.as_fd(), MOUNT_ATTR_RDONLY, 0, 0, false).step(step)?;
    for path in paths {
        let step = || format!("hide {path}");
        let Some(target) = open_existing(root, path).step(step)? else { continue };
        let is_directory = inside::is_directory(target.as_fd()).step(step)?;
        let name = if is_directory { c"empty" } else { c"null" };
        let copy = match syscall::clone_mount(cover.as_fd(), name, false) {
            // Before Linux 6.15 what is attached nowhere can not be copied.
            Err(Errno::EINVAL) => cover_of_its_own(is_directory)?,
            copy => copy.step(step)?,
        };
        syscall::attach_mount(copy.as_fd(), target.as_fd()).step(step)?;
    }
    Ok(())
}

fn empty_tmpfs(attributes: u64) -> Result<OwnedFd> {
    new_mount("tmpfs", Some(OsStr::new("tmpfs")), &["mode=755".to_owned(), "size=4k".to_owned()], attributes)
}

/// A read-only mount that hides one path: a tmpfs, or the host's null device, whose mode nobody can change through it.
fn cover_of_its_own(is_directory: bool) -> Result<OwnedFd> {
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY;
    if is_directory {
        return empty_tmpfs(attributes);
    }
    let step = || "mount the host's null device".to_owned();
    let null =
        open_host(Path::new("/dev/null"), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
    if !is_null_device(null.as_fd()) {
        return Err(HostError::new(step(), Errno::ENODEV));
    }
    let copy = syscall::clone_mount(null.as_fd(), c"", false).step(step)?;
    syscall::mount_setattr(copy.as_fd(), attributes, 0, 0, false).step(step)?;
    Ok(copy)
}

fn open_existing(root: BorrowedFd<'_>, path: &str) -> nix::Result<Option<OwnedFd>> {
    match inside::open(root, Path::new(path), OFlag::O_PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Standard streams that are the host's `/dev/null` become the container's.
pub fn is_null_device(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| {
        inside::kind(&stat) == SFlag::S_IFCHR && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().step(|| "duplicate a descriptor".into())
}

fn within(outer: String, error: HostError) -> HostError {
    let (step, source) = error.into_parts();
    HostError::new(format!("{outer}: {step}"), source)
}

/// The host's procfs, which no container can have prepared: good for labels and parameters of the caller.
pub fn host_procfs() -> Result<OwnedFd> {
    let step = || "open procfs".to_owned();
    let proc: OwnedFd = File::open("/proc").step(step)?.into();
    match fstatfs(&proc).step(step)?.filesystem_type() {
        PROC_SUPER_MAGIC => Ok(proc),
        _ => Err(HostError::new("/proc is not procfs", Errno::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn node_what_hides_a_path_on_older_kernels_is_empty_and_read_only() {
        let dir = cover_of_its_own(true).unwrap();
        let make = |name: &str| mkdirat(&dir, name, Mode::from_bits_truncate(0o755));
        assert_eq!(make("x"), Err(Errno::EROFS));
        let null = cover_of_its_own(false).unwrap();
        assert!(is_null_device(null.as_fd()));
        let path = format!("/proc/self/fd/{}", null.as_raw_fd());
        std::fs::write(&path, "gone").unwrap();
        let mode = std::fs::Permissions::from_mode(0o666);
        assert_eq!(
            std::fs::set_permissions(&path, mode).unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
    }

    #[test]
    fn overlay_options_name_the_lowest_layer_last() {
        let options = overlay_options(&["/l/2".into(), "/l/1".into()], Path::new("/u"), Path::new("/w"));
        assert_eq!(options, "lowerdir=/l/2:/l/1,upperdir=/u,workdir=/w");
    }
}
