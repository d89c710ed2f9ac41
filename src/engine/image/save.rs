//! Writes images into archives: docker-archive (any number of images) and oci-archive (one).
//!
//! The same images give the same bytes, whenever and in whatever order they came here. Layers go in uncompressed:
//! their digest is then the `diff_id` that the configuration names, and nothing needs to be written before it can
//! be named. An archive is sent while it is made; if a layer turns out to be damaged, the stream ends in an error.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::mpsc;

use super::digest::Digest;
use super::layers::Held;
use super::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::recipe::{self, RecipeError};
use super::records::FoundBy;
use super::store::{Content, ContentError};
use super::{ImageRecord, ImageStore, image_subject, run_blocking};
use crate::engine::BoxStream;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};

const PIECE_BYTES: usize = 256 << 10;
/// Pieces made before the receiver has taken the first.
const PIECES_AHEAD: usize = 4;
const BLOCK: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    Docker,
    Oci,
}

/// Why an image can not be written.
#[derive(Debug, Error)]
pub(super) enum SaveError {
    #[error("layer {layer}")]
    Layer {
        layer: Digest,
        #[source]
        source: RecipeError,
    },
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("write the archive")]
    Write(#[source] io::Error),
}

impl SaveError {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Layer { source: RecipeError::Overwritten, .. } => ErrorKind::NotSupported,
            Self::Layer { .. } | Self::Content(_) | Self::Write(_) => ErrorKind::Internal,
        }
    }
}

/// A layer that can be written as a tar.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LayerSource {
    pub diff_id: Digest,
    pub tar_bytes: u64,
    recipe: PathBuf,
    root: PathBuf,
}

/// An image with all that is needed to write it; its layers stay while this exists.
pub(super) struct ImageSource {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<LayerSource>,
    _held: Held,
}

impl LayerSource {
    fn open(content: &Content, chain_id: &Digest, diff_id: &Digest) -> Result<Self, SaveError> {
        let recipe = content.recipe_path(chain_id);
        let tar_bytes = recipe::tar_bytes(&recipe)
            .map_err(|source| SaveError::Layer { layer: diff_id.clone(), source })?;
        Ok(Self { diff_id: diff_id.clone(), tar_bytes, recipe, root: content.layer_path(chain_id) })
    }

    /// Blocks. What was written is right only if this succeeds.
    pub(super) fn write_tar(&self, output: &mut dyn Write) -> Result<(), SaveError> {
        recipe::write_tar(&self.recipe, &self.root, &self.diff_id, output).map_err(|source| match source {
            RecipeError::Output(error) => SaveError::Write(error),
            source => SaveError::Layer { layer: self.diff_id.clone(), source },
        })
    }
}

impl ImageStore {
    /// One archive with all of `images`, in pieces. The names under which they are asked for are the names in it;
    /// an image asked for by id has none.
    pub async fn save(&self, images: &[String], format: ArchiveFormat) -> Result<BoxStream<Bytes>> {
        let subject = Subject::Image(images.join(" "));
        if format == ArchiveFormat::Oci && images.len() > 1 {
            let detail = "an archive of several images must be of format docker-archive";
            return Err(EngineError::invalid(subject, detail));
        }
        let mut wanted: Vec<(ImageSource, SavedImage)> = Vec::new();
        for image in images {
            let (record, found_by) = self.find(image)?;
            let name = match found_by {
                FoundBy::Name(name) => Some(name),
                FoundBy::Id | FoundBy::Digest(_) => None,
            };
            let id = record.id.to_string();
            let saved = match wanted.iter_mut().find(|(_, saved)| saved.id == id) {
                Some((_, saved)) => saved,
                None => {
                    let source = self.source(&record).await?;
                    wanted.push((source, SavedImage { id, names: Vec::new() }));
                    &mut wanted.last_mut().expect("it was just pushed").1
                }
            };
            saved.names.extend(name.filter(|name| !saved.names.contains(name)));
        }
        let members = match format {
            ArchiveFormat::Docker => docker_members(&wanted),
            ArchiveFormat::Oci => {
                wanted.first().map_or(Vec::new(), |(source, saved)| oci_members(source, saved))
            }
        };
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { sender, piece: BytesMut::new() };
            let written =
                write_archive(&members, &mut pieces).and_then(|()| pieces.flush().map_err(SaveError::Write));
            if let Err(error) = written {
                // Nobody listens any more if the failure was the sending.
                let error = EngineError::new(error.kind(), subject, "save").with_source(error);
                let _ = pieces.sender.blocking_send(Err(error));
            }
            drop(wanted);
        });
        Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|piece| (piece, receiver))
        })))
    }

    pub(super) async fn source(&self, record: &ImageRecord) -> Result<ImageSource> {
        let failed = |error: SaveError| {
            EngineError::new(error.kind(), image_subject(record), "read its layers").with_source(error)
        };
        let digests = |digest: fn(&super::LayerRecord) -> &str| -> Result<Vec<Digest>> {
            let digests = record.layers.iter().map(|layer| digest(layer).parse());
            digests.collect::<Result<_, _>>().map_err(|error: super::digest::InvalidDigest| {
                EngineError::internal(image_subject(record), "find its layers", error)
            })
        };
        let chain_ids = digests(|layer| &layer.chain_id)?;
        let diff_ids = digests(|layer| &layer.diff_id)?;
        let held = self.shared.layers.hold(&chain_ids);
        // Held too late if it has just been removed.
        self.rootfs(&record.id)?;
        let (config, manifest) = (self.raw_config(&record.id)?, self.raw_manifest(&record.id)?);
        let content = self.shared.content.clone();
        let open = move || -> Result<Vec<_>, SaveError> {
            let layers = chain_ids.iter().zip(&diff_ids);
            layers.map(|(chain_id, diff_id)| LayerSource::open(&content, chain_id, diff_id)).collect()
        };
        let layers = run_blocking(open).await.map_err(failed)?;
        Ok(ImageSource { config, manifest, layers, _held: held })
    }
}

struct SavedImage {
    id: String,
    names: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct Member {
    name: String,
    content: MemberContent,
}

#[derive(Debug, PartialEq)]
enum MemberContent {
    Bytes(Vec<u8>),
    Layer(LayerSource),
}

impl Member {
    fn bytes(name: String, bytes: Vec<u8>) -> Self {
        Self { name, content: MemberContent::Bytes(bytes) }
    }
}

/// `manifest.json`, and beside it what it names: `ID.json`, `DIFF_ID.tar`. Each layer once.
fn docker_members(images: &[(ImageSource, SavedImage)]) -> Vec<Member> {
    let mut members = Vec::new();
    let mut written = HashSet::new();
    let mut manifest = Vec::new();
    for (source, saved) in images {
        let config = format!("{}.json", saved.id);
        let layer_name = |layer: &LayerSource| format!("{}.tar", layer.diff_id.hex());
        manifest.push(json!({
            "Config": config,
            "RepoTags": (!saved.names.is_empty()).then_some(&saved.names),
            "Layers": source.layers.iter().map(layer_name).collect::<Vec<_>>(),
        }));
        members.push(Member::bytes(config, source.config.clone()));
        for layer in source.layers.iter().filter(|layer| written.insert(layer.diff_id.clone())) {
            members.push(Member { name: layer_name(layer), content: MemberContent::Layer(layer.clone()) });
        }
    }
    members.insert(0, Member::bytes("manifest.json".to_owned(), to_json(&Value::from(manifest))));
    members
}

/// An OCI layout, whose manifest is the image's own but for the layers being uncompressed.
fn oci_members(source: &ImageSource, saved: &SavedImage) -> Vec<Member> {
    let descriptor = |media_type: &str, digest: &Digest, size: u64| json!({"mediaType": media_type, "digest": digest, "size": size});
    let layers: Vec<_> =
        source.layers.iter().map(|layer| descriptor(OCI_LAYER, &layer.diff_id, layer.tar_bytes)).collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &Digest::of(&source.config), source.config.len() as u64),
        "layers": layers,
    });
    if let Some(annotations) = annotations(&source.manifest) {
        manifest["annotations"] = json!(annotations);
    }
    let manifest = to_json(&manifest);
    let mut described = descriptor(OCI_MANIFEST, &Digest::of(&manifest), manifest.len() as u64);
    if let Some(name) = saved.names.first() {
        described["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [described]});
    let blob =
        |bytes: &[u8]| Member::bytes(format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let mut members = vec![
        Member::bytes("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        Member::bytes("index.json".to_owned(), to_json(&index)),
        blob(&manifest),
        blob(&source.config),
    ];
    let mut written = HashSet::new();
    for layer in source.layers.iter().filter(|layer| written.insert(layer.diff_id.clone())) {
        let name = format!("blobs/sha256/{}", layer.diff_id.hex());
        members.push(Member { name, content: MemberContent::Layer(layer.clone()) });
    }
    members
}

/// Of a manifest that was checked when it came.
fn annotations(manifest: &[u8]) -> Option<BTreeMap<String, String>> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    serde_json::from_value(manifest.get("annotations")?.clone()).ok()
}

fn to_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a document is JSON")
}

fn write_archive(members: &[Member], output: &mut dyn Write) -> Result<(), SaveError> {
    for member in members {
        let size = match &member.content {
            MemberContent::Bytes(bytes) => bytes.len() as u64,
            MemberContent::Layer(layer) => layer.tar_bytes,
        };
        output.write_all(&header(&member.name, size)).map_err(SaveError::Write)?;
        match &member.content {
            MemberContent::Bytes(bytes) => output.write_all(bytes).map_err(SaveError::Write)?,
            MemberContent::Layer(layer) => layer.write_tar(output)?,
        }
        let padding = size.wrapping_neg() % BLOCK;
        output.write_all(&[0; BLOCK as usize][..padding as usize]).map_err(SaveError::Write)?;
    }
    output.write_all(&[0; 2 * BLOCK as usize]).map_err(SaveError::Write)
}

/// Nobody's and of no time: nothing in it depends on this machine.
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("names are a digest long");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Gathers what is written into pieces and sends them.
struct Pieces {
    sender: mpsc::Sender<Result<Bytes>>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
