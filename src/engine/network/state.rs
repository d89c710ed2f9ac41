//! What is connected to what, in memory: decisions about it, no effects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipnet::Ipv4Net;
use jiff::Timestamp;

use super::bridge::{self, Bridge, Veth};
use super::firewall::{DNS_PORT, Element};
use super::ipam::{self, AddressError, AddressPool};
use super::names::{Member, Place};
use super::ports::{HostPort, PortOwner, PortTable};
use super::{
    AssignedAddress, InterfaceStatus, NetworkCreate, NetworkError, NetworkRecord, NetworkStatus, SERVICES,
    SandboxNetwork, Subnet,
};
use crate::engine::container::spec::{NetworkAttachment, PortMapping, Protocol};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{NameOrId, NetworkId, NetworkName};
use crate::engine::store::Lease;

/// Names that mean something else where a network is expected (podman refuses the same).
const RESERVED_NAMES: [&str; 10] =
    ["default", "bridge", "host", "none", "private", "pod", "slirp4netns", "container", "ns", "pasta"];
const INTERFACE_MAX_BYTES: usize = 15;
const MTU_MIN: u32 = 576;
const MTU_MAX: u32 = 65_535;

pub(super) struct State {
    networks: BTreeMap<NetworkName, Entry>,
    connections: HashMap<String, Connection>,
    pub ports: PortTable,
    pub service_addresses: AddressPool,
    /// Owners that had leases when the store was opened.
    leased: BTreeSet<String>,
}

/// A network and what is known of its bridge.
pub(super) struct Entry {
    pub record: Arc<NetworkRecord>,
    pub options: Options,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    pool: AddressPool,
    /// Index of the bridge once it is known to be there.
    pub bridge_index: Option<u32>,
    /// Its rows in the table.
    pub elements: Vec<Element>,
}

/// The options of a bridge network that we know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub mtu: Option<u32>,
    pub isolated: bool,
}

/// A namespace that is connected, or about to be.
pub(super) struct Connection {
    pub request: SandboxNetwork,
    /// `None` while being set up.
    pub status: Option<NetworkStatus>,
    /// Its published ports in the table.
    pub elements: Vec<Element>,
    /// Keeps its ports from others.
    pub held: Vec<OwnedFd>,
}

/// The addresses and links chosen for a request.
#[derive(Debug)]
pub(super) struct Plan {
    pub places: Vec<PlannedPlace>,
    pub host_ports: Vec<HostPort>,
}

#[derive(Debug, Clone)]
pub(super) struct PlannedPlace {
    pub record: Arc<NetworkRecord>,
    pub address: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub mac: [u8; 6],
    pub interface: String,
    pub host_interface: String,
    pub aliases: Vec<String>,
}

impl Entry {
    fn new(record: Arc<NetworkRecord>) -> Result<Self> {
        let failed = |source| EngineError::from(NetworkError::Address { network: on(&record.name), source });
        let [Subnet { cidr, gateway }] = record.subnets.as_slice() else {
            let detail = format!("has {} subnets; exactly one is supported", record.subnets.len());
            return Err(EngineError::new(ErrorKind::NotSupported, subject(&record.name), detail));
        };
        let subnet = ipam::parse_subnet(cidr).map_err(failed)?;
        let gateway = ipam::choose_gateway(subnet, Some(*gateway)).map_err(failed)?;
        let options = parse_options(&record.name, &record.options)?;
        let pool = AddressPool::new(subnet, Some(gateway));
        Ok(Self { record, options, subnet, gateway, pool, bridge_index: None, elements: Vec::new() })
    }

    pub fn bridge(&self) -> Bridge {
        let address = Ipv4Net::new(self.gateway, self.subnet.prefix_len()).expect("the subnet's own length");
        Bridge { name: self.record.bridge.clone(), address, mtu: self.options.mtu }
    }

    /// Its rows, when its resolver listens on `resolver_port`.
    pub fn rows(&self, resolver_port: Option<u16>) -> Vec<Element> {
        let bridge = || self.record.bridge.clone();
        let mut rows = vec![Element::Bridge(bridge()), Element::Subnet(self.subnet)];
        if self.record.internal {
            rows.push(Element::Internal(bridge()));
        }
        if self.options.isolated {
            rows.push(Element::Isolated(bridge()));
        }
        if let Some(port) = resolver_port {
            rows.push(Element::Gateway(self.gateway));
            if port != DNS_PORT {
                let target = std::net::SocketAddrV4::new(self.gateway, port);
                rows.extend([Protocol::Udp, Protocol::Tcp].map(|protocol| Element::Port {
                    address: Some(self.gateway),
                    protocol,
                    port: DNS_PORT,
                    target,
                }));
            }
        }
        rows
    }
}

impl State {
    pub fn new(networks: Vec<NetworkRecord>, leases: Vec<Lease>, service_subnet: Ipv4Net) -> Result<Self> {
        let mut state = Self {
            networks: BTreeMap::new(),
            connections: HashMap::new(),
            ports: PortTable::default(),
            service_addresses: AddressPool::new(service_subnet, None),
            leased: BTreeSet::new(),
        };
        for record in networks {
            state.add_network(Arc::new(record))?;
        }
        for lease in leases {
            if lease.network == SERVICES {
                // An address outside the configured subnet is kept nowhere: the Service gets a new one.
                if let Err(error) = state.service_addresses.take_exactly(lease.address, &lease.owner) {
                    tracing::warn!(service = lease.owner, %error, "a service loses its address");
                    state.leased.insert(lease.owner);
                }
                continue;
            }
            let entry = state.networks.values_mut().find(|entry| entry.record.id.as_str() == lease.network);
            if let Some(entry) = entry
                && let Err(error) = entry.pool.take_exactly(lease.address, &lease.owner)
            {
                tracing::warn!(owner = lease.owner, %error, "a stored address is not usable");
            }
            state.leased.insert(lease.owner);
        }
        state.networks.values_mut().for_each(|entry| entry.pool.continue_after_highest());
        state.service_addresses.continue_after_highest();
        Ok(state)
    }

    pub fn add_network(&mut self, record: Arc<NetworkRecord>) -> Result<()> {
        let entry = Entry::new(record)?;
        self.networks.insert(entry.record.name.clone(), entry);
        Ok(())
    }

    /// Takes a network out, unless it is in use and that matters.
    pub fn take_network(&mut self, record: &NetworkRecord, force: bool) -> Result<Entry> {
        if let Some(first) = self.users(&record.id).first()
            && !force
        {
            // podman's words; its clients test for "network is being used".
            let step = format!("network is being used by {first}");
            return Err(EngineError::new(ErrorKind::InUse, subject(&record.name), step));
        }
        self.networks.remove(&record.name).ok_or_else(|| EngineError::no_such(subject(&record.name)))
    }

    pub fn put_back_network(&mut self, entry: Entry) {
        self.networks.insert(entry.record.name.clone(), entry);
    }

    pub fn find(&self, wanted: &NameOrId) -> Result<Arc<NetworkRecord>> {
        let text = wanted.as_str();
        let by_name = self.networks.values().find(|entry| entry.record.name.as_str() == text);
        if let Some(entry) = by_name {
            return Ok(entry.record.clone());
        }
        let missing = || EngineError::no_such(Subject::Network(text.to_owned()));
        if text.is_empty() {
            return Err(missing());
        }
        let mut matching = self.networks.values().filter(|entry| entry.record.id.as_str().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(entry), None) => Ok(entry.record.clone()),
            (None, _) => Err(missing()),
            (Some(_), Some(_)) => Err(EngineError::new(
                ErrorKind::InvalidArgument,
                Subject::Network(text.to_owned()),
                "more than one network has an id that begins like this",
            )),
        }
    }

    pub fn records(&self) -> Vec<Arc<NetworkRecord>> {
        self.networks.values().map(|entry| entry.record.clone()).collect()
    }

    pub fn has_name(&self, name: &NetworkName) -> bool {
        self.networks.contains_key(name)
    }

    pub fn entry_by_id(&self, id: &NetworkId) -> Option<&Entry> {
        self.networks.values().find(|entry| entry.record.id == *id)
    }

    pub fn entry_by_id_mut(&mut self, id: &NetworkId) -> Option<&mut Entry> {
        self.networks.values_mut().find(|entry| entry.record.id == *id)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.networks.values()
    }

    /// None of the bridges is there any more.
    pub fn forget_bridges(&mut self) {
        for entry in self.networks.values_mut() {
            entry.bridge_index = None;
            entry.elements.clear();
        }
    }

    pub fn bridge_names(&self) -> BTreeSet<String> {
        self.networks.values().map(|entry| entry.record.bridge.clone()).collect()
    }

    /// Names of those that have an address of the network.
    fn users(&self, id: &NetworkId) -> Vec<String> {
        let Some(entry) = self.entry_by_id(id) else { return Vec::new() };
        let owners: BTreeSet<&str> = entry.pool.owners().collect();
        owners.into_iter().map(|owner| self.display(owner)).collect()
    }

    fn display(&self, owner: &str) -> String {
        self.connections.get(owner).map_or_else(|| owner.to_owned(), |c| c.request.name.clone())
    }

    /// Chooses whatever a request for a network leaves open.
    pub fn plan_network(
        &self,
        prefix: &str,
        create: NetworkCreate,
        on_host: &[Ipv4Net],
        service_subnet: Ipv4Net,
    ) -> Result<NetworkRecord> {
        let name = match create.name {
            Some(name) => name,
            None => self.free_name()?,
        };
        if RESERVED_NAMES.contains(&name.as_str()) {
            let detail =
                format!("cannot create network with name {name:?} because it conflicts with a network mode");
            return Err(EngineError::invalid(subject(&name), detail));
        }
        if self.has_name(&name) {
            return Err(EngineError::new(ErrorKind::AlreadyExists, subject(&name), "network already exists"));
        }
        parse_options(&name, &create.options)?;
        let failed = |source| EngineError::from(NetworkError::Address { network: on(&name), source });
        let mut used: Vec<(Ipv4Net, String)> = self
            .networks
            .values()
            .map(|entry| (entry.subnet, format!("network {}", entry.record.name)))
            .collect();
        used.push((service_subnet, "the addresses of services".to_owned()));
        used.extend(on_host.iter().map(|subnet| (*subnet, "the host".to_owned())));
        let (subnet, gateway) = match create.subnets.as_slice() {
            [] => {
                let used: Vec<Ipv4Net> = used.iter().map(|(subnet, _)| *subnet).collect();
                (ipam::choose_subnet(&used).map_err(failed)?, None)
            }
            [(cidr, gateway)] => {
                let subnet = ipam::parse_subnet(cidr).map_err(failed)?;
                if let Some((other, user)) = used.iter().find(|(other, _)| ipam::overlap(subnet, *other)) {
                    let step = format!("subnet {subnet} overlaps {other} of {user}");
                    return Err(EngineError::new(ErrorKind::InUse, subject(&name), step));
                }
                (subnet, *gateway)
            }
            more => {
                let detail = format!("has {} subnets; exactly one is supported", more.len());
                return Err(EngineError::new(ErrorKind::NotSupported, subject(&name), detail));
            }
        };
        let gateway = ipam::choose_gateway(subnet, gateway).map_err(failed)?;
        let bridges = self.bridge_names();
        let bridge = (0u32..)
            .map(|number| format!("{prefix}{number}"))
            .find(|bridge| !bridges.contains(bridge))
            .filter(|bridge| bridge.len() <= INTERFACE_MAX_BYTES)
            .ok_or_else(|| EngineError::new(ErrorKind::InUse, subject(&name), "no bridge name is free"))?;
        Ok(NetworkRecord {
            id: NetworkId::random(),
            name,
            created_at: Timestamp::now(),
            bridge,
            subnets: vec![Subnet { cidr: subnet.to_string(), gateway: gateway.into() }],
            internal: create.internal,
            dns_enabled: create.dns_enabled,
            labels: create.labels,
            options: create.options,
        })
    }

    /// podman's way: `podman1`, `podman2` ...
    fn free_name(&self) -> Result<NetworkName> {
        (1u32..)
            .filter_map(|number| NetworkName::try_from(format!("{}{number}", super::DEFAULT_NETWORK)).ok())
            .find(|name| !self.has_name(name))
            .ok_or_else(|| EngineError::new(ErrorKind::InUse, Subject::Engine, "no network name is free"))
    }

    /// Checks a request whole and takes its addresses and ports; on error nothing is taken.
    pub fn reserve(&mut self, request: &SandboxNetwork, host_ports: Vec<HostPort>) -> Result<Plan> {
        if self.connections.contains_key(&request.owner) {
            let step = format!("{} is connected to its networks already", request.name);
            return Err(EngineError::new(ErrorKind::WrongState, Subject::Engine, step));
        }
        let outcome = self.take_places(request).and_then(|places| {
            self.ports
                .take(&host_ports, &port_owner(request))
                .map_err(|error| EngineError::from(NetworkError::Port(error)))?;
            Ok(Plan { places, host_ports })
        });
        match outcome {
            Ok(plan) => {
                let connection = Connection {
                    request: request.clone(),
                    status: None,
                    elements: Vec::new(),
                    held: Vec::new(),
                };
                self.connections.insert(request.owner.clone(), connection);
                Ok(plan)
            }
            Err(error) => {
                self.free(&request.owner);
                Err(error)
            }
        }
    }

    fn take_places(&mut self, request: &SandboxNetwork) -> Result<Vec<PlannedPlace>> {
        if request.attachments.is_empty() {
            return Err(EngineError::invalid(Subject::Engine, format!("{} names no network", request.name)));
        }
        let mut places: Vec<PlannedPlace> = Vec::new();
        for (number, attachment) in request.attachments.iter().enumerate() {
            let place = self.take_place(request, number, attachment)?;
            let invalid = |detail: String| Err(EngineError::invalid(subject(&attachment.network), detail));
            if places.iter().any(|other| other.record.id == place.record.id) {
                return invalid(format!("{} is to be connected to it twice", request.name));
            }
            if places.iter().any(|other| other.interface == place.interface) {
                return invalid(format!("interface name {} is used twice", place.interface));
            }
            places.push(place);
        }
        if places.iter().all(|place| place.record.internal) && !request.ports.is_empty() {
            return Err(NetworkError::Port(super::ports::PortError::NoWayOut).into());
        }
        Ok(places)
    }

    fn take_place(
        &mut self,
        request: &SandboxNetwork,
        number: usize,
        attachment: &NetworkAttachment,
    ) -> Result<PlannedPlace> {
        let name = &attachment.network;
        let record = self.find(&NameOrId::from(name.as_str()))?;
        let entry = self.networks.get_mut(&record.name).ok_or_else(|| EngineError::no_such(subject(name)))?;
        let failed = |source| EngineError::from(NetworkError::Address { network: on(name), source });
        let address = match attachment.static_addresses.as_slice() {
            [] => entry.pool.take(&request.owner).map_err(failed)?,
            [IpAddr::V6(address)] => return Err(failed(AddressError::Ipv6(address.to_string()))),
            [address] => entry.pool.take_exactly(*address, &request.owner).map_err(failed)?,
            more => {
                let detail = format!("{} addresses are asked for; one is supported", more.len());
                return Err(EngineError::new(ErrorKind::NotSupported, subject(name), detail));
            }
        };
        let mac = match &attachment.static_mac {
            None => bridge::mac_of(address),
            Some(text) => bridge::parse_mac(text).ok_or_else(|| {
                EngineError::invalid(subject(name), format!("{text:?} is not a hardware address"))
            })?,
        };
        let interface = attachment.interface.clone().unwrap_or_else(|| format!("eth{number}"));
        if !is_interface_name(&interface) {
            let detail =
                format!("{interface:?} is not an interface name of 1 to {INTERFACE_MAX_BYTES} bytes");
            return Err(EngineError::invalid(subject(name), detail));
        }
        Ok(PlannedPlace {
            address: Ipv4Net::new(address, entry.subnet.prefix_len()).expect("the subnet's own length"),
            gateway: entry.gateway,
            mac,
            interface,
            host_interface: random_host_interface(),
            aliases: attachment.aliases.clone(),
            record,
        })
    }

    /// Takes over a connection that outlived the last daemon.
    pub fn adopt(&mut self, request: SandboxNetwork, status: NetworkStatus, elements: Vec<Element>) {
        let owner = request.owner.clone();
        for interface in &status.interfaces {
            let Some(entry) = self.entry_by_id_mut(&interface.network_id) else { continue };
            for assigned in &interface.addresses {
                if let Err(error) = entry.pool.take_exactly(assigned.address, &owner) {
                    tracing::error!(owner, %error, "a standing connection has an address it should not have");
                }
            }
        }
        let ports = listed_ports(&status.ports);
        if let Err(error) = self.ports.take(&ports, &port_owner(&request)) {
            tracing::error!(owner, %error, "a standing connection has a port it should not have");
        }
        let connection = Connection { request, status: Some(status), elements, held: Vec::new() };
        self.connections.insert(owner, connection);
    }

    pub fn connection_mut(&mut self, owner: &str) -> Option<&mut Connection> {
        self.connections.get_mut(owner)
    }

    pub fn rename(&mut self, owner: &str, name: &str) {
        if let Some(connection) = self.connections.get_mut(owner) {
            name.clone_into(&mut connection.request.name);
        }
        self.ports.rename(owner, name);
    }

    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    /// Owners with leases that are no connections: left over from before.
    pub fn take_stale_owners(&mut self) -> Vec<String> {
        let stale: Vec<String> =
            self.leased.iter().filter(|owner| !self.connections.contains_key(*owner)).cloned().collect();
        self.leased.clear();
        stale
    }

    /// Whether `owner` has anything.
    pub fn has(&self, owner: &str) -> bool {
        self.connections.contains_key(owner)
            || self.networks.values().any(|entry| entry.pool.address_of(owner).is_some())
    }

    /// Frees addresses and ports. What was connected is handed back: dropping it releases the held ports.
    pub fn free(&mut self, owner: &str) -> Option<Connection> {
        self.networks.values_mut().for_each(|entry| entry.pool.free_owner(owner));
        self.ports.free_owner(owner);
        self.connections.remove(owner)
    }
}

impl Plan {
    pub fn leases(&self, owner: &str) -> Vec<Lease> {
        let lease = |place: &PlannedPlace| Lease {
            network: place.record.id.to_string(),
            address: place.address.addr().into(),
            owner: owner.to_owned(),
        };
        self.places.iter().map(lease).collect()
    }

    pub fn status(&self, request: &SandboxNetwork, ports: Vec<PortMapping>) -> NetworkStatus {
        let interface = |place: &PlannedPlace| InterfaceStatus {
            network: place.record.name.clone(),
            network_id: place.record.id.clone(),
            interface: place.interface.clone(),
            host_interface: place.host_interface.clone(),
            mac: bridge::render_mac(place.mac),
            addresses: vec![AssignedAddress {
                address: place.address.addr().into(),
                prefix_len: place.address.prefix_len(),
                gateway: (!place.record.internal).then_some(place.gateway.into()),
            }],
            aliases: [place.aliases.as_slice(), &request.aliases].concat(),
        };
        NetworkStatus {
            interfaces: self.places.iter().map(interface).collect(),
            ports,
            dns_servers: self
                .places
                .iter()
                .filter(|place| place.record.dns_enabled)
                .map(|place| place.gateway.into())
                .collect(),
        }
    }
}

/// The links of a connection; `bridge` knows index and MTU of a network's bridge. The default route leads
/// through the first network that has a way out.
pub(super) fn veths(
    status: &NetworkStatus,
    bridge: impl Fn(&NetworkId) -> Option<(u32, Option<u32>)>,
) -> Vec<Veth> {
    let mut has_default_route = false;
    status
        .interfaces
        .iter()
        .filter_map(|interface| {
            let (bridge_index, mtu) = bridge(&interface.network_id)?;
            let assigned = interface.addresses.first()?;
            let IpAddr::V4(address) = assigned.address else { return None };
            let gateway = match assigned.gateway {
                Some(IpAddr::V4(gateway)) if !has_default_route => Some(gateway),
                Some(_) | None => None,
            };
            has_default_route |= gateway.is_some();
            Some(Veth {
                host_interface: interface.host_interface.clone(),
                bridge_index,
                interface: interface.interface.clone(),
                mac: bridge::parse_mac(&interface.mac)?,
                mtu,
                address: Ipv4Net::new(address, assigned.prefix_len).ok()?,
                gateway,
            })
        })
        .collect()
}

/// The table's rows for published ports: they lead to the first interface with a way out.
pub(super) fn port_rows(status: &NetworkStatus) -> Vec<Element> {
    let outward = status
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
        .find(|assigned| assigned.gateway.is_some());
    let Some(IpAddr::V4(address)) = outward.map(|assigned| assigned.address) else { return Vec::new() };
    let rows = status.ports.iter().flat_map(|mapping| {
        let host = match mapping.host_address {
            IpAddr::V4(host) => Some(host).filter(|host| !host.is_unspecified()),
            IpAddr::V6(_) => None,
        };
        (0..mapping.range.max(1)).map(move |offset| Element::Port {
            address: host,
            protocol: mapping.protocol,
            port: mapping.host_port.saturating_add(offset),
            target: std::net::SocketAddrV4::new(address, mapping.container_port.saturating_add(offset)),
        })
    });
    rows.collect()
}

/// The names of a connection.
pub(super) fn member(
    request: &SandboxNetwork,
    status: &NetworkStatus,
    has_way_out: impl Fn(&NetworkId) -> bool,
) -> Member {
    let places = status.interfaces.iter().flat_map(|interface| {
        let mut names = vec![request.name.clone()];
        names.extend(interface.aliases.iter().cloned());
        let has_way_out = has_way_out(&interface.network_id);
        interface.addresses.iter().filter_map(move |assigned| match assigned.address {
            IpAddr::V4(address) => Some(Place {
                network: interface.network_id.clone(),
                address,
                names: names.clone(),
                has_way_out,
            }),
            IpAddr::V6(_) => None,
        })
    });
    Member { name: request.name.clone(), places: places.collect() }
}

pub(super) fn port_owner(request: &SandboxNetwork) -> PortOwner {
    PortOwner { id: request.owner.clone(), display: request.name.clone() }
}

/// Every single port of mappings whose host ports are known.
pub(super) fn listed_ports(mappings: &[PortMapping]) -> Vec<HostPort> {
    super::ports::check_mappings(mappings).unwrap_or_default()
}

fn parse_options(network: &NetworkName, options: &BTreeMap<String, String>) -> Result<Options> {
    let mut parsed = Options::default();
    for (key, value) in options {
        let invalid =
            |what: &str| EngineError::invalid(subject(network), format!("option {key}={value:?}: {what}"));
        match key.as_str() {
            // docker's long name means the same; podman knows both.
            "mtu" | "com.docker.network.driver.mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                parsed.mtu = Some(mtu.ok_or_else(|| invalid("must be a number from 576 to 65535"))?);
            }
            "isolate" => {
                parsed.isolated = match value.as_str() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(invalid("must be true or false")),
                }
            }
            _ => {
                let step = format!("unsupported bridge network option {key}");
                return Err(EngineError::new(ErrorKind::NotSupported, subject(network), step));
            }
        }
    }
    Ok(parsed)
}

fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= INTERFACE_MAX_BYTES
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

/// Not derived from the owner: the last link of a restarted container may still be on its way out.
fn random_host_interface() -> String {
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    bytes.iter().fold("veth".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn subject(network: &NetworkName) -> Subject {
    Subject::Network(network.to_string())
}

fn on(network: &NetworkName) -> String {
    format!("on network {network}")
}
