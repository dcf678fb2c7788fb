//! The operator's configuration of registries, as `BuildKit` reads it. Other builders leave the file alone.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde::Deserialize;
use url::Url;

use super::{
    Places, disk,
    refusal::{Reason, Refusal},
};

/// What of the operator's configuration concerns a builder.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Registries {
    /// Hosts that are spoken to without TLS.
    plain_http: Vec<String>,
    /// Mirrors of a host, as URLs.
    mirrors: BTreeMap<String, Vec<String>>,
}

/// Writes the file.
pub(super) fn write(registries: &serde_json::Value, places: &Places) -> Result<(), Refusal> {
    let wrong = |problem: String| {
        let message = format!("the operator's configuration of registries can't be read: {problem}");
        Refusal::new(Reason::InfrastructureFailed, message)
    };
    let registries: Option<Registries> =
        serde_json::from_value(registries.clone()).map_err(|error| wrong(error.to_string()))?;
    let text = toml(&registries.unwrap_or_default()).map_err(wrong)?;
    let path = places.workspace.join("buildkitd.toml");
    fs::write(&path, text).map_err(|error| disk(&path, &error))
}

fn toml(registries: &Registries) -> Result<String, String> {
    let mut hosts: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for host in &registries.plain_http {
        hosts.entry(host.clone()).or_default().0 = true;
    }
    for (host, mirrors) in &registries.mirrors {
        for mirror in mirrors {
            let mirror = Url::parse(mirror).map_err(|error| format!("a mirror of {host} is no URL: {error}"))?;
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
    Ok(text)
}

fn authority(url: &Url) -> String {
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
            toml(&registries.expect("parses")).expect("valid"),
            concat!(
                "[registry.\"10.0.0.1:5000\"]\n  http = true\n",
                "[registry.\"docker.io\"]\n  mirrors = [\"registry.test:5000\", \"mirror.example.com/hub\"]\n",
                "[registry.\"mirror.example.com\"]\n",
                "[registry.\"registry.test:5000\"]\n  http = true\n",
            )
        );
        assert_eq!(toml(&Registries::default()), Ok(String::new()));
        assert_eq!(quoted("a\"]\nb"), r#""a\"]\nb""#);
    }
}
