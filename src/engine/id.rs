//! Names and identifiers as types: a value that exists has already been checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not the identifier or name it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidName {
    #[error("{0:?} is not 64 lower-case hexadecimal digits")]
    Id(String),
    // The pattern is podman's and docker's; clients test for its text.
    #[error("names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument: {0:?}")]
    Name(String),
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random identifier.
            pub fn random() -> Self {
                Self(random_hex())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as `docker ps` and `podman ps` print them.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                if is_hex_id(&text) { Ok(Self(text)) } else { Err(InvalidName::Id(text)) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

hex_id!(
    /// A container, for its whole life.
    ContainerId
);
hex_id!(
    /// A pod, for its whole life.
    PodId
);
hex_id!(
    /// An exec session inside a container.
    ExecId
);
hex_id!(
    /// A network.
    NetworkId
);
hex_id!(
    /// An image: the SHA-256 of its configuration, without the `sha256:` prefix.
    ImageId
);

macro_rules! object_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                if is_object_name(&text) { Ok(Self(text)) } else { Err(InvalidName::Name(text)) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

object_name!(
    /// A container's name. Containers and pods share one name space, as in podman.
    ContainerName
);
object_name!(
    /// A pod's name.
    PodName
);
object_name!(
    /// A volume's name.
    VolumeName
);
object_name!(
    /// A network's name.
    NetworkName
);

/// What a user typed to mean an object: a name, an identifier, or the unique beginning of one.
/// Only the engine turns it into an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameOrId(String);

impl NameOrId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NameOrId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for NameOrId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&ContainerId> for NameOrId {
    fn from(id: &ContainerId) -> Self {
        Self(id.as_str().to_owned())
    }
}

impl From<&PodId> for NameOrId {
    fn from(id: &PodId) -> Self {
        Self(id.as_str().to_owned())
    }
}

impl fmt::Display for NameOrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_object_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let id = ContainerId::random();
        assert_eq!(id.as_str().parse::<ContainerId>(), Ok(id.clone()));
        assert_ne!(id, ContainerId::random());
        assert_eq!(id.short().len(), 12);
    }

    #[test]
    fn ids_refuse_anything_but_64_hex_digits() {
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_follow_podmans_pattern() {
        for good in ["a", "web-1", "a.b_c", "0x"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
    }
}
