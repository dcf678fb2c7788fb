//! Patterns of a `.dockerignore`, with the meaning that Docker and `BuildKit` give them.
//!
//! They differ from those of a `.gitignore`: each pattern begins at the root of the context, a
//! pattern that matches a folder matches what is in it, and a later pattern with `!` takes files
//! back even from a folder that is ignored. No crate implements them, so they are translated to
//! regular expressions here. That engine has no pattern whose search takes exponential time.

use regex::{Regex, RegexBuilder};

/// Maximum number of patterns. Docker has no limit.
const MAX_PATTERNS: usize = 1000;
/// Maximum size of one compiled pattern in bytes.
const MAX_COMPILED: usize = 256 << 10;

/// The patterns of a `.dockerignore`.
#[derive(Debug)]
pub(super) struct DockerIgnore {
    patterns: Vec<DockerPattern>,
}

#[derive(Debug)]
struct DockerPattern {
    /// Whether files that match are taken back.
    is_exception: bool,
    matcher: Regex,
}

/// A line that is no pattern.
#[derive(Debug)]
pub(super) struct InvalidLine {
    pub line: String,
    pub problem: String,
}

impl DockerIgnore {
    /// Parses a file. It is `None` if it ignores nothing.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidLine> {
        let mut patterns = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let invalid = |problem: String| InvalidLine { line: line.to_owned(), problem };
            let trimmed = line.trim();
            if trimmed.is_empty() {
                continue;
            }
            if patterns.len() == MAX_PATTERNS {
                return Err(invalid(format!("there are more than {MAX_PATTERNS} patterns")));
            }
            let (is_exception, pattern) = match trimmed.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, trimmed),
            };
            let Some(pattern) = cleaned(pattern) else {
                return Err(invalid("it names no file".into()));
            };
            let matcher = RegexBuilder::new(&expression(&pattern))
                .size_limit(MAX_COMPILED)
                .build()
                .map_err(|_| invalid("a `[` without `]`, or it is too long".into()))?;
            patterns.push(DockerPattern { is_exception, matcher });
        }
        let is_empty = patterns.iter().all(|pattern| pattern.is_exception);
        Ok((!is_empty).then_some(Self { patterns }))
    }

    /// Whether a file is ignored: the last pattern that matches it, or a folder above it, decides.
    pub fn ignores(&self, path: &str) -> bool {
        let folders = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        let paths: Vec<&str> = folders.chain([path]).collect();
        let is_match =
            |pattern: &&DockerPattern| paths.iter().any(|path| pattern.matcher.is_match(path));
        let last = self.patterns.iter().rev().find(is_match);
        last.is_some_and(|pattern| !pattern.is_exception)
    }
}

/// Returns a pattern as Go's `filepath.Clean` does, without a leading slash; `None` if nothing is
/// left.
fn cleaned(pattern: &str) -> Option<String> {
    let mut elements: Vec<&str> = Vec::new();
    for element in pattern.split('/') {
        match element {
            "" | "." => {}
            ".." if elements.last().is_some_and(|last| *last != "..") => {
                elements.pop();
            }
            // There is nothing above the root of the context.
            ".." if pattern.starts_with('/') => {}
            element => elements.push(element),
        }
    }
    match (elements.is_empty(), pattern.is_empty()) {
        (true, true) => None,
        // The root itself. No file has this path.
        (true, false) => Some(".".into()),
        (false, _) => Some(elements.join("/")),
    }
}

/// Returns the regular expression of a pattern.
fn expression(pattern: &str) -> String {
    let mut expression = String::from("^");
    let mut characters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '*' if !in_class => {
                if characters.next_if_eq(&'*').is_none() {
                    expression.push_str("[^/]*");
                    continue;
                }
                characters.next_if_eq(&'/');
                expression.push_str(if characters.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '?' if !in_class => expression.push_str("[^/]"),
            '\\' => {
                let escaped = characters.next().unwrap_or('\\');
                expression.push_str(&regex::escape(&escaped.to_string()));
            }
            '[' if !in_class => {
                in_class = true;
                expression.push('[');
            }
            ']' if in_class => {
                in_class = false;
                expression.push(']');
            }
            '^' | '-' if in_class => expression.push(character),
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression.push('$');
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values follow from the documentation of `.dockerignore` and from the tests of
    /// Docker's own matcher.
    #[test]
    fn patterns_mean_what_they_mean_to_docker() {
        for (lines, path, ignored) in [
            ("docs", "docs/a/b", true),
            ("docs", "x/docs/a", false),
            ("/docs/", "docs/a", true),
            ("./docs", "docs", true),
            ("*/temp*", "a/temporary", true),
            ("*/temp*", "a/b/temp", false),
            ("*/*/temp*", "a/b/temp/c", true),
            ("temp?", "tempa", true),
            ("temp?", "temp/", false),
            ("**/*.md", "a/b/c.md", true),
            ("**/*.md", "c.md", true),
            ("**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b/a/c", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b/c", true),
            ("*", "a/b", true),
            ("*\n!src", "src/a", false),
            ("*\n!src/a", "src/b", true),
            ("*\n!src\nsrc/test", "src/test/x", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("# docs", "docs", false),
            (" # docs", "# docs", true),
            ("  docs  ", "docs", true),
            ("! docs\ndocs\n! docs", "docs", false),
            ("a.b", "axb", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "ace", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a/../b", "b", true),
            ("docs(1)", "docs(1)", true),
            ("\u{feff}docs", "docs", true),
            ("/..", "a", false),
            (".", "a", false),
            ("a$", "a$", true),
            ("**/node_modules", "a/node_modules/b/c", true),
            ("**file", "dir/file", true),
        ] {
            let patterns = DockerIgnore::parse(lines).expect("patterns");
            let is_ignored = patterns.is_some_and(|patterns| patterns.ignores(path));
            assert_eq!(is_ignored, ignored, "{lines:?} {path}");
        }
        assert!(DockerIgnore::parse("\n# nothing\n!a\n").expect("patterns").is_none());
    }

    #[test]
    fn invalid_lines_are_named() {
        for (text, line) in [("ok\na[b", "a[b"), ("!", "!"), (&"x\n".repeat(1001), "x")] {
            assert_eq!(DockerIgnore::parse(text).expect_err(line).line, line);
        }
        let long = DockerIgnore::parse(&"(?:)*".repeat(200_000)).expect_err("too long");
        assert!(long.problem.contains("too long"));
    }
}
