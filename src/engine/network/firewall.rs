//! The rules of the host as values. Nothing here touches the kernel; [`super::nft`] installs them.
//!
//! One table of family `ip`, named by the configured prefix. Its chains are fixed (below); whatever changes with
//! containers and Services is an [`Element`] of one of its sets and maps, so a lookup costs the same for one
//! published port or Service as for a thousand. In nft's words:
//!
//! ```text
//! chain untrusted   { type filter hook prerouting priority raw;     # 127/8 must not come from a pod
//!     iifname @bridges ip daddr 127.0.0.0/8 drop
//!     iifname @bridges ip saddr 127.0.0.0/8 drop }
//! chain prerouting  { type nat hook prerouting priority dstnat;
//!     iifname != "lo" ip daddr 127.0.0.0/8 return
//!     jump dispatch }
//! chain output      { type nat hook output priority -100;  jump dispatch }
//! chain dispatch    {
//!     ip daddr . meta l4proto . th dport vmap @services
//!     fib daddr type local jump host_ports }
//! chain host_ports  {
//!     dnat ip to ip daddr . meta l4proto . th dport map @ports_at
//!     ip daddr @gateways th dport 53 return                          # our resolver, not a published port 53
//!     dnat ip to meta l4proto . th dport map @ports
//!     meta l4proto . th dport vmap @node_ports }
//! chain balance_N   { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod N map @endpoints }
//! chain balance_node_N { dnat ip to meta l4proto . th dport . numgen random mod N map @node_endpoints }
//! chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr @subnets ip daddr != @subnets ip daddr != 224.0.0.0/4 masquerade
//!     ct status & dnat != 0 ip saddr . ip daddr @same_subnet masquerade
//!     ip saddr 127.0.0.0/8 oifname @bridges masquerade }
//! chain forward     { type filter hook forward priority filter; policy accept;
//!     ip daddr SERVICES meta l4proto tcp reject with tcp reset
//!     ip daddr SERVICES reject
//!     iifname . oifname @same_bridge accept
//!     iifname @internal drop
//!     oifname @internal drop
//!     iifname @isolated oifname @isolated drop }
//! chain refuse      { type filter hook output priority filter;  the first two rules of forward }
//! ```
//!
//! A Service's port with N endpoints points at `balance_N`, which all Services with N endpoints share; a
//! Service without endpoints has no element, so its packets keep the virtual address and are refused.
//! Packets inside one subnet are masqueraded after translation because the answer would otherwise go straight
//! across the bridge, past the translation.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use crate::engine::container::spec::Protocol;

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// One row of one set or map of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    Bridge(String),
    /// No way in or out: podman's `--internal`.
    Internal(String),
    /// No way to other isolated networks: podman's `isolate` option.
    Isolated(String),
    Subnet(Ipv4Net),
    Gateway(Ipv4Addr),
    Port {
        /// `None`: every address of the host.
        address: Option<Ipv4Addr>,
        protocol: Protocol,
        port: u16,
        target: SocketAddrV4,
    },
    Service {
        address: Ipv4Addr,
        protocol: Protocol,
        port: u16,
        endpoints: u32,
    },
    Endpoint {
        address: Ipv4Addr,
        protocol: Protocol,
        port: u16,
        slot: u32,
        target: SocketAddrV4,
    },
    NodePort {
        protocol: Protocol,
        port: u16,
        endpoints: u32,
    },
    NodeEndpoint {
        protocol: Protocol,
        port: u16,
        slot: u32,
        target: SocketAddrV4,
    },
}

/// Everything that shall be in the sets and maps.
pub type Elements = BTreeSet<Element>;

/// The sets and maps of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    Bridges,
    SameBridge,
    Internal,
    Isolated,
    Subnets,
    SameSubnet,
    Gateways,
    Ports,
    PortsAt,
    Services,
    Endpoints,
    NodePorts,
    NodeEndpoints,
}

impl Set {
    pub const ALL: [Self; 13] = [
        Self::Bridges,
        Self::SameBridge,
        Self::Internal,
        Self::Isolated,
        Self::Subnets,
        Self::SameSubnet,
        Self::Gateways,
        Self::Ports,
        Self::PortsAt,
        Self::Services,
        Self::Endpoints,
        Self::NodePorts,
        Self::NodeEndpoints,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::SameBridge => "same_bridge",
            Self::Internal => "internal",
            Self::Isolated => "isolated",
            Self::Subnets => "subnets",
            Self::SameSubnet => "same_subnet",
            Self::Gateways => "gateways",
            Self::Ports => "ports",
            Self::PortsAt => "ports_at",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::NodePorts => "node_ports",
            Self::NodeEndpoints => "node_endpoints",
        }
    }

    /// The parts of a key, in order.
    pub fn key(self) -> &'static [Field] {
        use Field::{Address, InterfaceName, Port, Protocol, Slot};
        match self {
            Self::Bridges | Self::Internal | Self::Isolated => &[InterfaceName],
            Self::SameBridge => &[InterfaceName, InterfaceName],
            Self::Subnets | Self::Gateways => &[Address],
            Self::SameSubnet => &[Address, Address],
            Self::Ports | Self::NodePorts => &[Protocol, Port],
            Self::PortsAt | Self::Services => &[Address, Protocol, Port],
            Self::Endpoints => &[Address, Protocol, Port, Slot],
            Self::NodeEndpoints => &[Protocol, Port, Slot],
        }
    }

    pub fn value(self) -> Value {
        match self {
            Self::Bridges
            | Self::SameBridge
            | Self::Internal
            | Self::Isolated
            | Self::Subnets
            | Self::SameSubnet
            | Self::Gateways => Value::None,
            Self::Ports | Self::PortsAt | Self::Endpoints | Self::NodeEndpoints => Value::Target,
            Self::Services | Self::NodePorts => Value::Verdict,
        }
    }

    /// Keys are ranges.
    pub fn is_interval(self) -> bool {
        match self {
            Self::Subnets | Self::SameSubnet => true,
            Self::Bridges
            | Self::SameBridge
            | Self::Internal
            | Self::Isolated
            | Self::Gateways
            | Self::Ports
            | Self::PortsAt
            | Self::Services
            | Self::Endpoints
            | Self::NodePorts
            | Self::NodeEndpoints => false,
        }
    }
}

/// A part of a key; each takes a multiple of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Address,
    Protocol,
    Port,
    InterfaceName,
    /// A number of the host's byte order.
    Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    None,
    /// Address and port.
    Target,
    Verdict,
}

/// A row as the kernel stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub set: Set,
    pub key: Vec<u8>,
    /// First key after a range (`subnets`), or its last one (`same_subnet`: ranges of concatenations include it).
    pub end: Option<RangeEnd>,
    pub data: RowData,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeEnd {
    /// `None`: the range reaches the last address there is.
    Exclusive(Option<Vec<u8>>),
    Inclusive(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowData {
    None,
    Target(Vec<u8>),
    Goto(String),
}

impl Element {
    pub fn rows(&self) -> Vec<Row> {
        let plain = |set, key| Row { set, key, end: None, data: RowData::None };
        match self {
            Self::Bridge(name) => vec![
                plain(Set::Bridges, interface_key(name)),
                plain(Set::SameBridge, [interface_key(name), interface_key(name)].concat()),
            ],
            Self::Internal(name) => vec![plain(Set::Internal, interface_key(name))],
            Self::Isolated(name) => vec![plain(Set::Isolated, interface_key(name))],
            Self::Subnet(subnet) => {
                let first = subnet.network().octets().to_vec();
                let last = u32::from(subnet.broadcast());
                let after = last.checked_add(1).map(|next| next.to_be_bytes().to_vec());
                vec![
                    Row {
                        set: Set::Subnets,
                        key: first.clone(),
                        end: Some(RangeEnd::Exclusive(after)),
                        data: RowData::None,
                    },
                    Row {
                        set: Set::SameSubnet,
                        key: first.repeat(2),
                        end: Some(RangeEnd::Inclusive(last.to_be_bytes().repeat(2))),
                        data: RowData::None,
                    },
                ]
            }
            Self::Gateway(address) => vec![plain(Set::Gateways, address.octets().to_vec())],
            Self::Port { address: None, protocol, port, target } => vec![Row {
                set: Set::Ports,
                key: port_key(*protocol, *port),
                end: None,
                data: RowData::Target(target_data(*target)),
            }],
            Self::Port { address: Some(address), protocol, port, target } => vec![Row {
                set: Set::PortsAt,
                key: [address.octets().to_vec(), port_key(*protocol, *port)].concat(),
                end: None,
                data: RowData::Target(target_data(*target)),
            }],
            Self::Service { address, protocol, port, endpoints } => vec![Row {
                set: Set::Services,
                key: [address.octets().to_vec(), port_key(*protocol, *port)].concat(),
                end: None,
                data: RowData::Goto(balance_chain(*endpoints)),
            }],
            Self::Endpoint { address, protocol, port, slot, target } => vec![Row {
                set: Set::Endpoints,
                key: [address.octets().to_vec(), port_key(*protocol, *port), slot.to_ne_bytes().to_vec()]
                    .concat(),
                end: None,
                data: RowData::Target(target_data(*target)),
            }],
            Self::NodePort { protocol, port, endpoints } => vec![Row {
                set: Set::NodePorts,
                key: port_key(*protocol, *port),
                end: None,
                data: RowData::Goto(balance_node_chain(*endpoints)),
            }],
            Self::NodeEndpoint { protocol, port, slot, target } => vec![Row {
                set: Set::NodeEndpoints,
                key: [port_key(*protocol, *port), slot.to_ne_bytes().to_vec()].concat(),
                end: None,
                data: RowData::Target(target_data(*target)),
            }],
        }
    }

    /// The pair of balancing chains that must exist before this row.
    pub fn balance(&self) -> Option<u32> {
        match self {
            Self::Service { endpoints, .. } | Self::NodePort { endpoints, .. } => Some(*endpoints),
            Self::Bridge(_)
            | Self::Internal(_)
            | Self::Isolated(_)
            | Self::Subnet(_)
            | Self::Gateway(_)
            | Self::Port { .. }
            | Self::Endpoint { .. }
            | Self::NodeEndpoint { .. } => None,
        }
    }
}

pub fn balance_chain(endpoints: u32) -> String {
    format!("balance_{endpoints}")
}

pub fn balance_node_chain(endpoints: u32) -> String {
    format!("balance_node_{endpoints}")
}

/// The IP protocol number.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol_number(protocol), 0, 0, 0, high, low, 0, 0]
}

fn target_data(target: SocketAddrV4) -> Vec<u8> {
    let [high, low] = target.port().to_be_bytes();
    [target.ip().octets().as_slice(), &[high, low, 0, 0]].concat()
}

// The fixed part: chains and rules, a step above the kernel's expressions.

/// A chain of the table with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<Vec<Step>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub kind: HookKind,
    pub point: HookPoint,
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    Filter,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// One step of a rule; a rule goes on while its steps match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Loads parts of the packet, one behind the other.
    Load(Vec<Load>),
    /// What was loaded is (or is not) in a set.
    In(Set),
    NotIn(Set),
    /// What was loaded has these bytes, after masking.
    Is {
        mask: Option<Vec<u8>>,
        bytes: Vec<u8>,
    },
    IsNot {
        mask: Option<Vec<u8>>,
        bytes: Vec<u8>,
    },
    /// Goes where the map says for what was loaded; the rule ends here if it says nothing.
    VerdictMap(Set),
    /// Translates the destination to what the map says for what was loaded.
    DestinationFrom(Set),
    Masquerade,
    Accept,
    Drop,
    Return,
    Jump(String),
    RejectTcpReset,
    RejectPortUnreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    SourceAddress,
    DestinationAddress,
    Protocol,
    DestinationPort,
    InputInterface,
    OutputInterface,
    /// Whose address the destination is: `RTN_LOCAL` is the host's own.
    DestinationType,
    ConntrackStatus,
    /// A number below this one, anew for each connection.
    Random(u32),
}

const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

/// The chains that are always there, in an order in which nothing refers to a later one.
pub fn fixed_chains(service_subnet: Ipv4Net) -> Vec<Chain> {
    use Load::{
        ConntrackStatus, DestinationAddress, DestinationPort, DestinationType, InputInterface,
        OutputInterface, Protocol as L4Protocol, SourceAddress,
    };
    let loopback = || is_in(Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("8 is a prefix length"));
    let to_services = || [Step::Load(vec![DestinationAddress]), is_in(service_subnet)];
    let refuse = || {
        let tcp = Step::Is { mask: None, bytes: vec![protocol_number(Protocol::Tcp)] };
        let with_reset = [Step::Load(vec![L4Protocol]), tcp, Step::RejectTcpReset];
        vec![[to_services().to_vec(), with_reset.to_vec()].concat(), {
            [to_services().to_vec(), vec![Step::RejectPortUnreachable]].concat()
        }]
    };
    // First: the route to the addresses of Services leads back through a bridge.
    let mut forward = refuse();
    forward.extend([
        vec![Step::Load(vec![InputInterface, OutputInterface]), Step::In(Set::SameBridge), Step::Accept],
        vec![Step::Load(vec![InputInterface]), Step::In(Set::Internal), Step::Drop],
        vec![Step::Load(vec![OutputInterface]), Step::In(Set::Internal), Step::Drop],
        vec![
            Step::Load(vec![InputInterface]),
            Step::In(Set::Isolated),
            Step::Load(vec![OutputInterface]),
            Step::In(Set::Isolated),
            Step::Drop,
        ],
    ]);
    let multicast = Ipv4Net::new(Ipv4Addr::new(224, 0, 0, 0), 4).expect("4 is a prefix length");

    vec![
        Chain {
            name: "host_ports".to_owned(),
            hook: None,
            rules: vec![
                vec![
                    Step::Load(vec![DestinationAddress, L4Protocol, DestinationPort]),
                    Step::DestinationFrom(Set::PortsAt),
                ],
                vec![
                    Step::Load(vec![DestinationAddress]),
                    Step::In(Set::Gateways),
                    Step::Load(vec![DestinationPort]),
                    Step::Is { mask: None, bytes: DNS_PORT.to_be_bytes().to_vec() },
                    Step::Return,
                ],
                vec![Step::Load(vec![L4Protocol, DestinationPort]), Step::DestinationFrom(Set::Ports)],
                vec![Step::Load(vec![L4Protocol, DestinationPort]), Step::VerdictMap(Set::NodePorts)],
            ],
        },
        Chain {
            name: "dispatch".to_owned(),
            hook: None,
            rules: vec![
                vec![
                    Step::Load(vec![DestinationAddress, L4Protocol, DestinationPort]),
                    Step::VerdictMap(Set::Services),
                ],
                vec![
                    Step::Load(vec![DestinationType]),
                    Step::Is { mask: None, bytes: RTN_LOCAL.to_ne_bytes().to_vec() },
                    Step::Jump("host_ports".to_owned()),
                ],
            ],
        },
        Chain {
            name: "untrusted".to_owned(),
            hook: Some(Hook { kind: HookKind::Filter, point: HookPoint::Prerouting, priority: PRIORITY_RAW }),
            rules: [DestinationAddress, SourceAddress]
                .into_iter()
                .map(|address| {
                    vec![
                        Step::Load(vec![InputInterface]),
                        Step::In(Set::Bridges),
                        Step::Load(vec![address]),
                        loopback(),
                        Step::Drop,
                    ]
                })
                .collect(),
        },
        Chain {
            name: "prerouting".to_owned(),
            hook: Some(Hook { kind: HookKind::Nat, point: HookPoint::Prerouting, priority: PRIORITY_DSTNAT }),
            rules: vec![
                vec![
                    Step::Load(vec![InputInterface]),
                    Step::IsNot { mask: None, bytes: interface_key("lo") },
                    Step::Load(vec![DestinationAddress]),
                    loopback(),
                    Step::Return,
                ],
                vec![Step::Jump("dispatch".to_owned())],
            ],
        },
        Chain {
            name: "output".to_owned(),
            hook: Some(Hook { kind: HookKind::Nat, point: HookPoint::Output, priority: PRIORITY_DSTNAT }),
            rules: vec![vec![Step::Jump("dispatch".to_owned())]],
        },
        Chain {
            name: "postrouting".to_owned(),
            hook: Some(Hook {
                kind: HookKind::Nat,
                point: HookPoint::Postrouting,
                priority: PRIORITY_SRCNAT,
            }),
            rules: vec![
                vec![
                    Step::Load(vec![SourceAddress]),
                    Step::In(Set::Subnets),
                    Step::Load(vec![DestinationAddress]),
                    Step::NotIn(Set::Subnets),
                    Step::Load(vec![DestinationAddress]),
                    is_not_in(multicast),
                    Step::Masquerade,
                ],
                vec![
                    Step::Load(vec![ConntrackStatus]),
                    Step::IsNot { mask: Some(IPS_DST_NAT.to_ne_bytes().to_vec()), bytes: vec![0; 4] },
                    Step::Load(vec![SourceAddress, DestinationAddress]),
                    Step::In(Set::SameSubnet),
                    Step::Masquerade,
                ],
                vec![
                    Step::Load(vec![SourceAddress]),
                    loopback(),
                    Step::Load(vec![OutputInterface]),
                    Step::In(Set::Bridges),
                    Step::Masquerade,
                ],
            ],
        },
        Chain {
            name: "forward".to_owned(),
            hook: Some(Hook { kind: HookKind::Filter, point: HookPoint::Forward, priority: PRIORITY_FILTER }),
            rules: forward,
        },
        Chain {
            name: "refuse".to_owned(),
            hook: Some(Hook { kind: HookKind::Filter, point: HookPoint::Output, priority: PRIORITY_FILTER }),
            rules: refuse(),
        },
    ]
}

/// The two chains for Services with this many endpoints.
pub fn balance_chains(endpoints: u32) -> [Chain; 2] {
    let chain = |name, loads: &[Load], map| Chain {
        name,
        hook: None,
        rules: vec![vec![Step::Load(loads.to_vec()), Step::DestinationFrom(map)]],
    };
    [
        chain(
            balance_chain(endpoints),
            &[Load::DestinationAddress, Load::Protocol, Load::DestinationPort, Load::Random(endpoints)],
            Set::Endpoints,
        ),
        chain(
            balance_node_chain(endpoints),
            &[Load::Protocol, Load::DestinationPort, Load::Random(endpoints)],
            Set::NodeEndpoints,
        ),
    ]
}

fn is_in(subnet: Ipv4Net) -> Step {
    Step::Is { mask: Some(subnet.netmask().octets().to_vec()), bytes: subnet.network().octets().to_vec() }
}

fn is_not_in(subnet: Ipv4Net) -> Step {
    Step::IsNot { mask: Some(subnet.netmask().octets().to_vec()), bytes: subnet.network().octets().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_long_as_their_fields() {
        let target = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80);
        let address = Ipv4Addr::new(10, 96, 0, 9);
        let elements = [
            Element::Bridge("selkie0".into()),
            Element::Internal("selkie1".into()),
            Element::Isolated("selkie2".into()),
            Element::Subnet("10.88.0.0/16".parse().unwrap()),
            Element::Gateway(Ipv4Addr::new(10, 88, 0, 1)),
            Element::Port { address: None, protocol: Protocol::Tcp, port: 80, target },
            Element::Port { address: Some(address), protocol: Protocol::Udp, port: 80, target },
            Element::Service { address, protocol: Protocol::Tcp, port: 80, endpoints: 2 },
            Element::Endpoint { address, protocol: Protocol::Tcp, port: 80, slot: 1, target },
            Element::NodePort { protocol: Protocol::Tcp, port: 30080, endpoints: 2 },
            Element::NodeEndpoint { protocol: Protocol::Tcp, port: 30080, slot: 1, target },
        ];
        let mut seen = BTreeSet::new();
        for row in elements.iter().flat_map(Element::rows) {
            let expected: usize = row
                .set
                .key()
                .iter()
                .map(|field| match field {
                    Field::InterfaceName => 16,
                    Field::Address | Field::Protocol | Field::Port | Field::Slot => 4,
                })
                .sum();
            assert_eq!(row.key.len(), expected, "{:?}", row.set);
            let matches = match row.data {
                RowData::None => row.set.value() == Value::None,
                RowData::Target(_) => row.set.value() == Value::Target,
                RowData::Goto(_) => row.set.value() == Value::Verdict,
            };
            assert!(matches, "{:?}", row.set);
            assert_eq!(row.end.is_some(), row.set.is_interval(), "{:?}", row.set);
            seen.insert(row.set);
        }
        assert_eq!(seen.len(), Set::ALL.len(), "every set has an element kind");
    }

    #[test]
    fn the_whole_address_space_has_no_end() {
        let rows = Element::Subnet("128.0.0.0/1".parse().unwrap()).rows();
        assert_eq!(rows[0].end, Some(RangeEnd::Exclusive(None)));
    }

    #[test]
    fn no_chain_jumps_to_a_later_one() {
        let mut known = BTreeSet::new();
        for chain in fixed_chains("10.96.0.0/16".parse().unwrap()) {
            for step in chain.rules.iter().flatten() {
                if let Step::Jump(target) = step {
                    assert!(known.contains(target), "{} jumps to {target}", chain.name);
                }
            }
            known.insert(chain.name);
        }
    }
}
