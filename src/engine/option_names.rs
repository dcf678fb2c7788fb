//! Names that become a part of a builder's options: of build arguments, of labels, and of the
//! images that edges replace. An option is `NAME=VALUE`, so that a name with `=` in it would be
//! another option, such as that of the argument which pins a parent. The API server checks the
//! names of build arguments, too, but not those that it has stored before.

use crate::{
    api::{Edge, Image, condition::Reason},
    engine::Problem,
};

/// Maximum number of characters of a name that a message repeats.
const MAX_SHOWN: usize = 64;
/// Characters that are part of no reference and no name of a label, and that end a name or begin
/// something else for some builder or its shell.
const SEPARATORS: &str = "=,;\"'`\\$";

/// Returns the problem of the first such name of an image that is invalid.
pub(super) fn find_invalid_name(image: &Image) -> Option<Problem> {
    let argument = image.args.keys().find_map(|name| problem_of_argument(image, name));
    let label = || {
        image.labels.keys().find(|name| !is_one_name(name)).map(|name| problem(
        image,
        &format!("labels: `{}`", shown(name)),
        "is no name of a label; write it without white space, quotes, `=`, `,`, `;`, `$` and `\\`",
    ))
    };
    let references = || {
        image.from.iter().enumerate().find_map(|(index, edge)| {
            let reference = edge.reference.as_deref().filter(|text| !is_one_name(text))?;
            Some(problem(
                image,
                &format!("from[{index}].as: `{}`", shown(reference)),
                "is no reference of an image; write it as the Dockerfile does, such as alpine:3.20",
            ))
        })
    };
    argument.or_else(label).or_else(references)
}

fn problem_of_argument(image: &Image, name: &str) -> Option<Problem> {
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Some(problem(
            image,
            &format!("args: `{}`", shown(name)),
            "is no name of a build argument; use letters, digits and `_`, and no digit first",
        ));
    }
    let pins = |edge: &&Edge| edge.arg.as_deref() == Some(name);
    image.from.iter().find(pins).map(|_| {
        problem(
            image,
            &format!("args.{name}"),
            "is the argument by which `from` pins a parent; remove it from `args`",
        )
    })
}

fn is_one_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !SEPARATORS.contains(c))
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect()
}

fn problem(image: &Image, field: &str, what: &str) -> Problem {
    let message = format!("spec.images[{}].{field} {what}", image.name);
    Problem { reason: Reason::InvalidSpec, message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problem_with(field: &str, value: &Value) -> Option<String> {
        let mut image = json!({"name": "web", "from": [{"upstream": "base", "arg": "BASE"}],
            "source": {"inline": "FROM a"}});
        image[field] = value.clone();
        let image: Image = serde_json::from_value(image).expect("an image");
        find_invalid_name(&image).map(|problem| problem.message)
    }

    #[test]
    fn a_name_is_never_more_than_one_option() {
        for (field, value) in [
            ("args", json!({"VERSION": "a=b, c", "_x9": ""})),
            ("labels", json!({"org.opencontainers.image.title": "a=b", "a/b:c": "$"})),
            ("from", json!([{"upstream": "base", "as": "registry.example.com:5000/a/b:1.2-x"}])),
        ] {
            assert_eq!(problem_with(field, &value), None, "{value}");
        }
        for (field, value, said) in [
            (
                "args",
                json!({"BASE=evil.example.com/x:1": "z"}),
                "args: `BASE=evil.example.com/x:1`",
            ),
            ("args", json!({"A B": ""}), "args: `A B`"),
            ("args", json!({"": ""}), "args: ``"),
            ("args", json!({"9A": ""}), "args: `9A`"),
            ("args", json!({"A\n": ""}), r"args: `A\n`"),
            ("args", json!({"É": ""}), r"args: `\u{c9}`"),
            ("args", json!({"BASE": "evil.example.com/x:1"}), "spec.images[web].args.BASE is the"),
            ("labels", json!({"a=b": "c"}), "labels: `a=b`"),
            ("labels", json!({"a b": "c"}), "labels: `a b`"),
            (
                "from",
                json!([{"upstream": "b", "as": "a=docker-image://x"}]),
                "from[0].as: `a=docker",
            ),
            ("from", json!([{"upstream": "b", "as": "a,b"}]), "from[0].as: `a,b`"),
        ] {
            let message = problem_with(field, &value).unwrap_or_default();
            assert!(message.contains(said), "{value}: {message:?}");
        }
    }
}
