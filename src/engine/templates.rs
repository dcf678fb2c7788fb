//! Templates in a spec: of tags, and of the fields of an image. Pod templates of strategies are
//! something else.
//!
//! Whoever may write a family writes templates, so that the language is small: text with
//! `{{ expressions }}`, a few filters, and a bound on the steps and on what comes out. There are no
//! statements, and nothing that repeats a text.

use std::{collections::HashSet, io};

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

/// Upper bound on the steps of one template; far more than a field needs.
const MAX_TEMPLATE_STEPS: u64 = 2000;
/// Upper bound on the bytes that a template renders to.
const MAX_RENDERED_BYTES: usize = 16 * 1024;

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnrenderableTemplate {
    message: String,
    /// Whether the same template might be rendered with other values.
    pub depends_on_values: bool,
}

/// What a template renders to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedTemplate {
    /// The text.
    pub text: String,
    /// The variables that it names.
    pub variables: HashSet<String>,
}

/// Renders templates.
pub struct Templates(Environment<'static>);

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
        environment.add_filter("lower", |text: String| text.to_lowercase());
        environment.add_filter("upper", |text: String| text.to_uppercase());
        environment.add_filter("replace", replace);
        environment.add_filter("split", |text: String, separator: String| -> Vec<String> {
            text.split(&separator).map(str::to_owned).collect()
        });
        environment.add_filter(
            "default",
            |value: Value, other: Value| {
                if value.is_undefined() { other } else { value }
            },
        );
        Self(environment)
    }
}

impl Templates {
    /// Whether a text has a template in it.
    #[must_use]
    pub fn is_template(text: &str) -> bool {
        ["{{", "{%", "{#"].iter().any(|opening| text.contains(opening))
    }

    /// Renders a text with these values.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the template, or that it names an unknown value.
    pub fn render(
        &self,
        text: &str,
        values: &Value,
    ) -> Result<RenderedTemplate, UnrenderableTemplate> {
        check_language(text).map_err(|why| UnrenderableTemplate {
            message: why.into(),
            depends_on_values: false,
        })?;
        let describe = |error: Error| {
            let kind = error.kind().to_string();
            UnrenderableTemplate {
                message: error.detail().map_or(kind, str::to_owned),
                depends_on_values: matches!(
                    error.kind(),
                    ErrorKind::UndefinedError | ErrorKind::InvalidOperation
                ),
            }
        };
        let template = self.0.template_from_str(text).map_err(describe)?;
        let variables = template.undeclared_variables(false);
        let mut output = BoundedText(Vec::new());
        template.render_captured_to(values.clone(), &mut output).map_err(describe)?;
        let text = String::from_utf8_lossy(&output.0).into_owned();
        Ok(RenderedTemplate { text, variables })
    }
}

/// Returns the expressions of a text that keeps to the language, without their braces.
pub(super) fn expressions(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, inner)) = rest.split_once('{') {
        rest = match inner.chars().next() {
            Some('#') => inner.split_once("#}").map_or("", |(_, rest)| rest),
            Some('{') => {
                let expression = inner.get(1..).unwrap_or_default();
                let after = after_expression(expression).unwrap_or_default();
                let end = expression.len().saturating_sub(after.len());
                found.push(expression.get(..end).unwrap_or_default());
                after
            }
            _ => inner,
        };
    }
    found
}

/// Returns an object with these texts.
pub fn object<'a>(texts: impl IntoIterator<Item = (&'a String, &'a String)>) -> Value {
    Value::from_pairs(texts.into_iter().map(|(key, text)| (key.as_str(), text.as_str())))
}

/// Whether a text keeps to the part of the language that is bounded: the steps of a template do not
/// count how long its texts become.
fn check_language(text: &str) -> Result<(), &'static str> {
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let Some(inner) = rest.get(at + 1..) else { return Ok(()) };
        rest = match inner.chars().next() {
            Some('%') => return Err("`{%` is not supported; write `{{ expressions }}` only"),
            Some('#') => inner.split_once("#}").map_or("", |(_, rest)| rest),
            Some('{') => after_expression(inner.get(1..).unwrap_or_default())?,
            _ => inner,
        };
    }
    Ok(())
}

/// Returns what follows an expression, which begins the text.
fn after_expression(text: &str) -> Result<&str, &'static str> {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => _ = characters.next(),
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '*') => return Err("`*` is not supported in an expression"),
            (None, '{') => return Err("`{` is not supported in an expression"),
            (None, '}') => return Ok(text.get(at..).unwrap_or_default()),
            (Some(_) | None, _) => {}
        }
    }
    Ok("")
}

#[allow(clippy::needless_pass_by_value, reason = "the engine calls filters with owned texts")]
fn replace(text: String, from: String, to: String) -> Result<String, Error> {
    let grown = text.len().saturating_mul(to.len().max(1));
    if from.is_empty() || grown > MAX_RENDERED_BYTES {
        let message = "`replace` needs a text to replace, and its result is too long";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(text.replace(&from, &to))
}

/// A text that accepts no more than [`MAX_RENDERED_BYTES`].
struct BoundedText(Vec<u8>);

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > MAX_RENDERED_BYTES {
            let message = format!("the result is longer than {MAX_RENDERED_BYTES} bytes");
            return Err(io::Error::other(message));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn rendered(text: &str) -> Result<String, String> {
        let values = context! { matrix => context! { python => "3.12", variant => "" } };
        let rendered = Templates::default().render(text, &values);
        rendered.map(|rendered| rendered.text).map_err(|error| error.to_string())
    }

    #[test]
    fn expressions_and_the_filters_are_rendered() {
        for (template, text) in [
            ("plain", "plain"),
            ("v{{ matrix.python }}", "v3.12"),
            ("{{ matrix.python | replace('.', '') }}", "312"),
            ("{{ (matrix.python | split('.'))[0] }}", "3"),
            ("{{ 'x' | upper }}{{ 'Y' | lower }}{# no #}", "Xy"),
            ("a{{ '-' ~ matrix.variant if matrix.variant else '' }}", "a"),
            ("{{ matrix.absent | default('none') }}", "none"),
            ("{{ '}} *' }} *.txt {", "}} * *.txt {"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn expressions_are_found_outside_of_comments() {
        let text = "a {{ x }}-{#{{ y }}#}{{ '}}' ~ z }} {b} {{ c";
        assert_eq!(expressions(text), [" x ", " '}}' ~ z ", " c"]);
    }

    #[test]
    fn whatever_could_grow_or_is_unknown_is_refused() {
        for (template, why) in [
            ("{{ matrix.pyhton }}", "undefined"),
            ("{{ martix.python }}", "undefined"),
            ("{{ matrix.python", "end of"),
            ("{% set a = 'x' %}", "`{%` is not supported"),
            ("{{ 'x' * 100000000 }}", "`*` is not supported"),
            ("{{ '\\'' * 100000000 }}", "`*` is not supported"),
            ("{{ {'a': 'x'}.a }}", "`{` is not supported"),
            ("{{ 'x' | replace('', 'xxxx') }}", "needs a text"),
            ("{{ range(10) }}", "range"),
        ] {
            let error = rendered(template).expect_err(template);
            assert!(error.contains(why), "{template}: {error}");
        }
        let long = "x".repeat(200);
        let growing =
            format!("{{{{ '{long}' | replace('x', '{long}') | replace('x', '{long}') }}}}");
        assert!(rendered(&growing).expect_err("too long").contains("too long"));
        assert!(rendered(&"x".repeat(MAX_RENDERED_BYTES + 1)).is_err());
    }
}
