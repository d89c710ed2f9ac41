//! From files to desired state.
//!
//! `load` reads a directory once, consistently: the only I/O. Everything after it is pure: bytes become
//! trees that know their lines (`tree`), the field table says what of them we keep (`fields`, `check`),
//! and what is left becomes pods, Services and claims (`convert`). Nothing here fails as a whole: a
//! problem holds its stack and says file, line, column and field.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::desired::{DesiredState, SourceHealth, SourceName};

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

/// What of the machine shapes pods.
#[derive(Debug, Clone)]
pub struct Context {
    /// `spec.nodeName`: the host's name.
    pub node_name: String,
    /// Memory of the machine, for kubelet's OOM score of Burstable pods.
    pub memory_bytes: u64,
    /// Where `seccompProfile.localhostProfile` is looked up. kubelet's and podman's is
    /// `/var/lib/kubelet/seccomp`.
    pub seccomp_profile_root: PathBuf,
}

/// Everything that `sources` want. Pure: the same input gives the same output, in whatever order.
pub fn desired_from(sources: &[SourceFiles], context: &Context) -> DesiredState {
    let _ = (sources, context);
    todo!("manifest: lands within the hour")
}
