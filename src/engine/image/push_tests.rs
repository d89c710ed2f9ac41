//! Pushes to Debian's registry, read back by skopeo. As root, on a real disk.

use std::process::Command;
use std::sync::Mutex;

use super::image::{Compression, Image, Layer};
use super::pulls::{RealRegistry, insecure};
use super::*;

fn to(destination: &str) -> PushOptions {
    PushOptions {
        destination: Some(destination.to_owned()),
        tls_verify: Some(false),
        ..PushOptions::default()
    }
}

/// What a sink was told, and the sink.
fn listener() -> (Arc<Mutex<Vec<PushProgress>>>, PushSink) {
    let steps: Arc<Mutex<Vec<PushProgress>>> = Arc::default();
    let told = Arc::clone(&steps);
    (steps, Arc::new(move |step| told.lock().unwrap().push(step)))
}

fn count(steps: &Mutex<Vec<PushProgress>>, wanted: fn(&PushProgress) -> bool) -> usize {
    steps.lock().unwrap().drain(..).filter(wanted).count()
}

fn is_sent(step: &PushProgress) -> bool {
    matches!(step, PushProgress::LayerSent { .. })
}

/// Copies all of it elsewhere, which verifies every digest; the manifest as it is there.
fn skopeo(node: &Node, name: &str) -> serde_json::Value {
    let copy = node.path("copy");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--preserve-digests"])
        .arg(format!("docker://{name}"))
        .arg(format!("dir:{}", copy.display()))
        .output()
        .expect("run skopeo (package skopeo, see `make test`)");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    serde_json::from_slice(&fs::read(copy.join("manifest.json")).unwrap()).unwrap()
}

fn web() -> Image {
    Image::new()
        .layer(Layer::new().file("big", 0o644, &vec![7; 3_000_000]))
        .layer(Layer::new().file("small", 0o644, b"small").whiteout("gone"))
        .command(&["/run"])
}

#[tokio::test]
async fn node_a_loaded_image_is_pushed_once_and_comes_back_the_same() {
    let registry = RealRegistry::start().await;
    let node = Node::new();
    let archive = node.path("in.tar");
    web().docker_archive(&archive, &["web:1"]);
    let record = node.images.load(&archive).await.unwrap().remove(0);
    let name = format!("{}/team/web:1", registry.host);
    let (steps, sink) = listener();
    let pushed = node.images.push("web:1", to(&name), Some(sink.clone())).await.unwrap();
    assert_eq!(pushed.tag, "1");
    assert_eq!(count(&steps, is_sent), 2);
    let manifest = skopeo(&node, &name);
    assert_eq!(manifest["config"]["digest"], format!("sha256:{}", record.id));
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    // Zeros of a kind: it went out compressed.
    assert!(manifest["layers"][0]["size"].as_u64().unwrap() < 100_000);

    // Again, and under another tag: nothing is sent twice.
    let again =
        node.images.push("web:1", to(&format!("{}/team/web:2", registry.host)), Some(sink)).await.unwrap();
    assert_eq!(again.digest, pushed.digest);
    assert_eq!(count(&steps, is_sent), 0);

    let other = Node::new();
    let pulled = other.images.pull(&name, insecure(), None).await.unwrap();
    assert_eq!((&pulled.id, &pulled.manifest_digest), (&record.id, &pushed.digest));
    assert_eq!(other.read(&pulled, "small").as_deref(), Some("small"));

    // In docker's words.
    let docker = PushOptions {
        format: Some(ManifestFormat::Docker),
        ..to(&format!("{}/team/web:docker", registry.host))
    };
    node.images.push("web:1", docker, None).await.unwrap();
    let manifest = skopeo(&node, &format!("{}/team/web:docker", registry.host));
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
}

#[tokio::test]
async fn node_what_the_registry_has_keeps_its_digests() {
    let registry = RealRegistry::start().await;
    for format in ["v2s2", "oci"] {
        let node = Node::new();
        let name = registry.push(&web(), &format!("team/web:{format}"), &["--format", format]);
        let record = node.images.pull(&name, insecure(), None).await.unwrap();
        let (steps, sink) = listener();
        // The same repository, and another one, which takes the layers over.
        for target in [format!("team/web:again-{format}"), format!("elsewhere/{format}:1")] {
            let target = format!("{}/{target}", registry.host);
            let pushed = node.images.push(&name, to(&target), Some(sink.clone())).await.unwrap();
            assert_eq!(pushed.digest, record.manifest_digest, "{target}");
            assert_eq!(count(&steps, is_sent), 0, "{target}");
            skopeo(&node, &target);
        }
        // A registry that knows nothing gets new blobs of the same image.
        let empty = RealRegistry::start().await;
        let target = format!("{}/web:1", empty.host);
        node.images.push(&name, to(&target), Some(sink.clone())).await.unwrap();
        assert_eq!(count(&steps, is_sent), 2);
        assert_eq!(skopeo(&node, &target)["config"]["digest"], format!("sha256:{}", record.id));
    }
}

#[tokio::test]
async fn node_a_password_is_asked_for_and_failures_are_told() {
    let registry = RealRegistry::start_with_password().await;
    let node = Node::new();
    let archive = node.path("in.tar");
    web().compression(Compression::Gzip).oci_archive(&archive, Some("localhost/web:1"));
    let record = node.images.load(&archive).await.unwrap().remove(0);
    let name = format!("{}/team/web:1", registry.host);
    let with = |password: &str| PushOptions {
        credentials: Some(Credentials { username: "user".to_owned(), password: password.to_owned() }),
        ..to(&name)
    };
    for options in [to(&name), with("wrong")] {
        let error = node.images.push("localhost/web:1", options, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Upstream);
        let text = error.chain();
        assert!(text.contains("unauthorized") && text.contains(&registry.host), "{text}");
        assert!(!text.contains("wrong"), "{text}");
    }
    node.images.push("localhost/web:1", with("secret"), None).await.unwrap();
    let login = PullOptions { credentials: with("secret").credentials, ..insecure() };
    assert_eq!(Node::new().images.pull(&name, login, None).await.unwrap().id, record.id);

    let nowhere = PushOptions { destination: None, ..to("") };
    let error = node.images.push(record.id.as_str(), nowhere, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = node.images.push("nobody", to(&name), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let at = to(&format!("{}/web@{}", registry.host, record.manifest_digest));
    assert_eq!(
        node.images.push("localhost/web:1", at, None).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    // Nothing that was made for sending stays.
    let left: Vec<_> = node.content().into_iter().filter(|name| name.starts_with("tmp-")).collect();
    assert_eq!(left, Vec::<String>::new());
}
