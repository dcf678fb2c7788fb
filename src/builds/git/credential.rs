//! A Git credential: read from a Secret, restricted to the hosts that the Secret itself lists, and
//! never shown.

use std::{collections::BTreeMap, fmt};

use base64::Engine as _;
use git2::{Cred, CredentialType, ErrorClass, ErrorCode};
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{api::labels::CREDENTIAL_HOSTS, builds::git::GitError};

/// A credential that may be sent to one repository's host.
#[derive(Clone)]
pub struct GitCredential {
    secret: String,
    auth: GitAuth,
}

/// The Secret of a source, from which each repository gets the credential that it may receive: a
/// source can have several repositories, because submodules have their own. Its `Debug` output
/// contains no value.
pub struct SourceSecret {
    name: String,
    hosts: String,
    data: BTreeMap<String, Vec<u8>>,
}

impl SourceSecret {
    /// Creates it from the content of a Secret. `hosts` is the value of its annotation
    /// [`CREDENTIAL_HOSTS`].
    #[must_use]
    pub fn new(name: &str, hosts: &str, data: BTreeMap<String, Vec<u8>>) -> Self {
        Self { name: name.to_owned(), hosts: hosts.to_owned(), data }
    }

    /// Returns the credential for the repository that the source names.
    ///
    /// # Errors
    /// Returns the errors of [`GitCredential::from_secret`].
    pub(super) fn credential(&self, url: &str) -> Result<GitCredential, GitError> {
        GitCredential::from_secret(&self.name, &self.data, Some(&self.hosts), url)
    }

    /// Returns the credential for a repository or server that the source does not name itself;
    /// `None` if the annotation does not list its host, or if the Secret has no key for https.
    ///
    /// # Errors
    /// Returns an error if the annotation lists the host of an ssh server, and a key is missing.
    pub(super) fn credential_if_listed(
        &self,
        url: &str,
    ) -> Result<Option<GitCredential>, GitError> {
        let is_ssh = url.starts_with("ssh://");
        let has_password =
            ["username", "password"].into_iter().all(|key| self.data.contains_key(key));
        if !self.lists(url) || !is_ssh && !has_password {
            return Ok(None);
        }
        self.credential(url).map(Some)
    }

    /// Whether the annotation of the Secret lists the host of a URL.
    pub(super) fn lists(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|parsed| Receiver::of(&parsed, url).is_listed(&self.hosts))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for SourceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who may receive a credential: the host, the port and the path of a URL, as the annotation
/// [`CREDENTIAL_HOSTS`] lists them.
struct Receiver<'a> {
    host: String,
    port: u16,
    is_default_port: bool,
    /// The path, unless servers may read it in several ways.
    path: Option<&'a str>,
}

impl<'a> Receiver<'a> {
    /// Returns the receiver of a URL, which is also given as it is written.
    fn of(url: &'a Url, written: &str) -> Self {
        let default = if url.scheme() == "ssh" { 22 } else { 443 };
        let after_scheme = written.split_once("://").map_or(written, |(_, rest)| rest);
        let is_ambiguous =
            ["..", "/./", "//", "%", "\\"].into_iter().any(|part| after_scheme.contains(part));
        Self {
            host: url.host_str().unwrap_or_default().to_ascii_lowercase(),
            port: url.port_or_known_default().unwrap_or(22),
            is_default_port: url.port().is_none_or(|port| port == default),
            path: (!is_ambiguous).then(|| url.path()),
        }
    }

    fn is_listed(&self, hosts: &str) -> bool {
        !self.host.is_empty() && hosts.split(',').any(|entry| self.is_entry(entry.trim()))
    }

    fn is_entry(&self, entry: &str) -> bool {
        let Self { host, port, is_default_port, path } = self;
        let (listed, folder) = match entry.split_once('/') {
            Some((listed, folder)) => (listed, folder.trim_end_matches('/')),
            None => (entry, ""),
        };
        let listed = listed.to_ascii_lowercase();
        let is_host = listed == format!("{host}:{port}") || (*is_default_port && listed == *host);
        is_host && (folder.is_empty() || path.is_some_and(|path| is_below(path, folder)))
    }

    /// Returns the entry of the annotation that is missing.
    fn shown(&self) -> String {
        let Self { host, port, is_default_port, .. } = self;
        if *is_default_port { host.clone() } else { format!("{host}:{port}") }
    }
}

/// Whether the path of a URL is a folder or below it. A repository may be named with `.git`.
fn is_below(path: &str, folder: &str) -> bool {
    let mut parts = path.trim_start_matches('/').split('/');
    folder.split('/').all(|wanted| {
        parts.next().is_some_and(|part| {
            part == wanted || part.strip_suffix(".git").is_some_and(|name| name == wanted)
        })
    })
}

#[derive(Clone)]
enum GitAuth {
    Password { username: String, password: SecretString },
    Key { identity: SecretString, known_hosts: String },
}

/// A credential in transit to the process that uses it; see [`crate::builds::git::subprocess`]. Its
/// `Debug` output contains no value.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExposedCredential {
    secret: String,
    username: String,
    password: String,
    identity: String,
    known_hosts: String,
}

impl GitCredential {
    /// Reads a Secret for a repository. `hosts` is the value of its annotation
    /// [`CREDENTIAL_HOSTS`]: host names, comma separated, each with `:port` unless that is the
    /// default port of the scheme, and with `/path` to allow only what is below that. Without the
    /// annotation the Secret is sent to no host.
    ///
    /// # Errors
    /// Returns an error if the annotation does not list the repository's host, or if a key is
    /// missing: `username` and `password` for https, `identity` and `known_hosts` for ssh.
    pub fn from_secret(
        name: &str,
        data: &BTreeMap<String, Vec<u8>>,
        hosts: Option<&str>,
        url: &str,
    ) -> Result<Self, GitError> {
        let wrong = |problem: String| GitError::Credential {
            secret: name.to_owned(),
            url: url.to_owned(),
            problem,
        };
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        let receiver = Receiver::of(&parsed, url);
        if !receiver.is_listed(hosts.unwrap_or_default()) {
            return Err(wrong(format!(
                "its annotation `{CREDENTIAL_HOSTS}` does not list `{}` or a path of it that the \
                 URL is below; add it if the Secret may be sent there",
                receiver.shown()
            )));
        }
        let key = |key: &str| {
            let value = data.get(key).ok_or_else(|| wrong(format!("it has no key `{key}`")))?;
            std::str::from_utf8(value)
                .map_err(|_| wrong(format!("the value of its key `{key}` is not UTF-8 text")))
        };
        let auth = if parsed.scheme() == "ssh" {
            GitAuth::Key {
                identity: key("identity")?.to_owned().into(),
                known_hosts: key("known_hosts")?.to_owned(),
            }
        } else {
            let trimmed = |text: &str| text.trim_end_matches(['\r', '\n']).to_owned();
            GitAuth::Password {
                username: trimmed(key("username")?),
                password: trimmed(key("password")?).into(),
            }
        };
        Ok(Self { secret: name.to_owned(), auth })
    }

    /// Returns the name of the Secret.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns the value of the header `Authorization` that sends the credential over HTTPS.
    pub(super) fn to_basic(&self) -> Option<HeaderValue> {
        let GitAuth::Password { username, password } = &self.auth else { return None };
        let pair = format!("{username}:{}", password.expose_secret());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns the credential in the form that a server asks for.
    pub(super) fn to_git2(
        &self,
        user: Option<&str>,
        allowed: CredentialType,
    ) -> Result<Cred, git2::Error> {
        match &self.auth {
            GitAuth::Password { username, password }
                if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) =>
            {
                Cred::userpass_plaintext(username, password.expose_secret())
            }
            GitAuth::Key { .. } if allowed.contains(CredentialType::USERNAME) => {
                Cred::username(user.unwrap_or("git"))
            }
            GitAuth::Key { identity, .. }
                if allowed.intersects(CredentialType::SSH_KEY | CredentialType::SSH_MEMORY) =>
            {
                Cred::ssh_key_from_memory(
                    user.unwrap_or("git"),
                    None,
                    identity.expose_secret(),
                    None,
                )
            }
            GitAuth::Password { .. } => {
                Err(error(ErrorCode::Auth, "the server does not take a user name and password"))
            }
            GitAuth::Key { .. } => {
                Err(error(ErrorCode::Auth, "the server does not accept an ssh key"))
            }
        }
    }

    /// Returns the value of the header `Authorization` for a server that is asked over https;
    /// `None` for a key.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let GitAuth::Password { username, password } = &self.auth else { return None };
        let pair = SecretString::from(format!("{username}:{}", password.expose_secret()));
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(pair.expose_secret().as_bytes());
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Verifies that `known_hosts` contains the host key of an ssh server.
    pub(super) fn verify_host(
        &self,
        host: &str,
        port: u16,
        key: Option<&[u8]>,
    ) -> Result<(), git2::Error> {
        let GitAuth::Key { known_hosts, .. } = &self.auth else {
            return Err(error(ErrorCode::Certificate, "the Secret has no `known_hosts`"));
        };
        let Some(key) = key else {
            return Err(error(ErrorCode::Certificate, "the server sends no host key"));
        };
        if has_host_key(known_hosts, host, port, key) {
            return Ok(());
        }
        Err(error(ErrorCode::Certificate, "`known_hosts` does not contain the server's host key"))
    }

    pub(super) fn expose(&self) -> ExposedCredential {
        let (username, password, identity, known_hosts) = match &self.auth {
            GitAuth::Password { username, password } => {
                (username.as_str(), password.expose_secret(), "", "")
            }
            GitAuth::Key { identity, known_hosts } => {
                ("", "", identity.expose_secret(), known_hosts.as_str())
            }
        };
        ExposedCredential {
            secret: self.secret.clone(),
            username: username.into(),
            password: password.into(),
            identity: identity.into(),
            known_hosts: known_hosts.into(),
        }
    }
}

impl From<ExposedCredential> for GitCredential {
    fn from(exposed: ExposedCredential) -> Self {
        let auth = if exposed.identity.is_empty() {
            GitAuth::Password { username: exposed.username, password: exposed.password.into() }
        } else {
            GitAuth::Key { identity: exposed.identity.into(), known_hosts: exposed.known_hosts }
        };
        Self { secret: exposed.secret, auth }
    }
}

impl fmt::Debug for GitCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitCredential").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl fmt::Debug for ExposedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExposedCredential").finish_non_exhaustive()
    }
}

/// Whether a `known_hosts` file has this key for this host and does not revoke it. Certificate
/// authorities, patterns and hashed names are not supported.
fn has_host_key(file: &str, host: &str, port: u16, key: &[u8]) -> bool {
    let name = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    let encoded = base64::engine::general_purpose::STANDARD.encode(key);
    let mut found = false;
    for line in file.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["@revoked", _, _, revoked, ..] if *revoked == encoded => return false,
            [names, _, listed, ..] if !names.starts_with(['#', '@', '|']) && *listed == encoded => {
                found |= names.split(',').any(|listed| listed.eq_ignore_ascii_case(&name));
            }
            _ => {}
        }
    }
    found
}

fn error(code: ErrorCode, message: &str) -> git2::Error {
    git2::Error::new(code, ErrorClass::Ssh, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://git.example.com/team/images";

    fn data(keys: &[&str]) -> BTreeMap<String, Vec<u8>> {
        keys.iter().map(|key| ((*key).to_owned(), b"hunter2\n".to_vec())).collect()
    }

    #[test]
    fn a_secret_is_restricted_to_the_hosts_that_it_lists() {
        let secret = data(&["username", "password", "identity", "known_hosts"]);
        for (hosts, url, allowed) in [
            (Some("git.example.com"), URL, true),
            (Some("a.example.com, GIT.example.com"), URL, true),
            (Some("git.example.com:443"), URL, true),
            (Some("git.example.com"), "https://git.example.com:443/x", true),
            (Some("git.example.com"), "https://git.example.com:8443/x", false),
            (Some("git.example.com:8443"), "https://git.example.com:8443/x", true),
            (Some("git.example.com"), "ssh://git@git.example.com/x", true),
            (Some("git.example.com"), "ssh://git@git.example.com:2222/x", false),
            (Some("example.com"), URL, false),
            (Some("git.example.com.evil.org"), URL, false),
            (Some("*"), URL, false),
            (Some(""), URL, false),
            (None, URL, false),
        ] {
            let result = GitCredential::from_secret("deploy", &secret, hosts, url);
            assert_eq!(result.is_ok(), allowed, "{hosts:?} {url}");
            if let Err(error) = result {
                assert!(
                    error
                        .to_string()
                        .contains("`groundswell.dev/hosts` does not list `git.example.com"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_secret_may_be_restricted_to_a_path() {
        let secret = SourceSecret::new(
            "deploy",
            "GitHub.com/org/team, git.example.com:8443/one/repository/",
            data(&["username", "password", "identity", "known_hosts"]),
        );
        for (url, sent) in [
            ("https://github.com/org/team/repository", true),
            ("https://github.com/org/team/repository.git/info/lfs", true),
            ("https://github.com/org/team", true),
            ("ssh://git@github.com/org/team/repository.git", true),
            ("https://git.example.com:8443/one/repository.git", true),
            ("https://git.example.com:8443/one/repository", true),
            ("https://github.com/org/secret", false),
            ("https://github.com/org/teams/repository", false),
            ("https://github.com/Org/team/repository", false),
            ("https://github.com/org", false),
            ("https://github.com/", false),
            ("https://git.example.com:8443/one/repository2", false),
            ("https://git.example.com/one/repository", false),
            // A server may read these in another way.
            ("https://github.com/org/team/../secret", false),
            ("https://github.com/evil/../org/team/x", false),
            ("https://github.com/org/team/%2e%2e/secret", false),
            ("https://github.com/org/team/..%2fsecret", false),
            ("https://github.com/org/%74eam/x", false),
            ("https://github.com//org/team/x", false),
            ("https://github.com/org/team/./x", false),
            (r"https://github.com/org/team\..\secret", false),
            ("ssh://git@github.com/org/team/../../org/secret", false),
        ] {
            assert_eq!(secret.lists(url), sent, "{url}");
            assert_eq!(secret.credential(url).is_ok(), sent, "{url}");
            let other = secret.credential_if_listed(url).expect(url);
            assert_eq!(other.is_some(), sent, "{url}");
        }
    }

    #[test]
    fn other_repositories_get_the_credential_only_where_it_is_listed() {
        let secret = |keys: &[&str]| SourceSecret::new("deploy", "a.example.com", data(keys));
        let password = secret(&["username", "password"]);
        for (url, sent) in [
            ("https://a.example.com/x", true),
            ("https://b.example.com/x", false),
            ("https://a.example.com:8443/x", false),
            ("ssh://git@b.example.com/x", false),
        ] {
            let credential = password.credential_if_listed(url).expect(url);
            assert_eq!(credential.is_some(), sent, "{url}");
            assert_eq!(password.lists(url), sent, "{url}");
        }
        let missing = password.credential_if_listed("ssh://git@a.example.com/x").expect_err("key");
        assert!(missing.to_string().contains("no key `identity`"), "{missing}");
        let key = secret(&["identity", "known_hosts"]);
        assert!(key.credential_if_listed("https://a.example.com/x").expect("none").is_none());
        let key = key.credential_if_listed("ssh://a.example.com/x").expect("a key").expect("sent");
        assert!(key.authorization().is_none());
        let sent = password.credential("https://a.example.com/x").expect("sent").authorization();
        let sent = sent.expect("a header");
        assert!(sent.is_sensitive() && !format!("{sent:?} {password:?}").contains("hunter2"));
        assert_eq!(sent.as_bytes(), b"Basic aHVudGVyMjpodW50ZXIy");
    }

    #[test]
    fn a_missing_key_is_named_and_no_value_is_shown() {
        let hosts = Some("git.example.com");
        for (keys, url, missing) in [
            (&["username"][..], URL, "`password`"),
            (&["password"], URL, "`username`"),
            (&["identity"], "ssh://git@git.example.com/x", "`known_hosts`"),
            (&["known_hosts"], "ssh://git@git.example.com/x", "`identity`"),
        ] {
            let error = GitCredential::from_secret("deploy", &data(keys), hosts, url)
                .expect_err(missing)
                .to_string();
            assert!(
                error.contains(missing) && error.contains("`deploy`") && !error.contains("hunter2"),
                "{error}"
            );
        }
        let credential =
            GitCredential::from_secret("deploy", &data(&["username", "password"]), hosts, URL)
                .expect("complete");
        assert!(!format!("{credential:?} {:?}", credential.expose()).contains("hunter2"));
    }

    #[test]
    fn a_host_key_belongs_to_a_name_and_a_port() {
        let key = b"the key";
        let encoded = base64::engine::general_purpose::STANDARD.encode(key);
        let file = format!(
            "# c\nother ssh-rsa {encoded}\nhost,10.0.0.1 ssh-rsa {encoded}\n[host]:2222 ssh-rsa \
             AAAA\n"
        );
        assert!(has_host_key(&file, "host", 22, key));
        assert!(has_host_key(&file, "10.0.0.1", 22, key));
        assert!(!has_host_key(&file, "host", 2222, key));
        assert!(!has_host_key(&file, "host", 22, b"another"));
        assert!(!has_host_key(&file, "third", 22, key));
        assert!(!has_host_key(
            &format!("{file}@revoked host ssh-rsa {encoded}\n"),
            "host",
            22,
            key
        ));
    }
}
