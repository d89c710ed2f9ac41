//! Which columns a table has, and how each cell reads. Pure.
//!
//! Two ways to ask: podman's descriptors (`user,pid,hpid`), and options of ps(1) (`aux`, `-eo pid,args`). Options that
//! choose processes mean nothing here: the container's are shown.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::Numbering;
use super::process::{Host, Inside, Process};
use crate::engine::container::capability::names_of_mask;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownColumn {
    #[error("unknown column {0:?}")]
    Column(String),
    #[error("option {0:?} of ps is not supported")]
    Option(String),
}

/// The columns of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    columns: Vec<(String, Field)>,
    numbering: Numbering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Arguments,
    /// Its place in `Process::capabilities`.
    Capabilities(usize),
    Comm,
    CpuPercent {
        decimals: usize,
    },
    CpuTime,
    CpuTimeClock,
    CpuTimeMinutes,
    Elapsed,
    ElapsedClock,
    Gid,
    Group,
    Groups,
    HostGroup,
    HostGroups,
    HostPid,
    HostUser,
    Label,
    MemoryPercent,
    Nice,
    Pgid,
    Pid,
    Ppid,
    Processor,
    RealGroup,
    RealUser,
    Resident,
    Seccomp,
    Session,
    Size,
    Start,
    StartTime,
    State,
    StateFlags,
    Threads,
    Tty,
    Uid,
    User,
    Virtual,
}

/// podman's words, as `podman top` lists them.
const DESCRIPTORS: &[(&str, &str, Field)] = &[
    ("args", "COMMAND", Field::Arguments),
    ("capamb", "AMBIENT CAPS", Field::Capabilities(4)),
    ("capbnd", "BOUNDING CAPS", Field::Capabilities(3)),
    ("capeff", "EFFECTIVE CAPS", Field::Capabilities(2)),
    ("capinh", "INHERITED CAPS", Field::Capabilities(0)),
    ("capprm", "PERMITTED CAPS", Field::Capabilities(1)),
    ("comm", "COMMAND", Field::Comm),
    ("etime", "ELAPSED", Field::Elapsed),
    ("group", "GROUP", Field::Group),
    ("groups", "GROUPS", Field::Groups),
    ("hgroup", "HGROUP", Field::HostGroup),
    ("hgroups", "HGROUPS", Field::HostGroups),
    ("hpid", "HPID", Field::HostPid),
    ("huser", "HUSER", Field::HostUser),
    ("label", "LABEL", Field::Label),
    ("nice", "NI", Field::Nice),
    ("pcpu", "%CPU", Field::CpuPercent { decimals: 3 }),
    ("pgid", "PGID", Field::Pgid),
    ("pid", "PID", Field::Pid),
    ("ppid", "PPID", Field::Ppid),
    ("rgroup", "RGROUP", Field::RealGroup),
    ("rss", "RSS", Field::Resident),
    ("ruser", "RUSER", Field::RealUser),
    ("seccomp", "SECCOMP", Field::Seccomp),
    ("state", "STATE", Field::State),
    ("stime", "STIME", Field::StartTime),
    ("time", "TIME", Field::CpuTime),
    ("tty", "TTY", Field::Tty),
    ("user", "USER", Field::User),
    ("vsz", "VSZ", Field::Virtual),
];

/// podman's other notation for some of them.
const FORMATS: &[(&str, &str)] = &[
    ("%C", "pcpu"),
    ("%G", "group"),
    ("%P", "ppid"),
    ("%U", "user"),
    ("%a", "args"),
    ("%c", "comm"),
    ("%g", "rgroup"),
    ("%n", "nice"),
    ("%p", "pid"),
    ("%r", "pgid"),
    ("%t", "etime"),
    ("%u", "ruser"),
    ("%x", "time"),
    ("%y", "tty"),
    ("%z", "vsz"),
];

const DEFAULT: &[&str] = &["user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args"];

/// The words of ps's `-o`.
const PS_WORDS: &[(&str, &str, Field)] = &[
    ("%cpu", "%CPU", Field::CpuPercent { decimals: 1 }),
    ("%mem", "%MEM", Field::MemoryPercent),
    ("args", "COMMAND", Field::Arguments),
    ("bsdtime", "TIME", Field::CpuTimeMinutes),
    ("c", "C", Field::CpuPercent { decimals: 0 }),
    ("cmd", "CMD", Field::Arguments),
    ("comm", "COMMAND", Field::Comm),
    ("command", "COMMAND", Field::Arguments),
    ("cputime", "TIME", Field::CpuTimeClock),
    ("egid", "EGID", Field::Gid),
    ("egroup", "EGROUP", Field::Group),
    ("etime", "ELAPSED", Field::ElapsedClock),
    ("euid", "EUID", Field::Uid),
    ("euser", "EUSER", Field::User),
    ("gid", "GID", Field::Gid),
    ("group", "GROUP", Field::Group),
    ("label", "LABEL", Field::Label),
    ("ni", "NI", Field::Nice),
    ("nice", "NI", Field::Nice),
    ("nlwp", "NLWP", Field::Threads),
    ("pcpu", "%CPU", Field::CpuPercent { decimals: 1 }),
    ("pgid", "PGID", Field::Pgid),
    ("pgrp", "PGRP", Field::Pgid),
    ("pid", "PID", Field::Pid),
    ("pmem", "%MEM", Field::MemoryPercent),
    ("ppid", "PPID", Field::Ppid),
    ("psr", "PSR", Field::Processor),
    ("rgroup", "RGROUP", Field::RealGroup),
    ("rss", "RSS", Field::Resident),
    ("rssize", "RSS", Field::Resident),
    ("rsz", "RSZ", Field::Resident),
    ("ruser", "RUSER", Field::RealUser),
    ("s", "S", Field::State),
    ("sess", "SESS", Field::Session),
    ("sid", "SID", Field::Session),
    ("start_time", "START", Field::Start),
    ("stat", "STAT", Field::StateFlags),
    ("state", "S", Field::State),
    ("stime", "STIME", Field::Start),
    ("sz", "SZ", Field::Size),
    ("thcount", "THCNT", Field::Threads),
    ("time", "TIME", Field::CpuTimeClock),
    ("tname", "TTY", Field::Tty),
    ("tt", "TT", Field::Tty),
    ("tty", "TT", Field::Tty),
    ("ucmd", "CMD", Field::Comm),
    ("ucomm", "COMMAND", Field::Comm),
    ("uid", "UID", Field::Uid),
    ("uname", "USER", Field::User),
    ("user", "USER", Field::User),
    ("vsize", "VSZ", Field::Virtual),
    ("vsz", "VSZ", Field::Virtual),
];

impl Columns {
    /// Of a request's words; none: podman's default.
    pub fn parse(words: &[String], numbering: Numbering) -> Result<Self, UnknownColumn> {
        let names: Vec<&str> =
            words.iter().flat_map(|word| word.split(',')).filter(|n| !n.is_empty()).collect();
        let names = if names.is_empty() { DEFAULT.to_vec() } else { names };
        let described: Option<Vec<_>> = names.iter().map(|name| descriptor(name)).collect();
        // What podman does not know it hands to ps, and so do we.
        let columns = match described {
            Some(columns) => columns,
            None => ps_columns(words)?,
        };
        Ok(Self { columns, numbering })
    }

    pub fn titles(&self) -> Vec<String> {
        self.columns.iter().map(|(title, _)| title.clone()).collect()
    }

    pub(super) fn row(
        &self,
        process: &Process,
        listed: &[Process],
        host: &Host,
        inside: &Inside,
    ) -> Vec<String> {
        let cell = Cell { process, listed, host, inside, numbering: self.numbering };
        self.columns.iter().map(|(_, field)| cell.render(*field)).collect()
    }
}

fn descriptor(name: &str) -> Option<(String, Field)> {
    let name = FORMATS.iter().find(|(format, _)| *format == name).map_or(name, |(_, name)| name);
    let (_, title, field) = DESCRIPTORS.iter().find(|(known, ..)| *known == name)?;
    Some(((*title).to_owned(), *field))
}

fn ps_columns(words: &[String]) -> Result<Vec<(String, Field)>, UnknownColumn> {
    let mut chosen: Vec<(String, Field)> = Vec::new();
    let mut format = "pid,tname=TTY,time,ucmd=CMD";
    let mut words = words.iter().flat_map(|word| word.split_whitespace());
    while let Some(word) = words.next() {
        let unknown = || UnknownColumn::Option(word.to_owned());
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let list = match name {
                "format" => value.or_else(|| words.next()).ok_or_else(unknown)?,
                _ => return Err(unknown()),
            };
            chosen.extend(ps_list(list)?);
            continue;
        }
        let (letters, is_bsd) = match word.strip_prefix('-') {
            Some(letters) => (letters, false),
            None => (word, true),
        };
        for (at, letter) in letters.char_indices() {
            match letter {
                // Which processes, and how wide.
                'a' | 'x' | 'e' | 'A' | 'd' | 'w' | 'g' => {}
                'f' if is_bsd => {}
                'f' => format = "uname=UID,pid,ppid,c,stime,tname,time,cmd",
                'F' => format = "uname=UID,pid,ppid,c,sz,rss,psr,stime,tname,time,cmd",
                'u' if is_bsd => {
                    format = "user,pid,%cpu,%mem,vsz,rss,tname,stat,start_time,bsdtime,command";
                }
                'o' | 'O' => {
                    let rest = &letters[at + 1..];
                    let list = if rest.is_empty() { words.next().ok_or_else(unknown)? } else { rest };
                    chosen.extend(ps_list(list)?);
                    break;
                }
                _ => return Err(unknown()),
            }
        }
    }
    if chosen.is_empty() { ps_list(format) } else { Ok(chosen) }
}

fn ps_list(list: &str) -> Result<Vec<(String, Field)>, UnknownColumn> {
    let columns = list.split(',').filter(|name| !name.is_empty()).map(|name| {
        let (name, title) = name.split_once('=').map_or((name, None), |(name, title)| (name, Some(title)));
        let known = PS_WORDS.iter().find(|(known, ..)| *known == name);
        let (_, usual, field) = known.ok_or_else(|| UnknownColumn::Column(name.to_owned()))?;
        Ok((title.unwrap_or(usual).to_owned(), *field))
    });
    columns.collect()
}

struct Cell<'a> {
    process: &'a Process,
    listed: &'a [Process],
    host: &'a Host,
    inside: &'a Inside,
    numbering: Numbering,
}

impl Cell<'_> {
    fn render(&self, field: Field) -> String {
        let (process, host) = (self.process, self.host);
        let outside = self.numbering == Numbering::Host;
        match field {
            Field::Arguments => process.arguments.clone(),
            Field::Capabilities(set) => capabilities(process.capabilities[set], host.last_capability),
            Field::Comm => process.comm.clone(),
            Field::CpuPercent { decimals } => {
                let elapsed = host.elapsed(process).as_secs_f64();
                let percent = host.ticks(process.cpu_ticks).as_secs_f64() * 100.0 / elapsed.max(0.01);
                format!("{percent:.decimals$}")
            }
            Field::CpuTime => go_duration(host.ticks(process.cpu_ticks)),
            Field::CpuTimeClock => {
                let secs = host.ticks(process.cpu_ticks).as_secs();
                let days = if secs < 86_400 { String::new() } else { format!("{}-", secs / 86_400) };
                format!("{days}{:02}:{:02}:{:02}", secs / 3600 % 24, secs / 60 % 60, secs % 60)
            }
            Field::CpuTimeMinutes => {
                let secs = host.ticks(process.cpu_ticks).as_secs();
                format!("{}:{:02}", secs / 60, secs % 60)
            }
            Field::Elapsed => go_duration(host.elapsed(process)),
            Field::ElapsedClock => elapsed_clock(host.elapsed(process).as_secs()),
            Field::Gid => process.gid.to_string(),
            Field::Group | Field::HostGroup if outside => host.names.group(process.gid),
            Field::Group => self.inside.group(process.gid),
            Field::HostGroup => host.names.group(process.gid),
            Field::Groups if !outside => names(&process.groups, |gid| self.inside.group(gid)),
            Field::Groups | Field::HostGroups => names(&process.groups, |gid| host.names.group(gid)),
            Field::HostPid => process.pid.to_string(),
            Field::HostUser => host.names.user(process.uid),
            Field::Label => process.label.clone().unwrap_or_else(|| "?".to_owned()),
            Field::MemoryPercent => {
                let bytes = (process.resident_pages * host.page_bytes) as f64;
                format!("{:.1}", bytes * 100.0 / (host.memory_bytes.max(1) as f64))
            }
            Field::Nice => process.nice.to_string(),
            Field::Pgid if outside => process.pgid.to_string(),
            Field::Pgid => process.namespace_pgid.to_string(),
            Field::Pid if outside => process.pid.to_string(),
            Field::Pid => process.pid_inside().to_string(),
            Field::Ppid if outside => process.ppid.to_string(),
            Field::Ppid => self.inside.parent(process, self.listed).to_string(),
            Field::Processor => process.processor.to_string(),
            Field::RealGroup if outside => host.names.group(process.rgid),
            Field::RealGroup => self.inside.group(process.rgid),
            Field::RealUser if outside => host.names.user(process.ruid),
            Field::RealUser => self.inside.user(process.ruid),
            Field::Resident => (process.resident_pages * host.page_bytes / 1024).to_string(),
            Field::Seccomp => match process.seccomp {
                0 => "disabled",
                1 => "strict",
                2 => "filter",
                _ => "?",
            }
            .to_owned(),
            Field::Session => process.session.to_string(),
            Field::Size => (process.virtual_bytes / host.page_bytes).to_string(),
            Field::Start => self.start(),
            Field::StartTime => self.started_at().strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
            Field::State => process.state.to_string(),
            Field::StateFlags => self.state_flags(),
            Field::Threads => process.threads.to_string(),
            Field::Tty => tty(process.tty),
            Field::Uid => process.uid.to_string(),
            Field::User if outside => host.names.user(process.uid),
            Field::User => self.inside.user(process.uid),
            Field::Virtual => (process.virtual_bytes / 1024).to_string(),
        }
    }

    fn started_at(&self) -> Timestamp {
        self.host.now.checked_sub(self.host.elapsed(self.process)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The time of day, or the day when that was another one.
    fn start(&self) -> String {
        let zoned = |time: Timestamp| time.to_zoned(TimeZone::system());
        let (started, now) = (zoned(self.started_at()), zoned(self.host.now));
        let format = match (started.date() == now.date(), started.year() == now.year()) {
            (true, _) => "%H:%M",
            (false, true) => "%b%d",
            (false, false) => "%Y",
        };
        started.strftime(format).to_string()
    }

    fn state_flags(&self) -> String {
        let process = self.process;
        let flags = [
            (process.nice < 0, '<'),
            (process.nice > 0, 'N'),
            (process.locked_pages, 'L'),
            (process.session == process.pid, 's'),
            (process.threads > 1, 'l'),
            (process.foreground_pgid == process.pgid, '+'),
        ];
        let set = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag);
        std::iter::once(process.state).chain(set).collect()
    }
}

fn names(gids: &[u32], name: impl Fn(u32) -> String) -> String {
    gids.iter().map(|gid| name(*gid)).collect::<Vec<_>>().join(",")
}

fn capabilities(mask: u64, last: u32) -> String {
    if mask == 0 {
        return "none".to_owned();
    }
    if mask == u64::MAX >> (63 - last.min(63)) {
        return "full".to_owned();
    }
    names_of_mask(mask).into_iter().collect::<Vec<_>>().join(",")
}

/// The terminal by its device number (`tty_nr`): pseudo terminals and the console's.
fn tty(number: i32) -> String {
    let number = number as u32;
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

fn elapsed_clock(secs: u64) -> String {
    let (days, hours, minutes, secs) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{secs:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{secs:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{secs:02}"),
    }
}

/// As Go prints one: `1h2m3.5s`, `943.15ms`. podman's clients show it as it comes.
fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let number = |value: u128, unit: u128| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", number(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", number(nanos, 1_000_000)),
        _ => {
            let secs = duration.as_secs();
            let rest = format!("{}s", number(nanos % 60_000_000_000, 1_000_000_000));
            match (secs / 3600, secs / 60 % 60) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(words: &[&str]) -> Result<String, UnknownColumn> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Columns::parse(&words, Numbering::Container).map(|columns| columns.titles().join(" "))
    }

    #[test]
    fn both_ways_to_ask_are_understood() {
        for (words, expected) in [
            (&[][..], "USER PID PPID %CPU ELAPSED TTY TIME COMMAND"),
            (&[""], "USER PID PPID %CPU ELAPSED TTY TIME COMMAND"),
            (&["user,pid", "hpid"], "USER PID HPID"),
            (&["%p", "capeff"], "PID EFFECTIVE CAPS"),
            (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
            (&["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            (&["-e"], "PID TTY TIME CMD"),
            (&["-eo", "pid,comm"], "PID COMMAND"),
            (&["-eo pid,comm -o user=WHO"], "PID COMMAND WHO"),
            (&["-opid", "--format=args"], "PID COMMAND"),
        ] {
            assert_eq!(titles(words).as_deref(), Ok(expected), "{words:?}");
        }
        assert_eq!(titles(&["nope"]), Err(UnknownColumn::Option("nope".into())));
        assert_eq!(titles(&["-o", "nope"]), Err(UnknownColumn::Column("nope".into())));
        assert_eq!(titles(&["-o"]), Err(UnknownColumn::Option("-o".into())));
        assert!(titles(&["--forest"]).is_err());
    }

    #[test]
    fn durations_are_gos() {
        for (nanos, expected) in [
            (0, "0s"),
            (1_500, "1.5µs"),
            (943_154_499, "943.154499ms"),
            (86_395_714_430, "1m26.39571443s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), expected);
        }
        assert_eq!(elapsed_clock(90_061), "1-01:01:01");
    }

    #[test]
    fn terminals_and_capabilities_have_names() {
        assert_eq!([tty(0), tty(34816), tty(34819), tty(1025)], ["?", "pts/0", "pts/3", "tty1"]);
        assert_eq!(capabilities(0, 40), "none");
        assert_eq!(capabilities((1 << 41) - 1, 40), "full");
        assert_eq!(capabilities(0b11, 40), "CHOWN,DAC_OVERRIDE");
    }
}
