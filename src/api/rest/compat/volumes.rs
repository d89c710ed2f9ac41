//! Volumes, as docker shows them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::rest::extract::{Json, Path, Query};
use crate::api::rest::libpod::create::volume_name;
use crate::api::rest::libpod::volumes::{VolumeFilter, check_driver, prune_matching};
use crate::api::rest::{Outcome, reply, time};
use crate::engine::Engine;
use crate::engine::volume::VolumeRecord;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume<'a> {
    created_at: String,
    driver: &'a str,
    labels: &'a BTreeMap<String, String>,
    mountpoint: String,
    name: &'a str,
    options: &'a BTreeMap<String, String>,
    scope: &'static str,
}

impl<'a> Volume<'a> {
    pub fn new(volume: &'a VolumeRecord) -> Self {
        Self {
            created_at: time::rfc3339(Some(volume.created_at)),
            driver: &volume.driver,
            labels: &volume.labels,
            mountpoint: volume.mountpoint.to_string_lossy().into_owned(),
            name: volume.name.as_str(),
            options: &volume.options,
            scope: "local",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeList<'a> {
    volumes: Vec<Volume<'a>>,
    warnings: [(); 0],
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = VolumeFilter::parse(&query.filters()?)?;
    let volumes = engine.volumes();
    let shown = volumes.iter().filter(|volume| filter.matches(volume, &engine));
    let volumes = shown.map(|volume| Volume::new(volume)).collect();
    Ok(reply::json(&VolumeList { volumes, warnings: [] }))
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    let volume = engine.volume(&name)?;
    Ok(reply::json(&Volume::new(&volume)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeCreateBody {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Driver")]
    driver: String,
    #[serde(rename = "DriverOpts")]
    driver_opts: BTreeMap<String, String>,
    #[serde(rename = "Labels")]
    labels: BTreeMap<String, String>,
}

/// A volume that exists already is as good as a new one to docker.
pub async fn create(State(engine): State<Engine>, Json(body): Json<VolumeCreateBody>) -> Outcome {
    check_driver(&body.driver)?;
    if let Ok(volume) = engine.volume(&body.name) {
        return Ok(reply::json_with_status(StatusCode::CREATED, &Volume::new(&volume)));
    }
    let name = Some(body.name.as_str()).filter(|name| !name.is_empty()).map(volume_name).transpose()?;
    let volume = engine.create_volume(name, body.labels, body.driver_opts).await?;
    Ok(reply::json_with_status(StatusCode::CREATED, &Volume::new(&volume)))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneReport {
    volumes_deleted: Vec<String>,
    space_reclaimed: u64,
}

pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let (volumes_deleted, failed) = prune_matching(&engine, &query).await?;
    for (volume, error) in failed {
        tracing::warn!(volume.name = volume, error, "could not prune a volume");
    }
    Ok(reply::json(&PruneReport { volumes_deleted, space_reclaimed: 0 }))
}
