//! Every route on one page. The first row that fits wins; `dispatch.rs` does the matching.

use hyper::{Method, StatusCode};

use super::dispatch::Route;
pub use super::dispatch::Router;
use super::extract::Call;
use super::{Outcome, libpod, selkie};
use crate::api::error::ApiError;

impl Router {
    pub fn new() -> Self {
        Self::with_routes(routes())
    }
}

fn routes() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    vec![
        // Both dialects: with and without a version, for probes.
        get("/_ping", libpod::system::ping),
        head("/_ping", libpod::system::ping),
        get("/libpod/_ping", libpod::system::ping).unversioned(),
        head("/libpod/_ping", libpod::system::ping).unversioned(),
        // Our own.
        get("/selkie/v1/status", selkie::status),
        post("/selkie/v1/plan", selkie::plan).watching(),
        post("/selkie/v1/apply", selkie::apply),
        // Kubernetes YAML: later spellings of routes below.
        delete("/libpod/play/kube", libpod::kube::down),
        post("/libpod/kube/play", libpod::kube::play),
        delete("/libpod/kube/play", libpod::kube::down),
        get("/libpod/kube/generate", libpod::kube::generate),
        // libpod: containers
        later(POST, "/libpod/commit", "Commit"),
        later(GET, "/libpod/containers/{name..}/healthcheck", "Run a container's healthcheck"),
        later(DELETE, "/libpod/containers/{name}", "Delete container"),
        later(POST, "/libpod/containers/{name}/archive", "Copy files into a container"),
        later(POST, "/libpod/containers/{name}/attach", "Attach to a container"),
        later(
            GET,
            "/libpod/containers/{name}/changes",
            "Report on changes to container's filesystem; adds, deletes or modifications",
        ),
        later(POST, "/libpod/containers/{name}/checkpoint", "Checkpoint a container"),
        later(GET, "/libpod/containers/{name}/exists", "Check if container exists"),
        later(GET, "/libpod/containers/{name}/export", "Export a container"),
        later(POST, "/libpod/containers/{name}/init", "Initialize a container"),
        later(GET, "/libpod/containers/{name}/json", "Inspect container"),
        later(POST, "/libpod/containers/{name}/kill", "Kill container"),
        later(GET, "/libpod/containers/{name}/logs", "Get container logs"),
        later(POST, "/libpod/containers/{name}/mount", "Mount a container"),
        later(POST, "/libpod/containers/{name}/pause", "Pause a container"),
        later(POST, "/libpod/containers/{name}/rename", "Rename an existing container"),
        later(POST, "/libpod/containers/{name}/resize", "Resize a container's TTY"),
        later(POST, "/libpod/containers/{name}/restart", "Restart a container"),
        later(POST, "/libpod/containers/{name}/restore", "Restore a container"),
        later(POST, "/libpod/containers/{name}/start", "Start a container"),
        later(GET, "/libpod/containers/{name}/stats", "Get stats for a container"),
        later(POST, "/libpod/containers/{name}/stop", "Stop a container"),
        later(GET, "/libpod/containers/{name}/top", "List processes"),
        later(POST, "/libpod/containers/{name}/unmount", "Unmount a container"),
        later(POST, "/libpod/containers/{name}/unpause", "Unpause Container"),
        later(POST, "/libpod/containers/{name}/wait", "Wait on a container"),
        later(POST, "/libpod/containers/create", "Create a container"),
        later(GET, "/libpod/containers/json", "List containers"),
        later(POST, "/libpod/containers/prune", "Delete stopped containers"),
        later(GET, "/libpod/containers/showmounted", "Show mounted containers"),
        later(GET, "/libpod/containers/stats", "Get stats for one or more containers"),
        later(GET, "/libpod/generate/{name..}/systemd", "Generate Systemd Units"),
        get("/libpod/generate/kube", libpod::kube::generate),
        post("/libpod/play/kube", libpod::kube::play),
        // libpod: exec
        later(POST, "/libpod/containers/{name}/exec", "Create an exec instance"),
        later(GET, "/libpod/exec/{id}/json", "Inspect an exec instance"),
        later(POST, "/libpod/exec/{id}/resize", "Resize an exec instance"),
        later(POST, "/libpod/exec/{id}/start", "Start an exec instance"),
        // libpod: images
        later(POST, "/libpod/build", "Create image"),
        later(DELETE, "/libpod/images/{name..}", "Remove an image from the local storage"),
        later(GET, "/libpod/images/{name..}/exists", "Image exists"),
        later(GET, "/libpod/images/{name..}/get", "Export an image"),
        later(GET, "/libpod/images/{name..}/history", "History of an image"),
        later(GET, "/libpod/images/{name..}/json", "Inspect an image"),
        later(POST, "/libpod/images/{name..}/push", "Push Image"),
        later(POST, "/libpod/images/{name..}/tag", "Tag an image"),
        later(GET, "/libpod/images/{name..}/tree", "Image tree"),
        later(POST, "/libpod/images/{name..}/untag", "Untag an image"),
        later(
            GET,
            "/libpod/images/{name}/changes",
            "Report on changes to images's filesystem; adds, deletes or modifications",
        ),
        later(GET, "/libpod/images/export", "Export multiple images"),
        later(POST, "/libpod/images/import", "Import image"),
        later(GET, "/libpod/images/json", "List Images"),
        later(POST, "/libpod/images/load", "Load image"),
        later(POST, "/libpod/images/prune", "Prune unused images"),
        later(POST, "/libpod/images/pull", "Pull images"),
        later(DELETE, "/libpod/images/remove", "Remove one or more images from the storage"),
        later(GET, "/libpod/images/search", "Search images"),
        // libpod: manifests
        later(DELETE, "/libpod/manifests/{name..}", "Remove"),
        later(POST, "/libpod/manifests/{name..}/add", "AddManifest"),
        later(GET, "/libpod/manifests/{name..}/json", "Inspect"),
        later(POST, "/libpod/manifests/{name}/push", "Push"),
        later(POST, "/libpod/manifests/create", "Create"),
        // libpod: networks
        later(DELETE, "/libpod/networks/{name}", "Remove a network"),
        later(POST, "/libpod/networks/{name}/connect", "Connect container to network"),
        later(POST, "/libpod/networks/{name}/disconnect", "Disconnect container from network"),
        later(GET, "/libpod/networks/{name}/json", "Inspect a network"),
        later(POST, "/libpod/networks/create", "Create network"),
        later(GET, "/libpod/networks/json", "List networks"),
        // libpod: pods
        later(DELETE, "/libpod/pods/{name}", "Remove pod"),
        later(GET, "/libpod/pods/{name}/exists", "Pod exists"),
        later(GET, "/libpod/pods/{name}/json", "Inspect pod"),
        later(POST, "/libpod/pods/{name}/kill", "Kill a pod"),
        later(POST, "/libpod/pods/{name}/pause", "Pause a pod"),
        later(POST, "/libpod/pods/{name}/restart", "Restart a pod"),
        later(POST, "/libpod/pods/{name}/start", "Start a pod"),
        later(POST, "/libpod/pods/{name}/stop", "Stop a pod"),
        later(GET, "/libpod/pods/{name}/top", "List processes"),
        later(POST, "/libpod/pods/{name}/unpause", "Unpause a pod"),
        later(POST, "/libpod/pods/create", "Create a pod"),
        later(GET, "/libpod/pods/json", "List pods"),
        later(POST, "/libpod/pods/prune", "Prune unused pods"),
        later(GET, "/libpod/pods/stats", "Get stats for one or more pods"),
        // libpod: volumes
        later(DELETE, "/libpod/volumes/{name}", "Remove volume"),
        later(GET, "/libpod/volumes/{name}/json", "Inspect volume"),
        later(POST, "/libpod/volumes/create", "Create a volume"),
        later(GET, "/libpod/volumes/json", "List volumes"),
        later(POST, "/libpod/volumes/prune", "Prune volumes"),
        // libpod: system
        later(GET, "/libpod/events", "Get events"),
        later(GET, "/libpod/info", "Get info"),
        later(GET, "/libpod/system/df", "Show disk usage"),
        later(POST, "/libpod/system/prune", "Prune unused data"),
        get("/libpod/version", libpod::system::version),
        // libpod: containers
        later(GET, "/libpod/containers/{name}/archive", "Copy files from a container"),
        // compat: containers
        later(POST, "/commit", "New Image"),
        later(DELETE, "/containers/{name}", "Remove a container"),
        later(GET, "/containers/{name}/archive", "Get files from a container"),
        later(PUT, "/containers/{name}/archive", "Put files into a container"),
        later(POST, "/containers/{name}/attach", "Attach to a container"),
        later(GET, "/containers/{name}/export", "Export a container"),
        later(GET, "/containers/{name}/json", "Inspect container"),
        later(POST, "/containers/{name}/kill", "Kill container"),
        later(GET, "/containers/{name}/logs", "Get container logs"),
        later(POST, "/containers/{name}/pause", "Pause container"),
        later(POST, "/containers/{name}/rename", "Rename an existing container"),
        later(POST, "/containers/{name}/resize", "Resize a container's TTY"),
        later(POST, "/containers/{name}/restart", "Restart container"),
        later(POST, "/containers/{name}/start", "Start a container"),
        later(GET, "/containers/{name}/stats", "Get stats for a container"),
        later(POST, "/containers/{name}/stop", "Stop a container"),
        later(GET, "/containers/{name}/top", "List processes running inside a container"),
        later(POST, "/containers/{name}/unpause", "Unpause container"),
        later(POST, "/containers/{name}/wait", "Wait on a container"),
        later(POST, "/containers/create", "Create a container"),
        later(GET, "/containers/json", "List containers"),
        later(POST, "/containers/prune", "Delete stopped containers"),
        // compat: exec
        later(POST, "/containers/{name}/exec", "Create an exec instance"),
        later(GET, "/exec/{id}/json", "Inspect an exec instance"),
        later(POST, "/exec/{id}/resize", "Resize an exec instance"),
        later(POST, "/exec/{id}/start", "Start an exec instance"),
        // compat: images
        later(POST, "/build", "Create image"),
        later(DELETE, "/images/{name..}", "Remove Image"),
        later(GET, "/images/{name..}/get", "Export an image"),
        later(GET, "/images/{name..}/history", "History of an image"),
        later(GET, "/images/{name..}/json", "Inspect an image"),
        later(POST, "/images/{name..}/push", "Push Image"),
        later(POST, "/images/{name..}/tag", "Tag an image"),
        later(POST, "/images/create", "Create an image"),
        later(GET, "/images/get", "Export several images"),
        later(GET, "/images/json", "List Images"),
        later(POST, "/images/load", "Import image"),
        later(POST, "/images/prune", "Prune unused images"),
        later(GET, "/images/search", "Search images"),
        // compat: networks
        later(GET, "/networks", "List networks"),
        later(DELETE, "/networks/{name}", "Remove a network"),
        later(GET, "/networks/{name}", "Inspect a network"),
        later(POST, "/networks/{name}/connect", "Connect container to network"),
        later(POST, "/networks/{name}/disconnect", "Disconnect container from network"),
        later(POST, "/networks/create", "Create network"),
        later(POST, "/networks/prune", "Delete unused networks"),
        // compat: volumes
        later(GET, "/volumes", "List volumes"),
        later(DELETE, "/volumes/{name}", "Remove volume"),
        later(GET, "/volumes/{name}", "Inspect volume"),
        later(POST, "/volumes/create", "Create a volume"),
        later(POST, "/volumes/prune", "Prune volumes"),
        // compat: system
        later(GET, "/events", "Get events"),
        later(GET, "/info", "Get info"),
        get("/version", libpod::system::version),
    ]
}

fn get<F, Fut>(path: &'static str, handler: F) -> Route
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Route::new(Method::GET, path, handler)
}

fn head<F, Fut>(path: &'static str, handler: F) -> Route
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Route::new(Method::HEAD, path, handler)
}

fn post<F, Fut>(path: &'static str, handler: F) -> Route
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Route::new(Method::POST, path, handler)
}

fn delete<F, Fut>(path: &'static str, handler: F) -> Route
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Route::new(Method::DELETE, path, handler)
}

/// An operation of the API that selkie does not have yet: it says so by name.
fn later(method: Method, path: &'static str, operation: &'static str) -> Route {
    Route::new(method, path, move |_| async move {
        let message = format!("operation {operation:?} is not supported by selkie yet");
        Err(ApiError::with_status(StatusCode::NOT_IMPLEMENTED, message))
    })
}
