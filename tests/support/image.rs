//! Images made from nothing but files: no registry, no other engine, the same bytes every time.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Debian's static busybox, from the package `busybox-static`.
const BUSYBOX: &str = "/usr/bin/busybox";

/// Writes a docker-archive with one image: busybox with links for all its applets, `/etc/passwd`,
/// `/etc/group`, `/tmp`, and the command `sh`.
pub fn busybox_archive(path: &Path, name: &str) {
    busybox().docker_archive(path, &[name]);
}

/// What [`busybox_archive`] holds, to be changed further.
pub fn busybox() -> Image {
    let program = fs::read(BUSYBOX).expect("read /usr/bin/busybox (package busybox-static)");
    let applets = Command::new(BUSYBOX).arg("--list").output().expect("list busybox applets").stdout;
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("home", 0o755)
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .directory("usr", 0o755)
        .directory("usr/bin", 0o755)
        .directory("var", 0o755)
        .file("bin/busybox", 0o755, &program)
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
    for applet in String::from_utf8(applets).expect("applet names are text").lines() {
        if applet != "busybox" {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    Image::new()
        .layer(layer)
        .command(&["sh"])
        .env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    None,
    #[default]
    Gzip,
    Zstd,
}

/// One layer: a tar being written.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, "", &[])
    }

    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, "", content)
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, &[])
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, 0o644, target, &[])
    }

    /// Hides `path` of the layers below.
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{slash}.wh.{name}"), 0o644, &[])
    }

    /// Hides everything the layers below have in `directory`.
    pub fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), 0o644, &[])
    }

    /// Any entry, the path exactly as given: `..` and absolute paths too.
    pub fn entry(self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        self.raw(header, path, link, content)
    }

    /// An entry with a header of the caller's making. Long paths and link targets get GNU extension entries.
    pub fn raw(mut self, mut header: tar::Header, path: &str, link: &str, content: &[u8]) -> Self {
        for (text, kind) in [(link, b'K'), (path, b'L')] {
            if text.len() >= 100 {
                let mut long = tar::Header::new_gnu();
                put(&mut long.as_gnu_mut().expect("a GNU header").name, b"././@LongLink");
                long.set_entry_type(tar::EntryType::new(kind));
                long.set_size(text.len() as u64 + 1);
                long.set_cksum();
                self.0
                    .append(&long, &[text.as_bytes(), b"\0"].concat()[..])
                    .expect("append to a tar in memory");
            }
        }
        let gnu = header.as_gnu_mut().expect("a GNU header");
        put(&mut gnu.name, &path.as_bytes()[..path.len().min(99)]);
        put(&mut gnu.linkname, &link.as_bytes()[..link.len().min(99)]);
        header.set_cksum();
        self.0.append(&header, content).expect("append to a tar in memory");
        self
    }

    /// Pax records that apply to the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().map(|(key, value)| (*key, *value)))
            .expect("append to a tar in memory");
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().expect("finish a tar in memory")
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    field.fill(0);
    field[..text.len()].copy_from_slice(text);
}

/// An image being made. Layers lowest first.
#[derive(Clone)]
pub struct Image {
    layers: Vec<Vec<u8>>,
    compression: Compression,
    config: BTreeMap<String, Value>,
    architecture: String,
}

/// A blob and the media type a descriptor gives it.
#[derive(Clone)]
pub struct Blob {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// An image as a registry or an OCI layout keeps it.
pub struct Built {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

impl Image {
    pub fn new() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers: Vec::new(),
            compression: Compression::default(),
            config: BTreeMap::new(),
            architecture: architecture.to_owned(),
        }
    }

    pub fn layer(self, layer: Layer) -> Self {
        self.layer_tar(layer.tar())
    }

    pub fn layer_tar(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    pub fn command(self, command: &[&str]) -> Self {
        self.config("Cmd", json!(command))
    }

    pub fn entrypoint(self, entrypoint: &[&str]) -> Self {
        self.config("Entrypoint", json!(entrypoint))
    }

    pub fn user(self, user: &str) -> Self {
        self.config("User", json!(user))
    }

    pub fn working_dir(self, directory: &str) -> Self {
        self.config("WorkingDir", json!(directory))
    }

    /// `NAME=value`, in addition to those already there.
    pub fn env(mut self, variable: &str) -> Self {
        let env = self.config.entry("Env".to_owned()).or_insert_with(|| json!([]));
        env.as_array_mut().expect("Env is a list").push(json!(variable));
        self
    }

    /// Any field of the image's `config` object: `Volumes`, `Labels`, `ExposedPorts`, `StopSignal` ...
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.to_owned(), value);
        self
    }

    /// The blobs, in the OCI media types.
    pub fn build(&self) -> Built {
        let diff_ids: Vec<_> = self.layers.iter().map(|tar| sha256(tar)).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "selkie tests"})).collect::<Vec<_>>(),
        });
        let config = Blob {
            media_type: "application/vnd.oci.image.config.v1+json",
            bytes: serde_json::to_vec(&config).expect("a config is JSON"),
        };
        let layers: Vec<_> = self.layers.iter().map(|tar| compress(tar, self.compression)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob {
            media_type: "application/vnd.oci.image.manifest.v1+json",
            bytes: serde_json::to_vec(&manifest).expect("a manifest is JSON"),
        };
        Built { manifest, config, layers }
    }

    /// As `docker save` wrote it up to version 24: `manifest.json` beside `<id>.json` and `<digest>/layer.tar`.
    pub fn docker_archive(&self, path: &Path, names: &[&str]) {
        docker_archive(path, &[(self, names)]);
    }

    /// A tar of an OCI layout with one manifest; `name` becomes its `ref.name`.
    pub fn oci_archive(&self, path: &Path, name: Option<&str>) {
        let mut archive = tar::Builder::new(fs::File::create(path).expect("create the archive"));
        for (file, bytes) in self.oci_files(name) {
            append(&mut archive, &file, &bytes);
        }
        archive.into_inner().and_then(|mut file| file.flush()).expect("finish the archive");
    }

    /// An OCI layout directory.
    pub fn oci_layout(&self, directory: &Path, name: Option<&str>) {
        for (file, bytes) in self.oci_files(name) {
            let file = directory.join(file);
            fs::create_dir_all(file.parent().expect("every file has a directory")).expect("make the layout");
            fs::write(file, bytes).expect("write the layout");
        }
    }

    fn oci_files(&self, name: Option<&str>) -> Vec<(String, Vec<u8>)> {
        let built = self.build();
        let mut descriptor = built.manifest.descriptor();
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            (
                "index.json".to_owned(),
                serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [descriptor]})).expect("JSON"),
            ),
        ];
        for blob in built.layers.into_iter().chain([built.config, built.manifest]) {
            files.push((format!("blobs/{}", blob.digest().replace(':', "/")), blob.bytes));
        }
        files
    }
}

/// A docker-archive with several images.
pub fn docker_archive(path: &Path, images: &[(&Image, &[&str])]) {
    let mut archive = tar::Builder::new(fs::File::create(path).expect("create the archive"));
    let mut manifest = Vec::new();
    let mut written = std::collections::BTreeSet::new();
    for (image, names) in images {
        let built = image.build();
        let config = format!("{}.json", hex(&built.config.bytes));
        append(&mut archive, &config, &built.config.bytes);
        let mut layers = Vec::new();
        for tar in &image.layers {
            let file = format!("{}/layer.tar", hex(tar));
            if written.insert(file.clone()) {
                append(&mut archive, &file, tar);
            }
            layers.push(file);
        }
        manifest.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
    }
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest).expect("JSON"));
    archive.into_inner().and_then(|mut file| file.flush()).expect("finish the archive");
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compress(tar: &[u8], compression: Compression) -> Blob {
    match compression {
        Compression::None => {
            Blob { media_type: "application/vnd.oci.image.layer.v1.tar", bytes: tar.to_vec() }
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("compress in memory");
            Blob {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
                bytes: encoder.finish().expect("compress in memory"),
            }
        }
        Compression::Zstd => Blob {
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
            bytes: zstd::encode_all(tar, 1).expect("compress in memory"),
        },
    }
}

fn append(archive: &mut tar::Builder<fs::File>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes).expect("append to the archive");
}
