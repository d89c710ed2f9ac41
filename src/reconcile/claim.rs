//! What two objects can not both have: a name, a host port. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::engine::container::spec::{PortMapping, Protocol};
use crate::reconcile::action::port_text;
use crate::reconcile::desired::{DesiredContainer, DesiredPod, DesiredService, ObjectName};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    Pod(ObjectName),
    Service(ObjectName),
    /// Pods and containers of the engine share one name space.
    EngineName(String),
    HostPort {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    },
}

impl Claim {
    /// One claim per port of the range. A port still to be chosen claims nothing.
    pub fn of_port(mapping: &PortMapping) -> Vec<Self> {
        if mapping.host_port == 0 {
            return Vec::new();
        }
        let last = mapping.host_port.saturating_add(mapping.range.max(1) - 1);
        (mapping.host_port..=last)
            .map(|port| Self::HostPort { address: mapping.host_address, port, protocol: mapping.protocol })
            .collect()
    }

    /// Both can not be had at once.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::HostPort { address: a, port, protocol },
                Self::HostPort { address: b, port: other_port, protocol: other_protocol },
            ) => {
                port == other_port
                    && protocol == other_protocol
                    && (a == b || a.is_unspecified() || b.is_unspecified())
            }
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::EngineName(name) => write!(f, "the name {name}"),
            Self::HostPort { port, protocol, .. } => f.write_str(&port_text(*port, *protocol)),
        }
    }
}

/// What a pod occupies while it exists.
pub fn pod_claims(pod: &DesiredPod) -> Vec<Claim> {
    let mut claims = vec![Claim::Pod(pod.name.clone()), Claim::EngineName(pod.sandbox.name.to_string())];
    for container in pod.all_containers() {
        claims.push(Claim::EngineName(container_name(pod, container)));
        claims.extend(container.spec.published_ports.iter().flat_map(Claim::of_port));
    }
    claims.extend(pod.sandbox.published_ports.iter().flat_map(Claim::of_port));
    claims.sort();
    claims.dedup();
    claims
}

pub fn service_claims(service: &DesiredService) -> Vec<Claim> {
    let mut claims = vec![Claim::Service(service.name.clone())];
    for port in &service.ports {
        if let Some(node_port) = port.node_port {
            claims.extend(Claim::of_port(&PortMapping::new(node_port, port.port, port.protocol)));
        }
    }
    claims
}

/// The engine's name of a pod's container: `POD-CONTAINER`, as podman makes it, unless it was given one.
pub fn container_name(pod: &DesiredPod, container: &DesiredContainer) -> String {
    match &container.spec.name {
        Some(name) => name.to_string(),
        None => format!("{}-{}", pod.sandbox.name, container.name),
    }
}

/// Who holds what. Fast where it matters: names by map, ports by number.
#[derive(Default)]
pub struct Claims {
    names: BTreeMap<Claim, String>,
    ports: BTreeMap<u16, Vec<(Claim, String)>>,
}

impl Claims {
    pub fn insert(&mut self, claim: Claim, holder: String) {
        match &claim {
            Claim::HostPort { port, .. } => self.ports.entry(*port).or_default().push((claim, holder)),
            Claim::Pod(_) | Claim::Service(_) | Claim::EngineName(_) => {
                self.names.entry(claim).or_insert(holder);
            }
        }
    }

    pub fn holder(&self, claim: &Claim) -> Option<&str> {
        match claim {
            Claim::HostPort { port, .. } => self
                .ports
                .get(port)
                .into_iter()
                .flatten()
                .find(|(held, _)| held.overlaps(claim))
                .map(|(_, holder)| holder.as_str()),
            Claim::Pod(_) | Claim::Service(_) | Claim::EngineName(_) => {
                self.names.get(claim).map(String::as_str)
            }
        }
    }
}
