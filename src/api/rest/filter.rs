//! `filters` of the lists, as predicates. Values of one filter are alternatives, but for labels,
//! which must all match; different filters must all match.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regex_lite::Regex;

use super::super::error::ApiError;
use super::extract::{Filters, parse_bool};
use super::time::parse_duration;
use super::view::ContainerView;
use crate::engine::Engine;
use crate::engine::container::spec::MountSource;
use crate::engine::container::state::ContainerState;
use crate::engine::error::ErrorKind;
use crate::engine::id::{NameOrId, PodId};

/// One `label` value: `key` or `key=value`.
pub struct LabelFilter {
    key: String,
    value: Option<String>,
}

impl LabelFilter {
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Self { key: text.to_owned(), value: None },
        }
    }

    pub fn parse_all(values: &[String]) -> Vec<Self> {
        values.iter().map(|value| Self::parse(value)).collect()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match (labels.get(&self.key), &self.value) {
            (Some(_), None) => true,
            (Some(found), Some(wanted)) => found == wanted,
            (None, _) => false,
        }
    }
}

/// Which containers a list shows.
pub struct ContainerFilter {
    conditions: Vec<Condition>,
    /// A filter by state looks at containers that do not run, too.
    pub all_states: bool,
}

enum Condition {
    Id(Vec<String>),
    Name(Vec<Regex>),
    Labels(Vec<LabelFilter>),
    NoLabels(Vec<LabelFilter>),
    Status(Vec<String>),
    Exited(Vec<i32>),
    /// Image names or ids as they were given.
    Ancestor(Vec<String>),
    CreatedBefore(Timestamp),
    CreatedAfter(Timestamp),
    Volume(Vec<String>),
    Pod(Vec<PodId>),
    Network(Vec<String>),
    Health(Vec<String>),
}

impl ContainerFilter {
    pub fn parse(filters: &Filters, engine: &Engine, now: Timestamp) -> Result<Self, ApiError> {
        let mut conditions = Vec::new();
        let mut all_states = false;
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            let created = |value: &String| {
                engine.container(&NameOrId::from(value.as_str())).map(|record| record.created_at)
            };
            conditions.push(match name {
                "id" => Condition::Id(values.to_vec()),
                "name" => Condition::Name(regexes(name, values)?),
                "label" => Condition::Labels(LabelFilter::parse_all(values)),
                "label!" => Condition::NoLabels(LabelFilter::parse_all(values)),
                "status" => {
                    all_states = true;
                    Condition::Status(values.to_vec())
                }
                "exited" => {
                    all_states = true;
                    let codes = values.iter().map(|value| value.parse());
                    Condition::Exited(
                        codes.collect::<Result<_, _>>().map_err(|e| ApiError::bad_parameter("filters", e))?,
                    )
                }
                "ancestor" => Condition::Ancestor(values.to_vec()),
                "before" => {
                    let times = values.iter().map(created).collect::<Result<Vec<_>, _>>()?;
                    Condition::CreatedBefore(times.into_iter().min().unwrap_or(now))
                }
                "since" => {
                    let times = values.iter().map(created).collect::<Result<Vec<_>, _>>()?;
                    Condition::CreatedAfter(times.into_iter().max().unwrap_or(now))
                }
                "until" => Condition::CreatedBefore(until(values, now)?),
                "volume" => Condition::Volume(values.to_vec()),
                "pod" => Condition::Pod(pods(engine, values)?),
                "network" => Condition::Network(network_names(engine, values)),
                "health" => Condition::Health(values.to_vec()),
                other => return Err(unknown(other)),
            });
        }
        Ok(Self { conditions, all_states })
    }

    pub fn matches(&self, view: &ContainerView) -> bool {
        self.conditions.iter().all(|condition| condition.matches(view))
    }
}

impl Condition {
    fn matches(&self, view: &ContainerView) -> bool {
        let record = &view.record;
        match self {
            Self::Id(ids) => ids.iter().any(|id| record.id.as_str().starts_with(id.as_str())),
            Self::Name(patterns) => {
                // Docker's names begin with a slash, and its clients anchor patterns to that.
                let slashed = format!("/{}", record.name);
                patterns.iter().any(|p| p.is_match(record.name.as_str()) || p.is_match(&slashed))
            }
            Self::Labels(labels) => labels.iter().all(|label| label.matches(record.labels())),
            Self::NoLabels(labels) => !labels.iter().any(|label| label.matches(record.labels())),
            Self::Status(states) => states.iter().any(|state| has_state(&record.state, state)),
            Self::Exited(codes) => {
                record.state.exit_status().is_some_and(|status| codes.contains(&status.code))
            }
            Self::Ancestor(images) => images.iter().any(|image| descends_from(view, image)),
            Self::CreatedBefore(time) => record.created_at < *time,
            Self::CreatedAfter(time) => record.created_at > *time,
            Self::Volume(volumes) => record.spec.mounts.iter().any(|mount| {
                let named = match &mount.source {
                    MountSource::Volume { name, .. } => volumes.iter().any(|v| v == name.as_str()),
                    MountSource::Bind(path) => volumes.iter().any(|v| path.as_os_str() == v.as_str()),
                    MountSource::BindBeneath { .. }
                    | MountSource::AnonymousVolume
                    | MountSource::Tmpfs { .. } => false,
                };
                named || volumes.contains(&mount.destination)
            }),
            Self::Pod(pods) => record.pod().is_some_and(|pod| pods.contains(pod)),
            Self::Network(networks) => {
                view.networks().iter().any(|(name, _)| networks.iter().any(|n| n == name))
            }
            // The engine runs no health checks yet: every container is without a state of health.
            Self::Health(states) => states.iter().any(|state| state == "none"),
        }
    }
}

fn has_state(state: &ContainerState, wanted: &str) -> bool {
    match wanted {
        // podman's word for a container that was never prepared; docker's for both of these.
        "configured" => matches!(state, ContainerState::Configured),
        "created" => matches!(state, ContainerState::Configured | ContainerState::Created(_)),
        "stopped" => matches!(state, ContainerState::Exited(_)),
        other => state.as_str() == other,
    }
}

fn descends_from(view: &ContainerView, wanted: &str) -> bool {
    let id = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if id.len() >= 3 && view.image_id().starts_with(id) {
        return true;
    }
    let name = view.record.image_name.as_str();
    let untagged = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let short = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    [name, untagged].iter().any(|known| *known == wanted || short(known) == wanted)
}

pub fn regexes(name: &str, values: &[String]) -> Result<Vec<Regex>, ApiError> {
    let compile = |value: &String| {
        Regex::new(value).map_err(|e| ApiError::bad_parameter("filters", format!("{name} {value:?}: {e}")))
    };
    values.iter().map(compile).collect()
}

/// `until`: a time, or how long ago.
pub fn until(values: &[String], now: Timestamp) -> Result<Timestamp, ApiError> {
    let parse = |value: &String| {
        let ago = || parse_duration(value).and_then(|duration| now.checked_sub(duration).ok());
        let unix = || value.parse::<i64>().ok().and_then(|secs| Timestamp::from_second(secs).ok());
        value.parse::<Timestamp>().ok().or_else(unix).or_else(ago).ok_or_else(|| {
            ApiError::bad_parameter("filters", format!("until {value:?} is no time and no duration"))
        })
    };
    let times = values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(times.into_iter().min().unwrap_or(now))
}

/// One boolean, as `dangling` has.
pub fn flag(filters: &Filters, name: &str) -> Result<Option<bool>, ApiError> {
    filters.values(name).last().map(|value| parse_bool(name, value)).transpose()
}

pub fn unknown(name: &str) -> ApiError {
    ApiError::bad_parameter("filters", format!("{name:?} is an invalid filter"))
}

/// Pods that do not exist have no containers; that is no error.
fn pods(engine: &Engine, values: &[String]) -> Result<Vec<PodId>, ApiError> {
    let mut found = Vec::new();
    for value in values {
        match engine.pod(&NameOrId::from(value.as_str())) {
            Ok(pod) => found.push(pod.id.clone()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn network_names(engine: &Engine, values: &[String]) -> Vec<String> {
    let by_id = |value: &String| engine.network(&NameOrId::from(value.as_str())).ok();
    let name = |value: &String| by_id(value).map_or_else(|| value.clone(), |n| n.name.to_string());
    values.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_by_key_or_by_value() {
        let labels = BTreeMap::from([("app".to_owned(), "web=1".to_owned())]);
        for (filter, expected) in [("app", true), ("app=web=1", true), ("app=web", false), ("b", false)] {
            assert_eq!(LabelFilter::parse(filter).matches(&labels), expected, "{filter}");
        }
    }

    #[test]
    fn until_takes_times_and_durations() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(until(&["2h".into()], now).unwrap().to_string(), "2026-11-21T08:00:00Z");
        assert_eq!(until(&["1".into(), "2h".into()], now).unwrap().as_second(), 1);
        assert!(until(&["x".into()], now).is_err());
    }
}
