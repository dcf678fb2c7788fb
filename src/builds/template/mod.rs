//! Renders a strategy's pod template: every string in it is a template, and nothing else is.
//!
//! The pod template is parsed from YAML or JSON before anything is rendered, and the rendered text
//! is never parsed again. So a value that a family's author sets can fill a string or become items
//! of a list of strings, but it can never become a field. The language is minijinja without a
//! loader: no file is read, nothing is included, and the computation and the output are limited.

mod filters;
mod variables;

use std::collections::BTreeSet;

use minijinja::{
    Environment, ErrorKind, UndefinedBehavior, syntax::SyntaxConfig, value::ValueKind,
};
use serde_json::Value;

pub use variables::Variables;
pub(in crate::builds) use variables::arguments;

/// Maximum depth of a pod template.
const MAX_DEPTH: usize = 32;
/// Maximum total length in bytes of all rendered strings of one pod template.
const MAX_OUTPUT: usize = 256 * 1024;
/// Maximum number of instructions for rendering one string.
const MAX_FUEL: u64 = 50_000;

/// Why a pod template cannot be rendered. Each message names the strategy and the field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A string names a variable that does not exist.
    #[error(
        "BuildStrategy `{strategy}`: {path} names the variable `{variable}`, which does not exist; \
         the variables are {known}"
    )]
    UnknownVariable {
        /// The strategy.
        strategy: String,
        /// The field of the string.
        path: String,
        /// The variable that the string names.
        variable: String,
        /// The variables that exist.
        known: String,
    },
    /// A string does not parse or does not render.
    #[error("BuildStrategy `{strategy}`: {path} cannot be rendered: {problem}")]
    Invalid {
        /// The strategy.
        strategy: String,
        /// The field of the string.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// Renders every string of a pod template.
///
/// A list item that is one `{{ expression }}` with a list as its value becomes as many items. In
/// `command`, `args` and the values of `env`, each `$` in the value of an expression is doubled:
/// the kubelet expands `$(NAME)` there, and a value that a family's author sets must not read the
/// container's environment.
///
/// # Errors
/// Returns a [`TemplateError`] if a string names an unknown variable or cannot be rendered.
pub fn render(
    strategy: &str,
    template: &Value,
    variables: &Variables,
) -> Result<Value, TemplateError> {
    let mut renderer = Renderer {
        strategy,
        plain: environment(Dollars::AsTheyAre),
        doubling: environment(Dollars::Doubled),
        known: variables.known(),
        values: variables.values(),
        left: MAX_OUTPUT,
    };
    renderer.render_value("spec.template", template, 0)
}

/// Returns the variables that the strings of a pod template name, with the fields that they name of
/// them. A string that does not parse names none: it is rejected when it is rendered.
pub(in crate::builds) fn used_variables(template: &Value) -> BTreeSet<String> {
    fn collect(environment: &Environment<'_>, value: &Value, names: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                if let Ok(template) = environment.template_from_str(text) {
                    names.extend(template.undeclared_variables(true));
                }
            }
            Value::Array(items) => items.iter().for_each(|v| collect(environment, v, names)),
            Value::Object(fields) => fields.values().for_each(|v| collect(environment, v, names)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut names = BTreeSet::new();
    collect(&environment(Dollars::AsTheyAre), template, &mut names);
    names
}

struct Renderer<'a> {
    strategy: &'a str,
    plain: Environment<'static>,
    doubling: Environment<'static>,
    known: Vec<String>,
    values: minijinja::Value,
    left: usize,
}

impl Renderer<'_> {
    fn render_value(
        &mut self,
        path: &str,
        value: &Value,
        depth: usize,
    ) -> Result<Value, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(self.invalid(path, format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        match value {
            Value::String(text) => Ok(Value::String(self.render_string(path, text)?)),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| {
                    Ok((
                        name.clone(),
                        self.render_value(&format!("{path}.{name}"), field, depth + 1)?,
                    ))
                })
                .collect(),
            Value::Array(items) => {
                let mut rendered = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    match self.splice(&path, item)? {
                        Some(strings) => rendered.extend(strings.into_iter().map(Value::String)),
                        None => rendered.push(self.render_value(&path, item, depth + 1)?),
                    }
                }
                Ok(Value::Array(rendered))
            }
            other => Ok(other.clone()),
        }
    }

    /// Returns the strings that replace a list item, if it is a single expression whose value is a
    /// list.
    fn splice(&mut self, path: &str, item: &Value) -> Result<Option<Vec<String>>, TemplateError> {
        let inner =
            item.as_str().and_then(|text| text.trim().strip_prefix("{{")?.strip_suffix("}}"));
        let Some(inner) = inner else { return Ok(None) };
        let Ok(expression) = self.plain.compile_expression(inner) else { return Ok(None) };
        self.check_variables(path, expression.undeclared_variables(true))?;
        let value = expression
            .eval(self.values.clone())
            .map_err(|error| self.invalid(path, describe(&error)))?;
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Ok(None);
        }
        let mut strings = Vec::new();
        for part in value.try_iter().map_err(|error| self.invalid(path, describe(&error)))? {
            let text = match part.kind() {
                ValueKind::String | ValueKind::Number | ValueKind::Bool => part.to_string(),
                kind => {
                    return Err(self.invalid(
                        path,
                        format!("its list contains a {kind}; use the filter `each`"),
                    ));
                }
            };
            let text = if is_expanded_by_kubelet(path) { text.replace('$', "$$") } else { text };
            self.spend(path, text.len())?;
            strings.push(text);
        }
        Ok(Some(strings))
    }

    fn render_string(&mut self, path: &str, text: &str) -> Result<String, TemplateError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            self.spend(path, text.len())?;
            return Ok(text.to_owned());
        }
        let environment = if is_expanded_by_kubelet(path) { &self.doubling } else { &self.plain };
        let template = environment
            .template_from_str(text)
            .map_err(|error| self.invalid(path, describe(&error)))?;
        self.check_variables(path, template.undeclared_variables(true))?;
        let mut output = BoundedWriter { text: Vec::new(), left: self.left };
        template
            .render_captured_to(self.values.clone(), &mut output)
            .map_err(|error| self.invalid(path, describe(&error)))?;
        let rendered = String::from_utf8(output.text)
            .map_err(|_| self.invalid(path, "it does not render to text".into()))?;
        self.spend(path, rendered.len())?;
        Ok(rendered)
    }

    fn check_variables(
        &self,
        path: &str,
        named: impl IntoIterator<Item = String>,
    ) -> Result<(), TemplateError> {
        let mut named: Vec<_> =
            named.into_iter().filter(|variable| !self.exists(variable)).collect();
        named.sort();
        match named.into_iter().next() {
            None => Ok(()),
            Some(variable) => Err(TemplateError::UnknownVariable {
                strategy: self.strategy.to_owned(),
                path: path.to_owned(),
                variable,
                known: self.known.join(", "),
            }),
        }
    }

    /// Whether there is a variable of this name, an object with known fields, or a function of the
    /// language.
    fn exists(&self, variable: &str) -> bool {
        self.known.iter().any(|known| {
            known == variable
                || known.strip_prefix(variable).is_some_and(|rest| rest.starts_with('.'))
        }) || self.plain.globals().any(|(name, _)| name == variable)
    }

    fn spend(&mut self, path: &str, bytes: usize) -> Result<(), TemplateError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.invalid(
                path,
                format!("the rendered pod template is larger than {MAX_OUTPUT} bytes"),
            )),
        }
    }

    fn invalid(&self, path: &str, problem: String) -> TemplateError {
        TemplateError::Invalid {
            strategy: self.strategy.to_owned(),
            path: path.to_owned(),
            problem,
        }
    }
}

/// Whether the kubelet expands `$(NAME)` in the string of this field.
fn is_expanded_by_kubelet(path: &str) -> bool {
    let container = ["containers[", "initContainers["]
        .iter()
        .find_map(|list| path.strip_prefix("spec.template.spec.")?.strip_prefix(list))
        .and_then(|rest| rest.split_once("]."));
    container.is_some_and(|(_, field)| {
        field.starts_with("command[")
            || field.starts_with("args[")
            || (field.starts_with("env[") && field.ends_with("].value"))
    })
}

/// How the value of an expression is written into a string.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dollars {
    /// Unchanged.
    AsTheyAre,
    /// With each `$` doubled.
    Doubled,
}

fn environment(dollars: Dollars) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(MAX_FUEL));
    environment.set_recursion_limit(32);
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment.add_filter("each", filters::each);
    environment.add_filter("csv", filters::csv);
    environment.set_formatter(move |output, _, value| {
        let text = match value.kind() {
            ValueKind::String | ValueKind::Number | ValueKind::Bool => value.to_string(),
            ValueKind::Seq | ValueKind::Iterable => {
                return Err(minijinja::Error::new(
                    ErrorKind::BadSerialization,
                    "a list cannot be written into a string; make it an item of its own in a list, \
                     or use `join`",
                ));
            }
            kind => {
                let message = format!("a value of kind {kind} cannot be written into a string");
                return Err(minijinja::Error::new(ErrorKind::BadSerialization, message));
            }
        };
        let text = if dollars == Dollars::Doubled { text.replace('$', "$$") } else { text };
        output.write_str(&text).map_err(minijinja::Error::from)
    });
    environment
}

fn describe(error: &minijinja::Error) -> String {
    let mut text = error
        .detail()
        .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    text
}

/// A writer that accepts at most `left` bytes.
struct BoundedWriter {
    text: Vec<u8>,
    left: usize,
}

impl std::io::Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| {
            std::io::Error::other(format!("the output is larger than {MAX_OUTPUT} bytes"))
        })?;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
