//! Image manifests and indexes, and the choice of a platform among several.
//!
//! OCI's documents and docker's (schema 2) differ in their media types alone. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::{Digest, chain_ids};

/// Largest manifest, index or configuration, bytes: four megabytes is what registries accept.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// More layers than overlayfs can stack are of no use.
const MAX_LAYERS: usize = 500;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("the {what} is not JSON of the right shape")]
    Parse {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the manifest is of schema version {0}; only version 2 is supported")]
    SchemaVersion(u64),
    #[error("the document is neither an image manifest nor an index")]
    Neither,
    #[error("the document claims to be a manifest and an index at once")]
    Both,
    #[error("it is no container image: its configuration is of type {0}")]
    NotAnImage(String),
    #[error("layer {digest} is of type {media_type}, which is not supported")]
    LayerType { digest: Digest, media_type: String },
    #[error("the {what} is {size} bytes long, more than {MAX_DOCUMENT_BYTES}")]
    TooBig { what: &'static str, size: u64 },
    #[error("the manifest has {manifest} layers, the configuration {config}")]
    LayerCount { manifest: usize, config: usize },
    #[error("the image has more than {MAX_LAYERS} layers")]
    TooManyLayers,
    #[error("diff_id")]
    DiffId(#[source] super::digest::InvalidDigest),
    // docker's words, which clients test for.
    #[error("the image was found but does not match the specified platform {wanted}; it has {}", .found.join(", "))]
    Platform { wanted: Platform, found: Vec<String> },
    #[error("platform {0:?} is not OS/ARCH[/VARIANT]")]
    InvalidPlatform(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescribedPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedPlatform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a registry may send for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(ImageManifest),
    Index(Vec<Descriptor>),
}

/// A configuration with what the engine needs of it already checked.
pub struct CheckedConfig {
    pub config: ImageConfiguration,
    pub diff_ids: Vec<Digest>,
    pub chain_ids: Vec<Digest>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            schema_version: Option<u64>,
            media_type: Option<String>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
            manifests: Option<Vec<Descriptor>>,
        }
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Parse { what: "manifest", source })?;
        match raw.schema_version {
            Some(2) => {}
            // podman and docker write 2; OCI demands it.
            other => return Err(ManifestError::SchemaVersion(other.unwrap_or(0))),
        }
        let is_manifest = raw.config.is_some() || raw.layers.is_some();
        // One document read two ways is an attack (CVE-2021-41190).
        let document = match (raw.manifests, raw.config) {
            (Some(_), _) if is_manifest => return Err(ManifestError::Both),
            (Some(manifests), _) => Self::Index(manifests),
            (None, Some(config)) => {
                Self::Manifest(ImageManifest { config, layers: raw.layers.unwrap_or_default() })
            }
            (None, None) => return Err(ManifestError::Neither),
        };
        match (&document, raw.media_type.as_deref()) {
            (Self::Manifest(_), Some(OCI_INDEX | DOCKER_LIST))
            | (Self::Index(_), Some(OCI_MANIFEST | DOCKER_MANIFEST)) => Err(ManifestError::Both),
            (Self::Manifest(manifest), _) => manifest.check().map(|()| document),
            (Self::Index(_), _) => Ok(document),
        }
    }
}

impl ImageManifest {
    fn check(&self) -> Result<(), ManifestError> {
        if !matches!(self.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            return Err(ManifestError::NotAnImage(self.config.media_type.clone()));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers);
        }
        for layer in &self.layers {
            let media_type = layer.media_type.as_str();
            let is_layer = media_type.starts_with(OCI_LAYER)
                || media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
                || media_type.starts_with("application/vnd.docker.image.rootfs.");
            if !is_layer || media_type.ends_with("+encrypted") {
                let media_type = media_type.to_owned();
                return Err(ManifestError::LayerType { digest: layer.digest.clone(), media_type });
            }
        }
        Ok(())
    }
}

impl CheckedConfig {
    /// `layers` is how many the manifest has.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let config: ImageConfiguration = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Parse { what: "image configuration", source })?;
        let diff_ids: Vec<Digest> = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|diff_id| diff_id.parse())
            .collect::<Result<_, _>>()
            .map_err(ManifestError::DiffId)?;
        if diff_ids.len() != layers {
            return Err(ManifestError::LayerCount { manifest: layers, config: diff_ids.len() });
        }
        let chain_ids = chain_ids(&diff_ids);
        Ok(Self { config, diff_ids, chain_ids })
    }
}

/// An operating system and a processor, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Empty: any.
    variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        Self::normalised(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// The one an image was made for.
    pub fn of(config: &ImageConfiguration) -> Self {
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        Self::normalised(&os, &architecture, config.variant().as_deref())
    }

    fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.unwrap_or("");
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            // All arm64 there is, is v8, and most images do not say so.
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("arm" | "armhf", "7") => ("arm", "v7"),
            ("x86" | "i386" | "386", _) => ("386", ""),
            ("powerpc64" | "ppc64le", _) => ("ppc64le", ""),
            other => other,
        };
        Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Whether an image for `other` is what was asked for with `self`.
    pub fn accepts(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant == other.variant || self.variant.is_empty() || other.variant.is_empty())
    }

    /// The manifest for this platform: one that names its variant, else one that names none, else any other.
    pub fn select<'a>(&self, index: &'a [Descriptor]) -> Result<&'a Descriptor, ManifestError> {
        let described = |descriptor: &Descriptor| {
            descriptor
                .platform
                .as_ref()
                .map(|p| Self::normalised(&p.os, &p.architecture, p.variant.as_deref()))
        };
        let rank = |descriptor: &&Descriptor| match described(descriptor) {
            Some(platform) if platform == *self => Some(0),
            Some(platform) if self.accepts(&platform) && platform.variant.is_empty() => Some(1),
            Some(platform) if self.accepts(&platform) => Some(2),
            Some(_) => None,
            // An index of one need not say for whom it is.
            None if index.len() == 1 => Some(3),
            None => None,
        };
        index
            .iter()
            .filter_map(|descriptor| rank(&descriptor).map(|rank| (rank, descriptor)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, descriptor)| descriptor)
            .ok_or_else(|| ManifestError::Platform {
                wanted: self.clone(),
                found: index.iter().filter_map(described).map(|p| p.to_string()).collect(),
            })
    }
}

impl FromStr for Platform {
    type Err = ManifestError;
    fn from_str(text: &str) -> Result<Self, ManifestError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if !os.is_empty() && !architecture.is_empty() && variant != Some("") =>
            {
                Ok(Self::normalised(os, architecture, variant))
            }
            _ => Err(ManifestError::InvalidPlatform(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(name: &str, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| DescribedPlatform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(Into::into),
            }),
            annotations: None,
        }
    }

    #[test]
    fn platforms_choose_their_manifest() {
        let index = [
            descriptor("attestation", Some(("unknown", "unknown", None))),
            descriptor("arm", Some(("linux", "arm", Some("v6")))),
            descriptor("arm7", Some(("linux", "arm", Some("v7")))),
            descriptor("amd64v3", Some(("linux", "amd64", Some("v3")))),
            descriptor("amd64", Some(("linux", "amd64", None))),
            descriptor("arm64", Some(("linux", "arm64", Some("v8")))),
            descriptor("windows", Some(("windows", "amd64", None))),
        ];
        for (wanted, chosen) in [
            ("linux/amd64", "amd64"),
            ("linux/x86_64", "amd64"),
            ("linux/amd64/v3", "amd64v3"),
            ("linux/amd64/v2", "amd64"),
            ("linux/arm64", "arm64"),
            ("linux/arm64/v8", "arm64"),
            ("linux/arm/v7", "arm7"),
            ("Linux/arm/v6", "arm"),
        ] {
            let platform: Platform = wanted.parse().unwrap();
            assert_eq!(platform.select(&index).unwrap().digest, Digest::of(chosen.as_bytes()), "{wanted}");
        }
        let error = "linux/s390x".parse::<Platform>().unwrap().select(&index).unwrap_err().to_string();
        assert!(error.contains("was found but does not match the specified platform"), "{error}");
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/arm/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert!(Platform::host().select(&[descriptor("only", None)]).is_ok());
        assert!(Platform::host().select(&[]).is_err());
    }

    fn manifest() -> serde_json::Value {
        let digest = Digest::of(b"");
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest, "size": 1},
            "layers": [{"mediaType": format!("{OCI_LAYER}+gzip"), "digest": digest, "size": 1}]})
    }

    fn parse(value: &serde_json::Value) -> Result<Document, ManifestError> {
        Document::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn documents_are_a_manifest_or_an_index_and_never_both() {
        assert!(matches!(parse(&manifest()), Ok(Document::Manifest(_))));
        assert!(matches!(parse(&json!({"schemaVersion": 2, "manifests": []})), Ok(Document::Index(_))));
        let change = |field: &str, value: serde_json::Value| {
            let mut manifest = manifest();
            manifest[field] = value;
            parse(&manifest)
        };
        assert!(matches!(change("manifests", json!([])), Err(ManifestError::Both)));
        assert!(matches!(change("mediaType", json!(OCI_INDEX)), Err(ManifestError::Both)));
        assert!(matches!(change("schemaVersion", json!(1)), Err(ManifestError::SchemaVersion(1))));
        assert!(matches!(change("config", json!(null)), Err(ManifestError::Neither)));
        assert!(matches!(
            change("config", json!({"digest": "sha256:x", "size": 1})),
            Err(ManifestError::Parse { .. })
        ));
        let size = json!({"mediaType": OCI_CONFIG, "digest": Digest::of(b""), "size": -1});
        assert!(matches!(change("config", size), Err(ManifestError::Parse { .. })));
        let helm = json!({"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(b""), "size": 1});
        assert!(matches!(change("config", helm), Err(ManifestError::NotAnImage(_))));
        for media_type in
            ["application/vnd.in-toto+json", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
        {
            let layers = json!([{"mediaType": media_type, "digest": Digest::of(b""), "size": 1}]);
            assert!(matches!(change("layers", layers), Err(ManifestError::LayerType { .. })), "{media_type}");
        }
    }

    #[test]
    fn configurations_written_by_docker_are_read() {
        let diff_id = Digest::of(b"layer");
        let bytes = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "docker_version": "20.10", "container": "abc",
            "container_config": {"Cmd": null},
            "created": "2024-01-02T03:04:05.678901234Z",
            "config": {"Hostname": "", "User": "", "AttachStdin": false, "ExposedPorts": {"80/tcp": {}},
                "Env": null, "Cmd": null, "Entrypoint": ["/entry"], "Volumes": null, "Labels": null,
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1}, "OnBuild": null, "ArgsEscaped": true},
            "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "x", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}
        }))
        .unwrap();
        let checked = CheckedConfig::parse(&bytes, 1).unwrap();
        assert_eq!((checked.diff_ids, checked.chain_ids), (vec![diff_id.clone()], vec![diff_id]));
        assert_eq!(Platform::of(&checked.config).to_string(), "linux/amd64");
        let config = checked.config.config().clone().unwrap();
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
        assert!(matches!(CheckedConfig::parse(&bytes, 2), Err(ManifestError::LayerCount { .. })));
    }
}
