//! Probes and lifecycle hooks.

use std::collections::BTreeMap;

use super::{Problems, exactly_one, one_of, port_number, required_text, seconds, text_list};
use crate::reconcile::desired::{HookAction, HttpAction, Probe, ProbeAction};
use crate::reconcile::manifest::tree::{Node, Value};

/// Ports of one container by name.
pub type NamedPorts = BTreeMap<String, u16>;

/// Which probe it is: only readiness may want several successes and has nothing to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }
}

pub fn probe(
    container: &Node,
    kind: ProbeKind,
    ports: &NamedPorts,
    problems: &mut Problems<'_>,
) -> Option<Probe> {
    let node = container.get(kind.field())?;
    let success_threshold = seconds(node, "successThreshold", 1, problems).unwrap_or(1);
    if kind != ProbeKind::Readiness && success_threshold != 1 {
        problems.error_in(node, "successThreshold", "must be 1 for this probe");
    }
    if kind == ProbeKind::Readiness && node.get("terminationGracePeriodSeconds").is_some() {
        problems.error_in(
            node,
            "terminationGracePeriodSeconds",
            "must not be set: a readiness probe stops nothing",
        );
    }
    let action = match exactly_one(node, &["exec", "httpGet", "tcpSocket", "grpc"], problems)? {
        "exec" => ProbeAction::Exec { command: command(node.get("exec")?, problems) },
        "httpGet" => ProbeAction::Http(http(node.get("httpGet")?, ports, problems)?),
        "tcpSocket" => {
            let socket = node.get("tcpSocket")?;
            let host = socket.text("host").map(str::to_owned);
            ProbeAction::Tcp { host, port: port(socket, ports, problems)? }
        }
        _ => {
            let grpc = node.get("grpc")?;
            if grpc.get("port").is_none() {
                problems.error_in(grpc, "port", "is required");
            }
            ProbeAction::Grpc {
                port: port_number(grpc, "port", problems)?,
                service: grpc.text("service").unwrap_or_default().to_owned(),
            }
        }
    };
    Some(Probe {
        action,
        initial_delay_secs: seconds(node, "initialDelaySeconds", 0, problems).unwrap_or(0),
        period_secs: given(seconds(node, "periodSeconds", 0, problems), 10),
        timeout_secs: given(seconds(node, "timeoutSeconds", 0, problems), 1),
        success_threshold,
        failure_threshold: given(seconds(node, "failureThreshold", 0, problems), 3),
        termination_grace_period_secs: seconds(node, "terminationGracePeriodSeconds", 1, problems),
    })
}

pub fn hook(
    lifecycle: &Node,
    field: &str,
    ports: &NamedPorts,
    problems: &mut Problems<'_>,
) -> Option<HookAction> {
    let node = lifecycle.get(field)?;
    match exactly_one(node, &["exec", "httpGet", "sleep"], problems)? {
        "exec" => Some(HookAction::Exec { command: command(node.get("exec")?, problems) }),
        "httpGet" => Some(HookAction::Http(http(node.get("httpGet")?, ports, problems)?)),
        _ => {
            let sleep = node.get("sleep")?;
            if sleep.get("seconds").is_none() {
                problems.error_in(sleep, "seconds", "is required");
            }
            Some(HookAction::Sleep { seconds: seconds(sleep, "seconds", 0, problems)? })
        }
    }
}

/// The API server takes 0 for "not given".
fn given(value: Option<u32>, default: u32) -> u32 {
    value.filter(|value| *value != 0).unwrap_or(default)
}

fn command(exec: &Node, problems: &mut Problems<'_>) -> Vec<String> {
    let command = text_list(exec, "command");
    if command.is_empty() {
        problems.error_in(exec, "command", "is required");
    }
    command
}

fn http(node: &Node, ports: &NamedPorts, problems: &mut Problems<'_>) -> Option<HttpAction> {
    let https = one_of(node, "scheme", &[("HTTP", false), ("HTTPS", true)], problems);
    let mut headers = Vec::new();
    for header in node.list("httpHeaders") {
        let Some(name) = required_text(header, "name", problems) else { continue };
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if !name.bytes().all(token) {
            problems.error_in(header, "name", "is not a valid header name");
        }
        let value = header.text("value").unwrap_or_default();
        if value.contains(['\r', '\n', '\0']) {
            problems.error_in(header, "value", "a header can not hold a line break");
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let path = node.text("path").unwrap_or("/");
    if path.contains([' ', '\r', '\n', '\0']) {
        problems.error_in(node, "path", "can not hold a space or a line break");
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(HttpAction {
        host: node.text("host").map(str::to_owned),
        port: port(node, ports, problems)?,
        path,
        https,
        headers,
    })
}

/// A number, or the name of a port of the same container.
fn port(node: &Node, ports: &NamedPorts, problems: &mut Problems<'_>) -> Option<u16> {
    match node.get("port").map(|port| &port.value) {
        Some(Value::Text(name)) => {
            let number = ports.get(name).copied();
            if number.is_none() {
                problems.error_in(node, "port", format!("no port {name:?} in this container"));
            }
            number
        }
        Some(_) => port_number(node, "port", problems),
        None => {
            problems.error_in(node, "port", "is required");
            None
        }
    }
}
