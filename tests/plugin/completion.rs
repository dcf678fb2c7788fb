//! What a shell gets that completes a line, and that it is never kept waiting.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    sync::mpsc,
};

use serde_json::json;

use crate::{
    api_server::ApiServer,
    runs::{Files, plugin, root, run},
};

/// Lets a busy machine take its time.
const PATIENCE: (&str, &str) = ("KUBECTL_FAMILY_COMPLETE_SECONDS", "600");

/// Asks as kubectl does: the last word is being typed. Returns the lines of the answer.
fn ask(words: &[&str]) -> Vec<String> {
    ask_with(plugin().env(PATIENCE.0, PATIENCE.1), words)
}

fn ask_with(plugin: &mut Command, words: &[&str]) -> Vec<String> {
    let output = plugin
        .env("KUBECTL_FAMILY_COMPLETE", "kubectl")
        .args(["--", "kubectl-family"])
        .args(words)
        .current_dir(root())
        .output()
        .expect("the plugin runs");
    assert!(output.status.success(), "{words:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

const INPUT: [&str; 2] = ["-f", "examples/diamond/family.yaml"];

fn ask_about(words: &[&str], current: &str) -> Vec<String> {
    let (command, rest) = words.split_first().expect("a command");
    ask(&[&[*command], &INPUT[..], rest, &[current]].concat())
}

#[test]
fn commands_and_flags_are_completed_with_what_they_do() {
    let commands = ask(&["pl"]);
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[0].starts_with("plan\tShow what the controller would do"), "{commands:?}");
    assert_eq!(commands[1], ":4");
    assert_eq!(ask(&["graph", "-o", "merm"]), ["mermaid\tA diagram for Markdown documents", ":4"]);
    assert!(ask(&[""]).iter().all(|line| !line.starts_with('_')), "a hidden command");
    assert_eq!(ask(&["graph", "-f", "examples/dia"]), ["examples/diamond/", ":6"]);
}

#[test]
fn names_come_from_what_the_line_says() {
    assert_eq!(ask_about(&["why"], "l"), ["left", ":4"]);
    assert_eq!(ask_about(&["why"], "diamond/r"), ["diamond/right", ":4"]);
    assert_eq!(ask_about(&["impact"], "de"), ["debian", ":4"]);
    assert_eq!(ask_about(&["plan", "--move"], ""), ["debian", ":4"]);
    assert_eq!(ask_about(&["graph", "--focus"], "jo"), ["join", ":4"]);
    assert_eq!(
        ask(&["graph", "--filename=examples/diamond/family.yaml", "-n", "team", "jo"]),
        ["join", ":4"]
    );
}

#[test]
fn names_that_two_families_have_are_completed_with_the_family() {
    let family = |name: &str, image: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata: {{name: {name}}}\n\
             spec:\n  repository: registry.example.com/{name}\n  upstreams:\n  \
             - {{name: alpine, image: docker.io/library/alpine, follow: {{tag: '3'}}}}\n\
             \x20 images:\n  \
             - {{name: base, from: [{{upstream: alpine}}], source: {{inline: FROM alpine:3}}}}\n  \
             - {{name: {image}, from: [{{image: base}}], source: {{inline: FROM base}}}}\n"
        )
    };
    let files = Files::new(&[("a.yaml", &family("a", "app")), ("b.yaml", &family("b", "boot"))]);
    let folder = files.folder();
    assert_eq!(ask(&["why", "-f", &folder, "b"]), ["b/base", "boot", ":4"]);
    assert_eq!(ask(&["why", "-f", &folder, "a"]), ["a/base", "app", ":4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_names_are_those_of_the_cluster_and_of_the_image_on_the_line() {
    let image = json!({
        "name": "app", "from": [{"upstream": "debian"}], "source": {"inline": "FROM debian"},
        "checks": [{"name": "smoke", "command": ["true"]}, {"name": "scan", "command": ["true"]}],
    });
    let build = |number: i64, digest: &str| json!({"build": number, "digest": digest});
    let objects = vec![
        json!({
            "apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
            "metadata": {"name": "shop", "namespace": "team"},
            "spec": {"repository": "registry.example.com/shop", "images": [image],
                     "upstreams": [{"name": "debian", "image": "docker.io/library/debian",
                                    "follow": {"tag": "12"}}]},
        }),
        json!({
            "apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImage",
            "metadata": {"name": "shop.app", "namespace": "team"},
            "spec": {"family": "shop", "image": "app", "level": 1, "repository": "r"},
            "status": {"state": "Current", "history": [build(12, ""), build(11, "sha256:b")]},
        }),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "test"}}),
        json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "BuildStrategy",
               "metadata": {"name": "buildkit"}, "spec": {"template": {}}}),
    ];
    let server = ApiServer::start(objects, Vec::new()).await;
    let flags: Vec<String> = server.flag().split(' ').map(str::to_owned).collect();
    let ask = async |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (command, rest) = words.split_first().expect("a command");
        let words = [std::slice::from_ref(command), flags.as_slice(), rest].concat();
        let asked = move || ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let mut answer = tokio::task::spawn_blocking(asked).await.expect("an answer");
        assert_eq!(answer.pop().as_deref().map(|last| &last[..1]), Some(":"), "{line}");
        answer
    };
    assert_eq!(ask("status -n te").await, ["team", "test"]);
    assert_eq!(ask("status --context ").await, ["c"]);
    assert_eq!(ask("check --strategy b").await, ["buildkit"]);
    assert_eq!(ask("plan --set ").await, ["upstream.debian="]);
    assert_eq!(ask("logs shop/app --check s").await, ["smoke", "scan"]);
    assert_eq!(ask("logs --follow team/shop/app --build ").await, ["12", "11"]);
    assert_eq!(ask("diff app 1").await, ["11"], "build 12 has failed");
    assert_eq!(ask("rollback shop/app --to 1").await, ["11"]);
    assert_eq!(ask("logs other --build ").await, Vec::<String>::new());
    server.forbid(&["namespaces"]);
    assert_eq!(ask("status -n te").await, ["team"], "the namespaces that have families");
    assert_eq!(ask_about(&["graph", "-n"], ""), ["default", ":4"]);
}

#[test]
fn nothing_that_is_wrong_reaches_the_line() {
    let files = Files::new(&[("broken.yaml", "kind: \"ImageFamily\n")]);
    let broken = files.path("broken.yaml").display().to_string();
    for words in [
        &["why", "-f", &broken, ""][..],
        &["why", "-f", "/nonexistent", "x"],
        &["why", "--context", "nowhere", "x"],
        &["why", "-f", "-", "x"],
        &["nothing", "x"],
        &["why", "-A", "-n", "both", "x"],
    ] {
        let answer = ask(words);
        assert_eq!(answer.last().map(String::as_str), Some(":4"), "{words:?}: {answer:?}");
    }
}

/// The API server accepts the connection and never answers. The plugin has to give up on its own.
#[test]
fn a_cluster_that_does_not_answer_keeps_nobody_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let config = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, \
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         users: [{{name: u, user: {{}}}}], \
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]}}"
    );
    let files = Files::new(&[("config", &config)]);
    let path = files.path("config").display().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let words = ["why", "--request-timeout", "10h", "--kubeconfig", &path, "x"];
        sender.send(ask_with(&mut plugin(), &words)).expect("the test waits");
    });
    let answer = receiver.recv_timeout(std::time::Duration::from_mins(1)).expect("an answer");
    assert_eq!(answer, [":4"]);
    silent.accept().expect("the plugin has asked the cluster");
}

#[test]
fn the_script_for_kubectl_asks_the_plugin() {
    let files = Files::new(&[("kubectl_complete-family", &run("completion kubectl").fine())]);
    let script = files.path("kubectl_complete-family");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("a script");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_kubectl-family"));
    let path = format!("{}:/usr/bin:/bin", binary.parent().expect("a folder").display());
    let output = Command::new("/bin/sh")
        .arg(script)
        .args(["why", INPUT[0], INPUT[1], "le"])
        .env("PATH", path)
        .env(PATIENCE.0, PATIENCE.1)
        .current_dir(root())
        .output()
        .expect("the script runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "left\n:4\n");
}

/// Bash runs the script, and fills in `COMPREPLY`.
#[test]
fn the_script_for_bash_completes_names() {
    let script = run("completion bash").fine();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_kubectl-family"));
    let path = format!("{}:/usr/bin:/bin", binary.parent().expect("a folder").display());
    let line = format!(
        "{script}\nCOMP_WORDS=(kubectl-family why {} {} le)\nCOMP_CWORD=4\nCOMP_TYPE=9\n\
         _clap_complete_kubectl_family kubectl-family le {}\necho \"<${{COMPREPLY[*]}}>\"\n",
        INPUT[0], INPUT[1], INPUT[1]
    );
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &line])
        .env("PATH", path)
        .env(PATIENCE.0, PATIENCE.1)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout, "<left>\n", "{stderr}");
}

#[test]
fn every_shell_has_a_script() {
    for (shell, expected) in [("zsh", "#compdef kubectl-family"), ("fish", "complete ")] {
        let script = run(&format!("completion {shell}")).fine();
        assert!(script.starts_with(expected), "{script}");
        assert!(script.contains("KUBECTL_FAMILY_COMPLETE"), "{script}");
    }
    assert_eq!(run("completion tcsh").code, Some(2));
}

#[test]
fn man_pages_are_written_whole() {
    let files = Files::new(&[("file", "")]);
    let folder = files.path("man1");
    let names = run(&format!("man {}", folder.display())).fine();
    assert!(names.lines().any(|name| name.ends_with("man1/kubectl-family-graph.1")), "{names}");
    for name in names.lines() {
        let page = std::fs::read_to_string(name).expect("a page");
        assert!(page.contains(".TH "), "{name}");
    }
    let failed = run(&format!("man {}", files.path("file").display()));
    assert_eq!(failed.code, Some(2), "{failed:?}");
    assert!(failed.stderr.contains("file"), "{failed:?}");
}
