//! Which device nodes a container may use: v1's list files, v2's small eBPF program.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::engine::host::{HostError, Result, Step as _};

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Block,
    Char,
}

/// `None` for a number is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// What applies to a container: nothing is allowed but what a rule allows, and the last rule that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// The spec's rules, then the devices every container has, as runc allows them whatever the spec says. Making
    /// nodes is harmless where using them is not.
    pub fn new(spec: &[LinuxDeviceCgroup]) -> Self {
        let mut rules: Vec<Rule> = spec.iter().map(Rule::new).collect();
        let allow = |kind, major, minor, access| Rule { allow: true, kind, major, minor, access };
        rules.push(allow(Kind::Char, None, None, MKNOD));
        rules.push(allow(Kind::Block, None, None, MKNOD));
        // null, zero, full, random, urandom, tty, console, ptmx
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
            rules.push(allow(Kind::Char, Some(major), Some(minor), ALL));
        }
        // Pseudo-terminals.
        rules.push(allow(Kind::Char, Some(136), None, ALL));
        // What came before a rule about everything no longer matters.
        let start = rules.iter().rposition(|rule| rule.kind == Kind::Any && rule.access == ALL).unwrap_or(0);
        let mut rules = rules.split_off(start);
        if rules.first().is_some_and(|rule| rule.kind == Kind::Any && !rule.allow) {
            rules.remove(0);
        }
        Self(rules)
    }

    /// Everything is allowed, and nothing denied afterwards.
    fn is_unrestricted(&self) -> bool {
        self.0.first().is_some_and(|rule| rule.kind == Kind::Any && rule.allow)
            && self.0.iter().all(|rule| rule.allow)
    }

    /// File and line, in order. The kernel's mode is "all but these" or "none but these", with one list of
    /// exceptions that takes and forgets whole entries: no exception from an exception.
    pub(super) fn legacy_writes(&self) -> Result<Vec<(&'static str, String)>> {
        let open = self.0.first().is_some_and(|rule| rule.kind == Kind::Any && rule.allow);
        let mut writes = vec![(if open { "devices.allow" } else { "devices.deny" }, "a".to_owned())];
        if self.is_unrestricted() {
            return Ok(writes);
        }
        for (at, rule) in self.0.iter().enumerate().skip(usize::from(open)) {
            if rule.kind == Kind::Any {
                return Err(rule.inexpressible());
            }
            let file = if rule.allow { "devices.allow" } else { "devices.deny" };
            if rule.allow != open {
                writes.push((file, rule.legacy_line()));
                continue;
            }
            // Back to what holds for everything: only an exception for exactly this can be taken back.
            let mut exceptions =
                self.0[..at].iter().filter(|other| other.allow != open && other.meets(rule)).peekable();
            if exceptions.peek().is_some() {
                if exceptions.any(|other| (other.major, other.minor) != (rule.major, rule.minor)) {
                    return Err(rule.inexpressible());
                }
                writes.push((file, rule.legacy_line()));
            }
        }
        Ok(writes)
    }

    /// An eBPF program that returns 1 for what is allowed.
    fn program(&self) -> Vec<Instruction> {
        // Context: r1 -> { u32 access << 16 | kind, u32 major, u32 minor }.
        let mut code = vec![
            Instruction::load(2, 1, 0),
            Instruction::copy32(3, 2),
            Instruction::and32(2, 0xffff),
            Instruction::shift_right32(3, 16),
            Instruction::load(4, 1, 4),
            Instruction::load(5, 1, 8),
        ];
        for rule in self.0.iter().rev() {
            let mut checks = Vec::new();
            match rule.kind {
                Kind::Any => {}
                Kind::Block => checks.push(vec![Instruction::unless_equal(2, 1)]),
                Kind::Char => checks.push(vec![Instruction::unless_equal(2, 2)]),
            }
            if rule.access != ALL {
                checks.push(match rule.allow {
                    // All that is asked for must be allowed: nothing may be left outside.
                    true => vec![
                        Instruction::copy32(1, 3),
                        Instruction::and32(1, i32::from(!rule.access & ALL)),
                        Instruction::unless_equal(1, 0),
                    ],
                    // Any of what is asked for being denied is enough.
                    false => vec![
                        Instruction::copy32(1, 3),
                        Instruction::and32(1, i32::from(rule.access)),
                        Instruction::if_equal(1, 0),
                    ],
                });
            }
            if let Some(major) = rule.major {
                checks.push(vec![Instruction::unless_equal(4, major as i32)]);
            }
            if let Some(minor) = rule.minor {
                checks.push(vec![Instruction::unless_equal(5, minor as i32)]);
            }
            let mut block: Vec<Instruction> = checks.concat();
            block.extend([Instruction::set(0, i32::from(rule.allow)), Instruction::exit()]);
            let end = block.len();
            for (at, instruction) in block.iter_mut().enumerate() {
                if instruction.is_jump() {
                    instruction.offset = (end - at - 1) as i16;
                }
            }
            let unconditional = end == 2;
            code.extend(block);
            if unconditional {
                // Nothing after it can be reached, and the verifier refuses code that cannot.
                return code;
            }
        }
        code.extend([Instruction::set(0, 0), Instruction::exit()]);
        code
    }
}

impl Rule {
    fn new(spec: &LinuxDeviceCgroup) -> Self {
        let kind = match spec.typ() {
            Some(LinuxDeviceType::B) => Kind::Block,
            // A u device is an unbuffered character device.
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
            Some(LinuxDeviceType::A | LinuxDeviceType::P) | None => Kind::Any,
        };
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let access = spec.access().as_deref().filter(|access| !access.is_empty()).map_or(ALL, |access| {
            access.chars().fold(0, |bits, letter| match letter {
                'r' => bits | READ,
                'w' => bits | WRITE,
                'm' => bits | MKNOD,
                _ => bits,
            })
        });
        Self { allow: spec.allow(), kind, major: number(spec.major()), minor: number(spec.minor()), access }
    }

    /// Whether there is a device and an access that both are about.
    fn meets(&self, other: &Self) -> bool {
        let numbers = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && numbers(self.major, other.major)
            && numbers(self.minor, other.minor)
            && self.access & other.access != 0
    }

    fn legacy_line(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            Kind::Any => 'a',
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, c)| c)
            .collect();
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }

    fn inexpressible(&self) -> HostError {
        HostError::new(
            format!("device rule {:?} cannot be expressed with cgroup v1", self.legacy_line()),
            std::io::Error::from(std::io::ErrorKind::Unsupported),
        )
    }
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const JUMP_IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
    const JUMP_UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K

    fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        let registers = match cfg!(target_endian = "little") {
            true => source << 4 | destination,
            false => destination << 4 | source,
        };
        Self { code, registers, offset, immediate }
    }

    /// destination = *(u32 *)(source + offset)
    fn load(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(0x61, destination, source, offset, 0)
    }
    fn copy32(destination: u8, source: u8) -> Self {
        Self::new(0xbc, destination, source, 0, 0)
    }
    fn and32(register: u8, mask: i32) -> Self {
        Self::new(0x54, register, 0, 0, mask)
    }
    fn shift_right32(register: u8, bits: i32) -> Self {
        Self::new(0x74, register, 0, 0, bits)
    }
    fn set(register: u8, value: i32) -> Self {
        Self::new(0xb7, register, 0, 0, value)
    }
    fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
    /// Jumps out of the rule; the distance is filled in when the rule is complete.
    fn if_equal(register: u8, value: i32) -> Self {
        Self::new(Self::JUMP_IF_EQUAL, register, 0, 0, value)
    }
    fn unless_equal(register: u8, value: i32) -> Self {
        Self::new(Self::JUMP_UNLESS_EQUAL, register, 0, 0, value)
    }
    fn is_jump(&self) -> bool {
        matches!(self.code, Self::JUMP_IF_EQUAL | Self::JUMP_UNLESS_EQUAL)
    }
}

/// Restricts the v2 cgroup at `dir` to these rules.
pub(super) fn attach(dir: &Path, rules: &Rules) -> Result<()> {
    if rules.is_unrestricted() {
        return Ok(());
    }
    let step = || format!("restrict devices of cgroup {}", dir.display());
    let cgroup = File::open(dir).step(step)?;
    let program = load_program(&rules.program()).step(step)?;
    attach_program(&cgroup, &program).step(step)
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the rest may be left out.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
struct ProgramAttach {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    flags: u32,
}

fn load_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to outlive the call and have the kernel's layout.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attributes, size_of::<ProgramLoad>()) };
    Errno::result(fd)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach_program(cgroup: &File, program: &OwnedFd) -> Result<(), Errno> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = ProgramAttach {
        target_fd: cgroup.as_raw_fd() as u32,
        program_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes outlive the call and have the kernel's layout.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attributes, size_of::<ProgramAttach>()) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(spec: serde_json::Value) -> Rules {
        let spec: Vec<LinuxDeviceCgroup> = serde_json::from_value(spec).unwrap();
        Rules::new(&spec)
    }

    /// Interprets the program as the kernel would.
    fn allows(rules: &Rules, kind: u32, major: u32, minor: u32, access: u8) -> bool {
        let program = rules.program();
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0u32; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: both, offset, immediate } = program[at];
            let (destination, source) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            match code {
                0x61 => registers[destination] = context[offset as usize / 4],
                0xbc => registers[destination] = registers[source],
                0x54 => registers[destination] &= immediate as u32,
                0x74 => registers[destination] >>= immediate,
                0xb7 => registers[destination] = immediate as u32,
                0x95 => return registers[0] == 1,
                Instruction::JUMP_IF_EQUAL if registers[destination] == immediate as u32 => {
                    at += offset as usize
                }
                Instruction::JUMP_UNLESS_EQUAL if registers[destination] != immediate as u32 => {
                    at += offset as usize
                }
                Instruction::JUMP_IF_EQUAL | Instruction::JUMP_UNLESS_EQUAL => {}
                other => panic!("unexpected code {other:#x}"),
            }
        }
    }

    #[test]
    fn nothing_but_the_usual_devices_unless_allowed() {
        let plain = rules(json!([]));
        assert_eq!(plain, rules(json!([{"allow": false, "access": "rwm"}])));
        assert!(allows(&plain, 2, 1, 3, READ | WRITE));
        assert!(allows(&plain, 2, 136, 7, READ));
        assert!(allows(&plain, 1, 8, 0, MKNOD));
        assert!(!allows(&plain, 1, 8, 0, READ));
        assert!(!allows(&plain, 2, 1, 1, READ));
        assert!(!allows(&plain, 2, 10, 200, READ));
        let writes = plain.legacy_writes().unwrap();
        assert_eq!(writes[0], ("devices.deny", "a".into()));
        assert!(writes.contains(&("devices.allow", "c 136:* rwm".into())));
        assert!(writes.contains(&("devices.allow", "b *:* m".into())));
    }

    #[test]
    fn later_rules_win() {
        let fuse = rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"},
        ]));
        assert!(allows(&fuse, 2, 10, 229, READ));
        assert!(!allows(&fuse, 2, 10, 229, READ | WRITE));
        let all = rules(json!([{"allow": true, "access": "rwm"}]));
        assert!(allows(&all, 1, 8, 0, READ | WRITE));
        assert_eq!(all.legacy_writes().unwrap(), [("devices.allow", "a".to_owned())]);
        let reset =
            rules(json!([{"allow": true, "type": "b", "access": "rwm"}, {"allow": false, "access": "rwm"}]));
        assert!(!allows(&reset, 1, 8, 0, READ));
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_where_v1_would_ignore_it() {
        let hole = rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]));
        assert!(hole.legacy_writes().is_err());
        assert!(allows(&hole, 2, 10, 228, READ));
        assert!(!allows(&hole, 2, 10, 229, READ));
    }
}
