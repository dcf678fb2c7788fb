//! The operator's configuration of registries: plain HTTP, mirrors, timeouts and concurrency.
//!
//! Family authors cannot change it: a family must not be able to send a credential over plain HTTP
//! or to another host.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    api::{CredentialUse, Duration},
    registry::{AddressPolicy, CaBundle, reference::DOCKER_HUB},
};

/// The host that serves Docker Hub's registry API; `docker.io` itself does not.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Stands for the registries that are not listed.
const OTHER_REGISTRIES: &str = "*";
/// How many polls begin in a minute at registries that limit them, unless it is configured.
const DEFAULT_POLLS_PER_MINUTE: [(&str, u32); 1] = [(DOCKER_HUB, 300)];
/// How many polls begin in a minute at any other registry.
const DEFAULT_POLLS_OF_OTHERS: u32 = 1200;

/// Describes how registries are reached. It is part of the operator's configuration, in YAML.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Registries, as `host` or `host:port`, that are reached over plain HTTP. Credentials are sent
    /// to them unencrypted.
    pub plain_http: Vec<String>,
    /// Mirrors per registry, as URLs, which are tried in order before the registry itself. Mirrors
    /// are used for pulls, never for pushes, and never for tags that are pushed. A path of the URL
    /// follows `/v2`, as `BuildKit` reads it. A mirror receives only a credential for its own host,
    /// never one for the registry that it mirrors.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Timeout for opening a connection. 5 seconds by default.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing in the middle of a response. 15 seconds by default.
    pub read_timeout: Duration,
    /// Timeout for a whole call, including tokens and retries. 60 seconds by default. A mirror gets
    /// a quarter of it, and at most 10 seconds. The wait for a free slot does not count, and is
    /// limited in the same way.
    pub timeout: Duration,
    /// Maximum number of concurrent requests to one host. 8 by default.
    pub concurrent_requests_per_host: usize,
    /// How many polls of tags begin in a minute at each registry, of all families together. 300 at
    /// `docker.io`, and 1200 at each other registry, by default. `*` stands for the registries that
    /// are not listed. What builds pull does not count.
    pub polls_per_minute: BTreeMap<String, u32>,
    /// Hosts, IP addresses and networks that the controller connects to although it refuses them by
    /// default: those of the node, the cluster and the cloud's metadata. `*.example.com` stands for
    /// all hosts below `example.com`. The hosts of `plainHttp` and `mirrors`, and the proxy, are
    /// allowed anyway. It applies to Git servers as well.
    pub allowed_addresses: Vec<String>,
    /// IP addresses and networks that the controller refuses to connect to in addition, such as the
    /// networks of the cluster's services and pods.
    pub denied_addresses: Vec<String>,
    /// Certificate authorities that are trusted in addition to those of the system. They come from
    /// a file of their own.
    #[serde(skip)]
    pub ca_bundle: CaBundle,
}

/// The URL of a mirror: `http` or `https`, a host, and optionally a port and a path. It has no
/// user, query or fragment.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Mirror(Url);

impl Default for Config {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            mirrors: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(15),
            timeout: Duration::from_secs(60),
            concurrent_requests_per_host: 8,
            polls_per_minute: BTreeMap::new(),
            allowed_addresses: Vec::new(),
            denied_addresses: Vec::new(),
            ca_bundle: CaBundle::default(),
        }
    }
}

/// The error for an invalid [`Config`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A mirror's URL is invalid. The message does not repeat the URL, because it may contain a
    /// password.
    #[error(
        "registries.mirrors: {0}: use http:// or https:// followed by a host, without user, query \
         or fragment"
    )]
    Mirror(&'static str),
    /// An entry of `plainHttp` is not a host.
    #[error("registries.plainHttp: `{0}` is not a host: use host or host:port, without http://")]
    PlainHttp(String),
    /// An entry of `allowedAddresses` or `deniedAddresses` cannot be used.
    #[error("registries.{field}: `{entry}`: {problem}")]
    Address {
        /// The field.
        field: &'static str,
        /// The entry.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A limit is zero.
    #[error("registries.{0} must be greater than zero")]
    Zero(&'static str),
}

/// Whether a call pulls or pushes. Mirrors are used only for pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Pull,
    Push,
}

impl Purpose {
    /// Returns what a credential must be used for to be sent.
    pub(super) const fn credential_use(self) -> CredentialUse {
        match self {
            Self::Pull => CredentialUse::Pull,
            Self::Push => CredentialUse::Push,
        }
    }
}

/// A server that serves a registry's content: the registry itself or a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The URL that precedes `/v2/`, without a trailing slash.
    pub base: String,
    /// What precedes the path of a repository: empty, or ending with a slash.
    pub prefix: String,
    /// The name for which credentials are looked up: the registry's name, or the mirror's own host.
    pub registry: String,
    /// For a mirror, the registry that it mirrors. It is sent as the query parameter `ns`, as
    /// containerd does.
    pub mirrored: Option<String>,
}

impl Endpoint {
    /// Returns the URL of a path of the API.
    pub(super) fn url(&self, path: &str) -> String {
        let Self { base, prefix, .. } = self;
        if path.is_empty() { format!("{base}/v2/") } else { format!("{base}/v2/{prefix}{path}") }
    }

    /// Returns the path of an image's repository at this endpoint.
    pub(super) fn repository(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

impl Config {
    /// Validates what the types cannot express.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(host) =
            self.plain_http.iter().find(|host| host.is_empty() || host.contains(['/', '@']))
        {
            return Err(ConfigError::PlainHttp(host.clone()));
        }
        self.addresses(|_| None)?;
        if self.polls_per_minute.values().any(|polls| *polls == 0) {
            return Err(ConfigError::Zero("pollsPerMinute"));
        }
        let limits = [
            ("connectTimeout", self.connect_timeout.as_secs() as usize),
            ("readTimeout", self.read_timeout.as_secs() as usize),
            ("timeout", self.timeout.as_secs() as usize),
            ("concurrentRequestsPerHost", self.concurrent_requests_per_host),
        ];
        limits
            .iter()
            .find(|(_, value)| *value == 0)
            .map_or(Ok(()), |(name, _)| Err(ConfigError::Zero(name)))
    }

    /// Whether this host, given with its port if it has one, is reached over plain HTTP.
    #[must_use]
    pub fn is_plain_http(&self, host: &str) -> bool {
        is_listed(&self.plain_http, host)
    }

    /// Returns the host that serves this registry, with its port if that is not the default one.
    /// The names of one server have the same one: `docker.io` and `registry-1.docker.io:443`.
    #[must_use]
    pub fn serving_host(&self, registry: &str) -> String {
        let registry = registry.to_ascii_lowercase();
        let url: Option<Url> = self.origin(&registry).base.parse().ok();
        url.map_or(registry, |url| authority(&url))
    }

    /// Returns which addresses the controller connects to, given a lookup of variables of the
    /// environment.
    pub fn addresses(
        &self,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<AddressPolicy, ConfigError> {
        let mut policy = AddressPolicy::restricted(get);
        let error = |field, entry: &str, problem| {
            let entry = entry.to_owned();
            ConfigError::Address { field, entry, problem }
        };
        for entry in &self.denied_addresses {
            let range = entry.parse();
            policy.refuse(range.map_err(|problem| error("deniedAddresses", entry, problem))?);
        }
        for entry in &self.allowed_addresses {
            let target = entry.parse();
            policy.allow(target.map_err(|problem| error("allowedAddresses", entry, problem))?);
        }
        let plain = self.plain_http.iter().filter_map(|host| {
            let url = Url::parse(&format!("http://{host}")).ok()?;
            Some(url.host_str()?.to_owned())
        });
        let mirrors = self.mirrors.values().flatten();
        let mirrors = mirrors.filter_map(|Mirror(url)| Some(url.host_str()?.to_owned()));
        plain.chain(mirrors).for_each(|host| policy.allow_host(&host));
        Ok(policy)
    }

    /// Returns how many polls of this registry begin in a minute, whatever name of it is given.
    #[must_use]
    pub fn polls_per_minute(&self, registry: &str) -> u32 {
        let host = self.serving_host(registry);
        let is_same = |listed: &str| self.serving_host(listed) == host;
        let listed = self.polls_per_minute.iter().find(|(listed, _)| is_same(listed));
        let known = DEFAULT_POLLS_PER_MINUTE.iter().find(|(known, _)| is_same(known));
        listed
            .map(|(_, polls)| *polls)
            .or_else(|| known.map(|(_, polls)| *polls))
            .or_else(|| self.polls_per_minute.get(OTHER_REGISTRIES).copied())
            .unwrap_or(DEFAULT_POLLS_OF_OTHERS)
    }

    /// Returns the registry itself.
    pub(super) fn origin(&self, registry: &str) -> Endpoint {
        let api = if registry == DOCKER_HUB { DOCKER_HUB_API } else { registry };
        let scheme = if self.is_plain_http(registry) { "http" } else { "https" };
        Endpoint {
            base: format!("{scheme}://{api}"),
            prefix: String::new(),
            registry: registry.into(),
            mirrored: None,
        }
    }

    /// Returns the endpoints of this registry in the order in which they are tried: its mirrors,
    /// and itself.
    pub(super) fn endpoints(&self, registry: &str, purpose: Purpose) -> Vec<Endpoint> {
        let mirrors = match purpose {
            Purpose::Pull => self.mirrors.get(registry).map_or(&[][..], Vec::as_slice),
            Purpose::Push => &[],
        };
        mirrors
            .iter()
            .map(|Mirror(url)| Endpoint {
                base: format!("{}://{}", url.scheme(), authority(url)),
                prefix: prefix(url),
                registry: authority(url),
                mirrored: Some(registry.into()),
            })
            .chain([self.origin(registry)])
            .collect()
    }
}

/// Returns what precedes the path of a repository at a mirror.
fn prefix(mirror: &Url) -> String {
    match mirror.path().trim_matches('/') {
        "" => String::new(),
        path => format!("{path}/"),
    }
}

/// Whether a list of hosts, each with its port if it has one, contains this one.
pub(super) fn is_listed(hosts: &[String], host: &str) -> bool {
    hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host))
}

/// Returns the host, followed by the port if the URL has one other than its scheme's default.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl FromStr for Mirror {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url: Url = text
            .parse()
            .map_err(|_| ConfigError::Mirror("the address of a mirror is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(ConfigError::Mirror(
                "the URL of a mirror has a scheme other than http and https",
            ));
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !bare {
            return Err(ConfigError::Mirror(
                "the URL of a mirror has a user, a query or a fragment",
            ));
        }
        // Some tools expect the version of the API in the URL.
        let path = url.path().trim_matches('/');
        let path = path.strip_prefix("v2").filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(path) = path.map(ToOwned::to_owned) {
            url.set_path(&path);
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for Mirror {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mirror> for String {
    fn from(Mirror(url): Mirror) -> Self {
        url.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Config {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    #[test]
    fn mirrors_come_before_the_registry_and_never_for_pushes() {
        let config = config(concat!(
            "{plainHttp: ['r.example:5000'], timeout: 90s, ",
            "mirrors: {docker.io: ['http://10.89.0.1:5000/hub/']}}"
        ));
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.timeout, Duration::from_secs(90));
        let urls = |registry, purpose| -> Vec<String> {
            let endpoints = config.endpoints(registry, purpose);
            endpoints.into_iter().map(|endpoint| endpoint.url("a")).collect()
        };
        assert_eq!(
            urls("docker.io", Purpose::Pull),
            ["http://10.89.0.1:5000/v2/hub/a", "https://registry-1.docker.io/v2/a"]
        );
        assert_eq!(urls("docker.io", Purpose::Push), ["https://registry-1.docker.io/v2/a"]);
        assert_eq!(urls("r.example:5000", Purpose::Push), ["http://r.example:5000/v2/a"]);
        assert_eq!(urls("r.example", Purpose::Push), ["https://r.example/v2/a"]);
    }

    #[test]
    fn a_registry_has_a_rate_of_polls() {
        let default = Config::default();
        let polls = |config: &Config| {
            ["docker.io", "r.example", "other.example"].map(|host| config.polls_per_minute(host))
        };
        assert_eq!(polls(&default), [300, 1200, 1200]);
        let config = config("{pollsPerMinute: {R.example: 10, '*': 20}}");
        assert_eq!(polls(&config), [300, 10, 20]);
        for name in ["registry-1.docker.io", "registry-1.docker.io:443"] {
            assert_eq!(config.polls_per_minute(name), 300, "{name}");
            assert_eq!(config.serving_host(name), config.serving_host("docker.io"), "{name}");
        }
        assert_eq!(config.polls_per_minute("r.example:443"), 10);
        assert_eq!(config.polls_per_minute("r.example:5000"), 20);
    }

    #[test]
    fn the_path_of_a_mirror_follows_the_version_of_the_api() {
        for (mirror, expected) in [
            ("https://m.example", "https://m.example/v2/a"),
            ("https://m.example/v2/", "https://m.example/v2/a"),
            ("https://m.example/hub", "https://m.example/v2/hub/a"),
            ("https://m.example/v2/hub/", "https://m.example/v2/hub/a"),
            ("https://m.example/v2hub", "https://m.example/v2/v2hub/a"),
        ] {
            let config = config(&format!("{{mirrors: {{docker.io: ['{mirror}']}}}}"));
            let endpoints = config.endpoints("docker.io", Purpose::Pull);
            let url = endpoints.first().map(|endpoint| endpoint.url("a"));
            assert_eq!(url.as_deref(), Some(expected), "{mirror}");
        }
    }

    #[test]
    fn invalid_configurations_are_rejected() {
        for (yaml, expected) in [
            ("{plainHttp: ['http://r.example']}", "registries.plainHttp: `http://r.example`"),
            ("{readTimeout: 0s}", "registries.readTimeout must be greater than zero"),
            (
                "{allowedAddresses: ['a:5000']}",
                "registries.allowedAddresses: `a:5000`: it is not a",
            ),
            ("{deniedAddresses: [a]}", "registries.deniedAddresses: `a`: it is not an IP address"),
            ("{pollsPerMinute: {a: 0}}", "registries.pollsPerMinute must be greater than zero"),
        ] {
            let error = config(yaml).validate().expect_err(yaml).to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (yaml, expected) in [
            ("{mirrors: {docker.io: ['ftp://m.example']}}", "other than http and https"),
            ("{mirrors: {docker.io: ['m.example:5000']}}", "other than http and https"),
            ("{mirrors: {docker.io: ['m.example']}}", "not a URL"),
            (
                "{mirrors: {docker.io: ['https://user:secret@m.example']}}",
                "a user, a query or a fragment",
            ),
            ("{mirror: {}}", "mirror"),
        ] {
            let error = serde_yaml::from_str::<Config>(yaml).expect_err(yaml).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
