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

use super::conntrack::Difference;
use super::firewall::{self, Chain, Element, Elements, HookPoint, RangeEnd, Row, Set};
use super::netlink::{
    AttributeIter, Attributes, NLM_F_DUMP, NetlinkError, Socket, attribute_text, attribute_u32_be,
};
use super::nft_wire::{
    GENERAL_HEADER, NF_DROP, NF_INET_LOCAL_IN, NFPROTO_INET, NFPROTO_IPV4, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE,
    NFT_MSG_GETSETELEM, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE,
    NFTA_HOOK_HOOKNUM, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
    NFTA_TABLE_NAME, Transaction, hook_number, message_type,
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
    /// no error and no work. Returns what really changed.
    pub fn change(&self, remove: &[Element], add: &[Element]) -> Result<Difference, NetlinkError> {
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
    ) -> Result<Difference, NetlinkError> {
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
        let mut transaction = Transaction::new(&self.name);
        transaction.new_table();
        transaction.delete_table();
        inner.installed = false;
        transaction.commit(&mut inner.socket)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(
        &self,
        inner: &mut Inner,
        removed: Vec<Element>,
        added: Vec<Element>,
    ) -> Result<Difference, NetlinkError> {
        if removed.is_empty() && added.is_empty() && inner.installed {
            return Ok(Difference { removed, added });
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
        Ok(Difference { removed, added })
    }

    fn send_change(
        &self,
        inner: &mut Inner,
        removed: &[Element],
        added: &[Element],
    ) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::new(&self.name);
        let removed: Vec<Row> = removed.iter().flat_map(Element::rows).collect();
        transaction.remove_rows(&removed);
        let mut balanced = inner.balanced.clone();
        for endpoints in added.iter().filter_map(Element::balance) {
            if balanced.insert(endpoints) {
                firewall::balance_chains(endpoints).iter().for_each(|chain| transaction.chain(chain));
            }
        }
        let added: Vec<Row> = added.iter().flat_map(Element::rows).collect();
        transaction.add_rows(&added);
        transaction.commit(&mut inner.socket)?;
        inner.balanced = balanced;
        Ok(())
    }

    /// Sends the whole table in one transaction.
    fn install(&self, inner: &mut Inner) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::new(&self.name);
        // Deleting what is not there is an error, so it is made first.
        transaction.new_table();
        transaction.delete_table();
        transaction.new_table();
        for (index, set) in Set::ALL.into_iter().enumerate() {
            transaction.set(set, index as u32 + 1);
        }
        inner.balanced = inner.elements.iter().filter_map(Element::balance).collect();
        for chain in self.chains(inner) {
            transaction.chain(&chain);
        }
        let rows: Vec<Row> = inner.elements.iter().flat_map(Element::rows).collect();
        transaction.add_rows(&rows);
        transaction.commit(&mut inner.socket)?;
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
                        .map(|list| AttributeIter::new(list).count())
                        .sum();
                    census.rows.insert(set.name(), count);
                }
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(census)
    }
}

/// Chains of other tables that drop what they do not know, as docker and most host firewalls set up. An accept of
/// ours does not overrule them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ForeignDrops {
    pub forward: Vec<String>,
    pub input: Vec<String>,
}

pub fn foreign_drops(own_table: &str) -> Result<ForeignDrops, NetlinkError> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    // All families: a drop in an `inet` table concerns IPv4 as well.
    let replies = socket.query(message_type(NFT_MSG_GETCHAIN), NLM_F_DUMP, &[0; 4], |_| ())?;
    let mut drops = ForeignDrops::default();
    for reply in replies {
        let attributes = || reply.attributes(GENERAL_HEADER.len());
        let text = |kind| attributes().find(kind).map(attribute_text).unwrap_or_default();
        let hook = attributes()
            .find(NFTA_CHAIN_HOOK)
            .and_then(|hook| AttributeIter::new(hook).find(NFTA_HOOK_HOOKNUM))
            .and_then(attribute_u32_be);
        let concerns_ipv4 = matches!(reply.payload.first(), Some(&(NFPROTO_IPV4 | NFPROTO_INET)));
        let policy = attributes().find(NFTA_CHAIN_POLICY).and_then(attribute_u32_be);
        let table = text(NFTA_CHAIN_TABLE);
        if !concerns_ipv4 || policy != Some(NF_DROP) || table == own_table {
            continue;
        }
        let chain = format!("{table} {}", text(NFTA_CHAIN_NAME));
        if hook == Some(hook_number(HookPoint::Forward)) {
            drops.forward.push(chain);
        } else if hook == Some(NF_INET_LOCAL_IN) {
            drops.input.push(chain);
        }
    }
    Ok(drops)
}
