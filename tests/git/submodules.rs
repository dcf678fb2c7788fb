//! Submodules of a source.

use std::{collections::BTreeMap, os::unix::fs::symlink};

use groundswell::{
    api::GitSource,
    builds::git::{FetchLimits, GitError, SourceSecret},
};

use sha2::{Digest as _, Sha256};

use crate::{AUTHORIZATION, Repository, Rules, Server, Target, fetch_source, source};

/// The repository `images`, with a submodule `common` whose repository is next to it.
struct Nested {
    images: Repository,
    common: Repository,
    /// The commit of `common` that the submodule has.
    linked: String,
}

impl Nested {
    fn new() -> Self {
        let images = Repository::new();
        let common = images.sibling("common");
        common.file("shared-scripts/core/run", "#!/bin/sh\n");
        let linked = common.commit();
        common.file("shared-scripts/core/run", "a later commit");
        common.commit();
        let nested = Self { images, common, linked };
        nested.images.link("common", &nested.linked);
        nested
    }

    /// Commits a `.gitmodules`.
    fn with_modules(&self, text: &str) -> String {
        self.images.file(".gitmodules", text);
        self.images.commit_with(&[".gitmodules"])
    }

    fn with_url(&self, url: &str) -> String {
        self.with_modules(&module("common", "common", url))
    }

    async fn serve(&self) -> Server {
        Server::start(self.images.folder.path(), Rules::default()).await
    }
}

fn module(name: &str, path: &str, url: &str) -> String {
    format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n")
}

fn recursive(url: &str, commit: &str) -> GitSource {
    GitSource { submodules: true, ..source(url, commit) }
}

/// Case 22 of the trees: a link of the context leads into a submodule.
#[tokio::test]
async fn a_submodule_in_the_context_is_refused_or_fetched() {
    let nested = Nested::new();
    nested.images.file("core/Dockerfile", "FROM alpine:3.20\nCOPY ./core/root/ /\n");
    let link = nested.images.work().join("core/root");
    symlink("../common/shared-scripts/core", link).expect("link");
    nested.images.commit_with(&["core"]);
    let commit = nested.with_url("../common");
    let server = nested.serve().await;
    let plain =
        GitSource { dockerfile: "core/Dockerfile".into(), ..source(&server.url(), &commit) };

    let error = Target::new().fetch(&plain).await.expect_err("refused");
    assert!(matches!(error, GitError::Unsafe { .. }), "{error}");
    let said = "common is a submodule; set `source.git.submodules: true` to fetch it, or leave it \
                out with `source.git.exclude`";
    assert!(error.to_string().contains(said), "{error}");

    let to = Target::new();
    to.fetch(&GitSource { submodules: true, ..plain.clone() }).await.expect("fetched");
    assert_eq!(to.read("core/root/run").as_deref(), Some("#!/bin/sh\n"), "the tree's commit");

    let to = Target::new();
    to.fetch(&GitSource { exclude: vec!["/common".into()], ..plain.clone() }).await.expect("left");
    assert!(!to.0.path().join("context/common").exists());

    let to = Target::new();
    to.fetch(&GitSource { path: Some("base".into()), ..plain.clone() }).await.expect("elsewhere");

    let into = GitSource { path: Some("common/shared-scripts".into()), ..plain };
    let error = Target::new().fetch(&into).await.expect_err("inside").to_string();
    assert!(
        error.contains("common is a submodule, and `source.git.path` leads into it"),
        "{error}"
    );
}

#[tokio::test]
async fn submodules_of_submodules_are_fetched_into_the_context() {
    let nested = Nested::new();
    let deep = nested.images.sibling("deep");
    deep.file("a/b.txt", "deep");
    deep.file("a/b.md", "left out");
    let commit = deep.commit();
    nested.common.link("libs/deep", &commit);
    nested.common.file(".gitmodules", &module("d", "libs/deep", "../deep"));
    let linked = nested.common.commit_with(&[".gitmodules"]);
    nested.images.link("images/app/common", &linked);
    let commit = nested.with_modules(&module("x", "images/app/common", "../common"));
    let server = nested.serve().await;
    let source = GitSource {
        path: Some("images/app".into()),
        include: vec!["common/libs/**/*.txt".into()],
        exclude: vec!["*.md".into()],
        ..recursive(&server.url(), &commit)
    };
    let to = Target::new();
    to.fetch(&source).await.expect("fetched");
    assert_eq!(to.files(), ["common/libs/deep/a/b.txt"]);
    assert_eq!(to.read("common/libs/deep/a/b.txt").as_deref(), Some("deep"));
}

#[tokio::test]
async fn a_hostile_gitmodules_is_refused() {
    let nested = Nested::new();
    let server = nested.serve().await;
    let thousands: String =
        (0..2001).map(|number| module(&format!("n{number}"), "common", "../common")).collect();
    for (text, said) in [
        (module("common", "common", "file:///etc"), "`file:///etc`; only `https://`"),
        (module("common", "common", "ext::sh"), "`ext::sh`; only `https://`"),
        (module("common", "common", "-x"), "`-x`; only `https://`"),
        (module("common", "common", "../../../x"), "leaves the server"),
        (module("common", "common", "https://u:hunter2@h/x"), "contains a password"),
        (module("../../x", "common", "../common"), "the name `../../x`"),
        (module("common", "../x", "../common"), "the path `../x`"),
        (module("common", "other", "../common"), "no section with its `path`"),
        ("[include]\n\tpath = /etc/passwd\n".into(), "no section with its `path`"),
        ("[submodule".into(), ".gitmodules is refused: line 1"),
        ("#".repeat(300 << 10), ".gitmodules is larger than 256 KiB"),
        (thousands, "too many sections"),
    ] {
        let commit = nested.with_modules(&text);
        let to = Target::new();
        let error = to.fetch(&recursive(&server.url(), &commit)).await.expect_err(said);
        assert!(matches!(error, GitError::Unsafe { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(said) && !error.contains("hunter2"), "{said}: {error}");
    }
    std::fs::remove_file(nested.images.work().join(".gitmodules")).expect("file");
    symlink("README.md", nested.images.work().join(".gitmodules")).expect("link");
    let commit = nested.images.commit_with(&[".gitmodules"]);
    let error = Target::new().fetch(&recursive(&server.url(), &commit)).await.expect_err("a link");
    assert!(error.to_string().contains(".gitmodules must be a file"), "{error}");
}

/// A repository that contains earlier commits of itself, again and again.
#[tokio::test]
async fn submodules_are_bounded_in_depth_and_number() {
    let nested = Nested::new();
    let mut commit = nested.with_url("../images");
    for _ in 0..6 {
        nested.images.link("common", &commit);
        nested.images.file("README.md", &commit);
        commit = nested.images.commit_with(&["README.md"]);
    }
    let server = nested.serve().await;
    let source = recursive(&server.url(), &commit);
    let error = Target::new().fetch(&source).await.expect_err("deep");
    let path = ["common"; 6].join("/");
    let said = format!("{path} is a submodule that is nested deeper than 5 levels");
    assert!(error.to_string().contains(&said), "{error}");

    let limits = FetchLimits { submodules: 2, ..FetchLimits::default() };
    let to = Target::new();
    let error = fetch_source(&source, None, to.0.path(), limits).await.expect_err("many");
    assert!(error.to_string().contains("more than 2 submodules"), "{error}");
}

/// The limits count for the source and its submodules together.
#[tokio::test]
async fn submodules_share_the_limits_of_the_source() {
    let nested = Nested::new();
    let source = |server: &Server, commit: &str| recursive(&server.url(), commit);
    let commit = nested.with_url("../common");
    let server = nested.serve().await;
    for (limits, said) in [
        // The source has nine files and folders, and the submodule three more.
        (FetchLimits { entries: 10, ..FetchLimits::default() }, "more than 10 files"),
        (FetchLimits { written: 100, ..FetchLimits::default() }, "of files"),
    ] {
        let to = Target::new();
        let error = fetch_source(&source(&server, &commit), None, to.0.path(), limits)
            .await
            .expect_err(said)
            .to_string();
        assert!(error.contains(said) && error.contains("(submodule `common`)"), "{error}");
    }
    // Each of the two repositories alone is within the limit.
    for repository in [&nested.images, &nested.common] {
        let noise: Vec<u8> = (0_u32..2000).flat_map(|n| Sha256::digest(n.to_be_bytes())).collect();
        std::fs::write(repository.work().join("noise"), noise).expect("file");
    }
    nested.images.link("common", &nested.common.commit());
    let commit = nested.images.commit_with(&["noise"]);
    let limits = FetchLimits { received: 100_000, ..FetchLimits::default() };
    let to = Target::new();
    let plain = GitSource { exclude: vec!["common".into()], ..source(&server, &commit) };
    fetch_source(&plain, None, to.0.path(), limits).await.expect("one repository");
    let to = Target::new();
    let error = fetch_source(&source(&server, &commit), None, to.0.path(), limits)
        .await
        .expect_err("two repositories")
        .to_string();
    assert!(error.contains("to receive") && error.contains("(submodule `common`)"), "{error}");
}

#[tokio::test]
async fn a_missing_commit_and_repository_name_the_submodule() {
    let nested = Nested::new();
    let server = nested.serve().await;
    let commit = nested.with_url("../nothing");
    let error = Target::new().fetch(&recursive(&server.url(), &commit)).await.expect_err("missing");
    assert!(matches!(error, GitError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("/nothing (submodule `common`)"), "{error}");
    nested.images.link("common", "0123456789012345678901234567890123456789");
    let commit = nested.with_url("../common");
    let error = Target::new().fetch(&recursive(&server.url(), &commit)).await.expect_err("missing");
    let said = "/common (submodule `common`): the commit 0123456789";
    assert!(error.to_string().contains(said), "{error}");
}

fn secret(hosts: &str) -> SourceSecret {
    let data = [("username", "me"), ("password", "hunter2")]
        .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
    SourceSecret::new("deploy", hosts, BTreeMap::from(data))
}

#[tokio::test]
async fn a_submodule_gets_the_credential_only_if_its_host_is_listed() {
    let nested = Nested::new();
    let closed = || Rules { authorization: Some(AUTHORIZATION.into()), ..Rules::default() };
    let own = Server::start(nested.images.folder.path(), closed()).await;
    let other = Server::start(nested.images.folder.path(), closed()).await;
    let open = nested.serve().await;
    let fetch = async |url: &str, hosts: &str| {
        let source = recursive(&own.url(), &nested.with_url(url));
        let to = Target::new();
        let fetched =
            fetch_source(&source, Some(secret(hosts)), to.0.path(), FetchLimits::default()).await;
        fetched.map(|_| to.read("common/shared-scripts/core/run").expect("the submodule"))
    };
    fetch("../common", &own.address).await.expect("the same server");

    let url = format!("http://{}/common", other.address);
    let error = fetch(&url, &own.address).await.expect_err("not listed").to_string();
    let said = "the annotation `groundswell.dev/hosts` of the Secret `deploy` does not list it";
    assert!(error.contains(said) && error.contains("submodule `common`"), "{error}");
    assert!(other.authorizations().iter().all(Option::is_none), "no credential is sent");
    fetch(&url, &format!("{},{}", own.address, other.address)).await.expect("listed");

    fetch(&format!("http://{}/common", open.address), &own.address).await.expect("public");
    assert!(open.authorizations().iter().all(Option::is_none), "no credential is sent");

    let error = fetch("git@git.example.com:team/common.git", &own.address).await.expect_err("ssh");
    assert!(error.to_string().contains("does not list it"), "{error}");
}
