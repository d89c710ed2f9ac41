//! Our own few routes, for `selkie status`, `plan`, `apply` and `system reset`. The documents are the reconciler's.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;

use crate::api::error::ApiError;
use crate::api::kube::Kube;
use crate::api::rest::Context;
use crate::api::rest::extract::Query;
use crate::api::rest::{Outcome, reply};
use crate::engine::Engine;
use crate::engine::error::{EngineError, ErrorKind, Subject};

pub async fn status(State(kube): State<Arc<dyn Kube>>) -> Outcome {
    Ok(reply::json(&kube.status()))
}

pub async fn plan(State(kube): State<Arc<dyn Kube>>, query: Query) -> Outcome {
    let directory = directory(&query)?;
    Ok(reply::json(&kube.plan(directory).await?))
}

pub async fn apply(State(kube): State<Arc<dyn Kube>>, query: Query) -> Outcome {
    let directory = directory(&query)?;
    Ok(reply::json(&kube.apply(directory).await?))
}

/// The last step of `selkie system reset`.
pub async fn dismantle(State(engine): State<Engine>) -> Outcome {
    engine.dismantle().await?;
    Ok(reply::json(&serde_json::json!({})))
}

/// Asked by `selkie up`: a service that was started on demand makes room for a daemon that stays.
pub async fn hand_over(State(context): State<Context>) -> Outcome {
    match &context.hand_over {
        Some(asked) => {
            asked.cancel();
            Ok(reply::json(&serde_json::json!({})))
        }
        None => {
            let message = "this daemon does not make room: stop it first";
            Err(EngineError::new(ErrorKind::WrongState, Subject::Engine, message).into())
        }
    }
}

/// The daemon's working directory is not the client's, so a relative path would mean another place.
fn directory(query: &Query) -> Result<Option<PathBuf>, ApiError> {
    match query.filled("directory").map(PathBuf::from) {
        Some(path) if !path.is_absolute() => {
            Err(ApiError::bad_parameter("directory", format!("{} is not absolute", path.display())))
        }
        path => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_absolute_or_the_daemons() {
        let directory = |text: &str| directory(&Query::parse(Some(text)).unwrap());
        assert_eq!(directory("").unwrap(), None);
        assert_eq!(directory("directory=%2Fetc%2Fm").unwrap(), Some(PathBuf::from("/etc/m")));
        assert!(directory("directory=m").is_err());
    }
}
