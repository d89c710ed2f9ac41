//! From files to desired state.
//!
//! `load` reads a directory once, consistently: the only I/O. Everything after it is pure: bytes become
//! trees that know their lines (`tree`), the field table says what of them we keep (`fields`, `check`),
//! what is left becomes pods, Services and claims (`convert`), and each pod gets its hash (`render`).
//! Nothing here fails as a whole: a problem holds its stack and says file, line, column and field.

mod assemble;
mod check;
mod convert;
mod fields;
mod load;
pub(super) mod names;
mod problem;
mod quantity;
pub(super) mod render;
pub mod support;
mod tree;
mod typed;
pub(super) mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::desired::{SourceHealth, SourceName};

pub use assemble::desired_from;
pub use load::read_directory;

/// What one reading of a source found.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceFiles {
    pub source: SourceName,
    pub health: SourceHealth,
    /// Content, or why it could not be read, by path relative to the source. The first component names
    /// the stack. A source that is not a directory (played manifests) makes the paths up: `NAME.yaml`.
    pub files: BTreeMap<PathBuf, Result<Arc<[u8]>, String>>,
    /// Subdirectories with nothing at all in them, as an unmounted one: their stacks are held.
    pub empty_directories: BTreeSet<String>,
}

impl SourceFiles {
    /// Manifests that are kept elsewhere, by stack.
    pub fn of_texts<'t>(source: SourceName, texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let file = |(name, text): (&str, &str)| {
            (PathBuf::from(format!("{name}.yaml")), Ok(Arc::from(text.as_bytes())))
        };
        Self {
            source,
            health: SourceHealth::Read,
            files: texts.into_iter().map(file).collect(),
            empty_directories: BTreeSet::new(),
        }
    }
}

/// What of the machine shapes pods.
#[derive(Debug, Clone)]
pub struct Context {
    /// `spec.nodeName`: the host's name.
    pub node_name: String,
    /// Memory of the machine, for kubelet's OOM score of Burstable pods.
    pub memory_bytes: u64,
    /// For `resourceFieldRef` of a container without a limit.
    pub cpus: u32,
    /// Where `seccompProfile.localhostProfile` is looked up. kubelet's and podman's is
    /// `/var/lib/kubelet/seccomp`.
    pub seccomp_profile_root: PathBuf,
}
