//! The image store on a real disk, as root: loading, names, removal, what a crash leaves.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

#[path = "../../../tests/support/image.rs"]
pub(super) mod image;

use image::{Compression, Image, Layer};

/// An image store on its own root.
struct Node {
    images: ImageStore,
    root: TempDir,
}

fn settings() -> ImageSettings {
    ImageSettings {
        registries: ConfPaths::default(),
        auth: AuthPaths::default(),
        certificates: Vec::new(),
        ..ImageSettings::default()
    }
}

fn open(root: &Path, settings: ImageSettings) -> ImageStore {
    let config = EngineConfig::new(root.to_owned(), root.join("run"));
    let (store, snapshot) = Store::open(&root.join("state.db")).unwrap();
    ImageStore::open_with(&config, store, snapshot.images, settings).unwrap()
}

impl Node {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        Self { images: open(root.path(), settings()), root }
    }

    /// As after a restart of the daemon.
    fn reopened(self) -> Self {
        let Self { images, root } = self;
        drop(images);
        Self { images: open(root.path(), settings()), root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The names in `layers` and `blobs/sha256`, without the empty layer.
    fn content(&self) -> Vec<String> {
        content(self.root.path())
    }

    fn read(&self, record: &ImageRecord, path: &str) -> Option<String> {
        let rootfs = self.images.rootfs(&record.id).unwrap();
        rootfs.lower.iter().find_map(|layer| fs::read_to_string(layer.join(path)).ok())
    }
}

fn content(root: &Path) -> Vec<String> {
    let mut names: Vec<_> = ["layers", "blobs/sha256"]
        .iter()
        .flat_map(|directory| fs::read_dir(root.join(directory)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "empty")
        .collect();
    names.sort();
    names
}

fn two_layers() -> Image {
    Image::new()
        .layer(
            Layer::new()
                .file("below", 0o644, b"below")
                .file("both", 0o644, b"below")
                .file("gone", 0o644, b""),
        )
        .layer(Layer::new().file("both", 0o644, b"above").whiteout("gone"))
        .command(&["/run"])
        .env("A=b")
        .user("7:8")
}

fn compressed(path: &Path, compression: Compression) -> PathBuf {
    use std::io::Write;
    let bytes = fs::read(path).unwrap();
    let target = path.with_extension("compressed");
    match compression {
        Compression::None => fs::write(&target, bytes).unwrap(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(
                fs::File::create(&target).unwrap(),
                flate2::Compression::fast(),
            );
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap();
        }
        Compression::Zstd => fs::write(&target, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap(),
    }
    target
}

#[tokio::test]
async fn node_every_kind_of_archive_loads_to_the_same_image() {
    let node = Node::new();
    let docker = node.path("docker.tar");
    two_layers().docker_archive(&docker, &["web:1", "quay.io/team/web:2"]);
    let oci = node.path("oci.tar");
    two_layers().compression(Compression::Zstd).oci_archive(&oci, Some("web"));
    let layout = node.path("layout");
    two_layers().oci_layout(&layout, None);
    let packed = compressed(&docker, Compression::Gzip);
    let oci_packed = compressed(&oci, Compression::Zstd);
    let mut ids = HashSet::new();
    let mut names = Vec::new();
    for archive in [&docker, &oci, &layout, &packed, &oci_packed] {
        let loaded = node.images.load(archive).await.unwrap();
        assert_eq!(loaded.len(), 1, "{archive:?}");
        ids.insert(loaded[0].id.clone());
        names.clone_from(&loaded[0].names);
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(names, ["docker.io/library/web:1", "quay.io/team/web:2", "localhost/web:latest"]);
    let record = node.images.image("web").unwrap();
    assert_eq!(node.read(&record, "both").as_deref(), Some("above"));
    assert_eq!(node.read(&record, "below").as_deref(), Some("below"));
    let rootfs = node.images.rootfs(&record.id).unwrap();
    assert_eq!(rootfs.lower.len(), 2);
    assert!(fs::symlink_metadata(rootfs.lower[0].join("gone")).unwrap().file_type().is_char_device());
    assert_eq!(record.size_bytes, 5 + 5 + 5);
    assert_eq!(record.created_at.unwrap().to_string(), "2024-01-02T03:04:05Z");
    assert_eq!(record.config.config().as_ref().unwrap().user().as_deref(), Some("7:8"));
    let raw = node.images.raw_config(&record.id).unwrap();
    assert_eq!(Digest::of(&raw).hex(), record.id.as_str());
    let manifest = node.images.raw_manifest(&record.id).unwrap();
    assert_eq!(Digest::of(&manifest).as_str(), record.manifest_digest);
}

#[tokio::test]
async fn node_several_images_of_one_archive_share_their_layers() {
    let node = Node::new();
    let one = two_layers();
    let two = two_layers().layer(Layer::new().file("third", 0o644, b"3"));
    let archive = node.path("two.tar");
    image::docker_archive(&archive, &[(&one, &["one:1"]), (&two, &["two:1"])]);
    let loaded = node.images.load(&archive).await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].layers[..], loaded[1].layers[..2]);
    // Three layers, two manifests, two configurations.
    assert_eq!(node.content().len(), 7);
}

#[tokio::test]
async fn node_records_and_layers_survive_a_restart_and_rubbish_does_not() {
    let node = Node::new();
    let archive = node.path("image.tar");
    two_layers().docker_archive(&archive, &["web:1"]);
    let before = node.images.load(&archive).await.unwrap();
    let content_before = node.content();
    fs::create_dir_all(node.path("layers/tmp-half/usr/bin")).unwrap();
    fs::write(node.path("blobs/sha256/tmp-half"), "half").unwrap();
    fs::create_dir(node.path(&format!("layers/{}", "a".repeat(64)))).unwrap();
    fs::write(node.path(&format!("blobs/sha256/{}", "a".repeat(64))), "unnamed").unwrap();
    let node = node.reopened();
    assert_eq!(node.content(), content_before);
    assert_eq!(node.images.images(), before);
    assert_eq!(node.read(&before[0], "both").as_deref(), Some("above"));
}

#[tokio::test]
async fn node_names_move_and_the_last_name_takes_the_image_along() {
    let node = Node::new();
    let archive = node.path("image.tar");
    two_layers().docker_archive(&archive, &["web:1"]);
    let old = node.images.load(&archive).await.unwrap().remove(0);
    two_layers().user("9").docker_archive(&archive, &["web:1"]);
    let new = node.images.load(&archive).await.unwrap().remove(0);
    assert_ne!(old.id, new.id);
    assert_eq!(node.images.image("web:1").unwrap().id, new.id);
    assert_eq!(node.images.image(old.id.as_str()).unwrap().names, Vec::<String>::new());

    node.images.tag("web:1", "other").await.unwrap();
    let free = |_: &ImageId| Vec::new();
    let many = node.images.remove(new.id.short(), false, &free).await.unwrap_err();
    assert_eq!(many.kind(), ErrorKind::InUse);
    let untagged = node.images.remove("other", false, &free).await.unwrap();
    assert_eq!((untagged.untagged, untagged.deleted), (vec!["localhost/other:latest".to_owned()], vec![]));

    let busy = |_: &ImageId| vec!["c1".to_owned()];
    let error = node.images.remove("web:1", true, &busy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.chain().contains("c1"), "{}", error.chain());
    assert_eq!(node.images.images().len(), 2);

    let removed = node.images.remove("web:1", false, &free).await.unwrap();
    assert_eq!(removed.deleted, std::slice::from_ref(&new.id));
    // The old image has the same layers: they stay for it.
    assert_eq!(node.read(&old, "both").as_deref(), Some("above"));
    node.images.remove(old.id.as_str(), false, &free).await.unwrap();
    assert_eq!(node.content().iter().filter(|name| !name.starts_with("tmp-")).count(), 0);
    assert_eq!(node.images.image("web:1").unwrap_err().kind(), ErrorKind::NotFound);
    let node = node.reopened();
    assert_eq!(node.images.images(), []);
    assert_eq!(node.content(), Vec::<String>::new());
}

#[tokio::test]
async fn node_bad_archives_change_nothing_and_say_what_is_wrong() {
    let node = Node::new();
    let good = node.path("good.tar");
    two_layers().docker_archive(&good, &["web:1"]);
    let bytes = fs::read(&good).unwrap();
    let oci = node.path("layout");
    two_layers().oci_layout(&oci, Some("web"));
    let layer_blob = fs::read_dir(oci.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]))
        .unwrap();
    fs::write(&layer_blob, "something else").unwrap();
    let escaping = node.path("escaping");
    two_layers().oci_layout(&escaping, Some("web"));
    fs::remove_file(escaping.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", escaping.join("index.json")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(node.path(name), bytes).unwrap();
        node.path(name)
    };
    let rows = [
        (node.path("nothing"), ErrorKind::NotFound, "open"),
        (write("text", b"this is no archive"), ErrorKind::InvalidArgument, "middle of a header"),
        (write("empty", b""), ErrorKind::InvalidArgument, "neither a docker-archive nor an OCI layout"),
        (write("cut", &bytes[..bytes.len() / 2]), ErrorKind::InvalidArgument, ""),
        (write("gz", &[0x1f, 0x8b, 8, 0, 0]), ErrorKind::InvalidArgument, "decompress"),
        (oci, ErrorKind::InvalidArgument, "descriptor says"),
        (escaping, ErrorKind::Internal, "read index.json"),
    ];
    for (archive, kind, words) in rows {
        let error = node.images.load(&archive).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
        assert!(error.chain().contains(archive.to_str().unwrap()), "{}", error.chain());
    }
    assert_eq!(node.images.images(), []);
    let node = node.reopened();
    assert_eq!(node.content(), Vec::<String>::new());
}

#[path = "../../../tests/support/registry.rs"]
mod registry;

#[path = "pull_tests.rs"]
mod pulls;

#[path = "save_tests.rs"]
mod saves;

#[path = "prune_tests.rs"]
mod prunes;

#[path = "push_tests.rs"]
mod pushes;
