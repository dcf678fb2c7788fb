//! Which files of a folder are the build context: the globs of `include` and `exclude`. Pure, so
//! that the controller computes the revision of a source from the same files that `prepare` writes.
//!
//! A list of globs is read as a `.gitignore`: the last glob that matches decides, `!` takes a path
//! out of the list again, and what is inside of a folder follows the folder.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::api::{GitSource, PathOutside};

/// Maximum number of globs in a list.
const MAX_GLOBS: usize = 64;
/// Maximum length of a glob in bytes.
const MAX_GLOB_LENGTH: usize = 255;
/// The characters that make an element of a glob more than a name.
const WILDCARDS: [char; 4] = ['*', '?', '[', '\\'];

/// The kind of an entry of a tree, as far as globs distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeEntryKind {
    /// A folder or a submodule.
    Folder,
    /// A file or a symbolic link.
    File,
}

/// Why the fields of a source that select files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionProblem {
    /// A list of globs is too long, or has a glob that cannot be used.
    #[error("`source.git.{field}`: {problem}")]
    Globs {
        /// `include` or `exclude`.
        field: &'static str,
        /// What is wrong with which glob.
        problem: String,
    },
    /// The Dockerfile is outside of the folder.
    #[error(transparent)]
    Dockerfile(#[from] PathOutside),
}

/// The files of a folder that are the build context.
#[derive(Clone, Debug)]
pub struct Selection {
    include: GlobList,
    exclude: GlobList,
    /// Files that belong to the context whatever the globs say.
    always: Vec<PathBuf>,
}

/// Globs in the order in which they are written.
#[derive(Clone, Debug, Default)]
struct GlobList {
    set: GlobSet,
    rules: Vec<GlobRule>,
}

/// What one glob says, apart from its pattern.
#[derive(Clone, Debug)]
struct GlobRule {
    /// Whether it takes a path out of the list again (`!`).
    is_negated: bool,
    /// Whether it matches folders only (a slash at the end).
    folders_only: bool,
    /// The names with which every path begins that it can match; none if it matches at any depth.
    prefix: Option<Vec<String>>,
}

impl Selection {
    /// Creates a selection for a folder. `dockerfile` is the path of the Dockerfile in the folder.
    /// The Dockerfile and the `.dockerignore` files that a builder reads always belong to it.
    ///
    /// # Errors
    /// Returns an error that names the field and the glob that cannot be used.
    pub fn new(
        include: &[String],
        exclude: &[String],
        dockerfile: &str,
    ) -> Result<Self, SelectionProblem> {
        let always = [dockerfile, &format!("{dockerfile}.dockerignore"), ".dockerignore"];
        Ok(Self {
            include: GlobList::compile("include", include)?,
            exclude: GlobList::compile("exclude", exclude)?,
            always: always.into_iter().map(PathBuf::from).collect(),
        })
    }

    /// Creates the selection of a source.
    ///
    /// # Errors
    /// Returns an error that names the field and what is wrong with it.
    pub fn of(source: &GitSource) -> Result<Self, SelectionProblem> {
        Self::new(&source.include, &source.exclude, &source.dockerfile_path()?)
    }

    /// Verifies the fields of a source, at a fraction of the cost of [`Self::of`].
    ///
    /// # Errors
    /// Returns an error that names the field and what is wrong with it.
    pub fn verify(source: &GitSource) -> Result<(), SelectionProblem> {
        source.dockerfile_path()?;
        ParsedGlobs::parse("include", &source.include)?;
        ParsedGlobs::parse("exclude", &source.exclude).map(drop)
    }

    /// Whether all files of the folder belong to the context, because there are no globs.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.include.rules.is_empty() && self.exclude.rules.is_empty()
    }

    /// Whether a path of the folder belongs to the context. A folder belongs to it if a file inside
    /// of it may.
    #[must_use]
    pub fn keeps(&self, path: &Path, kind: TreeEntryKind) -> bool {
        if self.is_everything() || self.is_always_kept(path, kind) {
            return true;
        }
        if self.exclude.covers(path, kind) {
            return false;
        }
        self.include.rules.is_empty()
            || self.include.covers(path, kind)
            || kind == TreeEntryKind::Folder && self.include.may_match_inside(path)
    }

    /// Whether `include` names files. Then one of them must exist.
    #[must_use]
    pub fn requires_a_match(&self) -> bool {
        !self.include.rules.is_empty()
    }

    /// Whether a glob of `include` matches a file or one of its folders.
    #[must_use]
    pub fn is_included(&self, file: &Path) -> bool {
        self.include.covers(file, TreeEntryKind::File)
    }

    fn is_always_kept(&self, path: &Path, kind: TreeEntryKind) -> bool {
        self.always.iter().any(|always| match kind {
            TreeEntryKind::File => always == path,
            TreeEntryKind::Folder => always.starts_with(path) && always != path,
        })
    }
}

impl GlobList {
    fn compile(field: &'static str, globs: &[String]) -> Result<Self, SelectionProblem> {
        let ParsedGlobs { globs, rules } = ParsedGlobs::parse(field, globs)?;
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(glob);
        }
        let set = set.build().map_err(|error| SelectionProblem::Globs {
            field,
            problem: error.kind().to_string(),
        })?;
        Ok(Self { set, rules })
    }

    /// Whether the list contains a path or one of its folders.
    fn covers(&self, path: &Path, kind: TreeEntryKind) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let mut folders: Vec<&Path> =
            path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        folders.into_iter().any(|folder| self.matches(folder, TreeEntryKind::Folder))
            || self.matches(path, kind)
    }

    /// Whether the last glob that matches this path adds it to the list.
    fn matches(&self, path: &Path, kind: TreeEntryKind) -> bool {
        let matching = self.set.matches(path).into_iter().filter_map(|index| {
            let rule = self.rules.get(index)?;
            (kind == TreeEntryKind::Folder || !rule.folders_only).then_some((index, rule))
        });
        matching.max_by_key(|(index, _)| *index).is_some_and(|(_, rule)| !rule.is_negated)
    }

    /// Whether a glob may match something inside of a folder that the list does not contain.
    fn may_match_inside(&self, folder: &Path) -> bool {
        self.rules.iter().filter(|rule| !rule.is_negated).any(|rule| match &rule.prefix {
            None => true,
            Some(prefix) => {
                prefix.iter().zip(folder).all(|(expected, name)| name == expected.as_str())
            }
        })
    }
}

/// The globs of a list, parsed and not compiled.
struct ParsedGlobs {
    globs: Vec<Glob>,
    rules: Vec<GlobRule>,
}

impl ParsedGlobs {
    fn parse(field: &'static str, texts: &[String]) -> Result<Self, SelectionProblem> {
        let wrong = |problem: String| SelectionProblem::Globs { field, problem };
        if texts.len() > MAX_GLOBS {
            return Err(wrong(format!("it has more than {MAX_GLOBS} globs")));
        }
        let (mut globs, mut rules) = (Vec::new(), Vec::new());
        for text in texts {
            let parsed = ParsedGlob::parse(text)
                .map_err(|problem| wrong(format!("`{}` {problem}", shown(text))))?;
            let glob = GlobBuilder::new(&parsed.pattern)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| {
                    wrong(format!("`{}` is not a glob: {}", shown(text), error.kind()))
                })?;
            globs.push(glob);
            rules.push(parsed.rule);
        }
        Ok(Self { globs, rules })
    }
}

/// One glob in the form that `globset` reads.
struct ParsedGlob {
    pattern: String,
    rule: GlobRule,
}

impl ParsedGlob {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_GLOB_LENGTH {
            return Err("is longer than 255 bytes");
        }
        if text.chars().any(char::is_control) {
            return Err("contains a control character");
        }
        let (is_negated, glob) = match text.strip_prefix('!') {
            Some(glob) => (true, glob),
            None => (false, text),
        };
        let (folders_only, glob) = match glob.strip_suffix('/') {
            Some(glob) => (true, glob),
            None => (false, glob),
        };
        let mut is_anchored = glob.contains('/');
        let mut glob = glob;
        while let Some(rest) = glob.strip_prefix("./") {
            glob = rest;
        }
        glob = glob.strip_prefix('/').unwrap_or(glob);
        if glob == "**" {
            is_anchored = false;
        }
        let elements: Vec<&str> = glob.split('/').collect();
        if elements.contains(&"..") {
            return Err("must not contain `..`: only files below `path` are in the build context");
        }
        if elements.iter().any(|element| matches!(*element, "" | ".")) {
            return Err("names no file: write `**` for all files, or omit the glob");
        }
        let prefix = is_anchored.then(|| {
            let names = elements.iter().take_while(|element| !element.contains(WILDCARDS));
            names.map(|name| (*name).to_owned()).collect()
        });
        let pattern = without_alternates(glob);
        let pattern = if is_anchored { pattern } else { format!("**/{pattern}") };
        Ok(Self { pattern, rule: GlobRule { is_negated, folders_only, prefix } })
    }
}

/// Escapes the braces of a glob, which have no meaning in a `.gitignore`.
fn without_alternates(glob: &str) -> String {
    let mut escaped = String::with_capacity(glob.len());
    let mut is_escaped = false;
    let mut in_class = false;
    for character in glob.chars() {
        match character {
            '{' | '}' | ',' if !is_escaped && !in_class => escaped.push('\\'),
            '[' if !is_escaped => in_class = true,
            ']' if !is_escaped => in_class = false,
            _ => {}
        }
        is_escaped = character == '\\' && !is_escaped && !in_class;
        escaped.push(character);
    }
    escaped
}

/// Returns the beginning of a text for a message, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        Selection::new(&owned(include), &owned(exclude), "build/Dockerfile").expect("globs")
    }

    fn keeps_file(selection: &Selection, path: &str) -> bool {
        selection.keeps(Path::new(path), TreeEntryKind::File)
    }

    fn keeps_folder(selection: &Selection, path: &str) -> bool {
        selection.keeps(Path::new(path), TreeEntryKind::Folder)
    }

    /// Each case as `git check-ignore` answers, except that Git never matches `./docs`.
    #[test]
    fn a_glob_matches_as_in_a_gitignore() {
        for (glob, matching, others) in [
            ("*.md", &["a.md", "x/y/a.md"][..], &["a.mdx", "md"][..]),
            ("docs", &["docs", "docs/a", "x/docs/a"], &["docsx/a"]),
            ("docs/", &["docs/a", "x/docs/a"], &["docs"]),
            ("/docs", &["docs", "docs/a"], &["x/docs/a"]),
            ("./docs", &["docs/a"], &["x/docs/a"]),
            ("a/b", &["a/b", "a/b/c"], &["x/a/b"]),
            ("a/*.c", &["a/x.c"], &["a/b/x.c"]),
            ("a/**/b", &["a/b", "a/x/y/b"], &["x/a/b"]),
            ("**/b", &["b", "x/b", "x/y/b/c"], &["xb"]),
            ("a/**", &["a/b", "a/b/c"], &["a"]),
            ("**", &["a", "a/b"], &[]),
            ("file?", &["file1", "x/file2"], &["file", "file12"]),
            ("[ab].txt", &["a.txt", "x/b.txt"], &["c.txt"]),
            ("a[!x]c", &["abc"], &["axc", "a/c"]),
            ("{a,b}", &["{a,b}"], &["a", "b"]),
            ("[{]x", &["{x"], &["x"]),
            (r"\!a", &["!a"], &["a"]),
            (r"a\*", &["a*"], &["ab"]),
        ] {
            let selection = selection(&[glob], &[]);
            for path in matching {
                assert!(keeps_file(&selection, path), "{glob} matches {path}");
                assert!(selection.is_included(Path::new(path)), "{glob} matches {path}");
            }
            for path in others {
                assert!(!keeps_file(&selection, path), "{glob} does not match {path}");
            }
        }
    }

    #[test]
    fn the_last_glob_decides_and_a_folder_decides_for_its_content() {
        let selection = selection(&[], &["docs/*", "!docs/keep.md", "lib", "!lib/a"]);
        assert!(keeps_file(&selection, "docs/keep.md") && keeps_folder(&selection, "docs"));
        assert!(!keeps_file(&selection, "docs/other.md"));
        assert!(!keeps_file(&selection, "lib/a"), "its folder is left out");
    }

    #[test]
    fn exclude_wins_over_include() {
        let selection = selection(&["src"], &["*.md"]);
        assert!(keeps_file(&selection, "src/a.rs"));
        for path in ["src/a.md", "other/a.rs"] {
            assert!(!keeps_file(&selection, path), "{path}");
        }
    }

    #[test]
    fn the_dockerfile_is_always_in() {
        for selection in [selection(&["src"], &[]), selection(&[], &["**"])] {
            for path in ["build/Dockerfile", "build/Dockerfile.dockerignore", ".dockerignore"] {
                assert!(keeps_file(&selection, path), "{path}");
            }
            assert!(keeps_folder(&selection, "build"), "the Dockerfile is inside");
            assert!(!keeps_file(&selection, "build/other"));
            assert!(!keeps_file(&selection, "x/build/Dockerfile"));
        }
        assert!(!selection(&["src"], &[]).is_included(Path::new("build/Dockerfile")));
    }

    #[test]
    fn a_folder_is_kept_if_a_file_in_it_may_be() {
        let anchored = selection(&["images/*/files", "/common"], &[]);
        for path in ["images", "images/app", "images/app/files", "common", "common/x"] {
            assert!(keeps_folder(&anchored, path), "{path}");
        }
        for path in ["docs", "x/images", "x/common"] {
            assert!(!keeps_folder(&anchored, path), "{path}");
        }
        assert!(keeps_folder(&selection(&["*.py"], &[]), "any/folder"));
        assert!(!keeps_folder(&selection(&["*.py"], &["any"]), "any/folder"));
    }

    #[test]
    fn without_globs_everything_is_kept() {
        let all = selection(&[], &[]);
        assert!(all.is_everything() && !all.requires_a_match());
        assert!(keeps_file(&all, "a/b") && keeps_folder(&all, "a"));
        let some = selection(&["a"], &[]);
        assert!(!some.is_everything() && some.requires_a_match());
        assert!(!selection(&[], &["a"]).requires_a_match());
    }

    #[test]
    fn an_unusable_glob_is_named_with_its_field() {
        let long = "x".repeat(256);
        for (glob, said) in [
            ("../secrets", "`../secrets` must not contain `..`"),
            ("a/../b", "must not contain `..`"),
            ("!../b", "must not contain `..`"),
            ("[a", "`[a` is not a glob"),
            ("[z-a]", "is not a glob"),
            ("/", "names no file"),
            ("!", "names no file"),
            (".", "names no file"),
            ("a//b", "names no file"),
            ("", "names no file"),
            ("a\nb", "`ab` contains a control character"),
            (&long, "is longer than 255 bytes"),
        ] {
            let globs = [glob.to_owned()];
            let error = Selection::new(&globs, &[], "Dockerfile").expect_err(glob).to_string();
            assert!(error.starts_with("`source.git.include`: ") && error.contains(said), "{error}");
            let source = GitSource { exclude: globs.into(), ..GitSource::default() };
            let error = Selection::of(&source).expect_err(glob);
            assert!(error.to_string().starts_with("`source.git.exclude`: "), "{error}");
            assert_eq!(Selection::verify(&source), Err(error));
        }
        let many = vec!["a".to_owned(); 65];
        let error = Selection::new(&many, &[], "Dockerfile").expect_err("many").to_string();
        assert!(error.contains("more than 64 globs"), "{error}");
    }

    /// A glob that keeps a backtracking matcher busy for years.
    #[test]
    fn a_hostile_glob_is_matched_in_linear_time() {
        let selection = selection(&[&format!("{}c", "a*".repeat(120))], &[]);
        assert!(!keeps_file(&selection, &"a".repeat(4000)));
        assert!(keeps_file(&selection, &format!("{}c", "a".repeat(4000))));
    }
}
