//! Image names, as users type them and as the engine keeps them.
//!
//! [`TypedName`] is what was typed and may be short; [`ImageReference`] is fully qualified. Which registries a
//! short name may mean is decided in [`super::registries_conf`], not here.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::digest::Digest;

/// The registry whose short names need no registry at all.
pub const DOCKER_HUB: &str = "docker.io";
/// The registry of images that were never pulled: built or loaded here.
pub const LOCALHOST: &str = "localhost";

const DEFAULT_TAG: &str = "latest";
const MAX_NAME_LENGTH: usize = 255;
const MAX_TAG_LENGTH: usize = 128;

// docker's and podman's clients print and test for "invalid reference format".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidReference {
    #[error("invalid reference format: {0:?}")]
    Format(String),
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("invalid reference format: repository name ({0}) is longer than 255 characters")]
    TooLong(String),
    #[error("invalid reference format: {0:?} is an image id, not a name")]
    IsId(String),
    #[error("invalid reference format: {name:?}")]
    Digest {
        name: String,
        #[source]
        source: super::digest::InvalidDigest,
    },
}

/// A name as typed: the registry and the tag may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypedName {
    registry: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A fully qualified name: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl TypedName {
    /// No registry was named.
    pub fn is_short(&self) -> bool {
        self.registry.is_none()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository as typed, without tag and digest: the key of registries.conf's aliases.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The reference itself if a registry was named.
    pub fn qualified(&self) -> Option<ImageReference> {
        self.registry.as_deref().map(|registry| self.in_registry(registry))
    }

    /// The reference that a short name means in `registry`, which may go on with a path: `quay.io/team`.
    pub fn in_registry(&self, registry: &str) -> ImageReference {
        let (registry, repository) = match registry.split_once('/') {
            Some((registry, path)) => (registry, format!("{path}/{}", self.path)),
            None => (registry, self.path.clone()),
        };
        self.with_repository(registry, repository)
    }

    /// The reference if `repository` (`registry/path`) stands for the typed path.
    pub fn aliased(&self, repository: &str) -> Result<ImageReference, InvalidReference> {
        let target: TypedName = repository.parse()?;
        let registry =
            target.registry.clone().ok_or_else(|| InvalidReference::Format(repository.to_owned()))?;
        Ok(self.with_repository(&registry, target.path))
    }

    fn with_repository(&self, registry: &str, repository: String) -> ImageReference {
        let (registry, repository) = normalised(registry, repository);
        // With a digest the tag says nothing more, and podman drops it; without both, `latest` is meant.
        let tag = match &self.digest {
            Some(_) => None,
            None => Some(self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned())),
        };
        ImageReference { registry, repository, tag, digest: self.digest.clone() }
    }

    /// Whether `name` (a full name without digest) ends in this short name, on a path boundary.
    pub fn is_suffix_of(&self, name: &ImageReference) -> bool {
        let tag = self.tag.as_deref().unwrap_or(DEFAULT_TAG);
        self.is_short()
            && self.digest.is_none()
            && name.tag() == Some(tag)
            && name
                .repository
                .strip_suffix(self.path.as_str())
                .is_some_and(|r| r.is_empty() || r.ends_with('/'))
    }
}

impl ImageReference {
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository@digest`.
    pub fn at(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    pub fn tag_or_digest(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// A local name: docker's rule (no registry means Docker Hub), as docker-archives and tags use it.
    pub fn parse_docker(text: &str) -> Result<Self, InvalidReference> {
        let typed: TypedName = text.parse()?;
        Ok(typed.qualified().unwrap_or_else(|| typed.in_registry(DOCKER_HUB)))
    }

    /// A local name: podman's rule (no registry means `localhost`), as `podman tag` and OCI archives use it.
    pub fn parse_local(text: &str) -> Result<Self, InvalidReference> {
        let typed: TypedName = text.parse()?;
        Ok(typed.qualified().unwrap_or_else(|| typed.in_registry(LOCALHOST)))
    }
}

impl FromStr for TypedName {
    type Err = InvalidReference;

    fn from_str(typed: &str) -> Result<Self, InvalidReference> {
        let text = typed.strip_prefix("docker://").unwrap_or(typed);
        let format = || InvalidReference::Format(typed.to_owned());
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::IsId(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|source| InvalidReference::Digest { name: typed.to_owned(), source })?;
                (name, Some(digest))
            }
        };
        // A colon in the last path component begins the tag; before that it is a port.
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[last..].find(':') {
            Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
            None => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(format());
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if names_registry(first) => (Some(first), rest),
            Some(_) | None => (None, name),
        };
        if registry.is_some_and(|registry| !is_registry(registry)) {
            return Err(format());
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) && is_path(&path.to_ascii_lowercase()) {
            return Err(InvalidReference::Uppercase(path.to_owned()));
        }
        if !is_path(path) {
            return Err(format());
        }
        if name.len() > MAX_NAME_LENGTH {
            return Err(InvalidReference::TooLong(name.to_owned()));
        }
        let (registry, path) = match registry {
            Some(registry) => {
                let (registry, path) = normalised(registry, path.to_owned());
                (Some(registry), path)
            }
            None => (None, path.to_owned()),
        };
        Ok(Self { registry, path, tag: tag.map(str::to_owned), digest })
    }
}

/// A fully qualified name and nothing less.
impl FromStr for ImageReference {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let typed: TypedName = text.parse()?;
        typed.qualified().ok_or_else(|| InvalidReference::Format(text.to_owned()))
    }
}

impl fmt::Display for TypedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write_rest(f, &self.path, self.tag.as_deref(), self.digest.as_ref())
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.registry)?;
        write_rest(f, &self.repository, self.tag.as_deref(), self.digest.as_ref())
    }
}

fn write_rest(
    f: &mut fmt::Formatter<'_>,
    path: &str,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> fmt::Result {
    f.write_str(path)?;
    if let Some(tag) = tag {
        write!(f, ":{tag}")?;
    }
    if let Some(digest) = digest {
        write!(f, "@{digest}")?;
    }
    Ok(())
}

/// Docker Hub has two names, and a `library/` that nobody writes.
fn normalised(registry: &str, repository: String) -> (String, String) {
    if registry != DOCKER_HUB && registry != "index.docker.io" {
        return (registry.to_owned(), repository);
    }
    let repository = if repository.contains('/') { repository } else { format!("library/{repository}") };
    (DOCKER_HUB.to_owned(), repository)
}

/// docker's rule: the first component is a registry if it looks like a host and not like a path.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == LOCALHOST || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            Some(_) | None => return false,
        },
        None => match text.find(':') {
            Some(colon) => (Some(&text[..colon]), &text[colon..]),
            None => (Some(text), ""),
        },
    };
    let host_is_valid = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    });
    let port_is_valid =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    host_is_valid && port_is_valid
}

/// Path components: lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

fn is_path_component(component: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| is_plain(*b)) || !bytes.last().is_some_and(|b| is_plain(*b)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG_LENGTH
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_as_docker_reads_them() {
        let at_digest = format!("quay.io/a/b@sha256:{HEX}");
        let rows = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/web", "docker.io/team/web:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("docker://quay.io/a/b", "quay.io/a/b:latest"),
            ("quay.io/a/b/c/d:v1.2-x_y", "quay.io/a/b/c/d:v1.2-x_y"),
            ("localhost/web", "localhost/web:latest"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("127.0.0.1:5000/web:2", "127.0.0.1:5000/web:2"),
            ("[::1]:5000/web", "[::1]:5000/web:latest"),
            ("REGISTRY/web", "REGISTRY/web:latest"),
            ("a__b/c.d/e---f", "docker.io/a__b/c.d/e---f:latest"),
            (&at_digest, &at_digest),
        ];
        for (typed, full) in rows {
            assert_eq!(ImageReference::parse_docker(typed).unwrap().to_string(), full, "{typed}");
        }
    }

    #[test]
    fn a_digest_makes_the_tag_superfluous() {
        let reference = ImageReference::parse_docker(&format!("quay.io/a/b:v1@sha256:{HEX}")).unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.to_string(), format!("quay.io/a/b@sha256:{HEX}"));
        assert_eq!(reference.tag_or_digest(), format!("sha256:{HEX}"));
    }

    #[test]
    fn podman_puts_short_names_under_localhost() {
        assert_eq!(ImageReference::parse_local("web").unwrap().to_string(), "localhost/web:latest");
        assert_eq!(ImageReference::parse_local("team/web:1").unwrap().to_string(), "localhost/team/web:1");
        assert_eq!(ImageReference::parse_local("quay.io/web").unwrap().to_string(), "quay.io/web:latest");
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let long = "a/".repeat(200) + "a";
        let bad_digest = "a@sha256:12";
        let rows = [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a:",
            "a:-x",
            "a:b:c",
            "a@",
            "ä",
            "a@sha512:00",
            bad_digest,
            "quay.io/",
            "host:99999/a",
            "host:x/a",
            "[::g]:5/a",
            "-h.io/a",
            "../etc",
            "a/../b",
            "a:..",
            "quay.io/a?b",
            "quay.io/a#b",
            "user@host.io/a",
            "a%2e/b",
        ];
        for text in rows {
            assert!(text.parse::<TypedName>().is_err(), "{text}");
        }
        assert!(matches!(long.parse::<TypedName>(), Err(InvalidReference::TooLong(_))));
        assert!(matches!("Busybox".parse::<TypedName>(), Err(InvalidReference::Uppercase(_))));
        assert!(matches!(HEX.parse::<TypedName>(), Err(InvalidReference::IsId(_))));
        assert!("a:".to_owned().parse::<ImageReference>().is_err());
        assert!(format!("a:{}", "x".repeat(129)).parse::<TypedName>().is_err());
    }

    #[test]
    fn messages_carry_the_words_clients_test_for() {
        let error = "a b".parse::<TypedName>().unwrap_err();
        assert_eq!(error.to_string(), "invalid reference format: \"a b\"");
    }

    #[test]
    fn a_short_name_matches_the_end_of_a_full_one_at_a_slash() {
        let full: ImageReference = "quay.io/team/web:1".parse().unwrap();
        for (typed, is_suffix) in [
            ("web:1", true),
            ("team/web:1", true),
            ("eb:1", false),
            ("web", false),
            ("web:2", false),
            ("quay.io/team/web:1", false),
        ] {
            assert_eq!(typed.parse::<TypedName>().unwrap().is_suffix_of(&full), is_suffix, "{typed}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Printing and reading again changes nothing, and nothing makes the parser panic.
        #[test]
        fn printed_names_read_back(text in "[a-z0-9.:/@_A-Z-]{0,40}") {
            if let Ok(reference) = ImageReference::parse_docker(&text) {
                proptest::prop_assert_eq!(reference.to_string().parse::<ImageReference>().unwrap(), reference);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = text.parse::<TypedName>();
        }
    }
}
