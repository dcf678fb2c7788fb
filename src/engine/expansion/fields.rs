//! Renders the fields of one image, and checks what they render to.

use std::{collections::BTreeMap, sync::LazyLock};

use minijinja::{Value, context};
use regex::Regex;

use crate::{
    api::{Check, Edge, GitSource, Image, patterns},
    engine::{
        expansion::{FieldProblem, matrix::Combination},
        templates::{self, Templates},
    },
};

/// What a field must be after it is rendered. The schema has the same limits for fields without a
/// template.
struct FieldRule {
    max_length: usize,
    pattern: Option<Regex>,
    /// What the pattern demands, for messages.
    form: &'static str,
}

impl FieldRule {
    fn new(max_length: usize, pattern: &str, form: &'static str) -> Self {
        // A pattern of ours always compiles; without one, the API server still checks plain fields.
        Self { max_length, pattern: Regex::new(pattern).ok(), form }
    }

    const fn text(max_length: usize) -> Self {
        Self { max_length, pattern: None, form: "text" }
    }

    fn accepts(&self, text: &str) -> bool {
        text.chars().count() <= self.max_length
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }
}

/// Defines the rules of fields with a pattern.
macro_rules! rules {
    ($($name:ident = $max:literal, $pattern:ident, $form:literal;)*) => {
        $(static $name: LazyLock<FieldRule> =
            LazyLock::new(|| FieldRule::new($max, patterns::$pattern, $form));)*
    };
}

rules! {
    NAME = 63, NAME, "a DNS label: lower case letters, digits and dashes";
    PATH = 128, PATH, "a path of lower case letters, digits, `.`, `_` and `-`";
    TARGET = 128, TARGET, "the name of a stage";
    ARG = 128, ARG, "the name of a build argument";
    GIT_REVISION = 255, GIT_REVISION, "a branch, a tag or a commit";
    GIT_FOLDER = 255, GIT_FOLDER, "a relative path";
    GIT_PATH = 255, GIT_PATH, "a relative path";
}

const REFERENCE: FieldRule = FieldRule::text(255);
const VALUE: FieldRule = FieldRule::text(1024);
const ARGUMENT: FieldRule = FieldRule::text(4096);
const CHECK_IMAGE: FieldRule = FieldRule::text(512);
const OBJECT_NAME: FieldRule = FieldRule::text(253);

/// Returns the name of the image that a combination stands for. Without a template, the values are
/// appended to the name.
///
/// # Errors
///
/// Returns an error if the template cannot be rendered, or if the result is not a DNS label.
pub fn image_name(
    templates: &Templates,
    written: &str,
    values: &Combination,
) -> Result<String, FieldProblem> {
    let fields = Fields::new(templates, values, None);
    if Templates::is_template(written) {
        let mut name = written.to_owned();
        fields.render("name", &mut name, &NAME, &fields.name_values)?;
        return Ok(name);
    }
    let suffix = values.values().map(|value| label_part(value)).filter(|part| !part.is_empty());
    let name = std::iter::once(written.to_owned()).chain(suffix).collect::<Vec<_>>().join("-");
    check("name", &name, &NAME)?;
    Ok(name)
}

/// Renders every field of an image but its name, which is known, and its tags, which are rendered
/// for each build.
///
/// # Errors
///
/// Returns the first field that cannot be rendered, or that renders to something invalid.
pub fn render_fields(
    templates: &Templates,
    image: &mut Image,
    values: &Combination,
) -> Result<(), FieldProblem> {
    let fields = Fields::new(templates, values, Some(&image.name));
    fields.optional("path", &mut image.path, &PATH)?;
    fields.optional("target", &mut image.target, &TARGET)?;
    for (index, edge) in image.from.iter_mut().enumerate() {
        fields.edge(index, edge)?;
    }
    if let Some(git) = &mut image.source.git {
        fields.git(git)?;
    }
    if let Some(config_map) = &mut image.source.config_map {
        fields.any("source.configMap.name", &mut config_map.name, &OBJECT_NAME)?;
    }
    // Braces may stand for themselves in these. So they are templates only next to a matrix, which
    // no manifest had before there were templates.
    if values.is_empty() {
        return Ok(());
    }
    fields.map("args", &mut image.args)?;
    fields.map("labels", &mut image.labels)?;
    for check in &mut image.checks {
        fields.check(check)?;
    }
    if let Some(strategy) = &mut image.strategy {
        fields.map("strategy.parameters", &mut strategy.parameters)?;
    }
    Ok(())
}

/// Renders the fields of one image.
struct Fields<'a> {
    templates: &'a Templates,
    /// The values as users write them.
    values: Value,
    /// The values as they are in names of images and upstreams.
    name_values: Value,
    /// The values that there are, for messages.
    known: String,
}

impl<'a> Fields<'a> {
    fn new(templates: &'a Templates, values: &Combination, name: Option<&str>) -> Self {
        let known =
            values.keys().map(|key| format!("matrix.{key}")).chain(name.map(|_| "name".into()));
        let labels: Combination =
            values.iter().map(|(key, value)| (key.clone(), label_part(value))).collect();
        Self {
            templates,
            values: with_name(values, name),
            name_values: with_name(&labels, name),
            known: known.collect::<Vec<_>>().join(", "),
        }
    }

    fn edge(&self, index: usize, edge: &mut Edge) -> Result<(), FieldProblem> {
        let field = |name: &str| format!("from[{index}].{name}");
        for (name, value) in [("upstream", &mut edge.upstream), ("image", &mut edge.image)] {
            if let Some(value) = value {
                self.render(&field(name), value, &NAME, &self.name_values)?;
            }
        }
        self.optional(&field("as"), &mut edge.reference, &REFERENCE)?;
        self.optional(&field("arg"), &mut edge.arg, &ARG)
    }

    fn git(&self, git: &mut GitSource) -> Result<(), FieldProblem> {
        for (field, value) in [("url", &git.url), ("revision", &git.revision)] {
            if value.is_empty() {
                let why = format!("set it there, or in spec.sourceDefaults.git.{field}");
                return Err(FieldProblem::new(format!("source.git.{field}"), why));
            }
        }
        self.any("source.git.revision", &mut git.revision, &GIT_REVISION)?;
        self.any("source.git.dockerfile", &mut git.dockerfile, &GIT_PATH)?;
        self.optional("source.git.path", &mut git.path, &GIT_FOLDER)?;
        for (field, path) in [("path", git.path.as_ref()), ("dockerfile", Some(&git.dockerfile))] {
            if path.is_some_and(|path| path.split('/').any(|part| part == "..")) {
                let why = "it must not contain `..`; name something below the root".into();
                return Err(FieldProblem::new(format!("source.git.{field}"), why));
            }
        }
        Ok(())
    }

    fn check(&self, check: &mut Check) -> Result<(), FieldProblem> {
        let name = check.name.clone();
        let field = |part: &str| format!("checks[{name}].{part}");
        for (part, texts) in [("command", &mut check.command), ("args", &mut check.args)] {
            for text in texts {
                self.any(&field(part), text, &ARGUMENT)?;
            }
        }
        self.optional(&field("image"), &mut check.image, &CHECK_IMAGE)?;
        self.map(&field("env"), &mut check.env)
    }

    fn map(&self, field: &str, map: &mut BTreeMap<String, String>) -> Result<(), FieldProblem> {
        map.iter_mut()
            .try_for_each(|(key, value)| self.any(&format!("{field}.{key}"), value, &VALUE))
    }

    fn optional(
        &self,
        field: &str,
        text: &mut Option<String>,
        rule: &FieldRule,
    ) -> Result<(), FieldProblem> {
        text.as_mut().map_or(Ok(()), |text| self.any(field, text, rule))
    }

    fn any(&self, field: &str, text: &mut String, rule: &FieldRule) -> Result<(), FieldProblem> {
        self.render(field, text, rule, &self.values)
    }

    /// Renders a field in place. One without a template was checked by the API server.
    fn render(
        &self,
        field: &str,
        text: &mut String,
        rule: &FieldRule,
        values: &Value,
    ) -> Result<(), FieldProblem> {
        if !Templates::is_template(text) {
            return Ok(());
        }
        let rendered = self.templates.render(text, values).map_err(|error| {
            let known = if self.known.is_empty() { "no values" } else { &self.known };
            FieldProblem::new(field, format!("`{text}`: {error}; known are {known}"))
        })?;
        *text = rendered.text;
        check(field, text, rule)
    }
}

fn with_name(values: &Combination, name: Option<&str>) -> Value {
    let matrix = || templates::object(values);
    name.map_or_else(
        || context! { matrix => matrix() },
        |name| context! { matrix => matrix(), name => name },
    )
}

fn check(field: &str, text: &str, rule: &FieldRule) -> Result<(), FieldProblem> {
    if rule.accepts(text) {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    let why = format!(
        "`{shown}` must be {}, with at most {} characters; correct the template or the value",
        rule.form, rule.max_length
    );
    Err(FieldProblem::new(field, why))
}

/// Returns a value as a part of a DNS label: what no label has becomes a dash.
fn label_part(value: &str) -> String {
    let character = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
    };
    value.chars().map(character).collect()
}
