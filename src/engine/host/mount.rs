//! What is mounted where, and taking it away again.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{HostError, Result, Step as _};

/// One line of proc(5)'s `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub mount_point: PathBuf,
    /// The directory of the file system that is visible there; for cgroups the cgroup.
    pub root: PathBuf,
    pub fs_type: String,
    pub source: String,
    /// Per-mount options: `rw,nosuid,...`
    pub options: String,
    /// The file system's own options; for cgroup v1 these name the controllers.
    pub super_options: String,
}

/// Everything mounted in the caller's mount namespace, in mount order.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let text = fs::read("/proc/thread-self/mountinfo").step(|| "read mount table".into())?;
    Ok(parse_mountinfo(&text))
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let path = canonical_parent(path)?;
    Ok(mounts()?.iter().any(|entry| entry.mount_point == path))
}

/// Lazily unmounts everything at and below `dir`, deepest and newest first. Nothing mounted, or no such
/// directory: nothing to do.
pub fn unmount_all(dir: &Path) -> Result<()> {
    let dir = match canonical_parent(dir) {
        Ok(dir) => dir,
        Err(error) if error.io().kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in mounts()?.into_iter().rev().filter(|entry| entry.mount_point.starts_with(&dir)) {
        unmount(&entry.mount_point)?;
    }
    Ok(())
}

/// Mounts an empty tmpfs on the directory `path`; `size_bytes: None` is the kernel's default, half the memory.
pub fn mount_tmpfs(path: &Path, size_bytes: Option<u64>, mode: u32) -> Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|error| HostError::new(format!("mount a tmpfs on {}", path.display()), error))
}

/// Lazily unmounts `path`. Nothing mounted there is no error.
pub fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(HostError::new(format!("unmount {}", path.display()), error)),
    }
}

/// Resolves the directory part only: the last component may itself be what is mounted on.
fn canonical_parent(path: &Path) -> Result<PathBuf> {
    let step = || format!("resolve {}", path.display());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
            Ok(parent.canonicalize().step(step)?.join(name))
        }
        _ => path.canonicalize().step(step),
    }
}

fn parse_mountinfo(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_mountinfo_line).collect()
}

fn parse_mountinfo_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Six fixed fields, any number of optional ones, then "-" and three more.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    Some(MountEntry {
        root: path(fields.get(3)?),
        mount_point: path(fields.get(4)?),
        options: text(fields.get(5)?),
        fs_type: text(fields.get(dash + 1)?),
        source: text(fields.get(dash + 2)?),
        super_options: text(fields.get(dash + 3)?),
    })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&unescape(field)))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(value) = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok())
        {
            out.push(value);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_optional_fields_and_escapes() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue";
        assert_eq!(
            parse_mountinfo_line(line).unwrap(),
            MountEntry {
                mount_point: "/mnt 2".into(),
                root: "/mnt1".into(),
                fs_type: "ext3".into(),
                source: "/dev/root".into(),
                options: "rw,noatime".into(),
                super_options: "rw,errors=continue".into(),
            }
        );
        assert_eq!(parse_mountinfo_line(b""), None);
        assert_eq!(parse_mountinfo_line(b"1 2 3 4 5 6 7"), None);
    }

    #[test]
    fn unmounting_what_is_not_there_is_done_already() {
        let dir = tempfile::tempdir().unwrap();
        unmount_all(dir.path()).unwrap();
        unmount_all(&dir.path().join("missing/deeper")).unwrap();
        unmount(&dir.path().join("missing")).unwrap();
        assert!(!is_mount_point(dir.path()).unwrap());
    }
}
