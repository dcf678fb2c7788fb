//! Files of build arguments: lines of `NAME=VALUE`, as `--build-arg-file` reads them.

use std::collections::BTreeMap;

use crate::import::tree::SourceTree;

/// Returns the entries of a text. Empty lines and comments are skipped. A line without `=` takes
/// its value from the environment of the build, so that it is skipped, too.
pub fn pairs(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let entries = lines.filter_map(|line| line.split_once('='));
    entries.map(|(key, value)| (key.trim().to_owned(), unquoted(value.trim()))).collect()
}

fn unquoted(value: &str) -> String {
    let inner =
        ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(value).to_owned()
}

/// Returns the arguments that files next to a Dockerfile set: `build.args`, and over it a file with
/// the name of the Dockerfile and `.args`.
pub fn of_dockerfile(tree: &SourceTree, path: &str) -> BTreeMap<String, String> {
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let mut args = BTreeMap::new();
    for name in [format!("{folder}build.args"), format!("{path}.args")] {
        if let Some(file) = tree.build_args.get(&name) {
            args.extend(pairs(&file.text));
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tree::TreeFile;

    #[test]
    fn lines_are_entries() {
        let pairs = pairs("# a comment\n\nA=1\n B = \"x y\" \nFROM_ENV\nC='a=b'\n");
        let expected = [("A", "1"), ("B", "x y"), ("C", "a=b")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn the_file_of_the_dockerfile_wins() {
        let mut tree = SourceTree::default();
        for (path, text) in [("a/build.args", "A=1\nB=1"), ("a/Dockerfile.args", "B=2")] {
            let file = TreeFile { path: path.into(), text: text.into() };
            tree.build_args.insert(path.into(), file);
        }
        let args = of_dockerfile(&tree, "a/Dockerfile");
        assert_eq!(args.into_values().collect::<Vec<_>>(), ["1", "2"]);
        assert!(of_dockerfile(&tree, "Dockerfile").is_empty());
    }
}
