//! Images as docker shows and pulls them.

use std::collections::{BTreeMap, HashMap};
use std::path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use crate::api::error::ApiError;
use crate::api::rest::Context;
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::libpod::images::{
    self as libpod, Empty, ImageSummary, comment, image_users, labels, load_body, loaded_names, short_digest,
};
use crate::api::rest::stream::{Records, records};
use crate::api::rest::version::{ApiVersion, is_before};
use crate::api::rest::{Outcome, filter, registry_auth, reply, time};
use crate::engine::image::{
    ArchiveFormat, ImageRecord, ProgressSink, PullOptions, PullPolicy, PullProgress, PushProgress, PushSink,
    Pushed,
};
use crate::engine::{Engine, RemovedImage};

/// How often the progress of one layer is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

pub async fn list(State(engine): State<Engine>, version: Option<ApiVersion>, query: Query) -> Outcome {
    let images = libpod::listed(&engine, &query)?;
    let users = image_users(&engine);
    let with_virtual_size = is_before(version, 1, 44);
    let list: Vec<_> = images
        .iter()
        .map(|image| {
            let containers = users.get(image.id.as_str()).map_or(0, Vec::len);
            ImageSummary::new(image, containers).for_docker(with_virtual_size)
        })
        .collect();
    Ok(reply::json(&list))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageInspect<'a> {
    id: String,
    repo_tags: &'a [String],
    repo_digests: &'a [String],
    parent: &'static str,
    comment: &'a str,
    created: String,
    container: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_config: Option<ImageConfig<'a>>,
    docker_version: &'static str,
    author: &'a str,
    config: ImageConfig<'a>,
    architecture: &'a str,
    os: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    graph_driver: libpod::GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: libpod::RootFs<'a>,
    metadata: Metadata,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: &'static str,
}

/// Docker's container config, as far as an image has one.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig<'a> {
    hostname: &'static str,
    domainname: &'static str,
    user: &'a str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Option<&'a [String]>,
    cmd: Option<&'a [String]>,
    image: &'static str,
    volumes: Option<BTreeMap<&'a str, Empty>>,
    working_dir: &'a str,
    entrypoint: Option<&'a [String]>,
    on_build: Option<()>,
    labels: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    stop_signal: &'a str,
}

impl<'a> ImageConfig<'a> {
    fn new(image: &'a ImageRecord) -> Self {
        let Some(config) = image.config.config().as_ref() else { return Self::default() };
        let set = |items: &'a [String]| items.iter().map(|item| (item.as_str(), Empty {})).collect();
        Self {
            user: config.user().as_deref().unwrap_or_default(),
            exposed_ports: set(config.exposed_ports().as_deref().unwrap_or(&[])),
            env: config.env().as_deref(),
            cmd: config.cmd().as_deref(),
            volumes: config.volumes().as_deref().map(set),
            working_dir: config.working_dir().as_deref().unwrap_or_default(),
            entrypoint: config.entrypoint().as_deref(),
            labels: labels(image),
            stop_signal: config.stop_signal().as_deref().unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl<'a> ImageInspect<'a> {
    pub fn new(image: &'a ImageRecord, root: &path::Path, version: Option<ApiVersion>) -> Self {
        Self {
            id: format!("sha256:{}", image.id),
            repo_tags: &image.names,
            repo_digests: &image.repo_digests,
            parent: "",
            comment: comment(image),
            created: time::rfc3339(image.created_at),
            container: "",
            container_config: is_before(version, 1, 45).then(ImageConfig::default),
            docker_version: "",
            author: image.config.author().as_deref().unwrap_or_default(),
            config: ImageConfig::new(image),
            architecture: &image.architecture,
            os: &image.os,
            size: image.size_bytes,
            virtual_size: is_before(version, 1, 44).then_some(image.size_bytes),
            graph_driver: libpod::GraphDriver::new(image, root),
            root_fs: libpod::RootFs::new(image),
            metadata: Metadata { last_tag_time: time::NEVER },
        }
    }
}

pub async fn inspect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    version: Option<ApiVersion>,
) -> Outcome {
    let image = engine.image(&name)?;
    Ok(reply::json(&ImageInspect::new(&image, &engine.config().root, version)))
}

#[derive(Serialize)]
#[serde(untagged)]
enum Deleted {
    Untagged {
        #[serde(rename = "Untagged")]
        name: String,
    },
    Deleted {
        #[serde(rename = "Deleted")]
        id: String,
    },
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    let force = query.flag("force")?;
    let removed = engine.remove_image(&name, force).await?;
    Ok(reply::json(&deleted(removed).collect::<Vec<_>>()))
}

fn deleted(removed: RemovedImage) -> impl Iterator<Item = Deleted> {
    let untagged = removed.untagged.into_iter().map(|name| Deleted::Untagged { name });
    let deleted = removed.deleted.into_iter().map(|id| Deleted::Deleted { id: format!("sha256:{id}") });
    untagged.chain(deleted)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneReport {
    /// docker has null where nothing was removed.
    images_deleted: Option<Vec<Deleted>>,
    space_reclaimed: u64,
}

pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let filters = query.filters()?;
    // What docker's clients mean by `--all`.
    let all = match filter::flag(&filters, "dangling")? {
        Some(dangling) => !dangling,
        None => query.flag("all")?,
    };
    let filter = libpod::ImageFilter::of_prune(&filters.without("dangling"), all, &engine)?;
    let pruned = engine.prune_images(move |image| filter.matches(image, false)).await?;
    let space_reclaimed = pruned.iter().map(|image| image.reclaimed_bytes).sum();
    let images: Vec<_> = pruned.into_iter().flat_map(|image| deleted(image.removed)).collect();
    Ok(reply::json(&PruneReport { images_deleted: (!images.is_empty()).then_some(images), space_reclaimed }))
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgressLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_detail: Option<ProgressDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Default, Serialize)]
struct ProgressDetail {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

#[derive(Serialize)]
struct ErrorDetail {
    message: String,
}

/// `POST /images/create`: a pull. (An import, with `fromSrc`, is not supported.)
pub async fn create(State(context): State<Context>, query: Query, headers: HeaderMap) -> Outcome {
    if query.filled("fromSrc").is_some() {
        return Err(ApiError::not_supported("importing an image"));
    }
    let image = query.required("fromImage")?;
    let reference = pull_reference(image, query.filled("tag"));
    let options = PullOptions {
        policy: Some(PullPolicy::Always),
        credentials: registry_auth::credentials(&headers, &reference)?,
        tls_verify: None,
        platform: query.filled("platform").map(str::to_owned),
    };
    pull_reply(&context, reference, options)
}

/// The stream of a pull in docker's words; podman's own route has it too (`compatMode`).
pub fn pull_reply(context: &Context, reference: String, options: PullOptions) -> Outcome {
    let engine = context.engine.clone();
    Ok(records(&context.closing, move |records| async move {
        let progress = progress_lines(records.clone());
        match engine.pull_image(&reference, options, Some(progress)).await {
            Ok(image) => {
                records.send(&status(format!("Digest: {}", image.manifest_digest)));
                // docker-compose and docker-py look for the id of what was pulled in the last lines.
                let done =
                    ProgressLine { id: Some(image.id.to_string()), ..status("Download complete".into()) };
                records.send(&done);
                records.send(&status(format!("Status: Image is up to date for {reference}")));
            }
            Err(error) => {
                tracing::warn!(image.reference = reference, error = error.chain(), "pull failed");
                records.send(&failure(error.chain()));
            }
        }
    }))
}

/// A tag may be a digest; without one it is `latest`.
fn pull_reference(image: &str, tag: Option<&str>) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match tag {
        Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
        Some(tag) => format!("{image}:{tag}"),
        None if last.contains(':') || last.contains('@') => image.to_owned(),
        None => format!("{image}:latest"),
    }
}

fn status(text: String) -> ProgressLine {
    ProgressLine { status: Some(text), ..Default::default() }
}

fn progress_lines(records: Records) -> ProgressSink {
    let told: Mutex<HashMap<String, Instant>> = Mutex::default();
    Arc::new(move |progress| {
        let layer = |text: &str, digest: &str| ProgressLine {
            id: Some(short_digest(digest).to_owned()),
            progress_detail: Some(ProgressDetail::default()),
            ..status(text.to_owned())
        };
        match progress {
            PullProgress::Resolving { reference } => {
                records.send(&status(format!("Pulling from {reference}")));
            }
            PullProgress::LayerPresent { digest } => records.send(&layer("Already exists", &digest)),
            PullProgress::LayerDownloading { digest, current_bytes, total_bytes } => {
                let mut told = told.lock().unwrap();
                match told.get(&digest) {
                    None => records.send(&layer("Pulling fs layer", &digest)),
                    Some(last) if last.elapsed() < PROGRESS_PERIOD && current_bytes < total_bytes => return,
                    Some(_) => {}
                }
                told.insert(digest.clone(), Instant::now());
                let detail = ProgressDetail { current: Some(current_bytes), total: Some(total_bytes) };
                records.send(&ProgressLine {
                    progress_detail: Some(detail),
                    progress: Some(format!("{current_bytes}B/{total_bytes}B")),
                    ..layer("Downloading", &digest)
                });
            }
            PullProgress::LayerUnpacked { digest } => records.send(&layer("Pull complete", &digest)),
            PullProgress::Done { .. } => {}
        }
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PushedLine {
    progress_detail: Empty,
    aux: PushedAux,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PushedAux {
    tag: String,
    digest: String,
    size: u64,
}

pub async fn push(
    State(context): State<Context>,
    Path(name): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Outcome {
    let reference = pull_reference(&name, query.filled("tag"));
    let options = libpod::push_options(&reference, &query, &headers)?;
    let engine = context.engine.clone();
    // Before the stream, so that it is a 404.
    engine.image(&reference)?;
    Ok(records(&context.closing, move |records| async move {
        match engine.push_image(&reference, options, Some(push_lines(records.clone()))).await {
            Ok(pushed) => {
                let Pushed { tag, digest, size_bytes } = pushed;
                records.send(&status(format!("{tag}: digest: {digest} size: {size_bytes}")));
                let aux = PushedAux { tag, digest, size: size_bytes };
                records.send(&PushedLine { progress_detail: Empty {}, aux });
            }
            Err(error) => {
                tracing::warn!(image.reference = reference, error = error.chain(), "push failed");
                records.send(&failure(error.chain()));
            }
        }
    }))
}

fn failure(message: String) -> ProgressLine {
    ProgressLine {
        error_detail: Some(ErrorDetail { message: message.clone() }),
        error: Some(message),
        ..Default::default()
    }
}

fn push_lines(records: Records) -> PushSink {
    Arc::new(move |progress| {
        let layer = |text: &str, layer: &str| ProgressLine {
            id: Some(short_digest(layer).to_owned()),
            progress_detail: Some(ProgressDetail::default()),
            ..status(text.to_owned())
        };
        match progress {
            PushProgress::Begun { destination, layers } => {
                records.send(&status(format!("The push refers to repository [{destination}]")));
                for digest in &layers {
                    records.send(&layer("Preparing", digest));
                }
            }
            PushProgress::LayerPresent { layer: digest } => {
                records.send(&layer("Layer already exists", &digest));
            }
            PushProgress::LayerSending { layer: digest, current_bytes, total_bytes } => {
                let detail = ProgressDetail { current: Some(current_bytes), total: Some(total_bytes) };
                records.send(&ProgressLine {
                    progress_detail: Some(detail),
                    progress: Some(format!("{current_bytes}B/{total_bytes}B")),
                    ..layer("Pushing", &digest)
                });
            }
            PushProgress::LayerSent { layer: digest } => records.send(&layer("Pushed", &digest)),
            PushProgress::WritingManifest => {}
        }
    })
}

pub async fn save(State(context): State<Context>, Path(name): Path<String>) -> Outcome {
    libpod::save_reply(&context, &[name], ArchiveFormat::Docker).await
}

pub async fn save_many(State(context): State<Context>, query: Query) -> Outcome {
    let names = query.list("names");
    if names.is_empty() {
        return Err(ApiError::bad_request("no names of images to export"));
    }
    libpod::save_reply(&context, &names, ArchiveFormat::Docker).await
}

#[derive(Serialize)]
struct LoadLine {
    stream: String,
}

pub async fn load(State(context): State<Context>, body: Body) -> Outcome {
    let images = load_body(&context.engine, body).await?;
    Ok(records(&context.closing, move |records| async move {
        for name in loaded_names(&images) {
            records.send(&LoadLine { stream: format!("Loaded image: {name}\n") });
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_completes_the_reference() {
        for (image, tag, expected) in [
            ("busybox", Some("1"), "busybox:1"),
            ("busybox", None, "busybox:latest"),
            ("r:5000/busybox", None, "r:5000/busybox:latest"),
            ("busybox:2", None, "busybox:2"),
            ("busybox", Some("sha256:ab"), "busybox@sha256:ab"),
        ] {
            assert_eq!(pull_reference(image, tag), expected);
        }
    }
}
