//! Images: content store, layers unpacked once per chain id, names.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::id::ImageId;

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
pub type ProgressSink = std::sync::Arc<dyn Fn(PullProgress) + Send + Sync>;

/// The directories that make up an image's file system.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRootfs {
    /// Topmost layer first, as overlayfs wants them.
    pub lower: Vec<PathBuf>,
}
