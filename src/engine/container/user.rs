//! Who a container's process is: `user[:group]` against the image's `/etc/passwd` and `/etc/group`. Pure.
//!
//! Both files come from strangers: lines that make no sense are skipped, whatever is in them.

use thiserror::Error;

/// The identity a process starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups besides `gid`, ascending.
    pub additional_gids: Vec<u32>,
    pub home: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UserError {
    // podman's and docker's words.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoSuchUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoSuchGroup(String),
    /// The kernel keeps -1 for "no change"; runc and docker accept at most 2^31 - 1.
    #[error("uids and gids must be in range 0-2147483647: {0}")]
    OutOfRange(String),
}

const MAX_ID: u32 = i32::MAX as u32;

/// Finds the identity `spec` means; empty is root. The first match in a file wins, a name before a number
/// only if it comes first, as in docker's resolution.
pub fn resolve_user(spec: &str, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, UserError> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec, ""),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = parse_id(user)?;
    let entry = passwd_entries(passwd)
        .find(|entry| entry.name == user.as_bytes() || number.is_some_and(|number| entry.uid == number));
    let mut resolved = match (&entry, number) {
        (Some(entry), _) => ResolvedUser {
            uid: entry.uid,
            gid: entry.gid,
            additional_gids: Vec::new(),
            home: entry.home.clone(),
        },
        (None, Some(uid)) => ResolvedUser { uid, gid: 0, additional_gids: Vec::new(), home: "/".to_owned() },
        (None, None) => return Err(UserError::NoSuchUser(user.to_owned())),
    };
    if wanted_group.is_empty() {
        // Memberships count only where no group was asked for.
        if let Some(entry) = &entry {
            resolved.additional_gids = group_entries(group)
                .filter(|group| group.gid != resolved.gid && group.has_member(entry.name))
                .map(|group| group.gid)
                .collect();
            resolved.additional_gids.sort_unstable();
            resolved.additional_gids.dedup();
        }
        return Ok(resolved);
    }
    let number = parse_id(wanted_group)?;
    let found = group_entries(group).find(|group| {
        group.name == wanted_group.as_bytes() || number.is_some_and(|number| group.gid == number)
    });
    resolved.gid = match (found, number) {
        (Some(group), _) => group.gid,
        (None, Some(gid)) => gid,
        (None, None) => return Err(UserError::NoSuchGroup(wanted_group.to_owned())),
    };
    Ok(resolved)
}

/// A number, if it is written as one.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: String,
}

fn passwd_entries(passwd: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(passwd).filter_map(|line| {
        let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        if name.is_empty() {
            return None;
        }
        // A home that is no path (or hides a NUL) would end up in the environment.
        let home =
            std::str::from_utf8(home).ok().filter(|home| home.starts_with('/') && !home.contains('\0'));
        Some(PasswdEntry {
            name,
            uid: id_field(uid)?,
            gid: id_field(gid)?,
            home: home.unwrap_or("/").to_owned(),
        })
    })
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl GroupEntry<'_> {
    fn has_member(&self, name: &[u8]) -> bool {
        self.members.split(|byte| *byte == b',').any(|member| member == name)
    }
}

fn group_entries(group: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(group).filter_map(|line| {
        let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        (!name.is_empty()).then_some(())?;
        Some(GroupEntry { name, gid: id_field(gid)?, members })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.starts_with(b"#"))
}

fn id_field(field: &[u8]) -> Option<u32> {
    parse_id(std::str::from_utf8(field).ok()?).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment:x:9:9::/:\n\
        \n\
        web:x:1000:100:,,,:/srv/web:/bin/false\n\
        42:x:7:8::/named-42:\n\
        short:x:1\n\
        minus:x:-1:0::/:\n\
        huge:x:99999999999:0::/:\n\
        :x:55:55::/nameless:\n\
        relative:x:60:60::not/absolute:\n\
        web:x:0:0::/root:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nusers:x:100:web\nwheel:x:10:root,web\ndocker:x:5:web,web\nhuge:x:99999999999:web\n\xff\xfe\n";

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        resolve_user(spec, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.additional_gids, u.home))
    }

    #[test]
    fn users_resolve_by_name_and_number() {
        let rows: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[10], "/root"),
            ("root", 0, 0, &[10], "/root"),
            ("0", 0, 0, &[10], "/root"),
            // The first entry counts: a later one of the same name can not make root of it.
            ("web", 1000, 100, &[5, 10], "/srv/web"),
            ("1000", 1000, 100, &[5, 10], "/srv/web"),
            ("web:", 1000, 100, &[5, 10], "/srv/web"),
            ("web:wheel", 1000, 10, &[], "/srv/web"),
            ("web:77", 1000, 77, &[], "/srv/web"),
            (":wheel", 0, 10, &[], "/root"),
            ("4711", 4711, 0, &[], "/"),
            ("4711:4712", 4711, 4712, &[], "/"),
            // Digits can be a name.
            ("42", 7, 8, &[], "/named-42"),
            ("relative", 60, 60, &[], "/"),
            ("55", 55, 0, &[], "/"),
            ("2147483647", 2_147_483_647, 0, &[], "/"),
        ];
        for (spec, uid, gid, groups, home) in rows {
            assert_eq!(user(spec), Ok((*uid, *gid, groups.to_vec(), (*home).to_owned())), "{spec:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for spec in ["nobody", "short", "minus", "huge", "# a comment", "-1", "+1", "0x0", "ro ot", "r\0oot"]
        {
            assert_eq!(user(spec), Err(UserError::NoSuchUser(spec.to_owned())), "{spec:?}");
        }
        assert_eq!(user("web:nogroup"), Err(UserError::NoSuchGroup("nogroup".into())));
        assert_eq!(user("web:huge"), Err(UserError::NoSuchGroup("huge".into())));
        for spec in ["2147483648", "4294967295", "4294967296", "99999999999999999999"] {
            assert_eq!(user(spec), Err(UserError::OutOfRange(spec.into())));
        }
        assert_eq!(user("0:4294967296"), Err(UserError::OutOfRange("4294967296".into())));
    }

    #[test]
    fn hostile_files_are_harmless() {
        let long = vec![b'a'; 1 << 20];
        let colons = vec![b':'; 1 << 16];
        for file in
            [&b""[..], b"\0", b":::::::", b"\xff\xff:\xff:0:0", &long, &colons, b"root:x:0:0:root:\0/x:sh"]
        {
            let found = resolve_user("0", file, file).unwrap();
            assert_eq!((found.uid, found.gid, found.home.as_str()), (0, 0, "/"));
            assert!(resolve_user("web", file, file).is_err());
        }
    }
}
