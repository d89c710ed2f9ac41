//! `X-Registry-Auth`: credentials for one registry, or for several by host.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;

use super::super::error::ApiError;
use crate::engine::image::Credentials;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
}

/// The credentials sent for `reference`, if any.
pub fn credentials(headers: &HeaderMap, reference: &str) -> Result<Option<Credentials>, ApiError> {
    let Some(header) = headers.get("x-registry-auth") else { return Ok(None) };
    let malformed = || ApiError::bad_request("X-Registry-Auth is not base64 of a JSON object");
    let text = header.to_str().map_err(|_| malformed())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let json = decode(text).ok_or_else(malformed)?;
    let value: Value = serde_json::from_slice(&json).map_err(|_| malformed())?;
    let Value::Object(members) = &value else { return Err(malformed()) };
    let login = if members.values().any(Value::is_object) {
        let host = reference.split('/').next().unwrap_or(reference);
        members.iter().find(|(key, _)| registry_host(key) == host).map(|(_, login)| login.clone())
    } else {
        Some(value)
    };
    let login = login.map(Login::deserialize).transpose().map_err(|_| malformed())?;
    Ok(login
        .filter(|login| !login.username.is_empty())
        .map(|login| Credentials { username: login.username, password: login.password }))
}

/// `https://index.docker.io/v1/` → `docker.io`: docker's own key for its hub.
fn registry_host(key: &str) -> &str {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or(bare) {
        "index.docker.io" => "docker.io",
        host => host,
    }
}

/// Clients use both alphabets, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = GeneralPurpose::new(&STANDARD, config);
    standard.decode(text).or_else(|_| GeneralPurpose::new(&URL_SAFE, config).decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, reference: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        let text = base64::engine::general_purpose::URL_SAFE.encode(json);
        headers.insert("x-registry-auth", text.parse().unwrap());
        credentials(&headers, reference).unwrap().map(|c| format!("{}:{}", c.username, c.password))
    }

    #[test]
    fn credentials_are_for_all_or_by_host() {
        let one = r#"{"username":"u>","password":"p?"}"#;
        assert_eq!(found(one, "r.example/a").as_deref(), Some("u>:p?"));
        let several =
            r#"{"r.example":{"username":"u","password":"p"},"https://index.docker.io/v1/":{"username":"d"}}"#;
        assert_eq!(found(several, "r.example/a").as_deref(), Some("u:p"));
        assert_eq!(found(several, "docker.io/library/a").as_deref(), Some("d:"));
        assert_eq!(found(several, "other/a"), None);
        // What podman sends without credentials.
        assert_eq!(found("{}", "r.example/a"), None);
    }

    #[test]
    fn nonsense_is_refused_without_repeating_it() {
        let mut headers = HeaderMap::new();
        headers.insert("x-registry-auth", "!!secret!!".parse().unwrap());
        let error = credentials(&headers, "a").unwrap_err();
        assert!(!format!("{error:?}").contains("secret"));
    }
}
