//! Environment variables: references, the downward API, `$(VAR)`.

use std::collections::{BTreeMap, BTreeSet};

use super::container::Requirements;
use super::{Data, Problems, Scope, exactly_one, required_text};
use crate::reconcile::desired::LateValue;
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::quantity::Quantity;
use crate::reconcile::manifest::tree::Node;

/// What the downward API can tell about a pod.
pub struct PodFacts<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub annotations: &'a BTreeMap<String, String>,
    /// By container name.
    pub requirements: BTreeMap<&'a str, Requirements>,
}

#[derive(Debug, Default)]
pub struct Environment {
    pub values: BTreeMap<String, String>,
    /// Names of those that hold something out of a Secret.
    pub secret: BTreeSet<String>,
}

/// The variables of `container`: `envFrom` first, `env` over it, in order.
pub fn environment(
    container: &Node,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Environment {
    let mut env = Environment::default();
    for source in container.list("envFrom") {
        env.import(source, scope, problems);
    }
    for variable in container.list("env") {
        let Some(name) = required_text(variable, "name", problems) else { continue };
        if !names::is_variable_name(name) {
            problems.error_in(variable, "name", "is not a valid variable name");
        }
        match (variable.get("valueFrom"), variable.text("value")) {
            (Some(source), None) => env.refer(name, source, container, facts, scope, problems),
            (Some(_), Some(_)) => problems.error(variable, "value and valueFrom exclude each other"),
            (None, value) => env.set_expanded(name, value.unwrap_or_default(), problems, variable),
        }
    }
    env
}

impl Environment {
    fn import(&mut self, source: &Node, scope: &Scope<'_>, problems: &mut Problems<'_>) {
        let Some(kind) = exactly_one(source, &["configMapRef", "secretRef"], problems) else { return };
        let Some(reference) = source.get(kind) else { return };
        let secret = kind == "secretRef";
        let data = if secret {
            scope.secret(reference, "name", problems)
        } else {
            scope.config_map(reference, "name", problems)
        };
        let prefix = source.text("prefix").unwrap_or_default();
        for (key, value) in data.into_iter().flat_map(|data| &data.entries) {
            match text_value(value) {
                Some(text) => self.set(format!("{prefix}{key}"), text, secret),
                None => problems.warning(reference, format!("key {key:?} is not text and is left out")),
            }
        }
    }

    fn refer(
        &mut self,
        name: &str,
        source: &Node,
        container: &Node,
        facts: &PodFacts<'_>,
        scope: &Scope<'_>,
        problems: &mut Problems<'_>,
    ) {
        let kinds = ["configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"];
        let Some(kind) = exactly_one(source, &kinds, problems) else { return };
        let Some(reference) = source.get(kind) else { return };
        match kind {
            "configMapKeyRef" => {
                let data = scope.config_map(reference, "name", problems);
                if let Some(text) = key_of(data, reference, problems) {
                    self.set(name.to_owned(), text, false);
                }
            }
            "secretKeyRef" => {
                let data = scope.secret(reference, "name", problems);
                if let Some(text) = key_of(data, reference, problems) {
                    self.set(name.to_owned(), text, true);
                }
            }
            "fieldRef" => {
                if let Some(text) = field_value(reference, facts, scope, problems) {
                    self.set(name.to_owned(), text, false);
                }
            }
            _ => {
                let own = container.text("name").unwrap_or_default();
                if let Some(text) = resource_value(reference, own, facts, scope, problems) {
                    self.set(name.to_owned(), text, false);
                }
            }
        }
    }

    fn set(&mut self, name: String, value: String, secret: bool) {
        if secret {
            self.secret.insert(name.clone());
        } else {
            self.secret.remove(&name);
        }
        self.values.insert(name, value);
    }

    fn set_expanded(&mut self, name: &str, value: &str, problems: &mut Problems<'_>, at: &Node) {
        if value.contains('\0') {
            problems.error_in(at, "value", "a variable can not hold a NUL");
            return;
        }
        let (value, used) = expand(value, &self.values);
        let secret = used.iter().any(|name| self.secret.contains(name));
        self.set(name.to_owned(), value, secret);
    }
}

/// Replaces `$(NAME)` by the variable; `$$` stands for one `$`; an unknown name stays as written.
/// Also returns the names that were used.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let mut expanded = String::with_capacity(text.len());
    let mut used = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => {
                    expanded.push_str(value);
                    used.push(name.to_owned());
                }
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    (expanded, used)
}

/// Writes `text` so that [`expand`] gives it back.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        escaped.push(c);
        if c == '$' && matches!(chars.peek(), Some('(' | '$')) {
            escaped.push('$');
        }
    }
    escaped
}

/// The value of a `fieldRef`, perhaps a placeholder.
pub fn field_value(
    reference: &Node,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let path = required_text(reference, "fieldPath", problems)?;
    let of_map = |map: &BTreeMap<String, String>, key: &str| Some(map.get(key).cloned().unwrap_or_default());
    if let Some(key) = subscript(path, "metadata.labels") {
        return of_map(facts.labels, key);
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return of_map(facts.annotations, key);
    }
    let value = match path {
        "metadata.name" => facts.name.to_owned(),
        "metadata.namespace" => facts.namespace.to_owned(),
        "metadata.uid" => LateValue::PodUid.placeholder().to_owned(),
        "spec.nodeName" => scope.context.node_name.clone(),
        "spec.serviceAccountName" => "default".to_owned(),
        "status.podIP" => LateValue::PodIp.placeholder().to_owned(),
        "status.podIPs" => LateValue::PodIps.placeholder().to_owned(),
        "status.hostIP" | "status.hostIPs" => LateValue::HostIp.placeholder().to_owned(),
        _ => {
            problems.error_in(
                reference,
                "fieldPath",
                format!("{path:?} is not a field that can be asked for"),
            );
            return None;
        }
    };
    Some(value)
}

/// The value of a `resourceFieldRef`.
pub fn resource_value(
    reference: &Node,
    own_container: &str,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let resource = required_text(reference, "resource", problems)?;
    let container = reference.text("containerName").unwrap_or(own_container);
    let Some(requirements) = facts.requirements.get(container) else {
        problems.error_in(reference, "containerName", format!("no container {container:?} in this pod"));
        return None;
    };
    let capacity = |cpu: bool| {
        let units = if cpu { u64::from(scope.context.cpus) } else { scope.context.memory_bytes };
        Quantity::from_units(i128::from(units))
    };
    let (amount, cpu) = match resource {
        "limits.cpu" => (requirements.cpu_limit.unwrap_or_else(|| capacity(true)), true),
        "limits.memory" => (requirements.memory_limit.unwrap_or_else(|| capacity(false)), false),
        "requests.cpu" => (requirements.cpu_request.unwrap_or(Quantity::from_units(0)), true),
        "requests.memory" => (requirements.memory_request.unwrap_or(Quantity::from_units(0)), false),
        _ => {
            problems.error_in(reference, "resource", "is not one of limits and requests of cpu and memory");
            return None;
        }
    };
    let divisor = reference.get("divisor").and_then(Quantity::of).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    if divisor.is_negative() || (!cpu && divisor < Quantity::from_units(1)) {
        problems.error_in(reference, "divisor", "is too small");
    }
    Some(amount.divided_by(divisor).to_string())
}

/// `key` out of `map['key']`.
fn subscript<'p>(path: &'p str, map: &str) -> Option<&'p str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

fn key_of(data: Option<&Data>, reference: &Node, problems: &mut Problems<'_>) -> Option<String> {
    let key = required_text(reference, "key", problems)?;
    let data = data?;
    match data.entries.get(key) {
        Some(value) => {
            let text = text_value(value);
            if text.is_none() {
                problems.error_in(
                    reference,
                    "key",
                    format!("key {key:?} is not text: a variable can not hold it"),
                );
            }
            text
        }
        None => {
            if reference.boolean("optional") != Some(true) {
                problems.error_in(reference, "key", format!("no key {key:?} in it"));
            }
            None
        }
    }
}

/// A NUL would end the variable early.
fn text_value(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_kubernetes() {
        let variables = BTreeMap::from([("A".into(), "1".into()), ("B".into(), "$(A)".into())]);
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(B)", "$(A)"),
            ("$(NO)", "$(NO)"),
            ("$(A", "$(A"),
            ("$A ${A}", "$A ${A}"),
            ("cost: 5$", "cost: 5$"),
            ("$()", "$()"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, &variables).0, want, "{text}");
        }
    }

    #[test]
    fn what_is_escaped_expands_to_itself() {
        let variables = BTreeMap::from([("A".into(), "1".into())]);
        for text in ["$(A)", "$$(A)", "$", "$$", "$$$", "$a$$b", "$$(", "plain", "$(A)$"] {
            assert_eq!(expand(&escape(text), &variables).0, text, "{text}");
        }
        assert_eq!(escape("$HOME"), "$HOME");
    }
}
