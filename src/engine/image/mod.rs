//! Images: content store, layers unpacked once per chain id, names.
//!
//! [`ImageStore`] is all the rest of the engine sees. A pull or a load goes the same way: [`manifest`] says what is
//! needed, [`layers`] makes what is missing (each layer once, whoever asks), [`layer`] unpacks what strangers wrote,
//! [`recipe`] notes how it was packed, [`store`] keeps it, [`records`] decides about names; the record is committed last, so that an image is visible
//! only when all of it is on disk.
//!
//! Records are read from memory and never wait for a pull. Spawned: one blocking task per layer being unpacked.
//! Containers are not known here; whoever removes an image says which containers use it.

pub mod archive;
pub mod auth;
pub mod digest;
pub mod entries;
pub mod layer;
mod layers;
mod manifest;
mod prune;
mod pull;
mod push;
mod recipe;
mod records;
pub mod reference;
pub mod registries_conf;
mod registry;
mod save;
mod store;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::RemovedImage;
use crate::engine::config::EngineConfig;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::ImageId;
use crate::engine::store::{Change, Store, StoreError};

use archive::{Archive, ArchiveError, ArchivedImage};
use auth::AuthPaths;
use digest::Digest;
use layer::{LayerError, Limits};
use layers::{Held, Layers};
use manifest::{CheckedConfig, Platform};
pub use prune::PrunedImage;
pub use push::{ManifestFormat, PushOptions, PushProgress, PushSink, Pushed};
use records::{FoundBy, LookupError, Records};
use reference::ImageReference;
use registries_conf::{ConfPaths, RegistriesConf};
pub use save::ArchiveFormat;
use store::{Content, ContentError};

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

/// What an image store takes from its surroundings. The defaults are what podman would use as root.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    pub registries: ConfPaths,
    pub auth: AuthPaths,
    /// Directories with `HOST[:PORT]/*.crt`: certificate authorities to trust for that registry.
    pub certificates: Vec<PathBuf>,
    pub connect_timeout: Duration,
    /// A registry that sends nothing for so long is given up on.
    pub stall_timeout: Duration,
    /// How often a request that failed for a passing reason is made in all.
    pub attempts: u32,
    /// Before the second attempt; doubles with each further one.
    pub retry_delay: Duration,
    /// Layers downloaded and unpacked at the same time, in all pulls together.
    pub layers_at_once: usize,
    pub limits: Limits,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            registries: ConfPaths::from_environment(),
            auth: AuthPaths::from_environment(),
            certificates: vec!["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()],
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 4,
            retry_delay: Duration::from_millis(500),
            layers_at_once: 6,
            limits: Limits::default(),
        }
    }
}

/// Images, their content and their layers on disk. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ImageSettings,
    content: Content,
    layers: Arc<Layers>,
    store: Store,
    records: RwLock<Arc<Records>>,
    /// Held from the decision about a change of records to its publication.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// As last read; a pull reads it again.
    registries: RwLock<Arc<RegistriesConf>>,
    flights: pull::Flights,
}

/// An image whose layers are all there, about to get its record.
struct NewImage {
    names: Vec<String>,
    repo_digests: Vec<String>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    checked: CheckedConfig,
    /// Digest of the blob and size of the files of each layer, lowest first.
    layers: Vec<(Digest, u64)>,
    /// Until the record is there.
    held: Held,
}

/// Content that could not be made an image.
#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error("layer {digest}")]
    Layer {
        digest: Digest,
        #[source]
        source: LayerError,
    },
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("record the image")]
    Store(#[from] StoreError),
}

impl IngestError {
    fn is_no_space(&self) -> bool {
        match self {
            Self::Layer { source, .. } => source.is_no_space(),
            Self::Content(error) => error.is_no_space(),
            Self::Store(error) => error.is_disk_full(),
        }
    }
}

impl ImageStore {
    /// Opens the content below `ROOT`, given the records that were durable. Clears what a crash left:
    /// half-done ingests, and layers and blobs that no record names.
    pub fn open(config: &EngineConfig, store: Store, images: Vec<ImageRecord>) -> Result<Self> {
        Self::open_with(config, store, images, ImageSettings::default())
    }

    pub fn open_with(
        config: &EngineConfig,
        store: Store,
        images: Vec<ImageRecord>,
        settings: ImageSettings,
    ) -> Result<Self> {
        let records = Records::new(images.into_iter().map(Arc::new));
        let wanted_blobs: HashSet<Digest> = records.iter().flat_map(|record| blobs_of(record)).collect();
        let layers: HashMap<Digest, u64> = records
            .iter()
            .flat_map(|record| &record.layers)
            .filter_map(|layer| Some((layer.chain_id.parse().ok()?, layer.size_bytes)))
            .collect();
        let wanted_layers = layers.keys().cloned().collect();
        let content = Content::open(&config.root, &wanted_layers, &wanted_blobs)
            .map_err(|error| EngineError::internal(Subject::Engine, "open the image store", error))?;
        let registries = RegistriesConf::load(&settings.registries).unwrap_or_else(|error| {
            // The next pull fails with it; local names are found without.
            tracing::warn!(error = crate::engine::error::chain(&error), "registries.conf is not usable");
            RegistriesConf::default()
        });
        let layers = Layers::new(content.clone(), layers, settings.limits, settings.layers_at_once);
        let shared = Shared {
            settings,
            content,
            layers: Arc::new(layers),
            store,
            records: RwLock::new(Arc::new(records)),
            changing: Arc::default(),
            registries: RwLock::new(Arc::new(registries)),
            flights: pull::Flights::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Pulls if the policy (default: missing) asks for it.
    pub async fn pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        self.pull_if_wanted(reference, options, progress).await
    }

    /// Loads a docker-archive, an oci-archive (either may be compressed) or an OCI layout directory.
    pub async fn load(&self, archive: &Path) -> Result<Vec<Arc<ImageRecord>>> {
        let failed = |kind| {
            let subject = Subject::Image(archive.display().to_string());
            move |error: Box<dyn std::error::Error + Send + Sync>| {
                EngineError::new(kind, subject, "load").with_source(error)
            }
        };
        let (path, content) = (archive.to_owned(), self.shared.content.clone());
        let read = move || {
            let archive = Archive::open(&path, &content)?;
            let images = archive.images(&Platform::host())?;
            Ok((archive, images))
        };
        let (opened, images) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|panic| failed(ErrorKind::Internal)(panic.into()))?
            .map_err(|error: ArchiveError| failed(kind_of_archive_error(&error))(error.into()))?;
        let mut loaded = Vec::new();
        for image in images {
            let record = self.load_image(&opened, image).await.map_err(|error| {
                if error.is_no_space() {
                    self.shared.remove_unused_layers();
                }
                let kind = match &error {
                    IngestError::Layer { source: LayerError::Write { .. }, .. }
                    | IngestError::Content(_)
                    | IngestError::Store(_) => ErrorKind::Internal,
                    IngestError::Layer { .. } => ErrorKind::InvalidArgument,
                };
                failed(kind)(error.into())
            })?;
            loaded.push(record);
        }
        Ok(loaded)
    }

    /// By id, unique id prefix, `sha256:` id, short or full name, `repository@digest`.
    pub fn image(&self, name: &str) -> Result<Arc<ImageRecord>> {
        self.find(name).map(|(record, _)| record)
    }

    /// Newest first.
    pub fn images(&self) -> Vec<Arc<ImageRecord>> {
        self.shared.records().newest_first()
    }

    /// A name without a registry goes under `localhost/`, as podman has it.
    pub async fn tag(&self, image: &str, name: &str) -> Result<()> {
        let record = self.image(image)?;
        let invalid = |detail: String| EngineError::invalid(Subject::Image(name.to_owned()), detail);
        let name = ImageReference::parse_local(name).map_err(|error| invalid(error.to_string()))?;
        if name.digest().is_some() {
            return Err(invalid("a tag can not have a digest".to_owned()));
        }
        let name = name.to_string();
        let shared = Arc::clone(&self.shared);
        let change = async move {
            let _changing = shared.changing.lock().await;
            let records = shared.records();
            // It may have been removed meanwhile.
            let record =
                records.get(&record.id).ok_or_else(|| EngineError::no_such(image_subject(&record)))?;
            let changed = records.plan_add(record.as_ref().clone(), &[name]);
            shared
                .publish(&records, changed, Vec::new())
                .await
                .map_err(|error| EngineError::internal(image_subject(record), "record the name", error))
        };
        uncancelled(change).await
    }

    /// Removes the name, and with its last name the image. By id, all names go; several need `force`.
    /// `in_use` names the containers of an image: it is never removed from under them, `force` or not.
    pub async fn remove(
        &self,
        image: &str,
        force: bool,
        in_use: &(dyn Fn(&ImageId) -> Vec<String> + Send + Sync),
    ) -> Result<RemovedImage> {
        let changing = Arc::clone(&self.shared.changing).lock_owned().await;
        let (record, found_by) = self.find(image)?;
        let untagged = match found_by {
            FoundBy::Name(name) => vec![name],
            FoundBy::Id | FoundBy::Digest(_) if record.names.len() > 1 && !force => {
                let detail = format!(
                    "unable to delete image by ID with more than one tag ({}): please force removal",
                    record.names.join(", ")
                );
                return Err(EngineError::new(ErrorKind::InUse, Subject::Image(image.to_owned()), detail));
            }
            FoundBy::Id | FoundBy::Digest(_) => record.names.clone(),
        };
        let mut left = record.as_ref().clone();
        left.names.retain(|name| !untagged.contains(name));
        let mut removed = RemovedImage { untagged, deleted: Vec::new() };
        let (changed, gone) = if left.names.is_empty() {
            let users = in_use(&record.id);
            if !users.is_empty() {
                // podman's words.
                let detail = format!("image used by {}: image is in use by a container", users.join(", "));
                return Err(EngineError::new(ErrorKind::InUse, Subject::Image(image.to_owned()), detail));
            }
            removed.deleted.push(record.id.clone());
            (Vec::new(), vec![Arc::clone(&record)])
        } else {
            (vec![Arc::new(left)], Vec::new())
        };
        self.take_away(changing, changed, gone)
            .await
            .map_err(|error| EngineError::internal(image_subject(&record), "remove", error))?;
        Ok(removed)
    }

    /// The directories to stack, topmost first. Never empty: an image without layers has an empty one.
    pub fn rootfs(&self, id: &ImageId) -> Result<ImageRootfs> {
        let record = self.record(id)?;
        let mut lower = Vec::with_capacity(record.layers.len().max(1));
        for layer in record.layers.iter().rev() {
            let chain_id: Digest = layer.chain_id.parse().map_err(|error: digest::InvalidDigest| {
                EngineError::internal(image_subject(&record), "find its layers", error)
            })?;
            if !self.shared.content.has_layer(&chain_id) {
                let detail =
                    format!("layer not known: {chain_id} is gone from the disk; pull the image again");
                return Err(EngineError::new(ErrorKind::Internal, image_subject(&record), detail));
            }
            lower.push(self.shared.content.layer_path(&chain_id));
        }
        if lower.is_empty() {
            lower.push(self.shared.content.empty_layer_path());
        }
        Ok(ImageRootfs { lower })
    }

    /// The configuration exactly as it was fetched: its SHA-256 is the image's id.
    pub fn raw_config(&self, id: &ImageId) -> Result<Vec<u8>> {
        self.raw(id, |record| format!("sha256:{}", record.id))
    }

    /// The manifest exactly as it was fetched.
    pub fn raw_manifest(&self, id: &ImageId) -> Result<Vec<u8>> {
        self.raw(id, |record| record.manifest_digest.clone())
    }

    fn raw(&self, id: &ImageId, digest: impl Fn(&ImageRecord) -> String) -> Result<Vec<u8>> {
        let record = self.record(id)?;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::internal(image_subject(&record), "read its documents", error)
        };
        let digest: Digest =
            digest(&record).parse().map_err(|error: digest::InvalidDigest| failed(error.into()))?;
        self.shared.content.read_blob(&digest).map_err(|error| failed(error.into()))
    }

    fn record(&self, id: &ImageId) -> Result<Arc<ImageRecord>> {
        let record = self.shared.records().get(id).cloned();
        record.ok_or_else(|| EngineError::no_such(Subject::Image(id.to_string())))
    }

    fn find(&self, name: &str) -> Result<(Arc<ImageRecord>, FoundBy)> {
        let subject = Subject::Image(name.to_owned());
        self.shared.records().find(name, &self.shared.registries()).map_err(|error| match error {
            LookupError::NotFound => EngineError::no_such(subject),
            LookupError::Ambiguous(_) | LookupError::Invalid(_) => {
                EngineError::invalid(subject, error.to_string())
            }
        })
    }

    async fn load_image(
        &self,
        archive: &Archive,
        image: ArchivedImage,
    ) -> Result<Arc<ImageRecord>, IngestError> {
        let held = self.shared.layers.hold(&image.checked.chain_ids);
        let mut making = Vec::new();
        for (layer, chain_id) in image.layers.into_iter().zip(&image.checked.chain_ids) {
            let archive = archive.clone();
            let layers = Arc::clone(&self.shared.layers);
            making.push(async move {
                let blob = async {
                    archive
                        .reader(&layer.member)
                        .map_err(|error| MakeError::Layer(LayerError::Read(std::io::Error::other(error))))
                };
                let made = layers.ensure(chain_id, layer.expected, blob).await;
                made.map(|made| (layer.digest.clone(), made.size_bytes()))
                    .map_err(|error| error.of(&layer.digest))
            });
        }
        let layers = futures_util::future::try_join_all(making).await?;
        let new = NewImage {
            names: image.names,
            repo_digests: Vec::new(),
            manifest: image.manifest,
            config: image.config,
            checked: image.checked,
            layers,
            held,
        };
        self.shared.add(new).await
    }
}

/// Why [`Layers::ensure`] failed, before it is known for which blob.
enum MakeError {
    Layer(LayerError),
    Content(ContentError),
}

impl MakeError {
    fn of(self, digest: &Digest) -> IngestError {
        match self {
            Self::Layer(source) => IngestError::Layer { digest: digest.clone(), source },
            Self::Content(error) => IngestError::Content(error),
        }
    }
}

impl From<LayerError> for MakeError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<ContentError> for MakeError {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl Shared {
    fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn registries(&self) -> Arc<RegistriesConf> {
        Arc::clone(&self.registries.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn remove_unused_layers(&self) {
        self.layers.remove_unused(&self.records().layers());
    }

    /// Makes a complete image visible: documents on disk, then the record, then memory.
    async fn add(self: &Arc<Self>, new: NewImage) -> Result<Arc<ImageRecord>, IngestError> {
        let shared = Arc::clone(self);
        uncancelled(async move {
            let _changing = shared.changing.lock().await;
            let NewImage { names, repo_digests, manifest, config, checked, layers, held } = new;
            let content = shared.content.clone();
            let write = move || -> Result<_, ContentError> {
                let digests = (content.put_blob(&manifest)?, content.put_blob(&config)?);
                content.sync_names()?;
                Ok(digests)
            };
            let (manifest_digest, config_digest) = run_blocking(write).await?;
            let record = record(manifest_digest, &config_digest, repo_digests, checked, &layers);
            let records = shared.records();
            let changed = records.plan_add(record, &names);
            let id = changed[0].id.clone();
            // The same image under the same names: nothing is written.
            let changed: Vec<_> = changed
                .into_iter()
                .filter(|record| records.get(&record.id).is_none_or(|known| known != record))
                .collect();
            shared.publish(&records, changed, Vec::new()).await?;
            drop(held);
            Ok(Arc::clone(shared.records().get(&id).expect("it was just added")))
        })
        .await
    }

    /// Commits the change and then shows it. The caller holds `changing` since it read `records`.
    async fn publish(
        &self,
        records: &Records,
        changed: Vec<Arc<ImageRecord>>,
        removed: Vec<ImageId>,
    ) -> Result<(), StoreError> {
        let changes = changed.iter().map(|record| Change::PutImage(Arc::clone(record)));
        let changes = changes.chain(removed.iter().cloned().map(Change::RemoveImage)).collect();
        self.store.commit(changes).await?;
        let next = Arc::new(records.with(&changed, &removed));
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// Runs to its end even if the caller's future is dropped: a commit can not be taken back.
async fn uncancelled<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(future).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn record(
    manifest_digest: Digest,
    config_digest: &Digest,
    repo_digests: Vec<String>,
    checked: CheckedConfig,
    layers: &[(Digest, u64)],
) -> ImageRecord {
    let CheckedConfig { config, diff_ids, chain_ids } = checked;
    let layers: Vec<_> = layers
        .iter()
        .zip(diff_ids.iter().zip(&chain_ids))
        .map(|((digest, size_bytes), (diff_id, chain_id))| LayerRecord {
            digest: digest.to_string(),
            diff_id: diff_id.to_string(),
            chain_id: chain_id.to_string(),
            size_bytes: *size_bytes,
        })
        .collect();
    ImageRecord {
        id: config_digest.hex().parse().expect("a digest's digits are an id"),
        names: Vec::new(),
        manifest_digest: manifest_digest.to_string(),
        repo_digests,
        created_at: config.created().as_deref().and_then(|created| created.parse().ok()),
        added_at: Timestamp::now(),
        size_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
        architecture: config.architecture().to_string(),
        os: config.os().to_string(),
        config,
        layers,
    }
}

/// The documents that a record keeps on disk.
fn blobs_of(record: &ImageRecord) -> Vec<Digest> {
    [record.manifest_digest.clone(), format!("sha256:{}", record.id)]
        .iter()
        .filter_map(|digest| digest.parse().ok())
        .collect()
}

fn image_subject(record: &ImageRecord) -> Subject {
    Subject::Image(record.names.first().cloned().unwrap_or_else(|| record.id.short().to_owned()))
}

fn kind_of_archive_error(error: &ArchiveError) -> ErrorKind {
    match error {
        ArchiveError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ErrorKind::NotFound
        }
        ArchiveError::Open { .. } | ArchiveError::Read { .. } | ArchiveError::Content(_) => {
            ErrorKind::Internal
        }
        ArchiveError::Unrecognised
        | ArchiveError::NotTar(_)
        | ArchiveError::Decompress(_)
        | ArchiveError::TooBig
        | ArchiveError::Missing(_)
        | ArchiveError::DocumentTooBig { .. }
        | ArchiveError::Digest { .. }
        | ArchiveError::Parse { .. }
        | ArchiveError::Name(_)
        | ArchiveError::Manifest(..)
        | ArchiveError::Nesting => ErrorKind::InvalidArgument,
    }
}

#[cfg(test)]
mod tests;
