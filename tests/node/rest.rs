//! The REST socket itself: status codes, headers, framing, hijacking, idle exit.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Reply, request};
use crate::support::{TestNode, wait_until};

const IMAGE: &str = "localhost/busybox:latest";
const V: &str = "/v5.8.0/libpod";

fn node() -> TestNode {
    let mut node = TestNode::new();
    node.service();
    node.load_busybox();
    node
}

fn get(node: &TestNode, path: &str) -> Reply {
    request(&node.socket(), "GET", path, "application/json", b"")
}

fn send(node: &TestNode, method: &str, path: &str, body: &Value) -> Reply {
    request(&node.socket(), method, path, "application/json", body.to_string().as_bytes())
}

fn post(node: &TestNode, path: &str) -> Reply {
    request(&node.socket(), "POST", path, "application/json", b"")
}

/// Creates a container; its id.
#[track_caller]
fn create(node: &TestNode, spec: Value) -> String {
    let mut body = json!({"image": IMAGE});
    body.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let reply = send(node, "POST", &format!("{V}/containers/create"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["Id"].as_str().unwrap().to_owned()
}

#[test]
fn every_reply_has_the_headers_clients_look_for() {
    let node = node();
    for (path, status) in
        [("/_ping", 200), ("/v1.41/_ping", 200), ("/v4.3.1/libpod/_ping", 200), ("/no", 404)]
    {
        let reply = get(&node, path);
        assert_eq!(reply.status, status, "{path}");
        let headers = reply.headers.to_ascii_lowercase();
        for name in ["api-version: 1.44", "libpod-api-version: 5.8", "server: libpod/5.8", "x-reference-id: "]
        {
            assert!(headers.contains(name), "{path}: {name} in {headers}");
        }
    }
    let ping = get(&node, "/_ping");
    assert_eq!(ping.text(), "OK");
    assert!(ping.headers.to_ascii_lowercase().contains("ostype: linux"));
    let head = request(&node.socket(), "HEAD", "/_ping", "", b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn errors_are_in_their_places() {
    let node = node();
    assert_eq!(get(&node, "/no/such/path").text(), "Not Found\n");
    assert_eq!(get(&node, "/libpod/info").status, 404);
    assert_eq!(post(&node, "/version").status, 405);
    let missing = get(&node, &format!("{V}/containers/nope/json"));
    assert_eq!(missing.status, 404);
    let body = missing.json();
    assert_eq!(body["response"], 404);
    assert_eq!(body["cause"], "no such container");
    assert!(body["message"].as_str().unwrap().contains("no such container"));
    assert_eq!(get(&node, &format!("{V}/containers/json?all=perhaps")).status, 400);
    assert_eq!(get(&node, &format!("{V}/containers/json?filters=%7B")).status, 400);
    assert_eq!(
        get(&node, &format!("{V}/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D")).status,
        400
    );
    assert_eq!(send(&node, "POST", &format!("{V}/containers/create"), &json!("x")).status, 400);
    let image = send(&node, "POST", "/containers/create", &json!({"Image": "localhost/nope"}));
    assert_eq!(image.status, 404);
    assert!(image.json()["message"].as_str().unwrap().contains("No such image"));
    let later = get(&node, &format!("{V}/containers/x/checkpoint"));
    assert_eq!(later.status, 405);
    let later = post(&node, &format!("{V}/containers/x/checkpoint"));
    assert_eq!(later.status, 501);
    assert!(later.json()["message"].as_str().unwrap().contains("Checkpoint"));
    assert_eq!(get(&node, "/swarm/x").status, 503);
}

#[test]
fn a_life_in_status_codes() {
    let node = node();
    let id = create(&node, json!({"name": "life", "command": ["sleep", "1000"]}));
    let at = |action: &str| format!("{V}/containers/{id}/{action}");
    let taken =
        send(&node, "POST", &format!("{V}/containers/create"), &json!({"image": IMAGE, "name": "life"}));
    assert_eq!(taken.status, 409);
    assert_eq!(get(&node, &at("exists")).status, 204);
    assert_eq!(post(&node, &at("init")).status, 204);
    assert_eq!(post(&node, &at("init")).status, 304);
    assert_eq!(post(&node, &at("start")).status, 204);
    assert_eq!(post(&node, &at("start")).status, 304);
    assert_eq!(post(&node, &at("pause")).status, 204);
    assert_eq!(post(&node, &at("pause")).status, 409);
    assert_eq!(post(&node, &at("unpause")).status, 204);
    let running = request(&node.socket(), "DELETE", &format!("{V}/containers/{id}"), "", b"");
    assert_eq!(running.status, 409);
    assert_eq!(post(&node, &at("stop?timeout=1")).status, 204);
    assert_eq!(post(&node, &at("stop?timeout=1")).status, 304);
    assert_eq!(post(&node, &at("kill")).status, 409);
    assert_eq!(post(&node, &at("wait")).text(), "137\n");
    assert_eq!(post(&node, &at("shouldrestart")).status, 404);
    let removed = request(&node.socket(), "DELETE", &format!("{V}/containers/{id}"), "", b"");
    assert_eq!((removed.status, removed.json()[0]["Id"].as_str()), (200, Some(id.as_str())));
    assert_eq!(get(&node, &at("exists")).status, 404);
    let other = create(&node, json!({}));
    let removed = request(&node.socket(), "DELETE", &format!("/v1.41/containers/{other}"), "", b"");
    assert_eq!((removed.status, removed.body.len()), (204, 0));
}

/// What a raw connection to an attached container is: opened, with its head read.
fn attach(node: &TestNode, path: &str, upgrade: bool) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let headers = if upgrade { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
    write!(stream, "POST {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n{headers}\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn attach_works_with_and_without_an_upgrade_and_half_closed() {
    let node = node();
    for upgrade in [true, false] {
        let id = create(&node, json!({"command": ["cat"], "stdin": true}));
        let path = format!("{V}/containers/{id}/attach?stream=true&stdin=true&stdout=true&stderr=true");
        let (mut stream, head) = attach(&node, &path, upgrade);
        let status = if upgrade { "HTTP/1.1 101 UPGRADED\r\n" } else { "HTTP/1.1 200 OK\r\n" };
        assert!(head.starts_with(status), "{head}");
        assert!(head.contains("application/vnd.docker.raw-stream"), "{head}");
        // All is said and the writing side closed before the container even runs.
        stream.write_all(b"hi\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(post(&node, &format!("{V}/containers/{id}/start")).status, 204);
        let mut output = Vec::new();
        stream.read_to_end(&mut output).unwrap();
        assert_eq!(output, b"\x01\0\0\0\0\0\0\x03hi\n");
        assert_eq!(post(&node, &format!("{V}/containers/{id}/wait")).text(), "0\n");
    }
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let node = node();
    let id = create(&node, json!({"command": ["sleep", "1000"]}));
    post(&node, &format!("{V}/containers/{id}/start"));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", node.daemon_pid())).unwrap().count();
    let at_rest = || {
        let mut last = 0;
        wait_until("the daemon is at rest", || {
            std::thread::park_timeout(Duration::from_millis(100));
            std::mem::replace(&mut last, descriptors()) == last
        });
        descriptors()
    };
    let open = || {
        let attached = attach(&node, &format!("{V}/containers/{id}/attach?stdout=true"), true);
        let requests = [
            ("GET", format!("{V}/events")),
            ("GET", format!("{V}/containers/{id}/logs?stdout=true&follow=true")),
            ("POST", format!("{V}/containers/{id}/wait")),
        ];
        let requests = requests.map(|(method, path)| {
            let mut stream = UnixStream::connect(node.socket()).unwrap();
            write!(stream, "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n").unwrap();
            stream
        });
        (attached, requests)
    };
    // Once for what is opened with the first use and kept.
    let streams = open();
    at_rest();
    drop(streams);
    let before = at_rest();
    let streams = open();
    wait_until("the requests are under way", || descriptors() >= before + 4);
    drop(streams);
    wait_until("all of it is closed", || descriptors() <= before);
}

#[test]
fn detach_keys_leave_the_container_running() {
    let node = node();
    let id = create(&node, json!({"command": ["cat"], "stdin": true, "terminal": true}));
    let path = format!("{V}/containers/{id}/attach?stream=true&stdin=true&stdout=true&detachKeys=ctrl-a,x");
    let (mut stream, _) = attach(&node, &path, true);
    post(&node, &format!("{V}/containers/{id}/start"));
    stream.write_all(b"\x01x").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let state = get(&node, &format!("{V}/containers/{id}/json")).json()["State"]["Status"].clone();
    assert_eq!(state, "running");
}

#[test]
fn logs_are_framed_except_dockers_of_a_terminal() {
    let node = node();
    let run = |terminal: bool| {
        let id = create(&node, json!({"command": ["echo", "line"], "terminal": terminal}));
        post(&node, &format!("{V}/containers/{id}/start"));
        post(&node, &format!("{V}/containers/{id}/wait"));
        id
    };
    let logs =
        |prefix: &str, id: &str| get(&node, &format!("{prefix}/containers/{id}/logs?stdout=true")).body;
    let pipes = run(false);
    assert_eq!(logs(V, &pipes), b"\x01\0\0\0\0\0\0\x05line\n");
    assert_eq!(logs("/v1.41", &pipes), b"\x01\0\0\0\0\0\0\x05line\n");
    let terminal = run(true);
    assert_eq!(logs(V, &terminal)[..8], *b"\x01\0\0\0\0\0\0\x06");
    assert_eq!(logs("/v1.41", &terminal), b"line\r\n");
    assert_eq!(get(&node, &format!("{V}/containers/{pipes}/logs")).status, 400);
}

#[test]
fn dockers_wait_answers_its_header_before_the_end() {
    let node = node();
    let id = create(&node, json!({"command": ["sh", "-c", "exit 4"]}));
    let mut waiting = UnixStream::connect(node.socket()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let path = format!("/v1.44/containers/{id}/wait?condition=next-exit");
    write!(waiting, "POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut start = [0; 15];
    waiting.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    assert_eq!(post(&node, &format!("/v1.44/containers/{id}/start")).status, 204);
    let mut rest = String::new();
    waiting.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(r#"{"StatusCode":4,"Error":null}"#), "{rest}");
}

#[test]
fn what_podmans_client_asks_when_it_comes_too_late_to_wait() {
    let node = node();
    let id = create(&node, json!({"command": ["sh", "-c", "exit 6"], "remove": true}));
    post(&node, &format!("{V}/containers/{id}/start"));
    wait_until("the container is gone", || get(&node, &format!("{V}/containers/{id}/exists")).status == 404);
    // The code of a container that is gone is remembered for a while ...
    assert_eq!(post(&node, &format!("{V}/containers/{id}/wait")).text(), "6\n");
    // ... and is in the events for longer.
    let filters = format!(r#"{{"type":["container"],"container":["{id}"],"event":["died"]}}"#);
    let filters: String = filters.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let events = get(&node, &format!("{V}/events?stream=false&since=1&filters={filters}"));
    let event: Value = serde_json::from_str(events.text().trim_end()).unwrap();
    assert_eq!(event["Actor"]["Attributes"]["containerExitCode"], "6");
}

#[test]
fn the_documents_have_the_members_of_the_field_lists() {
    let node = node();
    let id = create(&node, json!({"name": "web", "command": ["sleep", "1000"], "labels": {"a": "b"}}));
    post(&node, &format!("{V}/containers/{id}/start"));
    check_shape("define.InspectContainerData", &get(&node, &format!("{V}/containers/web/json")).json());
    check_shape("docker.types.ContainerJSON", &get(&node, "/containers/web/json").json());
    check_shape("entities.ListContainer", &get(&node, &format!("{V}/containers/json")).json()[0]);
    check_shape("handlers.Container", &get(&node, "/containers/json").json()[0]);
    let info = get(&node, &format!("{V}/info")).json();
    check_shape("define.Info", &info);
    check_shape("define.HostInfo", &info["host"]);
    check_shape("define.StoreInfo", &info["store"]);
    check_shape("define.Plugins", &info["plugins"]);
    check_shape("define.Version", &info["version"]);
    check_shape("handlers.Info", &get(&node, "/info").json());
    let version = get(&node, "/version").json();
    check_shape("entities.ComponentVersion", &version);
    assert_eq!(version["Components"][0]["Name"], "Podman Engine");
    let events = get(&node, &format!("{V}/events?stream=false&since=1")).text();
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    check_shape("entities.Event", &first);
}

fn check_shape(kind: &str, value: &Value) {
    const FIELDS: &str = include_str!("../fast/rest/fields.tsv");
    let fields = FIELDS.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix('\t'));
    let fields: Vec<_> = fields.filter_map(|line| line.split_once('\t')).collect();
    assert!(!fields.is_empty(), "no fields known of {kind}");
    let members = value.as_object().unwrap_or_else(|| panic!("{kind}: {value}"));
    for (field, presence) in &fields {
        assert!(*presence != "always" || members.contains_key(*field), "{kind} lacks {field}");
    }
    for member in members.keys() {
        assert!(fields.iter().any(|(field, _)| field == member), "{kind} has no {member}");
    }
}

#[test]
fn the_socket_is_private_stale_ones_are_replaced_and_a_second_server_is_refused() {
    let mut node = TestNode::new();
    node.service();
    let mode = std::fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    node.kill_daemon();
    assert!(node.socket().exists());
    node.service();
    assert_eq!(get(&node, "/_ping").status, 200);
    node.stop_daemon();
    assert!(!node.socket().exists());
}

#[test]
fn the_service_ends_when_nobody_asks() {
    let mut node = TestNode::new();
    node.start_daemon(&["system", "service", "--time", "1"]);
    assert!(node.daemon_ended().success());
    assert!(!node.socket().exists());
}

#[test]
fn a_stream_ends_when_the_server_does() {
    let mut node = node();
    let (mut events, head) = {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {V}/events HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        (stream, head)
    };
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    node.stop_daemon();
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
}

#[test]
fn readings_of_a_container_go_on_until_it_ends() {
    let node = node();
    let id = create(&node, json!({"name": "web", "command": ["sleep", "1000"]}));
    assert_eq!(post(&node, &format!("{V}/containers/{id}/start")).status, 204);
    let single = get(&node, "/containers/web/stats?stream=false");
    let body = single.json();
    assert_eq!(
        (single.status, &body["name"], &body["pids_stats"]["current"]),
        (200, &json!("/web"), &json!(1))
    );
    // Two readings, for rates.
    let [now, before] =
        ["cpu_stats", "precpu_stats"].map(|part| body[part]["system_cpu_usage"].as_u64().unwrap());
    assert!(now > before && before > 0, "{body}");
    assert!(body["networks"]["eth0"]["rx_bytes"].is_u64(), "{body}");
    assert!(body["memory_stats"]["usage"].as_u64().unwrap() > 0, "{body}");
    let once = get(&node, "/containers/web/stats?stream=false&one-shot=true").json();
    assert_eq!(once["precpu_stats"]["cpu_usage"]["total_usage"], 0);

    for (path, per_reading) in
        [("/containers/web/stats", 1), (&format!("{V}/containers/web/top?stream=true&delay=1"), 1)]
    {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        while received.iter().filter(|byte| **byte == b'{').count() < 2
            || count_lines(&received) < 2 * per_reading
        {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{path} ended early: {}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&buffer[..count]);
        }
    }
    assert_eq!(get(&node, &format!("{V}/containers/web/top?delay=0")).status, 400);
    assert_eq!(get(&node, &format!("{V}/containers/nope/top")).status, 404);
    assert_eq!(get(&node, &format!("{V}/containers/stats?stream=false&containers=nope")).status, 404);
    assert_eq!(get(&node, &format!("{V}/pods/stats?namesOrIDs=nope")).status, 404);
    assert_eq!(post(&node, &format!("{V}/containers/{id}/stop?timeout=0")).status, 204);
    assert_eq!(get(&node, &format!("{V}/containers/web/top")).status, 409);
    // The stream of one that does not run is one empty reading, and ends.
    let stopped = get(&node, "/containers/web/stats").json();
    assert_eq!(
        (&stopped["name"], &stopped["cpu_stats"]["cpu_usage"]["total_usage"]),
        (&json!("/web"), &json!(0))
    );
    let report = get(&node, &format!("{V}/containers/stats?stream=false&containers=web")).json();
    assert_eq!((&report["Error"], &report["Stats"][0]["PIDs"]), (&Value::Null, &json!(0)));
}

/// Whole JSON lines received so far.
fn count_lines(received: &[u8]) -> usize {
    received.windows(2).filter(|two| two == b"}\n").count()
}
