//! The set of image records: finding one by what a user typed, and what a new name does to the others.
//!
//! Pure: a set is never changed, only replaced by the next one after its changes are durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;

use super::ImageRecord;
use super::digest::Digest;
use super::reference::{ImageReference, InvalidReference, TypedName};
use super::registries_conf::RegistriesConf;
use crate::engine::id::ImageId;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    #[error("no such image")]
    NotFound,
    #[error("it may mean {}", .0.join(" or "))]
    Ambiguous(Vec<String>),
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
}

/// How an image was found: removing by name and by id are different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundBy {
    Id,
    /// One of the record's names.
    Name(String),
    /// One of the record's `repository@digest`.
    Digest(String),
}

#[derive(Debug, Clone, Default)]
pub struct Records {
    by_id: BTreeMap<ImageId, Arc<ImageRecord>>,
    by_name: HashMap<String, ImageId>,
}

impl Records {
    pub fn new(records: impl IntoIterator<Item = Arc<ImageRecord>>) -> Self {
        let mut set = Self::default();
        for record in records {
            for name in &record.names {
                set.by_name.insert(name.clone(), record.id.clone());
            }
            set.by_id.insert(record.id.clone(), record);
        }
        set
    }

    pub fn get(&self, id: &ImageId) -> Option<&Arc<ImageRecord>> {
        self.by_id.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ImageRecord>> {
        self.by_id.values()
    }

    /// Newest first, as podman lists.
    pub fn newest_first(&self) -> Vec<Arc<ImageRecord>> {
        let mut records: Vec<_> = self.by_id.values().cloned().collect();
        records.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
        records
    }

    /// The set with `changed` in it and without `removed`.
    pub fn with(&self, changed: &[Arc<ImageRecord>], removed: &[ImageId]) -> Self {
        let mut by_id = self.by_id.clone();
        for record in changed {
            by_id.insert(record.id.clone(), Arc::clone(record));
        }
        for id in removed {
            by_id.remove(id);
        }
        Self::new(by_id.into_values())
    }

    /// What `typed` means: a name wins over the beginning of an id.
    pub fn find(
        &self,
        typed: &str,
        conf: &RegistriesConf,
    ) -> Result<(Arc<ImageRecord>, FoundBy), LookupError> {
        if let Some(hex) = typed.strip_prefix("sha256:") {
            return self.by_id_prefix(hex).map(|record| (record, FoundBy::Id));
        }
        let name: TypedName = match typed.parse() {
            Ok(name) => name,
            Err(InvalidReference::IsId(hex)) => return self.by_id_prefix(&hex).map(|r| (r, FoundBy::Id)),
            Err(invalid) => return Err(invalid.into()),
        };
        let candidates = conf.local_candidates(&name);
        if let Some(digest) = name.digest() {
            return self.by_digest(&candidates, digest);
        }
        for candidate in &candidates {
            let full = candidate.to_string();
            if let Some(record) = self.by_name.get(&full).and_then(|id| self.by_id.get(id)) {
                return Ok((Arc::clone(record), FoundBy::Name(full)));
            }
        }
        if let Some(found) = self.by_suffix(&name)? {
            return Ok(found);
        }
        self.by_id_prefix(typed).map(|record| (record, FoundBy::Id))
    }

    /// What has to change so that `record` has `names` and nobody else has. The first of the result is `record`
    /// itself, joined with what is already known of that image.
    pub fn plan_add(&self, mut record: ImageRecord, names: &[String]) -> Vec<Arc<ImageRecord>> {
        if let Some(known) = self.by_id.get(&record.id) {
            record.names = joined(&known.names, &record.names);
            record.repo_digests = joined(&known.repo_digests, &record.repo_digests);
            record.added_at = known.added_at;
        }
        record.names = joined(&record.names, names);
        let mut changed = vec![Arc::new(record)];
        let mut losers: BTreeMap<ImageId, ImageRecord> = BTreeMap::new();
        for name in names {
            let Some(id) = self.by_name.get(name).filter(|id| **id != changed[0].id) else { continue };
            let Some(holder) = self.by_id.get(id) else { continue };
            let loser = losers.entry(id.clone()).or_insert_with(|| holder.as_ref().clone());
            loser.names.retain(|held| held != name);
        }
        changed.extend(losers.into_values().map(Arc::new));
        changed
    }

    /// Chain ids of every layer that a record names.
    pub fn layers(&self) -> HashSet<&str> {
        self.iter().flat_map(|record| record.layers.iter().map(|layer| layer.chain_id.as_str())).collect()
    }

    fn by_id_prefix(&self, prefix: &str) -> Result<Arc<ImageRecord>, LookupError> {
        let is_hex = !prefix.is_empty() && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return Err(LookupError::NotFound);
        }
        let matching: Vec<_> = self.iter().filter(|record| record.id.as_str().starts_with(prefix)).collect();
        match matching[..] {
            [] => Err(LookupError::NotFound),
            [record] => Ok(Arc::clone(record)),
            _ => Err(LookupError::Ambiguous(matching.iter().map(|r| r.id.short().to_owned()).collect())),
        }
    }

    fn by_digest(
        &self,
        candidates: &[ImageReference],
        digest: &Digest,
    ) -> Result<(Arc<ImageRecord>, FoundBy), LookupError> {
        for candidate in candidates {
            let wanted = candidate.at(digest);
            if let Some(record) = self.iter().find(|record| record.repo_digests.contains(&wanted)) {
                return Ok((Arc::clone(record), FoundBy::Digest(wanted)));
            }
        }
        Err(LookupError::NotFound)
    }

    /// podman finds `quay.io/team/web:1` as `web:1` too, if nothing nearer has that name.
    fn by_suffix(&self, name: &TypedName) -> Result<Option<(Arc<ImageRecord>, FoundBy)>, LookupError> {
        if !name.is_short() {
            return Ok(None);
        }
        let mut matching: Vec<_> = self
            .by_name
            .iter()
            .filter(|(full, _)| full.parse().is_ok_and(|full: ImageReference| name.is_suffix_of(&full)))
            .collect();
        matching.sort();
        let ids: HashSet<_> = matching.iter().map(|(_, id)| *id).collect();
        match (&matching[..], ids.len()) {
            ([], _) => Ok(None),
            ([(full, id), ..], 1) => {
                Ok(self.by_id.get(*id).map(|record| (Arc::clone(record), FoundBy::Name((*full).clone()))))
            }
            _ => Err(LookupError::Ambiguous(matching.iter().map(|(full, _)| (*full).clone()).collect())),
        }
    }
}

/// Both, without repetition, the old ones first.
fn joined(old: &[String], new: &[String]) -> Vec<String> {
    let mut all = old.to_vec();
    for name in new {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record whose id is `digit` 64 times.
    pub fn record(digit: char, names: &[&str]) -> ImageRecord {
        ImageRecord {
            id: digit.to_string().repeat(64).parse().unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            manifest_digest: Digest::of(digit.to_string().as_bytes()).to_string(),
            repo_digests: vec![format!("quay.io/team/web@{}", Digest::of(digit.to_string().as_bytes()))],
            created_at: None,
            added_at: jiff::Timestamp::UNIX_EPOCH,
            size_bytes: 0,
            architecture: "amd64".into(),
            os: "linux".into(),
            config: Default::default(),
            layers: Vec::new(),
        }
    }

    fn set(records: Vec<ImageRecord>) -> Records {
        Records::new(records.into_iter().map(Arc::new))
    }

    #[test]
    fn every_way_to_write_a_name_finds_the_image() {
        let records = set(vec![
            record('a', &["localhost/busybox:latest", "docker.io/library/alpine:3"]),
            record('b', &["docker.io/library/busybox:latest", "quay.io/team/web:1"]),
            record('c', &["localhost/c0ffee:latest"]),
        ]);
        let conf = RegistriesConf::default();
        let by_digest = format!("quay.io/team/web@{}", Digest::of(b"b"));
        let id = "a".repeat(64);
        let with_prefix = format!("sha256:{id}");
        for (typed, digit) in [
            ("busybox", 'a'),
            ("busybox:latest", 'a'),
            ("localhost/busybox", 'a'),
            ("docker.io/busybox", 'b'),
            ("library/busybox", 'b'),
            ("docker.io/library/busybox:latest", 'b'),
            ("alpine:3", 'a'),
            ("web:1", 'b'),
            ("team/web:1", 'b'),
            (&by_digest, 'b'),
            (&id, 'a'),
            (&with_prefix, 'a'),
            ("sha256:aaa", 'a'),
            ("aaaa", 'a'),
            ("c0ffee", 'c'),
            ("cc", 'c'),
        ] {
            let (found, _) = records.find(typed, &conf).unwrap_or_else(|error| panic!("{typed}: {error}"));
            assert_eq!(found.id.as_str(), digit.to_string().repeat(64), "{typed}");
        }
        for typed in ["alpine", "web", "usybox", "dd", "quay.io/busybox", "zz", "sha256:zz"] {
            assert_eq!(records.find(typed, &conf).unwrap_err(), LookupError::NotFound, "{typed}");
        }
        assert!(matches!(records.find("a b", &conf), Err(LookupError::Invalid(_))));
    }

    #[test]
    fn what_may_mean_two_images_means_none() {
        let mut other = record('a', &["a.io/web:latest"]);
        other.id = format!("a{}", "b".repeat(63)).parse().unwrap();
        let records = set(vec![record('a', &["b.io/web:latest"]), other]);
        let conf = RegistriesConf::default();
        assert!(matches!(records.find("a", &conf), Err(LookupError::Ambiguous(_))));
        assert!(matches!(records.find("web", &conf), Err(LookupError::Ambiguous(_))));
        assert!(records.find("ab", &conf).is_ok());
    }

    #[test]
    fn a_name_moves_from_the_old_image_to_the_new() {
        let records = set(vec![record('a', &["localhost/web:1", "localhost/web:2"])]);
        let changed = records.plan_add(record('b', &[]), &["localhost/web:1".into()]);
        assert_eq!(changed.len(), 2);
        assert_eq!(changed[0].names, ["localhost/web:1"]);
        assert_eq!(changed[1].names, ["localhost/web:2"]);
        let records = records.with(&changed, &[]);
        let conf = RegistriesConf::default();
        assert_eq!(records.find("web:1", &conf).unwrap().0.id, changed[0].id);
        assert_eq!(records.find("web:2", &conf).unwrap().0.id, changed[1].id);
    }

    #[test]
    fn adding_an_image_again_keeps_its_other_names() {
        let records = set(vec![record('a', &["localhost/web:1"])]);
        let changed =
            records.plan_add(record('a', &[]), &["localhost/web:2".into(), "localhost/web:2".into()]);
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].names, ["localhost/web:1", "localhost/web:2"]);
    }
}
