//! The checkout of a Git repository that has the Dockerfiles of families.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use groundswell::api::GitSource;

/// Maximum size of a Dockerfile in bytes, the same as that of the reader.
const MAX_DOCKERFILE_BYTES: u64 = 1 << 20;

/// A checkout.
pub struct Checkout {
    root: PathBuf,
    /// The repository that it was cloned from, if Git says so.
    origin: Option<String>,
}

impl Checkout {
    /// Opens a checkout.
    ///
    /// # Errors
    ///
    /// Returns an error if the path is not that of a folder.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let root = path.canonicalize().with_context(|| format!("--checkout {shown}"))?;
        if !root.is_dir() {
            bail!("--checkout {shown}: it is no folder");
        }
        let repository = git2::Repository::open(&root).ok();
        let origin = repository.and_then(|repository| {
            let remote = repository.find_remote("origin").ok()?;
            remote.url().map(repository_name)
        });
        Ok(Self { root, origin })
    }

    /// Whether this is a checkout of a source's repository. Without a remote, it is taken for that.
    pub fn is_of(&self, source: &GitSource) -> bool {
        self.origin.as_ref().is_none_or(|origin| *origin == repository_name(&source.url))
    }

    /// Returns the path of a source's Dockerfile, relative to the root.
    pub fn path(source: &GitSource) -> String {
        let file = PathBuf::from(source.path.as_deref().unwrap_or(".")).join(&source.dockerfile);
        let file: PathBuf = file.components().filter(|part| part.as_os_str() != ".").collect();
        file.display().to_string()
    }

    /// Reads a Dockerfile.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not inside of the checkout, is no regular file, or is too large.
    pub fn read(&self, file: &str) -> anyhow::Result<String> {
        self.read_inside(file).with_context(|| format!("read {file}"))
    }

    fn read_inside(&self, file: &str) -> anyhow::Result<String> {
        let path = self.root.join(file).canonicalize()?;
        if !path.starts_with(&self.root) {
            bail!("it leads out of the checkout");
        }
        // A pipe would never end.
        if !path.metadata()?.is_file() {
            bail!("it is no regular file");
        }
        let mut text = String::new();
        let read = File::open(&path)?.take(MAX_DOCKERFILE_BYTES + 1).read_to_string(&mut text)?;
        if read as u64 > MAX_DOCKERFILE_BYTES {
            bail!("it has more than 1 MiB");
        }
        Ok(text)
    }
}

/// Returns what URLs of the same repository have in common: host and path.
fn repository_name(url: &str) -> String {
    let (host, path) = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        // As ssh writes it: `git@host:path`.
        None => url.split_once(':').unwrap_or(("", url)),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).to_ascii_lowercase();
    let path = path.trim_matches('/');
    format!("{host}/{}", path.strip_suffix(".git").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_repository_are_the_same() {
        let names = [
            "https://github.example/team/app.git",
            "https://user@GitHub.example/team/app/",
            "ssh://git@github.example/team/app",
            "git@github.example:team/app.git",
        ];
        for url in names {
            assert_eq!(repository_name(url), "github.example/team/app", "{url}");
        }
        assert_ne!(repository_name("https://github.example/team/other"), repository_name(names[0]));
    }

    #[test]
    fn a_checkout_is_of_its_origin() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = |url: &str| GitSource { url: url.into(), ..GitSource::default() };
        let (own, other) = (source("https://r.example/a.git"), source("https://r.example/b"));
        let plain = Checkout::open(folder.path()).expect("a folder");
        assert!(plain.is_of(&own) && plain.is_of(&other), "a folder without Git");
        let repository = git2::Repository::init(folder.path()).expect("a repository");
        repository.remote("origin", "git@r.example:a").expect("a remote");
        let cloned = Checkout::open(folder.path()).expect("a folder");
        assert!(cloned.is_of(&own) && !cloned.is_of(&other));
    }

    #[test]
    fn what_is_no_dockerfile_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let checkout = Checkout::open(folder.path()).expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for (file, said) in
            [("pipe", "no regular file"), (".", "no regular file"), ("none", "none")]
        {
            let error = format!("{:#}", checkout.read(file).expect_err("no file"));
            assert!(error.contains(said), "{error}");
        }
        assert!(Checkout::open(&folder.path().join("none")).is_err());
    }
}
