//! Volumes, as podman shows them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::create::volume_name;
use crate::api::error::ApiError;
use crate::api::rest::extract::{Filters, Json, Path, Query};
use crate::api::rest::filter::{self, LabelFilter, regexes, unknown};
use crate::api::rest::{Outcome, reply, time};
use crate::engine::Engine;
use crate::engine::container::ContainerFilter;
use crate::engine::container::spec::MountSource;
use crate::engine::error::ErrorKind;
use crate::engine::volume::VolumeRecord;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume<'a> {
    name: &'a str,
    driver: &'a str,
    mountpoint: String,
    created_at: String,
    labels: &'a BTreeMap<String, String>,
    scope: &'static str,
    options: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
    mount_count: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    needs_copy_up: bool,
    lock_number: u32,
}

impl<'a> Volume<'a> {
    pub fn new(volume: &'a VolumeRecord) -> Self {
        Self {
            name: volume.name.as_str(),
            driver: &volume.driver,
            mountpoint: volume.mountpoint.to_string_lossy().into_owned(),
            created_at: time::rfc3339(Some(volume.created_at)),
            labels: &volume.labels,
            scope: "local",
            options: &volume.options,
            anonymous: volume.anonymous,
            mount_count: 0,
            needs_copy_up: volume.needs_copy_up,
            lock_number: 0,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeCreateOptions {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Driver")]
    driver: String,
    #[serde(rename = "Label")]
    label: BTreeMap<String, String>,
    #[serde(rename = "Labels")]
    labels: BTreeMap<String, String>,
    #[serde(rename = "Options")]
    options: BTreeMap<String, String>,
    #[serde(rename = "IgnoreIfExists")]
    ignore_if_exists: bool,
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = VolumeFilter::parse(&query.filters()?)?;
    let volumes = engine.volumes();
    let list: Vec<_> = volumes
        .iter()
        .filter(|volume| filter.matches(volume, &engine))
        .map(|volume| Volume::new(volume))
        .collect();
    Ok(reply::json(&list))
}

pub async fn create(State(engine): State<Engine>, Json(options): Json<VolumeCreateOptions>) -> Outcome {
    check_driver(&options.driver)?;
    if options.ignore_if_exists
        && let Ok(volume) = engine.volume(&options.name)
    {
        return Ok(reply::json_with_status(StatusCode::CREATED, &Volume::new(&volume)));
    }
    let name = Some(options.name.as_str()).filter(|name| !name.is_empty()).map(volume_name).transpose()?;
    let mut labels = options.label;
    labels.extend(options.labels);
    let volume = engine.create_volume(name, labels, options.options).await?;
    Ok(reply::json_with_status(StatusCode::CREATED, &Volume::new(&volume)))
}

pub fn check_driver(driver: &str) -> Result<(), ApiError> {
    match driver {
        "" | "local" => Ok(()),
        other => Err(ApiError::not_supported(format_args!("volume driver {other:?}"))),
    }
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    let volume = engine.volume(&name)?;
    Ok(reply::json(&Volume::new(&volume)))
}

pub async fn exists(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    engine.volume(&name)?;
    Ok(reply::no_content())
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    engine.remove_volume(&name, query.flag("force")?).await?;
    Ok(reply::no_content())
}

#[derive(Serialize)]
struct PruneReport {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Err", skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
}

/// Unused volumes that match: someone asked for it by name of the operation.
pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let (removed, failed) = prune_matching(&engine, &query).await?;
    let removed = removed.into_iter().map(|id| PruneReport { id, error: None, size: 0 });
    let failed = failed.into_iter().map(|(id, error)| PruneReport { id, error: Some(error), size: 0 });
    Ok(reply::json(&removed.chain(failed).collect::<Vec<_>>()))
}

type Failed = Vec<(String, String)>;

pub async fn prune_matching(engine: &Engine, query: &Query) -> Result<(Vec<String>, Failed), ApiError> {
    let filter = VolumeFilter::parse(&query.filters()?)?;
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for volume in engine.volumes().into_iter().filter(|volume| filter.matches(volume, engine)) {
        match engine.remove_volume(volume.name.as_str(), false).await {
            Ok(()) => removed.push(volume.name.to_string()),
            // What is in use is not meant; what went meanwhile is gone.
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::NotFound) => {}
            Err(error) => failed.push((volume.name.to_string(), error.chain())),
        }
    }
    Ok((removed, failed))
}

pub struct VolumeFilter(Vec<Condition>);

enum Condition {
    Name(Vec<regex_lite::Regex>),
    Driver(Vec<String>),
    Labels(Vec<LabelFilter>),
    NoLabels(Vec<LabelFilter>),
    Dangling(bool),
    Anonymous(bool),
    CreatedBefore(jiff::Timestamp),
}

impl VolumeFilter {
    pub fn parse(filters: &Filters) -> Result<Self, ApiError> {
        let mut conditions = Vec::new();
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            conditions.push(match name {
                "name" => Condition::Name(regexes(name, values)?),
                "driver" => Condition::Driver(values.to_vec()),
                "label" => Condition::Labels(LabelFilter::parse_all(values)),
                "label!" => Condition::NoLabels(LabelFilter::parse_all(values)),
                "dangling" => Condition::Dangling(filter::flag(filters, name)?.unwrap_or(false)),
                "anonymous" => Condition::Anonymous(filter::flag(filters, name)?.unwrap_or(false)),
                // Docker's prune asks so for named volumes too.
                "all" => match filter::flag(filters, name)? {
                    Some(true) => continue,
                    Some(false) | None => Condition::Anonymous(true),
                },
                "until" => Condition::CreatedBefore(filter::until(values, jiff::Timestamp::now())?),
                other => return Err(unknown(other)),
            });
        }
        Ok(Self(conditions))
    }

    pub fn matches(&self, volume: &VolumeRecord, engine: &Engine) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Name(patterns) => patterns.iter().any(|p| p.is_match(volume.name.as_str())),
            Condition::Driver(drivers) => drivers.contains(&volume.driver),
            Condition::Labels(labels) => labels.iter().all(|label| label.matches(&volume.labels)),
            Condition::NoLabels(labels) => !labels.iter().any(|label| label.matches(&volume.labels)),
            Condition::Dangling(wanted) => in_use(volume, engine) != *wanted,
            Condition::Anonymous(wanted) => volume.anonymous == *wanted,
            Condition::CreatedBefore(time) => volume.created_at < *time,
        })
    }
}

/// Whether any container mounts it.
fn in_use(volume: &VolumeRecord, engine: &Engine) -> bool {
    let containers = engine.containers(&ContainerFilter { all: true, ..Default::default() });
    containers.iter().any(|record| {
        record.anonymous_volumes.contains(&volume.name)
            || record.spec.mounts.iter().any(
                |mount| matches!(&mount.source, MountSource::Volume { name, .. } if *name == volume.name),
            )
    })
}
