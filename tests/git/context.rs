//! Which files of a folder become the build context.

use groundswell::{api::GitSource, builds::git::GitError};

use crate::{Repository, Rules, Server, Target, source};

/// Case 20 of the trees: `path: .` is the root.
#[tokio::test]
async fn all_spellings_of_a_path_give_the_same_context() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let source = source(&server.url(), &commit);
    for path in [None, Some("."), Some("./")] {
        let to = Target::new();
        let source = GitSource { path: path.map(Into::into), ..source.clone() };
        to.fetch(&source).await.expect("fetched");
        assert_eq!(to.files(), ["README.md", "base/Dockerfile", "base/build/usr/bin/tool"]);
    }
    for path in ["base", "./base", "base/", "./base/."] {
        let to = Target::new();
        let source = GitSource { path: Some(path.into()), ..source.clone() };
        to.fetch(&source).await.expect("fetched");
        assert_eq!(to.files(), ["Dockerfile", "build/usr/bin/tool"], "{path}");
    }
}

#[tokio::test]
async fn what_the_globs_leave_out_is_not_in_the_context() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    for path in ["base/docs/a.md", "base/src/a.py", "base/src/b.md", "base/.dockerignore"] {
        repository.file(path, path);
    }
    let commit = repository.commit();
    let source = GitSource { path: Some("base".into()), ..source(&server.url(), &commit) };
    let globs = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let always = [".dockerignore", "Dockerfile"];
    for (include, exclude, others) in [
        (&["src"][..], &["*.md"][..], &["src/a.py"][..]),
        (&["/src/*.md", "build/"], &[], &["build/usr/bin/tool", "src/b.md"]),
        (&[], &["docs", "build"], &["src/a.py", "src/b.md"]),
        (&[], &["**"], &[]),
        (&["Dockerfile"], &[], &[]),
    ] {
        let to = Target::new();
        let source =
            GitSource { include: globs(include), exclude: globs(exclude), ..source.clone() };
        to.fetch(&source).await.expect("fetched");
        assert_eq!(to.files(), [&always[..], others].concat(), "{include:?} {exclude:?}");
    }
    let to = Target::new();
    let source = GitSource { include: globs(&["lib", "*.rs"]), ..source };
    let error = to.fetch(&source).await.expect_err("no match");
    assert!(matches!(error, GitError::NotFound { .. }), "{error}");
    let said = "a file of the folder `base` that `source.git.include` matches does not exist";
    assert!(error.to_string().contains(said), "{error}");
}
