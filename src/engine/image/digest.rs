//! Content digests: a [`Digest`] that exists is well formed and of an algorithm we compute.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256 content digest, `sha256:` and 64 lower-case hexadecimal digits.
///
/// OCI registers SHA-512 too; no registry we know serves it, and podman names images by SHA-256 alone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidDigest {
    #[error("digest {0:?} is not ALGORITHM:HEX")]
    Malformed(String),
    #[error("digest {0:?} is not a SHA-256 digest")]
    Algorithm(String),
}

const PREFIX: &str = "sha256:";

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(Sha256::digest(bytes).as_slice())
    }

    /// What `hasher` has seen.
    pub fn finish(hasher: Sha256) -> Self {
        Self::of_hash(hasher.finalize().as_slice())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits alone: names of blobs and layers on disk.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    fn of_hash(hash: &[u8]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in hash {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        Self(text)
    }
}

/// The chain ids of a stack of layers, lowest first: each names a layer together with all below it
/// (OCI image specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let malformed = || InvalidDigest::Malformed(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            return Err(InvalidDigest::Algorithm(text.to_owned()));
        }
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(malformed())
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_well_known_one() {
        let empty = Digest::of(b"");
        assert_eq!(empty.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.as_str().parse(), Ok(empty.clone()));
        assert_eq!(empty.hex().len(), 64);
    }

    #[test]
    fn only_whole_sha256_digests_parse() {
        let hex = "a".repeat(64);
        for bad in [
            "",
            "sha256",
            "sha256:",
            &hex,
            &format!("sha256:{hex}a"),
            &format!("sha256:{}", hex.to_uppercase()),
        ] {
            assert!(matches!(bad.parse::<Digest>(), Err(InvalidDigest::Malformed(_))), "{bad}");
        }
        assert!(matches!(format!("sha512:{hex}").parse::<Digest>(), Err(InvalidDigest::Algorithm(_))));
        assert!(matches!("sha256:../../etc/passwd".parse::<Digest>(), Err(InvalidDigest::Malformed(_))));
    }

    #[test]
    fn first_chain_id_is_the_diff_id_and_the_next_names_both() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
        assert_eq!(chain_ids(&[]), []);
    }
}
