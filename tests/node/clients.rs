//! Real, unmodified clients against a node: `podman --remote` (Debian's 4.3.1) and the docker CLI.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{TestNode, text, wait_until};

const IMAGE: &str = "localhost/busybox:latest";

/// A node whose REST service runs and has the busybox image.
fn node() -> TestNode {
    let mut node = TestNode::new();
    node.service();
    node.load_busybox();
    node
}

/// `podman --remote` and `docker` are installed where these tests are promised to run; without them
/// a test fails and says so.
fn client(node: &TestNode, program: &str) -> Command {
    let mut command = node.client(program);
    if program == "podman" {
        command.args(["--remote", "--url", &format!("unix://{}", node.socket().display())]);
    }
    command
}

fn run(node: &TestNode, program: &str, args: &[&str]) -> Output {
    let output = client(node, program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} must be installed for the node tests: {error}"))
}

/// Succeeds; its standard output without the last newline.
#[track_caller]
fn ok(node: &TestNode, program: &str, args: &[&str]) -> String {
    let output = run(node, program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

#[track_caller]
fn check(node: &TestNode, program: &str, args: &[&str], code: i32, stdout: &str) -> String {
    let output = run(node, program, args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out.trim_end()), (Some(code), stdout), "{program} {args:?}: {err}");
    err
}

/// Runs it with `input`, which ends; returns its output.
fn with_input(node: &TestNode, program: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child: Child = client(node, program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} must be installed for the node tests: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn podman_and_docker_agree_on_versions_with_the_service() {
    let node = node();
    let version = ok(&node, "podman", &["version", "--format", "{{.Server.Version}}"]);
    assert!(version.starts_with("5.8"), "{version}");
    assert_eq!(ok(&node, "docker", &["version", "--format", "{{.Server.APIVersion}}"]), "1.44");
    ok(&node, "podman", &["info"]);
    assert_eq!(ok(&node, "docker", &["info", "--format", "{{.OSType}} {{.Driver}}"]), "linux overlay");
}

#[test]
fn both_run_in_the_foreground_with_output_and_exit_code() {
    let node = node();
    for program in ["podman", "docker"] {
        check(&node, program, &["run", "--rm", IMAGE, "echo", "hello"], 0, "hello");
        check(&node, program, &["run", "--rm", IMAGE, "sh", "-c", "exit 7"], 7, "");
        let script = "echo out; echo err >&2";
        let err = check(&node, program, &["run", "--rm", IMAGE, "sh", "-c", script], 0, "out");
        assert_eq!(err.trim_end(), "err", "{program}");
    }
    // --rm left nothing.
    wait_until("the containers are gone", || ok(&node, "podman", &["ps", "-aq"]).is_empty());
}

#[test]
fn a_command_that_does_not_exist_is_127_and_leaves_nothing() {
    let node = node();
    for program in ["podman", "docker"] {
        let err = check(&node, program, &["run", "--rm", IMAGE, "nosuch"], 127, "");
        assert!(err.contains("nosuch"), "{program}: {err}");
    }
    wait_until("the containers are gone", || ok(&node, "podman", &["ps", "-aq"]).is_empty());
}

#[test]
fn standard_input_reaches_the_container_and_its_end_too() {
    let node = node();
    // More than any pipe or socket holds at once.
    let input: Vec<u8> = (0..200_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    for program in ["podman", "docker"] {
        let output = with_input(&node, program, &["run", "--rm", "-i", IMAGE, "md5sum"], &input);
        let local = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut local = local.unwrap();
        local.stdin.take().unwrap().write_all(&input).unwrap();
        let expected = local.wait_with_output().unwrap().stdout;
        assert_eq!(text(&output.stdout), text(&expected), "{program}: {}", text(&output.stderr));
    }
}

#[test]
fn a_terminal_is_one() {
    let node = node();
    for program in ["podman", "docker"] {
        let client = client(&node, program);
        let words: Vec<_> = std::iter::once(client.get_program())
            .chain(client.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        let line =
            format!("{} run --rm -t {IMAGE} sh -c 'test -t 0 && test -t 1 && echo tty'", words.join(" "));
        // script(1) gives the client a terminal of its own.
        let output = node.client("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
        assert!(text(&output.stdout).contains("tty"), "{program}: {}", text(&output.stdout));
        assert!(output.status.success());
    }
}

#[test]
fn a_detached_container_is_listed_inspected_stopped_and_removed() {
    let node = node();
    for program in ["podman", "docker"] {
        let id = ok(
            &node,
            program,
            &["run", "-d", "--name", "web", "--label", "a=b", "-v", "data:/data", IMAGE, "sleep", "1000"],
        );
        assert_eq!(id.len(), 64, "{program}: {id}");
        let format = "{{.Names}}";
        assert_eq!(ok(&node, program, &["ps", "--format", format]), "web");
        assert_eq!(ok(&node, program, &["ps", "--format", format, "--filter", "label=a=b"]), "web");
        assert_eq!(ok(&node, program, &["ps", "--format", format, "--filter", "label=a=c"]), "");
        assert_eq!(ok(&node, program, &["inspect", "web", "--format", "{{.State.Status}}"]), "running");
        assert_eq!(ok(&node, program, &["volume", "ls", "-q"]), "data");
        ok(&node, program, &["stop", "-t", "1", "web"]);
        assert_eq!(ok(&node, program, &["inspect", "web", "--format", "{{.State.Status}}"]), "exited");
        assert_eq!(ok(&node, program, &["ps", "-q"]), "");
        ok(&node, program, &["start", "web"]);
        ok(&node, program, &["kill", "web"]);
        assert_eq!(ok(&node, program, &["wait", "web"]), "137");
        ok(&node, program, &["rm", "web"]);
        ok(&node, program, &["volume", "rm", "data"]);
        assert!(!run(&node, program, &["inspect", "web"]).status.success());
    }
}

#[test]
fn logs_are_whole_and_followed_to_the_end() {
    let node = node();
    let script = "for i in 1 2 3; do echo $i; sleep 0.2; done";
    for program in ["podman", "docker"] {
        ok(&node, program, &["run", "-d", "--name", "counter", IMAGE, "sh", "-c", script]);
        assert_eq!(ok(&node, program, &["logs", "-f", "counter"]), "1\n2\n3");
        assert_eq!(ok(&node, program, &["logs", "--tail", "1", "counter"]), "3");
        let stamped = ok(&node, program, &["logs", "--tail", "1", "-t", "counter"]);
        assert!(stamped.starts_with("20") && stamped.ends_with(" 3"), "{program}: {stamped}");
        ok(&node, program, &["rm", "counter"]);
    }
}

#[test]
fn commands_are_executed_in_a_running_container() {
    let node = node();
    ok(&node, "podman", &["run", "-d", "--name", "web", IMAGE, "sleep", "1000"]);
    for program in ["podman", "docker"] {
        check(&node, program, &["exec", "web", "echo", "inside"], 0, "inside");
        check(&node, program, &["exec", "web", "sh", "-c", "exit 5"], 5, "");
        check(
            &node,
            program,
            &["exec", "-e", "A=b", "-w", "/tmp", "web", "sh", "-c", "echo $A $PWD"],
            0,
            "b /tmp",
        );
        let output = with_input(&node, program, &["exec", "-i", "web", "cat"], b"typed");
        assert_eq!(text(&output.stdout), "typed", "{program}: {}", text(&output.stderr));
        let err = check(&node, program, &["exec", "web", "nosuch"], 127, "");
        assert!(err.contains("nosuch"), "{program}: {err}");
        ok(&node, program, &["exec", "-d", "web", "touch", &format!("/tmp/{program}")]);
        wait_until("the detached command has run", || {
            run(&node, program, &["exec", "web", "test", "-e", &format!("/tmp/{program}")]).status.success()
        });
    }
}

#[test]
fn images_are_listed_tagged_inspected_and_removed() {
    let node = node();
    for program in ["podman", "docker"] {
        assert_eq!(ok(&node, program, &["images", "--format", "{{.Repository}}:{{.Tag}}"]), IMAGE);
        ok(&node, program, &["tag", IMAGE, "localhost/other:2"]);
        let id =
            ok(&node, program, &["inspect", "--type", "image", "localhost/other:2", "--format", "{{.Id}}"]);
        assert!(id.trim_start_matches("sha256:").len() == 64, "{program}: {id}");
        ok(&node, program, &["rmi", "localhost/other:2"]);
        let missing = run(&node, program, &["inspect", "--type", "image", "localhost/other:2"]);
        assert!(!missing.status.success());
    }
    let output = run(&node, "docker", &["run", "--rm", "--pull", "never", "localhost/nope:1", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("No such image"), "{}", text(&output.stderr));
}

/// Another program that reads what a client wrote; its output.
#[track_caller]
fn tool(node: &TestNode, program: &str, args: &[&str]) -> String {
    let output = node.client(program).env_remove("CONTAINER_HOST").args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

#[test]
fn saved_images_are_read_by_every_other_tool() {
    let node = node();
    ok(&node, "podman", &["tag", IMAGE, "localhost/other:2"]);
    let id = ok(&node, "podman", &["inspect", "--type", "image", IMAGE, "--format", "{{.Id}}"]);
    let path = |name: &str| node.scratch(name).to_str().unwrap().to_owned();
    let (by_podman, by_docker, by_us, oci) = (path("p.tar"), path("d.tar"), path("s.tar"), path("oci.tar"));
    ok(&node, "podman", &["save", "-o", &by_podman, IMAGE]);
    ok(&node, "docker", &["save", "-o", &by_docker, IMAGE]);
    node.ok(&["save", "--output", &by_us, IMAGE]);
    ok(&node, "podman", &["save", "--format", "oci-archive", "-o", &oci, IMAGE]);
    let bytes = |file: &str| std::fs::read(file).unwrap();
    assert!(
        bytes(&by_podman) == bytes(&by_docker) && bytes(&by_docker) == bytes(&by_us),
        "the archives differ"
    );

    for archive in [format!("docker-archive:{by_podman}"), format!("oci-archive:{oci}")] {
        // Copying verifies every digest.
        let copy = format!("dir:{}", path("copy"));
        tool(&node, "skopeo", &["--insecure-policy", "copy", &archive, &copy]);
        let config = tool(&node, "skopeo", &["inspect", "--raw", &copy]);
        assert!(config.contains(&format!("sha256:{id}")), "{archive}: {config}");
    }
    // A podman of its own, without a service.
    let (root, run_root) = (path("podman-root"), path("podman-run"));
    let own = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs"];
    for archive in [&by_docker, &oci] {
        tool(&node, "podman", &[&own[..], &["load", "-i", archive]].concat());
        let loaded = tool(&node, "podman", &[&own[..], &["inspect", "--format", "{{.Id}}", IMAGE]].concat());
        assert_eq!(loaded, id);
        tool(&node, "podman", &[&own[..], &["rmi", IMAGE]].concat());
    }

    let several = path("several.tar");
    ok(&node, "podman", &["save", "-m", "-o", &several, IMAGE, "localhost/other:2"]);
    ok(&node, "podman", &["rmi", IMAGE, "localhost/other:2"]);
    ok(&node, "docker", &["load", "-i", &several]);
    let names = ok(&node, "docker", &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert!(names.contains(IMAGE) && names.contains("localhost/other:2"), "{names}");
    assert_eq!(ok(&node, "podman", &["inspect", "--type", "image", IMAGE, "--format", "{{.Id}}"]), id);

    for (args, words) in [
        (&["save", "localhost/nope"][..], "no such image"),
        (&["save", "--format", "oci-dir", "-o", &path("dir"), IMAGE], "not supported"),
    ] {
        let output = client(&node, "podman").args(args).stdout(Stdio::piped()).output().unwrap();
        let err = text(&output.stderr).to_lowercase();
        assert!(!output.status.success() && err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn images_lose_names_and_unused_ones_are_pruned() {
    let node = node();
    let count = || ok(&node, "podman", &["images", "-q", "--no-trunc"]).lines().count();
    let reload = || node.load_busybox();
    ok(&node, "podman", &["tag", IMAGE, "localhost/other:2"]);
    ok(&node, "podman", &["untag", IMAGE, "localhost/other:2"]);
    assert_eq!(ok(&node, "podman", &["images", "--format", "{{.Repository}}:{{.Tag}}"]), IMAGE);
    assert!(!run(&node, "podman", &["untag", IMAGE, "localhost/other:2"]).status.success());
    let id = ok(&node, "podman", &["inspect", "--type", "image", IMAGE, "--format", "{{.Id}}"]);

    // With a name it is not dangling, with a container not unused.
    for program in ["podman", "docker"] {
        ok(&node, program, &["image", "prune", "-f"]);
        ok(&node, program, &["create", "--name", "user", IMAGE]);
        ok(&node, program, &["image", "prune", "-a", "-f"]);
        assert_eq!(count(), 1, "{program}");
        ok(&node, program, &["rm", "user"]);
        let filtered = ok(&node, program, &["image", "prune", "-a", "-f", "--filter", "label=no=such"]);
        assert!(!filtered.contains(&id) && count() == 1, "{program}: {filtered}");
        ok(&node, program, &["image", "prune", "-a", "-f", "--filter", "until=2000-01-01T00:00:00Z"]);
        assert_eq!(count(), 1, "{program}");
        let pruned = ok(&node, program, &["image", "prune", "-a", "-f", "--filter", "label!=no=such"]);
        assert!(pruned.contains(&id), "{program}: {pruned}");
        assert_eq!(count(), 0, "{program}");
        reload();
        ok(&node, "podman", &["untag", IMAGE]);
        assert_eq!(count(), 1);
        let pruned = ok(&node, program, &["image", "prune", "-f"]);
        assert!(pruned.contains(&id) && count() == 0, "{program}: {pruned}");
        reload();
    }

    // Ours.
    node.ok(&["tag", IMAGE, "localhost/a:1", "localhost/b"]);
    let removed = node.ok(&["rmi", "localhost/b", "localhost/a:1"]);
    assert_eq!(removed, "Untagged: localhost/b:latest\nUntagged: localhost/a:1\n");
    let missing = node.selkie(&["rmi", "localhost/nope"]);
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
    assert!(node.ok(&["rmi", IMAGE]).contains(&format!("Deleted: {id}")));
}

/// Debian's registry on the loopback; ends with this.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    fn start(node: &TestNode) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let (config, content) = (node.scratch("registry.yml"), node.scratch("registry"));
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            content.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run docker-registry (package docker-registry, see `make test`)");
        let registry = Self { process, host };
        wait_until("the registry listens", || std::net::TcpStream::connect(&registry.host).is_ok());
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn pushed_images_are_read_back_by_skopeo() {
    let mut node = TestNode::new();
    let registry = Registry::start(&node);
    // docker's client can not say that a registry is insecure.
    let conf = node.scratch("registries.conf");
    std::fs::write(&conf, format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host))
        .unwrap();
    node.set_env("CONTAINERS_REGISTRIES_CONF", conf.to_str().unwrap());
    node.service();
    node.load_busybox();
    let id = ok(&node, "podman", &["inspect", "--type", "image", IMAGE, "--format", "{{.Id}}"]);
    let name = |tag: &str| format!("{}/team/busybox:{tag}", registry.host);
    let read_back = |tag: &str| {
        let raw = format!("docker://{}", name(tag));
        let manifest = tool(&node, "skopeo", &["inspect", "--raw", "--tls-verify=false", &raw]);
        assert!(manifest.contains(&format!("sha256:{id}")), "{tag}: {manifest}");
    };
    ok(&node, "podman", &["push", "--tls-verify=false", IMAGE, &name("podman")]);
    read_back("podman");
    ok(&node, "docker", &["tag", IMAGE, &name("docker")]);
    let told = ok(&node, "docker", &["push", &name("docker")]);
    assert!(
        told.contains("The push refers to repository") && told.contains("docker: digest: sha256:"),
        "{told}"
    );
    read_back("docker");
    let digest = node.ok(&["push", "--tls-verify", "false", IMAGE, &name("selkie")]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    read_back("selkie");

    // Away and back.
    ok(&node, "podman", &["rmi", "-f", &id]);
    ok(&node, "docker", &["pull", &name("podman")]);
    assert_eq!(
        ok(&node, "podman", &["inspect", "--type", "image", &name("podman"), "--format", "{{.Id}}"]),
        id
    );

    let closed = "127.0.0.1:1/busybox:1";
    for (program, args) in [
        ("podman", &["push", "--tls-verify=false", &name("podman"), closed][..]),
        ("docker", &["push", "localhost/nope:1"]),
    ] {
        let output = run(&node, program, args);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{program}: {}", text(&output.stdout));
    }
}

#[test]
fn networks_and_pods_come_and_go() {
    let node = node();
    for program in ["podman", "docker"] {
        ok(&node, program, &["network", "create", "n1"]);
        assert!(ok(&node, program, &["network", "ls", "--format", "{{.Name}}"]).contains("n1"));
        check(&node, program, &["run", "--rm", "--network", "n1", IMAGE, "true"], 0, "");
        ok(&node, program, &["network", "rm", "n1"]);
    }
    let pod = ok(&node, "podman", &["pod", "create", "--name", "p"]);
    assert_eq!(pod.len(), 64, "{pod}");
    ok(&node, "podman", &["run", "-d", "--pod", "p", "--name", "member", IMAGE, "sleep", "1000"]);
    assert_eq!(ok(&node, "podman", &["pod", "ps", "--format", "{{.Name}} {{.Status}}"]), "p Running");
    ok(&node, "podman", &["pod", "stop", "-t", "1", "p"]);
    ok(&node, "podman", &["pod", "rm", "-f", "p"]);
    assert_eq!(ok(&node, "podman", &["ps", "-aq"]), "");
}

#[test]
fn events_tell_what_happened() {
    let node = node();
    check(&node, "podman", &["run", "--name", "short", IMAGE, "sh", "-c", "exit 3"], 3, "");
    let events = ok(
        &node,
        "docker",
        &[
            "events",
            "--since",
            "10m",
            "--until",
            "-2s",
            "--filter",
            "container=short",
            "--format",
            "{{.Action}}",
        ],
    );
    for action in ["create", "start", "die"] {
        assert!(events.lines().any(|line| line == action), "{action} in {events}");
    }
    let podman = ["events", "--stream=false", "--since", "10m", "--filter", "event=died"];
    assert!(ok(&node, "podman", &podman).contains("short"));
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  containers:
  - name: main
    image: localhost/busybox:latest
    command: [sleep, '1000']
";

#[test]
fn podman_plays_kubernetes_yaml_and_gets_it_back() {
    let node = node();
    let file = node.scratch("pod.yaml");
    std::fs::write(&file, POD).unwrap();
    let file = file.to_str().unwrap();
    ok(&node, "podman", &["kube", "play", file]);
    assert_eq!(ok(&node, "podman", &["pod", "ps", "--format", "{{.Name}} {{.Status}}"]), "played Running");
    let generated = ok(&node, "podman", &["generate", "kube", "played"]);
    assert!(generated.contains("kind: Pod") && generated.contains("sleep"), "{generated}");
    ok(&node, "podman", &["kube", "down", file]);
    wait_until("the pod is gone", || ok(&node, "podman", &["pod", "ps", "-q"]).is_empty());

    let again = node.scratch("again.yaml");
    std::fs::write(&again, generated).unwrap();
    ok(&node, "podman", &["kube", "play", again.to_str().unwrap()]);
    assert_eq!(ok(&node, "podman", &["pod", "ps", "--format", "{{.Name}} {{.Status}}"]), "played Running");
}

#[test]
fn a_container_is_renamed_everywhere_and_for_good() {
    let mut node = node();
    ok(&node, "podman", &["network", "create", "names"]);
    for (name, command) in [("first", "sleep 1000"), ("other", "sleep 1000")] {
        let run = ["run", "-d", "--network", "names", "--name", name, IMAGE, "sh", "-c", command];
        ok(&node, "podman", &run);
    }
    ok(&node, "podman", &["rename", "first", "second"]);
    ok(&node, "docker", &["rename", "second", "third"]);
    ok(&node, "docker", &["exec", "other", "nslookup", "third"]);
    assert!(!run(&node, "docker", &["exec", "other", "nslookup", "second"]).status.success());
    // Names that are given up are free, those in use are not.
    let taken = run(&node, "podman", &["rename", "third", "other"]);
    assert!(text(&taken.stderr).contains("already in use"), "{}", text(&taken.stderr));
    ok(&node, "podman", &["rename", "third", "third"]);
    assert!(!run(&node, "docker", &["rename", "third", "no/name"]).status.success());
    ok(&node, "podman", &["create", "--name", "first", IMAGE, "true"]);
    let events = ["events", "--stream=false", "--since", "10m", "--filter", "event=rename"];
    assert!(ok(&node, "podman", &events).contains("third"));
    node.kill_daemon();
    node.service();
    node.ok(&["rename", "third", "fourth"]);
    let format = "{{.Names}}";
    assert_eq!(ok(&node, "podman", &["ps", "--format", format, "--sort", "names"]), "fourth\nother");
    assert!(!run(&node, "docker", &["inspect", "third"]).status.success());
    ok(&node, "docker", &["exec", "other", "nslookup", "fourth"]);
}

#[test]
fn processes_are_listed_without_a_ps_in_the_image() {
    let node = node();
    let script = "sleep 1001 & exec sleep 1000";
    ok(&node, "podman", &["run", "-d", "--name", "web", IMAGE, "sh", "-c", script]);
    wait_until("both sleep", || {
        let table = ok(&node, "podman", &["top", "web", "user", "pid", "ppid", "hpid", "args"]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let [titles, first, second] = rows.as_slice() else { return false };
        assert_eq!(*titles, ["USER", "PID", "PPID", "HPID", "COMMAND"]);
        assert_eq!((first[..3].to_vec(), first[3] == "1"), (vec!["root", "1", "0"], false), "{table}");
        first[4..] == ["sleep", "1000"] && second[2] == "1" && second[4..] == ["sleep", "1001"]
    });
    let pid = ok(&node, "podman", &["inspect", "web", "--format", "{{.State.Pid}}"]);
    let table = ok(&node, "docker", &["top", "web"]);
    assert!(table.lines().next().unwrap().starts_with("UID"), "{table}");
    // Docker shows the host's numbers.
    let first = table.lines().find(|line| line.contains("sleep 1000")).unwrap();
    assert_eq!(first.split_whitespace().nth(1), Some(pid.as_str()), "{table}");
    let words = ok(&node, "docker", &["top", "web", "-o", "pid,comm"]);
    assert!(words.lines().any(|line| line.split_whitespace().eq([pid.as_str(), "sleep"])), "{words}");
    assert!(!run(&node, "docker", &["top", "web", "--forest"]).status.success());
    ok(&node, "docker", &["stop", "-t", "0", "web"]);
    let stopped = run(&node, "podman", &["top", "web"]);
    assert!(text(&stopped.stderr).contains("running"), "{}", text(&stopped.stderr));

    ok(&node, "podman", &["pod", "create", "--name", "p"]);
    for name in ["a", "b"] {
        ok(&node, "podman", &["run", "-d", "--pod", "p", "--name", name, IMAGE, "sleep", "1000"]);
    }
    assert_eq!(ok(&node, "podman", &["pod", "top", "p", "args"]), "COMMAND\nsleep 1000\nsleep 1000");
}

/// A file's words inside, through `exec`.
fn inside(node: &TestNode, command: &str) -> String {
    ok(node, "podman", &["exec", "web", "sh", "-c", command])
}

#[test]
fn files_are_copied_in_and_out_whether_it_runs_or_not() {
    let node = node();
    let (source, back) = (node.scratch("source"), node.scratch("back"));
    std::fs::create_dir_all(source.join("deep/er")).unwrap();
    std::fs::write(source.join("deep/er/file"), "content").unwrap();
    std::fs::write(source.join("tool"), "x").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(source.join("tool"), mode).unwrap();
    std::os::unix::fs::symlink("tool", source.join("link")).unwrap();
    let (from, to) = (source.to_str().unwrap(), back.to_str().unwrap());
    ok(&node, "podman", &["run", "-d", "--name", "web", "-v", "data:/data", IMAGE, "sleep", "1000"]);
    for program in ["podman", "docker"] {
        for running in [true, false] {
            let _ = std::fs::remove_dir_all(&back);
            let target = format!("web:/{program}-{running}");
            if running {
                ok(&node, program, &["start", "web"]);
            } else {
                ok(&node, program, &["stop", "-t", "0", "web"]);
            }
            ok(&node, program, &["cp", from, &target]);
            ok(&node, program, &["cp", &target, to]);
            let context = format!("{program}, running: {running}");
            assert_eq!(std::fs::read_to_string(back.join("deep/er/file")).unwrap(), "content", "{context}");
            assert_eq!(std::fs::read_link(back.join("link")).unwrap().to_str(), Some("tool"), "{context}");
            let single = format!("{target}/deep/er/file");
            ok(&node, program, &["cp", &single, &format!("{to}/single")]);
            assert_eq!(std::fs::read_to_string(back.join("single")).unwrap(), "content", "{context}");
            let missing = run(&node, program, &["cp", "web:/no/such", to]);
            assert!(!missing.status.success(), "{context}");
        }
        ok(&node, program, &["start", "web"]);
        // What was put there while it did not run is there when it does.
        for running in [true, false] {
            assert_eq!(inside(&node, &format!("stat -c '%a %U' /{program}-{running}/tool")), "4755 root");
        }
    }
    // A volume is what is seen there.
    ok(&node, "docker", &["cp", &format!("{from}/tool"), "web:/data/new"]);
    assert_eq!(inside(&node, "cat /data/new"), "x");
    assert!(node.root().join("volumes/data/_data/new").exists());
    let archive = node.scratch("export.tar");
    for program in ["podman", "docker"] {
        ok(&node, program, &["export", "-o", archive.to_str().unwrap(), "web"]);
        let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
        let listed = text(&listed.stdout);
        assert!(listed.lines().any(|line| line.ends_with("podman-true/deep/er/file")), "{listed}");
        assert!(!listed.contains("data/new") && !listed.contains("proc/1"), "{listed}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(node.root().to_str().unwrap()), "{mounts}");
}

/// CVE-2018-15664, CVE-2019-14271 and their like: links of the container lead a copy nowhere else.
#[test]
fn a_copy_never_leaves_the_container() {
    let node = node();
    let outside = node.scratch("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "host").unwrap();
    let outside_path = outside.to_str().unwrap();
    let script = format!(
        "mkdir -p {outside_path}; echo own >{outside_path}/secret; ln -s {outside_path} /absolute; \
         ln -s ../../../../../../..{outside_path} /up; ln -s /proc/1/root/tmp /magic; sleep 1000"
    );
    ok(&node, "podman", &["run", "-d", "--name", "web", "--pid", "host", IMAGE, "sh", "-c", &script]);
    wait_until("it has laid its traps", || {
        run(&node, "podman", &["exec", "web", "test", "-L", "/magic"]).status.success()
    });
    let own = node.scratch("own");
    std::fs::write(&own, "mine").unwrap();
    for running in [true, false] {
        if !running {
            ok(&node, "podman", &["stop", "-t", "0", "web"]);
        }
        for trap in ["absolute", "up"] {
            let to = node.scratch("copied");
            let _ = std::fs::remove_file(&to);
            ok(&node, "docker", &["cp", &format!("web:/{trap}/secret"), to.to_str().unwrap()]);
            assert_eq!(std::fs::read_to_string(&to).unwrap(), "own\n", "{trap}, running: {running}");
            ok(&node, "docker", &["cp", own.to_str().unwrap(), &format!("web:/{trap}/planted")]);
        }
        // `/proc` is only there while it runs.
        if running {
            let magic = run(&node, "docker", &["cp", own.to_str().unwrap(), "web:/magic/planted"]);
            assert!(!magic.status.success());
        }
    }
    assert!(!outside.join("planted").exists() && !std::path::Path::new("/tmp/planted").exists());
}

#[test]
fn what_containers_use_is_shown() {
    let node = node();
    // Some memory, some work, some traffic.
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; ping -c 3 -i 0.1 -W 1 127.0.0.1 >/dev/null; \
                  wget -q -T 1 -O - http://10.255.255.1 2>/dev/null; echo ready; sleep 1000";
    ok(&node, "podman", &["run", "-d", "--name", "web", "--memory", "64m", IMAGE, "sh", "-c", script]);
    wait_until("it has worked", || ok(&node, "podman", &["logs", "web"]).contains("ready"));
    let format = "{{.Name}} {{.PIDs}} {{.MemUsage}}";
    let line = ok(&node, "podman", &["stats", "--no-stream", "--format", format, "web"]);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[4]), ("web", "1", "67.11MB"), "{line}");
    let used: f64 = words[2].trim_end_matches("MB").parse().unwrap();
    assert!((20.0..64.0).contains(&used), "{line}");
    let line = ok(
        &node,
        "docker",
        &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}} {{.CPUPerc}}"],
    );
    assert!(line.starts_with("web 1 2") && line.contains("/ 64MiB") && line.ends_with('%'), "{line}");
    ok(&node, "podman", &["pod", "create", "--name", "p"]);
    ok(&node, "podman", &["run", "-d", "--pod", "p", "--name", "member", IMAGE, "sleep", "1000"]);
    let format = "{{.Name}} {{.PIDS}}";
    // This client prints a title, too.
    let lines = ok(&node, "podman", &["pod", "stats", "--no-stream", "--format", format, "p"]);
    assert_eq!(lines.lines().last(), Some("member 1"), "{lines}");
    // Nothing of one that does not run.
    ok(&node, "podman", &["stop", "-t", "0", "web"]);
    let line = ok(&node, "docker", &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web"]);
    assert_eq!(line, "web 0");
    assert!(!run(&node, "podman", &["stats", "--no-stream", "nosuch"]).status.success());
}
