//! Connecting and disconnecting namespaces, Services, and coming back after a restart: effects in order.
//!
//! Order of a connection: everything is checked and reserved in memory; host ports are bound; leases are on disk;
//! links, addresses, rows of the table; names. Undone in reverse when a step fails. After a crash in between,
//! `restore` finds leases that nothing standing owns, and frees them; links go with their namespaces.
//!
//! The Services in force are noted in a file of the run directory: a new daemon of the same boot keeps them
//! working until someone says what they shall be, and after a boot they are forgotten.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::bridge::{self, LinkError, Veth};
use super::conntrack::{self, Difference, Stale};
use super::firewall::{Element, Elements};
use super::ports::{self, HostPort, PortOwner};
use super::service;
use super::state::{self, Entry, Plan};
use super::watch;
use super::{DEFAULT_NETWORK, NetworkError, NetworkStatus, Networks, SandboxNetwork, Shared, VirtualService};
use crate::engine::container::spec::PortMapping;
use crate::engine::error::{EngineError, Result, Subject, chain};
use crate::engine::host::namespace::within_netns;
use crate::engine::id::NetworkId;
use crate::engine::store::Change;

type Outcome<T> = std::result::Result<T, NetworkError>;

impl Networks {
    /// Connects a namespace: links, addresses, routes, published ports, names. Everything is checked before
    /// anything is touched, and undone when a later step fails.
    pub async fn setup(&self, request: &SandboxNetwork) -> Result<NetworkStatus> {
        let (shared, request) = (self.0.clone(), request.clone());
        // A task of its own: a caller that gives up must not leave half of it.
        let task = tokio::spawn(async move { shared.setup(request).await });
        task.await.map_err(NetworkError::Aborted)?
    }

    /// Frees addresses, ports and names of `owner`; not an error when it has none. The links go with the
    /// namespace, which the caller drops next.
    pub async fn teardown(&self, owner: &str, netns: &Path) -> Result<()> {
        let (shared, owner) = (self.0.clone(), owner.to_owned());
        tracing::debug!(owner, netns = %netns.display(), "disconnecting");
        let task = tokio::spawn(async move { shared.teardown(&owner).await });
        task.await.map_err(NetworkError::Aborted)?
    }

    /// What `owner` is called from now on, in names and in messages. Not connected: nothing to do.
    pub fn rename(&self, owner: &str, name: &str) {
        self.0.state().rename(owner, name);
        self.0.resolver.change_names(|names| names.rename_member(owner, name));
    }

    /// The second half of `open`: these connections are still standing. Leases of anything else are freed, and the
    /// rules on the host are made to be exactly those of `standing`. After a boot `standing` is empty.
    pub async fn restore(&self, standing: Vec<(SandboxNetwork, NetworkStatus)>) -> Result<()> {
        let started = Instant::now();
        let count = standing.len();
        let shared = self.0.clone();
        shared.adopt(standing);
        let stale = shared.state().take_stale_owners();
        let freed = stale.len();
        let changes = stale.iter().map(|owner| Change::RemoveLeases { owner: owner.clone() }).collect();
        shared.store.commit(changes).await.map_err(NetworkError::Store)?;
        for owner in &stale {
            drop(shared.state().free(owner));
        }
        let remembered = shared.remembered_services();
        let rendered = match service::render(&remembered) {
            Ok(rendered) => rendered,
            Err((service, error)) => {
                tracing::warn!(service, %error, "services of the last daemon can not be kept");
                service::Rendered::default()
            }
        };
        let (elements, conflict) = shared.take_node_ports(&rendered);
        if let Some(conflict) = conflict {
            tracing::warn!(error = %conflict.chain(), "a node port of the last daemon can not be kept");
        }
        shared.resolver.change_names(|names| names.replace_services(&rendered.names));
        let has_services = !elements.is_empty();
        shared.clone().blocking(move |shared| shared.restore_host(elements, has_services)).await?;
        *shared.services.lock().await = remembered;
        shared.warn_about_foreign_drops().await;
        watch::spawn(self)?;
        tracing::info!(
            connections = count,
            freed,
            duration_ms = started.elapsed().as_secs_f64() * 1e3,
            "networks are restored"
        );
        Ok(())
    }

    /// Makes exactly these services true in one transaction; unchanged means nothing is done.
    ///
    /// A node port that something else has is left out and is the error; all else is in force then.
    pub async fn apply_services(&self, services: Vec<VirtualService>) -> Result<()> {
        let mut services = services;
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut applied = self.0.services.lock().await;
        if *applied == services {
            return Ok(());
        }
        let started = Instant::now();
        let shared = &self.0;
        let rendered = service::render(&services).map_err(|(name, source)| {
            let kind = NetworkError::Service { name: name.clone(), source: source.clone() }.kind();
            EngineError::new(kind, Subject::Service(name), "serve").with_source(source)
        })?;
        let (elements, conflict) = shared.take_node_ports(&rendered);
        let rows = elements.len();
        let remembered = services.clone();
        shared
            .clone()
            .blocking(move |shared| {
                if !elements.is_empty() {
                    shared.ensure_default_bridge()?;
                }
                let changed = shared.table.change_all(service::is_service_element, &elements);
                shared.forget_stale_flows(&changed.map_err(|error| shared.table_error(error))?);
                shared.remember_services(&remembered)
            })
            .await?;
        shared.resolver.change_names(|names| names.replace_services(&rendered.names));
        tracing::debug!(
            services = services.len(),
            rows,
            duration_ms = started.elapsed().as_secs_f64() * 1e3,
            "services are applied"
        );
        match conflict {
            // Tried again by whoever asks again.
            Some(conflict) => Err(conflict),
            None => {
                *applied = services;
                Ok(())
            }
        }
    }

    /// Puts back what others removed from the host: bridges, links, bridge ports, the table. Cheap when nothing is
    /// wrong.
    pub async fn repair(&self) -> Result<()> {
        Ok(self.0.clone().blocking(|shared| shared.repair_host()).await?)
    }

    /// Takes everything of this engine off the host: bridges and the table. Nothing may be connected any more.
    pub async fn take_down(&self) -> Result<()> {
        self.close().await;
        let taken = self.0.clone().blocking(|shared| {
            let bridges = shared.state().bridge_names();
            shared.links().delete(bridges.iter().map(String::as_str)).map_err(NetworkError::Link)?;
            shared.state().forget_bridges();
            shared.table.delete().map_err(|error| shared.table_error(error))
        });
        Ok(taken.await?)
    }

    pub(super) async fn take_off_host(&self, entry: &Entry) -> Result<()> {
        self.0.resolver.stop(&entry.record.id);
        self.0.resolver.change_names(|names| names.remove_subnet(entry.subnet));
        let (bridge, elements) = (entry.record.bridge.clone(), entry.elements.clone());
        let taken = self.0.clone().blocking(move |shared| {
            if !elements.is_empty() {
                shared.change_rows(&elements, &[])?;
            }
            shared.links().delete([bridge.as_str()].into_iter()).map_err(NetworkError::Link)
        });
        Ok(taken.await?)
    }
}

impl Shared {
    /// Runs what talks to the kernel off the async threads.
    async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        tokio::task::spawn_blocking(move || work(&self)).await.map_err(NetworkError::Aborted)?
    }

    pub(super) fn table_error(&self, source: super::NetlinkError) -> NetworkError {
        NetworkError::Table { table: self.prefix.clone(), source }
    }

    async fn setup(self: Arc<Self>, request: SandboxNetwork) -> Result<NetworkStatus> {
        let started = Instant::now();
        let wanted = ports::check_mappings(&request.ports).map_err(NetworkError::Port)?;
        let plan = self.state().reserve(&request, wanted)?;
        match self.clone().connect(&request, plan).await {
            Ok(status) => {
                tracing::debug!(
                    owner = request.owner,
                    name = request.name,
                    address = ?status.primary_address(),
                    duration_ms = started.elapsed().as_secs_f64() * 1e3,
                    "connected"
                );
                Ok(status)
            }
            Err(error) => {
                let undone = self.store.commit(vec![Change::RemoveLeases { owner: request.owner.clone() }]);
                if let Err(left) = undone.await {
                    tracing::warn!(owner = request.owner, error = %left, "leases of a failed connection remain");
                }
                drop(self.state().free(&request.owner));
                Err(error.into())
            }
        }
    }

    async fn connect(self: Arc<Self>, request: &SandboxNetwork, plan: Plan) -> Outcome<NetworkStatus> {
        let (mappings, held) = self.hold_ports(request, &plan)?;
        let leases = plan.leases(&request.owner).into_iter().map(Change::PutLease).collect();
        self.store.commit(leases).await.map_err(NetworkError::Store)?;
        let status = plan.status(request, mappings);
        let (netns, on_host) = (request.netns.clone(), status.clone());
        let elements = self.clone().blocking(move |shared| shared.connect_host(&netns, &on_host)).await?;
        let member = self.member(request, &status);
        self.resolver.change_names(|names| names.put_member(&request.owner, member));
        if let Some(connection) = self.state().connection_mut(&request.owner) {
            connection.status = Some(status.clone());
            connection.elements = elements;
            connection.held = held;
        }
        Ok(status)
    }

    /// Binds the host ports and chooses those left open.
    fn hold_ports(&self, request: &SandboxNetwork, plan: &Plan) -> Outcome<(Vec<PortMapping>, Vec<OwnedFd>)> {
        let mut held = ports::hold(&plan.host_ports, self.unheld()).map_err(NetworkError::Port)?;
        let owner = state::port_owner(request);
        let mut mappings = request.ports.clone();
        for mapping in mappings.iter_mut().filter(|mapping| mapping.host_port == 0) {
            let address = ports::host_address(mapping).map_err(NetworkError::Port)?;
            let take = |port: HostPort| {
                let mut state = self.state();
                // Taken is taken, be it by the same container for another of its ports.
                state.ports.owner(port).is_some() || state.ports.take(&[port], &owner).is_err()
            };
            let (port, socket) =
                ports::choose(address, mapping.protocol, take).map_err(NetworkError::Port)?;
            mapping.host_port = port;
            held.extend(socket);
        }
        Ok((mappings, held))
    }

    /// Our own resolver listens on port 53 of the gateways; that is no obstacle to publishing it elsewhere.
    fn unheld(&self) -> impl Fn(HostPort) -> bool {
        let resolver_listens = self.resolver.has_dns_port();
        move |port| {
            resolver_listens && port.port == super::firewall::DNS_PORT && port.address.is_unspecified()
        }
    }

    /// Everything on the host, all or nothing.
    fn connect_host(&self, netns_path: &Path, status: &NetworkStatus) -> Outcome<Vec<Element>> {
        let started = Instant::now();
        let networks = status.interfaces.iter().map(|interface| interface.network_id.clone()).collect();
        self.ensure_networks(&networks)?;
        let netns = open_netns(netns_path)?;
        let veths = match self.create_veths(&netns, status) {
            Err(error) if error.is_missing_link() => {
                // The bridge was deleted and nobody has noticed yet.
                tracing::warn!(error = %chain(&error), "a bridge is gone; making it anew");
                self.repair_links()?;
                self.create_veths(&netns, status).map_err(NetworkError::Link)?
            }
            outcome => outcome.map_err(NetworkError::Link)?,
        };
        let links_ms = started.elapsed().as_secs_f64() * 1e3;
        let elements = state::port_rows(status);
        let rest = within_netns(netns_path, || bridge::configure_namespace(&veths))
            .map_err(NetworkError::Namespace)
            .and_then(|configured| configured.map_err(NetworkError::Link))
            .and_then(|()| self.change_rows(&[], &elements));
        if let Err(error) = rest {
            let names = veths.iter().map(|veth| veth.host_interface.as_str());
            if let Err(left) = self.links().delete(names) {
                tracing::warn!(error = %chain(&left), "links of a failed connection remain");
            }
            return Err(error);
        }
        let all_ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::trace!(links_ms, inside_and_rules_ms = all_ms - links_ms, "links are made");
        Ok(elements)
    }

    fn create_veths(
        &self,
        netns: &File,
        status: &NetworkStatus,
    ) -> std::result::Result<Vec<Veth>, LinkError> {
        let veths = self.veths(status);
        self.links().create_veths(netns.as_fd(), &veths)?;
        Ok(veths)
    }

    fn veths(&self, status: &NetworkStatus) -> Vec<Veth> {
        let state = self.state();
        state::veths(status, |network| {
            let entry = state.entry_by_id(network)?;
            Some((entry.bridge_index?, entry.options.mtu))
        })
    }

    async fn teardown(self: Arc<Self>, owner: &str) -> Result<()> {
        let started = Instant::now();
        let elements = {
            let mut state = self.state();
            if !state.has(owner) {
                return Ok(());
            }
            state.connection_mut(owner).map(|connection| connection.elements.clone()).unwrap_or_default()
        };
        self.resolver.change_names(|names| names.remove_member(owner));
        if !elements.is_empty() {
            self.clone().blocking(move |shared| shared.change_rows(&elements, &[])).await?;
        }
        let removed = self.store.commit(vec![Change::RemoveLeases { owner: owner.to_owned() }]);
        removed.await.map_err(NetworkError::Store)?;
        drop(self.state().free(owner));
        tracing::debug!(owner, duration_ms = started.elapsed().as_secs_f64() * 1e3, "disconnected");
        Ok(())
    }

    /// Makes the networks' bridges, rows and resolvers be there.
    fn ensure_networks(&self, networks: &BTreeSet<NetworkId>) -> Outcome<()> {
        for network in networks {
            let is_ready =
                self.state().entry_by_id(network).is_some_and(|entry| entry.bridge_index.is_some());
            if !is_ready {
                let elements = self.prepare_network(network)?;
                self.change_rows(&[], &elements)?;
            }
        }
        Ok(())
    }

    fn change_rows(&self, remove: &[Element], add: &[Element]) -> Outcome<()> {
        let difference = self.table.change(remove, add).map_err(|error| self.table_error(error))?;
        self.forget_stale_flows(&difference);
        Ok(())
    }

    /// Not worth failing for: such flows end when their clients rest for a while.
    fn forget_stale_flows(&self, difference: &Difference) {
        let stale = Stale::of(difference);
        if stale.is_empty() {
            return;
        }
        let addresses = self.links().addresses().unwrap_or_default();
        let host = addresses.iter().map(|(_, address)| address.addr()).collect();
        match conntrack::forget(&stale, &host) {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "stale udp flows are forgotten"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "stale udp flows can not be forgotten");
            }
        }
    }

    /// The bridge and the resolver of a network; returns its rows for the table.
    fn prepare_network(&self, network: &NetworkId) -> Outcome<Vec<Element>> {
        let (bridge, gateway, subnet, dns_enabled, is_default) = {
            let state = self.state();
            let Some(entry) = state.entry_by_id(network) else { return Ok(Vec::new()) };
            let is_default = entry.record.name.as_str() == DEFAULT_NETWORK;
            (entry.bridge(), entry.gateway, entry.subnet, entry.record.dns_enabled, is_default)
        };
        bridge::ensure_forwarding().map_err(NetworkError::Link)?;
        let index = {
            let mut links = self.links();
            let index = links.ensure_bridge(&bridge).map_err(NetworkError::Link)?;
            if is_default {
                let ours =
                    links.ensure_route(self.service_subnet, index, gateway).map_err(NetworkError::Link)?;
                if !ours {
                    tracing::warn!(
                        subnet = %self.service_subnet,
                        "the subnet of services is routed elsewhere: the host itself may not reach them"
                    );
                }
            }
            index
        };
        let resolver_port = match dns_enabled {
            true => Some(
                self.resolver
                    .listen(network, gateway)
                    .map_err(|source| NetworkError::Resolver { gateway, source })?,
            ),
            false => None,
        };
        self.resolver.change_names(|names| names.add_subnet(subnet));
        let mut state = self.state();
        let Some(entry) = state.entry_by_id_mut(network) else { return Ok(Vec::new()) };
        entry.bridge_index = Some(index);
        entry.elements = entry.rows(resolver_port);
        Ok(entry.elements.clone())
    }

    fn ensure_default_bridge(&self) -> Outcome<()> {
        let default = self
            .state()
            .entries()
            .find(|entry| entry.record.name.as_str() == DEFAULT_NETWORK)
            .map(|entry| entry.record.id.clone());
        self.ensure_networks(&default.into_iter().collect())
    }

    fn member(&self, request: &SandboxNetwork, status: &NetworkStatus) -> super::names::Member {
        let state = self.state();
        state::member(request, status, |network| {
            state.entry_by_id(network).is_some_and(|entry| !entry.record.internal)
        })
    }

    fn adopt(&self, standing: Vec<(SandboxNetwork, NetworkStatus)>) {
        for (request, status) in standing {
            let owner = request.owner.clone();
            let member = self.member(&request, &status);
            let elements = state::port_rows(&status);
            let host_ports = state::listed_ports(&status.ports);
            self.state().adopt(request, status, elements);
            self.resolver.change_names(|names| names.put_member(&owner, member));
            match ports::hold(&host_ports, self.unheld()) {
                Ok(held) => {
                    if let Some(connection) = self.state().connection_mut(&owner) {
                        connection.held = held;
                    }
                }
                // Someone took it while no daemon held it. The table still comes first.
                Err(error) => tracing::warn!(owner, %error, "a published port is no longer held"),
            }
        }
    }

    fn restore_host(&self, services: Elements, has_services: bool) -> Outcome<()> {
        let in_use: BTreeSet<NetworkId> = {
            let state = self.state();
            let interfaces = state.connections().filter_map(|connection| connection.status.as_ref());
            let mut in_use: BTreeSet<NetworkId> = interfaces
                .flat_map(|status| status.interfaces.iter().map(|interface| interface.network_id.clone()))
                .collect();
            if has_services {
                let default = state.entries().find(|entry| entry.record.name.as_str() == DEFAULT_NETWORK);
                in_use.extend(default.map(|entry| entry.record.id.clone()));
            }
            in_use
        };
        let mut elements = services;
        for network in &in_use {
            elements.extend(self.prepare_network(network)?);
        }
        elements
            .extend(self.state().connections().flat_map(|connection| connection.elements.iter().cloned()));
        self.table.replace(elements).map_err(|error| self.table_error(error))?;
        self.repair_links()?;
        Ok(())
    }

    fn repair_host(&self) -> Outcome<()> {
        self.repair_links()?;
        if self.table.repair().map_err(|error| self.table_error(error))? {
            tracing::warn!(
                table = self.prefix,
                "the nftables table was changed by someone else; installed anew"
            );
        }
        Ok(())
    }

    /// Bridges first, then what hangs on them.
    fn repair_links(&self) -> Outcome<()> {
        let (links, addresses) = {
            let mut host = self.links();
            (host.all().map_err(NetworkError::Link)?, host.addresses().map_err(NetworkError::Link)?)
        };
        let broken: Vec<(NetworkId, String)> = self
            .state()
            .entries()
            .filter_map(|entry| entry.bridge_index.map(|index| (entry, index)))
            .filter(|(entry, index)| {
                let bridge = entry.bridge();
                let link = links.get(&bridge.name);
                let is_sound = link.is_some_and(|link| link.index == *index && link.is_up)
                    && addresses.contains(&(*index, bridge.address));
                !is_sound
            })
            .map(|(entry, _)| (entry.record.id.clone(), entry.record.bridge.clone()))
            .collect();
        for (network, bridge) in broken {
            tracing::warn!(bridge, "a bridge was changed by someone else; putting it right");
            self.prepare_network(&network)?;
        }
        let connected: Vec<(SandboxNetwork, NetworkStatus)> = self
            .state()
            .connections()
            .filter_map(|connection| Some((connection.request.clone(), connection.status.clone()?)))
            .collect();
        for (request, status) in connected {
            let veths = self.veths(&status);
            let (there, missing): (Vec<_>, Vec<_>) =
                veths.into_iter().partition(|veth| links.contains_key(&veth.host_interface));
            for veth in there {
                if links.get(&veth.host_interface).is_some_and(|link| link.master != Some(veth.bridge_index))
                {
                    tracing::warn!(name = request.name, "a link was off its bridge; attaching it");
                    let attached = self.links().attach(&veth.host_interface, veth.bridge_index);
                    attached.map_err(NetworkError::Link)?;
                }
            }
            if !missing.is_empty()
                && let Err(error) = self.recreate(&request, &missing)
            {
                // Its namespace may be on its way out: the owner will say so.
                tracing::warn!(name = request.name, error = %chain(&error), "a lost link can not be made anew");
            }
        }
        Ok(())
    }

    fn recreate(&self, request: &SandboxNetwork, missing: &[Veth]) -> Outcome<()> {
        tracing::warn!(name = request.name, "links are gone; making them anew");
        let netns = open_netns(&request.netns)?;
        self.links().create_veths(netns.as_fd(), missing).map_err(NetworkError::Link)?;
        within_netns(&request.netns, || bridge::configure_namespace(missing))
            .map_err(NetworkError::Namespace)?
            .map_err(NetworkError::Link)
    }

    /// Ports of the host that Services ask for. Those that something else has are left out; the first is told.
    fn take_node_ports(&self, rendered: &service::Rendered) -> (Elements, Option<EngineError>) {
        let mut elements = rendered.elements.clone();
        let mut conflict = None;
        let mut state = self.state();
        state.ports.free_owners(is_service_owner);
        for node_port in &rendered.node_ports {
            let owner = PortOwner {
                id: service_owner(&node_port.service, node_port.port),
                display: format!("service {}", node_port.service),
            };
            match state.ports.take(&[node_port.port], &owner) {
                Ok(()) => elements.extend(node_port.elements.iter().cloned()),
                Err(error) => {
                    let subject = Subject::Service(node_port.service.clone());
                    let kind = crate::engine::error::ErrorKind::InUse;
                    conflict.get_or_insert_with(|| {
                        EngineError::new(kind, subject, "open node port").with_source(error)
                    });
                }
            }
        }
        (elements, conflict)
    }

    fn remembered_services(&self) -> Vec<VirtualService> {
        match std::fs::read(&self.services_file) {
            Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|error| {
                let path = self.services_file.display();
                tracing::warn!(%path, %error, "the services of the last daemon can not be read");
                Vec::new()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.services_file.display();
                tracing::warn!(%path, %error, "the services of the last daemon can not be read");
                Vec::new()
            }
        }
    }

    fn remember_services(&self, services: &[VirtualService]) -> Outcome<()> {
        let path = &self.services_file;
        let failed = |source| NetworkError::ServicesFile { path: path.clone(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let json = serde_json::to_vec(services).map_err(|error| failed(error.into()))?;
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, json).and_then(|()| std::fs::rename(&aside, path)).map_err(failed)
    }

    /// Another program's chain may drop what ours accepts; nothing here can overrule it.
    async fn warn_about_foreign_drops(self: &Arc<Self>) {
        let found = self.clone().blocking(|shared| {
            super::nft::foreign_drops(&shared.prefix).map_err(|error| shared.table_error(error))
        });
        let prefix = &self.prefix;
        match found.await {
            Ok(drops) => {
                if !drops.forward.is_empty() {
                    tracing::warn!(
                        chains = drops.forward.join(", "),
                        "the host's firewall drops forwarded packets by default: containers reach nothing and \
                         published ports do not answer unless it lets them, as with \
                         `iptables -I FORWARD -i {prefix}+ -j ACCEPT` and `iptables -I FORWARD -o {prefix}+ -j ACCEPT`"
                    );
                }
                if !drops.input.is_empty() {
                    tracing::warn!(
                        chains = drops.input.join(", "),
                        "the host's firewall drops incoming packets by default: containers can not ask for names \
                         unless it lets them, as with `iptables -I INPUT -i {prefix}+ -p udp --dport 53 -j ACCEPT`"
                    );
                }
            }
            Err(error) => tracing::debug!(error = %chain(&error), "other tables can not be read"),
        }
    }

    pub(super) fn stop_watch(&self) {
        if let Some(watch) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watch.abort();
        }
    }
}

fn open_netns(path: &Path) -> Outcome<File> {
    File::open(path).map_err(|source| NetworkError::OpenNamespace { path: path.to_owned(), source })
}

/// Service ports are kept apart from containers' by a character no identifier has.
fn service_owner(service: &str, port: HostPort) -> String {
    format!("service:{service}:{}:{}", port.protocol.as_str(), port.port)
}

fn is_service_owner(id: &str) -> bool {
    id.starts_with("service:")
}
