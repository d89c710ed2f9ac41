//! Who is called what, and the answer to a question about it: pure.
//!
//! A container or pod is found by the members of its networks; a Service by everyone, as in Kubernetes.
//! Expected `search` lists in resolv.conf: `dns.podman` for containers (as podman writes), and
//! `NAMESPACE.svc.cluster.local svc.cluster.local cluster.local` with `ndots:5` for pods of manifests.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};

use crate::engine::id::NetworkId;

/// The domain of Kubernetes names. Nothing below it is ever asked of others.
const CLUSTER_DOMAIN: &str = "cluster.local";
const POD_SUFFIX: &str = ".pod.cluster.local";
/// podman's domain: `NAME.dns.podman` is `NAME`.
const PODMAN_DOMAIN: &str = "dns.podman";
/// Addresses change when a pod is replaced: nobody shall remember them for long.
const TTL_SECS: u32 = 5;
/// What we offer to receive, and answer at most over UDP (the value of DNS flag day 2020).
const UDP_PAYLOAD_BYTES: u16 = 1232;
const UDP_PAYLOAD_WITHOUT_EDNS_BYTES: usize = 512;

/// Every name this engine knows. Names are lower case without a final dot.
#[derive(Debug, Default)]
pub struct Names {
    members: HashMap<String, Member>,
    by_name: HashMap<(NetworkId, String), Vec<Ipv4Addr>>,
    owner_of: HashMap<Ipv4Addr, String>,
    services: HashMap<String, Vec<Ipv4Addr>>,
    service_of: HashMap<Ipv4Addr, String>,
    /// Addresses in here are ours to name.
    subnets: BTreeMap<Ipv4Net, ()>,
}

/// A container or pod with its place in each network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What its address is called.
    pub name: String,
    pub places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub network: NetworkId,
    pub address: Ipv4Addr,
    /// All names, its own included.
    pub names: Vec<String>,
    /// The network has a way out, so questions about the world may be forwarded.
    pub has_way_out: bool,
}

/// A Service's names and what they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceNames {
    pub names: Vec<String>,
    /// The virtual address, or the endpoints of a headless Service.
    pub addresses: Vec<Ipv4Addr>,
}

/// What is known about a name.
#[derive(Debug, PartialEq, Eq)]
enum Knowledge {
    Addresses(Vec<Ipv4Addr>),
    PointsTo(String),
    /// Ours, there, and without records.
    Empty,
    /// Ours, and not there.
    Missing,
    /// Someone else's.
    Foreign,
}

/// What to do with a question.
#[derive(Debug)]
pub enum Verdict {
    Answer(Vec<u8>),
    /// Ask the host's resolvers.
    Forward,
    /// Not even a question.
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Names {
    pub fn add_subnet(&mut self, subnet: Ipv4Net) {
        self.subnets.insert(subnet.trunc(), ());
    }

    pub fn remove_subnet(&mut self, subnet: Ipv4Net) {
        self.subnets.remove(&subnet.trunc());
    }

    /// Puts in a member, replacing what `owner` had.
    pub fn put_member(&mut self, owner: &str, member: Member) {
        self.remove_member(owner);
        for place in &member.places {
            self.owner_of.insert(place.address, owner.to_owned());
            for name in &place.names {
                let addresses = self.by_name.entry((place.network.clone(), normal(name))).or_default();
                if !addresses.contains(&place.address) {
                    addresses.push(place.address);
                }
            }
        }
        self.members.insert(owner.to_owned(), member);
    }

    /// The name of its own changes, in all its networks; aliases stay.
    pub fn rename_member(&mut self, owner: &str, name: &str) {
        let Some(mut member) = self.members.get(owner).cloned() else { return };
        for place in &mut member.places {
            // An alias may be the same word and stays then.
            if let Some(own) = place.names.iter_mut().find(|known| **known == member.name) {
                name.clone_into(own);
            }
        }
        name.clone_into(&mut member.name);
        self.put_member(owner, member);
    }

    pub fn remove_member(&mut self, owner: &str) {
        let Some(member) = self.members.remove(owner) else { return };
        for place in member.places {
            if self.owner_of.get(&place.address).is_some_and(|other| other == owner) {
                self.owner_of.remove(&place.address);
            }
            for name in place.names {
                let key = (place.network.clone(), normal(&name));
                if let Some(addresses) = self.by_name.get_mut(&key) {
                    addresses.retain(|address| *address != place.address);
                    if addresses.is_empty() {
                        self.by_name.remove(&key);
                    }
                }
            }
        }
    }

    pub fn replace_services(&mut self, services: &[ServiceNames]) {
        self.services.clear();
        self.service_of.clear();
        for service in services {
            // The longest name is the complete one.
            let full = service.names.iter().max_by_key(|name| name.len());
            for address in &service.addresses {
                if let Some(full) = full {
                    self.service_of.insert(*address, normal(full));
                }
            }
            for name in &service.names {
                let addresses = self.services.entry(normal(name)).or_default();
                addresses.extend(service.addresses.iter().copied());
            }
        }
    }

    /// Decides about one packet from `asker`, received on the gateway of `network`.
    pub fn decide(
        &self,
        query: &[u8],
        network: &NetworkId,
        asker: Ipv4Addr,
        transport: Transport,
    ) -> Verdict {
        // Nothing shorter has an identifier to answer to; answers to answers make loops.
        if query.len() < 12 || query[2] & 0x80 != 0 {
            return Verdict::Ignore;
        }
        let Ok(request) = Message::from_vec(query) else {
            return refuse_unreadable(query);
        };
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return finish(&request, response, transport);
        }
        let [question] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return finish(&request, response, transport);
        };
        if question.query_class() != DNSClass::IN {
            response.metadata.response_code = ResponseCode::NotImp;
            return finish(&request, response, transport);
        }

        let place = self.owner_of.get(&asker).and_then(|owner| self.members.get(owner));
        let knowledge = self.know(question.name(), network, place);
        let wanted = question.query_type();
        let owner_name = question.name().clone();
        let record = |data| Record::from_rdata(owner_name.clone(), TTL_SECS, data);
        let any = wanted == RecordType::ANY;
        match knowledge {
            Knowledge::Addresses(addresses) if any || wanted == RecordType::A => {
                response.add_answers(addresses.into_iter().map(|address| record(RData::A(A(address)))));
            }
            Knowledge::PointsTo(name) if any || wanted == RecordType::PTR => {
                match Name::from_ascii(format!("{name}.")) {
                    Ok(name) => {
                        response.add_answer(record(RData::PTR(PTR(name))));
                    }
                    // A container name that is no host name.
                    Err(_) => {
                        response.add_authority(record(start_of_authority(&owner_name)));
                    }
                }
            }
            Knowledge::Addresses(_) | Knowledge::PointsTo(_) | Knowledge::Empty => {
                response.add_authority(record(start_of_authority(&owner_name)));
            }
            Knowledge::Missing => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(record(start_of_authority(&owner_name)));
            }
            Knowledge::Foreign => {
                let has_way_out = place.is_none_or(|member| member.places.iter().any(|p| p.has_way_out));
                if has_way_out {
                    return Verdict::Forward;
                }
                response.metadata.response_code = ResponseCode::NXDomain;
                return finish(&request, response, transport);
            }
        }
        response.metadata.authoritative = true;
        finish(&request, response, transport)
    }

    fn know(&self, name: &Name, network: &NetworkId, asker: Option<&Member>) -> Knowledge {
        let text = normal(&name.to_ascii());
        if text.ends_with(".in-addr.arpa") {
            return self.know_address(name);
        }
        if let Some(addresses) = self.services.get(&text) {
            return some_addresses(addresses.clone());
        }
        let short = text.strip_suffix(PODMAN_DOMAIN).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&text);
        let mut addresses: Vec<Ipv4Addr> = Vec::new();
        let networks = asker.map(|member| member.places.iter().map(|place| &place.network).collect());
        for network in networks.unwrap_or_else(|| vec![network]) {
            addresses.extend(self.by_name.get(&(network.clone(), short.to_owned())).into_iter().flatten());
        }
        if !addresses.is_empty() {
            return some_addresses(addresses);
        }
        if let Some(address) = text.strip_suffix(POD_SUFFIX).and_then(pod_address)
            && self.owner_of.contains_key(&address)
        {
            return some_addresses(vec![address]);
        }
        match text.as_str() {
            CLUSTER_DOMAIN | PODMAN_DOMAIN | "svc.cluster.local" | "pod.cluster.local" => Knowledge::Empty,
            other if is_below(other, CLUSTER_DOMAIN) => {
                // A name above a known one exists, though it has no records (RFC 8020).
                let below = format!(".{other}");
                if self.services.keys().any(|known| known.ends_with(&below)) {
                    Knowledge::Empty
                } else {
                    Knowledge::Missing
                }
            }
            other if is_below(other, PODMAN_DOMAIN) => Knowledge::Missing,
            _ => Knowledge::Foreign,
        }
    }

    fn know_address(&self, name: &Name) -> Knowledge {
        let Ok(IpNet::V4(asked)) = name.parse_arpa_name() else { return Knowledge::Foreign };
        if asked.prefix_len() != 32 {
            return Knowledge::Foreign;
        }
        let address = asked.addr();
        if let Some(service) = self.service_of.get(&address)
            && !self.owner_of.contains_key(&address)
        {
            return Knowledge::PointsTo(service.clone());
        }
        if let Some(member) = self.owner_of.get(&address).and_then(|owner| self.members.get(owner)) {
            return Knowledge::PointsTo(normal(&member.name));
        }
        if self.subnets.keys().any(|subnet| subnet.contains(&address)) {
            return Knowledge::Missing;
        }
        Knowledge::Foreign
    }
}

/// The answer when the host's resolvers gave none.
pub fn server_failure(query: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = ResponseCode::ServFail;
    response.add_queries(request.queries);
    response.to_vec().ok()
}

fn some_addresses(addresses: Vec<Ipv4Addr>) -> Knowledge {
    if addresses.is_empty() { Knowledge::Empty } else { Knowledge::Addresses(addresses) }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// `10-88-0-5.default` is 10.88.0.5.
fn pod_address(text: &str) -> Option<Ipv4Addr> {
    let (dashed, _namespace) = text.split_once('.')?;
    dashed.replace('-', ".").parse().ok()
}

/// Lets resolvers remember for a moment that there is nothing (RFC 2308).
fn start_of_authority(name: &Name) -> RData {
    let server = Name::from_labels(["ns", "dns", "cluster", "local"].map(str::as_bytes))
        .unwrap_or_else(|_| name.clone());
    let ttl = TTL_SECS as i32;
    RData::SOA(SOA::new(server.clone(), server, 1, ttl, ttl, ttl, TTL_SECS))
}

fn refuse_unreadable(query: &[u8]) -> Verdict {
    let id = u16::from_be_bytes([query[0], query[1]]);
    let mut response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    response.metadata.message_type = MessageType::Response;
    response.to_vec().map_or(Verdict::Ignore, Verdict::Answer)
}

fn finish(request: &Message, mut response: Message, transport: Transport) -> Verdict {
    let mut limit = UDP_PAYLOAD_WITHOUT_EDNS_BYTES;
    if let Some(asked) = &request.edns {
        limit = usize::from(asked.max_payload().clamp(512, UDP_PAYLOAD_BYTES));
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_BYTES);
        response.set_edns(edns);
    }
    let Ok(bytes) = response.to_vec() else { return Verdict::Ignore };
    if transport == Transport::Udp && bytes.len() > limit {
        return response.truncate().to_vec().map_or(Verdict::Ignore, Verdict::Answer);
    }
    Verdict::Answer(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn network(digit: char) -> NetworkId {
        NetworkId::try_from(digit.to_string().repeat(64)).unwrap()
    }

    fn place(network_digit: char, last: u8, names: &[&str]) -> Place {
        Place {
            network: network(network_digit),
            address: Ipv4Addr::new(10, 88, 0, last),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            has_way_out: network_digit != 'f',
        }
    }

    fn sample() -> Names {
        let mut names = Names::default();
        names.add_subnet("10.88.0.0/16".parse().unwrap());
        names.put_member(
            "a",
            Member {
                name: "web".into(),
                places: vec![place('1', 2, &["Web", "www"]), place('2', 3, &["web"])],
            },
        );
        names.put_member("b", Member { name: "db".into(), places: vec![place('2', 4, &["db"])] });
        names.put_member("c", Member { name: "shy".into(), places: vec![place('f', 9, &["shy"])] });
        names.replace_services(&[
            ServiceNames {
                names: vec!["shop".into(), "shop.default".into(), "shop.default.svc.cluster.local".into()],
                addresses: vec![Ipv4Addr::new(10, 96, 0, 7)],
            },
            ServiceNames { names: vec!["idle.default.svc.cluster.local".into()], addresses: vec![] },
        ]);
        names
    }

    /// `CODE answer answer`, or `forward`.
    fn ask(names: &Names, name: &str, kind: RecordType, asker: u8) -> String {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let network = network(if asker == 9 { 'f' } else { '1' });
        let asker = Ipv4Addr::new(10, 88, 0, asker);
        match names.decide(&request.to_vec().unwrap(), &network, asker, Transport::Udp) {
            Verdict::Forward => "forward".to_owned(),
            Verdict::Ignore => "ignore".to_owned(),
            Verdict::Answer(bytes) => {
                let response = Message::from_vec(&bytes).unwrap();
                assert_eq!(response.queries, request.queries);
                assert_eq!(response.metadata.id, request.metadata.id);
                let mut parts = vec![response.metadata.response_code.to_str().to_owned()];
                parts.extend(response.answers.iter().map(|record| record.data.to_string()));
                parts.join(" ")
            }
        }
    }

    #[test]
    fn answers_are_what_a_client_expects() {
        let names = sample();
        let cases = [
            ("web.", RecordType::A, 2, "No Error 10.88.0.2 10.88.0.3"),
            ("WEB.", RecordType::A, 4, "No Error 10.88.0.3"),
            ("www.", RecordType::A, 4, "forward"),
            ("www.dns.podman.", RecordType::A, 2, "No Error 10.88.0.2"),
            ("nobody.dns.podman.", RecordType::A, 2, "Non-Existent Domain"),
            ("web.", RecordType::AAAA, 2, "No Error"),
            ("web.", RecordType::MX, 2, "No Error"),
            ("shop.", RecordType::A, 4, "No Error 10.96.0.7"),
            ("shop.default.svc.cluster.local.", RecordType::A, 4, "No Error 10.96.0.7"),
            ("shop.default.svc.cluster.local.", RecordType::AAAA, 4, "No Error"),
            ("idle.default.svc.cluster.local.", RecordType::A, 4, "No Error"),
            ("default.svc.cluster.local.", RecordType::A, 4, "No Error"),
            ("none.default.svc.cluster.local.", RecordType::A, 4, "Non-Existent Domain"),
            ("example.org.cluster.local.", RecordType::A, 4, "Non-Existent Domain"),
            ("10-88-0-4.default.pod.cluster.local.", RecordType::A, 2, "No Error 10.88.0.4"),
            ("10-88-0-77.default.pod.cluster.local.", RecordType::A, 2, "Non-Existent Domain"),
            ("4.0.88.10.in-addr.arpa.", RecordType::PTR, 2, "No Error db."),
            ("7.0.96.10.in-addr.arpa.", RecordType::PTR, 2, "No Error shop.default.svc.cluster.local."),
            ("77.0.88.10.in-addr.arpa.", RecordType::PTR, 2, "Non-Existent Domain"),
            ("8.8.8.8.in-addr.arpa.", RecordType::PTR, 2, "forward"),
            ("example.org.", RecordType::A, 2, "forward"),
            ("notcluster.local.", RecordType::A, 2, "forward"),
            ("example.org.", RecordType::A, 9, "Non-Existent Domain"),
            ("shy.", RecordType::A, 9, "No Error 10.88.0.9"),
        ];
        for (name, kind, asker, expected) in cases {
            assert_eq!(ask(&names, name, kind, asker), expected, "{name} {kind} from {asker}");
        }
    }

    #[test]
    fn a_name_goes_with_its_last_bearer() {
        let mut names = sample();
        names.put_member("d", Member { name: "db".into(), places: vec![place('2', 5, &["db"])] });
        assert_eq!(ask(&names, "db.", RecordType::A, 4), "No Error 10.88.0.4 10.88.0.5");
        names.remove_member("b");
        assert_eq!(ask(&names, "db.", RecordType::A, 5), "No Error 10.88.0.5");
        names.remove_member("d");
        assert_eq!(ask(&names, "db.", RecordType::A, 3), "forward");
        assert_eq!(ask(&names, "4.0.88.10.in-addr.arpa.", RecordType::PTR, 2), "Non-Existent Domain");
    }

    #[test]
    fn a_new_name_replaces_the_old_one_and_leaves_aliases() {
        let mut names = sample();
        names.rename_member("b", "store");
        assert_eq!(ask(&names, "store.", RecordType::A, 4), "No Error 10.88.0.4");
        assert_eq!(ask(&names, "db.", RecordType::A, 4), "forward");
        assert_eq!(ask(&names, "4.0.88.10.in-addr.arpa.", RecordType::PTR, 2), "No Error store.");
        names.put_member("d", Member { name: "db".into(), places: vec![place('2', 5, &["db", "base"])] });
        names.rename_member("d", "db2");
        names.rename_member("nobody", "db3");
        assert_eq!(ask(&names, "base.", RecordType::A, 4), "No Error 10.88.0.5");
        assert_eq!(ask(&names, "db2.", RecordType::A, 4), "No Error 10.88.0.5");
        assert_eq!(ask(&names, "db3.", RecordType::A, 4), "forward");
    }

    #[test]
    fn an_answer_too_long_for_udp_says_so_and_fits_over_tcp() {
        let mut names = sample();
        let addresses: Vec<_> = (0..200).map(|n| Ipv4Addr::new(10, 88, 1, n)).collect();
        names.replace_services(&[ServiceNames { names: vec!["many".into()], addresses }]);
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("many.").unwrap(), RecordType::A));
        let query = request.to_vec().unwrap();
        for (transport, truncated, answers) in [(Transport::Udp, true, 0), (Transport::Tcp, false, 200)] {
            let Verdict::Answer(bytes) = names.decide(&query, &network('1'), Ipv4Addr::LOCALHOST, transport)
            else {
                panic!("no answer over {transport:?}");
            };
            let response = Message::from_vec(&bytes).unwrap();
            assert_eq!((response.metadata.truncation, response.answers.len()), (truncated, answers));
        }
    }

    #[test]
    fn rubbish_is_refused_or_ignored() {
        let names = sample();
        let decide = |bytes: &[u8]| names.decide(bytes, &network('1'), Ipv4Addr::LOCALHOST, Transport::Udp);
        assert!(matches!(decide(b"short"), Verdict::Ignore));
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
        let query = request.to_vec().unwrap();
        let mut response = query.clone();
        response[2] |= 0x80;
        assert!(matches!(decide(&response), Verdict::Ignore), "answers are not answered");
        for cut in 12..query.len() {
            match decide(&query[..cut]) {
                Verdict::Answer(bytes) => {
                    assert_eq!(
                        Message::from_vec(&bytes).unwrap().metadata.response_code,
                        ResponseCode::FormErr
                    );
                }
                other => panic!("{other:?} for a question cut at {cut}"),
            }
        }
    }
}
