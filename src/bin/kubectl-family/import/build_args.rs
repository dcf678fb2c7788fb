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

/// Returns the entries of a `.env` file: as [`pairs`], with `export` before a name and a comment
/// after a value.
pub fn environment(text: &str) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let value = value.trim();
        let quote = value.chars().next().filter(|first| ['"', '\''].contains(first));
        let quoted = quote.and_then(|quote| value.get(1..)?.split_once(quote));
        let value = match quoted {
            Some((inner, _)) => inner,
            None if value.starts_with('#') => "",
            None => value.split_once(" #").map_or(value, |(value, _)| value.trim_end()),
        };
        entries.insert(name.to_owned(), value.to_owned());
    }
    entries
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
    fn an_environment_file_has_comments_and_exports() {
        let found = environment("A=1 # one\nexport B = x\nC='a # b' # c\nD=\nE=# none\nF=a#b\n");
        let expected = [("A", "1"), ("B", "x"), ("C", "a # b"), ("D", ""), ("E", ""), ("F", "a#b")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
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
