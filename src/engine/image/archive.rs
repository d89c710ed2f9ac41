//! Images in files: docker-archive, oci-archive (each as a tar, perhaps compressed) and OCI layout directories.
//!
//! Reads and checks; what it finds is handed to the store like a pulled image. Nothing in an archive is trusted:
//! blobs are checked against their digests, members are found by name inside the archive alone, and a layout
//! directory is never left through a link.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::digest::Digest;
use super::entries::{Entries, EntryKind, TarError};
use super::layer::{Expected, decompress};
use super::manifest::{
    CheckedConfig, Descriptor, Document, MAX_DOCUMENT_BYTES, ManifestError, OCI_CONFIG, OCI_LAYER,
    OCI_MANIFEST, Platform,
};
use super::reference::{ImageReference, InvalidReference};
use super::store::{Content, ContentError};

/// Members of an archive and bytes of an unpacked one: an image's layers are few and bounded themselves.
const MAX_MEMBERS: u64 = 1 << 20;
const MAX_ARCHIVE_BYTES: u64 = 256 << 30;
/// Indexes inside indexes.
const MAX_NESTING: usize = 4;

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, Error)]
pub enum ArchiveError {
    #[error("open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it is neither a docker-archive nor an OCI layout: it has no manifest.json and no index.json")]
    Unrecognised,
    #[error("it is not a tar archive, nor a gzip or zstd compressed one")]
    NotTar(#[source] TarError),
    #[error("decompress")]
    Decompress(#[source] io::Error),
    #[error("it unpacks to more than {MAX_ARCHIVE_BYTES} bytes")]
    TooBig,
    #[error("it has no {0}")]
    Missing(String),
    #[error("read {member}")]
    Read {
        member: String,
        #[source]
        source: io::Error,
    },
    #[error("{member} is {size} bytes long, more than {MAX_DOCUMENT_BYTES}")]
    DocumentTooBig { member: String, size: u64 },
    #[error("{member} has digest {found}")]
    Digest { member: String, found: Digest },
    #[error("{member} is not JSON of the right shape")]
    Parse {
        member: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("its image name")]
    Name(#[from] InvalidReference),
    #[error("{0}")]
    Manifest(String, #[source] ManifestError),
    #[error("indexes are nested too deeply")]
    Nesting,
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// An image found in an archive.
pub struct ArchivedImage {
    pub names: Vec<String>,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub checked: CheckedConfig,
    pub layers: Vec<ArchivedLayer>,
}

pub struct ArchivedLayer {
    /// Of the blob as an OCI layout would keep it.
    pub digest: Digest,
    pub expected: Expected,
    /// Its name in the archive.
    pub member: String,
}

/// An opened archive. Cheap to clone; layers are read from it in parallel.
#[derive(Clone)]
pub struct Archive(Arc<Source>);

enum Source {
    Tar { file: File, members: BTreeMap<String, Member> },
    Directory(OwnedFd),
}

#[derive(Debug, Clone)]
enum Member {
    File {
        offset: u64,
        length: u64,
    },
    /// docker wrote a layer that two images share once, and links to it.
    Link(String),
}

impl Archive {
    /// Blocks: a compressed archive is unpacked into a nameless file first.
    pub fn open(path: &Path, content: &Content) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Open { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Ok(Self(Arc::new(Source::Directory(file.into()))));
        }
        let mut magic = [0; 4];
        let count = file.read_at(&mut magic, 0).map_err(failed)?;
        if matches!(magic[..count], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]) {
            let mut spool = content.spool_file()?;
            let input =
                decompress(BufReader::with_capacity(128 << 10, file)).map_err(ArchiveError::Decompress)?;
            let written =
                io::copy(&mut input.take(MAX_ARCHIVE_BYTES), &mut spool).map_err(ArchiveError::Decompress)?;
            if written == MAX_ARCHIVE_BYTES {
                return Err(ArchiveError::TooBig);
            }
            spool.rewind().map_err(failed)?;
            file = spool;
        }
        let members = list_members(&mut file)?;
        Ok(Self(Arc::new(Source::Tar { file, members })))
    }

    /// The images in it that this machine can run. Blocks.
    pub fn images(&self, platform: &Platform) -> Result<Vec<ArchivedImage>, ArchiveError> {
        // docker writes both since version 25; its own manifest has the names.
        if let Some(manifest) = self.document_if_there("manifest.json")? {
            return self.docker_images(&manifest);
        }
        let Some(index) = self.document_if_there("index.json")? else {
            return Err(ArchiveError::Unrecognised);
        };
        let mut images = Vec::new();
        let descriptors = match Document::parse(&index) {
            Ok(Document::Index(descriptors)) => descriptors,
            Ok(Document::Manifest(_)) => return Err(manifest_error("index.json")(ManifestError::Neither)),
            Err(error) => return Err(manifest_error("index.json")(error)),
        };
        // Images for other machines may be there too; if there are only those, that is the error.
        let (mine, others): (Vec<_>, Vec<_>) =
            descriptors.iter().partition(|d| platform.select(std::slice::from_ref(d)).is_ok());
        if mine.is_empty() && !others.is_empty() {
            platform.select(&descriptors).map_err(manifest_error("index.json"))?;
        }
        for descriptor in mine {
            images.push(self.oci_image(descriptor, platform)?);
        }
        Ok(images)
    }

    /// The member's content, as it is stored.
    pub fn reader(&self, member: &str) -> Result<Box<dyn Read + Send>, ArchiveError> {
        match &*self.0 {
            Source::Tar { .. } => {
                let (offset, length) = self.find(member)?;
                Ok(Box::new(Section { archive: self.clone(), offset, left: length }))
            }
            Source::Directory(directory) => Ok(Box::new(open_beneath(directory, member)?)),
        }
    }

    fn docker_images(&self, manifest: &[u8]) -> Result<Vec<ArchivedImage>, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Option<Vec<String>>,
        }
        let images: Vec<Image> = serde_json::from_slice(manifest)
            .map_err(|source| ArchiveError::Parse { member: "manifest.json".to_owned(), source })?;
        let mut found = Vec::new();
        for image in images {
            let names = image.repo_tags.unwrap_or_default();
            let names = names
                .iter()
                .map(|name| Ok(ImageReference::parse_docker(name)?.to_string()))
                .collect::<Result<_, InvalidReference>>()?;
            let config = self.document(&image.config)?;
            let members = image.layers.unwrap_or_default();
            let checked =
                CheckedConfig::parse(&config, members.len()).map_err(manifest_error(&image.config))?;
            let mut layers = Vec::new();
            let mut descriptors = Vec::new();
            for (member, diff_id) in members.into_iter().zip(&checked.diff_ids) {
                let (blob, media_type) = self.describe_layer(&member, diff_id)?;
                descriptors.push(json!({"mediaType": media_type, "digest": blob.0, "size": blob.1}));
                let digest = blob.0.clone();
                let expected = Expected {
                    // The uncompressed layer is checked by its diff_id: once is enough.
                    blob: (digest != *diff_id).then_some(blob),
                    diff_id: diff_id.clone(),
                };
                layers.push(ArchivedLayer { digest, expected, member });
            }
            // The format has no manifest of its own; the same archive always gets the same.
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
                "layers": descriptors,
            });
            let manifest = serde_json::to_vec(&manifest).expect("a manifest is JSON");
            found.push(ArchivedImage { names, manifest, config, checked, layers });
        }
        Ok(found)
    }

    /// Digest and size of a docker-archive's layer as a blob.
    fn describe_layer(
        &self,
        member: &str,
        diff_id: &Digest,
    ) -> Result<((Digest, u64), String), ArchiveError> {
        let failed = |source| ArchiveError::Read { member: member.to_owned(), source };
        let mut start = Vec::new();
        self.reader(member)?.take(4).read_to_end(&mut start).map_err(failed)?;
        let suffix = match start[..] {
            [0x1f, 0x8b, ..] => "+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
            _ => "",
        };
        let media_type = format!("{OCI_LAYER}{suffix}");
        let mut reader = self.reader(member)?;
        if suffix.is_empty() {
            let length = match &*self.0 {
                Source::Tar { .. } => self.find(member)?.1,
                Source::Directory(directory) => {
                    open_beneath(directory, member)?.metadata().map_err(failed)?.len()
                }
            };
            return Ok(((diff_id.clone(), length), media_type));
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut length = 0;
        loop {
            let count = reader.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(((Digest::finish(hash), length), media_type));
            }
            hash.update(&buffer[..count]);
            length += count as u64;
        }
    }

    fn oci_image(&self, descriptor: &Descriptor, platform: &Platform) -> Result<ArchivedImage, ArchiveError> {
        let names = match names_of(descriptor) {
            Some(name) => vec![ImageReference::parse_local(name)?.to_string()],
            None => Vec::new(),
        };
        let mut descriptor = descriptor.clone();
        for _ in 0..MAX_NESTING {
            let member = blob_member(&descriptor.digest);
            let bytes = self.blob(&descriptor)?;
            let manifest = match Document::parse(&bytes).map_err(manifest_error(&member))? {
                Document::Index(index) => {
                    descriptor = platform.select(&index).map_err(manifest_error(&member))?.clone();
                    continue;
                }
                Document::Manifest(manifest) => manifest,
            };
            let config = self.blob(&manifest.config)?;
            let checked = CheckedConfig::parse(&config, manifest.layers.len())
                .map_err(manifest_error(&blob_member(&manifest.config.digest)))?;
            let layers = manifest
                .layers
                .into_iter()
                .zip(&checked.diff_ids)
                .map(|(layer, diff_id)| ArchivedLayer {
                    member: blob_member(&layer.digest),
                    expected: Expected {
                        blob: Some((layer.digest.clone(), layer.size)),
                        diff_id: diff_id.clone(),
                    },
                    digest: layer.digest,
                })
                .collect();
            return Ok(ArchivedImage { names, manifest: bytes, config, checked, layers });
        }
        Err(ArchiveError::Nesting)
    }

    /// A small blob of an OCI layout, verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let member = blob_member(&descriptor.digest);
        let bytes = self.document(&member)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest || bytes.len() as u64 != descriptor.size {
            return Err(ArchiveError::Digest { member, found });
        }
        Ok(bytes)
    }

    fn document_if_there(&self, member: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        match self.document(member) {
            Err(ArchiveError::Missing(_)) => Ok(None),
            other => other.map(Some),
        }
    }

    fn document(&self, member: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        self.reader(member)?
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ArchiveError::Read { member: member.to_owned(), source })?;
        let size = bytes.len() as u64;
        if size > MAX_DOCUMENT_BYTES {
            return Err(ArchiveError::DocumentTooBig { member: member.to_owned(), size });
        }
        Ok(bytes)
    }

    /// Offset and length of a member of a tar.
    fn find(&self, member: &str) -> Result<(u64, u64), ArchiveError> {
        let Source::Tar { members, .. } = &*self.0 else {
            return Err(ArchiveError::Missing(member.to_owned()));
        };
        let mut name = normalised(member);
        for _ in 0..8 {
            match members.get(&name) {
                Some(Member::File { offset, length }) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(ArchiveError::Missing(member.to_owned()))
    }
}

/// A member of a tar, read without moving the file's position.
struct Section {
    archive: Archive,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Source::Tar { file, .. } = &*self.archive.0 else { return Ok(0) };
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn list_members(file: &mut File) -> Result<BTreeMap<String, Member>, ArchiveError> {
    let mut members = BTreeMap::new();
    let mut entries = Entries::new(file, MAX_MEMBERS);
    while let Some(entry) = entries.next().map_err(ArchiveError::NotTar)? {
        let seek_error = |error| ArchiveError::NotTar(TarError::Read(error));
        let offset = entries.input_mut().stream_position().map_err(seek_error)?;
        let length = entries.forget_data();
        let next = offset.checked_add(length).ok_or(ArchiveError::TooBig)?;
        entries.input_mut().seek(SeekFrom::Start(next)).map_err(seek_error)?;
        let Some(path) = entry.path.to_str() else { continue };
        let name = normalised(path);
        let member = match &entry.kind {
            EntryKind::File if entry.chunks.is_none() => Member::File { offset, length: entry.size_bytes },
            EntryKind::HardLink(target) => Member::Link(normalised(&target.to_string_lossy())),
            EntryKind::Symlink(target) => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                Member::Link(normalised(&format!("{directory}/{}", target.to_string_lossy())))
            }
            EntryKind::File
            | EntryKind::Directory
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => continue,
        };
        members.insert(name, member);
    }
    Ok(members)
}

/// A name inside an archive: no `.`, no `//`, `..` resolved and never above the root.
fn normalised(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn open_beneath(directory: &OwnedFd, member: &str) -> Result<File, ArchiveError> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ArchiveError::Missing(member.to_owned()),
        _ => ArchiveError::Read { member: member.to_owned(), source },
    };
    let file = openat2(directory, std::ffi::OsStr::from_bytes(member.as_bytes()), how)
        .map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    Ok(file)
}

fn blob_member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// podman and skopeo write `ref.name`, containerd and docker the whole name beside it.
fn names_of(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations.as_ref()?;
    [CONTAINERD_NAME, OCI_NAME].iter().find_map(|key| annotations.get(*key)).map(String::as_str)
}

fn manifest_error(member: &str) -> impl FnOnce(ManifestError) -> ArchiveError {
    let member = member.to_owned();
    move |error| ArchiveError::Manifest(member, error)
}
