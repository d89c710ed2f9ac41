//! Links, addresses and routes: bridges on the host, and the pair of interfaces that ties a namespace to one.
//!
//! Says nothing about which addresses or names to use. All calls block for as long as the kernel works; see
//! [`super::netlink`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use thiserror::Error;

use super::ipam;
use super::netlink::{
    AttributeIter, Attributes, Batch, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError,
    Reply, Socket, attribute_text, attribute_u32,
};

#[derive(Debug, Error)]
pub enum LinkError {
    #[error("{step}")]
    Netlink {
        step: String,
        #[source]
        source: NetlinkError,
    },
    #[error("write {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interface {0} exists and is not a bridge")]
    NotABridge(String),
    #[error("subnet {subnet} is also on interface {interface} ({address})")]
    SubnetInUse { subnet: Ipv4Net, interface: String, address: Ipv4Net },
    #[error("the new interface {0} can not be found")]
    Vanished(String),
}

impl LinkError {
    /// Names something that does not exist: the bridge was deleted meanwhile.
    pub fn is_missing_link(&self) -> bool {
        match self {
            Self::Netlink { source, .. } => matches!(source.errno(), Some(Errno::ENODEV | Errno::EINVAL)),
            Self::Sysctl { .. } | Self::NotABridge(_) | Self::SubnetInUse { .. } | Self::Vanished(_) => false,
        }
    }
}

/// A bridge as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub name: String,
    /// The gateway with the length of its subnet.
    pub address: Ipv4Net,
    pub mtu: Option<u32>,
}

/// One connection of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// On the host.
    pub host_interface: String,
    pub bridge_index: u32,
    /// In the namespace.
    pub interface: String,
    pub mac: [u8; 6],
    pub mtu: Option<u32>,
    pub address: Ipv4Net,
    /// Default route through this one.
    pub gateway: Option<Ipv4Addr>,
}

/// A link of the host as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub is_bridge: bool,
    pub is_up: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
}

/// The host's side: one socket for everything.
pub struct Links {
    socket: Socket,
}

impl Links {
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_ROUTE)? })
    }

    /// Makes the bridge be there, up, with its address; returns its index. May be repeated.
    pub fn ensure_bridge(&mut self, bridge: &Bridge) -> Result<u32, LinkError> {
        let step = |step: &str| format!("{step} bridge {}", bridge.name);
        let found = self.find(&bridge.name)?;
        if let Some(link) = &found
            && !link.is_bridge
        {
            return Err(LinkError::NotABridge(bridge.name.clone()));
        }
        if found.is_none() {
            self.check_subnet_is_free(bridge)?;
            let mut batch = Batch::default();
            batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(0, 0), |a| {
                a.text(IFLA_IFNAME, &bridge.name);
                // A bridge without an address of its own takes the lowest of its ports': it would change under
                // the containers' feet.
                a.bytes(IFLA_ADDRESS, &mac_of(bridge.address.addr()));
                if let Some(mtu) = bridge.mtu {
                    a.u32(IFLA_MTU, mtu);
                }
                a.nested(IFLA_LINKINFO, |a| a.text(IFLA_INFO_KIND, "bridge"));
            });
            match self.execute(batch, || step("create")) {
                Err(LinkError::Netlink { source, .. }) if source.errno() == Some(Errno::EEXIST) => {}
                outcome => outcome?,
            }
        }
        let index = match self.find(&bridge.name)? {
            Some(link) => link.index,
            None => return Err(LinkError::Vanished(bridge.name.clone())),
        };
        // Pods must not teach the host routes, and need IPv6 on the bridge for nothing yet.
        let ipv6 = Path::new("/proc/sys/net/ipv6/conf").join(&bridge.name);
        if ipv6.exists() {
            write_sysctl(&ipv6.join("accept_ra"), "0")?;
        }
        // So that what the host sends to a published port on 127.0.0.1 may leave through the bridge. The table
        // drops what comes the other way.
        write_sysctl(&Path::new("/proc/sys/net/ipv4/conf").join(&bridge.name).join("route_localnet"), "1")?;
        let mut batch = Batch::default();
        new_address(&mut batch, index, bridge.address);
        batch.message(RTM_NEWLINK, 0, &link_header(index, IFF_UP), |_| ());
        self.execute(batch, || step("set up"))?;
        Ok(index)
    }

    /// Sends what is meant for `subnet` to a bridge: nothing lives there, but the host must have a route for the
    /// translation to be asked. Returns whether the route is ours; someone else's is left alone.
    pub fn ensure_route(&mut self, subnet: Ipv4Net, index: u32, source: Ipv4Addr) -> Result<bool, LinkError> {
        let mut batch = Batch::default();
        let header = route_header(subnet.prefix_len(), RT_SCOPE_LINK);
        batch.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, |a| {
            a.bytes(RTA_DST, &subnet.network().octets());
            a.u32(RTA_OIF, index);
            a.bytes(RTA_PREFSRC, &source.octets());
        });
        match self.execute(batch, || format!("add route to {subnet}")) {
            Ok(()) => Ok(true),
            Err(LinkError::Netlink { source, .. }) if source.errno() == Some(Errno::EEXIST) => {
                self.has_route(subnet, index)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the pairs, their far ends already in `netns`, their near ones up and ports of their bridges.
    pub fn create_veths(&mut self, netns: BorrowedFd<'_>, veths: &[Veth]) -> Result<(), LinkError> {
        let mut batch = Batch::default();
        for veth in veths {
            batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(0, IFF_UP), |a| {
                a.text(IFLA_IFNAME, &veth.host_interface);
                a.u32(IFLA_MASTER, veth.bridge_index);
                write_mtu(a, veth.mtu);
                a.nested(IFLA_LINKINFO, |a| {
                    a.text(IFLA_INFO_KIND, "veth");
                    a.nested(IFLA_INFO_DATA, |a| {
                        a.nested(VETH_INFO_PEER, |a| {
                            a.raw(&link_header(0, 0));
                            a.text(IFLA_IFNAME, &veth.interface);
                            a.bytes(IFLA_ADDRESS, &veth.mac);
                            a.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
                            write_mtu(a, veth.mtu);
                        });
                    });
                });
            });
            self::hairpin(&mut batch, &veth.host_interface);
        }
        self.execute(batch, || "create veth pair".to_owned())
    }

    /// Puts a near end back onto its bridge.
    pub fn attach(&mut self, host_interface: &str, bridge_index: u32) -> Result<(), LinkError> {
        let mut batch = Batch::default();
        batch.message(RTM_NEWLINK, 0, &link_header(0, IFF_UP), |a| {
            a.text(IFLA_IFNAME, host_interface);
            a.u32(IFLA_MASTER, bridge_index);
        });
        hairpin(&mut batch, host_interface);
        self.execute(batch, || format!("attach {host_interface}"))
    }

    /// Deletes links; those that are gone already are no error. Slow (tens of milliseconds for a veth): only for
    /// undoing, where the namespace may live on.
    pub fn delete<'a>(&mut self, interfaces: impl Iterator<Item = &'a str>) -> Result<(), LinkError> {
        for interface in interfaces {
            let mut batch = Batch::default();
            batch.message(RTM_DELLINK, 0, &link_header(0, 0), |a| a.text(IFLA_IFNAME, interface));
            match self.execute(batch, || format!("delete {interface}")) {
                Err(LinkError::Netlink { source, .. }) if source.errno() == Some(Errno::ENODEV) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    pub fn find(&mut self, name: &str) -> Result<Option<Link>, LinkError> {
        match self.socket.query(RTM_GETLINK, 0, &link_header(0, 0), |a| a.text(IFLA_IFNAME, name)) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link).map(|(_, link)| link)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(source) => Err(LinkError::Netlink { step: format!("look up interface {name}"), source }),
        }
    }

    /// All links of the host by name.
    pub fn all(&mut self) -> Result<BTreeMap<String, Link>, LinkError> {
        let replies = self
            .socket
            .query(RTM_GETLINK, NLM_F_DUMP, &link_header(0, 0), |_| ())
            .map_err(|source| LinkError::Netlink { step: "list interfaces".to_owned(), source })?;
        Ok(replies.iter().filter_map(parse_link).collect())
    }

    /// IPv4 addresses of the host with their interfaces' indices.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>, LinkError> {
        let replies = self
            .socket
            .query(RTM_GETADDR, NLM_F_DUMP, &address_header(0, 0), |_| ())
            .map_err(|source| LinkError::Netlink { step: "list addresses".to_owned(), source })?;
        Ok(replies
            .iter()
            .filter_map(|reply| {
                let header = reply.payload.get(..ADDRESS_HEADER_BYTES)?;
                let index = attribute_u32(&header[4..])?;
                let local = reply.attributes(ADDRESS_HEADER_BYTES).find(IFA_LOCAL)?;
                let octets: [u8; 4] = local.try_into().ok()?;
                Some((index, Ipv4Net::new(octets.into(), header[1]).ok()?))
            })
            .collect())
    }

    /// IPv4 subnets that the host reaches directly or by a route, other than everything, and other than through
    /// the interfaces `without`.
    pub fn routed_subnets(&mut self, without: &[u32]) -> Result<Vec<Ipv4Net>, LinkError> {
        let is_without = |index: &Option<u32>| index.is_some_and(|index| without.contains(&index));
        let routes = self.routes()?;
        Ok(routes
            .into_iter()
            .filter(|(subnet, index)| subnet.prefix_len() > 0 && !is_without(index))
            .map(|(subnet, _)| subnet)
            .collect())
    }

    fn has_route(&mut self, subnet: Ipv4Net, index: u32) -> Result<bool, LinkError> {
        Ok(self.routes()?.contains(&(subnet, Some(index))))
    }

    /// Destinations of the main table with the index of the interface.
    fn routes(&mut self) -> Result<Vec<(Ipv4Net, Option<u32>)>, LinkError> {
        let replies = self
            .socket
            .query(RTM_GETROUTE, NLM_F_DUMP, &route_header(0, 0), |_| ())
            .map_err(|source| LinkError::Netlink { step: "list routes".to_owned(), source })?;
        Ok(replies
            .iter()
            .filter_map(|reply| {
                let header = reply.payload.get(..ROUTE_HEADER_BYTES)?;
                if header[4] != RT_TABLE_MAIN {
                    return None;
                }
                let attributes = || reply.attributes(ROUTE_HEADER_BYTES);
                let octets: [u8; 4] = match attributes().find(RTA_DST) {
                    Some(octets) => octets.try_into().ok()?,
                    None => [0; 4],
                };
                let subnet = Ipv4Net::new(octets.into(), header[1]).ok()?;
                Some((subnet, attributes().find(RTA_OIF).and_then(attribute_u32)))
            })
            .collect())
    }

    /// Two interfaces with one subnet send each other's answers astray.
    fn check_subnet_is_free(&mut self, bridge: &Bridge) -> Result<(), LinkError> {
        let other = self
            .addresses()?
            .into_iter()
            .find(|(_, other)| ipam::overlap(other.trunc(), bridge.address.trunc()));
        match other {
            None => Ok(()),
            Some((index, address)) => {
                let name =
                    self.all()?.into_iter().find(|(_, link)| link.index == index).map(|(name, _)| name);
                let interface = name.unwrap_or_else(|| format!("#{index}"));
                Err(LinkError::SubnetInUse { subnet: bridge.address.trunc(), interface, address })
            }
        }
    }

    fn execute(&mut self, batch: Batch, step: impl FnOnce() -> String) -> Result<(), LinkError> {
        let last = batch.len() - 1;
        self.socket.execute(batch, last).map_err(|source| LinkError::Netlink { step: step(), source })
    }
}

/// Gives the far ends their addresses and routes and sets them up. Runs inside the namespace.
pub fn configure_namespace(veths: &[Veth]) -> Result<(), LinkError> {
    let mut links = Links::open()
        .map_err(|source| LinkError::Netlink { step: "open netlink".to_owned(), source: source.into() })?;
    let mut batch = Batch::default();
    batch.message(RTM_NEWLINK, 0, &link_header(LOOPBACK_INDEX, IFF_UP), |_| ());
    for veth in veths {
        let link = links.find(&veth.interface)?.ok_or_else(|| LinkError::Vanished(veth.interface.clone()))?;
        // IPv4 only for now: no link-local addresses, no routes from a neighbour's advertisements.
        let ipv6 = Path::new("/proc/sys/net/ipv6/conf").join(&veth.interface).join("disable_ipv6");
        match fs::write(&ipv6, "1") {
            // No IPv6 in the kernel, or a read-only /proc/sys.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem) => {}
            Err(source) => return Err(LinkError::Sysctl { path: ipv6, source }),
            Ok(()) => {}
        }
        new_address(&mut batch, link.index, veth.address);
        batch.message(RTM_NEWLINK, 0, &link_header(link.index, IFF_UP), |_| ());
        if let Some(gateway) = veth.gateway {
            batch.message(
                RTM_NEWROUTE,
                NLM_F_CREATE | NLM_F_EXCL,
                &route_header(0, RT_SCOPE_UNIVERSE),
                |a| {
                    a.bytes(RTA_GATEWAY, &gateway.octets());
                    a.u32(RTA_OIF, link.index);
                },
            );
        }
    }
    links.execute(batch, || "configure interfaces".to_owned())
}

/// Lets the host pass packets between interfaces. Written only when it is off.
pub fn ensure_forwarding() -> Result<(), LinkError> {
    write_sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

/// A hardware address made from the IPv4 address: when an address comes round again, neighbours' caches are
/// still right. The first byte marks it as locally administered.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x52, 0x5e, a, b, c, d]
}

pub fn render_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads `aa:bb:cc:dd:ee:ff`, refusing multicast addresses and zero.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
        .collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn write_sysctl(path: &Path, value: &str) -> Result<(), LinkError> {
    let failed = |source| LinkError::Sysctl { path: path.to_owned(), source };
    if fs::read_to_string(path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(failed)
}

fn write_mtu(a: &mut Attributes, mtu: Option<u32>) {
    if let Some(mtu) = mtu {
        a.u32(IFLA_MTU, mtu);
    }
}

/// Lets a port send back what it received: with `bridge-nf-call-iptables` on, a container that reaches itself
/// through a published port or a Service is translated while still on the bridge.
fn hairpin(batch: &mut Batch, host_interface: &str) {
    batch.message(RTM_NEWLINK, 0, &link_header(0, 0), |a| {
        a.text(IFLA_IFNAME, host_interface);
        a.nested(IFLA_LINKINFO, |a| {
            a.text(IFLA_INFO_SLAVE_KIND, "bridge");
            a.nested(IFLA_INFO_SLAVE_DATA, |a| a.u8(IFLA_BRPORT_MODE, 1));
        });
    });
}

fn new_address(batch: &mut Batch, index: u32, address: Ipv4Net) {
    let header = address_header(address.prefix_len(), index);
    batch.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, |a| {
        a.bytes(IFA_LOCAL, &address.addr().octets());
        a.bytes(IFA_ADDRESS, &address.addr().octets());
        a.bytes(IFA_BROADCAST, &address.broadcast().octets());
    });
}

fn parse_link(reply: &Reply) -> Option<(String, Link)> {
    if reply.kind == RTM_NEWLINK { parse_link_payload(reply) } else { None }
}

fn parse_link_payload(reply: &Reply) -> Option<(String, Link)> {
    let header = reply.payload.get(..LINK_HEADER_BYTES)?;
    let attributes = || reply.attributes(LINK_HEADER_BYTES);
    let kind = attributes()
        .find(IFLA_LINKINFO)
        .and_then(|info| AttributeIter::new(info).find(IFLA_INFO_KIND))
        .map(attribute_text);
    let link = Link {
        index: attribute_u32(&header[4..])?,
        is_bridge: kind.as_deref() == Some("bridge"),
        is_up: attribute_u32(&header[8..])? & IFF_UP != 0,
        master: attributes().find(IFLA_MASTER).and_then(attribute_u32),
    };
    Some((attributes().find(IFLA_IFNAME).map(attribute_text)?, link))
}

/// What a notification says about a link.
pub(super) struct NotifiedLink {
    pub name: String,
    pub is_deleted: bool,
    pub is_up: bool,
    pub master: Option<u32>,
}

pub(super) fn notified_link(reply: &Reply) -> Option<NotifiedLink> {
    let is_deleted = match reply.kind {
        RTM_NEWLINK => false,
        RTM_DELLINK => true,
        _ => return None,
    };
    let (name, link) = parse_link_payload(reply)?;
    Some(NotifiedLink { name, is_deleted, is_up: link.is_up, master: link.master })
}

/// `struct ifinfomsg` with flags to set.
fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER_BYTES] {
    let mut header = [0; LINK_HEADER_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(prefix_len: u8, index: u32) -> [u8; ADDRESS_HEADER_BYTES] {
    let mut header = [AF_INET, prefix_len, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct rtmsg`: a static unicast route of the main table.
fn route_header(prefix_len: u8, scope: u8) -> [u8; ROUTE_HEADER_BYTES] {
    [AF_INET, prefix_len, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]
}

// linux/rtnetlink.h, if_link.h, if_addr.h.

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const LINK_HEADER_BYTES: usize = 16;
const ADDRESS_HEADER_BYTES: usize = 8;
const ROUTE_HEADER_BYTES: usize = 12;
const LOOPBACK_INDEX: u32 = 1;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_strictly() {
        assert_eq!(parse_mac("02:00:00:00:00:0a"), Some([2, 0, 0, 0, 0, 10]));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:0a:0b",
            "01:00:00:00:00:00",
            "0:0:0:0:0:1",
            "zz:00:00:00:00:00",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
        let mac = mac_of(Ipv4Addr::new(10, 88, 0, 5));
        assert_eq!(parse_mac(&render_mac(mac)), Some(mac));
    }
}
