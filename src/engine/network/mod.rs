//! Networks: bridges, addresses, published ports, Service addresses and names.
//!
//! Netlink directly, one nftables table of our own, nothing spawned per container.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::config::EngineConfig;
use crate::engine::container::spec::{NetworkAttachment, PortMapping, Protocol};
use crate::engine::error::Result;
use crate::engine::id::{NameOrId, NetworkId, NetworkName};
use crate::engine::store::{Lease, Store};

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
    /// The other end, a port of the network's bridge on the host.
    #[serde(default)]
    pub host_interface: String,
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

/// Every network of this engine and what is connected to them. Cheap to clone.
#[derive(Clone)]
pub struct Networks;

#[allow(unused_variables)]
impl Networks {
    /// Takes over what the store knew and makes sure that the default network `podman` exists. Touches nothing
    /// on the host: [`Networks::restore`] must follow before anything else.
    pub async fn open(
        config: &EngineConfig,
        store: Store,
        networks: Vec<NetworkRecord>,
        leases: Vec<Lease>,
    ) -> Result<Self> {
        todo!("network")
    }

    pub async fn create(&self, network: NetworkCreate) -> Result<Arc<NetworkRecord>> {
        todo!("network")
    }

    pub fn network(&self, network: &NameOrId) -> Result<Arc<NetworkRecord>> {
        todo!("network")
    }

    /// By name.
    pub fn networks(&self) -> Vec<Arc<NetworkRecord>> {
        todo!("network")
    }

    /// Refused while something is connected; `force` cuts that off (the engine removes its containers first, as
    /// podman does). The default network stays.
    pub async fn remove(&self, network: &NameOrId, force: bool) -> Result<Arc<NetworkRecord>> {
        todo!("network")
    }

    /// Connects a namespace: links, addresses, routes, published ports, names. Everything is checked before
    /// anything is touched, and undone when a later step fails.
    pub async fn setup(&self, request: &SandboxNetwork) -> Result<NetworkStatus> {
        todo!("network")
    }

    /// Frees addresses, ports and names of `owner`; not an error when it has none. The links go with the
    /// namespace, which the caller drops next.
    pub async fn teardown(&self, owner: &str, netns: &Path) -> Result<()> {
        todo!("network")
    }

    /// The second half of `open`: these connections are still standing. Leases of anything else are freed, and the
    /// rules on the host are made to be exactly those of `standing`. After a boot `standing` is empty.
    pub async fn restore(&self, standing: Vec<(SandboxNetwork, NetworkStatus)>) -> Result<()> {
        todo!("network")
    }

    /// Makes exactly these services true in one transaction; unchanged means nothing is done.
    pub async fn apply_services(&self, services: Vec<VirtualService>) -> Result<()> {
        todo!("network")
    }

    /// The address of `service` (`namespace/name`): the same one until released. `wanted` is honoured if free.
    pub async fn allocate_service_address(&self, service: &str, wanted: Option<IpAddr>) -> Result<IpAddr> {
        todo!("network")
    }

    pub async fn release_service_address(&self, service: &str) -> Result<()> {
        todo!("network")
    }

    /// Puts back what others removed from the host: bridges, bridge ports, the table. Cheap when nothing is wrong.
    pub async fn repair(&self) -> Result<()> {
        todo!("network")
    }

    /// Ends the resolvers. Traffic keeps flowing.
    pub async fn close(&self) {
        todo!("network")
    }
}
