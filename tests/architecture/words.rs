//! One word for one thing: the words that this project does not use, each with the word to use
//! instead.
//!
//! They are searched in comments, strings and identifiers alike: names in `snake_case`, `CamelCase`
//! and `kebab-case` are read as words, and a phrase is found across the end of a line.

use std::{ops::Range, path::Path};

use regex::Regex;

use crate::sources::{files_below, read};

/// Where the words are searched.
const SEARCHED: [&str; 5] = ["src", "docs", "charts", "README.md", "CONTRIBUTING.md"];

/// A word that is not ours, and what to write instead. The word is a regular expression over lower
/// case words with one space between them; it begins and ends at a word's boundary.
const REPLACED: [(&str, &str); 32] = [
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
];

/// True uses of these words: the file, the phrase around the word in lower case, and why it is
/// right there.
const ALLOWED: [(&str, &str, &str); 0] = [];

/// `ImageFamily` before the word `image`, as in a heading and the sentence after it, is no
/// `FamilyImage`.
const AFTER_THE_KIND: &str = "image family image";

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
            let mut line = line.trim_start();
            for marker in ["///", "//!", "//", "#", ">"] {
                line = line.strip_prefix(marker).unwrap_or(line);
            }
            // The sign that continues a string, or a command, on the next line.
            let line = line.trim_end().trim_end_matches('\\');
            let mut before = ' ';
            for character in line.chars() {
                let is_hump = before.is_lowercase() && character.is_uppercase();
                if character.is_whitespace() || "_-".contains(character) {
                    words.separate(number);
                } else {
                    if is_hump {
                        words.separate(number);
                    }
                    character.to_lowercase().for_each(|lower| words.push(lower, number));
                }
                before = character;
            }
            words.separate(number);
        }
        words
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
                .any(|(start, _)| start <= range.start && range.end <= start + phrase.len())
        })
    }

    /// Every word that is to be replaced, but for those inside of the allowed phrases.
    fn replaced(&self, list: &[Entry], phrases: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for entry in list {
            for word in entry.pattern.find_iter(&self.text) {
                if !self.is_allowed(&word.range(), phrases) {
                    let line = self.lines[word.start()];
                    found.push(format!("{line}: `{}`; write: {}", word.as_str(), entry.instead));
                }
            }
        }
        found
    }
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

fn allowed_in(path: &Path) -> Vec<&'static str> {
    let of_file = ALLOWED.iter().filter(|(file, ..)| Path::new(file) == path);
    of_file.map(|(_, phrase, _)| *phrase).chain([AFTER_THE_KIND]).collect()
}

#[test]
fn every_thing_has_one_word() {
    let list = entries();
    let mut found = Vec::new();
    for path in SEARCHED.into_iter().flat_map(files_below) {
        let Some(text) = read(&path) else { continue };
        let replaced = Words::of(&text).replaced(&list, &allowed_in(&path));
        found.extend(replaced.into_iter().map(|word| format!("{}:{word}", path.display())));
    }
    assert!(found.is_empty(), "{} words are not ours:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_allowance_is_needed() {
    let list = entries();
    for (file, phrase, reason) in ALLOWED {
        let text = read(Path::new(file)).expect("a text");
        let words = Words::of(&text);
        let (with, without) = (words.replaced(&list, &[phrase]), words.replaced(&list, &[]));
        assert!(with.len() < without.len(), "{file}: nothing needs `{phrase}`; remove it");
        assert!(!reason.is_empty(), "{file}: `{phrase}` has no reason");
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
    fn an_allowed_phrase_covers_only_itself() {
        let kind = Words::of("# ImageFamily\n\nImageFamily is a kind");
        assert!(kind.replaced(&entries(), &allowed_in(Path::new("any"))).is_empty());
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
