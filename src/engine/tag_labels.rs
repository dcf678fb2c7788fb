//! Labels of built images in the templates of tags: which labels a template names, and what they
//! are in a template. The labels are known only after the build.

use std::collections::BTreeSet;

use minijinja::{Error, ErrorKind, Value};

use crate::{
    api::{LabelRecord, managed_image::MAX_TAG_LABELS},
    engine::templates::{Templates, expressions},
};

/// The variable of a template that holds the labels.
pub(in crate::engine) const LABEL_VARIABLE: &str = "label";
/// Upper bound on the length of a label's name in bytes.
const MAX_LABEL_NAME: usize = 128;
/// What a template must write to name a label.
const HOW_TO_NAME: &str = "name a label as `label[\"NAME\"]`, with at most 128 printable \
                           characters without quotes and blanks";

/// Returns the names of the labels that a template names.
///
/// The names do not depend on what the template renders to, so that they are known before a build.
///
/// # Errors
///
/// Returns what is wrong if a label is not named by a literal text.
pub(in crate::engine) fn named_labels(template: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    if !Templates::is_template(template) || !template.contains(LABEL_VARIABLE) {
        return Ok(names);
    }
    for expression in expressions(template) {
        let mut rest = expression;
        while let Some(access) = next_access(rest) {
            let (name, after) = label_name(access).ok_or(HOW_TO_NAME)?;
            names.insert(name.to_owned());
            rest = after;
        }
    }
    Ok(names)
}

/// Returns the names of all labels that the tags of an image name. Templates that are not valid
/// name none.
pub(in crate::engine) fn labels_of_tags(tags: &[String]) -> Vec<String> {
    let names = tags.iter().flat_map(|tag| named_labels(tag).unwrap_or_default());
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// Returns a problem if the tags of an image name more labels than are recorded.
pub(in crate::engine) fn check_count(tags: &[String]) -> Result<(), String> {
    match labels_of_tags(tags).len() {
        0..=MAX_TAG_LABELS => Ok(()),
        count => Err(format!(
            "the tags of one image may name {MAX_TAG_LABELS} labels at most, and these name {count}"
        )),
    }
}

/// Returns what follows the next use of the variable in an expression.
fn next_access(expression: &str) -> Option<&str> {
    let mut rest = expression;
    let mut is_attribute = false;
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            rest = after_text(rest.get(1..)?, first);
            is_attribute = false;
        } else if is_word(first) {
            let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word == LABEL_VARIABLE && !is_attribute {
                return Some(after);
            }
            rest = after;
            is_attribute = false;
        } else {
            is_attribute = first == '.' || is_attribute && first.is_whitespace();
            rest = rest.get(first.len_utf8()..)?;
        }
    }
    None
}

/// Returns what follows a quoted text, which begins after its opening quote.
fn after_text(text: &str, quote: char) -> &str {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => _ = characters.next(),
            _ if character == quote => return text.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

const fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Returns the name of a label whose access follows the variable, and what follows the access.
fn label_name(access: &str) -> Option<(&str, &str)> {
    let access = access.trim_start();
    let (name, after) = if let Some(attribute) = access.strip_prefix('.') {
        let attribute = attribute.trim_start();
        let end = attribute.find(|character| !is_word(character)).unwrap_or(attribute.len());
        let (name, after) = attribute.split_at(end);
        // A name with dots needs brackets: this would be a field of a text.
        (name, Some(after).filter(|after| !after.trim_start().starts_with('.'))?)
    } else {
        let inner = access.strip_prefix('[')?.trim_start();
        let quote = inner.chars().next().filter(|first| *first == '"' || *first == '\'')?;
        let (name, after) = inner.get(1..)?.split_once(quote)?;
        (name, after.trim_start().strip_prefix(']')?)
    };
    let is_printable =
        name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(&byte));
    (!name.is_empty() && name.len() <= MAX_LABEL_NAME && is_printable).then_some((name, after))
}

/// Returns the labels as a template reads them. A label that the image does not have is undefined,
/// and one that cannot be used is an error in every expression.
pub(in crate::engine) fn label_values(labels: &[LabelRecord]) -> Value {
    Value::from_pairs(labels.iter().filter_map(|label| {
        let value = match (&label.value, &label.problem) {
            (_, Some(problem)) => {
                let message = format!("the label {} {problem}", label.name);
                Value::from(Error::new(ErrorKind::InvalidOperation, message))
            }
            (Some(value), None) => Value::from(value.as_str()),
            (None, None) => return None,
        };
        Some((label.name.as_str(), value))
    }))
}

/// Returns the names of those labels that the image does not have.
pub(in crate::engine) fn absent_labels<'l>(
    named: &BTreeSet<String>,
    labels: &'l [LabelRecord],
) -> Vec<&'l str> {
    let is_absent = |label: &&LabelRecord| {
        label.value.is_none() && label.problem.is_none() && named.contains(&label.name)
    };
    labels.iter().filter(is_absent).map(|label| label.name.as_str()).collect()
}

/// Whether every one of these labels was read.
pub(in crate::engine) fn are_read(named: &BTreeSet<String>, labels: &[LabelRecord]) -> bool {
    named.iter().all(|name| labels.iter().any(|label| label.name == *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str) -> Result<Vec<String>, String> {
        named_labels(template).map(|names| names.into_iter().collect())
    }

    #[test]
    fn labels_are_named_by_literals() {
        for (template, expected) in [
            ("label", vec![]),
            ("{{ build }}", vec![]),
            ("{{ matrix.label }}-{{ 'label' }}{# {{ label }} #}", vec![]),
            ("{{ labels }}", vec![]),
            ("{{ label[\"a.b/c\"] }}", vec!["a.b/c"]),
            ("{{ label[ 'x' ]|lower }}-{{ label.version }}", vec!["version", "x"]),
            ("{{ label.a if label['b'] == 'label.c' else label.d }}", vec!["a", "b", "d"]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(names(template), Ok(expected), "{template}");
        }
        for template in [
            "{{ label }}",
            "{{ label | replace('a', 'b') }}",
            "{{ label[matrix.key] }}",
            "{{ label['a' ~ 'b'] }}",
            "{{ label.org.opencontainers }}",
            "{{ label['a b'] }}",
            "{{ label[''] }}",
            "{{ label['",
        ] {
            assert!(names(template).is_err(), "{template}: {:?}", names(template));
        }
        let long = format!("{{{{ label['{}'] }}}}", "x".repeat(129));
        assert!(names(&long).is_err());
    }

    #[test]
    fn a_bound_holds_for_the_labels_of_an_image() {
        let tag = |from: usize, to: usize| -> String {
            let named = (from..to).map(|label| format!("{{{{ label.l{label} }}}}"));
            named.collect::<Vec<_>>().concat()
        };
        assert_eq!(check_count(&[tag(0, 8), tag(4, 16)]), Ok(()));
        assert!(check_count(&[tag(0, 8), tag(8, 17)]).is_err());
    }
}
