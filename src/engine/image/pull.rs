//! Pulling: what to ask for, in which order, and the work done once however many ask.
//!
//! Resolve (a name's candidates, an endpoint's mirrors, an index's platform), then all layers in parallel, each in
//! one pass from the socket to the disk, then the record. Two pulls of the same image share one *flight*; it ends
//! when the last of its passengers gives up.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as SharedFuture, WeakShared};
use thiserror::Error;
use tokio::sync::mpsc;

use super::auth::AuthError;
use super::digest::Digest;
use super::layer::{Expected, LayerError};
use super::layers::Ensured;
use super::manifest::{CheckedConfig, Descriptor, Document, ManifestError, Platform};
use super::reference::ImageReference;
use super::registries_conf::{ConfError, Endpoint, RegistriesConf};
use super::registry::{Registry, RegistryError};
use super::{
    Credentials, ImageRecord, ImageStore, IngestError, MakeError, NewImage, ProgressSink, PullOptions,
    PullPolicy, PullProgress, Shared,
};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject, chain};

/// Pieces of a layer on their way from the socket to the unpacker.
const PIECES_IN_FLIGHT: usize = 64;
/// A connection that breaks after so many bytes was worth having: it does not count as a failure in a row.
const WORTHWHILE_BYTES: u64 = 1 << 20;
const PROGRESS_STEP_BYTES: u64 = 512 << 10;

#[derive(Debug, Error)]
pub(super) enum PullError {
    #[error(transparent)]
    Conf(#[from] ConfError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("registry {registry}: {document}")]
    Manifest {
        registry: String,
        document: String,
        #[source]
        source: ManifestError,
    },
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error("{}", .0.iter().map(|(name, error)| format!("{name}: {}", chain(&**error))).collect::<Vec<_>>().join("; "))]
    Candidates(Vec<(String, Arc<PullError>)>),
}

impl PullError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Registry(RegistryError::NotFound { .. })
            | Self::Manifest { source: ManifestError::Platform { .. }, .. } => ErrorKind::NotFound,
            Self::Registry(RegistryError::Certificate { .. } | RegistryError::Client { .. })
            | Self::Conf(_)
            | Self::Auth(_)
            | Self::Ingest(IngestError::Content(_) | IngestError::Store(_))
            | Self::Ingest(IngestError::Layer { source: LayerError::Write { .. }, .. }) => {
                ErrorKind::Internal
            }
            Self::Registry(_) | Self::Manifest { .. } | Self::Ingest(IngestError::Layer { .. }) => {
                ErrorKind::Upstream
            }
            Self::Candidates(all) => {
                let is_missing = all.iter().all(|(_, error)| error.kind() == ErrorKind::NotFound);
                if is_missing { ErrorKind::NotFound } else { ErrorKind::Upstream }
            }
        }
    }

    fn is_no_space(&self) -> bool {
        matches!(self, Self::Ingest(error) if error.is_no_space())
    }
}

/// An error that several pulls of one flight get.
#[derive(Debug, Clone)]
struct SharedError(Arc<PullError>);

impl std::fmt::Display for SharedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

type Outcome = Result<Arc<ImageRecord>, Arc<PullError>>;
type Flight = SharedFuture<BoxFuture<'static, Outcome>>;

/// What makes two pulls the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    reference: ImageReference,
    platform: Option<Platform>,
    tls_verify: Option<bool>,
    credentials: Option<(String, String)>,
}

/// Pulls under way.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<FlightKey, UnderWay>>);

/// Keeps neither the flight going, which its passengers do, nor those who watch it from being let go.
struct UnderWay {
    flight: WeakShared<BoxFuture<'static, Outcome>>,
    watchers: Weak<Watchers>,
}

/// Everybody who wants to see one flight's progress.
#[derive(Default)]
struct Watchers(Mutex<Vec<ProgressSink>>);

impl Watchers {
    fn add(&self, sink: Option<ProgressSink>) {
        if let Some(sink) = sink {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
        }
    }

    fn tell(&self, progress: PullProgress) {
        let sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for sink in sinks {
            sink(progress.clone());
        }
    }
}

impl ImageStore {
    pub(super) async fn pull_if_wanted(
        &self,
        name: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        let subject = || Subject::Image(name.to_owned());
        let invalid = |error: &dyn std::error::Error| EngineError::invalid(subject(), chain(error));
        let platform: Option<Platform> =
            options.platform.as_deref().map(str::parse).transpose().map_err(|error| invalid(&error))?;
        let local = match self.find(name) {
            Ok((record, _)) => Some(record).filter(|record| self.is_usable(record, platform.as_ref())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let policy = options.policy.unwrap_or(PullPolicy::Missing);
        match (policy, &local) {
            (PullPolicy::Missing | PullPolicy::Never, Some(record)) => return Ok(Arc::clone(record)),
            (PullPolicy::Never, None) => return Err(EngineError::no_such(subject())),
            (PullPolicy::Missing, None) | (PullPolicy::Always | PullPolicy::Newer, _) => {}
        }
        if name.starts_with("sha256:") {
            return Err(EngineError::no_such(subject()));
        }
        let typed = match name.parse() {
            Ok(typed) => typed,
            // An id names no place to pull from.
            Err(super::reference::InvalidReference::IsId(_)) => return Err(EngineError::no_such(subject())),
            Err(error) => return Err(invalid(&error)),
        };
        let pulled = async {
            let conf = self.shared.reload_registries()?;
            let mut errors = Vec::new();
            for candidate in conf.pull_candidates(&typed)? {
                match self
                    .join_flight(candidate.clone(), platform.as_ref(), &options, progress.clone(), &conf)
                    .await
                {
                    Ok(record) => return Ok(record),
                    Err(error) => errors.push((candidate.to_string(), error)),
                }
            }
            Err(match errors.len() {
                1 => errors.remove(0).1,
                _ => Arc::new(PullError::Candidates(errors)),
            })
        };
        match (pulled.await, policy, local) {
            (Ok(record), _, _) => {
                if let Some(progress) = progress {
                    progress(PullProgress::Done { id: record.id.clone() });
                }
                Ok(record)
            }
            (Err(error), PullPolicy::Newer, Some(record)) => {
                let error = chain(&*error);
                tracing::warn!(
                    image.reference = name,
                    error,
                    "no newer image could be looked for; using the local one"
                );
                Ok(record)
            }
            (Err(error), _, _) => {
                Err(EngineError::new(error.kind(), subject(), "pull").with_source(SharedError(error)))
            }
        }
    }

    fn is_usable(&self, record: &ImageRecord, platform: Option<&Platform>) -> bool {
        let is_whole = record.layers.iter().all(|layer| {
            layer.chain_id.parse().is_ok_and(|chain_id: Digest| self.shared.layers.is_present(&chain_id))
        });
        is_whole && platform.is_none_or(|wanted| wanted.accepts(&Platform::of(&record.config)))
    }

    /// Pulls one full name, or waits for the pull of it that is under way.
    async fn join_flight(
        &self,
        reference: ImageReference,
        platform: Option<&Platform>,
        options: &PullOptions,
        progress: Option<ProgressSink>,
        conf: &Arc<RegistriesConf>,
    ) -> Outcome {
        let key = FlightKey {
            reference: reference.clone(),
            platform: platform.cloned(),
            tls_verify: options.tls_verify,
            credentials: options.credentials.as_ref().map(|c| (c.username.clone(), c.password.clone())),
        };
        let flight: Flight = {
            let mut flights = self.shared.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, under_way| under_way.flight.upgrade().is_some_and(|f| f.peek().is_none()));
            match flights
                .get(&key)
                .and_then(|under_way| Some((under_way.flight.upgrade()?, under_way.watchers.upgrade()?)))
            {
                Some((flight, watchers)) => {
                    watchers.add(progress);
                    flight
                }
                None => {
                    let watchers = Arc::new(Watchers::default());
                    watchers.add(progress);
                    let watched = Arc::downgrade(&watchers);
                    let fetch = Fetch {
                        shared: Arc::clone(&self.shared),
                        conf: Arc::clone(conf),
                        reference,
                        platform: platform.cloned(),
                        tls_verify: options.tls_verify,
                        credentials: options.credentials.clone(),
                        watchers,
                    };
                    let flight = async move { fetch.run().await.map_err(Arc::new) }.boxed().shared();
                    if let Some(weak) = flight.downgrade() {
                        flights.insert(key, UnderWay { flight: weak, watchers: watched });
                    }
                    flight
                }
            }
        };
        flight.await
    }
}

impl Shared {
    /// Reads registries.conf again, so that a change of it counts at once.
    fn reload_registries(&self) -> Result<Arc<RegistriesConf>, Arc<PullError>> {
        let conf = Arc::new(
            RegistriesConf::load(&self.settings.registries)
                .map_err(|error| Arc::new(PullError::Conf(error)))?,
        );
        *self.registries.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&conf);
        Ok(conf)
    }
}

impl From<ConfError> for Arc<PullError> {
    fn from(error: ConfError) -> Self {
        Arc::new(error.into())
    }
}

/// The pull of one full name.
struct Fetch {
    shared: Arc<Shared>,
    conf: Arc<RegistriesConf>,
    reference: ImageReference,
    platform: Option<Platform>,
    tls_verify: Option<bool>,
    credentials: Option<Credentials>,
    watchers: Arc<Watchers>,
}

/// What a name led to.
struct Resolved {
    manifest: Vec<u8>,
    digest: Digest,
    document: super::manifest::ImageManifest,
    /// Under which digests the repository knows it: the index's and the manifest's.
    repo_digests: Vec<String>,
}

impl Fetch {
    async fn run(self) -> Result<Arc<ImageRecord>, PullError> {
        let started = std::time::Instant::now();
        let mut endpoints = self.conf.endpoints(&self.reference)?.into_iter().peekable();
        loop {
            let endpoint = endpoints.next().expect("the last endpoint is the registry itself");
            let host = endpoint.host.clone();
            match self.fetch_from(endpoint).await {
                Ok(record) => {
                    let duration_ms = started.elapsed().as_millis() as u64;
                    tracing::info!(image.reference = %self.reference, duration_ms, "pulled the image");
                    return Ok(record);
                }
                Err(error) if endpoints.peek().is_some() && !error.is_no_space() => {
                    let error = chain(&error);
                    tracing::warn!(image.reference = %self.reference, mirror = host, error, "a mirror failed");
                }
                Err(error) => {
                    if error.is_no_space() {
                        self.shared.remove_unused_layers();
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn fetch_from(&self, endpoint: Endpoint) -> Result<Arc<ImageRecord>, PullError> {
        let credentials = self.credentials_for(&endpoint)?;
        let insecure = self.tls_verify.map_or(endpoint.insecure, |verify| !verify);
        let registry = Arc::new(Registry::new(endpoint, insecure, credentials, &self.shared.settings)?);
        self.watchers.tell(PullProgress::Resolving { reference: self.reference.to_string() });
        let resolved = self.resolve(&registry).await?;
        // A digest is no name: `repository@digest` stands among the repository digests.
        let names = match self.reference.digest() {
            Some(_) => Vec::new(),
            None => vec![self.reference.to_string()],
        };
        let (bytes, checked) = self.configuration(&registry, &resolved).await?;
        let held = self.shared.layers.hold(&checked.chain_ids);
        let mut making = Vec::new();
        for (n, descriptor) in resolved.document.layers.iter().enumerate() {
            making.push(self.make_layer(
                &registry,
                descriptor,
                checked.diff_ids[n].clone(),
                &checked.chain_ids[n],
            ));
        }
        let layers = futures_util::future::try_join_all(making).await?;
        let new = NewImage {
            names,
            repo_digests: resolved.repo_digests,
            manifest: resolved.manifest,
            config: bytes,
            checked,
            layers,
            held,
        };
        Ok(self.shared.add(new).await?)
    }

    async fn resolve(&self, registry: &Registry) -> Result<Resolved, PullError> {
        let wrong = |document: &str| {
            let (registry, document) = (registry.host().to_owned(), document.to_owned());
            move |source| PullError::Manifest { registry, document, source }
        };
        let name = self.reference.tag_or_digest();
        let (bytes, digest) = registry.manifest(name).await?;
        let mut repo_digests = vec![self.reference.at(&digest)];
        match Document::parse(&bytes).map_err(wrong(name))? {
            Document::Manifest(document) => Ok(Resolved { manifest: bytes, digest, document, repo_digests }),
            Document::Index(index) => {
                let platform = self.platform.clone().unwrap_or_else(Platform::host);
                let chosen = platform.select(&index).map_err(wrong(name))?.digest.clone();
                let (bytes, digest) = registry.manifest(chosen.as_str()).await?;
                match Document::parse(&bytes).map_err(wrong(chosen.as_str()))? {
                    Document::Manifest(document) => {
                        repo_digests.push(self.reference.at(&digest));
                        Ok(Resolved { manifest: bytes, digest, document, repo_digests })
                    }
                    Document::Index(_) => Err(wrong(chosen.as_str())(ManifestError::Neither)),
                }
            }
        }
    }

    /// The configuration, from the disk if this very manifest was pulled before.
    async fn configuration(
        &self,
        registry: &Registry,
        resolved: &Resolved,
    ) -> Result<(Vec<u8>, CheckedConfig), PullError> {
        let descriptor = &resolved.document.config;
        let records = self.shared.records();
        let is_known = records.iter().any(|record| record.manifest_digest == resolved.digest.as_str());
        let bytes = match self.shared.content.read_blob(&descriptor.digest) {
            Ok(bytes) if is_known && Digest::of(&bytes) == descriptor.digest => bytes,
            Ok(_) | Err(_) => registry.document(descriptor).await?,
        };
        let wrong = |source| PullError::Manifest {
            registry: registry.host().to_owned(),
            document: descriptor.digest.to_string(),
            source,
        };
        let checked = CheckedConfig::parse(&bytes, resolved.document.layers.len()).map_err(wrong)?;
        if let Some(wanted) = &self.platform {
            let found = Platform::of(&checked.config);
            if !wanted.accepts(&found) {
                return Err(wrong(ManifestError::Platform {
                    wanted: wanted.clone(),
                    found: vec![found.to_string()],
                }));
            }
        }
        Ok((bytes, checked))
    }

    /// Downloads, verifies and unpacks one layer unless it is there.
    async fn make_layer(
        &self,
        registry: &Arc<Registry>,
        descriptor: &Descriptor,
        diff_id: Digest,
        chain_id: &Digest,
    ) -> Result<(Digest, u64), PullError> {
        let digest = descriptor.digest.to_string();
        let expected = Expected { blob: Some((descriptor.digest.clone(), descriptor.size)), diff_id };
        let failure: Arc<Mutex<Option<RegistryError>>> = Arc::default();
        // Ends the download when this future is dropped.
        let mut download = tokio::task::JoinSet::new();
        let begin = async {
            let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
            let (registry, descriptor) = (Arc::clone(registry), descriptor.clone());
            let (failure, watchers) = (Arc::clone(&failure), Arc::clone(&self.watchers));
            download.spawn(async move {
                if let Err(error) = send_blob(&registry, &descriptor, &sender, &watchers).await {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
            let reader = PieceReader { receiver, piece: Bytes::new(), ended: false };
            Ok::<_, MakeError>(Box::new(reader) as Box<dyn Read + Send>)
        };
        let made = self.shared.layers.ensure(chain_id, expected, begin).await;
        // What broke the download is the cause, not what the unpacker made of it.
        if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error.into());
        }
        let made = made.map_err(|error| error.of(&descriptor.digest))?;
        self.watchers.tell(match made {
            Ensured::Present { .. } => PullProgress::LayerPresent { digest },
            Ensured::Made { .. } => PullProgress::LayerUnpacked { digest },
        });
        Ok((descriptor.digest.clone(), made.size_bytes()))
    }

    /// What the user gave is for the registry they named; a mirror has its own, if any.
    fn credentials_for(&self, endpoint: &Endpoint) -> Result<Option<Credentials>, AuthError> {
        if !endpoint.is_mirror {
            return match &self.credentials {
                Some(credentials) => Ok(Some(credentials.clone())),
                None => self.shared.settings.auth.find(&self.reference),
            };
        }
        match format!("{}/{}", endpoint.host, endpoint.repository).parse() {
            Ok(reference) => self.shared.settings.auth.find(&reference),
            Err(_) => Ok(None),
        }
    }
}

/// A piece of a blob, or its end: a channel that just closes means the download failed.
enum Piece {
    Data(Bytes),
    End,
}

/// Sends a blob's bytes, going on where a connection broke.
async fn send_blob(
    registry: &Registry,
    descriptor: &Descriptor,
    sender: &mpsc::Sender<Piece>,
    watchers: &Watchers,
) -> Result<(), RegistryError> {
    let mut sent = 0;
    let mut told = 0;
    let mut failures = 0;
    loop {
        let begun_at = sent;
        let outcome: Result<(), RegistryError> = async {
            let mut blob = registry.blob(descriptor, sent).await?;
            while let Some(piece) = registry.next_piece(&mut blob, descriptor).await? {
                sent += piece.len() as u64;
                // The reader has what it needs, or has failed on its own: either way it knows best.
                if sender.send(Piece::Data(piece)).await.is_err() || sent > descriptor.size {
                    return Ok(());
                }
                if sent >= told + PROGRESS_STEP_BYTES || sent == descriptor.size {
                    told = sent;
                    watchers.tell(PullProgress::LayerDownloading {
                        digest: descriptor.digest.to_string(),
                        current_bytes: sent,
                        total_bytes: descriptor.size,
                    });
                }
            }
            Ok(())
        }
        .await;
        match outcome {
            Ok(()) => {
                // Fewer bytes than promised, and a clean end: the reader says so.
                let _ = sender.send(Piece::End).await;
                return Ok(());
            }
            // All of it came; how the connection ended says nothing about the bytes.
            Err(_) if sent == descriptor.size => {
                let _ = sender.send(Piece::End).await;
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                failures = if sent - begun_at >= WORTHWHILE_BYTES { 1 } else { failures + 1 };
                if failures >= registry.attempts() {
                    return Err(error);
                }
                tracing::debug!(layer = %descriptor.digest, at = sent, error = chain(&error), "going on with the download");
                tokio::time::sleep(registry.delay(failures)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The unpacker's end of a download.
struct PieceReader {
    receiver: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(piece)) => self.piece = piece,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was given up",
                    ));
                }
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
