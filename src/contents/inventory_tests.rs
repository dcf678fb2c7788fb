//! Inventories of layers that the tests make.

use std::{collections::BTreeMap, sync::Arc};

use crate::contents::{Inventory, LayerContent, inventory::Inventories};

fn inventory(layers: &[&[(&str, String)]]) -> Inventory {
    let mut inventories = Inventories::default();
    for files in layers {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in *files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, path, text.as_bytes()).expect("a file");
        }
        let layer = builder.into_inner().expect("a tar");
        let layer = LayerContent::read(&*layer).expect("a layer");
        inventories.add(Arc::new(layer)).expect("it is small");
    }
    inventories.finish()
}

/// A database with these packages, as `name version status`.
fn status(packages: &[&str]) -> (&'static str, String) {
    let paragraph = |package: &&str| {
        let [name, version, want] = package.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{package}")
        };
        format!(
            "Package: {name}\nStatus: {want} ok installed\nArchitecture: amd64\n\
             Version: {version}\n\n"
        )
    };
    ("var/lib/dpkg/status", packages.iter().map(paragraph).collect())
}

#[test]
fn each_package_has_the_layer_that_brings_its_version() {
    let found = inventory(&[
        &[status(&["libc6 1 install", "curl 1 install"])],
        &[("etc/apt/sources.list", "# none".into())],
        &[status(&["libc6 1 install", "curl 2 install", "vim 1 hold"])],
    ]);
    let layers: BTreeMap<&str, usize> =
        found.layers.iter().map(|(package, layer)| (package.name.as_str(), *layer)).collect();
    assert_eq!(layers, BTreeMap::from([("libc6", 0), ("curl", 2), ("vim", 2)]));
    assert_eq!(found.held.iter().map(String::as_str).collect::<Vec<_>>(), ["vim:amd64"]);
    assert_eq!(found.packages.packages.len(), 3);
    assert_eq!(found.settings.text("etc/apt/sources.list").as_deref(), Some("# none"));
}

/// A package that a layer removes and another one installs again comes from the upper one.
#[test]
fn what_is_installed_again_comes_from_the_upper_layer() {
    let both = || status(&["a 1 install", "b 1 install"]);
    let found = inventory(&[&[both()], &[status(&["a 1 install"])], &[both()]]);
    let layer = |name: &str| found.layers.iter().find(|(package, _)| package.name == name);
    assert_eq!(layer("a").map(|(_, layer)| *layer), Some(0));
    assert_eq!(layer("b").map(|(_, layer)| *layer), Some(2));
}

#[test]
fn settings_are_those_of_the_topmost_layer() {
    let large = "#".repeat(2 << 20);
    let found = inventory(&[
        &[("etc/apk/repositories", "old".into()), ("etc/apk/keys/a.rsa.pub", "key".into())],
        &[("etc/apk/repositories", "new".into()), ("etc/apk/keys/.wh.a.rsa.pub", String::new())],
        &[("etc/yum.repos.d/large.repo", large), ("etc/passwd", "root".into())],
    ]);
    let files: Vec<&str> = found.settings.files.keys().map(String::as_str).collect();
    assert_eq!(files, ["etc/apk/repositories"]);
    assert_eq!(found.settings.text("etc/apk/repositories").as_deref(), Some("new"));
    assert!(found.settings.unread.contains("etc/yum.repos.d/large.repo"));
}
