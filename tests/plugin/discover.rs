//! `kubectl family discover`.

use crate::runs::{Files, run};

#[test]
fn a_registry_that_does_not_answer_is_an_error() {
    for (line, problem) in [
        ("discover localhost:1 --plain-http localhost:1", "does not list its repositories"),
        ("discover localhost:1/team --plain-http localhost:1", "there is no image"),
        ("discover team", "is no registry"),
        ("discover", "REGISTRY"),
        ("discover localhost:1 --images /none", "cannot be used"),
        ("discover --images /none", "/none"),
    ] {
        let found = run(line);
        assert_eq!(found.code, Some(2), "{line}: {found:?}");
        assert!(found.stderr.contains(problem), "{line}: {}", found.stderr);
        assert_eq!(found.stdout, "", "{line}");
    }
}

#[test]
fn a_list_that_has_no_reference_is_named_with_its_line() {
    let files = Files::new(&[("list", "# images\n\n\u{1b}[31m\n")]);
    let found = run(&format!("discover --images {}", files.path("list").display()));
    assert_eq!(found.code, Some(2), "{found:?}");
    assert!(found.stderr.contains("line 3"), "{}", found.stderr);
    assert!(!found.stderr.contains('\u{1b}'), "{:?}", found.stderr);
}
