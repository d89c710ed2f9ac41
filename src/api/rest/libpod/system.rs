//! The service itself: ping, version.

use std::collections::BTreeMap;

use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::api::rest::extract::Call;
use crate::api::rest::{Outcome, reply, version};

/// Both dialects probe this before anything else.
pub async fn ping(_: Call) -> Outcome {
    let mut reply = reply::text("OK");
    let headers = reply.headers_mut();
    let facts = [
        ("buildkit-version", ""),
        // 2 would make docker build through BuildKit sessions, which are not served.
        ("builder-version", "1"),
        ("docker-experimental", "true"),
        // `docker run --device` fails without it.
        ("ostype", "linux"),
        // By its presence docker clients tell podman's API apart.
        ("libpod-buildah-version", "none"),
    ];
    for (name, value) in facts {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(reply)
}

#[derive(Serialize)]
pub struct Version {
    #[serde(rename = "Platform")]
    platform: Platform,
    #[serde(rename = "Components")]
    components: Vec<Component>,
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "ApiVersion")]
    api_version: &'static str,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: &'static str,
    #[serde(rename = "GitCommit")]
    git_commit: &'static str,
    #[serde(rename = "GoVersion")]
    go_version: &'static str,
    #[serde(rename = "Os")]
    os: &'static str,
    #[serde(rename = "Arch")]
    arch: &'static str,
    #[serde(rename = "KernelVersion")]
    kernel_version: String,
    #[serde(rename = "BuildTime")]
    build_time: &'static str,
}

#[derive(Serialize)]
struct Platform {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "Name")]
    name: &'static str,
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "Details")]
    details: BTreeMap<&'static str, String>,
}

/// The same for both dialects: podman's clients read the first component, docker's the top level.
pub async fn version(_: Call) -> Outcome {
    let kernel_version = kernel_version();
    let engine = BTreeMap::from([
        ("APIVersion", version::LIBPOD.to_owned()),
        ("MinAPIVersion", version::LIBPOD_MINIMUM.to_owned()),
        ("Arch", go_arch().to_owned()),
        ("BuildTime", BUILD_TIME.to_owned()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", NO_GO.to_owned()),
        ("KernelVersion", kernel_version.clone()),
        ("Os", "linux".to_owned()),
    ]);
    Ok(reply::json(&Version {
        platform: Platform { name: format!("linux/{}/selkie-{}", go_arch(), env!("CARGO_PKG_VERSION")) },
        components: vec![
            // The name is what podman's clients look for.
            Component { name: "Podman Engine", version: version::LIBPOD, details: engine },
            Component { name: "Selkie", version: env!("CARGO_PKG_VERSION"), details: BTreeMap::new() },
        ],
        version: version::LIBPOD,
        api_version: version::COMPAT,
        min_api_version: version::COMPAT_MINIMUM,
        git_commit: "",
        go_version: NO_GO,
        os: "linux",
        arch: go_arch(),
        kernel_version,
        build_time: BUILD_TIME,
    }))
}

/// The field is for Go programs; clients print it.
const NO_GO: &str = "rust";
// Clients parse it as a time. A build that records when it was made is not reproducible.
const BUILD_TIME: &str = "1970-01-01T00:00:00Z";

pub fn kernel_version() -> String {
    uname().map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned())
}

/// Go's name of this architecture, which is OCI's too.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
