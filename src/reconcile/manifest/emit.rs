//! Values as YAML text that every reader takes for the same values: what YAML 1.1 and 1.2 read
//! differently (`yes`, `0644`) is quoted.

use serde_json::Value;

use super::tree;

/// Documents, each after a `---`.
pub fn emit(documents: &[Value]) -> String {
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        block(document, 0, &mut text);
    }
    text
}

/// `value` in block style, on lines of its own.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (index, (key, member)) in members.iter().enumerate() {
                // The first stands behind the `- ` of a list.
                if index > 0 || text.ends_with('\n') {
                    pad(indent, text);
                }
                text.push_str(&scalar(key));
                text.push(':');
                match member {
                    Value::Object(inner) if !inner.is_empty() => {
                        text.push('\n');
                        block(member, indent + 2, text);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        text.push('\n');
                        block(member, indent, text);
                    }
                    Value::String(long) if is_literal(long) => literal(long, indent + 2, text),
                    _ => {
                        text.push(' ');
                        flow(member, text);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || text.ends_with('\n') {
                    pad(indent, text);
                }
                text.push_str("- ");
                block(item, indent + 2, text);
            }
        }
        _ => flow(value, text),
    }
}

/// A scalar or an empty collection, to the end of the line.
fn flow(value: &Value, text: &mut String) {
    match value {
        Value::String(words) => text.push_str(&scalar(words)),
        other => text.push_str(&other.to_string()),
    }
    text.push('\n');
}

fn pad(indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Plain if nothing can be mistaken, else in double quotes.
fn scalar(words: &str) -> String {
    let ordinary =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '=' | '@' | '+');
    // YAML 1.1 has dates and base-60 numbers: whatever looks like a number only is quoted.
    let numeric =
        words.starts_with(|c: char| c.is_ascii_digit()) && !words.contains(|c: char| c.is_ascii_alphabetic());
    let plain = words.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_'))
        // A colon inside of a word is no mapping: `busybox:1`.
        && words.chars().all(|c| ordinary(c) || c == ':')
        && !words.ends_with(':')
        && !numeric
        && tree::is_plain_text(words);
    if plain { words.to_owned() } else { quoted(words) }
}

fn quoted(words: &str) -> String {
    let mut text = String::from("\"");
    for c in words.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            // Not printable in YAML, or line breaks to some readers.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// Whether a text of several lines can be written as it is.
fn is_literal(words: &str) -> bool {
    let body = words.trim_end_matches('\n');
    body.contains('\n')
        && words.len() - body.len() <= 1
        && !body.starts_with([' ', '\n'])
        && body.lines().all(|line| !line.ends_with([' ', '\t']) && !line.starts_with('\t'))
        && body.chars().all(|c| c == '\n' || (c.is_ascii() && !c.is_ascii_control()) || c.is_alphanumeric())
}

fn literal(words: &str, indent: usize, text: &mut String) {
    text.push_str(if words.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in words.lines() {
        if !line.is_empty() {
            pad(indent, text);
            text.push_str(line);
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As JSON again, by our own reader.
    fn read(node: &tree::Node) -> Value {
        match &node.value {
            tree::Value::Null => Value::Null,
            tree::Value::Boolean(flag) => json!(flag),
            tree::Value::Integer(number) => json!(number),
            tree::Value::Float(text) => json!({"float": text}),
            tree::Value::Text(text) => json!(text),
            tree::Value::List(items) => items.iter().map(read).collect(),
            tree::Value::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), read(&e.node))).collect())
            }
        }
    }

    fn comes_back(value: &Value) {
        let text = emit(std::slice::from_ref(value));
        let documents = tree::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let found: Vec<Value> = documents.iter().map(read).collect();
        assert_eq!(found.as_slice(), std::slice::from_ref(value), "{text}");
    }

    #[test]
    fn text_is_readable() {
        let value = json!({"kind": "Pod", "spec": {"containers": [{"image": "a.b/c:1", "command": ["sh", "-c", "yes"]}], "volumes": [], "count": 3}, "data": {"x": "a: 1\nb\n"}});
        assert_eq!(
            emit(&[value]),
            "---\ndata:\n  x: |\n    a: 1\n    b\nkind: Pod\nspec:\n  containers:\n  - command:\n    - sh\n    - \"-c\"\n    - \"yes\"\n    image: a.b/c:1\n  count: 3\n  volumes: []\n"
        );
    }

    #[test]
    fn what_readers_differ_about_is_quoted() {
        for text in [
            "yes",
            "on",
            "y",
            "null",
            "~",
            "0644",
            "1e3",
            "1_0",
            "12:30:45",
            "2001-01-01",
            "",
            " a",
            "a ",
            "a: b",
            "a #b",
            "#",
            "-",
            "- a",
            "[a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "0x1F",
            ".5",
            "=",
            "<<",
            "|",
            ">",
            "a:",
        ] {
            assert!(scalar(text).starts_with('"'), "{text}");
            comes_back(&json!({ "k": text }));
        }
        for text in ["web", "/data", "busybox:1", "example.org/web@sha256:ab", "100m", "64Mi", "1.2.3-x"] {
            assert_eq!(scalar(text), text);
            comes_back(&json!({ "k": text }));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let text =
            prop_oneof!["[ -~]{0,12}", "\\PC{0,8}", "([a-z:# ]{0,6}\n){0,4}[a-z]{0,4}", any::<String>()];
        let leaf =
            prop_oneof![Just(json!(true)), any::<i32>().prop_map(|n| json!(n)), text.prop_map(|t| json!(t))];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn everything_comes_back(value in value()) {
            comes_back(&value);
        }
    }
}
