//! Every route on one page. The first row that fits wins; `dispatch.rs` does the matching.

use hyper::{Method, StatusCode};

use super::dispatch::Route;
pub use super::dispatch::Router;
use super::extract::Call;
use super::{Outcome, compat, libpod, selkie};
use crate::api::error::ApiError;

impl Default for Router {
    fn default() -> Self {
        Self::with_routes(routes())
    }
}

fn routes() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    vec![
        // Probed before anything else: with and without a version.
        get("/_ping", libpod::system::ping),
        head("/_ping", libpod::system::ping),
        get("/libpod/_ping", libpod::system::ping).unversioned(),
        head("/libpod/_ping", libpod::system::ping).unversioned(),
        // Our own.
        get("/selkie/v1/status", selkie::status),
        post("/selkie/v1/plan", selkie::plan).watching(),
        post("/selkie/v1/apply", selkie::apply),
        post("/selkie/v1/dismantle", selkie::dismantle),
        post("/selkie/v1/hand-over", selkie::hand_over),
        // podman: containers
        later(POST, "/libpod/commit", "Commit"),
        later(GET, "/libpod/containers/{name..}/healthcheck", "Run a container's healthcheck"),
        delete("/libpod/containers/{name}", libpod::containers::remove),
        later(POST, "/libpod/containers/{name}/archive", "Copy files into a container"),
        post("/libpod/containers/{name}/attach", libpod::attach::attach).watching(),
        later(GET, "/libpod/containers/{name}/changes", "Report changes of a container's file system"),
        later(POST, "/libpod/containers/{name}/checkpoint", "Checkpoint a container"),
        get("/libpod/containers/{name}/exists", libpod::containers::exists),
        later(GET, "/libpod/containers/{name}/export", "Export a container"),
        post("/libpod/containers/{name}/init", libpod::containers::init),
        get("/libpod/containers/{name}/json", libpod::inspect::inspect),
        post("/libpod/containers/{name}/kill", libpod::containers::kill),
        get("/libpod/containers/{name}/logs", libpod::logs::logs),
        later(POST, "/libpod/containers/{name}/mount", "Mount a container"),
        post("/libpod/containers/{name}/pause", libpod::containers::pause),
        later(POST, "/libpod/containers/{name}/rename", "Rename an existing container"),
        post("/libpod/containers/{name}/resize", libpod::containers::resize),
        post("/libpod/containers/{name}/restart", libpod::containers::restart),
        later(POST, "/libpod/containers/{name}/restore", "Restore a container"),
        post("/libpod/containers/{name}/start", libpod::containers::start),
        later(GET, "/libpod/containers/{name}/stats", "Get stats for a container"),
        post("/libpod/containers/{name}/stop", libpod::containers::stop),
        later(GET, "/libpod/containers/{name}/top", "List processes"),
        later(POST, "/libpod/containers/{name}/unmount", "Unmount a container"),
        post("/libpod/containers/{name}/unpause", libpod::containers::unpause),
        post("/libpod/containers/{name}/wait", libpod::containers::wait).watching(),
        post("/libpod/containers/create", libpod::create::create),
        get("/libpod/containers/json", libpod::containers::list),
        post("/libpod/containers/prune", libpod::containers::prune),
        later(GET, "/libpod/containers/showmounted", "Show mounted containers"),
        later(GET, "/libpod/containers/stats", "Get stats for one or more containers"),
        later(GET, "/libpod/containers/{name}/archive", "Copy files from a container"),
        later(PUT, "/libpod/containers/{name}/archive", "Copy files into a container"),
        later(POST, "/libpod/containers/{name}/update", "Update a container"),
        // podman: kube
        later(GET, "/libpod/generate/{name..}/systemd", "Generate Systemd Units"),
        get("/libpod/generate/kube", libpod::kube::generate),
        post("/libpod/play/kube", libpod::kube::play),
        delete("/libpod/play/kube", libpod::kube::down),
        post("/libpod/kube/play", libpod::kube::play),
        delete("/libpod/kube/play", libpod::kube::down),
        get("/libpod/kube/generate", libpod::kube::generate),
        later(POST, "/libpod/kube/apply", "Apply Kubernetes YAML to a cluster"),
        // podman: exec
        post("/libpod/containers/{name}/exec", libpod::exec::create),
        get("/libpod/exec/{id}/json", libpod::exec::inspect),
        post("/libpod/exec/{id}/resize", libpod::exec::resize),
        post("/libpod/exec/{id}/start", libpod::exec::start),
        post("/libpod/exec/{id}/remove", libpod::exec::remove),
        // podman: images
        later(POST, "/libpod/build", "Create image"),
        delete("/libpod/images/remove", libpod::images::remove_many),
        delete("/libpod/images/{name..}", libpod::images::remove),
        get("/libpod/images/{name..}/exists", libpod::images::exists),
        later(GET, "/libpod/images/{name..}/get", "Export an image"),
        get("/libpod/images/{name..}/history", libpod::images::history),
        get("/libpod/images/{name..}/json", libpod::images::inspect),
        later(POST, "/libpod/images/{name..}/push", "Push Image"),
        post("/libpod/images/{name..}/tag", libpod::images::tag),
        later(GET, "/libpod/images/{name..}/tree", "Image tree"),
        later(POST, "/libpod/images/{name..}/untag", "Untag an image"),
        later(GET, "/libpod/images/{name}/changes", "Report changes of an image's file system"),
        later(GET, "/libpod/images/export", "Export multiple images"),
        later(POST, "/libpod/images/import", "Import image"),
        get("/libpod/images/json", libpod::images::list),
        post("/libpod/images/load", libpod::images::load),
        later(POST, "/libpod/images/prune", "Prune unused images"),
        post("/libpod/images/pull", libpod::images::pull).watching(),
        later(GET, "/libpod/images/search", "Search images"),
        get("/libpod/images/{name..}/resolve", libpod::images::resolve),
        later(POST, "/libpod/images/scp/{name..}", "Copy an image between hosts"),
        // podman: manifests
        later(DELETE, "/libpod/manifests/{name..}", "Remove"),
        later(POST, "/libpod/manifests/{name..}/add", "AddManifest"),
        later(GET, "/libpod/manifests/{name..}/json", "Inspect"),
        later(POST, "/libpod/manifests/{name}/push", "Push"),
        later(POST, "/libpod/manifests/create", "Create"),
        later(GET, "/libpod/manifests/{name..}/exists", "Manifest list exists"),
        later(PUT, "/libpod/manifests/{name..}", "Modify a manifest list"),
        later(POST, "/libpod/manifests/{name..}/registry/{destination}", "Push a manifest list"),
        later(POST, "/libpod/manifests/{name..}", "Create a manifest list"),
        // podman: networks
        delete("/libpod/networks/{name}", libpod::networks::remove),
        later(POST, "/libpod/networks/{name}/connect", "Connect container to network"),
        later(POST, "/libpod/networks/{name}/disconnect", "Disconnect container from network"),
        get("/libpod/networks/{name}/json", libpod::networks::inspect),
        post("/libpod/networks/create", libpod::networks::create),
        get("/libpod/networks/json", libpod::networks::list),
        get("/libpod/networks/{name}/exists", libpod::networks::exists),
        get("/libpod/networks/{name}", libpod::networks::inspect),
        later(POST, "/libpod/networks/prune", "Prune networks"),
        later(POST, "/libpod/networks/{name}/update", "Update a network"),
        // podman: pods
        delete("/libpod/pods/{name}", libpod::pods::remove),
        get("/libpod/pods/{name}/exists", libpod::pods::exists),
        get("/libpod/pods/{name}/json", libpod::pods::inspect),
        post("/libpod/pods/{name}/kill", libpod::pods::kill),
        post("/libpod/pods/{name}/pause", libpod::pods::pause),
        post("/libpod/pods/{name}/restart", libpod::pods::restart),
        post("/libpod/pods/{name}/start", libpod::pods::start),
        post("/libpod/pods/{name}/stop", libpod::pods::stop),
        later(GET, "/libpod/pods/{name}/top", "List processes"),
        post("/libpod/pods/{name}/unpause", libpod::pods::unpause),
        post("/libpod/pods/create", libpod::pods::create),
        get("/libpod/pods/json", libpod::pods::list),
        post("/libpod/pods/prune", libpod::pods::prune),
        later(GET, "/libpod/pods/stats", "Get stats for one or more pods"),
        // podman: volumes
        delete("/libpod/volumes/{name}", libpod::volumes::remove),
        get("/libpod/volumes/{name}/json", libpod::volumes::inspect),
        post("/libpod/volumes/create", libpod::volumes::create),
        get("/libpod/volumes/json", libpod::volumes::list),
        post("/libpod/volumes/prune", libpod::volumes::prune),
        get("/libpod/volumes/{name}/exists", libpod::volumes::exists),
        later(GET, "/libpod/volumes/{name}/export", "Export a volume"),
        later(POST, "/libpod/volumes/{name}/import", "Import a volume"),
        // podman: system
        get("/libpod/events", libpod::events::events),
        get("/libpod/info", libpod::system::info),
        later(GET, "/libpod/system/df", "Show disk usage"),
        later(POST, "/libpod/system/prune", "Prune unused data"),
        get("/libpod/version", libpod::system::version),
        later(POST, "/libpod/system/check", "Check the storage"),
        later(POST, "/libpod/secrets/create", "Create a secret"),
        later(GET, "/libpod/secrets/json", "List secrets"),
        later(GET, "/libpod/secrets/{name}/json", "Inspect a secret"),
        later(GET, "/libpod/secrets/{name}/exists", "Secret exists"),
        later(DELETE, "/libpod/secrets/{name}", "Remove a secret"),
        // docker: containers
        later(POST, "/commit", "New Image"),
        delete("/containers/{name}", compat::containers::remove),
        later(GET, "/containers/{name}/archive", "Get files from a container"),
        later(PUT, "/containers/{name}/archive", "Put files into a container"),
        post("/containers/{name}/attach", libpod::attach::attach).watching(),
        later(GET, "/containers/{name}/export", "Export a container"),
        get("/containers/{name}/json", compat::inspect::inspect),
        post("/containers/{name}/kill", libpod::containers::kill),
        get("/containers/{name}/logs", libpod::logs::logs),
        post("/containers/{name}/pause", libpod::containers::pause),
        later(POST, "/containers/{name}/rename", "Rename an existing container"),
        post("/containers/{name}/resize", libpod::containers::resize),
        post("/containers/{name}/restart", libpod::containers::restart),
        post("/containers/{name}/start", libpod::containers::start),
        later(GET, "/containers/{name}/stats", "Get stats for a container"),
        post("/containers/{name}/stop", libpod::containers::stop),
        later(GET, "/containers/{name}/top", "List processes running inside a container"),
        post("/containers/{name}/unpause", libpod::containers::unpause),
        post("/containers/{name}/wait", compat::containers::wait).watching(),
        post("/containers/create", compat::create::create),
        get("/containers/json", compat::containers::list),
        post("/containers/prune", compat::containers::prune),
        later(POST, "/containers/{name}/update", "Update a container"),
        // docker: exec
        post("/containers/{name}/exec", libpod::exec::create),
        get("/exec/{id}/json", libpod::exec::inspect),
        post("/exec/{id}/resize", libpod::exec::resize),
        post("/exec/{id}/start", libpod::exec::start),
        // docker: images
        later(POST, "/build", "Create image"),
        delete("/images/{name..}", compat::images::remove),
        later(GET, "/images/{name..}/get", "Export an image"),
        get("/images/{name..}/history", libpod::images::history),
        get("/images/{name..}/json", compat::images::inspect),
        later(POST, "/images/{name..}/push", "Push Image"),
        post("/images/{name..}/tag", libpod::images::tag),
        post("/images/create", compat::images::create).watching(),
        later(GET, "/images/get", "Export several images"),
        get("/images/json", compat::images::list),
        post("/images/load", compat::images::load),
        later(POST, "/images/prune", "Prune unused images"),
        later(GET, "/images/search", "Search images"),
        // docker: networks
        get("/networks", compat::networks::list),
        delete("/networks/{name}", compat::networks::remove),
        get("/networks/{name}", compat::networks::inspect),
        later(POST, "/networks/{name}/connect", "Connect container to network"),
        later(POST, "/networks/{name}/disconnect", "Disconnect container from network"),
        post("/networks/create", compat::networks::create),
        later(POST, "/networks/prune", "Delete unused networks"),
        // docker: volumes
        get("/volumes", compat::volumes::list),
        delete("/volumes/{name}", libpod::volumes::remove),
        get("/volumes/{name}", compat::volumes::inspect),
        post("/volumes/create", compat::volumes::create),
        post("/volumes/prune", compat::volumes::prune),
        // docker: system
        get("/events", libpod::events::events),
        get("/info", compat::system::info),
        get("/version", libpod::system::version),
        later(GET, "/system/df", "Show disk usage"),
        later(POST, "/auth", "Check a registry login"),
        // docker: there is no swarm, as podman says
        get("/configs/{rest..}", compat::system::no_swarm),
        get("/nodes/{rest..}", compat::system::no_swarm),
        get("/services/{rest..}", compat::system::no_swarm),
        get("/swarm/{rest..}", compat::system::no_swarm),
        get("/tasks/{rest..}", compat::system::no_swarm),
        post("/configs/{rest..}", compat::system::no_swarm),
        post("/nodes/{rest..}", compat::system::no_swarm),
        post("/services/{rest..}", compat::system::no_swarm),
        post("/swarm/{rest..}", compat::system::no_swarm),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Method and path of every operation of the API's reference document.
    const OPERATIONS: &str = include_str!("../../../tests/fast/rest/operations.tsv");

    #[test]
    fn every_operation_has_its_own_row() {
        let router = Router::default();
        let mut count = 0;
        for line in OPERATIONS.lines().filter(|line| !line.starts_with('#')) {
            let (method, path) = line.split_once('\t').expect("method, tab, path");
            let method: Method = method.parse().unwrap();
            let pattern = path.replace("{name:.*}", "{name..}");
            let request = path.replace("{name:.*}", "a%2Fb").replace("{name}", "a").replace("{id}", "a");
            for prefix in prefixes(path) {
                let found = router.pattern_of(&method, &format!("{prefix}{request}"));
                assert_eq!(found, Some(pattern.as_str()), "{method} {prefix}{request}");
            }
            count += 1;
        }
        assert_eq!(count, 148);
    }

    /// Docker's paths go with and without a version, podman's only with one, but for the ping.
    fn prefixes(path: &str) -> &'static [&'static str] {
        match path {
            "/libpod/_ping" => &["/v4.3.1", "/v5.8.0", ""],
            path if path.starts_with("/libpod/") => &["/v4.3.1", "/v5.8.0"],
            _ => &["/v1.24", "/v1.44", ""],
        }
    }

    #[test]
    fn podmans_paths_need_a_version() {
        assert_eq!(Router::default().pattern_of(&Method::GET, "/libpod/info"), None);
    }

    #[test]
    fn a_literal_wins_over_a_name() {
        let router = Router::default();
        let found = router.pattern_of(&Method::DELETE, "/v4.3.1/libpod/images/remove");
        assert_eq!(found, Some("/libpod/images/remove"));
        let found = router.pattern_of(&Method::GET, "/v5.8.0/libpod/networks/json");
        assert_eq!(found, Some("/libpod/networks/json"));
    }
}
