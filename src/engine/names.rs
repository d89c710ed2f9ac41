//! The one name space of containers and pods, and names made up for containers that were given none.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{EngineError, ErrorKind, Result, Subject};
use super::id::{ContainerId, ContainerName, PodId};

/// Whose name it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) enum Owner {
    Container(ContainerId),
    Pod(PodId),
}

impl Owner {
    fn subject(&self, name: &str) -> Subject {
        match self {
            Self::Container(_) => Subject::Container(name.to_owned()),
            Self::Pod(_) => Subject::Pod(name.to_owned()),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Container(id) => id.as_str(),
            Self::Pod(id) => id.as_str(),
        }
    }
}

/// Which names are taken. A name is taken before its object is durable, and given back if that fails.
#[derive(Default)]
pub(in crate::engine) struct Names(Mutex<HashMap<String, Owner>>);

impl Names {
    pub fn owner(&self, name: &str) -> Option<Owner> {
        self.lock().get(name).cloned()
    }

    /// Takes `name` for `owner`.
    pub fn take(&self, name: &str, owner: Owner) -> Result<()> {
        match self.lock().entry(name.to_owned()) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(owner);
                Ok(())
            }
            hash_map::Entry::Occupied(taken) => {
                let kind = match taken.get() {
                    Owner::Container(_) => "container",
                    Owner::Pod(_) => "pod",
                };
                // "is already in use" is what clients look for.
                Err(EngineError::new(
                    ErrorKind::AlreadyExists,
                    owner.subject(name),
                    format!("the name {name:?} is already in use by {kind} {}", taken.get().id()),
                ))
            }
        }
    }

    /// Takes a made-up name for a container.
    pub fn take_random(&self, id: &ContainerId) -> ContainerName {
        let mut names = self.lock();
        for attempt in 0_u32.. {
            let mut name = random_name();
            // The words run out long before the patience of whoever starts that many containers.
            if attempt >= 8 {
                name.push_str(&format!("_{:x}", random_u32()));
            }
            if let hash_map::Entry::Vacant(vacant) = names.entry(name.clone()) {
                vacant.insert(Owner::Container(id.clone()));
                return name.parse().expect("the words make valid names");
            }
        }
        unreachable!("the loop above has no end")
    }

    pub fn give_back(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_name() -> String {
    let random = random_u32() as usize;
    let adjective = ADJECTIVES[random % ADJECTIVES.len()];
    let noun = NOUNS[(random / ADJECTIVES.len()) % NOUNS.len()];
    format!("{adjective}_{noun}")
}

fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    u32::from_ne_bytes(bytes)
}

const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ample", "ashen", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "chilly", "civil", "clear", "coastal", "coral", "cosy", "crisp", "dapper", "deep",
    "deft", "eager", "early", "easy", "fair", "famous", "fleet", "fluent", "foamy", "fond", "frank", "fresh",
    "frosty", "gentle", "glad", "glassy", "golden", "grand", "happy", "hardy", "hazy", "honest", "humble",
    "ideal", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lunar", "mellow", "merry", "mild",
    "misty", "modest", "neat", "nimble", "noble", "northern", "open", "patient", "pearly", "placid",
    "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "salty", "sandy", "serene", "sharp",
    "silent", "silver", "sleek", "smooth", "snowy", "solid", "sound", "spry", "steady", "stormy", "sunny",
    "swift", "tidal", "tidy", "tranquil", "trusty", "vivid", "warm", "wavy", "wild", "windy", "wise",
    "witty", "young", "zesty",
];

const NOUNS: &[&str] = &[
    "albatross",
    "anchor",
    "anemone",
    "atoll",
    "auk",
    "barnacle",
    "bay",
    "beach",
    "beacon",
    "beluga",
    "bight",
    "bosun",
    "bream",
    "brine",
    "buoy",
    "cape",
    "clam",
    "cliff",
    "cockle",
    "cod",
    "conch",
    "coral",
    "cormorant",
    "cove",
    "crab",
    "current",
    "curlew",
    "cuttlefish",
    "dinghy",
    "dolphin",
    "dory",
    "dulse",
    "dune",
    "eider",
    "estuary",
    "ferry",
    "fjord",
    "foam",
    "fulmar",
    "galleon",
    "gannet",
    "gull",
    "haddock",
    "halibut",
    "harbour",
    "heron",
    "herring",
    "island",
    "jetty",
    "kelp",
    "ketch",
    "kittiwake",
    "krill",
    "lagoon",
    "lighthouse",
    "limpet",
    "lobster",
    "mackerel",
    "manatee",
    "marlin",
    "minnow",
    "mussel",
    "narwhal",
    "nautilus",
    "oar",
    "octopus",
    "orca",
    "osprey",
    "otter",
    "oyster",
    "pearl",
    "pelican",
    "penguin",
    "petrel",
    "pilot",
    "plaice",
    "plover",
    "porpoise",
    "puffin",
    "reef",
    "sail",
    "salmon",
    "sandbar",
    "scallop",
    "schooner",
    "seahorse",
    "seal",
    "shearwater",
    "shoal",
    "shore",
    "skate",
    "skerry",
    "skiff",
    "sloop",
    "sole",
    "sound",
    "spray",
    "squid",
    "starfish",
    "strait",
    "surf",
    "tern",
    "tide",
    "turtle",
    "urchin",
    "voe",
    "walrus",
    "wave",
    "whale",
    "wharf",
    "whelk",
    "wrasse",
    "yawl",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_words_is_a_name() {
        for adjective in ADJECTIVES {
            for noun in NOUNS {
                assert!(format!("{adjective}_{noun}").parse::<ContainerName>().is_ok());
            }
        }
    }

    #[test]
    fn a_name_is_taken_once_by_containers_and_pods_together() {
        let names = Names::default();
        let id = ContainerId::random();
        names.take("web", Owner::Container(id.clone())).unwrap();
        let error = names.take("web", Owner::Pod(PodId::random())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.chain().contains(&format!("already in use by container {id}")), "{}", error.chain());
        names.give_back("web");
        names.take("web", Owner::Pod(PodId::random())).unwrap();
    }

    #[test]
    fn made_up_names_do_not_run_out() {
        let names = Names::default();
        let id = ContainerId::random();
        let made: std::collections::HashSet<_> =
            (0..ADJECTIVES.len() * NOUNS.len() + 100).map(|_| names.take_random(&id)).collect();
        assert_eq!(made.len(), ADJECTIVES.len() * NOUNS.len() + 100);
    }
}
