//! Files of Git LFS.

use std::collections::BTreeMap;

use groundswell::{
    api::GitSource,
    builds::git::{FetchLimits, GitError, SourceSecret},
};

use crate::{
    AUTHORIZATION, Repository, Rules, Server, Target, fetch_source,
    lfs_server::{Lfs, Lie, oid},
    source,
};

const MODEL: &[u8] = b"the weights of a model";

fn pointer(content: &[u8]) -> String {
    let size = content.len();
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {size}\n",
        oid(content)
    )
}

/// The repository `images`, with a pointer in `app`.
struct WithPointer {
    repository: Repository,
    commit: String,
}

impl WithPointer {
    fn new() -> Self {
        let repository = Repository::new();
        repository.file("app/Dockerfile", "FROM alpine:3.20\nCOPY model.bin /model.bin\n");
        repository.file("app/model.bin", &pointer(MODEL));
        let commit = repository.commit();
        Self { repository, commit }
    }

    async fn serve(&self, lie: Lie) -> Server {
        self.serve_objects(Lfs::of(&[MODEL], lie)).await
    }

    async fn serve_objects(&self, lfs: Lfs) -> Server {
        let rules = Rules { lfs: Some(lfs), ..Rules::default() };
        Server::start(self.repository.folder.path(), rules).await
    }

    fn source(&self, server: &Server) -> GitSource {
        GitSource { path: Some("app".into()), lfs: true, ..source(&server.url(), &self.commit) }
    }
}

/// Case 23 of the trees: a pointer must not become a file of an image.
#[tokio::test]
async fn a_pointer_in_the_context_is_refused_or_fetched() {
    let with = WithPointer::new();
    let server = with.serve(Lie::None).await;
    let fetched = with.source(&server);
    let plain = GitSource { lfs: false, ..fetched.clone() };

    let error = Target::new().fetch(&plain).await.expect_err("refused");
    assert!(matches!(error, GitError::Unsafe { .. }), "{error}");
    let said = "model.bin is the pointer to a file of Git LFS, and not the file; set \
                `source.git.lfs: true` to fetch it, or leave it out with `source.git.exclude`";
    assert!(error.to_string().contains(said), "{error}");
    assert!(server.paths().iter().all(|path| !path.contains("lfs")), "nothing is asked for");

    let to = Target::new();
    to.fetch(&fetched).await.expect("fetched");
    assert_eq!(to.read("model.bin").map(String::into_bytes).as_deref(), Some(MODEL));

    let to = Target::new();
    to.fetch(&GitSource { exclude: vec!["*.bin".into()], ..plain.clone() })
        .await
        .expect("left out");
    assert_eq!(to.files(), ["Dockerfile"]);
    let to = Target::new();
    to.fetch(&GitSource { path: Some("base".into()), ..plain }).await.expect("elsewhere");
}

#[tokio::test]
async fn many_files_and_equal_ones_are_fetched() {
    let with = WithPointer::new();
    let contents: Vec<Vec<u8>> = (0..150).map(|n| format!("content {n}").into_bytes()).collect();
    for (number, content) in contents.iter().enumerate() {
        with.repository.file(&format!("many/{number}"), &pointer(content));
    }
    with.repository.file("many/again", &pointer(&contents[7]));
    with.repository.git(&["add", "--all"]);
    with.repository.git(&["update-index", "--chmod=+x", "many/again"]);
    with.repository.git(&["commit", "--quiet", "--message=many"]);
    let commit = with.repository.git(&["rev-parse", "HEAD"]);
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let server = with.serve_objects(Lfs::of(&contents, Lie::None)).await;
    let source = GitSource { path: Some("many".into()), revision: commit, ..with.source(&server) };
    let to = Target::new();
    to.fetch(&source).await.expect("fetched");
    assert_eq!(to.read("149").as_deref(), Some("content 149"));
    assert_eq!(to.read("again").as_deref(), Some("content 7"));
    let mode = std::fs::metadata(to.0.path().join("context/again")).expect("file").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o755);
    let count = |part: &str| server.paths().iter().filter(|path| path.contains(part)).count();
    assert_eq!((count("/objects/batch"), count("/objects/") - count("/objects/batch")), (2, 150));

    for (limits, said) in [
        (
            FetchLimits { lfs_files: 150, ..FetchLimits::default() },
            "more than 150 files of Git LFS",
        ),
        (FetchLimits { written: 20_000, ..FetchLimits::default() }, "of files"),
    ] {
        let to = Target::new();
        let error = fetch_source(&source, None, to.0.path(), limits).await.expect_err(said);
        assert!(matches!(error, GitError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// No answer of the server becomes a file that the pointer does not name.
#[tokio::test]
async fn a_server_that_lies_is_not_believed() {
    let with = WithPointer::new();
    for (lie, said) in [
        (Lie::OtherBytes, "model.bin has other content than its pointer names"),
        (Lie::Short, "model.bin has 21 bytes, and 22 in its pointer"),
        (Lie::Endless, "model.bin is longer than the 22 bytes of its pointer"),
        (Lie::OtherSize, "model.bin has 1 bytes on the server, and 22 in its pointer"),
        (Lie::Loop, "model.bin is redirected more than 3 times"),
        (
            Lie::Redirect("http://10.0.0.1".into()),
            "redirected to an address that is not `https://`",
        ),
        (Lie::Status(500), "model.bin is answered with status 500"),
        (Lie::Status(206), "model.bin is answered with status 206"),
        (Lie::ObjectError(507), "model.bin cannot be read: error 507: nobody"),
        (Lie::OtherObject, "model.bin is not in the response"),
        (Lie::Href("file:///etc/passwd".into()), "at an address that is not `https://`"),
        (Lie::Href("http://169.254.169.254/".into()), "at an address that is not `https://`"),
        (Lie::Href("https://u:hunter2@h/".into()), "at an address that is not `https://`"),
        (Lie::BadHeader, "offered with headers that are not allowed"),
        (Lie::BatchStatus(500), "answers with status 500"),
        (Lie::BatchStatus(307), "redirects, which is not followed"),
        (Lie::BatchStatus(401), "the server requires a credential; set `source.git.secretRef`"),
        (Lie::NoJson, "does not answer as a Git LFS server"),
        (Lie::EndlessBatch, "the response is larger than 4 MiB"),
        (Lie::OtherTransfer, "does not offer the transfer `basic`"),
    ] {
        let server = with.serve(lie.clone()).await;
        let error = Target::new().fetch(&with.source(&server)).await.expect_err(said);
        assert!(matches!(error, GitError::Unavailable { .. }), "{lie:?}: {error}");
        let error = error.to_string();
        assert!(error.contains(said) && !error.contains("hunter2"), "{lie:?}: {error}");
    }
}

#[tokio::test]
async fn a_missing_object_is_named() {
    let with = WithPointer::new();
    let name = "model.bin does not exist";
    let server = with.serve(Lie::BatchStatus(404)).await;
    let error = Target::new().fetch(&with.source(&server)).await.expect_err("no server");
    assert!(matches!(error, GitError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("/images.git/info/lfs, which may need"), "{error}");
    for lfs in [
        Lfs::of(&[MODEL], Lie::Status(404)),
        Lfs::of(&[MODEL], Lie::ObjectError(410)),
        Lfs::of(&[MODEL], Lie::NoAction),
        Lfs::of(&[], Lie::None),
    ] {
        let server = with.serve_objects(lfs).await;
        let error = Target::new().fetch(&with.source(&server)).await.expect_err(name);
        assert!(matches!(error, GitError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn the_credential_stays_on_the_server_of_the_source() {
    let with = WithPointer::new();
    let elsewhere = with.serve(Lie::None).await;
    let to_elsewhere = format!("http://{}", elsewhere.address);
    let closed = |lie| Rules {
        authorization: Some(AUTHORIZATION.into()),
        lfs: Some(Lfs::of(&[MODEL], lie)),
        ..Rules::default()
    };
    let fetch = async |server: &Server, password: &str| {
        let data = [("username", "me"), ("password", password)]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        let secret = SourceSecret::new("deploy", &server.address, BTreeMap::from(data));
        let to = Target::new();
        let limits = FetchLimits::default();
        fetch_source(&with.source(server), Some(secret), to.0.path(), limits).await?;
        Ok::<_, GitError>(to.read("model.bin").expect("the file").into_bytes())
    };
    let own = Server::start(with.repository.folder.path(), closed(Lie::None)).await;
    assert_eq!(fetch(&own, "hunter2").await.as_deref(), Ok(MODEL));

    for lie in [
        Lie::Redirect(to_elsewhere.clone()),
        Lie::Href(format!("{to_elsewhere}/objects/{}", oid(MODEL))),
    ] {
        let own = Server::start(with.repository.folder.path(), closed(lie)).await;
        assert_eq!(fetch(&own, "hunter2").await.as_deref(), Ok(MODEL));
    }
    let sent = elsewhere.authorizations();
    assert_eq!(sent, [None, None], "the other server gets two requests without the credential");
}

#[tokio::test]
async fn a_lfsconfig_does_not_lead_elsewhere() {
    let with = WithPointer::new();
    let server = with.serve(Lie::None).await;
    let other = with.serve(Lie::None).await;
    let config = format!("[lfs]\n\turl = http://{}/images.git/info/lfs\n", other.address);
    with.repository.file(".lfsconfig", &config);
    let source = GitSource { revision: with.repository.commit(), ..with.source(&server) };
    let error = Target::new().fetch(&source).await.expect_err("elsewhere");
    assert!(matches!(error, GitError::Unsafe { .. }), "{error}");
    assert!(error.to_string().contains(".lfsconfig has an `lfs.url` that is not on"), "{error}");
    assert!(other.paths().is_empty(), "the other server is not asked");

    let config = format!("[lfs]\n\turl = http://{}/own.git/info/lfs\n", server.address);
    with.repository.file(".lfsconfig", &config);
    let source = GitSource { revision: with.repository.commit(), ..with.source(&server) };
    Target::new().fetch(&source).await.expect("the same server");
    assert!(server.paths().iter().any(|path| path == "/own.git/info/lfs/objects/batch"));
}
