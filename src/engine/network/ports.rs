//! Published ports: who has which (pure), and holding them on the host.
//!
//! Packets to a published port never reach a socket; the table translates them. A port is held all the same, by
//! a bound socket, so that no other program (nor another selkie) takes it and then waits for packets that will
//! not come.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use thiserror::Error;

use crate::engine::container::spec::{PortMapping, Protocol};

/// A range longer than this is published without holding each port: descriptors are scarce.
const HELD_RANGE_MAX: u16 = 256;
/// How often to draw another port when one for 0 turns out to be taken by a container.
const CHOICE_TRIES: usize = 64;

#[derive(Debug, Error)]
pub enum PortError {
    // podman's and docker's words; people search for them.
    #[error("cannot listen on the {protocol} port {address}: bind: address already in use by {owner}")]
    Taken { protocol: &'static str, address: SocketAddr, owner: String },
    #[error(
        "cannot listen on the {protocol} port {address}: bind: address already in use by a program on the host"
    )]
    TakenOnHost { protocol: &'static str, address: SocketAddr },
    #[error("{address} is no address of this host")]
    NotOurs { address: IpAddr },
    #[error("cannot listen on the {protocol} port {address}")]
    Bind {
        protocol: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("ports on IPv6 host addresses are not supported yet: {0}")]
    Ipv6(IpAddr),
    #[error("port range {first}-{} ends beyond 65535", u32::from(*.first) + u32::from(*.range) - 1)]
    Beyond { first: u16, range: u16 },
    #[error("container port 0 can not be published")]
    ContainerPortZero,
    #[error("a range of {0} ports needs a host port")]
    RangeWithoutHostPort(u16),
    #[error("no free {0} port was found")]
    NoneFree(&'static str),
    #[error("all its networks are internal")]
    NoWayOut,
}

/// One host port, or the same port of every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Unspecified: all.
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

impl HostPort {
    fn clashes(self, other: Self) -> bool {
        self.protocol == other.protocol
            && self.port == other.port
            && (self.address == other.address
                || self.address.is_unspecified()
                || other.address.is_unspecified())
    }

    fn socket_address(self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(self.address, self.port))
    }
}

/// Who has which port.
#[derive(Debug, Default)]
pub struct PortTable {
    /// By port, as few share one.
    taken: HashMap<(Protocol, u16), Vec<(Ipv4Addr, PortOwner)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOwner {
    /// Container or pod id, or a Service's `namespace/name`.
    pub id: String,
    /// As printed: `pod web`.
    pub display: String,
}

impl PortTable {
    /// All of them or none.
    pub fn take(&mut self, ports: &[HostPort], owner: &PortOwner) -> Result<(), PortError> {
        for port in ports {
            if let Some(other) = self.owner(*port).filter(|other| other.id != owner.id) {
                return Err(PortError::Taken {
                    protocol: port.protocol.as_str(),
                    address: port.socket_address(),
                    owner: other.display.clone(),
                });
            }
        }
        for port in ports {
            self.taken.entry((port.protocol, port.port)).or_default().push((port.address, owner.clone()));
        }
        Ok(())
    }

    pub fn owner(&self, port: HostPort) -> Option<&PortOwner> {
        let holders = self.taken.get(&(port.protocol, port.port))?;
        holders
            .iter()
            .find(|(address, _)| port.clashes(HostPort { address: *address, ..port }))
            .map(|(_, o)| o)
    }

    pub fn rename(&mut self, id: &str, display: &str) {
        let owners = self.taken.values_mut().flatten().map(|(_, owner)| owner);
        for owner in owners.filter(|owner| owner.id == id) {
            display.clone_into(&mut owner.display);
        }
    }

    pub fn free_owner(&mut self, id: &str) {
        self.free_owners(|other| other == id);
    }

    pub fn free_owners(&mut self, is_one: impl Fn(&str) -> bool) {
        self.taken.retain(|_, holders| {
            holders.retain(|(_, owner)| !is_one(&owner.id));
            !holders.is_empty()
        });
    }
}

/// Checks what needs no host, and lists the ports. Ports to be chosen are left out.
pub fn check_mappings(mappings: &[PortMapping]) -> Result<Vec<HostPort>, PortError> {
    let mut ports: Vec<HostPort> = Vec::new();
    let mut request = PortTable::default();
    let itself = PortOwner { id: String::new(), display: "another port of the same request".to_owned() };
    for mapping in mappings {
        let address = host_address(mapping)?;
        let range = mapping.range.max(1);
        if mapping.container_port == 0 {
            return Err(PortError::ContainerPortZero);
        }
        if mapping.host_port == 0 && range > 1 {
            return Err(PortError::RangeWithoutHostPort(range));
        }
        for first in [mapping.host_port, mapping.container_port] {
            if u32::from(first) + u32::from(range) - 1 > u32::from(u16::MAX) {
                return Err(PortError::Beyond { first, range });
            }
        }
        if mapping.host_port == 0 {
            continue;
        }
        for offset in 0..range {
            let port = HostPort { address, protocol: mapping.protocol, port: mapping.host_port + offset };
            if request.owner(port).is_some() {
                return Err(PortError::Taken {
                    protocol: port.protocol.as_str(),
                    address: port.socket_address(),
                    owner: itself.display,
                });
            }
            request.take(&[port], &itself)?;
            ports.push(port);
        }
    }
    Ok(ports)
}

pub fn host_address(mapping: &PortMapping) -> Result<Ipv4Addr, PortError> {
    match mapping.host_address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(PortError::Ipv6(address.into())),
    }
}

/// Binds every port that can be held. `unheld` names those that our own resolver already listens on.
pub fn hold(ports: &[HostPort], unheld: impl Fn(HostPort) -> bool) -> Result<Vec<OwnedFd>, PortError> {
    let mut held = Vec::new();
    for port in ports {
        if port.protocol == Protocol::Sctp || unheld(*port) {
            continue;
        }
        let socket = bind(*port)?;
        if ports.len() <= usize::from(HELD_RANGE_MAX) {
            held.push(socket);
        }
    }
    Ok(held)
}

/// Chooses and holds a free port for a mapping with host port 0.
pub fn choose(
    address: Ipv4Addr,
    protocol: Protocol,
    is_taken: impl Fn(HostPort) -> bool,
) -> Result<(u16, Option<OwnedFd>), PortError> {
    // The kernel can not choose for SCTP here; a port that is free for TCP is as good as any.
    let asked = if protocol == Protocol::Sctp { Protocol::Tcp } else { protocol };
    let mut refused = Vec::new();
    for _ in 0..CHOICE_TRIES {
        let socket = bind(HostPort { address, protocol: asked, port: 0 })?;
        let bound: SockaddrIn = socket::getsockname(socket.as_raw_fd())
            .map_err(|errno| bind_error(HostPort { address, protocol, port: 0 }, errno.into()))?;
        if !is_taken(HostPort { address, protocol, port: bound.port() }) {
            let held = (protocol == asked).then_some(socket);
            return Ok((bound.port(), held));
        }
        // Kept until the end, so that the next draw is another one.
        refused.push(socket);
    }
    Err(PortError::NoneFree(protocol.as_str()))
}

fn bind(port: HostPort) -> Result<OwnedFd, PortError> {
    match try_bind(port, Reuse::No) {
        // Connections of the last owner that linger in TIME_WAIT are no obstacle. But two sockets that both allow
        // reuse can share a port until one listens, so this is asked for only now, and whether someone listens is
        // found out by listening.
        Err(nix::errno::Errno::EADDRINUSE) if port.protocol == Protocol::Tcp => {
            let probe = try_bind(port, Reuse::Yes)
                .and_then(|probe| socket::listen(&probe, socket::Backlog::new(0)?).map(|()| probe));
            drop(probe.map_err(|errno| bind_error(port, errno.into()))?);
            try_bind(port, Reuse::Yes)
        }
        outcome => outcome,
    }
    .map_err(|errno| bind_error(port, errno.into()))
}

#[derive(PartialEq)]
enum Reuse {
    Yes,
    No,
}

fn try_bind(port: HostPort, reuse: Reuse) -> nix::Result<OwnedFd> {
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp | Protocol::Sctp => SockType::Datagram,
    };
    let socket = socket::socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, socket::sockopt::ReuseAddr, &(reuse == Reuse::Yes))?;
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(port.address, port.port)))?;
    Ok(socket)
}

fn bind_error(port: HostPort, source: io::Error) -> PortError {
    let (protocol, address) = (port.protocol.as_str(), port.socket_address());
    match source.kind() {
        io::ErrorKind::AddrInUse => PortError::TakenOnHost { protocol, address },
        io::ErrorKind::AddrNotAvailable => PortError::NotOurs { address: address.ip() },
        _ => PortError::Bind { protocol, address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> PortOwner {
        PortOwner { id: id.to_owned(), display: format!("pod {id}") }
    }

    fn port(address: [u8; 4], port: u16) -> HostPort {
        HostPort { address: address.into(), protocol: Protocol::Tcp, port }
    }

    #[test]
    fn all_addresses_clash_with_any_one() {
        let mut table = PortTable::default();
        table.take(&[port([127, 0, 0, 1], 80)], &owner("a")).unwrap();
        table.take(&[port([10, 0, 0, 1], 80)], &owner("b")).expect("another address");
        table
            .take(&[HostPort { protocol: Protocol::Udp, ..port([0; 4], 80) }], &owner("c"))
            .expect("another protocol");
        let error = table.take(&[port([0; 4], 81), port([0; 4], 80)], &owner("d")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot listen on the tcp port 0.0.0.0:80: bind: address already in use by pod a"
        );
        assert!(table.owner(port([0; 4], 81)).is_none(), "nothing of a refused request is kept");
        table.free_owner("a");
        table.free_owner("b");
        table.take(&[port([0; 4], 80)], &owner("d")).unwrap();
        assert!(table.take(&[port([127, 0, 0, 1], 80)], &owner("e")).is_err());
    }

    #[test]
    fn mappings_are_checked_before_anything_is_bound() {
        let mapping = |host_port, container_port, range| PortMapping {
            range,
            ..PortMapping::new(host_port, container_port, Protocol::Tcp)
        };
        assert_eq!(check_mappings(&[mapping(8000, 80, 3)]).unwrap().len(), 3);
        assert_eq!(check_mappings(&[mapping(0, 80, 1)]).unwrap().len(), 0);
        assert!(matches!(check_mappings(&[mapping(65535, 80, 2)]), Err(PortError::Beyond { .. })));
        assert!(matches!(check_mappings(&[mapping(80, 0, 1)]), Err(PortError::ContainerPortZero)));
        assert!(matches!(check_mappings(&[mapping(0, 80, 2)]), Err(PortError::RangeWithoutHostPort(2))));
        assert!(check_mappings(&[mapping(80, 80, 1), mapping(80, 81, 1)]).is_err());
        let v6 = PortMapping { host_address: "::1".parse().unwrap(), ..mapping(80, 80, 1) };
        assert!(matches!(check_mappings(&[v6]), Err(PortError::Ipv6(_))));
    }

    #[test]
    fn a_held_port_is_refused_and_free_again_afterwards() {
        let loopback = Ipv4Addr::LOCALHOST;
        let (number, held) = choose(loopback, Protocol::Tcp, |_| false).unwrap();
        assert!(held.is_some());
        let wanted = HostPort { address: loopback, protocol: Protocol::Tcp, port: number };
        assert!(matches!(hold(&[wanted], |_| false), Err(PortError::TakenOnHost { .. })));
        drop(held);
        assert_eq!(hold(&[wanted], |_| false).unwrap().len(), 1);
    }

    #[test]
    fn an_address_of_someone_else_is_named() {
        let wanted = HostPort { address: Ipv4Addr::new(192, 0, 2, 1), protocol: Protocol::Udp, port: 5000 };
        assert!(matches!(hold(&[wanted], |_| false), Err(PortError::NotOurs { .. })));
    }
}
