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
    tree::{SourceTree, TreeFile, read_text},
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
    for file in &tree.bake {
        defined.extend(bake::read_bake(file, findings));
    }
    for file in &tree.compose {
        defined.extend(compose::read_compose(file, tree, findings));
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
        }
    }
    let used: BTreeSet<String> =
        known.iter().filter_map(BuildDefinition::dockerfile_path).collect();
    let alone = tree.dockerfiles.keys().filter(|path| !used.contains(*path));
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
            for reference in definition.references {
                if !other.references.contains(&reference) {
                    other.references.push(reference);
                }
            }
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
    let is_link = |part: &Path| part.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let on_disk = root.join(&path);
    if on_disk.ancestors().take_while(|part| *part != root).any(is_link) {
        findings.push(ImportFinding::new(place, format!("{path} is behind a symbolic link")));
        return false;
    }
    if definition.is_inherited && !on_disk.exists() {
        return false;
    }
    match read_text(&on_disk) {
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
