//! Images: lists, inspection, pull, load, tag, removal.

use std::collections::BTreeMap;
use std::path::{self, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use crate::api::error::{ApiError, Dialect};
use crate::api::rest::Context;
use crate::api::rest::extract::{Filters, Path, Query};
use crate::api::rest::filter::{self, LabelFilter, unknown};
use crate::api::rest::stream::{self, Records, records};
use crate::api::rest::version::{ApiVersion, is_before};
use crate::api::rest::{Outcome, registry_auth, reply, time};
use crate::engine::Engine;
use crate::engine::container::ContainerFilter;
use crate::engine::error::{EngineError, ErrorKind, Subject};
use crate::engine::id::ContainerId;
use crate::engine::image::{
    ArchiveFormat, ImageRecord, ManifestFormat, PullOptions, PullPolicy, PullProgress, PushOptions,
    PushProgress, PushSink,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSummary<'a> {
    id: String,
    parent_id: &'static str,
    repo_tags: Vec<&'a str>,
    repo_digests: &'a [String],
    created: i64,
    size: u64,
    shared_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    labels: Option<BTreeMap<&'a str, &'a str>>,
    containers: usize,
    arch: &'a str,
    digest: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dangling: bool,
    history: &'a [String],
    is_manifest_list: Option<bool>,
    names: &'a [String],
    os: &'a str,
}

impl<'a> ImageSummary<'a> {
    /// For podman. Docker's dialect changes some of it in `compat/images.rs`.
    pub fn new(image: &'a ImageRecord, containers: usize) -> Self {
        Self {
            id: image.id.to_string(),
            parent_id: "",
            repo_tags: image.names.iter().map(String::as_str).collect(),
            repo_digests: &image.repo_digests,
            created: image.created_at.map_or(0, Timestamp::as_second),
            size: image.size_bytes,
            shared_size: 0,
            virtual_size: Some(image.size_bytes),
            labels: labels(image),
            containers,
            arch: &image.architecture,
            digest: &image.manifest_digest,
            dangling: image.names.is_empty(),
            history: &image.names,
            is_manifest_list: None,
            names: &image.names,
            os: &image.os,
        }
    }

    pub fn for_docker(mut self, with_virtual_size: bool) -> Self {
        self.id = format!("sha256:{}", self.id);
        self.shared_size = -1;
        if self.repo_tags.is_empty() {
            self.repo_tags.push("<none>:<none>");
        }
        if !with_virtual_size {
            self.virtual_size = None;
        }
        self
    }
}

pub async fn list(State(engine): State<Engine>, query: Query) -> Outcome {
    let images = listed(&engine, &query)?;
    let users = image_users(&engine);
    let list: Vec<_> = images
        .iter()
        .map(|image| ImageSummary::new(image, users.get(image.id.as_str()).map_or(0, Vec::len)))
        .collect();
    Ok(reply::json(&list))
}

/// Which containers each image has, by image id.
pub fn image_users(engine: &Engine) -> BTreeMap<String, Vec<ContainerId>> {
    let mut users: BTreeMap<String, Vec<ContainerId>> = BTreeMap::new();
    for record in engine.containers(&ContainerFilter { all: true, ..Default::default() }) {
        if let Some(image) = &record.image_id {
            users.entry(image.to_string()).or_default().push(record.id.clone());
        }
    }
    users
}

/// The images a list request means, newest first.
pub fn listed(engine: &Engine, query: &Query) -> Result<Vec<Arc<ImageRecord>>, ApiError> {
    let mut filters = ImageFilter::parse(&query.filters()?, engine, Timestamp::now())?;
    // Docker's clients before 1.12 name the image in a parameter of its own.
    if let Some(reference) = query.filled("filter") {
        filters.0.push(Condition::Reference(vec![reference.to_owned()]));
    }
    let users = image_users(engine);
    let mut images = engine.images();
    images.retain(|image| filters.matches(image, users.contains_key(image.id.as_str())));
    images.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
    Ok(images)
}

pub struct ImageFilter(Vec<Condition>);

enum Condition {
    Id(Vec<String>),
    Reference(Vec<String>),
    Labels(Vec<LabelFilter>),
    NoLabels(Vec<LabelFilter>),
    Dangling(bool),
    InUse(bool),
    CreatedBefore(Timestamp),
    CreatedAfter(Timestamp),
    /// Ours are never read-only, and never intermediate.
    Never,
}

impl ImageFilter {
    fn parse(filters: &Filters, engine: &Engine, now: Timestamp) -> Result<Self, ApiError> {
        let created = |values: &[String]| -> Result<Option<Timestamp>, ApiError> {
            let times = values.iter().map(|name| Ok(engine.image(name)?.created_at));
            Ok(times.collect::<Result<Vec<_>, EngineError>>()?.into_iter().flatten().max())
        };
        let mut conditions = Vec::new();
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            conditions.push(match name {
                "id" => Condition::Id(values.to_vec()),
                "reference" => Condition::Reference(values.to_vec()),
                "label" => Condition::Labels(LabelFilter::parse_all(values)),
                "label!" => Condition::NoLabels(LabelFilter::parse_all(values)),
                "dangling" => Condition::Dangling(filter::flag(filters, name)?.unwrap_or(false)),
                "containers" => Condition::InUse(filter::flag(filters, name)?.unwrap_or(false)),
                "before" => Condition::CreatedBefore(created(values)?.unwrap_or(now)),
                "since" | "after" => Condition::CreatedAfter(created(values)?.unwrap_or(now)),
                "until" => Condition::CreatedBefore(filter::until(values, now)?),
                "readonly" | "intermediate" | "manifest" => match filter::flag(filters, name)? {
                    Some(true) => Condition::Never,
                    Some(false) | None => continue,
                },
                other => return Err(unknown(other)),
            });
        }
        Ok(Self(conditions))
    }

    /// What a prune removes of the unused images: those without a name, or with `all` any; of them, what
    /// matches the filters.
    pub fn of_prune(filters: &Filters, all: bool, engine: &Engine) -> Result<Self, ApiError> {
        // podman's clients may send `all` among the filters.
        let all = all || filter::flag(filters, "all")?.unwrap_or(false);
        let mut filter = Self::parse(&filters.without("all"), engine, Timestamp::now())?;
        if !all {
            filter.0.push(Condition::Dangling(true));
        }
        Ok(filter)
    }

    pub fn matches(&self, image: &ImageRecord, in_use: bool) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Id(ids) => {
                ids.iter().any(|id| image.id.as_str().starts_with(id.strip_prefix("sha256:").unwrap_or(id)))
            }
            Condition::Reference(patterns) => {
                patterns.iter().any(|pattern| image.names.iter().any(|name| refers_to(pattern, name)))
            }
            Condition::Labels(wanted) => {
                let labels = owned_labels(image);
                wanted.iter().all(|label| label.matches(&labels))
            }
            Condition::NoLabels(unwanted) => {
                let labels = owned_labels(image);
                !unwanted.iter().any(|label| label.matches(&labels))
            }
            Condition::Dangling(wanted) => image.names.is_empty() == *wanted,
            Condition::InUse(wanted) => in_use == *wanted,
            Condition::CreatedBefore(time) => image.created_at.is_some_and(|created| created < *time),
            Condition::CreatedAfter(time) => image.created_at.is_some_and(|created| created > *time),
            Condition::Never => false,
        })
    }
}

/// A name, any ending of it that begins a path component, or a pattern with `*`; the tag may be left out.
fn refers_to(pattern: &str, name: &str) -> bool {
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    let mut candidates = Vec::new();
    for full in [name, repository] {
        candidates.push(full);
        candidates.extend(full.match_indices('/').map(|(at, _)| &full[at + 1..]));
    }
    candidates.iter().any(|candidate| glob(pattern.as_bytes(), candidate.as_bytes()))
}

/// `*` is any run of characters without a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            glob(rest, text) || text.first().is_some_and(|b| *b != b'/' && glob(pattern, &text[1..]))
        }
        ([p, rest @ ..], [t, more @ ..]) => (*p == b'?' || p == t) && glob(rest, more),
        _ => false,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageData<'a> {
    id: &'a str,
    digest: &'a str,
    repo_tags: &'a [String],
    repo_digests: &'a [String],
    parent: &'static str,
    comment: &'a str,
    created: String,
    config: Config<'a>,
    version: &'static str,
    author: &'a str,
    architecture: &'a str,
    os: &'a str,
    size: u64,
    virtual_size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs<'a>,
    labels: Option<BTreeMap<&'a str, &'a str>>,
    annotations: BTreeMap<String, String>,
    manifest_type: &'static str,
    user: &'a str,
    history: Vec<oci_spec::image::History>,
    names_history: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "str::is_empty")]
    working_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    stop_signal: &'a str,
}

/// `{}`
#[derive(Serialize)]
pub struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    name: &'static str,
    data: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFs<'a> {
    r#type: &'static str,
    layers: Vec<&'a str>,
}

impl<'a> RootFs<'a> {
    pub fn new(image: &'a ImageRecord) -> Self {
        Self { r#type: "layers", layers: image.layers.iter().map(|layer| layer.diff_id.as_str()).collect() }
    }
}

impl GraphDriver {
    pub fn new(image: &ImageRecord, root: &path::Path) -> Self {
        let top = image.layers.last().map(|layer| layer.chain_id.trim_start_matches("sha256:"));
        let path = top.map(|chain| root.join("layers").join(chain));
        let upper = path.map(|path| ("UpperDir", path.to_string_lossy().into_owned()));
        Self { name: "overlay", data: upper.into_iter().collect() }
    }
}

impl<'a> Config<'a> {
    fn new(image: &'a ImageRecord) -> Self {
        let config = image.config.config().as_ref();
        let list = |list: Option<&'a Option<Vec<String>>>| list.and_then(|l| l.as_deref()).unwrap_or(&[]);
        let text = |text: Option<&'a Option<String>>| text.and_then(|t| t.as_deref()).unwrap_or_default();
        let set = |items: &'a [String]| items.iter().map(|item| (item.as_str(), Empty {})).collect();
        Self {
            user: text(config.map(|c| c.user())),
            exposed_ports: set(list(config.map(|c| c.exposed_ports()))),
            env: list(config.map(|c| c.env())),
            entrypoint: list(config.map(|c| c.entrypoint())),
            cmd: list(config.map(|c| c.cmd())),
            volumes: set(list(config.map(|c| c.volumes()))),
            working_dir: text(config.map(|c| c.working_dir())),
            labels: labels(image),
            stop_signal: text(config.map(|c| c.stop_signal())),
        }
    }
}

fn owned_labels(image: &ImageRecord) -> BTreeMap<String, String> {
    let labels = labels(image).unwrap_or_default();
    labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub fn labels(image: &ImageRecord) -> Option<BTreeMap<&str, &str>> {
    let labels = image.config.config().as_ref()?.labels().as_ref()?;
    (!labels.is_empty()).then(|| labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect())
}

/// What the last step of the build says about itself.
pub fn comment(image: &ImageRecord) -> &str {
    let history = image.config.history().as_deref().unwrap_or(&[]);
    history.last().and_then(|step| step.comment().as_deref()).unwrap_or_default()
}

pub async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    let image = engine.image(&name)?;
    Ok(reply::json(&ImageData::new(&image, &engine.config().root)))
}

impl<'a> ImageData<'a> {
    pub fn new(image: &'a ImageRecord, root: &path::Path) -> Self {
        let config = Config::new(image);
        Self {
            id: image.id.as_str(),
            digest: &image.manifest_digest,
            repo_tags: &image.names,
            repo_digests: &image.repo_digests,
            parent: "",
            comment: comment(image),
            created: time::rfc3339(image.created_at),
            user: config.user,
            config,
            version: "",
            author: image.config.author().as_deref().unwrap_or_default(),
            architecture: &image.architecture,
            os: &image.os,
            size: image.size_bytes,
            virtual_size: image.size_bytes,
            graph_driver: GraphDriver::new(image, root),
            root_fs: RootFs::new(image),
            labels: labels(image),
            annotations: BTreeMap::new(),
            manifest_type: "application/vnd.oci.image.manifest.v1+json",
            history: image.config.history().clone().unwrap_or_default(),
            names_history: &image.names,
        }
    }
}

pub async fn exists(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    engine.image(&name)?;
    Ok(reply::no_content())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HistoryResponse<'a> {
    id: String,
    created: i64,
    created_by: &'a str,
    tags: Option<&'a [String]>,
    size: u64,
    comment: &'a str,
}

/// The steps of the build, last first; steps that made a layer have its size.
pub async fn history(State(engine): State<Engine>, Path(name): Path<String>, dialect: Dialect) -> Outcome {
    let image = engine.image(&name)?;
    let prefix = match dialect {
        Dialect::Libpod => "",
        Dialect::Compat => "sha256:",
    };
    let mut layers = image.layers.iter();
    let steps = image.config.history().as_deref().unwrap_or(&[]);
    let mut history: Vec<_> = steps
        .iter()
        .map(|step| HistoryResponse {
            id: "<missing>".to_owned(),
            created: step
                .created()
                .as_deref()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .map_or(0, Timestamp::as_second),
            created_by: step.created_by().as_deref().unwrap_or_default(),
            tags: None,
            size: match step.empty_layer() {
                Some(true) => 0,
                Some(false) | None => layers.next().map_or(0, |layer| layer.size_bytes),
            },
            comment: step.comment().as_deref().unwrap_or_default(),
        })
        .collect();
    if let Some(top) = history.last_mut() {
        top.id = format!("{prefix}{}", image.id);
        top.tags = (!image.names.is_empty()).then_some(&image.names);
    }
    history.reverse();
    Ok(reply::json(&history))
}

#[derive(Default, Serialize)]
struct PullReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

pub async fn pull(State(context): State<Context>, query: Query, headers: HeaderMap) -> Outcome {
    let reference = query.required("reference")?;
    let reference = reference.strip_prefix("docker://").unwrap_or(reference).to_owned();
    if query.flag("allTags")? {
        return Err(ApiError::not_supported("pulling all tags of an image"));
    }
    if query.flag("compatMode")? {
        return super::super::compat::images::pull_reply(
            &context,
            reference,
            pull_options(&query, &headers)?,
        );
    }
    let options = pull_options(&query, &headers)?;
    let quiet = query.flag("quiet")?;
    let engine = context.engine.clone();
    Ok(records(&context.closing, move |records| async move {
        let progress = (!quiet).then(|| progress_lines(records.clone()));
        match engine.pull_image(&reference, options, progress).await {
            Ok(image) => {
                let id = image.id.to_string();
                records.send(&PullReport { images: vec![id.clone()], id: Some(id), ..Default::default() });
            }
            // 200 went out long ago.
            Err(error) => {
                tracing::warn!(image.reference = reference, error = error.chain(), "pull failed");
                records.send(&PullReport { error: Some(error.chain()), ..Default::default() });
            }
        }
    }))
}

fn progress_lines(records: Records) -> crate::engine::image::ProgressSink {
    Arc::new(move |progress| {
        let line = match progress {
            PullProgress::Resolving { reference } => format!("Trying to pull {reference}...\n"),
            PullProgress::LayerPresent { digest } => {
                format!("Copying blob {} skipped: already exists\n", short_digest(&digest))
            }
            PullProgress::LayerUnpacked { digest } => {
                format!("Copying blob {} done\n", short_digest(&digest))
            }
            PullProgress::Done { .. } => "Storing image\n".to_owned(),
            // Lines, not a bar: how far a layer is does not fit in.
            PullProgress::LayerDownloading { .. } => return,
        };
        records.send(&PullReport { stream: Some(line), ..Default::default() });
    })
}

pub fn short_digest(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Policy, platform and credentials of a pull, as podman's clients send them.
fn pull_options(query: &Query, headers: &HeaderMap) -> Result<PullOptions, ApiError> {
    let reference = query.filled("reference").unwrap_or_default();
    let policy = match query.filled("policy") {
        // podman's service pulls when a client names no policy.
        None | Some("always") => PullPolicy::Always,
        Some("missing") => PullPolicy::Missing,
        Some("never") => PullPolicy::Never,
        Some("newer") => PullPolicy::Newer,
        Some(other) => return Err(ApiError::bad_parameter("policy", format!("{other:?} is no pull policy"))),
    };
    let part = |new: &str, old: &str| query.filled(new).or_else(|| query.filled(old)).map(str::to_owned);
    let (os, arch) = (part("OS", "overrideOS"), part("Arch", "overrideArch"));
    let variant = part("Variant", "overrideVariant").map(|variant| format!("/{variant}")).unwrap_or_default();
    let platform = match (os, arch) {
        (None, None) => None,
        (os, arch) => Some(format!(
            "{}/{}{variant}",
            os.as_deref().unwrap_or("linux"),
            arch.as_deref().unwrap_or(super::system::go_arch())
        )),
    };
    Ok(PullOptions {
        policy: Some(policy),
        credentials: registry_auth::credentials(headers, reference)?,
        tls_verify: query.optional_flag("tlsVerify")?,
        platform,
    })
}

#[derive(Default, Serialize)]
struct PushReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "manifestdigest", skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<String>,
}

pub async fn push(
    State(context): State<Context>,
    Path(name): Path<String>,
    version: Option<ApiVersion>,
    query: Query,
    headers: HeaderMap,
) -> Outcome {
    let options = push_options(&name, &query, &headers)?;
    let engine = context.engine.clone();
    if query.optional_flag("quiet")?.unwrap_or(true) {
        engine.push_image(&name, options, None).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    // Older clients take a line they do not know for a failure.
    let tell_digest = !is_before(version, 4, 6);
    Ok(records(&context.closing, move |records| async move {
        match engine.push_image(&name, options, Some(push_lines(records.clone()))).await {
            Ok(pushed) if tell_digest => {
                records.send(&PushReport { manifest_digest: Some(pushed.digest), ..Default::default() });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(image.reference = name, error = error.chain(), "push failed");
                records.send(&PushReport { error: Some(error.chain()), ..Default::default() });
            }
        }
    }))
}

fn push_lines(records: Records) -> PushSink {
    Arc::new(move |progress| {
        let line = match progress {
            PushProgress::Begun { .. } => "Getting image source signatures\n".to_owned(),
            PushProgress::LayerPresent { layer } => {
                format!("Copying blob {} skipped: already exists\n", short_digest(&layer))
            }
            PushProgress::LayerSent { layer } => format!("Copying blob {} done\n", short_digest(&layer)),
            PushProgress::WritingManifest => "Writing manifest to image destination\n".to_owned(),
            PushProgress::LayerSending { .. } => return,
        };
        records.send(&PushReport { stream: Some(line), ..Default::default() });
    })
}

/// Destination, format and credentials of a push, as both kinds of client send them. `name`: what is pushed.
pub fn push_options(name: &str, query: &Query, headers: &HeaderMap) -> Result<PushOptions, ApiError> {
    let destination = query.filled("destination");
    let destination = destination.map(|name| name.strip_prefix("docker://").unwrap_or(name));
    let format = match query.filled("format") {
        None => None,
        Some("oci") => Some(ManifestFormat::Oci),
        Some("v2s2" | "docker") => Some(ManifestFormat::Docker),
        Some(other) => return Err(ApiError::not_supported(format!("pushing manifests of format {other:?}"))),
    };
    if let Some(compression) = query.filled("compressionFormat").filter(|format| *format != "gzip") {
        return Err(ApiError::not_supported(format!("compressing layers with {compression:?}")));
    }
    Ok(PushOptions {
        destination: destination.map(str::to_owned),
        credentials: registry_auth::credentials(headers, destination.unwrap_or(name))?,
        tls_verify: query.optional_flag("tlsVerify")?,
        format,
    })
}

#[derive(Serialize)]
struct LoadReport {
    #[serde(rename = "Names")]
    names: Vec<String>,
}

pub async fn load(State(engine): State<Engine>, body: Body) -> Outcome {
    let images = load_body(&engine, body).await?;
    Ok(reply::json(&LoadReport { names: loaded_names(&images) }))
}

/// The names of what was loaded; the id of what has none.
pub fn loaded_names(images: &[Arc<ImageRecord>]) -> Vec<String> {
    let names = images.iter().flat_map(|image| match image.names.is_empty() {
        true => vec![format!("sha256:{}", image.id)],
        false => image.names.clone(),
    });
    names.collect()
}

/// Stores the sent archive beside the images, loads it, and removes it.
pub async fn load_body(engine: &Engine, body: Body) -> Result<Vec<Arc<ImageRecord>>, ApiError> {
    let directory = engine.config().root.join("tmp");
    let archive = Upload::receive(directory, body).await?;
    Ok(engine.load_images(&archive.path).await?)
}

/// A sent file, gone when this is dropped.
pub struct Upload {
    pub path: PathBuf,
}

impl Upload {
    pub async fn receive(directory: PathBuf, mut body: Body) -> Result<Self, ApiError> {
        let failed = |error: std::io::Error| {
            ApiError::Engine(EngineError::internal(Subject::Engine, "store the sent archive", error))
        };
        tokio::fs::create_dir_all(&directory).await.map_err(failed)?;
        let name = format!("upload-{}", &ContainerId::random().as_str()[..16]);
        let upload = Self { path: directory.join(name) };
        let mut file = tokio::fs::File::create_new(&upload.path).await.map_err(failed)?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::bad_request(format!("read the archive: {e}")))?;
            if let Ok(data) = frame.into_data() {
                file.write_all(&data).await.map_err(failed)?;
            }
        }
        file.flush().await.map_err(failed)?;
        Ok(upload)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What tar archives are sent as.
const TAR: &str = "application/x-tar";

pub async fn save(State(context): State<Context>, Path(name): Path<String>, query: Query) -> Outcome {
    save_reply(&context, &[name], archive_format(&query)?).await
}

pub async fn save_many(State(context): State<Context>, query: Query) -> Outcome {
    let references = query.list("references");
    if references.is_empty() {
        return Err(ApiError::bad_request("no references of images to export"));
    }
    save_reply(&context, &references, archive_format(&query)?).await
}

/// Images in one archive, as it is made.
pub async fn save_reply(context: &Context, images: &[String], format: ArchiveFormat) -> Outcome {
    let archive = context.engine.save_images(images, format).await?;
    Ok(stream::file(TAR, archive, &context.closing))
}

fn archive_format(query: &Query) -> Result<ArchiveFormat, ApiError> {
    match query.filled("format") {
        Some("docker-archive") => Ok(ArchiveFormat::Docker),
        // podman's service has this default, its clients always say what they want.
        None | Some("oci-archive") => Ok(ArchiveFormat::Oci),
        Some(directory @ ("oci-dir" | "docker-dir")) => {
            Err(ApiError::not_supported(format!("saving an image as {directory}")))
        }
        Some(other) => Err(ApiError::bad_parameter("format", format!("{other:?} is no archive format"))),
    }
}

pub async fn tag(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    let new_name = tag_name(&query)?;
    engine.tag_image(&name, &new_name).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// Takes one name away, or all if none is given.
pub async fn untag(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    let names = match (query.filled("repo"), query.filled("tag")) {
        (None, None) => Vec::new(),
        _ => vec![tag_name(&query)?],
    };
    engine.untag_image(&name, &names).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneReport {
    id: String,
    size: u64,
}

pub async fn prune(State(engine): State<Engine>, query: Query) -> Outcome {
    let filter = ImageFilter::of_prune(&query.filters()?, query.flag("all")?, &engine)?;
    let pruned = engine.prune_images(move |image| filter.matches(image, false)).await?;
    let report =
        pruned.iter().map(|image| PruneReport { id: image.id.to_string(), size: image.reclaimed_bytes });
    Ok(reply::json(&report.collect::<Vec<_>>()))
}

/// `repo` and `tag` of the query as one name.
fn tag_name(query: &Query) -> Result<String, ApiError> {
    let repository = query.required("repo")?;
    Ok(match query.filled("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    })
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RemoveReport {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    untagged: Vec<String>,
    exit_code: i32,
    errors: Vec<String>,
}

pub async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Outcome {
    let force = query.flag("force")?;
    let removed = engine.remove_image(&name, force).await?;
    let deleted = removed.deleted.iter().map(ToString::to_string).collect();
    Ok(reply::json(&RemoveReport { deleted, untagged: removed.untagged, ..Default::default() }))
}

/// Several at once: what failed is told beside what was done.
pub async fn remove_many(State(engine): State<Engine>, query: Query) -> Outcome {
    let (force, ignore) = (query.flag("force")?, query.flag("ignore")?);
    let mut names = query.list("images");
    if query.flag("all")? {
        names = engine.images().iter().map(|image| image.id.to_string()).collect();
    }
    let mut report = RemoveReport::default();
    for name in names {
        match engine.remove_image(&name, force).await {
            Ok(removed) => {
                report.deleted.extend(removed.deleted.iter().map(ToString::to_string));
                report.untagged.extend(removed.untagged);
            }
            Err(error) if ignore && error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                // podman's exit codes of `rmi`: 1 not found, 2 in use, 125 anything else.
                report.exit_code = match error.kind() {
                    ErrorKind::NotFound => 1,
                    ErrorKind::InUse => 2,
                    ErrorKind::InvalidArgument
                    | ErrorKind::AlreadyExists
                    | ErrorKind::WrongState
                    | ErrorKind::NotSupported
                    | ErrorKind::CommandNotExecutable
                    | ErrorKind::CommandNotFound
                    | ErrorKind::Upstream
                    | ErrorKind::Internal => 125,
                };
                report.errors.push(error.chain());
            }
        }
    }
    Ok(reply::json(&report))
}

#[derive(Serialize)]
struct Resolved {
    #[serde(rename = "Names")]
    names: Vec<String>,
}

/// What a short name stands for (podman 5).
pub async fn resolve(State(engine): State<Engine>, Path(name): Path<String>) -> Outcome {
    let image = engine.image(&name)?;
    Ok(reply::json(&Resolved { names: image.names.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_by_ending_and_pattern() {
        let name = "docker.io/library/busybox:1.36";
        for (pattern, expected) in [
            ("busybox", true),
            ("busybox:1.36", true),
            ("library/busybox", true),
            ("docker.io/library/busybox:1.36", true),
            ("*/library/busybox", true),
            ("busy*", true),
            ("busybox:*", true),
            ("box", false),
            ("busybox:1.3", false),
            ("docker.io/*", false),
        ] {
            assert_eq!(refers_to(pattern, name), expected, "{pattern}");
        }
        assert!(refers_to("localhost:5000/a", "localhost:5000/a"));
    }

    #[test]
    fn tags_are_joined_to_their_repository() {
        let name = |text: &str| tag_name(&Query::parse(Some(text)).unwrap());
        assert_eq!(name("repo=localhost/a&tag=1").unwrap(), "localhost/a:1");
        assert_eq!(name("repo=localhost/a&tag=").unwrap(), "localhost/a");
        assert!(name("tag=1").is_err());
    }

    #[test]
    fn digests_are_shown_short() {
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_digest("odd"), "odd");
    }
}
