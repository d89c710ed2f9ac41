//! Events: stored and new ones, one JSON line each. Docker's dialect knows some by other names.

use std::collections::BTreeMap;

use axum::extract::State;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream as futures_stream};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::api::error::{ApiError, Dialect};
use crate::api::rest::Context;
use crate::api::rest::extract::{Filters, Query};
use crate::api::rest::filter::{LabelFilter, unknown};
use crate::api::rest::{Outcome, json, reply, stream, time};
use crate::engine::event::{Event, EventAction, EventKind};

/// More events than can happen between listening and reading the journal.
const LIVE_OVERLAP: usize = 256;

#[derive(Serialize)]
struct EventLine<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from: &'a str,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<&'a str, &'a str>,
}

pub async fn events(State(context): State<Context>, dialect: Dialect, query: Query) -> Outcome {
    // First listen, then read what was: nothing falls in between. What is in both is told once.
    let live = context.engine.subscribe();
    let now = Timestamp::now();
    let since = time::moment(&query, "since", now)?;
    let until = time::moment(&query, "until", now)?;
    let follow = query.optional_flag("stream")?.unwrap_or(true);
    let filter = EventFilter::parse(&query.filters()?)?;

    let past = match (since, follow) {
        (Some(since), _) => context.engine.past_events(since, until.unwrap_or(now))?,
        (None, false) => context.engine.past_events(Timestamp::MIN, until.unwrap_or(now))?,
        (None, true) => Vec::new(),
    };
    let over = until.is_some_and(|until| until <= now);
    let events = match follow && !over {
        true => {
            let told = past.iter().rev().take(LIVE_OVERLAP).cloned().collect();
            futures_stream::iter(past).chain(live_events(live, told, until)).boxed()
        }
        false => futures_stream::iter(past).boxed(),
    };
    let lines = events.filter_map(move |event| {
        let line = filter.matches(&event).then(|| render(&event, dialect));
        async move { line }
    });
    Ok(stream::reply(reply::JSON, lines, &context.closing))
}

/// New events that are not among the last of the stored ones, until `until` has passed.
fn live_events(
    receiver: broadcast::Receiver<Event>,
    told: Vec<Event>,
    until: Option<Timestamp>,
) -> impl Stream<Item = Event> {
    let events = futures_stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((event, receiver)),
                Err(RecvError::Lagged(count)) => {
                    tracing::warn!(count, "a client read events too slowly and lost some");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let deadline = async move {
        match until {
            Some(until) => {
                let left = until.duration_since(Timestamp::now());
                tokio::time::sleep(left.try_into().unwrap_or_default()).await;
            }
            None => std::future::pending().await,
        }
    };
    events.filter(move |event| std::future::ready(!told.contains(event))).take_until(deadline)
}

fn render(event: &Event, dialect: Dialect) -> Bytes {
    let action = action_name(event, dialect);
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let exit_code = match attribute("containerExitCode") {
        "" => "0",
        code => code,
    };
    let mut attributes: BTreeMap<&str, &str> =
        event.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // These four are always there in podman, whatever the event is about.
    attributes.insert("image", attribute("image"));
    attributes.insert("name", &event.name);
    attributes.insert("containerExitCode", exit_code);
    attributes.insert("podId", attribute("podId"));
    if dialect == Dialect::Compat && event.action == EventAction::Died {
        attributes.insert("exitCode", exit_code);
    }
    let time_nano = i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX);
    json::encode(&EventLine {
        status: action,
        id: &event.id,
        from: attribute("image"),
        kind: kind_name(event.kind),
        action,
        actor: Actor { id: &event.id, attributes },
        scope: "local",
        time: event.time.as_second(),
        time_nano,
    })
    .into()
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Container => "container",
        EventKind::Pod => "pod",
        EventKind::Image => "image",
        EventKind::Network => "network",
        EventKind::Volume => "volume",
        EventKind::System => "system",
    }
}

fn action_name(event: &Event, dialect: Dialect) -> &'static str {
    match (event.action, event.kind, dialect) {
        (EventAction::Died, _, Dialect::Compat) => "die",
        (EventAction::Remove, EventKind::Image, Dialect::Compat) => "delete",
        // Docker removes containers and volumes with `destroy`; podman's compat API does not say so,
        // and its clients know.
        (action, _, _) => libpod_action(action),
    }
}

fn libpod_action(action: EventAction) -> &'static str {
    match action {
        EventAction::Attach => "attach",
        EventAction::Connect => "connect",
        EventAction::Create => "create",
        EventAction::Died => "died",
        EventAction::Disconnect => "disconnect",
        EventAction::Exec => "exec",
        EventAction::ExecDied => "exec_died",
        EventAction::HealthStatus => "health_status",
        EventAction::Init => "init",
        EventAction::Kill => "kill",
        EventAction::LoadFromArchive => "loadfromarchive",
        EventAction::Pause => "pause",
        EventAction::Prune => "prune",
        EventAction::Pull => "pull",
        EventAction::Refresh => "refresh",
        EventAction::Remove => "remove",
        EventAction::Rename => "rename",
        EventAction::Restart => "restart",
        EventAction::Start => "start",
        EventAction::Stop => "stop",
        EventAction::Tag => "tag",
        EventAction::Unpause => "unpause",
        EventAction::Untag => "untag",
    }
}

/// `filters` of events: different names must all match, values of one are alternatives.
struct EventFilter(Vec<Condition>);

enum Condition {
    Kind(Vec<String>),
    Action(Vec<String>),
    /// Of one kind, by name or beginning of the id.
    Object(EventKind, Vec<String>),
    Pod(Vec<String>),
    Image(Vec<String>),
    Labels(Vec<LabelFilter>),
}

impl EventFilter {
    fn parse(filters: &Filters) -> Result<Self, ApiError> {
        let mut conditions = Vec::new();
        for (name, values) in filters.iter() {
            if values.is_empty() {
                continue;
            }
            let values = values.to_vec();
            conditions.push(match name {
                "type" => Condition::Kind(values),
                "event" => Condition::Action(values),
                "container" => Condition::Object(EventKind::Container, values),
                "pod" => Condition::Pod(values),
                "volume" => Condition::Object(EventKind::Volume, values),
                "network" => Condition::Object(EventKind::Network, values),
                "image" => Condition::Image(values),
                "label" => Condition::Labels(LabelFilter::parse_all(&values)),
                // One engine, one node, no daemon events: docker's clients name these and lose nothing.
                "scope" | "daemon" => continue,
                other => return Err(unknown(other)),
            });
        }
        Ok(Self(conditions))
    }

    fn matches(&self, event: &Event) -> bool {
        self.0.iter().all(|condition| condition.matches(event))
    }
}

impl Condition {
    fn matches(&self, event: &Event) -> bool {
        let is_object = |values: &[String]| {
            values.iter().any(|v| *v == event.name || (!v.is_empty() && event.id.starts_with(v.as_str())))
        };
        let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
        match self {
            Self::Kind(kinds) => kinds.iter().any(|kind| kind == kind_name(event.kind)),
            Self::Action(actions) => actions.iter().any(|wanted| {
                [Dialect::Libpod, Dialect::Compat].iter().any(|d| action_name(event, *d) == wanted)
            }),
            Self::Object(kind, values) => event.kind == *kind && is_object(values),
            Self::Pod(values) => {
                (event.kind == EventKind::Pod && is_object(values))
                    || values.iter().any(|v| !v.is_empty() && attribute("podId").starts_with(v.as_str()))
            }
            Self::Image(values) => {
                (event.kind == EventKind::Image && is_object(values))
                    || values.iter().any(|v| attribute("image").contains(v.as_str()))
            }
            Self::Labels(labels) => labels.iter().all(|label| label.matches(&event.attributes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died() -> Event {
        Event {
            time: "2026-11-21T10:19:02.909107808Z".parse().unwrap(),
            kind: EventKind::Container,
            action: EventAction::Died,
            id: "8f714da30aea".into(),
            name: "done".into(),
            attributes: BTreeMap::from([
                ("containerExitCode".into(), "3".into()),
                ("image".into(), "localhost/bb:1".into()),
                ("app".into(), "web".into()),
            ]),
        }
    }

    #[test]
    fn lines_have_dockers_and_podmans_members() {
        let line = |dialect| String::from_utf8(render(&died(), dialect).to_vec()).unwrap();
        assert_eq!(
            line(Dialect::Libpod),
            "{\"status\":\"died\",\"id\":\"8f714da30aea\",\"from\":\"localhost/bb:1\",\"Type\":\"container\",\
             \"Action\":\"died\",\"Actor\":{\"ID\":\"8f714da30aea\",\"Attributes\":{\"app\":\"web\",\
             \"containerExitCode\":\"3\",\"image\":\"localhost/bb:1\",\"name\":\"done\",\"podId\":\"\"}},\
             \"scope\":\"local\",\"time\":1795256342,\"timeNano\":1795256342909107808}\n"
        );
        assert!(line(Dialect::Compat).contains("\"status\":\"die\""));
        assert!(line(Dialect::Compat).contains("\"exitCode\":\"3\""));
    }

    #[test]
    fn filters_combine() {
        let matches = |text: &str| {
            let query = format!("filters={text}");
            let query = crate::api::rest::extract::Query::parse(Some(&query)).unwrap();
            EventFilter::parse(&query.filters().unwrap()).unwrap().matches(&died())
        };
        // What podman --remote asks when a container it waits for is gone.
        assert!(matches(r#"{"type":["container"],"container":["8f714da30aea"],"event":["died"]}"#));
        assert!(matches(r#"{"event":["die","start"]}"#));
        assert!(matches(r#"{"label":["app=web"],"image":["bb"]}"#));
        assert!(!matches(r#"{"container":["other"]}"#));
        assert!(!matches(r#"{"type":["image"]}"#));
    }
}
