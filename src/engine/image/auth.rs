//! Credentials for registries, from the files that `podman login` and `docker login` write.
//!
//! The most specific key wins: `host/team/web`, `host/team`, `host`. Files are read at each pull, so that a login
//! works at once. Credential helpers (`credHelpers`, `credsStore`) are programs; they are not run, and a registry
//! that has only a helper gets no credentials.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::Credentials;
use super::reference::{DOCKER_HUB, ImageReference};

#[derive(Debug, Error)]
pub enum AuthError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    // The cause is left out: it could quote a secret.
    #[error("{} is not an auth.json (line {line})", path.display())]
    Parse { path: PathBuf, line: usize },
    #[error("{}: the credentials for {registry} are not base64 of USER:PASSWORD", path.display())]
    Entry { path: PathBuf, registry: String },
}

/// Which files to ask, in order. Missing ones are skipped.
#[derive(Debug, Clone, Default)]
pub struct AuthPaths(pub Vec<PathBuf>);

impl AuthPaths {
    /// The files that podman would read as root, with the same environment variables.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self(vec![file]);
        }
        let mut paths = Vec::new();
        if let Some(directory) = variable("XDG_RUNTIME_DIR") {
            paths.push(directory.join("containers/auth.json"));
        }
        paths.push(format!("/run/containers/{}/auth.json", nix::unistd::geteuid()).into());
        let home = variable("HOME");
        if let Some(directory) =
            variable("XDG_CONFIG_HOME").or(home.as_ref().map(|home| home.join(".config")))
        {
            paths.push(directory.join("containers/auth.json"));
        }
        if let Some(directory) = variable("DOCKER_CONFIG").or(home.map(|home| home.join(".docker"))) {
            paths.push(directory.join("config.json"));
        }
        Self(paths)
    }

    /// The credentials for `reference`, from the first file that has any.
    pub fn find(&self, reference: &ImageReference) -> Result<Option<Credentials>, AuthError> {
        for path in &self.0 {
            let text = match std::fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(AuthError::Read { path: path.clone(), source }),
                Ok(text) => text,
            };
            let file: AuthFile = serde_json::from_slice(&text)
                .map_err(|error| AuthError::Parse { path: path.clone(), line: error.line() })?;
            if let Some(credentials) = file.find(path, reference)? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
}

impl AuthFile {
    fn find(&self, path: &Path, reference: &ImageReference) -> Result<Option<Credentials>, AuthError> {
        let entry = keys(reference).into_iter().find_map(|key| {
            let entry = self.auths.get(&key).or_else(|| {
                // Old docker clients wrote URLs.
                self.auths
                    .iter()
                    .find(|(written, _)| host_of_url(written) == Some(&key))
                    .map(|(_, entry)| entry)
            })?;
            entry.auth.as_ref().filter(|auth| !auth.is_empty()).map(|auth| (key, auth))
        });
        let Some((registry, auth)) = entry else { return Ok(None) };
        let malformed = || AuthError::Entry { path: path.to_owned(), registry: registry.clone() };
        let decoded = STANDARD.decode(auth.trim()).map_err(|_| malformed())?;
        let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (username, password) = decoded.split_once(':').ok_or_else(malformed)?;
        let password = password.trim_end_matches('\0');
        Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }))
    }
}

/// From the most specific to the registry alone.
fn keys(reference: &ImageReference) -> Vec<String> {
    let mut keys = Vec::new();
    let name = reference.name();
    let mut key = name.as_str();
    loop {
        keys.push(key.to_owned());
        match key.rsplit_once('/') {
            Some((shorter, _)) => key = shorter,
            None => break,
        }
    }
    if reference.registry() == DOCKER_HUB {
        keys.push("index.docker.io".to_owned());
    }
    keys
}

fn host_of_url(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    rest.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, AuthPaths) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let paths = AuthPaths(vec!["/nonexistent/auth.json".into(), file.path().to_owned()]);
        (file, paths)
    }

    fn user(paths: &AuthPaths, name: &str) -> Option<String> {
        paths.find(&name.parse().unwrap()).unwrap().map(|c| format!("{}:{}", c.username, c.password))
    }

    #[test]
    fn the_most_specific_key_wins() {
        // a:1, b:2, c:3:4, d:5
        let (_file, paths) = file(
            r#"{"auths": {"quay.io": {"auth": "YToxCg=="}, "quay.io/team": {"auth": "Yjoy"},
                "quay.io/team/web": {"auth": "YzozOjQ="}, "https://index.docker.io/v1/": {"auth": "ZDo1"},
                "helper.io": {}}, "credHelpers": {"gcr.io": "gcloud"}}"#,
        );
        assert_eq!(user(&paths, "quay.io/team/web:1").as_deref(), Some("c:3:4"));
        assert_eq!(user(&paths, "quay.io/team/api:1").as_deref(), Some("b:2"));
        assert_eq!(user(&paths, "quay.io/teams/api:1").as_deref(), Some("a:1\n"));
        assert_eq!(user(&paths, "docker.io/library/busybox").as_deref(), Some("d:5"));
        assert_eq!(user(&paths, "helper.io/a"), None);
        assert_eq!(user(&paths, "ghcr.io/a"), None);
    }

    #[test]
    fn mistakes_name_the_file_and_never_the_secret() {
        for text in
            [r#"{"auths": {"a.io": {"auth": "c2VjcmV0"}}}"#, r#"{"auths": {"a.io": {"auth": "c2VjcmV0""#]
        {
            let (file, paths) = file(text);
            let error = crate::engine::error::chain(&paths.find(&"a.io/x".parse().unwrap()).unwrap_err());
            assert!(error.contains(file.path().to_str().unwrap()), "{error}");
            assert!(!error.contains("secret") && !error.contains("c2VjcmV0"), "{error}");
        }
    }
}
