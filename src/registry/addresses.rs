//! Which addresses the controller connects to.
//!
//! Authors of families name hosts: of upstreams, repositories and Git servers. A registry names
//! others, in redirects and as its token service. The controller connects from its own place in the
//! network, so it refuses what only the cluster, the node or the cloud provider is meant to reach.
//! Names are checked after they are resolved, and the connection goes to the addresses that were
//! checked, so that a name cannot point to another one in between.

use std::{
    collections::BTreeSet,
    error::Error as _,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Addresses that are refused unless they are allowed, and what they are. IPv4 addresses inside of
/// IPv6 ones are compared as IPv4.
const REFUSED: [(&str, &str); 14] = [
    ("0.0.0.0/8", "an unspecified address"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address, at which clouds serve metadata and credentials"),
    ("100.100.100.200/32", "the metadata service of a cloud"),
    ("168.63.129.16/32", "the metadata service of a cloud"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "an unspecified address"),
    ("::1/128", "a loopback address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
    ("fd00:ec2::/32", "a service of a cloud, such as metadata and credentials"),
    ("fd20:ce::254/128", "the metadata service of a cloud"),
];
/// The names of services of the cluster end with one of these.
const CLUSTER_SUFFIXES: [&str; 2] = [".svc", ".cluster.local"];
/// The variable with the address of the API server.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";
/// The variables that name a proxy; programs read either case.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Which addresses are refused, and which are allowed nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPolicy {
    allowed_hosts: BTreeSet<String>,
    allowed: Vec<AddressRange>,
    refused: Vec<RefusedRange>,
}

/// Addresses that are refused, and what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RefusedRange {
    range: AddressRange,
    what: String,
}

/// A network, `ADDRESS/BITS`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    network: IpAddr,
    bits: u8,
}

/// What is allowed: addresses or a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AllowedTarget {
    Range(AddressRange),
    /// A host in lower case, or `*.` and the end of its name.
    Host(String),
}

/// A host that the controller does not connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAddress {
    host: String,
    address: Option<IpAddr>,
    what: String,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, what } = self;
        match address {
            Some(address) if address.to_string() != *host => {
                write!(f, "{host} has the address {address}, which is {what}")?;
            }
            _ => write!(f, "{host} is {what}")?,
        }
        let setting = "`registries.allowedAddresses`";
        write!(f, "; to allow it, list the host in {setting} of the operator's configuration")
    }
}

impl std::error::Error for RefusedAddress {}

impl RefusedAddress {
    /// Returns the refusal that an error of the HTTP client was caused by.
    #[must_use]
    pub fn of(error: &reqwest::Error) -> Option<Self> {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(refused) = error.downcast_ref::<Self>() {
                return Some(refused.clone());
            }
            cause = error.source();
        }
        None
    }
}

impl AddressRange {
    fn contains(self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let difference = bits(self.network) ^ bits(address);
        self.network.is_ipv4() == address.is_ipv4()
            && difference.leading_zeros() >= u32::from(self.bits)
    }
}

impl FromStr for AddressRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, bits) = text.split_once('/').map_or((text, None), |(network, bits)| {
            (network, Some(bits.parse::<u8>().map_err(|_| ())))
        });
        let network: IpAddr = network.parse().map_err(|_| "it is not an IP address")?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(Ok(longest)) {
            Ok(bits) if bits <= longest => Ok(Self { network, bits }),
            _ => Err("the length of its prefix is not valid"),
        }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(AddressRange { network, bits }: AddressRange) -> Self {
        format!("{network}/{bits}")
    }
}

impl FromStr for AllowedTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') || text.parse::<IpAddr>().is_ok() {
            return text.parse().map(Self::Range);
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_host = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if name.is_empty() || !is_host {
            return Err(
                "it is not a host, an IP address or a network; write a host without a port",
            );
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }
}

impl AddressPolicy {
    /// Refuses nothing.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self::default()
    }

    /// Refuses what only the cluster, the node or the cloud is meant to reach, given a lookup of
    /// variables of the environment. Proxies that it names are allowed.
    pub(super) fn restricted(get: impl Fn(&str) -> Option<String>) -> Self {
        let range = |(range, what): &(&str, &str)| {
            Some(RefusedRange { range: range.parse().ok()?, what: (*what).to_owned() })
        };
        let mut policy = Self::default();
        policy.refused.extend(REFUSED.iter().filter_map(range));
        if let Some(range) = get(API_SERVER).and_then(|address| address.parse().ok()) {
            let what = "the API server of the cluster".to_owned();
            policy.refused.push(RefusedRange { range, what });
        }
        for name in PROXIES {
            let proxy = get(name).or_else(|| get(&name.to_lowercase()));
            let proxy = proxy.and_then(|proxy| Url::parse(&proxy).ok());
            if let Some(host) = proxy.as_ref().and_then(Url::host_str) {
                policy.allow_host(host);
            }
        }
        policy
    }

    pub(super) fn refuse(&mut self, range: AddressRange) {
        let what = "in a network that `registries.deniedAddresses` lists".to_owned();
        self.refused.push(RefusedRange { range, what });
    }

    pub(super) fn allow(&mut self, target: AllowedTarget) {
        match target {
            AllowedTarget::Range(range) => self.allowed.push(range),
            AllowedTarget::Host(host) => _ = self.allowed_hosts.insert(host),
        }
    }

    /// Allows a host, which may be an address.
    pub(super) fn allow_host(&mut self, host: &str) {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse() {
            Ok(range) => self.allowed.push(range),
            Err(_) => _ = self.allowed_hosts.insert(host.to_ascii_lowercase()),
        }
    }

    /// Checks a URL as far as it can be checked without resolving its host. A resolver sees no host
    /// that is an address.
    ///
    /// # Errors
    /// Returns a [`RefusedAddress`] if the host is an address or a name that is refused.
    pub fn check_url(&self, url: &Url) -> Result<(), RefusedAddress> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(&address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.check(&address.to_string(), address.into()),
            // The host of a URL with another scheme than http or https is not parsed further.
            Some(Host::Domain(name)) => match name.parse() {
                Ok(address) => self.check(name, address),
                Err(_) => self.check_name(name),
            },
            None => Ok(()),
        }
    }

    /// Returns the addresses of a host that may be connected to.
    ///
    /// # Errors
    /// Returns a [`RefusedAddress`] if there is none, but others.
    pub fn permitted(
        &self,
        host: &str,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, RefusedAddress> {
        self.check_name(host)?;
        let (mut permitted, mut refused) = (Vec::new(), Ok(()));
        for address in addresses {
            match self.check(host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(error) => refused = Err(error),
            }
        }
        if permitted.is_empty() {
            refused?;
        }
        Ok(permitted)
    }

    /// Resolves a host, and returns its addresses that may be connected to. It blocks.
    ///
    /// # Errors
    /// Returns an error if the host has no address, or a [`RefusedAddress`] inside of it if all of
    /// them are refused.
    pub fn resolve_blocking(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?;
        self.permitted(host, addresses).map_err(std::io::Error::other)
    }

    fn check_name(&self, host: &str) -> Result<(), RefusedAddress> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_of_cluster = CLUSTER_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
        if self.refused.is_empty() || !is_of_cluster || self.allows_host(&name) {
            return Ok(());
        }
        let what = "the name of a service of the cluster".to_owned();
        Err(RefusedAddress { host: host.to_owned(), address: None, what })
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        let embedded = embedded_addresses(address);
        let is_allowed = |address: IpAddr| self.allowed.iter().any(|range| range.contains(address));
        let all_are_allowed = !embedded.is_empty() && embedded.iter().copied().all(is_allowed);
        if self.allows_host(&host.to_ascii_lowercase()) || is_allowed(address) || all_are_allowed {
            return Ok(());
        }
        let reached: Vec<IpAddr> =
            embedded.into_iter().filter(|it| !is_allowed(*it)).chain([address]).collect();
        let is_refused =
            |known: &&RefusedRange| reached.iter().any(|address| known.range.contains(*address));
        self.refused.iter().find(is_refused).map_or(Ok(()), |known| {
            let (host, what) = (host.to_owned(), known.what.clone());
            Err(RefusedAddress { host, address: Some(address), what })
        })
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let parents = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
        self.allowed_hosts.contains(host)
            || parents.into_iter().any(|end| self.allowed_hosts.contains(&format!("*{end}")))
    }
}

/// Returns the IPv4 addresses that an IPv6 one leads to: mapped, compatible, translated, 6to4,
/// Teredo, ISATAP and NAT64 ones. A prefix of one's own for NAT64 can have several lengths, so that
/// several addresses are possible.
fn embedded_addresses(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else { return Vec::new() };
    let at = |bit: u32| low_bits(v6.to_bits() >> (96 - bit));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![at(96).into()],
        [0x64, 0xff9b, 1, ..] => of_local_nat64(v6),
        [0x2001, 0, ..] => vec![Ipv4Addr::from_bits(!at(96).to_bits()).into()],
        [0x2002, ..] => vec![at(16).into()],
        _ => Vec::new(),
    }
}

/// Returns the addresses that one with the prefix `64:ff9b:1::/48` can stand for (RFC 8215). Its
/// networks choose how long their prefix is (RFC 6052), which leaves out the bits 64 to 71. What is
/// no address with one length has zeros there.
fn of_local_nat64(v6: Ipv6Addr) -> Vec<IpAddr> {
    let bits = v6.to_bits();
    let without_gap = (bits >> 64 << 56) | (bits & ((1 << 56) - 1));
    let shorter = [48, 56, 64].map(|prefix| low_bits(without_gap >> (120 - 32 - prefix)));
    let possible = [low_bits(bits)].into_iter().chain(shorter);
    possible.filter(|v4| v4.octets()[0] != 0).map(IpAddr::from).collect()
}

fn low_bits(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap_or(0))
}

/// Resolves names for the HTTP client, and drops the addresses that are refused.
#[derive(Clone, Debug)]
pub struct PermittedAddresses(pub Arc<AddressPolicy>);

impl Resolve for PermittedAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            let permitted = policy.permitted(host, addresses)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str], refused: &[&str]) -> AddressPolicy {
        let mut policy = AddressPolicy::restricted(|name| match name {
            API_SERVER => Some("10.96.0.1".to_owned()),
            "https_proxy" => Some("http://127.0.0.5:3128".to_owned()),
            _ => None,
        });
        for text in allowed {
            policy.allow(text.parse().expect(text));
        }
        for text in refused {
            policy.refuse(text.parse().expect(text));
        }
        policy
    }

    fn refusal(policy: &AddressPolicy, url: &str) -> Option<String> {
        policy.check_url(&url.parse().expect(url)).err().map(|refused| refused.to_string())
    }

    #[test]
    fn addresses_of_node_cluster_and_cloud_are_refused_in_any_form() {
        let policy = policy(&[], &["10.244.0.0/16"]);
        for (url, said) in [
            ("http://127.0.0.1:5000/v2/", "127.0.0.1 is a loopback address"),
            ("http://0x7f.1/", "loopback"),
            ("http://2130706433/", "loopback"),
            ("http://0/", "unspecified"),
            ("http://169.254.169.254/latest", "link-local"),
            ("https://[::1]/", "loopback"),
            ("https://[::]/", "unspecified"),
            ("https://[fe80::1]/", "link-local"),
            ("https://[ff02::1]/", "multicast"),
            ("https://[::ffff:169.254.169.254]/", "link-local"),
            ("https://[::ffff:7f00:1]/", "loopback"),
            ("https://[64:ff9b::a9fe:a9fe]/", "link-local"),
            ("https://[2002:a9fe:a9fe::1]/", "link-local"),
            ("https://[::127.0.0.1]/", "loopback"),
            ("https://[fd00:ec2::254]/", "metadata"),
            ("http://[fd00:ec2::23]/v1/credentials", "credentials"),
            ("https://[::ffff:0:169.254.169.254]/", "link-local"),
            ("https://[64:ff9b:1::a9fe:a9fe]/", "link-local"),
            ("https://[64:ff9b:1:a9fe:a9:fe00::]/", "link-local"),
            ("https://[64:ff9b:1:77a9:fe:a9fe::]/", "link-local"),
            ("https://[64:ff9b:1:7777:a9:fea9:fe00:0]/", "link-local"),
            ("https://[64:ff9b:1:7777::a9fe:a9fe]/", "link-local"),
            ("https://[2001:0:1:2:3:4:5601:5601]/", "link-local"),
            ("https://[2a00::5efe:169.254.169.254]/", "link-local"),
            ("https://[2a00::200:5efe:169.254.169.254]/", "link-local"),
            ("https://255.255.255.255/", "reserved"),
            ("https://239.1.2.3/", "multicast"),
            ("https://10.96.0.1/", "the API server"),
            ("https://[::ffff:10.96.0.1]/", "the API server"),
            ("https://10.244.3.4/", "`registries.deniedAddresses`"),
            ("https://x.y.svc/", "a service of the cluster"),
            ("https://X.y.SVC.cluster.local./", "a service of the cluster"),
            ("ssh://git@169.254.169.254/x", "link-local"),
        ] {
            let refusal = refusal(&policy, url).unwrap_or_default();
            assert!(refusal.contains(said), "{url}: {refusal}");
            assert!(refusal.contains("`registries.allowedAddresses`"), "{url}: {refusal}");
        }
        for url in [
            "https://10.0.0.1/",
            "https://192.168.1.1:5000/",
            "https://172.16.0.1/",
            "https://[fd12:3456::1]/",
            "https://[fd00:ec3::23]/",
            "https://[64:ff9b:1::808:808]/",
            "https://[64:ff9b:1:7777::808:808]/",
            "https://[64:ff9b:2::a9fe:a9fe]/",
            "https://[::ffff:0:8.8.8.8]/",
            "https://[2001:db8::a9fe:a9fe]/",
            "https://8.8.8.8/",
            "https://registry.example.com/",
            "https://mysvc/",
            "http://127.0.0.5:3128/",
        ] {
            assert_eq!(refusal(&policy, url), None, "{url}");
        }
        assert_eq!(refusal(&AddressPolicy::unrestricted(), "http://127.0.0.1/"), None);
    }

    #[test]
    fn what_is_listed_is_allowed() {
        let policy = policy(
            &[
                "127.0.0.1",
                "fe80::/64",
                "64:ff9b:1:ffff::/96",
                "harbor.harbor.svc",
                "*.tools.svc",
                "meta.example",
            ],
            &["10.0.0.0/8"],
        );
        for url in [
            "http://127.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "https://[fe80::1]/",
            "https://[64:ff9b:1:ffff::8.8.8.8]/",
            "https://harbor.harbor.svc/",
            "https://git.tools.svc/",
        ] {
            assert_eq!(refusal(&policy, url), None, "{url}");
        }
        for url in [
            "http://127.0.0.2/",
            "https://[64:ff9b:1:fffe::8.8.8.8]/",
            "https://tools.svc/",
            "https://eviltools.svc/",
        ] {
            assert!(refusal(&policy, url).is_some(), "{url}");
        }
        let at = |address: &str| SocketAddr::new(address.parse().expect(address), 0);
        let metadata = [at("169.254.169.254")];
        assert_eq!(policy.permitted("META.example", metadata), Ok(metadata.to_vec()));
        let refused = policy.permitted("evil.example", metadata).expect_err("refused").to_string();
        assert!(
            refused.starts_with("evil.example has the address 169.254.169.254, which is a link"),
            "{refused}"
        );
        let mixed = [at("169.254.169.254"), at("8.8.8.8"), at("10.1.1.1")];
        assert_eq!(policy.permitted("evil.example", mixed), Ok(vec![at("8.8.8.8")]));
    }

    #[test]
    fn a_policy_survives_its_way_to_another_process() {
        let policy = policy(&["127.0.0.1", "*.a.svc"], &["10.0.0.0/8"]);
        let text = serde_json::to_string(&policy).expect("JSON");
        assert_eq!(serde_json::from_str::<AddressPolicy>(&text).expect("a policy"), policy);
    }

    #[test]
    fn what_is_no_target_is_rejected() {
        for text in ["", "*.", "10.0.0.0/33", "10.0.0/8", "http://a", "a:5000", "a b", "::/129"] {
            assert!(text.parse::<AllowedTarget>().is_err(), "{text}");
        }
        for text in ["a", "", "10.0.0.0/x"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
