//! Kubernetes YAML: play, down, generate. The reconciler does the work behind [`crate::api::kube::Kube`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::Bytes;
use serde::Serialize;

use crate::api::error::ApiError;
use crate::api::kube::Kube;
use crate::api::kube::{GenerateOptions, PlayOptions};
use crate::api::rest::extract::{Query, Whole};
use crate::api::rest::{Outcome, reply};

#[derive(Default, Serialize)]
pub struct PlayKubeReport {
    #[serde(rename = "Pods")]
    pods: Vec<PlayKubePod>,
    #[serde(rename = "Volumes")]
    volumes: Option<Vec<PlayKubeVolume>>,
    #[serde(rename = "StopReport")]
    stopped: Option<Vec<PodStopReport>>,
    #[serde(rename = "RmReport")]
    removed: Option<Vec<PodRmReport>>,
    #[serde(rename = "VolumeRmReport")]
    volumes_removed: Option<[(); 0]>,
    #[serde(rename = "SecretRmReport")]
    secrets_removed: Option<[(); 0]>,
    #[serde(rename = "Secrets")]
    secrets: Option<[(); 0]>,
    #[serde(rename = "ServiceContainerID")]
    service_container_id: &'static str,
    #[serde(rename = "ExitCode")]
    exit_code: Option<i32>,
}

#[derive(Serialize)]
pub struct PlayKubePod {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Containers")]
    containers: Vec<String>,
    #[serde(rename = "InitContainers")]
    init_containers: Vec<String>,
    #[serde(rename = "Logs")]
    logs: Vec<String>,
    #[serde(rename = "ContainerErrors")]
    container_errors: Vec<String>,
}

#[derive(Serialize)]
pub struct PlayKubeVolume {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Serialize)]
struct PodStopReport {
    #[serde(rename = "Errs")]
    errors: Vec<String>,
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "RawInput")]
    raw_input: String,
}

#[derive(Serialize)]
struct PodRmReport {
    #[serde(rename = "RemovedCtrs")]
    removed_containers: Option<[(); 0]>,
    #[serde(rename = "Err")]
    error: Option<String>,
    #[serde(rename = "Id")]
    id: String,
}

pub async fn play(
    State(kube): State<Arc<dyn Kube>>,
    query: Query,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Outcome {
    let options = play_options(&query)?;
    let yaml = yaml_body(&headers, body)?;
    let report = kube.play(yaml, options).await?;
    let pods = report.pods.into_iter().map(|pod| PlayKubePod {
        id: pod.id.into(),
        containers: pod.containers,
        init_containers: pod.init_containers,
        logs: pod.logs,
        container_errors: pod.container_errors,
    });
    let volumes = report.volumes.into_iter().map(|name| PlayKubeVolume { name });
    Ok(reply::json(&PlayKubeReport {
        pods: pods.collect(),
        volumes: Some(volumes.collect()),
        ..Default::default()
    }))
}

pub async fn down(
    State(kube): State<Arc<dyn Kube>>,
    query: Query,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Outcome {
    let force = query.flag("force")?;
    let yaml = yaml_body(&headers, body)?;
    let report = kube.down(yaml, force).await?;
    let stopped = report.pods.iter().map(|(id, _)| PodStopReport {
        errors: Vec::new(),
        id: id.to_string(),
        raw_input: String::new(),
    });
    let removed = report.pods.iter().map(|(id, error)| PodRmReport {
        removed_containers: None,
        error: error.clone(),
        id: id.to_string(),
    });
    Ok(reply::json(&PlayKubeReport {
        stopped: Some(stopped.collect()),
        removed: Some(removed.collect()),
        ..Default::default()
    }))
}

pub async fn generate(State(kube): State<Arc<dyn Kube>>, query: Query) -> Outcome {
    let names = query.list("names");
    if names.iter().all(String::is_empty) {
        return Err(ApiError::bad_parameter("names", "it is required"));
    }
    if let Some(kind @ ("deployment" | "daemonset" | "job")) = query.filled("type") {
        return Err(ApiError::not_supported(format_args!("generating a {kind}")));
    }
    let options = GenerateOptions { service: query.flag("service")? };
    let yaml = kube.generate(names, options)?;
    // podman says x-tar for its YAML, and always has.
    Ok(reply::with_body(StatusCode::OK, "application/x-tar", yaml.into_bytes()))
}

fn play_options(query: &Query) -> Result<PlayOptions, ApiError> {
    // What would change the result and is not carried out must not be ignored in silence.
    for name in ["staticIPs", "staticMACs", "publishPorts", "annotations", "userns", "logOptions"] {
        if query.list(name).iter().any(|value| !matches!(value.as_str(), "" | "null" | "{}")) {
            return Err(ApiError::not_supported(format_args!("{name} of play kube")));
        }
    }
    for name in
        ["noHosts", "wait", "serviceContainer", "build", "noHostname", "noPodPrefix", "publishAllPorts"]
    {
        if query.flag(name)? {
            return Err(ApiError::not_supported(format_args!("{name} of play kube")));
        }
    }
    let networks = query.list("network").into_iter().filter(|network| !network.is_empty());
    Ok(PlayOptions {
        start: query.optional_flag("start")?.unwrap_or(true),
        replace: query.flag("replace")?,
        networks: networks.collect(),
        log_driver: query.filled("logDriver").map(str::to_owned),
        tls_verify: query.optional_flag("tlsVerify")?,
    })
}

/// The manifest sent, alone or as `play.yaml` of a tar with build contexts beside it (podman 5.3).
fn yaml_body(headers: &HeaderMap, body: Bytes) -> Result<String, ApiError> {
    let is_tar = content_type(headers) == Some("application/x-tar");
    let yaml = if is_tar { play_yaml(&body)? } else { body.to_vec() };
    String::from_utf8(yaml).map_err(|_| ApiError::bad_request("the manifest is not UTF-8"))
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim())
}

fn play_yaml(archive: &[u8]) -> Result<Vec<u8>, ApiError> {
    use std::io::Read;
    let unreadable = |error: std::io::Error| ApiError::bad_request(format!("read the archive: {error}"));
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        if path.as_os_str() == "play.yaml" || path.as_os_str() == "./play.yaml" {
            let mut yaml = Vec::new();
            entry.read_to_end(&mut yaml).map_err(unreadable)?;
            return Ok(yaml);
        }
    }
    Err(ApiError::bad_request("the archive has no play.yaml at its root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_would_be_lost_are_refused() {
        let options = |text: &str| play_options(&Query::parse(Some(text)).unwrap());
        assert!(options("staticIPs=10.0.0.1").is_err());
        assert!(options("wait=true").is_err());
        // What podman 4.3.1 sends with nothing set.
        let defaults = options("annotations=null&noHosts=false&start=true&tlsVerify=true").unwrap();
        assert!(defaults.start && !defaults.replace && defaults.networks.is_empty());
        assert_eq!(options("network=a&network=b").unwrap().networks, ["a", "b"]);
    }

    #[test]
    fn the_manifest_is_found_in_an_archive() {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data) in [("context/Containerfile", "FROM x"), ("play.yaml", "kind: Pod")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, data.as_bytes()).unwrap();
        }
        assert_eq!(play_yaml(&builder.into_inner().unwrap()).unwrap(), b"kind: Pod");
        assert!(play_yaml(&[0; 1024]).is_err());
    }
}
