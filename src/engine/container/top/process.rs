//! One process as `/proc` shows it, and what it takes to put it into words.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::engine::host::in_root::{open_in_root, root_of};

/// More is not read of a container's `/etc/passwd` or `/etc/group`: it is a stranger's.
const MAX_NAMES_BYTES: u64 = 4 << 20;

/// The machine at the moment of the table.
pub struct Host {
    pub now: Timestamp,
    pub uptime: Duration,
    pub ticks_per_sec: u64,
    pub page_bytes: u64,
    pub memory_bytes: u64,
    pub last_capability: u32,
    pub names: Names,
}

/// Names by number, of users and of groups.
#[derive(Default)]
pub struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

/// The container's own view of itself.
#[derive(Default)]
pub struct Inside {
    pub names: Names,
    uid_map: Vec<IdRange>,
    gid_map: Vec<IdRange>,
    pid_namespace: Option<std::path::PathBuf>,
}

struct IdRange {
    inside: u32,
    outside: u32,
    count: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Its number in each PID namespace, ours first.
    pub namespace_pids: Vec<i32>,
    pub comm: String,
    pub arguments: String,
    pub state: char,
    pub ppid: i32,
    pub pgid: i32,
    pub session: i32,
    pub namespace_pgid: i32,
    pub tty: i32,
    pub foreground_pgid: i32,
    pub cpu_ticks: u64,
    pub nice: i32,
    pub threads: u64,
    pub start_ticks: u64,
    pub virtual_bytes: u64,
    pub resident_pages: u64,
    pub processor: u32,
    pub ruid: u32,
    pub uid: u32,
    pub rgid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    pub seccomp: u8,
    pub locked_pages: bool,
    pub label: Option<String>,
}

impl Host {
    pub fn observe() -> io::Result<Self> {
        let number = |variable, otherwise| {
            sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(otherwise)
        };
        let page_bytes = number(SysconfVar::PAGE_SIZE, 4096);
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        Ok(Self {
            now: Timestamp::now(),
            uptime: clock_gettime(ClockId::CLOCK_BOOTTIME)?.into(),
            ticks_per_sec: number(SysconfVar::CLK_TCK, 100),
            page_bytes,
            memory_bytes: page_bytes * number(SysconfVar::_PHYS_PAGES, 0),
            last_capability: last.trim().parse().unwrap_or(40),
            names: Names::parse(
                &fs::read_to_string("/etc/passwd").unwrap_or_default(),
                &fs::read_to_string("/etc/group").unwrap_or_default(),
            ),
        })
    }

    pub fn ticks(&self, ticks: u64) -> Duration {
        Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / self.ticks_per_sec.max(1)))
    }

    pub fn elapsed(&self, process: &Process) -> Duration {
        self.uptime.saturating_sub(self.ticks(process.start_ticks))
    }
}

impl Names {
    pub fn parse(passwd: &str, group: &str) -> Self {
        let by_number = |text: &str| {
            let mut names = BTreeMap::new();
            for line in text.lines() {
                let mut fields = line.split(':');
                let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
                else {
                    continue;
                };
                if let Ok(number) = number.parse() {
                    names.entry(number).or_insert_with(|| name.to_owned());
                }
            }
            names
        };
        Self { users: by_number(passwd), groups: by_number(group) }
    }

    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

impl Inside {
    /// What cannot be read is left out: numbers stand for names then.
    pub fn observe(pid: i32) -> Self {
        let root = root_of(pid);
        let read = |path: &str| -> io::Result<String> {
            let root = root.as_ref().map_err(|errno| io::Error::from(*errno))?;
            // A FIFO in the place of the file must not hold us.
            let file = open_in_root(root, Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
            let mut text = Vec::new();
            if file.metadata()?.is_file() {
                file.take(MAX_NAMES_BYTES).read_to_end(&mut text)?;
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let map =
            |file: &str| parse_id_map(&fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default());
        Self {
            names: Names::parse(
                &read("etc/passwd").unwrap_or_default(),
                &read("etc/group").unwrap_or_default(),
            ),
            uid_map: map("uid_map"),
            gid_map: map("gid_map"),
            pid_namespace: pid_namespace(pid),
        }
    }

    pub fn user(&self, uid: u32) -> String {
        self.names.user(to_inside(&self.uid_map, uid))
    }

    pub fn group(&self, gid: u32) -> String {
        self.names.group(to_inside(&self.gid_map, gid))
    }

    /// The parent's number inside: 0 for one outside, as the kernel has it.
    pub fn parent(&self, process: &Process, listed: &[Process]) -> i32 {
        if let Some(parent) = listed.iter().find(|other| other.pid == process.ppid) {
            return parent.pid_inside();
        }
        // Of a pod's shared namespace it may be in another container.
        if self.pid_namespace.is_some()
            && pid_namespace(process.ppid) == self.pid_namespace
            && let Some(parent) = Process::read(process.ppid)
        {
            return parent.pid_inside();
        }
        0
    }
}

fn pid_namespace(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn parse_id_map(text: &str) -> Vec<IdRange> {
    let ranges = text.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some(IdRange { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? })
    });
    ranges.collect()
}

fn to_inside(map: &[IdRange], id: u32) -> u32 {
    let range = map.iter().find(|range| id >= range.outside && id - range.outside < range.count);
    // The kernel's number for what has none.
    range.map_or(65534, |range| range.inside.saturating_add(id - range.outside))
}

impl Process {
    /// `None`: it has ended.
    pub fn read(pid: i32) -> Option<Self> {
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut process = Self { pid, ..Self::default() };
        process.take_stat(&text(file("stat")?))?;
        process.take_status(&text(file("status")?));
        let arguments = file("cmdline").unwrap_or_default();
        let words: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        process.arguments = match words.join(" ").trim_end() {
            "" => format!("[{}]", process.comm),
            words => words.to_owned(),
        };
        let label = file("attr/current").map(text);
        process.label = label.map(|label| label.trim_end_matches(['\0', '\n']).to_owned());
        Some(process)
    }

    pub fn pid_inside(&self) -> i32 {
        self.namespace_pids.last().copied().unwrap_or(self.pid)
    }

    fn take_stat(&mut self, stat: &str) -> Option<()> {
        // The name may contain anything, parentheses too.
        let (head, rest) = stat.rsplit_once(") ")?;
        self.comm = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as proc(5) does; the state is its third.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let signed = |number| field(number).parse::<i32>().unwrap_or_default();
        let count = |number| field(number).parse::<u64>().unwrap_or_default();
        self.state = field(3).chars().next()?;
        self.ppid = signed(4);
        self.pgid = signed(5);
        self.session = signed(6);
        self.tty = signed(7);
        self.foreground_pgid = signed(8);
        self.cpu_ticks = count(14) + count(15);
        self.nice = signed(19);
        self.threads = count(20);
        self.start_ticks = count(22);
        self.virtual_bytes = count(23);
        self.resident_pages = count(24);
        self.processor = u32::try_from(count(39)).unwrap_or_default();
        Some(())
    }

    fn take_status(&mut self, status: &str) {
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let numbers = || value.split_ascii_whitespace().filter_map(|number| number.parse::<u32>().ok());
            let mask = || u64::from_str_radix(value.trim(), 16).unwrap_or_default();
            match key {
                "Uid" => (self.ruid, self.uid) = two(numbers()),
                "Gid" => (self.rgid, self.gid) = two(numbers()),
                "Groups" => self.groups = numbers().collect(),
                "NSpid" => self.namespace_pids = numbers().filter_map(|pid| pid.try_into().ok()).collect(),
                "NSpgid" => {
                    self.namespace_pgid =
                        numbers().next_back().and_then(|pid| pid.try_into().ok()).unwrap_or_default();
                }
                "CapInh" => self.capabilities[0] = mask(),
                "CapPrm" => self.capabilities[1] = mask(),
                "CapEff" => self.capabilities[2] = mask(),
                "CapBnd" => self.capabilities[3] = mask(),
                "CapAmb" => self.capabilities[4] = mask(),
                "Seccomp" => self.seccomp = value.trim().parse().unwrap_or_default(),
                "VmLck" => self.locked_pages = !value.trim_start().starts_with('0'),
                _ => {}
            }
        }
    }
}

fn two(mut numbers: impl Iterator<Item = u32>) -> (u32, u32) {
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_what_it_likes() {
        let mut process = Process::default();
        let tail = "4 5 6 34817 7 0 0 0 0 0 150 50 0 0 20 5 3 0 1234 4096 12 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0";
        process.take_stat(&format!("77 (a) S (b c) R {tail}")).unwrap();
        assert_eq!((process.comm.as_str(), process.state, process.ppid), ("a) S (b c", 'R', 4));
        assert_eq!((process.cpu_ticks, process.nice, process.start_ticks), (200, 5, 1234));
        assert_eq!((process.virtual_bytes, process.resident_pages, process.threads), (4096, 12, 3));
    }

    #[test]
    fn numbers_inside_are_the_last_ones() {
        let mut process = Process { pid: 900, ..Process::default() };
        process.take_status(
            "Name:\tx\nUid:\t100000\t100007\t0\t0\nGid:\t1\t2\t3\t4\nGroups:\t5 6 \nNSpid:\t900\t7\nSeccomp:\t2\n",
        );
        assert_eq!((process.pid_inside(), process.uid, process.ruid), (7, 100_007, 100_000));
        assert_eq!((process.groups.as_slice(), process.seccomp), (&[5, 6][..], 2));
        let inside = Inside {
            names: Names::parse("root:x:0:0::/:/bin/sh\nweb:x:7:7::/:\n:broken\n", ""),
            uid_map: parse_id_map("         0     100000      65536\n"),
            ..Inside::default()
        };
        assert_eq!([inside.user(100_007), inside.user(100_008), inside.user(3)], ["web", "8", "65534"]);
    }
}
