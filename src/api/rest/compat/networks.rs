//! Networks, as docker shows them. podman's default network plays docker's `bridge`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::rest::extract::{Json, Path, Query};
use crate::api::rest::libpod::networks::NetworkFilter;
use crate::api::rest::view::{ContainerView, DEFAULT_NETWORK};
use crate::api::rest::{Outcome, reply, time};
use crate::engine::Engine;
use crate::engine::container::ContainerFilter;
use crate::engine::id::NameOrId;
use crate::engine::network::{NetworkCreate, NetworkRecord};

/// The name docker's clients expect of the default network.
const BRIDGE: &str = "bridge";

type Map<T> = BTreeMap<String, T>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkResource<'a> {
    name: &'a str,
    id: &'a str,
    created: String,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigReference,
    config_only: bool,
    containers: Map<Endpoint>,
    options: &'a Map<String>,
    labels: &'a Map<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: &'static str,
    options: Map<String>,
    config: Vec<IpamConfig>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    subnet: String,
    gateway: IpAddr,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigReference {
    network: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'static str,
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

impl<'a> NetworkResource<'a> {
    pub fn new(network: &'a NetworkRecord, containers: &[ContainerView]) -> Self {
        let config = network.subnets.iter();
        let config = config.map(|s| IpamConfig { subnet: s.cidr.clone(), gateway: s.gateway });
        Self {
            name: docker_name(network.name.as_str()),
            id: network.id.as_str(),
            created: time::rfc3339(Some(network.created_at)),
            scope: "local",
            driver: "bridge",
            enable_ipv6: network.subnets.iter().any(|subnet| subnet.gateway.is_ipv6()),
            ipam: Ipam { driver: "default", options: Map::new(), config: config.collect() },
            internal: network.internal,
            attachable: false,
            ingress: false,
            config_from: ConfigReference { network: "" },
            config_only: false,
            containers: endpoints(network, containers),
            options: &network.options,
            labels: &network.labels,
        }
    }
}

fn endpoints(network: &NetworkRecord, containers: &[ContainerView]) -> Map<Endpoint> {
    let mut endpoints = Map::new();
    for view in containers {
        let networks = view.networks();
        let Some((_, interface)) = networks.iter().find(|(name, _)| *name == network.name.as_str()) else {
            continue;
        };
        let address = |v6: bool| {
            let found = interface.iter().flat_map(|i| &i.addresses).find(|a| a.address.is_ipv6() == v6);
            found.map(|a| format!("{}/{}", a.address, a.prefix_len)).unwrap_or_default()
        };
        let endpoint = Endpoint {
            name: view.record.name.to_string(),
            endpoint_id: "",
            mac_address: interface.map(|i| i.mac.clone()).unwrap_or_default(),
            ipv4_address: address(false),
            ipv6_address: address(true),
        };
        endpoints.insert(view.record.id.to_string(), endpoint);
    }
    endpoints
}

pub fn docker_name(name: &str) -> &str {
    if name == DEFAULT_NETWORK { BRIDGE } else { name }
}

fn engine_name(name: &str) -> NameOrId {
    NameOrId::from(if name == BRIDGE { DEFAULT_NETWORK } else { name })
}

fn all_containers(engine: &Engine) -> Vec<ContainerView> {
    let records = engine.containers(&ContainerFilter { all: true, ..Default::default() });
    ContainerView::all(engine, records).collect()
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = NetworkFilter::parse(&query.filters()?)?;
    let networks = engine.networks();
    let containers = all_containers(&engine);
    let list: Vec<_> = networks
        .iter()
        .filter(|network| filter.matches(network))
        .map(|network| NetworkResource::new(network, &containers))
        .collect();
    Ok(reply::json(&list))
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    let network = engine.network(&engine_name(&name))?;
    let containers = all_containers(&engine);
    Ok(reply::json(&NetworkResource::new(&network, &containers)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Driver")]
    driver: String,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: CreateIpam,
    #[serde(rename = "Internal")]
    internal: bool,
    #[serde(rename = "Options")]
    options: Map<String>,
    #[serde(rename = "Labels")]
    labels: Map<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CreateIpam {
    #[serde(rename = "Driver")]
    driver: String,
    #[serde(rename = "Config")]
    config: Vec<CreateIpamConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CreateIpamConfig {
    #[serde(rename = "Subnet")]
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    #[serde(rename = "Gateway")]
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses")]
    auxiliary: Map<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateResponse<'a> {
    id: &'a str,
    warning: &'static str,
}

impl CreateRequest {
    fn into_request(self) -> Result<NetworkCreate, ApiError> {
        let config = &self.ipam.config;
        let asked = [
            ("a driver other than bridge", !matches!(self.driver.as_str(), "" | "bridge" | "default")),
            ("an IPAM driver", !matches!(self.ipam.driver.as_str(), "" | "default" | "host-local")),
            ("IPRange", config.iter().any(|c| !c.ip_range.is_empty() || !c.auxiliary.is_empty())),
            ("EnableIPv6 without a subnet", self.enable_ipv6 && config.is_empty()),
        ];
        if let Some((option, _)) = asked.iter().find(|(_, asked)| *asked) {
            return Err(ApiError::not_supported(format_args!("{option} of a network")));
        }
        let bad = |what: &str, e: &dyn std::fmt::Display| ApiError::bad_request(format!("{what}: {e}"));
        let mut subnets = Vec::new();
        for config in self.ipam.config {
            let gateway = Some(config.gateway).filter(|gateway| !gateway.is_empty());
            let gateway = gateway.map(|text| text.parse().map_err(|e| bad(&text, &e))).transpose()?;
            subnets.push((config.subnet, gateway));
        }
        Ok(NetworkCreate {
            name: Some(self.name.parse().map_err(|e| bad("Name", &e))?),
            subnets,
            internal: self.internal,
            // Docker resolves names on every network but its default one.
            dns_enabled: true,
            labels: self.labels,
            options: self.options,
        })
    }
}

pub async fn create(State(engine): State<Engine>, Json(request): Json<CreateRequest>) -> Outcome {
    let network = engine.create_network(request.into_request()?).await?;
    let response = CreateResponse { id: network.id.as_str(), warning: "" };
    Ok(reply::json_with_status(StatusCode::CREATED, &response))
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    let name = engine_name(&name);
    engine.remove_network(&name, query.flag("force")?).await?;
    Ok(reply::no_content())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::json;

    #[test]
    fn a_network_is_made_of_dockers_description() {
        // What docker network create --subnet sends.
        let body =
            br#"{"Name":"n","CheckDuplicate":true,"Driver":"bridge","EnableIPv6":false,"IPAM":{"Driver":
            "default","Options":{},"Config":[{"Subnet":"10.5.0.0/24","Gateway":"10.5.0.1"}]},"Options":{},
            "Labels":{}}"#;
        let request = json::decode::<CreateRequest>(body).unwrap().into_request().unwrap();
        assert_eq!(request.subnets, [("10.5.0.0/24".to_owned(), Some("10.5.0.1".parse().unwrap()))]);
    }

    #[test]
    fn the_default_network_is_dockers_bridge() {
        assert_eq!(docker_name("podman"), "bridge");
        assert_eq!(docker_name("other"), "other");
        assert_eq!(engine_name("bridge").as_str(), "podman");
    }
}
