//! The builds of a tree: those that Bake files, Compose files and the mapping define, and each
//! other Dockerfile alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::import::{
    bake, build_args, compose,
    definition::{BuildDefinition, DockerfileOrigin, MappedImage},
    finding::ImportFinding,
    mapping::ImportMapping,
    tree::{SourceTree, TreeFile, named_from_above, read_below},
};

/// Returns the builds of a tree, sorted by context, Dockerfile and target. What cannot be used is
/// added to the findings.
pub fn builds(
    root: &Path,
    tree: &mut SourceTree,
    mapping: &ImportMapping,
    findings: &mut Vec<ImportFinding>,
) -> Vec<BuildDefinition> {
    let mut defined = Vec::new();
    // What a definition names is no image of its own, even if the definition cannot be used: it
    // would have another context, and other arguments.
    let mut refused = BTreeSet::new();
    for file in &tree.bake {
        defined.extend(bake::read_bake(file, findings, &mut refused));
    }
    for file in &tree.compose {
        defined.extend(compose::read_compose(root, file, tree, findings, &mut refused));
    }
    for entry in &mapping.images {
        match entry.definition() {
            Ok(definition) => defined.push(definition),
            Err(problem) => findings.push(ImportFinding::new(&entry.dockerfile, problem)),
        }
    }
    let mut known: Vec<BuildDefinition> = Vec::new();
    for definition in defined {
        if has_dockerfile(root, tree, &definition, findings) {
            add(&mut known, definition);
        } else if let DockerfileOrigin::File(file) = &definition.dockerfile {
            refused.extend(definition.dockerfile_path());
            let (folder, _) = definition.defined_in.rsplit_once('/').unwrap_or_default();
            let context = definition.context.strip_prefix(folder).unwrap_or(&definition.context);
            refused.extend(named_from_above(folder, context.trim_start_matches('/'), file));
        }
    }
    let used: BTreeSet<String> =
        known.iter().filter_map(BuildDefinition::dockerfile_path).collect();
    let is_alone = |path: &&String| !used.contains(*path) && !refused.contains(*path);
    let alone = tree.dockerfiles.keys().filter(is_alone);
    known.extend(alone.map(|path| BuildDefinition::of_dockerfile(path)));
    for definition in &mut known {
        let path = definition.dockerfile_path();
        let of_files = path.map(|path| build_args::of_dockerfile(tree, &path));
        for (name, value) in of_files.unwrap_or_default() {
            definition.args.entry(name).or_insert(value);
        }
    }
    let order = |one: &BuildDefinition| {
        (one.context.clone(), one.dockerfile.clone(), one.target.clone(), one.place())
    };
    known.sort_by_key(order);
    known
}

/// Adds a build, or its references to one that is equal: Bake and Compose files often describe the
/// same build.
fn add(known: &mut Vec<BuildDefinition>, definition: BuildDefinition) {
    let is_same = |other: &&mut BuildDefinition| {
        other.context == definition.context
            && other.dockerfile == definition.dockerfile
            && other.target == definition.target
            && other.args == definition.args
            && other.contexts == definition.contexts
            && (other.mapped == definition.mapped || other.mapped == MappedImage::default())
            && other.defined_in != definition.defined_in
    };
    match known.iter_mut().find(is_same) {
        Some(other) => {
            other.add_references(definition.references);
            other.mapped = definition.mapped;
        }
        None => known.push(definition),
    }
}

/// Whether the Dockerfile of a build can be read. One of an unusual name is read now.
fn has_dockerfile(
    root: &Path,
    tree: &mut SourceTree,
    definition: &BuildDefinition,
    findings: &mut Vec<ImportFinding>,
) -> bool {
    let DockerfileOrigin::File(file) = &definition.dockerfile else { return true };
    let place = definition.place();
    if file.split('/').any(|part| part == "..") || file.starts_with('/') {
        let why = format!("its Dockerfile `{file}` is not below the build context");
        findings.push(ImportFinding::new(place, why));
        return false;
    }
    let Some(path) = definition.dockerfile_path() else { return true };
    if tree.dockerfiles.contains_key(&path) {
        return true;
    }
    if definition.is_inherited && !root.join(&path).exists() {
        return false;
    }
    match read_below(root, &path) {
        Ok(text) => {
            tree.dockerfiles.insert(path.clone(), TreeFile { path, text });
            true
        }
        Err(error) => {
            findings.push(ImportFinding::new(place, format!("{path}: {error:#}")));
            false
        }
    }
}

/// Returns the text of the Dockerfile of a build.
pub fn dockerfile_text<'a>(
    dockerfiles: &'a BTreeMap<String, TreeFile>,
    definition: &'a BuildDefinition,
) -> &'a str {
    match (&definition.dockerfile, definition.dockerfile_path()) {
        (DockerfileOrigin::Inline(text), _) => text,
        (_, Some(path)) => dockerfiles.get(&path).map_or("", |file| file.text.as_str()),
        (_, None) => "",
    }
}
