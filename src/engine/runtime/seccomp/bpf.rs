//! From rules to a classic BPF program.
//!
//! The program looks at the architecture, then finds the system call by binary search over ranges of numbers
//! with the same answer. The kernel runs it for every system call and once per number when it is loaded, so
//! short paths pay twice; a linear list of the default profile costs ten times as many steps.

use std::collections::BTreeMap;

use nix::libc::{self, sock_filter};

/// What the kernel does with a call: a `SECCOMP_RET_*` value with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict(pub u32);

impl Verdict {
    #[cfg(test)]
    pub const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);

    pub fn errno(errno: i32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA))
    }
}

/// A comparison of one argument, all 64 bits of it, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    pub test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// All conditions hold: the verdict is this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub verdict: Verdict,
}

/// A filter for this machine's own architecture.
#[derive(Debug, Clone)]
pub struct Filter {
    /// For calls without a rule that applies.
    pub default: Verdict,
    /// For calls past the newest one that the profile's author knew.
    pub unknown: Verdict,
    /// By number; the first rule that applies decides.
    pub calls: BTreeMap<u32, Vec<Rule>>,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// On x86_64 the x32 calls share the architecture and have this bit set.
const FOREIGN_CALLS: u32 = 0x4000_0000;

/// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

impl Filter {
    /// The program. Calls through any other architecture's entry (i386 and x32 on x86_64, arm on aarch64) answer
    /// ENOSYS, whatever the rules: numbers mean other things there, and nobody shall get around the filter.
    pub fn compile(&self) -> Vec<sock_filter> {
        let foreign = Verdict::errno(libc::ENOSYS);
        let mut program =
            vec![load(ARCH), jump_if(libc::BPF_JEQ, ARCHITECTURE, 1, 0), answer(foreign), load(NUMBER)];
        program.extend(search(&self.ranges(foreign)));
        program
    }

    /// Sorted, gapless from 0: where each range begins and what answers it.
    fn ranges(&self, foreign: Verdict) -> Vec<(u32, Vec<sock_filter>)> {
        let mut ranges: Vec<(u32, Vec<sock_filter>)> = Vec::new();
        let mut push = |start: u32, code: Vec<sock_filter>| match ranges.last() {
            Some((_, last)) if *last == code => {}
            _ => ranges.push((start, code)),
        };
        let mut next = 0;
        for (number, rules) in &self.calls {
            if *number > next {
                push(next, vec![answer(self.default)]);
            }
            push(*number, leaf(rules, self.default));
            next = number + 1;
        }
        push(next, vec![answer(self.unknown)]);
        push(FOREIGN_CALLS, vec![answer(foreign)]);
        ranges
    }
}

/// A binary search, the accumulator holding the number.
fn search(ranges: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    if let [(_, only)] = ranges {
        return only.clone();
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let below = search(low);
    let mut code = Vec::with_capacity(below.len() + 3);
    match u8::try_from(below.len()) {
        Ok(distance) => code.push(jump_if(libc::BPF_JGE, high[0].0, distance, 0)),
        // Conditional jumps reach 255 instructions only.
        Err(_) => {
            code.push(jump_if(libc::BPF_JGE, high[0].0, 0, 1));
            code.push(jump(below.len() as u32));
        }
    }
    code.extend(below);
    code.extend(search(high));
    code
}

/// The rules of one call, in order.
fn leaf(rules: &[Rule], default: Verdict) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for rule in rules {
        if rule.conditions.is_empty() {
            code.push(answer(rule.verdict));
            return code;
        }
        code.extend(conditional(rule));
    }
    code.push(answer(default));
    code
}

/// Falls through to what follows it unless every condition holds.
fn conditional(rule: &Rule) -> Vec<sock_filter> {
    // Built backwards, since each jump must know how far the end is.
    let mut tail = vec![answer(rule.verdict)];
    for condition in rule.conditions.iter().rev() {
        let mut code = compare(*condition, tail.len() as u8);
        code.append(&mut tail);
        tail = code;
    }
    tail
}

/// Jumps `remaining` instructions further than its own end when the condition does not hold.
fn compare(condition: Condition, remaining: u8) -> Vec<sock_filter> {
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    // Each list is five instructions: a false condition found at position p jumps (4 - p) + remaining.
    let fail = |position: u8| 4 - position + remaining;
    let hold = |position: u8| 4 - position;
    match condition.test {
        Test::Equal(value) => {
            let (hi, lo) = halves(value);
            vec![
                load(high),
                jump_if(libc::BPF_JEQ, hi, 0, 2 + remaining),
                load(low),
                jump_if(libc::BPF_JEQ, lo, 0, remaining),
            ]
        }
        Test::NotEqual(value) => {
            let (hi, lo) = halves(value);
            vec![
                load(high),
                jump_if(libc::BPF_JEQ, hi, 0, 2),
                load(low),
                jump_if(libc::BPF_JEQ, lo, remaining, 0),
            ]
        }
        Test::MaskedEqual { mask, value } => {
            let (mask_hi, mask_lo) = halves(mask);
            let (hi, lo) = halves(value);
            vec![
                load(high),
                and(mask_hi),
                jump_if(libc::BPF_JEQ, hi, 0, 3 + remaining),
                load(low),
                and(mask_lo),
                jump_if(libc::BPF_JEQ, lo, 0, remaining),
            ]
        }
        Test::Greater(value) | Test::GreaterOrEqual(value) => {
            let (hi, lo) = halves(value);
            let last = match condition.test {
                Test::Greater(_) => libc::BPF_JGT,
                _ => libc::BPF_JGE,
            };
            vec![
                load(high),
                jump_if(libc::BPF_JGT, hi, hold(1), 0),
                jump_if(libc::BPF_JEQ, hi, 0, fail(2)),
                load(low),
                jump_if(last, lo, 0, fail(4)),
            ]
        }
        Test::Less(value) | Test::LessOrEqual(value) => {
            // Not (greater or equal), not greater: the same comparison with its outcomes exchanged.
            let (hi, lo) = halves(value);
            let last = match condition.test {
                Test::Less(_) => libc::BPF_JGE,
                _ => libc::BPF_JGT,
            };
            vec![
                load(high),
                jump_if(libc::BPF_JGT, hi, fail(1), 0),
                jump_if(libc::BPF_JEQ, hi, 0, hold(2)),
                load(low),
                jump_if(last, lo, fail(4), 0),
            ]
        }
    }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn and(mask: u32) -> sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0)
}

fn jump(distance: u32) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, distance, 0, 0)
}

fn jump_if(test: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, value, if_true, if_false)
}

fn answer(verdict: Verdict) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, verdict.0, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// The program as bytes, as the kernel wants it in memory.
pub fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

/// The reverse of [`to_bytes`]. `None`: not a program the kernel would take.
pub fn from_bytes(bytes: &[u8]) -> Option<Vec<sock_filter>> {
    /// `BPF_MAXINSNS`.
    const MAX_INSTRUCTIONS: usize = 4096;
    let (instructions, rest) = bytes.as_chunks::<8>();
    let fits = rest.is_empty() && (1..=MAX_INSTRUCTIONS).contains(&instructions.len());
    fits.then(|| {
        instructions
            .iter()
            .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| sock_filter {
                code: u16::from_ne_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            })
            .collect()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    pub fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut accumulator = 0u32;
        let mut at = 0;
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            match code & 0x07 {
                libc::BPF_LD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCH => arch,
                        offset => {
                            let argument = arguments[(offset - ARGUMENTS) as usize / 8];
                            if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
                        }
                    }
                }
                libc::BPF_ALU => accumulator &= k,
                libc::BPF_RET => return k,
                libc::BPF_JMP => {
                    let taken = match code & 0xf0 {
                        libc::BPF_JA => {
                            at += k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => accumulator == k,
                        libc::BPF_JGT => accumulator > k,
                        libc::BPF_JGE => accumulator >= k,
                        other => panic!("unexpected jump {other:#x}"),
                    };
                    at += usize::from(if taken { jt } else { jf });
                }
                other => panic!("unexpected class {other:#x}"),
            }
        }
    }

    pub fn native(program: &[sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        run(program, ARCHITECTURE, number, arguments)
    }

    #[test]
    fn every_comparison_agrees_with_arithmetic() {
        let values = [0, 1, 7, 8, u64::from(u32::MAX), 1 << 32, (1 << 32) + 7, (7 << 32) + 8, u64::MAX];
        for expected in values {
            for actual in values {
                let tests: [(Test, bool); 7] = [
                    (Test::Equal(expected), actual == expected),
                    (Test::NotEqual(expected), actual != expected),
                    (Test::Less(expected), actual < expected),
                    (Test::LessOrEqual(expected), actual <= expected),
                    (Test::Greater(expected), actual > expected),
                    (Test::GreaterOrEqual(expected), actual >= expected),
                    (
                        Test::MaskedEqual { mask: 0xff_0000_00ff, value: expected },
                        actual & 0xff_0000_00ff == expected,
                    ),
                ];
                for (test, holds) in tests {
                    // Two conditions, so that jumps over a second one are exercised too.
                    let rule = Rule {
                        conditions: vec![
                            Condition { argument: 1, test },
                            Condition { argument: 5, test: Test::Equal(3) },
                        ],
                        verdict: Verdict::ALLOW,
                    };
                    let filter = Filter {
                        default: Verdict::errno(1),
                        unknown: Verdict::errno(38),
                        calls: BTreeMap::from([(10, vec![rule])]),
                    };
                    let program = filter.compile();
                    for sixth in [3, 4] {
                        let expect = match holds && sixth == 3 {
                            true => Verdict::ALLOW,
                            false => Verdict::errno(1),
                        };
                        let got = native(&program, 10, [0, actual, 0, 0, 0, sixth]);
                        assert_eq!(got, expect.0, "{test:?} of {actual:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_number_finds_its_own_answer_even_when_jumps_are_long() {
        // Alternating answers make as many ranges as there are numbers.
        let calls: BTreeMap<u32, Vec<Rule>> = (0..900u32)
            .filter(|number| number % 3 != 0)
            .map(|number| {
                (number, vec![Rule { conditions: vec![], verdict: Verdict::errno(number as i32 + 100) }])
            })
            .collect();
        let program = Filter { default: Verdict::errno(1), unknown: Verdict::errno(38), calls }.compile();
        assert!(program.len() <= 4096);
        for number in 0..900 {
            let expect = if number % 3 == 0 { 1 } else { number as i32 + 100 };
            assert_eq!(native(&program, number, [0; 6]), Verdict::errno(expect).0, "{number}");
        }
        assert_eq!(native(&program, 900, [0; 6]), Verdict::errno(38).0);
    }

    #[test]
    fn other_architectures_never_reach_the_rules() {
        let filter = Filter { default: Verdict::ALLOW, unknown: Verdict::ALLOW, calls: BTreeMap::new() };
        let program = filter.compile();
        let refused = Verdict::errno(libc::ENOSYS).0;
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), refused, "i386");
        assert_eq!(native(&program, 0x4000_0001, [0; 6]), refused, "x32");
        assert_eq!(native(&program, 1, [0; 6]), Verdict::ALLOW.0);
    }

    #[test]
    fn bytes_round_trip_and_rubbish_is_refused() {
        let program =
            Filter { default: Verdict::ALLOW, unknown: Verdict::ALLOW, calls: BTreeMap::new() }.compile();
        let bytes = to_bytes(&program);
        assert_eq!(to_bytes(&from_bytes(&bytes).unwrap()), bytes);
        assert!(from_bytes(&bytes[1..]).is_none());
        assert!(from_bytes(&[]).is_none());
        assert!(from_bytes(&vec![0; 8 * 4097]).is_none());
    }
}
