//! Volumes and binds in real containers.

use selkie::engine::container::spec::{Mount, MountSource};
use selkie::engine::container::state::ContainerState;
use selkie::engine::error::ErrorKind;

use super::bed::{Bed, IMAGE, sh};
use crate::support::image::{Layer, busybox};

pub fn bind(destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Bind(source.into()),
        read_only: false,
        options: Vec::new(),
    }
}

fn volume(destination: &str, name: &str, sub_path: Option<&str>) -> Mount {
    let source =
        MountSource::Volume { name: name.parse().unwrap(), sub_path: sub_path.map(std::path::PathBuf::from) };
    Mount { source, ..bind(destination, "/") }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_of_a_volume_copies_what_the_image_has_there() {
    let bed = Bed::new().await;
    let lower = Layer::new().directory("srv", 0o755).file("srv/a", 0o644, b"a").file("srv/b", 0o644, b"b");
    let upper = Layer::new().whiteout("srv/b").file("srv/c", 0o600, b"c");
    bed.load(&busybox().layer(lower).layer(upper), "localhost/content:latest").await;
    let with = |name: &str, script: &str| {
        let mut spec = sh(name, script);
        spec.image = "localhost/content".into();
        spec.mounts = vec![volume("/srv", "data", None)];
        spec
    };
    assert_eq!(bed.output_of(with("one", "ls /srv; echo mine > /srv/d; rm /srv/a")).await, "a\nc\n");
    // What a container did with it stays; the image does not come back.
    assert_eq!(bed.output_of(with("two", "ls /srv")).await, "c\nd\n");
    let record = bed.engine().volume("data").unwrap();
    assert!(!record.needs_copy_up);
    assert!(record.mountpoint.join("d").exists());

    bed.create(with("user", "true")).await;
    let error = bed.engine().remove_volume("data", false).await.expect_err("it is used");
    assert_eq!(error.kind(), ErrorKind::InUse);
    bed.engine().remove_volume("data", true).await.unwrap();
    assert!(bed.engine().container(&"user".into()).is_err(), "force removes its users");
    assert!(bed.engine().volume("data").is_err());
    crate::support::wait_until("its content is gone", || !record.mountpoint.exists());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_paths_stay_inside() {
    let bed = Bed::new().await;
    let secret = bed.node.scratch("secret");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("key"), "x").unwrap();
    let base = bed.node.scratch("base");
    std::fs::create_dir_all(base.join("good")).unwrap();
    std::os::unix::fs::symlink(&secret, base.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../secret", base.join("relative")).unwrap();
    let beneath = |path: &str| Mount {
        source: MountSource::BindBeneath { base: base.clone(), path: path.into() },
        ..bind("/data", "/")
    };
    for escape in ["absolute", "relative", "../secret", "absolute/key"] {
        let mut spec = sh("web", "ls /data");
        spec.mounts = vec![beneath(escape)];
        bed.create(spec).await;
        let error = bed.engine().start_container(&"web".into()).await.expect_err("it leads out");
        assert!(error.chain().contains(escape), "{}", error.chain());
        assert_eq!(bed.state("web"), ContainerState::Configured);
        bed.remove("web").await;
        bed.assert_nothing_left();
    }
    let mut spec = sh("web", "echo hello > /data/file; echo more > /logs/file");
    spec.mounts = vec![beneath("good"), volume("/logs", "logs", Some("of/web"))];
    bed.output_of(spec).await;
    assert_eq!(std::fs::read_to_string(base.join("good/file")).unwrap(), "hello\n");
    let logs = bed.engine().volume("logs").unwrap();
    assert_eq!(std::fs::read_to_string(logs.mountpoint.join("of/web/file")).unwrap(), "more\n");
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_volumes_go_with_their_container() {
    let bed = Bed::new().await;
    let declares = busybox()
        .layer(Layer::new().directory("cache", 0o755).file("cache/warm", 0o644, b"x"))
        .config("Volumes", serde_json::json!({"/cache": {}}));
    bed.load(&declares, "localhost/cached:latest").await;
    let mut spec = sh("web", "ls /cache; touch /cache/mine");
    spec.image = "localhost/cached".into();
    bed.run(spec).await;
    assert_eq!(bed.output("web").await, "warm\n");
    let volumes = bed.engine().volumes();
    assert_eq!(volumes.len(), 1);
    assert!(volumes[0].anonymous && volumes[0].mountpoint.join("mine").exists());
    bed.remove("web").await;
    assert_eq!(bed.engine().volumes().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_mounts_and_tmpfs() {
    let bed = Bed::new().await;
    let source = bed.node.scratch("source");
    std::fs::create_dir_all(&source).unwrap();
    let mut spec = sh("web", "touch /ro/x || echo refused; touch /tmpfs/x && grep ' /tmpfs ' /proc/mounts");
    let tmpfs = MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: Some(0o700) };
    spec.mounts = vec![
        Mount { read_only: true, ..bind("/ro", source.to_str().unwrap()) },
        Mount { source: tmpfs, ..bind("/tmpfs", "/") },
    ];
    let output = bed.output_of(spec).await;
    assert!(output.starts_with("refused\n") && output.contains("size=1024k,mode=700"), "{output}");
    assert_eq!(bed.engine().image(IMAGE).unwrap().names, [IMAGE]);
}
