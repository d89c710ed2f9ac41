//! Pulls from a registry in this process, which lies, stalls and breaks off as told. As root, on a real disk.

use std::time::{Duration, Instant};

use super::image::{Blob, Compression, Image, Layer, sha256};
use super::registry::{Login, Misbehaviour, Registry};
use super::*;

/// Impatient, so that tests of patience are short.
fn impatient() -> ImageSettings {
    ImageSettings {
        stall_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_secs(5),
        attempts: 3,
        retry_delay: Duration::from_millis(10),
        ..settings()
    }
}

fn node() -> Node {
    let root = TempDir::new().unwrap();
    Node { images: open(root.path(), impatient()), root }
}

pub fn insecure() -> PullOptions {
    PullOptions { tls_verify: Some(false), ..PullOptions::default() }
}

fn always() -> PullOptions {
    PullOptions { policy: Some(PullPolicy::Always), ..insecure() }
}

/// Layers big enough to break in the middle of.
fn big_layers(compression: Compression) -> Image {
    let mut noise = 1_u64;
    let mut random = |length: usize| -> Vec<u8> {
        let next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    Image::new()
        .compression(compression)
        .layer(Layer::new().file("below", 0o644, &random(300_000)))
        .layer(Layer::new().file("middle", 0o644, &random(3_000_000)))
        .layer(Layer::new().file("above", 0o644, b"above"))
}

/// The big layer in the middle.
fn middle(image: &Image) -> Blob {
    image.build().layers[1].clone()
}

#[track_caller]
fn assert_nothing_is_left(node: Node) {
    assert_eq!(node.images.images(), []);
    let left: Vec<_> = node.content().into_iter().filter(|name| name.starts_with("tmp-")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn node_images_arrive_whole_in_every_compression() {
    let registry = Registry::start();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let node = node();
        let name = registry.push("team/web", "1", &big_layers(compression));
        let steps: Arc<std::sync::Mutex<Vec<PullProgress>>> = Arc::default();
        let sink = Arc::clone(&steps);
        let progress: ProgressSink = Arc::new(move |step| sink.lock().unwrap().push(step));
        let record = node.images.pull(&name, insecure(), Some(progress.clone())).await.unwrap();
        assert_eq!(record.names, std::slice::from_ref(&name));
        let built = big_layers(compression).build();
        assert_eq!(
            record.repo_digests,
            [format!("{}/team/web@{}", registry.host(), built.manifest.digest())]
        );
        assert_eq!(record.manifest_digest, built.manifest.digest());
        assert_eq!(node.images.raw_manifest(&record.id).unwrap(), built.manifest.bytes);
        assert_eq!(record.size_bytes, 3_300_005);
        let digests: Vec<_> = record.layers.iter().map(|layer| layer.digest.clone()).collect();
        assert_eq!(digests, built.layers.iter().map(Blob::digest).collect::<Vec<_>>());
        assert_eq!(node.read(&record, "above").as_deref(), Some("above"));
        let steps = steps.lock().unwrap();
        assert!(matches!(steps[0], PullProgress::Resolving { .. }));
        assert_eq!(steps.iter().filter(|step| matches!(step, PullProgress::LayerUnpacked { .. })).count(), 3);
        assert!(steps.iter().any(|step| matches!(step, PullProgress::LayerDownloading { .. })));
        assert_eq!(steps.last(), Some(&PullProgress::Done { id: record.id.clone() }));
        drop(steps);
        assert_eq!(Arc::strong_count(&progress), 1, "a pull that has ended is watched by nobody");
        // By digest, by id and by the repository's end.
        for typed in [&record.repo_digests[0], &record.id.to_string(), "web:1"] {
            assert_eq!(node.images.image(typed).unwrap().id, record.id, "{typed}");
        }
    }
}

#[tokio::test]
async fn node_an_index_leads_to_this_machines_image() {
    let registry = Registry::start();
    let node = node();
    let mine = big_layers(Compression::Gzip);
    let other = Image::new().architecture("s390x").layer(Layer::new().file("f", 0o644, b"other"));
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let name = registry.push_index("web", "1", &[(&other, "s390x"), (&mine, host)]);
    let record = node.images.pull(&name, insecure(), None).await.unwrap();
    assert_eq!(record.manifest_digest, mine.build().manifest.digest());
    assert_eq!(record.repo_digests.len(), 2);
    let foreign = PullOptions { platform: Some("linux/s390x".into()), ..insecure() };
    assert_eq!(node.images.pull(&name, foreign, None).await.unwrap().architecture, "s390x");
    let nobodys = PullOptions { platform: Some("linux/riscv64".into()), ..insecure() };
    let error = node.images.pull(&name, nobodys, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.chain().contains("was found but does not match the specified platform"),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn node_policies_say_when_the_registry_is_asked() {
    let registry = Registry::start();
    let node = node();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    let with = |policy| PullOptions { policy: Some(policy), ..insecure() };
    let error = node.images.pull(&name, with(PullPolicy::Never), None).await.unwrap_err();
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::NotFound, 0));
    let first = node.images.pull(&name, with(PullPolicy::Missing), None).await.unwrap();
    let asked = registry.requests().len();
    for policy in [PullPolicy::Missing, PullPolicy::Never] {
        assert_eq!(node.images.pull(&name, with(policy), None).await.unwrap(), first);
    }
    assert_eq!(registry.requests().len(), asked);
    // Unchanged: one look at the manifest, and nothing is written.
    assert_eq!(node.images.pull(&name, with(PullPolicy::Always), None).await.unwrap(), first);
    assert_eq!(registry.requests().len(), asked + 1);

    registry.push("web", "1", &big_layers(Compression::Gzip).user("9"));
    let second = node.images.pull(&name, with(PullPolicy::Newer), None).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(node.images.image(first.id.as_str()).unwrap().names, Vec::<String>::new());
    // The layers are the same ones.
    assert_eq!(registry.count("/blobs/"), 3 + 1 + 1);

    registry.misbehave("/manifests/", Misbehaviour::Status { code: 500, times: usize::MAX });
    assert_eq!(node.images.pull(&name, with(PullPolicy::Newer), None).await.unwrap(), second);
    let error = node.images.pull(&name, with(PullPolicy::Always), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
}

#[tokio::test]
async fn node_lies_are_found_out_and_leave_nothing() {
    let image = big_layers(Compression::Gzip);
    let layer = middle(&image);
    let config = image.build().config;
    let mut flipped = layer.bytes.clone();
    flipped[2_000_000] ^= 1;
    let longer = [&layer.bytes[..], b"more"].concat();
    let other = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&Layer::new().file("evil", 0o4755, b"evil").tar()).unwrap();
        gzip.finish().unwrap()
    };
    let rows: Vec<(&str, String, Misbehaviour, &str)> = vec![
        ("another byte", layer.digest(), Misbehaviour::Replace(flipped), "digest is"),
        ("longer", layer.digest(), Misbehaviour::Replace(longer.clone()), "bytes came"),
        ("longer, unannounced", layer.digest(), Misbehaviour::ReplaceUnannounced(longer), "longer than"),
        ("shorter", layer.digest(), Misbehaviour::Replace(layer.bytes[..1_000_000].to_vec()), "bytes came"),
        (
            "shorter, unannounced",
            layer.digest(),
            Misbehaviour::ReplaceUnannounced(layer.bytes[..1_000_000].to_vec()),
            "bytes long",
        ),
        ("another layer", layer.digest(), Misbehaviour::ReplaceUnannounced(other), "bytes long"),
        ("endless layer", layer.digest(), Misbehaviour::Endless, "longer than"),
        ("another configuration", config.digest(), Misbehaviour::Replace(b"{}".to_vec()), "bytes came"),
        (
            "same length configuration",
            config.digest(),
            Misbehaviour::Replace(vec![b' '; config.bytes.len()]),
            "has digest",
        ),
        ("endless configuration", config.digest(), Misbehaviour::Endless, "longer than"),
        ("another manifest", "/manifests/".into(), Misbehaviour::Replace(b"{}".to_vec()), "has digest"),
        ("endless manifest", "/manifests/".into(), Misbehaviour::Endless, "longer than 4194304"),
    ];
    for (what, path, how, words) in rows {
        let registry = Registry::start();
        let name = registry.push("web", "1", &image);
        let node = node();
        registry.misbehave(&path, how);
        let error = node.images.pull(&name, insecure(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Upstream, "{what}: {}", error.chain());
        assert!(error.chain().contains(words), "{what}: {}", error.chain());
        assert!(error.chain().contains(&name), "{what}: {}", error.chain());
        // The registry comes to its senses: so does the pull, and it fetches only what is missing.
        registry.behave();
        let record = node.images.pull(&name, insecure(), None).await.unwrap();
        assert_eq!(node.read(&record, "above").as_deref(), Some("above"), "{what}");
        node.images.remove(&name, false, &|_| Vec::new()).await.unwrap();
        drop(node.reopened());
    }
}

#[tokio::test]
async fn node_manifests_that_make_no_sense_are_refused() {
    let registry = Registry::start();
    let node = node();
    let put = |tag: &str, text: &str| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        registry.put_manifest("web", tag, Blob { media_type, bytes: text.as_bytes().to_vec() });
    };
    put("text", "hello");
    put("one", r#"{"schemaVersion": 1, "fsLayers": []}"#);
    put("both", r#"{"schemaVersion": 2, "manifests": [], "layers": []}"#);
    let digest = sha256(b"x");
    put(
        "huge",
        &format!(
            r#"{{"schemaVersion": 2, "config": {{"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": "{digest}", "size": 99999999999}}, "layers": []}}"#
        ),
    );
    for (tag, words) in
        [("text", "not JSON"), ("one", "schema version 1"), ("both", "at once"), ("huge", "longer than")]
    {
        let name = format!("{}/web:{tag}", registry.host());
        let error = node.images.pull(&name, insecure(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Upstream, "{tag}");
        assert!(error.chain().contains(words), "{tag}: {}", error.chain());
    }
    assert_nothing_is_left(node);
}

#[tokio::test]
async fn node_a_registry_that_stalls_is_given_up_with_its_name_and_the_step() {
    let image = big_layers(Compression::Gzip);
    let digest = middle(&image).digest();
    for (path, how, step) in [
        (digest.as_str(), Misbehaviour::StallAfter(1_000), format!("fetch layer {digest}")),
        (digest.as_str(), Misbehaviour::Silent, format!("fetch layer {digest}")),
        ("/manifests/", Misbehaviour::StallAfter(10), "fetch manifest 1".to_owned()),
    ] {
        let registry = Registry::start();
        let name = registry.push("web", "1", &image);
        // A little longer than patience for an answer is patience for a connection.
        let root = TempDir::new().unwrap();
        let settings = ImageSettings { connect_timeout: Duration::from_millis(400), ..impatient() };
        let node = Node { images: open(root.path(), settings), root };
        registry.misbehave(path, how.clone());
        let started = Instant::now();
        let error = node.images.pull(&name, insecure(), None).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(error.kind(), ErrorKind::Upstream);
        let text = error.chain();
        for words in [&registry.host(), &step, "nothing came for 0.4 s"] {
            assert!(text.contains(words), "{how:?}: {text}");
        }
        assert_eq!(node.images.images(), []);
        // Nothing half done stays; what the unpacker still holds goes when it notices.
        wait_until(|| node.content().iter().all(|name| !name.starts_with("tmp-"))).await;
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn node_a_broken_download_goes_on_where_it_broke() {
    let image = big_layers(Compression::Gzip);
    let layer = middle(&image);
    let digest = layer.digest();
    // Two short pieces, then the rest; a server that knows no ranges; and one that breaks off more often than we try,
    // but each time later.
    for (how, is_ranged) in [
        (Misbehaviour::BreakAfter { bytes: 1_000_000, times: 2 }, true),
        (Misbehaviour::IgnoreRange { break_after: 1_000_000 }, false),
    ] {
        let registry = Registry::start();
        let name = registry.push("web", "1", &image);
        let node = node();
        registry.misbehave(&digest, how.clone());
        let record = node.images.pull(&name, insecure(), None).await.unwrap();
        assert_eq!(record.size_bytes, 3_300_005);
        assert!(registry.count(" from ") >= 1, "{:?}", registry.requests());
        if is_ranged {
            let wanted = format!("{digest} from 1000000");
            assert_eq!(registry.count(&wanted), 1, "{:?}", registry.requests());
            assert_eq!(registry.count(&format!("{digest} from 2000000")), 1, "{:?}", registry.requests());
        }
    }
    for (how, words) in [
        (Misbehaviour::BreakAfter { bytes: 100, times: usize::MAX }, "connection broke"),
        (Misbehaviour::WrongRange { break_after: 100 }, "another range"),
    ] {
        let registry = Registry::start();
        let name = registry.push("web", "1", &image);
        let node = node();
        registry.misbehave(&digest, how.clone());
        let error = node.images.pull(&name, insecure(), None).await.unwrap_err();
        assert!(error.chain().contains(words), "{how:?}: {}", error.chain());
    }
}

#[tokio::test]
async fn node_passing_failures_are_tried_again_and_lasting_ones_reported() {
    let registry = Registry::start();
    let node = node();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    registry.misbehave("/manifests/", Misbehaviour::Status { code: 503, times: 2 });
    registry.misbehave("/blobs/", Misbehaviour::Status { code: 500, times: 2 });
    node.images.pull(&name, insecure(), None).await.unwrap();
    registry.misbehave("/manifests/", Misbehaviour::Status { code: 503, times: 3 });
    let error = node.images.pull(&name, always(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert!(error.chain().contains("503"), "{}", error.chain());

    let error =
        node.images.pull(&format!("{}/web:nope", registry.host()), insecure(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for words in ["manifest unknown", "repository does not exist"] {
        assert!(error.chain().contains(words), "{}", error.chain());
    }
    // A port where nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = node.images.pull(&format!("{closed}/web:1"), insecure(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert!(error.chain().contains(&closed.to_string()), "{}", error.chain());
    // http must be allowed by name.
    let error =
        node.images.pull(&name, PullOptions { policy: Some(PullPolicy::Always), ..Default::default() }, None);
    assert_eq!(error.await.unwrap_err().kind(), ErrorKind::Upstream);
}

#[tokio::test]
async fn node_logins_of_every_kind_work_and_wrong_ones_are_told() {
    let user = Credentials { username: "user".into(), password: "secret".into() };
    let wrong = Credentials { username: "user".into(), password: "wrong-password".into() };
    for (login, credentials, is_let_in) in [
        (Login::Token, None, true),
        (Login::TokenForUser, Some(user.clone()), true),
        (Login::TokenForUser, None, false),
        (Login::TokenForUser, Some(wrong.clone()), false),
        (Login::Basic, Some(user.clone()), true),
        (Login::Basic, None, false),
        (Login::Basic, Some(wrong), false),
    ] {
        let registry = Registry::start();
        let name = registry.push("web", "1", &big_layers(Compression::Gzip));
        registry.require(login);
        let node = node();
        let options = PullOptions { credentials: credentials.clone(), ..insecure() };
        let outcome = node.images.pull(&name, options, None).await;
        match outcome {
            Ok(_) => assert!(is_let_in, "{login:?} {credentials:?}"),
            Err(error) => {
                assert!(!is_let_in, "{login:?} {credentials:?}: {}", error.chain());
                assert_eq!(error.kind(), ErrorKind::Upstream);
                assert!(error.chain().contains("unauthorized"), "{}", error.chain());
                assert!(!error.chain().contains("wrong-password"));
            }
        }
    }
    // From the file that `podman login` writes.
    let registry = Registry::start();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    registry.require(Login::TokenForUser);
    let root = TempDir::new().unwrap();
    let file = root.path().join("auth.json");
    fs::write(
        &file,
        format!("{{\"auths\": {{\"{}\": {{\"auth\": \"dXNlcjpzZWNyZXQ=\"}}}}}}", registry.host()),
    )
    .unwrap();
    let settings = ImageSettings { auth: AuthPaths(vec![file]), ..impatient() };
    let node = Node { images: open(root.path(), settings), root };
    node.images.pull(&name, insecure(), None).await.unwrap();
    // One login for manifest, configuration and three layers.
    assert_eq!(registry.count("/token"), 1, "{:?}", registry.requests());
}

#[tokio::test]
async fn node_a_token_that_expires_in_the_middle_is_renewed() {
    let registry = Registry::start();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    registry.require(Login::Token);
    let node = node();
    let registry = Arc::new(registry);
    let seen = Arc::clone(&registry);
    let expired = std::sync::atomic::AtomicBool::new(false);
    let progress: ProgressSink = Arc::new(move |step| {
        if matches!(step, PullProgress::LayerUnpacked { .. })
            && !expired.swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            seen.expire_tokens();
        }
    });
    registry.misbehave(
        &middle(&big_layers(Compression::Gzip)).digest(),
        Misbehaviour::BreakAfter { bytes: 1000, times: 1 },
    );
    node.images.pull(&name, insecure(), Some(progress)).await.unwrap();
}

#[tokio::test]
async fn node_pulls_of_one_image_at_once_do_the_work_once() {
    let registry = Registry::start();
    let node = node();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let pulls: Vec<_> = (0..5)
        .map(|_| {
            let (images, name, done) = (node.images.clone(), name.clone(), Arc::clone(&done));
            let progress: ProgressSink = Arc::new(move |step| {
                if matches!(step, PullProgress::Done { .. }) {
                    done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
            tokio::spawn(async move { images.pull(&name, always(), Some(progress)).await })
        })
        .collect();
    let mut ids = HashSet::new();
    for pull in pulls {
        ids.insert(pull.await.unwrap().unwrap().id.clone());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 5);
    assert_eq!(registry.count("/blobs/"), 4, "{:?}", registry.requests());
}

#[tokio::test]
async fn node_a_layer_removed_by_hand_is_fetched_again() {
    let registry = Registry::start();
    let node = node();
    let name = registry.push("web", "1", &big_layers(Compression::Gzip));
    let record = node.images.pull(&name, insecure(), None).await.unwrap();
    let lost = node.images.rootfs(&record.id).unwrap().lower[1].clone();
    fs::remove_dir_all(&lost).unwrap();
    let error = node.images.rootfs(&record.id).unwrap_err();
    assert!(error.chain().contains("layer not known"), "{}", error.chain());
    let never = PullOptions { policy: Some(PullPolicy::Never), ..insecure() };
    assert_eq!(node.images.pull(&name, never, None).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(node.images.pull(&name, insecure(), None).await.unwrap(), record);
    assert!(lost.is_dir() && node.images.rootfs(&record.id).is_ok());
    assert_eq!(registry.count("/blobs/"), 4 + 1);
}

#[tokio::test]
async fn node_an_id_is_no_place_to_pull_from() {
    let node = node();
    let id = "a".repeat(64);
    for typed in [id.clone(), format!("sha256:{id}")] {
        let error = node.images.pull(&typed, always(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{typed}");
    }
}

#[tokio::test]
async fn node_layers_shared_by_two_images_are_fetched_once() {
    let registry = Registry::start();
    let node = node();
    let one = registry.push("one", "1", &big_layers(Compression::Gzip));
    let two = registry.push(
        "two",
        "1",
        &big_layers(Compression::Gzip).layer(Layer::new().file("more", 0o644, b"more")),
    );
    let (one, two) =
        tokio::join!(node.images.pull(&one, insecure(), None), node.images.pull(&two, insecure(), None));
    assert_eq!(one.unwrap().layers[..], two.unwrap().layers[..3]);
    // Two configurations and four layers.
    assert_eq!(registry.count("/blobs/"), 6, "{:?}", registry.requests());
}

#[tokio::test]
async fn node_an_abandoned_pull_stops_and_leaves_nothing_half_done() {
    let registry = Registry::start();
    let node = node();
    let image = big_layers(Compression::Gzip);
    let name = registry.push("web", "1", &image);
    registry.misbehave(&middle(&image).digest(), Misbehaviour::StallAfter(100_000));
    let images = node.images.clone();
    let pulled = name.clone();
    let pull = tokio::spawn(async move { images.pull(&pulled, insecure(), None).await });
    wait_until(|| registry.count(&middle(&image).digest()) == 1).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    wait_until(|| node.content().iter().all(|name| !name.starts_with("tmp-"))).await;
    registry.behave();
    node.images.pull(&name, insecure(), None).await.unwrap();
}

#[tokio::test]
async fn node_registries_conf_rewrites_mirrors_and_blocks() {
    let (mirror, main) = (Registry::start(), Registry::start());
    let image = big_layers(Compression::Gzip);
    main.push("team/web", "1", &image);
    mirror.push("copies/web", "1", &image);
    mirror.push("copies/only", "1", &image);
    let root = TempDir::new().unwrap();
    let file = root.path().join("registries.conf");
    let text = format!(
        "unqualified-search-registries = ['registry.example/nothing', 'registry.example/team']\n\
         [[registry]]\nprefix = 'registry.example/team'\nlocation = '{main}/team'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{mirror}/copies'\ninsecure = true\n\
         [[registry]]\nprefix = 'registry.example/nothing'\nlocation = '{main}/nothing'\ninsecure = true\n\
         [[registry]]\nprefix = 'blocked.example'\nblocked = true\n",
        main = main.host(),
        mirror = mirror.host(),
    );
    fs::write(&file, text).unwrap();
    let registries = ConfPaths { file: Some(file.clone()), directory: None };
    let settings = ImageSettings { registries, ..impatient() };
    let node = Node { images: open(root.path(), settings), root };
    let pull = |name: &str| {
        let (images, name) = (node.images.clone(), name.to_owned());
        async move { images.pull(&name, PullOptions::default(), None).await }
    };

    let record = pull("web:1").await.unwrap();
    assert_eq!(record.names, ["registry.example/team/web:1"]);
    assert_eq!((main.count("/team/web/"), mirror.count("/blobs/")), (0, 4));
    // A mirror that fails is no obstacle.
    mirror.misbehave("/copies/", Misbehaviour::Status { code: 404, times: usize::MAX });
    main.push("team/other", "1", &image);
    pull("registry.example/team/other:1").await.unwrap();
    assert_eq!(main.count("/team/other/manifests/"), 1);

    let error = pull("nowhere:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.chain().contains("registry.example/nothing/nowhere:1"), "{}", error.chain());
    let error = pull("blocked.example/web").await.unwrap_err();
    assert!(error.chain().contains("blocked"), "{}", error.chain());
    fs::write(&file, "nonsense").unwrap();
    let error = pull("registry.example/team/new:1").await.unwrap_err();
    assert!(error.chain().contains("registries.conf"), "{}", error.chain());
    assert_eq!(pull("a b").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn node_a_full_disk_leaves_the_store_as_it_was() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    struct Mount(TempDir);
    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
        }
    }
    let disk = Mount(TempDir::new().unwrap());
    mount(Some("tmpfs"), disk.0.path(), Some("tmpfs"), MsFlags::empty(), Some("size=4m,mode=700")).unwrap();
    let root = disk.0.path();
    let registry = Registry::start();
    let images = open(root, impatient());
    let small = registry.push("small", "1", &Image::new().layer(Layer::new().file("f", 0o644, &[1; 1000])));
    let before = images.pull(&small, insecure(), None).await.unwrap();
    let content_before = content(root);
    let big = Image::new()
        .layer(Layer::new().file("fits", 0o644, &vec![2; 500_000]))
        .layer(Layer::new().file("fits-not", 0o644, &vec![3; 6_000_000]));
    let big_name = registry.push("big", "1", &big);
    let error = images.pull(&big_name, insecure(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let text = error.chain();
    assert!(text.contains("fits-not") && text.to_lowercase().contains("no space left"), "{text}");
    wait_until(|| content(root) == content_before).await;
    assert_eq!(images.images(), [Arc::clone(&before)]);
    assert!(images.rootfs(&before.id).is_ok());

    let archive = TempDir::new().unwrap();
    big.docker_archive(&archive.path().join("big.tar"), &["big:1"]);
    let error = images.load(&archive.path().join("big.tar")).await.unwrap_err();
    assert!(error.chain().to_lowercase().contains("no space left"), "{}", error.chain());
    wait_until(|| content(root) == content_before).await;
    drop(images);
    let images = open(root, impatient());
    assert_eq!(images.images(), [before]);
    drop(images);
}

/// Debian's registry, filled by skopeo. Ends with the test.
pub struct RealRegistry {
    process: std::process::Child,
    pub host: String,
    directory: TempDir,
}

impl RealRegistry {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Lets in `user` with password `secret` alone.
    pub async fn start_with_password() -> Self {
        // bcrypt, the only hash it takes.
        let passwords = "user:$2b$04$mpY0TnyZv8J59dfUeOAhO.nAWfue.XHjDmqhN.42tfyshtP8EPyZy\n";
        Self::start_with(passwords).await
    }

    async fn start_with(passwords: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let htpasswd = directory.path().join("htpasswd");
        fs::write(&htpasswd, passwords).unwrap();
        let auth = match passwords {
            "" => String::new(),
            _ => format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", htpasswd.display()),
        };
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n{auth}",
            directory.path().join("content").display()
        );
        fs::write(&config, text).unwrap();
        let process = std::process::Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("run docker-registry (package docker-registry, see `make test`)");
        let registry = Self { process, host, directory };
        wait_until(|| std::net::TcpStream::connect(&registry.host).is_ok()).await;
        registry
    }

    pub fn push(&self, image: &Image, name: &str, arguments: &[&str]) -> String {
        let archive = self.directory.path().join("image.tar");
        image.docker_archive(&archive, &["web:1"]);
        let name = format!("{}/{name}", self.host);
        let pushed = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(arguments)
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{name}"))
            .output()
            .expect("run skopeo (package skopeo, see `make test`)");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        name
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn node_a_real_registry_serves_what_skopeo_pushed() {
    let registry = RealRegistry::start().await;
    let image = big_layers(Compression::None);
    for (tag, arguments) in [
        ("docker", &["--format", "v2s2"][..]),
        ("oci", &["--format", "oci"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let node = node();
        let name = registry.push(&image, &format!("team/web:{tag}"), arguments);
        let record = node.images.pull(&name, insecure(), None).await.unwrap();
        // skopeo writes another configuration when it converts to OCI; what we keep is what it wrote.
        let raw = node.images.raw_config(&record.id).unwrap();
        assert_eq!(Digest::of(&raw).hex(), record.id.as_str(), "{tag}");
        assert_eq!(record.size_bytes, 3_300_005, "{tag}");
        assert_eq!(node.read(&record, "above").as_deref(), Some("above"), "{tag}");
        let by_digest = node.images.pull(&record.repo_digests[0], always(), None).await.unwrap();
        assert_eq!(by_digest.id, record.id);
        let error = node.images.pull(&format!("{}/team/none:1", registry.host), insecure(), None).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
