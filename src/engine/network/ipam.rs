//! Which address comes next: pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use thiserror::Error;

/// Where `create` looks for a subnet: podman's pool, `10.89.0.0/24` first.
const POOL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 0);
const POOL_LAST: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 0);
const POOL_PREFIX_LEN: u8 = 24;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("no address of {0} is free")]
    Exhausted(Ipv4Net),
    #[error("address {address} is not in {subnet}")]
    Outside { address: IpAddr, subnet: Ipv4Net },
    #[error(
        "address {0} can not be given to anyone: it is the subnet's own, its gateway or its broadcast address"
    )]
    Reserved(Ipv4Addr),
    #[error("address {address} is in use by {owner}")]
    Taken { address: Ipv4Addr, owner: String },
    #[error("subnet {0} has no room for a gateway and a container")]
    TooSmall(Ipv4Net),
    #[error("{0:?} is not an IPv4 subnet like 10.89.0.0/24")]
    NotASubnet(String),
    #[error("{0:?} is an IPv6 subnet, which is not supported yet")]
    Ipv6(String),
    #[error("every /24 of the address pool is in use")]
    PoolExhausted,
}

/// The addresses of one subnet and who has them.
///
/// Addresses are given out next-fit: an address that was just freed comes round again last, because the old
/// interface may answer for some milliseconds more.
#[derive(Debug, Clone)]
pub struct AddressPool {
    subnet: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    taken: BTreeMap<Ipv4Addr, String>,
    last: Ipv4Addr,
}

impl AddressPool {
    pub fn new(subnet: Ipv4Net, gateway: Option<Ipv4Addr>) -> Self {
        let subnet = subnet.trunc();
        Self { subnet, gateway, taken: BTreeMap::new(), last: gateway.unwrap_or(subnet.network()) }
    }

    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Takes the next free address for `owner`.
    pub fn take(&mut self, owner: &str) -> Result<Ipv4Addr, AddressError> {
        let first = u32::from(self.subnet.network());
        let count = u64::from(u32::from(self.subnet.broadcast()) - first) + 1;
        let start = u64::from(u32::from(self.last).wrapping_sub(first));
        // Addresses that nobody may have are at most three, so this looks at no more than taken + 4 of them.
        let tries = count.min(self.taken.len() as u64 + 4);
        for step in 1..=tries {
            let offset = u32::try_from((start + step) % count).expect("below the size of the subnet");
            let address = Ipv4Addr::from(first + offset);
            if !self.is_reserved(address) && !self.taken.contains_key(&address) {
                self.taken.insert(address, owner.to_owned());
                self.last = address;
                return Ok(address);
            }
        }
        Err(AddressError::Exhausted(self.subnet))
    }

    /// Takes exactly `address`. Asking again for what one already has is fine.
    pub fn take_exactly(&mut self, address: IpAddr, owner: &str) -> Result<Ipv4Addr, AddressError> {
        let outside = AddressError::Outside { address, subnet: self.subnet };
        let IpAddr::V4(address) = address else { return Err(outside) };
        if !self.subnet.contains(&address) {
            return Err(outside);
        }
        if self.is_reserved(address) {
            return Err(AddressError::Reserved(address));
        }
        match self.taken.get(&address) {
            Some(other) if other != owner => Err(AddressError::Taken { address, owner: other.clone() }),
            _ => {
                self.taken.insert(address, owner.to_owned());
                Ok(address)
            }
        }
    }

    /// Continues behind the highest address in use: after a restart nobody knows which was given out last.
    pub fn continue_after_highest(&mut self) {
        if let Some(highest) = self.taken.keys().next_back() {
            self.last = *highest;
        }
    }

    pub fn free(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }

    pub fn free_owner(&mut self, owner: &str) {
        self.taken.retain(|_, other| other != owner);
    }

    pub fn owner(&self, address: Ipv4Addr) -> Option<&str> {
        self.taken.get(&address).map(String::as_str)
    }

    /// The lowest address of `owner`.
    pub fn address_of(&self, owner: &str) -> Option<Ipv4Addr> {
        self.taken.iter().find(|(_, other)| *other == owner).map(|(address, _)| *address)
    }

    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.taken.values().map(String::as_str)
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        address == self.subnet.network()
            || address == self.subnet.broadcast()
            || Some(address) == self.gateway
    }
}

/// Reads a subnet that can hold a gateway and a container.
pub fn parse_subnet(text: &str) -> Result<Ipv4Net, AddressError> {
    if text.parse::<ipnet::Ipv6Net>().is_ok() {
        return Err(AddressError::Ipv6(text.to_owned()));
    }
    let subnet: Ipv4Net = text.parse().map_err(|_| AddressError::NotASubnet(text.to_owned()))?;
    match subnet.prefix_len() {
        0..=30 => Ok(subnet.trunc()),
        _ => Err(AddressError::TooSmall(subnet)),
    }
}

/// The first host address, unless the user fixed another of the subnet.
pub fn choose_gateway(subnet: Ipv4Net, wanted: Option<IpAddr>) -> Result<Ipv4Addr, AddressError> {
    match wanted {
        None => Ok(Ipv4Addr::from(u32::from(subnet.network()) + 1)),
        Some(IpAddr::V4(address)) if subnet.contains(&address) => match address {
            reserved if reserved == subnet.network() || reserved == subnet.broadcast() => {
                Err(AddressError::Reserved(reserved))
            }
            free => Ok(free),
        },
        Some(address) => Err(AddressError::Outside { address, subnet }),
    }
}

/// The first `/24` of the pool that touches none of `used`.
pub fn choose_subnet(used: &[Ipv4Net]) -> Result<Ipv4Net, AddressError> {
    let mut candidate = u32::from(POOL_FIRST);
    while candidate <= u32::from(POOL_LAST) {
        let subnet = Ipv4Net::new(Ipv4Addr::from(candidate), POOL_PREFIX_LEN).expect("24 is a prefix length");
        match used.iter().filter(|other| overlap(subnet, **other)).map(|other| other.broadcast()).max() {
            None => return Ok(subnet),
            // Skip the whole of a large one at once.
            Some(end) => match (u32::from(end) | 0xff).checked_add(1) {
                Some(next) => candidate = next.max(candidate + 256),
                None => break,
            },
        }
    }
    Err(AddressError::PoolExhausted)
}

pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("test subnet")
    }

    #[test]
    fn a_freed_address_comes_round_last() {
        let mut pool = AddressPool::new(net("10.123.0.0/29"), Some(Ipv4Addr::new(10, 123, 0, 1)));
        let first = pool.take("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 123, 0, 2));
        pool.free(first);
        let next: Vec<_> = (0..5).map(|n| pool.take(&format!("b{n}")).unwrap().octets()[3]).collect();
        assert_eq!(next, [3, 4, 5, 6, 2]);
        assert_eq!(pool.take("c"), Err(AddressError::Exhausted(net("10.123.0.0/29"))));
    }

    #[test]
    fn a_fixed_address_must_be_inside_free_and_ordinary() {
        let mut pool = AddressPool::new(net("10.123.0.0/24"), Some(Ipv4Addr::new(10, 123, 0, 1)));
        let cases = [
            ("10.123.0.9", Ok(Ipv4Addr::new(10, 123, 0, 9))),
            ("10.123.0.1", Err(AddressError::Reserved(Ipv4Addr::new(10, 123, 0, 1)))),
            ("10.123.0.0", Err(AddressError::Reserved(Ipv4Addr::new(10, 123, 0, 0)))),
            ("10.123.0.255", Err(AddressError::Reserved(Ipv4Addr::new(10, 123, 0, 255)))),
        ];
        for (address, expected) in cases {
            assert_eq!(pool.take_exactly(address.parse().unwrap(), "web"), expected, "{address}");
        }
        assert!(pool.take_exactly("10.123.0.9".parse().unwrap(), "web").is_ok(), "again for the same owner");
        let taken = pool.take_exactly("10.123.0.9".parse().unwrap(), "db").unwrap_err();
        assert_eq!(taken.to_string(), "address 10.123.0.9 is in use by web");
        assert!(pool.take_exactly("10.124.0.9".parse().unwrap(), "db").is_err());
        assert!(pool.take_exactly("fd00::9".parse().unwrap(), "db").is_err());
    }

    #[test]
    fn subnets_are_read_strictly() {
        assert_eq!(parse_subnet("10.89.3.7/24").unwrap(), net("10.89.3.0/24"));
        assert!(matches!(parse_subnet("fd00::/64"), Err(AddressError::Ipv6(_))));
        assert!(matches!(parse_subnet("10.0.0.0/31"), Err(AddressError::TooSmall(_))));
        assert!(matches!(parse_subnet("10.0.0.0"), Err(AddressError::NotASubnet(_))));
    }

    #[test]
    fn the_next_subnet_avoids_everything_in_use() {
        assert_eq!(choose_subnet(&[]).unwrap(), net("10.89.0.0/24"));
        assert_eq!(choose_subnet(&[net("10.89.0.0/24")]).unwrap(), net("10.89.1.0/24"));
        assert_eq!(
            choose_subnet(&[net("10.88.0.0/15"), net("10.90.0.128/25")]).unwrap(),
            net("10.90.1.0/24")
        );
        assert_eq!(choose_subnet(&[net("10.0.0.0/8")]), Err(AddressError::PoolExhausted));
        assert_eq!(choose_subnet(&[net("0.0.0.0/0")]), Err(AddressError::PoolExhausted));
    }

    proptest! {
        // No seed files: they would land beside the top-level directories.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nobody_ever_shares_an_address(
            prefix_len in 24u8..=30,
            gateway in 1u32..3,
            steps in proptest::collection::vec((any::<bool>(), 0usize..40), 1..200),
        ) {
            let subnet = Ipv4Net::new(Ipv4Addr::new(10, 123, 7, 0), prefix_len).unwrap();
            let gateway = Ipv4Addr::from(u32::from(subnet.network()) + gateway);
            let mut pool = AddressPool::new(subnet, Some(gateway));
            let mut held: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
            let room = subnet.hosts().count() - 1;
            for (take, owner) in steps {
                let owner = format!("owner{owner}");
                if take {
                    match pool.take(&owner) {
                        Ok(address) => {
                            prop_assert!(subnet.contains(&address));
                            prop_assert!(address != gateway);
                            prop_assert!(address != subnet.network() && address != subnet.broadcast());
                            prop_assert!(held.insert(address, owner).is_none(), "{} given twice", address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), room, "refused although there is room"),
                    }
                } else {
                    pool.free_owner(&owner);
                    held.retain(|_, other| *other != owner);
                }
            }
        }

        #[test]
        fn a_chosen_subnet_overlaps_none(used in proptest::collection::vec((80u8..=255, any::<u8>(), 10u8..=30), 0..40)) {
            let used: Vec<Ipv4Net> = used
                .into_iter()
                .map(|(b, c, len)| Ipv4Net::new(Ipv4Addr::new(10, b, c, 0), len).unwrap().trunc())
                .collect();
            if let Ok(chosen) = choose_subnet(&used) {
                prop_assert!(used.iter().all(|other| !overlap(chosen, *other)));
            }
        }
    }
}
