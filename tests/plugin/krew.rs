//! The manifest for krew, as a release fills it in, has the fields that krew requires.

use std::collections::BTreeSet;

use serde_json::Value;

const MANIFEST: &str = "deploy/krew/family.yaml";

#[test]
fn the_manifest_is_one_that_krew_accepts_once_it_is_filled_in() {
    let text = std::fs::read_to_string(crate::runs::root().join(MANIFEST)).expect("a manifest");
    let placeholder = regex::Regex::new(r"\$\{SHA256_([A-Z0-9]+)_([A-Z0-9]+)\}").expect("regex");
    let filled = text.replace("${VERSION}", env!("CARGO_PKG_VERSION"));
    let filled = placeholder.replace_all(&filled, "0".repeat(64).as_str());
    let manifest: Value = serde_yaml::from_str(&filled).expect("YAML");

    assert_eq!(keys(&manifest), ["apiVersion", "kind", "metadata", "spec"]);
    assert_eq!(manifest["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(manifest["kind"], "Plugin");
    assert_eq!(manifest["metadata"]["name"], "family", "the name of the file");
    let spec = &manifest["spec"];
    assert_eq!(
        keys(spec),
        ["caveats", "description", "homepage", "platforms", "shortDescription", "version"]
    );
    assert_eq!(spec["version"], concat!("v", env!("CARGO_PKG_VERSION")));
    assert_eq!(spec["homepage"], env!("CARGO_PKG_REPOSITORY"));
    let tagline = spec["shortDescription"].as_str().expect("a tagline");
    assert!(!tagline.is_empty() && !tagline.contains('\n') && tagline.len() < 60, "{tagline}");

    let platforms = spec["platforms"].as_array().expect("platforms");
    let mut selected = BTreeSet::new();
    for platform in platforms {
        assert_eq!(keys(platform), ["bin", "selector", "sha256", "uri"]);
        assert_eq!(keys(&platform["selector"]), ["matchLabels"]);
        let labels = &platform["selector"]["matchLabels"];
        assert_eq!(keys(labels), ["arch", "os"]);
        let [os, arch] = ["os", "arch"].map(|key| labels[key].as_str().expect("a label"));
        let uri = platform["uri"].as_str().expect("a URL");
        let prefix = format!("{}/releases/download/", env!("CARGO_PKG_REPOSITORY"));
        assert!(uri.starts_with(&prefix), "{uri}");
        assert!(uri.ends_with(&format!("-{os}-{arch}.tar.gz")), "{uri}");
        assert_eq!(platform["sha256"].as_str().map(str::len), Some(64), "{uri}");
        assert_eq!(platform["bin"], "kubectl-family");
        assert!(selected.insert((os.to_uppercase(), arch.to_uppercase())), "{uri}: twice");
    }
    let placeholders: BTreeSet<(String, String)> = placeholder
        .captures_iter(&text)
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect();
    // A sum that is not a placeholder would be one that nobody has computed, and one that two
    // platforms share would be wrong for one of them.
    let with_sums: BTreeSet<_> =
        selected.into_iter().filter(|pair| placeholders.contains(pair)).collect();
    assert_eq!(with_sums.len(), platforms.len());
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
