//! Networks, as podman (4 and later) shows them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::State;
use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::rest::extract::{Filters, Json, Path, Query};
use crate::api::rest::filter::{LabelFilter, regexes, unknown};
use crate::api::rest::{Outcome, reply, time};
use crate::engine::Engine;
use crate::engine::error::ErrorKind;
use crate::engine::id::NameOrId;
use crate::engine::network::{NetworkCreate, NetworkRecord};

#[derive(Serialize)]
pub struct Network<'a> {
    name: &'a str,
    id: &'a str,
    driver: &'static str,
    network_interface: &'a str,
    created: String,
    subnets: Vec<Subnet>,
    ipv6_enabled: bool,
    internal: bool,
    dns_enabled: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: &'a BTreeMap<String, String>,
    ipam_options: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct Subnet {
    subnet: String,
    gateway: IpAddr,
}

impl<'a> Network<'a> {
    pub fn new(network: &'a NetworkRecord) -> Self {
        let subnets = network.subnets.iter();
        Self {
            name: network.name.as_str(),
            id: network.id.as_str(),
            driver: "bridge",
            network_interface: &network.bridge,
            created: time::rfc3339(Some(network.created_at)),
            subnets: subnets.map(|s| Subnet { subnet: s.cidr.clone(), gateway: s.gateway }).collect(),
            ipv6_enabled: network.subnets.iter().any(|subnet| subnet.gateway.is_ipv6()),
            internal: network.internal,
            dns_enabled: network.dns_enabled,
            labels: &network.labels,
            options: &network.options,
            ipam_options: BTreeMap::from([("driver", "host-local")]),
        }
    }
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = NetworkFilter::parse(&query.filters()?)?;
    let networks = engine.networks();
    let list: Vec<_> = networks
        .iter()
        .filter(|network| filter.matches(network))
        .map(|network| Network::new(network))
        .collect();
    Ok(reply::json(&list))
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    let network = engine.network(&name)?;
    Ok(reply::json(&Network::new(&network)))
}

pub async fn exists(State(engine): State<Engine>, Path(name): Path<NameOrId>) -> Outcome {
    engine.network(&name)?;
    Ok(reply::no_content())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateBody {
    name: String,
    driver: String,
    network_interface: String,
    subnets: Vec<CreateSubnet>,
    ipv6_enabled: bool,
    internal: bool,
    dns_enabled: bool,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    ipam_options: BTreeMap<String, String>,
    routes: Vec<serde_json::Value>,
    network_dns_servers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CreateSubnet {
    subnet: String,
    gateway: Option<IpAddr>,
    lease_range: Option<serde_json::Value>,
}

impl CreateBody {
    fn into_request(self) -> Result<NetworkCreate, ApiError> {
        let ipam = self.ipam_options.get("driver").map_or("", String::as_str);
        let asked = [
            ("a driver other than bridge", !matches!(self.driver.as_str(), "" | "bridge")),
            ("network_interface", !self.network_interface.is_empty()),
            ("an IPAM driver other than host-local", !matches!(ipam, "" | "host-local")),
            ("lease_range", self.subnets.iter().any(|subnet| subnet.lease_range.is_some())),
            ("routes", !self.routes.is_empty()),
            ("network_dns_servers", !self.network_dns_servers.is_empty()),
            ("ipv6_enabled without a subnet", self.ipv6_enabled && self.subnets.is_empty()),
        ];
        if let Some((option, _)) = asked.iter().find(|(_, asked)| *asked) {
            return Err(ApiError::not_supported(format_args!("{option} of a network")));
        }
        let name = Some(self.name).filter(|name| !name.is_empty());
        let name = name.map(|name| name.parse().map_err(|e| ApiError::bad_request(format!("{e}"))));
        Ok(NetworkCreate {
            name: name.transpose()?,
            subnets: self.subnets.into_iter().map(|subnet| (subnet.subnet, subnet.gateway)).collect(),
            internal: self.internal,
            dns_enabled: self.dns_enabled,
            labels: self.labels,
            options: self.options,
        })
    }
}

pub async fn create(State(engine): State<Engine>, query: Query, Json(body): Json<CreateBody>) -> Outcome {
    let ignore_existing = query.flag("ignoreIfExists")?;
    let name = body.name.clone();
    let network = match engine.create_network(body.into_request()?).await {
        Err(error) if ignore_existing && error.kind() == ErrorKind::AlreadyExists => {
            engine.network(&name.as_str().into())?
        }
        created => created?,
    };
    Ok(reply::json(&Network::new(&network)))
}

#[derive(Serialize)]
struct RmReport<'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "Err")]
    error: Option<String>,
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    engine.remove_network(&name, query.flag("force")?).await?;
    Ok(reply::json(&[RmReport { name: name.as_str(), error: None }]))
}

pub struct NetworkFilter(Vec<Condition>);

enum Condition {
    Id(Vec<String>),
    Name(Vec<regex_lite::Regex>),
    Driver(Vec<String>),
    Labels(Vec<LabelFilter>),
}

impl NetworkFilter {
    pub fn parse(filters: &Filters) -> Result<Self, ApiError> {
        let mut conditions = Vec::new();
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            conditions.push(match name {
                "id" => Condition::Id(values.to_vec()),
                "name" => Condition::Name(regexes(name, values)?),
                "driver" => Condition::Driver(values.to_vec()),
                "label" => Condition::Labels(LabelFilter::parse_all(values)),
                // Ours are all local and made by someone.
                "scope" | "type" => continue,
                other => return Err(unknown(other)),
            });
        }
        Ok(Self(conditions))
    }

    pub fn matches(&self, network: &NetworkRecord) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Id(ids) => ids.iter().any(|id| network.id.as_str().starts_with(id.as_str())),
            Condition::Name(patterns) => patterns.iter().any(|p| p.is_match(network.name.as_str())),
            Condition::Driver(drivers) => drivers.iter().any(|driver| driver == "bridge"),
            Condition::Labels(labels) => labels.iter().all(|label| label.matches(&network.labels)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rest::json;

    #[test]
    fn a_network_is_made_of_podmans_description() {
        let body = br#"{"name":"n","driver":"bridge","subnets":[{"subnet":"10.5.0.0/24"}],"ipam_options":
                        {"driver":"host-local"},"dns_enabled":true,"labels":{"a":"b"}}"#;
        let request = json::decode::<CreateBody>(body).unwrap().into_request().unwrap();
        assert_eq!(request.subnets, [("10.5.0.0/24".to_owned(), None)]);
        assert!(request.dns_enabled);
        for body in [r#"{"driver":"macvlan"}"#, r#"{"routes":[{}]}"#, r#"{"ipv6_enabled":true}"#] {
            assert!(json::decode::<CreateBody>(body.as_bytes()).unwrap().into_request().is_err(), "{body}");
        }
    }
}
