//! Indexes and settings that somebody else writes; see [`crate::fuzz`].

use std::collections::BTreeMap;

use crate::{
    contents::{Ecosystem, Inventory, Package, PackageSettings},
    package_indexes::{
        ImageSources, Keyring, Location, PackageTable,
        apk_index::ApkIndex,
        packages_file::read_packages,
        release::SuiteRelease,
        rpm_metadata::{RepositoryMetadata, read_primary, read_security_advisories},
    },
};

/// An index in any format.
pub fn package_index(input: &[u8]) {
    if let Ok(table) = read_packages(input) {
        check(&table);
    }
    for table in [read_primary(input), read_security_advisories(input)].into_iter().flatten() {
        check(&table);
    }
    if let Ok(index) = ApkIndex::split(input) {
        _ = Keyring::default().verify_apk("u", &index);
        if let Ok(table) = index.packages() {
            check(&table);
        }
    }
    _ = RepositoryMetadata::parse("u", input);
}

fn check(table: &PackageTable) {
    assert!(table.memory() <= 1 << 30, "{} bytes", table.memory());
    for package in table.packages("a") {
        assert!(!package.version.is_empty() && package.name == "a", "{package:?}");
    }
}

/// A release with or without a signature, and a key.
pub fn release(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let now = jiff::Timestamp::UNIX_EPOCH;
    if let Ok(release) = SuiteRelease::parse("u", &text) {
        _ = release.check_time("u", now);
        assert!(release.packages("main/binary-amd64").is_none_or(|file| file.sha256.len() == 64));
    }
    let mut keyring = Keyring::default();
    keyring.add(input);
    keyring.add(include_bytes!("fixtures/archive.gpg"));
    _ = keyring.signed_text("u", &text, now);
    _ = keyring.verify_detached("u", b"a", input, now);
}

/// The settings of a package manager: the first line is the path, and the rest its content.
pub fn package_sources(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (path, content) = input.split_at(end);
    let path = String::from_utf8_lossy(path).into_owned();
    let package = |ecosystem| Package {
        name: "a".into(),
        version: "1".into(),
        architecture: "amd64".into(),
        ecosystem,
        source: String::new(),
    };
    let files = BTreeMap::from([(path, content.to_vec().into())]);
    let mut inventory = Inventory {
        settings: PackageSettings { files, ..PackageSettings::default() },
        ..Inventory::default()
    };
    inventory.packages.packages =
        [Ecosystem::Apk, Ecosystem::Deb, Ecosystem::Rpm].map(package).into();
    let sources = ImageSources::read(&inventory);
    assert!(sources.repositories.len() <= 256 && sources.problems.len() <= 64);
    for repository in &sources.repositories {
        let uri = match &repository.location {
            Location::Deb { uri, .. } | Location::Apk { uri, .. } | Location::Rpm { uri } => uri,
        };
        let Ok(url) = uri.parse::<url::Url>() else { unreachable!("{uri} is no URL") };
        assert!(url.username().is_empty() && url.password().is_none(), "{url} has a credential");
        _ = repository.keyring(&inventory.settings);
    }
}
