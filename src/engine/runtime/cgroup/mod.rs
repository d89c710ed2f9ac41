//! One container's cgroup, on whichever hierarchies the machine has.
//!
//! Three layouts exist: v2 alone, v1 with one hierarchy per controller, and v1 beside a v2 hierarchy that holds
//! what v1 does not (hybrid). A [`Cgroup`] is one relative path used in all of them.

pub mod devices;
mod limits;
pub mod usage;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;

use crate::engine::host::{HostError, Result, Step as _, mount, process, syscall};

/// How long processes may take to die, and their cgroup to become removable.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// Where the hierarchies are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    Unified(PathBuf),
    Legacy {
        hierarchies: Vec<Hierarchy>,
        /// The v2 hierarchy beside them, if there is one.
        unified: Option<PathBuf>,
    },
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    /// `cpu` and `cpuacct`, or a name alone: `name=systemd`.
    pub controllers: Vec<String>,
}

impl Layout {
    pub fn detect() -> Result<Self> {
        Self::from_mounts(&mount::mounts()?).ok_or_else(|| {
            HostError::new("find the cgroup hierarchies", io::Error::from(io::ErrorKind::NotFound))
        })
    }

    fn from_mounts(mounts: &[mount::MountEntry]) -> Option<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for entry in mounts {
            match entry.fs_type.as_str() {
                "cgroup2" if unified.is_none() => unified = Some(entry.mount_point.clone()),
                "cgroup" => {
                    let controllers: Vec<String> = entry
                        .super_options
                        .split(',')
                        .filter(|option| is_controller(option))
                        .map(str::to_owned)
                        .collect();
                    // A hierarchy may be mounted in several places; the first is the machine's own.
                    if !controllers.is_empty()
                        && hierarchies.iter().all(|known| known.controllers != controllers)
                    {
                        hierarchies.push(Hierarchy { mount_point: entry.mount_point.clone(), controllers });
                    }
                }
                _ => {}
            }
        }
        match (hierarchies.is_empty(), unified) {
            (true, Some(mount_point)) => Some(Self::Unified(mount_point)),
            (true, None) => None,
            (false, unified) => Some(Self::Legacy { hierarchies, unified }),
        }
    }
}

/// The other options of a v1 hierarchy.
fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro"
            | "xattr"
            | "noprefix"
            | "clone_children"
            | "none"
            | "cpuset_v2_mode"
            | "favordynmods"
            | "all"
    ) && !option.starts_with("release_agent=")
}

#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Layout,
    /// Relative, without `.` or `..`.
    path: PathBuf,
}

impl Cgroup {
    /// `path` is the spec's `cgroupsPath`, taken relative to each hierarchy's root.
    pub fn new(layout: Layout, path: &Path) -> Result<Self> {
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => relative.push(name),
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(HostError::new(
                        format!("cgroup path {} leads elsewhere", path.display()),
                        io::Error::from(io::ErrorKind::InvalidInput),
                    ));
                }
            }
        }
        if relative.as_os_str().is_empty() {
            return Err(HostError::new("cgroup path is empty", io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok(Self { layout, path: relative })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its directory in the hierarchy mounted there.
    pub fn dir_in(&self, mount_point: &Path) -> PathBuf {
        mount_point.join(&self.path)
    }

    /// Makes the cgroup in every hierarchy and sets its limits. Parents are made as needed, and on v2 hand their
    /// controllers down. On error the caller removes what there is.
    pub fn create(&self, resources: Option<&LinuxResources>) -> Result<()> {
        let rules = devices::Rules::new(resources.and_then(|r| r.devices().as_deref()).unwrap_or_default());
        match &self.layout {
            Layout::Unified(root) => {
                let dir = root.join(&self.path);
                self.make_unified(root)?;
                limits::apply_unified(&dir, resources)?;
                devices::attach(&dir, &rules)?;
            }
            Layout::Legacy { hierarchies, unified } => {
                for hierarchy in hierarchies {
                    let dir = hierarchy.mount_point.join(&self.path);
                    let cpuset = hierarchy.has("cpuset");
                    make_legacy(&hierarchy.mount_point, &dir, cpuset)?;
                }
                if let Some(root) = unified {
                    self.make_unified(root)?;
                }
                let dirs = |controller: &str| self.controller_dir(controller);
                limits::apply_legacy(&dirs, resources)?;
                if let Some(dir) = dirs("devices") {
                    for (file, line) in rules.legacy_writes()? {
                        write(&dir.join(file), &line)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The v2 directory, for `clone3(CLONE_INTO_CGROUP)`.
    pub fn open_unified(&self) -> Result<Option<OwnedFd>> {
        self.unified_dir()
            .map(|dir| File::open(&dir).map(OwnedFd::from).step(|| format!("open cgroup {}", dir.display())))
            .transpose()
    }

    /// Moves the calling process, which must have one thread only, into the v1 cgroups. `tasks` moves a thread and
    /// so needs no lock over all processes; `cgroup.procs` costs three times as much.
    pub fn join_legacy(&self) -> Result<()> {
        for dir in self.legacy_dirs() {
            write(&dir.join("tasks"), "0")?;
        }
        Ok(())
    }

    /// Moves the calling process into the v2 cgroup, where `clone3` could not.
    pub fn join_unified(&self) -> Result<()> {
        match self.unified_dir() {
            Some(dir) => write(&dir.join("cgroup.procs"), "0"),
            None => Ok(()),
        }
    }

    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let deadline = Instant::now() + FREEZE_DEADLINE;
        let late = || {
            HostError::new(
                format!("freeze cgroup {}", self.path.display()),
                io::Error::from(io::ErrorKind::TimedOut),
            )
        };
        if let Some(dir) = self.controller_dir("freezer") {
            let file = dir.join("freezer.state");
            let wanted = if frozen { "FROZEN" } else { "THAWED" };
            write(&file, wanted)?;
            // v1 offers no event. A task in an uninterruptible wait delays freezing, and writing again resumes it.
            while read(&file)?.trim() != wanted {
                if Instant::now() > deadline {
                    let _ = write(&file, "THAWED");
                    return Err(late());
                }
                std::thread::sleep(Duration::from_micros(200));
                write(&file, wanted)?;
            }
            return Ok(());
        }
        let Some(dir) = self.unified_dir() else {
            return Err(HostError::new(
                format!("freeze cgroup {}", self.path.display()),
                io::Error::from(io::ErrorKind::Unsupported),
            ));
        };
        write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let wanted = u64::from(frozen);
        match wait_event(&dir.join("cgroup.events"), "frozen", wanted, deadline)? {
            true => Ok(()),
            false => {
                let _ = write(&dir.join("cgroup.freeze"), "0");
                Err(late())
            }
        }
    }

    /// Kills whatever runs in it and removes it. Nothing there: nothing to do.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        let mut dirs: Vec<PathBuf> = self.legacy_dirs().collect();
        dirs.extend(self.unified_dir());
        dirs.retain(|dir| dir.exists());
        self.kill_all(&dirs, deadline)?;
        for dir in &dirs {
            remove_tree(dir, deadline)?;
        }
        Ok(())
    }

    /// Processes in it or below it, in the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self
            .unified_dir()
            .filter(|dir| dir.exists())
            .or_else(|| self.legacy_dirs().find(|dir| dir.exists()))
        {
            Some(dir) => processes_below(&dir),
            None => Ok(Vec::new()),
        }
    }

    /// Starts to watch for the kernel killing for want of memory here.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        match &self.layout {
            Layout::Unified(root) => {
                let file = root.join(&self.path).join("memory.events");
                let step = || format!("watch {}", file.display());
                if !file.exists() {
                    return Ok(None);
                }
                use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
                let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).step(step)?;
                inotify.add_watch(&file, AddWatchFlags::IN_MODIFY).step(step)?;
                Ok(Some(OomWatch { events: inotify.into(), counter: file }))
            }
            Layout::Legacy { .. } => {
                let Some(dir) = self.controller_dir("memory") else { return Ok(None) };
                let counter = dir.join("memory.oom_control");
                if !counter.exists() {
                    return Ok(None);
                }
                let step = || format!("watch {}", counter.display());
                let control = File::open(&counter).step(step)?;
                use nix::sys::eventfd::{EfdFlags, EventFd};
                let events =
                    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).step(step)?;
                use std::os::fd::AsRawFd as _;
                let line = format!("{} {}", events.as_fd().as_raw_fd(), control.as_raw_fd());
                write(&dir.join("cgroup.event_control"), &line)?;
                Ok(Some(OomWatch { events: events.into(), counter }))
            }
        }
    }

    /// Where a v1 controller keeps this cgroup.
    fn controller_dir(&self, controller: &str) -> Option<PathBuf> {
        match &self.layout {
            Layout::Unified(_) => None,
            Layout::Legacy { hierarchies, .. } => hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(controller))
                .map(|hierarchy| hierarchy.mount_point.join(&self.path)),
        }
    }

    fn legacy_dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let hierarchies = match &self.layout {
            Layout::Unified(_) => &[][..],
            Layout::Legacy { hierarchies, .. } => hierarchies.as_slice(),
        };
        hierarchies.iter().map(|hierarchy| hierarchy.mount_point.join(&self.path))
    }

    fn unified_dir(&self) -> Option<PathBuf> {
        match &self.layout {
            Layout::Unified(root) => Some(root.join(&self.path)),
            Layout::Legacy { unified, .. } => unified.as_ref().map(|root| root.join(&self.path)),
        }
    }

    fn make_unified(&self, root: &Path) -> Result<()> {
        let mut dir = root.to_owned();
        for component in self.path.components() {
            hand_down_controllers(&dir)?;
            dir.push(component);
            make_dir(&dir)?;
        }
        refuse_occupied(&dir)
    }

    fn kill_all(&self, dirs: &[PathBuf], deadline: Instant) -> Result<()> {
        let late = || {
            HostError::new(
                format!("kill all processes of cgroup {}", self.path.display()),
                io::Error::from(io::ErrorKind::TimedOut),
            )
        };
        loop {
            let mut pids = Vec::new();
            for dir in dirs {
                pids.extend(processes_below(dir)?);
            }
            pids.sort_unstable();
            pids.dedup();
            // 0 stands for a process of a PID namespace we cannot see, which cannot be one of ours.
            pids.retain(|pid| *pid != 0);
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(late());
            }
            let at_once = self.unified_dir().map(|dir| dir.join("cgroup.kill")).filter(|file| file.exists());
            if let Some(file) = at_once {
                write(&file, "1")?;
            }
            let mut doomed = Vec::new();
            for pid in pids {
                match syscall::pidfd_open(pid) {
                    Ok(pidfd) => {
                        process::pidfd_signal(pidfd.as_fd(), nix::libc::SIGKILL)?;
                        doomed.push(pidfd);
                    }
                    Err(Errno::ESRCH) => {}
                    Err(error) => return Err(HostError::new(format!("open process {pid}"), error)),
                }
            }
            // A frozen task dies once it is thawed.
            if self.controller_dir("freezer").is_some_and(|dir| dir.exists()) || self.is_frozen_unified() {
                self.freeze(false)?;
            }
            for pidfd in &doomed {
                while !process::wait_ended(pidfd.as_fd(), 100) {
                    if Instant::now() > deadline {
                        return Err(late());
                    }
                    // The first process of a PID namespace ends once all others are reaped, and processes that
                    // were added to the container are children of ours.
                    for ended in doomed.iter().filter(|other| process::wait_ended(other.as_fd(), 0)) {
                        process::reap(ended)?;
                    }
                }
            }
        }
    }

    fn is_frozen_unified(&self) -> bool {
        self.unified_dir()
            .is_some_and(|dir| read(&dir.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1"))
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// Tells of kills for want of memory.
#[derive(Debug)]
pub struct OomWatch {
    events: OwnedFd,
    counter: PathBuf,
}

impl OomWatch {
    /// Readable when something happened; read it empty afterwards.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// How many processes were killed so far. Both versions count in a line `oom_kill N`.
    pub fn kills(&self) -> u64 {
        fs::read_to_string(&self.counter).ok().and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0)
    }
}

fn make_legacy(root: &Path, dir: &Path, cpuset: bool) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_occupied(dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir != root => {
            if let Some(parent) = dir.parent() {
                make_parents(root, parent, cpuset)?;
            }
            make_dir(dir)?;
        }
        Err(error) => return Err(HostError::new(format!("create cgroup {}", dir.display()), error)),
    }
    if cpuset { inherit_cpuset(root, dir) } else { Ok(()) }
}

fn make_parents(root: &Path, dir: &Path, cpuset: bool) -> Result<()> {
    if dir == root || !dir.starts_with(root) {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_parents(root, parent, cpuset)?;
    }
    make_dir(dir)?;
    if cpuset { inherit_cpuset(root, dir) } else { Ok(()) }
}

/// A v1 cpuset begins empty, and nobody may join an empty one. The parents are filled as well: whoever
/// makes them at the same time may not have come to that yet.
fn inherit_cpuset(root: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherited(root, dir, file)?;
    }
    Ok(())
}

fn inherited(root: &Path, dir: &Path, file: &str) -> Result<String> {
    let own = dir.join(file);
    let value = read(&own)?.trim().to_owned();
    let Some(parent) = dir.parent().filter(|_| value.is_empty() && dir != root) else { return Ok(value) };
    let value = inherited(root, parent, file)?;
    write(&own, &value)?;
    Ok(value)
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(HostError::new(format!("create cgroup {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// A leftover of the same name may be taken over, but not one with processes in it.
fn refuse_occupied(dir: &Path) -> Result<()> {
    if processes_below(dir)?.is_empty() {
        return Ok(());
    }
    Err(HostError::new(
        format!("create cgroup {}", dir.display()),
        io::Error::new(io::ErrorKind::ResourceBusy, "processes run in it already"),
    ))
}

/// Lets children of a v2 cgroup use every controller it has. What it cannot hand down is missed only by a limit
/// that needs it, and that limit then fails by name.
fn hand_down_controllers(dir: &Path) -> Result<()> {
    let has = read(&dir.join("cgroup.controllers"))?;
    let file = dir.join("cgroup.subtree_control");
    let hands_down = read(&file)?;
    let missing: Vec<&str> = has
        .split_ascii_whitespace()
        .filter(|controller| !hands_down.split_ascii_whitespace().any(|known| known == *controller))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all: String = missing.iter().map(|controller| format!("+{controller} ")).collect();
    if write(&file, all.trim()).is_ok() {
        return Ok(());
    }
    for controller in missing {
        if let Err(error) = write(&file, &format!("+{controller}")) {
            tracing::debug!(cgroup = %dir.display(), controller, error = %error.io(), "controller not handed down");
        }
    }
    Ok(())
}

fn processes_below(dir: &Path) -> Result<Vec<i32>> {
    let mut pids = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        // A threaded v2 cgroup lists its processes in the parent.
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Vec::new(),
        Err(error) => return Err(HostError::new(format!("list processes of {}", dir.display()), error)),
    };
    for child in children(dir)? {
        pids.extend(processes_below(&child)?);
    }
    Ok(pids)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(HostError::new(format!("list {}", dir.display()), error)),
    };
    Ok(entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<()> {
    for child in children(dir)? {
        remove_tree(&child, deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            // A task that has ended leaves its cgroup a moment later, and v1 tells nobody.
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(500));
            }
            Err(error) => return Err(HostError::new(format!("remove cgroup {}", dir.display()), error)),
        }
    }
}

/// Waits until `key` has the value `wanted` in a v2 events file. False: not before the deadline.
fn wait_event(path: &Path, key: &str, wanted: u64, deadline: Instant) -> Result<bool> {
    let step = || format!("watch {}", path.display());
    let mut file = File::open(path).step(step)?;
    loop {
        use std::io::{Read as _, Seek as _};
        let mut text = String::new();
        file.rewind().step(step)?;
        file.read_to_string(&mut text).step(step)?;
        if keyed(&text, key) == Some(wanted) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::from(left.as_millis() as u16)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(HostError::new(step(), error)),
        }
    }
}

/// The number after `key` in a file of `key number` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    fields.get(key)?.trim().parse().ok()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).step(|| format!("read {}", path.display()))
}

/// One write call: the kernel takes each as a whole.
fn write(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .step(|| format!("write {text:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpuset_is_filled_although_its_parents_are_empty_yet() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("engine/pod/container");
        std::fs::create_dir_all(&leaf).unwrap();
        for place in leaf.ancestors().take(4) {
            let whole = place == dir.path();
            std::fs::write(place.join("cpuset.cpus"), if whole { "0-1\n" } else { "\n" }).unwrap();
            std::fs::write(place.join("cpuset.mems"), if whole { "0\n" } else { "" }).unwrap();
        }
        // Someone narrowed this one: it counts for those below.
        std::fs::write(dir.path().join("engine/cpuset.cpus"), "1").unwrap();
        inherit_cpuset(dir.path(), &leaf).unwrap();
        assert_eq!(std::fs::read_to_string(leaf.join("cpuset.cpus")).unwrap().trim(), "1");
        assert_eq!(std::fs::read_to_string(leaf.join("cpuset.mems")).unwrap().trim(), "0");
        assert_eq!(std::fs::read_to_string(leaf.join("../cpuset.mems")).unwrap().trim(), "0");
    }

    fn entry(fs_type: &str, mount_point: &str, super_options: &str) -> mount::MountEntry {
        mount::MountEntry {
            mount_point: mount_point.into(),
            root: "/".into(),
            fs_type: fs_type.into(),
            source: fs_type.into(),
            options: "rw".into(),
            super_options: super_options.into(),
        }
    }

    #[test]
    fn layouts_are_told_apart() {
        let unified = Layout::from_mounts(&[entry("cgroup2", "/sys/fs/cgroup", "rw,nsdelegate")]).unwrap();
        assert_eq!(unified, Layout::Unified("/sys/fs/cgroup".into()));
        let hybrid = Layout::from_mounts(&[
            entry("tmpfs", "/sys/fs/cgroup", "rw"),
            entry("cgroup2", "/sys/fs/cgroup/unified", "rw"),
            entry("cgroup", "/sys/fs/cgroup/systemd", "rw,xattr,name=systemd"),
            entry("cgroup", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            entry("cgroup", "/elsewhere", "rw,cpu,cpuacct"),
        ])
        .unwrap();
        let Layout::Legacy { hierarchies, unified } = hybrid else { panic!("hybrid expected") };
        assert_eq!(unified, Some("/sys/fs/cgroup/unified".into()));
        let controllers: Vec<String> = hierarchies.iter().map(|h| h.controllers.join("+")).collect();
        assert_eq!(controllers, ["name=systemd", "cpu+cpuacct"]);
        assert_eq!(Layout::from_mounts(&[entry("tmpfs", "/", "rw")]), None);
    }

    #[test]
    fn paths_stay_below_the_hierarchy() {
        let layout = Layout::Unified("/sys/fs/cgroup".into());
        let path = |text: &str| Cgroup::new(layout.clone(), Path::new(text)).map(|cgroup| cgroup.path);
        assert_eq!(path("/selkie/a").unwrap(), Path::new("selkie/a"));
        assert_eq!(path("selkie/./a").unwrap(), Path::new("selkie/a"));
        assert!(path("selkie/../../a").is_err());
        assert!(path("/").is_err());
    }

    #[test]
    fn events_are_read_by_key() {
        assert_eq!(keyed("populated 1\nfrozen 0\n", "frozen"), Some(0));
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(keyed("", "frozen"), None);
    }
}
