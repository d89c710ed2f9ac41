//! Pushing: an image's layers, its configuration, and last its manifest.
//!
//! What the repository has is not sent. Compressed layers are not kept here, so a layer that the registry does not
//! know under the digest it came with is made and compressed again, and the manifest names it by its new digest.
//! The configuration is the same, and so is the image's id; if nothing had to be compressed, so is the manifest.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::auth::AuthError;
use super::digest::Digest;
use super::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Document, ImageManifest, ManifestError, OCI_CONFIG,
    OCI_LAYER, OCI_MANIFEST,
};
use super::records::FoundBy;
use super::reference::{ImageReference, InvalidReference};
use super::registries_conf::ConfError;
use super::registry::{Payload, Registry, RegistryError};
use super::save::{LayerSource, SaveError};
use super::store::{Content, ContentError};
use super::{Credentials, ImageRecord, ImageStore, run_blocking};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The words a manifest is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFormat {
    Oci,
    Docker,
}

#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Where to; default: the name the image is pushed by.
    pub destination: Option<String>,
    pub credentials: Option<Credentials>,
    /// `Some(false)`: the registry may speak http or present any certificate.
    pub tls_verify: Option<bool>,
    /// Default: the one it has.
    pub format: Option<ManifestFormat>,
}

/// What a push reports while it runs. Layers are named by `diff_id`.
#[derive(Debug, Clone, PartialEq)]
pub enum PushProgress {
    Begun { destination: String, layers: Vec<String> },
    LayerPresent { layer: String },
    LayerSending { layer: String, current_bytes: u64, total_bytes: u64 },
    LayerSent { layer: String },
    WritingManifest,
}

pub type PushSink = Arc<dyn Fn(PushProgress) + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub tag: String,
    /// Of the manifest as the registry has it now.
    pub digest: String,
    pub size_bytes: u64,
}

#[derive(Debug, Error)]
enum PushError {
    #[error(transparent)]
    Conf(#[from] ConfError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("compress layer {0}")]
    Compress(Digest, #[source] io::Error),
    #[error("its manifest")]
    Manifest(#[from] ManifestError),
}

impl PushError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(RegistryError::Certificate { .. } | RegistryError::Client { .. })
            | Self::Conf(_)
            | Self::Auth(_)
            | Self::Content(_)
            | Self::Compress(..)
            | Self::Manifest(_) => ErrorKind::Internal,
            Self::Registry(_) => ErrorKind::Upstream,
            Self::Save(error) => error.kind(),
        }
    }
}

impl ImageStore {
    pub async fn push(
        &self,
        image: &str,
        options: PushOptions,
        progress: Option<PushSink>,
    ) -> Result<Pushed> {
        let (record, found_by) = self.find(image)?;
        let invalid = |detail: String| EngineError::invalid(Subject::Image(image.to_owned()), detail);
        let destination = match (&options.destination, found_by) {
            (Some(destination), _) => ImageReference::parse_docker(destination)
                .map_err(|error: InvalidReference| invalid(error.to_string()))?,
            (None, FoundBy::Name(name)) => {
                name.parse().map_err(|error: InvalidReference| invalid(error.to_string()))?
            }
            (None, FoundBy::Id | FoundBy::Digest(_)) => {
                return Err(invalid("it is not said where to push it".to_owned()));
            }
        };
        if destination.digest().is_some() {
            return Err(invalid("an image can not be pushed to a digest".to_owned()));
        }
        let source = self.source(&record).await?;
        let tell = |step: PushProgress| {
            if let Some(progress) = &progress {
                progress(step);
            }
        };
        tell(PushProgress::Begun {
            destination: destination.name(),
            layers: record.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        });
        let pushing = Push { store: self, record: &record, destination: &destination, options: &options };
        pushing.run(&source, &tell).await.map_err(|error| {
            EngineError::new(error.kind(), Subject::Image(destination.to_string()), "push").with_source(error)
        })
    }
}

struct Push<'a> {
    store: &'a ImageStore,
    record: &'a ImageRecord,
    destination: &'a ImageReference,
    options: &'a PushOptions,
}

type Tell<'a> = &'a (dyn Fn(PushProgress) + Send + Sync);

impl Push<'_> {
    async fn run(&self, source: &super::save::ImageSource, tell: Tell<'_>) -> Result<Pushed, PushError> {
        let settings = &self.store.shared.settings;
        let conf = self.store.shared.registries();
        // Mirrors are for reading.
        let endpoint =
            conf.endpoints(self.destination)?.pop().expect("the last endpoint is the registry itself");
        let insecure = self.options.tls_verify.map_or(endpoint.insecure, |verify| !verify);
        let credentials = match &self.options.credentials {
            Some(credentials) => Some(credentials.clone()),
            None => settings.auth.find(self.destination)?,
        };
        let registry = Registry::new(endpoint, insecure, credentials, settings)?.for_push();
        let manifest = match Document::parse(&source.manifest)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => return Err(ManifestError::Neither.into()),
        };
        let mut sending = Vec::new();
        for (layer, known) in source.layers.iter().zip(&manifest.layers) {
            sending.push(self.layer(&registry, layer, known, tell));
        }
        let sending = stream::iter(sending).buffered(settings.layers_at_once);
        let layers: Vec<Descriptor> = sending.try_collect().await?;
        let config = Digest::of(&source.config);
        if !registry.has_blob(&config).await? {
            let payload = Payload::Bytes(Bytes::copy_from_slice(&source.config));
            registry.put_blob(&config, &payload, &|_| {}).await?;
        }
        tell(PushProgress::WritingManifest);
        let (media_type, bytes) = written(&source.manifest, &manifest, layers, self.options.format);
        let tag = self.destination.tag_or_digest();
        registry.put_manifest(tag, media_type, &bytes).await?;
        let digest = Digest::of(&bytes).to_string();
        tracing::info!(image.reference = %self.destination, digest, "pushed the image");
        Ok(Pushed { tag: tag.to_owned(), digest, size_bytes: bytes.len() as u64 })
    }

    /// Makes sure that the repository has the layer, and says as what.
    async fn layer(
        &self,
        registry: &Registry,
        layer: &LayerSource,
        known: &Descriptor,
        tell: Tell<'_>,
    ) -> Result<Descriptor, PushError> {
        let name = layer.diff_id.to_string();
        // An uncompressed layer came from an archive; nobody wants it on a registry.
        if known.digest != layer.diff_id
            && (registry.has_blob(&known.digest).await? || self.mount(registry, known).await?)
        {
            tell(PushProgress::LayerPresent { layer: name });
            return Ok(known.clone());
        }
        let content = self.store.shared.content.clone();
        let compressed = layer.clone();
        let (file, digest, size) = run_blocking(move || compress(&compressed, &content)).await?;
        if registry.has_blob(&digest).await? {
            tell(PushProgress::LayerPresent { layer: name });
        } else {
            let payload = Payload::File { file: Arc::new(file), size_bytes: size };
            let sending = |current_bytes| {
                tell(PushProgress::LayerSending { layer: name.clone(), current_bytes, total_bytes: size });
            };
            sending(0);
            registry.put_blob(&digest, &payload, &sending).await?;
            tell(PushProgress::LayerSent { layer: name.clone() });
        }
        let media_type = format!("{OCI_LAYER}+gzip");
        Ok(Descriptor { media_type, digest, size, platform: None, annotations: known.annotations.clone() })
    }

    /// From the repository of the same registry that the image was pulled from.
    async fn mount(&self, registry: &Registry, known: &Descriptor) -> Result<bool, PushError> {
        for pulled in &self.record.repo_digests {
            let Ok(pulled) = pulled.parse::<ImageReference>() else { continue };
            let is_other = pulled.repository() != registry.repository();
            if pulled.registry() == self.destination.registry()
                && is_other
                && registry.mount_blob(&known.digest, pulled.repository()).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The manifest in the wanted words with these layers. The image's own, to the byte, if nothing in it changes.
fn written(
    own: &[u8],
    manifest: &ImageManifest,
    layers: Vec<Descriptor>,
    format: Option<ManifestFormat>,
) -> (&'static str, Vec<u8>) {
    let own_format = match manifest.config.media_type.as_str() {
        DOCKER_CONFIG => ManifestFormat::Docker,
        _ => ManifestFormat::Oci,
    };
    let format = format.unwrap_or(own_format);
    let media_type = match format {
        ManifestFormat::Oci => OCI_MANIFEST,
        ManifestFormat::Docker => DOCKER_MANIFEST,
    };
    if format == own_format && layers == manifest.layers {
        return (media_type, own.to_vec());
    }
    let layers: Vec<_> = layers
        .into_iter()
        .map(|mut layer| {
            layer.media_type = layer_type(&layer.media_type, format);
            layer
        })
        .collect();
    let config_type = match format {
        ManifestFormat::Oci => OCI_CONFIG,
        ManifestFormat::Docker => DOCKER_CONFIG,
    };
    let mut document = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": manifest.config.digest, "size": manifest.config.size},
        "layers": layers,
    });
    let own: Value = serde_json::from_slice(own).unwrap_or_default();
    // Docker's manifests have none.
    if let (ManifestFormat::Oci, Some(annotations)) = (format, own.get("annotations")) {
        document["annotations"] = annotations.clone();
    }
    (media_type, serde_json::to_vec(&document).expect("a manifest is JSON"))
}

/// docker knows gzip alone; its media type is right for whatever it reads by its first bytes.
fn layer_type(known: &str, format: ManifestFormat) -> String {
    match format {
        ManifestFormat::Docker => DOCKER_LAYER.to_owned(),
        ManifestFormat::Oci if known.starts_with(OCI_LAYER) => known.to_owned(),
        ManifestFormat::Oci => format!("{OCI_LAYER}+gzip"),
    }
}

/// The layer's tar through gzip, in a nameless file. Blocks.
fn compress(layer: &LayerSource, content: &Content) -> Result<(File, Digest, u64), PushError> {
    let failed = |error| PushError::Compress(layer.diff_id.clone(), error);
    let file = BufWriter::with_capacity(128 << 10, content.spool_file()?);
    let hashed = Hashed { file, hash: Sha256::new(), count: 0 };
    // No name and no time in its header: the same layer gives the same blob.
    let mut encoder = flate2::write::GzEncoder::new(hashed, flate2::Compression::default());
    layer.write_tar(&mut encoder)?;
    let hashed = encoder.finish().map_err(failed)?;
    let file = hashed.file.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok((file, Digest::finish(hashed.hash), hashed.count))
}

struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    count: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
