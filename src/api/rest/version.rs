//! The versions we announce and the one a client speaks.

/// podman's version whose API this is: the widest choice for clients (`podman --remote` 4 and 5).
pub const LIBPOD: &str = "5.8.2";
/// The oldest podman client that is served.
pub const LIBPOD_MINIMUM: &str = "4.0.0";
/// Docker's. The docker CLI 29 refuses servers below this.
pub const COMPAT: &str = "1.44";
pub const COMPAT_MINIMUM: &str = "1.24";
/// What podman's clients look for in `Server`.
pub const SERVER: &str = "Libpod/5.8.2 (linux)";

/// A version from the path: `/v4.3.1/...`, `/v1.41/...`. Missing and odd parts count as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl ApiVersion {
    /// Of `v4.3.1`, a path's first segment; `None` if that is no version.
    pub fn from_segment(segment: &str) -> Option<Self> {
        let text = segment.strip_prefix('v')?;
        let valid = text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
        valid.then(|| {
            let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
            let mut next = || numbers.next().unwrap_or(0);
            Self { major: next(), minor: next(), patch: next() }
        })
    }
}

/// Whether the client asked for an older version than `major.minor`. No version means the newest.
pub fn is_before(version: Option<ApiVersion>, major: u32, minor: u32) -> bool {
    version.is_some_and(|v| v < ApiVersion { major, minor, patch: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_path() {
        let version = |major, minor, patch| Some(ApiVersion { major, minor, patch });
        for (segment, expected) in [
            ("v4.3.1", version(4, 3, 1)),
            ("v1.41", version(1, 41, 0)),
            ("v5.8.0-dev", version(5, 8, 0)),
            ("v3", version(3, 0, 0)),
            ("volumes", None),
            ("version", None),
            ("v", None),
            ("v1/2", None),
        ] {
            assert_eq!(ApiVersion::from_segment(segment), expected, "{segment}");
        }
    }

    #[test]
    fn no_version_is_the_newest() {
        assert!(!is_before(None, 1, 44));
        assert!(is_before(ApiVersion::from_segment("v1.43"), 1, 44));
        assert!(!is_before(ApiVersion::from_segment("v1.44"), 1, 44));
        assert!(is_before(ApiVersion::from_segment("v4.9.9"), 5, 0));
    }
}
