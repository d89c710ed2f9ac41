//! The processes of a container or pod. Docker's dialect asks as ps(1) is asked and shows the host's numbers.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;

use crate::api::error::{ApiError, Dialect};
use crate::api::rest::extract::{Path, Query};
use crate::api::rest::{Context, Outcome, json, reply, stream};
use crate::engine::Engine;
use crate::engine::container::top::{Columns, Numbering, ProcessTable};
use crate::engine::error::EngineError;
use crate::engine::id::NameOrId;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TopBody {
    processes: Vec<Vec<String>>,
    titles: Vec<String>,
}

/// What the table is about.
enum Target {
    Container(NameOrId),
    Pod(NameOrId),
}

struct Watch {
    engine: Engine,
    target: Target,
    columns: Columns,
    /// Read already, while there was still a status to refuse with.
    first: Option<TopBody>,
}

impl Target {
    async fn table(&self, engine: &Engine, columns: &Columns) -> Result<TopBody, EngineError> {
        let ProcessTable { titles, rows } = match self {
            Self::Container(id) => engine.top_of_container(id, columns).await?,
            Self::Pod(id) => engine.top_of_pod(id, columns).await?,
        };
        Ok(TopBody { processes: rows, titles })
    }
}

pub async fn container(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    dialect: Dialect,
    query: Query,
) -> Outcome {
    let record = context.engine.container(&name)?;
    top(context, Target::Container(NameOrId::from(&record.id)), dialect, &query).await
}

pub async fn pod(
    State(context): State<Context>,
    Path(name): Path<NameOrId>,
    dialect: Dialect,
    query: Query,
) -> Outcome {
    let record = context.engine.pod(&name)?;
    top(context, Target::Pod(NameOrId::from(&record.id)), dialect, &query).await
}

async fn top(context: Context, target: Target, dialect: Dialect, query: &Query) -> Outcome {
    let period = delay(query, "delay")?;
    let columns = columns(query.list("ps_args"), dialect)?;
    let first = target.table(&context.engine, &columns).await?;
    if !query.flag("stream")? {
        return Ok(reply::json(&first));
    }
    let watch = Watch { engine: context.engine, target, columns, first: Some(first) };
    Ok(stream::every(period, &context.closing, watch, |mut watch: Watch| async move {
        // It ends with what it is about.
        let table = match watch.first.take() {
            Some(first) => first,
            None => watch.target.table(&watch.engine, &watch.columns).await.ok()?,
        };
        Some((json::encode(&table).into(), watch))
    }))
}

fn columns(mut words: Vec<String>, dialect: Dialect) -> Result<Columns, ApiError> {
    words.retain(|word| !word.is_empty());
    let numbering = match dialect {
        Dialect::Libpod => Numbering::Container,
        Dialect::Compat => Numbering::Host,
    };
    if dialect == Dialect::Compat && words.is_empty() {
        words.push("-ef".to_owned());
    }
    Columns::parse(&words, numbering).map_err(|error| ApiError::bad_parameter("ps_args", error))
}

/// Seconds between two pictures of a stream.
pub fn delay(query: &Query, name: &str) -> Result<Duration, ApiError> {
    match query.number::<i64>(name)?.unwrap_or(5) {
        secs @ 1.. => Ok(Duration::from_secs(secs.unsigned_abs())),
        secs => Err(ApiError::bad_request(format!("{name:?} parameter of value {secs} < 1"))),
    }
}
