//! Networks: bridges, addresses, published ports, Service addresses and names.
//!
//! Netlink directly, one nftables table of our own, nothing spawned per container.

use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::container::spec::{NetworkAttachment, PortMapping, Protocol};
use crate::engine::id::{NetworkId, NetworkName};

/// A network as the engine knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: NetworkId,
    pub name: NetworkName,
    pub created_at: Timestamp,
    /// Host interface name, at most 15 bytes.
    pub bridge: String,
    /// IPv4 subnets as `10.89.0.0/24` with their gateways.
    pub subnets: Vec<Subnet>,
    pub internal: bool,
    pub dns_enabled: bool,
    pub labels: std::collections::BTreeMap<String, String>,
    pub options: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// `10.89.0.0/24`
    pub cidr: String,
    pub gateway: IpAddr,
}

/// A request to connect one network namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxNetwork {
    /// Container or pod id: the owner of the addresses.
    pub owner: String,
    /// Name under which others find it in DNS; also its hostname.
    pub name: String,
    /// Further DNS names, on every network (`pod`, `container` names, short id).
    pub aliases: Vec<String>,
    /// The namespace, kept alive by a bind mount.
    pub netns: PathBuf,
    /// At least one; the caller has replaced "none given" by the default network.
    pub attachments: Vec<NetworkAttachment>,
    pub ports: Vec<PortMapping>,
}

/// What a connected namespace got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub interfaces: Vec<InterfaceStatus>,
    /// With the ports that were chosen for 0.
    pub ports: Vec<PortMapping>,
    /// Resolvers to put into resolv.conf; empty: use the host's.
    pub dns_servers: Vec<IpAddr>,
}

impl NetworkStatus {
    /// The first address, the one Kubernetes calls podIP.
    pub fn primary_address(&self) -> Option<IpAddr> {
        self.interfaces.first().and_then(|i| i.addresses.first().map(|a| a.address))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub network: NetworkName,
    pub network_id: NetworkId,
    /// Inside the namespace: `eth0`.
    pub interface: String,
    pub mac: String,
    pub addresses: Vec<AssignedAddress>,
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
    pub gateway: Option<IpAddr>,
}

/// A virtual address balanced over endpoints (a Kubernetes Service). The reconciler decides; the
/// engine makes it true for traffic from pods and from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualService {
    /// `namespace/name`
    pub name: String,
    /// Names it answers to in DNS, without trailing dot: `web`, `web.default`,
    /// `web.default.svc.cluster.local`.
    pub dns_names: Vec<String>,
    /// `None`: headless, the names resolve to the endpoints.
    pub address: Option<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// Ready endpoints of headless Services, and of every port when the pods' ports are the same.
    pub endpoints: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub port: u16,
    pub protocol: Protocol,
    /// Also reachable on every address of the host at this port (NodePort).
    pub node_port: Option<u16>,
    /// Ready targets: pod address and port.
    pub targets: Vec<(IpAddr, u16)>,
}

/// A network to create. Empty fields are chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkCreate {
    pub name: Option<NetworkName>,
    /// CIDRs; empty: the next free `/24` of the pool.
    pub subnets: Vec<(String, Option<IpAddr>)>,
    pub internal: bool,
    pub dns_enabled: bool,
    pub labels: std::collections::BTreeMap<String, String>,
    pub options: std::collections::BTreeMap<String, String>,
}
