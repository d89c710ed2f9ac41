//! Paths inside somebody else's root directory, resolved by the kernel as after a chroot: `..` and absolute links
//! stay inside, whatever is renamed meanwhile, and links of `/proc` that lead anywhere are refused.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// How often a lookup that raced with a rename is tried again.
const ATTEMPTS: u32 = 64;

/// The root directory of a process, with all that is mounted there, as the process sees it.
pub fn root_of(pid: i32) -> nix::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()).map(File::from)
}

/// Opens `path` as seen by a process whose root is `root`.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<File> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..ATTEMPTS {
        match openat2(root.as_fd(), path, how) {
            // Something was renamed while the kernel looked; it asks to try again.
            Err(Errno::EAGAIN) => {}
            result => return result.map(File::from),
        }
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "inside").unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "outside").unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../../../etc/passwd", root.join("up")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        let root = File::open(&root).unwrap();
        for path in ["etc/passwd", "/etc/passwd", "../etc/passwd", "absolute", "up", "etc/../../up"] {
            let mut text = String::new();
            let file = open_in_root(&root, Path::new(path), OFlag::O_RDONLY);
            file.unwrap_or_else(|e| panic!("{path}: {e}")).read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        assert!(open_in_root(&root, Path::new("magic"), OFlag::O_RDONLY).is_err());
        let slash = File::open("/").unwrap();
        let magic = format!("proc/{}/root", std::process::id());
        assert_eq!(open_in_root(&slash, Path::new(&magic), OFlag::O_PATH).unwrap_err(), Errno::ELOOP);
    }
}
