//! One word for one thing: the words that this project does not use, each with the word to use
//! instead.
//!
//! They are searched in comments, strings and identifiers alike: names in `snake_case`, `CamelCase`
//! and `kebab-case` are read as words, and a phrase is found across the end of a line.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use regex::Regex;

use crate::sources::{own_files, read};

/// This file, which contains the words.
const LIST: &str = "tests/architecture/words.rs";

/// The table of renames in it has the old names.
const CHANGELOG: &str = "CHANGELOG.md";

/// A word that is not ours, and what to write instead. The word is a regular expression over lower
/// case words with one space between them; it begins and ends at a word's boundary.
const REPLACED: [(&str, &str); 43] = [
    // Terms: one word for one thing.
    ("waves?", "cascade"),
    ("family ?images?|fimgs?", "ManagedImage, mimg"),
    ("sights?|sightings?", "observed"),
    ("wish(es|ed)?", "request, effect"),
    ("storms?", "rate limit"),
    ("ledgers?", "quota, reservation"),
    ("obstacles?", "problem"),
    ("doubt(s|ed|ful|ing)?", "invalidate; not known"),
    (
        "(a|an|each|every|one|this|that|the|per|next|last|previous|same|first|another|let|let mut) \
      pass",
        "reconcile",
    ),
    ("(two|three|many|all|later|further|several|between|of|these|the) passes", "reconciles"),
    ("pass(es|ed|ing)? over", "reconcile; skip"),
    ("persons?|people", "user"),
    ("told|tells? of|telling of", "the message says, is reported"),
    ("in words", "in the message"),
    ("worlds?", "snapshot, cluster, records"),
    ("observations?", "observed; input"),
    ("announc(e|es|ed|ing|ement|ements)", "record, name"),
    ("good", "verified, valid"),
    ("seen|saw", "observed, received"),
    ("settl(e|ing) time", "quiet time"),
    ("budgets?", "limit, allowance; retry budget"),
    // Idioms that are translated word by word.
    ("(stand|stands|stood|standing) on", "is built on, depends on"),
    ("what (stands|stood) (there|under)", "what the tag points to"),
    ("anew", "again; recreated"),
    ("by hand", "manually"),
    ("put(s|ting)? back", "restored"),
    ("(come|comes|came|coming) whole", "completes"),
    ("to (its|their) ends?", "runs to completion"),
    ("so many", "N, at most N per"),
    ("for the next one", "is picked up by the next cascade"),
    ("is of the", "belongs to"),
    ("for (it|they) (is|are|has|have|was|were|may|can)", "because"),
    ("beside", "in addition to; next to"),
    ("of (no )?use", "useful, useless"),
    ("may be there", "may exist"),
    ("on (its|their) way", "in progress"),
    ("(is|are|was|were|be|been) away", "is unreachable"),
    ("(look|looks|looked|looking) at", "reads, checks, inspects"),
    ("(keep|keeps|kept|keeping) from", "prevented from"),
    ("(came|comes?|coming|became|becomes?) of", "result of"),
    ("(set|sets|setting) (it |them )?off", "cause, start"),
    ("(container|sidecar|pod)s? of others", "foreign; that something else has added"),
    ("for good", "permanently"),
];

/// Phrases in which such a word is right, and why.
const ALLOWED: [(&str, &str); 4] = [
    ("budget: serde yaml::budget!", "the option of the YAML parser that bounds what it reads"),
    ("retry budget", "what `policy.retries` leaves of the attempts"),
    ("etc/apk/world", "the file of apk that lists what a user has installed"),
    ("disruption budget", "the kind `PodDisruptionBudget` of Kubernetes"),
];

/// The words of a text, in lower case and with one space between them, and the line that each byte
/// comes from.
struct Words {
    text: String,
    lines: Vec<usize>,
}

impl Words {
    fn of(text: &str) -> Self {
        let mut words = Self { text: String::new(), lines: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            words.add_line(without_markers(line), number);
        }
        words
    }

    /// The words of a text without the rows of its tables.
    fn outside_of_tables(text: &str) -> Self {
        let is_row = |line: &str| line.starts_with('|');
        let lines = text.lines().map(|line| if is_row(line) { "" } else { line });
        Self::of(&lines.collect::<Vec<_>>().join("\n"))
    }

    fn add_line(&mut self, line: &str, number: usize) {
        // Inline markup: emphasis and code.
        let characters: Vec<char> =
            line.chars().filter(|character| !"*`".contains(*character)).collect();
        for (position, &character) in characters.iter().enumerate() {
            if character.is_whitespace() || "_-".contains(character) {
                self.separate(number);
                continue;
            }
            let before = position.checked_sub(1).and_then(|before| characters.get(before));
            let after = characters.get(position + 1);
            if before.is_some_and(|before| is_hump(*before, character, after.copied())) {
                self.separate(number);
            }
            character.to_lowercase().for_each(|lower| self.push(lower, number));
        }
        self.separate(number);
    }

    fn push(&mut self, character: char, line: usize) {
        self.text.push(character);
        self.lines.resize(self.text.len(), line + 1);
    }

    fn separate(&mut self, line: usize) {
        if !self.text.ends_with(' ') {
            self.push(' ', line);
        }
    }

    /// Whether an allowed phrase covers this range.
    fn is_allowed(&self, range: &Range<usize>, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| {
            self.text
                .match_indices(phrase)
                .any(|(start, _)| start <= range.start && range.start < start + phrase.len())
        })
    }

    /// Whether this is `ImageFamily` at the end of a line, as in a heading, and a sentence that
    /// begins with the word `image`.
    fn is_across_a_heading(&self, range: &Range<usize>) -> bool {
        let follows_image = self.text[..range.start].ends_with("image ");
        follows_image && self.lines[range.start] != self.lines[range.end - 1]
    }

    /// Every word that is to be replaced, but for those inside of the allowed phrases.
    fn replaced(&self, list: &[Entry], phrases: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for entry in list {
            for word in entry.pattern.find_iter(&self.text) {
                let range = word.range();
                if !self.is_allowed(&range, phrases) && !self.is_across_a_heading(&range) {
                    let line = self.lines[word.start()];
                    found.push(format!("{line}: `{}`; write: {}", word.as_str(), entry.instead));
                }
            }
        }
        found
    }
}

/// A line without the signs before its words: of a comment, a quotation, a list, a table or a
/// template; and without the sign that continues a string or a command on the next line.
fn without_markers(line: &str) -> &str {
    let signs = |character: char| character.is_whitespace() || "/!#>*|-{".contains(character);
    line.trim_start_matches(signs).trim_end().trim_end_matches('\\')
}

/// Whether a word begins at `character` in a name: `nextWave`, `wave2`, `HTTPWave`.
fn is_hump(before: char, character: char, after: Option<char>) -> bool {
    let is_acronym_end = before.is_uppercase() && after.is_some_and(char::is_lowercase);
    character.is_uppercase() && (before.is_lowercase() || is_acronym_end)
        || before.is_numeric() && character.is_alphabetic()
        || before.is_alphabetic() && character.is_numeric()
}

struct Entry {
    pattern: Regex,
    instead: &'static str,
}

fn entries() -> Vec<Entry> {
    let compile = |(word, instead)| {
        let pattern = Regex::new(&format!(r"\b(?:{word})\b")).expect("a regular expression");
        Entry { pattern, instead }
    };
    REPLACED.into_iter().map(compile).collect()
}

fn allowed_phrases() -> Vec<&'static str> {
    ALLOWED.iter().map(|(phrase, _)| *phrase).collect()
}

/// The words of every text that this project has written, and of its path.
fn all_words() -> impl Iterator<Item = (PathBuf, Words)> {
    own_files().into_iter().filter(|path| path != Path::new(LIST)).filter_map(|path| {
        let text = read(&path)?;
        let words = if path == Path::new(CHANGELOG) {
            Words::outside_of_tables(&text)
        } else {
            Words::of(&text)
        };
        Some((path, words))
    })
}

#[test]
fn every_thing_has_one_word() {
    let (list, phrases) = (entries(), allowed_phrases());
    let mut found = Vec::new();
    for (path, words) in all_words() {
        let name = Words::of(&path.to_string_lossy().replace(['/', '.'], " "));
        let of_name = name.replaced(&list, &phrases);
        let replaced = words.replaced(&list, &phrases).into_iter().chain(of_name);
        found.extend(replaced.map(|word| format!("{}:{word}", path.display())));
    }
    assert!(found.is_empty(), "{} words are not ours:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_allowance_is_needed() {
    let list = entries();
    let texts: Vec<Words> = all_words().map(|(_, words)| words).collect();
    for (phrase, reason) in ALLOWED {
        let is_needed = |words: &Words| {
            words.replaced(&list, &[phrase]).len() < words.replaced(&list, &[]).len()
        };
        assert!(texts.iter().any(is_needed), "nothing needs `{phrase}`; remove it");
        assert!(!reason.is_empty(), "`{phrase}` has no reason");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        Words::of(text).replaced(&entries(), &[]).len()
    }

    #[test]
    fn words_are_found_in_prose_and_names() {
        for text in [
            "the wave begins",
            "let next_waves = 1;",
            "struct WaveRecord;",
            "kind: FamilyImage",
            "fn family_image()",
            "kubectl get fimg",
            "a standing-on list",
            "/// It stands\n    /// on its parent.",
            "//! made\n//! anew",
            "\"put \\\n   back\"",
            "fn what_comes_whole_is_whole()",
            "told: String",
            "each pass",
            "let pass = 1;",
            "# a comment of\n# use",
            "> a person",
            "On its way.",
            "wave2",
            "HTTPWave",
            "put\n- back",
            "//! put\n//! * back",
            "| put\n| back |",
            "{{/* by\n*/ hand",
            "by *hand*",
            "made `anew`",
            "struct ImageFamilyImage;",
            "let image_family_image = 1;",
            "the build budget",
        ] {
            assert_eq!(found(text), 1, "{text}");
        }
    }

    #[test]
    fn words_inside_of_other_words_are_not() {
        for text in [
            "a microwave",
            "fn surname_of_waveform()",
            "stands for",
            "an insight",
            "a check that passes",
            "undoubtedly",
            "personal",
            "unused",
            "besides",
        ] {
            assert_eq!(found(text), 0, "{text}");
        }
    }

    #[test]
    fn a_heading_ends_before_the_sentence_after_it() {
        assert_eq!(found("# ImageFamily\n\nImageFamily is a kind"), 0);
        assert_eq!(found("the family\nimages"), 1);
    }

    #[test]
    fn rows_of_tables_can_be_left_out() {
        let words = Words::outside_of_tables("| wave | cascade |\nthe wave\n");
        assert_eq!(words.replaced(&entries(), &[]).len(), 1);
    }

    #[test]
    fn an_allowed_phrase_covers_only_itself() {
        let budgets = Words::of("retry budgets, `PodDisruptionBudget`, a budget");
        assert_eq!(budgets.replaced(&entries(), &allowed_phrases()).len(), 1);
        let words = Words::of("side by side, beside the point; beside it");
        assert_eq!(words.replaced(&entries(), &["beside the point"]).len(), 1);
        assert_eq!(words.replaced(&entries(), &[]).len(), 2);
    }

    #[test]
    fn the_line_is_that_of_the_first_word() {
        let found = Words::of("one\ntwo by\nhand\n").replaced(&entries(), &[]);
        assert!(found[0].starts_with("2: `by hand`"), "{found:?}");
    }
}
