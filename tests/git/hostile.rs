//! Servers that answer with what no Git server sends.

use std::io::Write as _;

use futures::{StreamExt as _, stream};
use groundswell::{
    builds::git::{FolderError, GitFolder, subprocess},
    registry::AddressPolicy,
};

use super::*;

/// What a hostile server sends in place of objects.
#[derive(Clone)]
enum SentObjects {
    /// A pack without an end.
    Endless,
    /// The bytes of a pack.
    Pack(Vec<u8>),
    /// A message of an error.
    Message(String),
    /// No objects, but references without an end.
    References(ReferenceForm),
}

/// Where a server lists references.
#[derive(Clone, Copy)]
enum ReferenceForm {
    /// In its first answer, as servers do that do not know version 2 of the protocol.
    Advertised,
    /// In the answer to `ls-refs`.
    Listed,
}

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn packet(data: &[u8]) -> Vec<u8> {
    [format!("{:04x}", data.len() + 4).as_bytes(), data].concat()
}

fn answer(kind: &str, body: Body) -> Response<Body> {
    let kind = format!("application/x-git-upload-pack-{kind}");
    Response::builder().header(header::CONTENT_TYPE, kind).body(body).expect("response")
}

async fn serve_hostile(State(objects): State<SentObjects>, request: Request) -> Response<Body> {
    if request.method() == "GET" {
        if let SentObjects::References(ReferenceForm::Advertised) = objects {
            let first = format!("{COMMIT} refs/heads/a\0side-band-64k ofs-delta shallow\n");
            let start = [packet(b"# service=git-upload-pack\n"), b"0000".to_vec()];
            let start = [start.concat(), packet(first.as_bytes())].concat();
            return answer("advertisement", endless_references(start));
        }
        let lines: Vec<Vec<u8>> = ["version 2\n", "ls-refs\n", "fetch=shallow filter\n"]
            .map(|line| packet(line.as_bytes()))
            .into();
        return answer("advertisement", [lines.concat(), b"0000".to_vec()].concat().into());
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("body");
    if body.windows(7).any(|window| window == b"ls-refs") {
        if let SentObjects::References(_) = objects {
            return answer("result", endless_references(Vec::new()));
        }
        let line = packet(format!("{COMMIT} refs/heads/main\n").as_bytes());
        return answer("result", [line, b"0000".to_vec()].concat().into());
    }
    let start = packet(b"packfile\n");
    let body = match objects {
        SentObjects::Endless => {
            let chunk = packet(&vec![1; 60_000]);
            let chunks = stream::repeat(chunk).map(Ok::<_, std::io::Error>);
            Body::from_stream(stream::once(async { Ok(start) }).chain(chunks))
        }
        SentObjects::Pack(pack) => {
            let parts = pack.chunks(60_000).map(|part| packet(&[&[1], part].concat()));
            [start, parts.collect::<Vec<_>>().concat(), b"0000".to_vec()].concat().into()
        }
        SentObjects::References(_) => Body::empty(),
        SentObjects::Message(message) => packet(format!("ERR {message}").as_bytes()).into(),
    };
    answer("result", body)
}

/// Returns what a server sends that lists references without an end.
fn endless_references(start: Vec<u8>) -> Body {
    let thousand = |number: usize| {
        let line = |place| format!("{COMMIT} refs/heads/b{:0200}\n", number * 1000 + place);
        (0..1000).map(|place| packet(line(place).as_bytes())).collect::<Vec<_>>().concat()
    };
    let lines = stream::iter(0_usize..).map(thousand);
    let parts = stream::once(async { start }).chain(lines);
    Body::from_stream(parts.map(Ok::<_, std::io::Error>))
}

/// Starts a server that sends this in place of objects, and returns the URL of a repository.
async fn start(objects: SentObjects) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}/images", listener.local_addr().expect("address"));
    let router = Router::new().fallback(serve_hostile).with_state(objects);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn read(objects: SentObjects) -> GitError {
    let url = start(objects).await;
    resolve(&url, "main", None).await.expect_err("hostile")
}

fn git_with_input(repository: &Repository, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .args(arguments)
        .current_dir(repository.work())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    child.stdin.take().expect("input").write_all(input).expect("written");
    child.wait_with_output().expect("git").stdout
}

/// The memory that the child process may allocate does not depend on what a server sends.
#[tokio::test]
async fn the_process_that_reads_has_a_bound_on_its_memory() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}/images", silent.local_addr().expect("address"));
    let request = serde_json::json!({
        "url": url, "revision": "main", "credential": null, "known": null, "folders": [],
        "addresses": AddressPolicy::unrestricted(), "scratch": "/nowhere",
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_groundswell"))
        .arg(subprocess::SUBCOMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    let input = child.stdin.take().expect("input");
    serde_json::to_writer(input, &request).expect("written");
    let _connection = silent.accept().await.expect("it has read the request");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("limits");
    child.kill().and_then(|()| child.wait().map(drop)).expect("ended");
    let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("a line");
    let values: Vec<&str> = data.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values, ["201326592", "201326592"], "{data}");
}

#[tokio::test]
async fn a_server_that_sends_without_an_end_is_stopped() {
    let error = read(SentObjects::Endless).await;
    assert!(
        matches!(error, GitError::TooLarge { .. }) && error.to_string().contains("16 MiB"),
        "{error}"
    );
}

#[tokio::test]
async fn references_without_an_end_are_not_kept() {
    for form in [ReferenceForm::Advertised, ReferenceForm::Listed] {
        let error = read(SentObjects::References(form)).await;
        assert!(
            matches!(error, GitError::TooLarge { .. }) && error.to_string().contains("1 MiB"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn another_commit_under_the_wanted_id_is_not_accepted() {
    let repository = Repository::new();
    let head = repository.git(&["rev-parse", "HEAD"]);
    let pack = git_with_input(
        &repository,
        &["pack-objects", "--stdout", "--revs", "--quiet"],
        format!("{head}\n").as_bytes(),
    );
    let error = read(SentObjects::Pack(pack.clone())).await;
    assert!(matches!(&error, GitError::NotFound { what, .. } if what.contains(COMMIT)), "{error}");
    let mut damaged = pack;
    damaged[40] ^= 1;
    let error = read(SentObjects::Pack(damaged)).await;
    assert!(error.to_string().contains("its checksum is wrong"), "{error}");
}

#[tokio::test]
async fn a_message_of_the_server_is_short_and_one_line() {
    let error = read(SentObjects::Message(format!("no\x1b[31m\n{}", "x".repeat(60_000)))).await;
    let error = error.to_string();
    assert!(error.contains("the server says: no[31mxxx"), "{error}");
    assert!(error.len() < 400 && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn folders_nested_too_deeply_are_a_problem_of_one_image() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    // Deeper than any program may nest them, and deeper than a path on this disk may be.
    let file = String::from_utf8(git_with_input(
        &repository,
        &["hash-object", "-w", "--stdin"],
        b"FROM b\n",
    ));
    let file = file.expect("text").trim().to_owned();
    let make = |entries: &str| {
        let id = git_with_input(&repository, &["mktree"], entries.as_bytes());
        String::from_utf8(id).expect("text").trim().to_owned()
    };
    let files = format!("100644 blob {file}\tDockerfile\n100644 blob {file}\t.dockerignore\n");
    let mut nested = make(&files);
    for _ in 0..2000 {
        nested = make(&format!("{files}040000 tree {nested}\tn\n"));
    }
    // Every folder is the same, so that few objects have more paths than atoms exist.
    let mut wide = make(&files);
    for _ in 0..40 {
        let folders: Vec<String> = (0..9).map(|n| format!("040000 tree {wide}\t{n}\n")).collect();
        let folders = folders.concat();
        wide = make(&format!("{files}{folders}"));
    }
    let plain = make(&files);
    let root = make(&format!(
        "040000 tree {nested}\tnested\n040000 tree {plain}\tplain\n040000 tree {wide}\twide\n"
    ));
    let commit = repository.git(&["commit-tree", "-m", "deep", &root]);
    repository.git(&["update-ref", "refs/heads/main", &commit]);
    let folders = ["nested", "plain", "wide"].map(|path| GitFolder {
        path: path.into(),
        dockerfile: "Dockerfile".into(),
        ..GitFolder::default()
    });
    let url = server.url();
    let work = move || {
        let wanted = WantedFolders { folders: &folders, ..wanted(&url, "main") };
        let scratch = tempfile::tempdir().expect("folder");
        git::read_folders(&wanted, &scratch.path().join("scratch"))
    };
    let answer = tokio::task::spawn_blocking(work).await.expect("thread").expect("an answer");
    let FolderAnswer::Read { folders, .. } = answer else { panic!("nothing was known") };
    for index in [0, 2] {
        assert!(matches!(folders[index], Err(FolderError::TooLarge { .. })), "{folders:?}");
    }
    assert!(folders[1].is_ok(), "{folders:?}");
}
