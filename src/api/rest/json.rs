//! JSON as Go's encoder writes it and its decoder reads it: the clients were written against that.

use std::io;

use serde::Serialize;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use serde_json::{Error, Value};

/// One line: no space, `<`, `>` and `&` escaped, a newline at the end.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    value
        .serialize(&mut Serializer::with_formatter(&mut line, GoFormatter(CompactFormatter)))
        .expect("our own types always serialise");
    line.push(b'\n');
    line
}

/// Names match without regard to case, `null` is the same as absent, unknown names are ignored, and
/// an empty body is an empty object.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value = match body.trim_ascii() {
        [] => Value::Object(serde_json::Map::new()),
        body => serde_json::from_slice(body)?,
    };
    T::deserialize(GoValue(value))
}

struct GoFormatter(CompactFormatter);

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&']) {
            self.0.write_string_fragment(writer, &rest[..at])?;
            write!(writer, "\\u{:04x}", rest.as_bytes()[at])?;
            rest = &rest[at + 1..];
        }
        self.0.write_string_fragment(writer, rest)
    }
}

/// A value with Go's rules for what is inside.
struct GoValue(Value);

impl<'de> IntoDeserializer<'de, Error> for GoValue {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for GoValue {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(GoValue))),
            Value::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (name, GoValue(value)));
                visitor.visit_map(MapDeserializer::new(members))
            }
            plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                plain.deserialize_any(visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Object(members) = self.0 else { return self.deserialize_any(visitor) };
        let members = members.into_iter().filter(|(_, value)| !value.is_null());
        let known = members.filter_map(|(name, value)| {
            let field = fields.iter().find(|field| field.eq_ignore_ascii_case(&name))?;
            Some((*field, GoValue(value)))
        });
        visitor.visit_map(MapDeserializer::new(known))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<GoValue>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(String, GoValue)>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[test]
    fn html_is_escaped_and_the_line_ends() {
        let text = String::from_utf8(encode(&["a<b>&\"c\"", "plain"])).unwrap();
        assert_eq!(text, "[\"a\\u003cb\\u003e\\u0026\\\"c\\\"\",\"plain\"]\n");
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(rename = "Id")]
        id: String,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        #[serde(rename = "HostConfig")]
        host_config: Inner,
        #[serde(rename = "Labels")]
        labels: BTreeMap<String, String>,
        #[serde(rename = "Env")]
        env: Vec<String>,
        #[serde(rename = "Tty")]
        tty: Option<bool>,
        #[serde(rename = "List")]
        list: Vec<Inner>,
    }

    #[test]
    fn names_match_without_case_and_null_is_absent() {
        let body = br#"{"hostconfig":{"ID":"x"},"labels":{"Key":"Value"},"ENV":null,"tty":true,
                        "list":[{"id":"y"}],"unknown":{"deep":[1]}}"#;
        let outer: Outer = decode(body).unwrap();
        assert_eq!(
            outer,
            Outer {
                host_config: Inner { id: "x".into() },
                labels: BTreeMap::from([("Key".into(), "Value".into())]),
                env: vec![],
                tty: Some(true),
                list: vec![Inner { id: "y".into() }],
            }
        );
        assert_eq!(decode::<Outer>(b" \n").unwrap(), Outer::default());
        assert!(decode::<Outer>(b"{").is_err());
        assert!(decode::<Outer>(br#"{"Env":"text"}"#).is_err());
    }
}
