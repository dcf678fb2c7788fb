//! Indexes of each format, and what is none.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use crate::package_indexes::{
    PackageTable,
    apk_index::ApkIndex,
    packages_file::read_packages,
    release::SuiteRelease,
    rpm_metadata::{RepositoryMetadata, read_primary, read_security_advisories},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes).expect("a file");
    }
    builder.into_inner().expect("a tar")
}

/// The packages of this name, as `version architecture`.
fn found(table: &PackageTable, name: &str) -> Vec<String> {
    let packages = table.packages(name);
    packages.map(|package| format!("{} {}", package.version, package.architecture)).collect()
}

const PACKAGES: &str = "Package: curl\nVersion: 7.88-1\nArchitecture: amd64\n\
    Description: a\n tool\n Version: 9\n\n\
    Package: curl\nVersion: 7.88-1+b1\nArchitecture: amd64\n\n\
    Package: curl\nVersion: 7.88~rc1\nArchitecture: amd64\n\n\
    Package: curl\nVersion: no version!\nArchitecture: amd64\n\n\
    Package: a\nVersion: 1\nArchitecture: all";

#[test]
fn packages_of_debian_are_read_in_every_compression() {
    // Compressed by xz 5.4 with `xz -9`.
    let files = [
        PACKAGES.as_bytes().to_vec(),
        gzip(PACKAGES.as_bytes()),
        zstd::encode_all(PACKAGES.as_bytes(), 1).expect("compressed"),
        include_bytes!("fixtures/packages.xz").to_vec(),
    ];
    for file in files {
        let table = read_packages(&*file).expect("an index");
        assert_eq!(found(&table, "curl"), ["7.88-1+b1 amd64"]);
        assert_eq!(found(&table, "a"), ["1 all"]);
        assert_eq!(found(&table, "b"), [""; 0]);
        assert_eq!(table.len(), 2);
    }
}

#[test]
fn what_is_damaged_or_exceeds_a_bound_is_an_error() {
    let problem = |bytes: &[u8]| read_packages(bytes).expect_err("no index").to_string();
    let gz = gzip(PACKAGES.as_bytes());
    problem(&gz[..gz.len() - 9]);
    let xz = include_bytes!("fixtures/packages.xz");
    problem(&xz[..xz.len() - 20]);
    let zst = zstd::encode_all(PACKAGES.as_bytes(), 1).expect("compressed");
    problem(&zst[..zst.len() - 5]);
    assert!(problem(b"BZh91AY").contains("bzip2"));
    let line = vec![b'a'; 2 << 20];
    assert!(problem(&line).contains("a line of"));
    let long = format!("Package: {}\nVersion: 1\n\n", "a".repeat(600));
    assert!(problem(long.as_bytes()).contains("a field of more than 512 bytes"));
    let lines = "a: b\n".repeat(20_000);
    assert!(problem(lines.as_bytes()).contains("a paragraph of more than"));
    assert!(read_packages(&b""[..]).expect("an empty index").is_empty());
}

const RELEASE: &str = "Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\n\
    Codename: bookworm-security\nDate: Sat, 17 May 2025 09:21:53 UTC\n\
    Valid-Until: Sat, 24 May 2025 09:21:53 UTC\nAcquire-By-Hash: yes\n\
    No-Support-for-Architecture-all: Packages\nMD5Sum:\n 0 1 main/binary-amd64/Packages.gz\n\
    SHA256:\n \
    aAe2b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8 10 \
    main/binary-amd64/Packages.xz\n \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 20 \
    main/binary-amd64/Packages.gz\n \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 30 main/Contents\n";

#[test]
fn releases_are_read() {
    let release = SuiteRelease::parse("u", RELEASE).expect("a release");
    assert!(release.by_hash && !release.separates_all && release.is_security("any"));
    let separates = |text: &str| SuiteRelease::parse("u", text).expect("a release").separates_all;
    let with_all = format!("Architectures: all amd64\n{RELEASE}");
    assert!(!separates(&with_all), "it says that the others repeat them");
    assert!(separates(&with_all.replace("No-Support", "Other")));
    assert_eq!(release.date.map(|date| date.to_string()).as_deref(), Some("2025-05-17T09:21:53Z"));
    let file = release.packages("main/binary-amd64").expect("a file");
    assert_eq!((file.path.as_str(), file.size), ("main/binary-amd64/Packages.xz", 10));
    assert!(file.sha256.starts_with("aae2b0"));
    assert_eq!(release.packages("main/binary-arm64"), None);
    let at = |time: &str| release.check_time("u", time.parse().expect("a time"));
    assert_eq!(at("2025-05-24T09:21:53Z"), Ok(()));
    let expired = at("2025-05-24T09:21:54Z").expect_err("it has expired").to_string();
    assert!(expired.contains("has expired: it was valid until 2025-05-24T09:21:53Z"), "{expired}");
}

#[test]
fn a_suite_is_of_security_by_its_label_or_name() {
    let release = |label: &str, suite: &str| {
        let text = RELEASE
            .replace("Debian-Security", label)
            .replace("stable-security", suite)
            .replace("bookworm-security", "bookworm");
        SuiteRelease::parse("u", &text).expect("a release")
    };
    assert!(release("Ubuntu", "noble-security").is_security("noble-security"));
    assert!(release("Debian-Security", "stable").is_security("buster/updates"));
    assert!(release("Own", "own").is_security("own-security"));
    assert!(!release("Debian", "stable").is_security("bookworm"));
}

#[test]
fn what_is_no_release_is_an_error() {
    for (text, said) in [
        ("", "lists no file with a SHA-256"),
        ("<html>404</html>", "lists no file with a SHA-256"),
        ("Date: yesterday\n", "has a Date that is no time"),
        ("SHA256:\n short 1 main/binary-amd64/Packages\n", "malformed SHA-256"),
    ] {
        let error = SuiteRelease::parse("http://r.example", text).expect_err(text).to_string();
        assert!(error.contains(said) && error.contains("http://r.example"), "{error}");
    }
}

const APKINDEX: &[u8] = b"C:Q1\nP:busybox\nV:1.36.1-r29\nA:x86_64\no:busybox\np:so:V=1\n\n\
    P:busybox\nV:1.36.1-r30\nA:x86_64\n\nP:musl\nV:1.2.5-r0\nA:x86_64\n\n";

#[test]
fn indexes_of_alpine_are_read_with_their_signature() {
    let index = gzip(&tar(&[("DESCRIPTION", b"v3.20"), ("APKINDEX", APKINDEX)]));
    let signature = gzip(&tar(&[(".SIGN.RSA256.key.rsa.pub", b"signature")]));
    let file = [signature.as_slice(), &index].concat();
    let split = ApkIndex::split(&file).expect("an index");
    let read = split.signature.as_ref().expect("a signature");
    assert_eq!((read.algorithm.as_str(), read.key.as_str()), ("RSA256", "key.rsa.pub"));
    assert_eq!((read.bytes.as_slice(), split.signed), (&b"signature"[..], index.as_slice()));
    let table = split.packages().expect("packages");
    assert_eq!(found(&table, "busybox"), ["1.36.1-r30 x86_64"]);
    let unsigned = ApkIndex::split(&index).expect("an index");
    assert_eq!(unsigned.signature, None);
    assert_eq!(unsigned.packages().expect("packages"), table);
}

#[test]
fn what_is_no_index_of_alpine_is_an_error() {
    let whole = gzip(&tar(&[("APKINDEX", APKINDEX)]));
    let packages = |file: &[u8]| ApkIndex::split(file).and_then(|index| index.packages());
    assert!(packages(b"<html>").is_err());
    assert!(packages(&whole[..whole.len() / 2]).is_err());
    let error = packages(&gzip(&tar(&[("other", b"a")]))).expect_err("no index").to_string();
    assert_eq!(error, "has no file APKINDEX");
    // A tar that says that its file is longer than it is.
    let tar = tar(&[("APKINDEX", APKINDEX)]);
    assert!(packages(&gzip(&tar[..600])).is_err());
}

const PRIMARY: &str = r#"<?xml version="1.0"?><metadata packages="3"><package type="rpm">
    <name>openssl-libs</name><arch>x86_64</arch><version epoch="1" ver="3.0.7" rel="27.el9"/>
    <summary>A &amp; b</summary><format><requires><name>other</name>
    <entry name="glibc" ver="2"/></requires></format></package>
    <package type="rpm"><name>tzdata</name><arch>noarch</arch>
    <version epoch="0" ver="2024a" rel="1.el9"/></package>
    <package type="rpm"><name>bash</name><arch>src</arch>
    <version epoch="0" ver="5" rel="1"/></package></metadata>"#;

#[test]
fn metadata_of_rpm_is_read() {
    let table = read_primary(&*gzip(PRIMARY.as_bytes())).expect("an index");
    assert_eq!(found(&table, "openssl-libs"), ["1:3.0.7-27.el9 x86_64"]);
    assert_eq!(found(&table, "tzdata"), ["2024a-1.el9 noarch"]);
    assert_eq!(table.len(), 2, "sources are left out");
    let advisories = r#"<updates><update type="security"><pkglist><collection>
        <package name="a" version="2" release="1" epoch="0" arch="x86_64"/></collection></pkglist>
        </update><update type="bugfix"><pkglist><collection>
        <package name="b" version="2" release="1" epoch="0" arch="x86_64"/></collection></pkglist>
        </update></updates>"#;
    let table = read_security_advisories(advisories.as_bytes()).expect("advisories");
    assert_eq!((found(&table, "a").len(), found(&table, "b").len()), (1, 0));
}

#[test]
fn the_list_of_metadata_is_read() {
    let text = r#"<repomd><data type="primary"><checksum type="sha256">AB12</checksum>
        <open-checksum type="sha256">cd</open-checksum><location href="repodata/p.xml.gz"/>
        <size>12</size><open-size>99</open-size></data>
        <data type="updateinfo"><checksum type="sha">00</checksum></data></repomd>"#;
    let metadata = RepositoryMetadata::parse("u", text.as_bytes()).expect("a list");
    let primary = metadata.file("primary").expect("primary");
    assert_eq!(
        (primary.path.as_str(), primary.sha256.as_str(), primary.size),
        ("repodata/p.xml.gz", "ab12", 12)
    );
    assert_eq!(metadata.file("updateinfo").map(|file| file.sha256.as_str()), Some(""));
    assert_eq!(metadata.file("other"), None);
}

#[test]
fn what_is_no_metadata_is_an_error() {
    for text in ["", "<metadata>", "no XML", "<a></b>", &"<a>".repeat(100), "<a b=&x;/>"] {
        assert!(read_primary(text.as_bytes()).is_err(), "{text}");
    }
    // Entities that a document defines are not expanded.
    let text = "<!DOCTYPE a [<!ENTITY x 'yyyy'>]><metadata><package><name>&x;</name></package>\
                </metadata>";
    assert!(read_primary(text.as_bytes()).expect("an empty index").is_empty());
}
