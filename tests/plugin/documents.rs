//! The examples of `docs/plugin.md` show what the plugin prints.

use crate::runs::{root, run};

#[test]
fn the_outputs_in_the_document_are_those_of_the_plugin() {
    let text = std::fs::read_to_string(root().join("docs/plugin.md")).expect("the document");
    let examples = text.split("```console\n$ kubectl family ").skip(1);
    let mut found = 0;
    for example in examples {
        let block = example.split("```").next().expect("a block");
        let (line, output) = block.split_once('\n').expect("a command and its output");
        assert_eq!(run(line).fine(), output, "{line}");
        found += 1;
    }
    assert!(found >= 2, "the document has {found} examples");
}
