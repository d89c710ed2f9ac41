//! Values as YAML text that every reader takes for the same values. serde_yaml writes it; what YAML 1.1
//! and 1.2 read differently and serde_yaml leaves plain (`yes`, `1_0`) is put in quotes.

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use super::tree;

/// Line breaks to some readers only, or turned into another by them: in double quotes they are escaped.
const BREAKS: [char; 4] = ['\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// Can be written in double quotes only.
const BELL: char = '\u{7}';
const BELL_ESCAPED: &str = "\\a";

/// Documents, each after a `---`.
pub fn yaml(documents: &[Json]) -> String {
    // serde_yaml can not be told to quote, and has no tag `!!str` either. So a text that needs quotes is
    // written with a mark that brings them about, and the mark is taken out again.
    let unmarked = write(documents, "");
    let mark = (0..).map(|n| format!("@{n}@")).find(|mark| !unmarked.contains(mark)).unwrap_or_default();
    write(documents, &mark)
        .replace(&format!("'{mark}"), "'")
        .replace(&format!("\"{BELL_ESCAPED}{mark}"), "\"")
}

fn write(documents: &[Json], mark: &str) -> String {
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&value(document, mark)).expect("JSON fits into YAML"));
    }
    text
}

fn value(json: &Json, mark: &str) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => serde_yaml::to_value(number).expect("a number is a number"),
        Json::String(words) => text(words, mark),
        Json::Array(items) => items.iter().map(|item| value(item, mark)).collect(),
        Json::Object(members) => members
            .iter()
            .map(|(key, member)| (text(key, mark), value(member, mark)))
            .collect::<Mapping>()
            .into(),
    }
}

fn text(words: &str, mark: &str) -> Value {
    if words.contains(BREAKS) {
        return format!("{BELL}{mark}{words}").into();
    }
    let ambiguous = !tree::is_plain_text(words) || words == "<<" || words == "=" || is_date_or_base_60(words);
    // Most are in quotes already.
    if ambiguous && serde_yaml::to_string(words).is_ok_and(|written| written.trim_end() == words) {
        return format!("{mark}{words}").into();
    }
    words.into()
}

/// `2001-01-01` and `12:30`, to YAML 1.1.
fn is_date_or_base_60(words: &str) -> bool {
    words.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
        && words.contains([':', '-'])
        && words.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'-' | b'+' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As JSON again, by our own reader.
    fn read(node: &tree::Node) -> Json {
        match &node.value {
            tree::Value::Null => Json::Null,
            tree::Value::Boolean(flag) => json!(flag),
            tree::Value::Integer(number) => json!(number),
            tree::Value::Float(text) => json!({"float": text}),
            tree::Value::Text(text) => json!(text),
            tree::Value::List(items) => items.iter().map(read).collect(),
            tree::Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), read(&e.node))).collect())
            }
        }
    }

    fn comes_back(value: &Json) {
        let text = yaml(std::slice::from_ref(value));
        let documents = tree::parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let found: Vec<Json> = documents.iter().map(read).collect();
        assert_eq!(found.as_slice(), std::slice::from_ref(value), "{text}");
    }

    #[test]
    fn text_is_readable() {
        let value = json!({"kind": "Pod", "spec": {"containers": [{"image": "a.b/c:1", "command": ["sh", "-c", "yes"]}], "volumes": [], "count": 3}, "data": {"x": "a: 1\nb\n"}});
        assert_eq!(
            yaml(&[value]),
            "---\ndata:\n  x: |\n    a: 1\n    b\nkind: Pod\nspec:\n  containers:\n  - command:\n    - sh\n    - -c\n    - 'yes'\n    image: a.b/c:1\n  count: 3\n  volumes: []\n"
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
            "+1",
            "0b11",
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
            "8080:22",
            "NO",
            "0o17",
            "-0",
            "+.inf",
            ".nan",
            "trailing ",
            "\ttab",
            "?",
            ",",
            "'",
            "\"",
        ] {
            let written = yaml(&[json!(text)]);
            let marked = ["---\n'", "---\n\""].iter().any(|mark| written.starts_with(mark));
            assert!(marked, "{written}");
            comes_back(&json!({ "k": text }));
            comes_back(&json!({ text: "v" }));
        }
        for text in ["web", "/data", "busybox:1", "example.org/web@sha256:ab", "100m", "64Mi", "1.2.3-x"] {
            assert_eq!(yaml(&[json!(text)]), format!("---\n{text}\n"));
            comes_back(&json!({ "k": text }));
        }
    }

    #[test]
    fn line_breaks_of_some_readers_are_escaped() {
        for (text, want) in [
            ("a\r\nb\n", "\"a\\r\\nb\\n\""),
            ("\r", "\"\\r\""),
            ("a\u{85}b", "\"a\\Nb\""),
            (" \u{2028} ", "\" \\L \""),
            ("a\n\u{2029}b", "\"a\\n\\Pb\""),
            ("\u{7}@0@\r", "\"\\a@0@\\r\""),
        ] {
            assert_eq!(yaml(&[json!(text)]), format!("---\n{want}\n"));
            comes_back(&json!({ "k": text, "l": [text], text: "v" }));
        }
    }

    #[test]
    fn a_text_like_the_mark_is_kept() {
        for text in ["@0@yes", "'@0@", "@0@", "@1@ '@0@no'"] {
            comes_back(&json!({ "k": text, "l": "yes", text: "no" }));
        }
    }

    #[test]
    fn numbers_are_kept() {
        for (number, want) in [
            (json!(0), "0"),
            (json!(-1), "-1"),
            (json!(i64::MAX), "9223372036854775807"),
            (json!(1.5), "1.5"),
        ] {
            assert_eq!(yaml(&[number]), format!("---\n{want}\n"));
        }
    }

    fn value() -> impl Strategy<Value = Json> {
        let text = prop_oneof![
            "[ -~]{0,12}",
            "\\PC{0,8}",
            "[a \n\r\t\u{7}\u{85}\u{2028}\u{2029}\u{feff}]{0,6}",
            "([a-z:# ]{0,6}\n){0,4}[a-z]{0,4}",
            any::<String>()
        ];
        let leaf =
            prop_oneof![Just(json!(true)), any::<i32>().prop_map(|n| json!(n)), text.prop_map(|t| json!(t))];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..4)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
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
