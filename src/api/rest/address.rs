//! Where a request goes, made plain for the router: the version leaves the path, and a name with slashes
//! becomes one segment. It must happen around axum's router, whose own layers run when the route is chosen.

use axum::extract::Request;
use axum::http::Method;
use axum::http::uri::{PathAndQuery, Uri};
use axum::middleware::Next;

use super::reply::{self, Reply};
use super::version::ApiVersion;

/// Where names are images', which may contain slashes: docker's clients send them as they are.
const IMAGE_NAMES: [&str; 3] = ["/libpod/images/", "/libpod/manifests/", "/images/"];
/// The same; asked for with POST alone, otherwise `scp` is an image.
const SCP: &str = "/libpod/images/scp/";
/// What may follow the name of an image.
const OPERATIONS: [&str; 11] =
    ["add", "changes", "exists", "get", "history", "json", "push", "resolve", "tag", "tree", "untag"];

pub async fn make_plain(mut request: Request, next: Next) -> Reply {
    let (version, path) = split_version(request.uri().path());
    // Podman's own paths have one, but for what is asked before the version is known.
    if version.is_none() && path.starts_with("/libpod/") && path != "/libpod/_ping" {
        return reply::not_found();
    }
    // To axum an empty name is one, too.
    if path.contains("//") {
        return reply::not_found();
    }
    let joined = join_name(request.method(), path);
    if version.is_some() || joined.is_some() {
        let path = joined.unwrap_or_else(|| path.to_owned());
        match with_path(request.uri(), path) {
            Some(uri) => *request.uri_mut() = uri,
            None => return reply::not_found(),
        }
    }
    if let Some(version) = version {
        request.extensions_mut().insert(version);
    }
    next.run(request).await
}

/// `/v1.41/info` and `/info` are the same to the router.
fn split_version(path: &str) -> (Option<ApiVersion>, &str) {
    let Some(rest) = path.strip_prefix('/') else { return (None, path) };
    let end = rest.find('/').unwrap_or(rest.len());
    match ApiVersion::from_segment(&rest[..end]) {
        Some(version) => (Some(version), &rest[end..]),
        None => (None, path),
    }
}

/// `/images/a/b/json` as `/images/a%2Fb/json`; `None`: the name, if there is one, has no slash.
fn join_name(method: &Method, path: &str) -> Option<String> {
    let scp = method == Method::POST && path.starts_with(SCP);
    let start = match scp {
        true => SCP,
        false => IMAGE_NAMES.into_iter().find(|start| path.starts_with(start))?,
    };
    let segments: Vec<&str> = path[start.len()..].split('/').collect();
    let after = match segments[..] {
        // All of it is the name.
        _ if scp || method == Method::DELETE => 0,
        [_, .., "registry", _] => 2,
        [_, .., last] if OPERATIONS.contains(&last) => 1,
        _ => 0,
    };
    let (name, after) = segments.split_at(segments.len() - after);
    (name.len() > 1).then(|| {
        let mut joined = format!("{start}{}", name.join("%2F"));
        for segment in after {
            joined.push('/');
            joined.push_str(segment);
        }
        joined
    })
}

fn with_path(uri: &Uri, path: String) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        // The version was all of it.
        None if path.is_empty() => "/".to_owned(),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_leaves_the_path() {
        for (path, expected) in [
            ("/v1.41/containers/json", (true, "/containers/json")),
            ("/containers/json", (false, "/containers/json")),
            ("/volumes", (false, "/volumes")),
            ("/v4", (true, "")),
            ("/", (false, "/")),
            ("*", (false, "*")),
        ] {
            let (version, rest) = split_version(path);
            assert_eq!((version.is_some(), rest), expected, "{path}");
        }
    }

    #[test]
    fn names_of_images_become_one_segment() {
        for (method, path, expected) in [
            ("GET", "/images/a/b:1/json", Some("/images/a%2Fb:1/json")),
            ("GET", "/images/a%2Fb/json", None),
            ("GET", "/images/json/json", None),
            ("GET", "/images/json", None),
            ("GET", "/images/a/json/json", Some("/images/a%2Fjson/json")),
            ("DELETE", "/libpod/images/a/json", Some("/libpod/images/a%2Fjson")),
            ("POST", "/libpod/images/scp/a/b", Some("/libpod/images/scp/a%2Fb")),
            ("GET", "/libpod/images/scp/a/json", Some("/libpod/images/scp%2Fa/json")),
            ("GET", "/libpod/images/scp/json", None),
            ("POST", "/libpod/manifests/a/b/registry/c", Some("/libpod/manifests/a%2Fb/registry/c")),
            ("GET", "/containers/a/b/json", None),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(join_name(&method, path).as_deref(), expected, "{method} {path}");
        }
    }

    #[test]
    fn the_query_stays() {
        let uri = Uri::from_static("/v1.41/images/a/b/json?x=%2F&y");
        assert_eq!(with_path(&uri, "/images/a%2Fb/json".to_owned()).unwrap(), "/images/a%2Fb/json?x=%2F&y");
        assert_eq!(with_path(&Uri::from_static("/v4"), String::new()).unwrap(), "/");
    }
}
