//! Services as rows of the table and as names: pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use thiserror::Error;

use super::firewall::{Element, Elements};
use super::names::ServiceNames;
use super::ports::HostPort;
use super::{ServicePort, VirtualService};
use crate::engine::container::spec::Protocol;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServiceError {
    #[error("address {0} is IPv6, which is not supported yet")]
    Ipv6(IpAddr),
    #[error("{protocol} port {port} of {address} is already served by {other}")]
    SameAddress { protocol: &'static str, port: u16, address: Ipv4Addr, other: String },
    #[error("port {0} is listed twice")]
    PortTwice(u16),
    #[error("port 0 can not be served")]
    PortZero,
}

/// What a Service asks of the host besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePort {
    pub service: String,
    pub port: HostPort,
    pub elements: Vec<Element>,
}

/// All Services together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Virtual addresses; node ports are apart because the host may refuse them.
    pub elements: Elements,
    pub node_ports: Vec<NodePort>,
    pub names: Vec<ServiceNames>,
}

/// Whether a row belongs to Services.
pub fn is_service_element(element: &Element) -> bool {
    match element {
        Element::Service { .. }
        | Element::Endpoint { .. }
        | Element::NodePort { .. }
        | Element::NodeEndpoint { .. } => true,
        Element::Bridge(_)
        | Element::Internal(_)
        | Element::Isolated(_)
        | Element::Subnet(_)
        | Element::Gateway(_)
        | Element::Port { .. } => false,
    }
}

/// Checks all Services and writes them out. The order of Services and targets does not matter. The error names
/// the Service it is about.
pub fn render(services: &[VirtualService]) -> Result<Rendered, (String, ServiceError)> {
    let mut rendered = Rendered::default();
    let mut taken: BTreeMap<(Ipv4Addr, Protocol, u16), &str> = BTreeMap::new();
    for service in services {
        let failed = |error| (service.name.clone(), error);
        let address = service.address.map(v4).transpose().map_err(failed)?;
        let endpoints: Vec<Ipv4Addr> =
            service.endpoints.iter().map(|a| v4(*a)).collect::<Result<_, _>>().map_err(failed)?;
        for port in &service.ports {
            let targets = targets(port).map_err(failed)?;
            if let Some(address) = address {
                if let Some(other) = taken.insert((address, port.protocol, port.port), &service.name) {
                    return Err(failed(if other == service.name {
                        ServiceError::PortTwice(port.port)
                    } else {
                        let protocol = port.protocol.as_str();
                        ServiceError::SameAddress {
                            protocol,
                            port: port.port,
                            address,
                            other: other.to_owned(),
                        }
                    }));
                }
                rendered.elements.extend(virtual_rows(address, port, &targets));
            }
            if let Some(node_port) = port.node_port {
                rendered.node_ports.push(NodePort {
                    service: service.name.clone(),
                    port: HostPort {
                        address: Ipv4Addr::UNSPECIFIED,
                        protocol: port.protocol,
                        port: node_port,
                    },
                    elements: node_rows(node_port, port.protocol, &targets),
                });
            }
        }
        rendered.names.push(ServiceNames {
            names: service.dns_names.clone(),
            addresses: address.map_or(endpoints, |address| vec![address]),
        });
    }
    Ok(rendered)
}

fn virtual_rows(address: Ipv4Addr, port: &ServicePort, targets: &[SocketAddrV4]) -> Vec<Element> {
    let (protocol, port) = (port.protocol, port.port);
    let slots = targets.iter().zip(0..).map(|(target, slot)| Element::Endpoint {
        address,
        protocol,
        port,
        slot,
        target: *target,
    });
    let mut rows: Vec<Element> = slots.collect();
    // Without targets there is no row: the table refuses what keeps a virtual address.
    if let Some(endpoints) = count(targets) {
        rows.push(Element::Service { address, protocol, port, endpoints });
    }
    rows
}

fn node_rows(port: u16, protocol: Protocol, targets: &[SocketAddrV4]) -> Vec<Element> {
    let slots = targets.iter().zip(0..).map(|(target, slot)| Element::NodeEndpoint {
        protocol,
        port,
        slot,
        target: *target,
    });
    let mut rows: Vec<Element> = slots.collect();
    if let Some(endpoints) = count(targets) {
        rows.push(Element::NodePort { protocol, port, endpoints });
    }
    rows
}

fn count(targets: &[SocketAddrV4]) -> Option<u32> {
    u32::try_from(targets.len()).ok().filter(|count| *count > 0)
}

fn targets(port: &ServicePort) -> Result<Vec<SocketAddrV4>, ServiceError> {
    if port.port == 0 || port.node_port == Some(0) {
        return Err(ServiceError::PortZero);
    }
    let mut targets: Vec<SocketAddrV4> = port
        .targets
        .iter()
        .map(|(address, port)| v4(*address).map(|address| SocketAddrV4::new(address, *port)))
        .collect::<Result<_, _>>()?;
    if targets.iter().any(|target| target.port() == 0) {
        return Err(ServiceError::PortZero);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

fn v4(address: IpAddr) -> Result<Ipv4Addr, ServiceError> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(ServiceError::Ipv6(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, targets: &[&str]) -> VirtualService {
        VirtualService {
            name: name.to_owned(),
            dns_names: vec![name.replace('/', ".")],
            address: Some("10.96.0.7".parse().unwrap()),
            ports: vec![ServicePort {
                port: 80,
                protocol: Protocol::Tcp,
                node_port: None,
                targets: targets
                    .iter()
                    .map(|text| text.parse::<SocketAddrV4>().unwrap())
                    .map(|target| (IpAddr::V4(*target.ip()), target.port()))
                    .collect(),
            }],
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn targets_in_another_order_are_the_same_rows() {
        let a = render(&[service("default/web", &["10.88.0.2:80", "10.88.0.3:80"])]).unwrap();
        let b = render(&[service("default/web", &["10.88.0.3:80", "10.88.0.2:80", "10.88.0.2:80"])]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.elements.len(), 3, "one row for the Service, one per endpoint");
    }

    #[test]
    fn no_endpoints_means_no_rows_but_a_name() {
        let rendered = render(&[service("default/web", &[])]).unwrap();
        assert!(rendered.elements.is_empty());
        assert_eq!(rendered.names[0].addresses, [Ipv4Addr::new(10, 96, 0, 7)]);
    }

    #[test]
    fn a_headless_service_is_its_endpoints() {
        let headless = VirtualService {
            address: None,
            endpoints: vec!["10.88.0.2".parse().unwrap()],
            ..service("default/web", &["10.88.0.2:80"])
        };
        let rendered = render(&[headless]).unwrap();
        assert!(rendered.elements.is_empty());
        assert_eq!(rendered.names[0].addresses, [Ipv4Addr::new(10, 88, 0, 2)]);
    }

    #[test]
    fn a_node_port_is_asked_for_apart() {
        let mut web = service("default/web", &["10.88.0.2:80"]);
        web.ports[0].node_port = Some(30080);
        let rendered = render(&[web]).unwrap();
        assert_eq!(rendered.node_ports[0].port.port, 30080);
        assert_eq!(rendered.node_ports[0].elements.len(), 2);
        assert!(rendered.node_ports[0].elements.iter().all(is_service_element));
    }

    #[test]
    fn what_can_not_be_served_is_refused_by_name() {
        let (name, error) = render(&[service("a/web", &[]), service("b/web", &[])]).unwrap_err();
        assert_eq!(name, "b/web");
        assert_eq!(error.to_string(), "tcp port 80 of 10.96.0.7 is already served by a/web");
        let mut six = service("a/web", &[]);
        six.address = Some("fd00::1".parse().unwrap());
        assert!(matches!(render(&[six]), Err((_, ServiceError::Ipv6(_)))));
        let mut twice = service("a/web", &[]);
        twice.ports.push(twice.ports[0].clone());
        assert_eq!(render(&[twice]).unwrap_err().1, ServiceError::PortTwice(80));
    }
}
