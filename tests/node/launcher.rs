//! What the launcher's kernel part needs the monitor program for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use selkie::engine::host::namespace::{self, NamespaceKind, pinned_path};

const MONITOR: &str = env!("CARGO_BIN_EXE_selkie-monitor");

struct Sandbox(PathBuf);

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = namespace::remove_pinned(&self.0);
    }
}

#[test]
fn a_shared_pid_namespace_has_an_init_with_nothing_to_offer() {
    let dir = tempfile::tempdir().unwrap();
    let pod = Sandbox(dir.path().join("pod"));
    let kinds = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Pid];
    let pause = namespace::create_pinned(&pod.0, &kinds, Some("pod"), &BTreeMap::new(), Path::new(MONITOR))
        .unwrap()
        .expect("a PID namespace has an init");
    assert!(namespace::is_pinned(&pod.0, &kinds));
    assert_eq!(namespace::pause_process(&pod.0).unwrap(), Some(pause));

    let status = fs::read_to_string(format!("/proc/{}/status", pause.pid)).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(field("NSpid:").ends_with("\t1"), "{status}");
    let entries = |path: String| fs::read_dir(path).unwrap().count();
    assert_eq!(entries(format!("/proc/{}/root", pause.pid)), 0);
    assert_eq!(entries(format!("/proc/{}/fd", pause.pid)), 0);

    // Others join it, and it reaps what they leave.
    let output = std::process::Command::new("/bin/busybox")
        .args(["nsenter", &format!("--pid={}", pinned_path(&pod.0, NamespaceKind::Pid).display())])
        .args(["--", "/bin/busybox", "sh", "-c", "(/bin/busybox true &); echo $$"])
        .output()
        .unwrap();
    let inner: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(inner > 1);

    namespace::remove_pinned(&pod.0).unwrap();
    assert!(!Path::new(&format!("/proc/{}", pause.pid)).exists());
    assert!(!pod.0.exists());
}
