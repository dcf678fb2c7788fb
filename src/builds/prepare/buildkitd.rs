//! Writes the operator's configuration of registries in the format of `BuildKit`. Other builders
//! ignore the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use url::Url;

use crate::{
    builds::{
        pod_paths::CA_FILE,
        prepare::{PodPaths, disk_error, error::PrepareError},
    },
    registry::Config,
};

/// Writes `buildkitd.toml` into the workspace. `private` are the registries for which the private
/// authorities in [`CA_FILE`] are trusted; empty if there are none.
pub(super) fn write(
    registries: &Config,
    private: &BTreeSet<String>,
    paths: &PodPaths,
) -> Result<(), PrepareError> {
    let path = paths.workspace.join("buildkitd.toml");
    fs::write(&path, toml(registries, private)).map_err(|error| disk_error(&path, &error))
}

/// Returns the mirrors of a registry as URLs.
pub(super) fn mirrors(registries: &Config, registry: &str) -> Vec<Url> {
    let mirrors = registries.mirrors.get(registry).into_iter().flatten();
    mirrors.filter_map(|mirror| Url::parse(&String::from(mirror.clone())).ok()).collect()
}

/// The settings of one registry host.
#[derive(Default)]
struct HostSettings {
    plain_http: bool,
    mirrors: Vec<String>,
}

fn toml(registries: &Config, private: &BTreeSet<String>) -> String {
    let mut hosts: BTreeMap<String, HostSettings> = BTreeMap::new();
    for host in &registries.plain_http {
        hosts.entry(host.clone()).or_default().plain_http = true;
    }
    for host in registries.mirrors.keys() {
        for mirror in mirrors(registries, host) {
            let authority = authority(&mirror);
            let path = mirror.path().trim_end_matches('/');
            hosts.entry(host.clone()).or_default().mirrors.push(format!("{authority}{path}"));
            hosts.entry(authority).or_default().plain_http |= mirror.scheme() == "http";
        }
    }
    // BuildKit trusts the authorities per registry, and mirrors are registries of their own.
    for host in private {
        hosts.entry(host.clone()).or_default();
    }
    let mut text = String::new();
    for (host, HostSettings { plain_http, mirrors }) in &hosts {
        let _ = writeln!(text, "[registry.{}]", quoted(host));
        if *plain_http {
            text.push_str("  http = true\n");
        }
        if !private.is_empty() && !plain_http {
            let _ = writeln!(text, "  ca = [{}]", quoted(CA_FILE));
        }
        if !mirrors.is_empty() {
            let mirrors: Vec<_> = mirrors.iter().map(|mirror| quoted(mirror)).collect();
            let _ = writeln!(text, "  mirrors = [{}]", mirrors.join(", "));
        }
    }
    text
}

/// Returns the name of a repository at a mirror.
pub(super) fn mirrored_name(mirror: &Url, path: &str) -> String {
    let prefix = mirror.path().trim_end_matches('/');
    format!("{}{prefix}/{path}", authority(mirror))
}

/// Returns the host of a URL, with the port unless it is the default port of the scheme.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns a basic string of TOML, which has the same escapes as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mirrors_and_plain_http_hosts_are_in_the_format_of_buildkit() {
        let registries = serde_json::from_value(json!({
            "plainHttp": ["10.0.0.1:5000"],
            "mirrors": {"docker.io": ["http://registry.test:5000",
                "https://mirror.example.com/hub/"]},
            "timeout": "60s",
        }));
        assert_eq!(
            toml(&registries.expect("parses"), &BTreeSet::new()),
            concat!(
                "[registry.\"10.0.0.1:5000\"]\n  http = true\n",
                "[registry.\"docker.io\"]\n  mirrors = [\"registry.test:5000\", \
                 \"mirror.example.com/hub\"]\n",
                "[registry.\"mirror.example.com\"]\n",
                "[registry.\"registry.test:5000\"]\n  http = true\n",
            )
        );
        assert_eq!(toml(&Config::default(), &BTreeSet::new()), "");
        assert_eq!(quoted("a\"]\nb"), r#""a\"]\nb""#);
    }
    #[test]
    fn private_authorities_are_trusted_for_each_registry_with_tls() {
        let registries = serde_json::from_value(json!({
            "plainHttp": ["10.0.0.1:5000"],
            "mirrors": {"docker.io": ["https://mirror.example.com"]},
        }));
        let private = ["registry.example.com:5000", "docker.io", "10.0.0.1:5000"];
        let private = private.map(str::to_owned).into();
        let ca = "  ca = [\"/workspace/ca.crt\"]\n";
        assert_eq!(
            toml(&registries.expect("parses"), &private),
            [
                "[registry.\"10.0.0.1:5000\"]\n  http = true\n",
                "[registry.\"docker.io\"]\n",
                ca,
                "  mirrors = [\"mirror.example.com\"]\n",
                "[registry.\"mirror.example.com\"]\n",
                ca,
                "[registry.\"registry.example.com:5000\"]\n",
                ca,
            ]
            .concat()
        );
    }
}
