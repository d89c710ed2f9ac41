//! What the machine's administrator says about registries, in the files that podman, skopeo and buildah read:
//! `registries.conf` (version 2, with its drop-ins).
//!
//! Reading is here, and so are the two decisions: which full names a short name may mean, and where the content
//! of a full name is to be fetched from. Fetching is not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::reference::{DOCKER_HUB, ImageReference, InvalidReference, LOCALHOST, TypedName};

const SYSTEM_FILE: &str = "/etc/containers/registries.conf";
const SYSTEM_DIRECTORY: &str = "/etc/containers/registries.conf.d";

/// Where Docker Hub is really served.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

#[derive(Debug, Error)]
pub enum ConfError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a registries.conf", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{}: {what}", path.display())]
    Invalid { path: PathBuf, what: String },
    #[error("registry {prefix} is blocked in registries.conf")]
    Blocked { prefix: String },
    #[error("alias of {name} in registries.conf")]
    Alias {
        name: String,
        #[source]
        source: InvalidReference,
    },
}

/// Which files to read.
#[derive(Debug, Clone, Default)]
pub struct ConfPaths {
    /// Missing is the same as empty.
    pub file: Option<PathBuf>,
    /// Its `*.conf` are read afterwards, by name.
    pub directory: Option<PathBuf>,
}

impl ConfPaths {
    /// The files that podman would read as root, with the same environment variables.
    pub fn from_environment() -> Self {
        let path = |variable, default: &str| {
            Some(
                std::env::var_os(variable).filter(|v| !v.is_empty()).unwrap_or_else(|| default.into()).into(),
            )
        };
        Self {
            file: path("CONTAINERS_REGISTRIES_CONF", SYSTEM_FILE),
            directory: path("CONTAINERS_REGISTRIES_CONF_DIR", SYSTEM_DIRECTORY),
        }
    }
}

/// The files' content, merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    search: Vec<String>,
    /// By prefix.
    registries: BTreeMap<String, Registry>,
    aliases: BTreeMap<String, String>,
}

/// A place that may have an image's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and perhaps port, to connect to.
    pub host: String,
    pub repository: String,
    /// It may speak http or present any certificate.
    pub insecure: bool,
    pub is_mirror: bool,
}

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfFile {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Registry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFromMirror,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl RegistriesConf {
    pub fn load(paths: &ConfPaths) -> Result<Self, ConfError> {
        let mut conf = Self::default();
        if let Some(file) = &paths.file {
            conf.merge_file(file)?;
        }
        if let Some(directory) = &paths.directory {
            let mut files = match std::fs::read_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(source) => return Err(ConfError::Read { path: directory.clone(), source }),
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            };
            files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            files.sort();
            for file in files {
                conf.merge_file(&file)?;
            }
        }
        Ok(conf)
    }

    fn merge_file(&mut self, path: &Path) -> Result<(), ConfError> {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ConfError::Read { path: path.to_owned(), source }),
            Ok(text) => self.merge(path, &text),
        }
    }

    fn merge(&mut self, path: &Path, text: &str) -> Result<(), ConfError> {
        let invalid = |what: String| ConfError::Invalid { path: path.to_owned(), what };
        let table: toml::Table = text
            .parse()
            .map_err(|source| ConfError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        if table.contains_key("registries") {
            return Err(invalid("version 1 of the format is not supported".to_owned()));
        }
        let file: ConfFile = table
            .try_into()
            .map_err(|source| ConfError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        if let Some(search) = file.unqualified_search_registries {
            self.search = search.iter().map(|registry| registry.trim_end_matches('/').to_owned()).collect();
        }
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            let trim = |text: &mut String| text.truncate(text.trim_end_matches('/').len());
            trim(&mut registry.prefix);
            trim(&mut registry.location);
            if registry.prefix.is_empty() {
                return Err(invalid("a registry needs a prefix or a location".to_owned()));
            }
            if registry.location.is_empty() && !registry.prefix.starts_with("*.") {
                registry.location.clone_from(&registry.prefix);
            }
            for location in registry.mirror.iter().map(|m| &m.location).chain([&registry.location]) {
                if location.contains("://") {
                    return Err(invalid(format!("location {location:?} is not HOST[:PORT][/PATH]")));
                }
            }
            self.registries.insert(registry.prefix.clone(), registry);
        }
        for (name, target) in file.aliases {
            // An empty alias takes back an earlier one.
            if target.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, target);
            }
        }
        Ok(())
    }

    /// The full names to ask registries for, in order.
    pub fn pull_candidates(&self, typed: &TypedName) -> Result<Vec<ImageReference>, ConfError> {
        if let Some(reference) = typed.qualified() {
            return Ok(vec![reference]);
        }
        if let Some(reference) = self.alias(typed)? {
            return Ok(vec![reference]);
        }
        if self.search.is_empty() {
            return Ok(vec![typed.in_registry(DOCKER_HUB)]);
        }
        Ok(self.search.iter().map(|registry| typed.in_registry(registry)).collect())
    }

    /// The full names under which a local image may be meant, in order.
    pub fn local_candidates(&self, typed: &TypedName) -> Vec<ImageReference> {
        if let Some(reference) = typed.qualified() {
            return vec![reference];
        }
        let mut candidates: Vec<ImageReference> = Vec::new();
        let alias = self.alias(typed).ok().flatten();
        let search = self.search.iter().map(String::as_str);
        let registries = [LOCALHOST].into_iter().chain(search).chain([DOCKER_HUB]);
        for candidate in alias.into_iter().chain(registries.map(|registry| typed.in_registry(registry))) {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// Where to fetch `reference` from: mirrors first, the registry itself last.
    pub fn endpoints(&self, reference: &ImageReference) -> Result<Vec<Endpoint>, ConfError> {
        let name = reference.name();
        let Some(rule) = self.rule(reference) else {
            return Ok(vec![endpoint(&name, false, false)]);
        };
        if rule.blocked {
            return Err(ConfError::Blocked { prefix: rule.prefix.clone() });
        }
        // A rewritten name keeps what follows the prefix. A wildcard prefix matches a host.
        let rest = match rule.prefix.strip_prefix("*.") {
            Some(_) => &name[reference.registry().len()..],
            None => &name[rule.prefix.len()..],
        };
        let by_digest = reference.digest().is_some();
        let mut endpoints = Vec::new();
        for mirror in &rule.mirror {
            let is_wanted = match (rule.mirror_by_digest_only, mirror.pull_from_mirror) {
                (true, _) | (false, PullFromMirror::DigestOnly) => by_digest,
                (false, PullFromMirror::TagOnly) => !by_digest,
                (false, PullFromMirror::All) => true,
            };
            if is_wanted {
                let location = mirror.location.trim_end_matches('/');
                endpoints.push(endpoint(&format!("{location}{rest}"), mirror.insecure, true));
            }
        }
        let primary =
            if rule.location.is_empty() { name.clone() } else { format!("{}{rest}", rule.location) };
        endpoints.push(endpoint(&primary, rule.insecure, false));
        Ok(endpoints)
    }

    fn alias(&self, typed: &TypedName) -> Result<Option<ImageReference>, ConfError> {
        match self.aliases.get(typed.path()) {
            Some(target) if typed.is_short() => typed
                .aliased(target)
                .map(Some)
                .map_err(|source| ConfError::Alias { name: typed.path().to_owned(), source }),
            Some(_) | None => Ok(None),
        }
    }

    /// The rule with the longest prefix that fits.
    fn rule(&self, reference: &ImageReference) -> Option<&Registry> {
        let name = reference.name();
        self.registries
            .values()
            .filter(|registry| match registry.prefix.strip_prefix('*') {
                Some(domain) => {
                    let host =
                        reference.registry().rsplit_once(':').map_or(reference.registry(), |(host, _)| host);
                    domain.starts_with('.') && host.ends_with(domain)
                }
                None => name
                    .strip_prefix(registry.prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            })
            .max_by_key(|registry| registry.prefix.len())
    }
}

/// `location` is `HOST[:PORT]/REPOSITORY`.
fn endpoint(location: &str, insecure: bool, is_mirror: bool) -> Endpoint {
    let (host, repository) = location.split_once('/').unwrap_or((location, ""));
    let host = if host == DOCKER_HUB { DOCKER_HUB_HOST } else { host };
    Endpoint { host: host.to_owned(), repository: repository.to_owned(), insecure, is_mirror }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.merge(Path::new("registries.conf"), text).unwrap();
        conf
    }

    fn names(references: &[ImageReference]) -> Vec<String> {
        references.iter().map(ToString::to_string).collect()
    }

    fn endpoints(conf: &RegistriesConf, name: &str) -> Vec<String> {
        let reference: ImageReference = name.parse().unwrap();
        let render = |e: &Endpoint| {
            let scheme = if e.insecure { "insecure:" } else { "" };
            format!("{scheme}{}/{}", e.host, e.repository)
        };
        conf.endpoints(&reference).unwrap().iter().map(render).collect()
    }

    #[test]
    fn short_names_without_any_configuration_mean_docker_hub() {
        let typed: TypedName = "busybox".parse().unwrap();
        let conf = RegistriesConf::default();
        assert_eq!(names(&conf.pull_candidates(&typed).unwrap()), ["docker.io/library/busybox:latest"]);
        assert_eq!(
            names(&conf.local_candidates(&typed)),
            ["localhost/busybox:latest", "docker.io/library/busybox:latest"]
        );
    }

    #[test]
    fn search_registries_are_tried_in_order_and_aliases_win() {
        let conf = conf(
            r#"
            unqualified-search-registries = ["quay.io/team", "docker.io"]
            [aliases]
            fedora = "registry.fedoraproject.org/fedora"
            "#,
        );
        let pull = |text: &str| names(&conf.pull_candidates(&text.parse().unwrap()).unwrap());
        assert_eq!(pull("web:1"), ["quay.io/team/web:1", "docker.io/library/web:1"]);
        assert_eq!(pull("fedora:39"), ["registry.fedoraproject.org/fedora:39"]);
        assert_eq!(pull("ghcr.io/a/b"), ["ghcr.io/a/b:latest"]);
        assert_eq!(
            names(&conf.local_candidates(&"fedora".parse().unwrap())),
            [
                "registry.fedoraproject.org/fedora:latest",
                "localhost/fedora:latest",
                "quay.io/team/fedora:latest",
                "docker.io/library/fedora:latest",
            ]
        );
    }

    #[test]
    fn the_longest_prefix_decides_and_location_replaces_it() {
        let conf = conf(
            r#"
            [[registry]]
            location = "quay.io"
            insecure = true
            [[registry]]
            prefix = "quay.io/team"
            location = "mirror.example:5000/copies/team"
            [[registry]]
            prefix = "*.internal.example"
            insecure = true
            "#,
        );
        assert_eq!(endpoints(&conf, "quay.io/other/web:1"), ["insecure:quay.io/other/web"]);
        assert_eq!(endpoints(&conf, "quay.io/team/web:1"), ["mirror.example:5000/copies/team/web"]);
        assert_eq!(endpoints(&conf, "quay.io/teams/web:1"), ["insecure:quay.io/teams/web"]);
        assert_eq!(endpoints(&conf, "r.internal.example:99/web:1"), ["insecure:r.internal.example:99/web"]);
        assert_eq!(endpoints(&conf, "internal.example/web:1"), ["internal.example/web"]);
        assert_eq!(endpoints(&conf, "docker.io/busybox"), ["registry-1.docker.io/library/busybox"]);
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let digest = format!("docker.io/library/web@sha256:{}", "a".repeat(64));
        let conf = conf(
            r#"
            [[registry]]
            prefix = "docker.io"
            [[registry.mirror]]
            location = "one.example"
            insecure = true
            [[registry.mirror]]
            location = "two.example/hub/"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "three.example"
            pull-from-mirror = "tag-only"
            "#,
        );
        assert_eq!(
            endpoints(&conf, "docker.io/library/web:1"),
            [
                "insecure:one.example/library/web",
                "three.example/library/web",
                "registry-1.docker.io/library/web"
            ]
        );
        assert_eq!(
            endpoints(&conf, &digest),
            [
                "insecure:one.example/library/web",
                "two.example/hub/library/web",
                "registry-1.docker.io/library/web"
            ]
        );
    }

    #[test]
    fn blocked_registries_are_errors() {
        let conf = conf("[[registry]]\nprefix = \"evil.example\"\nblocked = true\n");
        let error = conf.endpoints(&"evil.example/a".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "registry evil.example is blocked in registries.conf");
    }

    #[test]
    fn drop_ins_override_by_prefix_and_mistakes_name_the_file() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(
            path("main"),
            "unqualified-search-registries = ['a.io']\n[[registry]]\nprefix='x.io'\n",
        )
        .unwrap();
        std::fs::write(
            path("d/1.conf"),
            "[aliases]\nweb = 'x.io/web'\n[[registry]]\nprefix='x.io'\ninsecure=true\n",
        )
        .unwrap();
        std::fs::write(path("d/2.conf"), "[aliases]\nweb = ''\n").unwrap();
        std::fs::write(path("d/ignored.txt"), "not toml").unwrap();
        let paths = ConfPaths { file: Some(path("main")), directory: Some(path("d")) };
        let conf = RegistriesConf::load(&paths).unwrap();
        assert_eq!(endpoints(&conf, "x.io/web"), ["insecure:x.io/web"]);
        assert_eq!(names(&conf.pull_candidates(&"web".parse().unwrap()).unwrap()), ["a.io/web:latest"]);

        for (text, words) in [
            ("nonsense", "is not a registries.conf"),
            ("[registries.search]\nregistries = ['a']\n", "version 1"),
            ("[[registry]]\ninsecure = true\n", "needs a prefix"),
            ("[[registry]]\nlocation = 'http://a.io'\n", "is not HOST"),
        ] {
            std::fs::write(path("d/3.conf"), text).unwrap();
            let error = RegistriesConf::load(&paths).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("3.conf"), "{error}");
        }
        let missing = ConfPaths { file: Some(path("none")), directory: Some(path("nowhere")) };
        assert_eq!(RegistriesConf::load(&missing).unwrap(), RegistriesConf::default());
    }
}
