//! Where the families come from, and what bad input gets.

use std::{io::Read as _, process::Stdio};

use crate::runs::{Files, plugin, run, run_with_input};

const FAMILY: &str = "examples/flask/family.yaml";

#[test]
fn the_standard_input_is_read() {
    let text = std::fs::read_to_string(crate::runs::root().join(FAMILY)).expect("an example");
    let from_file = run(&format!("graph -f {FAMILY}")).fine();
    assert_eq!(run_with_input("graph -f -", &text).fine(), from_file);
}

#[test]
fn wrong_input_is_reported_with_its_places_and_nothing_is_written() {
    let text = std::fs::read_to_string(crate::runs::root().join(FAMILY)).expect("an example");
    let files = Files::new(&[
        ("typo.yaml", &text.replace("images:", "imagse:")),
        ("broken.yaml", "apiVersion: groundswell.dev/v1alpha1\nkind: \"ImageFamily\n"),
        ("other.yaml", "kind: Secret\n"),
        ("notes.txt", "kind: ImageFamily\n"),
    ]);
    let failed = run(&format!("graph -f {}", files.folder()));
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:#?}");
    for expected in ["typo.yaml:", "spec.imagse: there is no such field", "broken.yaml:"] {
        assert!(failed.stderr.contains(expected), "{expected}: {}", failed.stderr);
    }
    assert!(!failed.stderr.contains("other.yaml"), "{}", failed.stderr);
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    let files = Files::new(&[("empty/x.txt", ""), ("binary.yaml", "\0\u{1}\u{2}")]);
    for (line, expected) in [
        (format!("graph -f {}", files.path("missing.yaml").display()), "no such file or folder"),
        (
            format!("graph -f {}", files.path("empty").display()),
            "no object of the kind ImageFamily",
        ),
        (format!("graph -f {}", files.path("binary.yaml").display()), "binary"),
        (format!("graph nothing -f {FAMILY}"), "there is no image or upstream nothing"),
        (format!("graph flsk -f {FAMILY}"), "did you mean flask"),
        ("graph --context nowhere --kubeconfig /nonexistent".into(), "read the kubeconfig"),
        (
            "graph -n elsewhere -f tests/plugin/recorded.yaml".into(),
            "no ImageFamily in namespace elsewhere",
        ),
        ("graph -R".into(), "--filename"),
        ("graph a//b".into(), "NAMESPACE/FAMILY/NAME"),
    ] {
        let failed = run(&line);
        assert_eq!(failed.code, Some(2), "{line}: {failed:#?}");
        assert!(failed.stderr.contains(expected), "{line}: {}", failed.stderr);
        assert!(!failed.stderr.contains("panicked"), "{line}: {}", failed.stderr);
    }
}

#[test]
fn without_a_kubeconfig_the_error_names_files_and_repeats_nothing() {
    for line in ["graph", "graph --kubeconfig /nonexistent/config"] {
        let failed = run(line);
        assert_eq!(failed.code, Some(2), "{line}: {failed:#?}");
        assert!(failed.stderr.contains("manifests with -f"), "{line}: {}", failed.stderr);
        assert_eq!(failed.stderr.matches("such file").count(), 1, "{line}: {}", failed.stderr);
        assert!(!failed.stderr.contains(['\'', '"']), "{line}: {}", failed.stderr);
    }
}

#[test]
fn a_pipe_that_is_named_as_a_file_does_not_hang() {
    let files = Files::new(&[]);
    let pipe = files.path("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let failed = run(&format!("graph -f {}", pipe.display()));
    assert_eq!(failed.code, Some(2));
    assert!(failed.stderr.contains("no regular file"), "{}", failed.stderr);
}

#[test]
fn a_context_that_does_not_exist_is_named_with_those_that_do() {
    let files = Files::new(&[(
        "config",
        "{apiVersion: v1, kind: Config, contexts: [{name: here, context: {cluster: c, user: u}}]}",
    )]);
    let config = files.path("config");
    let failed = run(&format!("graph --context there --kubeconfig {}", config.display()));
    assert_eq!(failed.code, Some(2));
    assert!(failed.stderr.contains("no context there; it has here"), "{}", failed.stderr);
}

#[test]
fn control_characters_of_a_file_never_reach_the_terminal() {
    let files = Files::new(&[(
        "f.yaml",
        "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata: {name: f}\n\
         spec: {repository: \"r.example/\\e[2J\", images: [{name: \"\\e[31m\"}]}\n",
    )]);
    let failed = run(&format!("graph -f {}", files.folder()));
    assert_eq!(failed.code, Some(2));
    assert!(!failed.stderr.contains('\u{1b}'), "{}", failed.stderr);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let mut child = plugin()
        .args(["graph", "-o", "svg", "-R", "-f", "examples"])
        .current_dir(crate::runs::root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin runs");
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().expect("its errors").read_to_string(&mut errors).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(errors, "");
}
