//! What the reconciler keeps: durable notes in the engine's store, labels on the engine's objects, and
//! one small file per pod in the run root for what dies with the boot.
//!
//! A note is written before the pod it describes, so that every pod of ours has one; a note without a
//! pod is what a crash in between has left, and is dropped at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::engine::error::Result;
use crate::engine::id::{ContainerId, PodId};
use crate::reconcile::desired::{
    DesiredContainer, DesiredPod, DesiredService, DesiredVolumeClaim, ObjectName, StackName,
};

/// Labels of pods and containers. The first four are kubelet's.
pub mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// The stack a pod was made for. A pod that moved to another stack since keeps it; its note knows.
    pub const STACK: &str = "io.selkie.stack";
    /// `Deployment/web`
    pub const OBJECT: &str = "io.selkie.object";
    /// Which of a pod's sandboxes a container was made in.
    pub const SANDBOX: &str = "io.selkie.sandbox";
    /// How many restarts in a row led to this run.
    pub const STREAK: &str = "io.selkie.restart-streak";
}

/// Where the notes are.
mod area {
    pub const PODS: &str = "reconcile.pods";
    pub const SERVICES: &str = "reconcile.services";
    pub const PLAYED: &str = "reconcile.played";
    pub const ARCHIVES: &str = "reconcile.archives";
}

/// A pod as it was applied: what its worker works by, whatever the manifests say today.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodNote {
    pub uid: String,
    pub stack: StackName,
    pub pod: Arc<DesiredPod>,
    /// What each container shall be made from, by name; a running one with another hash is replaced.
    pub hashes: BTreeMap<String, String>,
    /// `false`: created, not to be started (`kube play --start=false`).
    pub start: bool,
    /// Its removal has begun. Noted before anything of it stops: a daemon that comes after a crash would
    /// start that again.
    pub leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceNote {
    pub stack: StackName,
    pub service: DesiredService,
}

/// Manifests played over the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlayedNote {
    pub yaml: String,
    pub start: bool,
    pub networks: Vec<String>,
    pub log_driver: Option<String>,
    pub tls_verify: Option<bool>,
    /// Objects of it that were removed since, one by one.
    pub forgotten: BTreeSet<ObjectName>,
    /// Claims it created, for `down --force`.
    pub volumes: Vec<DesiredVolumeClaim>,
}

/// What of a pod dies with the boot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Identity of the sandbox.
    pub sandbox: Option<String>,
    /// Runs whose startup probe has succeeded.
    pub started: BTreeSet<ContainerId>,
    /// Runs that were ready when last asked: a restarted daemon does not take them out of their
    /// Services before it has asked again.
    pub ready: BTreeSet<ContainerId>,
}

/// A random identity in the form of a UUID, as Kubernetes gives its pods.
pub fn new_uid() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Identifies what a container is made from. Computed when it is applied and kept, never computed again
/// to be compared: a later version of this program may render the same spec otherwise.
pub fn container_hash(container: &DesiredContainer, image_id: &str) -> String {
    let text = serde_json::to_vec(&(&container.spec, &container.mounts, image_id))
        .expect("a spec is plain data with string keys");
    Sha256::digest(&text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl PodNote {
    pub async fn write(&self, engine: &Engine) -> Result<()> {
        engine.put_note(area::PODS, &self.uid, json(self)).await
    }

    pub async fn remove(engine: &Engine, uid: &str) -> Result<()> {
        engine.remove_note(area::PODS, uid).await
    }

    /// By uid.
    pub fn all(engine: &Engine) -> BTreeMap<String, Self> {
        parse_notes(engine, area::PODS)
    }
}

impl ServiceNote {
    pub async fn write(&self, engine: &Engine) -> Result<()> {
        engine.put_note(area::SERVICES, &service_key(&self.service.name), json(self)).await
    }

    pub async fn remove(engine: &Engine, service: &ObjectName) -> Result<()> {
        engine.remove_note(area::SERVICES, &service_key(service)).await
    }

    pub fn all(engine: &Engine) -> BTreeMap<ObjectName, Self> {
        parse_notes::<Self>(engine, area::SERVICES)
            .into_values()
            .map(|note| (note.service.name.clone(), note))
            .collect()
    }
}

impl PlayedNote {
    pub async fn write(&self, engine: &Engine, name: &str) -> Result<()> {
        engine.put_note(area::PLAYED, name, json(self)).await
    }

    pub async fn remove(engine: &Engine, name: &str) -> Result<()> {
        engine.remove_note(area::PLAYED, name).await
    }

    /// By the name of their stack.
    pub fn all(engine: &Engine) -> BTreeMap<String, Self> {
        parse_notes(engine, area::PLAYED)
    }
}

/// Image archives that were loaded already, by path, with the fingerprint they had.
pub fn loaded_archives(engine: &Engine) -> BTreeMap<String, String> {
    parse_notes(engine, area::ARCHIVES)
}

pub async fn note_loaded_archive(engine: &Engine, path: &str, fingerprint: &str) -> Result<()> {
    engine.put_note(area::ARCHIVES, path, json(&fingerprint)).await
}

/// `namespace/name`: how the engine knows a Service.
pub fn service_key(service: &ObjectName) -> String {
    format!("{}/{}", service.namespace, service.name)
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("notes are plain data with string keys")
}

/// A note that can not be read (a newer version's, perhaps) counts as absent: its pod is "record lost".
fn parse_notes<T: for<'de> Deserialize<'de>>(engine: &Engine, area: &str) -> BTreeMap<String, T> {
    let mut parsed = BTreeMap::new();
    for (key, bytes) in engine.notes(area) {
        match serde_json::from_slice(&bytes) {
            Ok(value) => {
                parsed.insert(key, value);
            }
            Err(error) => tracing::warn!("note {area} {key} can not be read: {error}"),
        }
    }
    parsed
}

impl RunState {
    fn path(run_root: &Path, pod: &PodId) -> PathBuf {
        run_root.join("reconcile").join(format!("{pod}.json"))
    }

    /// Empty when there is none, as after a boot.
    pub fn read(run_root: &Path, pod: &PodId) -> Self {
        std::fs::read(Self::path(run_root, pod))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub fn write(&self, run_root: &Path, pod: &PodId) -> io::Result<()> {
        let path = Self::path(run_root, pod);
        let dir = path.parent().expect("the path has a file name");
        std::fs::create_dir_all(dir)?;
        let aside = path.with_extension("new");
        std::fs::write(&aside, json(self))?;
        std::fs::rename(aside, path)
    }

    pub fn remove(run_root: &Path, pod: &PodId) {
        let _ = std::fs::remove_file(Self::path(run_root, pod));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_look_like_kubernetes_and_differ() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(matches!(uid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(uid, new_uid());
    }

    #[test]
    fn run_state_reads_back_and_is_empty_after_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let pod = PodId::random();
        let state = RunState {
            sandbox: Some("s1".into()),
            started: [ContainerId::random()].into(),
            ready: BTreeSet::new(),
        };
        state.write(dir.path(), &pod).unwrap();
        assert_eq!(RunState::read(dir.path(), &pod), state);
        RunState::remove(dir.path(), &pod);
        assert_eq!(RunState::read(dir.path(), &pod), RunState::default());
    }
}
