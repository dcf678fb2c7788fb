//! What `.gitmodules` says about the submodules of a tree. Pure: it names a repository for a path,
//! and [`fetch`](super::fetch) fetches the commit that the tree names.
//!
//! The file is content that anyone who may push can choose. It never decides where a file is
//! written: that is the path of the submodule in the tree.

use url::Url;

use crate::builds::git::{config_file, is_local};

/// Maximum size of `.gitmodules` in bytes.
pub(super) const MAX_GITMODULES: u64 = 256 << 10;
/// Maximum length of the URL of a submodule.
const MAX_URL: usize = 1024;
/// Maximum length of a part of the file in a message.
const MAX_SHOWN: usize = 80;

/// The submodules that a `.gitmodules` lists.
#[derive(Debug, Default)]
pub(super) struct Gitmodules {
    modules: Vec<ModuleEntry>,
}

#[derive(Debug)]
struct ModuleEntry {
    path: String,
    url: Option<String>,
}

impl Gitmodules {
    /// Parses the file. It is rejected as a whole if one of its names or paths is hostile.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut modules = Vec::new();
        for section in config_file::parse(text)? {
            if section.name != "submodule" {
                continue;
            }
            let name = &section.subsection;
            if !is_plain(name) {
                return Err(format!("the name `{}` of a submodule is not allowed", shown(name)));
            }
            let Some(path) = section.get("path") else { continue };
            let path = path.strip_suffix('/').unwrap_or(path);
            if !is_plain(path) {
                return Err(format!(
                    "the path `{}` of the submodule `{}` is not a path in the repository",
                    shown(path),
                    shown(name)
                ));
            }
            let url = section.get("url").map(str::to_owned);
            modules.push(ModuleEntry { path: path.to_owned(), url });
        }
        Ok(Self { modules })
    }

    /// Returns the URL of the submodule at a path of the repository that has the URL `parent`. The
    /// error completes a sentence about the submodule.
    pub fn url(&self, path: &str, parent: &Url) -> Result<String, String> {
        let module = self.modules.iter().rev().find(|module| module.path == path);
        let url = module.and_then(|module| module.url.as_deref()).ok_or(
            "is a submodule, but `.gitmodules` has no section with its `path` and a `url`; add it, \
             or remove the submodule",
        )?;
        resolve_url(url, parent)
            .map_err(|problem| format!("is a submodule whose URL in `.gitmodules` {problem}"))
    }
}

/// Whether a name or a path has no element that leads elsewhere, and is no option of a command.
fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('-')
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(|element| !matches!(element, "" | "." | ".."))
}

/// Returns the absolute URL that a `.gitmodules` means, as `https://` or `ssh://`.
fn resolve_url(url: &str, parent: &Url) -> Result<String, String> {
    if url.len() > MAX_URL {
        return Err(format!("is longer than {MAX_URL} bytes"));
    }
    if url.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Err("contains white space or a control character".into());
    }
    let absolute = if url.starts_with("./") || url.starts_with("../") {
        relative_to(parent, url)?
    } else if url.contains("://") {
        url.to_owned()
    } else {
        from_scp(url).ok_or_else(|| not_allowed(url))?
    };
    let parsed = Url::parse(&absolute).map_err(|error| format!("is not a URL: {error}"))?;
    let has_host = parsed.host_str().is_some_and(|host| !host.is_empty() && !host.starts_with('-'));
    let has_path = !parsed.path().trim_matches('/').is_empty();
    let has_user = !parsed.username().is_empty();
    match parsed.scheme() {
        _ if parsed.password().is_some() => {
            Err("contains a password; remove it, and use `source.git.secretRef`".into())
        }
        "https" if has_user => {
            Err("contains a user name; remove it, and use `source.git.secretRef`".into())
        }
        "ssh" if parsed.username().starts_with('-') => Err(not_allowed(url)),
        "https" | "ssh" if has_host && has_path => Ok(absolute),
        "http" if is_local(&parsed) && !has_user && has_path => Ok(absolute),
        _ => Err(not_allowed(url)),
    }
}

fn not_allowed(url: &str) -> String {
    let shown = shown(url);
    format!("is `{shown}`; only `https://` and `ssh://` URLs and relative ones are allowed")
}

/// Appends a relative URL to that of the parent, one element of whose path each `../` removes.
fn relative_to(parent: &Url, url: &str) -> Result<String, String> {
    let mut elements: Vec<&str> = parent.path().trim_matches('/').split('/').collect();
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("../") {
            if elements.pop().is_none_or(str::is_empty) {
                return Err(format!("is `{}`, which leaves the server of its parent", shown(url)));
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else {
            break;
        }
    }
    let rest = rest.trim_end_matches('/');
    if !is_plain(rest) || rest.contains(['?', '#']) {
        return Err(format!("is `{}`, which names no repository", shown(url)));
    }
    elements.extend(rest.split('/'));
    let mut absolute = parent.clone();
    absolute.set_path(&format!("/{}", elements.join("/")));
    Ok(absolute.into())
}

/// Returns `ssh://user@host/path` for `user@host:path`; `None` if the text has another form.
fn from_scp(url: &str) -> Option<String> {
    let (host, path) = url.split_once(':')?;
    let (user, name) = host.split_once('@').unwrap_or(("", host));
    let is_word = |word: &str| {
        !word.starts_with('-')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    // `helper::address` would run a program.
    let is_path = !path.is_empty() && !path.starts_with([':', '-', '/']) && !path.contains('\\');
    (is_word(user) && is_word(name) && !name.is_empty() && is_path)
        .then(|| format!("ssh://{host}/{path}"))
}

/// Returns the beginning of a text for a message, without control characters.
fn shown(text: &str) -> String {
    let without_user = match text.split_once("://") {
        Some((scheme, rest)) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            format!("{scheme}://...")
        }
        _ => text.to_owned(),
    };
    without_user.chars().filter(|character| !character.is_control()).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent() -> Url {
        Url::parse("https://git.example.com/team/images.git").expect("a URL")
    }

    fn resolve(url: &str) -> Result<String, String> {
        resolve_url(url, &parent())
    }

    #[test]
    fn a_submodule_is_found_by_its_path() {
        let text = "[submodule \"common\"]\n\tpath = libs/common\n\turl = ../common.git\n\tupdate \
                    = !sh -c x\n[submodule \"other\"]\n\tpath = other/\n\turl = \
                    https://other.example.com/o.git\n[submodule \"empty\"]\n\tpath = empty\n";
        let modules = Gitmodules::parse(text).expect("a file");
        let url = |path: &str| modules.url(path, &parent());
        assert_eq!(url("libs/common").as_deref(), Ok("https://git.example.com/team/common.git"));
        assert_eq!(url("other").as_deref(), Ok("https://other.example.com/o.git"));
        for path in ["empty", "libs", "common"] {
            let said = url(path).expect_err(path);
            assert!(said.contains("`.gitmodules` has no section with its `path`"), "{said}");
        }
    }

    #[test]
    fn urls_are_resolved_as_git_resolves_them() {
        for (url, expected) in [
            ("../common.git", "https://git.example.com/team/common.git"),
            ("./common.git", "https://git.example.com/team/images.git/common.git"),
            ("../../other/x", "https://git.example.com/other/x"),
            (".././x", "https://git.example.com/team/x"),
            ("https://h.example.com/a/b", "https://h.example.com/a/b"),
            ("ssh://git@h.example.com:2222/a/b", "ssh://git@h.example.com:2222/a/b"),
            ("git@h.example.com:a/b.git", "ssh://git@h.example.com/a/b.git"),
            ("h.example.com:/a/b.git", "ssh://h.example.com/a/b.git"),
        ] {
            assert_eq!(resolve(url).as_deref(), Ok(expected), "{url}");
        }
        let ssh = Url::parse("ssh://git@h.example.com:2222/a/b.git/").expect("a URL");
        assert_eq!(
            resolve_url("../c.git", &ssh).as_deref(),
            Ok("ssh://git@h.example.com:2222/a/c.git")
        );
    }

    #[test]
    fn hostile_urls_are_refused() {
        let long = format!("https://h/{}", "x".repeat(1024));
        for (url, said) in [
            ("file:///etc", "only `https://` and `ssh://`"),
            ("/etc", "only `https://`"),
            ("C:\\x", "only `https://`"),
            ("ext::sh -c touch", "white space"),
            ("ext::sh", "only `https://`"),
            ("-x", "only `https://`"),
            ("--upload-pack=touch:x", "only `https://`"),
            ("ssh://-oProxyCommand=touch/x", "only `https://`"),
            ("ssh://-x@host/x", "only `https://`"),
            ("-oProxyCommand=x:y", "only `https://`"),
            ("http://git.example.com/x", "only `https://`"),
            ("http://127.0.0.2/x", "only `https://`"),
            ("git://git.example.com/x", "only `https://`"),
            ("https://git.example.com", "only `https://`"),
            ("https://robot:hunter2@git.example.com/x", "contains a password"),
            ("https://hunter2@git.example.com/x", "contains a user name"),
            ("ssh://git:hunter2@git.example.com/x", "contains a password"),
            ("ftp://hunter2@git.example.com/x", "`ftp://...`"),
            ("../../../x", "leaves the server"),
            ("../a/../../b", "names no repository"),
            ("../", "names no repository"),
            ("../x?y", "names no repository"),
            ("https://h/a\nb", "control character"),
            ("", "only `https://`"),
            (&long, "longer than 1024"),
        ] {
            let error = resolve(url).expect_err(url);
            assert!(error.contains(said) && !error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn a_file_with_a_hostile_name_or_path_is_refused() {
        for (name, path, said) in [
            ("../../hooks", "x", "the name `../../hooks`"),
            ("a/../b", "x", "the name `a/../b`"),
            ("-x", "x", "the name `-x`"),
            ("", "x", "the name ``"),
            ("a", "../x", "the path `../x` of the submodule `a`"),
            ("a", "/etc", "the path `/etc`"),
            ("a", "x/../../y", "the path"),
            ("a", "-x", "the path `-x`"),
            ("a", ".", "the path `.`"),
        ] {
            let text = format!("[submodule \"{name}\"]\npath = \"{path}\"\nurl = ../u\n");
            let error = Gitmodules::parse(&text).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }
}
