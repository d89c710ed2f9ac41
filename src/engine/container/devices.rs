//! Host devices that a container is given.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};

use super::oci_spec::device_rule;
use super::spec::Device;

/// Below `/dev`, what is the container's own and never the host's.
const NOT_HANDED_ON: &[&str] =
    &["pts", "shm", "mqueue", "console", "ptmx", "fd", "stdin", "stdout", "stderr"];

/// The nodes to make for `wanted` and the rules that let them be used. A directory stands for the devices in it.
pub fn requested(wanted: &[Device]) -> io::Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut devices = Vec::new();
    let mut rules = Vec::new();
    for device in wanted {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("device {}: {error}", device.host_path.display()))
        };
        let mut nodes = Vec::new();
        if device.host_path.is_dir() {
            collect(&device.host_path, &device.container_path, &mut nodes).map_err(named)?;
        } else {
            let node = node(&device.host_path, &device.container_path).map_err(named)?;
            nodes.push(node.ok_or_else(|| named(io::Error::other("not a device")))?);
        }
        for node in nodes {
            rules.push(device_rule(
                true,
                Some(node.typ()),
                Some(node.major()),
                Some(node.minor()),
                &device.permissions,
            ));
            devices.push(node);
        }
    }
    Ok((devices, rules))
}

/// Every device of the host, for privileged containers.
pub fn all() -> io::Result<Vec<LinuxDevice>> {
    let mut nodes = Vec::new();
    for entry in std::fs::read_dir("/dev")? {
        let entry = entry?;
        if NOT_HANDED_ON.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let path = entry.path();
        // Looked at without following: a link would lead to a node that is listed anyway.
        if entry.file_type()?.is_dir() {
            collect(&path, &path, &mut nodes)?;
        } else {
            nodes.extend(node(&path, &path)?);
        }
    }
    Ok(nodes)
}

fn collect(from: &Path, to: &Path, nodes: &mut Vec<LinuxDevice>) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            collect(&path, &place, nodes)?;
        } else {
            nodes.extend(node(&path, &place)?);
        }
    }
    Ok(())
}

/// `None`: something else than a device, or gone meanwhile.
fn node(from: &Path, to: &Path) -> io::Result<Option<LinuxDevice>> {
    let meta = match std::fs::metadata(from) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound && from.is_symlink() => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = meta.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return Ok(None);
    };
    let device = LinuxDeviceBuilder::default()
        .path(PathBuf::from(to))
        .typ(kind)
        .major(major(meta.rdev()) as i64)
        .minor(minor(meta.rdev()) as i64)
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .map_err(io::Error::other)?;
    Ok(Some(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> Device {
        Device { host_path: path.into(), container_path: "/dev/x".into(), permissions: "rw".into() }
    }

    #[test]
    fn requested_devices_are_looked_up() {
        let (devices, rules) = requested(&[device("/dev/null")]).unwrap();
        assert_eq!((devices[0].major(), devices[0].minor(), devices[0].typ()), (1, 3, LinuxDeviceType::C));
        assert_eq!(devices[0].path(), Path::new("/dev/x"));
        assert_eq!((rules[0].access().as_deref(), rules[0].allow()), (Some("rw"), true));
        for missing in ["/dev/does-not-exist", "/etc/passwd"] {
            assert!(requested(&[device(missing)]).unwrap_err().to_string().contains(missing));
        }
    }

    #[test]
    fn privileged_containers_get_the_hosts_devices_but_its_terminals() {
        let all = all().unwrap();
        assert!(all.iter().any(|device| device.path().ends_with("null")));
        assert!(!all.iter().any(|device| device.path().starts_with("/dev/pts")));
    }
}
