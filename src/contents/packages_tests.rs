use std::{cmp::Ordering, collections::BTreeMap, io::Read as _, process::Command};

use flate2::read::GzDecoder;

use crate::contents::{Ecosystem, ImagePackages, compare_versions, stack::DatabaseFile};

const RPM: &str = "var/lib/rpm/rpmdb.sqlite";

/// A database that `rpm` 4.18 has written: three packages installed, one of them removed again.
fn rpm_database() -> Vec<u8> {
    let mut bytes = Vec::new();
    let compressed = include_bytes!("fixtures/rpmdb.sqlite.gz");
    GzDecoder::new(&compressed[..]).read_to_end(&mut bytes).expect("a database");
    bytes
}

fn read(path: &str, bytes: impl Into<Vec<u8>>) -> ImagePackages {
    let file = DatabaseFile::Content(bytes.into().into());
    ImagePackages::read(BTreeMap::from([(path.to_owned(), file)]))
}

fn listed(read: &ImagePackages) -> Vec<String> {
    assert_eq!(read.problems, Vec::<String>::new());
    let packages = read.packages.iter();
    packages
        .map(|package| format!("{} {} {}", package.name, package.version, package.architecture))
        .collect()
}

/// The packages that dpkg lists on this machine are those that are read from its database.
#[test]
fn dpkg_lists_what_is_read_from_its_database() {
    let Ok(status) = std::fs::read("/var/lib/dpkg/status") else { return };
    let format = "${Package} ${Version} ${Architecture} ${db:Status-Status}\n";
    let output = Command::new("dpkg-query").args(["-W", "-f", format]).output().expect("dpkg");
    let output = String::from_utf8(output.stdout).expect("text");
    let listed_by_dpkg = output.lines().filter_map(|line| line.rsplit_once(' '));
    let mut expected: Vec<_> = listed_by_dpkg
        .filter(|(_, state)| !matches!(*state, "config-files" | "not-installed"))
        .map(|(package, _)| package)
        .collect();
    expected.sort_unstable();
    let mut packages = listed(&read("var/lib/dpkg/status", status));
    packages.sort_unstable();
    assert!(packages.len() > 50, "{} packages", packages.len());
    assert_eq!(packages, expected);
}

#[test]
fn packages_of_which_a_file_is_in_the_image_count() {
    let status = "Package: kept\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                  Package: none\nStatus: unknown ok not-installed\n\n\n\
                  package:in\r\nSTATUS: hold ok installed\nVersion: 1:2-3\nDescription: x\n\
                  \x20Version: 9\nVersion: 4";
    assert_eq!(listed(&read("var/lib/dpkg/status", status)), ["in 1:2-3 "]);
    for state in
        ["half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending"]
    {
        let status = format!("Package: a\nStatus: install ok {state}\nVersion: 1\n");
        assert_eq!(listed(&read("var/lib/dpkg/status", status)), ["a 1 "], "{state}");
    }
}

/// Without a package, nothing is known of the image.
#[test]
fn databases_without_a_package_are_named() {
    for path in ["var/lib/dpkg/status", "lib/apk/db/installed"] {
        for (text, said) in [
            ("", "is empty"),
            ("\n\n", "is empty"),
            ("no database, but a text\n", "lists no package"),
            ("Package: kept\nStatus: deinstall ok config-files\nVersion: 1\n", "lists no"),
        ] {
            let read = read(path, text);
            assert_eq!(read.problems.len(), 1, "{path} {text}");
            assert!(read.problems[0].contains(said), "{:?}", read.problems);
            assert!(read.databases.is_empty());
        }
    }
    let file = |text: &'static str| DatabaseFile::Content(text.into());
    let both = BTreeMap::from([
        ("var/lib/dpkg/status".to_owned(), file("")),
        ("var/lib/dpkg/status.d/base".to_owned(), file("Package: base-files\nVersion: 12\n")),
    ]);
    assert_eq!(listed(&ImagePackages::read(both)), ["base-files 12 "], "a distroless image");
}

#[test]
fn sources_of_packages_are_read() {
    let sources = |path: &str, bytes: Vec<u8>| -> Vec<String> {
        let read = read(path, bytes);
        read.packages.into_iter().map(|package| package.source).collect()
    };
    let status = "Package: libc-bin\nSource: glibc (2.36-9)\nVersion: 1\n\n\
                  Package: zsh\nVersion: 1\n";
    assert_eq!(sources("var/lib/dpkg/status", status.into()), ["glibc", ""]);
    assert_eq!(sources("lib/apk/db/installed", b"P:libssl3\nV:1\no:openssl\n".into()), ["openssl"]);
    assert_eq!(sources(RPM, rpm_database()), ["bash", "openssl-libs"]);
}

#[test]
fn apk_databases_are_read() {
    let installed = "C:Q1\nP:musl\nV:1.2.5-r1\nA:x86_64\np:so:libc.musl=1\nF:lib\nR:x\nZ:Q1\n\n\
                     P:busybox\nV:1.37.0-r12\nA:x86_64\n\n\n";
    let read = read("lib/apk/db/installed", installed);
    assert_eq!(listed(&read), ["busybox 1.37.0-r12 x86_64", "musl 1.2.5-r1 x86_64"]);
    assert_eq!(read.ecosystems(), [Ecosystem::Apk].into());
}

#[test]
fn rpm_databases_are_read() {
    let expected = ["bash 5.1.8-9.el9 noarch", "openssl-libs 1:3.0.7-27.el9 noarch"];
    assert_eq!(listed(&read(RPM, rpm_database())), expected);
    assert_eq!(listed(&read("usr/lib/sysimage/rpm/rpmdb.sqlite", rpm_database())), expected);
}

#[test]
fn what_cannot_be_read_is_named() {
    let mut damaged = rpm_database();
    for byte in damaged.iter_mut().skip(4096).step_by(64) {
        *byte ^= 0x5a;
    }
    let long = format!("Package: {}\nVersion: 1\n", "x".repeat(600));
    for (path, bytes, said) in [
        (RPM, b"SQLite format 3\0".to_vec(), "cannot be read"),
        (RPM, b"else".to_vec(), "no SQLite database"),
        (RPM, damaged, RPM),
        ("var/lib/rpm/rpmdb.sqlite-wal", b"x".to_vec(), "has changes"),
        ("var/lib/rpm/Packages", b"x".to_vec(), "format that is not read"),
        ("usr/lib/sysimage/rpm/Packages.db", b"x".to_vec(), "format that is not read"),
        ("var/lib/dpkg/status", b"Package: a\n".to_vec(), "without a name or a version"),
        ("var/lib/dpkg/status", long.into_bytes(), "more than 512 bytes"),
        ("lib/apk/db/installed", b"P:a\n\nP:b\nV:1\n".to_vec(), "without a name or a version"),
    ] {
        let read = read(path, bytes);
        let problems = read.problems.join("\n");
        assert!(problems.contains(said), "{path}: {problems}");
        assert!(read.databases.is_empty(), "{path}");
    }
    assert_eq!(read("var/lib/rpm/rpmdb.sqlite-wal", Vec::new()), ImagePackages::default());
}

/// A database whose schema would run for ever ends.
#[test]
fn the_work_for_a_database_is_bounded() {
    let mut database = rusqlite::Connection::open_in_memory().expect("a database");
    let view = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS \
                (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n";
    database.execute_batch(view).expect("a view");
    let bytes = database.serialize("main").expect("serialized").to_vec();
    let read = read(RPM, bytes);
    assert!(read.packages.is_empty() && read.problems.len() == 1, "{read:?}");
}

/// Returns what dpkg says of two versions, or `None` if one is invalid.
fn dpkg_compares(a: &str, b: &str) -> Option<Ordering> {
    let holds = |operator: &str| {
        let status = Command::new("dpkg").args(["--compare-versions", a, operator, b]).output();
        status.is_ok_and(|output| output.status.success())
    };
    let order = [("lt", Ordering::Less), ("eq", Ordering::Equal), ("gt", Ordering::Greater)];
    order.into_iter().find(|(operator, _)| holds(operator)).map(|(_, order)| order)
}

#[test]
fn versions_of_deb_compare_as_dpkg_compares_them() {
    if dpkg_compares("1", "2") != Some(Ordering::Less) {
        return;
    }
    let versions = [
        "0",
        "1",
        "1.0",
        "1.0-0",
        "1.0-1",
        "1.0~rc1-1",
        "1.0~~",
        "1.0+b1",
        "1.0a",
        "1.0.0",
        "01.0",
        "1:0.9",
        "0:1.0",
        "1.0-1~bpo12+1",
        "1.0-1+deb12u1",
        "2.36-9+deb12u10",
        "2.36-9+deb12u9",
        "3.0.15-1~deb12u1",
        "5.2.15-2+b2",
        "20240101",
        "1.0-1-1",
        "1.9.0",
        "1.10.0",
        "1.0.z",
        "1.0.+",
        "99999999999999999999",
        "100000000000000000000",
    ];
    for a in versions {
        for b in versions {
            let ours = compare_versions(Ecosystem::Deb, a, b);
            assert_eq!(ours, dpkg_compares(a, b), "{a} {b}");
        }
    }
}

/// In ascending order, by the documentation of apk and its own tests.
#[test]
fn versions_of_apk_are_ordered() {
    let ascending = [
        "0.1_alpha1",
        "0.1_alpha2",
        "0.1_beta",
        "0.1_pre1",
        "0.1_rc2",
        "0.1",
        "0.1_git20260101",
        "0.1_p1",
        "0.1_p1-r1",
        "0.1_p2",
        "0.1a",
        "0.1b",
        "0.1.1",
        "0.2",
        "0.12",
        "1.0",
        "1.0.2",
        "1.00",
        "1.01",
        "1.1",
        "1.2.3-r0",
        "1.2.3-r1",
        "1.2.3-r10",
        "1.2.10",
        "1.37.0-r12",
        "2.38.1",
        "10.0_rc1",
        "10.0",
        "20260101",
    ];
    for (index, a) in ascending.iter().enumerate() {
        for (other, b) in ascending.iter().enumerate() {
            let order = compare_versions(Ecosystem::Apk, a, b);
            assert_eq!(order, Some(index.cmp(&other)), "{a} {b}");
        }
    }
    for (a, b) in [("1.2.3-r0", "1.2.3"), ("1.0~abc-r1", "1.0-r1"), ("01", "1")] {
        assert_eq!(compare_versions(Ecosystem::Apk, a, b), Some(Ordering::Equal), "{a} {b}");
    }
    for invalid in ["", "a", "1.", "1_", "1_x1", "1-2", "1.0-rx", "1__p1", "1.a.b"] {
        assert_eq!(compare_versions(Ecosystem::Apk, invalid, "1"), None, "{invalid}");
    }
}

/// RPM compares dependencies without a release by the version alone.
#[test]
fn a_release_counts_if_both_versions_have_one() {
    for (a, b, order) in [
        ("5.1.8-9.el9", "5.1.8", Ordering::Equal),
        ("5.1.8", "5.1.8-9.el9", Ordering::Equal),
        ("5.1.8-9.el9", "5.1.9", Ordering::Less),
        ("1:5.1.8-9.el9", "1:5.1.8", Ordering::Equal),
        ("1:5.1.8-9.el9", "5.1.8", Ordering::Greater),
    ] {
        assert_eq!(compare_versions(Ecosystem::Rpm, a, b), Some(order), "{a} {b}");
    }
}

/// The results of `rpm.vercmp` of rpm 4.18.
#[test]
fn versions_of_rpm_compare_as_rpm_compares_them() {
    for (a, b, order) in [
        ("1.0-1", "1.0-1", Ordering::Equal),
        ("1.0-9.el9", "1.0-10.el9", Ordering::Less),
        ("1:1.0-1", "2.0-1", Ordering::Greater),
        ("0:1.0-1", "1.0-1", Ordering::Equal),
        ("1.0~rc1-1", "1.0-1", Ordering::Less),
        ("1.0^git1-1", "1.0-1", Ordering::Greater),
        ("1.0^git1-1", "1.0.1-1", Ordering::Less),
        ("3.0.7-27.el9_2", "3.0.7-27.el9", Ordering::Greater),
        ("1.0a-1", "1.0.1-1", Ordering::Less),
        ("001-1", "1-1", Ordering::Equal),
        ("2.0-1", "10.0-1", Ordering::Less),
    ] {
        assert_eq!(compare_versions(Ecosystem::Rpm, a, b), Some(order), "{a} {b}");
    }
}
