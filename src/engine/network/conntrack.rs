//! Forgetting UDP flows that the table would now treat otherwise.
//!
//! Translation is decided once per flow. A TCP flow ends; a UDP flow lasts as long as its client keeps sending, so
//! one that goes to a pod that is gone, or that was let through before its port was published, would stay wrong
//! for ever. Which flows are stale is decided here, purely; the kernel's table is read and written only after a
//! change of UDP rows.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::firewall::Element;
use super::netlink::{AttributeIter, Batch, NLM_F_DUMP, NetlinkError, Socket};
use crate::engine::container::spec::Protocol;

/// Rows that left the table and rows that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub removed: Vec<Element>,
    pub added: Vec<Element>,
}

/// Where packets arrive: a virtual address, one of the host's, or (`None`) any of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Front {
    address: Option<Ipv4Addr>,
    port: u16,
}

/// What a change makes stale.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    ends: BTreeSet<(Front, SocketAddrV4)>,
    beginnings: BTreeSet<Front>,
}

/// A flow: where its client sends to, and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    sent_to: SocketAddrV4,
    answered_by: SocketAddrV4,
}

impl Stale {
    pub fn of(difference: &Difference) -> Self {
        let fronts = |elements: &[Element]| -> BTreeSet<(Front, SocketAddrV4)> {
            elements.iter().filter_map(udp_front).collect()
        };
        let (removed, added) = (fronts(&difference.removed), fronts(&difference.added));
        Self {
            // An endpoint that only changed its place among the others goes on.
            ends: removed.difference(&added).copied().collect(),
            beginnings: added.into_iter().map(|(front, _)| front).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.beginnings.is_empty()
    }

    fn includes(&self, flow: Flow, host: &BTreeSet<Ipv4Addr>) -> bool {
        let fronts = [Some(*flow.sent_to.ip()), None]
            .map(|address| Front { address, port: flow.sent_to.port() })
            .into_iter()
            .filter(|front| front.address.is_some() || host.contains(flow.sent_to.ip()));
        let is_translated = flow.sent_to != flow.answered_by;
        fronts.into_iter().any(|front| match is_translated {
            true => self.ends.contains(&(front, flow.answered_by)),
            false => self.beginnings.contains(&front),
        })
    }
}

/// Deletes the stale flows; returns how many there were.
pub fn forget(stale: &Stale, host: &BTreeSet<Ipv4Addr>) -> Result<usize, NetlinkError> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let replies = socket.query(message_type(IPCTNL_MSG_CT_GET), NLM_F_DUMP, &GENERAL_HEADER, |_| ())?;
    let mut forgotten = 0;
    for reply in replies {
        let attributes = || reply.attributes(GENERAL_HEADER.len());
        let Some(original) = attributes().find(CTA_TUPLE_ORIG) else { continue };
        let Some(answer) = attributes().find(CTA_TUPLE_REPLY) else { continue };
        let flow = parse_tuple(original)
            .zip(parse_tuple(answer))
            .map(|((_, sent_to), (answered_by, _))| Flow { sent_to, answered_by });
        if !flow.is_some_and(|flow| stale.includes(flow, host)) {
            continue;
        }
        let mut batch = Batch::default();
        batch.message(message_type(IPCTNL_MSG_CT_DELETE), 0, &GENERAL_HEADER, |a| {
            a.bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, original);
        });
        match socket.execute(batch, 0) {
            Ok(()) => forgotten += 1,
            // It ended by itself.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn udp_front(element: &Element) -> Option<(Front, SocketAddrV4)> {
    let (address, protocol, port, target) = match element {
        Element::Port { address, protocol, port, target } => (*address, protocol, port, target),
        Element::Endpoint { address, protocol, port, target, .. } => (Some(*address), protocol, port, target),
        Element::NodeEndpoint { protocol, port, target, .. } => (None, protocol, port, target),
        Element::Bridge(_)
        | Element::Internal(_)
        | Element::Isolated(_)
        | Element::Subnet(_)
        | Element::Gateway(_)
        | Element::Service { .. }
        | Element::NodePort { .. } => return None,
    };
    (*protocol == Protocol::Udp).then_some((Front { address, port: *port }, *target))
}

/// Source and destination of a UDP tuple.
fn parse_tuple(tuple: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let ip = AttributeIter::new(tuple).find(CTA_TUPLE_IP)?;
    let protocol = AttributeIter::new(tuple).find(CTA_TUPLE_PROTO)?;
    if AttributeIter::new(protocol).find(CTA_PROTO_NUM)? != [IPPROTO_UDP] {
        return None;
    }
    let address = |kind| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = AttributeIter::new(ip).find(kind)?.try_into().ok()?;
        Some(octets.into())
    };
    let port = |kind| -> Option<u16> {
        Some(u16::from_be_bytes(AttributeIter::new(protocol).find(kind)?.try_into().ok()?))
    };
    Some((
        SocketAddrV4::new(address(CTA_IP_V4_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        SocketAddrV4::new(address(CTA_IP_V4_DST)?, port(CTA_PROTO_DST_PORT)?),
    ))
}

fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_CTNETLINK << 8) | message
}

// linux/netfilter/nfnetlink_conntrack.h

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NFPROTO_IPV4: u8 = 2;
const GENERAL_HEADER: [u8; 4] = [NFPROTO_IPV4, 0, 0, 0];
const IPPROTO_UDP: u8 = 17;
const NLA_F_NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(slot: u32, target: &str) -> Element {
        Element::Endpoint {
            address: Ipv4Addr::new(10, 96, 0, 7),
            protocol: Protocol::Udp,
            port: 53,
            slot,
            target: target.parse().unwrap(),
        }
    }

    fn published(target: &str) -> Element {
        let target = target.parse().unwrap();
        Element::Port { address: None, protocol: Protocol::Udp, port: 53, target }
    }

    #[test]
    fn only_flows_that_would_go_elsewhere_are_stale() {
        let host = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]);
        let (a, b) = ("10.88.0.2:5353", "10.88.0.3:5353");
        // Rows removed and added; where a flow goes and who answers it; whether it is stale.
        let cases = [
            (vec![endpoint(0, a)], vec![], ("10.96.0.7:53", a), true),
            (vec![endpoint(0, a)], vec![], ("10.96.0.7:53", b), false),
            (vec![endpoint(0, a)], vec![], ("10.96.0.8:53", a), false),
            (vec![endpoint(0, a)], vec![], (a, a), false),
            (vec![endpoint(0, a), endpoint(1, b)], vec![endpoint(0, b)], ("10.96.0.7:53", b), false),
            (vec![endpoint(0, a), endpoint(1, b)], vec![endpoint(0, b)], ("10.96.0.7:53", a), true),
            (vec![], vec![endpoint(0, a)], ("10.96.0.7:53", "10.96.0.7:53"), true),
            (vec![], vec![published(a)], ("192.0.2.1:53", "192.0.2.1:53"), true),
            (vec![], vec![published(a)], ("8.8.8.8:53", "8.8.8.8:53"), false),
            (vec![published(a)], vec![], ("192.0.2.1:53", a), true),
            (vec![published(a)], vec![], ("192.0.2.1:54", a), false),
        ];
        for (removed, added, (sent_to, answered_by), expected) in cases {
            let flow = Flow { sent_to: sent_to.parse().unwrap(), answered_by: answered_by.parse().unwrap() };
            let difference = Difference { removed, added };
            assert_eq!(Stale::of(&difference).includes(flow, &host), expected, "{difference:?} {flow:?}");
        }
    }

    #[test]
    fn tcp_rows_make_nothing_stale() {
        let target = "10.88.0.2:80".parse().unwrap();
        let row = Element::Port { address: None, protocol: Protocol::Tcp, port: 80, target };
        assert!(Stale::of(&Difference { removed: vec![row.clone()], added: vec![row] }).is_empty());
    }
}
