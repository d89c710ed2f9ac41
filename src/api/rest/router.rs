//! Every route on one page, as an axum router. What happens to a path before it comes here is in
//! `address.rs`, what surrounds the handlers in `layers.rs`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, MatchedPath, Request};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{self, MethodFilter, MethodRouter, get, on};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

use super::layers::{References, answer, carry_through, speak};
use super::reply::{self, Reply, Unrouted};
use super::{Context, Outcome, address, compat, libpod, selkie};
use crate::api::error::{ApiError, Dialect};
use crate::api::kube::Kube;
use crate::engine::Engine;

/// The whole API: answers any request, every failure becomes a reply.
pub type Api = BoxCloneSyncService<Request, Reply, Infallible>;

pub fn api(context: Context) -> Api {
    around(routes::<Context>().into_router(context))
}

fn around(router: Router) -> Api {
    let plain = from_fn(address::make_plain).layer(router);
    BoxCloneSyncService::new(from_fn_with_state(References::default(), answer).layer(plain))
}

/// For any state that has what handlers want: the test of the table has no engine.
fn routes<S>() -> Table<S>
where
    S: Clone + Send + Sync + 'static,
    Context: FromRef<S>,
    Engine: FromRef<S>,
    Arc<dyn Kube>: FromRef<S>,
{
    let podman = Table::default()
        // Asked before anything else, also without a version.
        .route("/libpod/_ping", get(libpod::system::ping))
        // Containers
        .route("/libpod/containers/{name}", delete(libpod::containers::remove))
        // The reference document says POST, and every client says PUT.
        .route("/libpod/containers/{name}/archive", archive().merge(post(libpod::archive::write)))
        .route("/libpod/containers/{name}/attach", watch(libpod::attach::attach))
        .route("/libpod/containers/{name}/exists", get(libpod::containers::exists))
        .route("/libpod/containers/{name}/export", get(libpod::archive::export))
        .route("/libpod/containers/{name}/init", post(libpod::containers::init))
        .route("/libpod/containers/{name}/json", get(libpod::inspect::inspect))
        .route("/libpod/containers/{name}/kill", post(libpod::containers::kill))
        .route("/libpod/containers/{name}/logs", get(libpod::logs::logs))
        .route("/libpod/containers/{name}/pause", post(libpod::containers::pause))
        .route("/libpod/containers/{name}/rename", post(libpod::containers::rename))
        .route("/libpod/containers/{name}/resize", post(libpod::containers::resize))
        .route("/libpod/containers/{name}/restart", post(libpod::containers::restart))
        .route("/libpod/containers/{name}/start", post(libpod::containers::start))
        .route("/libpod/containers/{name}/stats", get(compat::stats::stats))
        .route("/libpod/containers/{name}/stop", post(libpod::containers::stop))
        .route("/libpod/containers/{name}/top", get(libpod::top::container))
        .route("/libpod/containers/{name}/unpause", post(libpod::containers::unpause))
        .route("/libpod/containers/{name}/wait", watch(libpod::containers::wait))
        .route("/libpod/containers/create", post(libpod::create::create))
        .route("/libpod/containers/json", get(libpod::containers::list))
        .route("/libpod/containers/prune", post(libpod::containers::prune))
        .route("/libpod/containers/stats", get(libpod::stats::containers))
        // Kube
        .route("/libpod/generate/kube", get(libpod::kube::generate))
        .route("/libpod/play/kube", post(libpod::kube::play).merge(delete(libpod::kube::down)))
        .route("/libpod/kube/play", post(libpod::kube::play).merge(delete(libpod::kube::down)))
        .route("/libpod/kube/generate", get(libpod::kube::generate))
        // Exec
        .route("/libpod/containers/{name}/exec", post(libpod::exec::create))
        .route("/libpod/exec/{id}/json", get(libpod::exec::inspect))
        .route("/libpod/exec/{id}/resize", post(libpod::exec::resize))
        .route("/libpod/exec/{id}/start", post(libpod::exec::start))
        .route("/libpod/exec/{id}/remove", post(libpod::exec::remove))
        // Images
        .route("/libpod/images/remove", delete(libpod::images::remove_many))
        .route("/libpod/images/{name}", delete(libpod::images::remove))
        .route("/libpod/images/{name}/exists", get(libpod::images::exists))
        .route("/libpod/images/{name}/get", get(libpod::images::save))
        .route("/libpod/images/{name}/history", get(libpod::images::history))
        .route("/libpod/images/{name}/json", get(libpod::images::inspect))
        .route("/libpod/images/{name}/push", watch(libpod::images::push))
        .route("/libpod/images/{name}/tag", post(libpod::images::tag))
        .route("/libpod/images/{name}/untag", post(libpod::images::untag))
        .route("/libpod/images/export", get(libpod::images::save_many))
        .route("/libpod/images/json", get(libpod::images::list))
        .route("/libpod/images/load", post(libpod::images::load))
        .route("/libpod/images/prune", post(libpod::images::prune))
        .route("/libpod/images/pull", watch(libpod::images::pull))
        .route("/libpod/images/{name}/resolve", get(libpod::images::resolve))
        // Networks
        .route(
            "/libpod/networks/{name}",
            get(libpod::networks::inspect).merge(delete(libpod::networks::remove)),
        )
        .route("/libpod/networks/{name}/json", get(libpod::networks::inspect))
        .route("/libpod/networks/create", post(libpod::networks::create))
        .route("/libpod/networks/json", get(libpod::networks::list))
        .route("/libpod/networks/{name}/exists", get(libpod::networks::exists))
        // Pods
        .route("/libpod/pods/{name}", delete(libpod::pods::remove))
        .route("/libpod/pods/{name}/exists", get(libpod::pods::exists))
        .route("/libpod/pods/{name}/json", get(libpod::pods::inspect))
        .route("/libpod/pods/{name}/kill", post(libpod::pods::kill))
        .route("/libpod/pods/{name}/pause", post(libpod::pods::pause))
        .route("/libpod/pods/{name}/restart", post(libpod::pods::restart))
        .route("/libpod/pods/{name}/start", post(libpod::pods::start))
        .route("/libpod/pods/{name}/stop", post(libpod::pods::stop))
        .route("/libpod/pods/{name}/top", get(libpod::top::pod))
        .route("/libpod/pods/{name}/unpause", post(libpod::pods::unpause))
        .route("/libpod/pods/create", post(libpod::pods::create))
        .route("/libpod/pods/json", get(libpod::pods::list))
        .route("/libpod/pods/prune", post(libpod::pods::prune))
        .route("/libpod/pods/stats", get(libpod::stats::pods))
        // Volumes
        .route("/libpod/volumes/{name}", delete(libpod::volumes::remove))
        .route("/libpod/volumes/{name}/json", get(libpod::volumes::inspect))
        .route("/libpod/volumes/create", post(libpod::volumes::create))
        .route("/libpod/volumes/json", get(libpod::volumes::list))
        .route("/libpod/volumes/prune", post(libpod::volumes::prune))
        .route("/libpod/volumes/{name}/exists", get(libpod::volumes::exists))
        // System
        .route("/libpod/events", get(libpod::events::events))
        .route("/libpod/info", get(libpod::system::info))
        .route("/libpod/version", get(libpod::system::version))
        // Our own.
        .route("/selkie/v1/status", get(selkie::status))
        .route("/selkie/v1/plan", watch(selkie::plan))
        .route("/selkie/v1/apply", post(selkie::apply))
        .route("/selkie/v1/dismantle", post(selkie::dismantle))
        .route("/selkie/v1/hand-over", post(selkie::hand_over))
        .not_offered(PODMAN_NOT_OFFERED);
    let docker = Table::default()
        .route("/_ping", get(libpod::system::ping))
        // Containers
        .route("/containers/{name}", delete(compat::containers::remove))
        .route("/containers/{name}/archive", archive())
        .route("/containers/{name}/attach", watch(libpod::attach::attach))
        .route("/containers/{name}/export", get(libpod::archive::export))
        .route("/containers/{name}/json", get(compat::inspect::inspect))
        .route("/containers/{name}/kill", post(libpod::containers::kill))
        .route("/containers/{name}/logs", get(libpod::logs::logs))
        .route("/containers/{name}/pause", post(libpod::containers::pause))
        .route("/containers/{name}/rename", post(libpod::containers::rename))
        .route("/containers/{name}/resize", post(libpod::containers::resize))
        .route("/containers/{name}/restart", post(libpod::containers::restart))
        .route("/containers/{name}/start", post(libpod::containers::start))
        .route("/containers/{name}/stats", get(compat::stats::stats))
        .route("/containers/{name}/stop", post(libpod::containers::stop))
        .route("/containers/{name}/top", get(libpod::top::container))
        .route("/containers/{name}/unpause", post(libpod::containers::unpause))
        .route("/containers/{name}/wait", watch(compat::containers::wait))
        .route("/containers/create", post(compat::create::create))
        .route("/containers/json", get(compat::containers::list))
        .route("/containers/prune", post(compat::containers::prune))
        // Exec
        .route("/containers/{name}/exec", post(libpod::exec::create))
        .route("/exec/{id}/json", get(libpod::exec::inspect))
        .route("/exec/{id}/resize", post(libpod::exec::resize))
        .route("/exec/{id}/start", post(libpod::exec::start))
        // Images
        .route("/images/{name}", delete(compat::images::remove))
        .route("/images/{name}/get", get(compat::images::save))
        .route("/images/{name}/history", get(libpod::images::history))
        .route("/images/{name}/json", get(compat::images::inspect))
        .route("/images/{name}/push", watch(compat::images::push))
        .route("/images/{name}/tag", post(libpod::images::tag))
        .route("/images/create", watch(compat::images::create))
        .route("/images/get", get(compat::images::save_many))
        .route("/images/json", get(compat::images::list))
        .route("/images/load", post(compat::images::load))
        .route("/images/prune", post(compat::images::prune))
        // Networks
        .route("/networks", get(compat::networks::list))
        .route("/networks/{name}", get(compat::networks::inspect).merge(delete(compat::networks::remove)))
        .route("/networks/create", post(compat::networks::create))
        // Volumes
        .route("/volumes", get(compat::volumes::list))
        .route("/volumes/{name}", get(compat::volumes::inspect).merge(delete(libpod::volumes::remove)))
        .route("/volumes/create", post(compat::volumes::create))
        .route("/volumes/prune", post(compat::volumes::prune))
        // System
        .route("/events", get(libpod::events::events))
        .route("/info", get(compat::system::info))
        .route("/version", get(libpod::system::version))
        // There is no swarm, as podman says.
        .route("/configs/{*rest}", get(compat::system::no_swarm).post(compat::system::no_swarm))
        .route("/nodes/{*rest}", get(compat::system::no_swarm).post(compat::system::no_swarm))
        .route("/services/{*rest}", get(compat::system::no_swarm).post(compat::system::no_swarm))
        .route("/swarm/{*rest}", get(compat::system::no_swarm).post(compat::system::no_swarm))
        .route("/tasks/{*rest}", get(compat::system::no_swarm))
        .not_offered(DOCKER_NOT_OFFERED);
    podman.spoken_in(Dialect::Libpod).and(docker.spoken_in(Dialect::Compat))
}

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const PUT: MethodFilter = MethodFilter::PUT;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// An operation of the API that selkie does not have yet; it answers with its name.
type NotOffered = (MethodFilter, &'static str, &'static str);

const PODMAN_NOT_OFFERED: &[NotOffered] = &[
    (POST, "/libpod/commit", "Commit"),
    (GET, "/libpod/containers/{name}/healthcheck", "Run a container's healthcheck"),
    (GET, "/libpod/containers/{name}/changes", "Report changes of a container's file system"),
    (POST, "/libpod/containers/{name}/checkpoint", "Checkpoint a container"),
    (POST, "/libpod/containers/{name}/mount", "Mount a container"),
    (POST, "/libpod/containers/{name}/restore", "Restore a container"),
    (POST, "/libpod/containers/{name}/unmount", "Unmount a container"),
    (GET, "/libpod/containers/showmounted", "Show mounted containers"),
    (POST, "/libpod/containers/{name}/update", "Update a container"),
    (GET, "/libpod/generate/{name}/systemd", "Generate Systemd Units"),
    (POST, "/libpod/kube/apply", "Apply Kubernetes YAML to a cluster"),
    (POST, "/libpod/build", "Create image"),
    (GET, "/libpod/images/{name}/tree", "Image tree"),
    (GET, "/libpod/images/{name}/changes", "Report changes of an image's file system"),
    (POST, "/libpod/images/import", "Import image"),
    (GET, "/libpod/images/search", "Search images"),
    (POST, "/libpod/images/scp/{name}", "Copy an image between hosts"),
    (DELETE, "/libpod/manifests/{name}", "Remove"),
    (POST, "/libpod/manifests/{name}/add", "AddManifest"),
    (GET, "/libpod/manifests/{name}/json", "Inspect"),
    (POST, "/libpod/manifests/{name}/push", "Push"),
    (POST, "/libpod/manifests/create", "Create"),
    (GET, "/libpod/manifests/{name}/exists", "Manifest list exists"),
    (PUT, "/libpod/manifests/{name}", "Modify a manifest list"),
    (POST, "/libpod/manifests/{name}/registry/{destination}", "Push a manifest list"),
    (POST, "/libpod/manifests/{name}", "Create a manifest list"),
    (POST, "/libpod/networks/{name}/connect", "Connect container to network"),
    (POST, "/libpod/networks/{name}/disconnect", "Disconnect container from network"),
    (POST, "/libpod/networks/prune", "Prune networks"),
    (POST, "/libpod/networks/{name}/update", "Update a network"),
    (GET, "/libpod/volumes/{name}/export", "Export a volume"),
    (POST, "/libpod/volumes/{name}/import", "Import a volume"),
    (GET, "/libpod/system/df", "Show disk usage"),
    (POST, "/libpod/system/prune", "Prune unused data"),
    (POST, "/libpod/system/check", "Check the storage"),
    (POST, "/libpod/secrets/create", "Create a secret"),
    (GET, "/libpod/secrets/json", "List secrets"),
    (GET, "/libpod/secrets/{name}/json", "Inspect a secret"),
    (GET, "/libpod/secrets/{name}/exists", "Secret exists"),
    (DELETE, "/libpod/secrets/{name}", "Remove a secret"),
];

const DOCKER_NOT_OFFERED: &[NotOffered] = &[
    (POST, "/commit", "New Image"),
    (POST, "/containers/{name}/update", "Update a container"),
    (POST, "/build", "Create image"),
    (GET, "/images/search", "Search images"),
    (POST, "/networks/{name}/connect", "Connect container to network"),
    (POST, "/networks/{name}/disconnect", "Disconnect container from network"),
    (POST, "/networks/prune", "Delete unused networks"),
    (GET, "/system/df", "Show disk usage"),
    (POST, "/auth", "Check a registry login"),
];

async fn not_offered(operation: &'static str) -> Outcome {
    let message = format!("operation {operation:?} is not supported by selkie yet");
    Err(ApiError::with_status(StatusCode::NOT_IMPLEMENTED, message))
}

/// A HEAD of its own: reading a whole archive to answer it would be a waste.
fn archive<S>() -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Context: FromRef<S>,
{
    let write = routing::put(libpod::archive::write).route_layer(from_fn(carry_through));
    get(libpod::archive::read).head(libpod::archive::stat).merge(write)
}

/// Changes something, so it is carried through even if the client leaves.
fn post<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    routing::post(handler).route_layer(from_fn(carry_through))
}

fn delete<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    routing::delete(handler).route_layer(from_fn(carry_through))
}

/// A POST that is for its client alone, and ends with it.
fn watch<H, T, S>(handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    routing::post(handler)
}

/// Two routers, because axum lets a path's words win whatever the method: `DELETE /containers/json`
/// means a container of that name, although there is a `GET /containers/json`.
struct Table<S> {
    /// Paths with a word where others have a name. They are tried first.
    words: Router<S>,
    names: Router<S>,
}

impl<S: Clone + Send + Sync + 'static> Default for Table<S> {
    fn default() -> Self {
        Self { words: Router::new(), names: Router::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    fn route(self, path: &str, methods: MethodRouter<S>) -> Self {
        let Self { words, names } = self;
        let inner = path.strip_prefix("/libpod").unwrap_or(path);
        match inner.split('/').nth(2).is_some_and(|segment| segment.starts_with('{')) {
            true => Self { words, names: names.route(path, methods) },
            false => Self { words: words.route(path, methods), names },
        }
    }

    fn not_offered(self, rows: &[NotOffered]) -> Self {
        rows.iter().fold(self, |table, (method, path, operation)| {
            table.route(path, on(*method, || not_offered(operation)))
        })
    }

    fn spoken_in(self, dialect: Dialect) -> Self {
        self.each(|router| router.layer(from_fn_with_state(dialect, speak)))
    }

    fn and(self, other: Self) -> Self {
        Self { words: self.words.merge(other.words), names: self.names.merge(other.names) }
    }

    fn each(self, change: impl Fn(Router<S>) -> Router<S>) -> Self {
        Self { words: change(self.words), names: change(self.names) }
    }

    fn into_router(self, state: S) -> Router {
        let names = self.names.method_not_allowed_fallback(async || reply::wrong_method());
        let names: Router = names.fallback(async || reply::not_found()).with_state(state.clone());
        let maybe_name = names.clone();
        let words = self.words.method_not_allowed_fallback(async move |mut request: Request| {
            // axum would take the name's path for a part of the word's.
            request.extensions_mut().remove::<MatchedPath>();
            let Ok(reply) = maybe_name.oneshot(request).await;
            match reply.extensions().get::<Unrouted>() {
                // axum says which methods the word has.
                Some(Unrouted) => reply::wrong_method(),
                None => reply,
            }
        });
        words.fallback_service(names).with_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::header::ALLOW;
    use axum::middleware::Next;

    use crate::api::rest::extract::Path;

    /// Method and path of every operation of the API's reference document.
    const OPERATIONS: &str = include_str!("../../../tests/fast/rest/operations.tsv");

    /// No handler is reached, so none takes anything of it.
    #[derive(Clone)]
    struct Unused;

    impl FromRef<Unused> for Context {
        fn from_ref(_: &Unused) -> Self {
            unreachable!()
        }
    }

    impl FromRef<Unused> for Engine {
        fn from_ref(_: &Unused) -> Self {
            unreachable!()
        }
    }

    impl FromRef<Unused> for Arc<dyn Kube> {
        fn from_ref(_: &Unused) -> Self {
            unreachable!()
        }
    }

    async fn tell(route: MatchedPath, name: Result<Path<String>, ApiError>, _: Request, _: Next) -> Reply {
        let name = name.map(|Path(name)| name).unwrap_or_default();
        reply::text(format!("{} {name}", route.as_str()))
    }

    /// The real table in its real surroundings; each route answers with itself and the name it was given.
    async fn ask(method: &str, path: &str) -> Reply {
        let table = routes::<Unused>().each(|router| router.layer(from_fn(tell)));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let Ok(reply) = around(table.into_router(Unused)).oneshot(request).await;
        reply
    }

    /// The route and the name found, or the status otherwise.
    async fn found(method: &str, path: &str) -> Result<(String, String), u16> {
        let reply = ask(method, path).await;
        if reply.status() != StatusCode::OK {
            return Err(reply.status().as_u16());
        }
        assert!(!reply.headers().contains_key(ALLOW), "{method} {path}");
        let body = to_bytes(reply.into_body(), 1 << 16).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (route, name) = text.split_once(' ').unwrap();
        Ok((route.to_owned(), name.to_owned()))
    }

    #[tokio::test]
    async fn every_operation_has_its_own_row() {
        let mut count = 0;
        for line in OPERATIONS.lines().filter(|line| !line.starts_with('#')) {
            let (method, path) = line.split_once('\t').expect("method, tab, path");
            let route = path.replace("{name:.*}", "{name}");
            let request = path.replace("{name:.*}", "a%2Fb").replace("{name}", "a").replace("{id}", "a");
            for prefix in prefixes(path) {
                let (found, _) = found(method, &format!("{prefix}{request}")).await.unwrap_or_default();
                assert_eq!(found, route, "{method} {prefix}{request}");
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

    #[tokio::test]
    async fn requests_find_their_route() {
        let image = "/libpod/images/{name}/json";
        for (method, path, expected) in [
            ("GET", "/v4.3.1/libpod/images/json", Ok(("/libpod/images/json", ""))),
            ("GET", "/v4.3.1/libpod/images/a%2Fb%3A1/json", Ok((image, "a/b:1"))),
            ("GET", "/v4.3.1/libpod/images/a/b:1/json", Ok((image, "a/b:1"))),
            ("GET", "/v4/libpod/images/json/json", Ok((image, "json"))),
            ("GET", "/v4/libpod/images/scp/json", Ok((image, "scp"))),
            ("DELETE", "/v4/libpod/images/a/json", Ok(("/libpod/images/{name}", "a/json"))),
            ("GET", "/libpod/images/json", Err(404)),
            ("GET", "/libpod/info", Err(404)),
            ("GET", "/libpod/_ping", Ok(("/libpod/_ping", ""))),
            ("HEAD", "/_ping", Ok(("/_ping", ""))),
            ("GET", "/containers/web/json", Ok(("/containers/{name}/json", "web"))),
            ("GET", "/v1.41/containers/web/json?x=y", Ok(("/containers/{name}/json", "web"))),
            ("POST", "/containers/web/json", Err(405)),
            ("GET", "/containers//json", Err(404)),
            ("DELETE", "/containers/", Err(404)),
            ("GET", "/containers/a/b/json", Err(404)),
            ("GET", "/containers/json/", Err(404)),
            ("GET", "/", Err(404)),
            ("GET", "/v1.41", Err(404)),
            ("GET", "/swarm/a/b", Ok(("/swarm/{*rest}", "a/b"))),
        ] {
            if method == "HEAD" {
                assert_eq!(ask(method, path).await.status(), StatusCode::OK, "{method} {path}");
                continue;
            }
            let expected = expected.map(|(route, name)| (route.to_owned(), name.to_owned()));
            assert_eq!(found(method, path).await, expected, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_word_wins_over_a_name_but_for_other_methods() {
        for (method, path, expected) in [
            ("DELETE", "/v4.3.1/libpod/images/remove", "/libpod/images/remove"),
            ("GET", "/v5.8.0/libpod/networks/json", "/libpod/networks/json"),
            ("DELETE", "/v5.8.0/libpod/networks/json", "/libpod/networks/{name}"),
            ("DELETE", "/containers/json", "/containers/{name}"),
            ("GET", "/networks/create", "/networks/{name}"),
        ] {
            assert_eq!(found(method, path).await.unwrap().0, expected, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn what_has_no_route_is_told_in_plain_text() {
        for (method, path, status, text, allow) in [
            ("GET", "/no/such", 404, "Not Found\n", None),
            ("POST", "/version", 405, "Method Not Allowed\n", Some("GET,HEAD")),
            ("PUT", "/containers/json", 405, "Method Not Allowed\n", Some("GET,HEAD")),
            ("PUT", "/containers/web", 405, "Method Not Allowed\n", Some("DELETE")),
        ] {
            let reply = ask(method, path).await;
            assert_eq!(reply.status().as_u16(), status, "{method} {path}");
            let allowed = reply.headers().get(ALLOW).map(|value| value.to_str().unwrap());
            assert_eq!(allowed, allow, "{method} {path}");
            let body = to_bytes(reply.into_body(), 1 << 16).await.unwrap();
            assert_eq!(body, text, "{method} {path}");
        }
    }
}
