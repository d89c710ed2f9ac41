//! The small files every container gets: `/etc/hosts`, `/etc/resolv.conf`, `/run/.containerenv`. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::ContainerRecord;
use super::spec::DnsConfig;
use crate::engine::network::NetworkStatus;

/// `/etc/hosts` for a network namespace of its own.
pub fn hosts(network: Option<&NetworkStatus>, names: &[&str], extra: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let interface = network.and_then(|network| network.interfaces.first());
    for address in interface.iter().flat_map(|interface| &interface.addresses) {
        line(&mut text, address.address, names);
    }
    if interface.is_none() {
        // Nobody can reach it, but it shall know its own name.
        line(&mut text, IpAddr::from([127, 0, 1, 1]), names);
    }
    let gateway =
        interface.and_then(|interface| interface.addresses.iter().find_map(|address| address.gateway));
    if let Some(gateway) = gateway {
        line(&mut text, gateway, &["host.containers.internal", "host.docker.internal"]);
    }
    text + &extra_hosts(extra)
}

/// The host's own file with the request's lines.
pub fn hosts_of_host(host: &str, extra: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = host.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + &extra_hosts(extra)
}

pub fn extra_hosts(extra: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = String::new();
    for (address, names) in extra {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        line(&mut text, *address, &names);
    }
    text
}

fn line(text: &mut String, address: IpAddr, names: &[&str]) {
    let mut seen = Vec::new();
    for name in names {
        if !name.is_empty() && !seen.contains(name) {
            seen.push(name);
        }
    }
    let _ = writeln!(text, "{address}\t{}", seen.join(" "));
}

/// glibc reads no more name servers than this, musl neither.
const MAX_SERVERS: usize = 3;

/// `/etc/resolv.conf`: servers of the request, else of the network, else of the host. A server on the host's
/// loopback means nothing in another network namespace.
pub fn resolv_conf(dns: &DnsConfig, network_servers: &[IpAddr], host: &str, own_namespace: bool) -> String {
    let words = |keyword: &str| -> Vec<Vec<&str>> {
        host.lines()
            .map(|line| line.split(['#', ';']).next().unwrap_or_default())
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.first() == Some(&keyword))
            .collect()
    };
    let host_servers = || {
        words("nameserver")
            .into_iter()
            .filter_map(|words| words.get(1)?.split('%').next()?.parse::<IpAddr>().ok())
            .filter(|address| !(own_namespace && address.is_loopback()))
            .collect::<Vec<_>>()
    };
    let servers = match (dns.servers.as_slice(), network_servers) {
        ([], []) => host_servers(),
        ([], servers) => servers.to_vec(),
        (servers, _) => servers.to_vec(),
    };
    // The last search line counts.
    let host_list = |keyword| words(keyword).pop().map(|words| words[1..].join(" ")).unwrap_or_default();
    let searches = if dns.searches.is_empty() { host_list("search") } else { dns.searches.join(" ") };
    let options = if dns.options.is_empty() { host_list("options") } else { dns.options.join(" ") };

    let mut text = String::new();
    // podman: a lone dot means none.
    if !searches.is_empty() && searches != "." {
        let _ = writeln!(text, "search {searches}");
    }
    for server in servers.iter().take(MAX_SERVERS) {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {options}");
    }
    text
}

/// `/run/.containerenv`: its presence says "container"; what is in it only a privileged one is told, as by
/// podman.
pub fn container_environment(record: &ContainerRecord) -> String {
    if !record.spec.security.privileged {
        return String::new();
    }
    format!(
        "engine=\"selkie-{}\"\nname=\"{}\"\nid=\"{}\"\nimage=\"{}\"\nimageid=\"{}\"\nrootless=0\n",
        env!("CARGO_PKG_VERSION"),
        record.name,
        record.id,
        record.image_name,
        record.image_id.as_ref().map_or("", |id| id.as_str()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::NetworkId;
    use crate::engine::network::{AssignedAddress, InterfaceStatus};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_names_the_container_and_its_host() {
        let status = NetworkStatus {
            interfaces: vec![InterfaceStatus {
                network: "podman".parse().unwrap(),
                network_id: NetworkId::random(),
                interface: "eth0".into(),
                host_interface: "veth0".into(),
                mac: String::new(),
                addresses: vec![AssignedAddress {
                    address: ip("10.88.0.5"),
                    prefix_len: 16,
                    gateway: Some(ip("10.88.0.1")),
                }],
                aliases: Vec::new(),
            }],
            ..NetworkStatus::default()
        };
        let extra = [(ip("1.2.3.4"), vec!["a".to_owned(), "b".to_owned()])];
        let text = hosts(Some(&status), &["web", "web", "front"], &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
        for line in [
            "10.88.0.5\tweb front",
            "10.88.0.1\thost.containers.internal host.docker.internal",
            "1.2.3.4\ta b",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
        }
        assert!(hosts(None, &["web"], &[]).contains("127.0.1.1\tweb\n"));
        assert_eq!(hosts_of_host("::1 x", &extra), "::1 x\n1.2.3.4\ta b\n");
    }

    #[test]
    fn resolvers_in_order_of_preference() {
        let host = "# comment\nnameserver 127.0.0.53\nnameserver 9.9.9.9 # quad\nsearch old\nsearch corp.example lan\noptions edns0\n";
        let mut dns = DnsConfig::default();
        assert_eq!(
            resolv_conf(&dns, &[], host, true),
            "search corp.example lan\nnameserver 9.9.9.9\noptions edns0\n"
        );
        assert!(resolv_conf(&dns, &[], host, false).contains("nameserver 127.0.0.53\n"));
        let network = resolv_conf(&dns, &[ip("10.88.0.1")], host, true);
        assert!(network.contains("nameserver 10.88.0.1\n") && !network.contains("9.9.9.9"));
        dns.servers = ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"].map(ip).to_vec();
        dns.searches = vec![".".into()];
        dns.options = vec!["ndots:5".into()];
        assert_eq!(
            resolv_conf(&dns, &[ip("10.88.0.1")], host, true),
            "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default(), &[], "", true), "");
    }
}
