//! The Git repository that a tree is in: the sources of the families name it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use git2::Repository;
use groundswell::api::GitSource;

/// The root of the tree, and where the controller fetches it.
#[derive(Debug)]
pub struct TreeOrigin {
    /// The folder that the paths of sources are relative to.
    pub root: PathBuf,
    pub source: GitSource,
    /// Whether no branch is checked out, so that the revision is not known.
    pub is_detached: bool,
}

/// What the user says about the repository.
pub struct RequestedOrigin<'a> {
    pub url: Option<&'a str>,
    pub revision: Option<&'a str>,
}

/// Finds the repository of the directories: the one that they are checked out from, unless the user
/// names another.
///
/// # Errors
/// Returns an error if the directories are of several repositories, or of none and no URL is given.
pub fn find(
    directories: &[PathBuf],
    requested: &RequestedOrigin<'_>,
) -> anyhow::Result<TreeOrigin> {
    let first = directories.first().context("name a directory to import")?;
    let repository = Repository::discover(first).ok();
    let workdir = repository.as_ref().and_then(Repository::workdir).map(canonical).transpose()?;
    let root = match workdir {
        Some(workdir) => workdir,
        None => common_folder(directories),
    };
    let is_elsewhere = |directory: &&PathBuf| {
        let found = Repository::discover(directory).ok();
        let found = found.as_ref().and_then(Repository::workdir).map(canonical);
        !directory.starts_with(&root) || found.is_some_and(|found| found.is_ok_and(|f| f != root))
    };
    if let Some(other) = directories.iter().find(is_elsewhere) {
        bail!(
            "{} and {} are in different repositories; import each on its own",
            first.display(),
            other.display()
        );
    }
    let remote = || {
        let repository = repository.as_ref()?;
        let remote = repository.find_remote("origin").ok()?;
        remote.url().map(source_url)
    };
    let Some(url) = requested.url.map(str::to_owned).or_else(remote) else {
        bail!(
            "{} is in no Git repository with a remote `origin`; name the repository that the \
             controller fetches with --git-url",
            first.display()
        );
    };
    if !(url.starts_with("https://") || url.starts_with("ssh://")) || has_password(&url) {
        bail!(
            "the URL of the repository must begin with https:// or ssh:// and have no password; \
             name it with --git-url"
        );
    }
    let branch = || {
        let head = repository.as_ref()?.head().ok()?;
        head.shorthand().filter(|name| *name != "HEAD").map(str::to_owned)
    };
    let revision = requested.revision.map(str::to_owned).or_else(branch);
    let revision = revision.unwrap_or_else(|| "main".into());
    let is_at_commit = || repository.as_ref().is_some_and(|one| one.head_detached() == Ok(true));
    let is_detached = requested.revision.is_none() && is_at_commit();
    let source = GitSource { url, revision, ..GitSource::default() };
    Ok(TreeOrigin { root, source, is_detached })
}

fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

fn common_folder(directories: &[PathBuf]) -> PathBuf {
    let mut common = directories.first().cloned().unwrap_or_default();
    while !directories.iter().all(|directory| directory.starts_with(&common)) {
        if !common.pop() {
            break;
        }
    }
    common
}

/// Returns the URL of a remote in the form of a source: `git@host:path` becomes `ssh://`.
fn source_url(url: &str) -> String {
    match url.split_once(':') {
        Some((host, path)) if !url.contains("://") && !host.contains('/') => {
            format!("ssh://{host}/{}", path.trim_start_matches('/'))
        }
        _ => url.to_owned(),
    }
}

fn has_password(url: &str) -> bool {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
    let user = authority.and_then(|authority| authority.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':') || url.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_the_form_of_a_source() {
        for (url, expected) in [
            ("git@git.example.com:team/images.git", "ssh://git@git.example.com/team/images.git"),
            ("https://git.example.com/a.git", "https://git.example.com/a.git"),
            ("ssh://git@git.example.com:22/a.git", "ssh://git@git.example.com:22/a.git"),
            ("/srv/git/a.git", "/srv/git/a.git"),
        ] {
            assert_eq!(source_url(url), expected);
        }
    }

    #[test]
    fn a_password_never_reaches_a_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let directories = [folder.path().canonicalize().expect("a path")];
        for url in ["https://user:secret@git.example.com/a.git", "https://token@git.example.com/a"]
        {
            let requested = RequestedOrigin { url: Some(url), revision: None };
            let error = find(&directories, &requested).expect_err(url).to_string();
            assert!(error.contains("no password") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_repository_is_that_of_the_checkout() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        let requested = RequestedOrigin { url: None, revision: None };
        let none = find(std::slice::from_ref(&root), &requested).expect_err("no repository");
        assert!(none.to_string().contains("--git-url"), "{none}");
        let repository = Repository::init(&root).expect("a repository");
        repository.remote("origin", "git@git.example.com:a.git").expect("a remote");
        let below = root.join("images");
        std::fs::create_dir(&below).expect("a folder");
        let origin = find(&[below], &requested).expect("an origin");
        assert_eq!(origin.root, root);
        assert_eq!(origin.source.url, "ssh://git@git.example.com/a.git");
        assert_eq!(origin.source.revision, "main");
    }
}
