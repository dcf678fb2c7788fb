//! Files of Git LFS: finds out which server has them, and downloads them. [`pointer`] reads what
//! Git has in their place, [`batch`] is the wire format, and [`client`] the requests.
//!
//! The server is that of the repository. What a `.lfsconfig` says counts only if it names the same
//! server, because anyone who may push can write that file.

mod batch;
mod client;
pub(super) mod pointer;

use std::path::PathBuf;

use url::Url;

pub(super) use client::{LfsServer, download};

use crate::builds::git::{config_file, lfs::pointer::Pointer};

/// Maximum size of `.lfsconfig` in bytes.
pub(super) const MAX_LFSCONFIG: u64 = 64 << 10;

/// A file to download.
#[derive(Clone, Debug)]
pub(super) struct LfsFile {
    /// What the server is asked for.
    pub pointer: Pointer,
    /// The path in the build context, for messages.
    pub inside: PathBuf,
    /// The file to create.
    pub path: PathBuf,
    /// The permissions of the file.
    pub mode: u32,
}

/// Returns the URL of the Git LFS server of a repository: `https`, also for a repository that is
/// fetched by ssh.
///
/// `lfsconfig` is the text of the repository's `.lfsconfig`; empty without one. The error completes
/// a sentence about this file.
pub(super) fn endpoint(repository: &Url, lfsconfig: &str) -> Result<Url, String> {
    let server = https(repository);
    let sections = config_file::parse(lfsconfig).map_err(|error| format!("is broken: {error}"))?;
    let sections = sections.iter().rev().filter(|section| section.name == "lfs");
    let mut own = sections.filter(|section| section.subsection.is_empty());
    if let Some(url) = own.find_map(|section| section.get("url")) {
        return same_server(url, &server);
    }
    let path = server.path().trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let mut endpoint = server.clone();
    endpoint.set_path(&format!("{path}.git/info/lfs"));
    Ok(endpoint)
}

/// Returns the URL of a repository's server over https. The port of an ssh server says nothing
/// about it.
fn https(repository: &Url) -> Url {
    let mut text = repository.clone();
    if repository.scheme() == "ssh" {
        let host = repository.host_str().unwrap_or_default();
        if let Ok(url) = Url::parse(&format!("https://{host}{}", repository.path())) {
            text = url;
        }
    }
    text.set_query(None);
    text.set_fragment(None);
    text
}

fn same_server(url: &str, server: &Url) -> Result<Url, String> {
    let parsed = Url::parse(url).ok().filter(|url| {
        is_same_origin(url, server) && url.username().is_empty() && url.password().is_none()
    });
    let mut parsed = parsed.ok_or_else(|| {
        format!(
            "has an `lfs.url` that is not on `{}`, the server of the repository, which is the only \
             one that is asked; remove it, or leave the files out with `source.git.exclude`",
            server.host_str().unwrap_or_default()
        )
    })?;
    parsed.set_query(None);
    parsed.set_fragment(None);
    let path = parsed.path().trim_end_matches('/').to_owned();
    parsed.set_path(&path);
    Ok(parsed)
}

/// Whether two URLs have the same scheme, host and port.
fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(url: &str, lfsconfig: &str) -> Result<String, String> {
        endpoint(&Url::parse(url).expect(url), lfsconfig).map(Into::into)
    }

    #[test]
    fn the_server_is_that_of_the_repository() {
        for (url, expected) in [
            ("https://h.example.com/a/b.git", "https://h.example.com/a/b.git/info/lfs"),
            ("https://h.example.com/a/b", "https://h.example.com/a/b.git/info/lfs"),
            ("https://h.example.com:8443/a/b/", "https://h.example.com:8443/a/b.git/info/lfs"),
            ("ssh://git@h.example.com:2222/a/b.git", "https://h.example.com/a/b.git/info/lfs"),
        ] {
            assert_eq!(endpoint_of(url, "").as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn a_lfsconfig_is_believed_for_the_same_server_only() {
        let url = "https://h.example.com/a/b.git";
        let with = |value: &str| endpoint_of(url, &format!("[lfs]\n\turl = \"{value}\"\n"));
        assert_eq!(
            with("https://h.example.com/lfs/b/").as_deref(),
            Ok("https://h.example.com/lfs/b")
        );
        for other in [
            "https://evil.example.com/a/b.git/info/lfs",
            "http://h.example.com/a/b.git/info/lfs",
            "https://h.example.com:8443/x",
            "https://robot:hunter2@h.example.com/x",
            "ssh://h.example.com/x",
            "file:///etc",
            "x",
        ] {
            let error = with(other).expect_err(other);
            assert!(error.contains("not on `h.example.com`"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(endpoint_of(url, "[lfs]\nurl = \"x").expect_err("broken").contains("line 2"));
        let other = "[lfs]\n\tconcurrenttransfers = 9\n[lfs \"x\"]\n\turl = https://evil\n";
        assert!(endpoint_of(url, other).is_ok(), "other variables are ignored");
    }
}
