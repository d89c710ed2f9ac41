//! Saving, as root: layers come out as the very bytes that went in.

use futures_util::TryStreamExt;

use super::image::{Compression, Image, Layer, sha256};
use super::*;

/// Everything that makes a tar more than its files.
fn awkward() -> Image {
    let long = "n".repeat(150);
    let mut trailing = Layer::new().file("with-tail", 0o644, b"x").tar();
    // Records of 10 KiB, as GNU tar pads its archives.
    trailing.resize(20480, 0);
    Image::new()
        .layer(
            Layer::new()
                .directory("etc", 0o755)
                .file("etc/empty", 0o644, b"")
                .file("etc/odd", 0o4755, &[7; 1025])
                .file(&format!("etc/{long}"), 0o600, b"long name")
                .hard_link("etc/hard", "etc/odd")
                .symlink("lib", "etc")
                .file("./lib/through-link", 0o644, b"resolved as it was unpacked")
                .file("unnamed/directory/file", 0o644, b"made on the way")
                .pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1700000000.5")])
                .file("etc/pax", 0o644, b"attributes")
                .pax(&[("GNU.sparse.size", b"10485760"), ("GNU.sparse.map", b"4096,4,5242880,4")])
                .file("sparse", 0o644, b"onetwo!!")
                .directory("etc", 0o700),
        )
        .layer(Layer::new().whiteout("etc/odd").opaque("unnamed").file(
            "etc/.wh.x",
            0o644,
            b"ignored content",
        ))
        .layer_tar(trailing)
        .command(&["/run"])
}

async fn save(node: &Node, images: &[&str], format: ArchiveFormat) -> Result<Vec<u8>> {
    let images: Vec<_> = images.iter().map(|image| (*image).to_owned()).collect();
    let pieces: Vec<_> = node.images.save(&images, format).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// The archive's members by name.
fn members(archive: &[u8]) -> HashMap<String, Vec<u8>> {
    let mut members = HashMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        assert!(members.insert(name, bytes).is_none(), "each member is there once");
    }
    members
}

#[tokio::test]
async fn node_a_saved_image_is_the_one_that_was_loaded() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let node = Node::new();
        let archive = node.path("in.tar");
        awkward().compression(compression).oci_archive(&archive, Some("quay.io/team/web:2"));
        let record = node.images.load(&archive).await.unwrap().remove(0);
        let built = awkward().compression(Compression::None).build();

        // The recipes outlive the process.
        let node = node.reopened();
        let docker = save(&node, &["web:2"], ArchiveFormat::Docker).await.unwrap();
        let members = members(&docker);
        let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["quay.io/team/web:2"]));
        assert_eq!(members[manifest[0]["Config"].as_str().unwrap()], built.config.bytes);
        for (name, layer) in manifest[0]["Layers"].as_array().unwrap().iter().zip(&built.layers) {
            assert!(members[name.as_str().unwrap()] == layer.bytes, "{name} has other bytes");
        }
        assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 3);

        let oci = save(&node, &["web:2"], ArchiveFormat::Oci).await.unwrap();
        for (name, bytes) in self::members(&oci) {
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(sha256(&bytes), format!("sha256:{digest}"));
            }
        }

        // Elsewhere it is the same image, and saved from there the same bytes.
        for (bytes, format) in [(docker, ArchiveFormat::Docker), (oci, ArchiveFormat::Oci)] {
            let other = Node::new();
            let path = other.path("out.tar");
            fs::write(&path, &bytes).unwrap();
            let again = other.images.load(&path).await.unwrap().remove(0);
            assert_eq!((&again.id, &again.names), (&record.id, &record.names));
            assert!(save(&other, &["web:2"], format).await.unwrap() == bytes, "{format:?} differs");
        }
    }
}

#[tokio::test]
async fn node_several_images_share_an_archive_and_their_layers() {
    let node = Node::new();
    let archive = node.path("in.tar");
    let shared = || Layer::new().file("shared", 0o644, b"shared");
    let one = Image::new().layer(shared());
    let two = Image::new().layer(shared()).layer(Layer::new().file("own", 0o644, b"own")).user("7");
    super::image::docker_archive(&archive, &[(&one, &["one:1", "one:2"]), (&two, &["two:1"])]);
    let records = node.images.load(&archive).await.unwrap();
    let id = records[1].id.to_string();
    let saved = save(&node, &["one:2", &id, "one:1"], ArchiveFormat::Docker).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&members(&saved)["manifest.json"]).unwrap();
    assert_eq!(manifest.as_array().unwrap().len(), 2);
    // By name with those names, by id with none.
    assert_eq!(
        manifest[0]["RepoTags"],
        serde_json::json!(["docker.io/library/one:2", "docker.io/library/one:1"])
    );
    assert_eq!(manifest[1]["RepoTags"], serde_json::Value::Null);
    assert_eq!(members(&saved).len(), 1 + 2 + 2);
    let several = save(&node, &["one:1", "two:1"], ArchiveFormat::Oci).await.unwrap_err();
    assert_eq!(several.kind(), ErrorKind::InvalidArgument);
    let missing = save(&node, &["one:1", "three"], ArchiveFormat::Docker).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn node_what_is_not_the_image_any_more_is_not_saved() {
    let node = Node::new();
    let archive = node.path("in.tar");
    let twice = Layer::new().file("f", 0o644, b"first").file("f", 0o644, b"second");
    Image::new().layer(twice).docker_archive(&archive, &["twice"]);
    node.images.load(&archive).await.unwrap();
    let error = save(&node, &["twice"], ArchiveFormat::Docker).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    assert!(error.chain().contains("overwrite each other"), "{}", error.chain());

    two_layers().docker_archive(&archive, &["web"]);
    let record = node.images.load(&archive).await.unwrap().remove(0);
    let below = node.images.rootfs(&record.id).unwrap().lower[1].join("below");
    fs::write(&below, "above").unwrap();
    let error = save(&node, &["web"], ArchiveFormat::Docker).await.unwrap_err();
    assert!(error.chain().contains("its files were changed"), "{}", error.chain());
    fs::remove_file(&below).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &below).unwrap();
    let error = save(&node, &["web"], ArchiveFormat::Docker).await.unwrap_err();
    assert!(error.chain().contains("below"), "{}", error.chain());

    // An older selkie kept no recipes.
    let recipe = node.path("recipes").join(record.layers[0].chain_id.trim_start_matches("sha256:"));
    fs::remove_file(&recipe).unwrap();
    let error = save(&node, &["web"], ArchiveFormat::Docker).await.unwrap_err();
    assert!(error.chain().contains("fetch it again"), "{}", error.chain());
}

#[tokio::test]
async fn node_recipes_go_with_their_layers() {
    let node = Node::new();
    let archive = node.path("in.tar");
    awkward().docker_archive(&archive, &["web"]);
    node.images.load(&archive).await.unwrap();
    let recipes = |node: &Node| fs::read_dir(node.path("recipes")).unwrap().count();
    assert_eq!(recipes(&node), 3);
    node.images.remove("web", false, &|_| Vec::new()).await.unwrap();
    // Files go in the background; a new start leaves nothing either way.
    let node = node.reopened();
    assert_eq!(recipes(&node), 0);
}
