//! The targets of a `docker-bake.hcl`, as far as they are static: variables with their defaults,
//! `inherits`, `matrix` and named contexts. Functions are not evaluated, nor is the environment. A
//! target that needs one of them is a finding.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use groundswell::{api::GitSource, registry::Reference};
use hcl::{Block, Body, Expression, Value};

use crate::import::{
    bake_values::{BakeVariables, size_of},
    definition::{BuildContext, BuildDefinition, DockerfileOrigin, MappedImage},
    finding::ImportFinding,
    tree::{TreeFile, join, named_from_above},
};

/// Maximum nesting of brackets, of operators without a space between them, and of conditions.
const MAX_NESTING: usize = 64;
/// Maximum number of targets of a file, with those of matrices.
const MAX_TARGETS: usize = 10_000;
/// Maximum number of targets that inherit from one another.
const MAX_INHERITANCE: usize = 64;
/// The attributes of a target that say what is built.
const READ: [&str; 9] = [
    "args",
    "context",
    "contexts",
    "dockerfile",
    "dockerfile-inline",
    "inherits",
    "matrix",
    "tags",
    "target",
];

/// A target with its attributes evaluated, without those that it inherits.
#[derive(Default)]
struct BakeTarget {
    attributes: BTreeMap<String, Value>,
    problem: Option<String>,
}

/// Returns the images that a Bake file builds. What is not static is added to the findings, and the
/// paths of its Dockerfiles to `refused`: they are not images of their own.
pub fn read_bake(
    file: &TreeFile,
    findings: &mut Vec<ImportFinding>,
    refused: &mut BTreeSet<String>,
) -> Vec<BuildDefinition> {
    if Path::new(&file.path).extension().is_some_and(|extension| extension == "json") {
        let why = "Bake files in JSON are not read; write its targets as docker-bake.hcl, or list \
                   its images in the mapping";
        findings.push(ImportFinding::new(&file.path, why));
        refused.extend(dockerfiles_of_json(file));
        return Vec::new();
    }
    if file.path.ends_with("override.hcl") {
        let why = "overrides are not merged; write their values into docker-bake.hcl";
        findings.push(ImportFinding::new(&file.path, why));
        return Vec::new();
    }
    if is_too_nested(&file.text) {
        let why = format!("its expressions are nested more than {MAX_NESTING} deep");
        findings.push(ImportFinding::new(&file.path, why));
        return Vec::new();
    }
    let body = match hcl::parse(file.text.trim_start_matches('\u{feff}')) {
        Ok(body) => body,
        Err(error) => {
            let message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            findings.push(ImportFinding::new(&file.path, format!("it is no HCL: {message}")));
            return Vec::new();
        }
    };
    let variables = variables(&body);
    let targets = match targets(&body, &variables) {
        Ok(targets) => targets,
        Err(problem) => {
            findings.push(ImportFinding::new(&file.path, problem));
            return Vec::new();
        }
    };
    let inherited = inherited_names(&targets);
    let named = named_targets(&body, &targets, &variables);
    let mut whole = BTreeMap::new();
    let mut definitions = Vec::new();
    for name in targets.keys().filter(|name| !name.starts_with('_') || named.contains(*name)) {
        with_inherited(name, &targets, &mut whole, 0);
        let Some(target) = whole.get(name) else { continue };
        let size = target.attributes.values().map(size_of).sum();
        match variables.spend(size).and_then(|()| definition(file, name, target)) {
            Ok(mut definition) => {
                definition.is_inherited = inherited.contains(name);
                definitions.push(definition);
            }
            Err(problem) => {
                let text = |key: &str| target.attributes.get(key).and_then(Value::as_str);
                let named = dockerfiles_of(file.folder(), text("context"), text("dockerfile"));
                refused.extend(named);
                let place = format!("{}: {name}", file.path);
                findings.push(ImportFinding::new(place, problem));
            }
        }
    }
    definitions
}

/// Returns the Dockerfiles that a target names as far as it is known. Bake takes paths relative to
/// where it runs, which may be a folder above the file.
fn dockerfiles_of(folder: &str, context: Option<&str>, dockerfile: Option<&str>) -> Vec<String> {
    let dockerfile = dockerfile.filter(|file| !file.is_empty()).unwrap_or(GitSource::DOCKERFILE);
    named_from_above(folder, context.unwrap_or("."), dockerfile)
}

/// Returns the Dockerfiles that the targets of a Bake file in JSON name.
fn dockerfiles_of_json(file: &TreeFile) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&file.text).unwrap_or_default();
    let targets = json.get("target").and_then(serde_json::Value::as_object);
    let named = |target: &serde_json::Value| {
        let text = |key: &str| target.get(key).and_then(serde_json::Value::as_str);
        dockerfiles_of(file.folder(), text("context"), text("dockerfile"))
    };
    targets.into_iter().flat_map(|targets| targets.values()).flat_map(named).collect()
}

/// Whether a text could exhaust the stack of a recursive parser.
fn is_too_nested(text: &str) -> bool {
    let (mut depth, mut run, mut conditions) = (0_usize, 0_usize, 0_usize);
    text.chars().any(|character| {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '?' => conditions += 1,
            '\n' => conditions = 0,
            _ => {}
        }
        run = if "!-".contains(character) { run + 1 } else { 0 };
        // A rule of dashes in a comment is no operator.
        let is_run = run > MAX_NESTING && character == '!';
        depth > MAX_NESTING || conditions > MAX_NESTING || is_run || run > 4 * MAX_NESTING
    })
}

/// Returns the variables and the attributes of the file that can be evaluated.
fn variables(body: &Body) -> BakeVariables {
    let mut pending: Vec<(String, Expression)> = Vec::new();
    for block in body.blocks().filter(|block| block.identifier() == "variable") {
        let default = block.body().attributes().find(|attribute| attribute.key() == "default");
        if let (Some(name), Some(default)) = (label(block), default) {
            pending.push((name, default.expr().clone()));
        }
    }
    for attribute in body.attributes() {
        pending.push((attribute.key().to_owned(), attribute.expr().clone()));
    }
    let mut variables = BakeVariables::new();
    // A variable may use others, in any order.
    loop {
        let before = pending.len();
        pending.retain(|(name, expression)| match variables.evaluate(expression) {
            Ok(value) => {
                variables.declare(name, value);
                false
            }
            Err(_) => true,
        });
        if pending.len() == before {
            return variables;
        }
    }
}

fn label(block: &Block) -> Option<String> {
    block.labels().first().map(|label| label.as_str().to_owned())
}

/// Returns the targets by name, those of matrices expanded.
fn targets(body: &Body, variables: &BakeVariables) -> Result<BTreeMap<String, BakeTarget>, String> {
    let mut targets: BTreeMap<String, BakeTarget> = BTreeMap::new();
    for block in body.blocks().filter(|block| block.identifier() == "target") {
        let Some(name) = label(block) else { continue };
        let matrix = block.body().attributes().find(|attribute| attribute.key() == "matrix");
        let Some(matrix) = matrix else {
            // Blocks of one name are merged, the later wins.
            let target = evaluated(block, variables);
            let merged = targets.entry(name).or_default();
            merge(&mut merged.attributes, target.attributes);
            merged.problem = merged.problem.take().or(target.problem);
            continue;
        };
        let combinations = variables.evaluate(matrix.expr());
        let combinations = match combinations.and_then(|value| combinations_of(&value)) {
            Ok(combinations) => combinations,
            Err(problem) => {
                let problem = Some(format!("`matrix` is not static: {problem}"));
                targets.insert(name, BakeTarget { problem, ..evaluated(block, variables) });
                continue;
            }
        };
        for combination in combinations {
            let mut variables = variables.copied()?;
            for (key, value) in combination {
                variables.declare(&key, value);
            }
            let named = block.body().attributes().find(|attribute| attribute.key() == "name");
            let named = named.and_then(|named| variables.evaluate(named.expr()).ok());
            let Some(Value::String(expanded)) = named else {
                let problem = Some("`name` is not static".to_owned());
                targets
                    .insert(name.clone(), BakeTarget { problem, ..evaluated(block, &variables) });
                break;
            };
            targets.insert(expanded, evaluated(block, &variables));
            if targets.len() > MAX_TARGETS {
                return Err(format!("it has more than {MAX_TARGETS} targets"));
            }
        }
    }
    Ok(targets)
}

/// Returns the combinations of a matrix.
fn combinations_of(matrix: &Value) -> Result<Vec<BTreeMap<String, Value>>, String> {
    let Value::Object(keys) = matrix else { return Err("it is no object".into()) };
    let mut combinations = vec![BTreeMap::new()];
    for (key, values) in keys {
        let Value::Array(values) = values else { return Err(format!("`{key}` is no list")) };
        if combinations.len().saturating_mul(values.len()) > MAX_TARGETS {
            return Err(format!("it has more than {MAX_TARGETS} combinations"));
        }
        let with_values = |combination: &BTreeMap<String, Value>| {
            let with = |value: &Value| {
                let mut combination = combination.clone();
                combination.insert(key.clone(), value.clone());
                combination
            };
            values.iter().map(with).collect::<Vec<_>>()
        };
        combinations = combinations.iter().flat_map(with_values).collect();
    }
    Ok(combinations)
}

/// Evaluates the attributes of a target.
fn evaluated(block: &Block, variables: &BakeVariables) -> BakeTarget {
    let mut target = BakeTarget::default();
    for attribute in block.body().attributes().filter(|one| READ.contains(&one.key())) {
        match variables.evaluate(attribute.expr()) {
            Ok(value) => _ = target.attributes.insert(attribute.key().to_owned(), value),
            Err(error) => {
                let problem = format!("`{}` is not static: {error}", attribute.key());
                target.problem.get_or_insert(problem);
            }
        }
    }
    target
}

fn inherited_names(targets: &BTreeMap<String, BakeTarget>) -> BTreeSet<String> {
    let all = targets.values().filter_map(|target| target.attributes.get("inherits"));
    all.flat_map(strings).collect()
}

/// Returns the targets that groups and named contexts name: each is built, whatever its name.
fn named_targets(
    body: &Body,
    targets: &BTreeMap<String, BakeTarget>,
    variables: &BakeVariables,
) -> BTreeSet<String> {
    let groups = body.blocks().filter(|block| block.identifier() == "group");
    let of_groups = groups
        .flat_map(|group| group.body().attributes().filter(|one| one.key() == "targets"))
        .filter_map(|targets| variables.evaluate(targets.expr()).ok())
        .flat_map(|targets| strings(&targets));
    let contexts = targets.values().filter_map(|target| target.attributes.get("contexts"));
    let of_contexts = contexts
        .filter_map(Value::as_object)
        .flat_map(|contexts| contexts.values())
        .filter_map(|context| Some(context.as_str()?.strip_prefix("target:")?.to_owned()));
    of_groups.chain(of_contexts).collect()
}

/// Adds a target with the attributes that it inherits to `whole`: the later of `inherits` wins, and
/// the target itself wins over all. Entries of `args` and `contexts` are merged. Each target is
/// resolved once, however many inherit from it.
fn with_inherited(
    name: &str,
    targets: &BTreeMap<String, BakeTarget>,
    whole: &mut BTreeMap<String, BakeTarget>,
    depth: usize,
) {
    if whole.contains_key(name) {
        return;
    }
    let mut merged = BakeTarget::default();
    match targets.get(name) {
        _ if depth > MAX_INHERITANCE => {
            merged.problem = Some("its `inherits` name each other".into());
        }
        None => merged.problem = Some(format!("the file has no target `{name}`")),
        Some(target) => {
            let parents = target.attributes.get("inherits").map(strings).unwrap_or_default();
            for parent in parents {
                with_inherited(&parent, targets, whole, depth + 1);
                if let Some(parent) = whole.get(&parent) {
                    merge(&mut merged.attributes, parent.attributes.clone());
                    merged.problem = merged.problem.take().or_else(|| parent.problem.clone());
                }
            }
            merge(&mut merged.attributes, target.attributes.clone());
            merged.problem = target.problem.clone().or(merged.problem);
        }
    }
    whole.insert(name.to_owned(), merged);
}

fn merge(into: &mut BTreeMap<String, Value>, attributes: BTreeMap<String, Value>) {
    for (key, value) in attributes {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

fn definition(file: &TreeFile, name: &str, target: &BakeTarget) -> Result<BuildDefinition, String> {
    if let Some(problem) = &target.problem {
        return Err(problem.clone());
    }
    let attributes = &target.attributes;
    let text = |key: &str| match attributes.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{key}` is no text")),
    };
    let folder = text("context")?.unwrap_or_else(|| ".".into());
    if folder.contains("://") || folder.starts_with("target:") || folder.contains('@') {
        return Err(format!("its context `{folder}` is no folder of the tree"));
    }
    let context = join(file.folder(), &folder)
        .ok_or_else(|| format!("its context `{folder}` is outside of the tree"))?;
    let dockerfile = if let Some(inline) = text("dockerfile-inline")? {
        DockerfileOrigin::Inline(inline)
    } else {
        let file = text("dockerfile")?.filter(|file| !file.is_empty());
        DockerfileOrigin::of_path(file.as_deref().unwrap_or(GitSource::DOCKERFILE))
    };
    let mut references = Vec::new();
    let tags = attributes.get("tags").map(strings).unwrap_or_default();
    // Bake skips an empty text, as of a condition that is not met.
    for tag in tags.into_iter().filter(|tag| !tag.is_empty()) {
        references.push(tag.parse::<Reference>().map_err(|error| error.to_string())?);
    }
    Ok(BuildDefinition {
        defined_in: file.path.clone(),
        label: Some(name.to_owned()),
        context,
        dockerfile,
        target: text("target")?.filter(|target| !target.is_empty()),
        args: pairs(attributes.get("args"))?,
        contexts: pairs(attributes.get("contexts"))?
            .into_iter()
            .map(|(name, value)| (name, named_context(&value)))
            .collect(),
        references,
        mapped: MappedImage::default(),
        is_inherited: false,
    })
}

/// Returns what the value of a named context means.
pub fn named_context(value: &str) -> BuildContext {
    if let Some(target) = value.strip_prefix("target:").or(value.strip_prefix("service:")) {
        return BuildContext::Target(target.to_owned());
    }
    match value.strip_prefix("docker-image://") {
        Some(image) => BuildContext::Image(image.to_owned()),
        None => BuildContext::Files(value.to_owned()),
    }
}

fn strings(value: &Value) -> Vec<String> {
    let Value::Array(values) = value else { return Vec::new() };
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the entries of an object. One that is null takes its value from the environment of the
/// build, so that it is left out.
fn pairs(value: Option<&Value>) -> Result<BTreeMap<String, String>, String> {
    let Some(Value::Object(entries)) = value else { return Ok(BTreeMap::new()) };
    let mut pairs = BTreeMap::new();
    for (key, value) in entries {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("the value of `{key}` is no text"));
            }
        };
        pairs.insert(key.clone(), text);
    }
    Ok(pairs)
}

#[cfg(test)]
#[path = "bake_tests.rs"]
mod tests;
