//! Services.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::container::protocol;
use super::{Problems, integer_within, one_of, port_number, text_list, text_map};
use crate::reconcile::desired::{
    DesiredService, DesiredServicePort, Location, ObjectName, ServiceAddress, TargetPort,
};
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::tree::{Node, Value};

/// Kubernetes' range of node ports.
const FIRST_NODE_PORT: u16 = 30_000;
const NODE_PORTS: u16 = 2768;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    Unsupported,
}

pub fn service(
    node: &Node,
    name: &ObjectName,
    location: Location,
    problems: &mut Problems<'_>,
) -> Option<DesiredService> {
    let Some(spec) = node.get("spec") else {
        problems.error_in(node, "spec", "is required");
        return None;
    };
    let types = [
        ("ClusterIP", Type::ClusterIp),
        ("NodePort", Type::NodePort),
        ("LoadBalancer", Type::Unsupported),
        ("ExternalName", Type::Unsupported),
    ];
    let kind = one_of(spec, "type", &types, problems);
    if kind == Type::Unsupported {
        let name = spec.text("type").unwrap_or_default();
        problems.error_in(spec, "type", format!("{name} is not supported: only ClusterIP and NodePort"));
    }
    let selector = text_map(spec.get("selector"));
    if selector.is_empty() {
        problems.error_in(
            spec,
            "selector",
            "must not be empty: a Service without pods needs Endpoints, which are not handled",
        );
    }
    let address = address(spec, problems);
    if address == ServiceAddress::Headless && kind == Type::NodePort {
        problems.error_in(spec, "clusterIP", "None excludes NodePort");
    }
    let ports = ports(spec, name, kind, problems);
    if ports.is_empty() && address != ServiceAddress::Headless {
        problems.error_in(spec, "ports", "is required");
    }
    Some(DesiredService {
        name: name.clone(),
        location,
        selector,
        address,
        ports,
        publish_not_ready: spec.boolean("publishNotReadyAddresses").unwrap_or(false),
    })
}

fn address(spec: &Node, problems: &mut Problems<'_>) -> ServiceAddress {
    let many = text_list(spec, "clusterIPs");
    let one = spec.text("clusterIP").or(many.first().map(String::as_str));
    if many.len() > 1 || many.first().map(String::as_str) != one && !many.is_empty() {
        problems.error_in(spec, "clusterIPs", "not supported: must be the clusterIP alone");
    }
    for family in text_list(spec, "ipFamilies") {
        if family != "IPv4" {
            problems.error_in(spec, "ipFamilies", "only IPv4 is supported");
        }
    }
    match one {
        None => ServiceAddress::Cluster(None),
        Some("None") => ServiceAddress::Headless,
        Some(text) => {
            let address = text.parse().ok();
            if address.is_none() {
                problems.error_in(spec, "clusterIP", "is not an IP address and not None");
            }
            ServiceAddress::Cluster(address)
        }
    }
}

fn ports(spec: &Node, name: &ObjectName, kind: Type, problems: &mut Problems<'_>) -> Vec<DesiredServicePort> {
    let items = spec.list("ports");
    let (mut port_names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for item in items {
        if item.get("port").is_none() {
            problems.error_in(item, "port", "is required");
        }
        let Some(port) = port_number(item, "port", problems) else { continue };
        let protocol = protocol(item, problems);
        if !numbers.insert((port, protocol)) {
            problems.error_in(item, "port", format!("port {port}/{} is given twice", protocol.as_str()));
        }
        let port_name = item.text("name");
        match port_name {
            None if items.len() > 1 => {
                problems.error_in(item, "name", "is required when there are several ports")
            }
            Some(text) if !names::is_dns_label(text) => {
                problems.error_in(
                    item,
                    "name",
                    "is not a valid name: lower case letters, digits and inner dashes",
                );
            }
            Some(text) if !port_names.insert(text) => {
                problems.error_in(item, "name", format!("two ports are called {text:?}"));
            }
            _ => {}
        }
        let target = match item.get("targetPort").map(|node| &node.value) {
            Some(Value::Text(text)) if text.parse::<u16>().is_err() => {
                if !names::is_port_name(text) {
                    problems.error_in(item, "targetPort", "is not a port number and not a port name");
                }
                TargetPort::Name(text.clone())
            }
            Some(Value::Text(_)) => {
                problems.error_in(item, "targetPort", "a port number must not be in quotes");
                TargetPort::Number(port)
            }
            // 0 is "not given" for the API server.
            Some(Value::Integer(0)) | None => TargetPort::Number(port),
            Some(_) => TargetPort::Number(port_number(item, "targetPort", problems).unwrap_or(port)),
        };
        let last = i64::from(FIRST_NODE_PORT + NODE_PORTS - 1);
        let given = integer_within(item, "nodePort", 0, last, problems).filter(|port| *port != 0);
        if given.is_some_and(|port| port < i64::from(FIRST_NODE_PORT)) {
            problems.error_in(item, "nodePort", format!("must be between {FIRST_NODE_PORT} and {last}"));
        }
        if given.is_some() && kind == Type::ClusterIp {
            problems.error_in(item, "nodePort", "needs `type: NodePort`");
        }
        let node_port = match (kind, given) {
            (Type::NodePort, Some(port)) => u16::try_from(port).ok(),
            (Type::NodePort, None) => Some(chosen_node_port(name, port, protocol.as_str())),
            (Type::ClusterIp | Type::Unsupported, _) => None,
        };
        ports.push(DesiredServicePort {
            name: port_name.map(str::to_owned),
            port,
            protocol,
            target,
            node_port,
        });
    }
    ports
}

/// The same on every pass and on every node.
fn chosen_node_port(name: &ObjectName, port: u16, protocol: &str) -> u16 {
    let digest = Sha256::digest(format!("{}/{}:{port}/{protocol}", name.namespace, name.name));
    FIRST_NODE_PORT + u16::from_be_bytes([digest[0], digest[1]]) % NODE_PORTS
}
