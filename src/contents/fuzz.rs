//! Layers and versions of packages; see [`crate::fuzz`].

use std::str;

use crate::contents::{Ecosystem, LayerContent, Stack, compare_versions};

/// A layer: read, put on itself, and its databases read.
pub fn layer(input: &[u8]) {
    let Ok(layer) = LayerContent::read(input) else { return };
    let mut stack = Stack::default();
    if stack.add(&layer).is_err() {
        return;
    }
    let once = stack.clone().packages();
    assert!(stack.add(&layer).is_ok(), "it is as large as before");
    assert_eq!(stack.packages(), once, "a layer on itself changes nothing");
    for package in &once.packages {
        assert!(!package.name.is_empty() && package.version.len() <= 512, "{package:?}");
    }
}

/// Two versions, one per line.
pub fn version(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (a, b) = text.split_once('\n').unwrap_or((text, ""));
    for ecosystem in [Ecosystem::Apk, Ecosystem::Deb, Ecosystem::Rpm] {
        let order = compare_versions(ecosystem, a, b);
        let reverse = compare_versions(ecosystem, b, a);
        assert_eq!(order, reverse.map(std::cmp::Ordering::reverse), "{ecosystem}: {a} {b}");
        assert!(compare_versions(ecosystem, a, a).is_none_or(std::cmp::Ordering::is_eq), "{a}");
    }
}
