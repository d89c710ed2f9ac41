//! Images: content store, layers unpacked once per chain id, names.

pub mod digest;
pub mod entries;
pub mod layer;
pub mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::RemovedImage;
use crate::engine::config::EngineConfig;
use crate::engine::error::Result;
use crate::engine::id::ImageId;
use crate::engine::store::Store;

/// An image as the engine knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub id: ImageId,
    /// Fully qualified: `docker.io/library/busybox:latest`, `localhost/web:1`. Empty: dangling.
    pub names: Vec<String>,
    /// Digest of the manifest, `sha256:...`.
    pub manifest_digest: String,
    /// `repo@sha256:...` under which it was pulled.
    pub repo_digests: Vec<String>,
    pub created_at: Option<Timestamp>,
    /// When it came to this machine.
    pub added_at: Timestamp,
    /// Unpacked size, bytes.
    pub size_bytes: u64,
    pub architecture: String,
    pub os: String,
    pub config: oci_spec::image::ImageConfiguration,
    /// Lowest layer first.
    pub layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the blob as fetched, `sha256:...`.
    pub digest: String,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Identifies the layer with everything below it; names its directory.
    pub chain_id: String,
    pub size_bytes: u64,
}

/// When to ask the registry (Kubernetes `imagePullPolicy`, podman `--pull`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    Always,
    /// Only if not present.
    Missing,
    Never,
    /// If the registry's is newer.
    Newer,
}

#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    pub policy: Option<PullPolicy>,
    pub credentials: Option<Credentials>,
    /// `Some(false)`: the registry may speak http or present any certificate.
    pub tls_verify: Option<bool>,
    /// `os/arch[/variant]`; default: this machine's.
    pub platform: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, ...)", self.username)
    }
}

/// What a long image operation reports while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum PullProgress {
    Resolving { reference: String },
    LayerPresent { digest: String },
    LayerDownloading { digest: String, current_bytes: u64, total_bytes: u64 },
    LayerUnpacked { digest: String },
    Done { id: ImageId },
}

/// Receives progress; called from any thread, must not block.
pub type ProgressSink = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// The directories that make up an image's file system.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRootfs {
    /// Topmost layer first, as overlayfs wants them.
    pub lower: Vec<PathBuf>,
}

/// Images, their content and their layers on disk. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {}

#[allow(unused_variables)]
impl ImageStore {
    /// Opens the content below `ROOT`, given the records that were durable. Clears what a crash left:
    /// half-done ingests, and layers and blobs that no record names.
    pub fn open(config: &EngineConfig, store: Store, images: Vec<ImageRecord>) -> Result<Self> {
        todo!("images")
    }

    /// Pulls if the policy (default: missing) asks for it.
    pub async fn pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        todo!("images")
    }

    /// Loads a docker-archive, an oci-archive (either may be compressed) or an OCI layout directory.
    pub async fn load(&self, archive: &Path) -> Result<Vec<Arc<ImageRecord>>> {
        todo!("images")
    }

    /// By id, unique id prefix, `sha256:` id, short or full name, `repository@digest`.
    pub fn image(&self, name: &str) -> Result<Arc<ImageRecord>> {
        todo!("images")
    }

    /// Newest first.
    pub fn images(&self) -> Vec<Arc<ImageRecord>> {
        todo!("images")
    }

    pub async fn tag(&self, image: &str, name: &str) -> Result<()> {
        todo!("images")
    }

    /// Removes the name, and with its last name the image. `in_use` names the containers of an image.
    pub async fn remove(
        &self,
        image: &str,
        force: bool,
        in_use: &(dyn Fn(&ImageId) -> Vec<String> + Send + Sync),
    ) -> Result<RemovedImage> {
        todo!("images")
    }

    /// The directories to stack, topmost first. Never empty: an image without layers has an empty one.
    pub fn rootfs(&self, id: &ImageId) -> Result<ImageRootfs> {
        todo!("images")
    }

    /// The configuration exactly as it was fetched: its SHA-256 is the image's id.
    pub fn raw_config(&self, id: &ImageId) -> Result<Vec<u8>> {
        todo!("images")
    }

    /// The manifest exactly as it was fetched.
    pub fn raw_manifest(&self, id: &ImageId) -> Result<Vec<u8>> {
        todo!("images")
    }
}
