//! What a handler reads of a request: path values, the query by podman's rules, the body.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::super::error::{ApiError, Dialect};
use super::json;
use super::version::ApiVersion;

/// More than any description of a container or a directory of manifests in one request.
const BODY_LIMIT_BYTES: usize = 16 << 20;

/// The value in the path: a name or an id.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: From<String>, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let values = RawPathParams::from_request_parts(parts, state).await;
        let values = values.map_err(|error| ApiError::bad_request(error.body_text()))?;
        // The last: a path that was first taken for another one has left its value, too.
        match values.iter().last() {
            Some((_, value)) => Ok(Self(value.to_owned().into())),
            None => Err(ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR, "the route has no name")),
        }
    }
}

/// The body as JSON, by the rules of Go's decoder and whatever its content type says, as podman does.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Whole(body) = Whole::from_request(request, state).await?;
        let decoded = json::decode(&body);
        decoded.map(Self).map_err(|error| ApiError::bad_request(format!("decode the request: {error}")))
    }
}

/// The whole body, if it is not absurdly large.
#[derive(Debug)]
pub struct Whole(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        match Limited::new(request.into_body(), BODY_LIMIT_BYTES).collect().await {
            Ok(body) => Ok(Self(body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::with_status(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request is larger than {BODY_LIMIT_BYTES} bytes"),
            )),
            Err(error) => Err(ApiError::bad_request(format!("read the request: {error}"))),
        }
    }
}

/// From the path; `None` means the newest.
impl<S: Send + Sync> OptionalFromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().copied())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Dialect {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(*parts.extensions.get().expect("every route is of a dialect"))
    }
}

/// A query. Names match without regard to case, unknown ones are ignored, an empty value counts as
/// absent except in lists and texts: the rules of podman's schema decoder.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query())
    }
}

impl Query {
    pub fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(decoded.collect::<Result<_, ApiError>>()?))
    }

    /// The last value given, even an empty one.
    pub fn text(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        given.map(|(_, value)| value.as_str())
    }

    /// The last value given that says something.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|value| !value.is_empty())
    }

    pub fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.filled(name).ok_or_else(|| ApiError::bad_parameter(name, "it is required"))
    }

    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub fn optional_flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.filled(name).map(|value| parse_bool(name, value)).transpose()
    }

    pub fn number<T>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let parse =
            |value: &str| value.parse().map_err(|e| ApiError::bad_parameter(name, format!("{value:?}: {e}")));
        self.filled(name).map(parse).transpose()
    }

    /// All values of a repeated name.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::to_owned).collect()
    }

    /// `filters`: a JSON object of lists (podman) or of objects of booleans (docker).
    pub fn filters(&self) -> Result<Filters, ApiError> {
        let Some(text) = self.filled("filters") else { return Ok(Filters::default()) };
        Filters::parse(text).map_err(|cause| ApiError::bad_parameter("filters", cause))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Named filters, each with the values of which one must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    fn parse(text: &str) -> Result<Self, String> {
        use serde_json::Value;
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let Value::Object(members) = value else { return Err("not a JSON object".to_owned()) };
        let mut filters = BTreeMap::new();
        for (name, values) in members {
            let as_text = |value: Value| match value {
                Value::String(text) => Ok(text),
                Value::Bool(flag) => Ok(flag.to_string()),
                Value::Number(number) => Ok(number.to_string()),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    Err(format!("filter {name:?} has a value that is no text"))
                }
            };
            let values = match values {
                Value::Array(values) => values.into_iter().map(as_text).collect::<Result<_, _>>()?,
                Value::Object(values) => values
                    .into_iter()
                    .filter_map(|(value, wanted)| (wanted != Value::Bool(false)).then_some(value))
                    .collect(),
                Value::Null => Vec::new(),
                single => vec![as_text(single)?],
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    pub fn without(&self, name: &str) -> Self {
        let others = self.0.iter().filter(|(key, _)| key.as_str() != name);
        Self(others.map(|(key, values)| (key.clone(), values.clone())).collect())
    }

    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

pub fn parse_bool(name: &str, text: &str) -> Result<bool, ApiError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" | "on" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" | "off" => Ok(false),
        _ => Err(ApiError::bad_parameter(name, format!("{text:?} is not a boolean"))),
    }
}

fn decode(raw: &str) -> Result<String, ApiError> {
    percent_decode_str(&raw.replace('+', " "))
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| ApiError::bad_request(format!("{raw:?} is not percent-encoded UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text)).unwrap()
    }

    #[test]
    fn booleans_are_gos() {
        for (text, expected) in [("all=true", true), ("all=1", true), ("ALL=T", true), ("all=", false)] {
            assert_eq!(query(text).flag("all").unwrap(), expected, "{text}");
        }
        let error = query("all=yes").flag("all").unwrap_err();
        let body = error.render(Dialect::Libpod).1.unwrap();
        assert_eq!(body.response, 400);
        assert!(body.message.contains("\"all\""), "{}", body.message);
    }

    #[test]
    fn lists_repeat_and_values_are_decoded() {
        let query = query("names=a%2Fb&names=c+d&limit=7&bad=x&t=");
        assert_eq!(query.list("names"), ["a/b", "c d"]);
        assert_eq!(query.number::<u32>("limit").unwrap(), Some(7));
        assert_eq!(query.number::<u32>("t").unwrap(), None);
        assert!(query.number::<u32>("bad").is_err());
        assert!(Query::parse(Some("a=%ff")).is_err());
    }

    #[test]
    fn filters_come_in_both_encodings() {
        let expected = Filters(BTreeMap::from([("label".to_owned(), vec!["a=b".to_owned()])]));
        for text in [r#"{"label":["a=b"]}"#, r#"{"label":{"a=b":true,"c":false}}"#, r#"{"label":"a=b"}"#] {
            assert_eq!(Filters::parse(text), Ok(expected_like(&expected)), "{text}");
        }
        for text in ["", "[]", "{", r#"{"label":[[]]}"#] {
            assert!(Filters::parse(text).is_err(), "{text}");
        }
    }

    fn expected_like(filters: &Filters) -> Filters {
        Filters(filters.0.clone())
    }
}
