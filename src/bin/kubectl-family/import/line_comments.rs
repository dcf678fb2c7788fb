//! The comments in the lines of a field that is replaced.

/// Where the comments of the old lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommentPlace {
    /// To the end of the line of the same key or item, if there is one.
    SameLine,
    /// To lines of their own after the field.
    After,
}

/// An old line with a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommentedLine<'a> {
    /// What is before the comment.
    content: &'a str,
    /// The comment with its `#`.
    comment: &'a str,
}

impl<'a> CommentedLine<'a> {
    /// Divides a line at the column of its `#`, counted in characters from 0.
    pub fn new(line: &'a str, column: usize) -> Option<Self> {
        let (at, _) = line.char_indices().nth(column)?;
        let (content, comment) = line.split_at(at);
        Some(Self { content, comment: comment.trim_end() })
    }
}

/// Returns the new lines of a field with the comments of its old ones. Lines of their own have
/// `column` spaces before them.
pub fn with_comments(
    new: &str,
    old: &[CommentedLine<'_>],
    column: usize,
    place: CommentPlace,
) -> String {
    let mut lines: Vec<String> = new.lines().map(str::to_owned).collect();
    let mut left = Vec::new();
    for CommentedLine { content, comment } in old {
        let key = key_of(content);
        let is_same = |line: &&mut String| !key.is_empty() && key_of(line) == key;
        let same = lines.iter_mut().find(is_same).filter(|_| place == CommentPlace::SameLine);
        match same {
            Some(line) => line.extend([" ", comment]),
            None => left.push(format!("{}{comment}", " ".repeat(column))),
        }
    }
    lines.extend(left);
    lines.join("\n") + "\n"
}

/// Returns the key or the item that a line begins with.
fn key_of(line: &str) -> &str {
    let line = line.trim();
    line.split_once(": ").map_or(line, |(key, _)| key).trim_end_matches(':')
}
