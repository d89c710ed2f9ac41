//! Real unpacking, as root: owners, devices and overlayfs attributes are the point.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::image::tests::image::Layer;

/// A layer's root, and beside it what no layer may touch.
struct Place {
    directory: TempDir,
}

fn no_recipe() -> RefCell<RecipeWriter> {
    RefCell::new(RecipeWriter::new(None).unwrap())
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("layer")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "untouched").unwrap();
        fs::set_permissions(directory.path().join("outside/secret"), fs::Permissions::from_mode(0o600))
            .unwrap();
        Self { directory }
    }

    fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn unpack(&self, layer: Layer) -> Result<u64, LayerError> {
        unpack(&layer.tar()[..], &self.layer(), &no_recipe(), &Limits::default())
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{what}");
        let secret = self.outside().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched", "{what}");
        let meta = fs::metadata(&secret).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink(), meta.uid()), (0o600, 1, 0), "{what}");
        let names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
    }
}

fn header(kind: tar::EntryType, mode: u32, uid: u64, gid: u64, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
    header.set_mtime(1_600_000_000);
    header
}

fn is_opaque(path: &Path) -> bool {
    xattr::get(path, OPAQUE_XATTR).unwrap().as_deref() == Some(b"y")
}

fn is_whiteout_file(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

#[test]
fn node_hostile_entries_never_leave_the_layer() {
    let sentinel = Place::new();
    let outside = sentinel.outside();
    let outside = outside.to_str().unwrap();
    let secret = format!("{outside}/secret");
    let deep_up = "../".repeat(60) + secret.trim_start_matches('/');
    let tmp = |name: &str| format!("{outside}/{name}");
    let rows: Vec<(&str, Layer)> = vec![
        ("dot dot file", Layer::new().file("../outside/secret", 0o777, b"x")),
        ("dot dot inside", Layer::new().file("a/../../outside/secret", 0o777, b"x")),
        ("many dot dots", Layer::new().file(&deep_up, 0o777, b"x")),
        ("absolute file", Layer::new().file(&secret, 0o777, b"x")),
        (
            "symlink up, file through it",
            Layer::new().symlink("l", "../outside").file("l/secret", 0o777, b"x"),
        ),
        (
            "absolute symlink, file through it",
            Layer::new().symlink("l", outside).file("l/secret", 0o777, b"x"),
        ),
        ("symlink to the file, file over it", Layer::new().symlink("l", &secret).file("l", 0o777, b"x")),
        (
            "symlink to the file, directory over it",
            Layer::new().symlink("l", "../outside").directory("l", 0o777).file("l/new", 0o777, b"x"),
        ),
        (
            "chain of symlinks",
            Layer::new()
                .symlink("a", "b")
                .symlink("b", "c")
                .symlink("c", "../outside")
                .file("a/new", 0o777, b"x"),
        ),
        (
            "symlink with dot dot in the middle",
            Layer::new().directory("d", 0o755).symlink("d/l", "../../outside").file("d/l/new", 0o777, b"x"),
        ),
        ("link through proc", Layer::new().symlink("l", "/proc/self/cwd").file("l/new", 0o777, b"x")),
        ("hard link to an absolute path", Layer::new().hard_link("h", &secret).file("h", 0o777, b"x")),
        ("hard link up", Layer::new().hard_link("h", "../outside/secret")),
        (
            "hard link through a symlink",
            Layer::new().symlink("l", outside).hard_link("h", "l/secret").file("h", 0o777, b"x"),
        ),
        (
            "hard link to a symlink out, then written",
            Layer::new().symlink("l", &secret).hard_link("h", "l").file("h", 0o777, b"x"),
        ),
        ("whiteout of dot dot", Layer::new().file(".wh...", 0o644, b"")),
        ("whiteout through a symlink", Layer::new().symlink("l", outside).file("l/.wh.secret", 0o644, b"")),
        ("opaque through a symlink", Layer::new().symlink("l", outside).opaque("l")),
        (
            "directory replaced by a symlink",
            Layer::new().directory("d", 0o755).symlink("d", outside).file("d/new", 0o777, b"x"),
        ),
        (
            "tree removed through a symlink",
            Layer::new().symlink("l", "../outside").file("l/x/y", 0o644, b"").file("l/x", 0o644, b""),
        ),
        ("device over a symlink", {
            let fifo = header(tar::EntryType::Fifo, 0o777, 5, 5, 0);
            Layer::new().symlink("l", &tmp("new")).raw(fifo, "l", "", b"")
        }),
        (
            "times of a directory replaced by a symlink",
            Layer::new().directory("d", 0o777).symlink("d", outside),
        ),
    ];
    for (what, layer) in rows {
        // Refused or kept inside: both are right, touching the outside is not.
        let place = Place::new();
        let relative = place.unpack(layer);
        place.assert_untouched(what);
        sentinel.assert_untouched(what);
        if let Err(error) = relative {
            assert!(!error.to_string().is_empty(), "{what}");
        }
    }
}

#[test]
fn node_symlinks_inside_a_layer_lead_where_a_chroot_would() {
    let place = Place::new();
    let layer = Layer::new()
        .directory("usr", 0o755)
        .directory("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("lib64", "/usr/lib")
        .file("lib/a", 0o644, b"a")
        .file("lib64/b", 0o644, b"b");
    place.unpack(layer).unwrap();
    assert_eq!(fs::read(place.layer().join("usr/lib/a")).unwrap(), b"a");
    assert_eq!(fs::read(place.layer().join("usr/lib/b")).unwrap(), b"b");
}

#[test]
fn node_whiteouts_become_overlayfs_ones() {
    let place = Place::new();
    let layer = Layer::new()
        .whiteout("gone")
        .whiteout("dir/gone")
        .opaque("opaque")
        .file("opaque/kept", 0o644, b"x")
        // Hidden below, and at the same time here: what is here stays.
        .file("both", 0o644, b"x")
        .whiteout("both")
        .directory("bothdir", 0o755)
        .whiteout("bothdir")
        // A directory that takes the place of a hidden one does not show the hidden one's content.
        .whiteout("again")
        .directory("again", 0o755)
        .whiteout("implicit")
        .file("implicit/file", 0o644, b"x")
        .file(".wh..wh.plnk", 0o644, b"");
    place.unpack(layer).unwrap();
    let root = place.layer();
    assert!(is_whiteout_file(&root.join("gone")));
    assert!(is_whiteout_file(&root.join("dir/gone")));
    assert!(is_opaque(&root.join("opaque")));
    assert!(root.join("opaque/kept").is_file());
    assert_eq!(fs::read(root.join("both")).unwrap(), b"x");
    for opaque in ["bothdir", "again", "implicit"] {
        assert!(root.join(opaque).is_dir() && is_opaque(&root.join(opaque)), "{opaque}");
    }
    assert!(!root.join(".wh..wh.plnk").exists());
    assert!(!is_opaque(&root.join("dir")));
}

#[test]
fn node_overlayfs_itself_agrees() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let lower = Place::new();
    lower
        .unpack(
            Layer::new()
                .file("gone", 0o644, b"")
                .file("kept", 0o644, b"")
                .file("dir/hidden", 0o644, b"")
                .file("again/hidden", 0o644, b""),
        )
        .unwrap();
    let upper = Place::new();
    upper
        .unpack(
            Layer::new()
                .whiteout("gone")
                .opaque("dir")
                .file("dir/new", 0o644, b"")
                .whiteout("again")
                .directory("again", 0o755),
        )
        .unwrap();
    let merged = TempDir::new().unwrap();
    let options = format!("lowerdir={}:{}", upper.layer().display(), lower.layer().display());
    mount(Some("overlay"), merged.path(), Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
        .unwrap();
    let list = |path: &str| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(merged.path().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let seen = std::panic::catch_unwind(|| (list(""), list("dir"), list("again")));
    umount2(merged.path(), MntFlags::MNT_DETACH).unwrap();
    let (root, dir, again) = seen.unwrap();
    assert_eq!(root, ["again", "dir", "kept"]);
    assert_eq!(dir, ["new"]);
    assert_eq!(again, Vec::<String>::new());
}

#[test]
fn node_malformed_whiteouts_and_links_are_refused() {
    let rows: Vec<(&str, Layer)> = vec![
        ("whiteout of nothing", Layer::new().file(".wh.", 0o644, b"")),
        ("whiteout of dot", Layer::new().file("a/.wh..", 0o644, b"")),
        ("file in a whiteout", Layer::new().file("a/.wh.b/c", 0o644, b"")),
        ("hard link to nothing", Layer::new().hard_link("h", "nothing")),
        ("hard link to a whiteout", Layer::new().whiteout("x").hard_link("h", "x")),
        ("hard link to a directory", Layer::new().directory("d", 0o755).hard_link("h", "d")),
        ("hard link to the root", Layer::new().hard_link("h", "/")),
        ("hard link into what it replaces", Layer::new().file("d/f", 0o644, b"").hard_link("d", "d/f")),
        ("file as the root", Layer::new().file("/", 0o644, b"x")),
        ("file below a file", Layer::new().file("f", 0o644, b"").file("f/g", 0o644, b"")),
        ("name of 256 bytes", Layer::new().file(&"n".repeat(256), 0o644, b"")),
        ("path of 5000 bytes", Layer::new().file(&"n/".repeat(2500), 0o644, b"")),
        ("300 directories deep", Layer::new().file(&"n/".repeat(300), 0o644, b"")),
        ("deep through links", {
            let deep = "n/".repeat(200);
            Layer::new().file(&format!("{deep}f"), 0o644, b"").symlink("short", &deep).file(
                &format!("short/{deep}f"),
                0o644,
                b"",
            )
        }),
        ("loop of links", Layer::new().symlink("a", "b").symlink("b", "a").file("a/f", 0o644, b"")),
    ];
    for (what, layer) in rows {
        let place = Place::new();
        assert!(place.unpack(layer).is_err(), "{what}");
        place.assert_untouched(what);
    }
}

#[test]
fn node_owners_modes_times_and_attributes_arrive() {
    let place = Place::new();
    // A real capability set: cap_net_raw, effective and permitted.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "long".repeat(30), "name".repeat(40));
    let layer = Layer::new()
        .raw(header(tar::EntryType::Directory, 0o1777, 1, 2, 0), "./", "", b"")
        .raw(header(tar::EntryType::Regular, 0o4755, 1000, 2000, 2), "suid", "", b"hi")
        .raw(header(tar::EntryType::Directory, 0o2750, 7, 8, 0), "dir", "", b"")
        .raw(header(tar::EntryType::Regular, 0o600, 0, 0, 1), "dir/late", "", b"x")
        .raw(header(tar::EntryType::Symlink, 0o777, 9, 10, 0), "link", "nowhere", b"")
        .pax(&[
            ("SCHILY.xattr.user.colour", b"red"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"nonsense"),
            ("mtime", b"1500000000.25"),
        ])
        .raw(header(tar::EntryType::Regular, 0o755, 0, 0, 0), "ping", "", b"")
        .file(&long, 0o644, b"long")
        .hard_link("hard", "suid");
    assert_eq!(place.unpack(layer).unwrap(), 2 + 1 + 4);
    let meta = |path: &str| fs::symlink_metadata(place.layer().join(path)).unwrap();
    let facts =
        |path: &str| (meta(path).mode() & 0o7777, meta(path).uid(), meta(path).gid(), meta(path).mtime());
    assert_eq!(facts(""), (0o1777, 1, 2, 1_600_000_000));
    assert_eq!(facts("suid"), (0o4755, 1000, 2000, 1_600_000_000));
    assert_eq!(facts("dir"), (0o2750, 7, 8, 1_600_000_000));
    assert_eq!(facts("dir/late"), (0o600, 0, 0, 1_600_000_000));
    assert_eq!((meta("link").uid(), meta("link").gid(), meta("link").mtime()), (9, 10, 1_600_000_000));
    assert_eq!((meta("ping").mtime(), meta("ping").mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(meta("hard").ino(), meta("suid").ino());
    assert_eq!(fs::read(place.layer().join(&long)).unwrap(), b"long");
    let ping = place.layer().join("ping");
    let mut names: Vec<_> = xattr::list(&ping).unwrap().map(|n| n.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["security.capability", "user.colour"]);
    assert_eq!(xattr::get(&ping, "security.capability").unwrap().unwrap(), capability);
}

#[test]
fn node_devices_are_made_with_their_numbers() {
    let place = Place::new();
    let mut null = header(tar::EntryType::Char, 0o666, 0, 0, 0);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    let mut disk = header(tar::EntryType::Block, 0o660, 0, 6, 0);
    disk.set_device_major(8).unwrap();
    disk.set_device_minor(1).unwrap();
    let fifo = header(tar::EntryType::Fifo, 0o622, 3, 4, 0);
    place
        .unpack(Layer::new().raw(null, "null", "", b"").raw(disk, "sda1", "", b"").raw(fifo, "fifo", "", b""))
        .unwrap();
    let meta = |path: &str| fs::symlink_metadata(place.layer().join(path)).unwrap();
    assert_eq!((meta("null").rdev(), meta("null").mode() & 0o777), (makedev(1, 3), 0o666));
    assert!(meta("sda1").file_type().is_block_device() && meta("sda1").gid() == 6);
    assert!(meta("fifo").file_type().is_fifo() && meta("fifo").mode() & 0o777 == 0o622);
}

#[test]
fn node_the_last_entry_of_a_path_wins() {
    let place = Place::new();
    let layer = Layer::new()
        .file("file", 0o644, b"first")
        .file("file", 0o600, b"second")
        .file("file-dir", 0o644, b"x")
        .directory("file-dir", 0o755)
        .file("dir-file/deep/er", 0o644, b"x")
        .file("dir-file", 0o644, b"now a file")
        .file("file-link", 0o644, b"x")
        .symlink("file-link", "file")
        .directory("dir", 0o700)
        .file("dir/kept", 0o644, b"x")
        .directory("dir", 0o711)
        .hard_link("hard", "file")
        .hard_link("hard", "file");
    place.unpack(layer).unwrap();
    let root = place.layer();
    assert_eq!(fs::read(root.join("file")).unwrap(), b"second");
    assert!(root.join("file-dir").is_dir());
    assert_eq!(fs::read(root.join("dir-file")).unwrap(), b"now a file");
    assert_eq!(fs::read_link(root.join("file-link")).unwrap(), Path::new("file"));
    assert!(root.join("dir/kept").exists());
    assert_eq!(fs::metadata(root.join("dir")).unwrap().mode() & 0o777, 0o711);
    assert_eq!(fs::metadata(root.join("hard")).unwrap().nlink(), 2);
}

#[test]
fn node_sparse_files_have_holes() {
    let place = Place::new();
    let layer = Layer::new()
        .pax(&[("GNU.sparse.size", b"10485760"), ("GNU.sparse.map", b"5242880,4")])
        .file("sparse", 0o644, b"data");
    assert_eq!(place.unpack(layer).unwrap(), 10_485_760);
    let path = place.layer().join("sparse");
    let content = fs::read(&path).unwrap();
    assert_eq!((content.len(), &content[5_242_880..5_242_884]), (10_485_760, &b"data"[..]));
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn node_sizes_and_counts_are_bounded() {
    let place = Place::new();
    let limits = Limits { entries: 10, bytes: 1000, depth: 4, path_bytes: 200 };
    let unpack = |layer: Layer| unpack(&layer.tar()[..], &place.layer(), &no_recipe(), &limits);
    let many = (0..11).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), 0o644, b""));
    assert!(matches!(unpack(many), Err(LayerError::Tar(TarError::TooManyEntries(10)))));
    let big = Layer::new().file("a", 0o644, &[0; 600]).file("b", 0o644, &[0; 600]);
    assert!(matches!(unpack(big), Err(LayerError::TooBig(1000))));
    let hole = Layer::new()
        .pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"0,1")])
        .file("s", 0o644, b"x");
    assert!(matches!(unpack(hole), Err(LayerError::TooBig(1000))));
    let directories = (0..9).fold(Layer::new(), |layer, n| layer.directory(&format!("d{n}"), 0o755));
    assert!(matches!(unpack(directories), Err(LayerError::TooManyDirectories)));
    assert!(matches!(unpack(Layer::new().file("a/b/c/d/e", 0o644, b"")), Err(LayerError::Refused { .. })));
}

#[test]
fn node_a_hundred_thousand_entries_unpack() {
    let place = Place::new();
    let mut layer = Layer::new();
    for directory in 0..100 {
        for file in 0..1000 {
            layer = layer.file(&format!("d{directory}/f{file}"), 0o644, b"");
        }
    }
    place.unpack(layer).unwrap();
    assert_eq!(fs::read_dir(place.layer().join("d99")).unwrap().count(), 1000);
}

fn expected(blob: &[u8], tar: &[u8]) -> Expected {
    Expected { blob: Some((Digest::of(blob), blob.len() as u64)), diff_id: Digest::of(tar) }
}

fn unpack_bytes(mut blob: &[u8], expected: &Expected) -> Result<u64, LayerError> {
    let place = Place::new();
    unpack_blob(&mut blob, expected, &place.layer(), None, &Limits::default())
}

#[test]
fn node_blobs_are_verified_in_every_compression() {
    let tar = Layer::new().file("f", 0o644, &[7; 300_000]).tar();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd[..]].concat();
    for (what, blob) in [("plain", &tar), ("gzip", &gzip), ("zstd", &zstd), ("zstd, skippable", &skippable)] {
        let good = expected(blob, &tar);
        assert_eq!(unpack_bytes(blob, &good).unwrap(), 300_000, "{what}");
        let unnamed = Expected { blob: None, diff_id: Digest::of(&tar) };
        assert_eq!(unpack_bytes(blob, &unnamed).unwrap(), 300_000, "{what}");

        let mut flipped = blob.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(matches!(unpack_bytes(&flipped, &good), Err(LayerError::BlobDigest { .. })), "{what}");
        assert!(
            matches!(unpack_bytes(&blob[..blob.len() - 1], &good), Err(LayerError::Size { .. })),
            "{what}"
        );
        let longer = [blob.as_slice(), b"x"].concat();
        assert!(matches!(unpack_bytes(&longer, &good), Err(LayerError::TooLong { .. })), "{what}");
        let wrong = Expected { diff_id: Digest::of(b"other"), ..good };
        assert!(matches!(unpack_bytes(blob, &wrong), Err(LayerError::DiffId { .. })), "{what}");
    }
}

#[test]
fn node_bytes_after_the_archive_count_for_the_digest() {
    let mut tar = Layer::new().file("f", 0o644, b"x").tar();
    tar.extend_from_slice(&[0; 10_240]);
    assert_eq!(unpack_bytes(&tar, &expected(&tar, &tar)).unwrap(), 1);
}

#[test]
fn node_a_decompression_bomb_stops_at_the_limit() {
    let place = Place::new();
    let zeros = zstd::encode_all(io::repeat(0).take(64 << 20), 1).unwrap();
    let mut tar = Layer::new().file("f", 0o644, b"x").tar();
    tar.truncate(1024);
    let blob = [zstd::encode_all(&tar[..], 1).unwrap(), zeros].concat();
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let outcome = unpack_blob(&mut &blob[..], &expected(&blob, b""), &place.layer(), None, &limits);
    assert!(matches!(outcome, Err(LayerError::TooBig(_))), "{outcome:?}");
}

/// One step of a random layer, over few names so that they meet.
#[derive(Debug, Clone)]
enum Step {
    File(String),
    Directory(String),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn any_path() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just(".."), Just("."), Just(""), Just("outside")];
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_path().prop_map(Step::File),
        any_path().prop_map(Step::Directory),
        (any_path(), any_path()).prop_map(|(path, target)| Step::Symlink(path, target)),
        (any_path(), any_path()).prop_map(|(path, target)| Step::HardLink(path, target)),
        any_path().prop_map(Step::Whiteout),
        any_path().prop_map(Step::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    /// Whatever the order of files, links and whiteouts, the outside stays as it was; and the layer can be removed.
    #[test]
    fn node_random_layers_stay_inside(steps in prop::collection::vec(any_step(), 1..25)) {
        let place = Place::new();
        let outside = place.outside();
        // Entries are applied one by one, so that a refused one does not end the story.
        for step in steps {
            let absolute = |target: &str| match target.strip_prefix("outside") {
                Some(rest) => format!("{}{rest}", outside.display()),
                None => target.to_owned(),
            };
            let layer = match step {
                Step::File(path) => Layer::new().file(&path, 0o777, b"evil"),
                Step::Directory(path) => Layer::new().directory(&path, 0o777),
                Step::Symlink(path, target) => Layer::new().symlink(&path, &absolute(&target)),
                Step::HardLink(path, target) => Layer::new().hard_link(&path, &absolute(&target)),
                Step::Whiteout(path) => Layer::new().whiteout(&path),
                Step::Opaque(path) => Layer::new().opaque(&path),
            };
            let _ = place.unpack(layer);
        }
        place.assert_untouched("random");
    }
}

#[test]
fn paths_are_cleaned_without_touching_the_disk() {
    let rows: BTreeMap<&str, Option<&str>> = [
        ("a/b", Some("a/b")),
        ("./a//b/", Some("a/b")),
        ("/a", Some("a")),
        ("a/../b", Some("b")),
        (".", Some("")),
        ("/", Some("")),
        ("..", None),
        ("a/../..", None),
        ("/../a", None),
    ]
    .into();
    for (path, cleaned) in rows {
        assert_eq!(clean(OsStr::new(path), 8).ok(), cleaned.map(PathBuf::from), "{path}");
    }
}
