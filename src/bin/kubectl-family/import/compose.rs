//! The services of a Compose file that are built.

use std::collections::BTreeMap;

use groundswell::registry::Reference;
use serde::Deserialize;
use serde_json::Value;

use crate::import::{
    bake::named_context,
    build_args,
    definition::{BuildDefinition, DockerfileOrigin, MappedImage},
    finding::ImportFinding,
    tree::{SourceTree, TreeFile, join},
};

/// The part of a Compose file that says what is built.
#[derive(Deserialize)]
struct ComposeFile {
    #[serde(default)]
    services: BTreeMap<String, ComposeService>,
}

#[derive(Deserialize)]
struct ComposeService {
    build: Option<Value>,
    extends: Option<Value>,
    image: Option<String>,
}

/// Returns the images that a Compose file builds. What cannot be resolved is added to the findings.
pub fn read_compose(
    file: &TreeFile,
    tree: &SourceTree,
    findings: &mut Vec<ImportFinding>,
) -> Vec<BuildDefinition> {
    let compose: ComposeFile = match serde_yaml::from_str(&file.text) {
        Ok(compose) => compose,
        Err(error) => {
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            findings.push(ImportFinding::new(&file.path, format!("it cannot be read: {first}")));
            return Vec::new();
        }
    };
    let variables = tree.environments.get(file.folder());
    let variables = variables.map(|file| build_args::pairs(&file.text)).unwrap_or_default();
    let mut definitions = Vec::new();
    for (name, service) in compose.services {
        if service.extends.is_some() {
            let why = "`extends` is not followed; write its `build` into the service";
            findings.push(ImportFinding::new(format!("{}: {name}", file.path), why));
            continue;
        }
        let Some(build) = &service.build else { continue };
        match definition(file, &name, &service, build, &variables) {
            Ok(definition) => definitions.push(definition),
            Err(problem) => {
                findings.push(ImportFinding::new(format!("{}: {name}", file.path), problem));
            }
        }
    }
    definitions
}

fn definition(
    file: &TreeFile,
    name: &str,
    service: &ComposeService,
    build: &Value,
    variables: &BTreeMap<String, String>,
) -> Result<BuildDefinition, String> {
    let short;
    let build = if let Value::String(context) = build {
        short = serde_json::Map::from_iter([("context".to_owned(), context.clone().into())]);
        &short
    } else {
        build.as_object().ok_or("`build` is neither a text nor a mapping")?
    };
    let text = |key: &str| match build.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => interpolate(text, variables).map(Some),
        Some(_) => Err(format!("`build.{key}` is no text")),
    };
    let folder = text("context")?.unwrap_or_else(|| ".".into());
    if folder.contains("://") || folder.contains('@') {
        return Err(format!("its context `{folder}` is no folder of the tree"));
    }
    let context = join(file.folder(), &folder)
        .ok_or_else(|| format!("its context `{folder}` is outside of the tree"))?;
    let dockerfile = match text("dockerfile_inline")? {
        Some(inline) => DockerfileOrigin::Inline(inline),
        None => DockerfileOrigin::File(text("dockerfile")?.unwrap_or_else(|| "Dockerfile".into())),
    };
    let image = service.image.as_deref().map(|image| interpolate(image, variables)).transpose()?;
    let mut references = Vec::new();
    for text in image.into_iter().chain(pairs(build.get("tags"), variables)?.into_keys()) {
        references.push(text.parse::<Reference>().map_err(|error| error.to_string())?);
    }
    let contexts = pairs(build.get("additional_contexts"), variables)?;
    Ok(BuildDefinition {
        defined_in: file.path.clone(),
        label: Some(name.to_owned()),
        context,
        dockerfile,
        target: text("target")?.filter(|target| !target.is_empty()),
        args: pairs(build.get("args"), variables)?
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
        contexts: contexts
            .into_iter()
            .filter_map(|(name, value)| Some((name, named_context(&value?))))
            .collect(),
        references,
        mapped: MappedImage::default(),
        is_inherited: false,
    })
}

/// Returns the entries of a mapping, or of a list of `KEY=VALUE`. One without a value takes it from
/// the environment.
fn pairs(
    value: Option<&Value>,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Option<String>>, String> {
    let mut pairs = BTreeMap::new();
    match value {
        Some(Value::Object(entries)) => {
            for (key, value) in entries {
                let value = match value {
                    Value::Null => None,
                    Value::String(text) => Some(interpolate(text, variables)?),
                    other => Some(other.to_string()),
                };
                pairs.insert(key.clone(), value);
            }
        }
        Some(Value::Array(entries)) => {
            for entry in entries.iter().filter_map(Value::as_str) {
                let entry = interpolate(entry, variables)?;
                match entry.split_once('=') {
                    Some((key, value)) => pairs.insert(key.to_owned(), Some(value.to_owned())),
                    None => pairs.insert(entry, None),
                };
            }
        }
        _ => {}
    }
    Ok(pairs)
}

/// Substitutes variables as Compose does: `$NAME`, `${NAME}`, `${NAME:-default}`,
/// `${NAME-default}`, and `$$` for a dollar sign. The environment is not read, because it is not
/// part of the files.
fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let (name, default, tail) = if let Some(braced) = after.strip_prefix('{') {
            let (inner, tail) =
                braced.split_once('}').ok_or_else(|| format!("`{text}` has an open brace"))?;
            let end = inner.find(|c: char| !is_name(c)).unwrap_or(inner.len());
            let (name, operator) = inner.split_at(end);
            let default = operator.strip_prefix(":-").or_else(|| operator.strip_prefix('-'));
            if default.is_none() && !operator.is_empty() || default.is_some_and(|d| d.contains('$'))
            {
                return Err(format!("`{text}` uses `{operator}`, which is not resolved"));
            }
            (name, default, tail)
        } else {
            let end = after.find(|c: char| !is_name(c)).unwrap_or(after.len());
            let (name, tail) = after.split_at(end);
            (name, None, tail)
        };
        let value = variables.get(name).map(String::as_str).or(default).ok_or_else(|| {
            format!("`{text}` uses the variable `{name}`, and no `.env` next to the file sets it")
        })?;
        result.push_str(value);
        rest = tail;
    }
    result.push_str(rest);
    Ok(result)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &str) -> (Vec<BuildDefinition>, Vec<String>) {
        let file = TreeFile { path: "deploy/compose.yaml".into(), text: text.into() };
        let mut tree = SourceTree::default();
        let env = TreeFile { path: "deploy/.env".into(), text: env.into() };
        tree.environments.insert("deploy".into(), env);
        let mut findings = Vec::new();
        let definitions = read_compose(&file, &tree, &mut findings);
        (definitions, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn services_that_are_built_are_images() {
        let (definitions, findings) = read(
            "services:\n  db: {image: 'postgres:17'}\n  base: {build: ../base}\n  web:\n    image: \
             ${REGISTRY}/web:${V:-1}\n    build: {context: ../web, args: [BASE=a, FROM_ENV], \
             target: prod, additional_contexts: {base: 'service:base'}}\n",
            "REGISTRY=registry.example.com/team\n",
        );
        assert_eq!(findings, Vec::<String>::new());
        let [base, web] = definitions.as_slice() else { panic!("{definitions:?}") };
        assert_eq!((base.context.as_str(), web.context.as_str()), ("base", "web"));
        assert_eq!(web.references[0].familiar(), "registry.example.com/team/web:1");
        assert_eq!(web.args.len(), 1);
        assert_eq!(web.contexts.len(), 1);
    }

    #[test]
    fn what_cannot_be_resolved_is_a_finding() {
        for (text, problem) in [
            ("services: {a: {build: ., image: '$NAME'}}", "uses the variable `NAME`"),
            ("services: {a: {build: ., image: '${NAME:?no}'}}", "uses `:?no`"),
            ("services: {a: {build: 'https://git.example.com/a.git'}}", "no folder of the tree"),
            ("services: {a: {extends: b}}", "`extends` is not followed"),
            ("services: {a: {build: [x]}}", "neither a text nor a mapping"),
            ("services: [", "cannot be read"),
        ] {
            let (definitions, findings) = read(text, "");
            assert_eq!(definitions, [], "{text}");
            assert!(findings.len() == 1 && findings[0].contains(problem), "{text}: {findings:?}");
        }
    }
}
