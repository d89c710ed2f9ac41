//! Services: which addresses and names lead to which ready pods. `virtual_services` decides (pure);
//! `Services` applies it whenever a pod becomes ready or leaves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::engine::network::{ServicePort, VirtualService};
use crate::reconcile::desired::{DesiredPod, DesiredService, ObjectName, ServiceAddress, TargetPort};
use crate::reconcile::records::service_key;
use crate::reconcile::worker::Site;

/// The cluster domain of every Kubernetes manual.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// A Service with the address it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressedService {
    pub service: DesiredService,
    /// `None`: headless.
    pub address: Option<IpAddr>,
}

/// A pod as a Service sees it.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    pub pod: &'a DesiredPod,
    pub address: IpAddr,
    pub ready: bool,
}

/// The Services that are in force.
#[derive(Default)]
pub struct Services {
    known: Mutex<BTreeMap<ObjectName, AddressedService>>,
    /// Keeps two from applying at once.
    applying: tokio::sync::Mutex<()>,
    /// What is in force; `None` while that is not known.
    applied: Mutex<Option<Vec<VirtualService>>>,
}

impl Services {
    pub fn put(&self, service: AddressedService) {
        self.lock().insert(service.service.name.clone(), service);
    }

    pub fn remove(&self, service: &ObjectName) {
        self.lock().remove(service);
    }

    pub fn all(&self) -> BTreeMap<ObjectName, AddressedService> {
        self.lock().clone()
    }

    /// What was applied last.
    pub fn in_force(&self) -> Vec<VirtualService> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Makes the engine's Services what the pods' reports call for. Unchanged: nothing is done.
    pub async fn sync(&self, site: &Site) {
        let _applying = self.applying.lock().await;
        let reports = site.reports.all();
        let endpoints: Vec<Endpoint> = reports
            .values()
            .filter(|report| !report.leaving)
            .filter_map(|report| {
                let address = report.address?;
                Some(Endpoint { pod: &report.note.pod, address, ready: report.ready })
            })
            .collect();
        let services: Vec<AddressedService> = self.all().into_values().collect();
        let wanted = virtual_services(&services, &endpoints);
        let known = || self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = match &*known() {
            Some(applied) => *applied == wanted,
            None => wanted.is_empty(),
        };
        if unchanged {
            return;
        }
        let applied = site.engine.apply_services(wanted.clone()).await;
        *known() = match applied {
            Ok(()) => Some(wanted),
            Err(error) => {
                tracing::error!("apply Services: {}", error.chain());
                None
            }
        };
        site.passed();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectName, AddressedService>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine is to make true.
pub fn virtual_services(services: &[AddressedService], endpoints: &[Endpoint<'_>]) -> Vec<VirtualService> {
    let mut virtual_services = Vec::new();
    for AddressedService { service, address } in services {
        let mut selected: Vec<&Endpoint> =
            endpoints.iter().filter(|endpoint| selects(service, endpoint)).collect();
        selected.sort_by_key(|endpoint| endpoint.address);
        let targets = |target: &TargetPort| {
            let target_of = |endpoint: &&Endpoint| {
                let port = match target {
                    TargetPort::Number(number) => Some(*number),
                    TargetPort::Name(name) => endpoint.pod.named_ports.get(name).copied(),
                };
                port.map(|port| (endpoint.address, port))
            };
            selected.iter().filter_map(target_of).collect()
        };
        let ports = service
            .ports
            .iter()
            .map(|port| ServicePort {
                port: port.port,
                protocol: port.protocol,
                node_port: port.node_port,
                targets: targets(&port.target),
            })
            .collect();
        virtual_services.push(VirtualService {
            name: service_key(&service.name),
            dns_names: dns_names(&service.name),
            address: *address,
            ports,
            endpoints: selected.iter().map(|endpoint| endpoint.address).collect(),
        });
        if service.address == ServiceAddress::Headless {
            virtual_services.extend(selected.iter().filter_map(|endpoint| pod_name(service, endpoint)));
        }
    }
    virtual_services
}

fn selects(service: &DesiredService, endpoint: &Endpoint<'_>) -> bool {
    // A Service without a selector has its endpoints from elsewhere: here, from nowhere.
    !service.selector.is_empty()
        && endpoint.pod.name.namespace == service.name.namespace
        && (endpoint.ready || service.publish_not_ready)
        && service.selector.iter().all(|(key, value)| endpoint.pod.labels.get(key) == Some(value))
}

/// From the shortest, which works within a namespace's search path.
fn dns_names(service: &ObjectName) -> Vec<String> {
    let ObjectName { namespace, name } = service;
    let qualified = [
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.{CLUSTER_DOMAIN}"),
    ];
    // The bare name is one for all namespaces here, so it belongs to the default one.
    let bare = (namespace == "default").then(|| name.clone());
    bare.into_iter().chain(qualified).collect()
}

/// `HOSTNAME.SUBDOMAIN.NAMESPACE.svc.cluster.local` of a pod whose subdomain is this Service's name.
fn pod_name(service: &DesiredService, endpoint: &Endpoint<'_>) -> Option<VirtualService> {
    let subdomain = endpoint.pod.subdomain.as_ref()?;
    if *subdomain != service.name.name {
        return None;
    }
    let hostname = endpoint.pod.sandbox.hostname.clone().unwrap_or_else(|| endpoint.pod.name.name.clone());
    let namespace = &service.name.namespace;
    Some(VirtualService {
        name: format!("{}/{hostname}", service_key(&service.name)),
        dns_names: vec![
            format!("{hostname}.{subdomain}"),
            format!("{hostname}.{subdomain}.{namespace}"),
            format!("{hostname}.{subdomain}.{namespace}.{CLUSTER_DOMAIN}"),
        ],
        address: None,
        ports: Vec::new(),
        endpoints: vec![endpoint.address],
    })
}
