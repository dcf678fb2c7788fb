//! The comparison of an image with indexes, by the rules of each distribution.

use std::sync::Arc;

use globset::{Glob, GlobSet};

use crate::{
    contents::{Ecosystem, Inventory, Package},
    package_indexes::{
        Advice, AvailableIndex, ImageSources, IndexPriority, PackageTable, TableBuilder,
        table::TablePackage, updates,
    },
};

/// Packages, each as `name version architecture`.
fn table(ecosystem: Ecosystem, packages: &[&str]) -> Arc<PackageTable> {
    let mut builder = TableBuilder::new(ecosystem);
    for package in packages {
        let [name, version, architecture] = words(package);
        builder.add(TablePackage { name, version, architecture }).expect("it is short");
    }
    Arc::new(builder.finish())
}

fn words(text: &str) -> [&str; 3] {
    text.split(' ').collect::<Vec<_>>().try_into().expect("name version architecture")
}

fn index(ecosystem: Ecosystem, packages: &[&str]) -> AvailableIndex {
    AvailableIndex {
        ecosystem,
        architecture: "amd64".into(),
        tag: None,
        priority: IndexPriority::Default,
        advice: Advice::Other,
        table: table(ecosystem, packages),
        advisories: None,
    }
}

fn inventory(ecosystem: Ecosystem, packages: &[&str]) -> Inventory {
    let package = |text: &&str| {
        let [name, version, architecture] = words(text).map(str::to_owned);
        Package { name, version, architecture, ecosystem, source: String::new() }
    };
    let mut inventory = Inventory::default();
    inventory.packages.packages = packages.iter().map(package).collect();
    inventory
}

fn sources(architecture: &str) -> ImageSources {
    ImageSources { architecture: architecture.into(), ..ImageSources::default() }
}

/// The updates, each as `name installed -> available`, with what is special of it.
fn found(inventory: &Inventory, sources: &ImageSources, indexes: &[AvailableIndex]) -> Vec<String> {
    let updates = updates(inventory, sources, indexes, &GlobSet::empty());
    let line = |update: &crate::package_indexes::PackageUpdate<'_>| {
        let Package { name, version, .. } = update.package;
        let held = if update.is_held { " held" } else { "" };
        format!("{name} {version} -> {} {:?}{held}", update.available, update.advice)
    };
    updates.iter().map(line).collect()
}

fn deb(installed: &[&str], indexes: &[AvailableIndex]) -> Vec<String> {
    found(&inventory(Ecosystem::Deb, installed), &sources("amd64"), indexes)
}

#[test]
fn only_newer_versions_of_the_same_package_count() {
    let main = index(
        Ecosystem::Deb,
        &["a 1:1-1 amd64", "b 2-1 amd64", "c 2-1 amd64", "d 1-1~deb12u2 amd64", "e 9 arm64"],
    );
    let installed = ["a 2-1 amd64", "b 2-1 amd64", "c 3-1 amd64", "d 1-1~deb12u1 amd64"];
    let others = ["e 1 amd64", "f 1 amd64"];
    assert_eq!(
        deb(&[&installed[..], &others].concat(), &[main]),
        ["a 2-1 -> 1:1-1 Other", "d 1-1~deb12u1 -> 1-1~deb12u2 Other"]
    );
}

/// A package may become one for all architectures, but never one for another architecture.
#[test]
fn architectures_are_those_of_the_image() {
    let amd64 = index(Ecosystem::Deb, &["a 2 all", "b 2 amd64", "c 2 amd64", "d 2 all"]);
    let i386 = AvailableIndex {
        architecture: "i386".into(),
        ..index(Ecosystem::Deb, &["c 3 i386", "d 3 all"])
    };
    assert_eq!(
        deb(&["a 1 amd64", "b 1 all", "c 1 i386", "d 1 i386"], &[amd64, i386]),
        ["a 1 -> 2 Other", "b 1 -> 2 Other", "c 1 -> 3 Other"]
    );
}

#[test]
fn a_newer_version_in_a_security_suite_is_a_security_update() {
    let main = index(Ecosystem::Deb, &["a 2 amd64", "b 2 amd64", "c 3 amd64"]);
    let security = AvailableIndex {
        advice: Advice::Security,
        ..index(Ecosystem::Deb, &["a 1+deb12u1 amd64", "b 1 amd64", "c 3 amd64"])
    };
    // `a` has a fix of security on the way to version 2, `b` has it already.
    assert_eq!(
        deb(&["a 1 amd64", "b 1 amd64", "c 2 amd64"], &[main, security]),
        ["a 1 -> 2 Security", "b 1 -> 2 Other", "c 2 -> 3 Security"]
    );
}

/// As `apt-cache policy` has it: backports replace only what comes from them.
#[test]
fn priorities_are_those_of_apt() {
    let main = index(Ecosystem::Deb, &["a 1 amd64", "b 2 amd64", "c 1 amd64"]);
    let of = |priority| AvailableIndex {
        priority,
        ..index(Ecosystem::Deb, &["a 3 amd64", "b 3 amd64", "c 3~bpo2 amd64"])
    };
    let installed = ["a 1 amd64", "b 1 amd64", "c 3~bpo1 amd64"];
    let both = |priority| deb(&installed, &[main.clone(), of(priority)]);
    assert_eq!(both(IndexPriority::Upgrades), ["b 1 -> 2 Other", "c 3~bpo1 -> 3~bpo2 Other"]);
    assert_eq!(both(IndexPriority::Manual), ["b 1 -> 2 Other"]);
    assert_eq!(both(IndexPriority::Default).len(), 3);
}

#[test]
fn what_is_held_or_excluded_is_known() {
    let main = index(Ecosystem::Deb, &["a 2 amd64", "b 2 amd64", "linux-image 2 amd64"]);
    let mut image = inventory(Ecosystem::Deb, &["a 1 amd64", "b 1 amd64", "linux-image 1 amd64"]);
    image.held.insert("a:amd64".into());
    let glob = Glob::new("linux-*").expect("a glob");
    let exclude = GlobSet::builder().add(glob).build().expect("a set");
    let indexes = [main];
    let found = updates(&image, &sources("amd64"), &indexes, &exclude);
    let found: Vec<(&str, bool)> =
        found.iter().map(|update| (update.package.name.as_str(), update.is_held)).collect();
    assert_eq!(found, [("a", true), ("b", false)]);
}

#[test]
fn tagged_repositories_of_apk_have_to_be_asked_for() {
    let main = AvailableIndex {
        advice: Advice::Unknown,
        ..index(Ecosystem::Apk, &["a 1.2-r1 x86_64", "b 1-r0 x86_64", "c 2-r0 x86_64"])
    };
    let edge = AvailableIndex {
        advice: Advice::Unknown,
        tag: Some("edge".into()),
        ..index(Ecosystem::Apk, &["a 9-r0 x86_64", "b 9-r0 x86_64"])
    };
    let mut sources = sources("x86_64");
    sources.tagged.insert("b".into(), "edge".into());
    sources.pinned.insert("c".into());
    let image =
        inventory(Ecosystem::Apk, &["a 1.2_rc1-r4 x86_64", "b 1-r0 x86_64", "c 1-r0 x86_64"]);
    assert_eq!(
        found(&image, &sources, &[main, edge]),
        ["a 1.2_rc1-r4 -> 1.2-r1 Unknown", "b 1-r0 -> 9-r0 Unknown", "c 1-r0 -> 2-r0 Unknown held",]
    );
}

#[test]
fn advisories_of_rpm_say_what_is_about_security() {
    let all = ["a 2-1 x86_64", "b 2-1 x86_64", "kernel 6-2 x86_64", "t 2-1 noarch"];
    let index = AvailableIndex {
        advisories: Some(table(Ecosystem::Rpm, &["a 1-2 x86_64", "b 1-1 x86_64"])),
        ..index(Ecosystem::Rpm, &all)
    };
    let installed =
        ["a 1-1 x86_64", "b 1-1 x86_64", "kernel 6-1 x86_64", "kernel 6-2 x86_64", "t 1-1 x86_64"];
    assert_eq!(
        found(&inventory(Ecosystem::Rpm, &installed), &sources("x86_64"), &[index]),
        ["a 1-1 -> 2-1 Security", "b 1-1 -> 2-1 Other", "t 1-1 -> 2-1 Other"]
    );
}

#[test]
fn what_is_no_version_is_no_update() {
    let main = index(Ecosystem::Deb, &["a not!a!version amd64", "b 2 amd64"]);
    assert_eq!(deb(&["a 1 amd64", "b also!none amd64"], &[main]), [""; 0]);
}

/// As many packages as Debian's main has take little memory.
#[test]
fn a_table_takes_little_memory() {
    let mut builder = TableBuilder::new(Ecosystem::Deb);
    for number in 0..64_000 {
        let (name, version) = (format!("libpackage{number}-dev"), format!("1.{number}-1+deb12u1"));
        let architecture = "amd64";
        let package = TablePackage { name: &name, version: &version, architecture };
        builder.add(package).expect("it is short");
    }
    let table = builder.finish();
    assert_eq!((table.len(), table.packages("libpackage7-dev").count()), (64_000, 1));
    assert!(table.memory() < 64_000 * 64, "{} bytes", table.memory());
}
