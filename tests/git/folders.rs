//! The revisions of folders, read from a real Git server.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, process::Stdio};

use groundswell::{
    builds::git::{FolderError, FolderResult, GitFolder},
    identity::FolderRevision,
};

use super::*;

/// Number of image folders in the large repository.
const FOLDERS: usize = 60;
/// Number of commits in the large repository, after the first.
const COMMITS: usize = 200;

fn folder(path: &str) -> GitFolder {
    GitFolder { path: path.into(), dockerfile: "Dockerfile".into(), ..GitFolder::default() }
}

fn filtered(path: &str, include: &[&str], exclude: &[&str]) -> GitFolder {
    let list = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.into()).collect();
    GitFolder { include: list(include), exclude: list(exclude), ..folder(path) }
}

/// Polls a server once.
async fn poll(server: &Server, known: Option<&str>, folders: &[GitFolder]) -> FolderAnswer {
    let (url, known, folders) = (server.url(), known.map(str::to_owned), folders.to_vec());
    let work = move || {
        let scratch = tempfile::tempdir().expect("folder");
        let wanted =
            WantedFolders { known: known.as_deref(), folders: &folders, ..wanted(&url, "main") };
        git::read_folders(&wanted, &scratch.path().join("scratch"))
    };
    tokio::task::spawn_blocking(work).await.expect("thread").expect("an answer")
}

async fn read(server: &Server, folders: &[GitFolder]) -> Vec<FolderResult> {
    match poll(server, None, folders).await {
        FolderAnswer::Read { folders, .. } => folders,
        FolderAnswer::Unmoved => panic!("nothing was known"),
    }
}

async fn revisions(server: &Server, folders: &[GitFolder]) -> Vec<String> {
    let read = read(server, folders).await.into_iter();
    read.map(|folder| folder.expect("a revision").revision).collect()
}

fn touched(folder: &FolderRevision) -> Vec<&str> {
    folder.touched_by.iter().map(|commit| commit.id.as_str()).collect()
}

/// A commit of the large repository, and the folders that it touches.
struct LargeCommit {
    id: String,
    touches: BTreeSet<usize>,
}

/// Writes a history of [`COMMITS`] commits: most change one of [`FOLDERS`] folders, some several,
/// and some only what belongs to no image.
fn large_history(repository: &Repository) -> Vec<LargeCommit> {
    let file = |stream: &mut String, path: &str, text: &str| {
        write!(stream, "M 100644 inline {path}\ndata {}\n{text}\n", text.len()).expect("memory");
    };
    let mut stream = String::from("feature done\n");
    let mut touches = Vec::new();
    for number in 0..=COMMITS {
        write!(
            stream,
            "commit refs/heads/large\ncommitter t <t@example.com> {} +0000\ndata 1\nm\n",
            1_700_000_000 + number
        )
        .expect("memory");
        let mut touched = BTreeSet::new();
        if number == 0 {
            stream.push_str("deleteall\n");
            touched.extend(0..FOLDERS);
        } else if number % 5 == 0 {
            file(&mut stream, "README.md", &format!("{number}"));
        } else {
            touched.insert(number * 7 % FOLDERS);
            if number % 9 == 0 {
                touched.extend([number % FOLDERS, (number + 1) % FOLDERS]);
            }
        }
        for folder in &touched {
            let text = format!("FROM base\nLABEL n={number}\n");
            file(&mut stream, &format!("images/i{folder:02}/Dockerfile"), &text);
            if number == 0 {
                let path = format!("images/i{folder:02}/src/deep/run.sh");
                file(&mut stream, &path, &"echo\n".repeat(5000));
            }
        }
        touches.push(touched);
    }
    stream.push_str("done\n");
    let mut import = Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(repository.work())
        .stdin(Stdio::piped())
        .spawn()
        .expect("git");
    import.stdin.take().expect("input").write_all(stream.as_bytes()).expect("written");
    assert!(import.wait().expect("git").success());
    let ids = repository.git(&["rev-list", "--reverse", "large"]);
    let commits = ids.lines().zip(touches);
    commits.map(|(id, touches)| LargeCommit { id: id.to_owned(), touches }).collect()
}

#[tokio::test]
async fn a_commit_changes_the_revisions_of_the_folders_that_it_touches() {
    let repository = Repository::new();
    let history = large_history(&repository);
    assert_eq!(history.len(), COMMITS + 1);
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let folders: Vec<_> =
        (0..FOLDERS).map(|number| folder(&format!("images/i{number:02}"))).collect();
    let mut last: Option<(String, Vec<FolderRevision>)> = None;
    let (mut most_per_change, mut most_per_poll) = (0, 0);
    let (mut stale, mut stale_by_commit) = (0, 0);
    for LargeCommit { id, touches } in &history {
        repository.git(&["update-ref", "refs/heads/main", id]);
        server.take_traffic();
        let known = last.as_ref().map(|(commit, _)| commit.as_str());
        let FolderAnswer::Read { commit, folders: read } = poll(&server, known, &folders).await
        else {
            panic!("the branch has moved");
        };
        let change = server.take_traffic();
        assert_eq!((&commit, change.requests), (id, 4), "{change:?}");
        most_per_change = most_per_change.max(change.received + change.sent);
        let read: Vec<_> = read.into_iter().map(|folder| folder.expect("a revision")).collect();
        if let Some((_, before)) = &last {
            let changed: BTreeSet<usize> = (0..FOLDERS)
                .filter(|&number| before[number].revision != read[number].revision)
                .collect();
            assert_eq!(changed, *touches, "commit {id}");
            stale += changed.len();
            stale_by_commit += FOLDERS;
            for &number in touches {
                let since = read[number].touched_since(&before[number].revision);
                assert_eq!((since.ids, since.has_more), (vec![id.clone()], false));
            }
        }
        assert_eq!(poll(&server, Some(id), &folders).await, FolderAnswer::Unmoved);
        let unmoved = server.take_traffic();
        assert_eq!(unmoved.requests, 2, "{unmoved:?}");
        most_per_poll = most_per_poll.max(unmoved.received + unmoved.sent);
        last = Some((commit, read));
    }
    eprintln!(
        "{COMMITS} commits, {FOLDERS} folders: {stale} stale images, {stale_by_commit} with the \
         commit as revision; a poll has 2 requests and at most {most_per_poll} bytes, a change 4 \
         requests and at most {most_per_change} bytes"
    );
    assert!(most_per_poll < 2000, "{most_per_poll} bytes");
    // The scripts of the folders alone have more than a megabyte.
    assert!(most_per_change < 100_000, "{most_per_change} bytes");

    // The recent commits, and that there may be more.
    let (_, newest) = last.expect("polled");
    let number = 7 * 199 % FOLDERS;
    let of_folder = history.iter().rev().filter(|commit| commit.touches.contains(&number));
    let recent: BTreeSet<&str> =
        history.iter().rev().take(50).map(|commit| commit.id.as_str()).collect();
    let expected: Vec<&str> =
        of_folder.map(|commit| commit.id.as_str()).filter(|id| recent.contains(id)).collect();
    let found = touched(&newest[number]);
    // The oldest of the 50 commits has a parent that was not fetched.
    assert!(expected.starts_with(&found) && expected.len() <= found.len() + 1, "{found:?}");
    assert!(newest[number].touched_since("of-long-ago").has_more);
}

#[tokio::test]
async fn the_revision_is_the_id_of_the_tree_and_the_dockerfile_is_read() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let read = read(&server, &[folder("base")]).await.remove(0).expect("a revision");
    assert_eq!(read.revision, repository.git(&["rev-parse", "main:base"]));
    assert_eq!(read.commit, repository.git(&["rev-parse", "main"]));
    assert_eq!(read.dockerfile.as_deref(), Some("FROM alpine:3.20\n"));
    assert_eq!(touched(&read), [&read.commit], "the first commit has touched every folder");

    // A submodule counts with its commit.
    let mut before = vec![read.revision];
    for commit in
        ["0123456789012345678901234567890123456789", "1123456789012345678901234567890123456789"]
    {
        repository.link("base/module", commit);
        repository.git(&["commit", "--quiet", "--message=module"]);
        let now = revisions(&server, &[folder("base")]).await;
        assert_ne!(now, before);
        before = now;
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_a_problem_of_its_own() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    repository.file("b/Dockerfile.prod", "FROM b\n");
    repository.file("b/Dockerfile/x", "");
    repository.file("ignored/Dockerfile", "FROM b\n");
    repository.file("ignored/.dockerignore", "a[b\n");
    repository.file("large/Dockerfile", &"# comment\n".repeat(200_000));
    repository.file("large-ignore/Dockerfile", "FROM b\n");
    repository.file("large-ignore/.dockerignore", &"# another\n".repeat(200_000));
    let commit = repository.commit();
    let folders = [
        folder("base"),
        folder("gone"),
        folder("README.md"),
        folder("b"),
        filtered("base", &["src/**"], &[]),
        filtered("base", &[], &["a[z-a]"]),
        filtered("base", &[], &["matches nothing, which is no problem"]),
        folder("ignored"),
        folder("large"),
        folder("large-ignore"),
    ];
    let read = read(&server, &folders).await;
    assert!(read[0].is_ok() && read[6].is_ok(), "{read:?}");
    let message = |index: usize| read[index].as_ref().expect_err("a problem").to_string();
    for (index, texts) in [
        (1, ["path: ", "no folder `gone`", &commit]),
        (2, ["path: ", "no folder `README.md`", &commit]),
        (3, ["dockerfile: ", "no file `b/Dockerfile`", &commit]),
        (4, ["include: ", "`src/**` matches no file of the folder `base`", &commit]),
        (5, ["exclude: ", "`a[z-a]` is not a glob", ""]),
        (7, ["path: ", "the `.dockerignore` of `ignored`", "`a[b` is no pattern"]),
        (9, ["path: ", "`large-ignore`", "no text of at most 1 MiB"]),
    ] {
        let message = message(index);
        assert!(message.starts_with(texts[0]), "{message}");
        assert!(texts.iter().all(|text| message.contains(text)), "{message}");
    }
    let large = read[8].as_ref().expect("a revision");
    assert_eq!(large.dockerfile, None, "what is too large is not read");
    assert!(matches!(read[1], Err(FolderError::NoFolder { .. })));
}

#[tokio::test]
async fn a_folder_that_moves_is_the_same_folder_elsewhere() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    repository.file("app/Dockerfile", "FROM b\n");
    repository.file("app/src/a", "1");
    repository.commit();
    let before = revisions(&server, &[folder("app")]).await;
    repository.git(&["mv", "app", "moved"]);
    repository.git(&["commit", "--quiet", "--message=move"]);
    let read = read(&server, &[folder("app"), folder("moved")]).await;
    assert!(matches!(read[0], Err(FolderError::NoFolder { .. })), "{read:?}");
    let moved = read[1].as_ref().expect("a revision");
    assert_eq!(std::slice::from_ref(&moved.revision), &*before);
    assert_eq!(touched(moved), [&moved.commit], "what is older had no such folder");
}

#[tokio::test]
async fn what_is_left_out_changes_no_revision() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    repository.file("app/Dockerfile", "FROM b\n");
    repository.file("app/.dockerignore", "docs\nDockerfile\n!docs/keep\n");
    repository.file("app/docs/a", "1");
    repository.file("app/docs/keep", "1");
    repository.file("app/src/a", "1");
    repository.file("Dockerfile", "FROM b\n");
    repository.commit();
    // The whole repository is the context of the second, and only `app/src` of the third.
    let folders = [folder("app"), filtered("", &[], &["docs/"]), filtered("", &["/app/src"], &[])];
    let mut last = revisions(&server, &folders).await;
    for (path, changes) in [
        ("app/docs/a", [false, false, false]),
        ("app/docs/new", [false, false, false]),
        ("app/docs/keep", [true, false, false]),
        ("app/src/a", [true, true, true]),
        ("app/Dockerfile", [true, true, false]),
        ("Dockerfile", [false, true, true]),
        ("README.md", [false, true, false]),
        ("docs/guide.md", [false, false, false]),
    ] {
        repository.file(path, "changed");
        let commit = repository.commit();
        let read: Vec<_> = read(&server, &folders)
            .await
            .into_iter()
            .map(|folder| folder.expect("a revision"))
            .collect();
        for (index, folder) in read.iter().enumerate() {
            assert_eq!(folder.revision != last[index], changes[index], "{path}: {index}");
            let has_touched = touched(folder).first() == Some(&commit.as_str());
            assert_eq!(has_touched, changes[index], "{path}: {index}");
        }
        last = read.into_iter().map(|folder| folder.revision).collect();
    }
    // Only the words of the file change, and it belongs to the context.
    repository.file("app/.dockerignore", "docs\nDockerfile\n!docs/keep\n# comment\n");
    repository.commit();
    let read = read(&server, &folders).await;
    assert_ne!(read[0].as_ref().expect("a revision").revision, last[0]);
    // The Dockerfile's own file takes precedence.
    repository.file("app/Dockerfile.dockerignore", "src\n");
    repository.commit();
    let before = revisions(&server, &folders[..1]).await;
    repository.file("app/src/a", "2");
    repository.commit();
    assert_eq!(revisions(&server, &folders[..1]).await, before);
}

#[tokio::test]
async fn a_server_that_cannot_filter_gives_the_same_revisions() {
    let repository = Repository::new();
    repository.file("app/Dockerfile", "FROM b\n");
    repository.file("app/.dockerignore", "docs\n");
    repository.file("app/docs/a", "1");
    repository.commit();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let folders = [folder("base"), folder("app"), folder("gone")];
    let partial = read(&server, &folders).await;
    server.take_traffic();
    repository.git(&["config", "uploadpack.allowFilter", "false"]);
    let shallow = read(&server, &folders).await;
    for (partial, shallow) in partial.iter().zip(&shallow).take(2) {
        let (partial, shallow) = (partial.as_ref().expect("read"), shallow.as_ref().expect("read"));
        assert_eq!(partial.revision, shallow.revision);
        assert_eq!(partial.dockerfile, shallow.dockerfile);
        assert!(shallow.touched_by.is_empty(), "the history is not fetched");
        assert!(shallow.touched_since("any").has_more);
    }
    assert_eq!(partial[2], shallow[2]);
}
