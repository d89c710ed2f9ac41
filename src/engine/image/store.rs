//! Content and layers on disk.
//!
//! ```text
//! ROOT/layers/<chain id>      an unpacked layer: an overlayfs lower directory, never changed once it has this name
//! ROOT/layers/empty           stands in for an image without layers
//! ROOT/recipes/<chain id>     how to write the layer's tar again: see [`super::recipe`]
//! ROOT/blobs/sha256/<digest>  manifests and configurations exactly as fetched
//! ROOT/*/tmp-<random>         being made or being removed; rubbish after a crash
//! ```
//!
//! Compressed layers are not kept: they would double the disk an image takes. Save and push write the tar again,
//! and push compresses it (to a blob of another digest, as podman does).
//!
//! This module knows nothing of image records: which layers are wanted is said by its caller.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use super::digest::Digest;

const TEMPORARY: &str = "tmp-";
const EMPTY_LAYER: &str = "empty";

/// An operation on the store's files that failed.
#[derive(Debug, Error)]
#[error("{step} {}", path.display())]
pub struct ContentError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ContentError {
    fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { step, path, source }
    }

    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The directories. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    inner: Arc<Inner>,
}

struct Inner {
    layers: PathBuf,
    recipes: PathBuf,
    blobs: PathBuf,
    /// How many syncs were asked for, and which of them the last finished one covers.
    asked: AtomicU64,
    covered: tokio::sync::Mutex<u64>,
}

/// A directory and a recipe that become a layer, or are removed when dropped.
pub struct Ingest {
    path: Option<PathBuf>,
    recipe: PathBuf,
}

impl Ingest {
    pub fn path(&self) -> &Path {
        self.path.as_deref().expect("it has a path until it is committed")
    }

    /// The file for its recipe, empty.
    pub fn create_recipe(&self) -> Result<File, ContentError> {
        File::create_new(&self.recipe).map_err(ContentError::at("make", &self.recipe))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        for (path, removed) in
            [(path, fs::remove_dir_all(path)), (&self.recipe, fs::remove_file(&self.recipe))]
        {
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a half-done layer stays until the next start");
            }
        }
    }
}

impl Content {
    /// Makes the directories, and removes what was half done when the last process ended and every layer and blob
    /// that is not wanted.
    pub fn open(
        root: &Path,
        wanted_layers: &HashSet<Digest>,
        wanted_blobs: &HashSet<Digest>,
    ) -> Result<Self, ContentError> {
        let layers = root.join("layers");
        let recipes = root.join("recipes");
        let blobs = root.join("blobs/sha256");
        // Layers hold setuid programs; only containers are to reach them.
        for directory in [&layers, &recipes, &blobs] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(ContentError::at("make directory", directory))?;
        }
        let empty = layers.join(EMPTY_LAYER);
        match fs::DirBuilder::new().mode(0o755).create(&empty) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(ContentError::at("make directory", &empty))?,
        }
        let inner =
            Inner { layers, recipes, blobs, asked: AtomicU64::new(0), covered: tokio::sync::Mutex::new(0) };
        let content = Self { inner: Arc::new(inner) };
        clear(&content.inner.layers, wanted_layers)?;
        clear(&content.inner.recipes, wanted_layers)?;
        clear(&content.inner.blobs, wanted_blobs)?;
        Ok(content)
    }

    pub fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.inner.layers.join(chain_id.hex())
    }

    pub fn recipe_path(&self, chain_id: &Digest) -> PathBuf {
        self.inner.recipes.join(chain_id.hex())
    }

    pub fn empty_layer_path(&self) -> PathBuf {
        self.inner.layers.join(EMPTY_LAYER)
    }

    pub fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_path(chain_id).is_dir()
    }

    /// An empty directory to unpack into.
    pub fn begin_layer(&self) -> Result<Ingest, ContentError> {
        let ingest = self.temporary_layer();
        let path = ingest.path();
        fs::DirBuilder::new().mode(0o755).create(path).map_err(ContentError::at("make directory", path))?;
        // The daemon's umask does not count.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(ingest.path(), fs::Permissions::from_mode(0o755))
            .map_err(ContentError::at("set the mode of", ingest.path()))?;
        Ok(ingest)
    }

    /// Gives a layer its name. Its content must have been synced; the name is durable after
    /// [`Content::sync_names`].
    pub fn commit_layer(&self, mut ingest: Ingest, chain_id: &Digest) -> Result<(), ContentError> {
        let target = self.recipe_path(chain_id);
        match fs::rename(&ingest.recipe, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(ContentError::at("name recipe", &target))?,
        }
        let target = self.layer_path(chain_id);
        fs::rename(ingest.path(), &target).map_err(ContentError::at("name layer", &target))?;
        ingest.path = None;
        Ok(())
    }

    fn temporary_layer(&self) -> Ingest {
        let name = temporary_name();
        Ingest { path: Some(self.inner.layers.join(&name)), recipe: self.inner.recipes.join(name) }
    }

    /// Takes the layer's name away at once; the files are gone when the returned value is dropped.
    pub fn remove_layer(&self, chain_id: &Digest) -> Result<Ingest, ContentError> {
        let path = self.layer_path(chain_id);
        let removed = self.temporary_layer();
        fs::rename(&path, removed.path()).map_err(ContentError::at("remove layer", &path))?;
        // A layer that is made again brings its own recipe.
        let recipe = self.recipe_path(chain_id);
        match fs::rename(&recipe, &removed.recipe) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(ContentError::at("remove recipe", &recipe))?,
        }
        Ok(removed)
    }

    /// Writes a blob durably, except for its name: see [`Content::sync_names`].
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        let target = self.blob_path(&digest);
        if target.exists() {
            return Ok(digest);
        }
        let temporary = self.inner.blobs.join(temporary_name());
        let write = || {
            let mut file = File::create_new(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &target)
        };
        write().map_err(|source| {
            // What is left of it is found at the next start if this fails too.
            let _ = fs::remove_file(&temporary);
            ContentError { step: "write blob", path: target.clone(), source }
        })?;
        Ok(digest)
    }

    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let path = self.blob_path(digest);
        fs::read(&path).map_err(ContentError::at("read blob", &path))
    }

    pub fn remove_blob(&self, digest: &Digest) -> Result<(), ContentError> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(ContentError::at("remove blob", &path)),
        }
    }

    /// Returns when everything written to the file system before the call is on disk.
    ///
    /// Layers that finish together share one `syncfs`: thousands of files cost one wait, and a write-back error of
    /// any of them is reported.
    pub async fn sync(&self) -> Result<(), ContentError> {
        let ticket = self.inner.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut covered = self.inner.covered.lock().await;
        if *covered >= ticket {
            return Ok(());
        }
        let covers = self.inner.asked.load(Ordering::SeqCst);
        let layers = self.inner.layers.clone();
        let sync = move || -> io::Result<()> { Ok(nix::unistd::syncfs(File::open(&layers)?)?) };
        tokio::task::spawn_blocking(sync)
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(ContentError::at("sync", &self.inner.layers))?;
        *covered = covers;
        Ok(())
    }

    /// Returns when the names of layers and blobs are on disk.
    pub fn sync_names(&self) -> Result<(), ContentError> {
        for directory in [&self.inner.layers, &self.inner.recipes, &self.inner.blobs] {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(ContentError::at("sync", directory))?;
        }
        Ok(())
    }

    /// A file that has no name and vanishes when closed.
    pub fn spool_file(&self) -> Result<File, ContentError> {
        use nix::fcntl::{OFlag, open};
        use nix::sys::stat::Mode;
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        open(&self.inner.blobs, flags, Mode::from_bits_truncate(0o600))
            .map(File::from)
            .map_err(io::Error::from)
            .map_err(ContentError::at("make a temporary file in", &self.inner.blobs))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }
}

/// Removes temporary entries and those named by a digest that is not wanted. What we did not make stays.
fn clear(directory: &Path, wanted: &HashSet<Digest>) -> Result<(), ContentError> {
    let entries = fs::read_dir(directory).map_err(ContentError::at("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(ContentError::at("list", directory))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_left = match format!("sha256:{name}").parse::<Digest>() {
            Ok(digest) => !wanted.contains(&digest),
            Err(_) => name.starts_with(TEMPORARY),
        };
        if is_left {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                // Another store of this process, already closed, was still removing it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(ContentError::at("remove", &path))?,
            }
            tracing::info!(path = %path.display(), "removed what no image uses");
        }
    }
    Ok(())
}

fn temporary_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    format!("{TEMPORARY}{:032x}", u128::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> HashSet<Digest> {
        HashSet::new()
    }

    #[test]
    fn opening_removes_rubbish_and_keeps_what_is_wanted_or_not_ours() {
        let root = tempfile::TempDir::new().unwrap();
        let content = Content::open(root.path(), &none(), &none()).unwrap();
        let (kept, lost) = (Digest::of(b"kept"), Digest::of(b"lost"));
        for chain_id in [&kept, &lost] {
            let ingest = content.begin_layer().unwrap();
            fs::write(ingest.path().join("file"), "x").unwrap();
            content.commit_layer(ingest, chain_id).unwrap();
            content.put_blob(chain_id.as_str().as_bytes()).unwrap();
        }
        let kept_blob = Digest::of(kept.as_str().as_bytes());
        // A process that is killed drops nothing.
        std::mem::forget(content.begin_layer().unwrap());
        fs::write(root.path().join("blobs/sha256/tmp-1"), "half").unwrap();
        fs::write(root.path().join("layers/README"), "not ours").unwrap();

        let content =
            Content::open(root.path(), &[kept.clone()].into(), &[kept_blob.clone()].into()).unwrap();
        let list = |path: &str| {
            let mut names: Vec<_> = fs::read_dir(root.path().join(path))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let mut layers = vec![kept.hex().to_owned(), "README".to_owned(), "empty".to_owned()];
        layers.sort();
        assert_eq!(list("layers"), layers);
        assert_eq!(list("blobs/sha256"), [kept_blob.hex()]);
        assert!(content.has_layer(&kept) && !content.has_layer(&lost));
    }

    #[test]
    fn a_dropped_ingest_leaves_nothing() {
        let root = tempfile::TempDir::new().unwrap();
        let content = Content::open(root.path(), &none(), &none()).unwrap();
        let ingest = content.begin_layer().unwrap();
        fs::write(ingest.path().join("file"), "x").unwrap();
        drop(ingest);
        assert_eq!(fs::read_dir(root.path().join("layers")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn syncs_that_are_asked_for_together_are_done_together() {
        let root = tempfile::TempDir::new().unwrap();
        let content = Content::open(root.path(), &none(), &none()).unwrap();
        let guard = content.inner.covered.lock().await;
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let content = content.clone();
                tokio::spawn(async move { content.sync().await })
            })
            .collect();
        while content.inner.asked.load(Ordering::SeqCst) < 5 {
            tokio::task::yield_now().await;
        }
        drop(guard);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
        assert_eq!(*content.inner.covered.lock().await, 5);
    }
}
