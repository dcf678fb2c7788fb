//! The operator's configuration of registries, as `BuildKit` reads it. Other builders leave the
//! file alone.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use url::Url;

use crate::{
    builds::prepare::{PodPaths, disk, error::PrepareError},
    registry::Config,
};

/// Writes the file.
pub(super) fn write(registries: &Config, paths: &PodPaths) -> Result<(), PrepareError> {
    let path = paths.workspace.join("buildkitd.toml");
    fs::write(&path, toml(registries)).map_err(|error| disk(&path, &error))
}

/// The mirrors of a registry, as URLs.
pub(super) fn mirrors(registries: &Config, registry: &str) -> Vec<Url> {
    let mirrors = registries.mirrors.get(registry).into_iter().flatten();
    mirrors.filter_map(|mirror| Url::parse(&String::from(mirror.clone())).ok()).collect()
}

fn toml(registries: &Config) -> String {
    let mut hosts: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for host in &registries.plain_http {
        hosts.entry(host.clone()).or_default().0 = true;
    }
    for host in registries.mirrors.keys() {
        for mirror in mirrors(registries, host) {
            let authority = authority(&mirror);
            let path = mirror.path().trim_end_matches('/');
            hosts.entry(host.clone()).or_default().1.push(format!("{authority}{path}"));
            hosts.entry(authority).or_default().0 |= mirror.scheme() == "http";
        }
    }
    let mut text = String::new();
    for (host, (plain, mirrors)) in &hosts {
        let _ = writeln!(text, "[registry.{}]", quoted(host));
        if *plain {
            text.push_str("  http = true\n");
        }
        if !mirrors.is_empty() {
            let mirrors: Vec<_> = mirrors.iter().map(|mirror| quoted(mirror)).collect();
            let _ = writeln!(text, "  mirrors = [{}]", mirrors.join(", "));
        }
    }
    text
}

/// Host, and port where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A basic string of TOML: the same escapes as in JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_mirrors_and_plain_hosts_as_buildkit_reads_them() {
        let registries = serde_json::from_value(json!({
            "plainHttp": ["10.0.0.1:5000"],
            "mirrors": {"docker.io": ["http://registry.test:5000", "https://mirror.example.com/hub/"]},
            "timeout": "60s",
        }));
        assert_eq!(
            toml(&registries.expect("parses")),
            concat!(
                "[registry.\"10.0.0.1:5000\"]\n  http = true\n",
                "[registry.\"docker.io\"]\n  mirrors = [\"registry.test:5000\", \
                 \"mirror.example.com/hub\"]\n",
                "[registry.\"mirror.example.com\"]\n",
                "[registry.\"registry.test:5000\"]\n  http = true\n",
            )
        );
        assert_eq!(toml(&Config::default()), "");
        assert_eq!(quoted("a\"]\nb"), r#""a\"]\nb""#);
    }
}
