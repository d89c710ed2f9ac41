//! The mounts of a container, in order. Pure.

use std::path::PathBuf;

use oci_spec::runtime::{Mount as RuntimeMount, MountBuilder};

use super::spec::SecurityOptions;

/// A mount of the request whose source has been found.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedMount {
    pub destination: String,
    pub source: ResolvedSource,
    pub read_only: bool,
    /// As the request had them.
    pub options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ResolvedSource {
    Bind(PathBuf),
    /// A volume's directory.
    Volume(PathBuf),
    Tmpfs {
        size_bytes: Option<u64>,
        mode: Option<u32>,
    },
}

/// `/dev/shm`.
#[derive(Debug, Clone, PartialEq)]
pub enum Shm {
    /// Also with another container's IPC namespace: its `/dev/shm` is in its own mount namespace, out of reach.
    Private { size_bytes: u64 },
    /// The pod's, or the host's.
    Shared(PathBuf),
}

/// A file the engine writes and the container sees.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedFile {
    pub destination: &'static str,
    pub source: PathBuf,
    pub read_only: bool,
}

/// Options of a request that are not for mount(2): `nocopy` is ours, SELinux relabelling means nothing without it.
const NOT_FOR_THE_KERNEL: &[&str] = &["nocopy", "copy", "z", "Z", "rw", "ro", "bind", "rbind"];

const PROPAGATION: &[&str] =
    &["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// Options a request may name.
const KNOWN_OPTIONS: &[&str] = &[
    "nocopy",
    "copy",
    "z",
    "Z",
    "rw",
    "ro",
    "bind",
    "rbind",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
];

pub fn is_known_option(option: &str) -> bool {
    KNOWN_OPTIONS.contains(&option)
}

/// Everything that is mounted besides the root file system. What the request puts at a place replaces what
/// would have been there.
pub fn mounts(
    security: &SecurityOptions,
    shm: &Shm,
    files: &[GeneratedFile],
    requested: &[ResolvedMount],
) -> Vec<RuntimeMount> {
    let mut mounts = system_mounts(security, shm);
    for file in files {
        // podman's options for them: the container may write its own copy.
        let mut options = vec!["rbind", "rprivate"];
        options.push(if file.read_only { "ro" } else { "rw" });
        mounts.push(mount("bind", file.source.clone(), file.destination, &options));
    }
    let wanted: Vec<PathBuf> = requested.iter().map(|mount| normalized(&mount.destination)).collect();
    mounts.retain(|mount| !wanted.contains(mount.destination()));
    let mut own: Vec<RuntimeMount> = requested.iter().map(requested_mount).collect();
    // A parent before what is mounted in it; among equals the request's order.
    own.sort_by_key(|mount| mount.destination().components().count());
    // A mount over `/` or `/etc` must not hide the files in it that come from the engine.
    let covers =
        |outer: &RuntimeMount, inner: &RuntimeMount| inner.destination().starts_with(outer.destination());
    let (covered, free): (Vec<_>, Vec<_>) =
        mounts.into_iter().partition(|system| own.iter().any(|mount| covers(mount, system)));
    let mut all = free;
    all.append(&mut own);
    all.extend(covered);
    all.sort_by_key(|mount| mount.destination().components().count());
    all
}

fn system_mounts(security: &SecurityOptions, shm: &Shm) -> Vec<RuntimeMount> {
    let access = if security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["rprivate", "nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    mounts.push(match shm {
        Shm::Private { size_bytes } => mount(
            "tmpfs",
            "shm",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={size_bytes}")],
        ),
        Shm::Shared(path) => {
            mount("bind", path.clone(), "/dev/shm", &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"])
        }
    });
    mounts
}

fn requested_mount(requested: &ResolvedMount) -> RuntimeMount {
    let destination = normalized(&requested.destination);
    let mut options: Vec<String> = requested
        .options
        .iter()
        .filter(|option| !NOT_FOR_THE_KERNEL.contains(&option.as_str()))
        .cloned()
        .collect();
    options.push(if requested.read_only { "ro" } else { "rw" }.to_owned());
    if !requested.options.iter().any(|option| PROPAGATION.contains(&option.as_str())) {
        options.push("rprivate".to_owned());
    }
    let says = |name: &str| requested.options.iter().any(|option| option == name);
    let mut unless_said = |default: &str, opposite: &str| {
        if !says(default) && !says(opposite) {
            options.push(default.to_owned());
        }
    };
    let (kind, source) = match &requested.source {
        ResolvedSource::Bind(path) => {
            options.push("rbind".to_owned());
            ("bind", path.clone())
        }
        ResolvedSource::Volume(path) => {
            unless_said("nosuid", "suid");
            unless_said("nodev", "dev");
            options.push("rbind".to_owned());
            ("bind", path.clone())
        }
        ResolvedSource::Tmpfs { size_bytes, mode } => {
            unless_said("nosuid", "suid");
            unless_said("nodev", "dev");
            if let Some(size) = size_bytes {
                options.push(format!("size={size}"));
            }
            // The kernel's default for a tmpfs, said aloud.
            options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            ("tmpfs", PathBuf::from("tmpfs"))
        }
    };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(kind, source, destination, &options)
}

/// Without `.` and double slashes, so that equal places compare equal.
fn normalized(destination: &str) -> PathBuf {
    PathBuf::from(destination).components().collect()
}

fn mount(
    kind: &str,
    source: impl Into<PathBuf>,
    destination: impl Into<PathBuf>,
    options: &[&str],
) -> RuntimeMount {
    MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(destination)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .expect("every field of a mount is given")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHM: Shm = Shm::Private { size_bytes: 65_536_000 };

    fn bind(destination: &str) -> ResolvedMount {
        ResolvedMount {
            destination: destination.into(),
            source: ResolvedSource::Bind("/src".into()),
            read_only: false,
            options: Vec::new(),
        }
    }

    fn destinations(files: &[GeneratedFile], requested: &[ResolvedMount]) -> Vec<String> {
        mounts(&SecurityOptions::default(), &SHM, files, requested)
            .iter()
            .map(|mount| mount.destination().display().to_string())
            .collect()
    }

    fn options_of(requested: ResolvedMount) -> Vec<String> {
        requested_mount(&requested).options().clone().unwrap()
    }

    #[test]
    fn parents_come_before_children_and_requests_replace() {
        let hosts =
            GeneratedFile { destination: "/etc/hosts", source: "/run/hosts".into(), read_only: false };
        let all = destinations(
            std::slice::from_ref(&hosts),
            &[bind("/data/deep/er"), bind("/data"), bind("/etc"), bind("/dev/shm"), bind("/data/deep")],
        );
        let position = |wanted: &str| {
            let found: Vec<_> = (0..all.len()).filter(|i| all[*i] == wanted).collect();
            assert_eq!(found.len(), 1, "{wanted} in {all:?}");
            found[0]
        };
        for (outer, inner) in [
            ("/data", "/data/deep"),
            ("/data/deep", "/data/deep/er"),
            ("/etc", "/etc/hosts"),
            ("/dev", "/dev/shm"),
        ] {
            assert!(position(outer) < position(inner), "{outer} before {inner} in {all:?}");
        }
        let replaced = mounts(&SecurityOptions::default(), &SHM, &[hosts], &[bind("/etc//hosts/")]);
        let hosts: Vec<_> = replaced.iter().filter(|mount| mount.destination().ends_with("hosts")).collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].source().as_deref(), Some(std::path::Path::new("/src")));
    }

    #[test]
    fn options_follow_podmans_defaults() {
        assert_eq!(options_of(bind("/a")), ["rw", "rprivate", "rbind"]);
        let mut read_only = bind("/a");
        read_only.read_only = true;
        read_only.options = ["nocopy", "rslave", "noexec", "Z"].map(str::to_owned).to_vec();
        assert_eq!(options_of(read_only), ["rslave", "noexec", "ro", "rbind"]);
        let mut volume = bind("/a");
        volume.source = ResolvedSource::Volume("/v".into());
        volume.options = vec!["dev".into()];
        assert_eq!(options_of(volume), ["dev", "rw", "rprivate", "nosuid", "rbind"]);
        let mut tmpfs = bind("/a");
        tmpfs.source = ResolvedSource::Tmpfs { size_bytes: Some(4096), mode: Some(0o700) };
        assert_eq!(options_of(tmpfs), ["rw", "rprivate", "nosuid", "nodev", "size=4096", "mode=700"]);
    }

    #[test]
    fn sys_is_read_only_unless_privileged() {
        for (privileged, access) in [(false, "ro"), (true, "rw")] {
            let security = SecurityOptions { privileged, ..SecurityOptions::default() };
            for mount in mounts(&security, &SHM, &[], &[]) {
                let options = mount.options().clone().unwrap();
                if ["/sys", "/sys/fs/cgroup"].iter().any(|path| mount.destination().ends_with(&path[1..])) {
                    assert!(options.iter().any(|option| option == access), "{mount:?}");
                }
            }
        }
    }
}
