//! Files in and out of containers, and a container's whole file system. Both dialects.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::images::Upload;
use crate::api::error::{ApiError, Dialect};
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::reply::Reply;
use crate::api::rest::{Context, Outcome, json, reply, stream, time};
use crate::engine::container::archive::{PathStat, PutOptions};
use crate::engine::error::{EngineError, Subject};
use crate::engine::id::NameOrId;

const TAR: &str = "application/x-tar";

/// Base64 of a JSON object: what is at the path.
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPathStat<'a> {
    name: &'a str,
    size: i64,
    mode: u32,
    mtime: String,
    is_dir: bool,
    link_target: &'a str,
}

/// The bits of Go's `os.FileMode`, which is what clients expect.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let bit = |set: u32, go: u32| if mode & set != 0 { go } else { 0 };
    kind | bit(0o4000, 1 << 23) | bit(0o2000, 1 << 22) | bit(0o1000, 1 << 20) | mode & 0o777
}

fn with_stat(mut reply: Reply, stat: &PathStat) -> Reply {
    let body = json::encode(&ContainerPathStat {
        name: &stat.name,
        size: stat.size_bytes,
        mode: go_mode(stat.mode),
        mtime: time::rfc3339(Some(stat.modified_at)),
        is_dir: stat.leads_to_directory,
        link_target: &stat.link_target,
    });
    let encoded = STANDARD.encode(body.trim_ascii_end());
    let value = HeaderValue::from_str(&encoded).expect("base64 is plain text");
    reply.headers_mut().insert(PATH_STAT, value);
    reply
}

pub async fn stat(State(context): State<Context>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let path = query.required("path")?;
    let stat = context.engine.stat_path(&name, FilePath::new(path)).await?;
    // Clients want to know where a link leads although there is nothing.
    let status = if stat.leads_somewhere { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(with_stat(reply::empty(status), &stat))
}

pub async fn read(State(context): State<Context>, Path(name): Path<NameOrId>, query: Query) -> Outcome {
    let path = query.required("path")?;
    let renames = renames(&query)?;
    let (stat, archive) = context.engine.read_archive(&name, FilePath::new(path), renames).await?;
    Ok(with_stat(stream::file(TAR, archive, &context.closing), &stat))
}

pub async fn write(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    dialect: Dialect,
    query: Query,
    body: Body,
) -> Outcome {
    let path = query.required("path")?;
    let options = PutOptions {
        // podman's own clients want the container's user to own what they bring.
        owned_by_user: query.optional_flag("copyUIDGID")?.unwrap_or(dialect == Dialect::Libpod),
        keep_kinds: query.flag("noOverwriteDirNonDir")?,
        renames: renames(&query)?,
    };
    context.engine.container(&name)?;
    // Whole before anything of it is unpacked: a client that leaves half way changes nothing.
    let archive = Upload::receive(context.engine.config().root.join("tmp"), body).await?;
    let file = std::fs::File::open(&archive.path)
        .map_err(|error| EngineError::internal(Subject::Engine, "open the sent archive", error))?;
    context.engine.write_archive(&name, FilePath::new(path), file, options).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub async fn export(State(context): State<Context>, Path(name): Path<NameOrId>) -> Outcome {
    let archive = context.engine.export_container(&name).await?;
    Ok(stream::file(TAR, archive, &context.closing))
}

fn renames(query: &Query) -> Result<BTreeMap<String, String>, ApiError> {
    match query.filled("rename") {
        Some(text) => serde_json::from_str(text).map_err(|error| ApiError::bad_parameter("rename", error)),
        None => Ok(BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        // As podman sends them for a directory, a link, a plain file and /tmp.
        for (mode, expected) in [
            (0o040_755, 2_147_484_141),
            (0o120_777, 134_218_239),
            (0o100_644, 420),
            (0o041_777, 2_148_532_735),
        ] {
            assert_eq!(go_mode(mode), expected, "{mode:o}");
        }
    }
}
