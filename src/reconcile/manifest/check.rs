//! Holds a document against the field table: unknown, wrongly typed, refused and inert fields.
//!
//! What passes has the types the table says, which is what conversion relies on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fields::{Class, Field, Kind, Shape};
use super::problem::Problems;
use super::quantity::Quantity;
use super::tree::{Entry, Node, Value};

/// Reports everything in `node` that `shape` does not allow or that has no effect.
pub fn check(node: &Node, shape: &Shape, problems: &mut Problems<'_>) {
    let Value::Map(entries) = &node.value else {
        problems.error(node, format!("expected a mapping ({}), found {}", shape.name, node.kind_name()));
        return;
    };
    for entry in entries {
        match shape.field(&entry.key) {
            Some(field) => check_field(node, entry, field, problems),
            None => {
                let hint = nearest(&entry.key, shape.fields.iter().map(|field| field.name));
                problems.error_at_key(node, entry, "unknown field", hint);
            }
        }
    }
}

fn check_field(parent: &Node, entry: &Entry, field: &Field, problems: &mut Problems<'_>) {
    let node = &entry.node;
    if node.value == Value::Null {
        return;
    }
    match field.class {
        Class::Honoured | Class::Emulated => check_kind(node, field.kind, problems),
        Class::Inert => {
            if !node.says_nothing() {
                problems.warning_at_key(parent, entry, reason("has no effect here", field.note));
            }
        }
        Class::Refused => {
            if !node.says_nothing() {
                problems.error_at_key(parent, entry, &reason("not supported", field.note), None);
            }
        }
        Class::Only(values) => {
            check_kind(node, field.kind, problems);
            let value = node.value.to_string();
            if !node.says_nothing() && !values.contains(&value.as_str()) {
                let what = format!("only {} is supported", values.join(" or "));
                problems.error(node, reason(&what, field.note));
            }
        }
    }
}

fn check_kind(node: &Node, kind: Kind, problems: &mut Problems<'_>) {
    match kind {
        Kind::Any => {}
        Kind::Text => expect(node, matches!(node.value, Value::Text(_)), "a string", problems),
        Kind::Boolean => expect(node, node.as_boolean().is_some(), "true or false", problems),
        Kind::Integer => expect(node, node.as_integer().is_some(), "an integer", problems),
        Kind::Mode => {
            let ok = node.as_integer().is_some_and(|mode| (0..=0o777).contains(&mode));
            expect(node, ok, "file permissions between 0 and 0777", problems);
        }
        Kind::Port => {
            let ok = matches!(node.value, Value::Text(_) | Value::Integer(_));
            expect(node, ok, "a port number or name", problems);
        }
        Kind::Quantity => {
            expect(node, Quantity::of(node).is_some(), "a quantity such as 100m or 64Mi", problems);
        }
        Kind::TextMap => each_value(node, Kind::Text, problems),
        Kind::QuantityMap => each_value(node, Kind::Quantity, problems),
        Kind::BytesMap => {
            each_value(node, Kind::Text, problems);
            for entry in node.entries() {
                if entry.node.as_text().is_some_and(|text| decode_base64(text).is_none()) {
                    problems.error(&entry.node, "not valid base64");
                }
            }
        }
        Kind::TextList => each_item(node, Kind::Text, problems),
        Kind::IntegerList => each_item(node, Kind::Integer, problems),
        Kind::Object(shape) => check(node, shape, problems),
        Kind::Objects(shape) => {
            expect(node, matches!(node.value, Value::List(_)), "a list", problems);
            for item in node.items() {
                check(item, shape, problems);
            }
        }
    }
}

fn each_value(node: &Node, kind: Kind, problems: &mut Problems<'_>) {
    expect(node, matches!(node.value, Value::Map(_)), "a mapping", problems);
    for entry in node.entries() {
        check_kind(&entry.node, kind, problems);
    }
}

fn each_item(node: &Node, kind: Kind, problems: &mut Problems<'_>) {
    expect(node, matches!(node.value, Value::List(_)), "a list", problems);
    for item in node.items() {
        check_kind(item, kind, problems);
    }
}

fn expect(node: &Node, ok: bool, what: &str, problems: &mut Problems<'_>) {
    if ok {
        return;
    }
    let quote = what == "a string" && !matches!(node.value, Value::List(_) | Value::Map(_) | Value::Null);
    let advice = if quote { ": put it in quotes" } else { "" };
    problems.error(node, format!("expected {what}, found {}{advice}", found(node)));
}

fn found(node: &Node) -> String {
    match &node.value {
        Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => {
            format!("{} {}", node.kind_name(), node.value)
        }
        Value::Text(text) if text.len() <= 40 => format!("{text:?}"),
        _ => node.kind_name().to_owned(),
    }
}

fn reason(what: &str, note: &str) -> String {
    if note.is_empty() { what.to_owned() } else { format!("{what}: {note}") }
}

/// Base64 as Kubernetes reads it: line breaks do not matter.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD.decode(text).ok()
}

/// The name most like `typo`, if it is like it at all.
pub fn nearest<'n>(typo: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let typo = typo.to_lowercase();
    names
        .map(|name| (strsim::damerau_levenshtein(&typo, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}
