//! A Git credential: read from a Secret, restricted to the hosts that the Secret itself lists, and
//! never shown.

use std::{collections::BTreeMap, fmt};

use base64::Engine as _;
use git2::{Cred, CredentialType, ErrorClass, ErrorCode};
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
    /// default port of the scheme. Without the annotation the Secret is sent to no host.
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
        let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
        let port = parsed.port_or_known_default().unwrap_or(22);
        let default_port = parsed.port().is_none()
            || parsed.port() == Some(if parsed.scheme() == "ssh" { 22 } else { 443 });
        let listed =
            hosts.unwrap_or_default().split(',').map(|entry| entry.trim().to_ascii_lowercase());
        let mut allowed = listed
            .filter(|entry| *entry == format!("{host}:{port}") || (default_port && *entry == host));
        if host.is_empty() || allowed.next().is_none() {
            let shown = if default_port { host } else { format!("{host}:{port}") };
            return Err(wrong(format!(
                "its annotation `{CREDENTIAL_HOSTS}` does not list `{shown}`; add the host to it \
                 if the Secret may be sent there"
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
