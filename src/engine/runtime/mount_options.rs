//! Mount options as mount(8) and the OCI spec spell them.

use std::path::PathBuf;

use nix::libc;

use crate::engine::host::syscall::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `Some(recursive)` for `bind` and `rbind`.
    pub bind: Option<bool>,
    pub set: u64,
    pub clear: u64,
    /// The same for everything below, from `rro` and its kin.
    pub set_below: u64,
    pub clear_below: u64,
    /// `MS_PRIVATE` ... and whether for everything below too, in order.
    pub propagation: Vec<(u64, bool)>,
    /// The source is to be resolved below this directory without leaving it: `beneath=DIR`, an option of ours for
    /// paths somebody hostile may have prepared (Kubernetes `subPath`).
    pub beneath: Option<PathBuf>,
    /// Fill a tmpfs with what it covers: runc's `tmpcopyup`.
    pub copy_up: bool,
    /// For the file system itself.
    pub data: Vec<String>,
    /// Needs something we do not do.
    pub refused: Option<String>,
}

impl MountOptions {
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option.as_ref());
        }
        parsed
    }

    pub fn is_read_only(&self) -> bool {
        self.set & MOUNT_ATTR_RDONLY != 0
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "" | "defaults" | "nomand" | "mand" | "silent" | "loud" | "async" | "remount" | "notmpcopyup"
            | "copy" | "nocopy" => {}
            "tmpcopyup" => self.copy_up = true,
            "z" | "Z" | "U" => {}
            "idmap" | "ridmap" => self.refused = Some(option.to_owned()),
            _ => {
                if let Some(flag) = propagation(option) {
                    self.propagation.push(flag);
                } else if let Some((attribute, on)) = attribute(option) {
                    Self::switch(&mut self.set, &mut self.clear, attribute, on);
                } else if let Some((attribute, on)) = option.strip_prefix('r').and_then(attribute) {
                    Self::switch(&mut self.set_below, &mut self.clear_below, attribute, on);
                    Self::switch(&mut self.set, &mut self.clear, attribute, on);
                } else if let Some(dir) = option.strip_prefix("beneath=") {
                    self.beneath = Some(dir.into());
                } else if option.starts_with("idmap=") || option.starts_with("ridmap=") {
                    self.refused = Some(option.to_owned());
                } else {
                    self.data.push(option.to_owned());
                }
            }
        }
    }

    /// Access times are a field of three values, not a bit.
    fn switch(set: &mut u64, clear: &mut u64, attribute: u64, on: bool) {
        let is_atime = attribute & MOUNT_ATTR_ATIME != 0;
        let field = if is_atime { MOUNT_ATTR_ATIME } else { attribute };
        *set &= !field;
        if on {
            *set |= attribute;
        }
        if is_atime {
            *clear |= field;
        } else if on {
            *clear &= !field;
        } else {
            *clear |= field;
        }
    }
}

fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (MOUNT_ATTR_RDONLY, true),
        "rw" => (MOUNT_ATTR_RDONLY, false),
        "nosuid" => (MOUNT_ATTR_NOSUID, true),
        "suid" => (MOUNT_ATTR_NOSUID, false),
        "nodev" => (MOUNT_ATTR_NODEV, true),
        "dev" => (MOUNT_ATTR_NODEV, false),
        "noexec" => (MOUNT_ATTR_NOEXEC, true),
        "exec" => (MOUNT_ATTR_NOEXEC, false),
        "noatime" => (MOUNT_ATTR_NOATIME, true),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, true),
        // Relative access times are the field's zero, and the default.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (MOUNT_ATTR_ATIME, false),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (MOUNT_ATTR_NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// A propagation's flag, and whether for everything below too. Also the spec's `rootfsPropagation`.
pub fn propagation(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_into_what_they_are() {
        let options =
            MountOptions::parse(&["rbind", "rw", "ro", "nosuid", "rprivate", "size=64k", "mode=755"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(options.clear, 0);
        assert_eq!(options.propagation, [(libc::MS_PRIVATE, true)]);
        assert_eq!(options.data, ["size=64k", "mode=755"]);
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = MountOptions::parse(&["ro", "rw", "noatime", "strictatime", "noexec"]);
        assert_eq!(options.set, MOUNT_ATTR_STRICTATIME | MOUNT_ATTR_NOEXEC);
        assert_eq!(options.clear, MOUNT_ATTR_RDONLY | MOUNT_ATTR_ATIME);
        assert_eq!(MountOptions::parse(&["noatime", "relatime"]).set, 0);
    }

    #[test]
    fn recursive_read_only_reaches_below() {
        let options = MountOptions::parse(&["rbind", "rro"]);
        assert_eq!((options.set, options.set_below), (MOUNT_ATTR_RDONLY, MOUNT_ATTR_RDONLY));
        let options = MountOptions::parse(&["bind", "beneath=/volumes/a", "idmap"]);
        assert_eq!(options.beneath, Some("/volumes/a".into()));
        assert_eq!(options.refused, Some("idmap".into()));
    }
}
