//! The services of a Compose file that are built.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use groundswell::{api::GitSource, registry::Reference};
use serde::Deserialize;
use serde_json::Value;

use crate::import::{
    bake::named_context,
    build_args,
    definition::{BuildContext, BuildDefinition, DockerfileOrigin, MappedImage},
    finding::ImportFinding,
    tree::{SourceTree, TreeFile, join, read_below},
};

/// The part of a Compose file that says what is built.
#[derive(Deserialize)]
struct ComposeFile {
    #[serde(default)]
    services: BTreeMap<String, ComposeService>,
    include: Option<Value>,
}

#[derive(Deserialize)]
struct ComposeService {
    build: Option<Value>,
    extends: Option<Value>,
    image: Option<String>,
}

/// Returns the images that a Compose file builds. What cannot be resolved is added to the findings,
/// and the paths of its Dockerfiles to `refused`: they are not images of their own.
pub fn read_compose(
    root: &Path,
    file: &TreeFile,
    tree: &SourceTree,
    findings: &mut Vec<ImportFinding>,
    refused: &mut BTreeSet<String>,
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
    if file.path.contains(".override.") {
        let why = "overrides are not merged; write their values into the Compose file";
        findings.push(ImportFinding::new(&file.path, why));
        return Vec::new();
    }
    if let Some(include) = &compose.include {
        let why = "`include` is not followed; import the services of these files by the mapping";
        findings.push(ImportFinding::new(&file.path, why));
        for other in paths_of_include(include) {
            refused.extend(dockerfiles_of_other(root, file.folder(), &other));
        }
    }
    let variables = tree.environments.get(file.folder());
    let variables = variables.map(|file| build_args::environment(&file.text)).unwrap_or_default();
    let mut definitions: Vec<BuildDefinition> = Vec::new();
    let mut same = BTreeMap::new();
    for (name, service) in compose.services {
        let place = format!("{}: {name}", file.path);
        if let Some(extends) = &service.extends {
            let why = "`extends` is not followed; write its `build` into the service";
            findings.push(ImportFinding::new(place, why));
            refused
                .extend(service.build.as_ref().and_then(|one| dockerfile_of(file.folder(), one)));
            if let Some(other) = extends.get("file").and_then(Value::as_str) {
                refused.extend(dockerfiles_of_other(root, file.folder(), other));
            }
            continue;
        }
        let Some(build) = &service.build else { continue };
        match definition(file, &name, &service, build, &variables) {
            Ok(definition) => match definitions.iter_mut().find(|one| is_same(one, &definition)) {
                Some(known) => {
                    same.insert(name, known.label.clone().unwrap_or_default());
                    known.add_references(definition.references);
                }
                None => definitions.push(definition),
            },
            Err(problem) => {
                refused.extend(dockerfile_of(file.folder(), build));
                findings.push(ImportFinding::new(place, problem));
            }
        }
    }
    for context in definitions.iter_mut().flat_map(|one| one.contexts.values_mut()) {
        if let BuildContext::Target(service) = context
            && let Some(known) = same.get(service)
        {
            service.clone_from(known);
        }
    }
    definitions
}

/// Whether two services run the same image: it is built from the same files in the same way, and is
/// not pushed to two repositories.
fn is_same(known: &BuildDefinition, other: &BuildDefinition) -> bool {
    let repository = |one: &BuildDefinition| one.references.first().map(Reference::repository);
    let (known_repository, repository) = (repository(known), repository(other));
    let is_one_repository =
        known_repository.is_none() || repository.is_none() || known_repository == repository;
    is_one_repository
        && known.context == other.context
        && known.dockerfile == other.dockerfile
        && known.target == other.target
        && known.args == other.args
        && known.contexts == other.contexts
}

/// Returns the files that `include` names: texts, or mappings with one `path` or several.
fn paths_of_include(include: &Value) -> Vec<String> {
    match include {
        Value::String(path) => vec![path.clone()],
        Value::Array(all) => all.iter().flat_map(paths_of_include).collect(),
        Value::Object(entry) => entry.get("path").map(paths_of_include).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Returns the Dockerfiles that the services of another Compose file name.
fn dockerfiles_of_other(root: &Path, folder: &str, other: &str) -> Vec<String> {
    let Some(path) = join(folder, other) else { return Vec::new() };
    let text = read_below(root, &path).unwrap_or_default();
    let Ok(compose) = serde_yaml::from_str::<ComposeFile>(&text) else { return Vec::new() };
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let builds = compose.services.values().filter_map(|service| service.build.as_ref());
    builds.filter_map(|build| dockerfile_of(folder, build)).collect()
}

/// Returns the Dockerfile that a `build` names as it is written.
fn dockerfile_of(folder: &str, build: &Value) -> Option<String> {
    let text = |key: &str| build.get(key).and_then(Value::as_str);
    let context = build.as_str().or_else(|| text("context")).unwrap_or(".");
    let dockerfile = text("dockerfile").unwrap_or(GitSource::DOCKERFILE);
    join(&join(folder, context)?, dockerfile)
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
    let dockerfile = if let Some(inline) = text("dockerfile_inline")? {
        DockerfileOrigin::Inline(inline)
    } else {
        let file = text("dockerfile")?.filter(|file| !file.is_empty());
        DockerfileOrigin::of_path(file.as_deref().unwrap_or(GitSource::DOCKERFILE))
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
        // An argument without a value has that of the environment.
        args: pairs(build.get("args"), variables)?
            .into_iter()
            .filter_map(|(key, value)| {
                let value = value.or_else(|| variables.get(&key).cloned())?;
                Some((key, value))
            })
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
            let of_empty = operator.strip_prefix(":-");
            let default = of_empty.or_else(|| operator.strip_prefix('-'));
            if default.is_none() && !operator.is_empty() || default.is_some_and(|d| d.contains('$'))
            {
                return Err(format!("`{text}` uses `{operator}`, which is not resolved"));
            }
            // With a colon, an empty value is none.
            let is_empty = variables.get(name).is_some_and(String::is_empty);
            if let Some(default) = of_empty.filter(|_| is_empty) {
                result.push_str(default);
                rest = tail;
                continue;
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
        let mut refused = BTreeSet::new();
        let definitions =
            read_compose(Path::new("/none"), &file, &tree, &mut findings, &mut refused);
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
    fn services_of_one_build_are_one_image() {
        let (definitions, findings) = read(
            "services:\n  api: {build: ../app}\n  \
             job: {build: ../job, image: 'r.example.com/job'}\n  \
             web: {build: {context: ../web, additional_contexts: {base: 'service:worker'}}}\n  \
             worker: {build: ../app, image: 'r.example.com/app:1'}\n  \
             other: {build: ../job, image: 'r.example.com/other'}\n  \
             tool: {build: {context: ../app, target: tool}}\n",
            "",
        );
        assert_eq!(findings, Vec::<String>::new());
        let labels: Vec<_> = definitions.iter().filter_map(|one| one.label.as_deref()).collect();
        assert_eq!(labels, ["api", "job", "other", "tool", "web"]);
        assert_eq!(definitions[0].references[0].familiar(), "r.example.com/app:1");
        let base = definitions[4].contexts.get("base");
        assert_eq!(base, Some(&BuildContext::Target("api".into())));
    }

    #[test]
    fn variables_are_those_of_the_environment_file() {
        let (definitions, findings) = read(
            "services: {a: {image: 'registry.example.com/a:${TAG}', build: {context: ., target: \
             '${EMPTY:-prod}', args: [BASE, X]}}}",
            "TAG=1 # release\nexport BASE=debian:12\nEMPTY=\n",
        );
        assert_eq!(findings, Vec::<String>::new());
        let definition = &definitions[0];
        assert_eq!(definition.references[0].tag(), Some("1"));
        assert_eq!(definition.target.as_deref(), Some("prod"));
        let args: Vec<_> = definition.args.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(args, [("BASE", "debian:12")]);
    }

    #[test]
    fn what_cannot_be_resolved_is_a_finding() {
        for (text, problem) in [
            ("services: {a: {build: ., image: '$NAME'}}", "uses the variable `NAME`"),
            ("services: {a: {build: ., image: '${NAME:?no}'}}", "uses `:?no`"),
            ("services: {a: {build: 'https://git.example.com/a.git'}}", "no folder of the tree"),
            ("services: {a: {extends: b}}", "`extends` is not followed"),
            ("include: [b.yaml]", "`include` is not followed"),
            ("services: {a: {build: [x]}}", "neither a text nor a mapping"),
            ("services: [", "cannot be read"),
        ] {
            let (definitions, findings) = read(text, "");
            assert_eq!(definitions, [], "{text}");
            assert!(findings.len() == 1 && findings[0].contains(problem), "{text}: {findings:?}");
        }
    }
}
