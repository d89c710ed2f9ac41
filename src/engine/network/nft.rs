//! The one place that writes the table of [`super::firewall`] into the kernel: over nfnetlink, in transactions.
//!
//! [`Table`] remembers what shall be there. A change is the difference, sent as one batch that the kernel applies
//! as a whole or not at all; when it does not fit what the kernel has (someone flushed the table), the whole table
//! is replaced, again in one batch, which connections do not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::firewall::{
    self, Chain, Element, Elements, Field, HookKind, HookPoint, Load, RangeEnd, Row, RowData, Set, Step,
    Value,
};
use super::netlink::{
    Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NetlinkError, Socket, attribute_text,
};

/// Our table in the kernel.
pub struct Table {
    name: String,
    service_subnet: Ipv4Net,
    inner: Mutex<Inner>,
}

struct Inner {
    socket: Socket,
    installed: bool,
    elements: Elements,
    /// Numbers of endpoints for which the balancing chains are there.
    balanced: BTreeSet<u32>,
}

/// How many of each there are: enough to see that someone was here.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    chains: usize,
    rules: usize,
    rows: BTreeMap<&'static str, usize>,
}

impl Table {
    pub fn open(name: &str, service_subnet: Ipv4Net) -> io::Result<Self> {
        let inner = Inner {
            socket: Socket::open(NETLINK_NETFILTER)?,
            installed: false,
            elements: Elements::new(),
            balanced: BTreeSet::new(),
        };
        Ok(Self { name: name.to_owned(), service_subnet, inner: Mutex::new(inner) })
    }

    /// The port of the socket: notifications of our own changes carry it.
    pub fn socket_port(&self) -> io::Result<u32> {
        self.lock().socket.port()
    }

    /// Makes the table hold exactly `elements`, whatever was there.
    pub fn replace(&self, elements: Elements) -> Result<(), NetlinkError> {
        let mut inner = self.lock();
        inner.elements = elements;
        self.install(&mut inner)
    }

    /// Takes `remove` out and puts `add` in, in one transaction. Removing what is not there, or adding what is, is
    /// no error and no work.
    pub fn change(&self, remove: &[Element], add: &[Element]) -> Result<(), NetlinkError> {
        let mut inner = self.lock();
        let removed: Vec<Element> = remove.iter().filter(|e| inner.elements.contains(e)).cloned().collect();
        let added =
            add.iter().filter(|e| !inner.elements.contains(e) || removed.contains(e)).cloned().collect();
        self.apply(&mut inner, removed, added)
    }

    /// Replaces those elements that `belongs` picks by `elements`, in one transaction.
    pub fn change_all(
        &self,
        belongs: impl Fn(&Element) -> bool,
        elements: &Elements,
    ) -> Result<(), NetlinkError> {
        let mut inner = self.lock();
        let removed: Vec<Element> =
            inner.elements.iter().filter(|e| belongs(e) && !elements.contains(e)).cloned().collect();
        let added = elements.difference(&inner.elements).cloned().collect();
        self.apply(&mut inner, removed, added)
    }

    /// Looks whether the kernel has what it should and installs the table anew if not. Returns whether it did.
    pub fn repair(&self) -> Result<bool, NetlinkError> {
        let mut inner = self.lock();
        if !inner.installed {
            return Ok(false);
        }
        let found = self.census(&mut inner.socket)?;
        let chains = self.chains(&inner);
        let mut rows: BTreeMap<_, _> = Set::ALL.into_iter().map(|set| (set.name(), 0)).collect();
        for row in inner.elements.iter().flat_map(Element::rows) {
            // The end of an exclusive range is an element of its own.
            let count = 1 + usize::from(matches!(row.end, Some(RangeEnd::Exclusive(Some(_)))));
            *rows.entry(row.set.name()).or_default() += count;
        }
        let rules = chains.iter().map(|chain| chain.rules.len()).sum();
        if found == (Census { chains: chains.len(), rules, rows }) {
            return Ok(false);
        }
        self.install(&mut inner)?;
        Ok(true)
    }

    /// Takes the whole table away. What it shall hold is remembered.
    pub fn delete(&self) -> Result<(), NetlinkError> {
        let mut inner = self.lock();
        let mut batch = open_batch();
        self.new_table(&mut batch);
        self.delete_table(&mut batch);
        inner.installed = false;
        commit(&mut inner.socket, batch)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(
        &self,
        inner: &mut Inner,
        removed: Vec<Element>,
        added: Vec<Element>,
    ) -> Result<(), NetlinkError> {
        if removed.is_empty() && added.is_empty() && inner.installed {
            return Ok(());
        }
        let outcome = if inner.installed { self.send_change(inner, &removed, &added) } else { Ok(()) };
        let reinstall = match outcome {
            Ok(()) => !inner.installed,
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)) => {
                tracing::warn!(
                    table = self.name,
                    error = %error,
                    "the nftables table was changed by someone else; installing it anew"
                );
                true
            }
            Err(error) => return Err(error),
        };
        for element in &removed {
            inner.elements.remove(element);
        }
        inner.elements.extend(added.iter().cloned());
        if reinstall && let Err(error) = self.install(inner) {
            for element in &added {
                inner.elements.remove(element);
            }
            inner.elements.extend(removed);
            return Err(error);
        }
        Ok(())
    }

    fn send_change(
        &self,
        inner: &mut Inner,
        removed: &[Element],
        added: &[Element],
    ) -> Result<(), NetlinkError> {
        let mut batch = open_batch();
        let removed: Vec<Row> = removed.iter().flat_map(Element::rows).collect();
        self.rows(&mut batch, NFT_MSG_DELSETELEM, &removed);
        let mut balanced = inner.balanced.clone();
        for endpoints in added.iter().filter_map(Element::balance) {
            if balanced.insert(endpoints) {
                firewall::balance_chains(endpoints).iter().for_each(|chain| self.chain(&mut batch, chain));
            }
        }
        let added: Vec<Row> = added.iter().flat_map(Element::rows).collect();
        self.rows(&mut batch, NFT_MSG_NEWSETELEM, &added);
        commit(&mut inner.socket, batch)?;
        inner.balanced = balanced;
        Ok(())
    }

    /// Sends the whole table in one transaction.
    fn install(&self, inner: &mut Inner) -> Result<(), NetlinkError> {
        let mut batch = open_batch();
        // Deleting what is not there is an error, so it is made first.
        self.new_table(&mut batch);
        self.delete_table(&mut batch);
        self.new_table(&mut batch);
        for (index, set) in Set::ALL.into_iter().enumerate() {
            self.set(&mut batch, set, index as u32 + 1);
        }
        inner.balanced = inner.elements.iter().filter_map(Element::balance).collect();
        for chain in self.chains(inner) {
            self.chain(&mut batch, &chain);
        }
        let rows: Vec<Row> = inner.elements.iter().flat_map(Element::rows).collect();
        self.rows(&mut batch, NFT_MSG_NEWSETELEM, &rows);
        commit(&mut inner.socket, batch)?;
        inner.installed = true;
        Ok(())
    }

    fn chains(&self, inner: &Inner) -> Vec<Chain> {
        let mut chains = firewall::fixed_chains(self.service_subnet);
        chains.extend(inner.balanced.iter().flat_map(|endpoints| firewall::balance_chains(*endpoints)));
        chains
    }

    fn census(&self, socket: &mut Socket) -> Result<Census, NetlinkError> {
        let of_table = |a: &mut Attributes| a.text(NFTA_TABLE_NAME, &self.name);
        let mut census = Census { chains: 0, rules: 0, rows: BTreeMap::new() };
        // The kernel does not filter dumps of chains by table.
        for reply in socket.query(message_type(NFT_MSG_GETCHAIN), NLM_F_DUMP, &GENERAL_HEADER, |_| ())? {
            let table = reply.attributes(GENERAL_HEADER.len()).find(NFTA_CHAIN_TABLE).map(attribute_text);
            census.chains += usize::from(table.as_deref() == Some(&self.name));
        }
        census.rules =
            socket.query(message_type(NFT_MSG_GETRULE), NLM_F_DUMP, &GENERAL_HEADER, of_table)?.len();
        for set in Set::ALL {
            let elements = socket.query(message_type(NFT_MSG_GETSETELEM), NLM_F_DUMP, &GENERAL_HEADER, |a| {
                a.text(NFTA_SET_ELEM_LIST_TABLE, &self.name);
                a.text(NFTA_SET_ELEM_LIST_SET, set.name());
            });
            match elements {
                Ok(replies) => {
                    let count = replies
                        .iter()
                        .filter_map(|reply| {
                            reply.attributes(GENERAL_HEADER.len()).find(NFTA_SET_ELEM_LIST_ELEMENTS)
                        })
                        .map(|list| super::netlink::AttributeIter::new(list).count())
                        .sum();
                    census.rows.insert(set.name(), count);
                }
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(census)
    }

    fn new_table(&self, batch: &mut Batch) {
        batch.message(message_type(NFT_MSG_NEWTABLE), NLM_F_CREATE, &GENERAL_HEADER, |a| {
            a.text(NFTA_TABLE_NAME, &self.name);
            a.u32_be(NFTA_TABLE_FLAGS, 0);
        });
    }

    fn delete_table(&self, batch: &mut Batch) {
        batch.message(message_type(NFT_MSG_DELTABLE), 0, &GENERAL_HEADER, |a| {
            a.text(NFTA_TABLE_NAME, &self.name);
        });
    }

    fn set(&self, batch: &mut Batch, set: Set, id: u32) {
        batch.message(message_type(NFT_MSG_NEWSET), NLM_F_CREATE, &GENERAL_HEADER, |a| {
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
            a.text(NFTA_SET_TABLE, &self.name);
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
            // Only for `nft list`: which end of a single number comes first.
            if let [field] = fields {
                let order: u32 = if *field == Field::InterfaceName { 1 } else { 2 };
                let mut userdata = vec![NFTNL_UDATA_SET_KEYBYTEORDER, 4];
                userdata.extend_from_slice(&order.to_ne_bytes());
                a.bytes(NFTA_SET_USERDATA, &userdata);
            }
        });
    }

    fn chain(&self, batch: &mut Batch, chain: &Chain) {
        batch.message(message_type(NFT_MSG_NEWCHAIN), NLM_F_CREATE, &GENERAL_HEADER, |a| {
            a.text(NFTA_CHAIN_TABLE, &self.name);
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
            batch.message(message_type(NFT_MSG_NEWRULE), NLM_F_CREATE | NLM_F_APPEND, &GENERAL_HEADER, |a| {
                a.text(NFTA_RULE_TABLE, &self.name);
                a.text(NFTA_RULE_CHAIN, &chain.name);
                a.nested(NFTA_RULE_EXPRESSIONS, |a| rule.iter().for_each(|step| write_step(a, step)));
            });
        }
    }

    /// As few messages as the length of an attribute allows.
    fn rows(&self, batch: &mut Batch, kind: u16, rows: &[Row]) {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|row| row.set == first.set).count();
            let now = run.min(super::netlink::ATTRIBUTE_MAX_BYTES / ROW_MAX_BYTES);
            let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
            batch.message(message_type(kind), flags, &GENERAL_HEADER, |a| {
                a.text(NFTA_SET_ELEM_LIST_TABLE, &self.name);
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

/// Chains of other tables that drop what is forwarded unless they know it: as docker and most host firewalls set
/// up. An accept of ours does not overrule them.
pub fn foreign_forward_drops(own_table: &str) -> Result<Vec<String>, NetlinkError> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    // All families: a drop in an `inet` table concerns IPv4 as well.
    let replies = socket.query(message_type(NFT_MSG_GETCHAIN), NLM_F_DUMP, &[0; 4], |_| ())?;
    let mut drops = Vec::new();
    for reply in replies {
        let family = reply.payload.first().copied().unwrap_or_default();
        let attributes = || reply.attributes(GENERAL_HEADER.len());
        let number = |kind| attributes().find(kind).and_then(super::netlink::attribute_u32_be);
        let table = attributes().find(NFTA_CHAIN_TABLE).map(attribute_text).unwrap_or_default();
        let hook = attributes()
            .find(NFTA_CHAIN_HOOK)
            .and_then(|hook| super::netlink::AttributeIter::new(hook).find(NFTA_HOOK_HOOKNUM))
            .and_then(super::netlink::attribute_u32_be);
        let concerns_ipv4 = [NFPROTO_IPV4, NFPROTO_INET].contains(&family);
        if concerns_ipv4
            && table != own_table
            && hook == Some(hook_number(HookPoint::Forward))
            && number(NFTA_CHAIN_POLICY) == Some(NF_DROP)
        {
            let chain = attributes().find(NFTA_CHAIN_NAME).map(attribute_text).unwrap_or_default();
            drops.push(format!("{table} {chain}"));
        }
    }
    Ok(drops)
}

fn open_batch() -> Batch {
    let mut batch = Batch::default();
    batch.message(NFNL_MSG_BATCH_BEGIN, 0, &BATCH_HEADER, |_| ());
    batch
}

fn commit(socket: &mut Socket, mut batch: Batch) -> Result<(), NetlinkError> {
    batch.message(NFNL_MSG_BATCH_END, 0, &BATCH_HEADER, |_| ());
    // The closing mark itself is not answered.
    let last = batch.len() - 2;
    socket.execute(batch, last)
}

fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

fn hook_number(point: HookPoint) -> u32 {
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
        // Listed as a packet mark, nft's type for a 32-bit number in the host's order.
        Field::Slot => 19,
    }
}

/// nft packs the types of a concatenation into six bits each.
fn concatenation(types: impl Iterator<Item = u32>) -> u32 {
    types.fold(0, |all, kind| (all << 6) | kind)
}

// linux/netfilter/nfnetlink.h and nf_tables.h.

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
/// Family, version, resource.
const GENERAL_HEADER: [u8; 4] = [NFPROTO_IPV4, 0, 0, 0];
const BATCH_HEADER: [u8; 4] = [0, 0, 0, NFNL_SUBSYS_NFTABLES as u8];
/// No row with its attributes is longer (a range of two interface names would be 100).
const ROW_MAX_BYTES: usize = 128;

pub(super) const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
/// The table's name is the first attribute of every message about a part of it.
pub(super) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
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
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
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

const NF_DROP: u32 = 0;
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
const NFTNL_UDATA_SET_KEYBYTEORDER: u8 = 0;
