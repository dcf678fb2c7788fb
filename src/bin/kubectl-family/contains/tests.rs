use serde_json::json;

use super::*;
use crate::registry_images::test_registry::{
    TestImages, TestRegistry, deb_layer, layer, packages_of_this_machine,
};

async fn registry() -> TestRegistry {
    let mut images = TestImages::default();
    images.add("team/old:1", &[deb_layer(&[("libssl3", "3.0.14-1~deb12u1")])], json!({}));
    images.add("team/new:1", &[deb_layer(&[("libssl3", "3.0.15-1~deb12u1")])], json!({}));
    let apk = layer(&[("lib/apk/db/installed", "P:libssl3\nV:3.0.15_rc1-r0\nA:x86_64\n\n")]);
    images.add("team/alpine:1", &[apk], json!({}));
    images.add("team/static:1", &[layer(&[("app", "x")])], json!({}));
    images.start().await
}

async fn search(query: &str) -> PackageReport {
    let registry = registry().await;
    let mut images = SearchedImages::default();
    for name in ["old", "new", "alpine", "static", "gone"] {
        let entry = images.entry(registry.reference(&format!("team/{name}:1")));
        entry.names.insert(format!("default/team/{name}"));
        entry.workloads.insert(format!("Deployment shop/{name}"));
    }
    let mut report = PackageReport::default();
    let query = query.parse().expect("a question");
    report.search(&registry.reader(), &query, images, SearchedPlatforms::All).await;
    report
}

fn found(report: &PackageReport) -> Vec<String> {
    report.images.iter().flat_map(|image| image.names.iter().cloned()).collect()
}

#[tokio::test]
async fn images_with_a_version_are_found_by_the_rules_of_their_distribution() {
    for (query, expected) in [
        ("libssl3", &["alpine", "new", "old"][..]),
        ("libssl3<3.0.15-1~deb12u1", &["old"]),
        ("libssl3<3.0.15", &["alpine", "old"]),
        ("libssl3>=3.0.15-1~deb12u1", &["new"]),
        ("libssl", &[]),
    ] {
        let report = search(query).await;
        let expected: Vec<_> = expected.iter().map(|name| format!("default/team/{name}")).collect();
        assert_eq!(found(&report), expected, "{query}");
        assert_eq!(report.read, 4, "all but the one that is gone");
    }
}

#[tokio::test]
async fn what_could_not_be_searched_is_named() {
    let report = search("libssl3").await;
    let problems = report.problems.join("\n");
    assert_eq!(report.problems.len(), 2, "{problems}");
    assert!(problems.contains("team/gone:1"), "{problems}");
    assert!(problems.contains("it has no database of packages"), "{problems}");
}

/// A version of Debian is none of Alpine.
#[tokio::test]
async fn versions_that_do_not_compare_are_named() {
    let problems = search("libssl3<3.0.15-1~deb12u1").await.problems.join("\n");
    assert!(problems.contains("libssl3 3.0.15_rc1-r0 does not compare"), "{problems}");
}

#[tokio::test]
async fn the_table_names_workloads() {
    let report = search("libssl3=3.0.14-1~deb12u1").await;
    let text = report.rendered(ListFormat::Wide).expect("a text");
    assert!(text.contains("Deployment shop/old"), "{text}");
    assert!(text.contains("linux/amd64") && text.contains("1 of 4 images contains it"), "{text}");
    let names = report.rendered(ListFormat::Name).expect("names");
    assert!(names.contains("team/old@sha256:"), "{names}");
    let text = search("none").await.rendered(ListFormat::Table).expect("a text");
    assert_eq!(text, "0 of 4 images contain it\n");
}

async fn search_in(
    registry: &TestRegistry,
    query: &str,
    names: &[String],
    platforms: SearchedPlatforms,
) -> PackageReport {
    let mut images = SearchedImages::default();
    for name in names {
        let entry = images.entry(registry.reference(name));
        entry.workloads.insert(format!("Pod shop/{name}"));
    }
    let mut report = PackageReport::default();
    let query = query.parse().expect("a question");
    report.search(&registry.reader(), &query, images, platforms).await;
    report
}

/// A node of another architecture than this machine runs another image of the index.
#[tokio::test]
async fn all_platforms_of_an_index_are_searched() {
    let mut images = TestImages::default();
    let of = |version: &str| deb_layer(&[("libssl3", version)]);
    let digests = images.index("team/app:1", &[("amd64", of("2")), ("arm64", of("1"))]);
    let registry = images.start().await;
    let names = ["team/app:1".to_owned()];
    let all = search_in(&registry, "libssl3<2", &names, SearchedPlatforms::All).await;
    assert_eq!((all.read, all.images.len()), (2, 1), "{all:?}");
    assert_eq!(all.images[0].platform, "linux/arm64");
    assert!(all.images[0].reference.ends_with(digests[1].as_str()), "{all:?}");
    let chosen = search_in(&registry, "libssl3<2", &names, SearchedPlatforms::Chosen).await;
    assert_eq!((chosen.read, chosen.images.len()), (1, 0), "the reader is for amd64");
}

/// A family names a tag, and a pod the digest.
#[tokio::test]
async fn an_image_is_listed_once() {
    let mut images = TestImages::default();
    let digest = images.add("team/app:1", &[deb_layer(&[("libssl3", "1")])], json!({}));
    let registry = images.start().await;
    let names = ["team/app:1".to_owned(), format!("team/app@{digest}")];
    let report = search_in(&registry, "libssl3", &names, SearchedPlatforms::All).await;
    assert_eq!((report.read, report.images.len()), (1, 1), "{report:?}");
    assert_eq!(report.images[0].workloads.len(), 2, "{report:?}");
}

/// The name of a source is no answer of "no".
#[tokio::test]
async fn packages_of_a_source_are_named() {
    let mut images = TestImages::default();
    let status = "Package: libssl3\nVersion: 1\nSource: openssl (3)\n\n\
                  Package: openssl-provider\nVersion: 1\nSource: openssl\n";
    images.add("team/app:1", &[layer(&[("var/lib/dpkg/status", status)])], json!({}));
    let registry = images.start().await;
    let names = ["team/app:1".to_owned()];
    let report = search_in(&registry, "openssl", &names, SearchedPlatforms::All).await;
    let problems = report.problems.join("\n");
    assert!(problems.contains("but libssl3, openssl-provider are built"), "{problems}");
    let report = search_in(&registry, "libssl3", &names, SearchedPlatforms::All).await;
    assert_eq!((report.problems, report.images.len()), (vec![], 1));
}

/// What the image has is older, but its epoch makes it newer.
#[tokio::test]
async fn a_question_without_the_epoch_has_no_answer() {
    let mut images = TestImages::default();
    images.add("team/app:1", &[deb_layer(&[("openssl", "1:3.0.7-1")])], json!({}));
    let registry = images.start().await;
    let names = ["team/app:1".to_owned()];
    let report = search_in(&registry, "openssl<3.0.15", &names, SearchedPlatforms::All).await;
    assert_eq!(report.images.len(), 0);
    assert!(report.problems[0].contains("1:3.0.7-1 has an epoch"), "{:?}", report.problems);
}

/// An image with the packages of this machine contains every version that dpkg lists, and none that
/// is older.
#[tokio::test]
async fn packages_are_those_that_dpkg_lists() {
    let Some((installed, packages)) = packages_of_this_machine() else { return };
    let mut images = TestImages::default();
    images.add("team/app:1", &[packages], json!({}));
    let registry = images.start().await;
    let reader = registry.reader();
    let image = reader.image(&registry.reference("team/app:1")).await.expect("an image");
    let packages = reader.packages(&image).await.expect("packages").packages;
    assert_eq!(packages.len(), installed.len());
    for package in installed {
        let mut fields = package.split(' ');
        let (name, version) = (fields.next().expect("a name"), fields.next().expect("a version"));
        for (operator, contains) in [("=", true), ("<=", true), ("<", false), (">", false)] {
            let query: PackageQuery =
                format!("{name}{operator}{version}").parse().expect("a question");
            // Several architectures of a package may be installed in several versions.
            let mut packages = packages.iter().filter(|package| package.version == version);
            let found = packages.any(|package| query.matches(package) == PackageMatch::Yes);
            assert_eq!(found, contains, "{name} {operator} {version}");
        }
    }
}
