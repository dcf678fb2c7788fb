//! How libgit2 reaches a server. It resolves names and follows redirects by itself, so that it gets
//! what it cannot resolve otherwise: over ssh an address, and over HTTPS a proxy: that of the
//! environment, or one in this process, which connects to addresses that are permitted. Which of
//! the two is decided here, as for registries, and not by libgit2.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use git2::ProxyOptions;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::{
    builds::git::GitError,
    registry::{AddressPolicy, RefusedAddress},
};

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long libgit2 may take to say where to connect.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of the request that says where to connect, in bytes.
const MAX_REQUEST: usize = 8 << 10;
/// Maximum number of connections in one process.
const MAX_CONNECTIONS: usize = 64;
/// The variable that names a proxy for HTTPS; programs read either case.
const PROXY: &str = "HTTPS_PROXY";
/// The variable that names the hosts that are reached without it.
const NO_PROXY: &str = "NO_PROXY";

/// The URL and the proxy that libgit2 is given for a server.
pub(super) struct Route {
    url: String,
    proxy: RouteProxy,
}

/// The proxy of a route.
enum RouteProxy {
    /// What libgit2 finds in the environment.
    Unspecified,
    /// The one that the environment names, by its URL.
    Environment(String),
    /// The one in this process.
    Tunnel(Tunnel),
}

impl Route {
    /// Leaves everything to libgit2.
    pub fn direct(url: &Url) -> Self {
        Self { url: url.to_string(), proxy: RouteProxy::Unspecified }
    }

    /// Returns a route to permitted addresses only, given a lookup of variables of the environment.
    /// If they name a proxy for this server, the proxy resolves names, and this checks what it can
    /// without it.
    pub fn permitted(
        url: &Url,
        addresses: Option<&AddressPolicy>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GitError> {
        let Some(addresses) = addresses else { return Ok(Self::direct(url)) };
        let refused = |refused: &RefusedAddress| GitError::Refused {
            url: url.to_string(),
            problem: refused.to_string(),
        };
        addresses.check_url(url).map_err(|error| refused(&error))?;
        let unavailable = |error: &io::Error| match refusal(error) {
            Some(error) => refused(error),
            None => GitError::Unavailable { url: url.to_string(), problem: error.to_string() },
        };
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default());
        match (url.scheme(), proxy_for(url, variable)) {
            ("ssh", _) => {
                let found = addresses.resolve_blocking(host, port.unwrap_or(22));
                let found = found.map_err(|error| unavailable(&error))?;
                let mut pinned = url.clone();
                if let Some(address) = found.first() {
                    // A URL with a host can have another one.
                    _ = pinned.set_ip_host(address.ip());
                }
                Ok(Self::direct(&pinned))
            }
            ("https", Some(proxy)) => {
                let found = addresses.resolve_blocking(host, port.unwrap_or(443));
                // What does not resolve here may do so at the proxy.
                match found {
                    Err(error) if refusal(&error).is_some() => Err(unavailable(&error)),
                    _ => {
                        let proxy = RouteProxy::Environment(proxy);
                        Ok(Self { url: url.to_string(), proxy })
                    }
                }
            }
            ("https", None) => {
                let tunnel =
                    Tunnel::open(addresses.clone()).map_err(|error| unavailable(&error))?;
                Ok(Self { url: url.to_string(), proxy: RouteProxy::Tunnel(tunnel) })
            }
            _ => Ok(Self::direct(url)),
        }
    }

    /// The URL to connect to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The proxy to use. libgit2 uses none by default.
    pub fn proxy(&self) -> ProxyOptions<'_> {
        let mut options = ProxyOptions::new();
        match &self.proxy {
            RouteProxy::Tunnel(tunnel) => _ = options.url(&tunnel.url),
            RouteProxy::Environment(url) => _ = options.url(url),
            RouteProxy::Unspecified => _ = options.auto(),
        }
        options
    }

    /// Returns what an error of this source was caused by, if an address was refused.
    pub fn explain(&self, label: &str, error: GitError) -> GitError {
        let refused = match &self.proxy {
            RouteProxy::Tunnel(tunnel) => lock(&tunnel.refused).clone(),
            RouteProxy::Environment(_) | RouteProxy::Unspecified => None,
        };
        match refused {
            Some(refused) => {
                GitError::Refused { url: label.to_owned(), problem: refused.to_string() }
            }
            None => error,
        }
    }
}

/// Returns the URL of the proxy that the environment names for a server, if it does not exclude it.
/// An empty variable names none.
fn proxy_for(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either_case = |name: &str| {
        let values = [variable(name), variable(&name.to_lowercase())];
        values.into_iter().flatten().find(|value| !value.trim().is_empty())
    };
    let proxy = either_case(PROXY)?;
    let excluded = either_case(NO_PROXY).unwrap_or_default();
    let matcher = Matcher::builder().https(proxy.as_str()).no(excluded).build();
    let server: Uri = url.as_str().parse().ok()?;
    matcher.intercept(&server).map(|_| proxy)
}

/// A proxy on the loopback address that connects to permitted addresses. It ends with the process.
struct Tunnel {
    url: String,
    /// The last address that was refused.
    refused: Arc<Mutex<Option<RefusedAddress>>>,
}

impl Tunnel {
    fn open(addresses: AddressPolicy) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let refused: Arc<Mutex<Option<RefusedAddress>>> = Arc::default();
        let noted = Arc::clone(&refused);
        thread::spawn(move || {
            for connection in listener.incoming().take(MAX_CONNECTIONS).flatten() {
                let (addresses, noted) = (addresses.clone(), Arc::clone(&noted));
                // If one end fails, both connections are closed, and libgit2 says so.
                thread::spawn(move || _ = serve(connection, &addresses, &noted));
            }
        });
        Ok(Self { url, refused })
    }
}

fn lock(
    refused: &Mutex<Option<RefusedAddress>>,
) -> std::sync::MutexGuard<'_, Option<RefusedAddress>> {
    refused.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(error: &io::Error) -> Option<&RefusedAddress> {
    error.get_ref()?.downcast_ref()
}

/// Connects a client to the host that it asks for, and carries what they send.
fn serve(
    mut client: TcpStream,
    addresses: &AddressPolicy,
    noted: &Mutex<Option<RefusedAddress>>,
) -> io::Result<()> {
    client.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let request = read_request(&mut client)?;
    let server = match connect(&request, addresses) {
        Ok(server) => server,
        Err(error) => {
            if let Some(refused) = refusal(&error) {
                *lock(noted) = Some(refused.clone());
            }
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        }
    };
    client.set_read_timeout(None)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        _ = io::copy(&mut from_client, &mut to_server);
        _ = to_server.shutdown(Shutdown::Write);
    });
    let mut from_server = server;
    _ = io::copy(&mut from_server, &mut client);
    client.shutdown(Shutdown::Both)
}

/// Reads the head of a request. A client sends nothing more before it has an answer.
fn read_request(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_REQUEST {
        match client.read(&mut chunk)? {
            0 => break,
            read => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Connects to the host of `CONNECT host:port HTTP/1.1`.
fn connect(request: &str, addresses: &AddressPolicy) -> io::Result<TcpStream> {
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let (host, port) = target
        .and_then(|target| target.rsplit_once(':'))
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| io::Error::other("not a request to connect"))?;
    let mut failed = io::Error::other("the host has no address");
    for address in addresses.resolve_blocking(host, port)? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(server) => return Ok(server),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Config;

    fn policy(allowed: &[&str]) -> AddressPolicy {
        let allowed_addresses = allowed.iter().map(ToString::to_string).collect();
        let config = Config { allowed_addresses, ..Config::default() };
        config.addresses(|_| None).expect("a policy")
    }

    fn answer(tunnel: &Tunnel, request: &str) -> String {
        let address = tunnel.url.strip_prefix("http://").expect("a URL");
        let mut client = TcpStream::connect(address).expect("the proxy");
        client.write_all(request.as_bytes()).expect("sent");
        let mut answer = [0; 12];
        client.read_exact(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn a_tunnel_reaches_permitted_addresses_only() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a server");
        let port = server.local_addr().expect("an address").port();
        let tunnel = Tunnel::open(policy(&[])).expect("a tunnel");
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"] {
            let request = format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n");
            assert_eq!(answer(&tunnel, &request), "HTTP/1.1 502", "{host}");
            assert!(lock(&tunnel.refused).take().is_some(), "{host}");
        }
        assert_eq!(answer(&tunnel, "GET http://example.com/ HTTP/1.1\r\n\r\n"), "HTTP/1.1 502");
        let allowed = Tunnel::open(policy(&["127.0.0.1"])).expect("a tunnel");
        let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n");
        assert_eq!(answer(&allowed, &request), "HTTP/1.1 200");
        assert!(server.accept().is_ok());
    }

    #[test]
    fn over_ssh_libgit2_gets_the_address_that_was_checked() {
        let url: Url = "ssh://git@localhost:2222/a.git".parse().expect("a URL");
        let Err(refused) = Route::permitted(&url, Some(&policy(&[])), |_| None) else {
            panic!("loopback is refused");
        };
        assert!(matches!(refused, GitError::Refused { .. }), "{refused}");
        let route =
            Route::permitted(&url, Some(&policy(&["localhost"])), |_| None).expect("allowed");
        let known = ["ssh://git@127.0.0.1:2222/a.git", "ssh://git@[::1]:2222/a.git"];
        assert!(known.contains(&route.url()), "{}", route.url());
    }

    #[test]
    fn libgit2_resolves_no_name_of_a_server_that_has_no_proxy() {
        let proxy = "http://proxy.example:3128";
        let variables = |https: &'static str, no: &'static str| {
            move |name: &str| match name {
                "HTTPS_PROXY" => Some(https.to_owned()),
                "no_proxy" => Some(no.to_owned()),
                _ => None,
            }
        };
        for (server, https, no, expected) in [
            ("https://127.0.0.1/a.git", proxy, "", Some(proxy)),
            ("https://127.0.0.1/a.git", "", "", None),
            ("https://127.0.0.1/a.git", " ", "", None),
            ("https://127.0.0.1:8443/a.git", proxy, "127.0.0.0/8", None),
            ("https://localhost/a.git", proxy, "localhost", None),
            ("https://localhost/a.git", proxy, "*", None),
            ("https://localhost/a.git", proxy, "other,.local", Some(proxy)),
        ] {
            let url: Url = server.parse().expect("a URL");
            let allowed = policy(&["localhost", "127.0.0.1"]);
            let route = Route::permitted(&url, Some(&allowed), variables(https, no));
            let found = match route.expect("allowed").proxy {
                RouteProxy::Environment(url) => Some(url),
                RouteProxy::Tunnel(_) => None,
                RouteProxy::Unspecified => panic!("libgit2 would choose"),
            };
            assert_eq!(found.as_deref(), expected, "{server} {https:?} {no:?}");
        }
        let lower = |name: &str| (name == "https_proxy").then(|| proxy.to_owned());
        assert_eq!(
            proxy_for(&"https://a.example".parse().expect("a URL"), lower).as_deref(),
            Some(proxy)
        );
    }
}
