//! The table of [`super::firewall`] in the kernel's words: nfnetlink messages, and the numbers they are made of.

use super::firewall::{Chain, Field, HookKind, HookPoint, Load, RangeEnd, Row, RowData, Set, Step, Value};
use super::netlink::{
    ATTRIBUTE_MAX_BYTES, Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE, NetlinkError, Socket,
};

/// Changes to one table that the kernel makes all together or not at all.
pub(super) struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
}

impl<'a> Transaction<'a> {
    pub fn new(table: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.message(NFNL_MSG_BATCH_BEGIN, 0, &BATCH_HEADER, |_| ());
        Self { batch, table }
    }

    pub fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        self.batch.message(NFNL_MSG_BATCH_END, 0, &BATCH_HEADER, |_| ());
        // The closing mark itself is not answered.
        let last = self.batch.len() - 2;
        socket.execute(self.batch, last)
    }

    pub fn new_table(&mut self) {
        let table = self.table;
        self.batch.message(message_type(NFT_MSG_NEWTABLE), NLM_F_CREATE, &GENERAL_HEADER, |a| {
            a.text(NFTA_TABLE_NAME, table);
            a.u32_be(NFTA_TABLE_FLAGS, 0);
        });
    }

    pub fn delete_table(&mut self) {
        let table = self.table;
        self.batch.message(message_type(NFT_MSG_DELTABLE), 0, &GENERAL_HEADER, |a| {
            a.text(NFTA_TABLE_NAME, table);
        });
    }

    pub fn set(&mut self, set: Set, id: u32) {
        let table = self.table;
        self.batch.message(message_type(NFT_MSG_NEWSET), NLM_F_CREATE, &GENERAL_HEADER, |a| {
            let fields = set.key();
            let mut flags = 0;
            if set.is_interval() {
                flags |= NFT_SET_INTERVAL;
            }
            if set.is_interval() && fields.len() > 1 {
                flags |= NFT_SET_CONCAT;
            }
            if set.value() != Value::None {
                flags |= NFT_SET_MAP;
            }
            a.text(NFTA_SET_TABLE, table);
            a.text(NFTA_SET_NAME, set.name());
            a.u32_be(NFTA_SET_FLAGS, flags);
            a.u32_be(NFTA_SET_KEY_TYPE, concatenation(fields.iter().map(|field| field_type(*field))));
            a.u32_be(NFTA_SET_KEY_LEN, fields.iter().map(|field| field_bytes(*field)).sum());
            match set.value() {
                Value::None => {}
                Value::Target => {
                    let kind =
                        concatenation([field_type(Field::Address), field_type(Field::Port)].into_iter());
                    a.u32_be(NFTA_SET_DATA_TYPE, kind);
                    a.u32_be(NFTA_SET_DATA_LEN, 8);
                }
                Value::Verdict => a.u32_be(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
            }
            a.u32_be(NFTA_SET_ID, id);
            if flags & NFT_SET_CONCAT != 0 {
                a.nested(NFTA_SET_DESC, |a| {
                    a.nested(NFTA_SET_DESC_CONCAT, |a| {
                        for field in fields {
                            a.nested(NFTA_LIST_ELEM, |a| a.u32_be(NFTA_SET_FIELD_LEN, field_bytes(*field)));
                        }
                    });
                });
            }
            a.bytes(NFTA_SET_USERDATA, &userdata(set));
        });
    }

    pub fn chain(&mut self, chain: &Chain) {
        let table = self.table;
        self.batch.message(message_type(NFT_MSG_NEWCHAIN), NLM_F_CREATE, &GENERAL_HEADER, |a| {
            a.text(NFTA_CHAIN_TABLE, table);
            a.text(NFTA_CHAIN_NAME, &chain.name);
            if let Some(hook) = chain.hook {
                a.nested(NFTA_CHAIN_HOOK, |a| {
                    a.u32_be(NFTA_HOOK_HOOKNUM, hook_number(hook.point));
                    a.bytes(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
                });
                let kind = match hook.kind {
                    HookKind::Filter => "filter",
                    HookKind::Nat => "nat",
                };
                a.text(NFTA_CHAIN_TYPE, kind);
                a.u32_be(NFTA_CHAIN_POLICY, NF_ACCEPT);
            }
        });
        for rule in &chain.rules {
            self.batch.message(
                message_type(NFT_MSG_NEWRULE),
                NLM_F_CREATE | NLM_F_APPEND,
                &GENERAL_HEADER,
                |a| {
                    a.text(NFTA_RULE_TABLE, table);
                    a.text(NFTA_RULE_CHAIN, &chain.name);
                    a.nested(NFTA_RULE_EXPRESSIONS, |a| rule.iter().for_each(|step| write_step(a, step)));
                },
            );
        }
    }

    pub fn add_rows(&mut self, rows: &[Row]) {
        self.rows(NFT_MSG_NEWSETELEM, NLM_F_CREATE, rows);
    }

    pub fn remove_rows(&mut self, rows: &[Row]) {
        self.rows(NFT_MSG_DELSETELEM, 0, rows);
    }

    /// As few messages as the length of an attribute allows.
    fn rows(&mut self, kind: u16, flags: u16, rows: &[Row]) {
        let table = self.table;
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|row| row.set == first.set).count();
            let now = run.min(ATTRIBUTE_MAX_BYTES / ROW_MAX_BYTES);
            self.batch.message(message_type(kind), flags, &GENERAL_HEADER, |a| {
                a.text(NFTA_SET_ELEM_LIST_TABLE, table);
                a.text(NFTA_SET_ELEM_LIST_SET, first.set.name());
                a.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |a| {
                    for row in &rest[..now] {
                        write_row(a, row, kind == NFT_MSG_NEWSETELEM);
                    }
                });
            });
            rest = &rest[now..];
        }
    }
}

pub(super) fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

pub(super) fn hook_number(point: HookPoint) -> u32 {
    match point {
        HookPoint::Prerouting => 0,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

fn write_row(a: &mut Attributes, row: &Row, with_data: bool) {
    let key = |a: &mut Attributes, kind: u16, key: &[u8]| {
        a.nested(kind, |a| a.bytes(NFTA_DATA_VALUE, key));
    };
    a.nested(NFTA_LIST_ELEM, |a| {
        key(a, NFTA_SET_ELEM_KEY, &row.key);
        if let Some(RangeEnd::Inclusive(end)) = &row.end {
            key(a, NFTA_SET_ELEM_KEY_END, end);
        }
        match &row.data {
            _ if !with_data => {}
            RowData::None => {}
            RowData::Target(target) => {
                a.nested(NFTA_SET_ELEM_DATA, |a| a.bytes(NFTA_DATA_VALUE, target));
            }
            RowData::Goto(chain) => a.nested(NFTA_SET_ELEM_DATA, |a| write_verdict(a, NFT_GOTO, Some(chain))),
        }
    });
    if let Some(RangeEnd::Exclusive(Some(end))) = &row.end {
        a.nested(NFTA_LIST_ELEM, |a| {
            key(a, NFTA_SET_ELEM_KEY, end);
            a.u32_be(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        });
    }
}

fn write_verdict(a: &mut Attributes, code: i32, chain: Option<&str>) {
    a.nested(NFTA_DATA_VERDICT, |a| {
        a.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            a.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

fn expression(a: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    a.nested(NFTA_LIST_ELEM, |a| {
        a.text(NFTA_EXPR_NAME, name);
        a.nested(NFTA_EXPR_DATA, data);
    });
}

fn immediate(a: &mut Attributes, code: i32, chain: Option<&str>) {
    expression(a, "immediate", |a| {
        a.u32_be(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        a.nested(NFTA_IMMEDIATE_DATA, |a| write_verdict(a, code, chain));
    });
}

fn lookup(a: &mut Attributes, set: Set, destination: Option<u32>, inverted: bool) {
    expression(a, "lookup", |a| {
        a.text(NFTA_LOOKUP_SET, set.name());
        a.u32_be(NFTA_LOOKUP_SREG, REGISTER);
        if let Some(register) = destination {
            a.u32_be(NFTA_LOOKUP_DREG, register);
        }
        if inverted {
            a.u32_be(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
        }
    });
}

fn write_step(a: &mut Attributes, step: &Step) {
    match step {
        Step::Load(loads) => {
            let mut register = REGISTER;
            for load in loads {
                register += write_load(a, *load, register) / 4;
            }
        }
        Step::In(set) => lookup(a, *set, None, false),
        Step::NotIn(set) => lookup(a, *set, None, true),
        Step::Is { mask, bytes } => compare(a, NFT_CMP_EQ, mask.as_deref(), bytes),
        Step::IsNot { mask, bytes } => compare(a, NFT_CMP_NEQ, mask.as_deref(), bytes),
        Step::VerdictMap(set) => lookup(a, *set, Some(NFT_REG_VERDICT), false),
        Step::DestinationFrom(set) => {
            lookup(a, *set, Some(REGISTER), false);
            expression(a, "nat", |a| {
                a.u32_be(NFTA_NAT_TYPE, NFT_NAT_DNAT);
                a.u32_be(NFTA_NAT_FAMILY, u32::from(NFPROTO_IPV4));
                a.u32_be(NFTA_NAT_REG_ADDR_MIN, REGISTER);
                a.u32_be(NFTA_NAT_REG_PROTO_MIN, REGISTER + 1);
            });
        }
        Step::Masquerade => expression(a, "masq", |_| ()),
        Step::Accept => immediate(a, NF_ACCEPT as i32, None),
        Step::Drop => immediate(a, NF_DROP as i32, None),
        Step::Return => immediate(a, NFT_RETURN, None),
        Step::Jump(chain) => immediate(a, NFT_JUMP, Some(chain)),
        Step::RejectTcpReset => reject(a, NFT_REJECT_TCP_RST, 0),
        Step::RejectPortUnreachable => reject(a, NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH),
    }
}

fn reject(a: &mut Attributes, kind: u32, code: u8) {
    expression(a, "reject", |a| {
        a.u32_be(NFTA_REJECT_TYPE, kind);
        a.u8(NFTA_REJECT_ICMP_CODE, code);
    });
}

fn compare(a: &mut Attributes, operator: u32, mask: Option<&[u8]>, bytes: &[u8]) {
    if let Some(mask) = mask {
        expression(a, "bitwise", |a| {
            a.u32_be(NFTA_BITWISE_SREG, REGISTER);
            a.u32_be(NFTA_BITWISE_DREG, REGISTER);
            a.u32_be(NFTA_BITWISE_LEN, mask.len() as u32);
            a.nested(NFTA_BITWISE_MASK, |a| a.bytes(NFTA_DATA_VALUE, mask));
            a.nested(NFTA_BITWISE_XOR, |a| a.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]));
        });
    }
    expression(a, "cmp", |a| {
        a.u32_be(NFTA_CMP_SREG, REGISTER);
        a.u32_be(NFTA_CMP_OP, operator);
        a.nested(NFTA_CMP_DATA, |a| a.bytes(NFTA_DATA_VALUE, bytes));
    });
}

/// Returns how many bytes of registers it fills.
fn write_load(a: &mut Attributes, load: Load, register: u32) -> u32 {
    let payload = |a: &mut Attributes, base: u32, offset: u32, length: u32| {
        expression(a, "payload", |a| {
            a.u32_be(NFTA_PAYLOAD_DREG, register);
            a.u32_be(NFTA_PAYLOAD_BASE, base);
            a.u32_be(NFTA_PAYLOAD_OFFSET, offset);
            a.u32_be(NFTA_PAYLOAD_LEN, length);
        });
        4
    };
    let meta = |a: &mut Attributes, key: u32| {
        expression(a, "meta", |a| {
            a.u32_be(NFTA_META_KEY, key);
            a.u32_be(NFTA_META_DREG, register);
        });
    };
    match load {
        Load::SourceAddress => payload(a, NFT_PAYLOAD_NETWORK_HEADER, 12, 4),
        Load::DestinationAddress => payload(a, NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
        // The same place for TCP, UDP and SCTP.
        Load::DestinationPort => payload(a, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
        Load::Protocol => {
            meta(a, NFT_META_L4PROTO);
            4
        }
        Load::InputInterface => {
            meta(a, NFT_META_IIFNAME);
            16
        }
        Load::OutputInterface => {
            meta(a, NFT_META_OIFNAME);
            16
        }
        Load::DestinationType => {
            expression(a, "fib", |a| {
                a.u32_be(NFTA_FIB_DREG, register);
                a.u32_be(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                a.u32_be(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            });
            4
        }
        Load::ConntrackStatus => {
            expression(a, "ct", |a| {
                a.u32_be(NFTA_CT_KEY, NFT_CT_STATUS);
                a.u32_be(NFTA_CT_DREG, register);
            });
            4
        }
        Load::Random(below) => {
            expression(a, "numgen", |a| {
                a.u32_be(NFTA_NG_DREG, register);
                a.u32_be(NFTA_NG_MODULUS, below);
                a.u32_be(NFTA_NG_TYPE, NFT_NG_RANDOM);
                a.u32_be(NFTA_NG_OFFSET, 0);
            });
            4
        }
    }
}

fn field_bytes(field: Field) -> u32 {
    match field {
        Field::InterfaceName => 16,
        Field::Address | Field::Protocol | Field::Port | Field::Slot => 4,
    }
}

/// nft's number for a data type, for `nft list` alone.
fn field_type(field: Field) -> u32 {
    match field {
        Field::Address => 7,
        Field::Protocol => 12,
        Field::Port => 13,
        Field::InterfaceName => 41,
        // A plain number, whose length only [`userdata`] tells.
        Field::Slot => 4,
    }
}

/// nft packs the types of a concatenation into six bits each.
fn concatenation(types: impl Iterator<Item = u32>) -> u32 {
    types.fold(0, |all, kind| (all << 6) | kind)
}

/// What the kernel keeps for `nft` alone: without it a listing could be shown, but not loaded again, and people
/// do save the listing of all tables as their firewall. Written as nft 1.0 does.
fn userdata(set: Set) -> Vec<u8> {
    let fields = set.key();
    if fields.contains(&Field::Slot) {
        let key = concatenation_of(fields);
        let value = concatenation_of(&[Field::Address, Field::Port]);
        return [record(UDATA_KEY_TYPEOF, &key), record(UDATA_DATA_TYPEOF, &value)].concat();
    }
    match fields {
        // Which end of a number comes first.
        [Field::InterfaceName] => number(UDATA_KEY_BYTEORDER, BYTEORDER_HOST),
        [_] => number(UDATA_KEY_BYTEORDER, BYTEORDER_NETWORK),
        _ => Vec::new(),
    }
}

/// A record of user data: kind, length, value.
fn record(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("user data has at most 256 bytes");
    [&[kind, length], value].concat()
}

fn number(kind: u8, value: u32) -> Vec<u8> {
    record(kind, &value.to_ne_bytes())
}

/// An expression: its kind, and what describes it further.
fn expression_record(kind: u32, description: &[u8]) -> Vec<u8> {
    [number(0, kind), record(1, description)].concat()
}

fn concatenation_of(fields: &[Field]) -> Vec<u8> {
    let parts: Vec<u8> =
        fields.iter().zip(0..).flat_map(|(field, index)| record(index, &field_record(*field))).collect();
    expression_record(EXPR_CONCAT, &parts)
}

fn field_record(field: Field) -> Vec<u8> {
    let payload = |header, field| [number(0, header), number(1, field)].concat();
    match field {
        Field::Address => expression_record(EXPR_PAYLOAD, &payload(PROTO_DESC_IP, IPHDR_DADDR)),
        Field::Port => expression_record(EXPR_PAYLOAD, &payload(PROTO_DESC_TH, THDR_DPORT)),
        Field::Protocol => expression_record(EXPR_META, &number(0, NFT_META_L4PROTO)),
        Field::InterfaceName => expression_record(EXPR_META, &number(0, NFT_META_IIFNAME)),
        Field::Slot => {
            let any = [number(0, NFT_NG_RANDOM), number(1, u32::MAX), number(2, 0)].concat();
            expression_record(EXPR_NUMGEN, &any)
        }
    }
}

// nftables' own numbers in user data.

const UDATA_KEY_BYTEORDER: u8 = 0;
const UDATA_KEY_TYPEOF: u8 = 3;
const UDATA_DATA_TYPEOF: u8 = 4;
const BYTEORDER_HOST: u32 = 1;
const BYTEORDER_NETWORK: u32 = 2;
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;
const PROTO_DESC_TH: u32 = 11;
const PROTO_DESC_IP: u32 = 12;
const IPHDR_DADDR: u32 = 12;
const THDR_DPORT: u32 = 2;

// linux/netfilter/nfnetlink.h and nf_tables.h.

pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
pub(super) const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV4: u8 = 2;
/// Family, version, resource.
pub(super) const GENERAL_HEADER: [u8; 4] = [NFPROTO_IPV4, 0, 0, 0];
const BATCH_HEADER: [u8; 4] = [0, 0, 0, NFNL_SUBSYS_NFTABLES as u8];
/// No row with its attributes is longer (a range of two interface names would be 100).
const ROW_MAX_BYTES: usize = 128;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
pub(super) const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
pub(super) const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
pub(super) const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
/// The table's name is the first attribute of every message about a part of it.
pub(super) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFTA_NG_OFFSET: u16 = 4;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;

/// The hook of packets for the host itself; we have no chain there.
pub(super) const NF_INET_LOCAL_IN: u32 = 1;
pub(super) const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
const NFT_REG_VERDICT: u32 = 0;
/// `NFT_REG32_00`: all rules use the registers from the first on.
const REGISTER: u32 = 8;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATUS: u32 = 2;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const NFT_NG_RANDOM: u32 = 1;
const NFT_NAT_DNAT: u32 = 1;
const NFT_REJECT_ICMP_UNREACH: u32 = 0;
const NFT_REJECT_TCP_RST: u32 = 1;
const ICMP_PORT_UNREACH: u8 = 3;
