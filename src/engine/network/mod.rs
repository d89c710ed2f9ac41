//! Networks: bridges, addresses, published ports, Service addresses and names.
//!
//! Netlink directly, one nftables table of our own, nothing spawned. Pure: [`ipam`], [`firewall`] (rules as values),
//! [`names`] (DNS answers), [`service`], the table in [`ports`]. Effects: [`bridge`], [`nft`] and
//! [`conntrack`] over [`netlink`],
//! [`dns`], and [`connect`], which puts them in order.
//!
//! Never: removes a link, a rule or a table that is not ours; touches a namespace nobody handed in.
//!
//! Tasks: [`dns`]'s listeners, and [`watch`], which puts right what others remove from the host. All end with
//! [`Networks::close`].

pub mod bridge;
mod connect;
pub mod conntrack;
pub mod dns;
mod error;
pub mod firewall;
pub mod ipam;
pub mod names;
mod netlink;
pub mod nft;
mod nft_wire;
pub mod ports;
pub mod service;
mod state;
#[cfg(test)]
mod tests;
mod watch;

pub use error::NetworkError;
pub use netlink::NetlinkError;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::config::EngineConfig;
use crate::engine::container::spec::{NetworkAttachment, PortMapping, Protocol};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{NameOrId, NetworkId, NetworkName};
use crate::engine::store::{Change, Lease, Store};
use bridge::Links;
use dns::Resolver;
use nft::Table;
use state::State;

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

/// podman's name for the network of containers that name none.
pub const DEFAULT_NETWORK: &str = "podman";

/// In [`Lease::network`]: the pool of Services' virtual addresses.
const SERVICES: &str = "services";

/// Interface names have at most 15 bytes; the number of a bridge shall have room.
const PREFIX_MAX_BYTES: usize = 10;

/// Every network of this engine and what is connected to them. Cheap to clone.
#[derive(Clone)]
pub struct Networks(Arc<Shared>);

struct Shared {
    prefix: String,
    service_subnet: Ipv4Net,
    /// The Services in force, for the next daemon of this boot: see `connect`.
    services_file: PathBuf,
    store: Store,
    /// Held for decisions in memory, never across I/O.
    state: Mutex<State>,
    links: Mutex<Links>,
    table: Table,
    resolver: Resolver,
    /// Held while Services are applied: the last applied ones.
    services: tokio::sync::Mutex<Vec<VirtualService>>,
    /// Held while a network is made or removed.
    networks: tokio::sync::Mutex<()>,
    watch: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Networks {
    /// Takes over what the store knew and makes sure that the default network exists. Touches nothing on the
    /// host: [`Networks::restore`] must follow before anything else.
    pub async fn open(
        config: &EngineConfig,
        store: Store,
        networks: Vec<NetworkRecord>,
        leases: Vec<Lease>,
    ) -> Result<Self> {
        Self::open_with(config, store, networks, leases, PathBuf::from("/etc/resolv.conf")).await
    }

    /// `resolv_conf`: where the resolvers for the rest of the world are found.
    async fn open_with(
        config: &EngineConfig,
        store: Store,
        networks: Vec<NetworkRecord>,
        leases: Vec<Lease>,
        resolv_conf: PathBuf,
    ) -> Result<Self> {
        let prefix = checked_prefix(&config.network_prefix)?;
        let service_subnet = ipam::parse_subnet(&config.service_subnet).map_err(invalid_config)?;
        let state = State::new(networks, leases, service_subnet)?;
        let links = Links::open().map_err(NetworkError::Socket)?;
        let table = Table::open(&prefix, service_subnet).map_err(NetworkError::Socket)?;
        let networks = Self(Arc::new(Shared {
            prefix,
            service_subnet,
            services_file: config.run_root.join("network").join("services.json"),
            store,
            state: Mutex::new(state),
            links: Mutex::new(links),
            table,
            resolver: Resolver::new(resolv_conf),
            services: tokio::sync::Mutex::default(),
            networks: tokio::sync::Mutex::default(),
            watch: Mutex::default(),
        }));
        networks.ensure_default_network(&config.default_subnet).await?;
        Ok(networks)
    }

    pub async fn create(&self, network: NetworkCreate) -> Result<Arc<NetworkRecord>> {
        let _serial = self.0.networks.lock().await;
        let on_host = self.subnets_on_host()?;
        let record = self.0.state().plan_network(&self.0.prefix, network, &on_host, self.0.service_subnet)?;
        self.put_network(record).await
    }

    /// By name, identifier, or the unique beginning of one.
    pub fn network(&self, network: &NameOrId) -> Result<Arc<NetworkRecord>> {
        self.0.state().find(network)
    }

    /// By name.
    pub fn networks(&self) -> Vec<Arc<NetworkRecord>> {
        self.0.state().records()
    }

    /// Refused while something is connected; `force` cuts that off (the engine removes its containers first, as
    /// podman does). The default network stays.
    pub async fn remove(&self, network: &NameOrId, force: bool) -> Result<Arc<NetworkRecord>> {
        let _serial = self.0.networks.lock().await;
        let record = self.network(network)?;
        if record.name.as_str() == DEFAULT_NETWORK {
            let step = format!("default network {} cannot be removed", record.name);
            let subject = Subject::Network(record.name.to_string());
            return Err(EngineError::new(ErrorKind::InvalidArgument, subject, step));
        }
        let entry = self.0.state().take_network(&record, force)?;
        let gone = async {
            self.take_off_host(&entry).await?;
            let change = Change::RemoveNetwork(record.id.clone());
            self.0.store.commit(vec![change]).await.map_err(|error| NetworkError::Store(error).into())
        };
        if let Err(error) = gone.await {
            self.0.state().put_back_network(entry);
            return Err(error);
        }
        Ok(record)
    }

    /// The address of `service` (`namespace/name`): the same one until released. `wanted` is honoured if free.
    pub async fn allocate_service_address(&self, service: &str, wanted: Option<IpAddr>) -> Result<IpAddr> {
        let failed = |source| {
            let network = format!("of service {service}");
            EngineError::from(NetworkError::Address { network, source })
        };
        let (address, is_new) = {
            let mut state = self.0.state();
            let pool = &mut state.service_addresses;
            match (pool.address_of(service), wanted) {
                (Some(known), None) => (known, false),
                (Some(known), Some(wanted)) if wanted == IpAddr::V4(known) => (known, false),
                (Some(known), Some(wanted)) => {
                    let address = pool.take_exactly(wanted, service).map_err(failed)?;
                    pool.free(known);
                    (address, true)
                }
                (None, Some(wanted)) => (pool.take_exactly(wanted, service).map_err(failed)?, true),
                (None, None) => (pool.take(service).map_err(failed)?, true),
            }
        };
        if is_new {
            let address = IpAddr::V4(address);
            let owner = service.to_owned();
            let changes = vec![
                Change::RemoveLeases { owner: owner.clone() },
                Change::PutLease(Lease { network: SERVICES.to_owned(), address, owner }),
            ];
            if let Err(error) = self.0.store.commit(changes).await {
                self.0.state().service_addresses.free_owner(service);
                return Err(NetworkError::Store(error).into());
            }
        }
        Ok(address.into())
    }

    /// Not an error when it has none.
    pub async fn release_service_address(&self, service: &str) -> Result<()> {
        if self.0.state().service_addresses.address_of(service).is_none() {
            return Ok(());
        }
        let release = Change::RemoveLeases { owner: service.to_owned() };
        self.0.store.commit(vec![release]).await.map_err(NetworkError::Store)?;
        self.0.state().service_addresses.free_owner(service);
        Ok(())
    }

    /// Ends the resolvers and the watch. Traffic keeps flowing.
    pub async fn close(&self) {
        self.0.stop_watch();
        self.0.resolver.stop_all();
    }

    async fn ensure_default_network(&self, subnet: &str) -> Result<()> {
        let _serial = self.0.networks.lock().await;
        let name = NetworkName::try_from(DEFAULT_NETWORK.to_owned()).expect("the default name is a name");
        if self.0.state().has_name(&name) {
            return Ok(());
        }
        let wanted = ipam::parse_subnet(subnet).map_err(invalid_config)?;
        let on_host = self.subnets_on_host()?;
        let mut subnets = vec![(subnet.to_owned(), None)];
        if let Some(other) = on_host.iter().find(|other| ipam::overlap(**other, wanted)) {
            tracing::warn!(
                %subnet,
                %other,
                "the default network's subnet is in use on this host; taking the next free one"
            );
            subnets.clear();
        }
        let create =
            NetworkCreate { name: Some(name), subnets, dns_enabled: true, ..NetworkCreate::default() };
        let record = self.0.state().plan_network(&self.0.prefix, create, &on_host, self.0.service_subnet)?;
        self.put_network(record).await.map(drop)
    }

    async fn put_network(&self, record: NetworkRecord) -> Result<Arc<NetworkRecord>> {
        let record = Arc::new(record);
        let change = Change::PutNetwork(record.clone());
        self.0.store.commit(vec![change]).await.map_err(NetworkError::Store)?;
        self.0.state().add_network(record.clone())?;
        Ok(record)
    }

    /// What a new network must keep away from. Our own bridges are no obstacle to us: their records are.
    fn subnets_on_host(&self) -> Result<Vec<Ipv4Net>> {
        let mut links = self.0.links();
        let ours = self.0.state().bridge_names();
        let by_index = links.all().map_err(NetworkError::Link)?;
        let own_indices: Vec<u32> =
            by_index.iter().filter(|(name, _)| ours.contains(*name)).map(|(_, link)| link.index).collect();
        links.routed_subnets(&own_indices).map_err(|error| NetworkError::Link(error).into())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checked_prefix(prefix: &str) -> Result<String> {
    let is_usable = !prefix.is_empty()
        && prefix.len() <= PREFIX_MAX_BYTES
        && prefix.starts_with(|c: char| c.is_ascii_alphabetic())
        && prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_usable {
        return Ok(prefix.to_owned());
    }
    let detail = format!(
        "network prefix {prefix:?} must be 1 to {PREFIX_MAX_BYTES} letters, digits, - or _, a letter first"
    );
    Err(EngineError::invalid(Subject::Engine, detail))
}

fn invalid_config(error: ipam::AddressError) -> EngineError {
    EngineError::new(ErrorKind::InvalidArgument, Subject::Engine, "configured subnet").with_source(error)
}
