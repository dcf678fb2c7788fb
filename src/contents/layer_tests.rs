use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use crate::contents::{LayerContent, Package, Stack, stack::DatabaseFile};

const STATUS: &str = "var/lib/dpkg/status";
const APK: &str = "lib/apk/db/installed";

/// Returns a tar of these files. A path that ends with a slash is a folder, and one with an arrow a
/// symbolic link.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(EntryType::Directory);
        }
        match path.split_once(" -> ") {
            Some((path, target)) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, path, target).expect("a link");
            }
            None => builder.append_data(&mut header, path, text.as_bytes()).expect("a file"),
        }
    }
    builder.into_inner().expect("a tar")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("compressed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("compressed")
}

fn deb(name: &str, version: &str) -> String {
    format!(
        "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"
    )
}

/// Returns the packages in an image of these layers as `name version`.
fn packages(layers: &[Vec<u8>]) -> Vec<String> {
    let mut stack = Stack::default();
    for layer in layers {
        stack.add(&LayerContent::read(&**layer).expect("a layer")).expect("it is within bounds");
    }
    let read = stack.packages();
    assert_eq!(read.problems, Vec::<String>::new());
    read.packages.iter().map(|Package { name, version, .. }| format!("{name} {version}")).collect()
}

fn problem(layer: &[u8]) -> String {
    LayerContent::read(layer).expect_err("a bad layer").to_string()
}

#[test]
fn layers_are_read_in_every_compression() {
    let plain = tar(&[("etc/motd", "hello"), (STATUS, &deb("bash", "5.2-1"))]);
    let two_members = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(&plain)].concat();
    let two_frames = [zstd(&plain[..700]), zstd(&plain[700..])].concat();
    for layer in [gzip(&plain), zstd(&plain), two_members, two_frames, skippable, plain.clone()] {
        let content = LayerContent::read(&*layer).expect("a layer");
        assert_eq!((content.unpacked, content.entries), (plain.len() as u64, 2));
        assert_eq!(packages(&[layer]), ["bash 5.2-1"]);
    }
    assert_eq!(LayerContent::read(&b""[..]).expect("no layer"), LayerContent::default());
}

#[test]
fn the_topmost_database_counts_and_whiteouts_remove() {
    let base =
        || tar(&[(STATUS, &deb("bash", "1")), ("./usr/lib/apk/db/installed", "P:a\nV:1-r0\n\n")]);
    let over = |files: &[(&str, &str)]| packages(&[base(), tar(files)]);
    assert_eq!(over(&[]), ["a 1-r0", "bash 1"]);
    assert_eq!(over(&[("./var/lib/dpkg//status", &deb("bash", "2"))]), ["a 1-r0", "bash 2"]);
    assert_eq!(over(&[("var/lib/dpkg/.wh.status", "")]), ["a 1-r0"]);
    assert_eq!(over(&[("var/.wh.lib", "")]), ["a 1-r0"]);
    assert_eq!(over(&[(".wh.var", ""), (STATUS, &deb("bash", "3"))]), ["a 1-r0", "bash 3"]);
    assert_eq!(over(&[(STATUS, &deb("bash", "3")), (".wh.var", "")]), ["a 1-r0", "bash 3"]);
    assert_eq!(over(&[("var/lib/.wh..wh..opq", "")]), ["a 1-r0"]);
    assert_eq!(over(&[(".wh..wh..opq", "")]), Vec::<String>::new());
    assert_eq!(over(&[("var/lib/dpkg -> ../elsewhere", "")]), ["a 1-r0"]);
    assert_eq!(over(&[("var/lib/dpkg/", "")]), ["a 1-r0", "bash 1"]);
    assert_eq!(over(&[("var/lib/dpkg/status/", "")]), ["a 1-r0"]);
    assert_eq!(over(&[("var/lib/dpkg/.wh.status-old", "")]), ["a 1-r0", "bash 1"]);
    assert_eq!(over(&[("var/lib/.wh.dpk", ""), ("etc/.wh..wh..opq", "")]), ["a 1-r0", "bash 1"]);
}

#[test]
fn distroless_images_have_a_database_per_package() {
    let layers = [
        tar(&[
            ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\n"),
            ("var/lib/dpkg/status.d/base.md5sums", "Package: none\nVersion: 1\n"),
        ]),
        tar(&[("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2026a-0\n")]),
        tar(&[("var/lib/dpkg/status.d/.wh.base", "")]),
    ];
    assert_eq!(packages(&layers[..2]), ["base-files 12", "tzdata 2026a-0"]);
    assert_eq!(packages(&layers), ["tzdata 2026a-0"]);
}

#[test]
fn long_paths_are_read_from_extended_headers() {
    let long = format!("{}/x", "folder/".repeat(40).trim_end_matches('/'));
    let gnu = tar(&[(&long, "text"), (STATUS, &deb("bash", "1"))]);
    assert_eq!(packages(&[gnu]), ["bash 1"]);
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("path", STATUS.as_bytes())]).expect("an extension");
    let text = deb("bash", "2");
    let mut header = Header::new_ustar();
    header.set_size(text.len() as u64);
    builder.append_data(&mut header, "other", text.as_bytes()).expect("a file");
    builder.append_data(&mut header, "next", text.as_bytes()).expect("a file");
    assert_eq!(packages(&[builder.into_inner().expect("a tar")]), ["bash 2"]);
}

#[test]
fn what_exceeds_a_bound_is_an_error() {
    let zeros = vec![0; 80 << 20];
    for layer in [zstd(&zeros), gzip(&zeros)] {
        assert_eq!(LayerContent::read(&*layer).expect("a file of zeros").entries, 0);
    }
    let deep = "a/".repeat(300) + "b";
    assert!(problem(&tar(&[(&deep, "")])).contains("256 folders"));
    let mut builder = Builder::new(Vec::new());
    let value = vec![b'a'; 2 << 20];
    builder.append_pax_extensions([("comment", &*value)]).expect("an extension");
    assert!(problem(&builder.into_inner().expect("a tar")).contains("extended header"));
    let removals: Vec<String> =
        (0..10_001).map(|index| format!("var/lib/dpkg/status.d/.wh.{index}")).collect();
    let removals: Vec<_> = removals.iter().map(|path| (&**path, "")).collect();
    assert!(problem(&tar(&removals)).contains("10000"));
}

#[test]
fn what_is_no_layer_is_an_error() {
    let plain = tar(&[(STATUS, &deb("bash", "1"))]);
    let compressed = gzip(&plain);
    for (layer, said) in [
        (&b"no tar at all, but a text that is long enough for a header".repeat(20)[..], ""),
        (&plain[..600], ""),
        (&compressed[..compressed.len() - 20], ""),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ] {
        assert!(problem(layer).contains(said), "{said}");
    }
}

#[test]
fn paths_with_dots_are_cleaned() {
    let mut layer = tar(&[(APK, "P:a\nV:1\n\n"), ("x/./lib/apk/db/installed", "P:b\nV:1\n\n")]);
    assert_eq!(packages(&[layer.clone()]), ["a 1"]);
    // The library would not write such a path.
    for path in ["../../lib/apk/db/installed", "a/b/../../lib/apk/db/installed"] {
        let mut named = path.as_bytes().to_vec();
        named.resize(100, 0);
        layer[..100].copy_from_slice(&named);
        seal(&mut layer);
        assert_eq!(packages(&[layer.clone()]), ["a 1"], "{path}");
    }
}

/// Writes the checksum of the first header.
fn seal(layer: &mut [u8]) {
    layer[148..156].copy_from_slice(b"        ");
    let sum: u32 = layer[..512].iter().map(|byte| u32::from(*byte)).sum();
    layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A link does not affect what a layer above it has at its path.
#[test]
fn links_in_place_of_databases_are_named() {
    let link = tar(&[("var/lib/dpkg/status -> /etc/passwd", "")]);
    let read = |layers: &[&[u8]]| {
        let mut stack = Stack::default();
        for layer in layers {
            let layer = LayerContent::read(*layer).expect("a layer");
            stack.add(&layer).expect("it is within bounds");
        }
        stack.packages().problems
    };
    assert_eq!(read(&[&link]), ["var/lib/dpkg/status is a link, which is not followed"]);
    assert_eq!(read(&[&link, &tar(&[(STATUS, &deb("bash", "1"))])]), Vec::<String>::new());
}

/// The bounds of layers do not bound an image of many layers.
#[test]
fn what_an_image_has_in_all_layers_is_bounded() {
    let layer = |number: usize, megabytes: usize| LayerContent {
        databases: [(
            format!("var/lib/dpkg/status.d/{number}"),
            DatabaseFile::Content(vec![b'a'; megabytes << 20].into()),
        )]
        .into(),
        ..LayerContent::default()
    };
    let mut stack = Stack::default();
    stack.add(&layer(1, 200)).expect("one");
    stack.add(&layer(1, 200)).expect("it replaces the first");
    let error = stack.add(&layer(2, 200)).expect_err("too much").to_string();
    assert!(error.contains("more than 384 MiB"), "{error}");
    let mut stack = Stack::default();
    let large = LayerContent { unpacked: 40 << 30, ..LayerContent::default() };
    stack.add(&large).expect("one");
    assert!(stack.add(&large).expect_err("too much").to_string().contains("64 GiB"));
}

/// Go writes the size of a file in an extended header although the header itself has it.
#[test]
fn sizes_in_extended_headers_are_those_of_the_file() {
    let layer = |said: &str| {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([("size", said.as_bytes())]).expect("an extension");
        let text = deb("bash", "2");
        let mut header = Header::new_ustar();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, STATUS, text.as_bytes()).expect("a file");
        builder.into_inner().expect("a tar")
    };
    let size = deb("bash", "2").len();
    assert_eq!(packages(&[layer(&size.to_string())]), ["bash 2"]);
    assert!(problem(&layer("9999999999")).contains("8 GiB"));
    assert!(problem(&layer("x")).contains("malformed size"));
}

/// Before POSIX, only the name of a folder said that it is one.
#[test]
fn folders_of_old_archives_hide_nothing() {
    let mut old = tar(&[("var/lib/dpkg/", "")]);
    old[156] = 0;
    seal(&mut old);
    assert_eq!(packages(&[tar(&[(STATUS, &deb("bash", "1"))]), old]), ["bash 1"]);
}
