//! Image archives beside the manifests: what lies in the directory's `images/` folder is loaded before
//! planning, so that a node without a registry needs none. Each archive once, until it changes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::reconcile::records::{loaded_archives, note_loaded_archive};

const FOLDER: &str = "images";

/// Loads what is new; what could not be loaded, in sentences.
pub async fn load(engine: &Engine, directory: &Path) -> Vec<String> {
    let folder = directory.join(FOLDER);
    let found = tokio::task::spawn_blocking(move || archives(&folder)).await.unwrap_or_default();
    if found.is_empty() {
        return Vec::new();
    }
    let known = loaded_archives(engine);
    let mut problems = Vec::new();
    for (path, fingerprint) in found {
        let key = path.display().to_string();
        if known.get(&key) == Some(&fingerprint) {
            continue;
        }
        let result = match engine.load_images(&path).await {
            Ok(images) => {
                let names: Vec<&String> = images.iter().flat_map(|image| &image.names).collect();
                tracing::info!(?names, "loaded {key}");
                note_loaded_archive(engine, &key, &fingerprint).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!("load {key}: {}", error.chain());
            problems.push(format!("{key}: {}", error.chain()));
        }
    }
    problems
}

/// Archives and OCI layouts, with what tells whether they changed.
fn archives(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let layout = path.join("index.json");
        let told_by = if path.is_dir() { &layout } else { &path };
        if let (Ok(metadata), false) = (std::fs::metadata(told_by), hidden) {
            let fingerprint = format!(
                "{}:{}:{}.{}",
                metadata.ino(),
                metadata.size(),
                metadata.mtime(),
                metadata.mtime_nsec()
            );
            found.insert(path, fingerprint);
        }
    }
    found
}
