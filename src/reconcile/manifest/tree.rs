//! YAML text as trees whose every node knows its line and column.
//!
//! Plain scalars mean what `kubectl` takes them for (YAML 1.1 as go-yaml reads it): `yes` is a boolean,
//! `0644` is octal. Duplicate keys are errors, `<<` merges, aliases are copied within a budget, nesting
//! has a limit: a hostile file costs no more than its size.

use std::collections::{HashMap, HashSet};
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Deeper than any Kubernetes object, far less deep than the stack.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases and merges may copy within one file.
const MAX_COPIED_NODES: usize = 50_000;

/// A place in a file. Both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Mark,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    /// As written: nothing in Kubernetes computes with it except quantities, which want the text.
    Float(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_at: Mark,
    pub node: Node,
}

/// Why a text is not a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub at: Mark,
    pub message: String,
}

/// The documents of a file, empty ones left out.
pub fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        builder.take(event, mark(&span))?;
    }
    Ok(builder.documents)
}

impl Node {
    /// The value under `key`, unless it is null: in Kubernetes null means "not given".
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node).filter(|node| node.value != Value::Null)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    pub fn as_boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(flag) => Some(flag),
            _ => None,
        }
    }

    /// Text under `key`. Empty text means "not given", as for Kubernetes' `omitempty`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::as_text).filter(|text| !text.is_empty())
    }

    pub fn integer(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Node::as_integer)
    }

    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Node::as_boolean)
    }

    pub fn list(&self, key: &str) -> &[Node] {
        self.get(key).map_or(&[], Node::items)
    }

    pub fn map(&self, key: &str) -> &[Entry] {
        self.get(key).map_or(&[], Node::entries)
    }

    /// Null, `[]`, `{}` and `""` say nothing.
    pub fn says_nothing(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => false,
        }
    }

    /// What kind of value it is, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Boolean(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The field path that leads from here to `target`, by identity: `spec.containers[0].image`.
    /// Searched for, because errors are rare and trees are small.
    pub fn path_to(&self, target: &Node) -> Option<String> {
        let mut path = String::new();
        self.find(target, &mut path).then_some(path)
    }

    fn find(&self, target: &Node, path: &mut String) -> bool {
        if std::ptr::eq(self, target) {
            return true;
        }
        let len = path.len();
        match &self.value {
            Value::Map(entries) => entries.iter().any(|entry| {
                push_key(path, &entry.key);
                entry.node.find(target, path) || {
                    path.truncate(len);
                    false
                }
            }),
            Value::List(items) => items.iter().enumerate().any(|(index, item)| {
                path.push_str(&format!("[{index}]"));
                item.find(target, path) || {
                    path.truncate(len);
                    false
                }
            }),
            _ => false,
        }
    }

    fn count(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|entry| entry.node.count()).sum::<usize>(),
            _ => 1,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Boolean(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(text) | Self::Text(text) => f.write_str(text),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Appends a key to a field path: `.image`, or `["app.kubernetes.io/name"]` when it is no plain word.
pub fn push_key(path: &mut String, key: &str) {
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/')) {
        path.push_str(&format!("[{key:?}]"));
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Puts the parser's events together.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// Finished nodes that have an anchor. Aliases to an unfinished one are cycles.
    anchors: HashMap<usize, Node>,
    copied: usize,
}

/// A collection whose end has not come yet.
struct Open {
    at: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: HashSet<String>,
        /// The key whose value comes next.
        key: Option<(String, Mark)>,
        /// Values of `<<`.
        merges: Vec<Node>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Mark) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().map(|tag| tag.to_string());
                if tag.is_none() && self.is_merge_key(&text, style) {
                    return self.take_key("<<".into(), at, true);
                }
                let value = scalar(&text, style, tag.as_deref(), at)?;
                if self.wants_key() {
                    return self.take_key(key_text(&text, &value, at)?, at, false);
                }
                self.finish(Node { at, value }, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(syntax(at, "this alias refers to something that contains it"));
                };
                self.copied += node.count();
                if self.copied > MAX_COPIED_NODES {
                    return Err(syntax(at, "its aliases expand to too much"));
                }
                let node = node.clone();
                if self.wants_key() {
                    let key = key_text(&node.value.to_string(), &node.value, at)?;
                    return self.take_key(key, at, false);
                }
                self.finish(node, 0)
            }
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                let content =
                    Content::Map { entries: Vec::new(), keys: HashSet::new(), key: None, merges: Vec::new() };
                self.begin(at, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Err(syntax(at, "a collection ends that has not begun"));
                };
                let value = match open.content {
                    Content::List(items) => Value::List(items),
                    Content::Map { entries, keys, merges, .. } => {
                        Value::Map(self.merged(entries, keys, &merges)?)
                    }
                };
                self.finish(Node { at: open.at, value }, open.anchor)
            }
        }
    }

    fn begin(&mut self, at: Mark, anchor: usize, content: Content) -> Result<(), SyntaxError> {
        if self.wants_key() {
            return Err(syntax(at, "a key must be a string"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(syntax(at, &format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(Open { at, anchor, content });
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn is_merge_key(&self, text: &str, style: ScalarStyle) -> bool {
        text == "<<" && style == ScalarStyle::Plain && self.wants_key()
    }

    fn take_key(&mut self, text: String, at: Mark, merge: bool) -> Result<(), SyntaxError> {
        let Some(Open { content: Content::Map { keys, key, entries, .. }, .. }) = self.open.last_mut() else {
            return Err(syntax(at, "a key outside of a mapping"));
        };
        if !merge && !keys.insert(text.clone()) {
            let first = entries.iter().find(|entry| entry.key == text).map_or(0, |entry| entry.key_at.line);
            return Err(syntax(at, &format!("duplicate key {text:?}, first on line {first}")));
        }
        *key = Some((text, at));
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.copied += node.count();
            if self.copied > MAX_COPIED_NODES {
                return Err(syntax(node.at, "its anchors hold too much"));
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Open { content: Content::List(items), .. }) => items.push(node),
            Some(Open { content: Content::Map { key, merges, entries, keys }, .. }) => match key.take() {
                Some((text, _)) if text == "<<" && !keys.contains("<<") => merges.push(node),
                Some((text, key_at)) => entries.push(Entry { key: text, key_at, node }),
                None => return Err(syntax(node.at, "a key must be a string")),
            },
        }
        Ok(())
    }

    /// What is written wins over what is merged, and of the merged the earlier.
    fn merged(
        &mut self,
        mut entries: Vec<Entry>,
        mut keys: HashSet<String>,
        merges: &[Node],
    ) -> Result<Vec<Entry>, SyntaxError> {
        for merge in merges {
            let sources = match &merge.value {
                Value::Map(_) => std::slice::from_ref(merge),
                Value::List(items) => items,
                _ => return Err(syntax(merge.at, "<< wants a mapping or a list of mappings")),
            };
            for source in sources {
                let Value::Map(merged) = &source.value else {
                    return Err(syntax(source.at, "<< wants a mapping or a list of mappings"));
                };
                for entry in merged {
                    if keys.insert(entry.key.clone()) {
                        entries.push(entry.clone());
                    }
                }
            }
        }
        Ok(entries)
    }
}

/// The value of a scalar by its style, its tag and, if plain, its text.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>, at: Mark) -> Result<Value, SyntaxError> {
    let core = tag.map(|tag| tag.rsplit(['!', ':']).next().unwrap_or(tag));
    match core {
        Some("str" | "binary" | "timestamp") => Ok(Value::Text(text.to_owned())),
        Some("int" | "bool" | "float" | "null") => Ok(plain(text)),
        Some("") | None if style == ScalarStyle::Plain && tag.is_none() => Ok(plain(text)),
        Some("") | None => Ok(Value::Text(text.to_owned())),
        Some(_) => Err(syntax(at, &format!("tag {:?} is not supported", tag.unwrap_or_default()))),
    }
}

/// Keys are strings. Numbers are taken as written, as kubectl does for ConfigMaps; the words that YAML
/// 1.1 takes for booleans would become `true` on a cluster, so they must be quoted.
fn key_text(text: &str, value: &Value, at: Mark) -> Result<String, SyntaxError> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) => Ok(text.to_owned()),
        Value::Boolean(_) | Value::Null => Err(syntax(at, &format!("key {text:?} must be quoted"))),
        Value::List(_) | Value::Map(_) => Err(syntax(at, "a key must be a string")),
    }
}

/// A plain scalar as go-yaml resolves it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Boolean(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Boolean(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(text.to_owned());
    }
    if let Some(number) = integer(text) {
        return Value::Integer(number);
    }
    if is_float(text) {
        return Value::Float(text.to_owned());
    }
    Value::Text(text.to_owned())
}

/// Whether a plain scalar of this text is a string.
pub fn is_plain_text(text: &str) -> bool {
    matches!(plain(text), Value::Text(_))
}

fn integer(text: &str) -> Option<i64> {
    let digits = text.replace('_', "");
    let (negative, digits) = match digits.as_bytes().first()? {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -number } else { number }).ok()
}

fn is_float(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(body, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.contains(|c: char| c.is_ascii_digit())
        && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && body.parse::<f64>().is_ok()
}

fn syntax(at: Mark, message: &str) -> SyntaxError {
    SyntaxError { at, message: message.to_owned() }
}

fn scan_error(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    SyntaxError {
        at: Mark { line: marker.line().max(1), column: marker.col() + 1 },
        // The parser has a limit of its own for `[[[[`.
        message: match error.info() {
            "recursion limit exceeded" => format!("nested more than {MAX_DEPTH} levels deep"),
            info => format!("not valid YAML: {info}"),
        },
    }
}

fn mark(span: &Span) -> Mark {
    Mark { line: span.start.line().max(1), column: span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        let mut documents = parse(text).unwrap();
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    fn error(text: &str) -> String {
        let error = parse(text).unwrap_err();
        format!("{}:{}: {}", error.at.line, error.at.column, error.message)
    }

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_for() {
        for (text, want) in [
            ("yes", Value::Boolean(true)),
            ("off", Value::Boolean(false)),
            ("0644", Value::Integer(0o644)),
            ("0o644", Value::Integer(0o644)),
            ("0x1F", Value::Integer(31)),
            ("0b11", Value::Integer(3)),
            ("-7", Value::Integer(-7)),
            ("1_000", Value::Integer(1000)),
            ("~", Value::Null),
            ("1.5", Value::Float("1.5".into())),
            ("1e3", Value::Float("1e3".into())),
            ("1.2.3", Value::Text("1.2.3".into())),
            ("100m", Value::Text("100m".into())),
            ("1Gi", Value::Text("1Gi".into())),
            ("-x", Value::Text("-x".into())),
            ("'0644'", Value::Text("0644".into())),
            ("!!str 12", Value::Text("12".into())),
            ("0x-1", Value::Text("0x-1".into())),
            ("99999999999999999999", Value::Float("99999999999999999999".into())),
        ] {
            let node = one(&format!("a: {text}"));
            assert_eq!(node.entries()[0].node.value, want, "{text}");
        }
    }

    #[test]
    fn lines_count_over_documents_and_empty_documents_are_left_out() {
        let documents = parse("---\n# nothing\n---\na: 1\n---\n---\nb:\n  c: 2\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].at, Mark { line: 4, column: 1 });
        let c = documents[1].get("b").unwrap();
        assert_eq!(c.at, Mark { line: 8, column: 3 });
        assert_eq!(c.entries()[0].node.at, Mark { line: 8, column: 6 });
    }

    #[test]
    fn paths_are_found_by_identity() {
        let root = one("spec: {list: [{a: 1}, {a: 1}], 'x.y/z': 3}");
        let spec = root.get("spec").unwrap();
        let target = spec.list("list")[1].get("a").unwrap();
        assert_eq!(root.path_to(target).unwrap(), "spec.list[1].a");
        assert_eq!(root.path_to(spec.get("x.y/z").unwrap()).unwrap(), "spec[\"x.y/z\"]");
    }

    #[test]
    fn merge_keys_add_what_is_not_written() {
        let root = one("base: &b {a: 1, c: 2}\nthing:\n  <<: *b\n  a: 9\nmany:\n  <<: [*b, {d: 4}]\n");
        let thing = root.get("thing").unwrap();
        assert_eq!((thing.integer("a"), thing.integer("c")), (Some(9), Some(2)));
        assert_eq!(root.get("many").unwrap().integer("d"), Some(4));
    }

    #[test]
    fn broken_text_is_an_error_with_its_place() {
        assert_eq!(error("a: 1\nb: 2\na: 3\n"), "3:1: duplicate key \"a\", first on line 1");
        assert_eq!(error("on: 1\n"), "1:1: key \"on\" must be quoted");
        assert_eq!(error("a: !secret x\n"), "1:4: tag \"!secret\" is not supported");
        assert!(error("a: [1, 2\nb: 3\n").contains("not valid YAML"));
        assert!(error("a: &x [*x]\n").contains("contains it"), "{}", error("a: &x [*x]\n"));
        assert!(error("a: *nothing\n").contains("not valid YAML"));
        assert!(error("a: {<<: 3}\n").contains("<< wants"));
        assert!(error("? [a, b]\n: 1\n").contains("key must be a string"));
    }

    #[test]
    fn hostile_files_are_refused_quickly() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let previous = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        let started = std::time::Instant::now();
        let message = error(&bomb);
        assert!(message.contains("too much"), "{message}");
        assert!(error(&"[".repeat(100_000)).contains("nested more than"));
        assert!(error(&"- ".repeat(100_000)).contains("nested more than"));
        assert!(error(&"{a: ".repeat(100_000)).contains("nested more than"));
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
}
